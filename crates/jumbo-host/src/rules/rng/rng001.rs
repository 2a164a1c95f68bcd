//! # RNG001 receive-ring-too-small
//!
//! ## What it checks
//! A network card dropped packets during the sample because it had no receive descriptor, and its
//! ring could be larger.
//!
//! ## Why it matters
//! Between two polls the card can take only as many packets as the ring holds; a burst beyond that
//! is lost, and TCP slows down.
//!
//! ## How to see it by hand
//! `ethtool -g DEV`; `ip -s -s link show DEV` (missed, fifo)
//!
//! ## Remedy
//! `ethtool -G DEV rx N` with the next power of two; look at the spread over processors first
//! (SFT006).
//!
//! ## When to ignore it
//! The drops come from a processor that does not keep up for seconds: a ring only delays them.
//!
//! ## Since kernel
//! 2.6; netlink 5.7.
//!
//! ## Sources
//! Documentation/networking/ethtool-netlink.rst (RINGS_GET); include/uapi/linux/if_link.h
//! (rx_missed_errors), Linux 6.18.

use super::super::prelude::*;

pub(super) const RULE: Rule = Rule {
    id: "RNG001",
    name: "receive-ring-too-small",
    severity: Severity::Error,
    layer: Layer::Host,
    class: Class::Reset,
    sampled: true,
    scope: Scope::Device(check),
    source: "",
};

fn check(device: &Device, view: &View<'_>) -> Outcome {
    let Some(rings) = device.rings.get()? else {
        return NOT_APPLICABLE;
    };
    let (earlier, seconds) = view.earlier_device(device)?;
    let lost = |device: &Device| device.stats.rx_missed_errors + device.stats.rx_fifo_errors;
    let lost = lost(device).saturating_sub(lost(earlier));
    fault_if(lost > 0 && rings.rx < rings.rx_max, || {
        let larger = (rings.rx + 1).next_power_of_two().min(rings.rx_max);
        Fault::new(format!(
            "{} has no descriptors for what arrives",
            device.name
        ))
        .saw(
            "rtnetlink IFLA_STATS64",
            format!("rx_missed_errors and rx_fifo_errors: {lost} more in {seconds:.1} s"),
        )
        .saw(
            device.rings.source(),
            format!("rx: {} of {}", rings.rx, rings.rx_max),
        )
        .set(
            Setting::Ring {
                device: device.name.clone(),
                side: Side::Rx,
            },
            larger,
        )
    })
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        scene.device("eth0").stats.rx_missed_errors = 100;
    },
    with: &[],
    silent: |scene| {
        // Drops of long ago.
        scene.device("eth0").stats.rx_missed_errors = 100;
        scene.before.devices[0].stats.rx_missed_errors = 100;
    },
};
