//! # LRO005 lro-with-iscsi
//!
//! ## What it checks
//! Large receive offload is active on a network card while this host has iSCSI sessions.
//!
//! ## Why it matters
//! Storage needs each command's answer soon. LRO holds packets back, and acknowledgements with
//! them; drivers' manuals forbid LRO together with iSCSI.
//!
//! ## How to see it by hand
//! `ethtool -k DEV | grep large-receive-offload`; `iscsiadm -m session`, or `ls
//! /sys/class/iscsi_session`
//!
//! ## Remedy
//! `ethtool -K DEV lro off`, and leave GRO on.
//!
//! ## When to ignore it
//! The sessions run over another card.
//!
//! ## Since kernel
//! 2.6.24.
//!
//! ## Sources
//! /sys/class/iscsi_session (drivers/scsi/scsi_transport_iscsi.c); Intel, ixgbe driver README,
//! section LRO.

use super::super::prelude::*;
#[cfg(test)]
use crate::snapshot::Feature;

pub(super) const RULE: Rule = Rule {
    id: "LRO005",
    name: "lro-with-iscsi",
    severity: Severity::Error,
    layer: Layer::Host,
    class: Class::Reset,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

fn check(device: &Device, view: &View<'_>) -> Outcome {
    let features = device.features.get()?;
    if !features.active("rx-lro") {
        return PASS;
    }
    let sessions = *view.now.iscsi_sessions.get()?;
    fault_if(sessions > 0, || {
        Fault::new(format!(
            "{} merges packets (LRO) while storage is attached by iSCSI",
            device.name
        ))
        .saw_feature(device, "rx-lro")
        .saw(
            view.now.iscsi_sessions.source(),
            format!("{sessions} sessions"),
        )
        .turn(device, "rx-lro", false)
    })
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        scene.device("eth0").controller = None;
        scene.feature("eth0", "rx-lro", Feature::ON);
        scene.now.iscsi_sessions = crate::datum::Datum::known(2, "scene");
    },
    with: &[],
    silent: |scene| {
        scene.now.iscsi_sessions = crate::datum::Datum::known(2, "scene");
    },
};
