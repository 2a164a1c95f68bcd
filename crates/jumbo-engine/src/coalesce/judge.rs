//! The decisions: pure functions over two packets, asked before anything is done.

use super::rules::{
    Alone, CwrRule, End, Held, IpIdRule, MarksRefused, Masks, Moving, Rules, Shape, Sizes,
    TcpOptions, UdpRules, differ,
};
use super::table::{Flow, IdRule};
use crate::arena::{Memory, Pieces, sum_pieces};
use crate::checksum::Sum;
use crate::packet::{HEADER_ROOM, L3_AT, Net, Packet, Transport, array};
use crate::parse::{PROTOCOL_TCP, PROTOCOL_UDP, is_extension};
use crate::pending::{Csum, Gso};
use crate::superpacket::{self, FIN, PSH, RST, SYN, URG, tcp_flags};
use crate::tunnel::{self, Difference, TunnelKind};
use crate::vnet::{TCP_CSUM, TCP_SEGMENT_MIN, UDP_CSUM, pseudo_header};

/// What a packet that cannot be merged does to what is held. It never overtakes its own flow.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ends {
    /// Neither TCP nor UDP: nothing.
    Nothing,
    /// One whose ports cannot be relied on: all flows of its address pair.
    Pair,
    /// Its own flow, for this reason.
    Flow(End),
}

/// Whether a packet may join or begin an aggregate of any personality; if not,
/// why, and what it ends.
#[inline(always)]
pub(crate) fn candidate(packet: &Packet) -> Result<(), (Alone, Ends)> {
    if packet.tunnel.kind != TunnelKind::None {
        tunnelled(packet)?;
    }
    network(packet)?;
    if packet.pending.gso.is_some() {
        return Err((Alone::AlreadyMerged, Ends::Flow(End::SuperPacket)));
    }
    if packet.layers.transport == Transport::Udp {
        return match packet.payload_len {
            0 => Err((Alone::EmptyDatagram, Ends::Flow(End::EmptyDatagram))),
            _ => Ok(()),
        };
    }
    if tcp_flags(packet) & (SYN | RST | URG) != 0 {
        return Err((Alone::Control, Ends::Flow(End::Control)));
    }
    if packet.payload_len == 0 {
        return Err((Alone::PureAck, Ends::Flow(End::PureAck)));
    }
    Ok(())
}

/// What the headers of a tunnel must be.
#[cold]
#[inline(never)]
fn tunnelled(packet: &Packet) -> Result<(), (Alone, Ends)> {
    if packet.tunnel.kind == TunnelKind::Unfollowed {
        return Err((Alone::TunnelUnreadable, Ends::Pair));
    }
    match tunnel::outer_is_plain(packet) {
        true => Ok(()),
        false => Err((Alone::TunnelHeader, Ends::Pair)),
    }
}

/// Whether a super-packet may be merged further: a trusted sender's TCP.
pub(crate) fn is_train(packet: &Packet) -> bool {
    let tcp = packet.layers.transport == Transport::Tcp;
    let plain = packet.tunnel.kind == TunnelKind::None;
    packet.trusted
        && plain
        && tcp
        && tcp_flags(packet) & (SYN | RST | URG) == 0
        && is_vouched(packet)
}

/// The network layer's part: Linux refuses these before TCP is reached
/// (`inet_gro_receive`), and so lets them overtake; here they end their pair.
#[inline(always)]
fn network(packet: &Packet) -> Result<(), (Alone, Ends)> {
    let layers = &packet.layers;
    match (layers.net, layers.transport) {
        (Net::None, _) => return Err((Alone::NotIp, Ends::Nothing)),
        (_, Transport::Tcp | Transport::Udp) => {}
        (_, Transport::None) => return Err(unreadable(packet)),
    }
    if layers.net == Net::V6 {
        return Ok(());
    }
    if layers.extended {
        return Err((Alone::IpOptions, Ends::Pair));
    }
    // The reserved bit; MF and the offset are fragments and never come here.
    if packet.bytes[L3_AT + 6] & 0x80 != 0 {
        return Err((Alone::IpFlags, Ends::Pair));
    }
    // 0xffff is the negative zero: it verifies, but segmentation would write 0x0000.
    let field = packet.be16(L3_AT + 10);
    if !ipv4_header_is_good(&packet.bytes) || field == 0xffff {
        return Err((Alone::IpChecksum, Ends::Pair));
    }
    Ok(())
}

