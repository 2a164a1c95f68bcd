//! What the path does to packets from one port to another, and why: who segments,
//! who checksums, who coalesces.
//!
//! A pure function of what one port hands over and how the other is treated. It
//! asks [`plan`] and [`Policy::coalesces`], as the path does, with a sample packet
//! of each kind, so it cannot disagree with them; a test runs both.

use jumbo_engine::arena::Arena;
use jumbo_engine::checksum::Sum;
use jumbo_engine::complete::{Fault, Plan, plan};
use jumbo_engine::packet::{Frag, Link, Net, Packet};
use jumbo_engine::pending::Caps;
use jumbo_engine::segment::SegmentCsum;
use jumbo_engine::tunnel::PORT_VXLAN;
use jumbo_engine::vnet::{Trust, VnetHeader};

use crate::topology::{Coalesce, Policy, TunnelMode};

/// Kinds of packets that are treated alike between two ports.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A TCP super-packet over IPv4.
    Tcp4Super,
    /// The same with CWR on its first segment.
    Tcp4SuperCwr,
    /// A TCP super-packet over IPv6.
    Tcp6Super,
    /// The same with CWR on its first segment.
    Tcp6SuperCwr,
    /// A UDP super-packet.
    UdpSuper,
    /// A TCP super-packet in VXLAN or Geneve without an outer checksum.
    TunnelSuper,
    /// The same with an outer checksum.
    TunnelCsumSuper,
    /// An ordinary packet whose checksum is partial.
    PartialChecksum,
    /// An ordinary packet whose checksum is there.
    Finished,
    /// Ordinary TCP packets over IPv4 of one flow, one after the other, checksums there.
    Tcp4Train,
    /// The same over IPv6.
    Tcp6Train,
    /// Datagrams of one flow and size, one after the other, checksums there.
    UdpTrain,
    /// TCP packets of one flow in VXLAN or Geneve, one after the other, checksums there.
    TunnelTrain,
    /// An ordinary packet larger than the out port's MTU.
    OverMtu,
    /// A super-packet whose segments are larger than the out port's MTU.
    SegmentsOverMtu,
}

impl Kind {
    /// Every kind, in the order of the table.
    pub const ALL: [Self; 15] = [
        Self::Tcp4Super,
        Self::Tcp4SuperCwr,
        Self::Tcp6Super,
        Self::Tcp6SuperCwr,
        Self::UdpSuper,
        Self::TunnelSuper,
        Self::TunnelCsumSuper,
        Self::PartialChecksum,
        Self::Finished,
        Self::Tcp4Train,
        Self::Tcp6Train,
        Self::UdpTrain,
        Self::TunnelTrain,
        Self::OverMtu,
        Self::SegmentsOverMtu,
    ];

