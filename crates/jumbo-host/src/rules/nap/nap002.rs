//! # NAP002 timeout-without-defer
//!
//! ## What it checks
//! `gro_flush_timeout` is set and `napi_defer_hard_irqs` is 0.
//!
//! ## Why it matters
//! GRO holds packets until the timer fires although the interrupt is armed: latency without the
//! gain of fewer interrupts.
//!
//! ## How to see it by hand
//! `grep . /sys/class/net/DEV/{gro_flush_timeout,napi_defer_hard_irqs}`
//!
//! ## Remedy
//! `echo 2 > /sys/class/net/DEV/napi_defer_hard_irqs`
//!
//! ## When to ignore it
//! Single NAPIs have values of their own (netdev netlink, 6.13).
//!
//! ## Since kernel
//! 3.19 (gro_flush_timeout), 5.7 (napi_defer_hard_irqs).
//!
//! ## Sources
//! net/core/dev.c (napi_complete_done), Linux 6.18; Documentation/networking/napi.rst.

use super::super::prelude::*;

pub(super) const RULE: Rule = Rule {
    id: "NAP002",
    name: "timeout-without-defer",
    severity: Severity::Warning,
    layer: Layer::Host,
    class: Class::Safe,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

fn check(device: &Device, _: &View<'_>) -> Outcome {
    let (defer, timeout_ns) = (
        *device.napi_defer_hard_irqs.get()?,
        *device.gro_flush_timeout_ns.get()?,
    );
    fault_if(timeout_ns > 0 && defer == 0, || {
        Fault::new(format!(
            "GRO on {} waits up to {timeout_ns} ns and interrupts come all the same",
            device.name
        ))
        .saw_datum(&device.gro_flush_timeout_ns)
        .saw_datum(&device.napi_defer_hard_irqs)
        .set(super::default_of(device, NapiKnob::DeferHardIrqs), 2u32)
    })
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        scene.device("eth0").gro_flush_timeout_ns = crate::datum::Datum::known(20_000, "scene");
    },
    with: &[],
    silent: |scene| {
        scene.device("eth0").napi_defer_hard_irqs = crate::datum::Datum::known(2, "scene");
        scene.device("eth0").gro_flush_timeout_ns = crate::datum::Datum::known(20_000, "scene");
    },
};