/// What a packet without a transport header that could be relied on is.
#[cold]
fn unreadable(packet: &Packet) -> (Alone, Ends) {
    let protocol = packet.layers.protocol;
    match protocol {
        PROTOCOL_TCP => (Alone::TcpUnreadable, Ends::Pair),
        PROTOCOL_UDP => (Alone::UdpUnreadable, Ends::Pair),
        // An extension header that was not followed may have TCP at its end.
        _ if packet.layers.net == Net::V6 && is_extension(protocol) => {
            (Alone::TcpUnreadable, Ends::Pair)
        }
        _ => (Alone::NotTcp, Ends::Nothing),
    }
}

/// Whether an IPv4 header of 20 bytes verifies (RFC 1071): five words added wide. A
/// folded sum is its remainder modulo 65535, where all ones is zero in any byte
/// order; the sum itself is never zero, with the version in it.
#[inline(always)]
pub(crate) fn ipv4_header_is_good(bytes: &[u8; HEADER_ROOM]) -> bool {
    let word = |at: usize| u64::from(u32::from_ne_bytes(array(bytes, L3_AT + at)));
    let sum = word(0) + word(4) + word(8) + word(12) + word(16);
    sum.is_multiple_of(0xffff)
}

/// Whether the transport checksum needs no look at the payload: it is still to be
/// made, or somebody trusted checked it. Not for packets in tunnels.
#[inline(always)]
pub(crate) fn is_vouched(packet: &Packet) -> bool {
    let layers = &packet.layers;
    let udp = layers.transport == Transport::Udp;
    let field = if udp { UDP_CSUM } else { TCP_CSUM };
    match packet.pending.csum {
        Csum::Partial { start, offset } => {
            start == u16::from(layers.l2_len) + u16::from(layers.l3_len) && offset == field
        }
        // TCP's negative zero verifies, but could not be recreated; UDP's zero is no checksum.
        Csum::Verified => checksum_field(packet) != if udp { 0 } else { 0xffff },
        Csum::Unverified => false,
    }
}

/// Whether the inner transport checksum of a packet in a tunnel is still to be made.
pub(crate) fn is_inner_partial(packet: &Packet) -> bool {
    let field = match packet.layers.transport {
        Transport::Udp => UDP_CSUM,
        _ => TCP_CSUM,
    };
    packet.pending.csum
        == Csum::Partial {
            start: packet.l4_offset() as u16,
            offset: field,
        }
}

/// The transport checksum as it stands in the header.
#[inline(always)]
fn checksum_field(packet: &Packet) -> u16 {
    let field = match packet.layers.transport {
        Transport::Udp => UDP_CSUM,
        _ => TCP_CSUM,
    };
    packet.be16(packet.l4_at() + usize::from(field))
}

/// Verifies the checksum of a packet that nobody vouches for: the one place
/// where coalescing reads payload.
#[inline(never)]
pub(crate) fn verify(
    packet: &Packet,
    payload: Pieces<'_>,
    memory: &impl Memory,
) -> Result<(), Alone> {
    verify_with(packet, || sum_pieces(memory, payload))
}

/// The same by a sum of the payload, which is asked for only if it is needed.
#[inline(always)]
pub(crate) fn verify_with(
    packet: &Packet,
    body: impl FnOnce() -> Option<Sum>,
) -> Result<(), Alone> {
    if let Csum::Partial { .. } = packet.pending.csum {
        return Err(Alone::ForeignCsum);
    }
    let udp = packet.layers.transport == Transport::Udp;
    if udp && checksum_field(packet) == 0 {
        return Ok(());
    }
    // The negative zero counts as wrong in TCP, since it could not be recreated.
    let canonical = udp || checksum_field(packet) != 0xffff;
    match canonical && sums_to_zero(packet, body) {
        true => Ok(()),
        false if udp => Err(Alone::UdpChecksum),
        false => Err(Alone::TcpChecksum),
    }
}