    /// A stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp4Super => "tcp4_super",
            Self::Tcp4SuperCwr => "tcp4_super_cwr",
            Self::Tcp6Super => "tcp6_super",
            Self::Tcp6SuperCwr => "tcp6_super_cwr",
            Self::UdpSuper => "udp_super",
            Self::TunnelSuper => "tunnel_super",
            Self::TunnelCsumSuper => "tunnel_csum_super",
            Self::PartialChecksum => "partial_checksum",
            Self::Finished => "finished",
            Self::Tcp4Train => "tcp4_train",
            Self::Tcp6Train => "tcp6_train",
            Self::UdpTrain => "udp_train",
            Self::TunnelTrain => "tunnel_train",
            Self::OverMtu => "over_mtu",
            Self::SegmentsOverMtu => "segments_over_mtu",
        }
    }

    const fn net(self) -> Net {
        match self {
            Self::Tcp6Super | Self::Tcp6SuperCwr | Self::Tcp6Train => Net::V6,
            _ => Net::V4,
        }
    }

    /// Whether a port with these capabilities hands such packets over.
    const fn is_handed(self, hands: Caps) -> bool {
        match self {
            Self::Tcp4Super => hands.tso4(),
            Self::Tcp4SuperCwr => hands.tso4() && hands.tso_ecn(),
            Self::Tcp6Super => hands.tso6(),
            Self::Tcp6SuperCwr => hands.tso6() && hands.tso_ecn(),
            Self::UdpSuper => hands.uso(),
            Self::TunnelSuper => hands.udp_tunnel(),
            Self::TunnelCsumSuper => hands.udp_tunnel_csum(),
            Self::PartialChecksum => hands.csum(),
            Self::SegmentsOverMtu => hands.tso4() || hands.tso6() || hands.uso(),
            Self::Finished | Self::OverMtu => true,
            Self::Tcp4Train | Self::Tcp6Train | Self::UdpTrain | Self::TunnelTrain => true,
        }
    }

    /// Whether it is in a tunnel.
    const fn is_in_tunnel(self) -> bool {
        matches!(
            self,
            Self::TunnelSuper | Self::TunnelCsumSuper | Self::TunnelTrain
        )
    }

    /// Whether it stands for several packets on a wire when it is handed over.
    const fn is_super(self) -> bool {
        match self {
            Self::Tcp4Super | Self::Tcp4SuperCwr | Self::Tcp6Super | Self::Tcp6SuperCwr => true,
            Self::UdpSuper | Self::SegmentsOverMtu => true,
            Self::TunnelSuper | Self::TunnelCsumSuper => true,
            Self::PartialChecksum | Self::Finished | Self::OverMtu => false,
            Self::Tcp4Train | Self::Tcp6Train | Self::UdpTrain | Self::TunnelTrain => false,
        }
    }
}

/// What becomes of such a packet.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// There are none: the sender does the work itself.
    NotHanded,
    /// It leaves as the super-packet it is.
    Whole,
    /// It is segmented here.
    Segmented,
    /// Its checksum is finished here.
    ChecksumFinished,
    /// It leaves with its checksum still partial.
    LeftPartial,
    /// It leaves as it came.
    AsItCame,
    /// It is merged with its neighbours into a super-packet.
    Coalesced,
    /// It is dropped.
    Dropped(Fault),
}

impl Decision {
    /// A stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotHanded => "not_handed",
            Self::Whole => "whole",
            Self::Segmented => "segmented",
            Self::ChecksumFinished => "checksum_finished",
            Self::LeftPartial => "left_partial",
            Self::AsItCame => "as_it_came",
            Self::Coalesced => "coalesced",
            Self::Dropped(_) => "dropped",
        }
    }
}

/// Who does a piece of work.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// What is behind the port the packet comes from.
    Sender,
    /// This switch.
    Switch,
    /// What is behind the port the packet leaves by; it may find that the work
    /// need never be done.
    Receiver,
    /// There is none to be done, or nobody does it.
    Nobody,
}

impl Who {
    /// A stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sender => "sender",
            Self::Switch => "switch",
            Self::Receiver => "receiver",
            Self::Nobody => "nobody",
        }
    }
}

/// Which port's lack decides.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Side {
    /// The port the packet comes from.
    From,
    /// The port it leaves by.
    To,
}

/// What becomes of one kind of packet, and why.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The kind.
    pub kind: Kind,
    /// What becomes of it.
    pub decision: Decision,
    /// Who segments.
    pub segments: Who,
    /// Who computes the transport checksum.
    pub checksums: Who,
    /// Who merges.
    pub coalesces: Who,
    /// The capability whose absence decided, as `jumbo status` calls it, without
    /// its direction, and which port lacks it. `None`: nothing is missing.
    pub lacks: Option<(Side, &'static str)>,
    /// Coalescing is switched off for the out port.
    pub coalesce_off: bool,
    /// Nothing is merged in tunnels.
    pub tunnels_unmerged: bool,
}

/// The port packets come from.
#[derive(Copy, Clone, Debug)]
pub struct Source {
    /// Pending work it may hand over.
    pub hands: Caps,
    /// Largest network packet it may hand over, bytes.
    pub mtu: usize,
}

