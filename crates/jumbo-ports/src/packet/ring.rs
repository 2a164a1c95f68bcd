//! The rings of AF_PACKET sockets, TPACKET_V2: fixed slots, each with a status word
//! that says whose it is (Linux `Documentation/networking/packet_mmap.rst`).
//!
//! Version 3 packs packets into blocks, but shows a block only when it is full or
//! its timer, a millisecond at least, has run out: `prb_retire_rx_blk_timer_expired`
//! in `net/packet/af_packet.c`. A switch may not add a millisecond to every
//! question and answer, so this is version 2, which shows each packet at once.
#![expect(unsafe_code, reason = "status words shared with the kernel")]

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use jumbo_engine::packet::Tag;
use rustix::io::Errno;

use super::sys::{self, Direction, RingRequest};
use crate::pool::{Region, Regions};

const TP_STATUS_KERNEL: u32 = 0;
const TP_STATUS_USER: u32 = 1;
const TP_STATUS_COPY: u32 = 1 << 1;
const TP_STATUS_LOSING: u32 = 1 << 2;
const TP_STATUS_VLAN_VALID: u32 = 1 << 4;
const TP_STATUS_VLAN_TPID_VALID: u32 = 1 << 6;

/// `struct tpacket2_hdr`.
const HEADER_LEN: usize = 32;

/// Bytes before a packet in its slot: TPACKET2_HDRLEN (52) and 16 for the link
/// header, aligned to 16, and the virtio header behind that (`tpacket_rcv`).
const BEFORE_PACKET: usize = 96;

/// Where an Ethernet packet begins in its slot: 68 bytes of the kernel's, aligned to 16,
/// and 10 of virtio header, less 14 (`tpacket_rcv`). Only a hint for the processor.
const PACKET_AT: u64 = 80 + 10 - 14;

/// A slot is a multiple of this, so that 32 of them are a multiple of a page.
const SLOT_STEP: usize = 128;
const SLOTS_PER_BLOCK: usize = 32;

/// What the kernel wrote about a packet.
#[derive(Copy, Clone, Debug)]
pub(super) struct Slot {
    /// Where the packet starts in the ring.
    pub(super) at: u64,
    /// Bytes of it that are there.
    pub(super) here_len: usize,
    /// Bytes it has.
    pub(super) len: usize,
    /// The tag that was taken off it.
    pub(super) tag: Option<Tag>,
    /// All of it waits on the socket.
    pub(super) beside: bool,
    /// Packets have been dropped for want of a slot.
    pub(super) losing: bool,
}

/// Slots shared with the kernel.
#[derive(Debug)]
pub(super) struct Slots {
    regions: Regions,
    slot_len: usize,
    count: usize,
}

impl Slots {
    /// Makes and maps the ring of a socket: `count` slots (rounded up to 32) for
    /// packets of up to `packet_len` bytes.
    pub(super) fn new(
        fd: BorrowedFd<'_>,
        direction: Direction,
        count: usize,
        packet_len: usize,
    ) -> Result<Self, Errno> {
        let slot_len = (BEFORE_PACKET + packet_len).next_multiple_of(SLOT_STEP);
        let blocks = count.div_ceil(SLOTS_PER_BLOCK).max(1);
        let count = blocks * SLOTS_PER_BLOCK;
        let request = RingRequest {
            block_len: (slot_len * SLOTS_PER_BLOCK) as u32,
            blocks: blocks as u32,
            frame_len: slot_len as u32,
            frames: count as u32,
        };
        sys::make_ring(fd, direction, request)?;
        let region = Region::map(fd, 0, slot_len * count)?;
        Ok(Self {
            regions: Arc::new([Arc::new(region)]),
            slot_len,
            count,
        })
    }

    pub(super) fn region(&self) -> Option<&Region> {
        self.regions.first().map(|region| &**region)
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn slot_len(&self) -> usize {
        self.slot_len
    }

    /// Where a slot begins.
    pub(super) fn start(&self, index: usize) -> u64 {
        (index * self.slot_len) as u64
    }

    /// The slot behind `index`.
    #[inline]
    pub(super) fn after(&self, index: usize) -> usize {
        match index + 1 {
            next if next == self.count => 0,
            next => next,
        }
    }

    #[inline]
    pub(super) fn status(&self, index: usize) -> Option<&AtomicU32> {
        let word = self.region()?.ptr(self.start(index), size_of::<u32>())?;
        // SAFETY: the word is mapped while `self.regions` lives, aligned (a slot
        // starts at a multiple of 128), and written atomically by both sides.
        Some(unsafe { AtomicU32::from_ptr(word.cast().as_ptr()) })
    }
}

/// The receive ring.
#[derive(Debug)]
pub(super) struct Ring {
    slots: Slots,
    /// The next one to look at.
    next: usize,
    /// How many before it are ours still.
    lent: usize,
}

impl Ring {
    /// Makes and maps the receive ring of a socket.
    pub(super) fn new(fd: BorrowedFd<'_>, slots: usize, packet_len: usize) -> Result<Self, Errno> {
        Ok(Self {
            slots: Slots::new(fd, Direction::Receive, slots, packet_len)?,
            next: 0,
            lent: 0,
        })
    }

    pub(super) fn regions(&self) -> &Regions {
        &self.slots.regions
    }

    /// Whether every slot is ours: the kernel can add none before some are given back.
    pub(super) fn is_all_lent(&self) -> bool {
        self.lent == self.slots.count
    }

    /// The next packet, if there is one. It stays the next one until [`Ring::take`].
    #[inline]
    pub(super) fn peek(&self) -> Option<Slot> {
        if self.is_all_lent() {
            return None;
        }
        let status = self.slots.status(self.next)?.load(Ordering::Acquire);
        if status & TP_STATUS_USER == 0 {
            return None;
        }
        let start = self.slots.start(self.next);
        let mut header = [0; HEADER_LEN];
        let region = self.slots.region()?;
        region.piece(start, HEADER_LEN as u32)?.copy_to(&mut header);
        let short = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let long = |at: usize| {
            let [a, b, c, d] = [0, 1, 2, 3].map(|byte| header[at + byte]);
            u32::from_ne_bytes([a, b, c, d])
        };
        let tpid = match status & TP_STATUS_VLAN_TPID_VALID {
            0 => 0x8100,
            _ => short(26),
        };
        let tag = (status & TP_STATUS_VLAN_VALID != 0).then(|| Tag {
            tpid,
            tci: short(24),
        });
        Some(Slot {
            at: start + u64::from(short(12)),
            here_len: long(8) as usize,
            len: long(4) as usize,
            tag,
            beside: status & TP_STATUS_COPY != 0,
            losing: status & TP_STATUS_LOSING != 0,
        })
    }

    /// Goes on behind the packet that [`Ring::peek`] showed; its slot is lent from now on.
    #[inline]
    pub(super) fn take(&mut self) {
        self.next = self.slots.after(self.next);
        self.lent += 1;
        // The kernel's header of the next, and the beginning of the packet in it.
        let start = self.slots.start(self.next);
        if let Some(region) = self.slots.region() {
            for at in [start, start + PACKET_AT] {
                if let Some(line) = region.piece(at, 0) {
                    line.prefetch();
                }
            }
        }
    }

    /// Gives back all slots that were taken.
    #[inline]
    pub(super) fn release(&mut self) {
        let mut index = (self.next + self.slots.count - self.lent) % self.slots.count;
        for _ in 0..std::mem::take(&mut self.lent) {
            if let Some(status) = self.slots.status(index) {
                status.store(TP_STATUS_KERNEL, Ordering::Release);
            }
            index = self.slots.after(index);
        }
    }
}