#[inline(always)]
fn sums_to_zero(packet: &Packet, body: impl FnOnce() -> Option<Sum>) -> bool {
    let l4_at = packet.l4_at();
    let l4_len = usize::from(packet.layers.l4_len);
    let Some(header) = packet.bytes.get(l4_at..l4_at + l4_len) else {
        return false;
    };
    let Some(body) = body() else {
        return false;
    };
    let pseudo = pseudo_header(packet, l4_len as u32 + packet.payload_len);
    pseudo.add_bytes(header).add(body).fold() == 0xffff
}

/// What to do with a candidate that meets a held flow of the same hash.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Append it; the IPv4 IDs go on by this rule.
    Merge(IdRule),
    /// Not this flow: look on.
    OtherFlow,
    /// This flow, but it ends here.
    End(End),
    /// This flow; it ends here, and the packet goes behind it alone.
    Refuse(Alone, End),
}

/// Whether both came the same way: only then can they be of one flow.
#[inline(always)]
pub(crate) fn same_lane(head: &Packet, packet: &Packet) -> bool {
    head.tags == packet.tags
        && head.origin == packet.origin
        && head.layers.l2_len == packet.layers.l2_len
}

/// The shortest way: whether a packet joins a flow of plain rules
/// ([`Rules::is_plain`]), and how its IDs go on. `None` says nothing: ask [`verdict`].
#[inline(always)]
pub(crate) fn joins_plainly(
    masks: &Masks,
    flow: &Flow,
    head: &Packet,
    packet: &Packet,
) -> Option<IdRule> {
    let fits = same_lane(head, packet)
        && !differ(&head.bytes, &packet.bytes, &masks.all)
        && (flow.shape.is_udp() || packet.tcp_seq() == flow.seq_next)
        && flow.segments < flow.segments_max
        && packet.payload_len <= u32::from(flow.size)
        && flow.l3_total + packet.payload_len <= flow.l3_total_max
        && is_vouched(packet);
    match fits {
        true => ip_id(IpIdRule::FixedOrIncrementing, flow, packet),
        false => None,
    }
}

/// Compares a candidate with a held flow, by all the rules there are.
#[inline(never)]
pub(crate) fn verdict(
    rules: &Rules,
    masks: &Masks,
    flow: &Flow,
    head: &Packet,
    packet: &Packet,
) -> Verdict {
    let same_flow = same_lane(head, packet) && !differ(&head.bytes, &packet.bytes, &masks.key);
    if !same_flow {
        return Verdict::OtherFlow;
    }
    if let Some((alone, end)) = refusal(rules, packet) {
        return Verdict::Refuse(alone, end);
    }
    match outer_difference(head, packet) {
        Difference::None => {}
        Difference::Flow => return Verdict::OtherFlow,
        Difference::Header => return Verdict::End(End::TunnelHeaderChanged),
    }
    if differ(&head.bytes, &packet.bytes, &masks.all) {
        return explain(rules, flow.shape, head, packet);
    }
    match goes_on(rules, flow, head, packet) {
        Ok(id_rule) => Verdict::Merge(id_rule),
        Err(end) => Verdict::End(end),
    }
}

/// How the tunnels' headers differ, if both are in one.
#[inline(always)]
pub(crate) fn outer_difference(head: &Packet, packet: &Packet) -> Difference {
    match head.tunnel.is_some() {
        true => tunnel::compare(head, packet),
        false => Difference::None,
    }
}

