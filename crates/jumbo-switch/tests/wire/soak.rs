//! Mixed load over every kind of wire at once, for as long as `JUMBO_SOAK_S` says (5
//! seconds without it): TCP and UDP, tagged and not, a port with faults, two peers
//! that inject nonsense, and a pair of TUNs beside. At the end every byte was right,
//! the books balance, and what was dropped has a reason that was to be expected.
//!
//! `JUMBO_SOAK_S=600 cargo test --release -p jumbo-switch --test wire soak -- --nocapture`

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use jumbo_engine::pending::Caps;
use jumbo_lab::bpf;
use jumbo_lab::packet_socket::PacketSocket;
use jumbo_lab::traffic::{UdpSpec, udp};
use jumbo_lab::{Family, Host, TestError, skip};
use jumbo_ports::mem;
use jumbo_ports::wrap::fault::{self, Faults};
use jumbo_switch::switch::State;
use jumbo_switch::topology::Coalesce;

use crate::change::tun_pair;
use crate::load::{bulk_between, duration, inject, lie, new_flows, pings};
use crate::rig::{Kind, Net, Outcome, Setup};
use crate::support::{drops, quiet};

/// Hosts by what they are for.
const PLAIN: usize = 0;
const FAULTY: usize = 1;
const XDP: usize = 2;
const TAP: usize = 3;
const TAGGED: [usize; 2] = [4, 5];
const LIAR: usize = 6;

const FAULTS: &str = "drop:0.05%,reorder:0.5%,seed:3";

/// Drops by reason where a liar's packets come in, or go out: all are his.
const LIES: [&str; 4] = [
    "rx ",
    "forward ",
    "complete over_mtu",
    "complete segment_over_mtu",
];

fn net() -> Result<Net, TestError> {
    let mut net = Net::empty(2)?;
    let faults: Faults = FAULTS.parse().map_err(TestError::Failed)?;
    let setup = |kind| Setup {
        kind,
        workers: 2,
        mtu: 1500,
    };
    for index in 0..=LIAR {
        let kind = match index {
            XDP => Kind::XdpNative,
            TAP => Kind::Tap,
            _ => Kind::Packet,
        };
        net.join(setup(kind), |port| match index {
            FAULTY => fault::wrap(port, faults).expect("a timer"),
            _ => port,
        })?;
    }
    net.plug()?;
    Ok(net)
}

/// Longest part of the load that is judged by itself.
const ROUND: Duration = Duration::from_secs(10);
/// A thread that sleeps for a moment and wakes so late was stopped with its process.
const STOPPED: Duration = Duration::from_secs(2);

/// Knows whether the process was stopped meanwhile, as by a debugger: limits of time
/// then say nothing.
#[derive(Debug, Default)]
struct Clock {
    stops: AtomicU64,
}

