//! Dynamic interrupt moderation as Linux does it for many NICs, virtio-net among them: net_dim.
//!
//! The algorithm is that of Linux 6.12 `lib/dim/net_dim.c` (`net_dim`, `net_dim_decision`,
//! `net_dim_stats_compare`, `net_dim_step`, `net_dim_exit_parking`), `lib/dim/dim.c` (`dim_on_top`,
//! `dim_turn`, `dim_park_on_top`, `dim_park_tired`, `dim_calc_stats`) and `include/linux/dim.h`
//! (`DIM_NEVENTS`, `IS_SIGNIFICANT_DIFF`); described in `Documentation/networking/net_dim.rst`.
//!
//! It climbs a hill in one dimension. Five profiles, from short waits to long ones; every 64
//! interrupts it compares what went through with the time before: more bytes is better, else more
//! packets, else fewer interrupts, where only more than 10 % counts. Better: one step on. Not better:
//! turn round. Past the top, or at an edge: park there until the load changes. Too many steps
//! without finding a top: rest for as many decisions.
//!
//! What differs from Linux, none of which changes a decision: rates are 64 bits wide and cannot
//! overflow; a new profile holds at once, not when a work queue gets to it. What is left out: the
//! profiles that restart the timer with every completion (`DIM_CQ_PERIOD_MODE_START_FROM_CQE`),
//! since no time then bounds how long a packet waits.

use super::{NS_PER_US, Waiting, after};

/// Profiles there are: NET_DIM_PARAMS_NUM_PROFILES.
pub const PROFILES: usize = 5;

/// Interrupts between two decisions: DIM_NEVENTS.
pub const EVENTS_PER_DECISION: u64 = 64;

/// Steps without finding a top after which it rests.
const TIRED_MAX: u8 = 2 * PROFILES as u8;

/// NET_DIM_DEF_PROFILE_EQE.
const PROFILE_FIRST: usize = 1;

/// How long and for how many packets to wait.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Microseconds from the interrupt before.
    pub usecs: u16,
    /// Packets that are not waited beyond.
    pub packets: u16,
}

/// Which of Linux's tables of profiles.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Packets that the interrupted side receives: NET_DIM_RX_EQE_PROFILES.
    Receive,
    /// Packets that it sent and may forget: NET_DIM_TX_EQE_PROFILES.
    Transmit,
}

impl Direction {
    /// The profiles, shortest wait first.
    #[must_use]
    pub const fn profiles(self) -> &'static [Profile; PROFILES] {
        const fn table(usecs: [u16; PROFILES], packets: u16) -> [Profile; PROFILES] {
            let mut table = [Profile { usecs: 0, packets }; PROFILES];
            let mut at = 0;
            while at < PROFILES {
                table[at].usecs = usecs[at];
                at += 1;
            }
            table
        }
        const RECEIVE: [Profile; PROFILES] = table([1, 8, 64, 128, 256], 256);
        const TRANSMIT: [Profile; PROFILES] = table([1, 8, 32, 64, 128], 128);
        match self {
            Self::Receive => &RECEIVE,
            Self::Transmit => &TRANSMIT,
        }
    }
}

/// Interrupts no closer than an interval, and the interval tuned: see the head of this file's
/// sources, or Linux `Documentation/networking/net_dim.rst`.
///
/// An interrupt is due when the profile's time has passed since the one before (so at once after a
/// pause), or when its number of packets waits.
#[derive(Clone, Debug)]
pub struct Adaptive {
    pub(super) waiting: Waiting,
    fired_ns: Option<u64>,
    profiles: &'static [Profile; PROFILES],
    total: Sample,
    measuring_since: Option<Sample>,
    dim: Dim,
}

impl Adaptive {
    /// Begins with the second profile, as Linux does.
    #[must_use]
    pub fn new(direction: Direction) -> Self {
        Self {
            waiting: Waiting::default(),
            fired_ns: None,
            profiles: direction.profiles(),
            total: Sample::default(),
            measuring_since: None,
            dim: Dim::new(),
        }
    }

