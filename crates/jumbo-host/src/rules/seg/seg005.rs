//! # SEG005 port-without-segmentation
//!
//! ## What it checks
//! A bridge whose ports differ: most take TCP super-packets, one does not although it could.
//!
//! ## Why it matters
//! A packet that goes to that port, and every flooded packet, is cut in software; all other ports
//! pay when they talk to it. The bridge's own features may fall to those of its weakest port.
//!
//! ## How to see it by hand
//! `for p in /sys/class/net/BRIDGE/brif/*; do ethtool -k ${p##*/} | grep tx-tcp-segmentation; done`
//!
//! ## Remedy
//! Turn it on at that port; for a TAP let its reader ask for it (TAP002).
//!
//! ## When to ignore it
//! The port leads to a machine that cannot take super-packets.
//!
//! ## Since kernel
//! 2.6.39.
//!
//! ## Sources
//! net/bridge/br_if.c (br_features_recompute), Linux 6.18.

use super::super::prelude::*;
#[cfg(test)]
use crate::snapshot::Feature;

pub(super) const RULE: Rule = Rule {
    id: "SEG005",
    name: "port-without-segmentation",
    severity: Severity::Warning,
    layer: Layer::Host,
    class: Class::Safe,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

fn check(device: &Device, view: &View<'_>) -> Outcome {
    if device.kind != "bridge" {
        return NOT_APPLICABLE;
    }
    let ports: Vec<&Device> = view
        .now
        .devices
        .iter()
        .filter(|port| port.controller == Some(device.index))
        .collect();
    let mut weak = Vec::new();
    for port in &ports {
        let tso = port.features.get()?.get("tx-tcp-segmentation");
        // A TAP's reader decides: TAP002.
        if !tso.active && !tso.fixed && port.tun.is_none() {
            weak.push(*port);
        }
    }
    // One among several; when all are so there is no weakest.
    fault_if(
        ports.len() > 1 && !weak.is_empty() && weak.len() < ports.len(),
        || {
            let fault = Fault::new(format!(
                "some ports of {} cut super-packets that the others take",
                device.name
            ));
            weak.iter().fold(fault, |fault, port| {
                fault
                    .saw_feature(port, "tx-tcp-segmentation")
                    .turn_all(port, &["tx-scatter-gather"], true)
                    .turn_all(port, &Features::TX_CHECKSUMS, true)
                    .turn_all(port, &Features::TSO, true)
            })
        },
    )
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        scene.feature("eth0", "tx-tcp-segmentation", Feature::OFF);
    },
    with: &["SEG001"],
    silent: |scene| {
        scene.feature("eth0", "tx-tcp-segmentation", Feature::OFF);
        scene.device("vnet0").controller = None;
    },
};
