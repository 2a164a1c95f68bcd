//! Tunnels: one level of VXLAN, Geneve, GRE or IP in IP around TCP or UDP.
//!
//! In a [`Packet`] the *inner* network header stands where every network header
//! stands, so that the packet in the tunnel is coalesced and segmented like any
//! other. All before it, from the outer link header to the inner Ethernet
//! header, is a prefix kept beside it. The prefix is the same in all segments
//! of a super-packet except for these fields, each of which is its own:
//!
//! | field | in segment *i* of *n* | source |
//! |---|---|---|
//! | outer IP length, IPv4 header checksum | its own | Linux 6.18 `inet_gso_segment` |
//! | outer IPv4 ID | first + *i* modulo 2^16, or the same in all | `inet_gso_segment`, SKB_GSO_TCP_FIXEDID |
//! | outer UDP length | its own | `__skb_udp_tunnel_segment` |
//! | outer UDP checksum | zero in all, or its own | `__skb_udp_tunnel_segment`, SKB_GSO_UDP_TUNNEL_CSUM |
//!
//! An outer UDP checksum never needs a look at the payload: what lies behind
//! the inner pseudo header sums up to its complement (Linux `lco_csum`,
//! Documentation/networking/checksum-offloads.rst, "LCO").

use crate::checksum::{Sum, pseudo_v4, pseudo_v6, udp_nonzero};
use crate::packet::{HEADER_ROOM, L3_AT, Net, OUTER_ROOM, Packet, Transport};
use crate::parse::{
    self, ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPES_VLAN, Opaque, PROTOCOL_UDP,
};
use crate::vnet::{HeaderFault, Trust, UDP_CSUM, VnetHeader, pseudo_header};

/// UDP port of VXLAN (RFC 7348 section 5).
pub const PORT_VXLAN: u16 = 4789;
/// UDP port of Geneve (RFC 8926 section 3.3).
pub const PORT_GENEVE: u16 = 6081;
/// IP protocol number of IPv4 in IP (RFC 2003).
pub const PROTOCOL_IPV4: u8 = 4;
/// IP protocol number of IPv6 in IP (RFC 4213, RFC 2473).
pub const PROTOCOL_IPV6: u8 = 41;
/// IP protocol number of GRE (RFC 2784).
pub const PROTOCOL_GRE: u8 = 47;

/// An Ethernet header follows (RFC 7637 section 3.2, RFC 8926 section 3.4).
const ETHERTYPE_BRIDGED: u16 = 0x6558;
/// VXLAN: the network identifier is valid (RFC 7348 section 5).
const VXLAN_I: u8 = 0x08;
/// Geneve: a control packet (RFC 8926 section 3.4).
const GENEVE_O: u8 = 0x80;
/// GRE: a key follows (RFC 2890 section 2).
const GRE_K: u16 = 0x2000;
const UDP_LEN: usize = 8;
const VXLAN_LEN: usize = 8;
const GENEVE_LEN: usize = 8;
const IPV4_MIN: usize = 20;
const IPV6_LEN: usize = 40;

/// Around what a packet's own headers are.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum TunnelKind {
    /// No tunnel.
    #[default]
    None,
    /// VXLAN, Geneve or another tunnel in UDP.
    Udp,
    /// GRE, with or without a key.
    Gre,
    /// IP in IP: IPIP, SIT, ip6ip6.
    Ip,
    /// A tunnel by its port or protocol, which was not followed: another
    /// version, a fragment, no TCP or UDP in it, a length that lies.
    Unfollowed,
}

/// Which tunnels' super-packets somebody takes.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default)]
pub enum Tunnels {
    /// None.
    #[default]
    None,
    /// Those in UDP without an outer checksum.
    Udp,
    /// Those in UDP.
    UdpCsum,
    /// GRE and IP in IP as well. No virtio header can say those: they are
    /// segmented in [`crate::complete`].
    All,
}

