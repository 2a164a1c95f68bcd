//! The rule set: one table per personality, one line per header field.
//!
//! A personality says which fields of the held packet and the arriving one must
//! be equal, and what it is called when they are not. The fast path compares
//! under the union of the fields' masks, made once from the same table; only
//! when that fails are the lines asked one by one. So the two cannot disagree.

use super::table::Flow;
use crate::packet::{HEADER_ROOM, L3_AT, Net, Packet};
use crate::reasons;
use crate::superpacket::{CWR, FIN, PSH};

reasons! {
    /// Why did an aggregate, or a single packet held to become one, end?
    pub enum End in "coalesce" {
        /// Nothing more was ready to be received.
        BurstEnd = "burst_end",
        /// The next packet would exceed the largest network packet.
        SizeLimit = "size_limit",
        /// A segment shorter than the first: it ends its train.
        ShortSegment = "short_segment",
        /// The next packet's payload is larger than the first's.
        LargerSegment = "larger_segment",
        /// PSH: the sender's write ends here.
        Push = "push",
        /// FIN: the stream ends here.
        Fin = "fin",
        /// The next packet of the flow leaves a hole in the sequence.
        SequenceGap = "sequence_gap",
        /// The next packet of the flow repeats or overlaps what was held.
        SequenceOld = "sequence_old",
        /// The acknowledgement number changed.
        AckChanged = "ack_changed",
        /// The advertised window changed.
        WindowChanged = "window_changed",
        /// A TCP flag other than PSH and FIN changed, or a reserved bit.
        FlagsChanged = "flags_changed",
        /// The TCP header length changed.
        OptionsLengthChanged = "options_length_changed",
        /// A TCP option byte changed, such as a timestamp.
        OptionsChanged = "options_changed",
        /// A timestamp older than the one before it.
        TimestampOld = "timestamp_old",
        /// The urgent pointer changed.
        UrgentPointerChanged = "urgent_pointer_changed",
        /// The IPv6 flow label changed.
        FlowLabelChanged = "flow_label_changed",
        /// Time to live or hop limit changed.
        TtlChanged = "ttl_changed",
        /// DSCP changed.
        DscpChanged = "dscp_changed",
        /// The ECN field changed, such as a congestion mark.
        EcnChanged = "ecn_changed",
        /// DF or another bit of the IPv4 flags word changed.
        IpFlagsChanged = "ip_flags_changed",
        /// The IPv4 ID neither counts up by one nor stays.
        IpIdIrregular = "ip_id_irregular",
        /// A packet of the flow without payload.
        PureAck = "pure_ack",
        /// SYN, RST or URG on a packet of the flow, or another flag that its personality never merges.
        Control = "control",
        /// A packet of the flow that its personality never merges: options, extension headers, marks.
        Exception = "exception",
        /// A datagram of the flow without payload.
        EmptyDatagram = "empty_datagram",
        /// As many datagrams as a receiver accepts in one.
        DatagramLimit = "datagram_limit",
        /// A packet of the flow that was already a super-packet, and could not join.
        SuperPacket = "super_packet",
        /// A packet of the flow with a wrong checksum, or one that could not be checked.
        BadChecksum = "bad_checksum",
        /// A packet of the same addresses that was refused before its ports were looked at.
        RefusedBelowTcp = "refused_below_tcp",
        /// A field of the tunnel's headers changed: outer time to live, DSCP, ECN or IPv4 flags,
        /// or whether the outer checksum is in use.
        TunnelHeaderChanged = "tunnel_header_changed",
        /// The outer IPv4 ID neither counts up by one nor stays.
        TunnelIdIrregular = "tunnel_id_irregular",
        /// Another flow needed the place: the oldest left.
        TableFull = "table_full",
        /// The forwarding table changed, or the ports.
        ForwardingChanged = "forwarding_changed",
        /// It had rested as long as its port's hold time allows.
        HoldTime = "hold_time",
        /// More rested than may: the oldest left before its hold time was over.
        HoldLimit = "hold_limit",
    }
}

