//! What belongs to the machine or the namespace as a whole: processors, counters, sysctls, interrupts.
//!
//! Sources of the formats: net/core/net-procfs.c (softnet_stat), fs/proc/softirqs.c, fs/proc/interrupts.c,
//! fs/proc/stat.c, net/ipv4/proc.c.

use std::collections::BTreeMap;

use super::files::{Files, parsed, parsed_by};
use crate::cpus::CpuSet;
use crate::datum::Datum;
use crate::snapshot::{CpuTicks, Cpus, Irq, Protocols, Snapshot, SoftnetCpu};

/// What the rules read below `/proc/sys`.
const SYSCTLS: [&str; 14] = [
    "net.core.busy_poll",
    "net.core.busy_read",
    "net.core.gro_normal_batch",
    "net.core.netdev_budget",
    "net.core.netdev_budget_usecs",
    "net.core.netdev_max_backlog",
    "net.core.rps_sock_flow_entries",
    "net.core.default_qdisc",
    "net.ipv4.ip_forward",
    "net.ipv6.conf.all.forwarding",
    "net.bridge.bridge-nf-call-iptables",
    "net.bridge.bridge-nf-call-ip6tables",
    "net.ipv4.tcp_ecn",
    "net.ipv4.tcp_congestion_control",
];

/// Everything but devices and processes.
pub(super) fn read(files: &Files) -> Snapshot {
    let sysctl = |name: &&str| (name.to_string(), sysctl(files, name));
    Snapshot {
        uptime_ms: uptime_ms(files),
        hostname: files.proc("sys/kernel/hostname"),
        kernel: files.proc("sys/kernel/osrelease"),
        initial_namespace: initial_namespace(files),
        cpus: cpus(files),
        sysctls: SYSCTLS.iter().map(sysctl).collect(),
        softnet: parsed_by(files.proc("net/softnet_stat"), softnet),
        net_rx: parsed_by(files.proc("softirqs"), net_rx),
        ticks: parsed_by(files.proc("stat"), ticks),
        irqs: irqs(files),
        protocols: protocols(files),
        iscsi_sessions: iscsi_sessions(files),
        ..Snapshot::default()
    }
}

/// A file below `/proc/sys`, by its dotted name.
pub(super) fn sysctl(files: &Files, name: &str) -> Datum<Option<String>> {
    let path = format!("sys/{}", name.replace('.', "/"));
    files.optional(files.proc(&path), &format!("/proc/{path}"))
}

fn uptime_ms(files: &Files) -> u64 {
    let text = files.proc("uptime");
    let seconds = text
        .ok()
        .and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
    // Saturates; an uptime is far below the limit.
    seconds.map_or(0, |seconds| (seconds * 1000.0) as u64)
}

/// A sysctl that only the first namespace has (net/core/sysctl_net_core.c, net_core_table). Comparing with
/// `/proc/1/ns/net` would need privileges.
pub(super) fn initial_namespace(files: &Files) -> Datum<bool> {
    let path = "sys/net/core/netdev_max_backlog";
    files
        .optional(files.proc(path), &format!("/proc/{path}"))
        .map(|text| text.is_some())
}

fn cpus(files: &Files) -> Cpus {
    let online: Datum<CpuSet> = parsed(files.sys("devices/system/cpu/online"));
    Cpus {
        isolated: isolated(files),
        nodes: nodes(files, &online),
        cores: cores(files, &online),
        mhz: mhz(files),
        online,
    }
}

/// `nohz_full` exists only in kernels built for it.
fn isolated(files: &Files) -> Datum<CpuSet> {
    let isolated: Datum<CpuSet> = parsed(files.sys("devices/system/cpu/isolated"));
    let tickless: Datum<CpuSet> = parsed(files.sys("devices/system/cpu/nohz_full"));
    match tickless.ok() {
        Some(tickless) => isolated.map(|isolated| isolated.or(tickless)),
        None => isolated,
    }
}

fn nodes(files: &Files, online: &Datum<CpuSet>) -> Datum<BTreeMap<u32, CpuSet>> {
    let folder = "devices/system/node";
    let Some(names) = files.sys_names(folder).ok().cloned() else {
        // A kernel without NUMA: one node has all.
        return online.clone().map(|cpus| BTreeMap::from([(0, cpus)]));
    };
    let numbers = names
        .iter()
        .filter_map(|name| name.strip_prefix("node")?.parse().ok());
    let node = |number: u32| {
        let cpus: Datum<CpuSet> = parsed(files.sys(&format!("{folder}/node{number}/cpulist")));
        Some((number, cpus.ok()?.clone()))
    };
    Datum::known(numbers.filter_map(node).collect(), format!("/sys/{folder}"))
}

