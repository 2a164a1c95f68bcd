//! # TAP003 tso6-not-active
//!
//! ## What it checks
//! A TAP that takes TCP super-packets over IPv4 (`tx-tcp-segmentation`) but not over IPv6
//! (`tx-tcp6-segmentation`).
//!
//! ## Why it matters
//! IPv4 is fast and IPv6 is not: half of the traffic arrives uncoalesced, and who measures with one
//! family does not see it.
//!
//! ## How to see it by hand
//! `ethtool -k TAP | grep tx-tcp6-segmentation`
//!
//! ## Remedy
//! Ask for TUN_F_TSO6: in QEMU `guest_tso6=on` (the default).
//!
//! ## When to ignore it
//! No IPv6 reaches this port.
//!
//! ## Since kernel
//! 2.6.27.
//!
//! ## Sources
//! drivers/net/tun.c (set_offload), Linux 6.18; virtio 1.3, section 5.1.3, VIRTIO_NET_F_GUEST_TSO6.

use super::super::prelude::*;
use crate::tap::{CHECKSUM, FailureReason, TSO4, TSO6, verdict};

pub(super) const RULE: Rule = Rule {
    id: "TAP003",
    name: "tso6-not-active",
    severity: Severity::Warning,
    layer: Layer::Hypervisor,
    class: Class::Peer,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

fn check(device: &Device, _: &View<'_>) -> Outcome {
    if !device.is_tap() {
        return NOT_APPLICABLE;
    }
    let features = device.features.get()?;
    match verdict(device)? {
        // Nobody is there to get packets: TAP006.
        FailureReason::NoReader => NOT_APPLICABLE,
        // All of TCP is affected: TAP002.
        _ if !features.active(TSO4) => NOT_APPLICABLE,
        _ if features.active(TSO6) => PASS,
        reason => {
            let fault = Fault::new(format!(
                "TCP over IPv6 reaches the machine behind {} in MTU-sized packets: {}",
                device.name,
                reason.words()
            ))
            .saw_feature(device, TSO6)
            .saw_feature(device, CHECKSUM);
            let (qemu, guest) = (
                "csum=on,guest_csum=on,guest_tso6=on",
                "Enable-NetAdapterRsc -Name *, or ethtool -K DEV gro on",
            );
            super::blame(fault, device, reason, qemu, guest).found()
        }
    }
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        scene.feature("vnet0", TSO6, crate::snapshot::Feature::OFF);
    },
    with: &[],
    silent: |scene| {
        // Both off is one fault, and TAP002 has it.
        scene.feature("vnet0", TSO6, crate::snapshot::Feature::OFF);
        scene.feature("vnet0", TSO4, crate::snapshot::Feature::OFF);
    },
};