/// Where a packet's outer headers are. All zero without a tunnel. Lengths are bytes.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default)]
pub struct Tunnel {
    /// All before the inner network header, VLAN tags of the outer link header left out.
    pub(crate) len: u8,
    /// Outer link header: 14, or 0 for raw IP.
    pub(crate) l2_len: u8,
    /// Outer network header.
    pub(crate) l3_len: u8,
    pub(crate) net: Net,
    pub(crate) kind: TunnelKind,
    /// The outer UDP checksum is in use.
    pub(crate) csum: bool,
    /// All segments of a super-packet carry the same outer IPv4 ID.
    pub(crate) fixed_id: bool,
    /// The checksums of both levels are right, or partial where they may be.
    pub(crate) verified: bool,
}

impl Tunnel {
    pub(crate) const NONE: Self = Self {
        len: 0,
        l2_len: 0,
        l3_len: 0,
        net: Net::None,
        kind: TunnelKind::None,
        csum: false,
        fixed_id: false,
        verified: false,
    };

    /// The kind.
    #[inline]
    pub fn kind(&self) -> TunnelKind {
        self.kind
    }

    /// The outer network layer.
    #[inline]
    pub fn net(&self) -> Net {
        self.net
    }

    /// Whether the outer UDP checksum is in use.
    #[inline]
    pub fn has_csum(&self) -> bool {
        self.csum
    }

    /// Whether the packet's own headers are inside a tunnel.
    #[inline(always)]
    pub(crate) fn is_some(&self) -> bool {
        self.len != 0
    }

    /// Where the outer transport header starts, VLAN tags left out; from the packet's start.
    #[inline]
    pub(crate) fn l4_offset(&self) -> usize {
        usize::from(self.l2_len) + usize::from(self.l3_len)
    }

    /// Where the outer transport header starts in [`Packet::outer`].
    #[inline]
    pub(crate) fn l4_at(&self) -> usize {
        L3_AT + usize::from(self.l3_len)
    }

    /// Where the prefix ends in [`Packet::outer`].
    #[inline]
    pub(crate) fn end(&self) -> usize {
        (L3_AT - usize::from(self.l2_len) + usize::from(self.len)).min(OUTER_ROOM)
    }
}

impl Tunnels {
    /// Whether a super-packet in this tunnel is taken.
    pub fn take(self, tunnel: &Tunnel) -> bool {
        match tunnel.kind {
            TunnelKind::None => true,
            TunnelKind::Udp if tunnel.csum => matches!(self, Self::UdpCsum | Self::All),
            TunnelKind::Udp => self != Self::None,
            TunnelKind::Gre | TunnelKind::Ip => self == Self::All,
            TunnelKind::Unfollowed => false,
        }
    }
}

/// Whether the outer headers could be a tunnel's: worth a closer look.
#[inline(always)]
pub(crate) fn suspected(packet: &Packet) -> bool {
    let layers = &packet.layers;
    match layers.transport {
        Transport::Tcp => false,
        Transport::Udp => is_port(packet.be16(packet.l4_at() + 2)),
        Transport::None => is_protocol(layers.protocol) && layers.net != Net::None,
    }
}

/// A UDP port whose datagrams are looked into.
#[inline(always)]
pub(crate) fn is_port(port: u16) -> bool {
    port == PORT_VXLAN || port == PORT_GENEVE
}

fn is_protocol(protocol: u8) -> bool {
    matches!(protocol, PROTOCOL_IPV4 | PROTOCOL_IPV6 | PROTOCOL_GRE)
}

