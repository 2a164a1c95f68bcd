//! A packet's headers, every field of them.

use super::Error;
use crate::builder::Link;

/// A parsed packet. Offsets are in bytes from its beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// `None` for a raw IP packet.
    pub ether: Option<Ether>,
    /// (TPID, TCI), outermost first.
    pub tags: Vec<(u16, u16)>,
    pub net: Net,
    pub transport: Transport,
    /// Where the IP header is.
    pub l3_at: usize,
    /// Where the transport header is, behind all extension headers.
    pub l4_at: usize,
    /// Where the payload is.
    pub payload_at: usize,
    /// Where the packet ends as IP has it; what follows is padding.
    pub end: usize,
}

impl Parsed {
    /// The payload of the transport, without padding.
    #[must_use]
    pub fn payload<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.payload_at..self.end]
    }

    /// The TCP header, if it is TCP.
    #[must_use]
    pub fn tcp(&self) -> Option<&Tcp> {
        match &self.transport {
            Transport::Tcp(tcp) => Some(tcp),
            _ => None,
        }
    }

    /// The UDP header, if it is UDP.
    #[must_use]
    pub fn udp(&self) -> Option<&Udp> {
        match &self.transport {
            Transport::Udp(udp) => Some(udp),
            _ => None,
        }
    }

    /// The IPv4 header, if it is IPv4.
    #[must_use]
    pub fn ipv4(&self) -> Option<&Ipv4> {
        match &self.net {
            Net::Ipv4(ip) => Some(ip),
            _ => None,
        }
    }

    /// The IPv6 header, if it is IPv6.
    #[must_use]
    pub fn ipv6(&self) -> Option<&Ipv6> {
        match &self.net {
            Net::Ipv6(ip) => Some(ip),
            _ => None,
        }
    }
}

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Ether {
    pub dst: [u8; 6],
    pub src: [u8; 6],
    /// Behind the tags.
    pub ethertype: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Net {
    Ipv4(Ipv4),
    Ipv6(Ipv6),
    Arp(Arp),
    /// Another EtherType.
    Other(u16),
}

/// Which part of a datagram this is.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Fragment {
    /// In bytes.
    pub offset: usize,
    pub more: bool,
    pub id: u32,
}

