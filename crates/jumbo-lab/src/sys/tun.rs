//! The TUN/TAP ioctls. Source: drivers/net/tun.c, include/uapi/linux/if_tun.h.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::{check, ifreq};

/// Creates the TAP `name`, or joins it as a further queue.
pub(crate) fn attach(fd: BorrowedFd<'_>, name: &str, multi_queue: bool) -> io::Result<()> {
    let mut req = ifreq(name)?;
    let mut flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    if multi_queue {
        flags |= libc::IFF_MULTI_QUEUE;
    }
    req.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: `req` is a valid ifreq that the kernel reads and rewrites.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF as _, &mut req) }).map(drop)
}

/// The length of the virtio-net header before each packet: 10, 12 or more.
pub(crate) fn set_vnet_header_len(fd: BorrowedFd<'_>, len: u32) -> io::Result<()> {
    let len = len as libc::c_int;
    // SAFETY: the kernel reads one int, which lives through the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETVNETHDRSZ as _, &len) }).map(drop)
}

/// The `TUN_F_*` work the kernel may leave undone in packets we read.
pub(crate) fn set_offload(fd: BorrowedFd<'_>, bits: u32) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value, not by pointer.
    check(unsafe {
        libc::ioctl(
            fd.as_raw_fd(),
            libc::TUNSETOFFLOAD as _,
            bits as libc::c_ulong,
        )
    })
    .map(drop)
}

/// Keeps the device when its last queue closes.
pub(crate) fn set_persist(fd: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_ulong = 1;
    // SAFETY: TUNSETPERSIST takes its argument by value, not by pointer.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETPERSIST as _, on) }).map(drop)
}
