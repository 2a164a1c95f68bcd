//! The floors of this machine: kernel TCP over a veth pair and over two TAPs
//! joined by the bare forwarder, in turns.
//!
//! `cargo run --release -p jumbo-lab --example floors`

use std::time::Duration;

use jumbo_lab::ethtool::Offload;
use jumbo_lab::forwarder::Forwarder;
use jumbo_lab::meter::Summary;
use jumbo_lab::ns::{self, Needs};
use jumbo_lab::tap::{Tap, TapOffloads, TapSpec};
use jumbo_lab::traffic::{BulkReport, BulkSession, BulkSpec, Check};
use jumbo_lab::{Host, veth_pair};

/// A path under measurement; the forwarder, if any, lives as long as it.
struct Row {
    name: &'static str,
    session: BulkSession,
    reports: Vec<BulkReport>,
    _hosts: (Host, Host),
    _forwarder: Option<Forwarder>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    ns::enter(Needs::Taps)?;
    let mut rows = vec![
        veth("veth, super-packets, unchecked", Check::None, true)?,
        veth("veth, super-packets", Check::Pattern, true)?,
        veth("veth, MTU packets", Check::Pattern, false)?,
        taps("forwarder, super-packets", TapOffloads::TSO)?,
        taps("forwarder, MTU packets", TapOffloads::NONE)?,
    ];
    for _ in 0..7 {
        for row in &mut rows {
            let report = row.session.slice(Duration::from_millis(300))?;
            assert_ne!(report.intact, Some(false), "{}: wrong bytes", row.name);
            row.reports.push(report);
        }
    }
    rows.iter().for_each(print);
    Ok(())
}

fn veth(name: &'static str, check: Check, super_packets: bool) -> jumbo_lab::Result<Row> {
    let hosts = veth_pair("v0")?;
    for host in [&hosts.0, &hosts.1] {
        for offload in [Offload::Tso, Offload::Gso] {
            host.links()?.set_offload("v0", offload, super_packets)?;
        }
    }
    row(name, hosts, check, None)
}

fn taps(name: &'static str, offloads: TapOffloads) -> jumbo_lab::Result<Row> {
    let hosts = (Host::new(1)?, Host::new(2)?);
    let spec = TapSpec::new("t0", offloads);
    let taps = (
        Tap::create(&hosts.0.ns, &spec)?,
        Tap::create(&hosts.1.ns, &spec)?,
    );
    hosts.0.plug("t0")?;
    hosts.1.plug("t0")?;
    let forwarder = Forwarder::start(taps.0, taps.1)?;
    row(name, hosts, Check::Pattern, Some(forwarder))
}

fn row(
    name: &'static str,
    hosts: (Host, Host),
    check: Check,
    forwarder: Option<Forwarder>,
) -> jumbo_lab::Result<Row> {
    let spec = BulkSpec {
        check,
        ..BulkSpec::default()
    };
    let session = BulkSession::open(&hosts.0, &hosts.1, &spec)?;
    Ok(Row {
        name,
        session,
        reports: Vec::new(),
        _hosts: hosts,
        _forwarder: forwarder,
    })
}

fn print(row: &Row) {
    let of =
        |f: fn(&BulkReport) -> f64| Summary::of(&row.reports.iter().map(f).collect::<Vec<_>>());
    let (Some(rate), Some(cost)) = (of(BulkReport::gbit_per_s), of(BulkReport::cpu_s_per_gb))
    else {
        return;
    };
    println!(
        "{:<32} {:6.2} Gbit/s ({:.2}-{:.2})  {:.2} CPU-s/GB at the ends",
        row.name, rate.median, rate.q1, rate.q3, cost.median
    );
}
