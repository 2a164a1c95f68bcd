//! # NAP006 unusual-gro-batch
//!
//! ## What it checks
//! `net.core.gro_normal_batch` is not 8, its default.
//!
//! ## Why it matters
//! GRO hands what it could not merge to the stack in lists of this length. Longer lists add
//! latency; shorter ones cost cache misses.
//!
//! ## How to see it by hand
//! `sysctl net.core.gro_normal_batch`
//!
//! ## Remedy
//! `sysctl net.core.gro_normal_batch=8`
//!
//! ## When to ignore it
//! It was measured on this host.
//!
//! ## Since kernel
//! 5.4.
//!
//! ## Sources
//! net/core/gro.c (gro_normal_one), Linux 6.18.

use super::super::prelude::*;

pub(super) const RULE: Rule = Rule {
    id: "NAP006",
    name: "unusual-gro-batch",
    severity: Severity::Info,
    layer: Layer::Host,
    class: Class::Safe,
    sampled: false,
    scope: Scope::Host(check),
    source: "",
};

fn check(view: &View<'_>) -> Outcome {
    let batch = view.now.sysctl("net.core.gro_normal_batch")?;
    fault_if(batch != 8, || {
        Fault::new(format!("GRO hands packets on in lists of {batch}"))
            .saw("/proc/sys/net/core/gro_normal_batch", batch)
            .set(super::sysctl("net.core.gro_normal_batch"), 8u32)
    })
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        scene.sysctl("net.core.gro_normal_batch", "64");
    },
    with: &[],
    silent: |scene| {
        scene.sysctl("net.core.gro_normal_batch", "8");
    },
};
