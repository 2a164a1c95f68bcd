//! # CSM003 vxlan-checksum-on-old-kernel
//!
//! ## What it checks
//! A VXLAN device with transmit checksum offload on a kernel before 5.7.
//!
//! ## Why it matters
//! Those kernels compute the outer UDP checksum wrongly when netfilter translates the packet with
//! `--random-fully`: connections to cluster services take 1, 3 or 63 seconds.
//!
//! ## How to see it by hand
//! `uname -r`; `ethtool -k VXLAN | grep tx-checksum-ip-generic`
//!
//! ## Remedy
//! `ethtool -K VXLAN tx-checksum-ip-generic off`, or a newer kernel.
//!
//! ## When to ignore it
//! The distribution has ported the fix back, or nothing is translated.
//!
//! ## Since kernel
//! Until 5.7.
//!
//! ## Sources
//! net/netfilter/nf_nat_core.c and net/ipv4/netfilter/ipt_MASQUERADE.c; Linux 5.7 changelog; k3s,
//! flannel and calico manuals.

use super::super::prelude::*;
#[cfg(test)]
fn vxlan() -> Device {
    Device {
        lower: Some(2),
        mtu: 1450,
        ..super::super::scene::link(9, "vx0", "vxlan")
    }
}

pub(super) const RULE: Rule = Rule {
    id: "CSM003",
    name: "vxlan-checksum-on-old-kernel",
    severity: Severity::Error,
    layer: Layer::Host,
    class: Class::Safe,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

fn check(device: &Device, view: &View<'_>) -> Outcome {
    if device.kind != "vxlan" {
        return NOT_APPLICABLE;
    }
    let active = device.features.get()?.active("tx-checksum-ip-generic");
    fault_if(active && view.now.kernel_version()? < (5, 7), || {
        Fault::new(format!(
            "this kernel miscomputes checksums of translated packets in {}",
            device.name
        ))
        .saw_feature(device, "tx-checksum-ip-generic")
        .saw_datum(&view.now.kernel)
        .turn(device, "tx-checksum-ip-generic", false)
    })
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        scene.add(vxlan());
        scene.now.kernel = crate::datum::Datum::known("5.4.0-42-generic".into(), "scene");
    },
    with: &[],
    silent: |scene| {
        scene.add(vxlan());
    },
};
