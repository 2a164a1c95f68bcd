//! Counters, read every second by `jumbo watch`: cheap, and plain data, so that a watched hour can be replayed.

mod events;
mod sampler;

pub use crate::collect::QueueCounters;
pub use sampler::Sampler;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::snapshot::{CpuTicks, Protocols, SoftnetCpu, Stats};

/// The counters of one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sample {
    /// Monotonic time, in milliseconds.
    pub at_ms: u64,
    /// Links of the namespace.
    pub links: Vec<Link>,
    /// Queues of drivers that count them.
    pub queues: Vec<QueueCounters>,
    /// Which interrupt a receive queue has, and where it goes: by device and queue.
    pub placed: Vec<Placed>,
    /// `/proc/net/softnet_stat`.
    pub softnet: Vec<SoftnetCpu>,
    /// NET_RX by processor.
    pub net_rx: BTreeMap<u32, u64>,
    /// NET_TX by processor.
    pub net_tx: BTreeMap<u32, u64>,
    /// Time by processor.
    pub ticks: BTreeMap<u32, CpuTicks>,
    /// Interrupts of the devices, how often each came.
    pub irqs: BTreeMap<u32, u64>,
    /// Counters of the protocols.
    pub protocols: Option<Protocols>,
    /// Softnet and softirqs count this namespace's packets, and others' too when it is not the first.
    pub initial_namespace: Option<bool>,
    /// What happened since the sample before.
    pub events: Vec<Event>,
    /// What could not be read, and why.
    pub unknown: Vec<String>,
}

/// A link.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// `nic`, `tun`, `veth`...
    pub kind: String,
    /// Largest L3 packet, in bytes.
    pub mtu: u32,
    /// Set up.
    pub up: bool,
    /// Something is at the other end.
    pub carrier: bool,
    /// Counters.
    pub stats: Stats,
}

/// Where a receive queue's interrupt goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Placed {
    /// Interface index.
    pub device: u32,
    /// Queue.
    pub queue: u32,
    /// Interrupt.
    pub irq: u32,
    /// Processors, as a list.
    pub cpus: String,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// Device.
    pub device: String,
    /// What, in one clause.
    pub what: String,
}

impl Event {
    pub(crate) fn new(device: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            device: device.into(),
            what: what.into(),
        }
    }
}
