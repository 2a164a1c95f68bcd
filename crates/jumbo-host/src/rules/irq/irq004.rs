//! # IRQ004 irqbalance-moves-interrupts
//!
//! ## What it checks
//! With the profile latency: irqbalance runs.
//!
//! ## Why it matters
//! It moves interrupts of network cards about under load. Each move meets cold caches, and
//! affinities set by hand do not stay.
//!
//! ## How to see it by hand
//! `pidof irqbalance`
//!
//! ## Remedy
//! `systemctl disable --now irqbalance`, or exempt the card's interrupts with `--banirq` or a
//! policy script.
//!
//! ## When to ignore it
//! Nothing is pinned and latency may jitter.
//!
//! ## Since kernel
//! Any.
//!
//! ## Sources
//! irqbalance(1).

use super::super::prelude::*;

pub(super) const RULE: Rule = Rule {
    id: "IRQ004",
    name: "irqbalance-moves-interrupts",
    severity: Severity::Warning,
    layer: Layer::Host,
    class: Class::Safe,
    sampled: false,
    scope: Scope::Host(check),
    source: "",
};

fn check(view: &View<'_>) -> Outcome {
    let daemons = view.now.daemons.get()?;
    if view.profile != Profile::Latency {
        return NOT_APPLICABLE;
    }
    fault_if(daemons.iter().any(|daemon| daemon == "irqbalance"), || {
        Fault::new("irqbalance moves the interrupts that should stay")
            .saw("/proc/*/comm", "irqbalance")
            .fix("systemctl disable --now irqbalance")
    })
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        scene.now.daemons = crate::datum::Datum::known(vec!["irqbalance".into()], "scene");
        scene.profile = Profile::Latency;
    },
    with: &[],
    silent: |scene| {
        scene.now.daemons = crate::datum::Datum::known(vec!["irqbalance".into()], "scene");
    },
};
