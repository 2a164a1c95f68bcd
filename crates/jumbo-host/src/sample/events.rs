//! What the kernel announces between two samples: changed features, links that went down and came back.
//!
//! Sources: include/uapi/linux/ethtool_netlink.h (group `monitor`), include/uapi/linux/rtnetlink.h (RTNLGRP_LINK).

use std::collections::BTreeMap;

use super::{Event, Link};
use crate::collect;
use crate::netlink::{Bus, Family, Monitor, attributes};
use crate::snapshot::Features;

const RTNLGRP_LINK: u32 = 1;
const RTM_NEWLINK: u16 = 16;
const IFINFO_LEN: usize = 16;
const IFLA_CARRIER: u16 = 33;
const GENL_HEADER_LEN: usize = 4;
const FEATURES_NTF: u8 = 13;
const HEADER: u16 = 1;
const HEADER_DEV_INDEX: u16 = 1;

/// Notifications of ethtool that are told by name (`ETHTOOL_MSG_*_NTF`).
const OTHERS: [(u8, &str); 5] = [
    (15, "private flags changed"),
    (17, "rings changed"),
    (19, "queues changed"),
    (21, "interrupt moderation changed"),
    (23, "pause changed"),
];

/// Sockets that hear what changes. Without them (an old kernel) less is told.
#[derive(Debug, Default)]
pub(super) struct Ears {
    links: Option<Monitor>,
    ethtool: Option<(u16, Monitor)>,
    features: BTreeMap<u32, Features>,
}

impl Ears {
    pub(super) fn open() -> Self {
        let ethtool = || {
            let family = Family::open("ethtool").ok()?;
            let monitor = Monitor::open(Bus::Generic, family.group("monitor")?).ok()?;
            Some((family.id(), monitor))
        };
        Self {
            links: Monitor::open(Bus::Route, RTNLGRP_LINK).ok(),
            ethtool: ethtool(),
            features: BTreeMap::new(),
        }
    }

    /// What was announced since the last time.
    pub(super) fn hear(&mut self, links: &[Link]) -> Vec<Event> {
        // What a feature was before its first change must be known before it changes.
        for link in links {
            if !self.features.contains_key(&link.index) {
                self.features.extend(
                    collect::features_of(link.index).map(|features| (link.index, features)),
                );
            }
        }
        self.features
            .retain(|index, _| links.iter().any(|link| link.index == *index));
        let mut events = self.flaps(links);
        events.extend(self.settings(links));
        events
    }

    /// Carriers that went and came back between two samples.
    fn flaps(&mut self, links: &[Link]) -> Vec<Event> {
        let Some(monitor) = &self.links else {
            return Vec::new();
        };
        let news = monitor.news();
        let mut lost: BTreeMap<u32, u32> = BTreeMap::new();
        for (kind, payload) in &news.messages {
            let index = payload
                .get(4..)
                .and_then(<[u8]>::first_chunk)
                .map(|index| u32::from_ne_bytes(*index));
            let mut all = attributes(payload.get(IFINFO_LEN..).unwrap_or_default());
            let carrier = all
                .find(|one| one.kind == IFLA_CARRIER)
                .and_then(|one| one.u8());
            if let (RTM_NEWLINK, Some(index), Some(0)) = (*kind, index, carrier) {
                *lost.entry(index).or_default() += 1;
            }
        }
        let flapped = |link: &&Link| link.carrier && lost.contains_key(&link.index);
        let back = links.iter().filter(flapped);
        let mut events: Vec<Event> = back
            .map(|link| Event::new(&link.name, "link flapped"))
            .collect();
        if news.lost {
            events.push(Event::new("", "more changes of links than could be heard"));
        }
        events
    }

    fn settings(&mut self, links: &[Link]) -> Vec<Event> {
        let Some((family, monitor)) = &self.ethtool else {
            return Vec::new();
        };
        let ours = |(kind, payload): (u16, Vec<u8>)| {
            let attributes = payload.get(GENL_HEADER_LEN..)?;
            (kind == *family).then_some((*payload.first()?, index(attributes)?))
        };
        let mut told: Vec<(u8, u32)> = monitor
            .news()
            .messages
            .into_iter()
            .filter_map(ours)
            .collect();
        told.sort_unstable();
        told.dedup();
        let mut events = Vec::new();
        for (command, index) in told {
            let Some(link) = links.iter().find(|link| link.index == index) else {
                continue;
            };
            match OTHERS.iter().find(|(number, _)| *number == command) {
                Some((_, words)) => events.push(Event::new(&link.name, *words)),
                None if command == FEATURES_NTF => self.compare(link, &mut events),
                None => {}
            }
        }
        events
    }

    fn compare(&mut self, link: &Link, events: &mut Vec<Event>) {
        let Some(now) = collect::features_of(link.index) else {
            return;
        };
        if let Some(before) = self.features.get(&link.index) {
            for (name, feature) in &now.0 {
                let old = before.get(name);
                if old != *feature {
                    let what = format!("{name}: {} -> {}", old.words(), feature.words());
                    events.push(Event::new(&link.name, what));
                }
            }
        }
        self.features.insert(link.index, now);
    }
}

fn index(answer: &[u8]) -> Option<u32> {
    let mut headers = attributes(answer).filter(|one| one.kind == HEADER);
    let mut inside = headers.next()?.nested();
    inside.find(|one| one.kind == HEADER_DEV_INDEX)?.u32()
}
