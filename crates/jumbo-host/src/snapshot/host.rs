//! What belongs to the machine as a whole.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::cpus::CpuSet;
use crate::datum::Datum;

/// Processors, as `/sys/devices/system` describes them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cpus {
    /// Those that run.
    pub online: Datum<CpuSet>,
    /// Those kept free of the scheduler's balancing (`isolated`, `nohz_full`).
    pub isolated: Datum<CpuSet>,
    /// Processors of each NUMA node.
    pub nodes: Datum<BTreeMap<u32, CpuSet>>,
    /// Physical cores, each as its threads.
    pub cores: Datum<Vec<CpuSet>>,
    /// Clock in MHz, of the fastest one.
    pub mhz: Datum<f64>,
}

/// One line of `/proc/net/softnet_stat` (net/core/net-procfs.c, softnet_seq_show). The kernel's counters have 32 bits
/// and wrap.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SoftnetCpu {
    /// Processor.
    pub cpu: u32,
    /// Packets that entered the stack, super-packets counting as one.
    pub processed: u32,
    /// Packets dropped because the backlog was full.
    pub dropped: u32,
    /// Times the poll loop ended with work left.
    pub time_squeeze: u32,
    /// Times another processor's packets arrived by RPS.
    pub received_rps: u32,
    /// Packets dropped to keep one flow from filling the backlog.
    pub flow_limit: u32,
}

/// Time of one processor, in ticks (`/proc/stat`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CpuTicks {
    /// All.
    pub total: u64,
    /// Soft interrupts.
    pub softirq: u64,
}

/// One interrupt.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Irq {
    /// The last column of `/proc/interrupts`.
    pub name: String,
    /// How often it came, on all processors.
    pub count: u64,
    /// Where it goes now (`effective_affinity_list`).
    pub effective: Datum<CpuSet>,
    /// Where it may go (`smp_affinity_list`).
    pub affinity: Datum<CpuSet>,
}

/// Counters of `/proc/net/snmp` and `/proc/net/netstat`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Protocols {
    /// Packets that reached IPv4, super-packets counting as one (`Ip: InReceives`).
    pub ip_in_receives: u64,
    /// Packets that were on the wire (`IpExt: In*Pkts`, which counts the segments of a super-packet).
    pub ip_in_segments: u64,
    /// Those among them that had met congestion (`IpExt: InCEPkts`).
    pub ip_in_ce: u64,
    /// TCP segments with a wrong checksum.
    pub tcp_in_csum_errors: u64,
    /// UDP datagrams with a wrong checksum.
    pub udp_in_csum_errors: u64,
}
