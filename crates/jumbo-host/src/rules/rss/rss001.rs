//! # RSS001 fewer-queues-than-cores
//!
//! ## What it checks
//! A network card with fewer receive queues than it could have and than its NUMA node has physical
//! cores.
//!
//! ## Why it matters
//! Each queue is served by one processor at a time. Cores without a queue cannot help, and with one
//! queue one core limits the card.
//!
//! ## How to see it by hand
//! `ethtool -l DEV`; `lscpu -e=CPU,CORE,NODE`
//!
//! ## Remedy
//! `ethtool -L DEV combined N`; the driver makes its queues anew. The smallest number that does not
//! overflow is the most efficient; hyper-threads add nothing.
//!
//! ## When to ignore it
//! The card's traffic fits on the cores it has: no drops (RNG001), no processor busy with soft
//! interrupts (SFT006).
//!
//! ## Since kernel
//! 2.6.38 (ethtool -L 3.0); netlink 5.7.
//!
//! ## Sources
//! Documentation/networking/scaling.rst, Linux 6.18.

use super::super::prelude::*;
#[cfg(test)]
fn queues(scene: &mut super::super::scene::Scene, combined: u32) {
    let channels = crate::snapshot::Channels {
        combined,
        combined_max: 16,
        ..Default::default()
    };
    scene.device("eth0").channels = crate::datum::Datum::known(Some(channels), "scene");
    scene.device("eth0").rss = crate::datum::Datum::known(None, "scene");
}

pub(super) const RULE: Rule = Rule {
    id: "RSS001",
    name: "fewer-queues-than-cores",
    severity: Severity::Warning,
    layer: Layer::Host,
    class: Class::Reset,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

fn check(device: &Device, view: &View<'_>) -> Outcome {
    if !device.is_nic() || !device.up {
        return NOT_APPLICABLE;
    }
    let Some(channels) = device.channels.get()? else {
        return NOT_APPLICABLE;
    };
    let cores = u32::try_from(super::local_cores(view.now, device)?).unwrap_or(u32::MAX);
    let good = channels.receive_max().min(cores);
    fault_if(channels.receive() < good, || {
        Fault::new(format!(
            "{} spreads over {} of {cores} cores",
            device.name,
            channels.receive()
        ))
        .saw(
            device.channels.source(),
            format!(
                "{} queues of {}",
                channels.receive(),
                channels.receive_max()
            ),
        )
        .saw(
            view.now.cpus.cores.source(),
            format!("{cores} cores near the card"),
        )
        .set(super::queues_of(device, channels), good)
    })
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| queues(scene, 2),
    with: &[],
    silent: |scene| queues(scene, 4),
};
