//! How long a worker looks for packets by itself before it sleeps.
//!
//! To be woken costs a worker several microseconds, and the guest that wakes it as much: a
//! kick is an exit of a virtual machine. While the worker looks, nobody need wake it. But to
//! look where nothing comes burns a processor. So the time is bounded, and learned: it grows
//! while packets come within the bound, and is nothing once they came later, as Linux learns
//! how long to poll for a virtual processor (`kvm_vcpu_halt`, virt/kvm/kvm_main.c, 6.12). An
//! idle worker has slept long, so it does not look at all.

use std::time::Duration;

/// What is looked at first, where nothing was.
const FIRST_NS: u64 = 5_000;

/// One worker's time for looking. A duration of zero is never.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Spin {
    most_ns: u64,
    now_ns: u64,
}

impl Spin {
    pub(crate) fn new(most: Duration) -> Self {
        Self {
            most_ns: most.as_nanos().try_into().unwrap_or(u64::MAX),
            now_ns: 0,
        }
    }

    /// Whether it is asked for at all.
    pub(crate) fn is_on(&self) -> bool {
        self.most_ns > 0
    }

    /// How long to look now.
    pub(crate) fn time_ns(&self) -> u64 {
        self.now_ns
    }

    /// Packets came so long after there were none, whether we were looking or asleep.
    pub(crate) fn came(&mut self, after_ns: u64) {
        if after_ns > self.most_ns {
            self.now_ns = 0;
        } else if after_ns > self.now_ns {
            self.now_ns = (2 * self.now_ns).clamp(FIRST_NS.min(self.most_ns), self.most_ns);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: u64 = 1000;

    /// What is spent on looking, and how many wakes are left, if packets come at these gaps.
    fn spent(most_us: u64, gaps_us: impl IntoIterator<Item = u64>) -> (u64, usize) {
        let mut spin = Spin::new(Duration::from_micros(most_us));
        let (mut looked_ns, mut wakes) = (0, 0);
        for gap_us in gaps_us {
            looked_ns += spin.time_ns().min(gap_us * US);
            wakes += usize::from(gap_us * US > spin.time_ns());
            spin.came(gap_us * US);
        }
        (looked_ns, wakes)
    }

    #[test]
    fn rare_packets_are_never_looked_for() {
        assert_eq!(spent(50, [1000; 1000]), (0, 1000));
        assert_eq!(spent(50, [51; 1000]), (0, 1000));
    }

    #[test]
    fn frequent_packets_are_soon_found_without_a_wake() {
        let (_, wakes) = spent(50, [20; 1000]);
        assert_eq!(wakes, 3, "0, 5, 10 us were too short");
    }

    #[test]
    fn never_longer_than_asked_for() {
        let mut spin = Spin::new(Duration::from_micros(30));
        for after_us in [1, 29, 30, 30, 30, 30, 30] {
            spin.came(after_us * US);
            assert!(spin.time_ns() <= 30 * US);
        }
        assert_eq!(spin.time_ns(), 30 * US);
        spin.came(30 * US + 1);
        assert_eq!(spin.time_ns(), 0);
    }

    #[test]
    fn pair_of_packets_now_and_then_costs_little() {
        // A request and its answer, 20 us apart, a thousand times a second.
        let gaps = (0..2000).map(|n| if n % 2 == 0 { 20 } else { 980 });
        let (looked_ns, _) = spent(50, gaps);
        assert!(looked_ns <= 1000 * FIRST_NS, "{looked_ns}");
    }

    #[test]
    fn zero_is_never() {
        let mut spin = Spin::new(Duration::ZERO);
        spin.came(0);
        assert!(!spin.is_on());
        assert_eq!(spin.time_ns(), 0);
    }
}
