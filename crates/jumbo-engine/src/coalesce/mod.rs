//! Coalescing: packets towards one out port become fewer and larger.
//!
//! Hand over what was received: a burst at once ([`Coalescer::take_all`]), packet by packet
//! ([`Coalescer::take`]), or packets that were admitted before ([`Coalescer::offer`]).
//! The results are the same; the more the coalescer sees at once, the faster it
//! is. A packet is either merged into
//! a held flow, or to be held with [`Coalescer::hold`] once its out port is
//! known, or passed on alone. What has ended appears in [`Coalescer::ready`], in
//! an order that never lets a packet overtake its own flow; order between flows
//! is not kept. [`Coalescer::flush`] ends everything: call it when nothing more
//! is ready to be received. Where a hold time is asked for ([`Towards::hold_ns`]), call
//! [`Coalescer::end_burst`] instead: it lets rest what may rest, and tells until when.
//!
//! Headers of held packets stay in their arena slots; payload is linked, never
//! copied. Cost is one hash, one set of the table and one masked comparison of
//! the header line, whatever the number of flows, and less for packets that follow
//! others of their flow; only a mismatch is explained.
//!
//! [`GRO`], [`LRO`] and [`RSC`] are tables of one rule set, [`Rules`]. A coalescer
//! knows one or more of them, and each held flow is under the one of the port it
//! leaves by ([`Towards`]).

mod door;
mod gro;
mod judge;
mod lro;
mod merge;
mod rest;
mod rsc;
mod rules;
mod table;
mod train;

use alloc::vec::Vec;

pub use door::{Received, Taken};
pub use gro::GRO;
pub use lro::LRO;
pub use rest::{RestBounds, Resting};
pub use rsc::{RSC, RSC_QEMU, RscStats};
pub use rules::{
    AckFold, Alone, CwrRule, End, EndsAfter, Field, Held, IpIdRule, MarksRefused, Moving, Push,
    Rules, Sizes, TcpOptions, Ttl, UdpRules,
};
pub use table::{FLOWS_MAX, Slot};

use crate::arena::{Arena, Memory, PacketId};
use crate::packet::{Net, Packet, Transport};
use crate::pending::Csum;
use crate::reason::Counts;
use crate::superpacket::{self, L3_TOTAL_BIG_MAX, L3_TOTAL_MAX};
use crate::tunnel::{self, Difference, Tunnels};
use judge::{Ends, Verdict};
use merge::{Moved, complete_aggregate};
use rules::{Masks, Shape};
use table::{Flow, FlowId, IdRule, Table};
use train::Train;

/// What became of a packet.
#[derive(Copy, Clone, Debug)]
pub enum Offer {
    /// It is part of a held flow now, or of one that just ended; its slot was released.
    Merged,
    /// It may begin an aggregate: find its out port, then [`Coalescer::hold`] it,
    /// or pass it on behind what is in [`Coalescer::ready`].
    Hold(Slot),
    /// It goes on by itself, behind what is in [`Coalescer::ready`].
    Alone(Alone),
}

/// Where a held packet goes, and how it is treated on the way. A number alone is
/// the caller's word, with the coalescer's first table.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Towards {
    /// The caller's word, given back as [`Ready::out`].
    pub out: u32,
    /// Which of the coalescer's tables, in the order they were given.
    pub personality: u8,
    /// Longest network packet that may leave there, header included, in bytes;
    /// the table has a limit of its own.
    pub l3_total_max: u32,
    /// The same for TCP outside of tunnels, where more than 65535 bytes can be told (BIG TCP); 0
    /// where they cannot. Only a lossless table that reaches 65535 goes beyond.
    pub big_l3_total_max: u32,
    /// Tunnels in which packets may be merged. What the port does not take whole
    /// would be segmented again on its way out: work for nothing, so it is not
    /// merged in the first place.
    pub tunnels: Tunnels,
    /// How long an aggregate may rest beyond its burst, in nanoseconds; 0: it leaves
    /// when the burst ends ([`Coalescer::end_burst`]).
    pub hold_ns: u32,
}

impl Towards {
    /// The longest network packet there that begins with this one.
    fn longest(&self, rules: &Rules, packet: &Packet) -> u32 {
        let limit = self.l3_total_max.min(rules.l3_total_max as u32);
        let may_be_big = self.big_l3_total_max != 0
            && rules.lossless
            && rules.l3_total_max == L3_TOTAL_MAX
            && packet.layers.transport == Transport::Tcp
            && !packet.tunnel.is_some();
        match may_be_big {
            true => limit.max(self.big_l3_total_max.min(L3_TOTAL_BIG_MAX as u32)),
            false => limit,
        }
    }
}