impl Fragment {
    #[must_use]
    pub fn is_fragment(&self) -> bool {
        self.more || self.offset != 0
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ipv4 {
    pub header_len: usize,
    pub tos: u8,
    pub total_len: u16,
    pub id: u16,
    /// The reserved bit.
    pub reserved: bool,
    pub df: bool,
    pub fragment: Fragment,
    pub ttl: u8,
    pub proto: u8,
    pub check: u16,
    pub src: [u8; 4],
    pub dst: [u8; 4],
    pub options: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ipv6 {
    pub traffic_class: u8,
    pub flow_label: u32,
    pub payload_len: u16,
    /// What the IPv6 header itself names.
    pub next: u8,
    pub hop_limit: u8,
    pub src: [u8; 16],
    pub dst: [u8; 16],
    /// (number, bytes) of each extension header.
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// What the last extension header names: the transport.
    pub proto: u8,
    pub fragment: Option<Fragment>,
}

impl Ipv6 {
    /// A fragment header with offset zero and nothing to follow (RFC 6946) does not count.
    #[must_use]
    pub fn is_fragment(&self) -> bool {
        self.fragment.is_some_and(|fragment| fragment.is_fragment())
    }
}

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Arp {
    pub operation: u16,
    pub sender_mac: [u8; 6],
    pub sender_ip: [u8; 4],
    pub target_mac: [u8; 6],
    pub target_ip: [u8; 4],
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp(Tcp),
    Udp(Udp),
    /// Another protocol number.
    Other(u8),
    /// Not IP, or a later fragment.
    None,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tcp {
    pub src_port: u16,
    pub dst_port: u16,
    pub seq: u32,
    pub ack: u32,
    pub header_len: usize,
    /// All 12 bits behind the data offset; see [`tcp_flags`](crate::tcp_flags).
    pub flags: u16,
    pub window: u16,
    pub check: u16,
    pub urgent: u16,
    pub options: Vec<u8>,
}

impl Tcp {
    /// Value and echo of the Timestamps option (RFC 7323 section 3.2), wherever it stands.
    #[must_use]
    pub fn timestamps(&self) -> Option<(u32, u32)> {
        let mut options = &self.options[..];
        loop {
            match options {
                [] | [0, ..] => return None,
                [1, rest @ ..] => options = rest,
                [8, 10, a, b, c, d, e, f, g, h, ..] => {
                    let value = u32::from_be_bytes([*a, *b, *c, *d]);
                    return Some((value, u32::from_be_bytes([*e, *f, *g, *h])));
                }
                [_, len, ..] if *len >= 2 => options = options.get(usize::from(*len)..)?,
                _ => return None,
            }
        }
    }
}

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Udp {
    pub src_port: u16,
    pub dst_port: u16,
    /// Of header and payload.
    pub len: u16,
    pub check: u16,
}

/// Takes bytes off the front.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let bytes = self.vec(N)?;
        Ok(bytes.try_into().expect("the length asked for"))
    }

    fn vec(&mut self, len: usize) -> Result<Vec<u8>, Error> {
        let end = self.at + len;
        let bytes = self.bytes.get(self.at..end);
        let text = || Error(format!("ends at {}, before byte {end}", self.bytes.len()));
        let bytes = bytes.ok_or_else(text)?.to_vec();
        self.at = end;
        Ok(bytes)
    }

    fn u8(&mut self) -> Result<u8, Error> {
        Ok(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> Result<u16, Error> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, Error> {
        self.array().map(u32::from_be_bytes)
    }

    /// Sets the end, which must not be behind the one there is. A length of zero stands for a
    /// super-packet beyond 64 KB, which has all there is.
    fn end_at(&mut self, from: usize, len: u16, fixed: usize) -> Result<(), Error> {
        if len == 0 {
            return Ok(());
        }
        let end = from + fixed + usize::from(len);
        let text = || {
            Error(format!(
                "IP ends at {end}, the packet at {}",
                self.bytes.len()
            ))
        };
        self.bytes = self.bytes.get(..end).ok_or_else(text)?;
        Ok(())
    }
}

/// Parses a packet up to and including TCP or UDP.
///
/// # Errors
///
/// If a header is cut short, or says what cannot be.
pub fn parse(link: Link, bytes: &[u8]) -> Result<Parsed, Error> {
    let mut reader = Reader { bytes, at: 0 };
    let (ether, tags) = match link {
        Link::Ethernet => {
            let (ether, tags) = parse_ether(&mut reader)?;
            (Some(ether), tags)
        }
        Link::RawIp => (None, Vec::new()),
    };
    let l3_at = reader.at;
    let ethertype = match (ether, bytes.get(l3_at).map(|b| b >> 4)) {
        (Some(ether), _) => ether.ethertype,
        (None, Some(4)) => 0x0800,
        (None, Some(6)) => 0x86DD,
        (None, _) => return Err(Error::new("neither IPv4 nor IPv6")),
    };
    let (net, proto) = match ethertype {
        0x0800 => parse_ipv4(&mut reader)?,
        0x86DD => parse_ipv6(&mut reader)?,
        0x0806 => (Net::Arp(parse_arp(&mut reader)?), None),
        other => (Net::Other(other), None),
    };
    let l4_at = reader.at;
    let transport = match proto {
        Some(6) => Transport::Tcp(parse_tcp(&mut reader)?),
        Some(17) => Transport::Udp(parse_udp(&mut reader)?),
        Some(other) => Transport::Other(other),
        None => Transport::None,
    };
    let (payload_at, end) = (reader.at, reader.bytes.len());
    Ok(Parsed {
        ether,
        tags,
        net,
        transport,
        l3_at,
        l4_at,
        payload_at,
        end,
    })
}

fn parse_ether(reader: &mut Reader<'_>) -> Result<(Ether, Vec<(u16, u16)>), Error> {
    let (dst, src) = (reader.array()?, reader.array()?);
    let mut tags = Vec::new();
    let mut ethertype = reader.u16()?;
    while matches!(ethertype, 0x8100 | 0x88A8 | 0x9100) {
        tags.push((ethertype, reader.u16()?));
        ethertype = reader.u16()?;
    }
    Ok((
        Ether {
            dst,
            src,
            ethertype,
        },
        tags,
    ))
}

/// The header, and the transport's number unless this is a later fragment.
fn parse_ipv4(reader: &mut Reader<'_>) -> Result<(Net, Option<u8>), Error> {
    let at = reader.at;
    let first = reader.u8()?;
    let header_len = usize::from(first & 15) * 4;
    if first >> 4 != 4 || header_len < 20 {
        return Err(Error(format!(
            "an IPv4 header cannot begin with {first:#04x}"
        )));
    }
    let (tos, total_len, id) = (reader.u8()?, reader.u16()?, reader.u16()?);
    let word = reader.u16()?;
    let (ttl, proto, check) = (reader.u8()?, reader.u8()?, reader.u16()?);
    let (src, dst) = (reader.array()?, reader.array()?);
    let options = reader.vec(header_len - 20)?;
    if total_len != 0 && usize::from(total_len) < header_len {
        return Err(Error(format!(
            "a total length of {total_len} ends within the header"
        )));
    }
    reader.end_at(at, total_len, 0)?;

    let bit = |n: u16| word >> n & 1 == 1;
    let offset = usize::from(word & 0x1FFF) * 8;
    let fragment = Fragment {
        offset,
        more: bit(13),
        id: u32::from(id),
    };
    let (reserved, df) = (bit(15), bit(14));
    let ip = Ipv4 {
        header_len,
        tos,
        total_len,
        id,
        reserved,
        df,
        fragment,
        ttl,
        proto,
        check,
        src,
        dst,
        options,
    };
    Ok((Net::Ipv4(ip), (fragment.offset == 0).then_some(proto)))
}

/// The header and its extensions, and the transport's number unless this is a later fragment.
fn parse_ipv6(reader: &mut Reader<'_>) -> Result<(Net, Option<u8>), Error> {
    let at = reader.at;
    let line = reader.u32()?;
    if line >> 28 != 6 {
        return Err(Error(format!("IP version {}, not 6", line >> 28)));
    }
    let (payload_len, next, hop_limit) = (reader.u16()?, reader.u8()?, reader.u8()?);
    let (src, dst) = (reader.array()?, reader.array()?);
    reader.end_at(at, payload_len, 40)?;

    let mut extensions = Vec::new();
    let mut fragment: Option<Fragment> = None;
    let mut proto = next;
    while matches!(proto, 0 | 43 | 44 | 60) && fragment.is_none_or(|f| f.offset == 0) {
        let start = reader.at;
        let (number, after, len) = (proto, reader.u8()?, reader.u8()?);
        if number == 44 {
            let word = reader.u16()?;
            let (offset, id) = (usize::from(word & !7), reader.u32()?);
            fragment = Some(Fragment {
                offset,
                more: word & 1 == 1,
                id,
            });
        } else {
            reader.vec(usize::from(len) * 8 + 6)?;
        }
        extensions.push((number, reader.bytes[start..reader.at].to_vec()));
        proto = after;
    }
    let ip = Ipv6 {
        traffic_class: (line >> 20) as u8,
        flow_label: line & 0xF_FFFF,
        payload_len,
        next,
        hop_limit,
        src,
        dst,
        extensions,
        proto,
        fragment,
    };
    Ok((
        Net::Ipv6(ip),
        fragment.is_none_or(|f| f.offset == 0).then_some(proto),
    ))
}

fn parse_arp(reader: &mut Reader<'_>) -> Result<Arp, Error> {
    let kind: [u8; 6] = reader.array()?;
    if kind != [0, 1, 8, 0, 6, 4] {
        return Err(Error::new("ARP for something else than Ethernet and IPv4"));
    }
    Ok(Arp {
        operation: reader.u16()?,
        sender_mac: reader.array()?,
        sender_ip: reader.array()?,
        target_mac: reader.array()?,
        target_ip: reader.array()?,
    })
}

fn parse_tcp(reader: &mut Reader<'_>) -> Result<Tcp, Error> {
    let (src_port, dst_port) = (reader.u16()?, reader.u16()?);
    let (seq, ack, word) = (reader.u32()?, reader.u32()?, reader.u16()?);
    let (window, check, urgent) = (reader.u16()?, reader.u16()?, reader.u16()?);
    let header_len = usize::from(word >> 12) * 4;
    let options_len = header_len.checked_sub(20);
    let text = || Error(format!("a TCP header of {header_len} bytes"));
    let options = reader.vec(options_len.ok_or_else(text)?)?;
    let flags = word & 0xFFF;
    Ok(Tcp {
        src_port,
        dst_port,
        seq,
        ack,
        header_len,
        flags,
        window,
        check,
        urgent,
        options,
    })
}

fn parse_udp(reader: &mut Reader<'_>) -> Result<Udp, Error> {
    let (src_port, dst_port) = (reader.u16()?, reader.u16()?);
    Ok(Udp {
        src_port,
        dst_port,
        len: reader.u16()?,
        check: reader.u16()?,
    })
}
