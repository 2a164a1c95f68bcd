//! The memory of a burst: the worker's own buffer, and what ports lend it.
//!
//! The buffer is filled front to back and emptied all at once. A packet takes what
//! it needs and no more, so a burst of small packets stays in a few cache lines
//! and a super-packet still lies in one piece. Nothing is freed singly: when no
//! packet of the burst is left, the cursor goes back.
//!
//! A port whose packets lie in memory it shares with somebody (a guest's RAM, a
//! ring of the kernel) lends that memory for the burst instead of copying. All
//! that is lent is given back when the burst ends, so memory may go away between
//! two bursts and at no other time.
//!
//! What must rest beyond its burst is copied to a room of the pool's own
//! ([`Pool::rest`]): one for each packet, and the rooms are all there are.

use std::sync::Arc;

use jumbo_engine::arena::{Memory, Pieces};
use jumbo_engine::checksum::{Kernels, Sum, udp_nonzero};
use jumbo_engine::packet::Frag;

pub use crate::sys::region::{Piece, Region};

/// Where a packet's bytes start is a multiple of this: a cache line.
const ALIGN: usize = 64;

/// The top bit of a place says that it is in lent memory. Then follow who lends
/// (11 bits), which of its regions (8), and the offset (44: 16 TiB).
const LENT: u64 = 1 << 63;
const LENDER_AT: u32 = 52;
const REGION_AT: u32 = 44;
const OFFSET_MASK: u64 = (1 << REGION_AT) - 1;

/// Most lenders of a burst. A port that finds no place among them waits for the next.
pub const LENDERS_MAX: usize = 1 << 11;

/// Most regions of a lender.
pub const REGIONS_MAX: usize = 1 << 8;

/// Largest region, bytes.
pub const REGION_LEN_MAX: u64 = 1 << REGION_AT;

/// Memory that a port lends: the regions of one guest, the ring of one socket.
/// At most [`REGIONS_MAX`] of at most [`REGION_LEN_MAX`] bytes are reached.
pub type Regions = Arc<[Arc<Region>]>;

/// Who lends, in this burst.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Lender(u64);

impl Lender {
    /// The place `offset` bytes into one of the lender's regions.
    #[inline]
    #[must_use]
    pub fn at(self, region: u8, offset: u64) -> u64 {
        self.0 | u64::from(region) << REGION_AT | offset & OFFSET_MASK
    }
}

/// A room for the payload of one resting packet, bytes: the longest there is.
const ROOM_LEN: usize = jumbo_engine::superpacket::L3_TOTAL_MAX.next_multiple_of(4096);

/// The memory of a burst, and of what rests beyond it.
#[derive(Debug)]
pub struct Pool {
    /// The burst's own, then the rooms.
    bytes: Box<[u8]>,
    burst_len: usize,
    cursor: usize,
    /// Whether each room is in use.
    rooms: Vec<bool>,
    lent: Vec<Regions>,
    kernels: Kernels,
}

impl Pool {
    /// A pool of so many bytes of its own. Allocates all it will ever need.
    pub fn new(len: usize, kernels: Kernels) -> Self {
        Self::with_rooms(len, 0, kernels)
    }

    /// The same with rooms for so many packets that rest. A room takes no memory before it is used.
    pub fn with_rooms(len: usize, rooms: usize, kernels: Kernels) -> Self {
        Self {
            bytes: vec![0; len + rooms * ROOM_LEN].into_boxed_slice(),
            burst_len: len,
            cursor: 0,
            rooms: vec![false; rooms],
            lent: Vec::with_capacity(LENDERS_MAX),
            kernels,
        }
    }

    /// The bytes not yet taken.
    #[inline]
    pub fn space(&mut self) -> &mut [u8] {
        &mut self.bytes[self.cursor..self.burst_len]
    }

    /// How many bytes are not yet taken.
    #[inline]
    pub fn space_len(&self) -> usize {
        self.burst_len - self.cursor
    }

    /// Takes the first `len` bytes of [`Pool::space`]. Returns where they start.
    #[inline]
    pub fn take(&mut self, len: usize) -> u64 {
        let at = self.cursor;
        let end = at + len.min(self.burst_len - at);
        self.cursor = end.next_multiple_of(ALIGN).min(self.burst_len);
        at as u64
    }

    /// Borrows `regions` until the end of the burst; `None` if too many have lent.
    #[inline]
    pub fn borrow(&mut self, regions: &Regions) -> Option<Lender> {
        let known = self.lent.iter().position(|lent| Arc::ptr_eq(lent, regions));
        let index = match known {
            Some(index) => index,
            None if self.lent.len() == LENDERS_MAX => return None,
            None => {
                self.lent.push(regions.clone());
                self.lent.len() - 1
            }
        };
        Some(Lender(LENT | (index as u64) << LENDER_AT))
    }

    /// Frees everything but the rooms and gives back what was lent. A frag that is used
    /// afterwards reads another packet's bytes or none, never memory outside.
    #[inline]
    pub fn reset(&mut self) {
        self.cursor = 0;
        self.lent.clear();
    }

