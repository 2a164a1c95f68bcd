//! The decisions: pure functions over two packets, asked before anything is done.

use super::rules::{Alone, End, IpIdRule, Masks, Rules, Shape, differ};
use super::table::{Flow, IdRule};
use crate::arena::{Memory, Pieces, sum_pieces};
use crate::packet::{L3_AT, Net, Packet, Transport};
use crate::parse::{PROTOCOL_TCP, is_extension};
use crate::pending::Csum;
use crate::superpacket::{FIN, PSH, RST, SYN, URG, tcp_flags};
use crate::vnet::{TCP_CSUM, TCP_SEGMENT_MIN, pseudo_header};

/// What a packet that cannot be merged does to what is held. It never overtakes its own flow.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ends {
    /// Not TCP: nothing.
    Nothing,
    /// TCP whose ports cannot be relied on: all flows of its address pair.
    Pair,
    /// Its own flow, for this reason.
    Flow(End),
}

/// Whether a packet may join or begin an aggregate at all; if not, why, and what it ends.
#[inline(always)]
pub(crate) fn candidate<'a>(
    packet: &Packet,
    payload: impl FnOnce() -> Pieces<'a>,
    memory: &impl Memory,
) -> Result<(), (Alone, Ends)> {
    network(packet)?;
    if packet.pending.gso.is_some() {
        return Err((Alone::AlreadyMerged, Ends::Flow(End::SuperPacket)));
    }
    let flags = tcp_flags(packet);
    if flags & (SYN | RST | URG) != 0 {
        return Err((Alone::Control, Ends::Flow(End::Control)));
    }
    if packet.payload_len == 0 {
        return Err((Alone::PureAck, Ends::Flow(End::PureAck)));
    }
    checksum(packet, payload, memory)
}

/// The network layer's part: Linux refuses these before TCP is reached
/// (`inet_gro_receive`), and so lets them overtake; here they end their pair.
#[inline(always)]
fn network(packet: &Packet) -> Result<(), (Alone, Ends)> {
    let layers = &packet.layers;
    match (layers.net, layers.transport) {
        (Net::None, _) => return Err((Alone::NotIp, Ends::Nothing)),
        (_, Transport::Tcp) => {}
        // An extension header that was not followed may have TCP at its end.
        (Net::V6, _) if is_extension(layers.protocol) => {
            return Err((Alone::TcpUnreadable, Ends::Pair));
        }
        _ if layers.protocol == PROTOCOL_TCP => return Err((Alone::TcpUnreadable, Ends::Pair)),
        _ => return Err((Alone::NotTcp, Ends::Nothing)),
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
    if !ipv4_header_is_good(packet) || field == 0xffff {
        return Err((Alone::IpChecksum, Ends::Pair));
    }
    Ok(())
}

/// Whether an IPv4 header of 20 bytes verifies (RFC 1071): five words added wide
/// and folded. All ones is all ones in any byte order.
#[inline(always)]
fn ipv4_header_is_good(packet: &Packet) -> bool {
    let word = |at: usize| u64::from(u32::from_ne_bytes(packet.array(L3_AT + at)));
    let sum = word(0) + word(4) + word(8) + word(12) + word(16);
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    (sum >> 16) + (sum & 0xffff) == 0xffff
}

#[inline(always)]
fn checksum<'a>(
    packet: &Packet,
    payload: impl FnOnce() -> Pieces<'a>,
    memory: &impl Memory,
) -> Result<(), (Alone, Ends)> {
    let layers = &packet.layers;
    match packet.pending.csum {
        Csum::Partial { start, offset } => {
            let own = u16::from(layers.l2_len) + u16::from(layers.l3_len);
            if start != own || offset != TCP_CSUM {
                return Err((Alone::ForeignCsum, Ends::Flow(End::BadChecksum)));
            }
            Ok(())
        }
        Csum::Verified if packet.be16(packet.l4_at() + 16) != 0xffff => Ok(()),
        Csum::Unverified if tcp_checksum_is_good(packet, payload(), memory) => Ok(()),
        _ => Err((Alone::TcpChecksum, Ends::Flow(End::BadChecksum))),
    }
}

