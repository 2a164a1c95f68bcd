//! Reads samples, one after the other.

use std::collections::BTreeMap;
use std::io;

use super::events::Ears;
use super::{Event, Link, Placed, Sample};
use crate::collect::sampling::Counters;
use crate::collect::{self, Roots};
use crate::datum::Datum;
use crate::snapshot::{Device, Irq};

/// Which interrupt belongs to which queue is read anew so often, in samples: irqbalance moves them every ten seconds.
const PLACES_EVERY: u32 = 10;

/// Reads the calling thread's network namespace.
#[derive(Debug)]
pub struct Sampler {
    roots: Roots,
    ears: Ears,
    before: BTreeMap<u32, Link>,
    places: Vec<Placed>,
    turn: u32,
}

impl Sampler {
    /// Listens from now on.
    pub fn new(roots: Roots) -> Self {
        Self {
            ears: Ears::open(),
            roots,
            before: BTreeMap::new(),
            places: Vec::new(),
            turn: 0,
        }
    }

    /// Reads once. Errors when links cannot be listed.
    pub fn read(&mut self) -> io::Result<Sample> {
        let mut counters = collect::counters(&self.roots)?;
        let links = std::mem::take(&mut counters.links);
        if self.turn.is_multiple_of(PLACES_EVERY) {
            self.places = places(&self.roots, &links);
        }
        self.turn = self.turn.wrapping_add(1);
        let links: Vec<Link> = links.into_iter().map(link).collect();
        let mut events = self.changes(&links);
        events.extend(self.ears.hear(&links));
        self.before = links
            .iter()
            .map(|link| (link.index, link.clone()))
            .collect();
        Ok(self.sample(counters, links, events))
    }

    fn sample(&self, counters: Counters, links: Vec<Link>, events: Vec<Event>) -> Sample {
        let mut unknown = Vec::new();
        let irqs = kept(counters.irqs, &mut unknown);
        let ours = |irq: &u32| self.places.iter().any(|place| place.irq == *irq);
        Sample {
            at_ms: monotonic_ms(),
            links,
            queues: kept(counters.queues, &mut unknown),
            placed: self.places.clone(),
            softnet: kept(counters.softnet, &mut unknown),
            net_rx: kept(counters.net_rx, &mut unknown),
            net_tx: kept(counters.net_tx, &mut unknown),
            ticks: kept(counters.ticks, &mut unknown),
            irqs: irqs
                .into_iter()
                .filter(|(irq, _)| ours(irq))
                .map(|(number, irq): (u32, Irq)| (number, irq.count))
                .collect(),
            protocols: counters.protocols.ok().copied(),
            initial_namespace: counters.initial_namespace.ok().copied(),
            events,
            unknown,
        }
    }

    /// Links that came, went, or changed; nothing the first time.
    fn changes(&self, links: &[Link]) -> Vec<Event> {
        if self.before.is_empty() {
            return Vec::new();
        }
        let mut events = Vec::new();
        for link in links {
            match self.before.get(&link.index) {
                Some(before) => differences(before, link, &mut events),
                None => events.push(Event::new(&link.name, "appeared")),
            }
        }
        let gone = self
            .before
            .values()
            .filter(|old| !links.iter().any(|link| link.index == old.index));
        events.extend(gone.map(|link| Event::new(&link.name, "vanished")));
        events
    }
}

fn differences(before: &Link, link: &Link, events: &mut Vec<Event>) {
    let mut changed = |what: String| events.push(Event::new(&link.name, what));
    if before.name != link.name {
        changed(format!("was called {}", before.name));
    }
    if before.up != link.up {
        changed(if link.up { "set up" } else { "set down" }.into());
    }
    if before.carrier != link.carrier {
        changed(
            if link.carrier {
                "carrier came"
            } else {
                "carrier went"
            }
            .into(),
        );
    }
    if before.mtu != link.mtu {
        changed(format!("mtu {} -> {}", before.mtu, link.mtu));
    }
}

fn link(device: Device) -> Link {
    Link {
        index: device.index,
        name: device.name,
        kind: device.kind,
        mtu: device.mtu,
        up: device.up,
        carrier: device.carrier,
        stats: device.stats,
    }
}

fn kept<T: Default>(datum: Datum<T>, unknown: &mut Vec<String>) -> T {
    match datum {
        Datum::Known { value, .. } => value,
        Datum::Unknown { unknown: reason } => {
            unknown.push(reason);
            T::default()
        }
    }
}

fn monotonic_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}

/// A whole snapshot is dear; it is only made where there is a card whose queues have interrupts.
fn places(roots: &Roots, links: &[Device]) -> Vec<Placed> {
    if !links.iter().any(Device::is_nic) {
        return Vec::new();
    }
    let host = collect::placement(roots, links);
    let of = |device: &Device| -> Vec<Placed> {
        let irqs = crate::rules::receive_irqs(&host, device).unwrap_or_default();
        (0..)
            .zip(irqs)
            .map(|(order, (number, irq))| Placed {
                device: device.index,
                queue: named_queue(&irq.name).unwrap_or(order),
                irq: number,
                cpus: irq
                    .effective
                    .ok()
                    .map(ToString::to_string)
                    .unwrap_or_default(),
            })
            .collect()
    };
    host.devices
        .iter()
        .filter(|device| device.is_nic())
        .flat_map(of)
        .collect()
}

/// `virtio0-input.3`, `eth0-TxRx-3`, `mlx5_comp3@pci:...`: the last number before anything after `@`.
fn named_queue(name: &str) -> Option<u32> {
    let name = name.split('@').next().unwrap_or(name);
    let digits = name.len() - name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    name.get(name.len() - digits..)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_interrupts_end_with_their_queue() {
        for (name, queue) in [
            ("virtio0-input.3", Some(3)),
            ("ice-eth0-TxRx-12", Some(12)),
            ("mlx5_comp4@pci:0000:01:00.0", Some(4)),
            ("eth0", Some(0)),
            ("ena-mgmnt", None),
        ] {
            assert_eq!(named_queue(name), queue, "{name}");
        }
    }

    #[test]
    fn links_that_come_go_and_change_are_events() {
        let link = |index, name: &str, carrier| Link {
            index,
            name: name.into(),
            carrier,
            mtu: 1500,
            ..Link::default()
        };
        let mut sampler = Sampler::new(Roots::default());
        let first = [link(1, "a", true), link(2, "b", true)];
        assert!(sampler.changes(&first).is_empty());
        sampler.before = first
            .iter()
            .map(|link| (link.index, link.clone()))
            .collect();
        let events = sampler.changes(&[link(1, "a", false), link(3, "c", true)]);
        let words: Vec<_> = events
            .iter()
            .map(|one| format!("{} {}", one.device, one.what))
            .collect();
        assert_eq!(words, ["a carrier went", "c appeared", "b vanished"]);
    }
}
