//! The switch beside the least that could join two TAPs: a loop of read and
//! write. Real TCP, super-packets passing whole, slices in turn, ratio pair by pair.
//!
//! `cargo run --release -p jumbo-switch --example floor`

use std::time::Duration;

use jumbo_engine::pending::Caps;
use jumbo_lab::Host;
use jumbo_lab::forwarder::Forwarder;
use jumbo_lab::meter::Summary;
use jumbo_lab::ns::{self, Needs};
use jumbo_lab::tap::{Tap, TapOffloads, TapSpec};
use jumbo_lab::traffic::{BulkReport, BulkSession, BulkSpec, Check};
use jumbo_ports::tap::{self, TapConfig};
use jumbo_switch::switch::{Switch, SwitchConfig};
use jumbo_switch::topology::Coalesce;

const ROUNDS: usize = 21;
const SLICE: Duration = Duration::from_millis(300);
const LINK: &str = "t0";

type Failed = Box<dyn std::error::Error>;

fn main() -> Result<(), Failed> {
    ns::enter(Needs::Taps)?;
    let floor_hosts = [Host::new(1)?, Host::new(2)?];
    let _forwarder = forwarder(&floor_hosts)?;
    let switch_hosts = [Host::new(1)?, Host::new(2)?];
    let _switch = switch(&switch_hosts)?;
    let [floor, ours] = [session(&floor_hosts)?, session(&switch_hosts)?];
    let (mut floors, mut switched) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        floors.push(floor.slice(SLICE)?);
        switched.push(ours.slice(SLICE)?);
    }
    print("read and write", &floors);
    print("switch", &switched);
    let ratios: Vec<f64> = switched
        .iter()
        .zip(&floors)
        .map(|(ours, floor)| ours.gbit_per_s() / floor.gbit_per_s())
        .collect();
    if let Some(ratio) = Summary::of(&ratios) {
        println!(
            "switch / floor, pair by pair: median {:.3}, quartiles {:.3} to {:.3}",
            ratio.median, ratio.q1, ratio.q3
        );
    }
    Ok(())
}

fn forwarder(hosts: &[Host; 2]) -> Result<Forwarder, Failed> {
    let spec = TapSpec::new(LINK, TapOffloads::TSO);
    let [one, two] = hosts;
    let taps = [Tap::create(&one.ns, &spec)?, Tap::create(&two.ns, &spec)?];
    for host in hosts {
        host.plug(LINK)?;
    }
    let [one, two] = taps;
    Ok(Forwarder::start(one, two)?)
}

fn switch(hosts: &[Host; 2]) -> Result<Switch, Failed> {
    let mut switch = Switch::start(&SwitchConfig::default())?;
    for host in hosts {
        let config = TapConfig {
            device: LINK.to_owned(),
            queues: 1,
            hands: Caps::ALL,
            takes: Caps::ALL,
            mtu: None,
        };
        let port = host.ns.run(|| tap::open(&config))??;
        switch.add(port, Coalesce::Gro)?;
        host.plug(LINK)?;
    }
    Ok(switch)
}

fn session(hosts: &[Host; 2]) -> Result<BulkSession, Failed> {
    let spec = BulkSpec {
        check: Check::OutsideWindows,
        ..BulkSpec::default()
    };
    Ok(BulkSession::open(&hosts[0], &hosts[1], &spec)?)
}

fn print(name: &str, reports: &[BulkReport]) {
    let rates: Vec<f64> = reports.iter().map(BulkReport::gbit_per_s).collect();
    if let Some(rate) = Summary::of(&rates) {
        println!(
            "{name:16} {:6.2} Gbit/s, quartiles {:.2} to {:.2}",
            rate.median, rate.q1, rate.q3
        );
    }
}
