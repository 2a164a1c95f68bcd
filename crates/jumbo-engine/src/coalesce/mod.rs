//! Coalescing: packets towards one out port become fewer and larger.
//!
//! For each packet of a burst call [`Coalescer::offer`]; it is either merged into
//! a held flow, or to be held with [`Coalescer::hold`] once its out port is
//! known, or passed on alone. What has ended appears in [`Coalescer::ready`], in
//! an order that never lets a packet overtake its own flow; order between flows
//! is not kept. [`Coalescer::flush`] ends everything: call it when nothing more
//! is ready to be received.
//!
//! Headers of held packets stay in their arena slots; payload is linked, never
//! copied. Cost is one hash, one set of the table and one masked comparison of
//! the header line, whatever the number of flows; only a mismatch is explained.

mod gro;
mod judge;
mod rules;
mod table;

use alloc::vec::Vec;

pub use gro::GRO;
pub use rules::{Alone, End, EndsAfter, Field, IpIdRule, Rules};
pub use table::{FLOWS_MAX, Slot};

use crate::arena::{Arena, Memory, PacketId};
use crate::packet::{Net, Packet};
use crate::pending::{Cwr, Gso, GsoKind};
use crate::reason::Counts;
use crate::superpacket::{self, FIN, PSH};
use judge::{Ends, Verdict};
use rules::{Masks, Shape};
use table::{Flow, FlowId, IdRule, Table};

/// What became of a packet.
#[derive(Copy, Clone, Debug)]
pub enum Offer {
    /// It is part of a held flow now, or of one that just ended; its slot was released.
    Merged,
    /// It may begin an aggregate: find its out port, then [`Coalescer::hold`] it.
    Hold(Slot),
    /// It goes on by itself, behind what is in [`Coalescer::ready`].
    Alone(Alone),
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
    /// Super-packets made.
    pub aggregates: u64,
}

/// The engine of one worker.
#[derive(Debug)]
pub struct Coalescer {
    rules: &'static Rules,
    masks: MaskCache,
    table: Table,
    ready: Vec<Ready>,
    stats: CoalesceStats,
}

impl Coalescer {
    /// Holds up to `flows` flows at a time ([`FLOWS_MAX`] at most). `seed` keeps
    /// a sender from choosing flows that share a place: take it from a random source.
    pub fn new(rules: &'static Rules, flows: usize, seed: u64) -> Self {
        let flows = flows.clamp(1, FLOWS_MAX);
        Self {
            rules,
            masks: MaskCache::new(rules),
            table: Table::new(flows, seed),
            ready: Vec::with_capacity(2 * flows),
            stats: CoalesceStats::default(),
        }
    }

    /// Offers a packet of the arena.
    #[inline]
    pub fn offer(&mut self, arena: &mut Arena, id: PacketId, memory: &impl Memory) -> Offer {
        let packet = arena.packet(id);
        if let Err((alone, ends)) = judge::candidate(packet, || arena.payload(id), memory) {
            self.end_for(arena, id, ends);
            return self.alone(alone);
        }
        let slot = self.table.slot(packet);
        let mut candidates = self.table.candidates(slot);
        while let Some(flow_id) = self.table.next(&mut candidates) {
            let flow = self.table.flow(flow_id);
            let head = arena.packet(flow.head);
            let masks = self.masks.get(flow.shape);
            match judge::verdict(self.rules, masks, flow, head, packet) {
                Verdict::Merge(id_rule) => {
                    self.merge(arena, flow_id, id, id_rule);
                    return Offer::Merged;
                }
                Verdict::OtherFlow => {}
                Verdict::End(end) => {
                    self.end(arena, flow_id, end);
                    break;
                }
            }
        }
        match judge::may_begin(self.rules, arena.packet(id)) {
            Ok(()) => Offer::Hold(slot),
            Err(alone) => self.alone(alone),
        }
    }

    /// Holds a packet for others to join. `slot` is from the [`Offer::Hold`] of
    /// this very packet; `out` is given back with the result.
    pub fn hold(&mut self, arena: &mut Arena, id: PacketId, slot: Slot, out: u32) {
        while let Some(flow) = self.table.in_the_way(slot) {
            self.end(arena, flow, End::TableFull);
        }
        let packet = arena.packet(id);
        let pair = self.table.pair_hash(packet) as u32;
        self.table.insert(slot, Flow::new(id, packet, out, pair));
    }

    /// Ends every held flow, oldest first.
    pub fn flush(&mut self, arena: &mut Arena, reason: End) {
        while let Some(flow) = self.table.oldest() {
            self.end(arena, flow, reason);
        }
    }

