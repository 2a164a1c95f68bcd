//! Moderation by simulated arrivals: no clock, the same each time.

use jumbo_engine::moderate::{Adaptive, Direction, Fixed, Moderator, PROFILES, Rate};
use proptest::prelude::*;
use std::num::NonZeroU32;

const US: u64 = 1000;
const MS: u64 = 1_000_000;
const S: u64 = 1_000_000_000;

/// A queue's owner who polls exactly when it is due.
struct Sim {
    moderator: Moderator,
    now_ns: u64,
    fired_ns: Vec<u64>,
    waiting_ns: Vec<u64>,
    hold_max_ns: u64,
}

impl Sim {
    fn new(moderator: Moderator, start_ns: u64) -> Self {
        Self {
            moderator,
            now_ns: start_ns,
            fired_ns: Vec::new(),
            waiting_ns: Vec::new(),
            hold_max_ns: 0,
        }
    }

    /// Time goes to `until_ns`, with every interrupt that is due on the way.
    fn pass(&mut self, until_ns: u64) {
        while let Some(due_ns) = self.moderator.due_ns().filter(|due| *due <= until_ns) {
            self.now_ns = self.now_ns.max(due_ns);
            assert!(self.moderator.poll(self.now_ns), "due and not done");
            self.fired_ns.push(self.now_ns);
            for since_ns in self.waiting_ns.drain(..) {
                self.hold_max_ns = self.hold_max_ns.max(self.now_ns - since_ns);
            }
        }
        assert!(!self.moderator.poll(until_ns), "not due and done");
        self.now_ns = until_ns;
    }

    fn arrive(&mut self, at_ns: u64, packets: u32, bytes: u64) {
        // What is due at this very moment is done behind the arrival.
        self.pass(at_ns.saturating_sub(1).max(self.now_ns));
        self.now_ns = at_ns;
        self.moderator.on_packets(at_ns, packets, bytes);
        self.waiting_ns.extend((packets > 0).then_some(at_ns));
        self.pass(at_ns);
    }

    /// Packets of 1500 bytes, one each `gap_ns`, for `for_ns`.
    fn stream(&mut self, gap_ns: u64, for_ns: u64) {
        let start_ns = self.now_ns;
        for at in 1..=for_ns / gap_ns {
            self.arrive(start_ns + at * gap_ns, 1, 1500);
        }
    }

    fn drain(&mut self) {
        while let Some(due_ns) = self.moderator.due_ns() {
            self.pass(due_ns.max(self.now_ns));
        }
        assert!(self.waiting_ns.is_empty(), "somebody was never told");
    }

    fn gap_min_ns(&self) -> u64 {
        let gaps = self.fired_ns.windows(2).map(|pair| pair[1] - pair[0]);
        gaps.min().unwrap_or(u64::MAX)
    }

    fn profile_usecs(&self) -> u16 {
        match &self.moderator {
            Moderator::Adaptive(adaptive) => adaptive.profile().usecs,
            _ => panic!("not adaptive"),
        }
    }
}

fn rate(rate_ips: u32) -> Moderator {
    Moderator::Rate(Rate::new(NonZeroU32::new(rate_ips).unwrap()))
}

fn fixed(max_usecs: u32, max_packets: u32) -> Moderator {
    Moderator::Fixed(Fixed::new(max_usecs, max_packets))
}

fn adaptive() -> Moderator {
    Moderator::Adaptive(Adaptive::new(Direction::Receive))
}

/// virtio's example: 10 microseconds or 15 packets.
#[test]
fn fixed_by_time_and_by_count() {
    let mut moderator = fixed(10, 15);
    assert_eq!(moderator.on_packets(1000, 0, 0), None, "nothing came");
    assert_eq!(moderator.on_packets(1000, 1, 60), Some(11_000));
    assert_eq!(
        moderator.on_packets(5000, 13, 60),
        Some(11_000),
        "from the first one"
    );
    assert!(!moderator.poll(10_999));
    assert!(moderator.poll(11_000));
    assert!(!moderator.poll(11_000), "once");
    assert_eq!(moderator.on_packets(12_000, 14, 60), Some(22_000));
    assert!(
        moderator.on_packets(13_000, 1, 60).unwrap() <= 13_000,
        "the fifteenth"
    );
    assert!(moderator.poll(13_000));
    assert_eq!(moderator.due_ns(), None);
}