/// What the path does to packets from `source` that leave by a port of policy `to`.
/// Kinds that are over the MTU are left out where `source` has none, and tunnels where
/// they do not fit into it.
pub fn explain(source: Source, to: &Policy, tunnels: TunnelMode) -> Vec<Row> {
    let mtu = source.mtu.min(to.mtu);
    let mut samples = Samples::new(mtu);
    Kind::ALL
        .into_iter()
        .filter(|kind| !is_over(*kind) || (source.mtu > to.mtu && kind.is_handed(source.hands)))
        .filter(|kind| !kind.is_in_tunnel() || mtu >= TUNNEL_MTU_MIN)
        .map(|kind| row(kind, source.hands, to, tunnels, &mut samples))
        .collect()
}

fn is_over(kind: Kind) -> bool {
    matches!(kind, Kind::OverMtu | Kind::SegmentsOverMtu)
}

fn row(kind: Kind, hands: Caps, to: &Policy, tunnels: TunnelMode, samples: &mut Samples) -> Row {
    let mut row = Row {
        kind,
        decision: Decision::NotHanded,
        segments: Who::Nobody,
        checksums: Who::Sender,
        coalesces: Who::Nobody,
        lacks: None,
        coalesce_off: false,
        tunnels_unmerged: false,
    };
    if !kind.is_handed(hands) {
        if kind.is_super() {
            row.segments = Who::Sender;
            // Its segments are ordinary packets, which may have a partial checksum.
            let partial = self::row(Kind::PartialChecksum, hands, to, tunnels, samples);
            row.checksums = partial.checksums;
        }
        row.lacks = lacking(kind, hands).map(|name| (Side::From, name));
        return row;
    }
    samples.with(kind, to.mtu, |packet| match kind {
        Kind::Tcp4Train | Kind::Tcp6Train | Kind::UdpTrain | Kind::TunnelTrain => {
            train(&mut row, packet, to, tunnels);
        }
        _ => single(&mut row, packet, to),
    });
    row
}

/// A packet that is not merged: what [`plan`] says.
fn single(row: &mut Row, packet: &Packet, to: &Policy) {
    let is_partial = packet.pending().csum != jumbo_engine::pending::Csum::Unverified;
    let is_super = packet.pending().gso.is_some();
    let missing = lacking(row.kind, to.takes).map(|name| (Side::To, name));
    match plan(packet, to.takes, to.mtu) {
        Plan::AsIs if is_super => {
            row.decision = Decision::Whole;
            row.segments = Who::Receiver;
            row.checksums = Who::Receiver;
        }
        Plan::AsIs if is_partial => {
            row.decision = Decision::LeftPartial;
            row.checksums = Who::Receiver;
        }
        Plan::AsIs => row.decision = Decision::AsItCame,
        Plan::Checksum => {
            row.decision = Decision::ChecksumFinished;
            row.checksums = Who::Switch;
            row.lacks = missing;
        }
        Plan::Segment(_, csum) => {
            row.decision = Decision::Segmented;
            row.segments = Who::Switch;
            row.checksums = match csum {
                SegmentCsum::Partial => Who::Receiver,
                SegmentCsum::Complete => Who::Switch,
            };
            row.lacks = missing;
        }
        Plan::Drop(fault) => {
            row.decision = Decision::Dropped(fault);
            row.checksums = Who::Nobody;
        }
    }
}

/// Packets that could be merged: are aggregates made for this port?
fn train(row: &mut Row, packet: &Packet, to: &Policy, tunnels: TunnelMode) {
    let tunnel_is_merged = tunnels.merged(to.takes).take(packet.tunnel());
    if to.coalesces(packet).is_some() && tunnel_is_merged && merges_in(packet, to.coalesce.kind) {
        row.decision = Decision::Coalesced;
        row.coalesces = Who::Switch;
        row.segments = Who::Receiver;
        row.checksums = Who::Receiver;
        return;
    }
    single(row, packet, to);
    row.coalesce_off = match row.kind {
        Kind::UdpTrain => !to.coalesce.kind.merges_udp(),
        Kind::TunnelTrain => !merges_in(packet, to.coalesce.kind),
        _ => to.coalesce.kind == Coalesce::Off,
    };
    row.tunnels_unmerged = row.kind.is_in_tunnel() && tunnels != TunnelMode::Merge;
    if !row.coalesce_off && !row.tunnels_unmerged {
        row.lacks = lacking(row.kind, to.takes).map(|name| (Side::To, name));
    }
}

