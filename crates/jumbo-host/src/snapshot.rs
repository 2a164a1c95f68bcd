//! The offload state of a host as one value: everything the rules may look at, and nothing else.
//!
//! A snapshot is plain data. It is written and read as JSON, so that a recorded host is a file one can review, and a
//! rule's test is a snapshot built in code. Maps are ordered; the same host gives the same file.

mod device;
mod features;
mod host;

pub use device::{
    Channels, Coalesce, Device, Napi, Owner, PciLink, Rings, Rss, RxQueue, Stats, Tun, TxQueue,
    XdpMode,
};
pub use features::{Feature, Features};
pub use host::{CpuTicks, Cpus, Irq, Protocols, SoftnetCpu};

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::datum::{Datum, Unknown};

/// Version of the recorded form. It changes when a field changes its meaning; new fields have defaults.
pub const VERSION: u32 = 1;

/// One host, one network namespace, one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Snapshot {
    /// [`VERSION`].
    pub version: u32,
    /// Monotonic time of the reading, in milliseconds since boot.
    pub uptime_ms: u64,
    /// `/proc/sys/kernel/hostname`.
    pub hostname: Datum<String>,
    /// `/proc/sys/kernel/osrelease`.
    pub kernel: Datum<String>,
    /// Whether this is the namespace of process 1. Softnet, softirq and interrupt counters are the whole machine's
    /// even inside another namespace.
    pub initial_namespace: Datum<bool>,
    /// Processors.
    pub cpus: Cpus,
    /// Files below `/proc/sys`, by their dotted name; None for what this kernel or namespace does not have.
    pub sysctls: BTreeMap<String, Datum<Option<String>>>,
    /// `/proc/net/softnet_stat`.
    pub softnet: Datum<Vec<SoftnetCpu>>,
    /// The NET_RX line of `/proc/softirqs`, by processor.
    pub net_rx: Datum<BTreeMap<u32, u64>>,
    /// `/proc/stat`, by processor.
    pub ticks: Datum<BTreeMap<u32, CpuTicks>>,
    /// `/proc/interrupts` and `/proc/irq`, those with a device's name.
    pub irqs: Datum<BTreeMap<u32, Irq>>,
    /// Counters of the protocols in this namespace.
    pub protocols: Datum<Protocols>,
    /// Names of running programs that matter to the rules (`irqbalance`).
    pub daemons: Datum<Vec<String>>,
    /// iSCSI sessions of the kernel's initiator.
    pub iscsi_sessions: Datum<u32>,
    /// Links of the namespace.
    pub devices: Vec<Device>,
}

impl Snapshot {
    /// The link with this index.
    pub fn by_index(&self, index: u32) -> Option<&Device> {
        self.devices.iter().find(|device| device.index == index)
    }

    /// The link with this name.
    pub fn by_name(&self, name: &str) -> Option<&Device> {
        self.devices.iter().find(|device| device.name == name)
    }

    /// The bridge or other controller a device is a port of.
    pub fn controller(&self, device: &Device) -> Option<&Device> {
        device.controller.and_then(|index| self.by_index(index))
    }

    /// Links directly on top of this one: its controller, and those that name it as their lower link.
    pub fn uppers<'a>(&'a self, device: &'a Device) -> impl Iterator<Item = &'a Device> {
        let above = move |other: &&Device| {
            Some(other.index) == device.controller
                || (other.lower == Some(device.index)
                    && !other.lower_elsewhere
                    && other.kind != "veth")
        };
        self.devices.iter().filter(above)
    }

    /// A sysctl as a number; None where the kernel or the namespace does not have it.
    pub fn sysctl_if_any(&self, name: &str) -> Result<Option<u64>, Unknown> {
        let datum = self
            .sysctls
            .get(name)
            .ok_or_else(|| Unknown(format!("sysctl {name} was not read")))?;
        let number = |text: &String| {
            text.parse()
                .map_err(|_| Unknown(format!("{}: `{text}` is no number", datum.source())))
        };
        datum.get()?.as_ref().map(number).transpose()
    }

    /// A sysctl as a number; that it is missing makes it unknown.
    pub fn sysctl(&self, name: &str) -> Result<u64, Unknown> {
        let missing = || {
            Unknown(format!(
                "sysctl {name} does not exist in this network namespace"
            ))
        };
        self.sysctl_if_any(name)?.ok_or_else(missing)
    }

    /// The kernel's version, for "since" and "until"; `(0, 0)` never occurs.
    pub fn kernel_version(&self) -> Result<(u32, u32), Unknown> {
        let text = self.kernel.get()?;
        let mut parts = text.split(|c: char| !c.is_ascii_digit());
        let mut number = || parts.next().and_then(|part| part.parse().ok());
        match (number(), number()) {
            (Some(major), Some(minor)) => Ok((major, minor)),
            _ => Err(Unknown(format!("`{text}` is no kernel version"))),
        }
    }
}
