//! Hold time: aggregates that rest beyond the burst they came in.
//!
//! Time is an argument: the caller's clock, in nanoseconds from wherever it likes.
//! What rests is bounded in time by [`Towards::hold_ns`](super::Towards), settled
//! at the end of the first burst and never extended, and in number and bytes by
//! [`RestBounds`]. Before the memory of a burst goes, the caller copies the payload of
//! everything in [`Coalescer::resting`] to where it may stay, and tells the arena
//! ([`Arena::keep_only`]).

use super::table::FlowId;
use super::{Coalescer, End};
use crate::arena::{Arena, PacketId};

/// How much may rest beyond a burst.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct RestBounds {
    /// Flows.
    pub flows: usize,
    /// Bytes of their payload.
    pub bytes: usize,
}

/// A flow that rests.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Resting {
    /// Its first packet, with the payload of all that joined it.
    pub id: PacketId,
    /// The caller's word of [`Coalescer::hold`].
    pub out: u32,
    /// When it will leave, at the latest.
    pub deadline_ns: u64,
}

impl Coalescer {
    /// Ends a burst: of the queue with this [`Packet::origin`](crate::packet::Packet), or of all. Its flows
    /// leave, oldest first, but for those that may rest. Of all that rest, whichever queue
    /// they came by, those whose time is over leave, and the oldest beyond `bounds`.
    ///
    /// Linear in the flows held.
    pub fn end_burst(
        &mut self,
        arena: &mut Arena,
        origin: Option<u32>,
        now_ns: u64,
        bounds: RestBounds,
    ) {
        let mut left = RestBounds { flows: 0, bytes: 0 };
        self.nearest_ns = u64::MAX;
        let mut next = self.table.oldest();
        while let Some(flow_id) = next {
            next = self.table.newer(flow_id);
            let flow = self.table.flow(flow_id);
            let head = arena.packet(flow.head);
            let burst_ends = origin.is_none_or(|origin| head.origin == origin);
            if burst_ends && flow.hold_ns == 0 {
                self.end(arena, flow_id, End::BurstEnd);
            } else if let Some(deadline_ns) = self.deadline(flow_id, burst_ends, now_ns) {
                if deadline_ns <= now_ns {
                    self.end(arena, flow_id, End::HoldTime);
                    continue;
                }
                left.flows += 1;
                left.bytes += head.payload_len() as usize;
                self.nearest_ns = self.nearest_ns.min(deadline_ns);
            }
        }
        if left.flows > bounds.flows || left.bytes > bounds.bytes {
            self.make_room(arena, left, bounds);
        }
    }

    /// Until when a flow rests, if it does: from now on, if its burst ends.
    fn deadline(&mut self, flow_id: FlowId, burst_ends: bool, now_ns: u64) -> Option<u64> {
        match burst_ends {
            true => Some(self.table.rest(flow_id, now_ns)),
            false => self.table.rests_until(flow_id),
        }
    }

    /// Ends the oldest of what rests, until the bounds are kept.
    #[cold]
    fn make_room(&mut self, arena: &mut Arena, mut left: RestBounds, bounds: RestBounds) {
        let mut next = self.table.oldest();
        while let (Some(flow_id), true) =
            (next, left.flows > bounds.flows || left.bytes > bounds.bytes)
        {
            next = self.table.newer(flow_id);
            if self.table.rests_until(flow_id).is_some() {
                left.flows -= 1;
                left.bytes -= arena.packet(self.table.flow(flow_id).head).payload_len() as usize;
                self.end(arena, flow_id, End::HoldLimit);
            }
        }
    }

    /// What rests, oldest first.
    pub fn resting(&self) -> impl Iterator<Item = Resting> {
        let oldest = self.table.oldest();
        let flows = core::iter::successors(oldest, |flow_id| self.table.newer(*flow_id));
        flows.filter_map(|flow_id| {
            let (flow, deadline_ns) = (self.table.flow(flow_id), self.table.rests_until(flow_id)?);
            Some(Resting {
                id: flow.head,
                out: flow.out,
                deadline_ns,
            })
        })
    }

    /// How many flows rest. All others that are held belong to a burst that has not ended.
    #[inline]
    pub fn resting_flows(&self) -> usize {
        self.table.resting()
    }

    /// When [`Coalescer::end_burst`] is to be called again, if nothing arrives: never
    /// later than the nearest deadline, and too early only if that flow left meanwhile.
    #[inline]
    pub fn next_deadline_ns(&self) -> Option<u64> {
        (self.table.resting() != 0).then_some(self.nearest_ns)
    }
}
