//! # CSM002 wrong-checksums-arrive
//!
//! ## What it checks
//! The counters of TCP segments or UDP datagrams with a wrong checksum rose during the sample.
//!
//! ## Why it matters
//! Such packets are dropped without a word to the sender. A cable or memory fault is the rare
//! cause; the usual one is an offload that leaves a checksum unfinished, between a virtual machine,
//! a bridge and a card.
//!
//! ## How to see it by hand
//! `nstat -az TcpInCsumErrors UdpInCsumErrors`
//!
//! ## Remedy
//! Find the path: turn one offload off at a time (`ethtool -K DEV tx off` at the sender, `rx off`
//! here), capture at both ends.
//!
//! ## When to ignore it
//! A test sends damaged packets.
//!
//! ## Since kernel
//! 3.10 (the counters).
//!
//! ## Sources
//! net/ipv4/proc.c, net/ipv4/tcp_ipv4.c (tcp_checksum_complete), Linux 6.18.

use super::super::prelude::*;
#[cfg(test)]
use crate::{datum::Datum, snapshot::Protocols};

#[cfg(test)]
fn errors(udp_in_csum_errors: u64) -> Datum<Protocols> {
    Datum::known(
        Protocols {
            udp_in_csum_errors,
            ..Protocols::default()
        },
        "scene",
    )
}

pub(super) const RULE: Rule = Rule {
    id: "CSM002",
    name: "wrong-checksums-arrive",
    severity: Severity::Error,
    layer: Layer::Host,
    class: Class::Advice,
    sampled: true,
    scope: Scope::Host(check),
    source: "",
};

fn check(view: &View<'_>) -> Outcome {
    let (before, seconds) = view.earlier()?;
    let (now, then) = (view.now.protocols.get()?, before.protocols.get()?);
    let tcp = now
        .tcp_in_csum_errors
        .saturating_sub(then.tcp_in_csum_errors);
    let udp = now
        .udp_in_csum_errors
        .saturating_sub(then.udp_in_csum_errors);
    fault_if(tcp + udp > 0, || {
        Fault::new("packets with wrong checksums arrive and are dropped")
            .saw(
                "/proc/net/snmp",
                format!("InCsumErrors: TCP {tcp}, UDP {udp} more in {seconds:.1} s"),
            )
            .fix("turn one offload off at a time: ethtool -K DEV tx off at the sender, rx off here")
    })
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        scene.now.protocols = errors(3);
    },
    with: &[],
    silent: |scene| {
        scene.before.protocols = errors(3);
        scene.now.protocols = errors(3);
    },
};
