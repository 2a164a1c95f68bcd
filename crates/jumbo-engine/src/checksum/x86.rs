//! The sum with AVX2 and AVX-512.
//!
//! # Three operations a vector
//!
//! In each 64-bit lane `all += v` wraps, and `high += v >> 32` does not. At the end the sum of the
//! low halves is `all - (high << 32)`: right modulo 2^64, and small enough to be exact. So a vector
//! costs an addition, a shift and an addition; no masking, no widening, no byte swap. Four
//! accumulators of each kind keep the additions from waiting for one another.
//!
//! AVX-512 VNNI could do it in two operations (`vpdpbusd`, with weights that pick the even or the
//! odd bytes), but on a Zen 5 it lost to this at every length from 20 bytes to 32 KB, by 5 to 30 %:
//! there the loads are the limit, and its accumulators take longer to bring together.
//!
//! # One body for sum and copy
//!
//! Each body exists once, with a constant `COPY` that says whether what was loaded is stored as
//! well. A body that does not copy takes no notice of `dst`.

#![allow(unsafe_code, reason = "vector loads and stores take pointers")]

use super::simd::{copy_slice, in_pieces, scalar, sum_slice};
use super::{Kernels, Sum};
use core::arch::x86_64::*;
use core::ptr;

cpufeatures::new!(has_avx2, "avx2");
cpufeatures::new!(has_avx512, "avx512f", "avx512bw", "avx512vl");

/// Up to here scalar code beats AVX2. (AVX-512 masks what it lacks, and wins from the first byte.)
const SCALAR_LEN: usize = 127;

/// From here on it pays to begin with a partial vector, so that all others are aligned. (Not
/// for copies: neither aligned loads nor aligned stores made one faster.)
const ALIGN_LEN: usize = 512;

/// From here on a sum goes over both halves at once. What is longer than the first-level cache
/// comes from the second, and that gives more to two streams than to one: on a Zen 5 a tenth more in
/// a ring of such buffers, a sixth more where it is the same buffer again and again. (Four streams do better
/// with one buffer, and worse with more.)
const HALVES_LEN: usize = 56 << 10;

/// The AVX2 kernels, where they run.
pub(super) fn avx2() -> Option<Kernels> {
    has_avx2::get().then_some(Kernels {
        name: "avx2",
        // SAFETY: each of these is handed out here alone, after AVX2 was detected.
        sum: |bytes| unsafe { sum_slice(raw_sum_avx2, bytes) },
        // SAFETY: the same.
        copy_sum: |dst, src| unsafe { copy_slice(raw_copy_sum_avx2, dst, src) },
        raw_sum: raw_sum_avx2,
        raw_copy_sum: raw_copy_sum_avx2,
    })
}

/// The AVX-512 kernels, where they run.
pub(super) fn avx512() -> Option<Kernels> {
    has_avx512::get().then_some(Kernels {
        name: "avx512",
        // SAFETY: each of these is handed out here alone, after AVX-512 F, BW and VL were detected.
        sum: |bytes| unsafe { sum_slice(raw_sum_avx512, bytes) },
        // SAFETY: the same.
        copy_sum: |dst, src| unsafe { copy_slice(raw_copy_sum_avx512, dst, src) },
        raw_sum: raw_sum_avx512,
        raw_copy_sum: raw_copy_sum_avx512,
    })
}

/// # Safety
///
/// That of [`RawSum`](super::RawSum), with AVX2.
#[inline(always)]
unsafe fn raw_sum_avx2(src: *const u8, len: usize) -> Sum {
    if len <= SCALAR_LEN {
        // SAFETY: the caller's.
        return unsafe { scalar::<false>(ptr::null_mut(), src, len) };
    }
    // SAFETY: the caller's; nothing is stored.
    unsafe { in_pieces(avx2_body::<false>, ptr::null_mut(), src, len) }
}

/// # Safety
///
/// That of [`RawCopySum`](super::RawCopySum), with AVX2.
#[inline(always)]
unsafe fn raw_copy_sum_avx2(dst: *mut u8, src: *const u8, len: usize) -> Sum {
    if len <= SCALAR_LEN {
        // SAFETY: the caller's.
        return unsafe { scalar::<true>(dst, src, len) };
    }
    // SAFETY: the caller's.
    unsafe { in_pieces(avx2_body::<true>, dst, src, len) }
}

/// # Safety
///
/// That of [`RawSum`](super::RawSum), with AVX-512 F, BW and VL.
#[inline(always)]
unsafe fn raw_sum_avx512(src: *const u8, len: usize) -> Sum {
    // SAFETY: the caller's; nothing is stored.
    unsafe { in_pieces(avx512_body::<false>, ptr::null_mut(), src, len) }
}

/// # Safety
///
/// That of [`RawCopySum`](super::RawCopySum), with AVX-512 F, BW and VL.
#[inline(always)]
unsafe fn raw_copy_sum_avx512(dst: *mut u8, src: *const u8, len: usize) -> Sum {
    // SAFETY: the caller's.
    unsafe { in_pieces(avx512_body::<true>, dst, src, len) }
}

