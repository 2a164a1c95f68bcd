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
//! 4. [`steer`] says which queue or worker a packet belongs to (RSS, RPS, RFS).
//! 5. [`complete`] does what the receiving side cannot take: [`segment`]ation, checksums.
//! 6. [`moderate`] says when a queue's owner is to be interrupted.
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
//! use jumbo_engine::checksum::Sum;
//! use jumbo_engine::prelude::*;
//!
//! // Two TCP segments of one flow, one behind the other in a buffer of ours. Without their
//! // checksums: the port they came from vouches for those (Trust::Kernel, below).
//! let segment = |index: u8| {
//!     let mut packet = vec![0; 14 + 20 + 20 + 1000];
//!     packet[12..18].copy_from_slice(&[0x08, 0x00, 0x45, 0, 4, 16]); // IPv4, 1040 bytes
//!     packet[19] = index; // its ID
//!     packet[22..24].copy_from_slice(&[64, 6]); // TTL, TCP
//!     let check = Sum::ZERO.add_bytes(&packet[14..34]).checksum();
//!     packet[24..26].copy_from_slice(&check.to_be_bytes());
//!     packet[40..42].copy_from_slice(&(1000 * u16::from(index)).to_be_bytes()); // sequence
//!     packet[46..48].copy_from_slice(&[0x50, 0x10]); // a header of 20 bytes; ACK
//!     packet
//! };
//! let packets = [segment(0), segment(1)];
//! let buffer = packets.concat();
//! let valid = VnetHeader { flags: 2, ..VnetHeader::default() }; // DATA_VALID
//!
//! let mut arena = Arena::new(64, 128);
//! let mut gro = Coalescer::new(&GRO, 64, 0x5eed);
//! let memory = SliceMemory::new(&buffer, Kernels::detect());
//!
//! let mut at = 0;
//! for packet in &packets {
//!     let body = [Frag::new(at, packet.len() as u32)];
//!     at += packet.len() as u64;
//!     let vnet = Some((&valid, Trust::Kernel));
//!     let Ok(admitted) = arena.admit(Link::Ethernet, packet, &body, vnet) else {
//!         continue; // counted and dropped
//!     };
//!     match gro.offer(&mut arena, admitted.id, &memory) {
//!         Offer::Merged => {}
//!         Offer::Hold(slot) if gro.hold(&mut arena, admitted.id, slot, 0, &memory).is_ok() => {}
//!         _ => gro.ready().push(Ready::alone(admitted.id, 0)),
//!     }
//! }
//! gro.flush(&mut arena, End::BurstEnd);
//!
//! let mut lens = Vec::new();
//! for done in gro.ready().drain(..) {
//!     let packet = arena.packet(done.id);
//!     assert_eq!(packet.wire_len(), 54 + 2000); // both, behind one header
//!     let plan = plan(packet, Caps::NONE, 1500);
//!     complete(packet, arena.payload(done.id), plan, &memory, |packet, payload| {
//!         // header: packet.write_header(..); body: the pieces of `payload`
//!         lens.push((packet.wire_len(), payload.len_bytes()));
//!     })?;
//!     arena.release(done.id);
//! }
//! assert_eq!(lens, [(1054, 1000), (1054, 1000)]); // two segments again
//! # Ok::<(), jumbo_engine::complete::Fault>(())
//! ```
//!
//! Who has a burst to hand over at once is served several times faster by
//! [`coalesce::Coalescer::take_all`], which admits and offers.
//!
//! # Whole programs
//!
//! In the repository's `crates/jumbo-engine/examples`: `vpn_tun` is a VPN's packet loop between a TUN and
//! UDP sockets, with one write per super-packet and a way back when the kernel refuses one
//! (`cargo run --release --example vpn_tun -- --demo` runs it between two namespaces); `capture_filter` says which
//! flows of a capture coalesce; `rss_queue` chooses queues; `coalesce_burst` is the above with its packets built.

#![no_std]
#![deny(unsafe_code)]
#![warn(missing_docs)]

extern crate alloc;

pub mod arena;
pub mod parse;
pub mod tunnel;
pub mod vnet;
pub mod coalesce;
pub mod steer;
pub mod complete;
mod fragment;
pub mod segment;
pub mod moderate;
pub mod packet;
pub mod pending;
pub mod stage;
pub mod superpacket;
pub mod checksum;
pub mod reason;
#[doc(hidden)]
pub mod fuzz_bodies;

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
