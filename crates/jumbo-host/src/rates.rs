//! Rates out of two samples: what `jumbo watch` shows. Pure, so that a replay shows what was seen.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::sample::{Event, Link, Placed, QueueCounters, Sample};
use crate::snapshot::SoftnetCpu;

/// A device that brings this share of all received packets is whom the host's ratio is about.
const MAIN_SHARE: f64 = 0.9;
/// Ethernet header of a packet, which the device's counters include.
const L2_LEN: f64 = 14.0;

/// What happened between two samples, per second.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Rates {
    /// Monotonic time of the later sample, in milliseconds.
    pub at_ms: u64,
    /// Seconds between the two.
    pub interval_s: f64,
    /// Packets on the wire for each packet IP received, in this namespace; None while nothing arrives.
    pub segments_per_packet: Option<f64>,
    /// Devices, in the kernel's order.
    pub devices: Vec<DeviceRates>,
    /// Queues, by device; a device whose driver does not count them has none.
    pub queues: Vec<QueueRates>,
    /// Processors.
    pub cpus: Vec<CpuRates>,
    /// What happened.
    pub events: Vec<Event>,
    /// What could not be read.
    pub unknown: Vec<String>,
}

/// A device; rx is into the host's stack.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct DeviceRates {
    /// Name.
    pub name: String,
    /// `nic`, `tun`, `veth`...
    pub kind: String,
    /// Set up, with something at the other end.
    pub running: bool,
    /// Packets received.
    pub rx_pps: f64,
    /// Bits received.
    pub rx_bps: f64,
    /// Packets sent.
    pub tx_pps: f64,
    /// Bits sent.
    pub tx_bps: f64,
    /// Packets dropped or missed, both ways.
    pub drops_per_s: f64,
    /// Packets on the wire for each packet the stack got from it; None while nothing arrives.
    pub segments_per_packet: Option<f64>,
    /// How that is known.
    pub ratio_source: Option<RatioSource>,
}

/// How a device's coalescing ratio is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RatioSource {
    /// The driver counts what its hardware coalesced.
    HardwareCounters,
    /// It brings nearly all packets of this namespace, whose protocol counters say it.
    ProtocolCounters,
    /// It brings nearly all packets of this machine; its own counter against those the stack took.
    SoftnetCounters,
    /// From the mean size: a lower bound.
    PacketSize,
}

/// A queue.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct QueueRates {
    /// Device.
    pub device: String,
    /// It sends; otherwise it receives.
    pub tx: bool,
    /// Its number.
    pub queue: u32,
    /// Packets.
    pub pps: f64,
    /// Bits.
    pub bps: f64,
    /// Packets lost.
    pub drops_per_s: f64,
    /// Share of the device's packets in this direction, 0 to 1.
    pub share: f64,
    /// Interrupts, where it is known which are its.
    pub irqs_per_s: Option<f64>,
    /// Processors they go to, as a list.
    pub cpus: Option<String>,
}

/// A processor.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct CpuRates {
    /// Number.
    pub cpu: u32,
    /// Receive soft interrupts.
    pub net_rx_per_s: f64,
    /// Transmit soft interrupts.
    pub net_tx_per_s: f64,
    /// Packets (super-packets count as one) it took into the stack.
    pub packets_per_s: f64,
    /// Poll loops that ended with work left.
    pub squeezes_per_s: f64,
    /// Packets its backlog dropped.
    pub drops_per_s: f64,
    /// Times packets were handed to it by RPS.
    pub rps_per_s: f64,
    /// Share of its time in soft interrupts, 0 to 1.
    pub softirq: f64,
}

impl Rates {
    /// Between two samples of one host; None when they are not in order.
    pub fn between(before: &Sample, now: &Sample) -> Option<Self> {
        let interval_s = now.at_ms.checked_sub(before.at_ms).filter(|ms| *ms > 0)? as f64 / 1000.0;
        let change = Change {
            before,
            now,
            interval_s,
        };
        Some(Self {
            at_ms: now.at_ms,
            interval_s,
            segments_per_packet: change.protocol_ratio(),
            devices: now.links.iter().map(|link| change.device(link)).collect(),
            queues: now
                .queues
                .iter()
                .filter_map(|queue| change.queue(queue))
                .collect(),
            cpus: change.cpus(),
            events: now.events.clone(),
            unknown: now.unknown.clone(),
        })
    }

    /// How much the busiest processor has of the receive work against the mean; None while there is none.
    pub fn imbalance(&self) -> Option<f64> {
        let most = self
            .cpus
            .iter()
            .map(|cpu| cpu.net_rx_per_s)
            .fold(0.0, f64::max);
        let all: f64 = self.cpus.iter().map(|cpu| cpu.net_rx_per_s).sum();
        (all > 0.0).then(|| most / (all / self.cpus.len() as f64))
    }
}

