//! # CAP001 fewer-hertz-than-bits
//!
//! ## What it checks
//! The network cards that are up can bring more bits per second than the processors have clock
//! cycles.
//!
//! ## Why it matters
//! The rule of thumb for TCP without offload is one hertz per bit and second. With segmentation
//! offload and coalescing it takes a fraction: measured over veth 0.6 Hz per bit with MTU-sized
//! packets and 0.16 with super-packets. Below one hertz per bit, offloads are not an option but a
//! condition.
//!
//! ## How to see it by hand
//! `cat /sys/class/net/*/speed`; `lscpu`
//!
//! ## Remedy
//! Keep TSO and GRO (or LRO, RSC) on everywhere, use a larger MTU, or more cores.
//!
//! ## When to ignore it
//! The cards are never full.
//!
//! ## Since kernel
//! Any.
//!
//! ## Sources
//! A. Foong et al., TCP Performance Re-Visited, ISPASS 2003.

use super::super::prelude::*;

pub(super) const RULE: Rule = Rule {
    id: "CAP001",
    name: "fewer-hertz-than-bits",
    severity: Severity::Info,
    layer: Layer::Host,
    class: Class::Advice,
    sampled: false,
    scope: Scope::Host(check),
    source: "",
};

fn check(view: &View<'_>) -> Outcome {
    let Some(capacity) = super::capacity(view.now)? else {
        return NOT_APPLICABLE;
    };
    fault_if(capacity.hertz < capacity.bits, || {
        Fault::new(format!(
            "{:.2} hertz per bit: the cards outrun the processors",
            capacity.hertz / capacity.bits
        ))
        .saw(
            "/sys/class/net/*/speed",
            format!("{:.0} Gbit/s together", capacity.bits / 1e9),
        )
        .saw(
            view.now.cpus.mhz.source(),
            format!("{:.1} GHz over all cores", capacity.hertz / 1e9),
        )
        .fix("keep TSO and GRO on everywhere (SEG001, GRO001), use a larger MTU, or more cores")
    })
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        scene.device("eth0").speed_mbps = crate::datum::Datum::known(Some(25_000), "scene")
    },
    with: &[],
    silent: |scene| {
        scene.device("eth0").speed_mbps = crate::datum::Datum::known(Some(25_000), "scene");
        scene.device("eth0").up = false;
    },
};