reasons! {
    /// Why was a packet never a candidate for coalescing?
    pub enum Alone in "coalesce_alone" {
        /// Neither IPv4 nor IPv6, or a network header that is not one.
        NotIp = "not_ip",
        /// IP, but neither TCP nor UDP; or UDP towards a port whose personality merges none.
        NotTcp = "not_tcp",
        /// TCP that could not be parsed: a fragment, a length that lies, IPv6 extension headers
        /// that could not be followed.
        TcpUnreadable = "tcp_unreadable",
        /// UDP that could not be parsed: a fragment, or a length that lies.
        UdpUnreadable = "udp_unreadable",
        /// IPv4 options.
        IpOptions = "ip_options",
        /// IPv6 extension headers, towards a port whose personality merges none.
        Ipv6Extensions = "extension_headers",
        /// The IPv4 header checksum is wrong, or the negative zero that could not be recreated.
        IpChecksum = "ip_checksum",
        /// A reserved bit of the IPv4 flags.
        IpFlags = "ip_flags",
        /// The TCP checksum is wrong, or its bytes are not there.
        TcpChecksum = "tcp_checksum",
        /// The UDP checksum is wrong, or its bytes are not there.
        UdpChecksum = "udp_checksum",
        /// UDP without a checksum.
        UdpNoChecksum = "udp_no_checksum",
        /// The partial checksum is not the transport's own.
        ForeignCsum = "foreign_csum",
        /// Already a super-packet, and not one that can be made longer.
        AlreadyMerged = "already_merged",
        /// TCP without payload.
        PureAck = "pure_ack",
        /// UDP without payload.
        EmptyDatagram = "empty_datagram",
        /// SYN, RST or URG, or another flag that the out port's personality never merges.
        Control = "control",
        /// TCP options other than the usual timestamps, towards a port whose personality merges none.
        TcpOptions = "tcp_options",
        /// A congestion mark that merging would hide.
        CongestionMark = "congestion_mark",
        /// CWR under a policy that never merges it.
        Cwr = "cwr",
        /// In a tunnel whose super-packets the out port, or its personality, does not take.
        Tunnel = "tunnel",
        /// In a tunnel that could not be followed to TCP or UDP: another version or protocol, a
        /// fragment, lengths that do not agree, an outer checksum still to be computed.
        TunnelUnreadable = "tunnel_unreadable",
        /// The tunnel's own IPv4 header could not be recreated: a wrong checksum, the negative
        /// zero, or a reserved flag.
        TunnelHeader = "tunnel_header",
        /// The outer UDP checksum is wrong.
        TunnelChecksum = "tunnel_checksum",
        /// DF clear, for QEMU's rules.
        MayFragment = "may_fragment",
        /// It did not fit what was held, and by QEMU's rules begins nothing.
        AfterMismatch = "after_mismatch",
        /// PSH, FIN or a short last segment with nothing held before it: there is nothing to wait for.
        LastOfItsTrain = "last_of_its_train",
        /// Fewer payload bytes than a receiver allows as a segment size.
        TinyPayload = "tiny_payload",
    }
}

/// A header field, or a group that is compared and named together.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// MAC addresses and EtherType.
    Link,
    /// IP version and IPv4 header length, protocol, addresses, and all IPv6 extension headers.
    NetworkKey,
    /// The IPv6 flow label.
    FlowLabel,
    /// Source and destination port.
    Ports,
    /// Upper six bits of TOS or traffic class.
    Dscp,
    /// Lower two bits of TOS or traffic class.
    Ecn,
    /// IPv4 flags and fragment offset.
    IpFlags,
    /// Time to live or hop limit.
    Ttl,
    /// TCP acknowledgement number.
    Ack,
    /// TCP data offset.
    DataOffset,
    /// All TCP flags and reserved bits but PSH, FIN and CWR.
    Flags,
    /// CWR; not compared where [`Rules::cwr`] says otherwise.
    Cwr,
    /// TCP window.
    Window,
    /// TCP urgent pointer.
    UrgentPointer,
    /// All bytes of the TCP options.
    Options,
}

/// How the IPv4 ID must go on.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum IpIdRule {
    /// The second packet decides: the same ID means fixed for good, the next one
    /// incrementing (Linux 6.18 `include/net/gro.h` `inet_gro_flush`). DF plays no part.
    FixedOrIncrementing,
    /// Not looked at; the first is kept.
    Free,
}