/// # Safety
///
/// That of [`RawCopySum`](super::RawCopySum), with AVX2.
#[target_feature(enable = "avx2")]
unsafe fn avx2_body<const COPY: bool>(dst: *mut u8, src: *const u8, len: usize) -> Sum {
    const LANES: usize = 4;
    let zero = _mm256_setzero_si256();
    let (mut all, mut high) = ([zero; LANES], [zero; LANES]);
    let mut at = 0;
    macro_rules! take {
        ($lane:expr) => {{
            // SAFETY: each use is behind a comparison that says there are 32 bytes at `at`.
            let v = unsafe { _mm256_loadu_si256(src.add(at).cast()) };
            if COPY {
                // SAFETY: the same, for `dst`.
                unsafe { _mm256_storeu_si256(dst.add(at).cast(), v) };
            }
            at += 32;
            all[$lane] = _mm256_add_epi64(all[$lane], v);
            high[$lane] = _mm256_add_epi64(high[$lane], _mm256_srli_epi64::<32>(v));
        }};
    }
    while len - at >= 32 * LANES {
        take!(0);
        take!(1);
        take!(2);
        take!(3);
    }
    while len - at >= 32 {
        take!(0);
    }
    let add = |x: [__m256i; LANES]| {
        _mm256_add_epi64(_mm256_add_epi64(x[0], x[1]), _mm256_add_epi64(x[2], x[3]))
    };
    let (all, high) = (add(all), add(high));
    let low = _mm256_sub_epi64(all, _mm256_slli_epi64::<32>(high));
    // The weight of `high` is 2^32, which leaves the remainder 1.
    let both = _mm256_add_epi64(low, high);
    let half = _mm_add_epi64(
        _mm256_castsi256_si128(both),
        _mm256_extracti128_si256::<1>(both),
    );
    let one = _mm_add_epi64(half, _mm_unpackhi_epi64(half, half));
    let sum = Sum(_mm_cvtsi128_si64(one).cast_unsigned());
    // SAFETY: what is left begins at `at`; `dst` may be null, hence the wrapping addition.
    sum.add(unsafe { scalar::<COPY>(dst.wrapping_add(at), src.add(at), len - at) })
}

/// # Safety
///
/// That of [`RawCopySum`](super::RawCopySum), with AVX-512 F, BW and VL.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn avx512_body<const COPY: bool>(dst: *mut u8, src: *const u8, len: usize) -> Sum {
    const LANES: usize = 4;
    let zero = _mm512_setzero_si512();
    let (mut all, mut high) = ([zero; LANES], [zero; LANES]);
    let mut at = 0;
    macro_rules! take {
        ($lane:expr) => {{
            // SAFETY: each use is behind a comparison that says there are 64 bytes at `at`.
            let v = unsafe { _mm512_loadu_si512(src.add(at).cast()) };
            if COPY {
                // SAFETY: the same, for `dst`.
                unsafe { _mm512_storeu_si512(dst.add(at).cast(), v) };
            }
            at += 64;
            all[$lane] = _mm512_add_epi64(all[$lane], v);
            high[$lane] = _mm512_add_epi64(high[$lane], _mm512_srli_epi64::<32>(v));
        }};
    }
    if !COPY && len >= ALIGN_LEN {
        // A vector that crosses a cache line counts twice. To begin at an odd offset would
        // swap the bytes of all that follows, so an odd address stays as it is.
        let first_len = src.addr().wrapping_neg() % 64;
        if first_len.is_multiple_of(2) {
            // SAFETY: `first_len` is below 64, and `len` is more; nothing is stored.
            let v = unsafe { tail::<COPY>(dst, src, first_len) };
            all[0] = v;
            high[0] = _mm512_srli_epi64::<32>(v);
            at = first_len;
        }
    }
    if !COPY && len >= HALVES_LEN {
        let half_len = (len - at) / 128 * 64;
        let end = at + half_len;
        while at < end {
            // SAFETY: two halves of `half_len` bytes, in whole vectors, end at or before `len`.
            let v = unsafe { _mm512_loadu_si512(src.add(at + half_len).cast()) };
            all[2] = _mm512_add_epi64(all[2], v);
            high[2] = _mm512_add_epi64(high[2], _mm512_srli_epi64::<32>(v));
            take!(0);
        }
        at += half_len;
    }
    while len - at >= 64 * LANES {
        take!(0);
        take!(1);
        take!(2);
        take!(3);
    }
    while len - at >= 64 {
        take!(0);
    }
    // SAFETY: `at` bytes are behind us, fewer than 64 before us; `dst` may be null.
    let v = unsafe { tail::<COPY>(dst.wrapping_add(at), src.add(at), len - at) };
    all[1] = _mm512_add_epi64(all[1], v);
    high[1] = _mm512_add_epi64(high[1], _mm512_srli_epi64::<32>(v));

    let add = |x: [__m512i; LANES]| {
        _mm512_add_epi64(_mm512_add_epi64(x[0], x[1]), _mm512_add_epi64(x[2], x[3]))
    };
    let (all, high) = (add(all), add(high));
    let low = _mm512_sub_epi64(all, _mm512_slli_epi64::<32>(high));
    // The weight of `high` is 2^32, which leaves the remainder 1.
    Sum(_mm512_reduce_add_epi64(_mm512_add_epi64(low, high)).cast_unsigned())
}

/// The last, partial vector, with zeros behind it. A masked-out byte is neither read nor written.
///
/// # Safety
///
/// That of [`RawCopySum`](super::RawCopySum), with AVX-512 F and BW, and `len < 64`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn tail<const COPY: bool>(dst: *mut u8, src: *const u8, len: usize) -> __m512i {
    let mask = (1u64 << len) - 1;
    // SAFETY: the mask covers `len` readable bytes.
    let v = unsafe { _mm512_maskz_loadu_epi8(mask, src.cast()) };
    if COPY {
        // SAFETY: the mask covers `len` writable bytes.
        unsafe { _mm512_mask_storeu_epi8(dst.cast(), mask, v) };
    }
    v
}
