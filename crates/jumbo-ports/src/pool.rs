//! The memory a worker receives into: one buffer, filled front to back, emptied all at once.
//!
//! A packet takes what it needs and no more, so a burst of small packets stays
//! in a few cache lines and a super-packet still lies in one piece. Nothing is
//! freed singly: when no packet of the burst is left, the cursor goes back.

use jumbo_engine::arena::Memory;
use jumbo_engine::checksum::{Kernels, Sum, udp_nonzero};
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

    /// Finishes the checksum of the packet that begins at `at` and is `len` bytes
    /// long: the sum from its byte `start` to its end, written `offset` bytes
    /// behind that. `None` if the field is not inside the packet.
    pub fn finish_checksum(&mut self, at: u64, len: u32, start: u16, offset: u16) -> Option<()> {
        let rest = len.checked_sub(u32::from(start))?;
        let summed = Frag::new(at + u64::from(start), rest);
        // Whose checksum it is is not known here. All take 0xffff for 0, which
        // only UDP must not send (Linux `net/core/dev.c` `skb_checksum_help`).
        let check = udp_nonzero(self.sum(summed)?.checksum());
        let packet = &mut self.bytes[usize::try_from(summed.at).ok()?..][..rest as usize];
        let field = usize::from(offset);
        packet
            .get_mut(field..field + 2)?
            .copy_from_slice(&check.to_be_bytes());
        Some(())
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