/// Which payload sizes an aggregate may have.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Sizes {
    /// All equal; the last may be shorter.
    Equal,
    /// Any. The largest is the aggregate's segment size.
    Free,
}

/// When the arriving packet ends the aggregate it has just joined.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct EndsAfter {
    /// PSH on it.
    pub push: bool,
    /// FIN on it.
    pub fin: bool,
    /// Less payload than the first packet.
    pub shorter: bool,
}

/// What CWR does. The segmenter is told with each aggregate ([`crate::pending::Cwr`]).
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum CwrRule {
    /// Compared like any other flag: set on all packets of an aggregate, or on
    /// none (the AccECN rule of Linux 7.x).
    Equal,
    /// The first packet may have it, no other (RFC 3168; Linux up to 6.12).
    FirstOnly,
    /// A packet with it stays alone (Linux 6.18).
    Never,
}

/// What becomes of the values that moved from packet to packet.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Moving {
    /// None may move: all are compared.
    Nothing,
    /// Acknowledgement, window and timestamps: the last one's. Timestamps must not go back.
    LastWins,
}

/// What the aggregate's PSH says.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Push {
    /// Set if any packet had it.
    Or,
    /// The first packet's.
    First,
    /// The last packet's, with all its other flags.
    Last,
}

/// Which time to live, or hop limit, is kept.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Ttl {
    /// The first packet's.
    First,
    /// The least of all.
    Minimum,
}

/// Which TCP options an aggregate may have.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum TcpOptions {
    /// Any, compared byte by byte.
    Any,
    /// None, or NOP, NOP, timestamps (RFC 7323 appendix A).
    Timestamps,
    /// None.
    None,
}

/// Which congestion marks of the IP header keep a packet alone.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum MarksRefused {
    /// None of them.
    None,
    /// "Congestion experienced" (RFC 3168 section 5).
    Ce,
    /// Any value but zero.
    All,
}

/// What a pure ACK does to the held aggregate that it follows.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum AckFold {
    /// The aggregate takes its window, or its acknowledgement too; the packet is
    /// gone, and not counted as a segment.
    Values,
    /// The same, and it counts as a segment.
    Segment,
}

/// How UDP is merged.
#[derive(Copy, Clone, Debug)]
pub struct UdpRules {
    /// Fields that must be equal, and the name of a difference.
    pub equal: &'static [(Field, End)],
    /// The IPv4 ID.
    pub ip_id: IpIdRule,
    /// Datagrams without a checksum are merged too.
    pub without_checksum: bool,
    /// Most datagrams of an aggregate.
    pub datagrams_max: u16,
}

/// A personality: what it merges and when it stops.
#[derive(Copy, Clone, Debug)]
pub struct Rules {
    /// As in the configuration.
    pub name: &'static str,
    /// Whose behaviour it is.
    pub model: &'static str,
    /// Segmentation gives back what was merged, byte for byte. What is not
    /// lossless must reach the host that ends the connection, by one port only.
    pub lossless: bool,
    /// Fields that tell flows apart: a difference ends nothing.
    pub key: &'static [Field],
    /// Fields that must be equal to merge, and the name of a difference. Asked in this order.
    pub equal: &'static [(Field, End)],
    /// The IPv4 ID.
    pub ip_id: IpIdRule,
    /// Payload sizes.
    pub sizes: Sizes,
    /// CWR.
    pub cwr: CwrRule,
    /// TCP flags that keep a packet alone.
    pub flags_refused: u8,
    /// TCP flags without which a packet stays alone.
    pub flags_required: u8,
    /// TCP options.
    pub options: TcpOptions,
    /// IPv6 extension headers may be merged, if they are identical.
    pub ipv6_extensions: bool,
    /// IP congestion marks.
    pub marks_refused: MarksRefused,
    /// IPv4 packets that may be fragmented (DF clear) stay alone.
    pub df_required: bool,
    /// Acknowledgement, window, timestamps.
    pub moving: Moving,
    /// PSH of the aggregate.
    pub push: Push,
    /// Time to live of the aggregate.
    pub ttl: Ttl,
    /// What a pure ACK does to what is held; `None`: it ends it and goes behind it.
    pub pure_ack: fn(&Held<'_>, &Packet) -> Option<AckFold>,
    /// A packet that does not fit what was held begins anew.
    pub restarts: bool,
    /// What ends an aggregate after it was merged.
    pub ends_after: EndsAfter,
    /// Super-packets of a trusted sender are merged further.
    pub two_stage: bool,
    /// Largest network packet, header included, in bytes.
    pub l3_total_max: usize,
    /// UDP, if it is merged.
    pub udp: Option<UdpRules>,
}

/// A held aggregate, as a personality's own function sees it.
#[derive(Debug)]
pub struct Held<'a> {
    pub(crate) head: &'a Packet,
    pub(crate) flow: &'a Flow,
}

