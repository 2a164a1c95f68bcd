//! What tests ask of a TUN device that the lab does not.
#![expect(unsafe_code, reason = "ioctl is outside the type system")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The device outlives its last file, or no longer (drivers/net/tun.c TUNSETPERSIST).
pub(crate) fn set_persistent(tap: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    let value = libc::c_ulong::from(on);
    // SAFETY: TUNSETPERSIST takes the value itself; `tap` is open.
    let result = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETPERSIST as _, value) };
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
