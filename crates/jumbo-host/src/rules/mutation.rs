//! One bit of a healthy host is flipped: exactly the expected rules answer otherwise, and no others.

use std::collections::BTreeSet;

use super::scene::{Scene, read};
use super::{Scope, Verdict, all};
use crate::snapshot::{Device, Feature};

fn firing(scene: &Scene) -> BTreeSet<&'static str> {
    let view = scene.view();
    let fires = |rule: &&super::Rule| {
        let fault = |answer: super::Outcome| matches!(answer, Ok(Verdict::Fault(_)));
        match rule.scope {
            Scope::Host(check) => fault(check(&view)),
            Scope::Device(check) => scene
                .now
                .devices
                .iter()
                .any(|device| fault(check(device, &view))),
        }
    };
    all().filter(fires).map(|rule| rule.id).collect()
}

type Row = (&'static str, &'static str, Feature, &'static [&'static str]);

/// Feature bits that somebody judges. Every other flip of every bit of every device must leave all rules silent.
#[rustfmt::skip]
const FEATURES: &[Row] = &[
    ("eth0", "rx-checksum", Feature::OFF, &["CSM001"]),
    ("eth0", "rx-checksum", Feature::DENIED, &["CSM001"]),
    ("eth0", "rx-gro", Feature::OFF, &["GRO001"]),
    ("eth0", "rx-gro", Feature::DENIED, &["GRO001"]),
    ("eth0", "rx-gro-hw", Feature::OFF, &["GRO005"]),
    ("eth0", "rx-hashing", Feature::OFF, &["RSS008"]),
    ("eth0", "rx-hashing", Feature::DENIED, &["RSS008"]),
    ("eth0", "rx-lro", Feature::ON, &["LRO001"]),
    ("eth0", "rx-lro", Feature::DENIED, &["LRO003"]),
    ("eth0", "rx-udp-gro-forwarding", Feature::OFF, &["GRO003"]),
    ("eth0", "rx-udp-gro-forwarding", Feature::DENIED, &["GRO003"]),
    ("eth0", "tx-checksum-ip-generic", Feature::OFF, &["CSM005"]),
    ("eth0", "tx-checksum-ip-generic", Feature::DENIED, &["CSM005"]),
    ("eth0", "tx-generic-segmentation", Feature::OFF, &["SEG004"]),
    ("eth0", "tx-scatter-gather", Feature::OFF, &["SEG003"]),
    ("eth0", "tx-scatter-gather", Feature::DENIED, &["SEG003"]),
    ("eth0", "tx-tcp-segmentation", Feature::OFF, &["SEG001", "SEG005"]),
    ("eth0", "tx-tcp-segmentation", Feature::DENIED, &["SEG005"]),
    ("eth0", "tx-tcp6-segmentation", Feature::OFF, &["SEG001"]),
    ("br0", "tx-generic-segmentation", Feature::OFF, &["SEG004"]),
    ("br0", "tx-scatter-gather", Feature::OFF, &["SEG003"]),
    ("br0", "tx-scatter-gather", Feature::DENIED, &["SEG003"]),
    ("br0", "tx-tcp-segmentation", Feature::OFF, &["SEG001"]),
    ("br0", "tx-tcp6-segmentation", Feature::OFF, &["SEG001"]),
    ("vnet0", "tx-checksum-ip-generic", Feature::OFF, &["TAP001", "TAP007"]),
    ("vnet0", "tx-checksum-ip-generic", Feature::DENIED, &["TAP001"]),
    ("vnet0", "tx-checksum-ip-generic", Feature::ABSENT, &["TAP001", "TAP007"]),
    ("vnet0", "tx-tcp-ecn-segmentation", Feature::DENIED, &["TAP004"]),
    ("vnet0", "tx-tcp-segmentation", Feature::OFF, &["TAP002"]),
    ("vnet0", "tx-tcp-segmentation", Feature::DENIED, &["TAP002"]),
    ("vnet0", "tx-tcp-segmentation", Feature::ABSENT, &["TAP002"]),
    ("vnet0", "tx-tcp6-segmentation", Feature::OFF, &["TAP003"]),
    ("vnet0", "tx-tcp6-segmentation", Feature::DENIED, &["TAP003"]),
    ("vnet0", "tx-tcp6-segmentation", Feature::ABSENT, &["TAP003"]),
    ("vnet0", "tx-udp-segmentation", Feature::OFF, &["TAP013"]),
    ("vnet0", "tx-udp-segmentation", Feature::DENIED, &["TAP013"]),
    ("vnet0", "tx-udp-segmentation", Feature::ABSENT, &["TAP013"]),
    ("veth0", "tx-generic-segmentation", Feature::OFF, &["SEG004"]),
    ("veth0", "tx-scatter-gather", Feature::OFF, &["SEG003"]),
    ("veth0", "tx-scatter-gather", Feature::DENIED, &["SEG003"]),
    ("veth0", "tx-tcp-segmentation", Feature::OFF, &["SEG001"]),
    ("veth0", "tx-tcp6-segmentation", Feature::OFF, &["SEG001"]),
];

