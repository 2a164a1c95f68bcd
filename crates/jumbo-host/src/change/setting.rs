//! The typed names of settings: where each is in a snapshot, what it costs to change, what an operator types.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Value;
use crate::datum::{Datum, Unknown};
use crate::snapshot::{Device, Snapshot};

/// A direction, or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// Receive.
    Rx,
    /// Transmit.
    Tx,
    /// Queues for both directions.
    Combined,
}

/// A knob of interrupt moderation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Moderation {
    /// Microseconds from the first packet to the interrupt.
    RxUsecs,
    /// Packets that make the interrupt come at once.
    RxFrames,
    /// The driver adapts to the load.
    AdaptiveRx,
}

/// A knob of NAPI, of a device or of one instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NapiKnob {
    /// Empty polls before interrupts come back.
    DeferHardIrqs,
    /// Nanoseconds GRO may hold packets.
    GroFlushTimeoutNs,
}

/// One thing an operator can set.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Setting {
    /// An offload feature, by the kernel's name.
    Feature { device: String, name: String },
    /// Interrupt moderation.
    Coalesce { device: String, knob: Moderation },
    /// Descriptors of a ring.
    Ring { device: String, side: Side },
    /// Queues the driver uses.
    Channels { device: String, side: Side },
    /// The indirection table of receive scaling.
    Indirection { device: String },
    /// UDP is hashed with its ports.
    UdpHash { device: String },
    /// Largest L3 packet, in bytes.
    Mtu { device: String },
    /// Transmit queue length, in packets.
    TxQueueLen { device: String },
    /// Largest super-packet receive coalescing makes, in bytes.
    GroMaxSize { device: String },
    /// NAPI of all queues of a device.
    NapiDefault { device: String, knob: NapiKnob },
    /// One NAPI instance.
    Napi {
        device: String,
        id: u32,
        knob: NapiKnob,
    },
    /// NAPI in threads of its own.
    Threaded { device: String },
    /// Where the thread of a NAPI may run.
    NapiThread { device: String, pid: u32 },
    /// Processors a queue's receive work is spread over.
    RpsCpus { device: String, queue: u32 },
    /// Flows of a queue remembered for steering.
    RpsFlowCnt { device: String, queue: u32 },
    /// Processors that send on a queue.
    XpsCpus { device: String, queue: u32 },
    /// Where an interrupt goes.
    IrqAffinity { irq: u32 },
    /// A number below `/proc/sys`, by its dotted name.
    Sysctl { name: String },
}

/// A setting no kernel has, or a value of the wrong kind for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unfit(pub String);

/// Longest name of a device: IFNAMSIZ less the final zero (include/uapi/linux/if.h).
const DEVICE_NAME_MAX_LEN: usize = 15;

impl Setting {
    /// An offload feature of a device.
    pub fn feature(device: &Device, name: &str) -> Self {
        Self::Feature {
            device: device.name.clone(),
            name: name.to_owned(),
        }
    }

    /// The device it belongs to; None for the host's.
    pub fn device(&self) -> Option<&str> {
        match self {
            Self::Feature { device, .. }
            | Self::Coalesce { device, .. }
            | Self::Ring { device, .. }
            | Self::Channels { device, .. }
            | Self::Indirection { device }
            | Self::UdpHash { device }
            | Self::Mtu { device }
            | Self::TxQueueLen { device }
            | Self::GroMaxSize { device }
            | Self::NapiDefault { device, .. }
            | Self::Napi { device, .. }
            | Self::Threaded { device }
            | Self::NapiThread { device, .. }
            | Self::RpsCpus { device, .. }
            | Self::RpsFlowCnt { device, .. }
            | Self::XpsCpus { device, .. } => Some(device),
            Self::IrqAffinity { .. } | Self::Sysctl { .. } => None,
        }
    }

    /// Changing it may take the link down for a moment or make queues anew: what drivers do by closing and opening.
    pub fn resets(&self) -> bool {
        match self {
            Self::Ring { .. } | Self::Channels { .. } | Self::Mtu { .. } => true,
            Self::Feature { name, .. } => matches!(name.as_str(), "rx-lro" | "rx-gro-hw"),
            _ => false,
        }
    }

