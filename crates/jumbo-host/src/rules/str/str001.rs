//! # STR001 rps-beside-rss
//!
//! ## What it checks
//! RPS is on for every receive queue of a network card that has a queue for each processor already.
//!
//! ## Why it matters
//! RPS then only sends packets from one processor to another: an interrupt between processors for
//! nothing.
//!
//! ## How to see it by hand
//! `grep . /sys/class/net/DEV/queues/rx-*/rps_cpus`; `ethtool -l DEV`
//!
//! ## Remedy
//! `for q in /sys/class/net/DEV/queues/rx-*; do echo 0 > $q/rps_cpus; done`
//!
//! ## When to ignore it
//! RFS needs it, to bring packets to the processor of their program.
//!
//! ## Since kernel
//! 2.6.35.
//!
//! ## Sources
//! Documentation/networking/scaling.rst, section RPS, Linux 6.18.

use super::super::prelude::*;
#[cfg(test)]
fn rps(scene: &mut super::super::scene::Scene, device: &str, cpus: &str) {
    let crate::datum::Datum::Known { value, .. } = &mut scene.device(device).rx_queues else {
        panic!("queues")
    };
    for queue in value {
        queue.rps_cpus = crate::datum::Datum::known(cpus.parse().expect("processors"), "scene");
    }
}

pub(super) const RULE: Rule = Rule {
    id: "STR001",
    name: "rps-beside-rss",
    severity: Severity::Info,
    layer: Layer::Host,
    class: Class::Safe,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

fn check(device: &Device, view: &View<'_>) -> Outcome {
    let Some(channels) = device.channels.get()?.filter(|_| device.is_nic()) else {
        return NOT_APPLICABLE;
    };
    let online = view.now.cpus.online.get()?.len();
    let masks = super::masks(device)?;
    let everywhere = !masks.is_empty() && masks.iter().all(|(_, cpus)| !cpus.is_empty());
    fault_if(
        everywhere && channels.receive() as usize >= online && online > 1,
        || {
            Fault::new(format!(
                "{} spreads packets twice, by queues and by RPS",
                device.name
            ))
            .saw(
                device.channels.source(),
                format!("{} queues", channels.receive()),
            )
            .saw(super::place(device, 0), masks[0].1.to_mask())
            .change_masks(
                device,
                masks.iter().map(|(queue, _)| (*queue, CpuSet::default())),
            )
        },
    )
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| rps(scene, "eth0", "0-3"),
    with: &[],
    silent: |scene| rps(scene, "eth0", ""),
};