/// Whether this kind of coalescing merges such packets: in tunnels only what can be undone.
fn merges_in(packet: &Packet, coalesce: Coalesce) -> bool {
    coalesce == Coalesce::Gro || !packet.is_in_tunnel()
}

/// The first capability that a kind needs and the set has not.
fn lacking(kind: Kind, caps: Caps) -> Option<&'static str> {
    let needs = |on: bool, name| (!on).then_some(name);
    match kind {
        Kind::Tcp4Super | Kind::Tcp4Train => needs(caps.tso4(), "tso4"),
        Kind::Tcp6Super | Kind::Tcp6Train => needs(caps.tso6(), "tso6"),
        Kind::Tcp4SuperCwr => needs(caps.tso4(), "tso4").or(needs(caps.tso_ecn(), "tso_ecn")),
        Kind::Tcp6SuperCwr => needs(caps.tso6(), "tso6").or(needs(caps.tso_ecn(), "tso_ecn")),
        Kind::UdpSuper | Kind::UdpTrain => needs(caps.uso(), "uso"),
        Kind::TunnelSuper | Kind::TunnelTrain => {
            needs(caps.tso4(), "tso4").or(needs(caps.udp_tunnel(), "udp_tunnel"))
        }
        Kind::TunnelCsumSuper => {
            needs(caps.tso4(), "tso4").or(needs(caps.udp_tunnel_csum(), "udp_tunnel_csum"))
        }
        Kind::PartialChecksum => needs(caps.csum(), "csum"),
        Kind::Finished | Kind::OverMtu | Kind::SegmentsOverMtu => None,
    }
}

impl Row {
    /// The capability whose absence decided, as `jumbo status` calls it: seen from the
    /// switch, what the sender does not hand over is not received.
    pub fn missing(&self) -> Option<(Side, String)> {
        self.lacks.map(|(side, name)| match side {
            Side::From => (side, format!("rx_{name}")),
            Side::To => (side, format!("tx_{name}")),
        })
    }

    /// Why, in one sentence, with the ports' names. `because` is why the capability of
    /// [`Row::missing`] is not there, where that is known.
    pub fn reason(&self, from: &str, to: &str, because: Option<&str>) -> String {
        let work = self.work(from, to);
        let Some((side, capability)) = self.missing() else {
            return match (self.coalesce_off, self.tunnels_unmerged) {
                (true, _) => format!("coalescing is off for {to}: {work}"),
                (_, true) => format!("nothing is merged in tunnels: {work}"),
                _ => work,
            };
        };
        let lack = match side {
            Side::From => format!("{from} does not hand them over"),
            Side::To if self.decision == Decision::AsItCame => {
                format!("{to} does not take them merged")
            }
            Side::To => format!("{to} does not take them"),
        };
        match because {
            Some(because) => format!("{lack} ({capability}: {because}): {work}"),
            None => format!("{lack} ({capability}): {work}"),
        }
    }

    /// What is done, and by whom.
    fn work(&self, from: &str, to: &str) -> String {
        match (self.decision, self.checksums) {
            (Decision::NotHanded, _) if self.kind.is_super() => {
                format!("whatever is behind {from} segments by itself")
            }
            (Decision::NotHanded, _) => format!("whatever is behind {from} finishes them"),
            (Decision::Whole, _) => {
                format!("{from} hands it over whole and {to} takes it whole, checksum partial")
            }
            (Decision::Segmented, Who::Receiver) => {
                format!("cut here, the checksum of each segment left to {to}")
            }
            (Decision::Segmented, _) => {
                "cut here, the checksum of each segment computed here".to_owned()
            }
            (Decision::ChecksumFinished, _) => "the checksum is computed here".to_owned(),
            (Decision::LeftPartial, _) => {
                format!("{to} takes partial checksums: nothing is computed here")
            }
            (Decision::AsItCame, _) if self.kind == Kind::Finished => {
                "nothing is left to do".to_owned()
            }
            (Decision::AsItCame, _) => "each leaves as it came".to_owned(),
            (Decision::Coalesced, _) => {
                format!("checksums are verified here, and {to} takes the aggregate whole")
            }
            (Decision::Dropped(Fault::SegmentOverMtu), _) => {
                format!("its segments are larger than the MTU of {to} and are never cut smaller")
            }
            (Decision::Dropped(_), _) => {
                format!("larger than the MTU of {to}, and a switch does not fragment")
            }
        }
    }
}

