//! # XDP003 xdp-takes-tso-from-veth-peer
//!
//! ## What it checks
//! A veth with a native XDP program. Its peer, usually inside a container, loses TCP segmentation
//! offload while the program is there.
//!
//! ## Why it matters
//! XDP programs see single packets, so the peer must send single packets: what was one 64 KB
//! super-packet between container and host becomes 45 packets.
//!
//! ## How to see it by hand
//! In the container: `ethtool -k eth0 | grep tcp-segmentation` says `off [fixed]`.
//!
//! ## Remedy
//! Attach the program to tc (tcx) instead, where super-packets stay whole, or on the network card.
//!
//! ## When to ignore it
//! The program drops or redirects most packets.
//!
//! ## Since kernel
//! 4.19.
//!
//! ## Sources
//! drivers/net/veth.c (veth_xdp_set: NETIF_F_GSO_SOFTWARE), Linux 6.18.

use super::super::prelude::*;
use crate::snapshot::XdpMode;

pub(super) const RULE: Rule = Rule {
    id: "XDP003",
    name: "xdp-takes-tso-from-veth-peer",
    severity: Severity::Warning,
    layer: Layer::Host,
    class: Class::Advice,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

fn check(device: &Device, view: &View<'_>) -> Outcome {
    if device.kind != "veth" || device.xdp != XdpMode::Native {
        return NOT_APPLICABLE;
    }
    let peer = device
        .lower
        .filter(|_| !device.lower_elsewhere)
        .and_then(|index| view.now.by_index(index));
    let fault = Fault::new(format!(
        "the peer of {} has no segmentation offload while XDP runs here",
        device.name
    ))
    .saw("rtnetlink IFLA_XDP", "native")
    .fix("attach the program to tc (tcx), or to the network card");
    match peer {
        Some(peer) if peer.features.get()?.active("tx-tcp-segmentation") => PASS,
        Some(peer) => fault.saw_feature(peer, "tx-tcp-segmentation").found(),
        // The peer cannot be seen from here.
        None => fault.severity(Severity::Info).found(),
    }
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| scene.device("veth0").xdp = XdpMode::Native,
    with: &[],
    silent: |scene| scene.device("veth0").xdp = XdpMode::Generic,
};
