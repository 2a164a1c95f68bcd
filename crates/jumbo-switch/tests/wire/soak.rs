//! Mixed load over every kind of wire at once, for as long as `JUMBO_SOAK_S` says (5
//! seconds without it): TCP and UDP, tagged and not, a port with faults, two peers
//! that inject nonsense, and a pair of TUNs beside. At the end every byte was right,
//! the books balance, and what was dropped has a reason that was to be expected.
//!
//! `JUMBO_SOAK_S=600 cargo test --release -p jumbo-switch --test wire soak -- --nocapture`

use std::time::Instant;

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

/// Datagrams at a modest rate, again and again. What arrived, of how many.
fn datagrams(from: &Host, to: &Host, until: Instant) -> Result<(u64, u64), TestError> {
    let (mut received, mut sent) = (0, 0);
    for round in 0usize.. {
        if Instant::now() >= until {
            break;
        }
        let spec = UdpSpec {
            family: [Family::V4, Family::V6][round % 2],
            count: 5000,
            segments_per_send: [1, 20][round / 2 % 2],
            rate_pps: Some(10_000),
            gro: round % 3 == 0,
            ..UdpSpec::default()
        };
        let report = udp(from, to, &spec)?;
        assert_eq!((report.intact, report.reordered), (Some(true), 0));
        received += report.received;
        sent += report.sent;
    }
    Ok((received, sent))
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
    let host = |index: usize| &net.hosts[index];
    std::thread::scope(|scope| {
        let checked = [
            scope.spawn(|| bulk_between(host(PLAIN), host(FAULTY))),
            scope.spawn(|| bulk_between(host(XDP), host(TAP))),
            scope.spawn(|| bulk_between(host(TAGGED[0]), host(TAGGED[1]))),
            scope.spawn(|| bulk_between(&tun_hosts[0], &tun_hosts[1])),
            scope.spawn(|| pings(host(PLAIN), host(XDP))),
        ];
        let flows = [
            scope.spawn(|| new_flows(host(TAP), host(PLAIN), until)),
            scope.spawn(|| new_flows(host(TAGGED[1]), host(TAGGED[0]), until)),
        ];
        let udps = [
            scope.spawn(|| datagrams(host(PLAIN), host(TAP), until)),
            scope.spawn(|| datagrams(host(XDP), host(PLAIN), until)),
        ];
        let lies = [
            scope.spawn(|| lie(&guest, &macs, until)),
            scope.spawn(|| inject(&injected, &macs, until)),
        ];
        for thread in checked {
            thread.join().expect("no panic")?;
        }
        for thread in flows {
            println!("{} new connections", thread.join().expect("no panic")?);
        }
        for thread in udps {
            let (received, sent) = thread.join().expect("no panic")?;
            println!("{received} of {sent} datagrams");
            assert!(received > 0);
        }
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
