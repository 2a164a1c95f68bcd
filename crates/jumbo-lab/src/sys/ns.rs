//! Leaving the namespaces a thread was born in.

use std::io;

use super::check;

/// A new user namespace for the calling process, which must have one thread
/// (`EINVAL` otherwise, kernel/fork.c `check_unshare_flags`).
pub(crate) fn unshare_user() -> io::Result<()> {
    unshare(libc::CLONE_NEWUSER)
}

/// A new network namespace for the calling thread only.
pub(crate) fn unshare_net() -> io::Result<()> {
    unshare(libc::CLONE_NEWNET)
}

/// A mount namespace (and working directory) of its own for the calling thread.
pub(crate) fn unshare_mounts() -> io::Result<()> {
    unshare(libc::CLONE_NEWNS)
}

fn unshare(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: takes no pointers. None of the flags used here unshares the
    // descriptor table, so no OwnedFd of another thread changes its meaning.
    check(unsafe { libc::unshare(flags) }).map(drop)
}
