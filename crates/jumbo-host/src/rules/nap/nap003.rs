//! # NAP003 napi-differs-from-device
//!
//! ## What it checks
//! A NAPI whose deferral settings differ from the device's in sysfs.
//!
//! ## Why it matters
//! sysfs shows the device's default only. Who reads it believes something else than what is so.
//!
//! ## How to see it by hand
//! The netdev netlink family, napi-get (`ynl --family netdev --dump napi-get`).
//!
//! ## Remedy
//! Decide which is meant, and set it in one place.
//!
//! ## When to ignore it
//! An application (SO_INCOMING_NAPI_ID with busy polling) tuned its own queue on purpose.
//!
//! ## Since kernel
//! 6.13.
//!
//! ## Sources
//! Documentation/netlink/specs/netdev.yaml (napi-set), Linux 6.18.

use super::super::prelude::*;

pub(super) const RULE: Rule = Rule {
    id: "NAP003",
    name: "napi-differs-from-device",
    severity: Severity::Info,
    layer: Layer::Host,
    class: Class::Advice,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

fn check(device: &Device, _: &View<'_>) -> Outcome {
    let napis = device.napis.get()?;
    if napis.is_empty() {
        return NOT_APPLICABLE;
    }
    let (defer, timeout_ns) = (
        *device.napi_defer_hard_irqs.get()?,
        *device.gro_flush_timeout_ns.get()?,
    );
    let differs = napis.iter().find(|napi| {
        napi.defer_hard_irqs.is_some_and(|own| own != defer)
            || napi
                .gro_flush_timeout_ns
                .is_some_and(|own| own != timeout_ns)
    });
    match differs {
        Some(napi) => {
            let own = (
                napi.defer_hard_irqs.unwrap_or(defer),
                napi.gro_flush_timeout_ns.unwrap_or(timeout_ns),
            );
            Fault::new(format!(
                "NAPI {} of {} has settings of its own",
                napi.id, device.name
            ))
            .saw(
                device.napis.source(),
                format!("defer-hard-irqs {}, gro-flush-timeout {} ns", own.0, own.1),
            )
            .saw_datum(&device.napi_defer_hard_irqs)
            .saw_datum(&device.gro_flush_timeout_ns)
            .set(super::of(device, napi.id, NapiKnob::DeferHardIrqs), defer)
            .set(
                super::of(device, napi.id, NapiKnob::GroFlushTimeoutNs),
                timeout_ns,
            )
            .found()
        }
        None => PASS,
    }
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        let napi = crate::snapshot::Napi {
            id: 7,
            defer_hard_irqs: Some(7),
            ..Default::default()
        };
        scene.device("eth0").napis = crate::datum::Datum::known(vec![napi], "scene");
    },
    with: &[],
    silent: |scene| {
        let napi = crate::snapshot::Napi {
            id: 7,
            defer_hard_irqs: Some(0),
            ..Default::default()
        };
        scene.device("eth0").napis = crate::datum::Datum::known(vec![napi], "scene");
    },
};
