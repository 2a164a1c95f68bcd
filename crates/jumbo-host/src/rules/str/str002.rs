//! # STR002 one-queue-without-rps
//!
//! ## What it checks
//! A device with one receive queue and no RPS that received more than 50,000 packets a second
//! during the sample, on a machine with several processors.
//!
//! ## Why it matters
//! One processor does all of the stack's work for it.
//!
//! ## How to see it by hand
//! `ls /sys/class/net/DEV/queues`; `cat /sys/class/net/DEV/queues/rx-0/rps_cpus`
//!
//! ## Remedy
//! More queues where the device can have them; otherwise `echo MASK >
//! /sys/class/net/DEV/queues/rx-0/rps_cpus`.
//!
//! ## When to ignore it
//! The traffic is one flow, which cannot be spread, or latency matters more.
//!
//! ## Since kernel
//! 2.6.35.
//!
//! ## Sources
//! Documentation/networking/scaling.rst, section RPS, Linux 6.18.

use super::super::prelude::*;

pub(super) const RULE: Rule = Rule {
    id: "STR002",
    name: "one-queue-without-rps",
    severity: Severity::Warning,
    layer: Layer::Host,
    class: Class::Safe,
    sampled: true,
    scope: Scope::Device(check),
    source: "",
};

/// Below it one processor has time to spare.
const RATE_PPS_MIN: f64 = 50_000.0;

fn check(device: &Device, view: &View<'_>) -> Outcome {
    if device.kind == "loopback" || device.kind == "bridge" || !device.up {
        return NOT_APPLICABLE;
    }
    let masks = super::masks(device)?;
    let online = view.now.cpus.online.get()?;
    if masks.len() != 1 || online.len() < 2 || !masks[0].1.is_empty() {
        return PASS;
    }
    let (earlier, seconds) = view.earlier_device(device)?;
    let rate_pps = device
        .stats
        .rx_packets
        .saturating_sub(earlier.stats.rx_packets) as f64
        / seconds;
    fault_if(rate_pps > RATE_PPS_MIN, || {
        Fault::new(format!(
            "one processor does all receive work of {}",
            device.name
        ))
        .saw("rtnetlink IFLA_STATS64", format!("{rate_pps:.0} packets/s"))
        .saw(super::place(device, 0), "0")
        .set(
            super::rps(device, masks[0].0),
            super::spread(view.now, device),
        )
    })
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| scene.device("veth0").stats.rx_packets = 1_000_000,
    with: &[],
    silent: |scene| scene.device("veth0").stats.rx_packets = 100_000,
};
