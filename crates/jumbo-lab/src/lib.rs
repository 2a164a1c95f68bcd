//! Namespaces, links, traffic and meters: what Jumbo's demo, benches and
//! integration tests stand on.
//!
//! Everything here is synchronous and works only inside network namespaces it
//! made itself. A process calls [`ns::enter`] while it still has one thread;
//! from then on it owns a private network (as root, or as an ordinary user
//! through a user namespace) and may create [`ns::NetNs`] as it likes. When
//! the last handle of a namespace goes, the kernel removes every link in it.
#![deny(unsafe_code)]

pub mod bpf;
pub mod ethtool;
pub mod forwarder;
pub mod host;
pub mod link;
pub mod meter;
pub mod ns;
pub mod packet_socket;
pub mod tap;
pub mod test;
pub mod traffic;
pub mod vm;

mod error;
mod sys;

pub use error::{Error, Result};
pub use host::{Family, Host, veth_pair};
pub use test::{LabTest, TestError, skip, test_main};
