//! The ioctls of `/dev/net/tun` and of network devices. Linux 6.18
//! `drivers/net/tun.c`, `include/uapi/linux/if_tun.h`, `net/core/dev_ioctl.c`.
#![expect(unsafe_code, reason = "ioctl is outside the type system")]

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

/// Everything TUNSETIFF and the SIOC*IF* calls need of an `ifreq`: a name and 24 bytes.
#[repr(C)]
struct IfReq {
    name: [u8; libc::IFNAMSIZ],
    data: [u8; 24],
}

impl IfReq {
    fn new(name: &str) -> Result<Self, Errno> {
        let bytes = name.as_bytes();
        if bytes.len() >= libc::IFNAMSIZ || bytes.contains(&0) {
            return Err(Errno::NAMETOOLONG);
        }
        let mut request = Self {
            name: [0; libc::IFNAMSIZ],
            data: [0; 24],
        };
        request.name[..bytes.len()].copy_from_slice(bytes);
        Ok(request)
    }

    fn name(&self) -> String {
        let end = self.name.iter().position(|b| *b == 0).unwrap_or(0);
        String::from_utf8_lossy(&self.name[..end]).into_owned()
    }
}

fn check(result: libc::c_int) -> Result<(), Errno> {
    if result == -1 {
        let code = std::io::Error::last_os_error().raw_os_error();
        return Err(code.map_or(Errno::IO, Errno::from_raw_os_error));
    }
    Ok(())
}

fn ioctl_ifreq(fd: BorrowedFd<'_>, request: libc::c_ulong, ifreq: &mut IfReq) -> Result<(), Errno> {
    // SAFETY: `ifreq` is 40 bytes, the size of the kernel's struct ifreq on 64-bit
    // machines, valid for reads and writes during the call; `fd` is open.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request as _, ifreq as *mut IfReq) };
    check(result)
}

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

/// The device's MTU, in this thread's network namespace.
pub(super) fn mtu(socket: BorrowedFd<'_>, name: &str) -> Result<usize, Errno> {
    let mut request = IfReq::new(name)?;
    ioctl_ifreq(socket, libc::SIOCGIFMTU as libc::c_ulong, &mut request)?;
    let [a, b, c, d, ..] = request.data;
    Ok(i32::from_ne_bytes([a, b, c, d]).max(0) as usize)
}

/// Sets the device's MTU.
pub(super) fn set_mtu(socket: BorrowedFd<'_>, name: &str, mtu: usize) -> Result<(), Errno> {
    let mut request = IfReq::new(name)?;
    let mtu = i32::try_from(mtu).map_err(|_| Errno::INVAL)?;
    request.data[..4].copy_from_slice(&mtu.to_ne_bytes());
    ioctl_ifreq(socket, libc::SIOCSIFMTU as libc::c_ulong, &mut request)
}

/// Brings the device up.
pub(super) fn set_up(socket: BorrowedFd<'_>, name: &str) -> Result<(), Errno> {
    let mut request = IfReq::new(name)?;
    ioctl_ifreq(socket, libc::SIOCGIFFLAGS as libc::c_ulong, &mut request)?;
    let flags = u16::from_ne_bytes([request.data[0], request.data[1]]) | libc::IFF_UP as u16;
    request.data[..2].copy_from_slice(&flags.to_ne_bytes());
    ioctl_ifreq(socket, libc::SIOCSIFFLAGS as libc::c_ulong, &mut request)
}

/// Whether a device of that name exists here.
pub(super) fn exists(socket: BorrowedFd<'_>, name: &str) -> bool {
    mtu(socket, name).is_ok()
}