    /// The profile in force.
    #[must_use]
    pub fn profile(&self) -> Profile {
        self.profiles[self.dim.profile.min(PROFILES - 1)]
    }

    pub(super) fn due_ns(&self) -> Option<u64> {
        if self.waiting.packets == 0 {
            return None;
        }
        let Profile { usecs, packets } = self.profile();
        if self.waiting.packets >= u64::from(packets) {
            return Some(self.waiting.since_ns);
        }
        let timer_ns = after(self.fired_ns, u64::from(usecs) * NS_PER_US);
        Some(timer_ns.max(self.waiting.since_ns))
    }

    pub(super) fn hold_max_ns(&self) -> u64 {
        let longest = self.profiles.iter().map(|profile| profile.usecs).max();
        u64::from(longest.unwrap_or(0)) * NS_PER_US
    }

    pub(super) fn count(&mut self, packets: u32, bytes: u64) {
        self.total.packets = self.total.packets.wrapping_add(u64::from(packets));
        self.total.bytes = self.total.bytes.wrapping_add(bytes);
    }

    /// An interrupt: `net_dim`.
    pub(super) fn fired(&mut self, now_ns: u64) {
        self.fired_ns = Some(now_ns);
        self.total.at_ns = now_ns;
        self.total.events = self.total.events.wrapping_add(1);
        let Some(start) = self.measuring_since else {
            self.measuring_since = Some(self.total);
            return;
        };
        if self.total.events.wrapping_sub(start.events) < EVENTS_PER_DECISION {
            return;
        }
        let Some(rates) = Rates::between(&start, &self.total) else {
            return;
        };
        let changed = self.dim.decide(rates);
        // With a new profile, measuring begins with the next interrupt.
        self.measuring_since = (!changed).then_some(self.total);
    }
}

/// Counts so far: `struct dim_sample`.
#[derive(Copy, Clone, Debug, Default)]
struct Sample {
    at_ns: u64,
    packets: u64,
    bytes: u64,
    events: u64,
}

/// What happens in a millisecond, rounded up: `struct dim_stats`.
#[derive(Copy, Clone, Debug, Default)]
struct Rates {
    bytes: u64,
    packets: u64,
    events: u64,
}

impl Rates {
    /// `dim_calc_stats`; `None` if no microsecond has passed.
    fn between(start: &Sample, end: &Sample) -> Option<Self> {
        let usecs = u128::from(end.at_ns.saturating_sub(start.at_ns) / NS_PER_US);
        let per_ms = |count: u64| {
            let rate = (u128::from(count) * 1000).checked_div(usecs)?;
            let rest = (u128::from(count) * 1000) % usecs != 0;
            Some(
                u64::try_from(rate)
                    .unwrap_or(u64::MAX)
                    .saturating_add(u64::from(rest)),
            )
        };
        Some(Self {
            bytes: per_ms(end.bytes.wrapping_sub(start.bytes))?,
            packets: per_ms(end.packets.wrapping_sub(start.packets))?,
            events: per_ms(EVENTS_PER_DECISION)?,
        })
    }

    /// `net_dim_stats_compare`.
    fn against(&self, before: &Self) -> Outcome {
        if before.bytes == 0 {
            return Outcome::better_if(self.bytes > 0);
        }
        if differs(self.bytes, before.bytes) {
            return Outcome::better_or_worse(self.bytes > before.bytes);
        }
        if before.packets == 0 {
            return Outcome::better_if(self.packets > 0);
        }
        if differs(self.packets, before.packets) {
            return Outcome::better_or_worse(self.packets > before.packets);
        }
        if before.events != 0 && differs(self.events, before.events) {
            return Outcome::better_or_worse(self.events < before.events);
        }
        Outcome::Same
    }
}

/// By more than 10 %: IS_SIGNIFICANT_DIFF. `before` is not zero.
fn differs(now: u64, before: u64) -> bool {
    u128::from(now.abs_diff(before)) * 100 / u128::from(before.max(1)) > 10
}

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Worse,
    Same,
    Better,
}

impl Outcome {
    fn better_if(better: bool) -> Self {
        if better { Self::Better } else { Self::Same }
    }

