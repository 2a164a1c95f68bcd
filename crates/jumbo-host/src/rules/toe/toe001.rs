//! # TOE001 tcp-in-hardware
//!
//! ## What it checks
//! A network card whose driver can take over TCP connections for iSCSI or TLS (cxgb4, bnx2i, qedi,
//! be2iscsi).
//!
//! ## Why it matters
//! Linux has no general TCP offload engine and will not have one: connections in the card are
//! invisible to the firewall, to tcpdump and to tuning. Only storage and TLS drivers use it.
//!
//! ## How to see it by hand
//! `ethtool -i DEV`; `ls /sys/class/iscsi_host`
//!
//! ## Remedy
//! Nothing. Judge its iSCSI sessions by the card's own tools: nothing else on this host sees them.
//!
//! ## When to ignore it
//! It is information.
//!
//! ## Since kernel
//! Any.
//!
//! ## Sources
//! Linux Foundation, networking:toe; drivers/scsi/cxgbi, drivers/scsi/qedi, Linux 6.18.

use super::super::prelude::*;

pub(super) const RULE: Rule = Rule {
    id: "TOE001",
    name: "tcp-in-hardware",
    severity: Severity::Info,
    layer: Layer::Host,
    class: Class::Advice,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

const DRIVERS: [&str; 5] = ["cxgb4", "chtls", "bnx2i", "qedi", "be2iscsi"];

fn check(device: &Device, _: &View<'_>) -> Outcome {
    let Some(driver) = device.driver.get()? else {
        return NOT_APPLICABLE;
    };
    fault_if(DRIVERS.contains(&driver.as_str()), || {
        Fault::new(format!(
            "{} can carry TCP connections that this host does not see",
            device.name
        ))
        .saw(device.driver.source(), driver)
        .fix("none needed; judge its iSCSI sessions by the card's own tools")
    })
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        scene.device("eth0").driver = crate::datum::Datum::known(Some("cxgb4".into()), "scene")
    },
    with: &[],
    silent: |scene| {
        scene.device("eth0").driver = crate::datum::Datum::known(Some("mlx5_core".into()), "scene")
    },
};
