//! # RSS004 queues-without-buckets
//!
//! ## What it checks
//! Some receive queues are in no bucket of the RSS indirection table.
//!
//! ## Why it matters
//! They get no packets unless a filter steers some there; their processors idle.
//!
//! ## How to see it by hand
//! `ethtool -x DEV`; `ethtool -n DEV` for filters.
//!
//! ## Remedy
//! `ethtool -X DEV default`, or `equal N`.
//!
//! ## When to ignore it
//! The queues are kept free on purpose, for a filter or an AF_XDP program.
//!
//! ## Since kernel
//! 2.6.36; netlink 6.2.
//!
//! ## Sources
//! Documentation/networking/scaling.rst, Linux 6.18.

use super::super::prelude::*;
#[cfg(test)]
fn table(scene: &mut super::super::scene::Scene, indirection: Vec<u32>) {
    let rss = crate::snapshot::Rss {
        indirection,
        key_is_zero: Some(false),
        ..Default::default()
    };
    scene.device("eth0").rss = crate::datum::Datum::known(Some(rss), "scene");
}

pub(super) const RULE: Rule = Rule {
    id: "RSS004",
    name: "queues-without-buckets",
    severity: Severity::Info,
    layer: Layer::Host,
    class: Class::Safe,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

fn check(device: &Device, _: &View<'_>) -> Outcome {
    let Some((buckets, queues)) = super::buckets(device)? else {
        return NOT_APPLICABLE;
    };
    let idle = (0..queues)
        .filter(|queue| !buckets.contains_key(queue))
        .count();
    fault_if(idle > 0, || {
        Fault::new(format!(
            "{idle} of {queues} queues of {} get no packets",
            device.name
        ))
        .saw(
            device.rss.source(),
            format!("buckets name {} queues", buckets.len()),
        )
        .set(super::table_of(device), super::even(device, queues))
    })
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| table(scene, (0..128).map(|bucket| bucket % 2).collect()),
    with: &[],
    silent: |scene| table(scene, (0..128).map(|bucket| bucket % 4).collect()),
};
