//! The ioctls of `/dev/net/tun`. Linux 6.18 `drivers/net/tun.c`,
//! `include/uapi/linux/if_tun.h`.
#![expect(unsafe_code, reason = "ioctl is outside the type system")]

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use crate::sys::netdev::{IfReq, check, ioctl_ifreq};

fn ioctl_int(fd: BorrowedFd<'_>, request: libc::c_ulong, value: libc::c_int) -> Result<(), Errno> {
    let mut value = value;
    // SAFETY: the requests used with this function read one int from the pointer;
    // `fd` is open.
    let result =
        unsafe { libc::ioctl(fd.as_raw_fd(), request as _, &mut value as *mut libc::c_int) };
    check(result)
}

fn ioctl_value(
    fd: BorrowedFd<'_>,
    request: libc::c_ulong,
    value: libc::c_ulong,
) -> Result<(), Errno> {
    // SAFETY: the requests used with this function take the value itself; `fd` is open.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request as _, value) };
    check(result)
}

/// Creates the device, or attaches to it. Returns its name.
pub(super) fn set_iff(fd: BorrowedFd<'_>, name: &str, flags: libc::c_int) -> Result<String, Errno> {
    let mut request = IfReq::new(name)?;
    request.data[..2].copy_from_slice(&(flags as u16).to_ne_bytes());
    ioctl_ifreq(fd, libc::TUNSETIFF as libc::c_ulong, &mut request)?;
    Ok(request.name())
}

/// What the kernel may hand over: TUN_F_* bits.
pub(super) fn set_offload(fd: BorrowedFd<'_>, bits: libc::c_uint) -> Result<(), Errno> {
    ioctl_value(fd, libc::TUNSETOFFLOAD as libc::c_ulong, bits.into())
}

/// Length of the virtio header, bytes.
pub(super) fn set_vnet_header_len(fd: BorrowedFd<'_>, len: usize) -> Result<(), Errno> {
    ioctl_int(
        fd,
        libc::TUNSETVNETHDRSZ as libc::c_ulong,
        len as libc::c_int,
    )
}

/// The virtio header is little-endian, whatever the machine is.
pub(super) fn set_vnet_little_endian(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    ioctl_int(fd, libc::TUNSETVNETLE as libc::c_ulong, 1)
}
