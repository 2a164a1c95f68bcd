//! # LRO004 lro-and-gro-hw-wanted
//!
//! ## What it checks
//! Both `rx-lro` and `rx-gro-hw` are wanted on one device.
//!
//! ## Why it matters
//! They exclude each other. The kernel keeps hardware GRO and clears LRO, which then shows as `off
//! [requested on]` and looks like a fault of the driver.
//!
//! ## How to see it by hand
//! `ethtool -k DEV | grep -E 'rx-gro-hw|large-receive'`
//!
//! ## Remedy
//! `ethtool -K DEV lro off`: hardware GRO does the same work without loss.
//!
//! ## When to ignore it
//! Never.
//!
//! ## Since kernel
//! 4.16.
//!
//! ## Sources
//! net/core/dev.c (netdev_fix_features), Linux 6.18; Documentation/networking/netdev-features.rst.

use super::super::prelude::*;
#[cfg(test)]
use crate::snapshot::Feature;

pub(super) const RULE: Rule = Rule {
    id: "LRO004",
    name: "lro-and-gro-hw-wanted",
    severity: Severity::Info,
    layer: Layer::Host,
    class: Class::Safe,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

fn check(device: &Device, _: &View<'_>) -> Outcome {
    let features = device.features.get()?;
    let both = ["rx-lro", "rx-gro-hw"]
        .iter()
        .all(|name| features.get(name).wanted && !features.get(name).fixed);
    fault_if(both, || {
        Fault::new(format!(
            "{} is asked for LRO and hardware GRO, which exclude each other",
            device.name
        ))
        .saw_feature(device, "rx-lro")
        .saw_feature(device, "rx-gro-hw")
        .turn(device, "rx-lro", false)
    })
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        scene
            .feature("eth0", "rx-lro", Feature::DENIED)
            .feature("eth0", "rx-gro-hw", Feature::ON);
    },
    with: &[],
    silent: |scene| {
        scene.feature("eth0", "rx-gro-hw", Feature::ON);
    },
};