impl From<u32> for Towards {
    fn from(out: u32) -> Self {
        Self {
            out,
            personality: 0,
            l3_total_max: u32::MAX,
            big_l3_total_max: 0,
            tunnels: Tunnels::All,
            hold_ns: 0,
        }
    }
}

/// A packet that is done here.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// The packet; merged or as it came.
    pub id: PacketId,
    /// The caller's word of [`Coalescer::hold`].
    pub out: u32,
    /// Why it ended, if it was held.
    pub ended: Option<End>,
}

impl Ready {
    /// A packet that was not held.
    #[inline]
    pub const fn alone(id: PacketId, out: u32) -> Self {
        Self {
            id,
            out,
            ended: None,
        }
    }
}

/// What was done so far.
#[derive(Clone, Debug, Default)]
pub struct CoalesceStats {
    /// Why flows that were held ended, aggregates of one included.
    pub ends: Counts<End>,
    /// The same, for those of two packets and more.
    pub aggregate_ends: Counts<End>,
    /// Why packets were not candidates.
    pub alone: Counts<Alone>,
    /// Packets that were merged onto another: absorbed.
    pub merged: u64,
    /// Those of them that were never admitted ([`Coalescer::take`], [`Coalescer::take_all`]).
    pub merged_unadmitted: u64,
    /// Super-packets made.
    pub aggregates: u64,
    /// What Windows counts, over all tables that are not lossless.
    pub rsc: RscStats,
}

/// The [`Rules::pure_ack`] of tables that fold none in.
pub(crate) fn pure_ack_alone(_: &Held<'_>, _: &Packet) -> Option<AckFold> {
    None
}

/// The engine of one worker.
#[derive(Debug)]
pub struct Coalescer {
    personalities: Vec<Rules>,
    masks: MaskCache,
    table: Table,
    train: Train,
    /// The nearest deadline of what rests, or one before it.
    nearest_ns: u64,
    ready: Vec<Ready>,
    stats: CoalesceStats,
}

impl Coalescer {
    /// Holds up to `flows` flows at a time ([`FLOWS_MAX`] at most). `seed` keeps
    /// a sender from choosing flows that share a place: take it from a random source.
    pub fn new(rules: &Rules, flows: usize, seed: u64) -> Self {
        Self::with_personalities(core::slice::from_ref(rules), flows, seed)
    }

    /// The same with several tables, of which [`Towards::personality`] names one
    /// by its place. At most 256; without any it is [`GRO`] alone.
    pub fn with_personalities(rules: &[Rules], flows: usize, seed: u64) -> Self {
        let flows = flows.clamp(1, FLOWS_MAX);
        let rules = match rules {
            [] => core::slice::from_ref(&GRO),
            some => some,
        };
        Self {
            personalities: rules.iter().copied().take(256).collect(),
            masks: MaskCache::new(rules),
            table: Table::new(flows, seed),
            train: Train::none(),
            nearest_ns: u64::MAX,
            ready: Vec::with_capacity(2 * flows),
            stats: CoalesceStats::default(),
        }
    }

    /// Offers a packet of the arena.
    #[inline]
    pub fn offer(&mut self, arena: &mut Arena, id: PacketId, memory: &impl Memory) -> Offer {
        let packet = arena.packet(id);
        if let Err((alone, ends)) = judge::candidate(packet) {
            return self.exceptional(arena, id, memory, alone, ends);
        }
        let slot = self.table.slot(packet);
        let mut candidates = self.table.candidates(slot);
        while let Some(flow_id) = self.table.next(&mut candidates) {
            let flow = self.table.flow(flow_id);
            if let (true, Some(masks)) = (flow.plain, self.masks.common(flow.masks))
                && let Some(id_rule) =
                    judge::joins_plainly(masks, flow, arena.packet(flow.head), packet)
            {
                self.merge(arena, flow_id, id, id_rule);
                return Offer::Merged;
            }
            match self.verdict(arena, flow_id, id) {
                Verdict::OtherFlow => {}
                verdict => return self.meet(arena, id, slot, flow_id, verdict, memory),
            }
        }
        Offer::Hold(slot)
    }