    /// Order in which changes must be made: what others stand on comes first, what makes queues anew before what is
    /// set per queue, rings last.
    pub fn rank(&self) -> u8 {
        match self {
            Self::Channels { .. } => 0,
            Self::Feature { name, .. } => match name.as_str() {
                "tx-scatter-gather" => 1,
                "rx-checksum" => 2,
                name if name.starts_with("tx-checksum") => 2,
                "tx-generic-segmentation" => 3,
                _ => 4,
            },
            Self::Mtu { .. } | Self::GroMaxSize { .. } | Self::TxQueueLen { .. } => 5,
            Self::Indirection { .. } | Self::UdpHash { .. } => 6,
            Self::Coalesce { .. } => 7,
            Self::Threaded { .. } => 8,
            Self::NapiDefault { .. } => 9,
            Self::Napi { .. } | Self::NapiThread { .. } => 10,
            Self::IrqAffinity { .. } => 11,
            Self::Sysctl { .. } => 12,
            Self::RpsCpus { .. } | Self::RpsFlowCnt { .. } | Self::XpsCpus { .. } => 13,
            Self::Ring { .. } => 14,
        }
    }

    /// Whether a plan may name it so, with this value. A plan is a file; its names become paths.
    pub fn fits(&self, value: &Value) -> Result<(), Unfit> {
        let bad = |what: &str| Err(Unfit(format!("`{self}`: {what}")));
        if self.device().is_some_and(|name| !is_device_name(name)) {
            return bad("this is no name of a device");
        }
        match (self, value) {
            (Self::Sysctl { name }, Value::Number(_)) if is_sysctl(name) => Ok(()),
            (Self::Sysctl { .. }, Value::Number(_)) => bad("this is no sysctl jumbo sets"),
            (Self::Feature { .. }, Value::Feature(_))
            | (Self::UdpHash { .. } | Self::Threaded { .. }, Value::Flag(_))
            | (Self::Indirection { .. }, Value::Table(_))
            | (
                Self::RpsCpus { .. }
                | Self::XpsCpus { .. }
                | Self::IrqAffinity { .. }
                | Self::NapiThread { .. },
                Value::Cpus(_),
            ) => Ok(()),
            (Self::Coalesce { knob, .. }, Value::Flag(_)) if *knob == Moderation::AdaptiveRx => {
                Ok(())
            }
            (Self::Coalesce { knob, .. }, Value::Number(number))
                if *knob != Moderation::AdaptiveRx && u32::try_from(*number).is_ok() =>
            {
                Ok(())
            }
            (
                Self::Ring { .. }
                | Self::Channels { .. }
                | Self::Mtu { .. }
                | Self::TxQueueLen { .. }
                | Self::GroMaxSize { .. },
                Value::Number(number),
            ) if u32::try_from(*number).is_ok() => Ok(()),
            (
                Self::NapiDefault { .. } | Self::Napi { .. } | Self::RpsFlowCnt { .. },
                Value::Number(_),
            ) => Ok(()),
            _ => bad(&format!("it cannot be {value}")),
        }
    }

    /// Its value in a snapshot.
    pub fn read(&self, host: &Snapshot) -> Result<Value, Unknown> {
        let number = |number: u32| Ok(Value::Number(number.into()));
        match self {
            Self::Sysctl { name } => host.sysctl(name).map(Value::Number),
            Self::IrqAffinity { irq } => {
                let irqs = host.irqs.get()?;
                let irq = irqs.get(irq).ok_or_else(|| missing(self))?;
                Ok(Value::Cpus(irq.affinity.get()?.clone()))
            }
            Self::Mtu { .. } => number(self.link(host)?.mtu),
            Self::TxQueueLen { .. } => number(self.link(host)?.tx_queue_len),
            Self::GroMaxSize { .. } => number(self.link(host)?.gro_max_size),
            Self::RpsCpus { queue, .. } | Self::RpsFlowCnt { queue, .. } => {
                self.of_rx_queue(self.link(host)?, *queue)
            }
            Self::XpsCpus { queue, .. } => {
                let queues = self.link(host)?.tx_queues.get()?;
                let one = queues.iter().find(|one| one.queue == *queue);
                let cpus = one.ok_or_else(|| missing(self))?.xps_cpus.get()?;
                cpus.clone().map(Value::Cpus).ok_or_else(|| missing(self))
            }
            _ => self.of_driver(self.link(host)?),
        }
    }

