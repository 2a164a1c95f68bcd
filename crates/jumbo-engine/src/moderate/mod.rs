//! Interrupt moderation: when to tell the owner of a queue that there is something in it.
//!
//! An interrupt (an eventfd to a guest, a wake of a thread) costs both sides some microseconds. One
//! for each packet is the end of throughput; one late is latency. Here are three answers, pure state
//! machines: **time is an argument** in nanoseconds, of a clock that does not go back, from any
//! origin; what would go back is taken for no time passed. No timers, no allocation.
//!
//! | | an interrupt comes | for |
//! |---|---|---|
//! | [`Fixed`] | after so many packets, or so long after the first | virtio's notification coalescing, `ethtool -C rx-usecs rx-frames` |
//! | [`Rate`] | at once, but never sooner than an interval after the one before | a bound of interrupts per second, no latency on a quiet queue |
//! | [`Adaptive`] | as the rate, with an interval that is tuned while it runs | when nobody knows the load: Linux's DIM |
//!
//! # Use
//!
//! After each burst that was put into the queue, [`Moderator::on_packets`] answers when the
//! interrupt is due; a time that has come means now. [`Moderator::poll`] says whether it has, and
//! takes the answer for done: `true` once is one interrupt.
//!
//! ```
//! use jumbo_engine::moderate::{Moderator, Rate};
//! use core::num::NonZeroU32;
//!
//! let mut moderator = Moderator::Rate(Rate::new(NonZeroU32::new(4000).unwrap()));
//! let now_ns = 1_000_000;
//! // The first packet after a pause: at once.
//! assert_eq!(moderator.on_packets(now_ns, 1, 1514), Some(now_ns));
//! assert!(moderator.poll(now_ns));
//! // The next one comes too soon: arm a timer.
//! let due_ns = moderator.on_packets(now_ns + 1000, 1, 1514);
//! assert_eq!(due_ns, Some(now_ns + 250_000));
//! assert!(!moderator.poll(now_ns + 1000));
//! assert!(moderator.poll(now_ns + 250_000));
//! assert_eq!(moderator.due_ns(), None);
//! ```
//!
//! # Promises
//!
//! With `poll` called when an interrupt is due: nothing is held longer than
//! [`hold_max_ns`](Moderator::hold_max_ns) after it came, and two interrupts are never closer than
//! the interval of [`Rate`], or of [`Adaptive`] unless its packet bound is reached. Called later, it
//! fires then.

mod dim;

use core::num::NonZeroU32;

pub use dim::{Adaptive, Direction, EVENTS_PER_DECISION, PROFILES, Profile};

const NS_PER_US: u64 = 1000;
const NS_PER_S: u64 = 1_000_000_000;

/// Packets that nobody was told of.
#[derive(Copy, Clone, Debug, Default)]
struct Waiting {
    packets: u64,
    /// When the first of them came.
    since_ns: u64,
    /// The latest time that was ever passed: what a clock that goes back is held at.
    now_ns: u64,
}

impl Waiting {
    /// The time, which never goes back.
    fn clock(&mut self, now_ns: u64) -> u64 {
        self.now_ns = self.now_ns.max(now_ns);
        self.now_ns
    }

    fn add(&mut self, now_ns: u64, packets: u32) {
        if self.packets == 0 {
            self.since_ns = now_ns;
        }
        self.packets = self.packets.saturating_add(u64::from(packets));
    }
}

/// At most so many packets, at most so long: virtio's notification coalescing (virtio 1.3 section
/// 5.1.6.5.10, VIRTIO_NET_F_NOTF_COAL).
///
/// The time runs from the first packet that waits. If either bound is zero, which is how a device
/// comes out of reset, every packet is told of at once.
#[derive(Copy, Clone, Debug, Default)]
pub struct Fixed {
    max_usecs: u32,
    max_packets: u32,
    waiting: Waiting,
}

impl Fixed {
    /// With `max_usecs` and `max_packets` of a VIRTIO_NET_CTRL_NOTF_COAL command.
    #[must_use]
    pub const fn new(max_usecs: u32, max_packets: u32) -> Self {
        Self {
            max_usecs,
            max_packets,
            waiting: Waiting {
                packets: 0,
                since_ns: 0,
                now_ns: 0,
            },
        }
    }

    /// Other bounds, from now on and for what already waits: ask [`Moderator::due_ns`] again, the
    /// interrupt may be due by the new ones.
    pub fn set(&mut self, max_usecs: u32, max_packets: u32) {
        (self.max_usecs, self.max_packets) = (max_usecs, max_packets);
    }

