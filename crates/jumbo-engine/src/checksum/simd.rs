//! What raw kernels share: from slices to pointers, into pieces, and the scalar code for any
//! processor and for what is too short for a vector.

#![allow(
    unsafe_code,
    reason = "memory that others write to must not be covered by a slice"
)]

use super::{RawCopySum, RawSum, Sum};
use core::ptr;

/// No body sees more than this at once, so that no lane can overflow: one takes 2^32 additions of
/// 32 bits, and this is 2^21 vectors of 32 bytes. It is even, so that every piece begins at an even
/// offset.
#[cfg(target_arch = "x86_64")]
const PIECE_LEN: usize = 1 << 26;

/// # Safety
///
/// The processor has the features of `kernel`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) unsafe fn sum_slice(kernel: RawSum, bytes: &[u8]) -> Sum {
    // SAFETY: a slice is readable for its length.
    unsafe { kernel(bytes.as_ptr(), bytes.len()) }
}

/// # Safety
///
/// The processor has the features of `kernel`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) unsafe fn copy_slice(kernel: RawCopySum, dst: &mut [u8], src: &[u8]) -> Sum {
    let len = dst.len().min(src.len());
    // SAFETY: both slices have at least `len` bytes, and a unique one overlaps no other.
    unsafe { kernel(dst.as_mut_ptr(), src.as_ptr(), len) }
}

/// Calls `body` for pieces it can take.
///
/// # Safety
///
/// That of `body`, which keeps to the contract of [`RawCopySum`] or does not use `dst`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) unsafe fn in_pieces(body: RawCopySum, dst: *mut u8, src: *const u8, len: usize) -> Sum {
    if len <= PIECE_LEN {
        // SAFETY: the caller's.
        return unsafe { body(dst, src, len) };
    }
    let mut total = Sum::ZERO;
    for at in (0..len).step_by(PIECE_LEN) {
        let piece_len = PIECE_LEN.min(len - at);
        // SAFETY: `at + piece_len <= len`. `dst` may be null, hence the wrapping addition.
        total = total.add(unsafe { body(dst.wrapping_add(at), src.add(at), piece_len) });
    }
    total
}

/// Runs anywhere.
///
/// # Safety
///
/// That of [`RawSum`].
pub(super) unsafe fn raw_sum_portable(src: *const u8, len: usize) -> Sum {
    // SAFETY: the caller's; nothing is stored.
    unsafe { scalar::<false>(ptr::null_mut(), src, len) }
}

/// Runs anywhere.
///
/// # Safety
///
/// That of [`RawCopySum`].
pub(super) unsafe fn raw_copy_sum_portable(dst: *mut u8, src: *const u8, len: usize) -> Sum {
    // SAFETY: the caller's.
    unsafe { scalar::<true>(dst, src, len) }
}

/// Words of 8 bytes, then what is left in halves.
///
/// # Safety
///
/// That of [`RawCopySum`]; without `COPY`, `dst` is not used.
#[inline(always)]
pub(super) unsafe fn scalar<const COPY: bool>(dst: *mut u8, src: *const u8, len: usize) -> Sum {
    let mut wide = 0u128;
    let mut at = 0;
    macro_rules! take {
        ($word:ty) => {{
            // SAFETY: each use is behind a comparison that says `at + size_of::<$word>() <= len`.
            let word = unsafe { src.add(at).cast::<$word>().read_unaligned() };
            if COPY {
                // SAFETY: the same, for `dst`.
                unsafe { dst.add(at).cast::<$word>().write_unaligned(word) };
            }
            at += size_of::<$word>();
            wide += u128::from(word);
        }};
    }
    while len - at >= 8 {
        take!(u64);
    }
    if len & 4 != 0 {
        take!(u32);
    }
    if len & 2 != 0 {
        take!(u16);
    }
    if len & 1 != 0 {
        // SAFETY: the last byte is at `len - 1`, and `at` is there.
        let byte = unsafe { src.add(at).read() };
        if COPY {
            // SAFETY: the same, for `dst`.
            unsafe { dst.add(at).write(byte) };
        }
        wide += u128::from(u16::from_ne_bytes([byte, 0]));
    }
    Sum(wide as u64).add(Sum((wide >> 64) as u64))
}
