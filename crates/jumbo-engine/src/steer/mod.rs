//! Which queue, which worker: receive scaling as pure answers.
//!
//! Nothing here moves a packet. A value is made of a configuration, is asked about a packet or a
//! hash, and answers:
//!
//! | question | asked of | answer from |
//! |---|---|---|
//! | what of this packet is hashed? | [`HashInput::of`] | the enabled [`HashTypes`] and their order |
//! | what is its hash? | [`Toeplitz::hash`], [`Toeplitz::hash_all`] | a key |
//! | which queue? | [`Rss::choose`], [`Indirection::queue`] | the low bits of the hash |
//! | which worker? | [`Rps::worker`] | the high bits of the hash |
//! | which worker, if consumers have wishes? | [`Flows::steer`] with [`Desired`] | where the flow is read, once nothing can be overtaken |
//! | does a guest's configuration make sense? | [`RssConfig::decode`], [`HashConfig::decode`] | what it was offered |
//!
//! # The hash
//!
//! Toeplitz, as Windows asked for it and all NICs do it; see [`Toeplitz`]. The bit loop of the
//! definition takes some 45 to 90 ns for the 12 bytes of IPv4 and ports. [`HashKernels`] are chosen once,
//! at construction: tables anywhere, carry-less multiplication or bit matrices where the processor
//! has them. [`Toeplitz::hash_all`] takes many at once.
//!
//! # Both directions alike
//!
//! A middle box wants both directions of a connection in one queue. Either the key sees to that
//! ([`SYMMETRIC_KEY`], works with any NIC, 2^16 hash values) or the input does
//! ([`Transform::SymmetricXor`], any key).
//!
//! # Example
//!
//! ```
//! use jumbo_engine::prelude::*;
//! use jumbo_engine::steer::{HashTypes, Indirection, MICROSOFT_KEY, Rss, Toeplitz};
//!
//! let table = Indirection::even(128, 4)?;
//! let rss = Rss::new(Toeplitz::new(&MICROSOFT_KEY), HashTypes::USUAL, table);
//!
//! // TCP over IPv4 from 66.9.149.187:2794 to 161.142.100.80:1766, as a TUN device hands it over.
//! let mut packet = [0; 40];
//! packet[..4].copy_from_slice(&[0x45, 0, 0, 40]);
//! packet[9] = 6;
//! packet[12..24].copy_from_slice(&[66, 9, 149, 187, 161, 142, 100, 80, 0x0a, 0xea, 0x06, 0xe6]);
//! packet[32] = 5 << 4;
//!
//! let mut arena = Arena::new(1, 1);
//! let admitted = arena.admit(Link::RawIp, &packet, &[Frag::new(0, 40)], None).unwrap();
//! let choice = rss.choose(arena.packet(admitted.id));
//! assert_eq!((choice.hash, choice.report.number()), (0x51ccc178, 2));
//! assert_eq!(choice.queue, 0x178 % 128 % 4);
//! # Ok::<(), jumbo_engine::steer::IndirectionFault>(())
//! ```
//!
//! # Sources
//!
//! Microsoft, "RSS hashing functions", "RSS hashing types" and "Verifying the RSS hash calculation";
//! virtio 1.3 sections 5.1.6.4.3 (hash calculation), 5.1.6.5.6.4 and 5.1.6.5.7 (configuration);
//! Linux 6.12 `net/core/dev.c` (`get_rps_cpu`) and `Documentation/networking/scaling.rst`; RFC 6275
//! for the addresses in IPv6 extension headers.

mod config;
mod indirection;
mod input;
mod spread;
#[doc(hidden)]
pub mod textbook;
mod toeplitz;
mod types;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use config::{HashConfig, RssConfig, RssFault, RssLimits};
pub use indirection::{INDIRECTION_DEFAULT, INDIRECTION_MAX, Indirection, IndirectionFault};
pub use input::{HashInput, Transform};
pub use spread::{Desired, FLOW_ENTRIES_MAX, Flows, Heads, Rps, may_move};
pub use toeplitz::{HashKernels, MICROSOFT_KEY, SYMMETRIC_KEY, Toeplitz};
pub use types::{HashReport, HashTypes};

use crate::packet::Packet;

/// What [`Rss`] says of a packet.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default)]
pub struct Choice {
    /// The queue, as the indirection table has it.
    pub queue: u16,
    /// The hash, for `hash_value`; 0 if there is none.
    pub hash: u32,
    /// How it was made, for `hash_report`; [`HashReport::None`] if it was not.
    pub report: HashReport,
}

/// Receive side scaling: the queue of a packet.
#[derive(Clone, Debug)]
pub struct Rss {
    toeplitz: Toeplitz,
    types: HashTypes,
    transform: Transform,
    table: Indirection,
    unclassified: u16,
}

impl Rss {
    /// Hashes `types` and looks the queue up in `table`. Packets without a hash go to queue 0, the
    /// input is hashed as it is: change either with the functions below.
    #[must_use]
    pub const fn new(toeplitz: Toeplitz, types: HashTypes, table: Indirection) -> Self {
        Self {
            toeplitz,
            types,
            transform: Transform::None,
            table,
            unclassified: 0,
        }
    }

    /// Packets without a hash go to this queue.
    #[must_use]
    pub fn with_unclassified(self, queue: u16) -> Self {
        Self {
            unclassified: queue,
            ..self
        }
    }

    /// The input is transformed first.
    #[must_use]
    pub fn with_transform(self, transform: Transform) -> Self {
        Self { transform, ..self }
    }

    /// Other queues for the same hashes: flows move, and packets in the old queues may be
    /// overtaken.
    pub fn set_table(&mut self, table: Indirection) {
        self.table = table;
    }

    /// The indirection table.
    #[must_use]
    pub fn table(&self) -> &Indirection {
        &self.table
    }

    /// The hash and its key.
    #[must_use]
    pub fn toeplitz(&self) -> &Toeplitz {
        &self.toeplitz
    }

    /// The queue for a parsed packet, and the hash that chose it. For an aggregate, ask once.
    #[inline]
    #[must_use]
    pub fn choose(&self, packet: &Packet) -> Choice {
        let Some(input) = HashInput::of(packet, self.types, self.transform) else {
            return Choice {
                queue: self.unclassified,
                ..Choice::default()
            };
        };
        let hash = self.toeplitz.hash(input.as_bytes());
        Choice {
            queue: self.table.queue(hash),
            hash,
            report: input.report(),
        }
    }
}
