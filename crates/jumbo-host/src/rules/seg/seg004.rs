//! # SEG004 gso-off
//!
//! ## What it checks
//! Generic segmentation offload is off.
//!
//! ## Why it matters
//! GSO keeps a packet large until the last moment, also where the card cannot cut it. Without it
//! the stack handles MTU-sized packets from the socket on.
//!
//! ## How to see it by hand
//! `ethtool -k DEV | grep generic-segmentation-offload`
//!
//! ## Remedy
//! `ethtool -K DEV gso on`
//!
//! ## When to ignore it
//! A driver is known to hang with it.
//!
//! ## Since kernel
//! 2.6.18.
//!
//! ## Sources
//! net/core/dev.c (netif_needs_gso), Linux 6.18.

use super::super::prelude::*;
#[cfg(test)]
use crate::snapshot::Feature;

pub(super) const RULE: Rule = Rule {
    id: "SEG004",
    name: "gso-off",
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
    let gso = features.get("tx-generic-segmentation");
    // Without scatter-gather it cannot be: SEG003.
    let wrong = !gso.active && !gso.fixed && !gso.wanted;
    fault_if(wrong, || {
        Fault::new(format!(
            "the last fallback for large packets on {} is off",
            device.name
        ))
        .saw_feature(device, "tx-generic-segmentation")
        .turn(device, "tx-generic-segmentation", true)
    })
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        scene.feature("eth0", "tx-generic-segmentation", Feature::OFF);
    },
    with: &[],
    silent: |scene| {
        scene.feature("eth0", "tx-generic-segmentation", Feature::DENIED);
    },
};
