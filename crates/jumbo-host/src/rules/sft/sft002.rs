//! # SFT002 poll-loop-out-of-budget
//!
//! ## What it checks
//! On some processor the receive loop ended with work left more than ten times a second, and in
//! more than one of a hundred runs.
//!
//! ## Why it matters
//! Packets wait for the next run, behind everything else the processor does: latency rises in
//! steps. A few such events are normal; the rule judges the rate and the share, never the count.
//!
//! ## How to see it by hand
//! `cat /proc/net/softnet_stat`, third column, hexadecimal; NET_RX in `/proc/softirqs`.
//!
//! ## Remedy
//! Spread interrupts over processors first. Then `sysctl net.core.netdev_budget=600
//! net.core.netdev_budget_usecs=8000`.
//!
//! ## When to ignore it
//! Throughput matters, latency does not.
//!
//! ## Since kernel
//! 2.6; netdev_budget_usecs 4.12.
//!
//! ## Sources
//! net/core/dev.c (net_rx_action), Linux 6.18.

use super::super::prelude::*;
#[cfg(test)]
fn cpu(scene: &mut super::super::scene::Scene) -> &mut crate::snapshot::SoftnetCpu {
    let crate::datum::Datum::Known { value, .. } = &mut scene.now.softnet else {
        panic!("softnet")
    };
    &mut value[1]
}

pub(super) const RULE: Rule = Rule {
    id: "SFT002",
    name: "poll-loop-out-of-budget",
    severity: Severity::Warning,
    layer: Layer::Host,
    class: Class::Safe,
    sampled: true,
    scope: Scope::Host(check),
    source: "",
};

const RATE_MAX: f64 = 10.0;
const SHARE_MAX: f64 = 0.01;

fn check(view: &View<'_>) -> Outcome {
    view.machine_wide()?;
    let (changes, seconds) = super::changes(view)?;
    let runs = super::net_rx_changes(view)?;
    let squeezed = changes.iter().find(|change| {
        let events = f64::from(change.time_squeeze);
        let runs = runs
            .get(&change.cpu)
            .map_or(1.0, |runs| (*runs).max(1) as f64);
        events / seconds > RATE_MAX && events / runs > SHARE_MAX
    });
    match squeezed {
        Some(change) => Fault::new(format!(
            "processor {} does not finish what arrives",
            change.cpu
        ))
        .saw(
            "/proc/net/softnet_stat",
            format!(
                "time_squeeze: {} more in {seconds:.1} s",
                change.time_squeeze
            ),
        )
        .fix("spread interrupts (SFT006) first, then:")
        .set(
            Setting::Sysctl {
                name: "net.core.netdev_budget".into(),
            },
            600u32,
        )
        .found(),
        None => PASS,
    }
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        cpu(scene).time_squeeze = 500;
    },
    with: &[],
    silent: |scene| {
        // Fewer than ten a second.
        cpu(scene).time_squeeze = 50;
    },
};
