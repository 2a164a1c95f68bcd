//! Packets to test with, and oracles to test against.
//!
//! Everything here is written from the standards, slowly and obviously, and shares no code with
//! what it judges: a test that compares the two compares two opinions. For development only, so
//! what cannot be built panics, and what cannot be parsed is an [`Error`](oracle::Error) with a
//! sentence.
//!
//! * [`PacketBuilder`]: one packet, field by field, with right, partial or wrong checksums.
//! * [`script`]: many packets of a flow, and flows interleaved.
//! * [`oracle`]: parsing, checksums, segmentation, reassembly and `virtio_net_hdr`, by the book.
//! * [`virtio`]: a guest's network driver and its vhost-user front end, in this process.
#![deny(unsafe_code)]

mod builder;
pub mod oracle;
pub mod script;
pub mod virtio;

pub use builder::{ArpPacket, Extension, Link, PacketBuilder, tcp_flags};

/// The payload of `len` bytes at `offset` of a stream. Each byte depends on its place, so that one
/// out of place is seen.
///
/// ```
/// let whole = jumbo_testkit::pattern(0, 100);
/// assert_eq!(jumbo_testkit::pattern(40, 60), whole[40..]);
/// ```
#[must_use]
pub fn pattern(offset: usize, len: usize) -> Vec<u8> {
    // Fibonacci hashing: the top bits of a multiple of 2^64 / phi.
    let byte = |at: usize| ((at as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8;
    (offset..offset + len).map(byte).collect()
}