    /// What the flow's own table says of the packet.
    #[inline(never)]
    fn verdict(&mut self, arena: &Arena, flow_id: FlowId, id: PacketId) -> Verdict {
        let flow = self.table.flow(flow_id);
        let rules = &self.personalities[usize::from(flow.personality)];
        let masks = self.masks.get(rules, flow);
        let head = arena.packet(flow.head);
        judge::verdict(rules, masks, flow, head, arena.packet(id))
    }

    /// A packet meets its own flow, and the shortest way did not do.
    #[inline(never)]
    fn meet(
        &mut self,
        arena: &mut Arena,
        id: PacketId,
        slot: Slot,
        flow_id: FlowId,
        verdict: Verdict,
        memory: &impl Memory,
    ) -> Offer {
        let verified = match verdict {
            Verdict::Merge(_) => {
                let behind = arena.payload_end(self.table.flow(flow_id).head);
                verify_and_place(arena, id, Some(behind), memory)
            }
            // It will most likely be the first of the next.
            Verdict::End(_) if self.rules_of(flow_id).restarts => {
                verify_and_place(arena, id, None, memory)
            }
            _ => verify(arena, id, memory),
        };
        if let Err(alone) = verified {
            self.end(arena, flow_id, End::BadChecksum);
            return self.alone(alone);
        }
        match verdict {
            Verdict::Merge(id_rule) => {
                self.merge_by_all_rules(arena, flow_id, id, id_rule);
                Offer::Merged
            }
            Verdict::Refuse(alone, end) => {
                self.end(arena, flow_id, end);
                self.alone(alone)
            }
            Verdict::End(end) => {
                let restarts = self.rules_of(flow_id).restarts;
                self.end(arena, flow_id, end);
                match restarts {
                    true => Offer::Hold(slot),
                    false => self.alone(Alone::AfterMismatch),
                }
            }
            Verdict::OtherFlow => Offer::Hold(slot),
        }
    }

    /// A packet that no table merges like any other: a pure ACK may be folded in,
    /// a trusted sender's super-packet merged further; else it goes on alone.
    #[cold]
    #[inline(never)]
    fn exceptional(
        &mut self,
        arena: &mut Arena,
        id: PacketId,
        memory: &impl Memory,
        alone: Alone,
        ends: Ends,
    ) -> Offer {
        match alone {
            Alone::PureAck if self.fold(arena, id, memory) => return Offer::Merged,
            Alone::AlreadyMerged if judge::is_train(arena.packet(id)) => {
                return self.offer_train(arena, id, memory);
            }
            _ => {}
        }
        self.end_for(arena, id, ends);
        self.alone(alone)
    }

    fn offer_train(&mut self, arena: &mut Arena, id: PacketId, memory: &impl Memory) -> Offer {
        let slot = self.table.slot(arena.packet(id));
        let Some(flow_id) = self.flow_of(arena, id) else {
            return Offer::Hold(slot);
        };
        let rules = self.rules_of(flow_id);
        if !rules.two_stage {
            self.end(arena, flow_id, End::SuperPacket);
            return self.alone(Alone::AlreadyMerged);
        }
        let verdict = self.verdict(arena, flow_id, id);
        self.meet(arena, id, slot, flow_id, verdict, memory)
    }

    /// Folds a pure ACK into its held flow, if the flow's table does so.
    fn fold(&mut self, arena: &mut Arena, id: PacketId, memory: &impl Memory) -> bool {
        let Some(flow_id) = self.flow_of(arena, id) else {
            return false;
        };
        let flow = self.table.flow(flow_id);
        let (head, ack) = (arena.packet(flow.head), arena.packet(id));
        let rules = self.rules_of(flow_id);
        let masks = Masks::new(rules, flow.shape);
        let fits = !rules.lossless
            && judge::refusal(rules, ack).is_none()
            && !rules::differ(&head.bytes, &ack.bytes, &masks.all)
            && !judge::timestamp_is_older(head, ack)
            && flow.segments.max(flow.acks) < u16::MAX;
        let fold = match fits {
            true => (rules.pure_ack)(&Held { head, flow }, ack),
            false => None,
        };
        let (Some(fold), Ok(())) = (fold, verify(arena, id, memory)) else {
            return false;
        };
        let (moved, rules) = (Moved::of(arena.packet(id)), *rules);
        let flow = self.table.flow_mut(flow_id);
        match fold {
            AckFold::Values => {
                flow.acks += 1;
                moved.fold_into(arena.packet_mut(flow.head));
            }
            AckFold::Segment => {
                flow.segments += 1;
                moved.join(&rules, arena.packet_mut(flow.head));
            }
        }
        arena.release(id);
        self.stats.merged += 1;
        true
    }

