//! # NAP001 defer-without-timeout
//!
//! ## What it checks
//! `napi_defer_hard_irqs` is set and `gro_flush_timeout` is 0.
//!
//! ## Why it matters
//! Deferred interrupts come back by the timer; without it the setting does nothing.
//!
//! ## How to see it by hand
//! `grep . /sys/class/net/DEV/{gro_flush_timeout,napi_defer_hard_irqs}`
//!
//! ## Remedy
//! `echo 20000 > /sys/class/net/DEV/gro_flush_timeout` (nanoseconds)
//!
//! ## When to ignore it
//! Single NAPIs have values of their own (netdev netlink, 6.13).
//!
//! ## Since kernel
//! 5.7.
//!
//! ## Sources
//! net/core/dev.c (napi_complete_done), Linux 6.18; Documentation/networking/napi.rst.

use super::super::prelude::*;

pub(super) const RULE: Rule = Rule {
    id: "NAP001",
    name: "defer-without-timeout",
    severity: Severity::Info,
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
    fault_if(defer > 0 && timeout_ns == 0, || {
        Fault::new(format!(
            "interrupts of {} are not deferred although asked for",
            device.name
        ))
        .saw_datum(&device.napi_defer_hard_irqs)
        .saw_datum(&device.gro_flush_timeout_ns)
        .set(
            super::default_of(device, NapiKnob::GroFlushTimeoutNs),
            20_000u32,
        )
    })
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        scene.device("eth0").napi_defer_hard_irqs = crate::datum::Datum::known(2, "scene");
    },
    with: &[],
    silent: |scene| {
        scene.device("eth0").napi_defer_hard_irqs = crate::datum::Datum::known(2, "scene");
        scene.device("eth0").gro_flush_timeout_ns = crate::datum::Datum::known(20_000, "scene");
    },
};
