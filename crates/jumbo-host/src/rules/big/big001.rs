//! # BIG001 big-tcp-on-one-hop
//!
//! ## What it checks
//! A device whose coalescing makes super-packets beyond 64 KB (`gro_max_size`), on a bridge with a
//! port that takes no such (`gso_max_size`).
//!
//! ## Why it matters
//! What one hop merges the next must cut again: the gain of BIG TCP is spent on the way.
//!
//! ## How to see it by hand
//! `ip -d link show | grep -E 'gro_max_size|gso_max_size'`
//!
//! ## Remedy
//! `ip link set DEV gro_max_size 65536`, or raise gso_max_size along the whole path.
//!
//! ## When to ignore it
//! Most traffic ends on this host and is not bridged.
//!
//! ## Since kernel
//! 5.19 (IPv6), 6.3 (IPv4).
//!
//! ## Sources
//! net/core/dev.h (netif_set_gro_max_size), Linux 6.18; netdev, BIG TCP series.

use super::super::prelude::*;

pub(super) const RULE: Rule = Rule {
    id: "BIG001",
    name: "big-tcp-on-one-hop",
    severity: Severity::Warning,
    layer: Layer::Host,
    class: Class::Safe,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

/// What 16 bits of length can say.
pub(super) const CLASSIC_MAX_LEN: u32 = 65_536;

fn check(device: &Device, view: &View<'_>) -> Outcome {
    if device.gro_max_size <= CLASSIC_MAX_LEN || device.controller.is_none() {
        return PASS;
    }
    let beside = |port: &&Device| {
        port.controller == device.controller && port.index != device.index && port.tun.is_none()
    };
    let smaller = view
        .now
        .devices
        .iter()
        .filter(beside)
        .find(|port| port.gso_max_size < device.gro_max_size);
    match smaller {
        Some(port) => Fault::new(format!(
            "{} merges more than {} takes",
            device.name, port.name
        ))
        .saw(
            "rtnetlink IFLA_GRO_MAX_SIZE",
            format!("{}: {}", device.name, device.gro_max_size),
        )
        .saw(
            "rtnetlink IFLA_GSO_MAX_SIZE",
            format!("{}: {}", port.name, port.gso_max_size),
        )
        .set(super::size_of(device), port.gso_max_size)
        .found(),
        None => PASS,
    }
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        scene.device("eth0").gro_max_size = 185_000;
        scene.device("vnet0").controller = None;
        scene.device("veth0").controller = Some(3);
    },
    with: &[],
    silent: |scene| {
        scene.device("eth0").gro_max_size = 185_000;
        scene.device("eth0").controller = None;
    },
};
