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