impl Clock {
    fn watch(&self, until: Instant) {
        while Instant::now() < until {
            let before = Instant::now();
            thread::sleep(Duration::from_millis(50));
            if before.elapsed() > STOPPED {
                self.stops.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Rounds of a load until it is time. One that failed while the process was stopped
    /// is not counted.
    fn rounds(&self, until: Instant, round: impl Fn(Duration) -> Outcome) -> Outcome {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left < Duration::from_secs(1) {
                return Ok(());
            }
            let before = self.stops.load(Ordering::Relaxed);
            let answer = round(left.min(ROUND));
            // Whoever watches may wake after us.
            thread::sleep(Duration::from_millis(200));
            match answer {
                Err(_) if self.stops.load(Ordering::Relaxed) != before => {
                    println!("a round during which the process was stopped");
                }
                answer => answer?,
            }
        }
    }
}

fn new_connections(from: &Host, to: &Host, time: Duration) -> Outcome {
    let count = new_flows(from, to, Instant::now() + time)?;
    println!("{count} new connections");
    Ok(())
}

/// Datagrams at a modest rate, of both families, with USO and without.
fn datagrams(from: &Host, to: &Host, time: Duration) -> Outcome {
    for round in 0..4 {
        let spec = UdpSpec {
            family: [Family::V4, Family::V6][round % 2],
            count: 1000 * time.as_secs(),
            segments_per_send: [1, 20][round / 2],
            rate_pps: Some(5000),
            gro: round % 3 == 0,
            ..UdpSpec::default()
        };
        let report = udp(from, to, &spec)?;
        assert_eq!((report.intact, report.reordered), (Some(true), 0));
        println!("{} of {} datagrams", report.received, report.sent);
    }
    Ok(())
}

pub(crate) fn soak_of_all_kinds_is_accounted_for() -> Outcome {
    let mut net = net()?;
    let mut tags = Vec::new();
    for index in TAGGED {
        let tag = bpf::tag_all(&net.hosts[index].ns, "t0", 0x8100, 9);
        tags.push(tag.map_err(skip)?);
    }
    let (port, guest) = mem::port("guest", 2, Caps::ALL, Caps::ALL, 1500)?;
    net.switch.add(port, Coalesce::Gro)?;
    let (tun_switch, tun_hosts) = tun_pair()?;
    let mut macs = Vec::new();
    for host in &net.hosts {
        macs.push(host.links()?.get("t0")?.mac.unwrap_or_default());
    }
    let injected = PacketSocket::open(&net.hosts[LIAR].ns, "t0", true)?;
    let until = Instant::now() + duration();
    let (hosts, tun_hosts, clock) = (&net.hosts, &tun_hosts, &Clock::default());
    let host = move |index: usize| &hosts[index];
    thread::scope(|scope| {
        let watch = scope.spawn(|| clock.watch(until));
        let bulk = |a, b| clock.rounds(until, |time| bulk_between(a, b, time));
        let new = |a, b| clock.rounds(until, |time| new_connections(a, b, time));
        let udp = |a, b| clock.rounds(until, |time| datagrams(a, b, time));
        let checked = [
            scope.spawn(move || bulk(host(PLAIN), host(FAULTY))),
            scope.spawn(move || bulk(host(XDP), host(TAP))),
            scope.spawn(move || bulk(host(TAGGED[0]), host(TAGGED[1]))),
            scope.spawn(move || bulk(&tun_hosts[0], &tun_hosts[1])),
            scope.spawn(move || clock.rounds(until, |time| pings(host(PLAIN), host(XDP), time))),
            scope.spawn(move || new(host(TAP), host(PLAIN))),
            scope.spawn(move || new(host(TAGGED[1]), host(TAGGED[0]))),
            scope.spawn(move || udp(host(PLAIN), host(TAP))),
            scope.spawn(move || udp(host(XDP), host(PLAIN))),
        ];
        let lies = [
            scope.spawn(|| lie(&guest, &macs, until)),
            scope.spawn(|| inject(&injected, &macs, until)),
        ];
        for thread in checked {
            thread.join().expect("no panic")?;
        }
        watch.join().expect("no panic");
        for thread in lies {
            println!("{} lies", thread.join().expect("no panic"));
        }
        Ok::<_, TestError>(())
    })?;
    let state = quiet(&net.switch);
    report(&state);
    report(&quiet(&tun_switch));
    expected(&state, &net);
    Ok(())
}

fn report(state: &State) {
    println!("{:?}, {} news lost", state.books, state.news_lost);
    for (reason, count) in drops(state) {
        println!("{count:>10} {reason}");
    }
}

/// No reason but those that the load gives, and all ports there with all they had.
fn expected(state: &State, net: &Net) {
    for port in &state.ports {
        assert!(port.up, "{} is gone", port.info.device);
        assert_eq!(
            port.takes, port.info.takes,
            "a liar cost {} its offloads",
            port.info.device
        );
    }
    let honest = |index: usize| index < LIAR;
    for (index, port) in state
        .ports
        .iter()
        .enumerate()
        .filter(|(index, _)| honest(*index))
    {
        let counters = &port.counters;
        let (rx, device) = (&counters.rx, &port.info.device);
        assert_eq!(rx.faults.total(), 0, "{device} lies: {:?}", rx.faults);
        let injected = counters
            .tx_faults
            .get(jumbo_ports::queue::TxFault::Injected);
        assert_eq!(injected > 0, index == FAULTY, "{device}");
    }
    for (reason, count) in drops(state) {
        let known = [
            "device ring_full",
            "device truncated",
            "tx queue_full",
            "tx injected",
        ];
        let known = known
            .iter()
            .chain(&LIES)
            .any(|known| reason.contains(known));
        assert!(known, "{count} dropped: {reason}");
    }
    assert!(net.switch.is_running());
}
