//! # CAP002 too-few-cycles-per-packet
//!
//! ## What it checks
//! At line rate with packets of 1500 bytes the processors have fewer than 1500 clock cycles for
//! each packet.
//!
//! ## Why it matters
//! That is less than the kernel's stack takes for a packet. Only coalescing before the stack
//! (hardware GRO, LRO), XDP, or fewer and larger packets help. At 10 Gbit/s 812,744 such packets
//! arrive a second, and 14.88 million of the smallest.
//!
//! ## How to see it by hand
//! Packets a second = bits a second / ((MTU + 38) x 8); cycles = cores x hertz / packets.
//!
//! ## Remedy
//! Hardware coalescing (GRO005), a larger MTU, XDP for what is dropped or passed on, or more cores.
//!
//! ## When to ignore it
//! The cards are never full.
//!
//! ## Since kernel
//! Any.
//!
//! ## Sources
//! IEEE 802.3 (38 bytes of preamble, header, FCS and gap around each packet).

use super::super::prelude::*;

pub(super) const RULE: Rule = Rule {
    id: "CAP002",
    name: "too-few-cycles-per-packet",
    severity: Severity::Info,
    layer: Layer::Host,
    class: Class::Advice,
    sampled: false,
    scope: Scope::Host(check),
    source: "",
};

/// About what the kernel's receive path takes for a packet that is not coalesced.
const CYCLES_MIN: f64 = 1500.0;
/// Bytes on the wire of a packet of 1500 bytes, and of the smallest.
const WIRE_LEN: f64 = 1538.0;
const WIRE_LEN_MIN: f64 = 84.0;

fn check(view: &View<'_>) -> Outcome {
    let Some(capacity) = super::capacity(view.now)? else {
        return NOT_APPLICABLE;
    };
    let cycles = |wire_len: f64| capacity.hertz / (capacity.bits / (wire_len * 8.0));
    fault_if(cycles(WIRE_LEN) < CYCLES_MIN, || {
        Fault::new(format!(
            "{:.0} cycles for a packet of 1500 bytes at line rate",
            cycles(WIRE_LEN)
        ))
        .saw(
            "/sys/class/net/*/speed",
            format!("{:.0} Gbit/s together", capacity.bits / 1e9),
        )
        .saw(
            view.now.cpus.mhz.source(),
            format!("{:.1} GHz over all cores", capacity.hertz / 1e9),
        )
        .saw(
            "computed",
            format!("{:.0} cycles for the smallest packet", cycles(WIRE_LEN_MIN)),
        )
        .fix("coalesce before the stack (GRO005), use a larger MTU, XDP, or more cores")
    })
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        scene.device("eth0").speed_mbps = crate::datum::Datum::known(Some(100_000), "scene")
    },
    with: &["CAP001"],
    silent: |scene| {
        scene.device("eth0").speed_mbps = crate::datum::Datum::known(Some(40_000), "scene")
    },
};
