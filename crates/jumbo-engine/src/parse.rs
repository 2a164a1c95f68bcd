//! Headers -> [`Layers`]; total: any bytes give an answer, never a panic.
//!
//! VLAN tags are moved beside the bytes, Ethernet padding is cut off, and
//! extension headers are walked with a bound. What cannot be followed to TCP or
//! UDP is *opaque*: it is forwarded as it is, and the [`Opaque`] reason says
//! how far parsing came.

use crate::packet::{HEADER_ROOM, L3_AT, Layers, Link, Net, Packet, Tag, Transport};
use crate::reasons;
use crate::tunnel::Tunnel;
use crate::vnet::HeaderFault;

/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// EtherType of ARP.
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// EtherTypes that announce a VLAN tag: 802.1Q and 802.1ad.
pub const ETHERTYPES_VLAN: [u16; 2] = [0x8100, 0x88a8];
/// IP protocol number of TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// IP protocol number of UDP.
pub const PROTOCOL_UDP: u8 = 17;

/// Length of an Ethernet header without tags.
pub(crate) const ETHERNET_LEN: usize = 14;
/// Most bytes behind the link header that Ethernet padding can make (60 - 14).
const PADDED_MAX: usize = 46;
const IPV4_MIN: usize = 20;
const IPV6_LEN: usize = 40;
const TCP_MIN: usize = 20;
const UDP_LEN: usize = 8;

/// Extension headers followed before giving up. RFC 8200 section 4.1 knows seven
/// kinds; more than the private header could hold is not worth a walk.
const EXTENSIONS_MAX: usize = 8;

reasons! {
    /// Why was a packet not followed down to its TCP or UDP header?
    pub enum Opaque in "parse" {
        /// ARP: passed on as it is.
        Arp = "arp",
        /// The EtherType is neither IPv4 nor IPv6.
        OtherEtherType = "other_ethertype",
        /// More than two VLAN tags.
        TooManyTags = "too_many_tags",
        /// A VLAN tag or the EtherType behind it is cut off.
        TagTruncated = "tag_truncated",
        /// IP carries neither TCP nor UDP.
        OtherProtocol = "other_protocol",
        /// A fragment: only the first one has ports, and none can be merged.
        Fragment = "fragment",
        /// The IP version does not fit the EtherType, or is neither 4 nor 6.
        IpVersion = "ip_version",
        /// The IP header is cut off.
        IpTruncated = "ip_truncated",
        /// The IPv4 header length is below 20 bytes.
        Ipv4HeaderLength = "ipv4_header_length",
        /// The IP length says less than the IP header itself, or zero.
        IpLengthTooSmall = "ip_length_too_small",
        /// The IP length says more than there is.
        IpLengthBeyondPacket = "ip_length_beyond_packet",
        /// IPv6 extension headers: too many, too long, cut off, or a routing header with
        /// segments left.
        Ipv6Extensions = "ipv6_extensions",
        /// The TCP header is cut off or longer than the packet.
        TcpTruncated = "tcp_truncated",
        /// The TCP data offset is below 20 bytes.
        TcpHeaderLength = "tcp_header_length",
        /// The UDP header is cut off.
        UdpTruncated = "udp_truncated",
        /// The UDP length does not agree with the IP length.
        UdpLength = "udp_length",
        /// IP options and TCP options together exceed the private header.
        HeadersTooLong = "headers_too_long",
    }
}

/// Copies the first bytes of a packet into its private header and parses them.
///
/// `gso`: the packet claims to be a super-packet, whose IP length may be anything
/// (Linux sends the true one, Windows zero); the true length is used.
///
/// # Errors
/// [`HeaderFault::ShortPacket`] if there is no link header, or no byte at all.
#[inline]
pub(crate) fn load(
    packet: &mut Packet,
    link: Link,
    head: &[u8],
    total_len: usize,
    gso: bool,
) -> Result<Option<Opaque>, HeaderFault> {
    packet.pending = crate::pending::Pending::NOTHING;
    packet.tags = Default::default();
    packet.trusted = false;
    packet.tunnel = Tunnel::NONE;
    packet.origin = 0;
    let l2_len = match link {
        Link::Ethernet => ETHERNET_LEN,
        Link::RawIp => 0,
    };
    if total_len < l2_len.max(1) {
        return Err(HeaderFault::ShortPacket);
    }
    let start = L3_AT - l2_len;
    packet.bytes[..start].fill(0);
    copy_head(&mut packet.bytes, start, head);
    if let Some((layers, payload_len)) = plain(packet, total_len, gso) {
        packet.layers = layers;
        packet.payload_len = payload_len;
        return Ok(None);
    }
    let mut untagged_len = total_len;
    let mut tag_fault = None;
    if l2_len != 0 && ETHERTYPES_VLAN.contains(&packet.be16(12)) {
        (untagged_len, tag_fault) = lift_tags(packet, head, total_len);
    }
    let ethertype = match link {
        Link::Ethernet => packet.be16(12),
        Link::RawIp => match packet.bytes[L3_AT] >> 4 {
            4 => ETHERTYPE_IPV4,
            6 => ETHERTYPE_IPV6,
            _ => 0,
        },
    };
    let here = untagged_len - l2_len;
    let mut found = Found {
        l3_total: here,
        layers: Layers {
            l2_len: l2_len as u8,
            ..Layers::default()
        },
    };
    let opaque = match (tag_fault, ethertype) {
        (Some(fault), _) => Some(fault),
        (None, ETHERTYPE_IPV4) => ipv4(packet, here, gso, &mut found).err(),
        (None, ETHERTYPE_IPV6) => ipv6(packet, here, gso, &mut found).err(),
        (None, ETHERTYPE_ARP) => Some(Opaque::Arp),
        (None, _) if link == Link::RawIp => Some(Opaque::IpVersion),
        (None, _) => Some(Opaque::OtherEtherType),
    };
    packet.layers = found.layers;
    let private = usize::from(found.layers.l3_len) + usize::from(found.layers.l4_len);
    packet.payload_len = (found.l3_total - private) as u32;
    Ok(opaque)
}

