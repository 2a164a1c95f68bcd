//! # TAP006 no-reader
//!
//! ## What it checks
//! A TUN or TAP that is up and has no carrier: no program has it open.
//!
//! ## Why it matters
//! Nothing drains it. Packets towards it are dropped at its queue, and on a bridge it keeps a port
//! and a place in every flood.
//!
//! ## How to see it by hand
//! `ip link show TAP` says NO-CARRIER; `grep -l iff:.TAP /proc/*/fdinfo/*` finds no program.
//!
//! ## Remedy
//! Start the virtual machine, or delete the device: `ip tuntap del dev TAP mode tap`.
//!
//! ## When to ignore it
//! The machine behind it is stopped on purpose.
//!
//! ## Since kernel
//! 3.18 for the owner in fdinfo.
//!
//! ## Sources
//! drivers/net/tun.c (tun_detach, tun_chr_show_fdinfo), Linux 6.18.

use super::super::prelude::*;

pub(super) const RULE: Rule = Rule {
    id: "TAP006",
    name: "no-reader",
    severity: Severity::Warning,
    layer: Layer::Hypervisor,
    class: Class::Advice,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

fn check(device: &Device, _: &View<'_>) -> Outcome {
    let Some(tun) = device.tun else {
        return NOT_APPLICABLE;
    };
    if !device.up {
        return NOT_APPLICABLE;
    }
    let mode = if tun.tap { "tap" } else { "tun" };
    fault_if(!device.carrier, || {
        Fault::new(format!(
            "nothing has {} open, packets to it are dropped",
            device.name
        ))
        .saw("rtnetlink IFLA_CARRIER", "0")
        .saw(
            "rtnetlink IFLA_TUN_PERSIST",
            if tun.persist { "on" } else { "off" },
        )
        .reason("NoReader")
        .fix(format!(
            "start its virtual machine, or: ip tuntap del dev {} mode {mode}",
            device.name
        ))
    })
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        scene.device("vnet0").carrier = false;
        scene.device("vnet0").owners = crate::datum::Datum::known(Vec::new(), "scene");
    },
    with: &[],
    silent: |scene| {
        scene.device("vnet0").up = false;
        scene.device("vnet0").carrier = false;
    },
};
