//! # STR004 rps-across-nodes
//!
//! ## What it checks
//! RPS spreads packets of a network card to processors of another NUMA node.
//!
//! ## Why it matters
//! Each packet is then read from the other node's memory and cache.
//!
//! ## How to see it by hand
//! `cat /sys/class/net/DEV/device/numa_node /sys/class/net/DEV/queues/rx-*/rps_cpus`
//!
//! ## Remedy
//! `echo MASK > /sys/class/net/DEV/queues/rx-N/rps_cpus` with processors of the card's node.
//!
//! ## When to ignore it
//! The near node is full.
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

#[cfg(test)]
fn two_nodes(scene: &mut super::super::scene::Scene) {
    let cpus = |text: &str| text.parse().expect("processors");
    let nodes = [(0, cpus("0-1")), (1, cpus("2-3"))].into();
    scene.now.cpus.nodes = crate::datum::Datum::known(nodes, "scene");
}

pub(super) const RULE: Rule = Rule {
    id: "STR004",
    name: "rps-across-nodes",
    severity: Severity::Warning,
    layer: Layer::Host,
    class: Class::Safe,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

fn check(device: &Device, view: &View<'_>) -> Outcome {
    let Some(node) = *device.numa_node.get()? else {
        return NOT_APPLICABLE;
    };
    let nodes = view.now.cpus.nodes.get()?;
    let Some(near) = nodes.get(&node).filter(|_| nodes.len() > 1) else {
        return NOT_APPLICABLE;
    };
    let mut bad = super::masks(device)?;
    bad.retain(|(_, cpus)| !cpus.without(near).is_empty());
    match bad.first().copied() {
        Some((queue, cpus)) => Fault::new(format!(
            "{} sends packets to processors of another node",
            device.name
        ))
        .saw(super::place(device, queue), cpus)
        .saw(view.now.cpus.nodes.source(), format!("node {node}: {near}"))
        .change_masks(
            device,
            bad.iter().map(|(queue, cpus)| (*queue, cpus.and(near))),
        )
        .found(),
        None => PASS,
    }
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        two_nodes(scene);
        rps(scene, "eth0", "1-2");
        scene.device("eth0").channels = crate::datum::Datum::known(None, "scene");
    },
    with: &["IRQ002"],
    silent: |scene| {
        two_nodes(scene);
        rps(scene, "eth0", "0-1");
    },
};
