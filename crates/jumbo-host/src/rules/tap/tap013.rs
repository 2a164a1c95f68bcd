//! # TAP013 uso-not-negotiated
//!
//! ## What it checks
//! A TAP that takes TCP super-packets but no UDP super-packets (`tx-udp-segmentation`), on a kernel
//! that could.
//!
//! ## Why it matters
//! QUIC and other bulk UDP arrive packet by packet. With USO a guest of Linux 6.2, or a Windows
//! Server 2022 or Windows 11 with a current NetKVM, takes them as one.
//!
//! ## How to see it by hand
//! `ethtool -k TAP | grep tx-udp-segmentation`
//!
//! ## Remedy
//! QEMU 8.2 and newer: `guest_uso4=on,guest_uso6=on`, and a guest driver that takes both. A program
//! of its own asks for TUN_F_USO4 and TUN_F_USO6; one without the other is refused.
//!
//! ## When to ignore it
//! The guest has no bulk UDP.
//!
//! ## Since kernel
//! 6.2.
//!
//! ## Sources
//! drivers/net/tun.c (set_offload), Linux 6.18; virtio 1.3, section 5.1.3, VIRTIO_NET_F_GUEST_USO4.

use super::super::prelude::*;
use crate::tap::TSO4;

pub(super) const RULE: Rule = Rule {
    id: "TAP013",
    name: "uso-not-negotiated",
    severity: Severity::Info,
    layer: Layer::Hypervisor,
    class: Class::Peer,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

const USO: &str = "tx-udp-segmentation";

fn check(device: &Device, view: &View<'_>) -> Outcome {
    if !device.is_tap() {
        return NOT_APPLICABLE;
    }
    let features = device.features.get()?;
    if !features.active(TSO4) || view.now.kernel_version()? < (6, 2) {
        return NOT_APPLICABLE;
    }
    fault_if(!features.active(USO), || {
        Fault::new(format!("UDP super-packets are cut before {}", device.name))
            .saw_feature(device, USO)
            .fix("QEMU: -device virtio-net-pci,guest_uso4=on,guest_uso6=on; a program of your own: TUN_F_USO4 | TUN_F_USO6")
    })
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        scene.feature("vnet0", USO, crate::snapshot::Feature::OFF);
    },
    with: &[],
    silent: |scene| {
        scene.feature("vnet0", USO, crate::snapshot::Feature::OFF);
        scene.now.kernel = crate::datum::Datum::known("6.1.0-28-amd64".into(), "scene");
    },
};
