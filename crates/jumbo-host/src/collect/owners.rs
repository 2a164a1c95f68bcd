//! Who holds the queues of a TAP, and which programs run that matter to the rules.
//!
//! A file descriptor of `/dev/net/tun` says in its fdinfo which link it belongs to (`iff:`, drivers/net/tun.c,
//! tun_chr_show_fdinfo, Linux 3.18). Other users' descriptors can be seen by root only.

use std::collections::BTreeMap;
use std::io;

use super::files::Files;
use crate::cpus::CpuSet;
use crate::datum::Datum;
use crate::snapshot::{Device, Owner, Snapshot};

/// Programs that change what the rules look at.
const DAEMONS: [&str; 1] = ["irqbalance"];

/// Reads `/proc` once.
pub(super) fn fill(devices: &mut [Device], files: &Files, host: &mut Snapshot) {
    let names = files.proc_names("");
    let pids: Datum<Vec<u32>> =
        names.map(|names| names.iter().filter_map(|name| name.parse().ok()).collect());
    let programs = pids.map(|pids| programs(files, &pids));
    host.daemons = programs.clone().map(|programs| {
        let known = |daemon: &&str| programs.values().any(|program| program == daemon);
        DAEMONS
            .iter()
            .filter(|daemon| known(daemon))
            .map(|daemon| daemon.to_string())
            .collect()
    });
    let some_tun = devices.iter().any(|device| device.kind == "tun");
    let owners = match programs {
        Datum::Known { value, .. } if some_tun => scan(files, &value),
        Datum::Known { .. } => Scan::default(),
        Datum::Unknown { unknown } => Scan {
            hidden: Some(unknown),
            ..Scan::default()
        },
    };
    for device in devices {
        device.owners = match device.kind == "tun" && !device.carrier {
            // Somebody's device of the same name, in another namespace.
            true => Datum::known(Vec::new(), "rtnetlink IFLA_CARRIER"),
            false => owners.of(&device.name),
        };
        napi_threads(device, files);
    }
}

/// Where the threads of threaded NAPIs may run.
pub(super) fn napi_threads(device: &mut Device, files: &Files) {
    let Datum::Known { value: napis, .. } = &mut device.napis else {
        return;
    };
    for napi in napis {
        napi.thread_cpus = napi
            .pid
            .and_then(|pid| cpus_allowed(files, &pid.to_string()));
    }
}

fn programs(files: &Files, pids: &[u32]) -> BTreeMap<u32, String> {
    let one = |pid: &u32| Some((*pid, files.proc(&format!("{pid}/comm")).ok()?.clone()));
    pids.iter().filter_map(one).collect()
}

/// What was seen, and why it may not be all.
#[derive(Debug, Default)]
struct Scan {
    /// By device, with whether the program is in our namespace.
    owners: BTreeMap<String, Vec<(bool, Owner)>>,
    hidden: Option<String>,
}

impl Scan {
    /// Owners that were seen are known; that there are none is known only when everything was seen.
    ///
    /// fdinfo has the device's name but not its namespace. A program in our namespace is meant first; one elsewhere
    /// only when there is no other, since a program may open a device and move away.
    fn of(&self, device: &str) -> Datum<Vec<Owner>> {
        let source = "/proc/*/fdinfo";
        match (self.owners.get(device), &self.hidden) {
            (Some(owners), _) => {
                let some_here = owners.iter().any(|(here, _)| *here);
                let meant = owners.iter().filter(|(here, _)| *here || !some_here);
                Datum::known(meant.map(|(_, owner)| owner.clone()).collect(), source)
            }
            (None, Some(hidden)) => Datum::unknown(hidden),
            (None, None) => Datum::known(Vec::new(), source),
        }
    }
}

fn scan(files: &Files, programs: &BTreeMap<u32, String>) -> Scan {
    let mut scan = Scan::default();
    let ours = files.proc_link("thread-self/ns/net");
    for (pid, program) in programs {
        match tun_devices(files, *pid) {
            Ok(found) => {
                for (device, fds) in found {
                    let owner = owner(files, programs, *pid, program, fds);
                    let theirs = files.proc_link(&format!("{pid}/ns/net"));
                    let here = theirs.ok().is_some() && theirs.ok() == ours.ok();
                    scan.owners.entry(device).or_default().push((here, owner));
                }
            }
            Err(reason) => scan.hidden = Some(reason),
        }
    }
    scan
}

