//! The Toeplitz hash with carry-less multiplication and with bit matrices.
//!
//! # As a product of polynomials
//!
//! Bit `j` of the hash, counted from the left, is the sum over `i` of input bit `i` times key bit
//! `i + j`. Take the input with its bits reversed (bit `i` becomes the coefficient of z^i) and a
//! window of 63 key bits the way it stands (bit `m` is the coefficient of z^(62-m)): in their
//! product, the coefficient of z^(62-j) is that sum. So 32 bits of input cost one multiplication,
//! and the hash is bits 31 to 62 of the product. Only the input's bits have to be reversed, and
//! only within each byte, since the first byte is the lowest already: two look-ups by nibble.
//!
//! # As matrices over GF(2)
//!
//! Byte `b` of the hash is the sum over `t` of input byte `t` times an 8 x 8 matrix that depends on
//! `t + b` alone: its rows are the key from bit `8 (t + b)` on. `gf2p8affineqb` multiplies the 8
//! bytes of a 64-bit lane by the lane's matrix. So lane `T` gets matrix `T` and the input bytes
//! `T`, `T - 1`, `T - 2` and `T - 3`, each at the byte of the hash it adds to; one byte permutation
//! does that, and the sum over the lanes is the hash. Half a lane is left for a second input, so
//! this is for batches. (The construction is that of DPDK's `rte_thash_gfni`.)

#![allow(unsafe_code, reason = "vector loads and stores take pointers")]

use super::toeplitz::{HashKernels, Prepared};
use core::arch::x86_64::*;

cpufeatures::new!(has_clmul, "pclmulqdq", "ssse3");
cpufeatures::new!(has_gfni, "gfni", "avx512f", "avx512bw", "avx512vbmi");

/// The kernels with PCLMULQDQ, where they run.
pub(super) fn clmul() -> Option<HashKernels> {
    has_clmul::get().then_some(HashKernels {
        name: "clmul",
        // SAFETY: handed out here alone, after PCLMULQDQ and SSSE3 were detected.
        one: |prepared, input| unsafe { clmul_one(prepared, input) },
        // SAFETY: the same.
        all: |prepared, inputs, len, hashes| unsafe { clmul_all(prepared, inputs, len, hashes) },
        tables: false,
    })
}

/// The kernels with GFNI, where they run. One input alone is multiplied: a matrix for each of its
/// bytes takes twice as long (6.7 ns against 3.0 for 12 bytes on a Zen 5), since nothing fills the
/// other half of the lanes and the sum over them is of one value.
pub(super) fn gfni() -> Option<HashKernels> {
    let both = has_gfni::get() && has_clmul::get();
    both.then_some(HashKernels {
        name: "gfni",
        // SAFETY: handed out here alone, after PCLMULQDQ and SSSE3 were detected.
        one: |prepared, input| unsafe { clmul_one(prepared, input) },
        // SAFETY: the same, and GFNI and AVX-512 F, BW and VBMI.
        all: |prepared, inputs, len, hashes| unsafe { gfni_all(prepared, inputs, len, hashes) },
        tables: false,
    })
}

#[inline]
#[target_feature(enable = "pclmulqdq,ssse3")]
fn clmul_one(prepared: &Prepared, input: &[u8]) -> u32 {
    if let Ok(input) = input.try_into() {
        return clmul_12(prepared, input);
    }
    if let Ok(input) = input.try_into() {
        return clmul_36(prepared, input);
    }
    let (sixteens, rest) = input.as_chunks::<16>();
    let mut last = [0; 16];
    last[..rest.len()].copy_from_slice(rest);
    let mut sum = multiply_words::<4>(prepared, sixteens.len(), vector(&last));
    for (at, sixteen) in sixteens.iter().enumerate() {
        let product = multiply_words::<4>(prepared, at, vector(sixteen));
        sum = _mm_xor_si128(sum, product);
    }
    middle(sum)
}