/// Follows a tunnel that was recognised, if there is TCP or UDP in it and every
/// length agrees. `head` are the packet's first bytes, VLAN tags included.
/// Returns whether it was followed; if not, the packet is as it was.
#[cold]
#[inline(never)]
pub(crate) fn follow(
    packet: &mut Packet,
    head: &[u8],
    vnet: Option<(&VnetHeader, Trust)>,
    opaque: Option<Opaque>,
) -> bool {
    packet.tunnel.kind = TunnelKind::Unfollowed;
    let partial_at = vnet.and_then(|(header, _)| header.partial_start());
    let gso = vnet.is_some_and(|(header, _)| header.is_gso());
    // An AF_PACKET socket has no words for a super-packet in a tunnel (Linux 6.18
    // `virtio_net_hdr_from_skb`): where its checksum starts tells. Only a kernel is believed.
    if gso && !vnet.is_some_and(|(_, trust)| trust == Trust::Kernel) {
        return false;
    }
    // Nothing but a protocol without ports: its lengths agree.
    if opaque.is_some_and(|opaque| opaque != Opaque::OtherProtocol) {
        return false;
    }
    let Some((kind, at)) = recognise(packet) else {
        return false;
    };
    let before = (packet.bytes, packet.layers, packet.payload_len);
    let tags_len = packet.tags.len_bytes();
    let outer = packet.layers;
    let inside = enter(packet, head, kind, at, gso) && {
        let l4_offset = packet.l4_offset() + tags_len;
        match gso {
            // Else it is the outer protocol's super-packet.
            true => partial_at == Some(l4_offset),
            // A sum that starts before the inner transport is not the inner one's.
            false => partial_at.is_none_or(|start| start >= l4_offset),
        }
    };
    if inside && kind == TunnelKind::Udp {
        let l4_at = L3_AT + usize::from(outer.l3_len);
        packet.tunnel.csum = packet.outer_be16(l4_at + usize::from(UDP_CSUM)) != 0;
    }
    if !inside {
        (packet.bytes, packet.layers, packet.payload_len) = before;
        packet.tunnel = Tunnel {
            kind: TunnelKind::Unfollowed,
            ..Tunnel::NONE
        };
    }
    inside
}

/// The kind of tunnel, and where in the private bytes the inner network header starts.
fn recognise(packet: &Packet) -> Option<(TunnelKind, usize)> {
    let layers = &packet.layers;
    if layers.extended || layers.fragment || layers.net == Net::None {
        return None;
    }
    let l4_at = packet.l4_at();
    let (kind, ethertype, at) = match (layers.transport, layers.protocol) {
        (Transport::Udp, _) => {
            let (ethertype, at) = udp_tunnel(packet, l4_at)?;
            (TunnelKind::Udp, ethertype, at)
        }
        (_, PROTOCOL_GRE) => {
            let (ethertype, at) = gre(packet, l4_at)?;
            (TunnelKind::Gre, ethertype, at)
        }
        (_, PROTOCOL_IPV4) => (TunnelKind::Ip, ETHERTYPE_IPV4, l4_at),
        (_, PROTOCOL_IPV6) => (TunnelKind::Ip, ETHERTYPE_IPV6, l4_at),
        _ => return None,
    };
    let (ethertype, at) = match ethertype {
        ETHERTYPE_BRIDGED => inner_ethernet(packet, at)?,
        other => (other, at),
    };
    let version = packet.bytes.get(at)? >> 4;
    match (ethertype, version) {
        (ETHERTYPE_IPV4, 4) | (ETHERTYPE_IPV6, 6) => Some((kind, at)),
        _ => None,
    }
}

/// What follows VXLAN's or Geneve's header, and where.
fn udp_tunnel(packet: &Packet, l4_at: usize) -> Option<(u16, usize)> {
    let at = l4_at + UDP_LEN;
    let [flags, control] = packet.array(at);
    match packet.be16(l4_at + 2) {
        PORT_VXLAN if flags & VXLAN_I != 0 => Some((ETHERTYPE_BRIDGED, at + VXLAN_LEN)),
        PORT_GENEVE if flags >> 6 == 0 && control & GENEVE_O == 0 => {
            let options_len = usize::from(flags & 0x3f) * 4;
            Some((packet.be16(at + 2), at + GENEVE_LEN + options_len))
        }
        _ => None,
    }
}

