//! Features, queues, moderation, rings and receive scaling by the generic netlink family `ethtool` (Linux 5.6).
//!
//! Source: include/uapi/linux/ethtool_netlink.h, Documentation/networking/ethtool-netlink.rst. A list contains only
//! the devices whose driver implements the question, so a device that is not in it has no such thing.

use std::collections::BTreeSet;
use std::io;

use super::spread;
use crate::datum::Datum;
use crate::netlink::{Answers, Attribute, Builder, Family, attributes, question};
use crate::snapshot::{Channels, Coalesce, Device, Feature, Features, Rings, Rss};

const FEATURES_GET: u8 = 11;
const RINGS_GET: u8 = 15;
const CHANNELS_GET: u8 = 17;
const COALESCE_GET: u8 = 19;
const RSS_GET: u8 = 38;

/// Every message begins with this nest.
const HEADER: u16 = 1;
const HEADER_DEV_INDEX: u16 = 1;

const EOPNOTSUPP: i32 = 95;

/// Asks about all devices.
pub(super) fn fill(devices: &mut [Device]) {
    let family = Family::open("ethtool");
    let list = |command, read: &dyn Fn(&[u8]) -> _| all(&family, command, read);
    spread(
        devices,
        list(FEATURES_GET, &features),
        "ethtool FEATURES_GET",
        not_there,
        |d| &mut d.features,
    );
    let list = |command, read: &dyn Fn(&[u8]) -> _| all(&family, command, read);
    spread(
        devices,
        list(CHANNELS_GET, &channels),
        "ethtool CHANNELS_GET",
        has_none,
        |d| &mut d.channels,
    );
    let list = |command, read: &dyn Fn(&[u8]) -> _| all(&family, command, read);
    spread(
        devices,
        list(COALESCE_GET, &coalesce),
        "ethtool COALESCE_GET",
        has_none,
        |d| &mut d.coalesce,
    );
    let list = |command, read: &dyn Fn(&[u8]) -> _| all(&family, command, read);
    spread(
        devices,
        list(RINGS_GET, &rings),
        "ethtool RINGS_GET",
        has_none,
        |d| &mut d.rings,
    );
    for device in devices {
        device.rss = receive_scaling(&family, device);
    }
}

/// Asks about one device, with questions to that device only.
pub(super) fn fill_one(device: &mut Device) {
    let family = Family::open("ethtool");
    let ask = |command| one(&family, command, device.index);
    let had = |source: &str| format!("ethtool {source} {}", device.name);
    let features_of = ask(FEATURES_GET).and_then(|answer| answer.ok_or_else(refused));
    let features = Datum::from_result(
        features_of.map(|answer| features(&answer)),
        had("FEATURES_GET"),
    );
    let channels = Datum::from_result(
        ask(CHANNELS_GET).map(|answer| answer.and_then(|answer| channels(&answer))),
        had("CHANNELS_GET"),
    );
    let coalesce = Datum::from_result(
        ask(COALESCE_GET).map(|answer| answer.and_then(|answer| coalesce(&answer))),
        had("COALESCE_GET"),
    );
    let rings = Datum::from_result(
        ask(RINGS_GET).map(|answer| answer.and_then(|answer| rings(&answer))),
        had("RINGS_GET"),
    );
    (device.features, device.channels) = (features, channels);
    (device.coalesce, device.rings) = (coalesce, rings);
    device.rss = receive_scaling(&family, device);
}

/// One device's features, asked again.
pub(super) fn features_of(index: u32) -> Option<Features> {
    let answer = one(&Family::open("ethtool"), FEATURES_GET, index).ok()??;
    Some(features(&answer))
}

fn refused() -> io::Error {
    io::Error::from_raw_os_error(EOPNOTSUPP)
}

/// One device's answer; None where the driver has no such thing.
fn one(family: &io::Result<Family>, command: u8, index: u32) -> io::Result<Option<Vec<u8>>> {
    let family = family.as_ref().map_err(again)?;
    let which = Builder::default().u32(HEADER_DEV_INDEX, index);
    match family.ask(&question(command).nest(HEADER, which), Answers::One) {
        Ok(answers) => Ok(answers.into_iter().next()),
        Err(error) if error.raw_os_error() == Some(EOPNOTSUPP) => Ok(None),
        Err(error) => Err(error),
    }
}

fn not_there<T>(place: &str) -> Datum<T> {
    Datum::unknown(format_args!(
        "{place}: the kernel did not answer for this device"
    ))
}

fn has_none<T>(place: &str) -> Datum<Option<T>> {
    Datum::known(None, place)
}

/// Asks one question about all devices.
fn all<T>(
    family: &io::Result<Family>,
    command: u8,
    read: impl Fn(&[u8]) -> T,
) -> io::Result<Vec<(u32, T)>> {
    let family = family.as_ref().map_err(again)?;
    let question = question(command).nest(HEADER, Builder::default());
    let answers = family.ask(&question, Answers::List)?;
    Ok(answers
        .iter()
        .filter_map(|answer| Some((index(answer)?, read(answer))))
        .collect())
}

