//! A packed ring (virtio 1.3 section 2.8).
#![allow(unsafe_code, reason = "memory shared with a guest")]

use std::sync::atomic::{AtomicU16, Ordering, fence};

use arrayvec::ArrayVec;

use super::buf::Buf;
use super::vring::{CHAIN_MAX, Chain, RingFault, Setup};
use super::walk::{
    Areas, DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, DESC_LEN, DESCS_AHEAD, Walk, read_desc,
    wants_event,
};
use crate::sys::region::prefetch;
use crate::vhost::keep::{Keeper, Standing};

const PACKED_F_AVAIL: u16 = 1 << 7;
const PACKED_F_USED: u16 = 1 << 15;

const EVENT_ENABLE: u16 = 0;
pub(super) const EVENT_DISABLE: u16 = 1;
const EVENT_DESC: u16 = 2;

/// A place in a packed ring.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) index: u16,
    pub(super) wrap: bool,
}

impl Cursor {
    pub(super) fn of(bits: u16, size: u16) -> Self {
        Self {
            index: (bits & 0x7fff) % size,
            wrap: bits & 0x8000 != 0,
        }
    }

    pub(super) fn bits(self) -> u16 {
        self.index | u16::from(self.wrap) << 15
    }

    #[inline]
    fn advance(&mut self, count: u16, size: u16) {
        // At most a ring's length more than an index: fits, and wraps once at most.
        self.index += count;
        if self.index >= size {
            self.index -= size;
            self.wrap = !self.wrap;
        }
    }
}

/// The flags of an entry that was given back.
#[inline]
pub(super) fn used_flags(wrap: bool, written: bool) -> u16 {
    let sides = if wrap {
        PACKED_F_AVAIL | PACKED_F_USED
    } else {
        0
    };
    sides | if written { DESC_F_WRITE } else { 0 }
}

/// A packed ring. Driver and device area: an event's place with its wrap counter, flags.
#[derive(Debug)]
pub(super) struct Packed {
    pub(super) areas: Areas,
    pub(super) size: u16,
    pub(super) event_idx: bool,
    pub(super) avail: Cursor,
    pub(super) used: Cursor,
    /// The first entry given back since the last `publish`: its flags are stored last,
    /// because the guest looks at entries in order.
    pub(super) first: Option<(u16, u16)>,
    /// The used index when the guest was last asked whether it wants a call.
    pub(super) asked_used: Option<u16>,
    pub(super) standing: Standing,
    pub(super) keepers: ArrayVec<Keeper, 2>,
}

impl Packed {
    pub(super) fn new(areas: Areas, setup: &Setup<'_>) -> Self {
        let size = setup.ring.size;
        let position = setup.position;
        let used = Cursor::of(position.used.unwrap_or(position.avail), size);
        let packed = Self {
            areas,
            size,
            event_idx: setup.event_idx,
            avail: Cursor::of(position.avail, size),
            used,
            first: None,
            asked_used: None,
            standing: Standing {
                used: used.bits(),
                first: used.bits(),
                last: used.bits(),
                witness: None,
            },
            keepers: setup.keepers.clone(),
        };
        packed.keep();
        packed.keep_witness();
        packed
    }

    /// The flags of an entry.
    #[inline]
    fn flags(&self, index: u16) -> &AtomicU16 {
        debug_assert!(index < self.size);
        // SAFETY: cursors are below the ring's size; the area is aligned to 16 bytes.
        unsafe {
            AtomicU16::from_ptr(
                self.areas
                    .desc
                    .add(usize::from(index) * DESC_LEN + 14)
                    .cast(),
            )
        }
    }

    #[inline]
    pub(super) fn is_available(&self) -> bool {
        let flags = u16::from_le(self.flags(self.avail.index).load(Ordering::Acquire));
        let (avail, used) = (flags & PACKED_F_AVAIL != 0, flags & PACKED_F_USED != 0);
        avail == self.avail.wrap && used != self.avail.wrap
    }

    #[inline]
    pub(super) fn pop(
        &mut self,
        walk: &mut Walk,
        bufs: &mut Vec<Buf>,
    ) -> Result<Option<Chain>, RingFault> {
        if !self.is_available() {
            return Ok(None);
        }
        let mut at = self.avail;
        let ahead = usize::from(at.index + DESCS_AHEAD) * DESC_LEN;
        // Beyond the ring it fetches something else, and faults never.
        prefetch(self.areas.desc.wrapping_add(ahead));
        for count in 1..=self.size.min(CHAIN_MAX as u16) {
            // SAFETY: cursors are below the ring's size.
            let desc = unsafe { read_desc(self.areas.desc, usize::from(at.index)) };
            let (id, flags) = (desc.low, desc.high);
            at.advance(1, self.size);
            if flags & DESC_F_INDIRECT != 0 {
                if count > 1 || flags & DESC_F_NEXT != 0 {
                    return Err(RingFault::NestedIndirect);
                }
                walk.indirect(desc, true, bufs)?;
            } else {
                walk.note((desc.addr, desc.len), flags, bufs)?;
            }
            if flags & DESC_F_NEXT == 0 {
                self.avail = at;
                return Ok(Some(Chain::new(id, count)));
            }
        }
        Err(RingFault::ChainTooLong)
    }

