//! # NUM001 machine-far-from-its-card
//!
//! ## What it checks
//! A TAP on a bridge whose network card is on one NUMA node, while the virtual machine's processors
//! are pinned to others.
//!
//! ## Why it matters
//! Every packet crosses the link between the nodes, twice when vhost runs elsewhere still.
//!
//! ## How to see it by hand
//! `cat /sys/class/net/UPLINK/device/numa_node`; `taskset -pc TID` of the threads `CPU n/KVM`
//!
//! ## Remedy
//! Pin the machine to the card's node (libvirt `<vcpupin>`, `<numatune>`), or give it a card of its
//! own node.
//!
//! ## When to ignore it
//! The near node is full.
//!
//! ## Since kernel
//! Any.
//!
//! ## Sources
//! Documentation/admin-guide/mm/numa_memory_policy.rst, Linux 6.18; libvirt, domain XML, CPU
//! Tuning.

use super::super::prelude::*;
#[cfg(test)]
fn place(scene: &mut super::super::scene::Scene, vcpus: &str) {
    let cpus = |text: &str| text.parse().expect("processors");
    scene.now.cpus.nodes =
        crate::datum::Datum::known([(0, cpus("0-1")), (1, cpus("2-3"))].into(), "scene");
    let crate::datum::Datum::Known { value, .. } = &mut scene.device("vnet0").owners else {
        panic!("owners")
    };
    value[0].vcpu_cpus = Some(cpus(vcpus));
}

pub(super) const RULE: Rule = Rule {
    id: "NUM001",
    name: "machine-far-from-its-card",
    severity: Severity::Warning,
    layer: Layer::Hypervisor,
    class: Class::Peer,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

fn check(device: &Device, view: &View<'_>) -> Outcome {
    if !device.is_tap() || device.controller.is_none() {
        return NOT_APPLICABLE;
    }
    let nodes = view.now.cpus.nodes.get()?;
    let owner = device
        .owners
        .get()?
        .iter()
        .find_map(|owner| Some((owner.pid, owner.vcpu_cpus.as_ref()?)));
    let Some((pid, vcpus)) = owner.filter(|_| nodes.len() > 1) else {
        return NOT_APPLICABLE;
    };
    let uplinks = view
        .now
        .devices
        .iter()
        .filter(|uplink| uplink.is_nic() && uplink.controller == device.controller);
    for uplink in uplinks {
        let Some(near) = uplink.numa_node.get()?.and_then(|node| nodes.get(&node)) else {
            continue;
        };
        if vcpus.and(near).is_empty() {
            return Fault::new(format!(
                "the machine behind {} runs on another node than {}",
                device.name, uplink.name
            ))
            .saw(
                format!("/proc/{pid}/task/*/status"),
                format!("virtual processors on {vcpus}"),
            )
            .saw(
                uplink.numa_node.source(),
                format!("{}: processors {near}", uplink.name),
            )
            .fix(format!("libvirt: <vcpupin vcpu='0' cpuset='{near}'/>"))
            .found();
        }
    }
    PASS
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| place(scene, "2-3"),
    with: &["IRQ002"],
    silent: |scene| place(scene, "0-1"),
};