/// Every bit of every device: its name and what it is.
fn bits() -> Vec<(String, String, Feature)> {
    let scene = Scene::healthy();
    let of = |device: &Device| -> Vec<_> {
        let features = device.features.ok().expect("known");
        let all = features.0.iter();
        all.map(|(name, state)| (device.name.clone(), name.clone(), *state))
            .collect()
    };
    scene.now.devices.iter().flat_map(of).collect()
}

#[test]
fn each_feature_bit_changes_exactly_the_expected_rules() {
    let (mut flips, mut used) = (0, 0);
    for (device, name, was) in bits() {
        for state in [Feature::ON, Feature::OFF, Feature::DENIED, Feature::ABSENT] {
            if state == was {
                continue;
            }
            let mut scene = Scene::healthy();
            scene.feature(&device, &name, state);
            let row = FEATURES
                .iter()
                .find(|row| row.0 == device && row.1 == name && row.2 == state);
            let expected: BTreeSet<_> = row.map_or(&[][..], |row| row.3).iter().copied().collect();
            assert_eq!(
                firing(&scene),
                expected,
                "{device} {name} {}",
                state.words()
            );
            flips += 1;
            used += usize::from(row.is_some());
        }
    }
    assert_eq!(used, FEATURES.len(), "a row about a bit that is not there");
    assert!(flips > 100, "only {flips}");
}

type Flip = (&'static str, fn(&mut Scene), &'static [&'static str]);

/// Other single facts of a host.
#[rustfmt::skip]
const FACTS: &[Flip] = &[
    ("eth0 is down", |scene| scene.device("eth0").up = false, &[]),
    ("eth0 has no carrier", |scene| scene.device("eth0").carrier = false, &[]),
    ("vnet0 has no reader", |scene| scene.device("vnet0").carrier = false, &["TAP006"]),
    ("vnet0 has no virtio headers", |scene| tun(scene).vnet_header = false, &["TAP005"]),
    ("vnet0 has one queue", |scene| tun(scene).multi_queue = false, &[]),
    ("eth0 leaves the bridge", |scene| scene.device("eth0").controller = None, &[]),
    ("eth0 forwards", |scene| scene.device("eth0").forwarding_v4 = read(true), &[]),
    ("eth0 is threaded", |scene| scene.device("eth0").threaded = read(true), &[]),
    ("eth0 defers", |scene| scene.device("eth0").napi_defer_hard_irqs = read(1), &["NAP001"]),
    ("eth0 holds", |scene| scene.device("eth0").gro_flush_timeout_ns = read(1), &["NAP002"]),
    ("bridged packets are filtered", |scene| { scene.sysctl("net.bridge.bridge-nf-call-iptables", "1"); }, &["BRG001"]),
    ("every socket spins", |scene| { scene.sysctl("net.core.busy_poll", "1"); }, &["NAP005"]),
    ("steering has a table", |scene| { scene.sysctl("net.core.rps_sock_flow_entries", "1"); }, &["STR006"]),
    ("lists of 9", |scene| { scene.sysctl("net.core.gro_normal_batch", "9"); }, &["NAP006"]),
    ("the host forwards", |scene| { scene.sysctl("net.ipv4.ip_forward", "1"); }, &[]),
    ("irqbalance runs", |scene| scene.now.daemons = read(vec!["irqbalance".into()]), &[]),
    ("iSCSI is used", |scene| scene.now.iscsi_sessions = read(1), &[]),
];

fn tun(scene: &mut Scene) -> &mut crate::snapshot::Tun {
    scene.device("vnet0").tun.as_mut().expect("a TAP")
}

#[test]
fn each_fact_changes_exactly_the_expected_rules() {
    let wrong = |(words, flip, expected): &Flip| {
        let mut scene = Scene::healthy();
        flip(&mut scene);
        let found = firing(&scene);
        (found != expected.iter().copied().collect()).then(|| format!("{words}: {found:?}"))
    };
    let wrong: Vec<_> = FACTS.iter().filter_map(wrong).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}
