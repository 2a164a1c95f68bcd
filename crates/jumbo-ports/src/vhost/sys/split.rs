//! A split ring (virtio 1.3 section 2.7).
#![allow(unsafe_code, reason = "memory shared with a guest")]

use std::sync::atomic::{Ordering, fence};

use super::buf::Buf;
use super::vring::{CHAIN_MAX, Chain, RingFault, Setup};
use super::walk::{
    Areas, DESC_F_INDIRECT, DESC_F_NEXT, DESC_LEN, DESCS_AHEAD, Walk, read_desc, wants_event,
};
use crate::sys::region::prefetch;

/// VIRTQ_AVAIL_F_NO_INTERRUPT and VIRTQ_USED_F_NO_NOTIFY.
const SPLIT_F_NO_EVENT: u16 = 1;

/// A split ring. Driver area: flags, idx, `size` heads, used_event. Device area:
/// flags, idx, `size` pairs of id and length, avail_event.
#[derive(Debug)]
pub(super) struct Split {
    pub(super) areas: Areas,
    pub(super) size: u16,
    pub(super) event_idx: bool,
    /// What is taken next, and the guest's index when last looked at.
    pub(super) next_avail: u16,
    seen_avail: u16,
    /// What is given back next, and what the guest was shown.
    pub(super) next_used: u16,
    shown_used: u16,
    /// The used index when the guest was last asked whether it wants a call.
    pub(super) asked_used: Option<u16>,
}

const IDX: usize = 2;
const RING: usize = 4;

impl Split {
    pub(super) fn new(areas: Areas, setup: &Setup<'_>) -> Self {
        let position = setup.position;
        // SAFETY: the used index is in every device area.
        let shown = unsafe { areas.device_word(IDX) }.load(Ordering::Acquire);
        let used = position.used.unwrap_or(u16::from_le(shown));
        Self {
            areas,
            size: setup.ring.size,
            event_idx: setup.event_idx,
            next_avail: position.avail,
            seen_avail: position.avail,
            next_used: used,
            shown_used: used,
            asked_used: None,
        }
    }

    #[inline]
    fn slot(&self, index: u16) -> usize {
        // A power of two.
        usize::from(index & (self.size - 1))
    }

    /// Looks how far the guest is.
    #[inline]
    fn look(&mut self) -> Result<(), RingFault> {
        // SAFETY: inside every driver area.
        let seen = unsafe { self.areas.driver_word(IDX) }.load(Ordering::Acquire);
        let seen = u16::from_le(seen);
        let jump = seen.wrapping_sub(self.next_avail);
        if jump > self.size {
            return Err(RingFault::AvailIndexJump(jump));
        }
        self.seen_avail = seen;
        Ok(())
    }

    #[inline]
    pub(super) fn has_more(&self) -> bool {
        // SAFETY: inside every driver area.
        let seen = unsafe { self.areas.driver_word(IDX) }.load(Ordering::Relaxed);
        u16::from_le(seen) != self.next_avail
    }

    #[inline]
    pub(super) fn pop(
        &mut self,
        walk: &mut Walk,
        bufs: &mut Vec<Buf>,
    ) -> Result<Option<Chain>, RingFault> {
        if self.next_avail == self.seen_avail {
            self.look()?;
            if self.next_avail == self.seen_avail {
                return Ok(None);
            }
        }
        // SAFETY: `slot` is below the ring's size.
        let head = unsafe {
            self.areas
                .driver_word(RING + 2 * self.slot(self.next_avail))
        };
        let head = u16::from_le(head.load(Ordering::Relaxed));
        self.prefetch_desc();
        self.chain(head, walk, bufs)?;
        self.next_avail = self.next_avail.wrapping_add(1);
        Ok(Some(Chain::new(head, 1)))
    }

    /// Asks for a descriptor that will soon be taken.
    #[inline]
    fn prefetch_desc(&self) {
        if self.seen_avail.wrapping_sub(self.next_avail) <= DESCS_AHEAD {
            return;
        }
        let at = RING + 2 * self.slot(self.next_avail.wrapping_add(DESCS_AHEAD));
        // SAFETY: `slot` is below the ring's size.
        let head = unsafe { self.areas.driver_word(at) }.load(Ordering::Relaxed);
        let offset = self.slot(u16::from_le(head)) * DESC_LEN;
        prefetch(self.areas.desc.wrapping_add(offset));
    }

