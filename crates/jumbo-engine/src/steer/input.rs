//! What of a packet is hashed: the type that fits best, and its fields in order.
//!
//! The rules are those of virtio 1.3 sections 5.1.6.4.3.2 to 5.1.6.4.3.4 and of Microsoft's "RSS
//! hashing types":
//!
//! * TCP, else UDP, else IP: the first whose type is enabled and which the packet is. None: no hash.
//! * A fragment has no ports, not even the first one: all of a datagram go the same way.
//! * IPv4 options and IPv6 extension headers are skipped.
//! * An IPv6 packet *with* extension headers is asked for the `_EX` types first: its source is the
//!   home address option's if there is one, its destination that of a type 2 routing header (both
//!   RFC 6275). With none of them enabled, the plain types and addresses hold.

use super::toeplitz::INPUT_MAX;
use super::types::{HashReport, HashTypes};
use crate::packet::{HEADER_ROOM, L3_AT, Net, Packet, Transport};
use crate::parse::{PROTOCOL_TCP, PROTOCOL_UDP, is_extension};
use crate::tunnel::TunnelKind;

/// What is done to the input before it is hashed.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default)]
pub enum Transform {
    /// Nothing: source, destination, source port, destination port.
    #[default]
    None,
    /// Both addresses become their exclusive or, and so do both ports: either direction of a
    /// connection hashes alike, with any key (Linux `ethtool -X .. xfrm symmetric-xor`,
    /// `RXH_XFRM_SYM_XOR`).
    SymmetricXor,
    /// The first of each pair becomes their disjunction, the second their exclusive or (Linux
    /// `symmetric-or-xor`, `RXH_XFRM_SYM_OR_XOR`): symmetric as well, and more of the input is left.
    SymmetricOrXor,
}

/// The bytes to be hashed, and the type they were chosen by.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct HashInput {
    bytes: [u8; INPUT_MAX],
    address_len: u8,
    len: u8,
    report: HashReport,
}

impl HashInput {
    /// Chooses from a parsed packet; `None` if no enabled type fits.
    ///
    /// A super-packet is chosen for as the packets it was made of would be; one in a tunnel by
    /// its outer headers, as ever without VIRTIO_NET_F_HASH_TUNNEL.
    #[inline]
    #[must_use]
    pub fn of(packet: &Packet, types: HashTypes, transform: Transform) -> Option<Self> {
        if packet.tunnel.is_some() {
            return tunnelled(packet, types, transform);
        }
        Self::of_inner(packet, types, transform)
    }

    /// The same by the inner headers of a packet in a tunnel that was followed
    /// (VIRTIO_NET_F_HASH_TUNNEL, virtio 1.4 section 5.1.6.4.3).
    #[inline]
    #[must_use]
    pub fn of_inner(packet: &Packet, types: HashTypes, transform: Transform) -> Option<Self> {
        let layers = packet.layers();
        let mut input = match layers.net {
            Net::None => return None,
            Net::V4 => {
                let report = plain(types, layers.transport, V4)?;
                Self::new(report, packet.array::<8>(L3_AT + 12)).ports(packet, packet.l4_at())
            }
            Net::V6 if is_extension(packet.bytes[L3_AT + 6]) => extended(packet, types)?,
            Net::V6 => {
                let report = plain(types, layers.transport, V6)?;
                Self::new(report, packet.array::<32>(L3_AT + 8)).ports(packet, packet.l4_at())
            }
        };
        input.transform(transform);
        Some(input)
    }

    /// The bytes: 8 or 12 of IPv4, 32 or 36 of IPv6.
    #[inline]
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len).min(INPUT_MAX)]
    }

    /// The type.
    #[inline]
    #[must_use]
    pub fn report(&self) -> HashReport {
        self.report
    }

    /// `N` bytes of addresses: source and destination.
    #[inline(always)]
    fn new<const N: usize>(report: HashReport, addresses: [u8; N]) -> Self {
        let mut bytes = [0; INPUT_MAX];
        bytes[..N].copy_from_slice(&addresses);
        Self {
            bytes,
            address_len: (N / 2) as u8,
            len: N as u8,
            report,
        }
    }

    /// With the ports at `l4_at`, if the type has any.
    #[inline(always)]
    fn ports(mut self, packet: &Packet, l4_at: usize) -> Self {
        let at = usize::from(self.len);
        if has_ports(self.report) {
            self.bytes[at..at + 4].copy_from_slice(&packet.array::<4>(l4_at));
            self.len += 4;
        }
        self
    }

    #[inline(always)]
    fn transform(&mut self, transform: Transform) {
        match transform {
            Transform::None => {}
            Transform::SymmetricXor => self.pairs(|a, b| (a ^ b, a ^ b)),
            Transform::SymmetricOrXor => self.pairs(|a, b| (a | b, a ^ b)),
        }
    }

    /// Replaces the bytes of source and destination, addresses and ports, pair by pair.
    fn pairs(&mut self, f: impl Fn(u8, u8) -> (u8, u8)) {
        let address_len = usize::from(self.address_len);
        let (addresses, ports) = self.bytes.split_at_mut(2 * address_len);
        // An input without ports has zeros there, which stay.
        for (both, len) in [(addresses, address_len), (&mut ports[..4], 2)] {
            let (sources, destinations) = both.split_at_mut(len);
            for (source, destination) in sources.iter_mut().zip(destinations) {
                (*source, *destination) = f(*source, *destination);
            }
        }
    }
}

