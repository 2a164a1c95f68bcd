//! # COA001 interrupt-per-packet
//!
//! ## What it checks
//! A network card without interrupt moderation (`rx-usecs` 0, not adaptive) whose interrupts came
//! more than 50,000 times a second during the sample.
//!
//! ## Why it matters
//! Each packet interrupts the processor, and batches stay so small that GRO finds nothing to merge.
//!
//! ## How to see it by hand
//! `ethtool -c DEV`; `watch -d grep DEV /proc/interrupts`
//!
//! ## Remedy
//! `ethtool -C DEV adaptive-rx on`, or `rx-usecs` between 3 and 50.
//!
//! ## When to ignore it
//! The shortest round trip matters more than the processor.
//!
//! ## Since kernel
//! 2.6; netlink 5.7.
//!
//! ## Sources
//! Documentation/networking/ethtool-netlink.rst (COALESCE_GET), Linux 6.18.

use super::super::prelude::*;
#[cfg(test)]
fn set(scene: &mut super::super::scene::Scene, coalesce: crate::snapshot::Coalesce) {
    scene.device("eth0").coalesce = crate::datum::Datum::known(Some(coalesce), "scene");
}

pub(super) const RULE: Rule = Rule {
    id: "COA001",
    name: "interrupt-per-packet",
    severity: Severity::Warning,
    layer: Layer::Host,
    class: Class::Safe,
    sampled: true,
    scope: Scope::Device(check),
    source: "",
};

/// More than a processor takes without being mostly busy with interrupts.
const RATE_MAX: f64 = 50_000.0;

fn check(device: &Device, view: &View<'_>) -> Outcome {
    let Some(coalesce) = device.coalesce.get()?.filter(|_| device.is_nic()) else {
        return NOT_APPLICABLE;
    };
    if coalesce.rx_usecs != Some(0) || coalesce.adaptive_rx == Some(true) {
        return PASS;
    }
    view.machine_wide()?;
    let (before, seconds) = view.earlier()?;
    let numbers = device.irqs.get()?;
    let (now, then) = (view.now.irqs.get()?, before.irqs.get()?);
    let count = |irqs: &std::collections::BTreeMap<u32, crate::snapshot::Irq>| -> u64 {
        numbers
            .iter()
            .filter_map(|number| irqs.get(number))
            .map(|irq| irq.count)
            .sum()
    };
    let rate = count(now).saturating_sub(count(then)) as f64 / seconds;
    fault_if(rate > RATE_MAX, || {
        let fault = Fault::new(format!("{} interrupts for every packet", device.name))
            .saw(device.coalesce.source(), "rx-usecs: 0")
            .saw("/proc/interrupts", format!("{rate:.0} interrupts/s"));
        match coalesce.adaptive_rx {
            Some(_) => fault.set(super::knob(device, Moderation::AdaptiveRx), true),
            None => fault.set(super::knob(device, Moderation::RxUsecs), 8u32),
        }
    })
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        set(
            scene,
            crate::snapshot::Coalesce {
                rx_usecs: Some(0),
                ..Default::default()
            },
        );
        let crate::datum::Datum::Known { value, .. } = &mut scene.now.irqs else {
            return;
        };
        value.entry(40).or_default().count += 1_000_000;
    },
    with: &[],
    silent: |scene| {
        set(
            scene,
            crate::snapshot::Coalesce {
                rx_usecs: Some(0),
                ..Default::default()
            },
        );
    },
};
