//! Guests that come back together, after a restart of this process.
//!
//! The first one back would send to others that are not there yet, and its packets, which were safe in its ring, would be
//! dropped. So each waits a moment for the rest before its rings are served.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Ports that wait for each other once.
#[derive(Debug)]
pub struct RollCall {
    limit: Duration,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    absent: usize,
    /// From the first answer.
    end: Option<Instant>,
}

impl RollCall {
    /// Of `count` ports. The first whose guest is there waits no longer than `limit` for the others, and nobody waits
    /// after that.
    #[must_use]
    pub fn new(count: usize, limit: Duration) -> Arc<Self> {
        Arc::new(Self {
            limit,
            state: Mutex::new(State {
                absent: count,
                end: None,
            }),
            changed: Condvar::new(),
        })
    }

    /// One more is here. Waits for the rest.
    pub(super) fn answer(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.absent = state.absent.saturating_sub(1);
        let end = *state.end.get_or_insert_with(|| Instant::now() + self.limit);
        self.changed.notify_all();
        let left = end.saturating_duration_since(Instant::now());
        let waited = self
            .changed
            .wait_timeout_while(state, left, |state| state.absent > 0);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_one_ends_the_wait_for_all() {
        let call = RollCall::new(3, Duration::from_secs(3600));
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| call.answer());
            }
        });
        // Nor does anybody wait who answers again.
        call.answer();
    }

    #[test]
    fn one_that_never_comes_is_not_waited_for_again() {
        let call = RollCall::new(2, Duration::from_millis(1));
        call.answer();
        assert!(call.state.lock().expect("nobody panics").end < Some(Instant::now()));
    }
}