/// Least size of a sample's segments: IPv6, TCP, and the least payload of a segment.
const SEGMENT_L3_LEN_MIN: usize = 68;
/// Most: two fit into one super-packet.
const SEGMENT_L3_LEN_MAX: usize = 1500;

/// Headers of a tunnel in a sample: IPv4, UDP, VXLAN and the inner Ethernet header.
const TUNNEL_LEN: usize = 20 + 8 + 8 + ETHERNET_LEN;
/// Least MTU for which tunnels are explained: that of IPv4 inside of it.
const TUNNEL_MTU_MIN: usize = TUNNEL_LEN + SEGMENT_L3_LEN_MIN;

const ETHERNET_LEN: usize = 14;
const TCP_LEN: usize = 20;
const UDP_LEN: usize = 8;

/// Makes sample packets.
struct Samples {
    arena: Arena,
    segment_l3_len: usize,
}

impl Samples {
    /// Of packets that are small enough for `mtu`.
    fn new(mtu: usize) -> Self {
        let mut arena = Arena::new(1, 4);
        arena.follow_tunnels(true);
        Self {
            arena,
            segment_l3_len: mtu.clamp(SEGMENT_L3_LEN_MIN, SEGMENT_L3_LEN_MAX),
        }
    }

    /// Shows a sample of that kind.
    fn with(&mut self, kind: Kind, to_mtu: usize, look: impl FnOnce(&Packet)) {
        let segment_l3_len = match is_over(kind) {
            true => to_mtu + 1,
            false => self.segment_l3_len,
        };
        let (head, vnet, total_len) = match kind.is_in_tunnel() {
            true => tunnelled(kind, segment_l3_len),
            false => sample(kind, segment_l3_len),
        };
        let body = [Frag::new(0, total_len as u32)];
        let vnet = Some((&vnet, Trust::Kernel));
        // Refused only where no such packet can be: MTUs near 64 KB. A test admits every kind.
        if let Ok(admitted) = self.arena.admit(Link::Ethernet, &head, &body, vnet) {
            look(self.arena.packet(admitted.id));
            self.arena.release(admitted.id);
        }
    }
}

/// Headers of a sample, what its virtio header says, and its length. The payload is
/// never looked at.
fn sample(kind: Kind, segment_l3_len: usize) -> (Vec<u8>, VnetHeader, usize) {
    let (l3_len, udp) = match (kind.net(), kind) {
        (Net::V6, _) => (40, false),
        (_, kind) => (20, matches!(kind, Kind::UdpSuper | Kind::UdpTrain)),
    };
    let l4_len = if udp { UDP_LEN } else { TCP_LEN };
    let size = segment_l3_len.saturating_sub(l3_len + l4_len);
    // One byte more than a segment is a super-packet of two.
    let payload_len = size + usize::from(kind.is_super());
    let total_len = ETHERNET_LEN + l3_len + l4_len + payload_len;
    let cwr = matches!(kind, Kind::Tcp4SuperCwr | Kind::Tcp6SuperCwr);
    let mut head = headers(l3_len, l4_len, payload_len, cwr);
    head.resize(total_len.max(head.len()), 0);
    let is_partial = kind.is_super() || kind == Kind::PartialChecksum;
    let mut vnet = VnetHeader::default();
    if is_partial {
        vnet.flags = NEEDS_CSUM;
        vnet.csum_start = (ETHERNET_LEN + l3_len) as u16;
        vnet.csum_offset = if udp { 6 } else { 16 };
    }
    if kind.is_super() {
        vnet.gso_type = gso_type(kind);
        vnet.gso_size = size as u16;
        vnet.hdr_len = (ETHERNET_LEN + l3_len + l4_len) as u16;
    }
    (head, vnet, total_len)
}