    /// Ends the held flows of one [`Packet::origin`], oldest first: that queue
    /// has nothing more, others may. Linear in the flows held.
    pub fn flush_origin(&mut self, arena: &mut Arena, origin: u32, reason: End) {
        let mut next = self.table.oldest();
        while let Some(flow_id) = next {
            next = self.table.newer(flow_id);
            if arena.packet(self.table.flow(flow_id).head).origin == origin {
                self.end(arena, flow_id, reason);
            }
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

    #[inline(always)]
    fn merge(&mut self, arena: &mut Arena, flow_id: FlowId, id: PacketId, id_rule: IdRule) {
        let flow = self.table.flow_mut(flow_id);
        let packet = arena.packet(id);
        let flags = superpacket::tcp_flags(packet);
        let payload_len = packet.payload_len;
        flow.seq_next = flow.seq_next.wrapping_add(payload_len);
        flow.l3_total += payload_len;
        flow.segments = flow.segments.wrapping_add(1);
        flow.id_rule = id_rule;
        flow.last_flags |= flags & (PSH | FIN);
        let end = judge::ends_after(self.rules, flow, flags, payload_len);
        let head = flow.head;
        arena.absorb(head, id);
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
        let packet = arena.packet(id);
        let mut candidates = self.table.candidates(self.table.slot(packet));
        while let Some(flow_id) = self.table.next(&mut candidates) {
            let flow = self.table.flow(flow_id);
            let head = arena.packet(flow.head);
            let masks = self.masks.get(flow.shape);
            let same = head.tags == packet.tags
                && head.origin == packet.origin
                && !rules::differ(&head.bytes, &packet.bytes, &masks.key);
            if same {
                return self.end(arena, flow_id, end);
            }
        }
    }

    /// Rare, and linear in the flows held, which the table bounds.
    fn end_pair_of(&mut self, arena: &mut Arena, id: PacketId) {
        let pair = self.table.pair_hash(arena.packet(id)) as u32;
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
        if flow.segments > 1 {
            self.stats.aggregate_ends.count(reason);
            self.stats.aggregates += 1;
            complete_aggregate(arena.packet_mut(flow.head), &flow);
        }
        self.ready.push(Ready {
            id: flow.head,
            out: flow.out,
            ended: Some(reason),
        });
    }
}

/// Writes what a super-packet's header must say (Linux `tcp_gro_complete`,
/// `inet_gro_complete`). A packet that stayed single is not touched.
fn complete_aggregate(head: &mut Packet, flow: &Flow) {
    let flags_at = head.l4_at() + 13;
    if let Some(flags) = head.bytes.get_mut(flags_at) {
        *flags |= flow.last_flags;
    }
    let cwr = if superpacket::has_cwr(head) {
        Cwr::All
    } else {
        Cwr::FirstOnly
    };
    head.pending.gso = Some(Gso {
        kind: match head.layers.net {
            Net::V6 => GsoKind::Tcp6,
            _ => GsoKind::Tcp4,
        },
        size: flow.size,
        cwr,
        fixed_id: flow.id_rule == IdRule::Fixed,
    });
    superpacket::settle_header(head);
}

/// The masks of the common shapes, made once; IPv6 with extension headers is
/// rare, and made when it differs from the last such shape.
#[derive(Debug)]
struct MaskCache {
    rules: &'static Rules,
    common: Vec<Masks>,
    other: (Shape, Masks),
}

/// TCP header lengths: 20 to 60 bytes in steps of 4.
const TCP_LENGTHS: usize = 11;

impl MaskCache {
    fn new(rules: &'static Rules) -> Self {
        let mut common = Vec::with_capacity(2 * TCP_LENGTHS);
        for (net, l3_len) in [(Net::V4, 20), (Net::V6, 40)] {
            for step in 0..TCP_LENGTHS as u8 {
                let shape = Shape {
                    net,
                    l3_len,
                    l4_len: 20 + 4 * step,
                };
                common.push(Masks::new(rules, shape));
            }
        }
        let shape = Shape {
            net: Net::V6,
            l3_len: 48,
            l4_len: 20,
        };
        Self {
            rules,
            common,
            other: (shape, Masks::new(rules, shape)),
        }
    }

    #[inline(always)]
    fn get(&mut self, shape: Shape) -> &Masks {
        let family = match (shape.net, shape.l3_len) {
            (Net::V4, 20) => Some(0),
            (Net::V6, 40) => Some(TCP_LENGTHS),
            _ => None,
        };
        let step = usize::from(shape.l4_len / 4).wrapping_sub(5);
        match family.and_then(|family| self.common.get(family + step)) {
            Some(masks) => masks,
            None => Self::other(self.rules, &mut self.other, shape),
        }
    }

    #[cold]
    fn other<'a>(
        rules: &Rules,
        (made_for, masks): &'a mut (Shape, Masks),
        shape: Shape,
    ) -> &'a Masks {
        if *made_for != shape {
            *made_for = shape;
            *masks = Masks::new(rules, shape);
        }
        masks
    }
}