    #[inline]
    fn chain(&self, head: u16, walk: &mut Walk, bufs: &mut Vec<Buf>) -> Result<(), RingFault> {
        let mut index = head;
        for taken in 0..usize::from(self.size).min(CHAIN_MAX) {
            if index >= self.size {
                return Err(RingFault::DescriptorIndex(index));
            }
            // SAFETY: below the ring's size, as just checked.
            let desc = unsafe { read_desc(self.areas.desc, usize::from(index)) };
            let flags = desc.low;
            if flags & DESC_F_INDIRECT != 0 {
                // Direct descriptors may lead to it (2.7.5.3.2), none follow it (2.7.5.3.1).
                if flags & DESC_F_NEXT != 0 {
                    return Err(RingFault::NestedIndirect);
                }
                if taken + desc.len as usize / DESC_LEN > CHAIN_MAX {
                    return Err(RingFault::IndirectLength(desc.len));
                }
                return walk.indirect(desc, false, bufs);
            }
            walk.note((desc.addr, desc.len), flags, bufs)?;
            if flags & DESC_F_NEXT == 0 {
                return Ok(());
            }
            index = desc.high;
        }
        Err(RingFault::ChainTooLong)
    }

    #[inline]
    pub(super) fn give_back(&mut self, walk: &Walk, chain: Chain, written: u32) {
        let at = RING + 8 * self.slot(self.next_used);
        let pair = [u32::from(chain.id()).to_le(), written.to_le()];
        // SAFETY: `slot` is below the ring's size; the area is aligned to four bytes.
        unsafe {
            self.areas
                .device
                .add(at)
                .cast::<[u32; 2]>()
                .write_volatile(pair)
        };
        walk.log_used(at as u64, 8);
        self.next_used = self.next_used.wrapping_add(1);
    }

    #[inline]
    pub(super) fn publish(&mut self, walk: &Walk) -> bool {
        if self.next_used == self.shown_used {
            return false;
        }
        // SAFETY: inside every device area.
        let index = unsafe { self.areas.device_word(IDX) };
        index.store(self.next_used.to_le(), Ordering::Release);
        walk.log_used(IDX as u64, 2);
        self.shown_used = self.next_used;
        // The guest arms, then looks at the index; we store it, then look whether it is armed.
        fence(Ordering::SeqCst);
        let asked = self.asked_used.replace(self.next_used);
        if self.event_idx {
            let at = RING + 2 * usize::from(self.size);
            // SAFETY: used_event stands behind the heads and was counted in.
            let event = unsafe { self.areas.driver_word(at) }.load(Ordering::Relaxed);
            let event = u16::from_le(event);
            return asked.is_none_or(|old| wants_event(event, self.next_used, old));
        }
        // SAFETY: the flags are the first word of every driver area.
        let flags = unsafe { self.areas.driver_word(0) }.load(Ordering::Relaxed);
        u16::from_le(flags) & SPLIT_F_NO_EVENT == 0
    }

    pub(super) fn silence(&mut self) {
        if !self.event_idx {
            // SAFETY: the flags are the first word of every device area.
            unsafe { self.areas.device_word(0) }.store(SPLIT_F_NO_EVENT.to_le(), Ordering::Relaxed);
        }
        // With event indices an index that stays behind asks for nothing.
    }

    pub(super) fn listen(&mut self, walk: &Walk) -> Result<bool, RingFault> {
        if self.event_idx {
            let at = RING + 8 * usize::from(self.size);
            // SAFETY: avail_event stands behind the pairs and was counted in.
            let event = unsafe { self.areas.device_word(at) };
            event.store(self.next_avail.to_le(), Ordering::Relaxed);
            walk.log_used(at as u64, 2);
        } else {
            // SAFETY: the flags are the first word of every device area.
            unsafe { self.areas.device_word(0) }.store(0, Ordering::Relaxed);
        }
        // We arm, then look at the guest's index; it stores it, then looks whether we are armed.
        fence(Ordering::SeqCst);
        self.look()?;
        Ok(self.next_avail != self.seen_avail)
    }
}
