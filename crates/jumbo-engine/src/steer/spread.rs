//! From flows to workers: RPS, which spreads, and RFS, which follows.
//!
//! Both are Linux's (`net/core/dev.c` `get_rps_cpu`, 6.12; `Documentation/networking/scaling.rst`),
//! with workers for CPUs. Steer aggregates, not packets: coalesce in the queue first, then ask with
//! the hash of the aggregate.

use alloc::boxed::Box;
use alloc::vec;

/// Workers to spread over by hash: Linux's `rps_cpus`.
///
/// The hash is multiplied, not divided: `(hash * workers) >> 32` (`reciprocal_scale` of
/// `include/linux/kernel.h`). So it is the *high* bits that choose, which the low bits that chose
/// the queue say nothing of.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Rps {
    workers: Box<[u16]>,
}

impl Rps {
    /// Over these workers, in this order; none: no steering.
    pub fn new(workers: impl Into<Box<[u16]>>) -> Self {
        Self {
            workers: workers.into(),
        }
    }

    /// The workers.
    #[must_use]
    pub fn workers(&self) -> &[u16] {
        &self.workers
    }

    /// The worker for a hash. `None` if the packet should stay where it is: there are no workers,
    /// or the hash is 0, which stands for "no hash".
    #[inline]
    #[must_use]
    pub fn worker(&self, hash: u32) -> Option<u16> {
        if hash == 0 {
            return None;
        }
        let at = (u64::from(hash) * self.workers.len() as u64) >> 32;
        self.workers.get(at as usize).copied()
    }
}

/// Most entries of [`Desired`] and [`Flows`].
pub const FLOW_ENTRIES_MAX: usize = 1 << 20;

/// Where each flow is wanted: Linux's `rps_sock_flow_table`, one for all queues.
///
/// A consumer writes down where it reads a flow, [`Flows`] follow. An entry holds the worker in its
/// low bits and the hash in its others, so that a flow that shares the entry is, nearly always, not
/// taken for the one that wrote it.
#[derive(Clone, Debug)]
pub struct Desired {
    // A power of two.
    entries: Box<[u32]>,
    worker_mask: u32,
}

impl Desired {
    /// `entries` entries, rounded up to a power of two and bounded by [`FLOW_ENTRIES_MAX`], for
    /// workers 0 to `workers` - 1.
    #[must_use]
    pub fn new(entries: usize, workers: u16) -> Self {
        let worker_mask = u32::from(workers.max(1)).next_power_of_two() - 1;
        Self {
            entries: vec![!0; entry_count(entries)].into_boxed_slice(),
            // An empty entry has all of these bits set, so that must not be a worker.
            worker_mask: worker_mask << 1 | 1,
        }
    }

    /// `worker` consumes the flow with this hash. A hash of 0 and a worker that was not foreseen
    /// are not noted.
    #[inline]
    pub fn record(&mut self, hash: u32, worker: u16) {
        let at = hash as usize & (self.entries.len() - 1);
        if hash != 0 && u32::from(worker) < self.worker_mask {
            self.entries[at] = hash & !self.worker_mask | u32::from(worker);
        }
    }

    /// Where the flow is wanted, if anybody said so last.
    #[inline]
    #[must_use]
    pub fn worker(&self, hash: u32) -> Option<u16> {
        let entry = self.entries[hash as usize & (self.entries.len() - 1)];
        let worker = entry & self.worker_mask;
        let ours = (entry ^ hash) & !self.worker_mask == 0;
        (hash != 0 && ours && worker != self.worker_mask).then_some(worker as u16)
    }
}

/// How far a worker's input queue is: packets taken out of it ever, modulo 2^32. `None`: there is no
/// such worker now.
pub trait Heads {
    /// See the trait.
    fn head(&self, worker: u16) -> Option<u32>;
}

impl<F: Fn(u16) -> Option<u32>> Heads for F {
    fn head(&self, worker: u16) -> Option<u32> {
        self(worker)
    }
}

/// Whether a flow may leave its worker without its packets overtaking one another: the worker is
/// gone (`head` is `None`), or has taken out all that the flow had put in.
///
/// `last_tail` counts packets ever put into the worker's queue, up to and with the flow's last one;
/// `head` those taken out. Both are modulo 2^32 and compared as a difference, as Linux does.
#[inline]
#[must_use]
pub const fn may_move(head: Option<u32>, last_tail: u32) -> bool {
    match head {
        None => true,
        Some(head) => head.wrapping_sub(last_tail) as i32 >= 0,
    }
}

#[derive(Copy, Clone, Debug, Default)]
struct Flow {
    worker: Option<u16>,
    last_tail: u32,
}

/// Where each flow of one queue is now: Linux's `rps_dev_flow_table`.
#[derive(Clone, Debug)]
pub struct Flows {
    // A power of two.
    flows: Box<[Flow]>,
}

impl Flows {
    /// `entries` entries, rounded up to a power of two and bounded by [`FLOW_ENTRIES_MAX`]. Flows
    /// that share an entry move together.
    #[must_use]
    pub fn new(entries: usize) -> Self {
        Self {
            flows: vec![Flow::default(); entry_count(entries)].into_boxed_slice(),
        }
    }

    /// The worker that the next packet of the flow goes to. It follows `desired` as soon as that
    /// cannot reorder the flow ([`may_move`]). `None`: nobody wants the flow, or the worker it
    /// would go to is gone; ask [`Rps`] instead.
    #[inline]
    pub fn steer(&mut self, hash: u32, desired: Option<u16>, heads: &impl Heads) -> Option<u16> {
        let desired = desired?;
        let flow = self.flow(hash);
        let now = flow.worker.filter(|now| *now != desired);
        let settled = flow.worker == Some(desired);
        if !settled && may_move(now.and_then(|now| heads.head(now)), flow.last_tail) {
            *flow = Flow {
                worker: Some(desired),
                last_tail: heads.head(desired).unwrap_or(0),
            };
        }
        flow.worker.filter(|worker| heads.head(*worker).is_some())
    }

    /// A packet of the flow was put into the queue of the worker that [`steer`](Self::steer) named;
    /// `tail` counts what was ever put into that queue, this packet included, modulo 2^32.
    #[inline]
    pub fn enqueued(&mut self, hash: u32, tail: u32) {
        self.flow(hash).last_tail = tail;
    }

    #[inline]
    fn flow(&mut self, hash: u32) -> &mut Flow {
        let at = hash as usize & (self.flows.len() - 1);
        &mut self.flows[at]
    }
}

fn entry_count(entries: usize) -> usize {
    entries.clamp(1, FLOW_ENTRIES_MAX).next_power_of_two()
}
