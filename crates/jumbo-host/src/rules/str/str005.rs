//! # STR005 rps-on-isolated-processor
//!
//! ## What it checks
//! RPS spreads packets to processors that are isolated, tickless or offline.
//!
//! ## Why it matters
//! Isolated processors are kept free for a program that must not be interrupted; this interrupts
//! it.
//!
//! ## How to see it by hand
//! `cat /sys/devices/system/cpu/isolated /sys/devices/system/cpu/nohz_full`; `grep .
//! /sys/class/net/DEV/queues/rx-*/rps_cpus`
//!
//! ## Remedy
//! `echo MASK > /sys/class/net/DEV/queues/rx-N/rps_cpus` without them.
//!
//! ## When to ignore it
//! The program that owns the processor is the one that receives.
//!
//! ## Since kernel
//! 2.6.35.
//!
//! ## Sources
//! Documentation/networking/scaling.rst, section RPS, Linux 6.18.

use super::super::prelude::*;
#[cfg(test)]
fn rps(scene: &mut super::super::scene::Scene, device: &str, cpus: &str) {
    let crate::datum::Datum::Known { value, .. } = &mut scene.device(device).rx_queues else {
        panic!("queues")
    };
    for queue in value {
        queue.rps_cpus = crate::datum::Datum::known(cpus.parse().expect("processors"), "scene");
    }
}

pub(super) const RULE: Rule = Rule {
    id: "STR005",
    name: "rps-on-isolated-processor",
    severity: Severity::Warning,
    layer: Layer::Host,
    class: Class::Safe,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

fn check(device: &Device, view: &View<'_>) -> Outcome {
    let masks = super::masks(device)?;
    if masks.iter().all(|(_, cpus)| cpus.is_empty()) {
        return PASS;
    }
    let (online, isolated) = (view.now.cpus.online.get()?, view.now.cpus.isolated.get()?);
    let free = online.without(isolated);
    let mut bad = masks;
    bad.retain(|(_, cpus)| !cpus.without(&free).is_empty());
    match bad.first().copied() {
        Some((queue, cpus)) => Fault::new(format!(
            "{} sends packets to processors that are to be left alone",
            device.name
        ))
        .saw(super::place(device, queue), cpus)
        .saw(
            "/sys/devices/system/cpu",
            format!("online {online}, isolated {isolated}"),
        )
        .change_masks(
            device,
            bad.iter().map(|(queue, cpus)| (*queue, cpus.and(&free))),
        )
        .found(),
        None => PASS,
    }
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        scene.now.cpus.isolated =
            crate::datum::Datum::known("3".parse().expect("processors"), "scene");
        rps(scene, "veth0", "2-3");
    },
    with: &["IRQ006"],
    silent: |scene| {
        rps(scene, "veth0", "2-3");
    },
};
