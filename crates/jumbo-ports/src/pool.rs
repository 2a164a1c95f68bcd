//! The memory a worker receives into: one buffer, filled front to back, emptied all at once.
//!
//! A packet takes what it needs and no more, so a burst of small packets stays
//! in a few cache lines and a super-packet still lies in one piece. Nothing is
//! freed singly: when no packet of the burst is left, the cursor goes back.

use jumbo_engine::arena::Memory;
use jumbo_engine::checksum::{Kernels, Sum};
use jumbo_engine::packet::Frag;

/// Where a packet's bytes start is a multiple of this: a cache line.
const ALIGN: usize = 64;

/// The buffer.
#[derive(Debug)]
pub struct Pool {
    bytes: Box<[u8]>,
    cursor: usize,
    kernels: Kernels,
}

impl Pool {
    /// A pool of so many bytes. Allocates once.
    pub fn new(len: usize, kernels: Kernels) -> Self {
        Self {
            bytes: vec![0; len].into_boxed_slice(),
            cursor: 0,
            kernels,
        }
    }

    /// The bytes not yet taken.
    #[inline]
    pub fn space(&mut self) -> &mut [u8] {
        &mut self.bytes[self.cursor..]
    }

    /// How many bytes are not yet taken.
    #[inline]
    pub fn space_len(&self) -> usize {
        self.bytes.len() - self.cursor
    }

    /// Takes the first `len` bytes of [`Pool::space`]. Returns where they start.
    #[inline]
    pub fn take(&mut self, len: usize) -> u64 {
        let at = self.cursor;
        let end = at + len.min(self.bytes.len() - at);
        self.cursor = end.next_multiple_of(ALIGN).min(self.bytes.len());
        at as u64
    }

    /// Frees everything. No frag of this pool may be used afterwards; one that
    /// is reads other packets' bytes, never memory outside the pool.
    #[inline]
    pub fn reset(&mut self) {
        self.cursor = 0;
    }

    /// The bytes of a frag, or `None` if they are not inside.
    #[inline]
    pub fn bytes(&self, frag: Frag) -> Option<&[u8]> {
        let start = usize::try_from(frag.at).ok()?;
        self.bytes.get(start..start.checked_add(frag.len as usize)?)
    }

    /// The first `len` bytes of [`Pool::space`], as many of them as there are.
    #[inline]
    pub fn peek_space(&self, len: usize) -> &[u8] {
        self.peek(self.cursor as u64, len)
    }

    /// `len` bytes from `at` on, as many of them as there are.
    #[inline]
    pub fn peek(&self, at: u64, len: usize) -> &[u8] {
        let start = (at as usize).min(self.bytes.len());
        let end = start.saturating_add(len).min(self.bytes.len());
        &self.bytes[start..end]
    }
}

impl Memory for Pool {
    #[inline]
    fn sum(&self, frag: Frag) -> Option<Sum> {
        Some(self.kernels.sum(self.bytes(frag)?))
    }
}
