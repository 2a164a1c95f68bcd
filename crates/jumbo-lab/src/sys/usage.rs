//! CPU time of the calling thread and of the process.

use std::io;
use std::time::Duration;

use super::check;

/// (user, system) of the calling thread. Source: getrusage(2).
pub(crate) fn thread() -> io::Result<(Duration, Duration)> {
    rusage(libc::RUSAGE_THREAD)
}

/// (user, system) of all threads of this process.
pub(crate) fn process() -> io::Result<(Duration, Duration)> {
    rusage(libc::RUSAGE_SELF)
}

fn rusage(who: libc::c_int) -> io::Result<(Duration, Duration)> {
    // SAFETY: `rusage` is plain old data; all zero bytes is a valid value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel fills `usage`, which lives through the call.
    check(unsafe { libc::getrusage(who, &mut usage) })?;
    Ok((duration(usage.ru_utime), duration(usage.ru_stime)))
}

fn duration(t: libc::timeval) -> Duration {
    Duration::new(
        t.tv_sec.max(0) as u64,
        t.tv_usec.clamp(0, 999_999) as u32 * 1000,
    )
}
