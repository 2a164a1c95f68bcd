//! vhost-user: a virtual machine's network card, served from this process.
//!
//! The protocol is QEMU's `docs/interop/vhost-user.rst`; section names in this folder are of that page, or of the virtio
//! specification where they say so. The front end is the virtual machine monitor, the back end is this process.
//!
//! * [`device`]: what the protocol tells the data path; the seam between both.
//! * [`feature`]: feature bits.
//! * `guest`: a guest's memory, mapped.
//! * `vring`: virtqueues, split and packed; the only unsafe code here.
//! * `queue`: rings as a worker uses them.
//! * `port`: the data path, and the port as the switch sees it.

pub mod device;
pub mod feature;
mod guest;
mod port;
mod queue;
mod vring;

pub use device::{
    DataPath, Device, InflightSpec, LogSpec, Position, RING_SIZE_MAX, RegionSpec, ResumeError,
    RingPart, RingState, ring_parts,
};
