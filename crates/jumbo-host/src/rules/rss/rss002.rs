//! # RSS002 more-queues-than-processors
//!
//! ## What it checks
//! A network card with more receive queues than there are processors.
//!
//! ## Why it matters
//! Several interrupts share a processor and smaller batches come from each queue: more work for the
//! same packets.
//!
//! ## How to see it by hand
//! `ethtool -l DEV`; `nproc`
//!
//! ## Remedy
//! `ethtool -L DEV combined N` with N up to the number of cores.
//!
//! ## When to ignore it
//! XDP needs a queue per processor for sending, which some drivers count here.
//!
//! ## Since kernel
//! 3.0; netlink 5.7.
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
    id: "RSS002",
    name: "more-queues-than-processors",
    severity: Severity::Info,
    layer: Layer::Host,
    class: Class::Reset,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

fn check(device: &Device, view: &View<'_>) -> Outcome {
    if !device.is_nic() {
        return NOT_APPLICABLE;
    }
    let Some(channels) = device.channels.get()? else {
        return NOT_APPLICABLE;
    };
    let online = u32::try_from(view.now.cpus.online.get()?.len()).unwrap_or(u32::MAX);
    fault_if(channels.receive() > online, || {
        Fault::new(format!(
            "{} has more queues than there are processors",
            device.name
        ))
        .saw(
            device.channels.source(),
            format!("{} queues", channels.receive()),
        )
        .saw_datum(&view.now.cpus.online)
        .set(super::queues_of(device, channels), online)
    })
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| queues(scene, 8),
    with: &[],
    silent: |scene| queues(scene, 4),
};
