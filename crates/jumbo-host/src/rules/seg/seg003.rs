//! # SEG003 tso-held-off-by-scatter-gather
//!
//! ## What it checks
//! Scatter-gather is off, and with it all segmentation offload, in hardware and in software.
//!
//! ## Why it matters
//! A super-packet lies in many pieces of memory. Without scatter-gather the kernel must copy each
//! packet together and cannot use TSO or GSO at all: both show `off [requested on]`.
//!
//! ## How to see it by hand
//! `ethtool -k DEV | grep -E 'scatter-gather|segmentation'`
//!
//! ## Remedy
//! `ethtool -K DEV sg on`
//!
//! ## When to ignore it
//! The driver cannot do it.
//!
//! ## Since kernel
//! 2.4.
//!
//! ## Sources
//! net/core/dev.c (netdev_fix_features: "Dropping TSO features since no SG feature"), Linux 6.18.

use super::super::prelude::*;
#[cfg(test)]
use crate::snapshot::Feature;

pub(super) const RULE: Rule = Rule {
    id: "SEG003",
    name: "tso-held-off-by-scatter-gather",
    severity: Severity::Warning,
    layer: Layer::Host,
    class: Class::Safe,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

fn check(device: &Device, _: &View<'_>) -> Outcome {
    if !device.up || device.tun.is_some() || device.kind == "loopback" {
        return NOT_APPLICABLE;
    }
    let features = device.features.get()?;
    let sg = features.get("tx-scatter-gather");
    let wrong = !sg.active && !sg.fixed;
    fault_if(wrong, || {
        Fault::new(format!(
            "{} cannot send from scattered memory, hence no segmentation offload",
            device.name
        ))
        .saw_feature(device, "tx-scatter-gather")
        .saw_feature(device, "tx-generic-segmentation")
        .turn(device, "tx-scatter-gather", true)
    })
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        scene
            .feature("eth0", "tx-scatter-gather", Feature::OFF)
            .feature("eth0", "tx-generic-segmentation", Feature::DENIED);
    },
    with: &[],
    silent: |scene| {
        scene.feature("eth0", "tx-scatter-gather", Feature::ABSENT);
    },
};