    fn better_or_worse(better: bool) -> Self {
        if better { Self::Better } else { Self::Worse }
    }
}

/// `tune_state`. Right is towards longer waits.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Tune {
    ParkedOnTop,
    ParkedTired,
    Right,
    Left,
}

/// What came of a step that was tried.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Step {
    Stepped,
    TooTired,
    OnEdge,
}

/// The climber: `struct dim`, less what only a driver needs.
#[derive(Clone, Debug)]
struct Dim {
    profile: usize,
    tune: Tune,
    steps_right: u8,
    steps_left: u8,
    tired: u8,
    before: Rates,
}

impl Dim {
    fn new() -> Self {
        Self {
            profile: PROFILE_FIRST,
            tune: Tune::ParkedOnTop,
            steps_right: 0,
            steps_left: 0,
            tired: 0,
            before: Rates::default(),
        }
    }

    /// `net_dim_decision`: whether the profile is another one now.
    fn decide(&mut self, now: Rates) -> bool {
        let (tune_before, profile_before) = (self.tune, self.profile);
        match self.tune {
            Tune::ParkedOnTop => {
                if now.against(&self.before) != Outcome::Same {
                    self.exit_parking();
                }
            }
            Tune::ParkedTired => {
                self.tired = self.tired.saturating_sub(1);
                if self.tired == 0 {
                    self.exit_parking();
                }
            }
            Tune::Right | Tune::Left => self.climb(now.against(&self.before)),
        }
        // While parked, small changes must not creep: they are compared with the time of parking.
        if tune_before != Tune::ParkedOnTop || self.tune != Tune::ParkedOnTop {
            self.before = now;
        }
        self.profile != profile_before
    }

    fn climb(&mut self, outcome: Outcome) {
        if outcome != Outcome::Better {
            self.turn();
        }
        if self.on_top() {
            return self.park_on_top();
        }
        match self.step() {
            Step::Stepped => {}
            Step::OnEdge => self.park_on_top(),
            Step::TooTired => self.park_tired(),
        }
    }

    /// `dim_on_top`: it went up for a while, turned, and the first step back was no better.
    fn on_top(&self) -> bool {
        match self.tune {
            Tune::ParkedOnTop | Tune::ParkedTired => true,
            Tune::Right => self.steps_left > 1 && self.steps_right == 1,
            Tune::Left => self.steps_right > 1 && self.steps_left == 1,
        }
    }

    /// `dim_turn`.
    fn turn(&mut self) {
        match self.tune {
            Tune::ParkedOnTop | Tune::ParkedTired => {}
            Tune::Right => (self.tune, self.steps_left) = (Tune::Left, 0),
            Tune::Left => (self.tune, self.steps_right) = (Tune::Right, 0),
        }
    }

    /// `net_dim_step`.
    fn step(&mut self) -> Step {
        if self.tired == TIRED_MAX {
            return Step::TooTired;
        }
        match self.tune {
            Tune::ParkedOnTop | Tune::ParkedTired => {}
            Tune::Right if self.profile >= PROFILES - 1 => return Step::OnEdge,
            Tune::Right => {
                self.profile += 1;
                self.steps_right += 1;
            }
            Tune::Left if self.profile == 0 => return Step::OnEdge,
            Tune::Left => {
                self.profile -= 1;
                self.steps_left += 1;
            }
        }
        self.tired += 1;
        Step::Stepped
    }

    /// `net_dim_exit_parking`: towards shorter waits first.
    fn exit_parking(&mut self) {
        self.tune = if self.profile == 0 {
            Tune::Right
        } else {
            Tune::Left
        };
        self.step();
    }

    /// `dim_park_on_top`.
    fn park_on_top(&mut self) {
        (self.steps_right, self.steps_left, self.tired) = (0, 0, 0);
        self.tune = Tune::ParkedOnTop;
    }

    /// `dim_park_tired`.
    fn park_tired(&mut self) {
        (self.steps_right, self.steps_left) = (0, 0);
        self.tune = Tune::ParkedTired;
    }
}
