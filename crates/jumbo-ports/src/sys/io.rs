//! System calls whose buffers may be shared memory, which safe wrappers want as slices.
#![allow(unsafe_code, reason = "iovecs that point into shared memory")]

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use super::region::Piece;

/// `writev(2)`.
///
/// # Errors
/// What the kernel says.
pub(crate) fn writev(fd: BorrowedFd<'_>, pieces: &[Piece<'_>]) -> Result<usize, Errno> {
    const _: () = assert!(
        size_of::<Piece<'_>>() == size_of::<libc::iovec>()
            && align_of::<Piece<'_>>() == align_of::<libc::iovec>()
    );
    let count = pieces.len() as libc::c_int;
    // SAFETY: a piece has the layout of an iovec and stands for bytes that are
    // readable while it lives; the kernel only reads them.
    let written = unsafe { libc::writev(fd.as_raw_fd(), pieces.as_ptr().cast(), count) };
    if written < 0 {
        let code = std::io::Error::last_os_error().raw_os_error();
        return Err(code.map_or(Errno::IO, Errno::from_raw_os_error));
    }
    Ok(written as usize)
}
