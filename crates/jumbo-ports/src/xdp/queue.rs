//! What one worker has of an AF_XDP port: the sockets of some receive queues.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use jumbo_engine::arena::Pieces;
use jumbo_engine::packet::Packet;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;

use super::Attached;
use super::socket::XdpSocket;
use crate::pool::Pool;
use crate::queue::{Burst, Queue, RxEnd, RxStats, TxFault};

#[derive(Debug)]
pub(super) struct XdpQueue {
    sockets: Vec<XdpSocket>,
    /// Whose turn it is to receive.
    turn: usize,
    /// Ready when one of several sockets is.
    ready: Option<OwnedFd>,
    _attached: Arc<Attached>,
}

impl XdpQueue {
    pub(super) fn new(sockets: Vec<XdpSocket>, attached: Arc<Attached>) -> Result<Self, Errno> {
        let mut ready = None;
        if sockets.len() > 1 {
            let set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
            for socket in &sockets {
                epoll::add(&set, socket.fd(), EventData::new_u64(0), EventFlags::IN)?;
            }
            ready = Some(set);
        }
        Ok(Self {
            sockets,
            turn: 0,
            ready,
            _attached: attached,
        })
    }
}

impl Queue for XdpQueue {
    fn rx(&mut self, burst: &mut Burst, stats: &mut RxStats) -> RxEnd {
        let count = self.sockets.len();
        for _ in 0..count {
            let before = burst.batch.len();
            let left = burst.bounds.batch_packets.saturating_sub(before);
            let socket = &mut self.sockets[self.turn % count];
            match socket.rx(burst, stats, left) {
                RxEnd::Drained => self.turn = (self.turn + 1) % count,
                end => return end,
            }
            if burst.batch.len() > before && count > 1 {
                // The others are looked at with the next batch.
                return RxEnd::More;
            }
        }
        RxEnd::Drained
    }

    fn tx(&mut self, packet: &Packet, payload: Pieces<'_>, pool: &Pool) -> Result<(), TxFault> {
        match self.sockets.first_mut() {
            Some(socket) => socket.tx(packet, payload, pool),
            None => Err(TxFault::Gone),
        }
    }

    fn publish(&mut self) {
        if let Some(socket) = self.sockets.first_mut() {
            socket.publish();
        }
    }

    fn release(&mut self) {
        self.sockets.iter_mut().for_each(XdpSocket::release);
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.ready {
            Some(set) => Some(set.as_fd()),
            None => self.sockets.first().map(XdpSocket::fd),
        }
    }
}
