//! The rule set: one table per personality, one line per header field.
//!
//! A personality says which fields of the held packet and the arriving one must
//! be equal, and what it is called when they are not. The fast path compares
//! under the union of the fields' masks, made once from the same table; only
//! when that fails are the lines asked one by one. So the two cannot disagree.

use crate::packet::{HEADER_ROOM, L3_AT, Net};
use crate::reasons;
use crate::superpacket::{FIN, PSH};

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
        /// The urgent pointer changed.
        UrgentPointerChanged = "urgent_pointer_changed",
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
        /// SYN, RST or URG on a packet of the flow.
        Control = "control",
        /// A packet of the flow that was already a super-packet.
        SuperPacket = "super_packet",
        /// A packet of the flow with a wrong checksum, or one that could not be checked.
        BadChecksum = "bad_checksum",
        /// A packet of the same addresses that was refused before its ports were looked at.
        RefusedBelowTcp = "refused_below_tcp",
        /// Another flow needed the place: the oldest left.
        TableFull = "table_full",
        /// The forwarding table changed.
        ForwardingChanged = "forwarding_changed",
    }
}

reasons! {
    /// Why was a packet never a candidate for coalescing?
    pub enum Alone in "coalesce_alone" {
        /// Neither IPv4 nor IPv6, or a network header that is not one.
        NotIp = "not_ip",
        /// IP, but not TCP.
        NotTcp = "not_tcp",
        /// TCP that could not be parsed: a fragment, a length that lies, IPv6 extension headers
        /// that could not be followed.
        TcpUnreadable = "tcp_unreadable",
        /// IPv4 options.
        IpOptions = "ip_options",
        /// The IPv4 header checksum is wrong, or the negative zero that could not be recreated.
        IpChecksum = "ip_checksum",
        /// A reserved bit of the IPv4 flags.
        IpFlags = "ip_flags",
        /// The TCP checksum is wrong, or its bytes are not there.
        TcpChecksum = "tcp_checksum",
        /// The partial checksum is not TCP's own.
        ForeignCsum = "foreign_csum",
        /// Already a super-packet.
        AlreadyMerged = "already_merged",
        /// No payload.
        PureAck = "pure_ack",
        /// SYN, RST or URG.
        Control = "control",
        /// PSH or FIN with nothing held before it: there is nothing to wait for.
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
    /// IP version and IPv4 header length, protocol, addresses; the IPv6 flow
    /// label and all extension headers.
    NetworkKey,
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
    /// All TCP flags and reserved bits but PSH and FIN.
    Flags,
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

/// A personality: what it merges and when it stops.
#[derive(Debug)]
pub struct Rules {
    /// As in the configuration.
    pub name: &'static str,
    /// Fields that tell flows apart: a difference ends nothing.
    pub key: &'static [Field],
    /// Fields that must be equal to merge, and the name of a difference. Asked in this order.
    pub equal: &'static [(Field, End)],
    /// The IPv4 ID.
    pub ip_id: IpIdRule,
    /// What ends an aggregate after it was merged.
    pub ends_after: EndsAfter,
    /// Largest network packet, header included, in bytes.
    pub l3_total_max: usize,
}

/// Where the headers of a held packet stand.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) net: Net,
    pub(crate) l3_len: u8,
    pub(crate) l4_len: u8,
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
                set(l3 + 1, l3 + 2, 0x0f);
                set(l3 + 2, l3 + 4, 0xff);
                set(l3 + 6, l3 + 7, 0xff);
                set(l3 + 8, l4, 0xff);
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
                set(l4 + 13, l4 + 14, !(PSH | FIN));
            }
            Field::Window => set(l4 + 14, l4 + 16, 0xff),
            Field::UrgentPointer => set(l4 + 18, l4 + 20, 0xff),
            Field::Options => set(l4 + 20, end, 0xff),
        }
        bytes
    }
}

/// Whether two private headers differ anywhere under the mask. Written as 16-byte
/// lanes, so that any compiler makes a handful of vector operations of it.
#[expect(
    clippy::needless_range_loop,
    reason = "as iterators this compiles to a loop of half the speed"
)]
#[inline(always)]
pub(crate) fn differ(a: &[u8; HEADER_ROOM], b: &[u8; HEADER_ROOM], mask: &Mask) -> bool {
    let mut difference = [0u8; LANE];
    for lane in 0..HEADER_ROOM / LANE {
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
pub(crate) struct Masks {
    /// Key and equal fields together: no difference means mergeable headers.
    pub(crate) all: Mask,
    /// The key alone: no difference means the same flow.
    pub(crate) key: Mask,
}

impl Masks {
    pub(crate) fn new(rules: &Rules, shape: Shape) -> Self {
        let mut key = [0; HEADER_ROOM];
        for field in rules.key {
            merge(&mut key, &field.mask(shape));
        }
        let mut all = key;
        for (field, _) in rules.equal {
            merge(&mut all, &field.mask(shape));
        }
        Self { all, key }
    }
}

fn merge(onto: &mut Mask, mask: &Mask) {
    for (word, more) in onto.iter_mut().zip(mask) {
        *word |= more;
    }
}
