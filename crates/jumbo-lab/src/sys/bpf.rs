//! bpf(2): load a program, attach it. Source: kernel/bpf/syscall.c, include/uapi/linux/bpf.h.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_LINK_CREATE: libc::c_int = 28;

/// What a program of the lab may be. The value is its `enum bpf_prog_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    SchedCls = 3,
    Xdp = 6,
}

/// The part of `union bpf_attr` used here, in 32-bit words.
type Attributes = [u32; 32];

fn bpf(command: libc::c_int, attributes: &mut Attributes) -> io::Result<OwnedFd> {
    let len = size_of::<Attributes>();
    // SAFETY: `attributes` is readable and writable for `len` bytes; the pointers in it
    // are to memory that the callers below borrow through the call.
    let raw = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), len) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both commands return a new file that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(raw as i32) })
}

fn put_pointer<T>(attributes: &mut Attributes, word: usize, to: *const T) {
    let bytes = (to as usize as u64).to_ne_bytes();
    let half = |at: usize| u32::from_ne_bytes([0, 1, 2, 3].map(|byte| bytes[at + byte]));
    attributes[word] = half(0);
    attributes[word + 1] = half(4);
}

/// Loads a program of 64-bit instructions (RFC 9669).
pub(crate) fn load(kind: Kind, program: &[u64]) -> io::Result<OwnedFd> {
    let license = c"GPL";
    let mut attributes = Attributes::default();
    // prog_type, insn_cnt, insns, license.
    attributes[0] = kind as u32;
    attributes[1] = program.len() as u32;
    put_pointer(&mut attributes, 2, program.as_ptr());
    put_pointer(&mut attributes, 4, license.as_ptr());
    bpf(BPF_PROG_LOAD, &mut attributes)
}

/// Attaches a program to a link of the calling thread's namespace until the returned
/// file is closed. `hook` is an `enum bpf_attach_type`.
pub(crate) fn attach(
    program: BorrowedFd<'_>,
    index: u32,
    hook: u32,
    flags: u32,
) -> io::Result<OwnedFd> {
    let mut attributes = Attributes::default();
    // prog_fd, target_ifindex, attach_type, flags.
    attributes[..4].copy_from_slice(&[program.as_raw_fd() as u32, index, hook, flags]);
    bpf(BPF_LINK_CREATE, &mut attributes)
}
