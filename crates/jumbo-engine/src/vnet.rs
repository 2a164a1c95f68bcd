//! `virtio_net_hdr`, the wire form of pending work: TAP, vhost-user and AF_PACKET
//! all speak it. Both directions are here and nowhere else.
//!
//! Layout and meaning: virtio 1.3 section 5.1.6; Linux
//! `include/uapi/linux/virtio_net.h`. Checks on a header from outside follow
//! Linux 6.18 `include/linux/virtio_net.h` (`__virtio_net_hdr_to_skb`) and
//! `net/core/skbuff.c` (`skb_partial_csum_set`), stricter where noted.

use crate::checksum::{Sum, pseudo_v4, pseudo_v6};
use crate::packet::{HEADER_ROOM, L3_AT, Net, Packet, Transport};
use crate::pending::{Caps, Csum, Cwr, Gso, GsoKind, Pending};
use crate::reasons;
use crate::segment::segments;
use crate::superpacket;
use crate::tunnel::OuterCsum;

const F_NEEDS_CSUM: u8 = 1;
const F_DATA_VALID: u8 = 2;
const F_RSC_INFO: u8 = 4;
const F_UDP_TUNNEL_CSUM: u8 = 8;

const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_UDP: u8 = 3;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_TUNNEL_IPV4: u8 = 0x20;
const GSO_TUNNEL_IPV6: u8 = 0x40;
const GSO_TUNNEL: u8 = GSO_TUNNEL_IPV4 | GSO_TUNNEL_IPV6;
const GSO_ECN: u8 = 0x80;

/// GSO_BY_FRAGS of Linux `include/linux/skbuff.h`: a marker, never a size.
const GSO_BY_FRAGS: u16 = 0xffff;

/// Smallest TCP segment of a super-packet: TCP_MIN_GSO_SIZE of Linux
/// `include/net/tcp.h` (TCP_MIN_MSS 48 minus 40 bytes of options).
pub const TCP_SEGMENT_MIN: u16 = 8;

/// Most datagrams of a UDP super-packet: UDP_MAX_SEGMENTS of Linux `include/linux/udp.h`.
pub const UDP_SEGMENTS_MAX: usize = 128;

/// Offset of the checksum in a TCP header.
pub(crate) const TCP_CSUM: u16 = 16;
/// Offset of the checksum in a UDP header.
pub(crate) const UDP_CSUM: u16 = 6;

/// Least length of a network header: `nh_min_len` of `__virtio_net_hdr_to_skb`.
const NETWORK_MIN: usize = 20;

