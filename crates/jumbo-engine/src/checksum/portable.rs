//! The sum in plain Rust: 64-bit words in two chains.
//!
//! Each chain is 128 bits wide, so that the carry of one addition goes to the upper half instead of
//! holding up the next addition: the compiler makes `add` and `adc` of it, which two chains overlap.

use super::Sum;

/// Bytes a step: four words for each chain.
const STEP: usize = 64;

/// The sum of `bytes`; an odd last byte is padded with zero.
#[inline]
pub(super) fn sum(bytes: &[u8]) -> Sum {
    let (steps, rest) = bytes.as_chunks::<STEP>();
    let (mut even, mut odd) = (0, 0);
    for step in steps {
        add_step(step, &mut even, &mut odd);
    }
    fold_to_sum(even + odd + sum_rest(rest))
}

/// Copies what both have room for, and sums it.
pub(super) fn copy_sum(dst: &mut [u8], src: &[u8]) -> Sum {
    let len = dst.len().min(src.len());
    let (to, to_rest) = dst[..len].as_chunks_mut::<STEP>();
    let (from, from_rest) = src[..len].as_chunks::<STEP>();
    let (mut even, mut odd) = (0, 0);
    for (to, from) in to.iter_mut().zip(from) {
        add_step(from, &mut even, &mut odd);
        *to = *from;
    }
    to_rest.copy_from_slice(from_rest);
    fold_to_sum(even + odd + sum_rest(from_rest))
}

/// Adds one step. 128 bits do not overflow: that would take 2^64 words.
#[inline(always)]
fn add_step(step: &[u8; STEP], even: &mut u128, odd: &mut u128) {
    let (pairs, _) = step.as_chunks::<16>();
    for pair in pairs {
        let [a, b, c, d, e, f, g, h, rest @ ..] = *pair;
        *even += u128::from(u64::from_ne_bytes([a, b, c, d, e, f, g, h]));
        *odd += u128::from(u64::from_ne_bytes(rest));
    }
}

/// The sum of fewer bytes than a step: words, then what is left in halves, which is faster than a
/// copy of unknown length.
#[inline(always)]
fn sum_rest(bytes: &[u8]) -> u128 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut sum: u128 = words
        .iter()
        .map(|word| u128::from(u64::from_ne_bytes(*word)))
        .sum();
    let (fours, rest) = rest.as_chunks::<4>();
    let (twos, rest) = rest.as_chunks::<2>();
    if let [four] = fours {
        sum += u128::from(u32::from_ne_bytes(*four));
    }
    if let [two] = twos {
        sum += u128::from(u16::from_ne_bytes(*two));
    }
    if let [last] = rest {
        sum += u128::from(u16::from_ne_bytes([*last, 0]));
    }
    sum
}

/// 2^64 leaves the remainder 1 modulo 65535, so the upper half is simply added.
#[inline(always)]
fn fold_to_sum(wide: u128) -> Sum {
    Sum(wide as u64).add(Sum((wide >> 64) as u64))
}