struct Change<'a> {
    before: &'a Sample,
    now: &'a Sample,
    interval_s: f64,
}

impl Change<'_> {
    /// A counter that went back began anew: the device was made again.
    fn rate(&self, before: u64, now: u64) -> f64 {
        now.checked_sub(before).unwrap_or(now) as f64 / self.interval_s
    }

    /// 32-bit counters wrap.
    fn rate32(&self, before: u32, now: u32) -> f64 {
        f64::from(now.wrapping_sub(before)) / self.interval_s
    }

    fn link_before(&self, link: &Link) -> Option<&Link> {
        self.before.links.iter().find(|one| one.index == link.index)
    }

    fn device(&self, link: &Link) -> DeviceRates {
        let old = self.link_before(link).map_or(link.stats, |link| link.stats);
        let new = link.stats;
        let lost = |stats: &crate::snapshot::Stats| {
            stats.rx_dropped + stats.tx_dropped + stats.rx_missed_errors + stats.rx_fifo_errors
        };
        let ratio = self.ratio(link);
        DeviceRates {
            name: link.name.clone(),
            kind: link.kind.clone(),
            running: link.up && link.carrier,
            rx_pps: self.rate(old.rx_packets, new.rx_packets),
            rx_bps: self.rate(old.rx_bytes, new.rx_bytes) * 8.0,
            tx_pps: self.rate(old.tx_packets, new.tx_packets),
            tx_bps: self.rate(old.tx_bytes, new.tx_bytes) * 8.0,
            drops_per_s: self.rate(lost(&old), lost(&new)),
            segments_per_packet: ratio.map(|(ratio, _)| ratio),
            ratio_source: ratio.map(|(_, source)| source),
        }
    }

    /// The best that is known about a device's coalescing.
    fn ratio(&self, link: &Link) -> Option<(f64, RatioSource)> {
        let old = self.link_before(link)?.stats;
        let packets = link
            .stats
            .rx_packets
            .checked_sub(old.rx_packets)
            .filter(|count| *count > 0)? as f64;
        let bytes = link.stats.rx_bytes.saturating_sub(old.rx_bytes) as f64;
        let by_hardware = self
            .hardware_ratio(link.index)
            .map(|ratio| (ratio, RatioSource::HardwareCounters));
        let main = link.kind == "nic" && packets >= self.received() * MAIN_SHARE;
        let by_protocols = || Some((self.protocol_ratio()?, RatioSource::ProtocolCounters));
        let by_softnet = || Some((self.softnet_ratio(packets)?, RatioSource::SoftnetCounters));
        let by_size = (
            (bytes / packets / (f64::from(link.mtu.max(68)) + L2_LEN)).max(1.0),
            RatioSource::PacketSize,
        );
        let by_host = || main.then(|| by_protocols().or_else(by_softnet)).flatten();
        Some(by_hardware.or_else(by_host).unwrap_or(by_size))
    }

    /// Packets all cards of the namespace received.
    fn received(&self) -> f64 {
        let cards = self.now.links.iter().filter(|link| link.kind == "nic");
        let counts = cards.filter_map(|link| {
            let old = self.link_before(link)?.stats.rx_packets;
            link.stats.rx_packets.checked_sub(old)
        });
        counts.sum::<u64>() as f64
    }

    fn hardware_ratio(&self, device: u32) -> Option<f64> {
        let sum = |sample: &Sample, of: fn(&QueueCounters) -> u64| -> u64 {
            sample
                .queues
                .iter()
                .filter(|queue| queue.device == device)
                .map(of)
                .sum()
        };
        let grown =
            |of: fn(&QueueCounters) -> u64| sum(self.now, of).checked_sub(sum(self.before, of));
        let merged = grown(|queue| queue.hw_gro_packets).filter(|count| *count > 0)?;
        Some(grown(|queue| queue.hw_gro_wire_packets)? as f64 / merged as f64)
    }

    /// Segments that were on the wire for each packet IP received; exact, and of the whole namespace.
    fn protocol_ratio(&self) -> Option<f64> {
        let (before, now) = (self.before.protocols?, self.now.protocols?);
        let packets = now
            .ip_in_receives
            .checked_sub(before.ip_in_receives)
            .filter(|count| *count > 0)?;
        Some(now.ip_in_segments.checked_sub(before.ip_in_segments)? as f64 / packets as f64)
    }

    /// For bridges, whose packets IP never sees. The stack's counters are the whole machine's.
    fn softnet_ratio(&self, packets: f64) -> Option<f64> {
        self.now.initial_namespace.filter(|initial| *initial)?;
        let taken: u32 = self
            .softnet()
            .map(|(old, new)| new.processed.wrapping_sub(old.processed))
            .sum();
        (taken > 0).then(|| (packets / f64::from(taken)).max(1.0))
    }

    /// Processors that were there both times.
    fn softnet(&self) -> impl Iterator<Item = (&SoftnetCpu, &SoftnetCpu)> {
        let old = |cpu: u32| self.before.softnet.iter().find(move |one| one.cpu == cpu);
        self.now
            .softnet
            .iter()
            .filter_map(move |new| Some((old(new.cpu)?, new)))
    }

    fn queue(&self, queue: &QueueCounters) -> Option<QueueRates> {
        let same = |one: &&QueueCounters| {
            (one.device, one.tx, one.queue) == (queue.device, queue.tx, queue.queue)
        };
        let old = self.before.queues.iter().find(same)?;
        let device = self
            .now
            .links
            .iter()
            .find(|link| link.index == queue.device)?;
        let place = self.place(queue).filter(|_| !queue.tx);
        let irqs = place.and_then(|place| {
            let (old, new) = (
                self.before.irqs.get(&place.irq)?,
                self.now.irqs.get(&place.irq)?,
            );
            Some(self.rate(*old, *new))
        });
        Some(QueueRates {
            device: device.name.clone(),
            tx: queue.tx,
            queue: queue.queue,
            pps: self.rate(old.packets, queue.packets),
            bps: self.rate(old.bytes, queue.bytes) * 8.0,
            drops_per_s: self.rate(old.drops, queue.drops),
            share: self.share(queue),
            irqs_per_s: irqs,
            cpus: place.map(|place| place.cpus.clone()),
        })
    }

    fn place(&self, queue: &QueueCounters) -> Option<&Placed> {
        let own = |place: &&Placed| place.device == queue.device && place.queue == queue.queue;
        self.now.placed.iter().find(own)
    }

    fn share(&self, queue: &QueueCounters) -> f64 {
        let beside = |sample: &Sample| -> BTreeMap<u32, u64> {
            let same = |one: &&QueueCounters| one.device == queue.device && one.tx == queue.tx;
            sample
                .queues
                .iter()
                .filter(same)
                .map(|one| (one.queue, one.packets))
                .collect()
        };
        let (before, now) = (beside(self.before), beside(self.now));
        let grown = |number: &u32| {
            let new = now.get(number).copied().unwrap_or(0);
            new.saturating_sub(before.get(number).copied().unwrap_or(0))
        };
        let all: u64 = now.keys().map(grown).sum();
        grown(&queue.queue) as f64 / all.max(1) as f64
    }

    fn cpus(&self) -> Vec<CpuRates> {
        let numbers = self
            .now
            .net_rx
            .keys()
            .chain(self.now.softnet.iter().map(|cpu| &cpu.cpu));
        let numbers: std::collections::BTreeSet<u32> = numbers.copied().collect();
        numbers
            .into_iter()
            .filter(|cpu| self.runs(*cpu))
            .map(|cpu| self.cpu(cpu))
            .collect()
    }

    /// `/proc/softirqs` lists processors that could be plugged in too.
    fn runs(&self, cpu: u32) -> bool {
        self.now.softnet.is_empty() || self.now.softnet.iter().any(|one| one.cpu == cpu)
    }

    fn cpu(&self, cpu: u32) -> CpuRates {
        let counted = |of: fn(&Sample) -> &BTreeMap<u32, u64>| match (
            of(self.before).get(&cpu),
            of(self.now).get(&cpu),
        ) {
            (Some(old), Some(new)) => self.rate(*old, *new),
            _ => 0.0,
        };
        let softnet = self.softnet().find(|(_, new)| new.cpu == cpu);
        let of = |field: fn(&SoftnetCpu) -> u32| {
            softnet.map_or(0.0, |(old, new)| self.rate32(field(old), field(new)))
        };
        CpuRates {
            cpu,
            net_rx_per_s: counted(|sample| &sample.net_rx),
            net_tx_per_s: counted(|sample| &sample.net_tx),
            packets_per_s: of(|cpu| cpu.processed),
            squeezes_per_s: of(|cpu| cpu.time_squeeze),
            drops_per_s: of(|cpu| cpu.dropped),
            rps_per_s: of(|cpu| cpu.received_rps),
            softirq: self.softirq(cpu).unwrap_or(0.0),
        }
    }

    fn softirq(&self, cpu: u32) -> Option<f64> {
        let (old, new) = (self.before.ticks.get(&cpu)?, self.now.ticks.get(&cpu)?);
        let all = new
            .total
            .checked_sub(old.total)
            .filter(|ticks| *ticks > 0)?;
        Some(new.softirq.saturating_sub(old.softirq) as f64 / all as f64)
    }
}

#[cfg(test)]
mod tests;
