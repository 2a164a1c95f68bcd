//! Hosts built in code, for the rules' tests: a healthy one, and what a rule changes about it.

use std::collections::BTreeMap;

use super::{Profile, View};
use crate::cpus::CpuSet;
use crate::datum::Datum;
use crate::snapshot::{
    Channels, Coalesce, CpuTicks, Cpus, Device, Feature, Features, Irq, Napi, Owner, PciLink,
    Protocols, Rings, Rss, RxQueue, Snapshot, SoftnetCpu, Tun, TxQueue, VERSION,
};

/// The two hosts every rule brings: one where it fires, one where it must not although that is close.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cases {
    /// Makes the healthy host ill.
    pub(crate) fires: fn(&mut Scene),
    /// Rules that see the same illness; nothing else may fire.
    pub(crate) with: &'static [&'static str],
    /// A host that is near the fault and fine.
    pub(crate) silent: fn(&mut Scene),
}

/// Two readings of one host, ten seconds apart.
#[derive(Debug, Clone)]
pub(crate) struct Scene {
    pub(crate) before: Snapshot,
    pub(crate) now: Snapshot,
    pub(crate) profile: Profile,
}

impl Scene {
    /// A host of virtual machines with four cores on two nodes: `eth0` and `vnet0` on `br0`, a container's `veth0`.
    /// Nothing is wrong with it.
    pub(crate) fn healthy() -> Self {
        let now = host();
        let mut before = now.clone();
        before.uptime_ms -= 10_000;
        Self {
            before,
            now,
            profile: Profile::VmHost,
        }
    }

    pub(crate) fn view(&self) -> View<'_> {
        View {
            now: &self.now,
            before: Some(&self.before),
            profile: self.profile,
        }
    }

    /// A device of the later reading.
    pub(crate) fn device(&mut self, name: &str) -> &mut Device {
        let device = self
            .now
            .devices
            .iter_mut()
            .find(|device| device.name == name);
        device.expect("a device of the scene")
    }

    /// Sets a feature of a device.
    pub(crate) fn feature(&mut self, device: &str, name: &str, state: Feature) -> &mut Self {
        let Datum::Known { value, .. } = &mut self.device(device).features else {
            panic!("no features")
        };
        value.0.insert(name.into(), state);
        self
    }

    /// Sets a sysctl of the later reading.
    pub(crate) fn sysctl(&mut self, name: &str, value: &str) -> &mut Self {
        let source = format!("/proc/sys/{}", name.replace('.', "/"));
        self.now
            .sysctls
            .insert(name.into(), Datum::known(Some(value.into()), source));
        self
    }

    /// Adds a device on top of what is there.
    pub(crate) fn add(&mut self, device: Device) -> &mut Self {
        self.before.devices.push(device.clone());
        self.now.devices.push(device);
        self
    }
}

/// A value as it would have been read.
pub(crate) fn read<T>(value: T) -> Datum<T> {
    Datum::known(value, "scene")
}

fn host() -> Snapshot {
    let cpu = |cpu| SoftnetCpu {
        cpu,
        processed: 1000,
        ..SoftnetCpu::default()
    };
    let numbers = [
        "net.core.busy_poll",
        "net.core.busy_read",
        "net.core.rps_sock_flow_entries",
    ]
    .map(|name| (name, "0"));
    let rest = [
        ("net.core.gro_normal_batch", "8"),
        ("net.core.netdev_budget", "300"),
        ("net.core.netdev_budget_usecs", "8000"),
        ("net.core.netdev_max_backlog", "1000"),
        ("net.core.default_qdisc", "fq_codel"),
        ("net.ipv4.ip_forward", "0"),
        ("net.ipv6.conf.all.forwarding", "0"),
        ("net.bridge.bridge-nf-call-iptables", "0"),
        ("net.bridge.bridge-nf-call-ip6tables", "0"),
    ];
    let sysctl = |(name, value): (&str, &str)| (name.to_owned(), read(Some(value.to_owned())));
    Snapshot {
        version: VERSION,
        uptime_ms: 1_000_000,
        hostname: read("hv".into()),
        kernel: read("6.18.0".into()),
        initial_namespace: read(true),
        cpus: cpus(),
        sysctls: numbers.into_iter().chain(rest).map(sysctl).collect(),
        softnet: read((0..4).map(cpu).collect()),
        net_rx: read((0..4).map(|cpu| (cpu, 1000)).collect()),
        ticks: read(
            (0..4)
                .map(|cpu| {
                    (
                        cpu,
                        CpuTicks {
                            total: 100_000,
                            softirq: 1000,
                        },
                    )
                })
                .collect(),
        ),
        irqs: read((0..4).map(irq).collect()),
        protocols: read(Protocols::default()),
        daemons: read(Vec::new()),
        iscsi_sessions: read(0),
        devices: vec![nic(), bridge(), tap(), veth()],
    }
}

fn cpus() -> Cpus {
    let set = |text: &str| text.parse::<CpuSet>().expect("processors");
    Cpus {
        online: read(set("0-3")),
        isolated: read(CpuSet::default()),
        nodes: read(BTreeMap::from([(0, set("0-3"))])),
        cores: read(["0", "1", "2", "3"].map(set).to_vec()),
        mhz: read(3000.0),
    }
}

fn irq(cpu: u32) -> (u32, Irq) {
    let irq = Irq {
        name: format!("ice-eth0-TxRx-{cpu}"),
        count: 1000,
        effective: read(CpuSet::from_iter([cpu])),
        affinity: read(CpuSet::from_iter([cpu])),
    };
    (40 + cpu, irq)
}

