//! # COA002 moderation-too-long-for-latency
//!
//! ## What it checks
//! With the profile latency: a network card that waits 100 microseconds or more before it
//! interrupts (`rx-usecs`), and does not adapt.
//!
//! ## Why it matters
//! The wait is added to every round trip of an otherwise idle link.
//!
//! ## How to see it by hand
//! `ethtool -c DEV | grep rx-usecs`
//!
//! ## Remedy
//! `ethtool -C DEV rx-usecs 8`, or adaptive.
//!
//! ## When to ignore it
//! Throughput per processor matters more.
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
    id: "COA002",
    name: "moderation-too-long-for-latency",
    severity: Severity::Warning,
    layer: Layer::Host,
    class: Class::Safe,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

fn check(device: &Device, view: &View<'_>) -> Outcome {
    let Some(coalesce) = device.coalesce.get()?.filter(|_| device.is_nic()) else {
        return NOT_APPLICABLE;
    };
    if view.profile != Profile::Latency {
        return NOT_APPLICABLE;
    }
    let rx_usecs = coalesce.rx_usecs.unwrap_or(0);
    fault_if(
        rx_usecs >= 100 && coalesce.adaptive_rx != Some(true),
        || {
            Fault::new(format!(
                "{} adds up to {rx_usecs} us to every round trip",
                device.name
            ))
            .saw(device.coalesce.source(), format!("rx-usecs: {rx_usecs}"))
            .set(super::knob(device, Moderation::RxUsecs), 8u32)
        },
    )
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        scene.profile = Profile::Latency;
        set(
            scene,
            crate::snapshot::Coalesce {
                rx_usecs: Some(1022),
                ..Default::default()
            },
        );
    },
    with: &[],
    silent: |scene| {
        set(
            scene,
            crate::snapshot::Coalesce {
                rx_usecs: Some(1022),
                ..Default::default()
            },
        );
    },
};
