//! How long a sender's packets wait for a receiver that is full.
//!
//! A guest makes room when it gets to it. Waiting a little keeps its packets, and
//! holds their sender back, which is what a full device should do; but the worker
//! that waits serves nobody else. So each wait is bounded, all waits for one port
//! take at most half of the time, and a port for which a whole wait was in vain is
//! stuck: until it takes a packet again, its packets are dropped at once.
//!
//! A guest whose rings are exchanged makes room when that is done, which takes as
//! long as the kernel lets our own threads wait for a processor: for it one wait may
//! take all that is left.

use std::time::Duration;

/// How long packets wait for a full port.
#[derive(Copy, Clone, Debug)]
pub struct Waits {
    /// Longest wait for one packet, nanoseconds.
    pub longest_ns: u64,
    /// In each window of this length, nanoseconds,
    pub window_ns: u64,
    /// at most so much is waited, nanoseconds; for a port whose rings are exchanged even for one packet.
    pub budget_ns: u64,
}

impl Default for Waits {
    fn default() -> Self {
        Self {
            longest_ns: 200_000,
            window_ns: 10_000_000,
            budget_ns: 5_000_000,
        }
    }
}

/// One port's credit with one worker. Times are those of any steady clock.
#[derive(Copy, Clone, Debug, Default)]
pub(crate) struct Patience {
    waits: Waits,
    stuck: bool,
    window_start_ns: u64,
    waited_ns: u64,
}

impl Patience {
    pub(crate) fn new(waits: Waits) -> Self {
        Self {
            waits,
            ..Self::default()
        }
    }

    /// How long the next packet may wait; `None`: not at all. `is_exchanged`: for rings that are being exchanged.
    pub(crate) fn wait(&mut self, now_ns: u64, is_exchanged: bool) -> Option<Duration> {
        let waits = self.waits;
        if self.stuck {
            return None;
        }
        if now_ns.wrapping_sub(self.window_start_ns) >= waits.window_ns {
            self.window_start_ns = now_ns;
            self.waited_ns = 0;
        }
        let longest_ns = if is_exchanged {
            u64::MAX
        } else {
            waits.longest_ns
        };
        let left_ns = waits.budget_ns.saturating_sub(self.waited_ns);
        let left_ns = left_ns.min(longest_ns);
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
        assert_eq!(patience.wait(0, false), Some(Duration::from_micros(200)));
        patience.waited(200 * US, false);
        assert!(patience.is_stuck());
        for now_us in [200, 1_000, 1_000_000_000] {
            assert_eq!(patience.wait(now_us * US, false), None);
        }
        patience.moved();
        assert_eq!(
            patience.wait(2_000_000_000 * US, false),
            Some(Duration::from_micros(200))
        );
    }

    #[test]
    fn port_that_always_makes_room_late_takes_half_of_the_time() {
        let mut patience = Patience::default();
        let Waits {
            window_ns,
            budget_ns,
            ..
        } = Waits::default();
        let mut now_ns = 1;
        let (mut waited_ns, end_ns) = (0, 100 * window_ns);
        while now_ns < end_ns {
            match patience.wait(now_ns, false) {
                Some(wait) => {
                    let ns = wait.as_nanos() as u64;
                    patience.waited(ns, true);
                    waited_ns += ns;
                    now_ns += ns;
                }
                None => now_ns += 10 * US,
            }
        }
        assert!(waited_ns <= end_ns / 2 + budget_ns, "{waited_ns}");
        assert!(waited_ns > end_ns / 3, "{waited_ns}");
    }

    /// Each exchange may come with a wait, and a front end can make as many as it likes.
    #[test]
    fn port_that_is_exchanged_without_end_takes_half_of_the_time() {
        let mut patience = Patience::default();
        let waits = Waits::default();
        let mut now_ns = 1;
        let (mut waited_ns, end_ns) = (0, 100 * waits.window_ns);
        while now_ns < end_ns {
            match patience.wait(now_ns, true) {
                Some(wait) => {
                    let ns = wait.as_nanos() as u64;
                    assert!(ns <= waits.budget_ns);
                    // In vain; then the rings came after all.
                    patience.waited(ns, false);
                    patience.moved();
                    waited_ns += ns;
                    now_ns += ns;
                }
                None => now_ns += 10 * US,
            }
        }
        assert!(waited_ns <= end_ns / 2 + waits.budget_ns, "{waited_ns}");
    }
}
