//! Wakes a worker when something has rested long enough.
//!
//! A timer of its own (timerfd) in the worker's epoll set: the timeout of `epoll_wait` is in
//! milliseconds, and is lengthened by the thread's timer slack besides.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

/// A timer that rings once.
#[derive(Debug)]
pub(crate) struct Alarm {
    /// Readable when it rings.
    pub(crate) timer: OwnedFd,
    /// When it will, on the monotonic clock.
    set_ns: Option<u64>,
}

impl Alarm {
    pub(crate) fn new() -> Result<Self, Errno> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        Ok(Self {
            timer: timerfd_create(TimerfdClockId::Monotonic, flags)?,
            set_ns: None,
        })
    }

    /// Rings at `at_ns` of the monotonic clock, at once if that is over; no earlier time counts any more.
    pub(crate) fn set(&mut self, at_ns: u64) -> Result<(), Errno> {
        // One that rings too early wakes a worker in vain, once; setting it costs as much.
        if self.set_ns.is_some_and(|set_ns| set_ns <= at_ns) {
            return Ok(());
        }
        let at = Itimerspec {
            it_interval: Timespec::default(),
            // All zeros would switch it off.
            it_value: Timespec {
                tv_sec: (at_ns / 1_000_000_000) as i64,
                tv_nsec: (at_ns % 1_000_000_000).max(1) as i64,
            },
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &at)?;
        self.set_ns = Some(at_ns);
        Ok(())
    }

    /// It rang.
    pub(crate) fn rang(&mut self) {
        self.set_ns = None;
        // What it says is how often; it is no longer readable afterwards.
        let _ = rustix::io::read(&self.timer, &mut [0; 8]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, poll};

    fn rings(alarm: &Alarm, within: Option<&Timespec>) -> bool {
        let mut fds = [PollFd::new(&alarm.timer, PollFlags::IN)];
        poll(&mut fds, within).expect("polled") == 1
    }

    #[test]
    fn rings_once_and_not_before_it_is_set() {
        let mut alarm = Alarm::new().expect("a timer");
        assert!(!rings(&alarm, Some(&Timespec::default())));
        alarm.set(u64::MAX / 2).expect("set");
        alarm.set(0).expect("set earlier: at once");
        assert!(rings(&alarm, None));
        alarm.rang();
        assert!(!rings(&alarm, Some(&Timespec::default())));
        alarm.set(1).expect("again");
        alarm
            .set(u64::MAX / 2)
            .expect("later: the earlier one counts");
        assert!(rings(&alarm, None));
    }
}
