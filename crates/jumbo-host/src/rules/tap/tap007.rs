//! # TAP007 host-overrides-guest
//!
//! ## What it checks
//! A TAP whose checksum offload is off although segmentation offload is still wanted: the mark that
//! `ethtool -K TAP tx off` leaves.
//!
//! ## Why it matters
//! The guest's hypervisor asked for offloads and this host took them away. The next time the guest
//! initialises its driver, TUNSETOFFLOAD turns all of them on again: the host behaves differently
//! before and after a guest's reboot.
//!
//! ## How to see it by hand
//! `ethtool -k TAP` shows `tx-checksum-ip-generic: off` beside `tx-tcp-segmentation: off [requested
//! on]`.
//!
//! ## Remedy
//! Undo it, and configure the hypervisor instead if the offloads must stay off.
//!
//! ## When to ignore it
//! Never; if it is wanted, it belongs into the hypervisor's configuration.
//!
//! ## Since kernel
//! 2.6.39 (wanted features).
//!
//! ## Sources
//! drivers/net/tun.c (set_offload, which writes wanted_features), net/core/dev.c
//! (netdev_fix_features), Linux 6.18.

use super::super::prelude::*;
#[cfg(test)]
use crate::snapshot::Feature;
use crate::tap::{CHECKSUM, FailureReason, TSO4, TSO6, verdict};

pub(super) const RULE: Rule = Rule {
    id: "TAP007",
    name: "host-overrides-guest",
    severity: Severity::Warning,
    layer: Layer::Host,
    class: Class::Safe,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

fn check(device: &Device, _: &View<'_>) -> Outcome {
    if !device.is_tap() {
        return NOT_APPLICABLE;
    }
    fault_if(verdict(device)? == FailureReason::HostAdminDisabled, || {
        Fault::new(format!(
            "somebody on this host turned off what the reader of {} asked for",
            device.name
        ))
        .saw_feature(device, CHECKSUM)
        .saw_feature(device, TSO4)
        .reason("HostAdminDisabled")
        .turn_all(device, &[CHECKSUM, TSO4, TSO6], true)
    })
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        scene.feature("vnet0", CHECKSUM, Feature::OFF);
        scene
            .feature("vnet0", TSO4, Feature::DENIED)
            .feature("vnet0", TSO6, Feature::DENIED);
    },
    with: &["TAP001", "TAP002"],
    silent: |scene| {
        scene.feature("vnet0", CHECKSUM, Feature::OFF);
        scene
            .feature("vnet0", TSO4, Feature::OFF)
            .feature("vnet0", TSO6, Feature::OFF);
    },
};
