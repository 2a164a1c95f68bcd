//! # XDP001 xdp-beside-hardware-coalescing
//!
//! ## What it checks
//! A native XDP program on a device with LRO or hardware GRO active.
//!
//! ## Why it matters
//! XDP sees packets as they were on the wire; merged ones bypass it or reach it cut off. Some
//! drivers refuse the pair, some switched one off silently, some let packets past the program.
//!
//! ## How to see it by hand
//! `ip -d link show DEV`; `ethtool -k DEV | grep -E 'large-receive|rx-gro-hw'`
//!
//! ## Remedy
//! `ethtool -K DEV lro off rx-gro-hw off`
//!
//! ## When to ignore it
//! The driver's manual says that it supports both.
//!
//! ## Since kernel
//! 4.8.
//!
//! ## Sources
//! drivers/net/virtio_net.c (virtnet_xdp_set), drivers/net/ethernet/intel/ixgbe/ixgbe_main.c
//! (ixgbe_xdp_setup), Linux 6.18.

use super::super::prelude::*;
use crate::snapshot::XdpMode;

pub(super) const RULE: Rule = Rule {
    id: "XDP001",
    name: "xdp-beside-hardware-coalescing",
    severity: Severity::Error,
    layer: Layer::Host,
    class: Class::Reset,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

fn check(device: &Device, _: &View<'_>) -> Outcome {
    if !matches!(
        device.xdp,
        XdpMode::Native | XdpMode::Multiple | XdpMode::Hardware
    ) {
        return NOT_APPLICABLE;
    }
    let features = device.features.get()?;
    match ["rx-lro", "rx-gro-hw"]
        .into_iter()
        .find(|name| features.active(name))
    {
        Some(name) => Fault::new(format!(
            "packets of {} can bypass its XDP program",
            device.name
        ))
        .saw("rtnetlink IFLA_XDP", "native")
        .saw_feature(device, name)
        .turn_all(device, &["rx-lro", "rx-gro-hw"], false)
        .found(),
        None => PASS,
    }
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        scene.device("eth0").xdp = XdpMode::Native;
        scene.feature("eth0", "rx-gro-hw", crate::snapshot::Feature::ON);
    },
    with: &[],
    silent: |scene| scene.device("eth0").xdp = XdpMode::Native,
};