/// A sample in VXLAN over IPv4 (RFC 7348 section 5).
fn tunnelled(kind: Kind, segment_l3_len: usize) -> (Vec<u8>, VnetHeader, usize) {
    let inner_kind = match kind {
        Kind::TunnelTrain => Kind::Tcp4Train,
        _ => Kind::Tcp4Super,
    };
    let (inner, mut vnet, inner_len) = sample(inner_kind, segment_l3_len - TUNNEL_LEN);
    let with_csum = kind == Kind::TunnelCsumSuper;
    let inner_nh = (ETHERNET_LEN + TUNNEL_LEN) as u16;
    if kind.is_super() {
        vnet.flags |= if with_csum { TUNNEL_CSUM } else { 0 };
        vnet.gso_type |= TUNNEL_IPV4;
        vnet.csum_start += TUNNEL_LEN as u16;
        vnet.hdr_len += TUNNEL_LEN as u16;
        vnet.outer_th_offset = ETHERNET_LEN as u16 + 20;
        vnet.inner_nh_offset = inner_nh;
    }
    let mut head = headers(20, UDP_LEN, 8 + inner_len, false);
    let l4_at = ETHERNET_LEN + 20;
    head[l4_at + 2..l4_at + 4].copy_from_slice(&PORT_VXLAN.to_be_bytes());
    // Not looked at in a super-packet, but for whether it is there.
    head[l4_at + 6] = with_csum.into();
    head.extend([0x08, 0, 0, 0, 0, 0, 1, 0]);
    head.extend(inner);
    (head, vnet, TUNNEL_LEN + inner_len)
}

/// VIRTIO_NET_HDR_F_UDP_TUNNEL_CSUM and VIRTIO_NET_HDR_GSO_UDP_TUNNEL_IPV4 (virtio 1.4 section 5.1.6).
const TUNNEL_CSUM: u8 = 8;
const TUNNEL_IPV4: u8 = 0x20;

/// VIRTIO_NET_HDR_F_NEEDS_CSUM (virtio 1.3 section 5.1.6).
const NEEDS_CSUM: u8 = 1;

/// VIRTIO_NET_HDR_GSO_* of a super-packet.
fn gso_type(kind: Kind) -> u8 {
    match kind {
        Kind::Tcp6Super => 4,
        Kind::Tcp4SuperCwr => 1 | 0x80,
        Kind::Tcp6SuperCwr => 4 | 0x80,
        Kind::UdpSuper => 5,
        _ => 1,
    }
}

/// Ethernet, IPv4 or IPv6 by the length, TCP or UDP by the length.
fn headers(l3_len: usize, l4_len: usize, payload_len: usize, cwr: bool) -> Vec<u8> {
    let protocol = if l4_len == UDP_LEN { 17 } else { 6 };
    let mut head = vec![0; ETHERNET_LEN + l3_len + l4_len];
    let l4_at = ETHERNET_LEN + l3_len;
    if l3_len == 20 {
        head[12..14].copy_from_slice(&[0x08, 0x00]);
        head[14] = 0x45;
        head[16..18].copy_from_slice(&((l3_len + l4_len + payload_len) as u16).to_be_bytes());
        head[20] = 0x40; // DF
        head[22..24].copy_from_slice(&[64, protocol]);
        let check = Sum::ZERO.add_bytes(&head[14..34]).checksum();
        head[24..26].copy_from_slice(&check.to_be_bytes());
    } else {
        head[12..14].copy_from_slice(&[0x86, 0xdd]);
        head[14] = 0x60;
        head[18..20].copy_from_slice(&((l4_len + payload_len) as u16).to_be_bytes());
        head[20..22].copy_from_slice(&[protocol, 64]);
    }
    if l4_len == UDP_LEN {
        head[l4_at + 4..l4_at + 6].copy_from_slice(&((l4_len + payload_len) as u16).to_be_bytes());
    } else {
        head[l4_at + 12] = 0x50;
        head[l4_at + 13] = if cwr { 0x90 } else { 0x10 }; // ACK, CWR
    }
    head
}
