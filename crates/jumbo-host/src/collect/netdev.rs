//! NAPI instances and XDP features by the generic netlink family `netdev` (Linux 6.3; NAPI since 6.8).
//!
//! Source: include/uapi/linux/netdev.h, Documentation/netlink/specs/netdev.yaml.

use std::io;

use super::spread;
use crate::datum::Datum;
use crate::netlink::{Answers, Family, attributes, question};
use crate::snapshot::{Device, Napi};

const DEV_GET: u8 = 1;
const NAPI_GET: u8 = 11;
/// Linux 6.9.
const QSTATS_GET: u8 = 12;
/// NETDEV_QSTATS_SCOPE_QUEUE.
const SCOPE_QUEUE: u32 = 1;

/// Asks about all devices.
pub(super) fn fill(devices: &mut [Device]) {
    let family = Family::open("netdev");
    let none = |place: &str| Datum::known(0, place);
    spread(
        devices,
        xdp_features(&family),
        "netdev dev-get",
        none,
        |d| &mut d.xdp_features,
    );
    let none = |place: &str| Datum::known(Vec::new(), place);
    spread(devices, napis(&family), "netdev napi-get", none, |d| {
        &mut d.napis
    });
}

fn ask(family: &io::Result<Family>, command: u8) -> io::Result<Vec<Vec<u8>>> {
    let without =
        |error: &io::Error| io::Error::new(error.kind(), format!("no family netdev: {error}"));
    family
        .as_ref()
        .map_err(without)?
        .ask(&question(command), Answers::List)
}

/// Counters of one queue, where the driver keeps them (netdev qstats).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QueueCounters {
    /// Interface index.
    pub device: u32,
    /// It sends; otherwise it receives.
    pub tx: bool,
    /// Its number.
    pub queue: u32,
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
    /// Packets lost for want of memory or descriptors.
    pub drops: u64,
    /// Packets the hardware coalesced, as they were on the wire.
    pub hw_gro_wire_packets: u64,
    /// What it made of them.
    pub hw_gro_packets: u64,
}

/// All queues of all devices whose drivers count them.
pub(super) fn queues() -> Datum<Vec<QueueCounters>> {
    let ask = || -> io::Result<Vec<QueueCounters>> {
        let question = question(QSTATS_GET).u32(4, SCOPE_QUEUE);
        let answers = Family::open("netdev")?.ask(&question, Answers::List)?;
        Ok(answers.iter().filter_map(|answer| queue(answer)).collect())
    };
    Datum::from_result(ask(), "netdev qstats-get")
}

fn queue(answer: &[u8]) -> Option<QueueCounters> {
    let number = |kind| {
        let mut all = attributes(answer).filter(|attribute| attribute.kind == kind);
        all.next().and_then(|attribute| attribute.u64())
    };
    let small = |kind| number(kind).and_then(|number| u32::try_from(number).ok());
    let some = |kind| number(kind).unwrap_or(0);
    let tx = small(2)? == 1;
    let (packets, bytes, drops) = match tx {
        true => (some(10), some(11), some(24)),
        // Memory that could not be had, and packets the hardware dropped.
        false => (some(8), some(9), some(12) + some(13)),
    };
    Some(QueueCounters {
        device: small(1)?,
        tx,
        queue: small(3)?,
        packets,
        bytes,
        drops,
        hw_gro_packets: some(19),
        hw_gro_wire_packets: some(21),
    })
}

fn xdp_features(family: &io::Result<Family>) -> io::Result<Vec<(u32, u64)>> {
    let read = |answer: &Vec<u8>| {
        let find = |kind| attributes(answer).find(|attribute| attribute.kind == kind);
        Some((find(1)?.u32()?, find(3)?.u64()?))
    };
    Ok(ask(family, DEV_GET)?.iter().filter_map(read).collect())
}

fn napis(family: &io::Result<Family>) -> io::Result<Vec<(u32, Vec<Napi>)>> {
    let mut by_device: std::collections::BTreeMap<u32, Vec<Napi>> = Default::default();
    for answer in &ask(family, NAPI_GET)? {
        let number = |kind| attributes(answer).find(|attribute| attribute.kind == kind);
        let Some(device) = number(1).and_then(|index| index.u32()) else {
            continue;
        };
        let small = |kind| number(kind).and_then(|attribute| attribute.u32());
        by_device.entry(device).or_default().push(Napi {
            id: small(2).unwrap_or(0),
            irq: small(3),
            pid: small(4),
            defer_hard_irqs: small(5),
            gro_flush_timeout_ns: number(6).and_then(|attribute| attribute.u64()),
            thread_cpus: None,
        });
    }
    Ok(by_device.into_iter().collect())
}
