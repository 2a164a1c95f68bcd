//! # LRO003 lro-wanted-but-held-off
//!
//! ## What it checks
//! Large receive offload is wanted and not active: `off [requested on]`, because the device is a
//! port of a bridge, forwards, or lies under a device without LRO.
//!
//! ## Why it matters
//! Nothing is wrong today. But the wish stays, and LRO comes back by itself when the device leaves
//! the bridge or forwarding is turned off: a set-up that behaves differently after an unrelated
//! change.
//!
//! ## How to see it by hand
//! `ethtool -k DEV | grep large-receive-offload`
//!
//! ## Remedy
//! `ethtool -K DEV lro off` withdraws the wish.
//!
//! ## When to ignore it
//! LRO is really wanted when the device is not forwarding.
//!
//! ## Since kernel
//! 2.6.39 (wanted features); 4.5 (an upper device's LRO off goes down to its lower devices).
//!
//! ## Sources
//! net/core/dev.c (netdev_sync_lower_features, netdev_fix_features), Linux 6.18.

use super::super::prelude::*;
#[cfg(test)]
use crate::snapshot::Feature;

pub(super) const RULE: Rule = Rule {
    id: "LRO003",
    name: "lro-wanted-but-held-off",
    severity: Severity::Info,
    layer: Layer::Host,
    class: Class::Safe,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

fn check(device: &Device, _: &View<'_>) -> Outcome {
    let features = device.features.get()?;
    let lro = features.get("rx-lro");
    // Both wanted is a fault of its own: LRO004.
    let held = lro.wanted && !lro.active && !features.get("rx-gro-hw").wanted;
    fault_if(held, || {
        Fault::new(format!(
            "LRO of {} is only held off and will come back",
            device.name
        ))
        .saw_feature(device, "rx-lro")
        .turn(device, "rx-lro", false)
    })
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        scene.feature("eth0", "rx-lro", Feature::DENIED);
    },
    with: &[],
    silent: |scene| {
        scene.feature("eth0", "rx-lro", Feature::OFF);
    },
};