    fn link<'a>(&self, host: &'a Snapshot) -> Result<&'a Device, Unknown> {
        let device = self.device().and_then(|name| host.by_name(name));
        device.ok_or_else(|| missing(self))
    }

    fn of_rx_queue(&self, device: &Device, queue: u32) -> Result<Value, Unknown> {
        let queues = device.rx_queues.get()?;
        let one = queues.iter().find(|one| one.queue == queue);
        let one = one.ok_or_else(|| missing(self))?;
        match self {
            Self::RpsFlowCnt { .. } => Ok(Value::Number(*one.rps_flow_cnt.get()?)),
            _ => Ok(Value::Cpus(one.rps_cpus.get()?.clone())),
        }
    }

    /// What netlink and sysfs say of the driver and its NAPIs.
    fn of_driver(&self, device: &Device) -> Result<Value, Unknown> {
        let some = |number: Option<u32>| {
            let number = number.ok_or_else(|| missing(self))?;
            Ok(Value::Number(number.into()))
        };
        match self {
            Self::Feature { name, .. } => {
                let features = device.features.get()?;
                let feature = features.0.get(name).ok_or_else(|| missing(self))?;
                Ok(Value::Feature(*feature))
            }
            Self::Coalesce { knob, .. } => {
                let coalesce = had(self, &device.coalesce)?;
                match knob {
                    Moderation::RxUsecs => some(coalesce.rx_usecs),
                    Moderation::RxFrames => some(coalesce.rx_max_frames),
                    Moderation::AdaptiveRx => coalesce
                        .adaptive_rx
                        .map(Value::Flag)
                        .ok_or_else(|| missing(self)),
                }
            }
            Self::Ring { side, .. } => {
                let rings = had(self, &device.rings)?;
                some(Some(if *side == Side::Tx {
                    rings.tx
                } else {
                    rings.rx
                }))
            }
            Self::Channels { side, .. } => {
                let channels = had(self, &device.channels)?;
                some(Some(match side {
                    Side::Rx => channels.rx,
                    Side::Tx => channels.tx,
                    Side::Combined => channels.combined,
                }))
            }
            Self::Indirection { .. } => {
                Ok(Value::Table(had(self, &device.rss)?.indirection.clone()))
            }
            Self::UdpHash { .. } => had(self, &device.rss)?
                .udp_by_ports
                .map(Value::Flag)
                .ok_or_else(|| missing(self)),
            Self::Threaded { .. } => Ok(Value::Flag(*device.threaded.get()?)),
            Self::NapiDefault { knob, .. } => Ok(Value::Number(match knob {
                NapiKnob::DeferHardIrqs => (*device.napi_defer_hard_irqs.get()?).into(),
                NapiKnob::GroFlushTimeoutNs => *device.gro_flush_timeout_ns.get()?,
            })),
            _ => self.of_napi(device),
        }
    }

    fn of_napi(&self, device: &Device) -> Result<Value, Unknown> {
        let mut napis = device.napis.get()?.iter();
        let napi = match self {
            Self::Napi { id, .. } => napis.find(|napi| napi.id == *id),
            Self::NapiThread { pid, .. } => napis.find(|napi| napi.pid == Some(*pid)),
            _ => None,
        };
        let napi = napi.ok_or_else(|| missing(self))?;
        let value = match self {
            Self::Napi { knob, .. } => match knob {
                NapiKnob::DeferHardIrqs => napi.defer_hard_irqs.map(u64::from),
                NapiKnob::GroFlushTimeoutNs => napi.gro_flush_timeout_ns,
            }
            .map(Value::Number),
            _ => napi.thread_cpus.clone().map(Value::Cpus),
        };
        value.ok_or_else(|| missing(self))
    }

    /// What an operator types to make it so.
    pub fn command(&self, value: &Value) -> String {
        let echo = |text: &dyn fmt::Display, file: String| format!("echo {text} > {file}");
        match self {
            Self::Feature { device, name } => {
                format!("ethtool -K {device} {} {}", short(name), asked(value))
            }
            Self::Coalesce { device, knob } => {
                let knob = match knob {
                    Moderation::RxUsecs => "rx-usecs",
                    Moderation::RxFrames => "rx-frames",
                    Moderation::AdaptiveRx => "adaptive-rx",
                };
                format!("ethtool -C {device} {knob} {value}")
            }
            Self::Ring { device, side } => format!("ethtool -G {device} {} {value}", side.word()),
            Self::Channels { device, side } => {
                format!("ethtool -L {device} {} {value}", side.word())
            }
            Self::Indirection { device } => table_command(device, value),
            Self::UdpHash { device } => {
                let fields = if *value == Value::Flag(true) {
                    "sdfn"
                } else {
                    "sd"
                };
                format!(
                    "ethtool -N {device} rx-flow-hash udp4 {fields}; ethtool -N {device} rx-flow-hash udp6 {fields}"
                )
            }
            Self::Mtu { device } => format!("ip link set {device} mtu {value}"),
            Self::TxQueueLen { device } => format!("ip link set {device} txqueuelen {value}"),
            Self::GroMaxSize { device } => format!("ip link set {device} gro_max_size {value}"),
            Self::Napi { id, knob, .. } => {
                let knob = match knob {
                    NapiKnob::DeferHardIrqs => "defer-hard-irqs",
                    NapiKnob::GroFlushTimeoutNs => "gro-flush-timeout",
                };
                format!(
                    "ynl --family netdev --do napi-set --json '{{\"id\": {id}, \"{knob}\": {value}}}'"
                )
            }
            Self::NapiThread { pid, .. } => format!("taskset -pc {value} {pid}"),
            Self::Sysctl { name } => format!("sysctl {name}={value}"),
            Self::IrqAffinity { irq } => echo(value, format!("/proc/irq/{irq}/smp_affinity_list")),
            _ => echo(&file_text(value), self.file().unwrap_or_default()),
        }
    }

    /// The file that holds it, below `/sys` or `/proc`, where it is one.
    pub fn file(&self) -> Option<String> {
        let net = |device: &str, file: &str| Some(format!("/sys/class/net/{device}/{file}"));
        match self {
            Self::NapiDefault { device, knob } => net(
                device,
                match knob {
                    NapiKnob::DeferHardIrqs => "napi_defer_hard_irqs",
                    NapiKnob::GroFlushTimeoutNs => "gro_flush_timeout",
                },
            ),
            Self::Threaded { device } => net(device, "threaded"),
            Self::RpsCpus { device, queue } => net(device, &format!("queues/rx-{queue}/rps_cpus")),
            Self::RpsFlowCnt { device, queue } => {
                net(device, &format!("queues/rx-{queue}/rps_flow_cnt"))
            }
            Self::XpsCpus { device, queue } => net(device, &format!("queues/tx-{queue}/xps_cpus")),
            Self::IrqAffinity { irq } => Some(format!("/proc/irq/{irq}/smp_affinity_list")),
            Self::Sysctl { name } => Some(format!("/proc/sys/{}", name.replace('.', "/"))),
            _ => None,
        }
    }
}

