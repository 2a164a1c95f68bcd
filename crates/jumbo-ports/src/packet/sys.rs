//! Options and addresses of AF_PACKET sockets. packet(7); Linux 6.18
//! `net/packet/af_packet.c`, `include/uapi/linux/if_packet.h`.
#![expect(unsafe_code, reason = "rustix does not know AF_PACKET")]

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use crate::sys::netdev::check;

const PACKET_QDISC_BYPASS: libc::c_int = 20;
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
const FANOUT_FLAG_IGNORE_OUTGOING: u32 = 0x4000;
const FANOUT_FLAG_UNIQUE_ID: u32 = 0x2000;

/// `struct tpacket_req`.
#[repr(C)]
#[derive(Copy, Clone, Debug)]
pub(super) struct RingRequest {
    pub(super) block_len: u32,
    pub(super) blocks: u32,
    pub(super) frame_len: u32,
    pub(super) frames: u32,
}

/// How packets are spread over the sockets of a group.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Spread {
    /// By flow.
    Hash = 0,
    /// By the receive queue they came by.
    Queue = 5,
}

/// A socket that hears nothing before [`bind`].
pub(super) fn socket() -> Result<OwnedFd, Errno> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no pointers; the result is checked before it is owned.
    let raw = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    check(raw)?;
    // SAFETY: `raw` was just returned by socket(2) and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Sets an option whose value is plain old data.
fn set<T: Copy>(fd: BorrowedFd<'_>, option: libc::c_int, value: &T) -> Result<(), Errno> {
    let len = size_of::<T>() as libc::socklen_t;
    let value = (value as *const T).cast();
    // SAFETY: `value` is readable for `len` bytes during the call; `fd` is open.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_PACKET, option, value, len) })
}

/// What must be so before the socket is bound: a virtio header before each packet,
/// none of what this host sends, TPACKET_V2, and longer packets in full beside the ring.
pub(super) fn prepare(fd: BorrowedFd<'_>, qdisc_bypass: bool) -> Result<(), Errno> {
    set(fd, libc::PACKET_VNET_HDR, &1)?;
    set(fd, PACKET_IGNORE_OUTGOING, &1)?;
    set(fd, libc::PACKET_VERSION, &1)?;
    set(fd, libc::PACKET_COPY_THRESH, &1)?;
    if qdisc_bypass {
        set(fd, PACKET_QDISC_BYPASS, &1)?;
    }
    Ok(())
}

/// A packet in the transmit ring that the kernel finds malformed is skipped; else the
/// ring would stand still.
pub(super) fn skip_malformed(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    set(fd, libc::PACKET_LOSS, &1)
}

/// Which way a ring goes.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Receive,
    Transmit,
}

/// Makes a ring, to be mapped.
pub(super) fn make_ring(
    fd: BorrowedFd<'_>,
    direction: Direction,
    request: RingRequest,
) -> Result<(), Errno> {
    let option = match direction {
        Direction::Receive => libc::PACKET_RX_RING,
        Direction::Transmit => libc::PACKET_TX_RING,
    };
    set(fd, option, &request)
}

/// `struct packet_mreq`.
#[repr(C)]
#[derive(Copy, Clone)]
struct Membership {
    index: i32,
    kind: u16,
    address_len: u16,
    address: [u8; 8],
}

/// The device hears everything, until the socket is closed.
pub(super) fn listen_to_all(fd: BorrowedFd<'_>, index: u32) -> Result<(), Errno> {
    let membership = Membership {
        index: index as i32,
        kind: libc::PACKET_MR_PROMISC as u16,
        address_len: 0,
        address: [0; 8],
    };
    set(fd, libc::PACKET_ADD_MEMBERSHIP, &membership)
}

/// Begins to hear.
pub(super) fn bind(fd: BorrowedFd<'_>, index: u32) -> Result<(), Errno> {
    bind_with(fd, index, libc::ETH_P_ALL as u16)
}

/// Chooses the interface, and hears nothing.
pub(super) fn bind_to_send(fd: BorrowedFd<'_>, index: u32) -> Result<(), Errno> {
    bind_with(fd, index, 0)
}

fn bind_with(fd: BorrowedFd<'_>, index: u32, protocol: u16) -> Result<(), Errno> {
    // SAFETY: `sockaddr_ll` is plain old data; all zero bytes is a valid value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = index as i32;
    let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: `address` is a valid sockaddr_ll of `len` bytes for the whole call.
    check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len) })
}

/// Makes a group in which the sockets share the packets. Returns its number.
pub(super) fn make_group(fd: BorrowedFd<'_>, spread: Spread) -> Result<u16, Errno> {
    let flags = FANOUT_FLAG_UNIQUE_ID | FANOUT_FLAG_IGNORE_OUTGOING | spread as u32;
    set(fd, libc::PACKET_FANOUT, &(flags << 16))?;
    let group: u32 = get(fd, libc::SOL_PACKET, libc::PACKET_FANOUT)?;
    Ok(group as u16)
}

/// Joins a group.
pub(super) fn join_group(fd: BorrowedFd<'_>, group: u16, spread: Spread) -> Result<(), Errno> {
    let flags = FANOUT_FLAG_IGNORE_OUTGOING | spread as u32;
    set(fd, libc::PACKET_FANOUT, &(flags << 16 | u32::from(group)))
}

/// Reads an option whose value is plain old data of any bits.
fn get<T: Copy + Default>(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
) -> Result<T, Errno> {
    let mut value = T::default();
    let mut len = size_of::<T>() as libc::socklen_t;
    let at = (&raw mut value).cast();
    // SAFETY: `value` is writable for `len` bytes, is integers only, and `fd` is open.
    check(unsafe { libc::getsockopt(fd.as_raw_fd(), level, option, at, &mut len) })?;
    Ok(value)
}

/// Packets the kernel could not put into the ring since the last call.
pub(super) fn ring_drops(fd: BorrowedFd<'_>) -> Result<u32, Errno> {
    let [_packets, drops]: [u32; 2] = get(fd, libc::SOL_PACKET, libc::PACKET_STATISTICS)?;
    Ok(drops)
}

/// The interface the socket is bound to; `None` once that is gone.
pub(super) fn bound_to(fd: BorrowedFd<'_>) -> Result<Option<u32>, Errno> {
    let mut address = MaybeUninit::<libc::sockaddr_ll>::zeroed();
    let mut len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    let at = address.as_mut_ptr().cast();
    // SAFETY: `address` is writable for `len` bytes; `fd` is open.
    check(unsafe { libc::getsockname(fd.as_raw_fd(), at, &mut len) })?;
    // SAFETY: zeros are a valid sockaddr_ll, and the kernel wrote one over them.
    let address = unsafe { address.assume_init() };
    Ok(u32::try_from(address.sll_ifindex).ok().filter(|i| *i > 0))
}
