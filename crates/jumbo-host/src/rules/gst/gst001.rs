//! # GST001 host-offloads-missing
//!
//! ## What it checks
//! Inside a virtual machine: a virtio network device that did not get GUEST_TSO4 or GUEST_TSO6
//! (bits 7 and 8), or their condition GUEST_CSUM (bit 1) in their absence.
//!
//! ## Why it matters
//! The host cuts every super-packet before this machine gets it: there is no hardware coalescing
//! (GRO_HW, RSC), and every packet costs the guest its full price.
//!
//! ## How to see it by hand
//! `cat /sys/class/net/DEV/device/features`: one digit per bit, bit 0 first.
//!
//! ## Remedy
//! The hypervisor: `csum=on,guest_csum=on,guest_tso4=on,guest_tso6=on`, and offloads on at the
//! host's TAP.
//!
//! ## When to ignore it
//! XDP runs on this device, which excludes them.
//!
//! ## Since kernel
//! 2.6.26.
//!
//! ## Sources
//! virtio 1.3, section 5.1.3; drivers/virtio/virtio.c (features_show), Linux 6.18.

use super::super::prelude::*;

pub(super) const RULE: Rule = Rule {
    id: "GST001",
    name: "host-offloads-missing",
    severity: Severity::Warning,
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
    let missing: Vec<&str> = [(7, "GUEST_TSO4"), (8, "GUEST_TSO6")]
        .into_iter()
        .filter(|(bit, _)| !bits.contains(bit))
        .map(|(_, name)| name)
        .collect();
    fault_if(!missing.is_empty(), || {
        Fault::new(format!(
            "the host cuts super-packets before {} gets them",
            device.name
        ))
        .saw(
            device.virtio_bits.source(),
            format!("not negotiated: {}", missing.join(", ")),
        )
        .fix("hypervisor, QEMU: -device virtio-net-pci,guest_csum=on,guest_tso4=on,guest_tso6=on")
    })
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        scene.device("eth0").virtio_bits =
            crate::datum::Datum::known(Some(vec![0, 1, 2, 7, 32]), "scene");
    },
    with: &[],
    silent: |scene| {
        scene.device("eth0").virtio_bits =
            crate::datum::Datum::known(Some(vec![0, 1, 2, 7, 8, 32]), "scene");
    },
};
