//! # SFT003 flow-limit-drops
//!
//! ## What it checks
//! The flow limit dropped packets during the sample: a backlog was more than half full of one flow.
//!
//! ## Why it matters
//! The limit protects small flows from a large one; the large one loses packets.
//!
//! ## How to see it by hand
//! `cat /proc/net/softnet_stat`, eleventh column, hexadecimal.
//!
//! ## Remedy
//! Spread the load, or raise net.core.netdev_max_backlog; net.core.flow_limit_cpu_bitmap turns the
//! limit off.
//!
//! ## When to ignore it
//! The large flow is an attack or a test.
//!
//! ## Since kernel
//! 3.11.
//!
//! ## Sources
//! net/core/dev.c (skb_flow_limit), Linux 6.18; Documentation/networking/scaling.rst.

use super::super::prelude::*;
#[cfg(test)]
fn cpu(scene: &mut super::super::scene::Scene) -> &mut crate::snapshot::SoftnetCpu {
    let crate::datum::Datum::Known { value, .. } = &mut scene.now.softnet else {
        panic!("softnet")
    };
    &mut value[1]
}

pub(super) const RULE: Rule = Rule {
    id: "SFT003",
    name: "flow-limit-drops",
    severity: Severity::Info,
    layer: Layer::Host,
    class: Class::Advice,
    sampled: true,
    scope: Scope::Host(check),
    source: "",
};

fn check(view: &View<'_>) -> Outcome {
    view.machine_wide()?;
    let (changes, seconds) = super::changes(view)?;
    let dropped: u64 = changes
        .iter()
        .map(|change| u64::from(change.flow_limit))
        .sum();
    fault_if(dropped > 0, || {
        Fault::new("one flow fills a processor's backlog and loses packets")
            .saw(
                "/proc/net/softnet_stat",
                format!("flow_limit_count: {dropped} more in {seconds:.1} s"),
            )
            .fix("spread the load, or raise net.core.netdev_max_backlog")
    })
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        cpu(scene).flow_limit = 9;
    },
    with: &[],
    silent: |scene| {
        cpu(scene).flow_limit = 9;
        scene.before.softnet = scene.now.softnet.clone();
    },
};
