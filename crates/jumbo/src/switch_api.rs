//! The seam between this binary and the switch: what it is given, what it tells, how it is started and stopped.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jumbo_ports::wrap::capture::Recorder;
use serde::{Deserialize, Serialize};

use crate::config::values::{
    CaptureFile, Coalesce, Cwr, DeviceName, Fanout, FaultSpec, FdbAge, Hold, LroMax, Mtu, PortName,
    Queues, SocketPath, Spin, Tunnels, Workers, XdpMode, XdpPass,
};
use crate::error::CliError;

/// A validated configuration: names and devices are unique, there is at least one port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RunConfig {
    pub(crate) ports: Vec<PortSpec>,
    /// None: the switch decides.
    pub(crate) workers: Option<Workers>,
    /// Where to listen; None: the first free number.
    pub(crate) socket: Option<PathBuf>,
    pub(crate) fdb_age: FdbAge,
    /// None: by the number of processors.
    pub(crate) spin: Option<Spin>,
    pub(crate) tunnels: Tunnels,
}

/// One port of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PortSpec {
    pub(crate) name: PortName,
    pub(crate) kind: PortKind,
    /// None: what the device has.
    pub(crate) mtu: Option<Mtu>,
    /// Of packets that leave by this port.
    pub(crate) coalesce: Coalesce,
    /// How long such packets may rest beyond their burst; None: not at all.
    pub(crate) hold: Option<Hold>,
    /// What CWR does to them.
    pub(crate) cwr: Cwr,
    /// Longest packet `lro` makes of them.
    pub(crate) lro_max: LroMax,
    pub(crate) offload: Offload,
    /// Where everything that passes it is written to.
    pub(crate) capture: Option<CaptureFile>,
    /// What goes wrong on it, on purpose.
    pub(crate) fault: Option<FaultSpec>,
    /// Open an interface in spite of settings that damage what passes.
    pub(crate) force: bool,
}

/// What a port stands on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PortKind {
    Tap {
        device: DeviceName,
        /// TCP over IPv4 of more than 65535 bytes may be made for it.
        big_tcp: bool,
    },
    VhostUser {
        path: SocketPath,
        client: bool,
        queues: Queues,
        packed: bool,
        hash_report: bool,
    },
    Packet {
        device: DeviceName,
        fanout: Fanout,
        qdisc_bypass: bool,
    },
    Xdp {
        device: DeviceName,
        mode: XdpMode,
        pass: XdpPass,
    },
    Tun {
        device: DeviceName,
    },
    /// Packet or Xdp, whichever is better here.
    Auto {
        device: DeviceName,
    },
}

impl PortKind {
    /// Whether its packets begin with their IP header.
    pub(crate) fn is_raw_ip(&self) -> bool {
        matches!(self, Self::Tun { .. })
    }

    /// Whether it is an interface of this host, whose MTU can be set.
    pub(crate) fn is_interface(&self) -> bool {
        !matches!(self, Self::VhostUser { .. })
    }

    pub(crate) fn device(&self) -> &str {
        match self {
            Self::Tap { device, .. }
            | Self::Packet { device, .. }
            | Self::Xdp { device, .. }
            | Self::Tun { device }
            | Self::Auto { device } => device.as_str(),
            Self::VhostUser { path, .. } => path.as_str(),
        }
    }
}

/// What the port may use of its device's offloads. `tso` or `uso` imply `csum`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Offload {
    pub(crate) csum: bool,
    pub(crate) tso: bool,
    pub(crate) uso: bool,
}

