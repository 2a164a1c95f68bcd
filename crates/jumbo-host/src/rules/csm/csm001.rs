//! # CSM001 rx-checksum-off
//!
//! ## What it checks
//! Receive checksum offload (`rx-checksum`) is off on a network card that could do it.
//!
//! ## Why it matters
//! The processor sums every byte it receives, and hardware coalescing (LRO, hardware GRO) is not
//! possible.
//!
//! ## How to see it by hand
//! `ethtool -k DEV | grep rx-checksumming`
//!
//! ## Remedy
//! `ethtool -K DEV rx on`
//!
//! ## When to ignore it
//! The card's judgement was found to be wrong.
//!
//! ## Since kernel
//! 2.6.
//!
//! ## Sources
//! net/core/dev.c (netdev_fix_features), Linux 6.18.

use super::super::prelude::*;
#[cfg(test)]
use crate::snapshot::Feature;

pub(super) const RULE: Rule = Rule {
    id: "CSM001",
    name: "rx-checksum-off",
    severity: Severity::Warning,
    layer: Layer::Host,
    class: Class::Safe,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

fn check(device: &Device, _: &View<'_>) -> Outcome {
    if !device.is_nic() || !device.up {
        return NOT_APPLICABLE;
    }
    let feature = device.features.get()?.get("rx-checksum");
    fault_if(!feature.active && !feature.fixed, || {
        Fault::new(format!(
            "the processor verifies every checksum of {}",
            device.name
        ))
        .saw_feature(device, "rx-checksum")
        .turn(device, "rx-checksum", true)
    })
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        scene.feature("eth0", "rx-checksum", Feature::OFF);
    },
    with: &[],
    silent: |scene| {
        scene.feature("eth0", "rx-checksum", Feature::ABSENT);
    },
};
