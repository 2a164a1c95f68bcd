//! # STR006 rfs-half-configured
//!
//! ## What it checks
//! Receive flow steering is set up on one side only: the machine's table
//! (`net.core.rps_sock_flow_entries`) without any queue's (`rps_flow_cnt`), or the other way round,
//! or the queues' tables together are larger than the machine's.
//!
//! ## Why it matters
//! Both are needed; with one of them nothing happens.
//!
//! ## How to see it by hand
//! `sysctl net.core.rps_sock_flow_entries`; `grep . /sys/class/net/*/queues/rx-*/rps_flow_cnt`
//!
//! ## Remedy
//! `sysctl net.core.rps_sock_flow_entries=32768`, and for each queue `rps_flow_cnt` = that, divided
//! by the queues.
//!
//! ## When to ignore it
//! A host that only forwards needs neither.
//!
//! ## Since kernel
//! 2.6.35.
//!
//! ## Sources
//! Documentation/networking/scaling.rst, section RFS, Linux 6.18.

use super::super::prelude::*;

pub(super) const RULE: Rule = Rule {
    id: "STR006",
    name: "rfs-half-configured",
    severity: Severity::Info,
    layer: Layer::Host,
    class: Class::Safe,
    sampled: false,
    scope: Scope::Host(check),
    source: "",
};

fn check(view: &View<'_>) -> Outcome {
    let global = view.now.sysctl("net.core.rps_sock_flow_entries")?;
    let mut queues = 0;
    for device in &view.now.devices {
        for queue in device.rx_queues.get()? {
            queues += queue.rps_flow_cnt.get()?;
        }
    }
    fault_if((global == 0) != (queues == 0) || queues > global, || {
        let fault = Fault::new("receive flow steering is only half set up")
            .saw("/proc/sys/net/core/rps_sock_flow_entries", global)
            .saw(
                "/sys/class/net/*/queues/rx-*/rps_flow_cnt",
                format!("{queues} together"),
            );
        match global > 0 && queues == 0 {
            true => per_queue(fault, view.now, global),
            false => fault.set(
                Setting::Sysctl {
                    name: "net.core.rps_sock_flow_entries".into(),
                },
                queues.next_power_of_two(),
            ),
        }
    })
}

/// The machine's table, shared out over the queues of its cards.
fn per_queue(fault: Fault, host: &Snapshot, global: u64) -> Fault {
    let cards = host
        .devices
        .iter()
        .filter(|device| device.is_nic() && device.up);
    let queues: Vec<(&Device, u32)> = cards
        .flat_map(|device| {
            let queues = device.rx_queues.ok().into_iter().flatten();
            queues.map(move |queue| (device, queue.queue))
        })
        .collect();
    let share = global / u64::try_from(queues.len()).unwrap_or(1).max(1);
    // The kernel rounds up to a power of two.
    let share = 1u64 << share.max(1).ilog2();
    let fault = match queues.is_empty() {
        true => fault.fix("give each queue its share: rps_flow_cnt"),
        false => fault,
    };
    queues.into_iter().fold(fault, |fault, (device, queue)| {
        let device = device.name.clone();
        fault.set(Setting::RpsFlowCnt { device, queue }, share)
    })
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        scene.sysctl("net.core.rps_sock_flow_entries", "32768");
    },
    with: &[],
    silent: |scene| {
        scene.sysctl("net.core.rps_sock_flow_entries", "32768");
        let crate::datum::Datum::Known { value, .. } = &mut scene.device("eth0").rx_queues else {
            panic!("queues")
        };
        value[0].rps_flow_cnt = crate::datum::Datum::known(8192, "scene");
    },
};
