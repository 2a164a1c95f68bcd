//! # GRO001 gro-off
//!
//! ## What it checks
//! Generic receive offload is off on a network card or a port of a bridge, and nothing replaces it.
//!
//! ## Why it matters
//! Every packet walks the whole stack alone. Measured over veth at the same rate, without
//! super-packets the kernel's work was 30 to 43 times as many packets and about eight times the
//! processor time.
//!
//! ## How to see it by hand
//! `ethtool -k DEV | grep generic-receive-offload`
//!
//! ## Remedy
//! `ethtool -K DEV gro on`
//!
//! ## When to ignore it
//! The card's packets go to AF_XDP or DPDK anyway; or they are mostly too small or too mixed to
//! merge.
//!
//! ## Since kernel
//! 2.6.29.
//!
//! ## Sources
//! net/core/gro.c (dev_gro_receive), Linux 6.18.

use super::super::prelude::*;
#[cfg(test)]
use crate::snapshot::Feature;

pub(super) const RULE: Rule = Rule {
    id: "GRO001",
    name: "gro-off",
    severity: Severity::Warning,
    layer: Layer::Host,
    class: Class::Safe,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

fn check(device: &Device, view: &View<'_>) -> Outcome {
    // A veth has it off until somebody turns it on (GRO002); a TAP's packets come from a program.
    let candidate = device.is_nic()
        || (view.now.controller(device).is_some() && device.kind != "veth" && device.tun.is_none());
    if !candidate || !device.up {
        return NOT_APPLICABLE;
    }
    let features = device.features.get()?;
    let gro = features.get("rx-gro");
    let replaced = features.active("rx-lro") || features.active("rx-gro-hw");
    fault_if(!gro.active && !gro.fixed && !replaced, || {
        Fault::new(format!("packets of {} are not coalesced", device.name))
            .saw_feature(device, "rx-gro")
            .turn(device, "rx-gro", true)
    })
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        scene.feature("eth0", "rx-gro", Feature::OFF);
    },
    with: &[],
    silent: |scene| {
        scene.feature("eth0", "rx-gro", Feature::OFF);
        scene.device("eth0").up = false;
    },
};
