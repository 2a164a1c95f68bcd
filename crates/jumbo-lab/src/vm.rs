//! Real front ends for vhost-user sockets: guests in QEMU, and DPDK's testpmd.
//!
//! Both are programs of the distribution. Where one is absent, its `find` returns [`Missing`], which says what to install;
//! a test passes that to [`skip`](crate::skip):
//!
//! ```no_run
//! use jumbo_lab::vm::{Nic, Qemu, QemuTools, VmSpec};
//! use jumbo_lab::{TestError, skip};
//!
//! fn a_guest_talks() -> Result<(), TestError> {
//!     let tools = QemuTools::find().map_err(skip)?;
//!     // The switch listens here, so QEMU connects.
//!     let nic = Nic::vhost_user("/tmp/switch.sock").queues(2).off(&["guest_tso4", "guest_tso6"]);
//!     let mut vm = Qemu::boot(&tools, &VmSpec::new().nic(nic))?;
//!     vm.ok("ip addr add 10.0.0.2/24 dev eth0 && ip link set eth0 up")?;
//!     let said = vm.ok("ping -c 3 -W 5 10.0.0.1")?;
//!     assert!(said.contains("3 packets received"));
//!     Ok(())
//! }
//! ```
//!
//! Everything started here ends with its value, or after the time limit of its start, whichever is first.
//!
//! Speeds under software emulation say nothing about the switch: about 1 Gbit/s with offloads, 0.3 without.

mod console;
mod initramfs;
mod missing;
mod process;
mod qemu;
mod testpmd;

pub use missing::Missing;
pub use qemu::{Nic, Output, Qemu, QemuTools, VmSpec};
pub use testpmd::{PortStats, Testpmd, TestpmdSpec, TestpmdTool, Vdev, VirtioUser};