/// Verifies the TCP checksum: the one place where coalescing reads payload. The negative zero counts as wrong, since it could
/// not be recreated.
fn tcp_checksum_is_good(packet: &Packet, payload: Pieces<'_>, memory: &impl Memory) -> bool {
    let layers = &packet.layers;
    let l4_at = packet.l4_at();
    let l4_len = usize::from(layers.l4_len);
    let Some(header) = packet.bytes.get(l4_at..l4_at + l4_len) else {
        return false;
    };
    let Some(body) = sum_pieces(memory, payload) else {
        return false;
    };
    let pseudo = pseudo_header(packet, l4_len as u32 + packet.payload_len);
    pseudo.add_bytes(header).add(body).fold() == 0xffff && packet.be16(l4_at + 16) != 0xffff
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
}

/// Compares a candidate with a held flow.
#[inline(always)]
pub(crate) fn verdict(
    rules: &Rules,
    masks: &Masks,
    flow: &Flow,
    head: &Packet,
    packet: &Packet,
) -> Verdict {
    let same_lane = head.tags == packet.tags
        && head.origin == packet.origin
        && head.layers.l2_len == packet.layers.l2_len;
    if !same_lane {
        return Verdict::OtherFlow;
    }
    if differ(&head.bytes, &packet.bytes, &masks.all) {
        return explain(rules, masks, flow.shape, head, packet);
    }
    match in_sequence(rules, flow, packet) {
        Ok(id_rule) => Verdict::Merge(id_rule),
        Err(end) => Verdict::End(end),
    }
}

/// The slow path: which of the rules' lines is it that differs?
#[cold]
#[inline(never)]
fn explain(rules: &Rules, masks: &Masks, shape: Shape, head: &Packet, packet: &Packet) -> Verdict {
    if differ(&head.bytes, &packet.bytes, &masks.key) {
        return Verdict::OtherFlow;
    }
    let line = rules
        .equal
        .iter()
        .find(|(field, _)| differ(&head.bytes, &packet.bytes, &field.mask(shape)));
    match line {
        Some((_, end)) => Verdict::End(*end),
        None => Verdict::OtherFlow,
    }
}

/// Sequence, ID and size: what a mask cannot compare.
#[inline(always)]
fn in_sequence(rules: &Rules, flow: &Flow, packet: &Packet) -> Result<IdRule, End> {
    let seq = packet.be32(packet.l4_at() + 4);
    if seq != flow.seq_next {
        // RFC 9293 section 3.4: serial number arithmetic.
        let ahead = seq.wrapping_sub(flow.seq_next) < 0x8000_0000;
        return Err(if ahead {
            End::SequenceGap
        } else {
            End::SequenceOld
        });
    }
    let id_rule = ip_id(rules, flow, packet).ok_or(End::IpIdIrregular)?;
    if packet.payload_len > u32::from(flow.size) {
        return Err(End::LargerSegment);
    }
    if flow.l3_total as usize + packet.payload_len as usize > rules.l3_total_max {
        return Err(End::SizeLimit);
    }
    Ok(id_rule)
}

/// How the IPv4 ID goes on, or `None` if it does not.
#[inline(always)]
fn ip_id(rules: &Rules, flow: &Flow, packet: &Packet) -> Option<IdRule> {
    if flow.shape.net == Net::V6 {
        return Some(IdRule::Undecided);
    }
    let IpIdRule::FixedOrIncrementing = rules.ip_id;
    let delta = packet.be16(L3_AT + 4).wrapping_sub(flow.id_first);
    let counts_up = delta == flow.segments;
    match flow.id_rule {
        IdRule::Undecided if delta == 0 => Some(IdRule::Fixed),
        IdRule::Undecided | IdRule::Incrementing if counts_up => Some(IdRule::Incrementing),
        IdRule::Fixed if delta == 0 => Some(IdRule::Fixed),
        _ => None,
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

/// Whether a candidate that joined nothing may be held for others to join.
#[inline(always)]
pub(crate) fn may_begin(rules: &Rules, packet: &Packet) -> Result<(), Alone> {
    let flags = tcp_flags(packet);
    let last =
        (rules.ends_after.push && flags & PSH != 0) || (rules.ends_after.fin && flags & FIN != 0);
    if last {
        return Err(Alone::LastOfItsTrain);
    }
    if packet.payload_len < u32::from(TCP_SEGMENT_MIN) {
        return Err(Alone::TinyPayload);
    }
    Ok(())
}
