//! The transmit ring: what is sent in a batch is copied into slots, and one call has the
//! kernel send them all.
//!
//! For an ordinary packet that is cheaper than a call of its own. A super-packet is not
//! put here: it would need a slot of 64 KB, and whether the kernel takes it must be known
//! at once.
//!
//! The kernel would make a packet of references to the slot's pages, which every device
//! without DMA then copies once more (`skb_orphan_frags`). But as many bytes as `hdr_len`
//! of the virtio header says it copies at once, into the packet's own memory: so that
//! field says all of them (Linux 6.18 `net/packet/af_packet.c` `tpacket_snd`,
//! `tpacket_fill_skb`).

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;

use jumbo_engine::arena::Pieces;
use jumbo_engine::packet::{HEADERS_MAX, Packet};
use jumbo_engine::vnet::VnetHeader;
use rustix::io::Errno;
use rustix::net::SendFlags;

use super::queue::{FORM, VNET_LEN, tx_fault};
use super::ring::Slots;
use super::sys::{self, Direction};
use crate::pool::Pool;
use crate::queue::TxFault;

const TP_STATUS_AVAILABLE: u32 = 0;
const TP_STATUS_SEND_REQUEST: u32 = 1;
const TP_STATUS_WRONG_FORMAT: u32 = 1 << 2;

/// Slots: four batches. One is not free again before its packet has left the device, or
/// has been received if that is all it does.
const SLOTS: usize = 256;

/// Where the virtio header begins in a slot: where `struct tpacket2_hdr` ends
/// (`tpacket_parse_header`).
const DATA_AT: usize = 32;

/// A VLAN tag, bytes: for one the kernel leaves room beyond the MTU (`tpacket_snd`).
const TAG_LEN: usize = 4;

/// Where `tp_len` is in a slot.
const LEN_AT: u64 = 4;

/// Calls for one batch: each goes on where the one before stopped.
const KICKS_MAX: usize = 3;

/// The ring, with a socket of its own: with a ring, a socket sends by nothing else.
#[derive(Debug)]
pub(super) struct TransmitRing {
    socket: OwnedFd,
    slots: Slots,
    /// The next one to fill.
    next: usize,
    /// How many before it the kernel has not been told of.
    filled: usize,
    /// What the kernel would not send, since somebody asked.
    lost: Option<(TxFault, u32)>,
}

impl TransmitRing {
    /// On interface `index`, for packets of up to `packet_len` bytes.
    pub(super) fn open(index: u32, packet_len: usize, bypass: bool) -> Result<Self, Errno> {
        let socket = sys::socket()?;
        let fd = socket.as_fd();
        sys::prepare(fd, bypass)?;
        sys::skip_malformed(fd)?;
        super::set_send_buffer(fd)?;
        let slots = Slots::new(fd, Direction::Transmit, SLOTS, VNET_LEN + packet_len)?;
        sys::bind_to_send(fd, index)?;
        Ok(Self {
            socket,
            slots,
            next: 0,
            filled: 0,
            lost: None,
        })
    }

    /// Takes an ordinary packet; `false` if it does not fit or there is no slot, and
    /// then all that was taken has been sent.
    #[inline]
    pub(super) fn put(
        &mut self,
        packet: &Packet,
        payload: Pieces<'_>,
        pool: &Pool,
    ) -> Result<bool, TxFault> {
        let packet_len = packet.wire_len();
        // The kernel skips what with two tags is too long for the MTU, and tells nobody.
        let one_tag = packet.tags().len_bytes() <= TAG_LEN;
        let fits = one_tag && DATA_AT + VNET_LEN + packet_len <= self.slots.slot_len();
        if !fits || !self.has_slot() {
            self.send();
            if !fits || !self.has_slot() {
                return Ok(false);
            }
        }
        let mut head = [0; VNET_LEN + HEADERS_MAX];
        let vnet = VnetHeader {
            hdr_len: packet_len as u16,
            ..VnetHeader::of(packet)
        };
        vnet.encode(FORM, &mut head);
        let header_len = packet.write_header(&mut head[VNET_LEN..]).unwrap_or(0);
        self.fill(&head[..VNET_LEN + header_len], payload, pool)?;
        Ok(true)
    }

    #[inline]
    fn has_slot(&self) -> bool {
        let status = self.slots.status(self.next);
        status.is_some_and(|status| status.load(Ordering::Acquire) == TP_STATUS_AVAILABLE)
    }

    /// Fills the next slot, which is free and long enough.
    #[inline]
    fn fill(&mut self, head: &[u8], payload: Pieces<'_>, pool: &Pool) -> Result<(), TxFault> {
        let Some(region) = self.slots.region() else {
            return Err(TxFault::Gone);
        };
        let start = self.slots.start(self.next);
        let mut at = start + DATA_AT as u64;
        region.write(at, head).ok_or(TxFault::Refused)?;
        at += head.len() as u64;
        for frag in payload {
            let piece = pool.piece(frag).ok_or(TxFault::PayloadMissing)?;
            region.write_piece(at, piece).ok_or(TxFault::Refused)?;
            at += piece.len() as u64;
        }
        let len = (at - start) as u32 - DATA_AT as u32;
        region.write(start + LEN_AT, &len.to_ne_bytes());
        if let Some(status) = self.slots.status(self.next) {
            status.store(TP_STATUS_SEND_REQUEST, Ordering::Release);
        }
        self.next = self.slots.after(self.next);
        self.filled += 1;
        Ok(())
    }

    /// Has the kernel send what was taken. What it will not send is lost, with a reason.
    #[inline]
    pub(super) fn send(&mut self) {
        if self.filled == 0 {
            return;
        }
        let mut said = Errno::NOBUFS;
        for _ in 0..KICKS_MAX {
            if let Err(errno) = rustix::net::send(&self.socket, &[], SendFlags::DONTWAIT) {
                said = errno;
            }
            if !self.is_waiting(self.last()) {
                self.filled = 0;
                return;
            }
        }
        self.take_back(tx_fault(said, false));
    }

    /// The slot filled last.
    fn last(&self) -> usize {
        (self.next + self.slots.count() - 1) % self.slots.count()
    }

    fn is_waiting(&self, index: usize) -> bool {
        let status = self.slots.status(index);
        let status = status.map_or(0, |status| status.load(Ordering::Acquire));
        matches!(status, TP_STATUS_SEND_REQUEST | TP_STATUS_WRONG_FORMAT)
    }

    /// Takes back the packets that wait, newest first: the kernel goes on where they begin.
    #[cold]
    fn take_back(&mut self, fault: TxFault) {
        let mut lost = 0;
        while lost < self.filled && self.is_waiting(self.last()) {
            self.next = self.last();
            if let Some(status) = self.slots.status(self.next) {
                status.store(TP_STATUS_AVAILABLE, Ordering::Release);
            }
            lost += 1;
        }
        self.filled = 0;
        let before = self.lost.map_or(0, |(_, packets)| packets);
        self.lost = Some((fault, before + lost as u32));
    }

    /// What was taken and not sent, since the last call.
    pub(super) fn lost(&mut self) -> Option<(TxFault, u32)> {
        self.lost.take()
    }
}