impl Rules {
    /// Whether comparing headers, sequence, ID and size is all there is to do.
    pub(crate) fn is_plain(&self) -> bool {
        let recreated = self.ip_id == IpIdRule::FixedOrIncrementing && self.sizes == Sizes::Equal;
        let udp = self
            .udp
            .is_none_or(|udp| udp.ip_id == self.ip_id && !udp.without_checksum);
        self.lossless && recreated && udp && self.cwr == CwrRule::Equal
    }

    /// The lines that apply to packets of that shape.
    pub(crate) fn lines(&self, shape: Shape) -> impl Iterator<Item = (Field, End)> + use<> {
        let lines = match (shape.is_udp(), &self.udp) {
            (false, _) => self.equal,
            (true, Some(udp)) => udp.equal,
            (true, None) => &[],
        };
        let cwr = self.cwr == CwrRule::Equal;
        let applies = move |(field, _): &(Field, End)| cwr || *field != Field::Cwr;
        lines.iter().copied().filter(applies)
    }
}

/// Where the headers of a held packet stand.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) net: Net,
    pub(crate) l3_len: u8,
    pub(crate) l4_len: u8,
}

impl Shape {
    #[inline(always)]
    pub(crate) fn of(packet: &Packet) -> Self {
        Self {
            net: packet.layers.net,
            l3_len: packet.layers.l3_len,
            l4_len: packet.layers.l4_len,
        }
    }

    /// No TCP header is so short; UDP's always is.
    #[inline(always)]
    pub(crate) fn is_udp(self) -> bool {
        self.l4_len < 20
    }
}

/// One bit per compared header bit.
pub(crate) type Mask = [u8; HEADER_ROOM];

impl Field {
    /// The bits of this field in a private header of that shape.
    pub(crate) fn mask(self, shape: Shape) -> Mask {
        let mut bytes = [0u8; HEADER_ROOM];
        let l3 = L3_AT;
        let l4 = l3 + usize::from(shape.l3_len);
        let end = (l4 + usize::from(shape.l4_len)).min(HEADER_ROOM);
        let v4 = shape.net == Net::V4;
        let mut set = |from: usize, to: usize, bits: u8| {
            if let Some(range) = bytes.get_mut(from..to) {
                range.fill(bits);
            }
        };
        match self {
            Field::Link => set(0, L3_AT, 0xff),
            Field::NetworkKey if v4 => {
                set(l3, l3 + 1, 0xff);
                set(l3 + 9, l3 + 10, 0xff);
                set(l3 + 12, l3 + 20, 0xff);
            }
            Field::NetworkKey => {
                set(l3, l3 + 1, 0xf0);
                set(l3 + 6, l3 + 7, 0xff);
                set(l3 + 8, l4, 0xff);
            }
            Field::FlowLabel if v4 => {}
            Field::FlowLabel => {
                set(l3 + 1, l3 + 2, 0x0f);
                set(l3 + 2, l3 + 4, 0xff);
            }
            Field::Ports => set(l4, l4 + 4, 0xff),
            Field::Dscp if v4 => set(l3 + 1, l3 + 2, 0xfc),
            Field::Dscp => {
                set(l3, l3 + 1, 0x0f);
                set(l3 + 1, l3 + 2, 0xc0);
            }
            Field::Ecn if v4 => set(l3 + 1, l3 + 2, 0x03),
            Field::Ecn => set(l3 + 1, l3 + 2, 0x30),
            Field::IpFlags if v4 => set(l3 + 6, l3 + 8, 0xff),
            Field::IpFlags => {}
            Field::Ttl if v4 => set(l3 + 8, l3 + 9, 0xff),
            Field::Ttl => set(l3 + 7, l3 + 8, 0xff),
            Field::Ack => set(l4 + 8, l4 + 12, 0xff),
            Field::DataOffset => set(l4 + 12, l4 + 13, 0xf0),
            Field::Flags => {
                set(l4 + 12, l4 + 13, 0x0f);
                set(l4 + 13, l4 + 14, !(PSH | FIN | CWR));
            }
            Field::Cwr => set(l4 + 13, l4 + 14, CWR),
            Field::Window => set(l4 + 14, l4 + 16, 0xff),
            Field::UrgentPointer => set(l4 + 18, l4 + 20, 0xff),
            Field::Options => set(l4 + 20, end, 0xff),
        }
        bytes
    }
}

