//! # IRQ006 interrupt-on-isolated-processor
//!
//! ## What it checks
//! A receive interrupt goes to an isolated or tickless processor.
//!
//! ## Why it matters
//! The program that processor is kept free for is interrupted by every batch of packets.
//!
//! ## How to see it by hand
//! `cat /sys/devices/system/cpu/isolated`; `cat /proc/irq/N/effective_affinity_list`
//!
//! ## Remedy
//! `echo CPUS > /proc/irq/N/smp_affinity_list`; at boot `isolcpus=managed_irq,...` for interrupts
//! the kernel manages.
//!
//! ## When to ignore it
//! The program there is the one that receives.
//!
//! ## Since kernel
//! 4.15 (effective_affinity).
//!
//! ## Sources
//! Documentation/admin-guide/kernel-parameters.txt (isolcpus), Linux 6.18.

use super::super::prelude::*;

pub(super) const RULE: Rule = Rule {
    id: "IRQ006",
    name: "interrupt-on-isolated-processor",
    severity: Severity::Warning,
    layer: Layer::Host,
    class: Class::Safe,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

fn check(device: &Device, view: &View<'_>) -> Outcome {
    let irqs = super::receive_irqs(view.now, device)?;
    let isolated = view.now.cpus.isolated.get()?;
    view.now.cpus.online.get()?;
    let isolated_one = |(_, irq): &&(u32, &crate::snapshot::Irq)| {
        let cpus = irq.effective.ok();
        cpus.is_some_and(|cpus| !cpus.and(isolated).is_empty())
    };
    let hits: Vec<_> = irqs.iter().filter(isolated_one).collect();
    fault_if(!hits.is_empty(), || {
        let fault = Fault::new(format!(
            "interrupts of {} go to isolated processors",
            device.name
        ))
        .saw_datum(&view.now.cpus.isolated);
        let targets = super::targets(view.now, device);
        hits.iter().fold(fault, |fault, (number, irq)| {
            fault
                .saw_datum(&irq.effective)
                .set(Setting::IrqAffinity { irq: *number }, targets.clone())
        })
    })
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        scene.now.cpus.isolated =
            crate::datum::Datum::known("3".parse().expect("processors"), "scene");
    },
    with: &[],
    silent: |scene| {
        scene.now.cpus.isolated =
            crate::datum::Datum::known("7".parse().expect("processors"), "scene");
    },
};
