//! Mixed load for as long as `JUMBO_SOAK_S` says (5 seconds without it): bulk
//! both ways, pings, new connections without end, and two senders of nonsense.
//! At the end every byte was right, the books balance and every drop has a reason.
//!
//! `JUMBO_SOAK_S=600 cargo test --release -p jumbo-switch --test soak -- --nocapture`

mod support;
#[path = "support/hosts.rs"]
mod hosts;
#[path = "support/load.rs"]
mod load;
#[path = "support/noise.rs"]
mod noise;

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use hosts::{Net, Setup, Side, Tested};
use jumbo_engine::pending::Caps;
use jumbo_lab::ns::Needs;
use jumbo_lab::packet_socket::PacketSocket;
use jumbo_lab::{LabTest, test_main};
use jumbo_ports::mem;
use jumbo_switch::topology::Coalesce;
use load::{bulk_between, duration, inject, lie, new_flows, pings};
use support::{drops, quiet};

fn main() -> ExitCode {
    let limit = duration() + Duration::from_secs(60);
    let soak = LabTest::new("mixed_load_is_accounted_for", mixed_load).within(limit);
    test_main(Needs::Taps, vec![soak])
}

fn mixed_load() -> Tested<()> {
    let setup = Setup {
        workers: 2,
        ..Setup::USUAL
    };
    let no_uso = Side {
        hands: Caps::ALL,
        takes: Caps::new(true, true, true, true, false),
    };
    let plain = Side {
        hands: Caps::new(true, false, false, false, false),
        takes: Caps::NONE,
    };
    let mut net = Net::new(setup, &[Side::ALL, no_uso, plain])?;
    let (port, guest) = mem::port("guest", setup.workers, Caps::ALL, Caps::ALL, 1500)?;
    net.switch.add(port, Coalesce::Gro)?;
    let until = Instant::now() + duration();
    let [a, b, c] = &net.hosts[..] else {
        unreachable!("three sides make three hosts")
    };
    let mut macs = Vec::new();
    for host in &net.hosts {
        macs.push(host.links()?.get("t0")?.mac.unwrap_or_default());
    }
    let injected = PacketSocket::open(&c.ns, "t0", true)?;
    let (flows, lies, raw) = thread::scope(|scope| {
        let bulk = scope.spawn(|| bulk_between(a, b, duration()));
        let pings = scope.spawn(|| pings(a, c, duration()));
        let flows = scope.spawn(|| new_flows(b, c, until));
        let lies = scope.spawn(|| lie(&guest, &macs, until));
        let raw = scope.spawn(|| inject(&injected, &macs, until));
        bulk.join().expect("no panic")?;
        pings.join().expect("no panic")?;
        let flows = flows.join().expect("no panic")?;
        let lies = lies.join().expect("no panic");
        Ok::<_, jumbo_lab::TestError>((flows, lies, raw.join().expect("no panic")))
    })?;
    let state = quiet(&net.switch);
    println!("{flows} new connections, {lies} lies, {raw} raw packets");
    println!(
        "{:?}, {} stations, {} news lost",
        state.books, state.fdb_entries, state.news_lost
    );
    for (reason, count) in drops(&state) {
        println!("{count:>10} {reason}");
    }
    for port in &state.ports {
        let refused = port.counters.tx_faults.iter().filter(|(_, n)| *n != 0);
        println!(
            "{} {:?} tx {:?}",
            port.info.device,
            port.takes,
            refused.collect::<Vec<_>>()
        );
        assert!(port.up, "{} is gone", port.info.device);
        assert_eq!(
            port.takes, port.info.takes,
            "a liar cost an honest port its offloads"
        );
    }
    assert!(net.switch.is_running());
    Ok(())
}