    /// Holds a packet for others to join. `slot` is from the [`Offer::Hold`] of
    /// this very packet; `towards.out` is given back with the result.
    ///
    /// # Errors
    /// Why packets towards there do not begin an aggregate with this one: pass it
    /// on, behind what is in [`Coalescer::ready`].
    #[inline]
    pub fn hold(
        &mut self,
        arena: &mut Arena,
        id: PacketId,
        slot: Slot,
        towards: impl Into<Towards>,
        memory: &impl Memory,
    ) -> Result<(), Alone> {
        let towards = towards.into();
        let index = usize::from(towards.personality).min(self.personalities.len() - 1);
        let rules = &self.personalities[index];
        let l3_total_max = towards.longest(rules, arena.packet(id));
        // What the port does not take needs no look at its payload. Else a wrong checksum
        // says more than any rule that the packet meets besides.
        let may = if towards.tunnels.take(&arena.packet(id).tunnel) {
            match judge::may_begin(rules, arena.packet(id), l3_total_max) {
                Ok(()) => verify_and_place(arena, id, None, memory),
                Err(alone) => verify(arena, id, memory).and(Err(alone)),
            }
        } else {
            Err(Alone::Tunnel)
        };
        let (lossless, plain, udp) = (rules.lossless, rules.is_plain(), rules.udp);
        if let Err(alone) = may {
            self.stats.alone.count(alone);
            self.stats.rsc.aborts += u64::from(!lossless);
            return Err(alone);
        }
        while let Some(flow) = self.table.in_the_way(slot) {
            self.end(arena, flow, End::TableFull);
        }
        let packet = arena.packet(id);
        let pair = self.table.outer_pair_hash(packet) as u32;
        let mut flow = Flow::new(id, packet, towards.out, pair);
        flow.personality = index as u8;
        flow.masks = MaskCache::index(index, flow.shape);
        let masks = self.masks.common(flow.masks);
        flow.plain = plain && !packet.tunnel.is_some() && masks.is_some();
        if flow.plain && masks.is_some_and(|masks| masks.conclusive) && packet.tags.is_empty() {
            flow.door = flow.shape.l3_len;
        }
        if let (Transport::Udp, Some(udp)) = (packet.layers.transport, udp) {
            flow.segments_max = udp.datagrams_max;
        }
        flow.l3_total_max = l3_total_max;
        flow.hold_ns = towards.hold_ns;
        self.table.insert(slot, flow);
        Ok(())
    }

    /// Ends every held flow, oldest first.
    pub fn flush(&mut self, arena: &mut Arena, reason: End) {
        while let Some(flow) = self.table.oldest() {
            self.end(arena, flow, reason);
        }
    }

    /// Flows held at the moment.
    #[inline]
    pub fn held(&self) -> usize {
        self.table.held()
    }

    /// What has ended and waits to be taken, in order.
    #[inline]
    pub fn ready(&mut self) -> &mut Vec<Ready> {
        &mut self.ready
    }

    /// What was done so far.
    pub fn stats(&self) -> &CoalesceStats {
        &self.stats
    }

    #[inline]
    fn alone(&mut self, reason: Alone) -> Offer {
        self.stats.alone.count(reason);
        Offer::Alone(reason)
    }

    fn rules_of(&self, flow_id: FlowId) -> &Rules {
        &self.personalities[usize::from(self.table.flow(flow_id).personality)]
    }

    /// Appends a packet under plain rules.
    #[inline(always)]
    fn merge(&mut self, arena: &mut Arena, flow_id: FlowId, id: PacketId, id_rule: IdRule) {
        let flow = self.table.flow_mut(flow_id);
        let packet = arena.packet(id);
        let flags = match flow.shape.is_udp() {
            true => 0,
            false => superpacket::tcp_flags(packet),
        };
        let payload_len = packet.payload_len;
        let may_end = flow.grow(payload_len, flags, id_rule);
        let head = flow.head;
        arena.absorb(head, id);
        self.stats.merged += 1;
        if may_end {
            self.end_after(arena, flow_id, flags, payload_len);
        }
    }