#[test]
fn fixed_with_a_zero_tells_of_every_packet() {
    for mut moderator in [fixed(0, 0), fixed(10, 0), fixed(0, 15)] {
        assert_eq!(moderator.hold_max_ns(), 0);
        for now_ns in [5, 6, 7] {
            assert_eq!(moderator.on_packets(now_ns, 1, 60), Some(now_ns));
            assert!(moderator.poll(now_ns));
        }
    }
}

/// Changing the bounds may make due what waits (virtio 1.3 section 5.1.6.5.10).
#[test]
fn fixed_set_while_something_waits() {
    let mut moderator = fixed(1000, 64);
    moderator.on_packets(0, 10, 600);
    let mut due_by = |max_usecs, max_packets| {
        let Moderator::Fixed(bounds) = &mut moderator else {
            unreachable!()
        };
        bounds.set(max_usecs, max_packets);
        moderator.due_ns()
    };
    assert_eq!(due_by(1000, 64), Some(MS));
    assert_eq!(due_by(1000, 10), Some(0), "ten are enough now");
    assert_eq!(due_by(50, 64), Some(50 * US));
    assert_eq!(due_by(0, 64), Some(0));
}

#[test]
fn a_quiet_queue_waits_for_nothing() {
    for moderator in [rate(4000), adaptive()] {
        let mut sim = Sim::new(moderator, 0);
        sim.stream(MS, S);
        assert_eq!(sim.fired_ns.len(), 1000, "one for each");
        assert_eq!(sim.hold_max_ns, 0);
    }
}

#[test]
fn bulk_is_bounded() {
    // A million packets a second.
    let mut sim = Sim::new(rate(4000), 0);
    sim.stream(US, S);
    assert_eq!(sim.fired_ns.len(), 4000);
    assert_eq!(
        sim.hold_max_ns,
        250 * US - US,
        "the first one behind an interrupt"
    );

    let mut sim = Sim::new(fixed(100, 64), 0);
    sim.stream(US, S);
    assert_eq!(sim.fired_ns.len(), 1_000_000 / 64);
    assert_eq!(sim.hold_max_ns, 63 * US);
}

/// A load that nothing changes: fewer interrupts are better, so the wait grows to the longest, and
/// stays there.
#[test]
fn adaptive_goes_up_under_a_steady_flood() {
    let mut sim = Sim::new(adaptive(), 0);
    assert_eq!(sim.profile_usecs(), 8);
    sim.stream(2 * US, S);
    assert_eq!(sim.profile_usecs(), 256);
    sim.fired_ns.clear();
    sim.stream(2 * US, S);
    assert_eq!(sim.profile_usecs(), 256);
    // 500 packets a millisecond: the timer, 256 us, ends before 256 packets are there.
    assert_eq!(sim.gap_min_ns(), 256 * US);
}

/// Request and response: the next packet comes 20 us after the interrupt that told of the last.
/// Waiting costs throughput, so from the longest wait it comes down.
#[test]
fn adaptive_comes_down_when_waiting_costs() {
    let mut sim = Sim::new(adaptive(), 0);
    sim.stream(2 * US, S);
    assert_eq!(sim.profile_usecs(), 256);
    let mut seen = Vec::new();
    for _ in 0..5000 {
        let told_ns = *sim.fired_ns.last().unwrap();
        sim.arrive(sim.now_ns.max(told_ns + 20 * US), 1, 1500);
        sim.drain();
        seen.push(sim.profile_usecs());
    }
    assert!(
        seen[4000..].iter().all(|usecs| *usecs <= 64),
        "{:?}",
        &seen[4900..]
    );
    // And most of the time at no cost at all: the wait is shorter than the round trip.
    let free = seen[1000..].iter().filter(|usecs| **usecs <= 8).count();
    assert!(
        free * 2 > seen.len() - 1000,
        "{free} of {}",
        seen.len() - 1000
    );
}

/// A load that no profile changes, worked through `net_dim_decision` by hand: nothing is ever better,
/// so it turns at each decision, is tired after ten steps, rests for ten decisions, and begins anew.
#[test]
fn adaptive_tires_where_there_is_no_hill() {
    let mut sim = Sim::new(adaptive(), 0);
    let (mut changes, mut last) = (vec![], sim.profile_usecs());
    for interrupt in 1..=1500 {
        sim.stream(MS, MS);
        assert_eq!(sim.fired_ns.len(), interrupt, "one for each packet");
        if sim.profile_usecs() != last {
            last = sim.profile_usecs();
            changes.push((interrupt, last));
        }
    }
    // Measuring begins with one interrupt and ends 64 later.
    let mut expected: Vec<_> = (1..=10).map(|n| (65 * n, [8, 1][n % 2])).collect();
    // One decision that finds it tired and ten of rest; the first of them after a change.
    let again = 650 + 65 + 10 * 64;
    expected.push((again, 1));
    expected.push((again + 65, 8));
    assert_eq!(changes[..12], expected);
}