/// Parses a packet whose first bytes stand in its private header, if it is [`plain`].
/// `false`: nothing is known of it.
#[inline(always)]
pub(crate) fn load_plain(packet: &mut Packet, total_len: usize) -> bool {
    let Some((layers, payload_len)) = plain(packet, total_len, false) else {
        return false;
    };
    packet.pending = crate::pending::Pending::NOTHING;
    packet.tags = Default::default();
    packet.trusted = false;
    packet.tunnel = Tunnel::NONE;
    packet.origin = 0;
    packet.layers = layers;
    packet.payload_len = payload_len;
    true
}

/// What nearly every packet of a bulk transfer is: Ethernet, IPv4 without options
/// or IPv6 without extension headers, TCP or UDP, nothing behind the IP length. Gives
/// what the full parse would, or `None` for anything it would have to think about.
#[inline(always)]
fn plain(packet: &Packet, total_len: usize, gso: bool) -> Option<(Layers, u32)> {
    let (ethertype, version, said) = (packet.be16(12), packet.bytes[L3_AT], packet.be16(L3_AT + 2));
    let (net, l3_len, l3_total, protocol) = if ethertype == ETHERTYPE_IPV4 && version == 0x45 {
        if packet.be16(L3_AT + 6) & 0x3fff != 0 {
            return None;
        }
        (
            Net::V4,
            IPV4_MIN,
            usize::from(said),
            packet.bytes[L3_AT + 9],
        )
    } else if ethertype == ETHERTYPE_IPV6 && version >> 4 == 6 {
        let payload = usize::from(packet.be16(L3_AT + 4));
        let next = packet.bytes[L3_AT + 6];
        (Net::V6, IPV6_LEN, IPV6_LEN + payload, next)
    } else {
        return None;
    };
    let (transport, l4_len) = if protocol == PROTOCOL_TCP {
        let l4_len = usize::from(packet.bytes[L3_AT + l3_len + 12] >> 4) * 4;
        if l4_len < TCP_MIN {
            return None;
        }
        (Transport::Tcp, l4_len)
    } else if protocol == PROTOCOL_UDP {
        if l3_len + usize::from(packet.be16(L3_AT + l3_len + 4)) != l3_total {
            return None;
        }
        (Transport::Udp, UDP_LEN)
    } else {
        return None;
    };
    let fits = l3_len + l4_len <= l3_total && ETHERNET_LEN + l3_total == total_len;
    if gso || !fits {
        return None;
    }
    let layers = Layers {
        l2_len: ETHERNET_LEN as u8,
        l3_len: l3_len as u8,
        l4_len: l4_len as u8,
        net,
        transport,
        protocol,
        fragment: false,
        extended: false,
    };
    Some((layers, (l3_total - l3_len - l4_len) as u32))
}

/// Copies as much of `head` as fits; the rest of the private header becomes zero.
#[inline(always)]
fn copy_head(bytes: &mut [u8; HEADER_ROOM], start: usize, head: &[u8]) {
    if start == 0
        && let Some(first) = head.first_chunk::<HEADER_ROOM>()
    {
        *bytes = *first;
        return;
    }
    let room = HEADER_ROOM - start;
    let len = head.len().min(room);
    bytes[start..start + len].copy_from_slice(&head[..len]);
    bytes[start + len..].fill(0);
}

