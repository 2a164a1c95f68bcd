//! What a packet says, whether its checksums are right, and what becomes of it: by the book.

mod parse;
mod segment;
mod stream;
mod vnet;

pub use parse::{Arp, Ether, Fragment, Ipv4, Ipv6, Net, Parsed, Tcp, Transport, Udp, parse};
pub use segment::{Gso, GsoKind, segment};
pub use stream::stream_bytes;
pub use vnet::{VnetForm, VnetHash, VnetHeader, complete_checksum, vnet_flags, vnet_gso};

use crate::builder::Link;

/// A sentence about what is wrong with a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error(String);

impl Error {
    fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

/// The Internet checksum of `bytes` (RFC 1071), as the number to write in network order.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u64 = 0;
    for word in bytes.chunks(2) {
        let low = word.get(1).copied().unwrap_or(0);
        sum += u64::from(u16::from_be_bytes([word[0], low]));
    }
    // Modulo 65535, but with 0xFFFF for every multiple except zero itself.
    let folded = if sum == 0 { 0 } else { (sum - 1) % 0xFFFF + 1 };
    !(folded as u16)
}

/// The pseudo header of the transport, with the length that the packet really has.
///
/// # Errors
///
/// If there is no IP header, or the packet is a fragment.
fn pseudo_header(packet: &Parsed) -> Result<Vec<u8>, Error> {
    let (mut pseudo, proto) = match &packet.net {
        Net::Ipv4(ip) if !ip.fragment.is_fragment() => ([ip.src, ip.dst].concat(), ip.proto),
        Net::Ipv6(ip) if !ip.is_fragment() => ([ip.src, ip.dst].concat(), ip.proto),
        Net::Ipv4(_) | Net::Ipv6(_) => return Err(Error::new("a fragment has no checksum")),
        Net::Arp(_) | Net::Other(_) => return Err(Error::new("not IP")),
    };
    pseudo.extend([0, proto]);
    pseudo.extend(((packet.end - packet.l4_at) as u32).to_be_bytes());
    Ok(pseudo)
}

/// The checksum field of TCP or UDP, and what must stand in it.
fn l4_checks(bytes: &[u8], packet: &Parsed) -> Result<(u16, u16), Error> {
    let mut sum = pseudo_header(packet)?;
    let header = sum.len();
    sum.extend(&bytes[packet.l4_at..packet.end]);
    let (at, found) = match &packet.transport {
        Transport::Tcp(tcp) => (16, tcp.check),
        Transport::Udp(udp) => (6, udp.check),
        Transport::None | Transport::Other(_) => return Err(Error::new("neither TCP nor UDP")),
    };
    sum[header + at..header + at + 2].fill(0);
    let right = match checksum(&sum) {
        0 if at == 6 => 0xFFFF,
        right => right,
    };
    Ok((found, right))
}

/// Whether the checksum of TCP or UDP is right. UDP over IPv4 may do without (RFC 768), over IPv6
/// it may not (RFC 8200 section 8.1).
///
/// # Errors
///
/// If it is wrong, or there is none to look at.
pub fn verify_l4(link: Link, bytes: &[u8]) -> Result<(), Error> {
    let packet = parse(link, bytes)?;
    let (found, right) = l4_checks(bytes, &packet)?;
    let udp = matches!(packet.transport, Transport::Udp(_));
    if udp && found == 0 && matches!(packet.net, Net::Ipv4(_)) {
        return Ok(());
    }
    // TCP's 0 and 0xFFFF are both valid, being the same number; the sum of all is then 0xFFFF.
    let same = found == right || (!udp && found == 0xFFFF && right == 0);
    let text = || {
        Error(format!(
            "the L4 checksum is {found:#06x} and should be {right:#06x}"
        ))
    };
    same.then_some(()).ok_or_else(text)
}

/// Whether the checksum field of TCP or UDP holds the folded sum of the pseudo header, as
/// `NEEDS_CSUM` wants it.
///
/// # Errors
///
/// If it does not, or there is no such field.
pub fn verify_partial(link: Link, bytes: &[u8]) -> Result<(), Error> {
    let packet = parse(link, bytes)?;
    let (found, _) = l4_checks(bytes, &packet)?;
    let right = !checksum(&pseudo_header(&packet)?);
    let text = || {
        Error(format!(
            "the partial checksum is {found:#06x}, should be {right:#06x}"
        ))
    };
    (found == right).then_some(()).ok_or_else(text)
}

/// Whether the IPv4 header's checksum is right.
///
/// # Errors
///
/// If it is wrong, or the packet is not IPv4.
pub fn verify_ipv4_header(link: Link, bytes: &[u8]) -> Result<(), Error> {
    let packet = parse(link, bytes)?;
    let Net::Ipv4(ip) = &packet.net else {
        return Err(Error::new("not IPv4"));
    };
    match checksum(&bytes[packet.l3_at..packet.l3_at + ip.header_len]) {
        0 => Ok(()),
        rest => Err(Error(format!(
            "the IPv4 header sums to {:#06x}, not to 0xffff",
            !rest
        ))),
    }
}

/// Whether all of a packet's checksums are right.
///
/// # Errors
///
/// If one is wrong or missing.
pub fn verify(link: Link, bytes: &[u8]) -> Result<(), Error> {
    if matches!(parse(link, bytes)?.net, Net::Ipv4(_)) {
        verify_ipv4_header(link, bytes)?;
    }
    verify_l4(link, bytes)
}
