//! What a worker has of a guest whose rings are being exchanged for others by one message.
//!
//! A message that changes what running rings depend on (memory, features, a descriptor) takes the rings away from the
//! workers and hands them back, changed, before it is answered. A packet that comes in between waits as for a full
//! ring, and leaves by the new rings as soon as they are there, even before the worker, who may be in the middle of a
//! burst, is told of them.

use std::os::fd::BorrowedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jumbo_engine::arena::Pieces;
use jumbo_engine::complete::{Plan, plan};
use jumbo_engine::packet::Packet;
use jumbo_engine::pending::Caps;

use crate::pool::Pool;
use crate::queue::{Burst, Queue, RxEnd, RxStats, TxFault};

/// What comes after the present rings, of one worker.
#[derive(Clone, Debug)]
pub(super) struct Place(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    next: Mutex<Next>,
    changed: Condvar,
}

#[derive(Debug)]
enum Next {
    /// Soon.
    Coming,
    /// It is there.
    Here(Fresh),
    /// Nothing: the port is down, or the worker has it already.
    Nothing,
}

/// The rings that came, and what their guest takes.
#[derive(Debug)]
struct Fresh {
    queue: Box<dyn Queue>,
    takes: Caps,
    mtu: usize,
}

impl Fresh {
    /// Sends what was made ready for what the guest took before, if it still takes that.
    fn send(&mut self, packet: &Packet, payload: Pieces<'_>, pool: &Pool) -> Result<(), TxFault> {
        match plan(packet, self.takes, self.mtu) {
            Plan::AsIs => self.queue.tx(packet, payload, pool),
            // It comes again, segmented.
            _ if packet.pending().gso.is_some() => Err(TxFault::GsoRefused),
            _ => Err(TxFault::Refused),
        }
    }
}

impl Place {
    pub(super) fn new() -> Self {
        Self(Arc::new(Shared {
            next: Mutex::new(Next::Coming),
            changed: Condvar::new(),
        }))
    }

    /// The worker's queue until something comes.
    pub(super) fn between(&self) -> Box<dyn Queue> {
        Box::new(Between(self.clone()))
    }

    /// Puts new rings there. Returns what the worker is to be handed: it stands for them.
    pub(super) fn put(&self, queue: Box<dyn Queue>, takes: Caps, mtu: usize) -> Box<dyn Queue> {
        self.set(Next::Here(Fresh { queue, takes, mtu }));
        Box::new(Comes(self.clone()))
    }

    /// Nothing will come: what waits, waits no more.
    pub(super) fn give_up(&self) {
        self.set(Next::Nothing);
    }

    fn set(&self, next: Next) {
        *self.lock() = next;
        self.0.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Next> {
        self.0.next.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self, timeout: Duration) {
        let is_coming = |next: &mut Next| matches!(next, Next::Coming);
        // Too long or not: who asked looks again.
        let _ = self
            .0
            .changed
            .wait_timeout_while(self.lock(), timeout, is_coming);
    }
}

/// Sends into rings as soon as they are there. What a guest sends waits in its own.
#[derive(Debug)]
struct Between(Place);

impl Queue for Between {
    fn rx(&mut self, _: &mut Burst, _: &mut RxStats) -> RxEnd {
        RxEnd::Drained
    }

    fn tx(&mut self, packet: &Packet, payload: Pieces<'_>, pool: &Pool) -> Result<(), TxFault> {
        match &mut *self.0.lock() {
            Next::Coming => Err(TxFault::QueueFull),
            Next::Here(fresh) => fresh.send(packet, payload, pool),
            Next::Nothing => Err(TxFault::LinkDown),
        }
    }

    fn publish(&mut self) {
        if let Next::Here(fresh) = &mut *self.0.lock() {
            fresh.queue.publish();
        }
    }

    fn can_wait(&self) -> bool {
        match &*self.0.lock() {
            Next::Coming => true,
            Next::Here(fresh) => fresh.queue.can_wait(),
            Next::Nothing => false,
        }
    }

    fn is_exchanged(&self) -> bool {
        matches!(*self.0.lock(), Next::Coming)
    }

    fn wait_for_room(&mut self, timeout: Duration) {
        if let Next::Here(fresh) = &mut *self.0.lock() {
            return fresh.queue.wait_for_room(timeout);
        }
        self.0.wait(timeout);
    }

    fn stopped_by(&self) -> Option<String> {
        match &*self.0.lock() {
            Next::Here(fresh) => fresh.queue.stopped_by(),
            Next::Coming | Next::Nothing => None,
        }
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// Stands for new rings on their way to a worker: another queue of that worker's may send into them already.
#[derive(Debug)]
struct Comes(Place);

impl Queue for Comes {
    fn rx(&mut self, _: &mut Burst, _: &mut RxStats) -> RxEnd {
        RxEnd::Drained
    }

    fn tx(&mut self, _: &Packet, _: Pieces<'_>, _: &Pool) -> Result<(), TxFault> {
        Err(TxFault::LinkDown)
    }

    fn successor(&mut self) -> Option<Box<dyn Queue>> {
        match std::mem::replace(&mut *self.0.lock(), Next::Nothing) {
            Next::Here(fresh) => Some(fresh.queue),
            Next::Coming | Next::Nothing => None,
        }
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