    #[inline]
    pub(super) fn give_back(&mut self, walk: &Walk, chain: Chain, written: u32) {
        let Cursor { index, wrap } = self.used;
        let at = usize::from(index) * DESC_LEN;
        // SAFETY: cursors are below the ring's size; the area is aligned to 16 bytes.
        unsafe {
            let entry = self.areas.desc.add(at);
            // Where nothing was written the length means nothing (2.8.5). The guest's own
            // stays: should this process end here, the entry is taken once more.
            if written > 0 {
                entry.add(8).cast::<u32>().write_volatile(written.to_le());
            }
            entry
                .add(12)
                .cast::<u16>()
                .write_volatile(chain.id().to_le());
        }
        walk.log_used(at as u64, DESC_LEN as u64);
        self.used.advance(chain.count(), self.size);
        self.note_given_back(Cursor { index, wrap });
        let flags = used_flags(wrap, written > 0);
        match self.first {
            None => self.first = Some((index, flags)),
            Some(_) => self.flags(index).store(flags.to_le(), Ordering::Release),
        }
    }

    /// Writes down where the ring stands once this chain is back: before the guest
    /// can see it, and after all but its flags is there. Whoever goes on from here
    /// can finish it.
    #[inline]
    fn note_given_back(&mut self, at: Cursor) {
        self.standing.used = self.used.bits();
        self.standing.last = at.bits();
        if self.first.is_none() {
            self.standing.first = at.bits();
        }
        if self.used.wrap && !at.wrap {
            // The entries of the last time round were given back once more since.
            self.standing.witness = None;
            self.keep_witness();
        }
        self.keep();
    }

    #[inline]
    fn keep_witness(&self) {
        for keeper in &self.keepers {
            keeper.keep_witness(self.standing.witness);
            fence(Ordering::Release);
        }
    }

    #[inline]
    pub(super) fn keep(&self) {
        for keeper in &self.keepers {
            // Also so that the compiler does not move it.
            fence(Ordering::Release);
            keeper.keep(self.standing);
            fence(Ordering::Release);
        }
    }

    /// Whether this is a ring that stands there. A ring that its driver has begun
    /// anew has in no entry the USED bit that only a device sets, and the witness
    /// has it until it is given back once more.
    pub(super) fn stands(&self, standing: Standing) -> bool {
        let used = Cursor::of(standing.used, self.size);
        let Some(index) = standing.witness else {
            return true;
        };
        let passed = !used.wrap && index < used.index;
        passed
            || self.is_finished(Cursor {
                index: index % self.size,
                wrap: true,
            })
    }

    /// Whether the entry was given back when it was met with that wrap counter.
    fn is_finished(&self, at: Cursor) -> bool {
        let flags = u16::from_le(self.flags(at.index).load(Ordering::Acquire));
        (flags & PACKED_F_USED != 0) == at.wrap
    }

    /// Goes on where another process ended, perhaps between two stores.
    pub(super) fn resume(&mut self, standing: Standing, writes: bool) {
        self.used = Cursor::of(standing.used, self.size);
        self.avail = self.used;
        self.standing = standing;
        // The first last, as always.
        for at in [standing.last, standing.first] {
            let at = Cursor::of(at, self.size);
            if at != self.used && !self.is_finished(at) {
                let flags = used_flags(at.wrap, writes);
                self.flags(at.index).store(flags.to_le(), Ordering::Release);
            }
        }
        self.keep();
        self.keep_witness();
    }

    #[inline]
    pub(super) fn publish(&mut self, _walk: &Walk) -> bool {
        let Some((index, flags)) = self.first.take() else {
            return false;
        };
        self.flags(index).store(flags.to_le(), Ordering::Release);
        let last = Cursor::of(self.standing.last, self.size);
        if last.wrap && !self.keepers.is_empty() {
            self.standing.witness = Some(last.index);
            self.keep_witness();
        }
        fence(Ordering::SeqCst);
        let new = self.used.index;
        let Some(old) = self.asked_used.replace(new) else {
            return true;
        };
        // SAFETY: both words are in every driver area.
        let (place, flags) = unsafe { (self.areas.driver_word(0), self.areas.driver_word(2)) };
        let flags = u16::from_le(flags.load(Ordering::Acquire));
        let place = u16::from_le(place.load(Ordering::Relaxed));
        match flags & 3 {
            EVENT_DISABLE => false,
            EVENT_DESC if self.event_idx => self.wants_call(place, new, old),
            _ => true,
        }
    }

    /// Both wrap counters seen, as in Linux `virtqueue_kick_prepare_packed`.
    fn wants_call(&self, place: u16, new: u16, old: u16) -> bool {
        let mut event = place & 0x7fff;
        if (place & 0x8000 != 0) != self.used.wrap {
            event = event.wrapping_sub(self.size);
        }
        let old = if new <= old {
            old.wrapping_sub(self.size)
        } else {
            old
        };
        wants_event(event, new, old)
    }

    pub(super) fn set_device_event(&mut self, place: u16, flags: u16) {
        // SAFETY: both words are in every device area.
        let (to_place, to_flags) =
            unsafe { (self.areas.device_word(0), self.areas.device_word(2)) };
        to_place.store(place.to_le(), Ordering::Relaxed);
        to_flags.store(flags.to_le(), Ordering::Release);
    }

    pub(super) fn listen(&mut self) -> bool {
        let flags = if self.event_idx {
            EVENT_DESC
        } else {
            EVENT_ENABLE
        };
        self.set_device_event(self.avail.bits(), flags);
        fence(Ordering::SeqCst);
        self.is_available()
    }
}
