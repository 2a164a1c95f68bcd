//! # GRO005 gro-hw-available
//!
//! ## What it checks
//! A network card can coalesce in hardware (`rx-gro-hw`) without loss, and it is off.
//!
//! ## Why it matters
//! Hardware GRO merges before the host touches a packet: fewer descriptors, fewer cache misses, the
//! same result as GRO.
//!
//! ## How to see it by hand
//! `ethtool -k DEV | grep rx-gro-hw`
//!
//! ## Remedy
//! `ethtool -K DEV rx-gro-hw on`; the driver may make its queues anew.
//!
//! ## When to ignore it
//! An XDP program runs on the card: most drivers allow only one of the two.
//!
//! ## Since kernel
//! 4.16.
//!
//! ## Sources
//! Documentation/networking/netdev-features.rst, Linux 6.18.

use super::super::prelude::*;
#[cfg(test)]
use crate::snapshot::Feature;

pub(super) const RULE: Rule = Rule {
    id: "GRO005",
    name: "gro-hw-available",
    severity: Severity::Info,
    layer: Layer::Host,
    class: Class::Reset,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

fn check(device: &Device, _: &View<'_>) -> Outcome {
    if !device.is_nic() || !device.up {
        return NOT_APPLICABLE;
    }
    let feature = device.features.get()?.get("rx-gro-hw");
    let xdp = device.xdp != crate::snapshot::XdpMode::None;
    fault_if(
        !feature.active && !feature.wanted && !feature.fixed && !xdp,
        || {
            Fault::new(format!(
                "{} could coalesce in hardware and does not",
                device.name
            ))
            .saw_feature(device, "rx-gro-hw")
            .turn(device, "rx-gro-hw", true)
        },
    )
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        scene.feature("eth0", "rx-gro-hw", Feature::OFF);
    },
    with: &[],
    silent: |scene| {
        scene.feature("eth0", "rx-gro-hw", Feature::OFF);
        scene.device("eth0").xdp = crate::snapshot::XdpMode::Generic;
    },
};
