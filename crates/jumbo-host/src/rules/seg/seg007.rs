//! # SEG007 tunnel-segmentation-off
//!
//! ## What it checks
//! A VXLAN device over a link whose `tx-udp_tnl-segmentation` is off though it could be on.
//!
//! ## Why it matters
//! The card cuts TCP super-packets, but not those inside a tunnel: every packet of the overlay is
//! cut in software.
//!
//! ## How to see it by hand
//! `ethtool -k LOWER | grep udp_tnl`
//!
//! ## Remedy
//! `ethtool -K LOWER tx-udp_tnl-segmentation on tx-udp_tnl-csum-segmentation on`
//!
//! ## When to ignore it
//! The card corrupts tunnelled packets when it cuts them (some vmxnet3 versions, for other ports
//! than 4789).
//!
//! ## Since kernel
//! 3.18.
//!
//! ## Sources
//! drivers/net/vxlan/vxlan_core.c, net/core/dev.c (netif_skb_features), Linux 6.18.

use super::super::prelude::*;
#[cfg(test)]
use crate::snapshot::Feature;

#[cfg(test)]
fn vxlan() -> Device {
    Device {
        lower: Some(2),
        mtu: 1450,
        ..super::super::scene::link(9, "vx0", "vxlan")
    }
}

pub(super) const RULE: Rule = Rule {
    id: "SEG007",
    name: "tunnel-segmentation-off",
    severity: Severity::Warning,
    layer: Layer::Host,
    class: Class::Safe,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

const TUNNEL: &str = "tx-udp_tnl-segmentation";

fn check(device: &Device, view: &View<'_>) -> Outcome {
    if device.kind != "vxlan" {
        return NOT_APPLICABLE;
    }
    let Some(lower) = device.lower.and_then(|index| view.now.by_index(index)) else {
        return NOT_APPLICABLE;
    };
    let feature = lower.features.get()?.get(TUNNEL);
    fault_if(!feature.active && !feature.fixed, || {
        Fault::new(format!(
            "{} does not cut the super-packets of {}",
            lower.name, device.name
        ))
        .saw_feature(lower, TUNNEL)
        .turn_all(lower, &[TUNNEL, "tx-udp_tnl-csum-segmentation"], true)
    })
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        scene.add(vxlan());
        scene.feature("eth0", TUNNEL, Feature::OFF);
    },
    with: &[],
    silent: |scene| {
        scene.add(vxlan());
        scene.feature("eth0", TUNNEL, Feature::ABSENT);
    },
};
