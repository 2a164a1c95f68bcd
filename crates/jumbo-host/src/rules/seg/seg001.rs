//! # SEG001 tso-off
//!
//! ## What it checks
//! TCP segmentation offload is off, though it could be on, on a network card, bridge or veth that
//! is up.
//!
//! ## Why it matters
//! The host cuts every packet itself. Over a veth with two processors, 25.7 Gbit/s fell to 6.8, at
//! 3.8 times the processor time per bit.
//!
//! ## How to see it by hand
//! `ethtool -k DEV | grep tcp-segmentation-offload`
//!
//! ## Remedy
//! `ethtool -K DEV tso on`
//!
//! ## When to ignore it
//! A driver is known to hang with it: e1000e on I219 (`Detected Hardware Unit Hang` in the kernel
//! log).
//!
//! ## Since kernel
//! 2.5.33.
//!
//! ## Sources
//! net/core/dev.c (netif_skb_features, validate_xmit_skb), Linux 6.18.

use super::super::prelude::*;
#[cfg(test)]
use crate::snapshot::Feature;

pub(super) const RULE: Rule = Rule {
    id: "SEG001",
    name: "tso-off",
    severity: Severity::Warning,
    layer: Layer::Host,
    class: Class::Safe,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

fn check(device: &Device, _: &View<'_>) -> Outcome {
    if !device.up || device.tun.is_some() || device.kind == "loopback" {
        return NOT_APPLICABLE;
    }
    let features = device.features.get()?;
    let off = |name: &&str| {
        let tso = features.get(name);
        // Asked for and denied has a cause of its own: SEG002, SEG003.
        !tso.active && !tso.wanted && !tso.fixed
    };
    let off: Vec<&str> = Features::TSO
        .into_iter()
        .filter(|name| off(&name))
        .collect();
    fault_if(!off.is_empty(), || {
        let fault = Fault::new(format!(
            "{} leaves TCP segmentation to the processor",
            device.name
        ));
        let seen = off
            .iter()
            .fold(fault, |fault, name| fault.saw_feature(device, name));
        seen.turn_all(device, &Features::TSO, true)
    })
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        scene.feature("eth0", "tx-tcp-segmentation", Feature::OFF);
    },
    with: &["SEG005"],
    silent: |scene| {
        scene.feature("eth0", "tx-tcp-segmentation", Feature::ABSENT);
    },
};
