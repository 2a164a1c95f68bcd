//! # BRG001 bridged-packets-through-iptables
//!
//! ## What it checks
//! `net.bridge.bridge-nf-call-iptables` (or -ip6tables) is 1 and the host has a bridge with ports.
//!
//! ## Why it matters
//! Every bridged packet walks the IP firewall and connection tracking as if it were routed, and
//! cannot keep the fast path.
//!
//! ## How to see it by hand
//! `sysctl net.bridge.bridge-nf-call-iptables`
//!
//! ## Remedy
//! `sysctl net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0`. Look first
//! whether firewall rules depend on it.
//!
//! ## When to ignore it
//! Kubernetes and some container networks need it for their services.
//!
//! ## Since kernel
//! 2.6; a module of its own (br_netfilter) since 3.18.
//!
//! ## Sources
//! net/bridge/br_netfilter_hooks.c, Linux 6.18.

use super::super::prelude::*;

pub(super) const RULE: Rule = Rule {
    id: "BRG001",
    name: "bridged-packets-through-iptables",
    severity: Severity::Warning,
    layer: Layer::Host,
    class: Class::Safe,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

const NAMES: [&str; 2] = [
    "net.bridge.bridge-nf-call-iptables",
    "net.bridge.bridge-nf-call-ip6tables",
];

fn check(device: &Device, view: &View<'_>) -> Outcome {
    if device.kind != "bridge" {
        return NOT_APPLICABLE;
    }
    let mut on = Vec::new();
    for name in NAMES {
        // Without the module there is no such file and no detour.
        if view.now.sysctl_if_any(name)? == Some(1) {
            on.push(name);
        }
    }
    let ports = view
        .now
        .devices
        .iter()
        .filter(|port| port.controller == Some(device.index))
        .count();
    fault_if(!on.is_empty() && ports > 1, || {
        let fault = Fault::new(format!(
            "packets bridged by {} walk the IP firewall",
            device.name
        ));
        on.iter().fold(fault, |fault, name| {
            fault
                .saw(format!("/proc/sys/{}", name.replace('.', "/")), 1)
                .set(
                    Setting::Sysctl {
                        name: (*name).to_owned(),
                    },
                    0u32,
                )
                .only_if_asked()
        })
    })
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        scene.sysctl(NAMES[0], "1");
    },
    with: &[],
    silent: |scene| {
        scene.sysctl(NAMES[0], "1");
        scene.device("vnet0").controller = None;
    },
};
