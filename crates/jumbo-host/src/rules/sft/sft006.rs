//! # SFT006 receive-work-on-one-processor
//!
//! ## What it checks
//! During the sample one processor did more than three times its share of the receive work (of two
//! or three processors: more than nine tenths) and spent more than 60 % of its time in soft
//! interrupts.
//!
//! ## Why it matters
//! The others idle while this one limits the whole host. It is the most common limit of hosts with
//! one busy queue, one interrupt, or one flow.
//!
//! ## How to see it by hand
//! NET_RX in `/proc/softirqs`; `mpstat -P ALL 1`, column %soft.
//!
//! ## Remedy
//! More queues (RSS001), interrupts on different processors (IRQ001), or RPS (STR002).
//!
//! ## When to ignore it
//! One single flow: it can only be on one processor at a time. GRO, a larger MTU and RFS help it.
//!
//! ## Since kernel
//! 2.6.
//!
//! ## Sources
//! Documentation/networking/scaling.rst, Linux 6.18.

use super::super::prelude::*;
#[cfg(test)]
fn load(scene: &mut super::super::scene::Scene, cpu: u32, softirq: u64) {
    use crate::datum::Datum;
    let (Datum::Known { value: runs, .. }, Datum::Known { value: ticks, .. }) =
        (&mut scene.now.net_rx, &mut scene.now.ticks)
    else {
        panic!("counters");
    };
    *runs.entry(cpu).or_default() += 100_000;
    let ticks = ticks.entry(cpu).or_default();
    ticks.total += 1000;
    ticks.softirq += softirq;
}

pub(super) const RULE: Rule = Rule {
    id: "SFT006",
    name: "receive-work-on-one-processor",
    severity: Severity::Error,
    layer: Layer::Host,
    class: Class::Advice,
    sampled: true,
    scope: Scope::Host(check),
    source: "",
};

const SHARES_MAX: f64 = 3.0;
const ALONE: f64 = 0.9;
const BUSY: f64 = 0.6;

fn check(view: &View<'_>) -> Outcome {
    view.machine_wide()?;
    let runs = super::net_rx_changes(view)?;
    let total: u64 = runs.values().sum();
    let Some((cpu, most)) = runs
        .iter()
        .max_by_key(|(_, runs)| **runs)
        .filter(|_| runs.len() > 1)
    else {
        return NOT_APPLICABLE;
    };
    let share = *most as f64 / total.max(1) as f64;
    let limit = if runs.len() > 3 {
        SHARES_MAX / runs.len() as f64
    } else {
        ALONE
    };
    let busy = super::softirq_share(view, *cpu)?;
    fault_if(share > limit && busy > BUSY, || {
        Fault::new(format!("processor {cpu} does nearly all receive work"))
            .saw("/proc/softirqs", format!("NET_RX: {:.0} % on processor {cpu}", share * 100.0))
            .saw("/proc/stat", format!("{:.0} % of its time in soft interrupts", busy * 100.0))
            .fix("more queues (ethtool -L), interrupts on other processors (/proc/irq/N/smp_affinity_list), or RPS")
    })
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        load(scene, 1, 700);
    },
    with: &[],
    silent: |scene| {
        // As uneven, but idle.
        load(scene, 1, 10);
    },
};
