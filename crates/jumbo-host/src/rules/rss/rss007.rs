//! # RSS007 hash-key-zero
//!
//! ## What it checks
//! The RSS hash key consists of zeros.
//!
//! ## Why it matters
//! With a zero key every packet hashes to the same value and lands on one queue.
//!
//! ## How to see it by hand
//! `ethtool -x DEV`, the line RSS hash key.
//!
//! ## Remedy
//! `ethtool -X DEV hkey` with random bytes, as many as there are.
//!
//! ## When to ignore it
//! Never.
//!
//! ## Since kernel
//! 2.6.36; netlink 6.2.
//!
//! ## Sources
//! Microsoft, RSS hashing functions (Toeplitz); Documentation/networking/scaling.rst.

use super::super::prelude::*;
#[cfg(test)]
fn zero(scene: &mut super::super::scene::Scene, key_is_zero: Option<bool>) {
    let indirection = (0..128).map(|bucket| bucket % 4).collect();
    let rss = crate::snapshot::Rss {
        indirection,
        key_is_zero,
        ..Default::default()
    };
    scene.device("eth0").rss = crate::datum::Datum::known(Some(rss), "scene");
}

pub(super) const RULE: Rule = Rule {
    id: "RSS007",
    name: "hash-key-zero",
    severity: Severity::Info,
    layer: Layer::Host,
    class: Class::Safe,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

fn check(device: &Device, _: &View<'_>) -> Outcome {
    let Some(rss) = device.rss.get()? else {
        return NOT_APPLICABLE;
    };
    fault_if(rss.key_is_zero == Some(true), || {
        Fault::new(format!("every flow of {} has the same hash", device.name))
            .saw(device.rss.source(), "hash key: all zeros")
            .fix(format!(
                "ethtool -X {} hkey, with random bytes",
                device.name
            ))
    })
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| zero(scene, Some(true)),
    with: &[],
    // The driver shows no key.
    silent: |scene| zero(scene, None),
};