reasons! {
    /// Why was a received packet dropped before it was looked at?
    pub enum HeaderFault in "rx" {
        /// Shorter than the virtio header that must precede it.
        ShortVnetHeader = "short_vnet_header",
        /// Shorter than a link header, or empty.
        ShortPacket = "short_packet",
        /// Longer than any packet can be.
        PacketTooLong = "packet_too_long",
        /// Fewer bytes of the header were handed over than there must be, or none by the device.
        HeadMissing = "head_missing",
        /// No free slot, or no room for another VLAN tag.
        NoRoom = "no_room",
        /// hdr_len exceeds the packet.
        HdrLenBeyondPacket = "hdr_len_beyond_packet",
        /// The checksum place lies beyond the end of the packet.
        CsumBeyondPacket = "csum_beyond_packet",
        /// The checksum starts before the end of the link or network header.
        CsumBeforeTransport = "csum_before_transport",
        /// The checksum field is not where the protocol has it.
        CsumFieldWrong = "csum_field_wrong",
        /// The checksum field lies behind the private header.
        CsumFieldTooDeep = "csum_field_too_deep",
        /// A partial checksum on an IP fragment.
        CsumOnFragment = "csum_on_fragment",
        /// A segmentation type nobody assigned, or ECN without a type.
        GsoTypeUnknown = "gso_type_unknown",
        /// A tunnel segmentation type; it was not offered.
        GsoTunnelRefused = "gso_tunnel_refused",
        /// A tunnel segmentation type of both IPv4 and IPv6.
        TunnelBothFamilies = "tunnel_both_families",
        /// A tunnel segmentation type without one for what is in the tunnel, or with UFO.
        TunnelWithoutGso = "tunnel_without_gso",
        /// A super-packet in a tunnel without a partial checksum.
        TunnelWithoutCsum = "tunnel_without_csum",
        /// A super-packet in a tunnel whose checksum is said to be checked.
        TunnelDataValid = "tunnel_data_valid",
        /// The offsets of a tunnel's headers overlap, or begin too early.
        TunnelOffsets = "tunnel_offsets",
        /// The outer headers are not those of the tunnel that the virtio header describes.
        TunnelOuterMismatch = "tunnel_outer_mismatch",
        /// The inner network header lies behind the private header.
        TunnelTooDeep = "tunnel_too_deep",
        /// The outer UDP checksum is in use, but its segments' were not asked for.
        TunnelCsumNotAsked = "tunnel_csum_not_asked",
        /// An outer UDP checksum is asked for without a tunnel.
        TunnelCsumWithoutTunnel = "tunnel_csum_without_tunnel",
        /// UDP fragmentation (UFO) that was not offered, or of a packet whose IP options or
        /// extension headers are not for every fragment.
        GsoUfoRefused = "gso_ufo_refused",
        /// A fragment size of UFO that is no multiple of 8.
        GsoUfoSize = "gso_ufo_size",
        /// The ECN bit on a type that is not TCP.
        GsoEcnNotTcp = "gso_ecn_not_tcp",
        /// A segmentation type with a segment size of zero.
        GsoSizeZero = "gso_size_zero",
        /// The segment size 0xffff, which the kernel reserves.
        GsoSizeReserved = "gso_size_reserved",
        /// The segmentation type does not fit the packet's protocol.
        GsoProtocolMismatch = "gso_protocol_mismatch",
        /// UDP segmentation without a partial checksum.
        GsoWithoutCsum = "gso_without_csum",
        /// More segments than a receiver accepts.
        GsoTooManySegments = "gso_too_many_segments",
        /// A super-packet with SYN or RST.
        GsoOnSynOrRst = "gso_on_syn_or_rst",
        /// A super-packet of more than 65535 bytes.
        GsoTooLong = "gso_too_long",
    }
}

impl core::error::Error for HeaderFault {}

/// The forms of the header on the wire, by their length.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// 10 bytes: virtio 0.9 without mergeable buffers, TUN's default.
    Legacy10,
    /// 12 bytes: with `num_buffers`; every virtio 1 device.
    Modern12,
    /// 20 bytes: with the hash report (VIRTIO_NET_F_HASH_REPORT).
    Hash20,
    /// 24 bytes: with the offsets of a tunnel's headers (VIRTIO_NET_F_HOST_UDP_TUNNEL_GSO and
    /// GUEST_; virtio 1.4 section 5.1.6, Linux 6.17 `struct virtio_net_hdr_v1_hash_tunnel`).
    Tunnel24,
}

impl Form {
    /// Bytes on the wire.
    pub const fn len_bytes(self) -> usize {
        match self {
            Form::Legacy10 => 10,
            Form::Modern12 => 12,
            Form::Hash20 => 20,
            Form::Tunnel24 => 24,
        }
    }
}

/// The header's fields in host order. What a form does not have reads as zero.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default)]
#[allow(
    missing_docs,
    reason = "the names are those of the virtio specification"
)]
pub struct VnetHeader {
    pub flags: u8,
    pub gso_type: u8,
    pub hdr_len: u16,
    pub gso_size: u16,
    pub csum_start: u16,
    pub csum_offset: u16,
    pub num_buffers: u16,
    pub hash_value: u32,
    pub hash_report: u16,
    pub outer_th_offset: u16,
    pub inner_nh_offset: u16,
}

/// Whether the sender's word that a checksum is good (DATA_VALID) is believed.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// This host's kernel.
    Kernel,
    /// A guest: a driver must not set it (virtio 1.3 section 5.1.6.2.1).
    Guest,
}

