//! One socket of an AF_PACKET port.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use jumbo_engine::arena::{HEAD_WANTED, Pieces};
use jumbo_engine::packet::{Frag, Link, Packet, Tag};
use jumbo_engine::vnet::{Form, HeaderFault, Trust, VnetHeader};
use rustix::io::Errno;
use rustix::net::{RecvFlags, sockopt};

use super::ring::{Ring, Slot};
use super::sys;
use super::transmit::TransmitRing;
use crate::gather::Gather;
use crate::pool::{Lender, Pool};
use crate::queue::{Burst, PACKET_ROOM, Queue, RxEnd, RxLoss, RxStats, TxFault};

/// The form of the virtio header.
pub(super) const FORM: Form = Form::Legacy10;
pub(super) const VNET_LEN: usize = FORM.len_bytes();

#[derive(Debug)]
pub(super) struct PacketQueue {
    socket: OwnedFd,
    ring: Ring,
    gone: bool,
    gather: Gather,
    transmit: TransmitRing,
}

impl PacketQueue {
    pub(super) fn new(socket: OwnedFd, ring: Ring, transmit: TransmitRing) -> Self {
        let mut queue = Self {
            socket,
            ring,
            gone: false,
            gather: Gather::new(FORM),
            transmit,
        };
        queue.start_afresh();
        queue
    }

    /// Drops what came while the group was being made: each socket has had it.
    fn start_afresh(&mut self) {
        let mut beside = [0; 1];
        while let Some(slot) = self.ring.peek() {
            if slot.beside {
                let _ = rustix::net::recv(&self.socket, &mut beside[..], RecvFlags::DONTWAIT);
            }
            self.ring.take();
        }
        self.ring.release();
        // The counter starts anew when it is read.
        let _ = sys::ring_drops(self.socket.as_fd());
    }

    /// Nothing is there: was the socket woken by an error? A call that sends may have
    /// taken it off, so the interface is looked for in any case.
    #[cold]
    fn nothing_came(&mut self) -> RxEnd {
        let _ = sockopt::socket_error(&self.socket);
        if !matches!(sys::bound_to(self.socket.as_fd()), Ok(Some(_))) {
            self.gone = true;
            return RxEnd::Gone;
        }
        // Down: it comes back by itself.
        RxEnd::Drained
    }

    /// Counts what did not fit into the ring.
    #[cold]
    fn count_losses(&mut self, stats: &mut RxStats) {
        if let Ok(drops) = sys::ring_drops(self.socket.as_fd()) {
            stats.losses.count_many(RxLoss::RingFull, drops.into());
        }
    }

    #[inline]
    fn admit(&self, slot: Slot, lender: Lender, burst: &mut Burst, stats: &mut RxStats) {
        let piece = |at, len: usize| self.ring.regions().first()?.piece(at, len as u32);
        let mut head = [0; VNET_LEN + HEAD_WANTED];
        let wanted = VNET_LEN + slot.here_len.min(HEAD_WANTED);
        let start = slot.at.wrapping_sub(VNET_LEN as u64);
        let Some(bytes) = piece(start, VNET_LEN + slot.here_len) else {
            return stats.faults.count(HeaderFault::HeadMissing);
        };
        bytes.copy_to(&mut head[..wanted]);
        let Some(vnet) = VnetHeader::decode(FORM, &head) else {
            return stats.faults.count(HeaderFault::ShortVnetHeader);
        };
        let body = [Frag::new(lender.at(0, slot.at), slot.here_len as u32)];
        let vnet = Some((&vnet, Trust::Kernel));
        burst.admit_lent(Link::Ethernet, &head[VNET_LEN..wanted], &body, vnet, stats);
    }