/// What a file of sysfs takes.
pub(crate) fn file_text(value: &Value) -> String {
    match value {
        Value::Flag(flag) => u8::from(*flag).to_string(),
        Value::Cpus(cpus) => cpus.to_mask(),
        other => other.to_string(),
    }
}

/// Where it has a place but the kernel or the driver has no such thing.
fn missing(setting: &Setting) -> Unknown {
    Unknown(format!("`{setting}` does not exist here"))
}

fn had<'a, T>(setting: &Setting, datum: &'a Datum<Option<T>>) -> Result<&'a T, Unknown> {
    datum.get()?.as_ref().ok_or_else(|| missing(setting))
}

/// The words that stand for exactly this one feature; groups of several are never used.
fn short(name: &str) -> &str {
    match name {
        "rx-gro" => "gro",
        "rx-lro" => "lro",
        "rx-checksum" => "rx",
        "rx-hashing" => "rxhash",
        "tx-generic-segmentation" => "gso",
        other => other,
    }
}

fn asked(value: &Value) -> &'static str {
    match value {
        Value::Feature(feature) if feature.wanted => "on",
        _ => "off",
    }
}

fn table_command(device: &str, value: &Value) -> String {
    let Value::Table(table) = value else {
        return String::new();
    };
    let queues = table.iter().max().map_or(1, |last| last.saturating_add(1));
    match *value == Value::even_table(table.len(), queues) {
        true => format!("ethtool -X {device} equal {queues}"),
        false => format!("ethtool -X {device} weight {}", weights(table, queues)),
    }
}