impl VnetHeader {
    /// Reads a little-endian header; `None` if `bytes` is shorter than the form.
    #[inline]
    pub fn decode(form: Form, bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..form.len_bytes())?;
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let mut header = Self {
            flags: bytes[0],
            gso_type: bytes[1],
            hdr_len: u16_at(2),
            gso_size: u16_at(4),
            csum_start: u16_at(6),
            csum_offset: u16_at(8),
            ..Self::default()
        };
        if form != Form::Legacy10 {
            header.num_buffers = u16_at(10);
        }
        if matches!(form, Form::Hash20 | Form::Tunnel24) {
            header.hash_value = u32::from(u16_at(12)) | u32::from(u16_at(14)) << 16;
            header.hash_report = u16_at(16);
        }
        if form == Form::Tunnel24 {
            header.outer_th_offset = u16_at(20);
            header.inner_nh_offset = u16_at(22);
        }
        Some(header)
    }

    /// Writes the header; returns its length, or `None` if `out` is too short.
    #[inline]
    pub fn encode(&self, form: Form, out: &mut [u8]) -> Option<usize> {
        let len = form.len_bytes();
        let out = out.get_mut(..len)?;
        out[0] = self.flags;
        out[1] = self.gso_type;
        out[2..4].copy_from_slice(&self.hdr_len.to_le_bytes());
        out[4..6].copy_from_slice(&self.gso_size.to_le_bytes());
        out[6..8].copy_from_slice(&self.csum_start.to_le_bytes());
        out[8..10].copy_from_slice(&self.csum_offset.to_le_bytes());
        if form != Form::Legacy10 {
            out[10..12].copy_from_slice(&self.num_buffers.to_le_bytes());
        }
        if matches!(form, Form::Hash20 | Form::Tunnel24) {
            out[12..16].copy_from_slice(&self.hash_value.to_le_bytes());
            out[16..18].copy_from_slice(&self.hash_report.to_le_bytes());
            out[18..20].fill(0);
        }
        if form == Form::Tunnel24 {
            out[20..22].copy_from_slice(&self.outer_th_offset.to_le_bytes());
            out[22..24].copy_from_slice(&self.inner_nh_offset.to_le_bytes());
        }
        Some(len)
    }

    /// Whether the header claims a super-packet.
    #[inline]
    pub fn is_gso(&self) -> bool {
        self.gso_type != GSO_NONE
    }

    #[inline(always)]
    pub(crate) fn needs_csum(&self) -> bool {
        self.flags & F_NEEDS_CSUM != 0
    }

    #[inline(always)]
    pub(crate) fn data_valid(&self) -> bool {
        self.flags & F_DATA_VALID != 0
    }

    /// Whether the header claims a super-packet in a tunnel.
    #[inline]
    pub fn is_tunnel(&self) -> bool {
        self.gso_type & GSO_TUNNEL != 0
    }

    /// Whether the header claims a datagram to be fragmented by IP (UFO).
    #[inline]
    pub fn is_ufo(&self) -> bool {
        self.gso_type & !(GSO_TUNNEL | GSO_ECN) == GSO_UDP
    }

    /// Whether the sender, who negotiated `hands`, may claim what the header does: UFO and
    /// tunnels are not for everybody.
    ///
    /// # Errors
    /// The [`HeaderFault`] for which the packet is to be dropped.
    #[inline]
    pub fn check_negotiated(&self, hands: Caps) -> Result<(), HeaderFault> {
        // Of the types in use, UFO alone has the second bit.
        if self.gso_type & (GSO_TUNNEL | 2) == 0 {
            return Ok(());
        }
        match (self.is_tunnel(), self.is_ufo()) {
            (true, _) if !hands.udp_tunnel() => Err(HeaderFault::GsoTunnelRefused),
            (_, true) if !hands.ufo() => Err(HeaderFault::GsoUfoRefused),
            _ => Ok(()),
        }
    }

    /// Where the partial checksum starts, if there is one.
    pub(crate) fn partial_start(&self) -> Option<usize> {
        (self.flags & F_NEEDS_CSUM != 0).then_some(usize::from(self.csum_start))
    }

    /// Whether the segments of a super-packet in a tunnel want an outer UDP checksum.
    pub(crate) fn wants_tunnel_csum(&self) -> bool {
        self.flags & F_UDP_TUNNEL_CSUM != 0
    }

    /// Whether the header describes a tunnel and wants its checksum, whatever its type is.
    fn names_tunnel_csum(&self) -> bool {
        let described = self.outer_th_offset != 0 || self.inner_nh_offset != 0;
        described && self.wants_tunnel_csum()
    }

    /// What the header says of a tunnel, as far as it can be judged without the packet: the
    /// outer network layer.
    pub(crate) fn tunnel_net(&self) -> Result<Net, HeaderFault> {
        let net = match self.gso_type & GSO_TUNNEL {
            GSO_TUNNEL_IPV4 => Net::V4,
            GSO_TUNNEL_IPV6 => Net::V6,
            _ => return Err(HeaderFault::TunnelBothFamilies),
        };
        match self.gso_type & !(GSO_TUNNEL | GSO_ECN) {
            GSO_NONE | GSO_UDP => Err(HeaderFault::TunnelWithoutGso),
            _ if self.flags & F_NEEDS_CSUM == 0 => Err(HeaderFault::TunnelWithoutCsum),
            _ if self.flags & F_DATA_VALID != 0 => Err(HeaderFault::TunnelDataValid),
            _ => Ok(net),
        }
    }

    /// The inner network layer, as far as the header says it.
    pub(crate) fn inner_net(&self) -> Net {
        match self.gso_type & !(GSO_TUNNEL | GSO_ECN) {
            GSO_TCPV6 => Net::V6,
            _ => Net::V4,
        }
    }

    /// The header for a port of these capabilities: [`VnetHeader::of`], and for one
    /// that wants it how many segments a TCP super-packet has (RSC_INFO; virtio 1.3
    /// section 5.1.6.4.1: each must say so; the count stands in `csum_start`,
    /// duplicate ACKs in `csum_offset`, and a driver that negotiated RSC_EXT reads
    /// neither as a place).
    #[inline]
    pub fn for_port(packet: &Packet, takes: Caps) -> Self {
        let mut header = Self::of(packet);
        let gso = packet.pending.gso.filter(|_| takes.rsc_info());
        if let Some(gso) = gso.filter(|gso| matches!(gso.kind, GsoKind::Tcp4 | GsoKind::Tcp6)) {
            let (segments, dup_acks) = match packet.pending.lossy {
                Some(lossy) => (lossy.segments, lossy.dup_acks),
                None => (segments(packet.payload_len, gso.size) as u16, 0),
            };
            header.flags |= F_RSC_INFO;
            header.csum_start = segments;
            header.csum_offset = dup_acks;
        }
        header
    }

    /// The header that tells a receiver what is pending on `packet`.
    /// `num_buffers` is 1; a port that spreads a packet corrects it.
    #[inline]
    pub fn of(packet: &Packet) -> Self {
        let mut header = Self {
            num_buffers: 1,
            ..Self::default()
        };
        let tags_len = packet.tags.len_bytes() as u16;
        match packet.pending.csum {
            Csum::Partial { start, offset } => {
                header.flags = F_NEEDS_CSUM;
                header.csum_start = start + tags_len;
                header.csum_offset = offset;
            }
            Csum::Verified => header.flags = F_DATA_VALID,
            Csum::Unverified => {}
        }
        if let Some(gso) = packet.pending.gso {
            header.gso_size = gso.size;
            header.hdr_len = packet.header_len() as u16 + tags_len;
            header.gso_type = match gso.kind {
                GsoKind::Tcp4 => GSO_TCPV4,
                GsoKind::Tcp6 => GSO_TCPV6,
                GsoKind::Udp => GSO_UDP_L4,
                GsoKind::Ufo => GSO_UDP,
            };
            if superpacket::has_cwr(packet) {
                header.gso_type |= GSO_ECN;
            }
            if packet.tunnel.is_some() {
                header.describe_tunnel(packet);
            }
        }
        header
    }

    /// The outer headers of a super-packet in a UDP tunnel.
    fn describe_tunnel(&mut self, packet: &Packet) {
        let tunnel = packet.tunnel;
        let tags_len = packet.tags.len_bytes() as u16;
        self.gso_type |= match tunnel.net {
            Net::V6 => GSO_TUNNEL_IPV6,
            _ => GSO_TUNNEL_IPV4,
        };
        if tunnel.csum {
            self.flags |= F_UDP_TUNNEL_CSUM;
        }
        self.outer_th_offset = tunnel.l4_offset() as u16 + tags_len;
        self.inner_nh_offset = u16::from(tunnel.len) + tags_len;
    }
}

