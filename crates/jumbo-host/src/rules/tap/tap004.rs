//! # TAP004 ecn-segmentation-not-negotiated
//!
//! ## What it checks
//! A TAP that takes TCP super-packets, but not those marked with CWR: `tx-tcp-ecn-segmentation` is
//! `off [requested on]`.
//!
//! ## Why it matters
//! Usually it does not: the Windows driver never asks for it, and only super-packets with the CWR
//! flag are cut, one per round trip at most. Where ECN is in use (DCTCP, L4S) those packets are
//! frequent.
//!
//! ## How to see it by hand
//! `ethtool -k TAP | grep ecn`; `nstat -az IpExtInCEPkts` says whether ECN meets congestion here.
//!
//! ## Remedy
//! None. If ECN is really used: `guest_ecn=on` in QEMU, and a guest driver that takes it.
//!
//! ## When to ignore it
//! Nearly always; it becomes a warning when packets marked CE arrive.
//!
//! ## Since kernel
//! 2.6.27.
//!
//! ## Sources
//! drivers/net/tun.c (TUN_F_TSO_ECN), Linux 6.18; virtio 1.3, section 5.1.3,
//! VIRTIO_NET_F_GUEST_ECN; RFC 3168, section 6.1.

use super::super::prelude::*;
use crate::snapshot::Feature;
use crate::tap::TSO4;

pub(super) const RULE: Rule = Rule {
    id: "TAP004",
    name: "ecn-segmentation-not-negotiated",
    severity: Severity::Info,
    layer: Layer::Hypervisor,
    class: Class::Peer,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

const ECN: &str = "tx-tcp-ecn-segmentation";

fn check(device: &Device, view: &View<'_>) -> Outcome {
    if !device.is_tap() {
        return NOT_APPLICABLE;
    }
    let features = device.features.get()?;
    if !features.active(TSO4) {
        return NOT_APPLICABLE;
    }
    fault_if(features.get(ECN) == Feature::DENIED, || {
        let fault = Fault::new(format!(
            "{} cuts TCP super-packets that carry CWR",
            device.name
        ))
        .saw_feature(device, ECN)
        .fix("none needed; where ECN is in use, QEMU: -device virtio-net-pci,guest_ecn=on");
        match congestion_seen(view) {
            0 => fault,
            packets => fault.severity(Severity::Warning).saw(
                "/proc/net/netstat",
                format!("IpExt InCEPkts: {packets} more in the sample"),
            ),
        }
    })
}

/// Packets marked CE since the earlier reading.
fn congestion_seen(view: &View<'_>) -> u64 {
    let marked = |snapshot: &Snapshot| snapshot.protocols.ok().map(|protocols| protocols.ip_in_ce);
    let pair = || Some(marked(view.now)?.saturating_sub(marked(view.before?)?));
    pair().unwrap_or(0)
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        scene.feature("vnet0", ECN, Feature::DENIED);
    },
    with: &[],
    silent: |scene| {
        scene.feature("vnet0", ECN, Feature::OFF);
    },
};