    /// Ends an aggregate if the packet that just joined it, with these flags and so much payload, does.
    #[inline(never)]
    fn end_after(&mut self, arena: &mut Arena, flow_id: FlowId, flags: u8, payload_len: u32) {
        let (rules, flow) = (self.rules_of(flow_id), self.table.flow(flow_id));
        if let Some(end) = judge::ends_after(rules, flow, flags, payload_len) {
            self.end(arena, flow_id, end);
        }
    }

    /// The same for UDP, super-packets, and rules by which the head changes.
    #[inline(never)]
    fn merge_by_all_rules(
        &mut self,
        arena: &mut Arena,
        flow_id: FlowId,
        id: PacketId,
        id_rule: IdRule,
    ) {
        let rules = *self.rules_of(flow_id);
        let flow = self.table.flow_mut(flow_id);
        let packet = arena.packet(id);
        let segment_len = packet
            .pending
            .gso
            .map_or(packet.payload_len as u16, |gso| gso.size);
        if packet.tunnel.is_some()
            && let Some(outer) = judge::outer_id(flow, packet)
        {
            flow.outer_id_rule = outer;
        }
        flow.seq_next = flow.seq_next.wrapping_add(packet.payload_len);
        flow.l3_total += packet.payload_len;
        flow.segments += packet.segments();
        flow.id_rule = id_rule;
        if !rules.lossless && packet.layers.transport == Transport::Tcp {
            flow.size = flow.size.max(segment_len);
        }
        let end = judge::ends_after_by_all_rules(&rules, flow, packet);
        if packet.layers.transport == Transport::Tcp {
            let moved = Moved::of(packet);
            moved.join(&rules, arena.packet_mut(flow.head));
        }
        arena.absorb(flow.head, id);
        self.stats.merged += 1;
        if let Some(end) = end {
            self.end(arena, flow_id, end);
        }
    }

    /// Ends what a packet that cannot be merged must not overtake.
    #[inline(never)]
    fn end_for(&mut self, arena: &mut Arena, id: PacketId, ends: Ends) {
        match ends {
            _ if self.table.held() == 0 => {}
            Ends::Nothing => {}
            Ends::Flow(end) => self.end_flow_of(arena, id, end),
            Ends::Pair => self.end_pair_of(arena, id),
        }
    }

    fn end_flow_of(&mut self, arena: &mut Arena, id: PacketId, end: End) {
        if let Some(flow_id) = self.flow_of(arena, id) {
            self.end(arena, flow_id, end);
        }
    }

    /// The held flow that the packet is of, by that flow's own key.
    fn flow_of(&mut self, arena: &Arena, id: PacketId) -> Option<FlowId> {
        let packet = arena.packet(id);
        let mut candidates = self.table.candidates(self.table.slot(packet));
        while let Some(flow_id) = self.table.next(&mut candidates) {
            let flow = self.table.flow(flow_id);
            let head = arena.packet(flow.head);
            let rules = &self.personalities[usize::from(flow.personality)];
            let key = &self.masks.get(rules, flow).key;
            if judge::same_lane(head, packet)
                && !rules::differ(&head.bytes, &packet.bytes, key)
                && judge::outer_difference(head, packet) != Difference::Flow
            {
                return Some(flow_id);
            }
        }
        None
    }

    /// Rare, and linear in the flows held, which the table bounds.
    fn end_pair_of(&mut self, arena: &mut Arena, id: PacketId) {
        let pair = self.table.outer_pair_hash(arena.packet(id)) as u32;
        let mut next = self.table.oldest();
        while let Some(flow_id) = next {
            next = self.table.newer(flow_id);
            if self.table.flow(flow_id).pair == pair {
                self.end(arena, flow_id, End::RefusedBelowTcp);
            }
        }
    }

    /// Ends one flow: its first packet becomes the aggregate.
    fn end(&mut self, arena: &mut Arena, flow_id: FlowId, reason: End) {
        let flow = self.table.remove(flow_id);
        self.stats.ends.count(reason);
        let rules = &self.personalities[usize::from(flow.personality)];
        let head = arena.packet_mut(flow.head);
        if flow.is_aggregate() {
            complete_aggregate(rules, head, &flow);
            self.stats.aggregate_ends.count(reason);
            self.stats.aggregates += 1;
        }
        if !rules.lossless {
            self.stats.rsc.ended(head, reason);
        }
        self.ready.push(Ready {
            id: flow.head,
            out: flow.out,
            ended: Some(reason),
        });
    }
}