/// What stands in the place of the link header of a packet in a tunnel: neither
/// that of raw IP, which is zero, nor an Ethernet header, which none has. So the
/// comparison of link headers tells a packet in a tunnel from a bare one.
const IN_TUNNEL: u8 = 1;

/// Puts what begins with a network header where network headers stand.
pub(crate) fn copy_inner(bytes: &mut [u8; HEADER_ROOM], head: &[u8]) {
    bytes[..L3_AT].fill(IN_TUNNEL);
    copy_head(bytes, L3_AT, head);
}

/// Parses `here` bytes that begin with the network header of a packet in a tunnel. Gives
/// what was found and the network packet's length; `None` if it is not TCP or UDP.
pub(crate) fn inner(packet: &Packet, here: usize, gso: bool) -> Option<(Layers, usize)> {
    let mut found = Found {
        l3_total: here,
        layers: Layers::default(),
    };
    let parsed = match packet.bytes[L3_AT] >> 4 {
        4 => ipv4(packet, here, gso, &mut found),
        6 => ipv6(packet, here, gso, &mut found),
        _ => Err(Opaque::IpVersion),
    };
    parsed.ok().map(|()| (found.layers, found.l3_total))
}

/// Moves the tags beside the bytes. Returns the length without them.
fn lift_tags(packet: &mut Packet, head: &[u8], total_len: usize) -> (usize, Option<Opaque>) {
    let mut at = 12;
    let fault = loop {
        let word = |at: usize| -> Option<u16> {
            (at + 2 <= total_len)
                .then(|| head.get(at..at + 2))
                .flatten()
                .map(|b| u16::from_be_bytes([b[0], b[1]]))
        };
        let (Some(tpid), Some(tci)) = (word(at), word(at + 2)) else {
            break Some(Opaque::TagTruncated);
        };
        if !ETHERTYPES_VLAN.contains(&tpid) {
            break None;
        }
        if word(at + 4).is_none() {
            break Some(Opaque::TagTruncated);
        }
        if !packet.tags.push_inner(Tag { tpid, tci }) {
            break Some(Opaque::TooManyTags);
        }
        at += 4;
    };
    let rest = head.get(at..).unwrap_or(&[]);
    copy_head_tail(&mut packet.bytes, rest);
    (total_len - packet.tags.len_bytes(), fault)
}

/// Puts the EtherType and what follows it behind the MAC addresses.
fn copy_head_tail(bytes: &mut [u8; HEADER_ROOM], rest: &[u8]) {
    let len = rest.len().min(HEADER_ROOM - 12);
    bytes[12..12 + len].copy_from_slice(&rest[..len]);
    bytes[12 + len..].fill(0);
}

struct Found {
    /// Network header and all behind it, padding cut off; bytes.
    l3_total: usize,
    layers: Layers,
}

#[inline(always)]
fn ipv4(packet: &Packet, here: usize, gso: bool, found: &mut Found) -> Result<(), Opaque> {
    if here < IPV4_MIN {
        return Err(Opaque::IpTruncated);
    }
    let version_ihl = packet.bytes[L3_AT];
    if version_ihl >> 4 != 4 {
        return Err(Opaque::IpVersion);
    }
    let l3_len = usize::from(version_ihl & 0x0f) * 4;
    if l3_len < IPV4_MIN {
        return Err(Opaque::Ipv4HeaderLength);
    }
    if l3_len > here {
        return Err(Opaque::IpTruncated);
    }
    let layers = &mut found.layers;
    layers.net = Net::V4;
    layers.l3_len = l3_len as u8;
    layers.extended = l3_len != IPV4_MIN;
    layers.protocol = packet.bytes[L3_AT + 9];
    // More fragments, or an offset: RFC 791 section 3.1.
    layers.fragment = packet.be16(L3_AT + 6) & 0x3fff != 0;
    let said = usize::from(packet.be16(L3_AT + 2));
    let l3_total = ip_length(said, l3_len, here, gso)?;
    found.l3_total = l3_total;
    if layers.fragment {
        return Err(Opaque::Fragment);
    }
    transport(packet, l3_total - l3_len, gso, layers)
}

/// What the IP length field means, given how many bytes there are. If it lies, the addresses
/// still stand, so that the packet is kept from overtaking its flow.
#[inline(always)]
fn ip_length(said: usize, header: usize, here: usize, gso: bool) -> Result<usize, Opaque> {
    // A super-packet's length field may be anything, but a packet that may have
    // been padded to Ethernet's minimum is taken at its word.
    if gso && here > PADDED_MAX {
        return Ok(here);
    }
    if said < header {
        return Err(Opaque::IpLengthTooSmall);
    }
    if said > here {
        return Err(Opaque::IpLengthBeyondPacket);
    }
    Ok(said)
}