    /// The bytes of a frag, or `None` if they are not there.
    #[inline]
    pub fn piece(&self, frag: Frag) -> Option<Piece<'_>> {
        if frag.at & LENT != 0 {
            return self.lent_piece(frag);
        }
        let start = usize::try_from(frag.at).ok()?;
        let bytes = self
            .bytes
            .get(start..start.checked_add(frag.len as usize)?)?;
        Some(Piece::of(bytes))
    }

    #[inline]
    fn lent_piece(&self, frag: Frag) -> Option<Piece<'_>> {
        let lender = (frag.at >> LENDER_AT) as usize & (LENDERS_MAX - 1);
        let region = (frag.at >> REGION_AT) as usize & (REGIONS_MAX - 1);
        let region = self.lent.get(lender)?.get(region)?;
        region.piece(frag.at & OFFSET_MASK, frag.len)
    }

    /// Copies a packet that lies in lent memory into the pool's own. Returns where
    /// it is now and how long; `None` if there is no room or a piece is not there.
    #[cold]
    pub fn promote(&mut self, body: &[Frag]) -> Option<(u64, usize)> {
        let mut len = 0;
        for frag in body {
            let lender = (frag.at >> LENDER_AT) as usize & (LENDERS_MAX - 1);
            let region = (frag.at >> REGION_AT) as usize & (REGIONS_MAX - 1);
            let region = self.lent.get(lender)?.get(region)?.clone();
            let piece = region.piece(frag.at & OFFSET_MASK, frag.len)?;
            let room = self.space().get_mut(len..len + piece.len())?;
            len += piece.copy_to(room);
        }
        Some((self.take(len), len))
    }

    /// Says which packets rest, each by its payload: the rooms of all others are free.
    pub fn keep_rooms<'a>(&mut self, resting: impl Iterator<Item = Pieces<'a>>) {
        self.rooms.fill(false);
        for mut pieces in resting {
            let room = pieces.next().and_then(|first| self.room_of(first));
            if let Some(taken) = room.and_then(|room| self.rooms.get_mut(room)) {
                *taken = true;
            }
        }
    }

    /// Moves the payload of a packet to a room, or, if it begins in one, what joined it since
    /// behind the rest. Returns where it is from now on, in one piece, and how many bytes were
    /// copied; `None` if no room is free or a piece is not there.
    pub fn rest(&mut self, mut pieces: Pieces<'_>) -> Option<(u64, usize)> {
        let whole = pieces;
        let first = pieces.next()?;
        let (room, mut len) = match self.room_of(first) {
            Some(room) => (room, first.len as usize),
            None => {
                pieces = whole;
                (self.rooms.iter().position(|taken| !taken)?, 0)
            }
        };
        let start = self.burst_len + room * ROOM_LEN;
        let rested = len;
        for frag in pieces {
            let end = len + frag.len as usize;
            if end > ROOM_LEN {
                return None;
            }
            self.copy_to_room(frag, start + len)?;
            len = end;
        }
        *self.rooms.get_mut(room)? = true;
        Some((start as u64, len - rested))
    }

    /// Which room a piece is in.
    fn room_of(&self, frag: Frag) -> Option<usize> {
        let own = frag.at & LENT == 0;
        let at = (frag.at as usize).checked_sub(self.burst_len);
        at.filter(|_| own).map(|at| at / ROOM_LEN)
    }

    fn copy_to_room(&mut self, frag: Frag, to: usize) -> Option<()> {
        let len = frag.len as usize;
        if frag.at & LENT == 0 {
            let start = usize::try_from(frag.at).ok()?;
            self.bytes.get(start..start.checked_add(len)?)?;
            self.bytes.copy_within(start..start + len, to);
            return Some(());
        }
        let lender = (frag.at >> LENDER_AT) as usize & (LENDERS_MAX - 1);
        let region = (frag.at >> REGION_AT) as usize & (REGIONS_MAX - 1);
        let region = self.lent.get(lender)?.get(region)?;
        let piece = region.piece(frag.at & OFFSET_MASK, frag.len)?;
        (piece.copy_to(self.bytes.get_mut(to..to + len)?) == len).then_some(())
    }

    /// Appends the bytes of all pieces to `out`; `None` if one is not there.
    pub fn append_to(&self, pieces: Pieces<'_>, out: &mut Vec<u8>) -> Option<()> {
        for frag in pieces {
            self.piece(frag)?.append_to(out);
        }
        Some(())
    }

    /// Finishes the checksum of the packet that begins at `at` and is `len` bytes
    /// long: the sum from its byte `start` to its end, written `offset` bytes
    /// behind that. `None` if the field is not inside the packet, or the packet
    /// not in the pool's own bytes.
    pub fn finish_checksum(&mut self, at: u64, len: u32, start: u16, offset: u16) -> Option<()> {
        let rest = len.checked_sub(u32::from(start))?;
        let summed = Frag::new(at + u64::from(start), rest);
        // Whose checksum it is is not known here. All take 0xffff for 0, which
        // only UDP must not send (Linux `net/core/dev.c` `skb_checksum_help`).
        let check = udp_nonzero(self.sum(summed)?.checksum());
        let packet = self.bytes.get_mut(usize::try_from(summed.at).ok()?..)?;
        let field = usize::from(offset);
        packet
            .get_mut(..rest as usize)?
            .get_mut(field..field + 2)?
            .copy_from_slice(&check.to_be_bytes());
        Some(())
    }

    /// The first `len` bytes of [`Pool::space`], as many of them as there are.
    #[inline]
    pub fn peek_space(&self, len: usize) -> &[u8] {
        self.peek(self.cursor as u64, len)
    }

    /// `len` of the pool's own bytes from `at` on, as many of them as there are.
    #[inline]
    pub fn peek(&self, at: u64, len: usize) -> &[u8] {
        let start = (at as usize).min(self.burst_len);
        let end = start.saturating_add(len).min(self.burst_len);
        &self.bytes[start..end]
    }
}

impl Memory for Pool {
    #[inline]
    fn sum(&self, frag: Frag) -> Option<Sum> {
        Some(self.piece(frag)?.sum(&self.kernels))
    }
}
