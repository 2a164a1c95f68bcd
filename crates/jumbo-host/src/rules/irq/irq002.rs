//! # IRQ002 interrupt-on-far-node
//!
//! ## What it checks
//! A receive interrupt of a network card goes to a processor of another NUMA node than the card's.
//!
//! ## Why it matters
//! Descriptors and packets cross the link between the nodes.
//!
//! ## How to see it by hand
//! `cat /sys/class/net/DEV/device/numa_node /proc/irq/N/effective_affinity_list`; `lscpu
//! -e=CPU,NODE`
//!
//! ## Remedy
//! `echo CPU > /proc/irq/N/smp_affinity_list` with a processor of the card's node.
//!
//! ## When to ignore it
//! The near node is full and the far one was chosen on purpose: waive it with the reason.
//!
//! ## Since kernel
//! 4.15 (effective_affinity).
//!
//! ## Sources
//! Documentation/networking/scaling.rst, Linux 6.18.

use super::super::prelude::*;
#[cfg(test)]
fn affinity(scene: &mut super::super::scene::Scene, cpu: impl Fn(u32) -> u32) {
    let crate::datum::Datum::Known { value, .. } = &mut scene.now.irqs else {
        panic!("interrupts")
    };
    for (number, irq) in value {
        irq.affinity = crate::datum::Datum::known([0, 1, 2, 3].into_iter().collect(), "scene");
        irq.effective =
            crate::datum::Datum::known([cpu(number - 40)].into_iter().collect(), "scene");
    }
}

#[cfg(test)]
fn two_nodes(scene: &mut super::super::scene::Scene) {
    let cpus = |text: &str| text.parse().expect("processors");
    let nodes = [(0, cpus("0-1")), (1, cpus("2-3"))].into();
    scene.now.cpus.nodes = crate::datum::Datum::known(nodes, "scene");
}

pub(super) const RULE: Rule = Rule {
    id: "IRQ002",
    name: "interrupt-on-far-node",
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
    let mut far = Vec::new();
    for (number, irq) in super::receive_irqs(view.now, device)? {
        if irq.effective.get()?.and(near).is_empty() {
            far.push((number, irq));
        }
    }
    fault_if(!far.is_empty(), || {
        let fault = Fault::new(format!("interrupts of {} go to another node", device.name)).saw(
            device.numa_node.source(),
            format!("node {node}: processors {near}"),
        );
        far.iter().fold(fault, |fault, (number, irq)| {
            fault.saw_datum(&irq.effective).set(
                Setting::IrqAffinity { irq: *number },
                super::targets(view.now, device),
            )
        })
    })
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| two_nodes(scene),
    with: &[],
    silent: |scene| {
        two_nodes(scene);
        affinity(scene, |queue| queue % 2);
    },
};
