//! # COA003 adaptive-moderation-off
//!
//! ## What it checks
//! A network card that can adapt its interrupt moderation to the load (`adaptive-rx`) and does not.
//!
//! ## Why it matters
//! A fixed wait is too long for few packets or too short for many.
//!
//! ## How to see it by hand
//! `ethtool -c DEV | grep Adaptive`
//!
//! ## Remedy
//! `ethtool -C DEV adaptive-rx on`
//!
//! ## When to ignore it
//! A fixed latency is wanted (profile latency).
//!
//! ## Since kernel
//! 2.6; netlink 5.7.
//!
//! ## Sources
//! Documentation/networking/net_dim.rst, Linux 6.18.

use super::super::prelude::*;
#[cfg(test)]
fn set(scene: &mut super::super::scene::Scene, coalesce: crate::snapshot::Coalesce) {
    scene.device("eth0").coalesce = crate::datum::Datum::known(Some(coalesce), "scene");
}

pub(super) const RULE: Rule = Rule {
    id: "COA003",
    name: "adaptive-moderation-off",
    severity: Severity::Info,
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
    // A virtio device whose host has no VQ_NOTF_COAL (bit 52) has the knob, but nothing behind it.
    let bits = device.virtio_bits.get()?;
    let empty = bits.as_ref().is_some_and(|bits| !bits.contains(&52));
    if view.profile == Profile::Latency || empty {
        return NOT_APPLICABLE;
    }
    fault_if(coalesce.adaptive_rx == Some(false), || {
        Fault::new(format!(
            "{} does not adapt its interrupts to the load",
            device.name
        ))
        .saw(device.coalesce.source(), "adaptive-rx: off")
        .set(super::knob(device, Moderation::AdaptiveRx), true)
    })
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        set(
            scene,
            crate::snapshot::Coalesce {
                adaptive_rx: Some(false),
                rx_usecs: Some(8),
                ..Default::default()
            },
        );
    },
    with: &[],
    silent: |scene| {
        // The driver has no such knob.
        set(
            scene,
            crate::snapshot::Coalesce {
                rx_usecs: Some(8),
                ..Default::default()
            },
        );
    },
};