    /// Admits a packet that was too long for its slot and waits on the socket.
    #[cold]
    fn admit_beside(&self, burst: &mut Burst, stats: &mut RxStats) {
        let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
        let space = burst.pool.space();
        let room = space.len();
        let mut answer = rustix::net::recv(&self.socket, &mut *space, flags);
        if let Err(Errno::NETDOWN) = answer {
            // Said once, before what waits (`sock_error`).
            answer = rustix::net::recv(&self.socket, &mut *space, flags);
        }
        let got = match answer {
            Ok((_, got)) if got <= room.min(PACKET_ROOM + VNET_LEN) => got,
            _ => return stats.losses.count(RxLoss::Truncated),
        };
        let Some(header) = VnetHeader::decode(FORM, burst.pool.peek_space(VNET_LEN.min(got)))
        else {
            return stats.faults.count(HeaderFault::ShortVnetHeader);
        };
        let vnet = Some((&header, Trust::Kernel));
        burst.admit(Link::Ethernet, VNET_LEN, got - VNET_LEN, vnet, stats);
    }
}

/// Puts back the tag that the kernel took off the packet admitted last.
fn restore_tag(tag: Tag, burst: &mut Burst, stats: &mut RxStats) {
    let Some(id) = burst.batch.last().copied() else {
        return;
    };
    if !burst.arena.packet_mut(id).tags_mut().push_outer(tag) {
        burst.batch.pop();
        burst.arena.release(id);
        stats.faults.count(HeaderFault::NoRoom);
    }
}

/// What an unsuccessful write means (Linux `net/packet/af_packet.c` `packet_snd`).
pub(super) fn tx_fault(errno: Errno, gso: bool) -> TxFault {
    match errno {
        Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM => TxFault::QueueFull,
        Errno::NETDOWN => TxFault::LinkDown,
        Errno::NXIO | Errno::NODEV => TxFault::Gone,
        Errno::INVAL if gso => TxFault::GsoRefused,
        Errno::MSGSIZE => TxFault::TooLong,
        _ => TxFault::Refused,
    }
}

impl Queue for PacketQueue {
    #[inline]
    fn rx(&mut self, burst: &mut Burst, stats: &mut RxStats) -> RxEnd {
        if self.gone {
            return RxEnd::Gone;
        }
        let Some(lender) = burst.pool.borrow(self.ring.regions()) else {
            return RxEnd::More;
        };
        let mut bytes = 0;
        let mut losing = false;
        let mut end = RxEnd::More;
        for count in 0..burst.bounds.batch_packets {
            if bytes >= burst.bounds.batch_bytes || !burst.has_room() || self.ring.is_all_lent() {
                break;
            }
            let Some(slot) = self.ring.peek() else {
                end = match count {
                    0 => self.nothing_came(),
                    _ => RxEnd::Drained,
                };
                break;
            };
            let before = burst.batch.len();
            if slot.beside {
                self.admit_beside(burst, stats);
            } else if slot.here_len < slot.len {
                stats.losses.count(RxLoss::Truncated);
            } else {
                self.admit(slot, lender, burst, stats);
            }
            if let (Some(tag), true) = (slot.tag, burst.batch.len() > before) {
                restore_tag(tag, burst, stats);
            }
            self.ring.take();
            losing |= slot.losing;
            bytes += slot.len;
        }
        if losing {
            self.count_losses(stats);
        }
        end
    }

    #[inline]
    fn tx(&mut self, packet: &Packet, payload: Pieces<'_>, pool: &Pool) -> Result<(), TxFault> {
        if self.gone {
            return Err(TxFault::Gone);
        }
        let gso = packet.pending().gso.is_some();
        if !gso && self.transmit.put(packet, payload, pool)? {
            return Ok(());
        }
        // What came before it leaves before it.
        self.transmit.send();
        let written = self
            .gather
            .write(self.socket.as_fd(), packet, payload, pool)?;
        match written {
            Ok(_) => Ok(()),
            Err(errno) => Err(tx_fault(errno, gso)),
        }
    }

    fn publish(&mut self) {
        self.transmit.send();
    }

    fn lost(&mut self) -> Option<(TxFault, u32)> {
        self.transmit.lost()
    }

    fn release(&mut self) {
        self.ring.release();
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }
}
