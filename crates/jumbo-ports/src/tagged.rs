//! A wrapper that puts any port into a VLAN: packets received through it get a
//! tag, packets sent through it lose theirs; one without that tag is refused, as
//! is one received with so many tags that there is no room for another.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use jumbo_engine::arena::Pieces;
use jumbo_engine::packet::{Packet, Tag};
use jumbo_engine::vnet::HeaderFault;

use crate::pool::Pool;
use crate::queue::{Burst, Queue, RxEnd, RxStats, TxFault};

/// The wrapped queue.
#[derive(Debug)]
pub struct Tagged {
    inner: Box<dyn Queue>,
    tag: Tag,
}

impl Tagged {
    /// Puts `inner` into the VLAN of `tag`.
    pub fn new(inner: Box<dyn Queue>, tag: Tag) -> Self {
        Self { inner, tag }
    }
}

impl Queue for Tagged {
    fn rx(&mut self, burst: &mut Burst, stats: &mut RxStats) -> RxEnd {
        let before = burst.batch.len();
        let end = self.inner.rx(burst, stats);
        let Burst { arena, batch, .. } = burst;
        let mut kept = before;
        for index in before..batch.len() {
            let id = batch[index];
            if arena.packet_mut(id).tags_mut().push_outer(self.tag) {
                batch[kept] = id;
                kept += 1;
            } else {
                // With its own tags it would be in a VLAN of the sender's choice.
                arena.release(id);
                stats.faults.count(HeaderFault::NoRoom);
            }
        }
        batch.truncate(kept);
        end
    }

    fn tx(&mut self, packet: &Packet, payload: Pieces<'_>, pool: &Pool) -> Result<(), TxFault> {
        let mut untagged = packet.clone();
        // The VLAN id decides; priority and drop eligibility are the sender's.
        let vid = |tag: Tag| tag.tci & 0x0fff;
        match untagged.tags_mut().pop_outer() {
            Some(tag) if vid(tag) == vid(self.tag) && tag.tpid == self.tag.tpid => {}
            _ => return Err(TxFault::Refused),
        }
        self.inner.tx(&untagged, payload, pool)
    }

    fn publish(&mut self) {
        self.inner.publish();
    }

    fn lost(&mut self) -> Option<(TxFault, u32)> {
        self.inner.lost()
    }

    fn release(&mut self) {
        self.inner.release();
    }

    fn can_wait(&self) -> bool {
        self.inner.can_wait()
    }

    fn is_exchanged(&self) -> bool {
        self.inner.is_exchanged()
    }

    fn successor(&mut self) -> Option<Box<dyn Queue>> {
        if let Some(inner) = self.inner.successor() {
            self.inner = inner;
        }
        None
    }

    fn wait_for_room(&mut self, timeout: Duration) {
        self.inner.wait_for_room(timeout);
    }

    fn stopped_by(&self) -> Option<String> {
        self.inner.stopped_by()
    }

    fn arm(&mut self) -> bool {
        self.inner.arm()
    }

    fn has_packets(&self) -> Option<bool> {
        self.inner.has_packets()
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.fd()
    }
}
