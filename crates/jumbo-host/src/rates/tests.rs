//! Rates of samples made by hand.

use super::*;
use crate::snapshot::{CpuTicks, Protocols, Stats};

fn nic(packets: u64, bytes: u64) -> Link {
    Link {
        index: 2,
        name: "eth0".into(),
        kind: "nic".into(),
        mtu: 1500,
        up: true,
        carrier: true,
        stats: Stats {
            rx_packets: packets,
            rx_bytes: bytes,
            ..Stats::default()
        },
    }
}

fn queue(queue: u32, packets: u64) -> QueueCounters {
    QueueCounters {
        device: 2,
        queue,
        packets,
        bytes: packets * 1000,
        ..QueueCounters::default()
    }
}

fn pair() -> (Sample, Sample) {
    let before = Sample {
        at_ms: 1000,
        links: vec![nic(100, 100_000)],
        queues: vec![queue(0, 10), queue(1, 10)],
        softnet: vec![SoftnetCpu {
            cpu: 0,
            processed: u32::MAX - 9,
            ..SoftnetCpu::default()
        }],
        net_rx: BTreeMap::from([(0, 5), (1, 5)]),
        ticks: BTreeMap::from([(
            0,
            CpuTicks {
                total: 100,
                softirq: 0,
            },
        )]),
        protocols: Some(Protocols::default()),
        initial_namespace: Some(true),
        ..Sample::default()
    };
    let mut now = before.clone();
    now.at_ms = 3000;
    now.links = vec![nic(700, 900_000)];
    now.queues = vec![queue(0, 310), queue(1, 110)];
    now.softnet[0].processed = 10;
    now.softnet[0].time_squeeze = 4;
    now.net_rx = BTreeMap::from([(0, 25), (1, 5)]);
    now.ticks = BTreeMap::from([(
        0,
        CpuTicks {
            total: 300,
            softirq: 50,
        },
    )]);
    (before, now)
}

#[test]
fn counters_become_rates() {
    let (before, now) = pair();
    let rates = Rates::between(&before, &now).expect("in order");
    let device = &rates.devices[0];
    assert_eq!(
        (rates.interval_s, device.rx_pps, device.rx_bps),
        (2.0, 300.0, 3_200_000.0)
    );
    let queues: Vec<_> = rates
        .queues
        .iter()
        .map(|queue| (queue.pps, queue.share))
        .collect();
    assert_eq!(queues, [(150.0, 0.75), (50.0, 0.25)]);
    // One processor is not online, and the counter wrapped.
    assert_eq!(rates.cpus.len(), 1);
    let cpu = &rates.cpus[0];
    assert_eq!(
        (
            cpu.net_rx_per_s,
            cpu.packets_per_s,
            cpu.squeezes_per_s,
            cpu.softirq
        ),
        (10.0, 10.0, 2.0, 0.25)
    );
}

#[test]
fn the_best_ratio_that_is_known_is_told_with_its_source() {
    let (before, mut now) = pair();
    let ratio = |now: &Sample| {
        let device = Rates::between(&before, now)
            .expect("in order")
            .devices
            .remove(0);
        (device.segments_per_packet, device.ratio_source)
    };
    // 600 packets of the card, 20 of the stack.
    assert_eq!(
        ratio(&now),
        (Some(30.0), Some(RatioSource::SoftnetCounters))
    );
    now.initial_namespace = Some(false);
    assert_eq!(ratio(&now), (Some(1.0), Some(RatioSource::PacketSize)));
    now.protocols = Some(Protocols {
        ip_in_receives: 10,
        ip_in_segments: 400,
        ..Protocols::default()
    });
    assert_eq!(
        ratio(&now),
        (Some(40.0), Some(RatioSource::ProtocolCounters))
    );
    now.queues[0].hw_gro_packets = 2;
    now.queues[0].hw_gro_wire_packets = 18;
    assert_eq!(
        ratio(&now),
        (Some(9.0), Some(RatioSource::HardwareCounters))
    );
}

#[test]
fn super_packets_of_a_tap_show_in_their_size() {
    let (mut before, mut now) = pair();
    for (sample, bytes) in [(&mut before, 0), (&mut now, 600 * 15_140)] {
        sample.links[0].kind = "tun".into();
        sample.links[0].stats.rx_bytes = bytes;
    }
    let device = Rates::between(&before, &now)
        .expect("in order")
        .devices
        .remove(0);
    assert_eq!(
        (device.segments_per_packet, device.ratio_source),
        (Some(10.0), Some(RatioSource::PacketSize))
    );
}

#[test]
fn what_is_new_or_began_anew_has_no_wild_rates() {
    let (before, mut now) = pair();
    now.links.push(Link {
        index: 9,
        name: "new".into(),
        stats: Stats {
            rx_packets: 1 << 40,
            ..Stats::default()
        },
        ..Link::default()
    });
    now.links[0].stats.rx_packets = 4;
    let rates = Rates::between(&before, &now).expect("in order");
    assert_eq!(
        (rates.devices[1].rx_pps, rates.devices[0].rx_pps),
        (0.0, 2.0)
    );
    assert_eq!(Rates::between(&now, &before), None);
}
