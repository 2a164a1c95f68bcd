//! # MTU003 jumbo-mtu-keeps-xdp-generic
//!
//! ## What it checks
//! An XDP program runs in the generic hook on a device whose driver could run it natively, and
//! whose MTU is larger than a page has room for (about 3500 bytes).
//!
//! ## Why it matters
//! Drivers refuse a native program at such MTUs unless it declares that it takes packets in
//! fragments. In the generic hook the packet's metadata has been built already: most of XDP's gain
//! is gone.
//!
//! ## How to see it by hand
//! `ip -d link show DEV` says xdpgeneric; `ip link set DEV xdp ...` answers ERANGE or EINVAL.
//!
//! ## Remedy
//! Load the program as `xdp.frags`, or lower the MTU: `ip link set DEV mtu 1500`.
//!
//! ## When to ignore it
//! The program handles few packets.
//!
//! ## Since kernel
//! 4.8; fragments 5.18.
//!
//! ## Sources
//! drivers/net/veth.c (veth_xdp_set: max_mtu), Linux 6.18.

use super::super::prelude::*;
use crate::snapshot::XdpMode;

pub(super) const RULE: Rule = Rule {
    id: "MTU003",
    name: "jumbo-mtu-keeps-xdp-generic",
    severity: Severity::Warning,
    layer: Layer::Host,
    class: Class::Advice,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

fn check(device: &Device, _: &View<'_>) -> Outcome {
    if device.xdp != XdpMode::Generic {
        return NOT_APPLICABLE;
    }
    let native = *device.xdp_features.get()? & super::super::xdp::BASIC != 0;
    fault_if(
        native && device.mtu > super::super::xdp::PAGE_MTU_MAX,
        || {
            Fault::new(format!(
                "the XDP program on {} runs late because of the MTU",
                device.name
            ))
            .saw("rtnetlink IFLA_XDP", "generic")
            .saw("rtnetlink IFLA_MTU", device.mtu)
            .fix(format!(
                "load it as xdp.frags, or: ip link set {} mtu 1500",
                device.name
            ))
        },
    )
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        scene.device("eth0").xdp = XdpMode::Generic;
        for device in ["eth0", "vnet0"] {
            scene.device(device).mtu = 9000;
        }
    },
    with: &[],
    silent: |scene| {
        // That it is generic has another cause: XDP002.
        scene.device("eth0").xdp = XdpMode::Generic;
    },
};
