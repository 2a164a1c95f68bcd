//! # IRQ001 all-interrupts-on-one-processor
//!
//! ## What it checks
//! All receive interrupts of a network card with several queues go to one processor. What counts is
//! `effective_affinity_list`; `smp_affinity` only says what is allowed.
//!
//! ## Why it matters
//! The queues are there and one processor serves them all.
//!
//! ## How to see it by hand
//! `for i in $(ls /sys/class/net/DEV/device/msi_irqs); do cat /proc/irq/$i/effective_affinity_list;
//! done`
//!
//! ## Remedy
//! `echo CPU > /proc/irq/N/smp_affinity_list`, one processor per queue.
//!
//! ## When to ignore it
//! The other processors are reserved on purpose.
//!
//! ## Since kernel
//! 4.15 (effective_affinity).
//!
//! ## Sources
//! Documentation/core-api/irq/irq-affinity.rst, Linux 6.18.

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

pub(super) const RULE: Rule = Rule {
    id: "IRQ001",
    name: "all-interrupts-on-one-processor",
    severity: Severity::Error,
    layer: Layer::Host,
    class: Class::Safe,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

fn check(device: &Device, view: &View<'_>) -> Outcome {
    let irqs = super::receive_irqs(view.now, device)?;
    let online = view.now.cpus.online.get()?;
    if irqs.len() < 2 || online.len() < 2 {
        return NOT_APPLICABLE;
    }
    let mut used = crate::cpus::CpuSet::default();
    for (_, irq) in &irqs {
        used = used.or(irq.effective.get()?);
    }
    fault_if(used.len() == 1, || {
        let fault = Fault::new(format!(
            "all {} receive interrupts of {} go to processor {used}",
            irqs.len(),
            device.name
        ));
        let fault = irqs
            .iter()
            .fold(fault, |fault, (_, irq)| fault.saw_datum(&irq.effective));
        let targets = super::targets(view.now, device);
        let spread = irqs.iter().zip(targets.0.iter().cycle());
        spread.fold(fault, |fault, ((number, _), cpu)| {
            let one = crate::cpus::CpuSet::from_iter([*cpu]);
            fault.set(Setting::IrqAffinity { irq: *number }, one)
        })
    })
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| affinity(scene, |_| 0),
    with: &["STR009"],
    silent: |scene| affinity(scene, |queue| queue % 2),
};
