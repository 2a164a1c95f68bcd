//! # XDP002 xdp-generic-despite-driver
//!
//! ## What it checks
//! An XDP program runs in the generic hook although the driver could run it natively.
//!
//! ## Why it matters
//! In the generic hook the packet's metadata has been built and its memory linearised: most of
//! XDP's gain is gone.
//!
//! ## How to see it by hand
//! `ip -d link show DEV` says xdpgeneric; `bpftool net`
//!
//! ## Remedy
//! `ip link set DEV xdpgeneric off; ip link set DEV xdpdrv obj FILE`
//!
//! ## When to ignore it
//! A test, or a program that needs what only the generic hook has.
//!
//! ## Since kernel
//! 4.12; the driver's abilities can be read since 6.3.
//!
//! ## Sources
//! net/core/dev.c (dev_xdp_attach, do_xdp_generic), Linux 6.18.

use super::super::prelude::*;
use crate::snapshot::XdpMode;

pub(super) const RULE: Rule = Rule {
    id: "XDP002",
    name: "xdp-generic-despite-driver",
    severity: Severity::Warning,
    layer: Layer::Host,
    class: Class::Safe,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

fn check(device: &Device, _: &View<'_>) -> Outcome {
    if device.xdp != XdpMode::Generic {
        return NOT_APPLICABLE;
    }
    let native = *device.xdp_features.get()? & super::BASIC != 0;
    // With a large MTU the driver would refuse: MTU003.
    fault_if(native && device.mtu <= super::PAGE_MTU_MAX, || {
        Fault::new(format!("the XDP program on {} runs late", device.name))
            .saw("rtnetlink IFLA_XDP", "generic")
            .saw(device.xdp_features.source(), "the driver has native XDP")
            .fix(format!(
                "ip link set {0} xdpgeneric off; ip link set {0} xdpdrv obj FILE",
                device.name
            ))
    })
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| scene.device("eth0").xdp = XdpMode::Generic,
    with: &[],
    silent: |scene| {
        scene.device("eth0").xdp = XdpMode::Generic;
        scene.device("eth0").xdp_features = crate::datum::Datum::known(0, "scene");
    },
};
