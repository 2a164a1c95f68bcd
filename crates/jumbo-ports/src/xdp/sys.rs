//! bpf(2): a map, a program, a link. Linux 6.18 `kernel/bpf/syscall.c`,
//! `include/uapi/linux/bpf.h`.
#![expect(unsafe_code, reason = "bpf has no safe wrapper")]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use super::program::Instruction;
use crate::sys::netdev::last_error;

const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_MAP_TYPE_XSKMAP: u32 = 17;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;
const BPF_XDP: u32 = 37;

/// The part of `union bpf_attr` used here, in words; the rest is zero.
type Attributes = [u64; 16];

fn bpf(command: libc::c_int, attributes: &mut Attributes) -> Result<i32, Errno> {
    let len = size_of::<Attributes>();
    // SAFETY: `attributes` is readable and writable for `len` bytes; pointers in it
    // are to memory that the callers below borrow through the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), len) };
    match result {
        -1 => Err(last_error()),
        value => Ok(value as i32),
    }
}

fn owned(raw: i32) -> OwnedFd {
    // SAFETY: the calls that come here return a new file that nobody else owns.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

fn pair(low: u32, high: u32) -> u64 {
    if cfg!(target_endian = "little") {
        u64::from(low) | u64::from(high) << 32
    } else {
        u64::from(high) | u64::from(low) << 32
    }
}

/// A map from receive queue to AF_XDP socket.
pub(super) fn socket_map(queues: u32) -> Result<OwnedFd, Errno> {
    let mut attributes = Attributes::default();
    // map_type, key_size, value_size, max_entries.
    attributes[0] = pair(BPF_MAP_TYPE_XSKMAP, 4);
    attributes[1] = pair(4, queues);
    bpf(BPF_MAP_CREATE, &mut attributes).map(owned)
}

/// Enters a socket.
pub(super) fn enter(map: BorrowedFd<'_>, queue: u32, socket: BorrowedFd<'_>) -> Result<(), Errno> {
    let value = socket.as_raw_fd() as u32;
    let mut attributes = Attributes::default();
    // map_fd, key, value, flags.
    attributes[0] = pair(map.as_raw_fd() as u32, 0);
    attributes[1] = &raw const queue as u64;
    attributes[2] = &raw const value as u64;
    bpf(BPF_MAP_UPDATE_ELEM, &mut attributes).map(drop)
}

/// Loads an XDP program; with `frags` it copes with packets in several pieces.
pub(super) fn load(program: &[Instruction], frags: bool) -> Result<OwnedFd, Errno> {
    let license = b"GPL\0";
    let mut attributes = Attributes::default();
    // prog_type, insn_cnt, insns, license, ..., prog_flags.
    attributes[0] = pair(BPF_PROG_TYPE_XDP, program.len() as u32);
    attributes[1] = program.as_ptr() as u64;
    attributes[2] = license.as_ptr() as u64;
    // log_level and log_size, log_buf, kern_version and prog_flags.
    attributes[5] = pair(0, if frags { BPF_F_XDP_HAS_FRAGS } else { 0 });
    bpf(BPF_PROG_LOAD, &mut attributes).map(owned)
}

/// Attaches a program to an interface until the returned file is closed, which the
/// kernel does for a process that ends in whatever way.
pub(super) fn attach(program: BorrowedFd<'_>, index: u32, flags: u32) -> Result<OwnedFd, Errno> {
    let mut attributes = Attributes::default();
    // prog_fd, target_ifindex, attach_type, flags.
    attributes[0] = pair(program.as_raw_fd() as u32, index);
    attributes[1] = pair(BPF_XDP, flags);
    bpf(BPF_LINK_CREATE, &mut attributes).map(owned)
}
