//! # STR009 xps-beside-interrupt
//!
//! ## What it checks
//! A transmit queue whose XPS processors do not include the one that its interrupts go to.
//!
//! ## Why it matters
//! What one processor sends another frees: the packet's memory and the queue's state travel between
//! their caches.
//!
//! ## How to see it by hand
//! `cat /sys/class/net/DEV/queues/tx-N/xps_cpus /proc/irq/N/effective_affinity_list`
//!
//! ## Remedy
//! `echo MASK > /sys/class/net/DEV/queues/tx-N/xps_cpus` with the interrupt's processor.
//!
//! ## When to ignore it
//! Interrupts wander (irqbalance), or receive and transmit queues have interrupts of their own.
//!
//! ## Since kernel
//! 2.6.38.
//!
//! ## Sources
//! Documentation/networking/scaling.rst, section XPS, Linux 6.18.

use super::super::prelude::*;
#[cfg(test)]
fn map(scene: &mut super::super::scene::Scene, cpus: &str) {
    let crate::datum::Datum::Known { value, .. } = &mut scene.device("eth0").tx_queues else {
        panic!("queues")
    };
    value[0].xps_cpus =
        crate::datum::Datum::known(Some(cpus.parse().expect("processors")), "scene");
}

pub(super) const RULE: Rule = Rule {
    id: "STR009",
    name: "xps-beside-interrupt",
    severity: Severity::Warning,
    layer: Layer::Host,
    class: Class::Safe,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

fn check(device: &Device, view: &View<'_>) -> Outcome {
    if !device.is_nic() {
        return NOT_APPLICABLE;
    }
    let queues = device.tx_queues.get()?;
    let irqs = super::super::irq::receive_irqs(view.now, device)?;
    // Only where each queue has one interrupt for both directions is it known which belongs to which.
    if irqs.len() != queues.len() || queues.len() < 2 {
        return NOT_APPLICABLE;
    }
    let mut apart = Vec::new();
    for (queue, (number, irq)) in queues.iter().zip(&irqs) {
        let mapped = queue.xps_cpus.get()?.as_ref();
        let effective = irq.effective.get()?;
        if let Some(cpus) = mapped.filter(|cpus| !cpus.is_empty())
            && cpus.and(effective).is_empty()
        {
            apart.push((queue.queue, cpus, *number, effective));
        }
    }
    fault_if(!apart.is_empty(), || {
        let fault = Fault::new(format!(
            "{} frees sent packets on other processors than they came from",
            device.name
        ));
        let fault = apart
            .iter()
            .fold(fault, |fault, (queue, cpus, number, effective)| {
                let file = super::xps(device, *queue).file().unwrap_or_default();
                let irq = format!("/proc/irq/{number}/effective_affinity_list");
                fault.saw(file, cpus).saw(irq, effective)
            });
        let right = apart
            .iter()
            .map(|(queue, _, _, effective)| (*queue, (*effective).clone()));
        fault.change_xps(device, right)
    })
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| map(scene, "3"),
    with: &[],
    silent: |scene| map(scene, "0-3"),
};