/// Why a run ends.
#[derive(Debug)]
pub(crate) enum StopCause {
    /// The operator's signal, by name.
    Signal(&'static str),
    /// The switch cannot go on.
    Broken(CliError),
}

/// A running switch, as the control thread sees it.
pub(crate) trait Switch: Send + Sync {
    /// What is true now. Called from the control thread, at most a few times a second.
    ///
    /// # Errors
    /// A worker that does not answer.
    fn snapshot(&self) -> Result<Snapshot, CliError>;
    /// Begins a capture of the port with this name.
    ///
    /// # Errors
    /// No such port, or as for [`Switch::snapshot`].
    fn capture(&self, port: &str) -> Result<Recorder, CliError>;
    /// What happens to packets from one port to another.
    ///
    /// # Errors
    /// 2 for a name nobody has; as for [`Switch::snapshot`].
    fn path(&self, from: &str, to: &str) -> Result<PathReport, CliError>;
    /// The forwarding table.
    ///
    /// # Errors
    /// As for [`Switch::snapshot`].
    fn fdb(&self) -> Result<Fdb, CliError>;
    /// Opens a port and adds it.
    ///
    /// # Errors
    /// As at the start: 2 for a name or device that is taken, 3 for what the machine refuses.
    fn add_port(&self, spec: PortSpec) -> Result<PortStatus, CliError>;
    /// Removes a port and tells what it was.
    ///
    /// # Errors
    /// 2 for a name nobody has; as for [`Switch::snapshot`].
    fn remove_port(&self, name: &str) -> Result<PortStatus, CliError>;
    /// Stops the workers, waits for them and tells how it ended. A second call only tells.
    ///
    /// # Errors
    /// As for [`Switch::snapshot`].
    fn stop(&self) -> Result<Snapshot, CliError>;
}

/// What the switch knows about itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    pub(crate) workers: u64,
    /// Addresses in the forwarding table.
    pub(crate) fdb_entries: u64,
    /// News between workers that was lost to a full mailbox.
    pub(crate) news_lost: u64,
    /// CPU time of the workers, in seconds: in our code, and in the kernel on our behalf.
    pub(crate) cpu_user_s: f64,
    pub(crate) cpu_system_s: f64,
    pub(crate) books: Books,
    pub(crate) ports: Vec<PortStatus>,
    /// What removed ports had counted, if any was removed; the books have it too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) removed: Option<Removed>,
}

/// Ports that were removed, together.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Removed {
    pub(crate) ports: u64,
    pub(crate) rx: Traffic,
    pub(crate) tx: Traffic,
    pub(crate) dropped: u64,
    /// Stage, then reason.
    pub(crate) reasons: BTreeMap<String, BTreeMap<String, ReasonCount>>,
}

/// Every packet is somewhere: received + made_by_segmentation + flood_copies = sent + absorbed_by_merging + dropped +
/// resting, at any quiet point. All in packets.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Books {
    pub(crate) received: u64,
    pub(crate) made_by_segmentation: u64,
    pub(crate) flood_copies: u64,
    pub(crate) sent: u64,
    pub(crate) absorbed_by_merging: u64,
    pub(crate) dropped: u64,
    pub(crate) resting: u64,
    /// Whether the equation holds. Between two quiet points it may not, for a moment.
    pub(crate) balanced: bool,
}

