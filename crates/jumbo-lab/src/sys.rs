//! System calls that no safe crate wraps.
#![allow(
    unsafe_code,
    reason = "system calls; each block states why it is sound"
)]

pub(crate) mod bpf;
pub(crate) mod ethtool;
pub(crate) mod ns;
pub(crate) mod packet;
pub(crate) mod socket;
pub(crate) mod tun;
pub(crate) mod usage;

/// Turns a C return value into a result.
fn check(ret: libc::c_int) -> std::io::Result<libc::c_int> {
    if ret < 0 {
        Err(std::io::Error::last_os_error())
    } else {
        Ok(ret)
    }
}

/// An `ifreq` with the interface name filled in.
///
/// Errors: `InvalidInput` for a name that is empty or longer than 15 bytes.
fn ifreq(name: &str) -> std::io::Result<libc::ifreq> {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes.len() >= libc::IFNAMSIZ || bytes.contains(&0) {
        return Err(std::io::Error::new(
            std::io::ErrorKind::InvalidInput,
            "an interface name has 1 to 15 bytes",
        ));
    }
    // SAFETY: `ifreq` is plain old data; all zero bytes is a valid value.
    let mut req: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in req.ifr_name.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    Ok(req)
}
