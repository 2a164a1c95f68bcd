//! AF_PACKET sockets. Source: packet(7), net/packet/af_packet.c.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use super::check;
use super::socket::set_option;

const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
const PACKET_QDISC_BYPASS: libc::c_int = 20;

/// A raw socket bound to one interface; it does not see what it sends itself.
pub(crate) fn open(index: u32, vnet_hdr: bool) -> io::Result<OwnedFd> {
    // Protocol 0: nothing is queued before the socket is bound to its link.
    // SAFETY: no pointers; the result is checked before it is owned.
    let raw =
        check(unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: `raw` was just returned by socket(2) and has no other owner.
    let fd = unsafe { OwnedFd::from_raw_fd(raw) };
    set_option(
        fd.as_fd(),
        libc::SOL_PACKET,
        libc::PACKET_VNET_HDR,
        vnet_hdr.into(),
    )?;
    set_option(fd.as_fd(), libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)?;
    bind(&fd, index)?;
    Ok(fd)
}

/// Sends past the queueing discipline, straight into the driver.
pub(crate) fn bypass_qdisc(fd: &OwnedFd) -> io::Result<()> {
    set_option(fd.as_fd(), libc::SOL_PACKET, PACKET_QDISC_BYPASS, 1)
}

fn bind(fd: &OwnedFd, index: u32) -> io::Result<()> {
    // SAFETY: `sockaddr_ll` is plain old data; all zero bytes is a valid value.
    let mut addr: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    addr.sll_family = libc::AF_PACKET as u16;
    addr.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    addr.sll_ifindex = index as i32;
    let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: `addr` is a valid sockaddr_ll of `len` bytes for the whole call.
    check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const addr).cast(), len) }).map(drop)
}
