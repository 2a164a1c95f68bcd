//! How a chain of descriptors is followed, and where a ring's areas are.
#![allow(unsafe_code, reason = "memory shared with a guest")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use super::buf::Buf;
use super::dirty::DirtyLog;
use super::vring::{CHAIN_MAX, Direction, RingFault};
use crate::vhost::guest::GuestMemory;

pub(super) const DESC_LEN: usize = 16;

pub(super) const DESC_F_NEXT: u16 = 1;
pub(super) const DESC_F_WRITE: u16 = 2;
pub(super) const DESC_F_INDIRECT: u16 = 4;

/// How far ahead descriptors are asked for: four stand in a cache line, which comes
/// from the guest's processor.
pub(super) const DESCS_AHEAD: u16 = 8;

/// What both kinds need to follow a chain.
#[derive(Debug)]
pub(super) struct Walk {
    pub(super) memory: Arc<GuestMemory>,
    pub(super) direction: Direction,
    pub(super) indirect: bool,
    /// The region that was hit last.
    pub(super) hint: u8,
    pub(super) log: Option<Arc<DirtyLog>>,
    /// Guest address of the ring that is written: used ring, or packed ring.
    pub(super) log_addr: Option<u64>,
}

/// A descriptor, as it was read.
#[derive(Copy, Clone, Debug)]
pub(super) struct Desc {
    pub(super) addr: u64,
    pub(super) len: u32,
    /// Split: flags, then next. Packed: id, then flags.
    pub(super) low: u16,
    pub(super) high: u16,
}

impl Walk {
    /// Notes one buffer. Its parts come one by one, in registers: a descriptor on the
    /// stack would be read wider than it was written.
    #[inline]
    pub(super) fn note(
        &mut self,
        (mut addr, mut left): (u64, u32),
        flags: u16,
        bufs: &mut Vec<Buf>,
    ) -> Result<(), RingFault> {
        let direction = match flags & DESC_F_WRITE {
            0 => Direction::FromGuest,
            _ => Direction::ToGuest,
        };
        if direction != self.direction {
            return Err(RingFault::WrongDirection);
        }
        if left == 0 {
            return Err(RingFault::EmptyBuffer);
        }
        let outside = RingFault::OutsideMemory { addr, len: left };
        // Once, unless the buffer runs on into the next region.
        while left > 0 {
            let place = self.memory.place(addr, &mut self.hint).ok_or(outside)?;
            let len = u64::from(left).min(place.room) as u32;
            bufs.push(Buf {
                base: self.memory.ptr(place, len).ok_or(outside)?,
                guest_addr: addr,
                offset: place.offset,
                region: place.region,
                len,
            });
            left -= len;
            addr = addr.checked_add(len.into()).ok_or(outside)?;
        }
        Ok(())
    }

    /// Follows an indirect table. `read_flags` and `next` say how its kind of
    /// descriptor is to be read.
    #[cold]
    #[inline(never)]
    pub(super) fn indirect(
        &mut self,
        table: Desc,
        packed: bool,
        bufs: &mut Vec<Buf>,
    ) -> Result<(), RingFault> {
        if !self.indirect {
            return Err(RingFault::IndirectNotNegotiated);
        }
        let count = table.len as usize / DESC_LEN;
        if count == 0 || !(table.len as usize).is_multiple_of(DESC_LEN) || count > CHAIN_MAX {
            return Err(RingFault::IndirectLength(table.len));
        }
        let outside = RingFault::OutsideMemory {
            addr: table.addr,
            len: table.len,
        };
        let place = self.memory.place(table.addr, &mut self.hint);
        let place = place.filter(|place| place.room >= u64::from(table.len));
        let base = self
            .memory
            .ptr(place.ok_or(outside)?, table.len)
            .ok_or(outside)?;
        if packed {
            // All entries in order; chain flags mean nothing there (2.8.7).
            for index in 0..count {
                // SAFETY: `count` descriptors are mapped at `base`.
                let desc = unsafe { read_desc(base, index) };
                self.indirect_entry(desc, desc.high, bufs)?;
            }
            return Ok(());
        }
        let mut index = 0;
        for _ in 0..count {
            // SAFETY: `index` is below `count`.
            let desc = unsafe { read_desc(base, index) };
            self.indirect_entry(desc, desc.low, bufs)?;
            if desc.low & DESC_F_NEXT == 0 {
                return Ok(());
            }
            index = usize::from(desc.high);
            if index >= count {
                return Err(RingFault::DescriptorIndex(desc.high));
            }
        }
        Err(RingFault::ChainTooLong)
    }

    fn indirect_entry(
        &mut self,
        desc: Desc,
        flags: u16,
        bufs: &mut Vec<Buf>,
    ) -> Result<(), RingFault> {
        if flags & DESC_F_INDIRECT != 0 {
            return Err(RingFault::NestedIndirect);
        }
        self.note((desc.addr, desc.len), flags, bufs)
    }

    /// Marks a write to the ring's own memory.
    #[inline]
    pub(super) fn log_used(&self, offset: u64, len: u64) {
        if let (Some(log), Some(base)) = (&self.log, self.log_addr) {
            log.mark(base.wrapping_add(offset), len);
        }
    }
}

/// Reads descriptor `index` of the table at `base`, each word once.
///
/// # Safety
/// `base` has more than `index` descriptors, mapped and aligned for 16-bit access at least.
#[inline]
pub(super) unsafe fn read_desc(base: *const u8, index: usize) -> Desc {
    // SAFETY: the caller's. Unaligned reads, because an indirect table may stand anywhere;
    // volatile is not available for them and not needed: the copy is made once, into a value
    // that the compiler cannot read again from memory it may assume unchanged, because the
    // fence below forbids it.
    let words = unsafe {
        base.add(index * DESC_LEN)
            .cast::<[u64; 2]>()
            .read_unaligned()
    };
    std::sync::atomic::compiler_fence(Ordering::SeqCst);
    let [addr, rest] = words.map(u64::from_le);
    Desc {
        addr,
        len: rest as u32,
        low: (rest >> 32) as u16,
        high: (rest >> 48) as u16,
    }
}

/// Where a ring's three areas are.
#[derive(Copy, Clone, Debug)]
pub(super) struct Areas {
    pub(super) desc: *mut u8,
    pub(super) driver: *mut u8,
    pub(super) device: *mut u8,
}

// SAFETY: addresses into mappings that belong to no thread. A ring is used by one
// worker at a time.
unsafe impl Send for Areas {}

impl Areas {
    /// A 16-bit word of the driver area.
    ///
    /// # Safety
    /// `at` is even and, with two bytes behind it, inside the area, which is mapped while the
    /// ring lives.
    #[inline]
    pub(super) unsafe fn driver_word(&self, at: usize) -> &AtomicU16 {
        // SAFETY: the caller's; the area is aligned to two bytes. An atomic may change
        // under a shared reference.
        unsafe { AtomicU16::from_ptr(self.driver.add(at).cast()) }
    }

    /// The same of the device area.
    ///
    /// # Safety
    /// That of [`Areas::driver_word`].
    #[inline]
    pub(super) unsafe fn device_word(&self, at: usize) -> &AtomicU16 {
        // SAFETY: the caller's; the area is aligned to four bytes.
        unsafe { AtomicU16::from_ptr(self.device.add(at).cast()) }
    }
}

/// Whether an event index lies among what was just done (virtio 1.3 section 2.7.10).
#[inline]
pub(super) fn wants_event(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}