/// Whether two private headers differ anywhere under the mask. Written as 16-byte
/// lanes, so that any compiler makes a handful of vector operations of it.
#[inline(always)]
pub(crate) fn differ(a: &[u8; HEADER_ROOM], b: &[u8; HEADER_ROOM], mask: &Mask) -> bool {
    differ_in::<0, HEADER_ROOM>(a, b, mask)
}

/// The same for a part of the header, in whole lanes.
#[expect(
    clippy::needless_range_loop,
    reason = "as iterators this compiles to a loop of half the speed"
)]
#[inline(always)]
pub(crate) fn differ_in<const FROM: usize, const TO: usize>(
    a: &[u8; HEADER_ROOM],
    b: &[u8; HEADER_ROOM],
    mask: &Mask,
) -> bool {
    let mut difference = [0u8; LANE];
    for lane in FROM / LANE..TO / LANE {
        for i in 0..LANE {
            let at = lane * LANE + i;
            difference[i] |= (a[at] ^ b[at]) & mask[at];
        }
    }
    u128::from_ne_bytes(difference) != 0
}

/// Bytes of a vector register every 64-bit machine has.
const LANE: usize = 16;

/// The masks of one shape under one personality.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub(crate) struct Masks {
    /// Key and equal fields together: no difference means mergeable headers.
    pub(crate) all: Mask,
    /// The key alone: no difference means the same flow.
    pub(crate) key: Mask,
    /// No difference under `all` means the same layers, no fragment, the same flags but PSH and FIN.
    pub(crate) conclusive: bool,
    /// The header goes on behind [`FIRST`].
    pub(crate) long: bool,
}

/// Few headers are longer: IPv6 and TCP with timestamps have 86 bytes.
pub(crate) const FIRST: usize = 96;

/// What must be compared for a packet's headers to need no parsing of their own.
const CONCLUSIVE: [Field; 5] = [
    Field::Link,
    Field::NetworkKey,
    Field::IpFlags,
    Field::DataOffset,
    Field::Flags,
];

impl Masks {
    pub(crate) fn new(rules: &Rules, shape: Shape) -> Self {
        let mut key = [0; HEADER_ROOM];
        for field in rules.key {
            merge(&mut key, &field.mask(shape));
        }
        let mut all = key;
        for (field, _) in rules.lines(shape) {
            merge(&mut all, &field.mask(shape));
        }
        let mut needed = [0; HEADER_ROOM];
        let udp = shape.is_udp();
        for field in CONCLUSIVE {
            match field {
                Field::DataOffset | Field::Flags if udp => {}
                field => merge(&mut needed, &field.mask(shape)),
            }
        }
        let conclusive = needed.iter().zip(&all).all(|(bits, all)| bits & !all == 0);
        Self {
            all,
            key,
            conclusive,
            long: all.iter().skip(FIRST).any(|bits| *bits != 0),
        }
    }
}

fn merge(onto: &mut Mask, mask: &Mask) {
    for (word, more) in onto.iter_mut().zip(mask) {
        *word |= more;
    }
}