#[inline(always)]
fn ipv6(packet: &Packet, here: usize, gso: bool, found: &mut Found) -> Result<(), Opaque> {
    if here < IPV6_LEN {
        return Err(Opaque::IpTruncated);
    }
    if packet.bytes[L3_AT] >> 4 != 6 {
        return Err(Opaque::IpVersion);
    }
    let payload = usize::from(packet.be16(L3_AT + 4));
    let next = packet.bytes[L3_AT + 6];
    let layers = &mut found.layers;
    layers.net = Net::V6;
    layers.l3_len = IPV6_LEN as u8;
    layers.protocol = next;
    // Zero announces a jumbogram (RFC 2675), which nothing here makes or takes.
    if payload == 0 && !gso && next != NO_NEXT_HEADER {
        return Err(Opaque::IpLengthTooSmall);
    }
    let l3_total = ip_length(IPV6_LEN + payload, IPV6_LEN, here, gso)?;
    found.l3_total = l3_total;
    if is_extension(next) {
        // By value: a reference would keep the layers in memory on the way of
        // every packet, for the few that have extension headers.
        let (walked, opaque) = extensions(packet, l3_total, *layers);
        *layers = walked;
        if let Some(opaque) = opaque {
            return Err(opaque);
        }
    }
    transport(packet, l3_total - usize::from(layers.l3_len), gso, layers)
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;
const NO_NEXT_HEADER: u8 = 59;

/// Whether this is the number of an IPv6 extension header that may precede a transport.
#[inline(always)]
pub(crate) fn is_extension(protocol: u8) -> bool {
    matches!(protocol, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION)
}

/// Follows the extension headers (RFC 8200 section 4) as far as the private header goes.
#[inline(never)]
fn extensions(packet: &Packet, l3_total: usize, found: Layers) -> (Layers, Option<Opaque>) {
    let mut layers = found;
    let room = l3_total.min(HEADER_ROOM - L3_AT);
    // One more than may be there, to see what is behind the last.
    for _ in 0..=EXTENSIONS_MAX {
        let at = usize::from(layers.l3_len);
        match layers.protocol {
            HOP_BY_HOP | ROUTING | DESTINATION => {
                if at + 8 > room {
                    return (layers, Some(Opaque::Ipv6Extensions));
                }
                // Segments left: the transport checksum covers the final destination, which
                // is in the routing header and not where it is looked for (RFC 8200 section 8.1).
                let detour = packet.bytes[L3_AT + at + 3] != 0;
                let end = at + 8 + 8 * usize::from(packet.bytes[L3_AT + at + 1]);
                if end > room || (layers.protocol == ROUTING && detour) {
                    return (layers, Some(Opaque::Ipv6Extensions));
                }
                layers.protocol = packet.bytes[L3_AT + at];
                layers.l3_len = end as u8;
                layers.extended = true;
            }
            FRAGMENT => {
                layers.fragment = true;
                layers.extended = true;
                // The protocol of the fragmented packet, for the rule that a
                // fragment never overtakes its flow.
                if at + 8 <= room {
                    layers.protocol = packet.bytes[L3_AT + at];
                }
                return (layers, Some(Opaque::Fragment));
            }
            _ => return (layers, None),
        }
    }
    (layers, Some(Opaque::Ipv6Extensions))
}

/// The header behind IP; `here` bytes are left for it and its payload.
#[inline(always)]
fn transport(packet: &Packet, here: usize, gso: bool, layers: &mut Layers) -> Result<(), Opaque> {
    let at = L3_AT + usize::from(layers.l3_len);
    match layers.protocol {
        PROTOCOL_TCP => {
            if here < TCP_MIN {
                return Err(Opaque::TcpTruncated);
            }
            if at + TCP_MIN > HEADER_ROOM {
                return Err(Opaque::HeadersTooLong);
            }
            let l4_len = usize::from(packet.bytes[at + 12] >> 4) * 4;
            if l4_len < TCP_MIN {
                return Err(Opaque::TcpHeaderLength);
            }
            if l4_len > here {
                return Err(Opaque::TcpTruncated);
            }
            if at + l4_len > HEADER_ROOM {
                return Err(Opaque::HeadersTooLong);
            }
            layers.transport = Transport::Tcp;
            layers.l4_len = l4_len as u8;
            Ok(())
        }
        PROTOCOL_UDP => {
            if here < UDP_LEN {
                return Err(Opaque::UdpTruncated);
            }
            if at + UDP_LEN > HEADER_ROOM {
                return Err(Opaque::HeadersTooLong);
            }
            if !gso && usize::from(packet.be16(at + 4)) != here {
                return Err(Opaque::UdpLength);
            }
            layers.transport = Transport::Udp;
            layers.l4_len = UDP_LEN as u8;
            Ok(())
        }
        _ => Err(Opaque::OtherProtocol),
    }
}
