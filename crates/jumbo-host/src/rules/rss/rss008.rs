//! # RSS008 hash-off
//!
//! ## What it checks
//! The network card could hand over its hash (`rx-hashing`) and does not.
//!
//! ## Why it matters
//! RPS, RFS and GRO's table then compute a hash for every packet.
//!
//! ## How to see it by hand
//! `ethtool -k DEV | grep receive-hashing`
//!
//! ## Remedy
//! `ethtool -K DEV rxhash on`
//!
//! ## When to ignore it
//! Neither RPS nor RFS is used and the card has one queue.
//!
//! ## Since kernel
//! 2.6.35.
//!
//! ## Sources
//! net/core/dev.c (skb_get_hash), Linux 6.18.

use super::super::prelude::*;

pub(super) const RULE: Rule = Rule {
    id: "RSS008",
    name: "hash-off",
    severity: Severity::Info,
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
    let feature = device.features.get()?.get("rx-hashing");
    fault_if(!feature.active && !feature.fixed, || {
        Fault::new(format!(
            "the processor hashes what {} has hashed already",
            device.name
        ))
        .saw_feature(device, "rx-hashing")
        .turn(device, "rx-hashing", true)
    })
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        scene.feature("eth0", "rx-hashing", crate::snapshot::Feature::OFF);
    },
    with: &[],
    silent: |scene| {
        scene.feature("eth0", "rx-hashing", crate::snapshot::Feature::ABSENT);
    },
};
