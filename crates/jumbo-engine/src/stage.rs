//! One pass over payload: a [`Memory`] that copies what it sums.
//!
//! Where a checksum must be verified, or made, and the payload be copied
//! besides, each byte need be looked at only once. A [`Stage`] has a number of
//! rooms, each for one packet that will leave: when the coalescer verifies a
//! segment through a [`StagedMemory`], its payload is copied behind that of the
//! aggregate it joins, so that an aggregate lies in one piece when it ends, with
//! room for its header before it ([`Stage::whole`]). The segmenter's
//! checksums do the same, a room for each segment. What finds no room is summed where it
//! is, and stays there. A copy with a wrong checksum is never used.
//!
//! ```
//! use jumbo_engine::coalesce::Received;
//! use jumbo_engine::prelude::*;
//! use jumbo_engine::stage::{Stage, StagedMemory};
//!
//! let (buffer, stage) = (vec![0; 2000], Stage::new(16, 65_535)); // 16 flows at a time
//! let mut arena = Arena::new(64, 128);
//! let mut gro = Coalescer::new(&GRO, 16, 0x5eed);
//! let memory = StagedMemory::new(SliceMemory::new(&buffer, Kernels::detect()), &stage);
//! // gro.take_all(&mut arena, burst, &memory, |gro, arena, received, taken| ...) ...
//! gro.flush(&mut arena, End::BurstEnd);
//! for done in gro.ready().drain(..) {
//!     let (packet, payload) = (arena.packet(done.id), arena.payload(done.id));
//!     let sent = stage.whole(packet, payload, |bytes| { /* send them */ });
//!     if sent.is_none() { /* gather the pieces of `payload`, which `stage.look` has or your buffer */ }
//! }
//! stage.clear(); // the burst is over
//! ```

use alloc::boxed::Box;
use alloc::vec;
use core::cell::{Cell, RefCell};

use crate::arena::{Memory, Pieces, SliceMemory};
use crate::checksum::{Kernels, Sum};
use crate::packet::{Frag, HEADERS_MAX, Packet};

/// Memory whose bytes can be seen.
pub trait Bytes {
    /// The bytes of `frag`; `None` if the memory does not have them.
    fn bytes(&self, frag: Frag) -> Option<&[u8]>;
}

/// Room for a header before the payload, in whole cache lines.
const BEFORE: usize = HEADERS_MAX.next_multiple_of(64) + 64;

/// What tells a place in a stage from the caller's own: no address in user space has this bit.
const STAGED: u64 = 1 << 63;

/// Buffers for packets about to leave.
#[derive(Debug)]
pub struct Stage {
    bytes: RefCell<Box<[u8]>>,
    room_len: usize,
    taken: Cell<usize>,
}

impl Stage {
    /// So many rooms, each for the headers and so many bytes of payload of one packet. Allocates once.
    pub fn new(rooms: usize, payload_len_max: usize) -> Self {
        let room_len = BEFORE + payload_len_max.max(1).next_multiple_of(64);
        Self {
            bytes: RefCell::new(vec![0; rooms * room_len].into_boxed_slice()),
            room_len,
            taken: Cell::new(0),
        }
    }

    /// Empties all rooms. Nothing may refer to them any more.
    #[inline]
    pub fn clear(&self) {
        self.taken.set(0);
    }

    /// Rooms in use.
    #[inline]
    pub fn taken(&self) -> usize {
        self.taken.get()
    }

    /// A packet whose payload lies here in one piece: its header is written before that, and all
    /// its bytes are shown to `look`. `None` if it is not so.
    #[inline]
    pub fn whole<R>(
        &self,
        packet: &Packet,
        payload: Pieces<'_>,
        look: impl FnOnce(&[u8]) -> R,
    ) -> Option<R> {
        let frag = payload.only().filter(|frag| frag.at & STAGED != 0)?;
        let at = (frag.at & !STAGED) as usize;
        let header_len = packet.header_len() + packet.tags().len_bytes();
        let start = at.checked_sub(header_len)?;
        let mut bytes = self.bytes.borrow_mut();
        packet.write_header(bytes.get_mut(start..at)?)?;
        Some(look(bytes.get(start..at + frag.len as usize)?))
    }

    /// Shows the bytes of a piece to `look`; `None` if it is not here, but in the caller's memory.
    #[inline]
    pub fn look<R>(&self, frag: Frag, look: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let at = (frag.at & STAGED != 0).then_some((frag.at & !STAGED) as usize)?;
        let bytes = self.bytes.borrow();
        Some(look(bytes.get(at..at + frag.len as usize)?))
    }

    /// Where `len` bytes go: behind others, or in a room of their own.
    #[inline]
    fn place(&self, len: usize, behind: Option<u64>) -> Option<usize> {
        let Some(end) = behind else {
            let at = self.taken.get() * self.room_len + BEFORE;
            return (len <= self.room_len - BEFORE).then_some(at);
        };
        let at = (end & STAGED != 0).then_some((end & !STAGED) as usize)?;
        // A room that is full ends where the next one begins.
        let left = self.room_len - (at.saturating_sub(1) % self.room_len) - 1;
        (len <= left).then_some(at)
    }

    /// Copies and sums, if there is room.
    #[inline]
    fn put(&self, kernels: Kernels, from: &[u8], behind: Option<u64>) -> Option<(Sum, u64)> {
        let at = self.place(from.len(), behind)?;
        let mut bytes = self.bytes.borrow_mut();
        let sum = kernels.copy_sum(bytes.get_mut(at..at + from.len())?, from);
        if behind.is_none() {
            self.taken.set(self.taken.get() + 1);
        }
        Some((sum, at as u64 | STAGED))
    }
}

/// Memory that copies to a [`Stage`] what it sums, where that is asked for.
#[derive(Copy, Clone, Debug)]
pub struct StagedMemory<'a, B> {
    from: B,
    kernels: Kernels,
    stage: &'a Stage,
}

impl<'a, 'b> StagedMemory<'a, SliceMemory<'b>> {
    /// Copies out of a slice.
    pub fn new(from: SliceMemory<'b>, stage: &'a Stage) -> Self {
        Self::over(from, from.kernels(), stage)
    }
}

impl<'a, B: Bytes> StagedMemory<'a, B> {
    /// Copies out of any memory whose bytes can be seen.
    pub fn over(from: B, kernels: Kernels, stage: &'a Stage) -> Self {
        Self {
            from,
            kernels,
            stage,
        }
    }
}

impl<B: Bytes> Memory for StagedMemory<'_, B> {
    #[inline]
    fn sum(&self, frag: Frag) -> Option<Sum> {
        if frag.at & STAGED == 0 {
            return Some(self.kernels.sum(self.from.bytes(frag)?));
        }
        self.stage.look(frag, |bytes| self.kernels.sum(bytes))
    }

    #[inline]
    fn sum_and_place(&self, frag: Frag, behind: Option<u64>) -> Option<(Sum, u64)> {
        if frag.at & STAGED != 0 {
            return Some((self.sum(frag)?, frag.at));
        }
        let bytes = self.from.bytes(frag)?;
        let put = self.stage.put(self.kernels, bytes, behind);
        Some(put.unwrap_or_else(|| (self.kernels.sum(bytes), frag.at)))
    }

    #[inline]
    fn forget(&self, at: u64) {
        // The last room taken, or not of this stage.
        let last = self.stage.taken.get().wrapping_sub(1);
        let first = last.wrapping_mul(self.stage.room_len).wrapping_add(BEFORE);
        if at == first as u64 | STAGED {
            self.stage.taken.set(last);
        }
    }
}