/// GRE of version 0. A sequence number cannot be recreated, nor a checksum without the payload.
fn gre(packet: &Packet, l4_at: usize) -> Option<(u16, usize)> {
    let len = match packet.be16(l4_at) {
        0 => 4,
        GRE_K => 8,
        _ => return None,
    };
    Some((packet.be16(l4_at + 2), l4_at + len))
}

/// What follows an Ethernet header with up to two VLAN tags, and where.
fn inner_ethernet(packet: &Packet, at: usize) -> Option<(u16, usize)> {
    let mut end = at + ETHERNET_LEN;
    for _ in 0..2 {
        if !ETHERTYPES_VLAN.contains(&packet.be16(end - 2)) {
            break;
        }
        end += 4;
    }
    (end <= HEADER_ROOM).then(|| (packet.be16(end - 2), end))
}

/// Moves the prefix beside the bytes and parses what is inside. On `false` the
/// packet is left half changed.
fn enter(packet: &mut Packet, head: &[u8], kind: TunnelKind, at: usize, gso: bool) -> bool {
    let (outer, start) = (packet.layers, packet.start());
    let whole_len = packet.header_len() + packet.payload_len as usize;
    let Some(len) = at.checked_sub(start).filter(|len| *len <= whole_len) else {
        return false;
    };
    let skip = len + packet.tags.len_bytes();
    if at > OUTER_ROOM {
        return false;
    }
    packet.outer = packet.bytes;
    parse::copy_inner(&mut packet.bytes, head.get(skip..).unwrap_or(&[]));
    let here = whole_len - len;
    let Some((layers, l3_total)) = parse::inner(packet, here, gso) else {
        return false;
    };
    let private_len = usize::from(layers.l3_len) + usize::from(layers.l4_len);
    if l3_total != here || skip + private_len > head.len() {
        return false;
    }
    packet.layers = layers;
    packet.payload_len = (here - private_len) as u32;
    packet.tunnel = Tunnel {
        len: len as u8,
        l2_len: outer.l2_len,
        l3_len: outer.l3_len,
        net: outer.net,
        kind,
        ..Tunnel::NONE
    };
    true
}

/// Enters the tunnel that a virtio header describes (virtio 1.4 section 5.1.6.4;
/// Linux 6.18 `virtio_net_hdr_tnl_to_skb`, stricter where the outer headers must
/// be what the header says).
///
/// # Errors
/// The [`HeaderFault`] for which the packet is to be dropped.
#[cold]
#[inline(never)]
pub(crate) fn enter_described(
    packet: &mut Packet,
    head: &[u8],
    header: &VnetHeader,
) -> Result<(), HeaderFault> {
    let outer_net = header.tunnel_net()?;
    let tags_len = packet.tags.len_bytes();
    let outer_th = usize::from(header.outer_th_offset);
    let inner_nh = usize::from(header.inner_nh_offset);
    let l3_min = |net| match net {
        Net::V6 => IPV6_LEN,
        _ => IPV4_MIN,
    };
    let l2_len = usize::from(packet.layers.l2_len);
    let inner_min = l3_min(header.inner_net());
    if outer_th < l2_len + l3_min(outer_net)
        || inner_nh < outer_th + UDP_LEN
        || usize::from(header.csum_start) < inner_nh + inner_min
    {
        return Err(HeaderFault::TunnelOffsets);
    }
    let layers = packet.layers;
    let l4_offset = l2_len + usize::from(layers.l3_len) + tags_len;
    if layers.transport != Transport::Udp || layers.net != outer_net || outer_th != l4_offset {
        return Err(HeaderFault::TunnelOuterMismatch);
    }
    let at = packet.start() + inner_nh - tags_len;
    if at > OUTER_ROOM {
        return Err(HeaderFault::TunnelTooDeep);
    }
    let field = packet.l4_at() + usize::from(UDP_CSUM);
    let said = packet.be16(field) != 0;
    let csum = header.wants_tunnel_csum();
    if said && !csum {
        return Err(HeaderFault::TunnelCsumNotAsked);
    }
    if !enter(packet, head, TunnelKind::Udp, at, true) {
        return Err(HeaderFault::GsoProtocolMismatch);
    }
    packet.tunnel.csum = csum;
    Ok(())
}