/// Time may begin anywhere, also so near its end that sums would overflow.
#[test]
fn any_origin_of_time() {
    for make in [|| rate(4000), || fixed(100, 64), adaptive] {
        let run = |start_ns: u64| {
            let mut sim = Sim::new(make(), start_ns);
            sim.stream(3 * US, 50 * MS);
            let fired: Vec<u64> = sim.fired_ns.iter().map(|at| at - start_ns).collect();
            fired
        };
        assert_eq!(run(0), run(u64::MAX - S));
        assert_eq!(run(0), run(1 << 63));
    }
    let mut last = rate(1);
    assert_eq!(last.on_packets(u64::MAX - 1, 1, 1), Some(u64::MAX - 1));
    assert!(last.poll(u64::MAX - 1));
    assert_eq!(
        last.on_packets(u64::MAX, 1, 1),
        Some(u64::MAX),
        "held at the end of time"
    );
}

#[test]
fn a_clock_that_goes_back_is_held() {
    for mut moderator in [rate(4000), fixed(100, 64), adaptive()] {
        moderator.on_packets(MS, 1, 60);
        moderator.poll(MS + S);
        moderator.on_packets(0, 1, 60);
        let due_ns = moderator.due_ns().unwrap();
        assert!((MS + S..=MS + S + moderator.hold_max_ns()).contains(&due_ns));
    }
}

/// The tables of Linux 6.12 `lib/dim/net_dim.c`.
#[test]
fn profiles_are_linuxs() {
    let of = |direction: Direction| direction.profiles().map(|p| (p.usecs, p.packets));
    let receive = [(1, 256), (8, 256), (64, 256), (128, 256), (256, 256)];
    let transmit = [(1, 128), (8, 128), (32, 128), (64, 128), (128, 128)];
    assert_eq!((PROFILES, of(Direction::Receive)), (5, receive));
    assert_eq!(of(Direction::Transmit), transmit);
}

/// Arrivals: time since the one before, packets.
fn arrivals() -> impl Strategy<Value = Vec<(u64, u32)>> {
    let gap = prop_oneof![0..3 * US, 0..100 * US, 0..5 * MS];
    proptest::collection::vec((gap, 0u32..100), 1..400)
}

fn run(moderator: Moderator, arrivals: &[(u64, u32)]) -> Sim {
    let mut sim = Sim::new(moderator, 0);
    for (gap_ns, packets) in arrivals {
        sim.arrive(sim.now_ns + gap_ns, *packets, u64::from(*packets) * 1500);
    }
    sim.drain();
    sim
}

proptest! {
    #[test]
    fn rate_holds_both_promises(arrivals in arrivals(), rate_ips in 1u32..2_000_000) {
        let moderator = rate(rate_ips);
        let longest_ns = moderator.hold_max_ns();
        let sim = run(moderator, &arrivals);
        prop_assert!(sim.hold_max_ns <= longest_ns);
        prop_assert!(sim.gap_min_ns() >= S.div_ceil(u64::from(rate_ips)));
    }

    #[test]
    fn fixed_holds_its_promises(
        arrivals in arrivals(),
        max_usecs in 0u32..1000,
        max_packets in 0u32..200,
    ) {
        let moderator = fixed(max_usecs, max_packets);
        let longest_ns = moderator.hold_max_ns();
        let sim = run(moderator, &arrivals);
        prop_assert!(sim.hold_max_ns <= longest_ns);
        // Each interrupt took the time or the packets.
        let packets: u64 = arrivals.iter().map(|(_, packets)| u64::from(*packets)).sum();
        let span_ns: u64 = arrivals.iter().map(|(gap_ns, _)| *gap_ns).sum();
        if max_usecs > 0 && max_packets > 0 {
            let by_time = span_ns / (u64::from(max_usecs) * US) + 1;
            let by_count = packets / u64::from(max_packets);
            prop_assert!(sim.fired_ns.len() as u64 <= by_time + by_count);
        }
    }

    #[test]
    fn adaptive_holds_its_promises(arrivals in arrivals()) {
        let moderator = adaptive();
        let longest_ns = moderator.hold_max_ns();
        prop_assert_eq!(longest_ns, 256 * US);
        let sim = run(moderator, &arrivals);
        prop_assert!(sim.hold_max_ns <= longest_ns);
    }
}
