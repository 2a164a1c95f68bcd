//! # LRO002 lro-with-forwarding
//!
//! ## What it checks
//! Large receive offload (`rx-lro`) is active on a device that forwards IPv4 or IPv6 packets.
//!
//! ## Why it matters
//! The merged packet is larger than the next link's MTU and cannot be cut again as it was: routed
//! traffic is dropped or answered with "packet too big". Linux clears LRO on a device when it
//! becomes a port of a bridge or forwarding is enabled (dev_disable_lro), so LRO that is on there
//! was turned on later, or the driver refused.
//!
//! ## How to see it by hand
//! `ethtool -k DEV | grep large-receive-offload`; `sysctl net.ipv4.conf.DEV.forwarding
//! net.ipv6.conf.DEV.forwarding`
//!
//! ## Remedy
//! `ethtool -K DEV lro off`. Leave GRO on.
//!
//! ## When to ignore it
//! Forwarding is on, but no packet is ever forwarded from this device.
//!
//! ## Since kernel
//! 2.6.27.
//!
//! ## Sources
//! net/ipv4/devinet.c (inet_forward_change), net/ipv6/addrconf.c, net/core/dev.c (dev_disable_lro),
//! Linux 6.18.

use super::super::prelude::*;
#[cfg(test)]
use crate::snapshot::Feature;

pub(super) const RULE: Rule = Rule {
    id: "LRO002",
    name: "lro-with-forwarding",
    severity: Severity::Critical,
    layer: Layer::Host,
    class: Class::Reset,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

fn check(device: &Device, _: &View<'_>) -> Outcome {
    let features = device.features.get()?;
    if !features.active("rx-lro") {
        return PASS;
    }
    let forwarding = [&device.forwarding_v4, &device.forwarding_v6];
    let yes = forwarding.iter().find(|datum| datum.ok() == Some(&true));
    match yes {
        Some(datum) => Fault::new(format!(
            "{} merges packets lossily (LRO) and forwards them",
            device.name
        ))
        .saw_feature(device, "rx-lro")
        .saw(datum.source(), "1")
        .turn(device, "rx-lro", false)
        .found(),
        // That neither forwards must be known of both.
        None => forwarding
            .iter()
            .try_for_each(|datum| datum.get().map(drop))
            .and(PASS),
    }
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        scene.device("eth0").controller = None;
        scene.device("eth0").forwarding_v6 = crate::datum::Datum::known(true, "scene");
        scene.feature("eth0", "rx-lro", Feature::ON);
    },
    with: &[],
    silent: |scene| {
        scene.device("eth0").forwarding_v4 = crate::datum::Datum::known(true, "scene");
    },
};
