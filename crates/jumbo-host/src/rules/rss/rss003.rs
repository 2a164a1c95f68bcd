//! # RSS003 uneven-indirection
//!
//! ## What it checks
//! The RSS indirection table names a queue that does not exist, or gives one queue more than one
//! and a half times as many buckets as another.
//!
//! ## Why it matters
//! The flows spread as the buckets do: the favoured queue's processor is the bottleneck while
//! others idle. It is left over when queues were added after the table was set by hand.
//!
//! ## How to see it by hand
//! `ethtool -x DEV`
//!
//! ## Remedy
//! `ethtool -X DEV default`, or `equal N`.
//!
//! ## When to ignore it
//! The weights are meant, for processors that differ.
//!
//! ## Since kernel
//! 2.6.36; netlink 6.2.
//!
//! ## Sources
//! Documentation/networking/scaling.rst, section RSS Indirection Table, Linux 6.18.

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
    id: "RSS003",
    name: "uneven-indirection",
    severity: Severity::Warning,
    layer: Layer::Host,
    class: Class::Safe,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

const RATIO_MAX: f64 = 1.5;

fn check(device: &Device, _: &View<'_>) -> Outcome {
    let Some((buckets, queues)) = super::buckets(device)? else {
        return NOT_APPLICABLE;
    };
    let beyond = buckets.keys().find(|queue| **queue >= queues);
    let (most, least) = (
        buckets.values().max().copied().unwrap_or(0),
        buckets.values().min().copied().unwrap_or(0),
    );
    // A table that is no multiple of the queues differs by one.
    let uneven = most > least + 1 && most as f64 > least as f64 * RATIO_MAX;
    fault_if(beyond.is_some() || uneven, || {
        let what = match beyond {
            Some(queue) => format!(
                "{} spreads to queue {queue}, which does not exist",
                device.name
            ),
            None => format!("{} spreads its flows unevenly", device.name),
        };
        Fault::new(what)
            .saw(
                device.rss.source(),
                format!("buckets per queue: {least} to {most}"),
            )
            .saw(device.channels.source(), format!("{queues} queues"))
            .set(super::table_of(device), super::even(device, queues))
    })
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        table(
            scene,
            (0..128)
                .map(|bucket| if bucket < 80 { 0 } else { bucket % 3 + 1 })
                .collect(),
        )
    },
    with: &[],
    // 128 buckets do not divide by three.
    silent: |scene| table(scene, (0..128).map(|bucket| bucket % 3).collect()),
};
