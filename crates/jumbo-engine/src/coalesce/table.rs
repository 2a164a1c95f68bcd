//! Which flows are held: a set-associative index over a fixed slab.
//!
//! A look-up touches one 32-byte set and the flow itself, however many flows are
//! held. A full set or slab gives up its oldest flow. The order in which flows
//! were begun is a list through the slab, so that a flush delivers oldest first.

use alloc::boxed::Box;
use alloc::vec;

use super::rules::Shape;
use crate::arena::PacketId;
use crate::packet::{HEADER_ROOM, L3_AT, Net, Packet, array};
use crate::superpacket::{FIN, PSH};
use crate::tunnel;

const WAYS: usize = 8;
const NONE: u16 = u16::MAX;
/// The deadline of a flow that does not rest.
const AWAKE: u64 = u64::MAX;
/// Most flows a table can hold: indices are 16 bits, one value means none.
pub const FLOWS_MAX: usize = 32768;

/// A held flow.
#[derive(Copy, Clone, Debug)]
#[repr(C, align(64))]
pub(crate) struct Flow {
    /// The first packet: it becomes the aggregate.
    pub(crate) head: PacketId,
    /// The caller's word about where it goes.
    pub(crate) out: u32,
    pub(crate) seq_next: u32,
    /// Network header and all behind it, so far; bytes.
    pub(crate) l3_total: u32,
    /// The longest it may become; bytes.
    pub(crate) l3_total_max: u32,
    /// Segment size: payload of the first packet, or the largest so far; bytes.
    pub(crate) size: u16,
    pub(crate) segments: u16,
    /// The most there may be.
    pub(crate) segments_max: u16,
    /// Segments of the first packet.
    pub(crate) segments_first: u16,
    pub(crate) id_first: u16,
    pub(crate) id_rule: IdRule,
    /// The same of a tunnel's header.
    pub(crate) outer_id_rule: IdRule,
    pub(crate) outer_id_first: u16,
    /// PSH and FIN of the packets merged so far.
    pub(crate) last_flags: u8,
    pub(crate) shape: Shape,
    /// Where its masks are.
    pub(crate) masks: u16,
    /// By which of the coalescer's tables.
    pub(crate) personality: u8,
    /// Under plain rules ([`super::Rules::is_plain`]).
    pub(crate) plain: bool,
    /// Length of its network header, if comparing is all that packets which come by the fast
    /// door need, else 0.
    pub(crate) door: u8,
    way: u8,
    set: u16,
    /// Pure ACKs whose values it took over.
    pub(crate) acks: u16,
    /// Hash of the address pair.
    pub(crate) pair: u32,
    older: u16,
    newer: u16,
    born: u32,
    /// How long it may rest beyond its burst; 0: not at all. Nanoseconds.
    pub(crate) hold_ns: u32,
}

/// How the IPv4 ID goes on, as the second packet decided.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum IdRule {
    Undecided,
    Fixed,
    Incrementing,
}

#[derive(Copy, Clone, Debug)]
#[repr(C, align(32))]
struct Set {
    /// Four tags each, the first in the lowest bits; zero marks an empty way.
    tags: [u64; WAYS / LANES],
    flows: [u16; WAYS],
}

/// Tags in a word.
const LANES: usize = 4;

impl Set {
    const EMPTY: Self = Self {
        tags: [0; WAYS / LANES],
        flows: [NONE; WAYS],
    };

    fn free_way(&self) -> Option<usize> {
        let tag = |way: &usize| (self.tags[way / LANES] >> (16 * (way % LANES))) as u16;
        (0..WAYS).find(|way| tag(way) == 0)
    }

    fn set_tag(&mut self, way: usize, tag: u16) {
        let (word, at) = (&mut self.tags[way / LANES % 2], 16 * (way % LANES));
        *word = *word & !(0xffff << at) | u64::from(tag) << at;
    }
}

/// Where a flow belongs in the index.
#[derive(Copy, Clone, Debug)]
pub struct Slot {
    set: u16,
    tag: u16,
}

