//! # TAP005 offloads-without-vnet-header
//!
//! ## What it checks
//! A TUN or TAP with checksum or segmentation offload active whose reader has no virtio-net header
//! (IFF_VNET_HDR).
//!
//! ## Why it matters
//! The kernel leaves work undone and has no way to say so. The reader gets packets with unfinished
//! checksums, or super-packets it cannot tell from damaged ones.
//!
//! ## How to see it by hand
//! `ip -d link show TAP` shows `vnet_hdr off`; `ethtool -k TAP` shows the offloads on. The bit is
//! 0x4000 in `/sys/class/net/TAP/tun_flags`.
//!
//! ## Remedy
//! Open the TAP with IFF_VNET_HDR, or ask for no offloads (TUNSETOFFLOAD 0).
//!
//! ## When to ignore it
//! Never.
//!
//! ## Since kernel
//! 2.6.27.
//!
//! ## Sources
//! drivers/net/tun.c (tun_put_user, set_offload), Linux 6.18; Documentation/networking/tuntap.rst.

use super::super::prelude::*;
#[cfg(test)]
use crate::snapshot::Tun;
use crate::tap::{CHECKSUM, TSO4, TSO6};

pub(super) const RULE: Rule = Rule {
    id: "TAP005",
    name: "offloads-without-vnet-header",
    severity: Severity::Critical,
    layer: Layer::Hypervisor,
    class: Class::Peer,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

fn check(device: &Device, _: &View<'_>) -> Outcome {
    let Some(tun) = device.tun else {
        return NOT_APPLICABLE;
    };
    let features = device.features.get()?;
    let active = [CHECKSUM, TSO4, TSO6]
        .into_iter()
        .find(|name| features.active(name));
    match active {
        Some(name) if device.carrier && !tun.vnet_header => Fault::new(format!(
            "the reader of {} gets unfinished packets and cannot know it",
            device.name
        ))
        .saw("rtnetlink IFLA_TUN_VNET_HDR", "off")
        .saw_feature(device, name)
        .fix("open the device with IFF_VNET_HDR (QEMU: -netdev tap,vnet_hdr=on)")
        .found(),
        _ => PASS,
    }
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        scene.device("vnet0").tun = Some(Tun {
            tap: true,
            multi_queue: true,
            attached_queues: Some(2),
            ..Tun::default()
        });
    },
    with: &[],
    silent: |scene| {
        let off = crate::snapshot::Feature::OFF;
        scene.device("vnet0").tun = Some(Tun::default());
        for name in [CHECKSUM, TSO4, TSO6] {
            scene.feature("vnet0", name, off);
        }
    },
};
