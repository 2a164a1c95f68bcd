//! Socket options that the standard library and rustix do not name.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::check;

/// Sets an option whose value is an int.
pub(crate) fn set_option(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: `value` is an int on our stack and `len` is its size.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), len) })
        .map(drop)
}

/// UDP_SEGMENT: one write becomes datagrams of `payload_len` bytes (udp(7)).
pub(crate) fn set_udp_segment(fd: BorrowedFd<'_>, payload_len: u16) -> io::Result<()> {
    set_option(fd, libc::SOL_UDP, libc::UDP_SEGMENT, payload_len.into())
}

/// UDP_GRO: one read may return several equal datagrams (udp(7)).
pub(crate) fn set_udp_gro(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    set_option(fd, libc::SOL_UDP, libc::UDP_GRO, on.into())
}

/// What TCP says of a connection. Source: tcp(7), include/uapi/linux/tcp.h.
pub(crate) fn tcp_info(fd: BorrowedFd<'_>) -> io::Result<libc::tcp_info> {
    // SAFETY: `tcp_info` is plain old data; all zero bytes is a valid value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    let at = (&raw mut info).cast();
    // SAFETY: the kernel writes at most `len` bytes to `info`, which has them.
    check(unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_TCP, libc::TCP_INFO, at, &mut len)
    })?;
    Ok(info)
}