/// `ethtool -X weight` gives each queue its number of buckets; which bucket is whose it decides itself.
fn weights(table: &[u32], queues: u32) -> String {
    let count = |queue| {
        table
            .iter()
            .filter(|one| **one == queue)
            .count()
            .to_string()
    };
    // A damaged table could name queue 4 billion.
    (0..queues.min(4096))
        .map(count)
        .collect::<Vec<_>>()
        .join(" ")
}

impl Side {
    /// As ethtool spells it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Rx => "rx",
            Self::Tx => "tx",
            Self::Combined => "combined",
        }
    }
}

fn is_device_name(name: &str) -> bool {
    let fine = |c: char| c.is_ascii_graphic() && c != '/' && c != ':';
    !name.is_empty()
        && name.len() <= DEVICE_NAME_MAX_LEN
        && name.chars().all(fine)
        && name != "."
        && name != ".."
}

/// Below these, and nowhere else in `/proc/sys`, a plan may write.
const SYSCTL_ROOTS: [&str; 2] = ["net.core.", "net.bridge."];

fn is_sysctl(name: &str) -> bool {
    let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-');
    let part = |part: &str| !part.is_empty() && part.chars().all(fine);
    SYSCTL_ROOTS.iter().any(|root| name.starts_with(root)) && name.split('.').all(part)
}

/// What is set, without the device.
impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let knob = |knob: &NapiKnob| match knob {
            NapiKnob::DeferHardIrqs => "napi_defer_hard_irqs",
            NapiKnob::GroFlushTimeoutNs => "gro_flush_timeout",
        };
        match self {
            Self::Feature { name, .. } => f.write_str(name),
            Self::Coalesce { knob, .. } => f.write_str(match knob {
                Moderation::RxUsecs => "rx-usecs",
                Moderation::RxFrames => "rx-frames",
                Moderation::AdaptiveRx => "adaptive-rx",
            }),
            Self::Ring { side, .. } => write!(f, "{} ring", side.word()),
            Self::Channels { side, .. } => write!(f, "{} queues", side.word()),
            Self::Indirection { .. } => f.write_str("indirection table"),
            Self::UdpHash { .. } => f.write_str("UDP hashed with ports"),
            Self::Mtu { .. } => f.write_str("mtu"),
            Self::TxQueueLen { .. } => f.write_str("txqueuelen"),
            Self::GroMaxSize { .. } => f.write_str("gro_max_size"),
            Self::NapiDefault { knob: one, .. } => f.write_str(knob(one)),
            Self::Napi { id, knob: one, .. } => write!(f, "{} of NAPI {id}", knob(one)),
            Self::Threaded { .. } => f.write_str("threaded"),
            Self::NapiThread { pid, .. } => write!(f, "processors of thread {pid}"),
            Self::RpsCpus { queue, .. } => write!(f, "rps_cpus of rx-{queue}"),
            Self::RpsFlowCnt { queue, .. } => write!(f, "rps_flow_cnt of rx-{queue}"),
            Self::XpsCpus { queue, .. } => write!(f, "xps_cpus of tx-{queue}"),
            Self::IrqAffinity { irq } => write!(f, "interrupt {irq}"),
            Self::Sysctl { name } => f.write_str(name),
        }
    }
}