/// The slow path: which of the rules' lines is it that differs?
#[cold]
#[inline(never)]
fn explain(rules: &Rules, shape: Shape, head: &Packet, packet: &Packet) -> Verdict {
    let mut lines = rules.lines(shape);
    let line = lines.find(|(field, _)| differ(&head.bytes, &packet.bytes, &field.mask(shape)));
    match line {
        Some((_, end)) => Verdict::End(end),
        None => Verdict::OtherFlow,
    }
}

/// What a personality keeps alone, and what that ends its flow for.
pub(crate) fn refusal(rules: &Rules, packet: &Packet) -> Option<(Alone, End)> {
    if packet.tunnel.is_some() && !rules.lossless {
        return Some((Alone::Tunnel, End::Exception));
    }
    if packet.layers.net == Net::V6 && packet.layers.extended && !rules.ipv6_extensions {
        return Some((Alone::Ipv6Extensions, End::Exception));
    }
    if packet.layers.transport == Transport::Udp {
        return match &rules.udp {
            None => Some((Alone::NotTcp, End::Exception)),
            Some(udp) => udp_refusal(udp, packet),
        };
    }
    if is_marked(rules.marks_refused, packet) {
        return Some((Alone::CongestionMark, End::Exception));
    }
    if rules.df_required && packet.layers.net == Net::V4 && !superpacket::has_df(packet) {
        return Some((Alone::MayFragment, End::Exception));
    }
    let flags = tcp_flags(packet);
    if flags & rules.flags_refused != 0 || flags & rules.flags_required != rules.flags_required {
        return Some((Alone::Control, End::Control));
    }
    if !options_fit(rules.options, packet) {
        return Some((Alone::TcpOptions, End::Exception));
    }
    cwr_refusal(rules, packet)
}

fn udp_refusal(udp: &UdpRules, packet: &Packet) -> Option<(Alone, End)> {
    let partial = matches!(packet.pending.csum, Csum::Partial { .. });
    let none = !partial && checksum_field(packet) == 0;
    (none && !udp.without_checksum).then_some((Alone::UdpNoChecksum, End::BadChecksum))
}

/// The ECN field (RFC 3168 section 5), in either IP version.
fn is_marked(refused: MarksRefused, packet: &Packet) -> bool {
    let ecn = match packet.layers.net {
        Net::V4 => packet.bytes[L3_AT + 1] & 3,
        _ => packet.bytes[L3_AT + 1] >> 4 & 3,
    };
    match refused {
        MarksRefused::None => false,
        MarksRefused::Ce => ecn == 3,
        MarksRefused::All => ecn != 0,
    }
}

/// NOP, NOP, timestamps of 10 bytes (RFC 7323 appendix A).
const TIMESTAMPS: u32 = 0x0101_080a;

/// Length of a TCP header with timestamps and nothing else.
const WITH_TIMESTAMPS: u8 = 32;

/// Whether the packet has timestamps in the usual place and no other option.
pub(crate) fn has_timestamps(packet: &Packet) -> bool {
    packet.layers.l4_len == WITH_TIMESTAMPS && packet.be32(packet.l4_at() + 20) == TIMESTAMPS
}

fn options_fit(options: TcpOptions, packet: &Packet) -> bool {
    let none = packet.layers.l4_len == 20;
    match options {
        TcpOptions::Any => true,
        TcpOptions::Timestamps => none || has_timestamps(packet),
        TcpOptions::None => none,
    }
}

/// A super-packet with CWR stands for one packet with it and many without, which
/// a lossless rule that compares CWR could not merge with anything.
fn cwr_refusal(rules: &Rules, packet: &Packet) -> Option<(Alone, End)> {
    if !rules.lossless || !superpacket::has_cwr(packet) {
        return None;
    }
    match (rules.cwr, packet.pending.gso) {
        (CwrRule::Never, _) => Some((Alone::Cwr, End::FlagsChanged)),
        (CwrRule::Equal, Some(_)) => Some((Alone::AlreadyMerged, End::SuperPacket)),
        _ => None,
    }
}

