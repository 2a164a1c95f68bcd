//! # TAP008 fewer-queues-than-vcpus
//!
//! ## What it checks
//! A TAP of a virtual machine with fewer attached queues than the machine has virtual processors.
//!
//! ## Why it matters
//! Each queue pair is served by one virtual processor and one vhost thread. With one queue the
//! whole guest receives on one processor while the others wait.
//!
//! ## How to see it by hand
//! `ip -d link show TAP` (multi_queue, numqueues), and the threads `CPU n/KVM` in
//! `/proc/PID/task/*/comm`.
//!
//! ## Remedy
//! libvirt `<driver queues='N'/>`, QEMU `queues=N` with `mq=on,vectors=2N+2`; then in a Linux guest
//! `ethtool -L DEV combined N` where the driver does not do it.
//!
//! ## When to ignore it
//! The guest moves little data, or memory is short: a queue costs 64 KB and more of kernel memory.
//! Guests that mostly send can do worse with many queues.
//!
//! ## Since kernel
//! 3.8 (IFF_MULTI_QUEUE).
//!
//! ## Sources
//! drivers/net/tun.c, Linux 6.18; virtio 1.3, section 5.1.6.5.6 (multiqueue).

use super::super::prelude::*;

pub(super) const RULE: Rule = Rule {
    id: "TAP008",
    name: "fewer-queues-than-vcpus",
    severity: Severity::Warning,
    layer: Layer::Hypervisor,
    class: Class::Peer,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

fn check(device: &Device, _: &View<'_>) -> Outcome {
    let Some(tun) = device.tun.filter(|_| device.is_tap() && device.carrier) else {
        return NOT_APPLICABLE;
    };
    let owner = device.owners.get()?.iter().find(|owner| owner.vcpus > 0);
    let Some(owner) = owner else {
        return NOT_APPLICABLE;
    };
    let queues = tun.attached_queues.unwrap_or(1);
    fault_if(queues < owner.vcpus, || {
        Fault::new(format!(
            "{} has {queues} queues for {} virtual processors",
            device.name, owner.vcpus
        ))
        .saw("rtnetlink IFLA_TUN_NUM_QUEUES", queues)
        .saw(
            format!("/proc/{}/task/*/comm", owner.pid),
            format!("{} virtual processors", owner.vcpus),
        )
        .fix(format!(
            "libvirt: <driver queues='{0}'/>; QEMU: -netdev tap,queues={0} with mq=on",
            owner.vcpus
        ))
    })
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        scene
            .device("vnet0")
            .tun
            .as_mut()
            .expect("a TAP")
            .attached_queues = Some(1);
    },
    with: &[],
    silent: |scene| {
        scene
            .device("vnet0")
            .tun
            .as_mut()
            .expect("a TAP")
            .attached_queues = Some(8);
    },
};