fn cores(files: &Files, online: &Datum<CpuSet>) -> Datum<Vec<CpuSet>> {
    let siblings = |cpu: &u32| {
        let path = format!("devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
        let siblings: Datum<CpuSet> = parsed(files.sys(&path));
        siblings
            .ok()
            .cloned()
            .unwrap_or_else(|| CpuSet::from_iter([*cpu]))
    };
    online.clone().map(|online| {
        let mut cores: Vec<CpuSet> = online.0.iter().map(siblings).collect();
        cores.sort_by_key(|core| core.0.first().copied());
        cores.dedup();
        cores
    })
}

fn mhz(files: &Files) -> Datum<f64> {
    let khz: Datum<f64> = parsed(files.sys("devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq"));
    match khz {
        Datum::Known { .. } => khz.map(|khz| khz / 1000.0),
        Datum::Unknown { .. } => parsed_by(files.proc("cpuinfo"), cpuinfo_mhz),
    }
}

fn cpuinfo_mhz(text: &str) -> Result<f64, &'static str> {
    let values = text.lines().filter(|line| line.starts_with("cpu MHz"));
    let numbers = values.filter_map(|line| line.split(':').nth(1)?.trim().parse::<f64>().ok());
    numbers.max_by(f64::total_cmp).ok_or("no `cpu MHz`")
}

/// Hexadecimal columns. Older kernels print fewer; without column 12 the line's number is the processor's only while
/// all are online.
pub(super) fn softnet(text: &str) -> Result<Vec<SoftnetCpu>, &'static str> {
    let line = |(number, line): (usize, &str)| {
        let columns: Vec<u32> = line
            .split_whitespace()
            .map_while(|word| u32::from_str_radix(word, 16).ok())
            .collect();
        let column = |index: usize| columns.get(index).copied();
        Some(SoftnetCpu {
            cpu: column(12).or_else(|| number.try_into().ok())?,
            processed: column(0)?,
            dropped: column(1)?,
            time_squeeze: column(2)?,
            received_rps: column(9).unwrap_or(0),
            flow_limit: column(10).unwrap_or(0),
        })
    };
    let lines: Option<Vec<_>> = text.lines().enumerate().map(line).collect();
    lines
        .filter(|lines| !lines.is_empty())
        .ok_or("not the columns of softnet_stat")
}

/// Columns are the processors of the header line, not their number in it.
pub(super) fn net_rx(text: &str) -> Result<BTreeMap<u32, u64>, &'static str> {
    softirq(text, "NET_RX:").ok_or("no line NET_RX")
}

/// One kind of soft interrupt, by processor.
pub(super) fn softirq(text: &str, kind: &str) -> Option<BTreeMap<u32, u64>> {
    let header = text.lines().next().unwrap_or_default();
    let cpus = header
        .split_whitespace()
        .filter_map(|name| name.strip_prefix("CPU")?.parse().ok());
    let line = text
        .lines()
        .find_map(|line| line.trim_start().strip_prefix(kind));
    let counts = line?
        .split_whitespace()
        .filter_map(|count| count.parse().ok());
    Some(cpus.zip(counts).collect())
}

pub(super) fn ticks(text: &str) -> Result<BTreeMap<u32, CpuTicks>, &'static str> {
    let one = |line: &str| {
        let (name, columns) = line.split_once(' ')?;
        let cpu = name.strip_prefix("cpu")?.parse().ok()?;
        let ticks: Vec<u64> = columns
            .split_whitespace()
            .filter_map(|column| column.parse().ok())
            .collect();
        // The first eight are exclusive; guest time is within user time.
        let total = ticks.iter().take(8).sum();
        Some((
            cpu,
            CpuTicks {
                total,
                softirq: ticks.get(6).copied()?,
            },
        ))
    };
    let cpus: BTreeMap<_, _> = text.lines().filter_map(one).collect();
    if cpus.is_empty() {
        Err("no processors")
    } else {
        Ok(cpus)
    }
}

pub(super) fn irqs(files: &Files) -> Datum<BTreeMap<u32, Irq>> {
    let mut irqs = parsed_by(files.proc("interrupts"), interrupts);
    if let Datum::Known { value, .. } = &mut irqs {
        for (number, irq) in value {
            irq.effective = parsed(files.proc(&format!("irq/{number}/effective_affinity_list")));
            irq.affinity = parsed(files.proc(&format!("irq/{number}/smp_affinity_list")));
        }
    }
    irqs
}

/// Numbered interrupts. Columns of the header are the online processors.
pub(super) fn interrupts(text: &str) -> Result<BTreeMap<u32, Irq>, &'static str> {
    let mut lines = text.lines();
    let cpus = lines.next().ok_or("empty")?.split_whitespace().count();
    let one = |line: &str| {
        let (number, rest) = line.split_once(':')?;
        let words: Vec<&str> = rest.split_whitespace().collect();
        let counts = words
            .iter()
            .take(cpus)
            .filter_map(|word| word.parse::<u64>().ok());
        let irq = Irq {
            name: words.last()?.to_string(),
            count: counts.sum(),
            ..Irq::default()
        };
        Some((number.trim().parse().ok()?, irq))
    };
    Ok(lines.filter_map(one).collect())
}