/// Links of the process' TUN descriptors, with how many it has of each.
fn tun_devices(files: &Files, pid: u32) -> Result<BTreeMap<String, u32>, String> {
    let mut found = BTreeMap::new();
    let folder = format!("{pid}/fd");
    let names = match files.proc_names(&folder) {
        Datum::Known { value, .. } => value,
        Datum::Unknown { unknown } if denied(&unknown) => {
            return Err("descriptors of other users' programs are hidden (run as root)".into());
        }
        // It ended meanwhile.
        Datum::Unknown { .. } => return Ok(found),
    };
    for fd in names {
        let target = files.proc_link(&format!("{folder}/{fd}"));
        if target
            .ok()
            .is_none_or(|target| !target.ends_with("net/tun"))
        {
            continue;
        }
        let info = files.proc(&format!("{pid}/fdinfo/{fd}"));
        let device = info
            .ok()
            .and_then(|info| info.lines().find_map(|line| line.strip_prefix("iff:")));
        if let Some(device) = device.map(str::trim).filter(|device| !device.is_empty()) {
            *found.entry(device.to_owned()).or_default() += 1;
        }
    }
    Ok(found)
}

fn denied(reason: &str) -> bool {
    reason.ends_with(&io::Error::from_raw_os_error(13).to_string())
}

fn owner(
    files: &Files,
    programs: &BTreeMap<u32, String>,
    pid: u32,
    program: &str,
    fds: u32,
) -> Owner {
    let tasks = files.proc_names(&format!("{pid}/task"));
    let tasks = tasks.ok().cloned().unwrap_or_default();
    let vhost_name = format!("vhost-{pid}");
    let name_of = |task: &String| files.proc(&format!("{pid}/task/{task}/comm")).ok().cloned();
    let threads: Vec<(String, String)> = tasks
        .iter()
        .filter_map(|task| Some((name_of(task)?, format!("{pid}/task/{task}"))))
        .collect();
    // A thread of the program since Linux 6.4 (vhost_task), a kernel thread of its own before.
    let kernel_threads = programs.iter().filter(|(_, name)| **name == vhost_name);
    let kernel_threads = kernel_threads.map(|(pid, _)| pid.to_string());
    let own = threads
        .iter()
        .filter(|(name, _)| *name == vhost_name)
        .map(|(_, folder)| folder.clone());
    let vhost: Vec<String> = own.chain(kernel_threads).collect();
    let vcpus: Vec<String> = threads
        .iter()
        .filter(|(name, _)| is_vcpu(name))
        .map(|(_, folder)| folder.clone())
        .collect();
    Owner {
        pid,
        program: program.to_owned(),
        fds,
        vcpus: u32::try_from(vcpus.len()).unwrap_or(u32::MAX),
        vhost: !vhost.is_empty(),
        vcpu_cpus: allowed(files, &vcpus),
        vhost_cpus: allowed(files, &vhost),
    }
}

/// Where these threads may run, all together; None without threads, or where one cannot be read.
fn allowed(files: &Files, folders: &[String]) -> Option<CpuSet> {
    let sets: Option<Vec<CpuSet>> = folders
        .iter()
        .map(|folder| cpus_allowed(files, folder))
        .collect();
    sets.filter(|sets| !sets.is_empty())
        .map(|sets| sets.iter().fold(CpuSet::default(), |all, one| all.or(one)))
}

fn cpus_allowed(files: &Files, folder: &str) -> Option<CpuSet> {
    let status = files.proc(&format!("{folder}/status"));
    let line = status
        .ok()?
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    line?.parse().ok()
}

/// QEMU: `CPU 0/KVM` (with `-name debug-threads=on`, as libvirt sets it); cloud-hypervisor: `vcpu0`; Firecracker:
/// `fc_vcpu 0`.
fn is_vcpu(thread: &str) -> bool {
    (thread.starts_with("CPU ") && thread.ends_with("/KVM"))
        || thread.starts_with("vcpu")
        || thread.starts_with("fc_vcpu")
}
