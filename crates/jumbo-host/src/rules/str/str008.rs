//! # STR008 xps-off
//!
//! ## What it checks
//! A network card with several transmit queues and no XPS map on any of them.
//!
//! ## Why it matters
//! Processors choose queues by the flow's hash, so several processors take the lock of one queue,
//! and the memory of sent packets is freed on another processor than it came from.
//!
//! ## How to see it by hand
//! `grep . /sys/class/net/DEV/queues/tx-*/xps_cpus`
//!
//! ## Remedy
//! One processor, or one group, per queue: `echo MASK > /sys/class/net/DEV/queues/tx-N/xps_cpus`.
//!
//! ## When to ignore it
//! Virtual machines send through vhost threads that wander anyway.
//!
//! ## Since kernel
//! 2.6.38.
//!
//! ## Sources
//! Documentation/networking/scaling.rst, section XPS, Linux 6.18.

use super::super::prelude::*;

pub(super) const RULE: Rule = Rule {
    id: "STR008",
    name: "xps-off",
    severity: Severity::Info,
    layer: Layer::Host,
    class: Class::Safe,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

fn check(device: &Device, view: &View<'_>) -> Outcome {
    if !device.is_nic() || !device.up {
        return NOT_APPLICABLE;
    }
    let queues = device.tx_queues.get()?;
    let online = view.now.cpus.online.get()?.len();
    let mut unmapped = 0;
    for queue in queues {
        match queue.xps_cpus.get()? {
            Some(cpus) if cpus.is_empty() => unmapped += 1,
            _ => {}
        }
    }
    fault_if(
        queues.len() > 1 && unmapped == queues.len() && online > 1,
        || {
            Fault::new(format!(
                "processors share the transmit queues of {}",
                device.name
            ))
            .saw(
                format!("/sys/class/net/{}/queues/tx-*/xps_cpus", device.name),
                "0 on all queues",
            )
            .change_xps(device, super::ladder(view.now, device))
        },
    )
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        let crate::datum::Datum::Known { value, .. } = &mut scene.device("eth0").tx_queues else {
            panic!("queues")
        };
        for queue in value {
            queue.xps_cpus = crate::datum::Datum::known(Some(Default::default()), "scene");
        }
    },
    with: &[],
    silent: |scene| {
        // One queue needs no map.
        let crate::datum::Datum::Known { value, .. } = &mut scene.device("eth0").tx_queues else {
            panic!("queues")
        };
        value.truncate(1);
        value[0].xps_cpus = crate::datum::Datum::known(None, "scene");
    },
};