/// What the outer UDP checksum field is to hold.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum OuterCsum {
    /// The folded pseudo-header sum: a super-packet's.
    Partial,
    /// The checksum, as it will be once the inner one is finished.
    Complete,
}

/// Makes the outer lengths, ID and checksums agree with the packet, whose inner
/// headers are settled already.
pub(crate) fn settle(packet: &mut Packet, id: u16, csum: OuterCsum) {
    let tunnel = packet.tunnel;
    let l3_total = packet.l3_total_len().min(usize::from(u16::MAX));
    match tunnel.net {
        Net::V6 => packet.set_outer_be16(L3_AT + 4, l3_total.saturating_sub(IPV6_LEN) as u16),
        _ => {
            packet.set_outer_be16(L3_AT + 2, l3_total as u16);
            packet.set_outer_be16(L3_AT + 4, id);
            packet.set_outer_be16(L3_AT + 10, 0);
            let check = network_sum(packet).checksum();
            packet.set_outer_be16(L3_AT + 10, check);
        }
    }
    if tunnel.kind != TunnelKind::Udp {
        return;
    }
    let l4_total = l3_total - usize::from(tunnel.l3_len);
    let field = tunnel.l4_at() + usize::from(UDP_CSUM);
    packet.set_outer_be16(tunnel.l4_at() + 4, l4_total as u16);
    packet.set_outer_be16(field, 0);
    if tunnel.csum {
        let check = match csum {
            OuterCsum::Partial => pseudo(packet, l4_total as u32).fold(),
            OuterCsum::Complete => udp_nonzero(udp_sum(packet, l4_total as u32).checksum()),
        };
        packet.set_outer_be16(field, check);
    }
}

/// Sum over the outer IPv4 header.
fn network_sum(packet: &Packet) -> Sum {
    let end = packet.tunnel.l4_at();
    Sum::ZERO.add_bytes(packet.outer.get(L3_AT..end).unwrap_or(&[]))
}

/// The outer UDP pseudo header's sum.
fn pseudo(packet: &Packet, l4_total: u32) -> Sum {
    match packet.tunnel.net {
        Net::V6 => pseudo_v6(
            packet.outer_array(L3_AT + 8),
            packet.outer_array(L3_AT + 24),
            PROTOCOL_UDP,
            l4_total,
        ),
        _ => pseudo_v4(
            packet.outer_array(L3_AT + 12),
            packet.outer_array(L3_AT + 16),
            PROTOCOL_UDP,
            l4_total,
        ),
    }
}

/// Sum over all that the outer UDP checksum covers, given that the inner one is
/// right: behind the inner pseudo header everything adds up to its complement.
fn udp_sum(packet: &Packet, l4_total: u32) -> Sum {
    let tunnel = packet.tunnel;
    let prefix = packet.outer.get(tunnel.l4_at()..tunnel.end());
    let prefix = prefix.unwrap_or(&[]);
    let l4_at = packet.l4_at();
    let network = packet.bytes.get(L3_AT..l4_at).unwrap_or(&[]);
    let inner_l4 = usize::from(packet.layers.l4_len) + packet.payload_len as usize;
    let behind = !pseudo_header(packet, inner_l4 as u32).fold();
    let inside = Sum::ZERO.add_bytes(network).add_u16(behind);
    let inside = match prefix.len() & 1 {
        0 => inside,
        _ => inside.swapped(),
    };
    pseudo(packet, l4_total).add_bytes(prefix).add(inside)
}

