//! CPU time of the calling thread.
#![expect(
    unsafe_code,
    reason = "getrusage with RUSAGE_THREAD has no safe wrapper"
)]

use std::mem::MaybeUninit;
use std::time::Duration;

/// User and system time this thread has used. Writing to a TAP runs the
/// receiving host's stack, which is system time of the writing thread.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuTime {
    /// In our code.
    pub user: Duration,
    /// In the kernel.
    pub system: Duration,
}

impl CpuTime {
    /// The calling thread's, so far.
    pub fn of_this_thread() -> Self {
        let mut usage = MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: `usage` is valid for writes of a whole rusage.
        let result = unsafe { libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr()) };
        if result != 0 {
            return Self::default();
        }
        // SAFETY: all-zero is a valid rusage, and the call above filled it.
        let usage = unsafe { usage.assume_init() };
        let duration = |time: libc::timeval| {
            let micros = time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64;
            Duration::from_micros(micros)
        };
        Self {
            user: duration(usage.ru_utime),
            system: duration(usage.ru_stime),
        }
    }
}