/// One port, as it is. rx and tx are seen from the switch.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct PortStatus {
    pub(crate) name: String,
    /// `tap`.
    pub(crate) kind: String,
    pub(crate) device: String,
    pub(crate) mtu: u64,
    pub(crate) state: PortState,
    /// What it waits for, or why it stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) why: Option<String>,
    pub(crate) capabilities: Vec<Capability>,
    pub(crate) rx: Traffic,
    pub(crate) tx: Traffic,
    /// Packets that came in by it, or were to leave by it, and were dropped.
    pub(crate) dropped: u64,
    /// Packets that the kernel dropped at its device; not in `dropped`, as we never had them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) device_dropped: Option<DeviceDropped>,
    /// Packets that came in by it and went to every other port.
    pub(crate) flooded: u64,
    /// Super-packets segmented here because it does not take them.
    pub(crate) software_segmented: u64,
    /// Checksums finished here because it does not take them pending.
    pub(crate) software_checksums: u64,
    /// How packets that leave by it are coalesced: `off`, `gro`, `lro`, `rsc`, `rsc-qemu`.
    #[serde(default)]
    pub(crate) coalesce: String,
    /// How long an aggregate may rest beyond its burst, in microseconds; 0: not at all.
    #[serde(default)]
    pub(crate) hold_us: u32,
    /// What CWR does under `gro`: `equal`, `first`, `never`; null elsewhere.
    #[serde(default)]
    pub(crate) cwr: Option<String>,
    /// Longest IP packet that is made by merging, in bytes.
    #[serde(default)]
    pub(crate) coalesce_max: u64,
    /// What rests on the way to it, now.
    #[serde(default)]
    pub(crate) resting: Rest,
    /// What was copied so far because it rested.
    #[serde(default)]
    pub(crate) promoted: Rest,
    /// Of `software_segmented`, aggregates that could not be cut into what came.
    #[serde(default)]
    pub(crate) lossy_segmented: u64,
    /// What Windows counts; null where nothing lossy is merged.
    #[serde(default)]
    pub(crate) rsc: Option<RscStatus>,
    /// Times a packet waited for it to make room.
    #[serde(default)]
    pub(crate) waits: u64,
    /// Stations that its other end announced, each told to everybody behind the other ports.
    #[serde(default)]
    pub(crate) announced: u64,
    /// Stage, then reason.
    pub(crate) reasons: BTreeMap<String, BTreeMap<String, ReasonCount>>,
}

/// Packets, a super-packet being one, and bytes of their payload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rest {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

/// Drops that the kernel has counted on a device, since the device exists.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DeviceDropped {
    /// Before we could read them: the device's queue was full.
    pub(crate) rx: u64,
    /// After we had written them.
    pub(crate) tx: u64,
    /// Where the kernel tells.
    pub(crate) source: String,
}

/// The counters of `OID_TCP_RSC_STATISTICS`, of what was merged towards a port under `lro` or `rsc`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RscStatus {
    pub(crate) coalesced_packets: u64,
    /// Bytes of their payload.
    pub(crate) coalesced_octets: u64,
    pub(crate) coalesce_events: u64,
    pub(crate) aborts: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PortState {
    #[default]
    Up,
    /// The device went away.
    Gone,
    /// Its other end is not there yet, or not any more.
    Waiting,
    /// Its other end broke the rules; the others go on.
    Stopped,
}

/// One capability of a port and, where it is not used, why.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Capability {
    pub(crate) name: String,
    pub(crate) offered: bool,
    pub(crate) in_use: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) why: Option<String>,
}

/// What went one way through a port.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Traffic {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    /// How many of the packets stand for several segments.
    pub(crate) super_packets: u64,
    /// Mean over all packets; 0 without packets.
    pub(crate) segments_per_packet: f64,
}

/// How often, and what it means.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct ReasonCount {
    pub(crate) count: u64,
    pub(crate) doc: String,
}

/// What happens to packets from one port to another.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct PathReport {
    pub(crate) from: PathEnd,
    pub(crate) to: PathEnd,
    pub(crate) rows: Vec<PathRow>,
}

/// One end of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct PathEnd {
    pub(crate) port: String,
    pub(crate) kind: String,
    pub(crate) state: PortState,
    /// What it waits for, or why it stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) why: Option<String>,
    pub(crate) mtu: u64,
}

/// One kind of packet. The words are those of `jumbo_switch::explain`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct PathRow {
    pub(crate) packets: String,
    pub(crate) decision: String,
    /// Who segments, checksums, coalesces: `sender`, `switch`, `receiver` or `nobody`.
    pub(crate) segments: String,
    pub(crate) checksums: String,
    pub(crate) coalesces: String,
    pub(crate) reason: String,
}

/// The forwarding table.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Fdb {
    pub(crate) stations: Vec<FdbEntry>,
}

/// A station it knows.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct FdbEntry {
    /// As `02:00:00:00:00:01`.
    pub(crate) mac: String,
    /// None: outside any VLAN.
    pub(crate) vlan: Option<u16>,
    pub(crate) port: String,
    /// Seconds since it was last seen.
    pub(crate) age_s: u32,
}