/// An error that several questions share.
fn again(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

fn index(answer: &[u8]) -> Option<u32> {
    let mut header = attributes(answer).filter(|attribute| attribute.kind == HEADER);
    let mut inside = header.next()?.nested();
    inside
        .find(|attribute| attribute.kind == HEADER_DEV_INDEX)?
        .u32()
}

fn features(answer: &[u8]) -> Features {
    let (mut all, mut hw, mut wanted, mut active, mut nochange) = Default::default();
    for attribute in attributes(answer) {
        match attribute.kind {
            2 => (all, hw) = bitset(&attribute),
            3 => wanted = bitset(&attribute).1,
            4 => active = bitset(&attribute).1,
            5 => nochange = bitset(&attribute).1,
            _ => {}
        }
    }
    let _: (&BTreeSet<String>, &BTreeSet<String>) = (&hw, &wanted);
    let one = |name: String| {
        let fixed = !hw.contains(&name) || nochange.contains(&name);
        let feature = Feature {
            active: active.contains(&name),
            wanted: if fixed {
                active.contains(&name)
            } else {
                wanted.contains(&name)
            },
            fixed,
        };
        (name, feature)
    };
    Features(all.into_iter().map(one).collect())
}

/// A bitset in its verbose form: the names it lists, and those that are set. A list without a mask has the set ones
/// only.
fn bitset(attribute: &Attribute<'_>) -> (BTreeSet<String>, BTreeSet<String>) {
    let has = |kind| attribute.nested().any(|inside| inside.kind == kind);
    let no_mask = has(1);
    let bits = attribute.nested().filter(|inside| inside.kind == 3);
    let (mut listed, mut set) = (BTreeSet::new(), BTreeSet::new());
    for bit in bits.flat_map(|bits| bits.nested()) {
        let name = bit
            .nested()
            .find(|inside| inside.kind == 2)
            .map(|name| name.text());
        let Some(name) = name else { continue };
        if no_mask || bit.nested().any(|inside| inside.kind == 3) {
            set.insert(name.clone());
        }
        listed.insert(name);
    }
    (listed, set)
}

/// The numbers of a flat message, by attribute.
fn number(answer: &[u8], kind: u16) -> Option<u32> {
    attributes(answer)
        .find(|attribute| attribute.kind == kind)?
        .u32()
}

fn channels(answer: &[u8]) -> Option<Channels> {
    let number = |kind| number(answer, kind).unwrap_or(0);
    Some(Channels {
        rx_max: number(2),
        tx_max: number(3),
        combined_max: number(5),
        rx: number(6),
        tx: number(7),
        combined: number(9),
    })
}

fn coalesce(answer: &[u8]) -> Option<Coalesce> {
    let adaptive = attributes(answer).find(|attribute| attribute.kind == 11);
    Some(Coalesce {
        rx_usecs: number(answer, 2),
        rx_max_frames: number(answer, 3),
        tx_usecs: number(answer, 6),
        adaptive_rx: adaptive.and_then(|flag| flag.u8()).map(|flag| flag != 0),
    })
}

fn rings(answer: &[u8]) -> Option<Rings> {
    let number = |kind| number(answer, kind).unwrap_or(0);
    Some(Rings {
        rx_max: number(2),
        tx_max: number(5),
        rx: number(6),
        tx: number(9),
    })
}

/// Lists came to this question late, so each device is asked that can have several queues.
fn receive_scaling(family: &io::Result<Family>, device: &Device) -> Datum<Option<Rss>> {
    let source = format!("ethtool RSS_GET {}", device.name);
    let several = device
        .channels
        .ok()
        .is_some_and(|channels| channels.is_some());
    let family = match family {
        _ if !several || device.kind == "tun" => return Datum::known(None, source),
        Ok(family) => family,
        Err(error) => return Datum::unknown(format_args!("{source}: {error}")),
    };
    let which = Builder::default().u32(HEADER_DEV_INDEX, device.index);
    match family.ask(&question(RSS_GET).nest(HEADER, which), Answers::One) {
        Ok(answers) => Datum::known(answers.first().map(|answer| rss(answer)), source),
        Err(error) if error.raw_os_error() == Some(EOPNOTSUPP) => Datum::known(None, source),
        Err(error) => Datum::unknown(format_args!("{source}: {error}")),
    }
}

fn rss(answer: &[u8]) -> Rss {
    let find = |kind| attributes(answer).find(|attribute| attribute.kind == kind);
    let words = find(4)
        .map_or(&[][..], |attribute| attribute.value)
        .chunks_exact(4);
    Rss {
        indirection: words
            .filter_map(|word| word.first_chunk().copied())
            .map(u32::from_ne_bytes)
            .collect(),
        udp_by_ports: find(8).and_then(|hash| udp_by_ports(&hash)),
        key_is_zero: find(5).map(|key| key.value.iter().all(|byte| *byte == 0)),
    }
}

/// RXH_L4_B_0_1 and RXH_L4_B_2_3 (include/uapi/linux/ethtool.h): both ports.
const PORTS: u64 = 1 << 6 | 1 << 7;

/// Whether all UDP (ETHTOOL_A_FLOW_UDP4, _UDP6) is hashed with ports; None where the driver lists none. Linux 6.17.
fn udp_by_ports(hash: &Attribute<'_>) -> Option<bool> {
    let udp = hash.nested().filter(|flow| matches!(flow.kind, 6 | 7));
    let by_ports: Vec<bool> = udp
        .filter_map(|flow| flow.u64())
        .map(|fields| fields & PORTS == PORTS)
        .collect();
    (!by_ports.is_empty()).then(|| by_ports.iter().all(|yes| *yes))
}
