//! # RSS005 udp-hashed-by-address-only
//!
//! ## What it checks
//! A network card spreads UDP over its queues by addresses alone, without ports.
//!
//! ## Why it matters
//! All datagrams between two hosts land on one queue: every VXLAN, Geneve or WireGuard tunnel and
//! every QUIC server behind one address is served by a single processor.
//!
//! ## How to see it by hand
//! `ethtool -n DEV rx-flow-hash udp4`
//!
//! ## Remedy
//! `ethtool -N DEV rx-flow-hash udp4 sdfn` and the same for udp6.
//!
//! ## When to ignore it
//! UDP is often fragmented here: fragments have no ports and may overtake their first piece.
//!
//! ## Since kernel
//! 6.17 (flow hash by netlink).
//!
//! ## Sources
//! net/ethtool/rss.c (ETHTOOL_A_RSS_FLOW_HASH), Linux 6.18; Documentation/networking/scaling.rst.

use super::super::prelude::*;
use crate::datum::Unknown;

#[cfg(test)]
fn udp(scene: &mut super::super::scene::Scene, udp_by_ports: Option<bool>) {
    let rss = crate::snapshot::Rss {
        udp_by_ports,
        ..Default::default()
    };
    scene.device("eth0").rss = crate::datum::Datum::known(Some(rss), "scene");
}

pub(super) const RULE: Rule = Rule {
    id: "RSS005",
    name: "udp-hashed-by-address-only",
    severity: Severity::Warning,
    layer: Layer::Host,
    class: Class::Safe,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

fn check(device: &Device, view: &View<'_>) -> Outcome {
    let Some(rss) = device.rss.get()? else {
        return NOT_APPLICABLE;
    };
    match rss.udp_by_ports {
        Some(by_ports) => fault_if(!by_ports, || {
            Fault::new(format!(
                "all UDP between two hosts lands on one queue of {}",
                device.name
            ))
            .saw(device.rss.source(), "UDP is hashed without ports")
            .set(
                Setting::UdpHash {
                    device: device.name.clone(),
                },
                true,
            )
        }),
        // A newer kernel would have said so.
        None if view.now.kernel_version()? >= (6, 17) => NOT_APPLICABLE,
        None => Err(Unknown(
            "this kernel does not tell the hashed fields by netlink (Linux 6.17 does)".into(),
        )),
    }
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| udp(scene, Some(false)),
    with: &[],
    // The card has no choice and shows none.
    silent: |scene| udp(scene, None),
};