pub(super) fn protocols(files: &Files) -> Datum<Protocols> {
    let (snmp, netstat) = (files.proc("net/snmp"), files.proc("net/netstat"));
    let (Some(snmp_text), Some(netstat_text)) = (snmp.ok(), netstat.ok()) else {
        return parsed_by(snmp, |_| Err("/proc/net/netstat cannot be read"));
    };
    let (snmp_of, ext_of) = (
        |group, name| counter(snmp_text, group, name),
        |name| counter(netstat_text, "IpExt:", name),
    );
    let ce = ext_of("InCEPkts");
    Datum::known(
        Protocols {
            ip_in_receives: snmp_of("Ip:", "InReceives"),
            ip_in_segments: ["InNoECTPkts", "InECT0Pkts", "InECT1Pkts"]
                .into_iter()
                .map(ext_of)
                .sum::<u64>()
                + ce,
            ip_in_ce: ce,
            tcp_in_csum_errors: snmp_of("Tcp:", "InCsumErrors"),
            udp_in_csum_errors: snmp_of("Udp:", "InCsumErrors"),
        },
        "/proc/net/snmp and /proc/net/netstat",
    )
}

/// A group has two lines: names, then numbers. What a kernel does not count is 0.
pub(super) fn counter(text: &str, group: &str, name: &str) -> u64 {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(group));
    let (Some(names), Some(numbers)) = (lines.next(), lines.next()) else {
        return 0;
    };
    let mut pairs = names.split_whitespace().zip(numbers.split_whitespace());
    pairs
        .find(|(one, _)| *one == name)
        .and_then(|(_, number)| number.parse().ok())
        .unwrap_or(0)
}

fn iscsi_sessions(files: &Files) -> Datum<u32> {
    let sessions = files.optional(
        files.sys_names("class/iscsi_session"),
        "/sys/class/iscsi_session",
    );
    sessions.map(|names| names.map_or(0, |names| u32::try_from(names.len()).unwrap_or(u32::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softnet_of_old_and_new_kernels() {
        let new = "0049f00e 00000001 0000002d 0 0 0 0 0 0 00000005 0 0 00000003 0 0";
        let cpu = softnet(new).expect("15 columns")[0];
        assert_eq!(
            (
                cpu.cpu,
                cpu.processed,
                cpu.dropped,
                cpu.time_squeeze,
                cpu.received_rps
            ),
            (3, 0x49f00e, 1, 0x2d, 5)
        );
        let old = "1 0 0 0 0 0 0 0 0\n2 0 0 0 0 0 0 0 0";
        assert_eq!(softnet(old).expect("9 columns")[1].cpu, 1);
        assert!(softnet("").is_err());
        assert!(softnet("zz").is_err());
    }

    #[test]
    fn columns_are_named_by_the_header() {
        let text = "                    CPU0       CPU2\n          HI:          1          0\n      NET_RX:       12         34\n";
        assert_eq!(net_rx(text), Ok(BTreeMap::from([(0, 12), (2, 34)])));
        assert!(net_rx("CPU0\n").is_err());
    }

    #[test]
    fn interrupts_are_summed_and_named() {
        let text = "           CPU0       CPU1\n 37:        3          4   PCI-MSIX-0000:00:02.0   0-edge      virtio2-config\nNMI: 0 0 x\n";
        let irqs = interrupts(text).expect("read");
        assert_eq!(irqs.len(), 1);
        assert_eq!(
            (irqs[&37].name.as_str(), irqs[&37].count),
            ("virtio2-config", 7)
        );
    }

    #[test]
    fn counters_are_found_by_name() {
        let text = "Ip: Forwarding InReceives\nIp: 1 77\nTcp: InErrs InCsumErrors\nTcp: 0 2\n";
        assert_eq!(counter(text, "Ip:", "InReceives"), 77);
        assert_eq!(counter(text, "Tcp:", "InCsumErrors"), 2);
        assert_eq!(counter(text, "Udp:", "InCsumErrors"), 0);
    }

    #[test]
    fn ticks_are_by_processor() {
        let text = "cpu  9 9 9 9 9 9 9 9 9 9\ncpu1 1 2 3 4 5 6 7 8 100 100\nintr 1\n";
        assert_eq!(
            ticks(text),
            Ok(BTreeMap::from([(
                1,
                CpuTicks {
                    total: 36,
                    softirq: 7
                }
            )]))
        );
    }
}
