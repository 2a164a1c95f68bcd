//! A guest's buffers: what is read from them, what is written into them.
#![allow(unsafe_code, reason = "memory shared with a guest")]

use jumbo_engine::packet::HEADER_ROOM;

use crate::pool::{Lender, Piece};
use crate::sys::region::prefetch;

/// A buffer of a guest: one descriptor, or the part of it within one region.
#[derive(Copy, Clone, Debug)]
pub(in crate::vhost) struct Buf {
    pub(super) base: *mut u8,
    pub(super) guest_addr: u64,
    pub(super) offset: u64,
    pub(super) region: u8,
    pub(in crate::vhost) len: u32,
}

// SAFETY: an address into a mapping that belongs to no thread; the `Vring` it came
// from keeps the mapping, and the queue that owns both moves as a whole.
unsafe impl Send for Buf {}

impl Buf {
    /// Where the guest sees it.
    #[cfg(test)]
    pub(in crate::vhost) fn guest_addr(&self) -> u64 {
        self.guest_addr
    }

    /// Its bytes from `skip` on, where the burst finds them.
    #[inline]
    pub(in crate::vhost) fn frag_at(&self, lender: Lender, skip: u32) -> u64 {
        lender.at(self.region, self.offset + u64::from(skip))
    }

    /// Copies its first bytes out, as many as both have. Returns how many.
    #[inline]
    pub(in crate::vhost) fn copy_to(&self, out: &mut [u8]) -> usize {
        let len = out.len().min(self.len as usize);
        // SAFETY: `len` bytes at `base` were checked to be inside a mapping that the
        // caller's ring keeps; no slice of ours overlaps a mapping.
        unsafe { std::ptr::copy_nonoverlapping(self.base, out.as_mut_ptr(), len) };
        len
    }

    /// The bytes from `skip` on: as many as `out` has, zeros for those that are not there.
    #[inline]
    pub(in crate::vhost) fn copy_padded(&self, skip: usize, out: &mut [u8; HEADER_ROOM]) {
        let from = self.base.wrapping_add(skip);
        let len = (self.len as usize).saturating_sub(skip);
        if len >= HEADER_ROOM {
            // SAFETY: so many bytes at `from` were checked to be inside a mapping that the
            // caller's ring keeps; no slice of ours overlaps a mapping.
            unsafe { std::ptr::copy_nonoverlapping(from, out.as_mut_ptr(), HEADER_ROOM) };
            return;
        }
        *out = [0; HEADER_ROOM];
        // SAFETY: as above, of `len` bytes.
        unsafe { std::ptr::copy_nonoverlapping(from, out.as_mut_ptr(), len) };
    }

    /// The first `N` bytes, if it has as many.
    #[inline]
    pub(in crate::vhost) fn first<const N: usize>(&self) -> Option<[u8; N]> {
        if (self.len as usize) < N {
            return None;
        }
        let mut out = [0; N];
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(self.base, out.as_mut_ptr(), N) };
        Some(out)
    }

    #[inline]
    pub(in crate::vhost) fn prefetch(&self) {
        prefetch(self.base);
    }
}

/// A virtio header as words, so that it goes from registers to the guest. Through a
/// buffer its bytes would be read wider than they were written, and such a read waits
/// for all stores before it: for the payload of the packet before.
#[derive(Copy, Clone, Debug)]
pub(in crate::vhost) struct Prefix {
    /// As on the wire, the first byte lowest.
    pub(in crate::vhost) words: [u64; 3],
    /// Bytes that count.
    pub(in crate::vhost) len: usize,
}

const PREFIX_ROOM: usize = 24;

impl Prefix {
    /// Writes it at the start of `buf`, with zeros behind it, if it and at least as many
    /// bytes as the zeros fit.
    #[inline]
    fn write_to(self, buf: Option<&Buf>, header_len: usize) -> bool {
        let Some(buf) = buf else { return false };
        if (buf.len as usize) < PREFIX_ROOM || self.len + header_len < PREFIX_ROOM {
            return false;
        }
        let to = buf.base.cast::<u64>();
        // SAFETY: PREFIX_ROOM bytes at `base` were checked to be in a mapping the ring
        // keeps, at any alignment.
        unsafe {
            to.write_unaligned(self.words[0].to_le());
            to.add(1).write_unaligned(self.words[1].to_le());
            to.add(2).write_unaligned(self.words[2].to_le());
        }
        true
    }

    fn bytes(self) -> [u8; PREFIX_ROOM] {
        let mut bytes = [0; PREFIX_ROOM];
        for (out, word) in bytes.chunks_exact_mut(8).zip(self.words) {
            out.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

#[inline]
pub(super) fn fill<'a>(
    bufs: &[Buf],
    prefix: Prefix,
    header: &'a [u8],
    payload: impl Iterator<Item = Piece<'a>>,
) -> usize {
    let mut to = Target::new(bufs);
    if prefix.write_to(bufs.first(), header.len()) {
        to.skip(prefix.len);
    } else {
        to.write(Piece::of(&prefix.bytes()[..prefix.len.min(PREFIX_ROOM)]));
    }
    to.write(Piece::of(header));
    for piece in payload {
        if !to.write(piece) {
            break;
        }
    }
    to.written
}

/// Where a packet is being written.
struct Target<'a> {
    bufs: std::slice::Iter<'a, Buf>,
    to: *mut u8,
    room: usize,
    written: usize,
}

impl<'a> Target<'a> {
    #[inline]
    fn new(bufs: &'a [Buf]) -> Self {
        Self {
            bufs: bufs.iter(),
            to: std::ptr::null_mut(),
            room: 0,
            written: 0,
        }
    }

    /// Goes on in the next buffer, if there is one.
    #[inline]
    fn next(&mut self) -> bool {
        let Some(buf) = self.bufs.next() else {
            return false;
        };
        (self.to, self.room) = (buf.base, buf.len as usize);
        true
    }

    /// Leaves out `len` bytes of the first buffer, which has more.
    #[inline]
    fn skip(&mut self, len: usize) {
        if self.next() {
            self.to = self.to.wrapping_add(len);
            self.room = self.room.saturating_sub(len);
            self.written = len;
        }
    }

    /// Writes all of a piece; `false` if there was no room for it.
    #[inline]
    fn write(&mut self, piece: Piece<'_>) -> bool {
        let (mut from, mut left) = (piece.as_ptr(), piece.len());
        while left > 0 {
            if self.room == 0 && !self.next() {
                return false;
            }
            let len = left.min(self.room);
            // SAFETY: `len` bytes are readable at `from`, inside the piece, and
            // writable at `to`, inside the buffer, which was checked to be in a
            // mapping the ring keeps. A guest may have made both overlap: `copy`
            // allows it.
            unsafe {
                std::ptr::copy(from, self.to, len);
                from = from.add(len);
                self.to = self.to.add(len);
            }
            left -= len;
            self.room -= len;
            self.written += len;
        }
        true
    }
}