/// Turns a header from outside into the packet's pending work, after checking
/// every field it uses against the bytes that are really there.
///
/// `total_len` is the length of the packet with its VLAN tags, in bytes.
#[inline]
pub(crate) fn translate(
    packet: &mut Packet,
    header: &VnetHeader,
    trust: Trust,
    total_len: usize,
) -> Result<(), HeaderFault> {
    // Linux drivers/net/tun.c tun_get_user refuses it for every type.
    if usize::from(header.hdr_len) > total_len {
        return Err(HeaderFault::HdrLenBeyondPacket);
    }
    packet.pending = Pending::NOTHING;
    if header.flags & F_NEEDS_CSUM != 0 {
        partial_csum(packet, header, total_len)?;
    } else if header.flags & F_DATA_VALID != 0 && trust == Trust::Kernel {
        packet.pending.csum = Csum::Verified;
        // Of a tunnel, the outermost checksum; both with this flag (virtio 1.4 section 5.1.6.4).
        packet.tunnel.verified = packet.tunnel.is_some() && header.wants_tunnel_csum();
    }
    if header.is_gso() {
        packet.pending.gso = segmentation(packet, header)?;
    }
    Ok(())
}

/// Checks the place of a partial checksum and keeps its field in the private header.
#[inline(always)]
fn partial_csum(
    packet: &mut Packet,
    header: &VnetHeader,
    total_len: usize,
) -> Result<(), HeaderFault> {
    let start = usize::from(header.csum_start);
    let offset = usize::from(header.csum_offset);
    if start + offset + 2 > total_len {
        return Err(HeaderFault::CsumBeyondPacket);
    }
    let layers = &packet.layers;
    if layers.fragment {
        return Err(HeaderFault::CsumOnFragment);
    }
    let network_end = packet.l4_offset();
    // Whatever the network layer is, it has at least the 20 bytes that Linux wants before a checksum.
    let earliest = network_end.max(usize::from(layers.l2_len) + NETWORK_MIN);
    let start = start
        .checked_sub(packet.tags.len_bytes())
        .filter(|start| *start >= earliest)
        .ok_or(HeaderFault::CsumBeforeTransport)?;
    let field = match layers.transport {
        Transport::Tcp => Some(usize::from(TCP_CSUM)),
        Transport::Udp => Some(usize::from(UDP_CSUM)),
        Transport::None => None,
    };
    // A checksum deeper inside (an inner packet's) is legal and left alone.
    if start == network_end && field.is_some_and(|field| field != offset) {
        return Err(HeaderFault::CsumFieldWrong);
    }
    let header_len = network_end + usize::from(layers.l4_len);
    keep_private(packet, header_len, start + offset + 2)?;
    packet.pending.csum = Csum::Partial {
        start: start as u16,
        offset: offset as u16,
    };
    Ok(())
}