/// The next sequence number (RFC 9293 section 3.4: serial number arithmetic).
#[inline(always)]
fn in_sequence(flow: &Flow, packet: &Packet) -> Result<(), End> {
    let seq = packet.tcp_seq();
    if seq == flow.seq_next {
        return Ok(());
    }
    let ahead = seq.wrapping_sub(flow.seq_next) < 0x8000_0000;
    Err(if ahead {
        End::SequenceGap
    } else {
        End::SequenceOld
    })
}

/// What no mask can compare, for any transport and personality.
fn goes_on(rules: &Rules, flow: &Flow, head: &Packet, packet: &Packet) -> Result<IdRule, End> {
    if packet.tunnel.is_some() && outer_id(flow, packet).is_none() {
        return Err(End::TunnelIdIrregular);
    }
    if let (true, Some(udp)) = (flow.shape.is_udp(), &rules.udp) {
        let id_rule = ip_id(udp.ip_id, flow, packet).ok_or(End::IpIdIrregular)?;
        if packet.payload_len > u32::from(flow.size) {
            return Err(End::LargerSegment);
        }
        if flow.segments >= flow.segments_max {
            return Err(End::DatagramLimit);
        }
        return fits(flow, packet).map(|()| id_rule);
    }
    in_sequence(flow, packet)?;
    if rules.moving == Moving::LastWins && timestamp_is_older(head, packet) {
        return Err(End::TimestampOld);
    }
    if rules.cwr == CwrRule::FirstOnly && rules.lossless && superpacket::has_cwr(packet) {
        return Err(End::FlagsChanged);
    }
    let id_rule = match packet.pending.gso {
        Some(gso) if rules.lossless => train_id(flow, packet, gso)?,
        _ => ip_id(rules.ip_id, flow, packet).ok_or(End::IpIdIrregular)?,
    };
    if rules.sizes == Sizes::Equal && !size_fits(flow, packet) {
        return Err(match packet.pending.gso {
            Some(_) => End::SuperPacket,
            None => End::LargerSegment,
        });
    }
    fits(flow, packet).map(|()| id_rule)
}

fn size_fits(flow: &Flow, packet: &Packet) -> bool {
    match packet.pending.gso {
        Some(gso) => gso.size == flow.size,
        None => packet.payload_len <= u32::from(flow.size),
    }
}

/// Length and number of segments have a bound.
fn fits(flow: &Flow, packet: &Packet) -> Result<(), End> {
    let too_long = flow.l3_total + packet.payload_len > flow.l3_total_max;
    let too_many = flow.segments.checked_add(packet.segments()).is_none();
    match too_long || too_many {
        true => Err(End::SizeLimit),
        false => Ok(()),
    }
}

/// Whether a timestamp goes back (RFC 7323 section 5.2: serial number arithmetic).
pub(crate) fn timestamp_is_older(head: &Packet, packet: &Packet) -> bool {
    let value = |packet: &Packet| packet.be32(packet.l4_at() + 24);
    let advance = value(packet).wrapping_sub(value(head));
    has_timestamps(head) && has_timestamps(packet) && advance >= 0x8000_0000
}

/// How the IPv4 ID goes on, or `None` if it does not.
#[inline(always)]
fn ip_id(rule: IpIdRule, flow: &Flow, packet: &Packet) -> Option<IdRule> {
    if flow.shape.net == Net::V6 || rule == IpIdRule::Free {
        return Some(IdRule::Undecided);
    }
    let delta = packet.be16(L3_AT + 4).wrapping_sub(flow.id_first);
    next_id(flow.id_rule, delta, flow.segments)
}

/// How the outer IPv4 ID goes on, or `None` if it does not.
pub(crate) fn outer_id(flow: &Flow, packet: &Packet) -> Option<IdRule> {
    if packet.tunnel.net != Net::V4 {
        return Some(IdRule::Undecided);
    }
    let delta = tunnel::outer_id(packet).wrapping_sub(flow.outer_id_first);
    next_id(flow.outer_id_rule, delta, flow.segments)
}

