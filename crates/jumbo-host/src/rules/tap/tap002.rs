//! # TAP002 tso4-not-active
//!
//! ## What it checks
//! A TAP with a reader whose feature `tx-tcp-segmentation` is not active, and who is to blame (see
//! TAP001).
//!
//! ## Why it matters
//! A super-packet for the guest is cut to MTU size on the host. The guest then handles dozens of
//! packets where one would do: a 40 KB super-packet arrives as 28 packets of 1514 bytes, or as one.
//!
//! ## How to see it by hand
//! `ethtool -k TAP | grep tx-tcp-segmentation`
//!
//! ## Remedy
//! Ask for TUN_F_TSO4: in QEMU `guest_tso4=on` (the default), which needs `guest_csum=on`; in
//! Windows `Enable-NetAdapterRsc`. If `ethtool -K TAP tso off` was typed on this host, undo it.
//!
//! ## When to ignore it
//! The guest forwards or bridges, and its driver gave up large receive on purpose.
//!
//! ## Since kernel
//! 2.6.27.
//!
//! ## Sources
//! drivers/net/tun.c (set_offload), Linux 6.18; virtio 1.3, section 5.1.3, VIRTIO_NET_F_GUEST_TSO4;
//! Microsoft, Get-NetAdapterRsc.

use super::super::prelude::*;
use crate::tap::{CHECKSUM, FailureReason, TSO4, verdict};

pub(super) const RULE: Rule = Rule {
    id: "TAP002",
    name: "tso4-not-active",
    severity: Severity::Error,
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
        _ if features.active(TSO4) => PASS,
        reason => {
            let fault = Fault::new(format!(
                "TCP over IPv4 reaches the machine behind {} in MTU-sized packets: {}",
                device.name,
                reason.words()
            ))
            .saw_feature(device, TSO4)
            .saw_feature(device, CHECKSUM);
            let (qemu, guest) = (
                "csum=on,guest_csum=on,guest_tso4=on",
                "Enable-NetAdapterRsc -Name *, or ethtool -K DEV gro on",
            );
            super::blame(fault, device, reason, qemu, guest).found()
        }
    }
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        scene.feature("vnet0", TSO4, crate::snapshot::Feature::OFF);
    },
    with: &[],
    silent: |scene| {
        scene.device("eth0").carrier = false;
    },
};