#[derive(Debug)]
pub(crate) struct Table {
    sets: Box<[Set]>,
    flows: Box<[Flow]>,
    /// Until when each flow rests, by the caller's clock; [`AWAKE`] if its burst still lasts.
    deadlines_ns: Box<[u64]>,
    resting: usize,
    free: u16,
    oldest: u16,
    newest: u16,
    held: usize,
    births: u32,
    seed: [u64; 2],
    /// The flow that was found last, and by what: packets of a flow come in trains.
    recent: ([u64; 2], u16),
}

/// Names a held flow.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct FlowId(u16);

impl Flow {
    /// A flow of one packet, under rules still to be said.
    pub(crate) fn new(head: PacketId, packet: &Packet, out: u32, pair: u32) -> Self {
        let (size, id_rule) = match packet.pending.gso {
            None => (packet.payload_len as u16, IdRule::Undecided),
            Some(gso) if gso.fixed_id => (gso.size, IdRule::Fixed),
            Some(gso) => (gso.size, IdRule::Incrementing),
        };
        Self {
            head,
            out,
            seq_next: packet.tcp_seq().wrapping_add(packet.payload_len),
            l3_total: packet.l3_total_len() as u32,
            size,
            segments: packet.segments(),
            segments_first: packet.segments(),
            id_first: packet.be16(L3_AT + 4),
            outer_id_first: tunnel::outer_id(packet),
            id_rule,
            shape: Shape::of(packet),
            pair,
            ..Self::BLANK
        }
    }

    const BLANK: Self = Self {
        head: PacketId(0),
        out: 0,
        seq_next: 0,
        l3_total: 0,
        l3_total_max: 0,
        size: 0,
        segments: 0,
        segments_first: 0,
        segments_max: u16::MAX,
        id_first: 0,
        id_rule: IdRule::Undecided,
        outer_id_rule: IdRule::Undecided,
        outer_id_first: 0,
        last_flags: 0,
        shape: Shape {
            net: Net::None,
            l3_len: 0,
            l4_len: 0,
        },
        masks: 0,
        personality: 0,
        plain: false,
        door: 0,
        acks: 0,
        pair: 0,
        set: 0,
        way: 0,
        older: NONE,
        newer: NONE,
        born: 0,
        hold_ns: 0,
    };

    /// Takes in a segment under plain rules. Returns whether that may have been the last.
    #[inline(always)]
    pub(crate) fn grow(&mut self, payload_len: u32, flags: u8, id_rule: IdRule) -> bool {
        self.seq_next = self.seq_next.wrapping_add(payload_len);
        self.l3_total += payload_len;
        self.segments = self.segments.wrapping_add(1);
        self.id_rule = id_rule;
        self.last_flags |= flags & (PSH | FIN);
        flags & (PSH | FIN) != 0 || payload_len < u32::from(self.size)
    }

    /// Whether anything joined the first packet.
    #[inline(always)]
    pub(crate) fn is_aggregate(&self) -> bool {
        self.segments != self.segments_first || self.acks != 0
    }
}

impl Table {
    pub(crate) fn new(flows: usize, seed: u64) -> Self {
        let flows = flows.clamp(1, FLOWS_MAX);
        let mut slab = vec![Flow::BLANK; flows].into_boxed_slice();
        for (i, flow) in slab.iter_mut().enumerate() {
            flow.newer = if i + 1 < flows { i as u16 + 1 } else { NONE };
        }
        // One flow to a set of eight on average: at that load one set in a
        // million overflows. (At four to a set one in seventy does, and flows
        // that take turns then evict each other for ever.)
        let sets = flows.next_power_of_two();
        Self {
            sets: vec![Set::EMPTY; sets].into_boxed_slice(),
            flows: slab,
            deadlines_ns: vec![AWAKE; flows].into_boxed_slice(),
            resting: 0,
            free: 0,
            oldest: NONE,
            newest: NONE,
            held: 0,
            births: 0,
            recent: ([0; 2], NONE),
            seed: [
                seed ^ 0x9e37_79b9_7f4a_7c15,
                seed.rotate_left(32) ^ 0xd1b5_4a32_d192_ed03,
            ],
        }
    }

