//! The sum with AVX2 and AVX-512.
//!
//! # Three operations a vector
//!
//! In each 64-bit lane `all += v` wraps, and `high += v >> 32` does not. At the end the sum of the
//! low halves is `all - (high << 32)`: right modulo 2^64, and small enough to be exact. So a vector
//! costs an addition, a shift and an addition; no masking, no widening, no byte swap.
//!
//! # Two operations, for long pieces
//!
//! `vpdpbusd` (AVX-512 VNNI) multiplies four unsigned bytes by four weights and adds the products
//! to a 32-bit lane. With weights 1 0 1 0 that sums the even bytes, with 0 1 0 1 the odd ones. It
//! has a longer latency, so it needs more accumulators and more work to bring them together: it
//! pays from [`VNNI_LEN`] up.
//!
//! # One body for sum and copy
//!
//! Each body exists once, with a constant `COPY` that says whether what was loaded is stored as
//! well. Pointers are raw inside, and each body has the same contract ([`Body`]).

#![allow(unsafe_code, reason = "vector loads and stores take pointers")]

use super::{Kernels, Sum};
use core::arch::x86_64::*;
use core::ptr;

cpufeatures::new!(has_avx2, "avx2");
cpufeatures::new!(has_avx512, "avx512f", "avx512bw", "avx512vl");

/// Up to here scalar code wins.
const SCALAR_LEN: usize = 64;

/// From here up VNNI wins.
const VNNI_LEN: usize = 4096;

/// No body sees more than this at once, so that no lane can overflow: a 64-bit lane takes 2^32
/// additions of 32 bits, a 32-bit lane of VNNI 2^32 / 510 additions of two bytes, and this is no
/// more than 2^21 vectors. It is even, so that every piece begins at an even offset.
const PIECE_LEN: usize = 1 << 26;

/// Sums `len` bytes at `src` and, if it is a `COPY`, stores them at `dst`.
///
/// # Safety
///
/// The processor has the features of the body. `src` is readable for `len` bytes. If it is a
/// `COPY`, `dst` is writable for `len` bytes and does not overlap `src`; otherwise `dst` is not
/// used. No alignment is asked for.
type Body = unsafe fn(dst: *mut u8, src: *const u8, len: usize) -> Sum;

/// The AVX2 kernels, where they run.
pub(super) fn avx2() -> Option<Kernels> {
    has_avx2::get().then_some(Kernels {
        name: "avx2",
        sum: sum_avx2,
        copy_sum: copy_sum_avx2,
    })
}

/// The AVX-512 kernels, with VNNI where that runs too.
pub(super) fn avx512() -> Option<Kernels> {
    let plain = Kernels {
        name: "avx512",
        sum: sum_avx512,
        copy_sum: copy_sum_avx512,
    };
    let vnni = Kernels {
        name: "avx512vnni",
        sum: sum_vnni,
        copy_sum: copy_sum_avx512,
    };
    has_avx512::get().then_some(if has_vnni() { vnni } else { plain })
}

/// AVX-512 VNNI, which `cpufeatures` does not know: CPUID leaf 7, ECX bit 11 (Intel SDM volume 2,
/// CPUID). The registers it needs are those of AVX-512, for which the caller has asked.
fn has_vnni() -> bool {
    __cpuid(0).eax >= 7 && __cpuid_count(7, 0).ecx & (1 << 11) != 0
}

fn sum_avx2(bytes: &[u8]) -> Sum {
    // SAFETY: only `avx2` hands this function out, after AVX2 was detected.
    unsafe { sum_by(avx2_body::<false>, bytes) }
}

fn copy_sum_avx2(dst: &mut [u8], src: &[u8]) -> Sum {
    // SAFETY: only `avx2` hands this function out, after AVX2 was detected.
    unsafe { copy_sum_by(avx2_body::<true>, dst, src) }
}

fn sum_avx512(bytes: &[u8]) -> Sum {
    // SAFETY: only `avx512` hands this function out, after AVX-512 F, BW and VL were detected.
    unsafe { sum_by(avx512_body::<false>, bytes) }
}

