//! What rests beyond a burst, towards ports with a hold time.
//!
//! A burst's memory goes back to its owners when the burst ends. What rests is
//! copied to the pool's own rooms before, each byte once: what joins a resting
//! packet later is copied behind it. The arena then knows one piece for each.

use std::collections::HashMap;

use jumbo_engine::coalesce::End;
use jumbo_ports::queue::Burst;

use super::Plane;
use crate::counters::Gauge;
use crate::topology::PortId;

impl Plane {
    /// Nothing but what rests is left: it is copied out of the burst's memory, which goes back.
    pub(super) fn rest(&mut self) {
        if self.promote().is_some() {
            return self.release();
        }
        // Memory that is no longer there, or no room: it leaves as it is.
        self.flush(End::HoldLimit);
        self.deliver(true);
    }

    /// Copies what rests to where it may stay; `None` if not all of it could be.
    fn promote(&mut self) -> Option<()> {
        let Burst { arena, pool, .. } = &mut self.burst;
        let resting = self.coalescer.resting();
        pool.keep_rooms(resting.map(|resting| arena.payload(resting.id)));
        self.kept.clear();
        for resting in self.coalescer.resting() {
            let (at, copied) = pool.rest(arena.payload(resting.id))?;
            self.kept.push((resting.id, at));
            if let (1.., Some(slot)) = (copied, self.topology.get_mut(PortId(resting.out as u16))) {
                slot.counters.promoted.packets += 1;
                slot.counters.promoted.bytes += copied as u64;
            }
        }
        arena.keep_only(&self.kept);
        Some(())
    }

    /// Ends all that rests, and sends it: what it relies on is about to change.
    pub fn rest_no_more(&mut self, reason: End) {
        if self.coalescer.resting_flows() != 0 {
            self.flush(reason);
            self.deliver(true);
        }
    }

    /// When [`Plane::end_burst`] is to be called again if nothing arrives.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        self.coalescer.next_deadline_ns()
    }

    /// What rests now, by the port it will leave by.
    pub fn resting(&self) -> HashMap<PortId, Gauge> {
        let mut ports: HashMap<PortId, Gauge> = HashMap::new();
        for resting in self.coalescer.resting() {
            let gauge = ports.entry(PortId(resting.out as u16)).or_default();
            gauge.packets += 1;
            gauge.bytes += u64::from(self.burst.arena.packet(resting.id).payload_len());
        }
        ports
    }
}
