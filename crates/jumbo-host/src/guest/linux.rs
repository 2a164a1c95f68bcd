//! `ethtool -k` of a guest with a virtio card.

use std::collections::BTreeMap;

use super::{Guest, Line, NoGuest, Side};
use crate::snapshot::Feature;

/// What is judged: the word of ethtool, what it is for, and what the hypervisor must offer for it.
const JUDGED: [(&str, &str); 6] = [
    ("rx-checksumming", "guest_csum=on"),
    ("tx-checksumming", "csum=on"),
    ("tcp-segmentation-offload", "host_tso4=on,host_tso6=on"),
    ("generic-receive-offload", ""),
    (
        "rx-gro-hw",
        "guest_tso4=on,guest_tso6=on,ctrl_guest_offloads=on",
    ),
    ("large-receive-offload", ""),
];

pub(super) fn read(text: &str) -> Result<Guest, NoGuest> {
    let pairs = text.lines().filter_map(|line| line.trim().split_once(':'));
    let features: BTreeMap<&str, Feature> = pairs
        .filter_map(|(name, words)| Some((name, Feature::try_from(words.trim().to_owned()).ok()?)))
        .collect();
    let adapter = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("Features for "));
    let adapter = adapter.map(|name| name.trim_end_matches(':').to_owned());
    let judged = JUDGED.iter().filter_map(|(name, offer)| {
        let feature = features.get(name)?;
        Some(line(name, *feature, offer, adapter.clone(), &features))
    });
    let lines: Vec<Line> = judged.flatten().collect();
    match features.is_empty() || lines.is_empty() {
        true => Err(NoGuest(
            "there is no `name: on` or `name: off` in it".into(),
        )),
        false => Ok(Guest {
            system: "linux",
            lines,
        }),
    }
}

fn line(
    name: &str,
    feature: Feature,
    offer: &str,
    adapter: Option<String>,
    all: &BTreeMap<&str, Feature>,
) -> Option<Line> {
    let (reason, side, remedy) = match (name, feature) {
        // LRO should be off; that it is on is what is to be told.
        ("large-receive-offload", lro) if lro.active => (
            "on",
            Side::Guest,
            "lossy where packets travel on: ethtool -K ADAPTER lro off".into(),
        ),
        ("large-receive-offload", _) => return None,
        (_, one) if one.active => ("on", Side::None, "none needed".to_owned()),
        (_, Feature::DENIED) => ("off [requested on]", Side::Guest, needs(name, all)),
        // A guest without it has GRO in software.
        ("rx-gro-hw", one) if one.fixed && gro(all) => return None,
        (_, one) if one.fixed && !offer.is_empty() => (
            "off [fixed]",
            Side::Host,
            format!(
                "the hypervisor does not offer it: QEMU: -device virtio-net-pci,{offer}; jumbo check on the host (TAP001)"
            ),
        ),
        _ => (
            "off",
            Side::Guest,
            format!("ethtool -K ADAPTER {} on", switch(name)),
        ),
    };
    Some(Line {
        adapter,
        what: name.to_owned(),
        operational: side == Side::None,
        reason: reason.to_owned(),
        side,
        remedy,
    })
}

fn gro(all: &BTreeMap<&str, Feature>) -> bool {
    all.get("generic-receive-offload")
        .is_some_and(|gro| gro.active)
}

/// The word `ethtool -K` takes.
fn switch(name: &str) -> &str {
    match name {
        "rx-checksumming" => "rx",
        "tx-checksumming" => "tx",
        "tcp-segmentation-offload" => "tso",
        "generic-receive-offload" => "gro",
        other => other,
    }
}

fn needs(name: &str, all: &BTreeMap<&str, Feature>) -> String {
    let off = ["tx-checksumming", "scatter-gather", "rx-checksumming"];
    let missing = off
        .iter()
        .find(|other| **other != name && all.get(**other).is_some_and(|one| !one.active));
    match missing {
        Some(other) => format!("it is held off by {other}, which is off"),
        None => "something else holds it off: XDP, forwarding, or a device above".into(),
    }
}
