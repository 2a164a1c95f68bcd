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
//! does that, and the sum over the lanes is the hash. Half a lane is left: in batches it takes a
//! second input. (The construction is that of DPDK's `rte_thash_gfni`.)

#![allow(unsafe_code, reason = "vector loads and stores take pointers")]

use super::toeplitz::{HashKernels, INPUT_MAX, MATRICES, Prepared};
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

/// The kernels with GFNI, where they run.
pub(super) fn gfni() -> Option<HashKernels> {
    has_gfni::get().then_some(HashKernels {
        name: "gfni",
        // SAFETY: handed out here alone, after GFNI and AVX-512 F, BW and VBMI were detected.
        one: |prepared, input| unsafe { gfni_one(prepared, input) },
        // SAFETY: the same.
        all: |prepared, inputs, len, hashes| unsafe { gfni_all(prepared, inputs, len, hashes) },
        tables: false,
    })
}

#[target_feature(enable = "pclmulqdq,ssse3")]
fn clmul_one(prepared: &Prepared, input: &[u8]) -> u32 {
    if let Ok(input) = input.try_into() {
        return clmul_12(prepared, input);
    }
    let mut padded = [0; INPUT_MAX.next_multiple_of(16)];
    let len = input.len().min(padded.len());
    padded[..len].copy_from_slice(&input[..len]);
    let mut sum = _mm_setzero_si128();
    for (at, quarter) in padded[..len.next_multiple_of(16)]
        .chunks_exact(16)
        .enumerate()
    {
        let words = u128::from_le_bytes(quarter.try_into().unwrap_or([0; 16]));
        let words = _mm_set_epi64x((words >> 64) as i64, words as i64);
        sum = _mm_xor_si128(sum, clmul_16::<true>(prepared, at, words));
    }
    middle(sum)
}

#[target_feature(enable = "pclmulqdq,ssse3")]
fn clmul_all(prepared: &Prepared, inputs: &[u8], len: usize, hashes: &mut [u32]) {
    if len == 12 {
        let (inputs, _) = inputs.as_chunks::<12>();
        for (input, hash) in inputs.iter().zip(hashes) {
            *hash = clmul_12(prepared, input);
        }
        return;
    }
    for (input, hash) in inputs.chunks_exact(len).zip(hashes) {
        *hash = clmul_one(prepared, input);
    }
}

#[inline]
#[target_feature(enable = "pclmulqdq,ssse3")]
fn clmul_12(prepared: &Prepared, input: &[u8; 12]) -> u32 {
    let [a, b, c] = *input.as_chunks::<4>().0 else {
        return 0; // 12 is three times 4
    };
    let word = |bytes: [u8; 4]| u64::from(u32::from_le_bytes(bytes));
    let words = _mm_set_epi64x(word(c) as i64, (word(b) << 32 | word(a)) as i64);
    middle(clmul_16::<false>(prepared, 0, words))
}

/// The product of 16 bytes of input with their windows; `FOURTH`: the last word is not zero.
#[inline]
#[target_feature(enable = "pclmulqdq,ssse3")]
fn clmul_16<const FOURTH: bool>(prepared: &Prepared, at: usize, input: __m128i) -> __m128i {
    let window = |word: usize| prepared.windows.get(4 * at + word).map_or(0, |w| *w as i64);
    let (keys01, keys23) = (
        _mm_set_epi64x(window(1), window(0)),
        _mm_set_epi64x(window(3), window(2)),
    );
    let input = reverse_bytes(input);
    let zero = _mm_setzero_si128();
    let (words01, words23) = (
        _mm_unpacklo_epi32(input, zero),
        _mm_unpackhi_epi32(input, zero),
    );
    let first = _mm_clmulepi64_si128::<0x00>(words01, keys01);
    let second = _mm_clmulepi64_si128::<0x11>(words01, keys01);
    let third = _mm_clmulepi64_si128::<0x00>(words23, keys23);
    let three = _mm_xor_si128(_mm_xor_si128(first, second), third);
    if !FOURTH {
        return three;
    }
    _mm_xor_si128(three, _mm_clmulepi64_si128::<0x11>(words23, keys23))
}

/// The bits of each byte in reverse order.
#[inline]
#[target_feature(enable = "ssse3")]
fn reverse_bytes(bytes: __m128i) -> __m128i {
    // Each nibble reversed, in the high half of the byte; shifted, in the low one.
    let to_high = _mm_setr_epi8(
        0x00,
        0x80u8 as i8,
        0x40,
        0xc0u8 as i8,
        0x20,
        0xa0u8 as i8,
        0x60,
        0xe0u8 as i8,
        0x10,
        0x90u8 as i8,
        0x50,
        0xd0u8 as i8,
        0x30,
        0xb0u8 as i8,
        0x70,
        0xf0u8 as i8,
    );
    let to_low = _mm_setr_epi8(0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15);
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
        if lane + byte >= 3 && lane + byte - 3 < len && start != ZERO_AT {
            places[at] = start + (lane + byte - 3) as u8;
        }
        at += 1;
    }
    places
}

/// For one input of any length: the bytes behind its end are loaded as zero.
const ALONE: [[u8; 64]; MATRICES / 8] = {
    let mut all = [[0; 64]; MATRICES / 8];
    let mut vector = 0;
    while vector < all.len() {
        all[vector] = places(vector, INPUT_MAX, 0, ZERO_AT);
        vector += 1;
    }
    all
};

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

#[inline]
#[target_feature(enable = "gfni,avx512f,avx512bw,avx512vbmi")]
fn gfni_one(prepared: &Prepared, input: &[u8]) -> u32 {
    let source = load(input);
    let mut sum = multiply(prepared, source, &ALONE[0], 0);
    let vectors = (input.len() + 3).div_ceil(8);
    for (vector, places) in ALONE.iter().enumerate().take(vectors).skip(1) {
        sum = _mm512_xor_si512(sum, multiply(prepared, source, places, vector));
    }
    let halves = _mm256_xor_si256(
        _mm512_castsi512_si256(sum),
        _mm512_extracti64x4_epi64::<1>(sum),
    );
    let quarter = _mm_xor_si128(
        _mm256_castsi256_si128(halves),
        _mm256_extracti128_si256::<1>(halves),
    );
    let lane = _mm_xor_si128(quarter, _mm_unpackhi_epi64(quarter, quarter));
    _mm_cvtsi128_si32(lane) as u32
}

#[target_feature(enable = "gfni,avx512f,avx512bw,avx512vbmi")]
fn gfni_all(prepared: &Prepared, inputs: &[u8], len: usize, hashes: &mut [u32]) {
    match len {
        8 => gfni_short::<8>(prepared, inputs, hashes),
        12 => gfni_short::<12>(prepared, inputs, hashes),
        _ => gfni_singly(prepared, inputs, len, hashes),
    }
}

#[inline]
#[target_feature(enable = "gfni,avx512f,avx512bw,avx512vbmi")]
fn gfni_singly(prepared: &Prepared, inputs: &[u8], len: usize, hashes: &mut [u32]) {
    for (input, hash) in inputs.chunks_exact(len).zip(hashes) {
        *hash = gfni_one(prepared, input);
    }
}

/// Eight at a time.
#[inline]
#[target_feature(enable = "gfni,avx512f,avx512bw,avx512vbmi")]
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
    gfni_singly(prepared, groups.remainder(), LEN, hashes_left);
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
