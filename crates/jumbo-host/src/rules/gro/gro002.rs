//! # GRO002 veth-gro-off
//!
//! ## What it checks
//! A veth with GRO off that received packets of MTU size during the sample, faster than a thousand
//! a second.
//!
//! ## Why it matters
//! Its peer sends without segmentation offload (a program over a TAP, XDP on the other end, a
//! tunnel), so each packet walks the stack alone. GRO on a veth gives it a NAPI of its own, and
//! packets are merged.
//!
//! ## How to see it by hand
//! `ethtool -k DEV | grep generic-receive-offload`; bytes divided by packets of `ip -s link show
//! DEV`.
//!
//! ## Remedy
//! `ethtool -K DEV gro on`, or better let the peer send super-packets.
//!
//! ## When to ignore it
//! The traffic does not consist of few bulk flows.
//!
//! ## Since kernel
//! 5.13 (GRO without XDP on veth).
//!
//! ## Sources
//! drivers/net/veth.c (veth_set_features, veth_napi_enable), Linux 6.18.

use super::super::prelude::*;
#[cfg(test)]
use crate::snapshot::Feature;

pub(super) const RULE: Rule = Rule {
    id: "GRO002",
    name: "veth-gro-off",
    severity: Severity::Info,
    layer: Layer::Host,
    class: Class::Safe,
    sampled: true,
    scope: Scope::Device(check),
    source: "",
};

/// Below it nothing is gained.
const RATE_PPS_MIN: f64 = 1000.0;

fn check(device: &Device, view: &View<'_>) -> Outcome {
    if device.kind != "veth" || !device.up {
        return NOT_APPLICABLE;
    }
    if device.features.get()?.active("rx-gro") {
        return PASS;
    }
    let (earlier, seconds) = view.earlier_device(device)?;
    let packets = device
        .stats
        .rx_packets
        .saturating_sub(earlier.stats.rx_packets);
    let bytes = device.stats.rx_bytes.saturating_sub(earlier.stats.rx_bytes);
    let mean = bytes.checked_div(packets).unwrap_or(0);
    // Bulk that is not aggregated: near the MTU, not above it.
    let mtu_sized = mean > u64::from(device.mtu) / 2 && mean <= u64::from(device.mtu) + 18;
    let rate_pps = packets as f64 / seconds;
    fault_if(mtu_sized && rate_pps > RATE_PPS_MIN, || {
        Fault::new(format!(
            "{} receives bulk in MTU-sized packets and does not coalesce them",
            device.name
        ))
        .saw_feature(device, "rx-gro")
        .saw(
            "rtnetlink IFLA_STATS64",
            format!("{rate_pps:.0} packets/s of {mean} bytes on average"),
        )
        .turn(device, "rx-gro", true)
    })
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        scene.feature("veth0", "rx-gro", Feature::OFF);
        let stats = &mut scene.device("veth0").stats;
        (stats.rx_packets, stats.rx_bytes) = (100_000, 145_000_000);
    },
    with: &[],
    silent: |scene| {
        scene.feature("veth0", "rx-gro", Feature::OFF);
        let stats = &mut scene.device("veth0").stats;
        // Super-packets already.
        (stats.rx_packets, stats.rx_bytes) = (100_000, 6_000_000_000);
    },
};
