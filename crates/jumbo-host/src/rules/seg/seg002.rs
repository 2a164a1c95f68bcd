//! # SEG002 tso-held-off-by-checksum
//!
//! ## What it checks
//! TCP segmentation offload is wanted and not active because transmit checksum offload is off.
//!
//! ## Why it matters
//! A device that cuts a packet must compute the checksums of the parts, so the kernel takes TSO
//! away with the checksum. `ethtool -K DEV tso on` then does nothing.
//!
//! ## How to see it by hand
//! `ethtool -k DEV` shows `tx-checksumming: off` and `tx-tcp-segmentation: off [requested on]`.
//!
//! ## Remedy
//! `ethtool -K DEV tx on`
//!
//! ## When to ignore it
//! The checksum offload of this card is broken and was turned off on purpose; then withdraw TSO
//! too.
//!
//! ## Since kernel
//! 2.6.39.
//!
//! ## Sources
//! net/core/dev.c (netdev_fix_features: "Dropping TSO features since no CSUM feature"), Linux 6.18.

use super::super::prelude::*;
use crate::snapshot::Feature;

pub(super) const RULE: Rule = Rule {
    id: "SEG002",
    name: "tso-held-off-by-checksum",
    severity: Severity::Warning,
    layer: Layer::Host,
    class: Class::Safe,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

fn check(device: &Device, view: &View<'_>) -> Outcome {
    // There the checksum offload must stay off: CSM003.
    if device.kind == "vxlan" && view.now.kernel_version()? < (5, 7) {
        return NOT_APPLICABLE;
    }
    if !device.up || device.tun.is_some() || device.kind == "loopback" {
        return NOT_APPLICABLE;
    }
    let features = device.features.get()?;
    let wrong = features.get("tx-tcp-segmentation") == Feature::DENIED && !features.tx_checksum();
    fault_if(wrong, || {
        Fault::new(format!(
            "TSO of {} is held off because its checksum offload is off",
            device.name
        ))
        .saw_feature(device, "tx-tcp-segmentation")
        .saw_feature(device, "tx-checksum-ip-generic")
        .turn_all(device, &Features::TX_CHECKSUMS, true)
    })
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        scene
            .feature("eth0", "tx-tcp-segmentation", Feature::DENIED)
            .feature("eth0", "tx-checksum-ip-generic", Feature::OFF);
    },
    with: &["CSM005", "SEG005"],
    silent: |scene| {
        scene.feature("eth0", "tx-tcp-segmentation", Feature::DENIED);
    },
};
