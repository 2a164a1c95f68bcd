//! Where Jumbo's packets come from and go to.
//!
//! * [`queue`]: what every port is to the switch.
//! * [`pool`]: the memory of a burst, a worker's own and lent.
//! * [`tap`]: the host's own stack.
//! * [`packet`]: any interface of this host, by AF_PACKET.
//! * [`xdp`]: the same before the host's stack, by AF_XDP.
//! * [`auto`]: the better of the two.
//! * [`mem`]: packets from and to memory, for tests.
//! * [`vhost`]: virtual machines.
//! * [`tagged`]: a wrapper that puts a port into a VLAN.
//! * [`wrap`]: faults and captures, for every port.
//! * [`conformance`]: what every port must pass.
//! * [`capture`]: capture files, read and written.

#![deny(unsafe_code)]
#![warn(missing_docs)]

mod sys;
pub mod queue;
mod gather;
pub mod pool;
pub mod tap;
pub mod packet;
pub mod xdp;
pub mod auto;
pub mod mem;
pub mod tagged;
pub mod wrap;
pub mod vhost;
#[doc(hidden)]
pub mod conformance;
pub mod capture;