/// Makes the private header at least `len` bytes long, counted from the packet's start.
#[inline(always)]
fn keep_private(packet: &mut Packet, header_len: usize, len: usize) -> Result<(), HeaderFault> {
    if len <= header_len {
        return Ok(());
    }
    if packet.start() + len > HEADER_ROOM + usize::from(packet.tunnel.len) {
        return Err(HeaderFault::CsumFieldTooDeep);
    }
    let more = (len - header_len) as u32;
    if more > packet.payload_len {
        // Behind the IP length: padding that was cut off.
        return Err(HeaderFault::CsumBeyondPacket);
    }
    packet.layers.l4_len += more as u8;
    packet.payload_len -= more;
    Ok(())
}

/// Checks a claimed super-packet. `None`: it fits into one segment, which Linux
/// too takes as an ordinary packet (`skb_gso_segment` is never reached).
fn segmentation(packet: &mut Packet, header: &VnetHeader) -> Result<Option<Gso>, HeaderFault> {
    match (header.is_tunnel(), packet.tunnel.is_some()) {
        (true, false) => return Err(HeaderFault::GsoTunnelRefused),
        (false, _) if header.names_tunnel_csum() => {
            return Err(HeaderFault::TunnelCsumWithoutTunnel);
        }
        _ => {}
    }
    let ecn = header.gso_type & GSO_ECN != 0;
    let layers = packet.layers;
    let (kind, fits) = match header.gso_type & !(GSO_ECN | GSO_TUNNEL) {
        GSO_TCPV4 => (GsoKind::Tcp4, layers.net == Net::V4),
        GSO_TCPV6 => (GsoKind::Tcp6, layers.net == Net::V6),
        GSO_UDP_L4 => (GsoKind::Udp, layers.net != Net::None),
        GSO_UDP => (GsoKind::Ufo, layers.net != Net::None),
        _ => return Err(HeaderFault::GsoTypeUnknown),
    };
    let tcp = matches!(kind, GsoKind::Tcp4 | GsoKind::Tcp6);
    if ecn && !tcp {
        return Err(HeaderFault::GsoEcnNotTcp);
    }
    match header.gso_size {
        0 => return Err(HeaderFault::GsoSizeZero),
        GSO_BY_FRAGS => return Err(HeaderFault::GsoSizeReserved),
        _ => {}
    }
    let transport = if tcp { Transport::Tcp } else { Transport::Udp };
    if !fits || layers.transport != transport {
        return Err(HeaderFault::GsoProtocolMismatch);
    }
    if packet.l3_total_len() > superpacket::L3_TOTAL_MAX {
        return Err(HeaderFault::GsoTooLong);
    }
    let l4_start = packet.l4_offset() as u16;
    match packet.pending.csum {
        Csum::Partial { start, .. } if start == l4_start => {}
        Csum::Partial { .. } => return Err(HeaderFault::CsumFieldWrong),
        _ if !tcp => return Err(HeaderFault::GsoWithoutCsum),
        // Linux computes the pseudo-header sum itself (tcp4_gso_segment).
        _ => {}
    }
    if kind == GsoKind::Ufo {
        fragmentation(packet, header)?;
    }
    let size = match tcp {
        true => header.gso_size.max(TCP_SEGMENT_MIN),
        false => header.gso_size,
    };
    let payload_len = packet.payload_len as usize;
    if kind == GsoKind::Udp && payload_len > usize::from(size) * UDP_SEGMENTS_MAX {
        return Err(HeaderFault::GsoTooManySegments);
    }
    if tcp && superpacket::tcp_flags(packet) & (superpacket::SYN | superpacket::RST) != 0 {
        return Err(HeaderFault::GsoOnSynOrRst);
    }
    let gso = Gso {
        kind,
        size,
        cwr: Cwr::FirstOnly,
        fixed_id: false,
    };
    if gso.segments(packet.payload_len) <= 1 {
        // An ordinary packet after all, whose length field was not relied on.
        superpacket::settle_lengths(packet);
        if packet.pending.csum != Csum::Unverified {
            superpacket::settle_partial_csum(packet);
        }
        superpacket::settle_outer(packet, OuterCsum::Complete);
        return Ok(None);
    }
    superpacket::settle_header(packet);
    Ok(Some(gso))
}

/// Whether a datagram can be fragmented as the header says.
fn fragmentation(packet: &Packet, header: &VnetHeader) -> Result<(), HeaderFault> {
    if packet.layers.extended {
        return Err(HeaderFault::GsoUfoRefused);
    }
    match header.gso_size.is_multiple_of(8) {
        true => Ok(()),
        false => Err(HeaderFault::GsoUfoSize),
    }
}

/// Pseudo-header sum of the packet's transport, over `l4_total` bytes.
#[inline]
pub(crate) fn pseudo_header(packet: &Packet, l4_total: u32) -> Sum {
    let protocol = packet.layers.protocol;
    match packet.layers.net {
        Net::V6 => pseudo_v6(
            packet.array(L3_AT + 8),
            packet.array(L3_AT + 24),
            protocol,
            l4_total,
        ),
        _ => pseudo_v4(
            packet.array(L3_AT + 12),
            packet.array(L3_AT + 16),
            protocol,
            l4_total,
        ),
    }
}
