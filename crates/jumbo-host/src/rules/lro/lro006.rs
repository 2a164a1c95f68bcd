//! # LRO006 lro-without-rx-checksum
//!
//! ## What it checks
//! Large receive offload is active on a device whose receive checksum offload is off.
//!
//! ## Why it matters
//! The hardware merges by its own judgement of the checksums. With `rx-checksum` off the stack
//! checks the merged packet, whose checksum field is that of one segment: good data is dropped, or
//! damaged data was merged unseen.
//!
//! ## How to see it by hand
//! `ethtool -k DEV | grep -E 'rx-checksum|large-receive'`
//!
//! ## Remedy
//! `ethtool -K DEV rx on`, or `lro off`.
//!
//! ## When to ignore it
//! Never. The kernel clears LRO in most such cases by itself.
//!
//! ## Since kernel
//! 3.19 (the kernel enforces it for hardware GRO and, by drivers, for LRO).
//!
//! ## Sources
//! net/core/dev.c (netdev_fix_features), Linux 6.18.

use super::super::prelude::*;
#[cfg(test)]
use crate::snapshot::Feature;

pub(super) const RULE: Rule = Rule {
    id: "LRO006",
    name: "lro-without-rx-checksum",
    severity: Severity::Critical,
    layer: Layer::Host,
    class: Class::Safe,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

fn check(device: &Device, _: &View<'_>) -> Outcome {
    let features = device.features.get()?;
    fault_if(
        features.active("rx-lro") && !features.active("rx-checksum"),
        || {
            Fault::new(format!(
                "{} merges packets whose checksums nobody judged",
                device.name
            ))
            .saw_feature(device, "rx-lro")
            .saw_feature(device, "rx-checksum")
            .turn(device, "rx-checksum", true)
        },
    )
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        scene.device("eth0").controller = None;
        scene
            .feature("eth0", "rx-lro", Feature::ON)
            .feature("eth0", "rx-checksum", Feature::OFF);
    },
    with: &["CSM001"],
    silent: |scene| {
        scene.device("eth0").controller = None;
        scene.feature("eth0", "rx-lro", Feature::ON);
    },
};
