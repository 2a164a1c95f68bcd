//! Facts of network devices by ioctl. Linux 6.18 `net/core/dev_ioctl.c`, `net/ethtool/ioctl.c`.
#![allow(unsafe_code, reason = "ioctl is outside the type system")]

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

/// Everything the SIOC*IF* calls and TUNSETIFF need of an `ifreq`: a name and 24 bytes.
#[repr(C)]
pub(crate) struct IfReq {
    name: [u8; libc::IFNAMSIZ],
    pub(crate) data: [u8; 24],
}

impl IfReq {
    pub(crate) fn new(name: &str) -> Result<Self, Errno> {
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

    pub(crate) fn name(&self) -> String {
        let end = self.name.iter().position(|b| *b == 0).unwrap_or(0);
        String::from_utf8_lossy(&self.name[..end]).into_owned()
    }

    fn int(&self) -> i32 {
        let [a, b, c, d, ..] = self.data;
        i32::from_ne_bytes([a, b, c, d])
    }

    fn short(&self) -> u16 {
        u16::from_ne_bytes([self.data[0], self.data[1]])
    }
}

pub(crate) fn check(result: libc::c_int) -> Result<(), Errno> {
    if result == -1 {
        return Err(last_error());
    }
    Ok(())
}

/// What the last system call of this thread said.
pub(crate) fn last_error() -> Errno {
    let code = std::io::Error::last_os_error().raw_os_error();
    code.map_or(Errno::IO, Errno::from_raw_os_error)
}

pub(crate) fn ioctl_ifreq(
    fd: BorrowedFd<'_>,
    request: libc::c_ulong,
    ifreq: &mut IfReq,
) -> Result<(), Errno> {
    // SAFETY: `ifreq` is 40 bytes, the size of the kernel's struct ifreq on 64-bit
    // machines, valid for reads and writes during the call; `fd` is open.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request as _, ifreq as *mut IfReq) };
    check(result)
}

/// The device's MTU, in the socket's network namespace.
pub(crate) fn mtu(socket: BorrowedFd<'_>, name: &str) -> Result<usize, Errno> {
    let mut request = IfReq::new(name)?;
    ioctl_ifreq(socket, libc::SIOCGIFMTU as libc::c_ulong, &mut request)?;
    Ok(request.int().max(0) as usize)
}

/// Sets the device's MTU.
pub(crate) fn set_mtu(socket: BorrowedFd<'_>, name: &str, mtu: usize) -> Result<(), Errno> {
    let mut request = IfReq::new(name)?;
    let mtu = i32::try_from(mtu).map_err(|_| Errno::INVAL)?;
    request.data[..4].copy_from_slice(&mtu.to_ne_bytes());
    ioctl_ifreq(socket, libc::SIOCSIFMTU as libc::c_ulong, &mut request)
}

/// The device's IFF_* flags.
pub(crate) fn flags(socket: BorrowedFd<'_>, name: &str) -> Result<u16, Errno> {
    let mut request = IfReq::new(name)?;
    ioctl_ifreq(socket, libc::SIOCGIFFLAGS as libc::c_ulong, &mut request)?;
    Ok(request.short())
}

/// Brings the device up.
pub(crate) fn set_up(socket: BorrowedFd<'_>, name: &str) -> Result<(), Errno> {
    let flags = flags(socket, name)? | libc::IFF_UP as u16;
    let mut request = IfReq::new(name)?;
    request.data[..2].copy_from_slice(&flags.to_ne_bytes());
    ioctl_ifreq(socket, libc::SIOCSIFFLAGS as libc::c_ulong, &mut request)
}

/// Whether a device of that name exists here.
pub(crate) fn exists(socket: BorrowedFd<'_>, name: &str) -> bool {
    mtu(socket, name).is_ok()
}

/// The device's index.
pub(crate) fn index(socket: BorrowedFd<'_>, name: &str) -> Result<u32, Errno> {
    let mut request = IfReq::new(name)?;
    ioctl_ifreq(socket, libc::SIOCGIFINDEX as libc::c_ulong, &mut request)?;
    u32::try_from(request.int()).map_err(|_| Errno::NODEV)
}

/// The name of the device with this index.
pub(crate) fn name(socket: BorrowedFd<'_>, index: u32) -> Result<String, Errno> {
    let mut request = IfReq::new("")?;
    request.data[..4].copy_from_slice(&index.to_ne_bytes());
    ioctl_ifreq(socket, libc::SIOCGIFNAME as libc::c_ulong, &mut request)?;
    Ok(request.name())
}

/// The device's ARPHRD_* type (1 is Ethernet) and its address.
pub(crate) fn hardware_address(
    socket: BorrowedFd<'_>,
    name: &str,
) -> Result<(u16, [u8; 6]), Errno> {
    let mut request = IfReq::new(name)?;
    ioctl_ifreq(socket, libc::SIOCGIFHWADDR as libc::c_ulong, &mut request)?;
    let [_, _, a, b, c, d, e, f, ..] = request.data;
    Ok((request.short(), [a, b, c, d, e, f]))
}

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    value: u32,
}

