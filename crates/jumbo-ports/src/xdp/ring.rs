//! The rings of an AF_XDP socket: one side produces, the other consumes, and each
//! has a counter that the other reads (Linux `Documentation/networking/af_xdp.rst`,
//! `net/xdp/xsk_queue.h`).
#![expect(unsafe_code, reason = "counters and entries shared with the kernel")]

use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::io::Errno;
use rustix::net::xdp::XdpRingOffset;

use crate::pool::Region;

/// XDP_RING_NEED_WAKEUP of Linux `include/uapi/linux/if_xdp.h`.
const NEED_WAKEUP: u32 = 1;

/// An entry of a ring.
///
/// # Safety
/// Any bytes of the kernel's must be a value of it, and it must be the kernel's
/// structure in size and alignment.
unsafe trait Entry: Copy {}

// SAFETY: an integer, the entry of fill and completion rings.
unsafe impl Entry for u64 {}

/// `struct xdp_desc`.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Desc {
    /// Where the bytes are in the memory area.
    pub(super) addr: u64,
    pub(super) len: u32,
    pub(super) options: u32,
}

// SAFETY: integers in the kernel's layout.
unsafe impl Entry for Desc {}

/// A ring that we fill (`Produce`) or empty (`Consume`).
#[derive(Debug)]
struct Ring<T> {
    region: Region,
    offsets: XdpRingOffset,
    entries: u32,
    /// Our own counter, and the other's as we last saw it.
    ours: u32,
    theirs: u32,
    kind: std::marker::PhantomData<T>,
}

impl<T: Entry> Ring<T> {
    fn map(
        fd: BorrowedFd<'_>,
        place: u64,
        offsets: XdpRingOffset,
        entries: u32,
    ) -> Result<Self, Errno> {
        let len = offsets.desc as usize + entries as usize * size_of::<T>();
        let region = Region::map(fd, place, len)?;
        for at in [
            offsets.producer,
            offsets.consumer,
            offsets.flags.unwrap_or(0),
        ] {
            if !at.is_multiple_of(4) || region.ptr(at, 4).is_none() {
                return Err(Errno::PROTO);
            }
        }
        if !offsets.desc.is_multiple_of(align_of::<T>() as u64) || !entries.is_power_of_two() {
            return Err(Errno::PROTO);
        }
        Ok(Self {
            region,
            offsets,
            entries,
            ours: 0,
            theirs: 0,
            kind: std::marker::PhantomData,
        })
    }

    fn counter(&self, at: u64) -> &AtomicU32 {
        let word = self.region.ptr(at, 4).unwrap_or(NonNull::dangling());
        // SAFETY: `map` saw that the three words it is called with are mapped and
        // aligned; the mapping lives as long as `self`, and both sides are atomic.
        unsafe { AtomicU32::from_ptr(word.cast().as_ptr()) }
    }

    fn entry(&self, index: u32) -> Option<NonNull<T>> {
        let index = u64::from(index & (self.entries - 1));
        let at = self.offsets.desc + index * size_of::<T>() as u64;
        Some(self.region.ptr(at, size_of::<T>())?.cast())
    }

    fn needs_wakeup(&self) -> bool {
        let Some(at) = self.offsets.flags else {
            return true;
        };
        self.counter(at).load(Ordering::Relaxed) & NEED_WAKEUP != 0
    }
}

/// A ring that we fill: transmit or fill.
#[derive(Debug)]
pub(super) struct Producer<T>(Ring<T>);

/// A ring that we empty: receive or completion.
#[derive(Debug)]
pub(super) struct Consumer<T>(Ring<T>);

#[expect(private_bounds, reason = "no other entries than those here")]
impl<T: Entry> Producer<T> {
    pub(super) fn map(
        fd: BorrowedFd<'_>,
        place: u64,
        offsets: XdpRingOffset,
        entries: u32,
    ) -> Result<Self, Errno> {
        Ring::map(fd, place, offsets, entries).map(Self)
    }

    /// Entries that have room.
    #[inline]
    pub(super) fn room(&mut self) -> u32 {
        let ring = &mut self.0;
        if ring.ours.wrapping_sub(ring.theirs) >= ring.entries / 2 {
            ring.theirs = ring.counter(ring.offsets.consumer).load(Ordering::Acquire);
        }
        ring.entries - ring.ours.wrapping_sub(ring.theirs).min(ring.entries)
    }

    /// Adds an entry; there must be room. Seen with the next [`Producer::publish`].
    #[inline]
    pub(super) fn push(&mut self, value: T) {
        if let Some(entry) = self.0.entry(self.0.ours) {
            // SAFETY: the entry is mapped and aligned, and between the kernel's
            // counter and ours it is ours to write.
            unsafe { entry.write_volatile(value) };
            self.0.ours = self.0.ours.wrapping_add(1);
        }
    }

    /// Shows the kernel all entries.
    #[inline]
    pub(super) fn publish(&mut self) {
        let ours = self.0.ours;
        let counter = self.0.counter(self.0.offsets.producer);
        counter.store(ours, Ordering::Release);
    }

    /// Entries the kernel has not yet taken.
    pub(super) fn waiting(&self) -> u32 {
        let theirs = self.0.counter(self.0.offsets.consumer);
        self.0.ours.wrapping_sub(theirs.load(Ordering::Acquire))
    }

    /// Whether the kernel wants a system call before it looks.
    #[inline]
    pub(super) fn needs_wakeup(&self) -> bool {
        self.0.needs_wakeup()
    }
}

#[expect(private_bounds, reason = "no other entries than those here")]
impl<T: Entry> Consumer<T> {
    pub(super) fn map(
        fd: BorrowedFd<'_>,
        place: u64,
        offsets: XdpRingOffset,
        entries: u32,
    ) -> Result<Self, Errno> {
        Ring::map(fd, place, offsets, entries).map(Self)
    }

    /// The next entry `ahead` of those taken, if it is there.
    #[inline]
    pub(super) fn peek(&mut self, ahead: u32) -> Option<T> {
        let ring = &mut self.0;
        let index = ring.ours.wrapping_add(ahead);
        if ring.theirs.wrapping_sub(ring.ours) <= ahead {
            ring.theirs = ring.counter(ring.offsets.producer).load(Ordering::Acquire);
            let there = ring.theirs.wrapping_sub(ring.ours);
            if there <= ahead || there > ring.entries {
                return None;
            }
        }
        let entry = ring.entry(index)?;
        // SAFETY: the entry is mapped and aligned, and the kernel has published it.
        Some(unsafe { entry.read_volatile() })
    }

    /// The same, if it was already there when the kernel's counter was last read.
    #[inline]
    pub(super) fn peek_seen(&mut self, ahead: u32) -> Option<T> {
        match self.0.theirs.wrapping_sub(self.0.ours) > ahead {
            true => self.peek(ahead),
            false => None,
        }
    }

    /// Goes on behind `count` entries. The kernel has them back with the next
    /// [`Consumer::give_back`].
    #[inline]
    pub(super) fn pass(&mut self, count: u32) {
        self.0.ours = self.0.ours.wrapping_add(count);
    }

    /// Gives all entries back that were passed.
    #[inline]
    pub(super) fn give_back(&mut self) {
        let counter = self.0.counter(self.0.offsets.consumer);
        counter.store(self.0.ours, Ordering::Release);
    }

    /// Gives `count` entries back.
    #[inline]
    pub(super) fn take(&mut self, count: u32) {
        self.pass(count);
        self.give_back();
    }
}
