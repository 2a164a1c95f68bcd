//! A TUN or TAP queue as a program opens it that never speaks of offloads: TUNSETIFF and TUNSETPERSIST alone.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;

/// Attaches a queue to the TAP `name` of the calling thread's namespace, making it if needed; `flags` as in TUNSETIFF.
pub(crate) fn open_tap(name: &str, flags: libc::c_int, persist: bool) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")?;
    // SAFETY: ifreq is plain data; zeros are a valid value of all its fields.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().take(15).zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | flags) as libc::c_short;
    // SAFETY: the descriptor is open, and TUNSETIFF reads and writes one ifreq, which `request` is.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    check(done)?;
    if persist {
        // SAFETY: the descriptor is open, and TUNSETPERSIST takes a number, no pointer.
        let done =
            unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETPERSIST, 1 as libc::c_ulong) };
        check(done)?;
    }
    Ok(file)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
