//! # CSM005 tx-checksum-off
//!
//! ## What it checks
//! Transmit checksum offload is off on a network card that could do it.
//!
//! ## Why it matters
//! The processor sums every byte it sends, and segmentation offload is impossible.
//!
//! ## How to see it by hand
//! `ethtool -k DEV | grep tx-checksum`
//!
//! ## Remedy
//! `ethtool -K DEV tx on`
//!
//! ## When to ignore it
//! The card's checksums were found to be wrong.
//!
//! ## Since kernel
//! 2.4.
//!
//! ## Sources
//! net/core/dev.c (netdev_fix_features, skb_checksum_help), Linux 6.18.

use super::super::prelude::*;
#[cfg(test)]
use crate::snapshot::Feature;

pub(super) const RULE: Rule = Rule {
    id: "CSM005",
    name: "tx-checksum-off",
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
    let features = device.features.get()?;
    let able = ["tx-checksum-ip-generic", "tx-checksum-ipv4"]
        .into_iter()
        .find(|name| !features.get(name).fixed);
    match able {
        Some(name) if !features.tx_checksum() => Fault::new(format!(
            "the processor computes every checksum of {}",
            device.name
        ))
        .saw_feature(device, name)
        .turn_all(device, &Features::TX_CHECKSUMS, true)
        .found(),
        _ => PASS,
    }
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        scene.feature("eth0", "tx-checksum-ip-generic", Feature::OFF);
    },
    with: &[],
    silent: |scene| {
        scene.feature("eth0", "tx-checksum-ip-generic", Feature::ABSENT);
    },
};