fn copy_sum_avx512(dst: &mut [u8], src: &[u8]) -> Sum {
    // SAFETY: only `avx512` hands this function out, after AVX-512 F, BW and VL were detected.
    unsafe { copy_sum_by(avx512_body::<true>, dst, src) }
}

fn sum_vnni(bytes: &[u8]) -> Sum {
    if bytes.len() < VNNI_LEN {
        return sum_avx512(bytes);
    }
    // SAFETY: only `avx512` hands this function out, after F, BW, VL and VNNI were detected.
    unsafe { sum_by(vnni_body::<false>, bytes) }
}

/// # Safety
///
/// The processor has the features of `body`.
#[inline(always)]
unsafe fn sum_by(body: Body, bytes: &[u8]) -> Sum {
    // SAFETY: a slice is readable for its length; nothing is stored.
    unsafe { by_pieces::<false>(body, ptr::null_mut(), bytes.as_ptr(), bytes.len()) }
}

/// # Safety
///
/// The processor has the features of `body`, which is a `COPY`.
#[inline(always)]
unsafe fn copy_sum_by(body: Body, dst: &mut [u8], src: &[u8]) -> Sum {
    let len = dst.len().min(src.len());
    // SAFETY: both slices have at least `len` bytes, and a unique one overlaps no other.
    unsafe { by_pieces::<true>(body, dst.as_mut_ptr(), src.as_ptr(), len) }
}

/// # Safety
///
/// That of [`Body`].
#[inline(always)]
unsafe fn by_pieces<const COPY: bool>(body: Body, dst: *mut u8, src: *const u8, len: usize) -> Sum {
    if len <= SCALAR_LEN {
        // SAFETY: the caller's; scalar code needs no feature.
        return unsafe { scalar::<COPY>(dst, src, len) };
    }
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

/// Words of 8 bytes, then what is left in halves.
///
/// # Safety
///
/// That of [`Body`]; no feature is needed.
#[inline(always)]
unsafe fn scalar<const COPY: bool>(dst: *mut u8, src: *const u8, len: usize) -> Sum {
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
        // On x86 a byte is the lower half of its word, and zero padding is the upper.
        take!(u8);
    }
    debug_assert_eq!(at, len);
    Sum(wide as u64).add(Sum((wide >> 64) as u64))
}

/// # Safety
///
/// That of [`Body`], with AVX2.
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
/// That of [`Body`], with AVX-512 F, BW and VL.
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

/// # Safety
///
/// That of [`Body`], with AVX-512 F, BW, VL and VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn vnni_body<const COPY: bool>(dst: *mut u8, src: *const u8, len: usize) -> Sum {
    const LANES: usize = 4;
    let zero = _mm512_setzero_si512();
    let evens = _mm512_set1_epi16(0x0001);
    let odds = _mm512_set1_epi16(0x0100);
    let (mut even, mut odd) = ([zero; LANES], [zero; LANES]);
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
            even[$lane] = _mm512_dpbusd_epi32(even[$lane], v, evens);
            odd[$lane] = _mm512_dpbusd_epi32(odd[$lane], v, odds);
        }};
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
    even[1] = _mm512_dpbusd_epi32(even[1], v, evens);
    odd[1] = _mm512_dpbusd_epi32(odd[1], v, odds);

    let add = |x: [__m512i; LANES]| {
        let wide = x.map(|x| {
            let low = _mm512_and_si512(x, _mm512_set1_epi64(0xFFFF_FFFF));
            _mm512_add_epi64(low, _mm512_srli_epi64::<32>(x))
        });
        let half = _mm512_add_epi64(_mm512_add_epi64(wide[0], wide[1]), wide[2]);
        _mm512_reduce_add_epi64(_mm512_add_epi64(half, wide[3])).cast_unsigned()
    };
    // The even byte is the lower half of its word here, the odd one weighs 256.
    Sum(add(even)).add(Sum(add(odd)).swapped())
}

/// The last, partial vector, with zeros behind it. A masked-out byte is neither read nor written.
///
/// # Safety
///
/// That of [`Body`], with AVX-512 F and BW, and `len < 64`.
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