/// Verifies the transport checksum, once: it is known to be good from then on.
#[inline]
fn verify(arena: &mut Arena, id: PacketId, memory: &impl Memory) -> Result<(), Alone> {
    if arena.packet(id).tunnel.is_some() {
        return verify_both(arena, id, memory);
    }
    if judge::is_vouched(arena.packet(id)) {
        return Ok(());
    }
    judge::verify(arena.packet(id), arena.payload(id), memory)?;
    arena.packet_mut(id).pending.csum = Csum::Verified;
    Ok(())
}

/// The same for a packet that is about to join an aggregate, whose payload ends at
/// `behind`, or to begin one: the memory may put its payload elsewhere. In a tunnel it
/// stays where it is.
#[inline]
fn verify_and_place(
    arena: &mut Arena,
    id: PacketId,
    behind: Option<u64>,
    memory: &impl Memory,
) -> Result<(), Alone> {
    let packet = arena.packet(id);
    let usual = !packet.tunnel.is_some() && !judge::is_vouched(packet);
    let piece = arena.only_piece(id).filter(|_| usual);
    let Some(frag) = piece else {
        return verify(arena, id, memory);
    };
    let mut place = frag.at;
    let body = || {
        let (sum, at) = memory.sum_and_place(frag, behind)?;
        place = at;
        Some(sum)
    };
    if let Err(alone) = judge::verify_with(packet, body) {
        if place != frag.at && behind.is_none() {
            memory.forget(place);
        }
        return Err(alone);
    }
    arena.move_payload(id, place);
    arena.packet_mut(id).pending.csum = Csum::Verified;
    Ok(())
}

/// Verifies the checksums of both levels of a tunnel: the inner one by the
/// payload, the outer one by what is before it.
#[inline(never)]
fn verify_both(arena: &mut Arena, id: PacketId, memory: &impl Memory) -> Result<(), Alone> {
    let packet = arena.packet(id);
    if packet.tunnel.verified {
        return Ok(());
    }
    let partial = judge::is_inner_partial(packet);
    if !partial {
        judge::verify(packet, arena.payload(id), memory)?;
    }
    if !tunnel::outer_csum_is_good(packet) {
        return Err(Alone::TunnelChecksum);
    }
    let packet = arena.packet_mut(id);
    packet.tunnel.verified = true;
    if !partial {
        packet.pending.csum = Csum::Verified;
    }
    Ok(())
}

/// The masks of every table and common shape, made once; IPv6 with extension
/// headers is rare, and made when it differs from the last such flow.
#[derive(Debug)]
struct MaskCache {
    common: Vec<Masks>,
    other: (u8, Shape, Masks),
}

/// Transport header lengths in steps of 4: UDP's 8, TCP's 20 to 60.
const LENGTHS: usize = 16;

/// [`Flow::masks`] of a shape that is not common.
const OTHER: u16 = u16::MAX;

impl MaskCache {
    fn new(personalities: &[Rules]) -> Self {
        let mut common = Vec::with_capacity(2 * LENGTHS * personalities.len());
        let shape = |net, l3_len, l4_len| Shape {
            net,
            l3_len,
            l4_len,
        };
        for rules in personalities {
            for (net, l3_len) in [(Net::V4, 20), (Net::V6, 40)] {
                let lengths = (0..LENGTHS as u8).map(|step| 4 * step);
                common.extend(lengths.map(|len| Masks::new(rules, shape(net, l3_len, len))));
            }
        }
        let other = shape(Net::V6, 48, 20);
        Self {
            common,
            other: (0, other, Masks::new(&personalities[0], other)),
        }
    }

    /// Where the masks of a table's shape are.
    fn index(personality: usize, shape: Shape) -> u16 {
        let family = match (shape.net, shape.l3_len) {
            (Net::V4, 20) => 0,
            (Net::V6, 40) => 1,
            _ => return OTHER,
        };
        let index = (2 * personality + family) * LENGTHS + usize::from(shape.l4_len / 4);
        index as u16
    }

    #[inline(always)]
    fn common(&self, index: u16) -> Option<&Masks> {
        self.common.get(usize::from(index))
    }

    fn get(&mut self, rules: &Rules, flow: &Flow) -> &Masks {
        let Self { common, other } = self;
        if let Some(masks) = common.get(usize::from(flow.masks)) {
            return masks;
        }
        if (other.0, other.1) != (flow.personality, flow.shape) {
            *other = (flow.personality, flow.shape, Masks::new(rules, flow.shape));
        }
        &other.2
    }
}