/// Asks one of ethtool's questions whose answer is a word, such as ETHTOOL_GTSO.
pub(crate) fn ethtool(socket: BorrowedFd<'_>, name: &str, command: u32) -> Result<u32, Errno> {
    let mut value = EthtoolValue { command, value: 0 };
    let mut request = IfReq::new(name)?;
    let at = &raw mut value as usize;
    request.data[..size_of::<usize>()].copy_from_slice(&at.to_ne_bytes());
    // SAFETY: as in `ioctl_ifreq`; the request carries the address of `value`, which
    // lives through the call and is what the questions used here read and write.
    let result =
        unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
    check(result)?;
    Ok(value.value)
}

/// The beginning of `struct ethtool_drvinfo`, and room for the rest.
#[repr(C)]
struct EthtoolDriver {
    command: u32,
    name: [u8; 32],
    rest: [u8; 160],
}

const ETHTOOL_GDRVINFO: u32 = 0x03;

/// The name of the device's driver.
pub(crate) fn driver(socket: BorrowedFd<'_>, name: &str) -> Result<String, Errno> {
    let mut driver = EthtoolDriver {
        command: ETHTOOL_GDRVINFO,
        name: [0; 32],
        rest: [0; 160],
    };
    let mut request = IfReq::new(name)?;
    let at = &raw mut driver as usize;
    request.data[..size_of::<usize>()].copy_from_slice(&at.to_ne_bytes());
    // SAFETY: as in `ethtool`, with the structure this question fills (196 bytes).
    let result =
        unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
    check(result)?;
    let _ = driver.rest;
    let end = driver.name.iter().position(|b| *b == 0).unwrap_or(32);
    Ok(String::from_utf8_lossy(&driver.name[..end]).into_owned())
}

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Default)]
struct EthtoolChannels {
    command: u32,
    max: [u32; 4],
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

const ETHTOOL_GCHANNELS: u32 = 0x3c;

/// How many receive queues the device uses; 1 if it does not say.
pub(crate) fn rx_queues(socket: BorrowedFd<'_>, name: &str) -> u32 {
    let mut channels = EthtoolChannels {
        command: ETHTOOL_GCHANNELS,
        ..Default::default()
    };
    let Ok(mut request) = IfReq::new(name) else {
        return 1;
    };
    let at = &raw mut channels as usize;
    request.data[..size_of::<usize>()].copy_from_slice(&at.to_ne_bytes());
    // SAFETY: as in `ethtool`, with the structure this question fills.
    let result =
        unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
    match check(result) {
        Ok(()) => (channels.rx + channels.combined).max(1),
        Err(_) => 1,
    }
}

/// Any socket carries the ioctls of network devices.
pub(crate) fn control_socket() -> Result<std::os::fd::OwnedFd, Errno> {
    rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
}
