//! # STR003 rps-includes-interrupted-processor
//!
//! ## What it checks
//! RPS of a receive queue spreads to the very processor that the queue's interrupts go to, while
//! there are others in the mask, and the card's interrupts came more than 10,000 times a second
//! during the sample.
//!
//! ## Why it matters
//! That processor already takes the packets off the card; giving it a share of the stack's work as
//! well makes it the slowest.
//!
//! ## How to see it by hand
//! `cat /sys/class/net/DEV/queues/rx-N/rps_cpus /proc/irq/N/effective_affinity_list`
//!
//! ## Remedy
//! `echo MASK > /sys/class/net/DEV/queues/rx-N/rps_cpus` without it.
//!
//! ## When to ignore it
//! The interrupt rate is low.
//!
//! ## Since kernel
//! 2.6.35.
//!
//! ## Sources
//! Documentation/networking/scaling.rst, section RPS (suggested configuration), Linux 6.18.

use super::super::prelude::*;
#[cfg(test)]
fn busy(scene: &mut super::super::scene::Scene, interrupts: u64) {
    use crate::datum::Datum;
    let (Datum::Known { value: irqs, .. }, Datum::Known { value: queues, .. }) =
        (&mut scene.now.irqs, &mut scene.now.devices[0].rx_queues)
    else {
        panic!("interrupts and queues");
    };
    irqs.entry(40).or_default().count += interrupts;
    for queue in queues {
        queue.rps_cpus = Datum::known("0-3".parse().expect("processors"), "scene");
    }
}

pub(super) const RULE: Rule = Rule {
    id: "STR003",
    name: "rps-includes-interrupted-processor",
    severity: Severity::Info,
    layer: Layer::Host,
    class: Class::Safe,
    sampled: true,
    scope: Scope::Device(check),
    source: "",
};

const RATE_MIN: f64 = 10_000.0;

fn check(device: &Device, view: &View<'_>) -> Outcome {
    let masks = super::masks(device)?;
    let irqs = super::super::irq::receive_irqs(view.now, device)?;
    if irqs.is_empty() || masks.iter().all(|(_, cpus)| cpus.len() < 2) {
        return NOT_APPLICABLE;
    }
    view.machine_wide()?;
    let (before, seconds) = view.earlier()?;
    let then = before.irqs.get()?;
    for ((number, irq), (queue, cpus)) in irqs.iter().zip(&masks) {
        let hit = irq.effective.get()?.and(cpus);
        let earlier = then.get(number).map_or(irq.count, |irq| irq.count);
        let rate = irq.count.saturating_sub(earlier) as f64 / seconds;
        if cpus.len() > 1 && !hit.is_empty() && rate > RATE_MIN {
            return Fault::new(format!(
                "the busiest processor of {} gets a share by RPS too",
                device.name
            ))
            .saw(super::place(device, *queue), cpus)
            .saw_datum(&irq.effective)
            .saw(
                "/proc/interrupts",
                format!("{number}: {rate:.0} interrupts/s"),
            )
            .set(super::rps(device, *queue), cpus.without(&hit))
            .found();
        }
    }
    PASS
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| busy(scene, 1_000_000),
    with: &["STR001"],
    silent: |scene| busy(scene, 1000),
};
