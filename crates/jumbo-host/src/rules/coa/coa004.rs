//! # COA004 interrupt-after-one-packet
//!
//! ## What it checks
//! A network card that interrupts after a single packet (`rx-frames` 1) although it could wait for
//! more.
//!
//! ## Why it matters
//! The wait in microseconds (`rx-usecs`) then never takes effect: an interrupt per packet under
//! load.
//!
//! ## How to see it by hand
//! `ethtool -c DEV | grep rx-frames`
//!
//! ## Remedy
//! `ethtool -C DEV rx-frames 64`, or adaptive.
//!
//! ## When to ignore it
//! Latency is all that matters. A virtio card without NOTF_COAL has the number but no choice; it is
//! left out.
//!
//! ## Since kernel
//! 2.6; virtio 5.18 (NOTF_COAL).
//!
//! ## Sources
//! Documentation/networking/ethtool-netlink.rst (COALESCE_GET), Linux 6.18; virtio 1.3, section
//! 5.1.6.5.9.

use super::super::prelude::*;
#[cfg(test)]
fn set(scene: &mut super::super::scene::Scene) {
    let coalesce = crate::snapshot::Coalesce {
        rx_max_frames: Some(1),
        rx_usecs: Some(8),
        ..Default::default()
    };
    scene.device("eth0").coalesce = crate::datum::Datum::known(Some(coalesce), "scene");
}

pub(super) const RULE: Rule = Rule {
    id: "COA004",
    name: "interrupt-after-one-packet",
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
    let bits = device.virtio_bits.get()?;
    let fixed = bits
        .as_ref()
        .is_some_and(|bits| !bits.contains(&52) && !bits.contains(&53));
    if view.profile == Profile::Latency || fixed {
        return NOT_APPLICABLE;
    }
    fault_if(
        coalesce.rx_max_frames == Some(1) && coalesce.adaptive_rx != Some(true),
        || {
            Fault::new(format!("{} interrupts after every packet", device.name))
                .saw(device.coalesce.source(), "rx-max-frames: 1")
                .set(super::knob(device, Moderation::RxFrames), 64u32)
        },
    )
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| set(scene),
    with: &[],
    silent: |scene| {
        set(scene);
        scene.device("eth0").virtio_bits =
            crate::datum::Datum::known(Some(vec![1, 2, 7, 8]), "scene");
    },
};
