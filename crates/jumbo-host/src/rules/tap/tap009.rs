//! # TAP009 qemu-without-vhost
//!
//! ## What it checks
//! A TAP that QEMU has open without a vhost thread.
//!
//! ## Why it matters
//! Every packet is copied through QEMU's main loop, in the same thread that emulates everything
//! else: a system call and a context switch per packet.
//!
//! ## How to see it by hand
//! `ps -eLo comm | grep vhost-` shows a `vhost-PID` for each QEMU that uses vhost.
//!
//! ## Remedy
//! QEMU `-netdev tap,vhost=on`; libvirt uses it by default: look for `<driver name='qemu'/>` and
//! for the module vhost_net (`modprobe vhost_net`).
//!
//! ## When to ignore it
//! A machine with nearly no traffic.
//!
//! ## Since kernel
//! 2.6.34 (vhost-net); since 6.4 the thread is one of QEMU's own.
//!
//! ## Sources
//! drivers/vhost/net.c, kernel/vhost_task.c, Linux 6.18.

use super::super::prelude::*;
#[cfg(test)]
use crate::{datum::Datum, snapshot::Owner};

#[cfg(test)]
fn one(program: &str, vhost: bool) -> Datum<Vec<Owner>> {
    let owner = Owner {
        pid: 4711,
        program: program.into(),
        fds: 2,
        vcpus: 2,
        vhost,
        ..Owner::default()
    };
    Datum::known(vec![owner], "scene")
}

pub(super) const RULE: Rule = Rule {
    id: "TAP009",
    name: "qemu-without-vhost",
    severity: Severity::Warning,
    layer: Layer::Hypervisor,
    class: Class::Peer,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

fn check(device: &Device, _: &View<'_>) -> Outcome {
    if !device.is_tap() {
        return NOT_APPLICABLE;
    }
    let owner = device
        .owners
        .get()?
        .iter()
        .find(|owner| owner.program.starts_with("qemu"));
    let Some(owner) = owner else {
        return NOT_APPLICABLE;
    };
    fault_if(!owner.vhost, || {
        Fault::new(format!(
            "QEMU copies every packet of {} itself",
            device.name
        ))
        .saw(
            "/proc/*/fdinfo",
            format!("open in {}[{}]", owner.program, owner.pid),
        )
        .saw(
            format!("/proc/{}/task/*/comm", owner.pid),
            format!("no vhost-{}", owner.pid),
        )
        .fix(
            "QEMU: -netdev tap,vhost=on; libvirt: remove <driver name='qemu'/>; modprobe vhost_net",
        )
    })
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        scene.device("vnet0").owners = one("qemu-kvm", false);
    },
    with: &[],
    silent: |scene| {
        scene.device("vnet0").owners = one("jumbo", false);
    },
};
