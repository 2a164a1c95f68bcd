//! The bytes that are sent, known at every stream offset, so that a receiver
//! can tell corruption, loss and reordering at the speed of memcmp.

use std::sync::LazyLock;

/// Length after which the pattern repeats. A prime, so a segment, a page or a
/// super-packet that goes missing or is doubled shifts the pattern; small
/// enough to stay in L2, so that checking costs little.
pub const PERIOD: usize = 65_521;

/// Longest run [`at`] gives out.
pub const RUN_MAX: usize = 1 << 20;

static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let period = one_period();
    period
        .iter()
        .copied()
        .cycle()
        .take(PERIOD + RUN_MAX)
        .collect()
});

/// The `len` bytes that belong at stream offset `offset`; `len` is cut to
/// [`RUN_MAX`].
pub fn at(offset: u64, len: usize) -> &'static [u8] {
    let start = (offset % PERIOD as u64) as usize;
    &BYTES[start..start + len.min(RUN_MAX)]
}

/// Whether `bytes` are what belongs at `offset`.
pub fn matches(offset: u64, bytes: &[u8]) -> bool {
    let mut offset = offset;
    bytes.chunks(RUN_MAX).all(|chunk| {
        let same = chunk == at(offset, chunk.len());
        offset += chunk.len() as u64;
        same
    })
}

/// Bytes of a xorshift generator (Marsaglia 2003) with a fixed seed.
fn one_period() -> Vec<u8> {
    let mut x = 0x9E37_79B9_7F4A_7C15u64;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 32) as u8
    };
    (0..PERIOD).map(|_| next()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_or_doubled_segment_shifts_the_pattern() {
        let stream = at(1_000_000, 300_000);
        assert!(matches(1_000_000, stream));
        for missing in [1, 1448, 4096, 65_483, 65_536] {
            assert!(
                !matches(1_000_000, &stream[missing..missing + 1448]),
                "{missing}"
            );
        }
    }

    #[test]
    fn one_wrong_byte_is_seen() {
        let mut bytes = at(77, 1448).to_vec();
        bytes[1447] ^= 1;
        assert!(!matches(77, &bytes));
    }
}
