//! One link: what rtnetlink, the ethtool and netdev families and sysfs say about it.

use serde::{Deserialize, Serialize};

use super::Features;
use crate::cpus::CpuSet;
use crate::datum::Datum;

/// A link of the namespace.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Device {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// `IFLA_INFO_KIND` (`veth`, `tun`, `bridge`...), `loopback`, or `nic` for a device with a driver of its own.
    pub kind: String,
    /// Name of the driver below `/sys/class/net/X/device`; None for software devices.
    pub driver: Datum<Option<String>>,
    /// Set up by the operator (IFF_UP).
    pub up: bool,
    /// Something is at the other end: a cable, a reader of the TAP.
    pub carrier: bool,
    /// Largest L3 packet, in bytes.
    pub mtu: u32,
    /// Index of the bridge or other controller it is a port of.
    pub controller: Option<u32>,
    /// Index of the link below it (VLAN, MACVLAN, VXLAN) or of its veth peer.
    pub lower: Option<u32>,
    /// The link below it is in another namespace.
    pub lower_elsewhere: bool,
    /// Transmit queue length, in packets.
    pub tx_queue_len: u32,
    /// Receive and transmit queues the device was created with.
    pub queues: (u32, u32),
    /// Queueing discipline at the root.
    pub qdisc: String,
    /// Largest super-packet the stack hands it, in bytes.
    pub gso_max_size: u32,
    /// Largest super-packet receive coalescing makes on it, in bytes.
    pub gro_max_size: u32,
    /// Largest super-packet the device itself takes, in bytes.
    pub tso_max_size: u32,
    /// XDP program.
    pub xdp: XdpMode,
    /// For TUN and TAP.
    pub tun: Option<Tun>,
    /// Counters.
    pub stats: Stats,
    /// Offload features.
    pub features: Datum<Features>,
    /// Queues as the driver uses them.
    pub channels: Datum<Option<Channels>>,
    /// Interrupt moderation.
    pub coalesce: Datum<Option<Coalesce>>,
    /// Descriptor rings.
    pub rings: Datum<Option<Rings>>,
    /// Receive scaling.
    pub rss: Datum<Option<Rss>>,
    /// NAPI instances (netdev family, Linux 6.8).
    pub napis: Datum<Vec<Napi>>,
    /// XDP features the driver implements (netdev family, Linux 6.3; `enum netdev_xdp_act`).
    pub xdp_features: Datum<u64>,
    /// How long GRO may hold packets, in nanoseconds.
    pub gro_flush_timeout_ns: Datum<u64>,
    /// Empty polls before interrupts come back.
    pub napi_defer_hard_irqs: Datum<u32>,
    /// NAPI in threads of its own.
    pub threaded: Datum<bool>,
    /// Link speed in Mbit/s; None where the driver has none.
    pub speed_mbps: Datum<Option<u32>>,
    /// NUMA node; None where the machine has one or the bus does not say.
    pub numa_node: Datum<Option<u32>>,
    /// Interrupts that belong to it.
    pub irqs: Datum<Vec<u32>>,
    /// Negotiated virtio feature bits, for virtio devices (`/sys/class/net/X/device/features`).
    pub virtio_bits: Datum<Option<Vec<u32>>>,
    /// PCI Express link; None for what is no PCI Express device.
    pub pci_link: Datum<Option<PciLink>>,
    /// Receive queues in sysfs.
    pub rx_queues: Datum<Vec<RxQueue>>,
    /// Transmit queues in sysfs.
    pub tx_queues: Datum<Vec<TxQueue>>,
    /// IPv4 forwarding on this device.
    pub forwarding_v4: Datum<bool>,
    /// IPv6 forwarding on this device.
    pub forwarding_v6: Datum<bool>,
    /// Programs that hold a queue of this TUN or TAP.
    pub owners: Datum<Vec<Owner>>,
}

impl Device {
    /// A device with hardware, or a hypervisor, behind it.
    pub fn is_nic(&self) -> bool {
        self.kind == "nic"
    }

    /// Where packets of a machine behind it enter: a TAP, or a TUN with metadata.
    pub fn is_tap(&self) -> bool {
        self.tun
            .as_ref()
            .is_some_and(|tun| tun.tap || tun.vnet_header)
    }
}

/// How an XDP program is attached (`IFLA_XDP_ATTACHED`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum XdpMode {
    /// None.
    #[default]
    None,
    /// In the driver.
    Native,
    /// In the stack, after the packet's metadata was built.
    Generic,
    /// In the hardware.
    Hardware,
    /// Several at once.
    Multiple,
}

/// What kind of TUN or TAP (`IFLA_TUN_*`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tun {
    /// Ethernet (TAP); otherwise L3 (TUN).
    pub tap: bool,
    /// Each packet carries a virtio-net header.
    pub vnet_header: bool,
    /// It may have several queues.
    pub multi_queue: bool,
    /// It stays when its last reader goes.
    pub persist: bool,
    /// Queues that are attached; None where the kernel does not say (single-queue).
    pub attached_queues: Option<u32>,
}

