//! # LRO001 lro-under-bridge
//!
//! ## What it checks
//! Large receive offload (`rx-lro`) is active on a device that is a port of a bridge or Open
//! vSwitch, directly or through a bond or VLAN above it.
//!
//! ## Why it matters
//! LRO merges packets lossily: headers of the originals are gone, so the super-packet cannot be cut
//! again as it was. Packets that are forwarded arrive too large and are dropped, or are cut
//! differently from how they were sent: throughput collapses although small packets pass. Linux
//! clears LRO on a device when it becomes a port of a bridge or forwarding is enabled
//! (dev_disable_lro), so LRO that is on there was turned on later, or the driver refused.
//!
//! ## How to see it by hand
//! `ethtool -k DEV | grep large-receive-offload`; `ip link show DEV` names the bridge as `master`.
//!
//! ## Remedy
//! `ethtool -K DEV lro off`. Leave GRO on: it merges only what can be cut again exactly.
//!
//! ## When to ignore it
//! Never.
//!
//! ## Since kernel
//! 2.6.31 (dev_disable_lro 2.6.27).
//!
//! ## Sources
//! net/bridge/br_if.c (br_add_if), net/core/dev.c (dev_disable_lro), Linux 6.18; Intel, ixgbe
//! driver README, section LRO.

use super::super::prelude::*;
#[cfg(test)]
use crate::snapshot::Feature;

pub(super) const RULE: Rule = Rule {
    id: "LRO001",
    name: "lro-under-bridge",
    severity: Severity::Critical,
    layer: Layer::Host,
    class: Class::Reset,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

fn check(device: &Device, view: &View<'_>) -> Outcome {
    let features = device.features.get()?;
    if !features.active("rx-lro") {
        return PASS;
    }
    let Some(bridge) = super::bridge_above(view.now, device) else {
        return PASS;
    };
    Fault::new(format!(
        "{} merges packets lossily (LRO) and {} forwards them",
        device.name, bridge.name
    ))
    .saw_feature(device, "rx-lro")
    .saw("rtnetlink IFLA_MASTER", &bridge.name)
    .turn(device, "rx-lro", false)
    .found()
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        scene.feature("eth0", "rx-lro", Feature::ON);
    },
    with: &[],
    silent: |scene| {
        scene.feature("eth0", "rx-lro", Feature::ON);
        scene.device("eth0").controller = None;
    },
};