/// What every healthy device can do.
pub(crate) const ON: [&str; 9] = [
    "tx-scatter-gather",
    "tx-checksum-ip-generic",
    "tx-generic-segmentation",
    "tx-tcp-segmentation",
    "tx-tcp6-segmentation",
    "tx-tcp-ecn-segmentation",
    "tx-udp-segmentation",
    "rx-gro",
    "rx-udp-gro-forwarding",
];

fn features(more: &[(&str, Feature)]) -> Datum<Features> {
    let on = ON.iter().map(|name| (*name, Feature::ON));
    let all = on
        .chain(more.iter().copied())
        .map(|(name, state)| (name.to_owned(), state));
    read(Features(all.collect()))
}

/// A link without anything below sysfs.
pub(crate) fn link(index: u32, name: &str, kind: &str) -> Device {
    Device {
        index,
        name: name.into(),
        kind: kind.into(),
        driver: read(None),
        up: true,
        carrier: true,
        mtu: 1500,
        tx_queue_len: 1000,
        queues: (1, 1),
        qdisc: "noqueue".into(),
        gso_max_size: 65_536,
        gro_max_size: 65_536,
        tso_max_size: 65_536,
        features: features(&[("rx-checksum", Feature::ON)]),
        channels: read(None),
        coalesce: read(None),
        rings: read(None),
        rss: read(None),
        napis: read(Vec::new()),
        xdp_features: read(0),
        gro_flush_timeout_ns: read(0),
        napi_defer_hard_irqs: read(0),
        threaded: read(false),
        speed_mbps: read(None),
        numa_node: read(None),
        irqs: read(Vec::new()),
        virtio_bits: read(None),
        pci_link: read(None),
        rx_queues: read(vec![rx_queue(0)]),
        tx_queues: read(vec![tx_queue(0)]),
        forwarding_v4: read(false),
        forwarding_v6: read(false),
        owners: read(Vec::new()),
        ..Device::default()
    }
}

fn rx_queue(queue: u32) -> RxQueue {
    RxQueue {
        queue,
        rps_cpus: read(CpuSet::default()),
        rps_flow_cnt: read(0),
    }
}

fn tx_queue(queue: u32) -> TxQueue {
    TxQueue {
        queue,
        xps_cpus: read(Some(CpuSet::from_iter([queue]))),
    }
}

fn nic() -> Device {
    let more = [
        ("rx-checksum", Feature::ON),
        ("rx-lro", Feature::OFF),
        ("rx-gro-hw", Feature::ABSENT),
        ("rx-hashing", Feature::ON),
        ("rx-ntuple-filter", Feature::OFF),
        ("rx-gro-list", Feature::OFF),
        ("tx-udp_tnl-segmentation", Feature::ON),
    ];
    Device {
        driver: read(Some("ice".into())),
        controller: Some(3),
        queues: (4, 4),
        qdisc: "mq".into(),
        features: features(&more),
        channels: read(Some(Channels {
            combined: 4,
            combined_max: 8,
            ..Channels::default()
        })),
        coalesce: read(Some(Coalesce {
            rx_usecs: Some(8),
            rx_max_frames: Some(64),
            tx_usecs: Some(8),
            adaptive_rx: Some(true),
        })),
        rings: read(Some(Rings {
            rx: 1024,
            tx: 1024,
            rx_max: 4096,
            tx_max: 4096,
        })),
        rss: read(Some(Rss {
            indirection: (0..128).map(|bucket| bucket % 4).collect(),
            key_is_zero: Some(false),
            ..Default::default()
        })),
        napis: read(
            (0..4)
                .map(|queue| Napi {
                    id: queue + 1,
                    irq: Some(40 + queue),
                    ..Napi::default()
                })
                .collect(),
        ),
        xdp_features: read(0x63),
        speed_mbps: read(Some(10_000)),
        numa_node: read(Some(0)),
        irqs: read((40..44).collect()),
        pci_link: read(Some(PciLink {
            speed_gts: 8.0,
            lanes: 8,
            speed_max_gts: 8.0,
            lanes_max: 8,
        })),
        rx_queues: read((0..4).map(rx_queue).collect()),
        tx_queues: read((0..4).map(tx_queue).collect()),
        ..link(2, "eth0", "nic")
    }
}

fn bridge() -> Device {
    link(3, "br0", "bridge")
}

fn tap() -> Device {
    Device {
        controller: Some(3),
        qdisc: "fq_codel".into(),
        tun: Some(Tun {
            tap: true,
            vnet_header: true,
            multi_queue: true,
            persist: false,
            attached_queues: Some(2),
        }),
        channels: read(Some(Channels {
            combined: 2,
            combined_max: 2,
            ..Channels::default()
        })),
        coalesce: read(Some(Coalesce {
            rx_max_frames: Some(64),
            ..Coalesce::default()
        })),
        features: features(&[(
            "rx-checksum",
            Feature {
                active: false,
                wanted: false,
                fixed: true,
            },
        )]),
        owners: read(vec![Owner {
            pid: 4711,
            program: "qemu-system-x86".into(),
            fds: 2,
            vcpus: 2,
            vhost: true,
            ..Default::default()
        }]),
        rx_queues: read((0..2).map(rx_queue).collect()),
        tx_queues: read((0..2).map(tx_queue).collect()),
        ..link(4, "vnet0", "tun")
    }
}

/// Its peer is in a container.
fn veth() -> Device {
    Device {
        lower: Some(2),
        lower_elsewhere: true,
        ..link(5, "veth0", "veth")
    }
}
