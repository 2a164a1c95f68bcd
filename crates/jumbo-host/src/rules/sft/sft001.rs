//! # SFT001 backlog-overflows
//!
//! ## What it checks
//! The second column of `/proc/net/softnet_stat` rose during the sample: packets were dropped
//! because a processor's backlog was full.
//!
//! ## Why it matters
//! The backlog is where RPS, veth and TUN hand packets over. What does not fit is lost without an
//! error at any device.
//!
//! ## How to see it by hand
//! `cat /proc/net/softnet_stat`, second column, hexadecimal, one line per online processor.
//!
//! ## Remedy
//! Spread the work over more processors (RPS, more queues); then `sysctl
//! net.core.netdev_max_backlog=N`.
//!
//! ## When to ignore it
//! Never while it rises.
//!
//! ## Since kernel
//! 2.6.
//!
//! ## Sources
//! net/core/dev.c (enqueue_to_backlog), net/core/net-procfs.c (softnet_seq_show), Linux 6.18.

use super::super::prelude::*;
#[cfg(test)]
fn cpu(scene: &mut super::super::scene::Scene) -> &mut crate::snapshot::SoftnetCpu {
    let crate::datum::Datum::Known { value, .. } = &mut scene.now.softnet else {
        panic!("softnet")
    };
    &mut value[1]
}

pub(super) const RULE: Rule = Rule {
    id: "SFT001",
    name: "backlog-overflows",
    severity: Severity::Error,
    layer: Layer::Host,
    class: Class::Safe,
    sampled: true,
    scope: Scope::Host(check),
    source: "",
};

fn check(view: &View<'_>) -> Outcome {
    view.machine_wide()?;
    let (changes, seconds) = super::changes(view)?;
    let dropped: u64 = changes.iter().map(|change| u64::from(change.dropped)).sum();
    let limit = view.now.sysctl("net.core.netdev_max_backlog");
    fault_if(dropped > 0, || {
        let fault = Fault::new("packets are dropped because a processor's backlog is full");
        let fault = fault.saw(
            "/proc/net/softnet_stat",
            format!("dropped: {dropped} more in {seconds:.1} s"),
        );
        match limit {
            Ok(limit) => fault
                .saw("/proc/sys/net/core/netdev_max_backlog", limit)
                .fix("spread the work (SFT006), then:")
                .set(
                    Setting::Sysctl {
                        name: "net.core.netdev_max_backlog".into(),
                    },
                    limit * 2,
                ),
            Err(_) => fault.fix("spread the work (SFT006), then raise net.core.netdev_max_backlog"),
        }
    })
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        cpu(scene).dropped = 9;
    },
    with: &[],
    silent: |scene| {
        cpu(scene).dropped = 9;
        scene.before.softnet = scene.now.softnet.clone();
    },
};
