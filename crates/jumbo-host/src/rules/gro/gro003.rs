//! # GRO003 udp-gro-forwarding-off
//!
//! ## What it checks
//! On a router or a host of virtual machines: a network card that forwards or is a port of a bridge
//! has `rx-udp-gro-forwarding` off.
//!
//! ## Why it matters
//! UDP that is only passed on (QUIC, VPN) is merged nowhere, and each datagram crosses the stack
//! alone.
//!
//! ## How to see it by hand
//! `ethtool -k DEV | grep -E 'rx-udp-gro-forwarding|rx-gro-list'`
//!
//! ## Remedy
//! `ethtool -K DEV rx-udp-gro-forwarding on rx-gro-list off`
//!
//! ## When to ignore it
//! Tunnels inside tunnels (VXLAN over a VPN) have had regressions with it; test before using it
//! widely.
//!
//! ## Since kernel
//! 5.12.
//!
//! ## Sources
//! net/ipv4/udp_offload.c (udp_gro_receive), Linux 6.18; Tailscale, Performance best practices.

use super::super::prelude::*;
#[cfg(test)]
use crate::snapshot::Feature;

pub(super) const RULE: Rule = Rule {
    id: "GRO003",
    name: "udp-gro-forwarding-off",
    severity: Severity::Info,
    layer: Layer::Host,
    class: Class::Safe,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

fn check(device: &Device, view: &View<'_>) -> Outcome {
    let forwards = matches!(view.profile, Profile::Router | Profile::VmHost);
    if !device.is_nic() || !device.up || !forwards {
        return NOT_APPLICABLE;
    }
    let features = device.features.get()?;
    let bridged = super::super::lro::bridge_above(view.now, device).is_some();
    if !bridged && !*device.forwarding_v4.get()? && !*device.forwarding_v6.get()? {
        return NOT_APPLICABLE;
    }
    let name = "rx-udp-gro-forwarding";
    let feature = features.get(name);
    fault_if(!feature.active && !feature.fixed, || {
        Fault::new(format!("UDP through {} is not coalesced", device.name))
            .saw_feature(device, name)
            .turn(device, name, true)
            .turn_all(device, &["rx-gro-list"], false)
            .only_if_asked()
    })
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        scene.feature("eth0", "rx-udp-gro-forwarding", Feature::OFF);
    },
    with: &[],
    silent: |scene| {
        scene.feature("eth0", "rx-udp-gro-forwarding", Feature::OFF);
        scene.profile = Profile::Throughput;
    },
};