#[inline(always)]
pub(crate) fn next_id(rule: IdRule, delta: u16, segments: u16) -> Option<IdRule> {
    let counts_up = delta == segments;
    match rule {
        IdRule::Undecided if delta == 0 => Some(IdRule::Fixed),
        IdRule::Undecided | IdRule::Incrementing if counts_up => Some(IdRule::Incrementing),
        IdRule::Fixed if delta == 0 => Some(IdRule::Fixed),
        _ => None,
    }
}

/// A super-packet has decided already how its IDs go on.
fn train_id(flow: &Flow, packet: &Packet, gso: Gso) -> Result<IdRule, End> {
    if flow.shape.net == Net::V6 {
        return Ok(IdRule::Undecided);
    }
    let (rule, expected) = match gso.fixed_id {
        true => (IdRule::Fixed, 0),
        false => (IdRule::Incrementing, flow.segments),
    };
    let delta = packet.be16(L3_AT + 4).wrapping_sub(flow.id_first);
    let agrees = flow.id_rule == rule || flow.id_rule == IdRule::Undecided;
    match agrees && delta == expected {
        true => Ok(rule),
        false => Err(End::IpIdIrregular),
    }
}

/// Whether the packet that was just merged, with these flags and so much
/// payload, ends its aggregate.
#[inline(always)]
pub(crate) fn ends_after(rules: &Rules, flow: &Flow, flags: u8, payload_len: u32) -> Option<End> {
    if rules.ends_after.fin && flags & FIN != 0 {
        return Some(End::Fin);
    }
    if rules.ends_after.push && flags & PSH != 0 {
        return Some(End::Push);
    }
    if rules.ends_after.shorter && payload_len < u32::from(flow.size) {
        return Some(End::ShortSegment);
    }
    None
}

/// The same for a packet without TCP flags, and for a super-packet.
pub(crate) fn ends_after_by_all_rules(rules: &Rules, flow: &Flow, packet: &Packet) -> Option<End> {
    if packet.layers.transport == Transport::Udp {
        return (packet.payload_len < u32::from(flow.size)).then_some(End::ShortSegment);
    }
    // A super-packet is short if its last segment is.
    let last_len = match packet.pending.gso {
        Some(gso) if packet.payload_len.is_multiple_of(u32::from(gso.size)) => u32::from(gso.size),
        Some(_) => 0,
        None => packet.payload_len,
    };
    ends_after(rules, flow, tcp_flags(packet), last_len)
}

/// Whether a candidate that joined nothing may be held for others to join.
pub(crate) fn may_begin(rules: &Rules, packet: &Packet, l3_total_max: u32) -> Result<(), Alone> {
    if let Some((alone, _)) = refusal(rules, packet) {
        return Err(alone);
    }
    if packet.layers.transport == Transport::Udp {
        return Ok(());
    }
    let flags = tcp_flags(packet);
    let ends = rules.ends_after;
    if (ends.push && flags & PSH != 0) || (ends.fin && flags & FIN != 0) {
        return Err(Alone::LastOfItsTrain);
    }
    if let Some(gso) = packet.pending.gso {
        let whole = packet.payload_len.is_multiple_of(u32::from(gso.size));
        let full = packet.l3_total_len() as u32 + u32::from(gso.size) > l3_total_max;
        let may = rules.two_stage && !full && (whole || !ends.shorter);
        return if may {
            Ok(())
        } else {
            Err(Alone::AlreadyMerged)
        };
    }
    if rules.lossless && packet.payload_len < u32::from(TCP_SEGMENT_MIN) {
        return Err(Alone::TinyPayload);
    }
    Ok(())
}

impl Held<'_> {
    /// Whether the packet has the sequence number behind what is held.
    pub(crate) fn is_followed_by(&self, packet: &Packet) -> bool {
        packet.tcp_seq() == self.flow.seq_next
    }

    /// By how much the packet's acknowledgement is ahead of the held one, modulo 2^32.
    pub(crate) fn ack_advance(&self, packet: &Packet) -> u32 {
        packet.tcp_ack().wrapping_sub(self.head.tcp_ack())
    }
}