    #[inline]
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// Where a TCP packet's flow belongs. Addresses and ports only; MAC
    /// addresses and tags are compared, not hashed.
    #[inline(always)]
    pub(crate) fn slot(&self, packet: &Packet) -> Slot {
        self.slot_of(packet.layers.net, &packet.bytes, packet.l4_at())
    }

    /// The same from the bytes of a private header, with the transport header at `l4_at`.
    #[inline(always)]
    pub(crate) fn slot_of(&self, net: Net, bytes: &[u8; HEADER_ROOM], l4_at: usize) -> Slot {
        let ports = u64::from(u32::from_be_bytes(array(bytes, l4_at)));
        let hash = self.mix(self.hash_of(net, bytes) ^ ports.rotate_left(17), 1);
        Slot {
            set: (hash as usize & (self.sets.len() - 1)) as u16,
            // Zero marks an empty way.
            tag: (hash >> 48) as u16 | 1,
        }
    }

    /// Hash of protocol family and address pair.
    #[inline(always)]
    pub(crate) fn pair_hash(&self, packet: &Packet) -> u64 {
        self.hash_of(packet.layers.net, &packet.bytes)
    }

    #[inline(always)]
    fn hash_of(&self, net: Net, bytes: &[u8; HEADER_ROOM]) -> u64 {
        let word = |at: usize| u64::from_ne_bytes(array(bytes, at));
        match net {
            Net::V6 => {
                let src = self.mix(word(L3_AT + 8) ^ self.seed[1], 0) ^ word(L3_AT + 16);
                let dst = self.mix(word(L3_AT + 24) ^ src, 0) ^ word(L3_AT + 32);
                self.mix(dst, 1)
            }
            _ => self.mix(word(L3_AT + 12), 0),
        }
    }

    /// Hash of the outermost address pair.
    #[inline(always)]
    pub(crate) fn outer_pair_hash(&self, packet: &Packet) -> u64 {
        match packet.tunnel.is_some() {
            true => self.tunnel_pair_hash(packet),
            false => self.pair_hash(packet),
        }
    }

    #[inline(never)]
    fn tunnel_pair_hash(&self, packet: &Packet) -> u64 {
        let mut outer = Packet::BLANK;
        outer.layers.net = packet.tunnel.net;
        outer.bytes = packet.outer;
        self.pair_hash(&outer)
    }

    /// Folded multiply: every input bit reaches every output bit.
    #[inline(always)]
    fn mix(&self, word: u64, with: usize) -> u64 {
        let product = u128::from(word ^ self.seed[with & 1]) * 0x9ddf_ea08_eb38_2d69_u128;
        (product as u64) ^ (product >> 64) as u64
    }

    /// The flows that may be the one looked for.
    #[inline(always)]
    pub(crate) fn candidates(&self, slot: Slot) -> Candidates {
        let set = &self.sets[usize::from(slot.set)];
        Candidates {
            hits: set.tags.map(|tags| equal_lanes(tags, slot.tag)),
            set: slot.set,
        }
    }

    #[inline(always)]
    pub(crate) fn next(&self, candidates: &mut Candidates) -> Option<FlowId> {
        let [low, high] = &mut candidates.hits;
        let (hits, first) = if *low != 0 {
            (low, 0)
        } else {
            (high, WAYS / 2)
        };
        if *hits == 0 {
            return None;
        }
        let way = first + hits.trailing_zeros() as usize / 16;
        *hits &= *hits - 1;
        let flow = self.sets[usize::from(candidates.set)].flows[way & (WAYS - 1)];
        Some(FlowId(flow))
    }

