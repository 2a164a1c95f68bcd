//! The descriptor that a guest wakes us with: an eventfd or a pipe, and nobody says that the other end behaves.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::{Errno, ReadWriteFlags, preadv2, read, write};

use super::sys::vring::RingFault;

/// Bytes taken at once: a kick is eight. An eventfd gives all of its kicks as one, a pipe as many as came.
const TAKEN_LEN: usize = 64;

/// How often a counter is tried that somebody else reads at the same moment.
const TRIES: usize = 8;

/// Takes the kicks that have come, if any.
///
/// It never waits, whatever flags the front end has set since on the file it shares with us.
///
/// # Errors
/// No kick can ever come, and the descriptor would be reported as readable for ever.
#[inline]
pub(super) fn clear(kick: &OwnedFd) -> Result<(), RingFault> {
    let mut bytes = [0; TAKEN_LEN];
    let mut taken = [IoSliceMut::new(&mut bytes)];
    // An offset of -1: where the file stands.
    let result = match preadv2(kick, &mut taken, u64::MAX, ReadWriteFlags::NOWAIT) {
        // Pipes, before Linux 6.4.
        Err(Errno::OPNOTSUPP) => read(kick, &mut bytes),
        result => result,
    };
    match result {
        Ok(0) => Err(RingFault::KickClosed),
        Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Ok(()),
        Err(errno) => Err(RingFault::KickUnreadable(errno)),
    }
}

/// Whether reading the file once takes everything that was written: it is an eventfd that counts, not a semaphore of
/// which one write makes 2^64 wakes, and not a timer that kicks by itself. It holds a kick afterwards.
pub(super) fn counts(kick: impl AsFd) -> io::Result<bool> {
    for _ in 0..TRIES {
        match write(&kick, &2_u64.to_ne_bytes()) {
            Ok(_) | Err(Errno::AGAIN) => {}
            // A timer, a process, another epoll set.
            Err(Errno::INVAL | Errno::BADF) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        }
        let mut count = [0; 8];
        match read(&kick, &mut count) {
            Ok(_) => {
                // What was in it may have been the guest's.
                let _ = write(&kick, &1_u64.to_ne_bytes());
                return Ok(u64::from_ne_bytes(count) >= 2);
            }
            // The worker that serves the ring now was faster.
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(Errno::INVAL | Errno::BADF) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, eventfd};
    use rustix::fs::{OFlags, fcntl_setfl};
    use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};

    fn pipe() -> (OwnedFd, OwnedFd) {
        let (reader, writer) = io::pipe().expect("a pipe");
        (reader.into(), writer.into())
    }

    fn event(flags: EventfdFlags) -> OwnedFd {
        eventfd(0, flags | EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("a descriptor")
    }

    #[test]
    fn kicks_are_taken_at_once_and_none_is_waited_for() {
        let kick = event(EventfdFlags::empty());
        assert_eq!(clear(&kick), Ok(()), "empty");
        for _ in 0..3 {
            write(&kick, &1_u64.to_ne_bytes()).expect("room");
        }
        assert_eq!(clear(&kick), Ok(()));
        assert_eq!(read(&kick, &mut [0; 8]), Err(Errno::AGAIN), "all are taken");
        // The front end shares the file, and takes the flag back: would this wait, the test would never end.
        fcntl_setfl(&kick, OFlags::empty()).expect("ours");
        assert_eq!(clear(&kick), Ok(()));
    }

    #[test]
    fn kicks_of_a_pipe_are_taken_until_it_is_closed() {
        let (kick, writer) = pipe();
        fcntl_setfl(&kick, OFlags::NONBLOCK).expect("ours");
        assert_eq!(clear(&kick), Ok(()), "empty");
        write(&writer, &[1; 8]).expect("room");
        drop(writer);
        assert_eq!(clear(&kick), Ok(()), "what came before the end");
        assert_eq!(clear(&kick), Err(RingFault::KickClosed));
    }

    #[test]
    fn what_cannot_be_read_is_no_kick() {
        let (_reader, kick) = pipe();
        fcntl_setfl(&kick, OFlags::NONBLOCK).expect("ours");
        let unreadable = RingFault::KickUnreadable(Errno::BADF);
        assert_eq!(clear(&kick), Err(unreadable));
        let epoll = rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC);
        let epoll = epoll.expect("a descriptor");
        assert_eq!(clear(&epoll), Err(RingFault::KickUnreadable(Errno::INVAL)));
    }

    #[test]
    fn a_counter_counts_and_a_semaphore_does_not() {
        let counter = event(EventfdFlags::empty());
        for _ in 0..2 {
            assert!(counts(&counter).expect("no fault"));
        }
        assert_eq!(clear(&counter), Ok(()));
        let full = event(EventfdFlags::empty());
        write(&full, &(u64::MAX - 1).to_ne_bytes()).expect("room");
        assert!(counts(&full).expect("no fault"), "a full one counts too");
        assert!(!counts(event(EventfdFlags::SEMAPHORE)).expect("no fault"));
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK);
        assert!(!counts(timer.expect("a descriptor")).expect("no fault"));
    }
}
