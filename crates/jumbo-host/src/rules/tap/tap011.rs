//! # TAP011 no-rx-batching
//!
//! ## What it checks
//! A TAP that a program other than vhost writes to, with `rx-frames` 0: each packet the program
//! writes walks the host's stack alone.
//!
//! ## Why it matters
//! With a batch the kernel takes several packets at once into the stack (drivers/net/tun.c,
//! tun_rx_batched), where GRO can merge them. It costs the time until the batch is full or the
//! program says it is the last.
//!
//! ## How to see it by hand
//! `ethtool -c TAP | grep rx-frames`
//!
//! ## Remedy
//! `ethtool -C TAP rx-frames 64`. It acts only on packets the program marks with MSG_MORE, which
//! file writes cannot do; vhost does.
//!
//! ## When to ignore it
//! The profile is latency, or the program writes super-packets anyway.
//!
//! ## Since kernel
//! 4.11 (rx batching), 4.15 (ethtool -C).
//!
//! ## Sources
//! drivers/net/tun.c (tun_rx_batched, tun_set_coalesce), Linux 6.18.

use super::super::prelude::*;
#[cfg(test)]
use crate::{datum::Datum, snapshot::Coalesce};

#[cfg(test)]
fn no_batch() -> Datum<Option<Coalesce>> {
    Datum::known(
        Some(Coalesce {
            rx_max_frames: Some(0),
            ..Coalesce::default()
        }),
        "scene",
    )
}

pub(super) const RULE: Rule = Rule {
    id: "TAP011",
    name: "no-rx-batching",
    severity: Severity::Info,
    layer: Layer::Host,
    class: Class::Safe,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

fn check(device: &Device, view: &View<'_>) -> Outcome {
    if !device.is_tap() || view.profile == Profile::Latency {
        return NOT_APPLICABLE;
    }
    let Some(coalesce) = device.coalesce.get()? else {
        return NOT_APPLICABLE;
    };
    let owners = device.owners.get()?;
    let vhost = owners.iter().any(|owner| owner.vhost);
    fault_if(vhost && coalesce.rx_max_frames == Some(0), || {
        Fault::new(format!(
            "vhost hands the packets of {} to the stack one by one",
            device.name
        ))
        .saw(device.coalesce.source(), "rx-max-frames: 0")
        .set(super::super::coa::knob(device, Moderation::RxFrames), 64u32)
    })
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        scene.device("vnet0").coalesce = no_batch();
    },
    with: &[],
    silent: |scene| {
        scene.device("vnet0").coalesce = no_batch();
        scene.profile = Profile::Latency;
    },
};