/// Counters of a link since it was made (`struct rtnl_link_stats64`); rx is into the host's stack.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Stats {
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets dropped on receive.
    pub rx_dropped: u64,
    /// Packets dropped on send.
    pub tx_dropped: u64,
    /// Packets the receive FIFO had no room for.
    pub rx_fifo_errors: u64,
    /// Packets the device had no descriptor for.
    pub rx_missed_errors: u64,
}

/// Queues (ETHTOOL_MSG_CHANNELS_GET).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Channels {
    /// Receive-only queues.
    pub rx: u32,
    /// Transmit-only queues.
    pub tx: u32,
    /// Queues for both.
    pub combined: u32,
    /// Most receive-only queues.
    pub rx_max: u32,
    /// Most transmit-only queues.
    pub tx_max: u32,
    /// Most queues for both.
    pub combined_max: u32,
}

impl Channels {
    /// Queues packets can arrive on.
    pub fn receive(&self) -> u32 {
        self.rx + self.combined
    }

    /// The most there could be.
    pub fn receive_max(&self) -> u32 {
        self.rx_max.max(self.combined_max)
    }
}

/// Interrupt moderation (ETHTOOL_MSG_COALESCE_GET); None where the driver does not have the knob.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Coalesce {
    /// Microseconds from the first packet to the interrupt.
    pub rx_usecs: Option<u32>,
    /// Packets that make the interrupt come at once.
    pub rx_max_frames: Option<u32>,
    /// Microseconds from the first sent packet to the interrupt.
    pub tx_usecs: Option<u32>,
    /// The driver adapts to the load.
    pub adaptive_rx: Option<bool>,
}

/// Descriptor rings (ETHTOOL_MSG_RINGS_GET), in descriptors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rings {
    /// Receive.
    pub rx: u32,
    /// Transmit.
    pub tx: u32,
    /// Most for receive.
    pub rx_max: u32,
    /// Most for transmit.
    pub tx_max: u32,
}

/// Receive scaling (ETHTOOL_MSG_RSS_GET), the default context.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rss {
    /// Indirection table: a queue per hash bucket. Empty when the driver shows none.
    pub indirection: Vec<u32>,
    /// Every byte of the hash key is zero; None when the driver shows no key. The key itself is a secret and is not
    /// recorded.
    pub key_is_zero: Option<bool>,
    /// UDP of both IP versions is hashed with its ports; None where kernel (before 6.17) or driver does not say.
    pub udp_by_ports: Option<bool>,
}

/// A NAPI instance (netdev family, napi-get).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Napi {
    /// Its id.
    pub id: u32,
    /// Interrupt, where the driver says.
    pub irq: Option<u32>,
    /// Thread that polls it, when it is threaded.
    pub pid: Option<u32>,
    /// Empty polls before interrupts come back (Linux 6.13).
    pub defer_hard_irqs: Option<u32>,
    /// Nanoseconds GRO may hold packets (Linux 6.13).
    pub gro_flush_timeout_ns: Option<u64>,
    /// Where its thread may run, when it is threaded and the thread can be seen.
    pub thread_cpus: Option<CpuSet>,
}

/// What a PCI Express slot gives, and what the device could take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PciLink {
    /// Transfers per second and lane, in GT/s.
    pub speed_gts: f64,
    /// Lanes in use.
    pub lanes: u32,
    /// Most transfers per second and lane, in GT/s.
    pub speed_max_gts: f64,
    /// Most lanes.
    pub lanes_max: u32,
}

/// `/sys/class/net/X/queues/rx-N`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RxQueue {
    /// N.
    pub queue: u32,
    /// Processors the stack's work is spread over; empty means off.
    pub rps_cpus: Datum<CpuSet>,
    /// Flows of this queue that are remembered for steering.
    pub rps_flow_cnt: Datum<u64>,
}

/// `/sys/class/net/X/queues/tx-N`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TxQueue {
    /// N.
    pub queue: u32,
    /// Processors that send on this queue; None where the device has one queue, which needs no choice.
    pub xps_cpus: Datum<Option<CpuSet>>,
}

/// A program that holds queues of a TUN or TAP.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Owner {
    /// Process id.
    pub pid: u32,
    /// Its name (`comm`).
    pub program: String,
    /// File descriptors of this device.
    pub fds: u32,
    /// Threads that run a virtual processor (`CPU n/KVM`, `vcpu*`).
    pub vcpus: u32,
    /// A `vhost-PID` thread serves it.
    pub vhost: bool,
    /// Where its virtual processors may run, all together.
    pub vcpu_cpus: Option<CpuSet>,
    /// Where its vhost threads may run.
    pub vhost_cpus: Option<CpuSet>,
}