    fn hold_max_ns(&self) -> u64 {
        if self.max_packets == 0 {
            return 0;
        }
        u64::from(self.max_usecs) * NS_PER_US
    }

    fn due_ns(&self) -> Option<u64> {
        let full = self.waiting.packets >= u64::from(self.max_packets);
        let hold_ns = if full { 0 } else { self.hold_max_ns() };
        (self.waiting.packets > 0).then(|| self.waiting.since_ns.saturating_add(hold_ns))
    }
}

/// At most so many interrupts a second: they are never closer than an interval, and the first after
/// a pause of that length comes at once.
///
/// That is the promise of VMware's rate-based scheme for vmxnet3 (`ethernetX.coalescingScheme =
/// "rbc"`, 4000 interrupts a second unless `coalescingParams` says otherwise), and of the interrupt
/// throttling register of Intel's NICs.
#[derive(Copy, Clone, Debug)]
pub struct Rate {
    interval_ns: u64,
    fired_ns: Option<u64>,
    waiting: Waiting,
}

impl Rate {
    /// Interrupts a second that VMware begins with.
    pub const VMWARE_DEFAULT: NonZeroU32 = NonZeroU32::new(4000).unwrap();

    /// At most `rate_ips` interrupts a second. The interval is rounded up to nanoseconds, so that
    /// not one more can fit.
    #[must_use]
    pub const fn new(rate_ips: NonZeroU32) -> Self {
        Self {
            interval_ns: NS_PER_S.div_ceil(rate_ips.get() as u64),
            fired_ns: None,
            waiting: Waiting {
                packets: 0,
                since_ns: 0,
                now_ns: 0,
            },
        }
    }

    /// The least time between two interrupts.
    #[must_use]
    pub const fn interval_ns(&self) -> u64 {
        self.interval_ns
    }

    fn due_ns(&self) -> Option<u64> {
        (self.waiting.packets > 0)
            .then(|| after(self.fired_ns, self.interval_ns).max(self.waiting.since_ns))
    }
}

/// The end of an interval that began with the last interrupt, if there was one.
fn after(fired_ns: Option<u64>, interval_ns: u64) -> u64 {
    fired_ns.map_or(0, |fired_ns| fired_ns.saturating_add(interval_ns))
}

/// The moderation of one queue.
#[derive(Clone, Debug)]
pub enum Moderator {
    /// By time and count.
    Fixed(Fixed),
    /// By interrupts a second.
    Rate(Rate),
    /// By what turned out best so far.
    Adaptive(Adaptive),
}

impl Moderator {
    /// `packets` of `bytes` bytes together were put into the queue at `now_ns`. Answers when the
    /// interrupt is due: now or before means to [`poll`](Self::poll) at once. `None`: nothing waits.
    pub fn on_packets(&mut self, now_ns: u64, packets: u32, bytes: u64) -> Option<u64> {
        let now_ns = self.waiting().clock(now_ns);
        self.waiting().add(now_ns, packets);
        if let Self::Adaptive(adaptive) = self {
            adaptive.count(packets, bytes);
        }
        self.due_ns()
    }

    /// Whether to interrupt now. `true` counts as done: what waited was told of.
    pub fn poll(&mut self, now_ns: u64) -> bool {
        let now_ns = self.waiting().clock(now_ns);
        let due = self.due_ns().is_some_and(|due_ns| due_ns <= now_ns);
        if due {
            self.waiting().packets = 0;
            match self {
                Self::Fixed(_) => {}
                Self::Rate(rate) => rate.fired_ns = Some(now_ns),
                Self::Adaptive(adaptive) => adaptive.fired(now_ns),
            }
        }
        due
    }

    /// When the interrupt is due; `None`: nothing waits.
    #[must_use]
    pub fn due_ns(&self) -> Option<u64> {
        match self {
            Self::Fixed(fixed) => fixed.due_ns(),
            Self::Rate(rate) => rate.due_ns(),
            Self::Adaptive(adaptive) => adaptive.due_ns(),
        }
    }

    /// The longest that a packet which comes now can wait, by the present settings; for
    /// [`Adaptive`], by any it may choose.
    #[must_use]
    pub fn hold_max_ns(&self) -> u64 {
        match self {
            Self::Fixed(fixed) => fixed.hold_max_ns(),
            Self::Rate(rate) => rate.interval_ns,
            Self::Adaptive(adaptive) => adaptive.hold_max_ns(),
        }
    }

    fn waiting(&mut self) -> &mut Waiting {
        match self {
            Self::Fixed(fixed) => &mut fixed.waiting,
            Self::Rate(rate) => &mut rate.waiting,
            Self::Adaptive(adaptive) => &mut adaptive.waiting,
        }
    }
}
