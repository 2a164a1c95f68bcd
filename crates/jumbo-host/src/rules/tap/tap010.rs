//! # TAP010 vhost-beside-its-vcpus
//!
//! ## What it checks
//! A virtual machine whose virtual processors are pinned, and whose vhost thread may run on the
//! same processors.
//!
//! ## Why it matters
//! The thread that brings packets competes with the virtual processor that waits for them: jitter
//! under load.
//!
//! ## How to see it by hand
//! `taskset -pc TID` of the threads `vhost-PID` and `CPU n/KVM`
//!
//! ## Remedy
//! libvirt `<emulatorpin>` (vhost threads follow it), or `taskset -pc CPUS TID`.
//!
//! ## When to ignore it
//! Processors are plenty and not pinned for latency.
//!
//! ## Since kernel
//! 2.6.34.
//!
//! ## Sources
//! drivers/vhost/vhost.c, Linux 6.18; libvirt, domain XML, CPU Tuning.

use super::super::prelude::*;
#[cfg(test)]
fn pin(scene: &mut super::super::scene::Scene, vcpus: &str, vhost: &str) {
    let crate::datum::Datum::Known { value, .. } = &mut scene.device("vnet0").owners else {
        panic!("owners")
    };
    value[0].vcpu_cpus = Some(vcpus.parse().expect("processors"));
    value[0].vhost_cpus = Some(vhost.parse().expect("processors"));
}

pub(super) const RULE: Rule = Rule {
    id: "TAP010",
    name: "vhost-beside-its-vcpus",
    severity: Severity::Info,
    layer: Layer::Hypervisor,
    class: Class::Safe,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

fn check(device: &Device, view: &View<'_>) -> Outcome {
    if !device.is_tap() || !device.carrier {
        return NOT_APPLICABLE;
    }
    let owner = device
        .owners
        .get()?
        .iter()
        .find(|owner| owner.vcpus > 0 && owner.vhost);
    let Some(owner) = owner else {
        return NOT_APPLICABLE;
    };
    let (Some(vcpus), Some(vhost)) = (&owner.vcpu_cpus, &owner.vhost_cpus) else {
        return NOT_APPLICABLE;
    };
    let pinned = !view.now.cpus.online.get()?.without(vcpus).is_empty();
    let shared = vcpus.and(vhost);
    fault_if(pinned && !shared.is_empty(), || {
        Fault::new(format!(
            "vhost of {} competes with the virtual processors it serves",
            device.name
        ))
        .saw(
            format!("/proc/{}/task/*/status", owner.pid),
            format!("virtual processors on {vcpus}, vhost on {vhost}"),
        )
        .fix(format!(
            "taskset -pc CPUS TID of vhost-{}, away from {shared}",
            owner.pid
        ))
    })
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| pin(scene, "0-1", "0-3"),
    with: &[],
    silent: |scene| pin(scene, "0-1", "2-3"),
};
