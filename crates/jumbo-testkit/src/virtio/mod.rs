//! A guest's network driver, in this process: shared memory, split and packed rings by the book, and a vhost-user front
//! end. With it a back end is tested without a virtual machine.
//!
//! Everything here is the *guest's* side: `send` is what the guest transmits.
//!
//! * [`GuestMemory`]: regions of guest addresses in memfds.
//! * [`DriverQueue`]: a ring, well-behaved; [`SplitDriver`] and [`PackedDriver`] also let a test write nonsense.
//! * [`FrontEnd`]: the requests of vhost-user, right or wrong.
//! * [`VirtioNet`]: all of it put together: a network card that sends and receives packets.
//! * [`Loopback`]: a back end that returns every packet, with the device's side of the rings ([`DeviceQueue`]): what the
//!   driver itself is tested against.
//!
//! Source: virtio 1.3 sections 2.7 (split), 2.8 (packed), 5.1 (network device); vhost-user specification.

mod buffer;
mod event;
mod features;
mod frontend;
mod loopback;
mod memory;
pub mod message;
mod net;
mod packed;
mod queue;
mod split;
mod sys;
mod textbook;
mod walker;

pub use buffer::Layout;
pub use event::EventFd;
pub use features::{GUEST_OFFLOADS, HOST_OFFLOADS, feature, header_len, protocol};
pub use frontend::{FrontEnd, FrontEndError, FrontEndListener, Inflight};
pub use loopback::{Loopback, LoopbackOptions, LoopbackReport};
pub use memory::{GuestMemory, Region, SharedFile, Window};
pub use net::{Burst, Counts, Lane, MemoryLayout, NetFault, Options, Received, VirtioNet};
pub use packed::{
    AVAIL, EVENT_DESC, EVENT_DISABLE, EVENT_ENABLE, PackedDescriptor, PackedDriver, Position, USED,
    WRAP,
};
pub use queue::{DeviceFault, DriverQueue, Indirect, Piece, QueueOptions, RingAddresses, Used};
pub use split::{INDIRECT, NEXT, NO_INTERRUPT, NO_NOTIFY, SplitDescriptor, SplitDriver, WRITE};
pub use textbook::{DeviceChain, DeviceQueue};
pub use walker::{Flaw, PackedRing, Walked, walk_packed};
