//! # MTU001 mtu-mismatch
//!
//! ## What it checks
//! A bridge whose ports have different MTUs, or a VXLAN device whose MTU leaves no room for its
//! headers on the link below (50 bytes over IPv4).
//!
//! ## Why it matters
//! A bridge cannot fragment: what is larger than the out port's MTU vanishes without a message.
//! Small packets pass and large ones do not, so connections open and then hang.
//!
//! ## How to see it by hand
//! `ip link show master BRIDGE`; `ip -d link show VXLAN`
//!
//! ## Remedy
//! `ip link set DEV mtu N`, the same on all ports; or 50 less than the link below for a tunnel (70
//! over IPv6).
//!
//! ## When to ignore it
//! The port leads to machines that never talk beyond it.
//!
//! ## Since kernel
//! Any.
//!
//! ## Sources
//! net/bridge/br_forward.c (br_dev_queue_push_xmit, is_skb_forwardable), Linux 6.18; RFC 7348,
//! section 4.3.

use super::super::prelude::*;

pub(super) const RULE: Rule = Rule {
    id: "MTU001",
    name: "mtu-mismatch",
    severity: Severity::Error,
    layer: Layer::Host,
    class: Class::Reset,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

/// Outer Ethernet 14 (inner header of the tunnelled packet), IPv4 20, UDP 8, VXLAN 8.
const VXLAN_HEADERS_LEN: u32 = 50;

fn check(device: &Device, view: &View<'_>) -> Outcome {
    match device.kind.as_str() {
        "bridge" => bridge(device, view.now),
        "vxlan" => tunnel(device, view.now),
        _ => NOT_APPLICABLE,
    }
}

fn bridge(device: &Device, host: &Snapshot) -> Outcome {
    let ports = || {
        host.devices
            .iter()
            .filter(|port| port.controller == Some(device.index))
    };
    let Some(least) = ports().map(|port| port.mtu).min() else {
        return NOT_APPLICABLE;
    };
    let larger: Vec<&Device> = ports().filter(|port| port.mtu > least).collect();
    fault_if(!larger.is_empty(), || {
        let fault = Fault::new(format!(
            "large packets vanish in {}: its ports' MTUs differ",
            device.name
        ));
        let fault = ports().fold(fault, |fault, port| {
            fault.saw("rtnetlink IFLA_MTU", format!("{}: {}", port.name, port.mtu))
        });
        larger.iter().fold(fault, |fault, port| {
            fault.set(mtu_of(port), least).only_if_asked()
        })
    })
}

fn tunnel(device: &Device, host: &Snapshot) -> Outcome {
    let Some(lower) = device.lower.and_then(|index| host.by_index(index)) else {
        return NOT_APPLICABLE;
    };
    let room = lower.mtu.saturating_sub(VXLAN_HEADERS_LEN);
    fault_if(device.mtu > room, || {
        Fault::new(format!(
            "packets of {} do not fit on {}",
            device.name, lower.name
        ))
        .saw(
            "rtnetlink IFLA_MTU",
            format!("{}: {}", device.name, device.mtu),
        )
        .saw(
            "rtnetlink IFLA_MTU",
            format!("{}: {}", lower.name, lower.mtu),
        )
        .set(mtu_of(device), room)
    })
}

fn mtu_of(device: &Device) -> Setting {
    Setting::Mtu {
        device: device.name.clone(),
    }
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| scene.device("vnet0").mtu = 9000,
    with: &[],
    silent: |scene| {
        scene.add(Device {
            lower: Some(2),
            mtu: 1450,
            ..super::super::scene::link(9, "vx0", "vxlan")
        });
    },
};
