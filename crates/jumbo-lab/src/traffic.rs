//! Real kernel traffic between two [`Host`](crate::Host)s: bulk TCP, UDP with
//! and without segmentation offload, and request/response.
//!
//! Sockets are made inside the hosts' namespaces; the threads that drive them
//! run wherever they were started, since a socket keeps its namespace.

pub mod bulk;
pub mod connect;
pub mod pattern;
pub mod ping;
pub mod udp;

mod lane;

pub use bulk::{BulkAmount, BulkReport, BulkSession, BulkSpec, Check, Directions, Segments, bulk};
pub use ping::{PingReport, PingSpec, Transport, ping};
pub use udp::{UdpReport, UdpSpec, udp};
