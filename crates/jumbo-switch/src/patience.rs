//! How long a sender's packets wait for a receiver that is full.
//!
//! A guest makes room when it gets to it. Waiting a little keeps its packets, and
//! holds their sender back, which is what a full device should do; but the worker
//! that waits serves nobody else. So each wait is bounded, all waits for one port
//! take at most half of the time, and a port for which a whole wait was in vain is
//! stuck: until it takes a packet again, its packets are dropped at once.

use std::time::Duration;

/// Longest wait for one packet.
const WAIT_NS: u64 = 200_000;

/// In each window of this length,
const WINDOW_NS: u64 = 10_000_000;

/// at most so much is waited.
const BUDGET_NS: u64 = WINDOW_NS / 2;

/// One port's credit with one worker. Times are those of any steady clock.
#[derive(Copy, Clone, Debug, Default)]
pub(crate) struct Patience {
    stuck: bool,
    window_start_ns: u64,
    waited_ns: u64,
}

impl Patience {
    /// How long the next packet may wait; `None`: not at all.
    pub(crate) fn wait(&mut self, now_ns: u64) -> Option<Duration> {
        if self.stuck {
            return None;
        }
        if now_ns.wrapping_sub(self.window_start_ns) >= WINDOW_NS {
            self.window_start_ns = now_ns;
            self.waited_ns = 0;
        }
        let left_ns = BUDGET_NS.saturating_sub(self.waited_ns).min(WAIT_NS);
        (left_ns > 0).then_some(Duration::from_nanos(left_ns))
    }

    /// A wait took so long, and there was room then or not.
    pub(crate) fn waited(&mut self, waited_ns: u64, room: bool) {
        self.waited_ns = self.waited_ns.saturating_add(waited_ns);
        self.stuck = !room;
    }

    /// The port took a packet.
    #[inline]
    pub(crate) fn moved(&mut self) {
        self.stuck = false;
    }

    /// Whether its packets are dropped at once.
    pub(crate) fn is_stuck(&self) -> bool {
        self.stuck
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: u64 = 1000;

    #[test]
    fn port_that_never_moves_costs_one_wait() {
        let mut patience = Patience::default();
        assert_eq!(patience.wait(0), Some(Duration::from_micros(200)));
        patience.waited(200 * US, false);
        assert!(patience.is_stuck());
        for now_us in [200, 1_000, 1_000_000_000] {
            assert_eq!(patience.wait(now_us * US), None);
        }
        patience.moved();
        assert_eq!(
            patience.wait(2_000_000_000 * US),
            Some(Duration::from_micros(200))
        );
    }

    #[test]
    fn port_that_always_makes_room_late_takes_half_of_the_time() {
        let mut patience = Patience::default();
        let mut now_ns = 1;
        let (mut waited_ns, end_ns) = (0, 100 * WINDOW_NS);
        while now_ns < end_ns {
            match patience.wait(now_ns) {
                Some(wait) => {
                    let ns = wait.as_nanos() as u64;
                    patience.waited(ns, true);
                    waited_ns += ns;
                    now_ns += ns;
                }
                None => now_ns += 10 * US,
            }
        }
        assert!(waited_ns <= end_ns / 2 + BUDGET_NS, "{waited_ns}");
        assert!(waited_ns > end_ns / 3, "{waited_ns}");
    }
}
