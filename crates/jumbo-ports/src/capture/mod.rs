//! Capture files: a streaming reader of pcap and pcapng, and a pcapng writer.
//!
//! [`CaptureReader`] reads a file (or standard input), gzipped or not, with memory that
//! does not grow with the file: one packet is held at a time and everything else is
//! skipped as it passes. Nothing a file says makes it panic, loop without end or allocate
//! more than [`MAX_CAPTURED_LEN`] for a packet.
//!
//! Formats: draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng; link types:
//! <https://www.tcpdump.org/linktypes.html>.
//!
//! ```
//! use jumbo_ports::capture::{CaptureReader, Normalised, ip_or_ethernet};
//! # fn main() -> Result<(), jumbo_ports::capture::CaptureError> {
//! # let file: &[u8] = &[0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0];
//! let mut reader = CaptureReader::from_read("example", file, None)?;
//! while let Some(record) = reader.next_record() {
//!     match ip_or_ethernet(&record?) {
//!         Normalised::Ethernet(packet) | Normalised::Ip(packet) => println!("{}", packet.len()),
//!         Normalised::Unusable(reason) => eprintln!("{reason}"),
//!     }
//! }
//! # Ok(()) }
//! ```

#![forbid(unsafe_code)]

mod error;
#[doc(hidden)]
pub mod fuzz_bodies;
mod link;
mod pcap;
mod pcapng;
mod reader;
mod source;
mod writer;

pub use error::CaptureError;
pub use link::{LinkReason, LinkType, Normalised, ip_or_ethernet};
pub use reader::{CaptureReader, Record};
pub use writer::{CaptureWriter, OutPacket};

/// The most captured bytes one packet may have; a record that claims more is refused.
///
/// The same bound as libpcap's `MAXIMUM_SNAPLEN` (`pcap-int.h`), four times the largest
/// super-packet.
pub const MAX_CAPTURED_LEN: u32 = 256 * 1024;

/// The most interfaces one pcapng section may describe.
pub const MAX_INTERFACES: usize = 65_536;