    #[inline(always)]
    pub(crate) fn flow(&self, id: FlowId) -> &Flow {
        &self.flows[usize::from(id.0)]
    }

    #[inline(always)]
    pub(crate) fn flow_mut(&mut self, id: FlowId) -> &mut Flow {
        &mut self.flows[usize::from(id.0)]
    }

    /// The flow found last, if it was by the same key.
    #[inline(always)]
    pub(crate) fn recent(&self, key: [u64; 2]) -> Option<FlowId> {
        let (by, flow) = self.recent;
        (by == key && flow != NONE).then_some(FlowId(flow))
    }

    /// The flow found last, if it is still held.
    #[inline(always)]
    pub(crate) fn found_last(&self) -> Option<FlowId> {
        (self.recent.1 != NONE).then_some(FlowId(self.recent.1))
    }

    /// Notes which flow was found, until it is removed.
    #[inline(always)]
    pub(crate) fn note_recent(&mut self, key: [u64; 2], flow: FlowId) {
        self.recent = (key, flow.0);
    }

    /// The flow that must leave before one can be inserted at `slot`, if any.
    pub(crate) fn in_the_way(&self, slot: Slot) -> Option<FlowId> {
        let set = &self.sets[usize::from(slot.set)];
        if set.free_way().is_some() {
            return (self.free == NONE).then_some(FlowId(self.oldest));
        }
        let age = |flow: &u16| {
            self.births
                .wrapping_sub(self.flows[usize::from(*flow)].born)
        };
        set.flows.iter().copied().max_by_key(age).map(FlowId)
    }

    /// Inserts; there must be room ([`Table::in_the_way`]).
    pub(crate) fn insert(&mut self, slot: Slot, flow: Flow) {
        let index = self.free;
        let set = &mut self.sets[usize::from(slot.set)];
        let Some(way) = set.free_way() else {
            debug_assert!(false, "insert into a full set");
            return;
        };
        let Some(place) = self.flows.get_mut(usize::from(index)) else {
            debug_assert!(false, "insert into a full slab");
            return;
        };
        self.free = place.newer;
        set.set_tag(way, slot.tag);
        set.flows[way] = index;
        *place = Flow {
            set: slot.set,
            way: way as u8,
            older: self.newest,
            newer: NONE,
            born: self.births,
            ..flow
        };
        match self.flows.get_mut(usize::from(self.newest)) {
            Some(newest) => newest.newer = index,
            None => self.oldest = index,
        }
        self.newest = index;
        self.births = self.births.wrapping_add(1);
        self.held += 1;
    }

    pub(crate) fn remove(&mut self, id: FlowId) -> Flow {
        let flow = *self.flow(id);
        if self.recent.1 == id.0 {
            self.recent.1 = NONE;
        }
        self.sets[usize::from(flow.set)].set_tag(usize::from(flow.way), 0);
        match self.flows.get_mut(usize::from(flow.older)) {
            Some(older) => older.newer = flow.newer,
            None => self.oldest = flow.newer,
        }
        match self.flows.get_mut(usize::from(flow.newer)) {
            Some(newer) => newer.older = flow.older,
            None => self.newest = flow.older,
        }
        self.flow_mut(id).newer = self.free;
        self.free = id.0;
        self.held -= 1;
        if flow.hold_ns != 0 {
            let deadline_ns = &mut self.deadlines_ns[usize::from(id.0)];
            let rested = core::mem::replace(deadline_ns, AWAKE) != AWAKE;
            self.resting -= usize::from(rested);
        }
        flow
    }

    /// The end of a flow's burst: it may rest, and how long is settled the first time. Returns until when.
    pub(crate) fn rest(&mut self, id: FlowId, now_ns: u64) -> u64 {
        let hold_ns = u64::from(self.flow(id).hold_ns);
        let deadline_ns = &mut self.deadlines_ns[usize::from(id.0)];
        if *deadline_ns == AWAKE {
            *deadline_ns = now_ns.saturating_add(hold_ns).min(AWAKE - 1);
            self.resting += 1;
        }
        *deadline_ns
    }

