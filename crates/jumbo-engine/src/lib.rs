//! The machinery of a software NIC as a library: receive coalescing,
//! segmentation and checksum offload, without I/O, without a clock, without
//! `std`.
//!
//! A packet's way through it, and this crate's table of contents:
//!
//! 1. [`arena`]: a burst of packets is admitted: headers are copied to private
//!    memory, payload stays where it is and is referred to by plain indices.
//! 2. [`parse`] finds the layers; [`vnet`] translates and checks the
//!    `virtio_net_hdr` that TAP, vhost-user and AF_PACKET put before a packet.
//! 3. [`coalesce`] merges packets of a flow into super-packets.
//! 4. [`complete`] does what the receiving side cannot take: [`segment`]ation, checksums.
//!
//! [`packet`] and [`pending`] are the values that travel; [`superpacket`] is the
//! law that coalescing and segmentation share; [`checksum`] is the arithmetic;
//! [`reason`] is why a packet was not simply forwarded.
//!
//! What it refuses to be: it owns no packet memory, opens nothing, keeps no time,
//! and terminates no protocol.
//!
//! # Coalesce a burst and segment it back
//!
//! ```
//! use jumbo_engine::prelude::*;
//!
//! // Two TCP segments of one flow, one behind the other in a buffer of ours.
//! # let buffer: Vec<u8> = Vec::new();
//! # let packets: Vec<(usize, usize)> = Vec::new();
//! let mut arena = Arena::new(64, 128);
//! let mut gro = Coalescer::new(&GRO, 64, 0x5eed);
//! let memory = SliceMemory::new(&buffer, Kernels::detect());
//!
//! for (at, len) in packets {
//!     let body = [Frag::new(at as u64, len as u32)];
//!     let Ok(admitted) = arena.admit(Link::Ethernet, &buffer[at..at + len], &body, None) else {
//!         continue; // counted and dropped
//!     };
//!     match gro.offer(&mut arena, admitted.id, &memory) {
//!         Offer::Merged => {}
//!         Offer::Hold(slot) => gro.hold(&mut arena, admitted.id, slot, 0),
//!         Offer::Alone(_) => gro.ready().push(Ready::alone(admitted.id, 0)),
//!     }
//! }
//! gro.flush(&mut arena, End::BurstEnd);
//!
//! let ready = core::mem::take(gro.ready());
//! for done in ready {
//!     let packet = arena.packet(done.id);
//!     let plan = plan(packet, Caps::NONE, 1500);
//!     complete(packet, arena.payload(done.id), plan, &memory, |packet, payload| {
//!         // header: packet.write_header(..); body: the pieces of `payload`
//!         let _ = (packet.wire_len(), payload.len_bytes());
//!     })?;
//!     arena.release(done.id);
//! }
//! # Ok::<(), jumbo_engine::complete::Fault>(())
//! ```

#![no_std]
#![deny(unsafe_code)]
#![warn(missing_docs)]

extern crate alloc;

pub mod arena;
pub mod parse;
pub mod vnet;
pub mod coalesce;
pub mod complete;
pub mod segment;
pub mod packet;
pub mod pending;
pub mod superpacket;
pub mod checksum;
pub mod reason;

/// What a caller of the engine needs, in one `use`.
pub mod prelude {
    pub use crate::arena::{Arena, Memory, PacketId, Pieces, SliceMemory};
    pub use crate::checksum::Kernels;
    pub use crate::coalesce::{Coalescer, End, GRO, Offer, Ready};
    pub use crate::complete::{Plan, complete, plan};
    pub use crate::packet::{Frag, Link, Packet};
    pub use crate::pending::{Caps, Csum, Gso, GsoKind, Pending};
    pub use crate::reason::{Counts, Reason};
    pub use crate::vnet::{Form, Trust, VnetHeader};
}