/// Chooses by the outer headers, which have no extension headers if the tunnel was followed.
#[inline(never)]
fn tunnelled(packet: &Packet, types: HashTypes, transform: Transform) -> Option<HashInput> {
    let mut outer = Packet::BLANK;
    outer.bytes = packet.outer;
    outer.layers.net = packet.tunnel.net;
    outer.layers.l3_len = packet.tunnel.l3_len;
    if packet.tunnel.kind == TunnelKind::Udp {
        outer.layers.transport = Transport::Udp;
    }
    HashInput::of_inner(&outer, types, transform)
}

/// The types of a family, best first: with TCP ports, with UDP ports, addresses alone.
type Family = [HashReport; 3];
const V4: Family = [HashReport::TcpV4, HashReport::UdpV4, HashReport::Ipv4];
const V6: Family = [HashReport::TcpV6, HashReport::UdpV6, HashReport::Ipv6];
const EX: Family = [HashReport::TcpV6Ex, HashReport::UdpV6Ex, HashReport::Ipv6Ex];

#[inline(always)]
fn has_ports(report: HashReport) -> bool {
    !matches!(
        report,
        HashReport::None | HashReport::Ipv4 | HashReport::Ipv6 | HashReport::Ipv6Ex
    )
}

#[inline(always)]
fn plain(types: HashTypes, transport: Transport, family: Family) -> Option<HashReport> {
    let [tcp, udp, ip] = family;
    let enabled = |report: HashReport| types.contains(report.as_type());
    match transport {
        Transport::Tcp if enabled(tcp) => Some(tcp),
        Transport::Udp if enabled(udp) => Some(udp),
        _ => enabled(ip).then_some(ip),
    }
}

/// An IPv6 packet with extension headers.
#[inline(never)]
fn extended(packet: &Packet, types: HashTypes) -> Option<HashInput> {
    let chain = walk(packet);
    let addresses: [u8; 32] = packet.array(L3_AT + 8);
    if let Some(report) = plain(types, chain.transport, EX) {
        let mut input = HashInput::new(report, addresses);
        if let Some(home) = chain.home {
            input.bytes[..16].copy_from_slice(&home);
        }
        if let Some(route) = chain.route {
            input.bytes[16..32].copy_from_slice(&route);
        }
        return Some(input.ports(packet, chain.l4_at));
    }
    let report = plain(types, chain.transport, V6)?;
    Some(HashInput::new(report, addresses).ports(packet, chain.l4_at))
}

const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

/// Extension headers followed before giving up; as many as parsing follows.
const EXTENSIONS_MAX: usize = 8;

/// What the extension headers hold.
struct Chain {
    /// RFC 6275 section 6.3.
    home: Option<[u8; 16]>,
    /// RFC 6275 section 6.4.
    route: Option<[u8; 16]>,
    transport: Transport,
    l4_at: usize,
}

/// Follows the extension headers as far as the private header goes.
///
/// Parsing did so already, but stops at a routing header with segments left, because of the
/// checksum. A type 2 routing header always has one left, so here the walk goes on.
fn walk(packet: &Packet) -> Chain {
    let end = L3_AT + packet.l3_total_len().min(HEADER_ROOM - L3_AT);
    let mut chain = Chain {
        home: None,
        route: None,
        transport: packet.layers().transport,
        l4_at: packet.l4_at(),
    };
    let (mut next, mut at, mut detour) = (packet.bytes[L3_AT + 6], L3_AT + 40, false);
    for _ in 0..EXTENSIONS_MAX {
        if !is_extension(next) || next == FRAGMENT || at + 8 > end {
            break;
        }
        let header_end = at + 8 + 8 * usize::from(packet.bytes[at + 1]);
        let Some(header) = packet.bytes[..end].get(at..header_end) else {
            break;
        };
        match next {
            DESTINATION => chain.home = chain.home.or_else(|| home_address(header)),
            ROUTING => {
                chain.route = chain.route.or_else(|| route_address(header));
                detour |= header[3] != 0;
            }
            _ => {}
        }
        (next, at) = (header[0], header_end);
    }
    if detour {
        (chain.transport, chain.l4_at) = (behind_detour(next, at, end), at);
    }
    chain
}

/// The transport that begins at `at`, if its whole header is there.
fn behind_detour(protocol: u8, at: usize, end: usize) -> Transport {
    match protocol {
        PROTOCOL_TCP if at + 20 <= end => Transport::Tcp,
        PROTOCOL_UDP if at + 8 <= end => Transport::Udp,
        _ => Transport::None,
    }
}

/// The home address option among a destination options header's.
fn home_address(header: &[u8]) -> Option<[u8; 16]> {
    const PAD1: u8 = 0;
    const HOME_ADDRESS: u8 = 0xc9;
    let mut options = header.get(2..)?;
    while let [kind, rest @ ..] = options {
        if *kind == PAD1 {
            options = rest;
            continue;
        }
        let (len, rest) = rest.split_first()?;
        let (value, rest) = rest.split_at_checked(usize::from(*len))?;
        if *kind == HOME_ADDRESS {
            return value.try_into().ok();
        }
        options = rest;
    }
    None
}

/// The address of a type 2 routing header.
fn route_address(header: &[u8]) -> Option<[u8; 16]> {
    let address = header.get(8..24)?;
    (header.len() == 24 && header[2] == 2)
        .then_some(address)?
        .try_into()
        .ok()
}