/// Whether segmentation could recreate the outer IP header: its checksum is right
/// and not the negative zero, and no reserved flag is set.
pub(crate) fn outer_is_plain(packet: &Packet) -> bool {
    if packet.tunnel.net != Net::V4 {
        return true;
    }
    let reserved = packet.outer_be16(L3_AT + 6) & 0x8000 != 0;
    let field = packet.outer_be16(L3_AT + 10);
    !reserved && field != 0xffff && network_sum(packet).fold() == 0xffff
}

/// Whether the outer UDP checksum is right, or not in use. The inner one must be right.
pub(crate) fn outer_csum_is_good(packet: &Packet) -> bool {
    if !packet.tunnel.csum {
        return true;
    }
    let l4_total = packet.l3_total_len() - usize::from(packet.tunnel.l3_len);
    udp_sum(packet, l4_total as u32).fold() == 0xffff
}

/// How two prefixes differ.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Difference {
    /// Only in what segmentation recreates.
    None,
    /// Other ends, another network identifier, another tunnel.
    Flow,
    /// Time to live, DSCP, ECN, IPv4 flags, or a checksum in use by one alone.
    Header,
}

/// Compares the outer headers of two packets.
pub(crate) fn compare(a: &Packet, b: &Packet) -> Difference {
    let (one, two) = (a.tunnel, b.tunnel);
    let key = |t: Tunnel| (t.len, t.l2_len, t.l3_len, t.net, t.kind);
    if key(one) != key(two) {
        return Difference::Flow;
    }
    let start = L3_AT - usize::from(one.l2_len);
    let mut difference = Difference::None;
    for at in start..one.end() {
        match (a.outer[at] ^ b.outer[at], role(&one, at)) {
            (0, _) | (_, Role::Own) => {}
            (_, Role::Header) => difference = Difference::Header,
            (bits, Role::TrafficClass) => {
                // The version and the flow label share its bytes.
                let label = match at - L3_AT {
                    0 => 0xf0,
                    _ => 0x0f,
                };
                if bits & label != 0 {
                    return Difference::Flow;
                }
                difference = Difference::Header;
            }
            (_, Role::Key) => return Difference::Flow,
        }
    }
    match one.csum == two.csum {
        true => difference,
        false => Difference::Header,
    }
}

/// What a byte of the prefix is for.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Role {
    /// Tells flows apart.
    Key,
    /// Must be equal to merge.
    Header,
    /// The first two bytes of IPv6.
    TrafficClass,
    /// Each packet's own.
    Own,
}

fn role(tunnel: &Tunnel, at: usize) -> Role {
    let l4_at = tunnel.l4_at();
    if at < L3_AT {
        return Role::Key;
    }
    if at < l4_at {
        return match (tunnel.net, at - L3_AT) {
            (Net::V6, 0 | 1) => Role::TrafficClass,
            (Net::V6, 4 | 5) => Role::Own,
            (Net::V6, 7) => Role::Header,
            (Net::V6, _) => Role::Key,
            (_, 2..=5 | 10 | 11) => Role::Own,
            (_, 1 | 6..=8) => Role::Header,
            _ => Role::Key,
        };
    }
    match (tunnel.kind, at - l4_at) {
        (TunnelKind::Udp, 4..=7) => Role::Own,
        _ => Role::Key,
    }
}

/// The outer IPv4 ID; zero for IPv6.
pub(crate) fn outer_id(packet: &Packet) -> u16 {
    match packet.tunnel.net {
        Net::V4 => packet.outer_be16(L3_AT + 4),
        _ => 0,
    }
}

/// Outer IPv4 "don't fragment".
pub(crate) fn outer_has_df(packet: &Packet) -> bool {
    packet.tunnel.net == Net::V4 && packet.outer_be16(L3_AT + 6) & 0x4000 != 0
}