    /// Until when a flow rests; `None` if it does not.
    pub(crate) fn rests_until(&self, id: FlowId) -> Option<u64> {
        let deadline_ns = self.deadlines_ns[usize::from(id.0)];
        (deadline_ns != AWAKE).then_some(deadline_ns)
    }

    /// How many rest.
    #[inline]
    pub(crate) fn resting(&self) -> usize {
        self.resting
    }

    #[inline]
    pub(crate) fn oldest(&self) -> Option<FlowId> {
        (self.oldest != NONE).then_some(FlowId(self.oldest))
    }

    #[inline]
    pub(crate) fn newer(&self, id: FlowId) -> Option<FlowId> {
        let newer = self.flow(id).newer;
        (newer != NONE).then_some(FlowId(newer))
    }
}

/// Ways of a set whose tag may fit: the top bit of each 16-bit lane.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Candidates {
    hits: [u64; 2],
    set: u16,
}

/// The top bit of every lane that equals `tag`. A lane next to an equal one may
/// be marked too (the borrow of the subtraction); its headers will differ.
#[inline(always)]
fn equal_lanes(tags: u64, tag: u16) -> u64 {
    const ONES: u64 = 0x0001_0001_0001_0001;
    let zero_if_equal = tags ^ (u64::from(tag) * ONES);
    zero_if_equal.wrapping_sub(ONES) & !zero_if_equal & (ONES << 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A flow is one cache line: more would cost every packet.
    #[test]
    fn flow_is_one_cache_line() {
        assert_eq!(core::mem::size_of::<Flow>(), 64);
    }

    /// Flows that share a set, told apart by their sequence number.
    fn crowd(table: &mut Table, count: u32) {
        for n in 0..count {
            let slot = Slot {
                set: 0,
                tag: (2 * n + 1) as u16,
            };
            let mut flow = Flow::new(PacketId(n), &Packet::BLANK, 0, 0);
            flow.seq_next = n;
            table.insert(slot, flow);
        }
    }

    #[test]
    fn full_set_gives_up_its_oldest() {
        let mut table = Table::new(64, 7);
        crowd(&mut table, WAYS as u32);
        let slot = Slot { set: 0, tag: 99 };
        let victim = table.in_the_way(slot).expect("the set is full");
        assert_eq!(table.flow(victim).seq_next, 0);
        table.remove(victim);
        assert_eq!(table.in_the_way(slot), None);
        assert_eq!(table.in_the_way(Slot { set: 1, tag: 99 }), None);
    }

    #[test]
    fn full_slab_gives_up_the_oldest_of_all() {
        let mut table = Table::new(4, 7);
        crowd(&mut table, 4);
        let victim = table.in_the_way(Slot { set: 1, tag: 1 });
        let victim = victim.expect("the slab is full");
        assert_eq!(table.flow(victim).seq_next, 0);
        table.remove(victim);
        assert_eq!(table.held(), 3);
        assert_eq!(table.flow(table.oldest().expect("held")).seq_next, 1);
    }

    #[test]
    fn equal_tags_are_found_and_others_not() {
        let tags = [5, 7, 5, 9];
        let mut set = Set::EMPTY;
        for (way, tag) in tags.into_iter().enumerate() {
            assert_eq!(set.free_way(), Some(way));
            set.set_tag(way, tag);
        }
        let [word, other] = set.tags;
        assert_eq!(other, 0);
        assert_eq!(equal_lanes(word, 5) & 0x8000, 0x8000);
        assert_eq!(equal_lanes(word, 11), 0);
        for (lane, tag) in tags.into_iter().enumerate() {
            assert_ne!(equal_lanes(word, tag) & (0x8000 << (16 * lane)), 0);
        }
        set.set_tag(1, 0);
        assert_eq!(set.free_way(), Some(1));
        assert_eq!(equal_lanes(set.tags[0], 7), 0);
    }
}
