//! # TAP012 queue-overflows
//!
//! ## What it checks
//! A TAP whose send-drop counter rose during the sample.
//!
//! ## Why it matters
//! The machine behind it does not drain its queue in time; what does not fit is lost, and TCP slows
//! down.
//!
//! ## How to see it by hand
//! `ip -s link show TAP`, the `dropped` of TX; the queue's length is `qlen`.
//!
//! ## Remedy
//! More queues (TAP008) first. A longer queue, `ip link set TAP txqueuelen 2000`, absorbs bursts
//! and adds delay.
//!
//! ## When to ignore it
//! The machine is paused, or being migrated.
//!
//! ## Since kernel
//! Any.
//!
//! ## Sources
//! drivers/net/tun.c (tun_net_xmit), Linux 6.18.

use super::super::prelude::*;

pub(super) const RULE: Rule = Rule {
    id: "TAP012",
    name: "queue-overflows",
    severity: Severity::Warning,
    layer: Layer::Host,
    class: Class::Safe,
    sampled: true,
    scope: Scope::Device(check),
    source: "",
};

fn check(device: &Device, view: &View<'_>) -> Outcome {
    if device.tun.is_none() || !device.carrier {
        return NOT_APPLICABLE;
    }
    let (earlier, seconds) = view.earlier_device(device)?;
    let dropped = device
        .stats
        .tx_dropped
        .saturating_sub(earlier.stats.tx_dropped);
    fault_if(dropped > 0, || {
        let longer = device.tx_queue_len.saturating_mul(2).max(1000);
        Fault::new(format!("the queue of {} overflows", device.name))
            .saw(
                "rtnetlink IFLA_STATS64",
                format!("tx_dropped: {dropped} more in {seconds:.1} s"),
            )
            .saw("rtnetlink IFLA_TXQLEN", device.tx_queue_len)
            .set(
                Setting::TxQueueLen {
                    device: device.name.clone(),
                },
                longer,
            )
    })
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        scene.device("vnet0").stats.tx_dropped = 7;
    },
    with: &[],
    silent: |scene| {
        // Drops of long ago.
        scene.device("vnet0").stats.tx_dropped = 7;
        scene.before.devices[2].stats.tx_dropped = 7;
    },
};
