//! # GST002 guest-offloads-not-switchable
//!
//! ## What it checks
//! Inside a virtual machine: a virtio network device that takes super-packets (bits 7, 8) but has
//! no CTRL_GUEST_OFFLOADS (bit 2).
//!
//! ## Why it matters
//! Hardware coalescing cannot be switched off while the machine runs; `rx-gro-hw` is fixed. The
//! driver therefore refuses XDP programs ("host is implementing GRO_HW/CSUM") and cannot serve a
//! router that wants it off.
//!
//! ## How to see it by hand
//! `ethtool -k DEV | grep rx-gro-hw` says `on [fixed]`.
//!
//! ## Remedy
//! The hypervisor: `ctrl_guest_offloads=on` (QEMU's default).
//!
//! ## When to ignore it
//! No XDP is wanted in this machine.
//!
//! ## Since kernel
//! 3.12.
//!
//! ## Sources
//! virtio 1.3, section 5.1.3, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS; drivers/net/virtio_net.c
//! (virtnet_xdp_set), Linux 6.18.

use super::super::prelude::*;

pub(super) const RULE: Rule = Rule {
    id: "GST002",
    name: "guest-offloads-not-switchable",
    severity: Severity::Info,
    layer: Layer::Hypervisor,
    class: Class::Peer,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

fn check(device: &Device, _: &View<'_>) -> Outcome {
    let Some(bits) = device.virtio_bits.get()? else {
        return NOT_APPLICABLE;
    };
    let takes = bits.contains(&7) || bits.contains(&8);
    fault_if(takes && !bits.contains(&2), || {
        Fault::new(format!(
            "{} cannot switch coalescing off, so XDP will be refused",
            device.name
        ))
        .saw(
            device.virtio_bits.source(),
            "CTRL_GUEST_OFFLOADS (bit 2) not negotiated",
        )
        .saw_feature(device, "rx-gro-hw")
        .fix("hypervisor, QEMU: -device virtio-net-pci,ctrl_guest_offloads=on")
    })
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        scene.device("eth0").virtio_bits =
            crate::datum::Datum::known(Some(vec![0, 1, 7, 8, 32]), "scene");
    },
    with: &[],
    silent: |scene| {
        scene.device("eth0").virtio_bits =
            crate::datum::Datum::known(Some(vec![0, 1, 2, 7, 8, 32]), "scene");
    },
};
