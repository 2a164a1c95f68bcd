//! The Toeplitz hash as its definition says it, bit by bit: slow, obvious, and the oracle of all
//! the others.

/// The hash of `input` under `key`; see [`Toeplitz`](super::Toeplitz) for what a short key means.
///
/// From "RSS hashing functions", Microsoft's driver documentation:
///
/// ```text
/// ComputeHash(input[], n)
///   result = 0
///   For each bit b in input[] from left to right {
///     if (b == 1) result ^= (left-most 32 bits of K)
///     shift K left 1 bit position
///   }
///   return result
/// ```
///
/// One difference: the key is not shifted, a window of 32 bits is moved over it.
#[must_use]
pub fn hash(key: &[u8], input: &[u8]) -> u32 {
    let key_byte = |at: usize| key.get(at).copied().unwrap_or(0);
    let mut window = u32::from_be_bytes(core::array::from_fn(key_byte));
    let mut result = 0;
    for (at, byte) in input.iter().enumerate() {
        let next = key_byte(at + 4);
        for bit in (0..8).rev() {
            if byte >> bit & 1 == 1 {
                result ^= window;
            }
            window = window << 1 | u32::from(next >> bit & 1);
        }
    }
    result
}