#[target_feature(enable = "pclmulqdq,ssse3")]
fn clmul_all(prepared: &Prepared, inputs: &[u8], len: usize, hashes: &mut [u32]) {
    match len {
        12 => {
            for (input, hash) in inputs.as_chunks().0.iter().zip(hashes) {
                *hash = clmul_12(prepared, input);
            }
        }
        36 => {
            for (input, hash) in inputs.as_chunks().0.iter().zip(hashes) {
                *hash = clmul_36(prepared, input);
            }
        }
        _ => {
            for (input, hash) in inputs.chunks_exact(len).zip(hashes) {
                *hash = clmul_one(prepared, input);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "pclmulqdq,ssse3")]
fn clmul_12(prepared: &Prepared, input: &[u8; 12]) -> u32 {
    // Word by word: a copy with zeros behind would be stored in pieces and loaded as a whole, which
    // waits for the stores to reach the cache (11.6 ns instead of 3).
    let [a, b, c] = *input.as_chunks::<4>().0 else {
        return 0; // 12 is three times 4
    };
    let low = word(b) << 32 | word(a);
    let words = _mm_set_epi64x(word(c) as i64, low as i64);
    middle(multiply_words::<3>(prepared, 0, words))
}

fn word(bytes: [u8; 4]) -> u64 {
    u64::from(u32::from_le_bytes(bytes))
}

#[inline]
#[target_feature(enable = "pclmulqdq,ssse3")]
fn clmul_36(prepared: &Prepared, input: &[u8; 36]) -> u32 {
    let (sixteens, rest) = input.as_chunks::<16>();
    let [first, second] = sixteens else {
        return 0; // 36 is twice 16 and 4
    };
    let last = word(rest.try_into().unwrap_or([0; 4]));
    let first = multiply_words::<4>(prepared, 0, vector(first));
    let second = multiply_words::<4>(prepared, 1, vector(second));
    let last = multiply_words::<1>(prepared, 2, _mm_set_epi64x(0, last as i64));
    middle(_mm_xor_si128(_mm_xor_si128(first, second), last))
}

#[inline]
#[target_feature(enable = "sse2")]
fn vector(bytes: &[u8; 16]) -> __m128i {
    let both = u128::from_le_bytes(*bytes);
    _mm_set_epi64x((both >> 64) as i64, both as i64)
}

/// The product of the first `WORDS` words of the `at`-th 16 bytes of input with their windows.
#[inline]
#[target_feature(enable = "pclmulqdq,ssse3")]
fn multiply_words<const WORDS: usize>(prepared: &Prepared, at: usize, input: __m128i) -> __m128i {
    // No kernel gets more input than there are windows.
    let [k0, k1, k2, k3] = prepared.windows.get(at).copied().unwrap_or([0; 4]);
    let keys01 = _mm_set_epi64x(k1 as i64, k0 as i64);
    let keys23 = _mm_set_epi64x(k3 as i64, k2 as i64);
    let input = reverse_bytes(input);
    let zero = _mm_setzero_si128();
    let words01 = _mm_unpacklo_epi32(input, zero);
    let words23 = _mm_unpackhi_epi32(input, zero);
    let mut sum = _mm_clmulepi64_si128::<0x00>(words01, keys01);
    if WORDS > 1 {
        sum = _mm_xor_si128(sum, _mm_clmulepi64_si128::<0x11>(words01, keys01));
    }
    if WORDS > 2 {
        sum = _mm_xor_si128(sum, _mm_clmulepi64_si128::<0x00>(words23, keys23));
    }
    if WORDS > 3 {
        sum = _mm_xor_si128(sum, _mm_clmulepi64_si128::<0x11>(words23, keys23));
    }
    sum
}

/// The bits of each byte in reverse order.
#[inline]
#[target_feature(enable = "ssse3")]
fn reverse_bytes(bytes: __m128i) -> __m128i {
    // Each nibble reversed, in the high half of the byte; shifted, in the low one.
    let to_high = _mm_set_epi64x(
        0xf070_b030_d050_9010u64 as i64,
        0xe060_a020_c040_8000u64 as i64,
    );
    let to_low = _mm_set_epi64x(0x0f07_0b03_0d05_0901, 0x0e06_0a02_0c04_0800);
    let nibble = _mm_set1_epi8(0x0f);
    let low = _mm_and_si128(bytes, nibble);
    let high = _mm_and_si128(_mm_srli_epi16::<4>(bytes), nibble);
    _mm_or_si128(
        _mm_shuffle_epi8(to_high, low),
        _mm_shuffle_epi8(to_low, high),
    )
}

/// Bits 31 to 62 of the product: the hash.
#[inline]
#[target_feature(enable = "sse2")]
fn middle(product: __m128i) -> u32 {
    (_mm_cvtsi128_si64(product) as u64 >> 31) as u32
}

/// An index of a byte that is always zero: no input is that long.
const ZERO_AT: u8 = 63;

/// Which byte of the source goes where in lanes `8 * vector ..`: the first half of a lane serves
/// the input of `len` bytes that begins at `first`, the second half the one at `second`.
const fn places(vector: usize, len: usize, first: u8, second: u8) -> [u8; 64] {
    let mut places = [ZERO_AT; 64];
    let mut at = 0;
    while at < 64 {
        let (lane, byte) = (8 * vector + at / 8, at % 4);
        // Byte 0 of a lane is the lowest of the hash: its fourth.
        let start = if at % 8 < 4 { first } else { second };
        if lane + byte >= 3 && lane + byte - 3 < len {
            places[at] = start + (lane + byte - 3) as u8;
        }
        at += 1;
    }
    places
}

/// For four inputs of `LEN` bytes in one load: two pairs, each in two vectors.
struct Pairs<const LEN: usize>;

impl<const LEN: usize> Pairs<LEN> {
    const PLACES: [[[u8; 64]; 2]; 2] = [
        [places(0, LEN, 0, LEN as u8), places(1, LEN, 0, LEN as u8)],
        [
            places(0, LEN, 2 * LEN as u8, 3 * LEN as u8),
            places(1, LEN, 2 * LEN as u8, 3 * LEN as u8),
        ],
    ];
}

/// The first `len` bytes, zeros behind.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn load(bytes: &[u8]) -> __m512i {
    let mask = match bytes.len() {
        len @ 0..64 => (1 << len) - 1,
        _ => !0,
    };
    // SAFETY: what the mask leaves out is not read, and it covers no more than the slice.
    unsafe { _mm512_maskz_loadu_epi8(mask, bytes.as_ptr().cast()) }
}

/// The source's bytes at `places`, times the matrices of `vector`.
#[inline]
#[target_feature(enable = "gfni,avx512f,avx512bw,avx512vbmi")]
fn multiply(prepared: &Prepared, source: __m512i, places: &[u8; 64], vector: usize) -> __m512i {
    let arranged = _mm512_permutexvar_epi8(load(places), source);
    let matrices = prepared.matrices.0.as_chunks::<8>().0;
    let Some(matrices) = matrices.get(vector) else {
        return _mm512_setzero_si512(); // no caller has more vectors
    };
    // SAFETY: eight words are 64 bytes.
    let matrices = unsafe { _mm512_loadu_si512(matrices.as_ptr().cast()) };
    _mm512_gf2p8affine_epi64_epi8::<0>(arranged, matrices)
}

#[target_feature(enable = "pclmulqdq,gfni,avx512f,avx512bw,avx512vbmi")]
fn gfni_all(prepared: &Prepared, inputs: &[u8], len: usize, hashes: &mut [u32]) {
    match len {
        8 => gfni_short::<8>(prepared, inputs, hashes),
        12 => gfni_short::<12>(prepared, inputs, hashes),
        _ => clmul_all(prepared, inputs, len, hashes),
    }
}

/// Eight at a time.
#[inline]
#[target_feature(enable = "pclmulqdq,gfni,avx512f,avx512bw,avx512vbmi")]
fn gfni_short<const LEN: usize>(prepared: &Prepared, inputs: &[u8], hashes: &mut [u32]) {
    let (eights, hashes_left) = hashes.as_chunks_mut::<8>();
    let mut groups = inputs.chunks_exact(8 * LEN);
    for (hashes, group) in eights.iter_mut().zip(&mut groups) {
        let (first, second) = group.split_at(4 * LEN);
        let [z0, z1] = gfni_four::<LEN>(prepared, load(first));
        let [z2, z3] = gfni_four::<LEN>(prepared, load(second));
        let eight = sum_lanes(z0, z1, z2, z3);
        // SAFETY: eight words are 32 bytes.
        unsafe { _mm256_storeu_si256(hashes.as_mut_ptr().cast(), eight) };
    }
    clmul_all(prepared, groups.remainder(), LEN, hashes_left);
}

/// Four inputs: two vectors of lanes, still to be summed, with two hashes in each lane.
#[inline]
#[target_feature(enable = "gfni,avx512f,avx512bw,avx512vbmi")]
fn gfni_four<const LEN: usize>(prepared: &Prepared, source: __m512i) -> [__m512i; 2] {
    let [a, b] = &Pairs::<LEN>::PLACES;
    let pair = |places: &[[u8; 64]; 2]| {
        _mm512_xor_si512(
            multiply(prepared, source, &places[0], 0),
            multiply(prepared, source, &places[1], 1),
        )
    };
    [pair(a), pair(b)]
}

/// The sum of the eight lanes of each, one behind the other.
#[inline]
#[target_feature(enable = "avx512f")]
fn sum_lanes(z0: __m512i, z1: __m512i, z2: __m512i, z3: __m512i) -> __m256i {
    let two = |x, y| _mm512_xor_si512(_mm512_unpacklo_epi64(x, y), _mm512_unpackhi_epi64(x, y));
    // In each quarter the sum of two lanes of the first and of the second.
    let (u, v) = (two(z0, z1), two(z2, z3));
    let w = _mm512_xor_si512(
        _mm512_shuffle_i64x2::<0x88>(u, v),
        _mm512_shuffle_i64x2::<0xdd>(u, v),
    );
    let w = _mm512_xor_si512(w, _mm512_shuffle_i64x2::<0xb1>(w, w));
    _mm512_castsi512_si256(_mm512_shuffle_i64x2::<0x08>(w, w))
}
