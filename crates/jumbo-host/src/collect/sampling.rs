//! Counters for a view that is read every second: one list of links, one of queues, and five files.

use std::collections::BTreeMap;
use std::io;

use super::files::{Files, parsed_by};
use super::{links, machine, netdev};
use crate::datum::Datum;
use crate::snapshot::{CpuTicks, Device, Irq, Protocols, SoftnetCpu};

/// What was read.
#[derive(Debug)]
pub(crate) struct Counters {
    pub(crate) links: Vec<Device>,
    pub(crate) queues: Datum<Vec<netdev::QueueCounters>>,
    pub(crate) softnet: Datum<Vec<SoftnetCpu>>,
    pub(crate) net_rx: Datum<BTreeMap<u32, u64>>,
    pub(crate) net_tx: Datum<BTreeMap<u32, u64>>,
    pub(crate) ticks: Datum<BTreeMap<u32, CpuTicks>>,
    pub(crate) irqs: Datum<BTreeMap<u32, Irq>>,
    pub(crate) protocols: Datum<Protocols>,
    pub(crate) initial_namespace: Datum<bool>,
}

/// Errors when links cannot be listed.
pub(super) fn read(files: &Files) -> io::Result<Counters> {
    let softirqs = files.proc("softirqs");
    let kind = |name: &'static str| {
        parsed_by(softirqs.clone(), move |text| {
            machine::softirq(text, name).ok_or("no such line")
        })
    };
    Ok(Counters {
        links: links::list()?,
        queues: netdev::queues(),
        softnet: parsed_by(files.proc("net/softnet_stat"), machine::softnet),
        net_rx: kind("NET_RX:"),
        net_tx: kind("NET_TX:"),
        ticks: parsed_by(files.proc("stat"), machine::ticks),
        irqs: parsed_by(files.proc("interrupts"), machine::interrupts),
        protocols: machine::protocols(files),
        initial_namespace: machine::initial_namespace(files),
    })
}
