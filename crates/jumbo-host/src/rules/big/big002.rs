//! # BIG002 big-tcp-towards-tap
//!
//! ## What it checks
//! A device on a bridge with TAPs merges super-packets beyond 64 KB (`gro_max_size`).
//!
//! ## Why it matters
//! The length fields of IPv4 and of the virtio-net header end at 64 KB. A virtual machine, and
//! capture tools, may misread or cut such a packet; IPv4 BIG TCP carries 0 as its length.
//!
//! ## How to see it by hand
//! `ip -d link show DEV | grep gro_max_size`
//!
//! ## Remedy
//! `ip link set DEV gro_max_size 65536 gro_ipv4_max_size 65536`
//!
//! ## When to ignore it
//! The kernel cuts them for every TAP, and no program reads them raw.
//!
//! ## Since kernel
//! 5.19 (IPv6), 6.3 (IPv4).
//!
//! ## Sources
//! net/core/gro.c (skb_gro_receive), Linux 6.18; virtio 1.3, section 5.1.6.

use super::super::prelude::*;

pub(super) const RULE: Rule = Rule {
    id: "BIG002",
    name: "big-tcp-towards-tap",
    severity: Severity::Error,
    layer: Layer::Host,
    class: Class::Safe,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

fn check(device: &Device, view: &View<'_>) -> Outcome {
    if device.gro_max_size <= super::big001::CLASSIC_MAX_LEN || device.controller.is_none() {
        return PASS;
    }
    let beside = |port: &&Device| {
        port.controller == device.controller && port.is_tap() && port.index != device.index
    };
    match view.now.devices.iter().find(beside) {
        Some(tap) => Fault::new(format!(
            "{} merges more than the machine behind {} can read",
            device.name, tap.name
        ))
        .saw(
            "rtnetlink IFLA_GRO_MAX_SIZE",
            format!("{}: {}", device.name, device.gro_max_size),
        )
        .saw(
            "rtnetlink IFLA_INFO_KIND",
            format!("{}: tun, on the same bridge", tap.name),
        )
        .set(super::size_of(device), super::big001::CLASSIC_MAX_LEN)
        .found(),
        None => PASS,
    }
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| scene.device("eth0").gro_max_size = 185_000,
    with: &[],
    silent: |scene| {
        scene.device("eth0").gro_max_size = 185_000;
        scene.device("vnet0").controller = None;
    },
};
