//! vhost-user: a virtual machine's network card, served from this process.
//!
//! The protocol is QEMU's `docs/interop/vhost-user.rst`; section names in this folder are of that page, or of the virtio
//! specification where they say so. The front end is the virtual machine monitor, the back end is this process.
//!
//! * [`device`]: what the protocol tells the data path; the seam between both.
//! * [`feature`]: feature bits. [`inflight`]: the layout of memory that notes buffers in flight.
//! * [`message`]: the wire. [`session`]: what messages mean, without a socket.
//! * [`connection`], [`socket`], [`serve`]: the socket.
//! * `guest`: a guest's memory, mapped. `sys`: virtqueues, split and packed; the only unsafe code here.
//! * `keep`: where packed rings stand, kept outside this process. `kick`: what a guest wakes us with.
//! * `roll_call`: guests that come back together after a restart.
//! * `queue`: rings as a worker uses them; `between`: while they are exchanged;
//!   `returns`: by which of several pairs a flow goes. `port`: the data path, and the port as the switch sees it.

pub mod device;
pub mod feature;
pub mod inflight;
pub mod message;
pub mod session;
pub mod connection;
pub mod socket;
mod serve;
#[doc(hidden)]
pub mod fuzz_bodies;
mod between;
mod error;
mod offer;
#[cfg(test)]
mod oracle;
mod guest;
mod keep;
mod kick;
mod port;
mod queue;
mod returns;
mod roll_call;
mod sys;

pub use connection::{Connection, Ended};
pub use device::{
    DataPath, Device, InflightSpec, LogSpec, Position, RING_SIZE_MAX, RegionSpec, ResumeError,
    RingPart, RingState, ring_parts,
};
pub use error::{Refusal, VhostError};
pub use message::{Message, Reply, Request};
pub use offer::{CONFIG_LEN, Offer, QUEUE_PAIRS_MAX};
pub use port::{Notice, OpenError, VhostConfig, open};
pub use roll_call::RollCall;
pub use serve::{Endpoint, Event, serve};
pub use session::{Handled, Session};
pub use socket::{ListenError, Listener, Stop, listen};
