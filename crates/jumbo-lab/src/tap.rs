//! A plain TAP device with virtio-net headers, for the forwarder and tests.
//!
//! Source: Documentation/networking/tuntap.rst, drivers/net/tun.c.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use crate::error::{Doing, Result};
use crate::ns::NetNs;
use crate::sys::tun;

/// Bytes of the virtio-net header before each packet unless told otherwise:
/// with `num_buffers`, as virtio 1.x devices have it.
pub const VNET_HEADER_LEN: usize = 12;

/// Work the kernel may leave undone in packets it hands us (`TUN_F_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TapOffloads(u32);

impl TapOffloads {
    /// Complete packets only.
    pub const NONE: Self = Self(0);
    /// Checksums may be partial.
    pub const CHECKSUM: Self = Self(libc::TUN_F_CSUM);
    /// TCP super-packets of both families (and partial checksums).
    pub const TSO: Self = Self(libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6);
    /// TCP and UDP super-packets. Since Linux 6.2.
    pub const TSO_USO: Self = Self(Self::TSO.0 | libc::TUN_F_USO4 | libc::TUN_F_USO6);

    /// Any set of `TUN_F_*` bits; the kernel judges it.
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }
}

/// What kind of TAP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapSpec {
    /// Link name, at most 15 bytes.
    pub name: String,
    /// What the kernel may leave undone.
    pub offloads: TapOffloads,
    /// Several queues: [`Tap::queue`] opens further ones.
    pub multi_queue: bool,
    /// 10, 12, 20 or 24.
    pub vnet_header_len: usize,
}

impl TapSpec {
    /// One queue, 12-byte header.
    pub fn new(name: &str, offloads: TapOffloads) -> Self {
        Self {
            name: name.into(),
            offloads,
            multi_queue: false,
            vnet_header_len: VNET_HEADER_LEN,
        }
    }
}

/// One queue of a TAP: its far end is a link in a namespace. Non-blocking.
/// The link goes when the last queue is closed.
#[derive(Debug)]
pub struct Tap {
    file: File,
    spec: TapSpec,
    ns: NetNs,
}

impl Tap {
    /// Makes the TAP; its link appears in `ns`, down.
    pub fn create(ns: &NetNs, spec: &TapSpec) -> Result<Self> {
        let file = ns
            .run(|| open_queue(spec))?
            .doing(|| format!("make TAP {}", spec.name))?;
        Ok(Self {
            file,
            spec: spec.clone(),
            ns: ns.clone(),
        })
    }

    /// Another queue of the same device.
    pub fn queue(&self) -> Result<Self> {
        Self::create(&self.ns, &self.spec)
    }

    /// Changes what the kernel may leave undone.
    pub fn set_offloads(&self, offloads: TapOffloads) -> Result<()> {
        tun::set_offload(self.as_fd(), offloads.0)
            .doing(|| format!("set offloads of {}", self.spec.name))
    }

    /// Keeps the link when the last queue closes, so that another program may
    /// attach to it; it then goes with its namespace.
    pub fn persist(&self) -> Result<()> {
        tun::set_persist(self.as_fd()).doing(|| format!("keep {}", self.spec.name))
    }

    /// Link name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Reads one packet with its header; `WouldBlock` when there is none.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.file, buffer)?)
    }

    /// Writes one packet with its header.
    pub fn write(&self, packet: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(&self.file, packet)?)
    }

    /// The queue alone, for a port that drives it itself.
    pub fn into_fd(self) -> OwnedFd {
        self.file.into()
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// In the namespace of the calling thread: that is where the link appears.
fn open_queue(spec: &TapSpec) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")?;
    tun::attach(file.as_fd(), &spec.name, spec.multi_queue)?;
    tun::set_vnet_header_len(file.as_fd(), spec.vnet_header_len as u32)?;
    tun::set_offload(file.as_fd(), spec.offloads.0)?;
    Ok(file)
}
