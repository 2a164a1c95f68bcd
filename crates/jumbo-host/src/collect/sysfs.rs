//! What sysfs and `/proc/sys/net` say about one device.

use std::path::Path;

use super::files::{Files, parsed, parsed_by};
use crate::cpus::CpuSet;
use crate::datum::Datum;
use crate::snapshot::{Device, PciLink, RxQueue, Snapshot, TxQueue};

/// How far above a device its interrupts may be: virtio, then its PCI function; a few bridges for others.
const PARENTS_MAX: usize = 4;

/// Reads what netlink does not say.
pub(super) fn fill(device: &mut Device, files: &Files, host: &Snapshot) {
    device.forwarding_v4 = forwarding(files, "ipv4", &device.name);
    device.forwarding_v6 = forwarding(files, "ipv6", &device.name);
    if let Err(reason) = same_namespace(device, files) {
        return blind(device, &reason);
    }
    let base = format!("class/net/{}", device.name);
    let file = |name: &str| files.sys(&format!("{base}/{name}"));
    device.gro_flush_timeout_ns = parsed(file("gro_flush_timeout"));
    device.napi_defer_hard_irqs = parsed(file("napi_defer_hard_irqs"));
    device.threaded = parsed_by(file("threaded"), |text| yes_or_no(text.trim()));
    let queues = files.sys_names(&format!("{base}/queues"));
    device.rx_queues = rx_queues(files, &base, queues.clone());
    device.tx_queues = tx_queues(files, &base, queues);
    if device.is_nic() {
        hardware(device, files, &base);
    } else {
        software(device, &base);
    }
    if host.cpus.nodes.ok().is_some_and(|nodes| nodes.len() < 2) {
        device.numa_node = Datum::known(None, "/sys/devices/system/node");
    }
}

/// sysfs belongs to the namespace in which it was mounted; entering another one does not change it.
fn same_namespace(device: &Device, files: &Files) -> Result<(), String> {
    let index: Datum<u32> = parsed(files.sys(&format!("class/net/{}/ifindex", device.name)));
    match index.ok() {
        Some(index) if *index == device.index => Ok(()),
        _ => Err(format!(
            "/sys/class/net/{} is not of this network namespace (mount a sysfs of its own)",
            device.name
        )),
    }
}

fn blind(device: &mut Device, reason: &str) {
    device.gro_flush_timeout_ns = Datum::unknown(reason);
    device.napi_defer_hard_irqs = Datum::unknown(reason);
    device.threaded = Datum::unknown(reason);
    device.rx_queues = Datum::unknown(reason);
    device.tx_queues = Datum::unknown(reason);
    device.driver = Datum::unknown(reason);
    device.speed_mbps = Datum::unknown(reason);
    device.numa_node = Datum::unknown(reason);
    device.irqs = Datum::unknown(reason);
    device.virtio_bits = Datum::unknown(reason);
    device.pci_link = Datum::unknown(reason);
}

fn software(device: &mut Device, base: &str) {
    let source = format!("/sys/{base}/device");
    device.driver = Datum::known(None, &source);
    device.speed_mbps = Datum::known(None, &source);
    device.numa_node = Datum::known(None, &source);
    device.irqs = Datum::known(Vec::new(), &source);
    device.virtio_bits = Datum::known(None, &source);
    device.pci_link = Datum::known(None, &source);
}

fn hardware(device: &mut Device, files: &Files, base: &str) {
    let source = format!("/sys/{base}/device");
    let Some(real) = files.sys_real(&format!("{base}/device")) else {
        return software(device, base);
    };
    let driver = files.sys_real(&format!("{base}/device/driver"));
    let driver = driver
        .as_deref()
        .and_then(Path::file_name)
        .and_then(|name| name.to_str());
    device.driver = Datum::known(driver.map(str::to_owned), format!("{source}/driver"));
    device.speed_mbps = speed(files, base);
    device.virtio_bits = virtio_bits(device, files, base);
    device.numa_node = above(files, &real, "numa_node").map_or_else(
        || Datum::known(None, &source),
        |node| parsed::<i64>(node).map(|node| u32::try_from(node).ok()),
    );
    device.irqs = Datum::known(msi_irqs(files, &real), format!("{source}/../msi_irqs"));
    device.pci_link = pci_link(files, &real);
}

/// EINVAL where the driver has no speed; -1 where it does not know.
fn speed(files: &Files, base: &str) -> Datum<Option<u32>> {
    let source = format!("/sys/{base}/speed");
    let speed: Datum<i64> = parsed(files.sys(&format!("{base}/speed")));
    match speed.ok() {
        Some(speed) => Datum::known(
            u32::try_from(*speed).ok().filter(|speed| *speed > 0),
            source,
        ),
        None => Datum::known(None, source),
    }
}

/// A string of 0 and 1, bit 0 first (drivers/virtio/virtio.c, features_show).
fn virtio_bits(device: &Device, files: &Files, base: &str) -> Datum<Option<Vec<u32>>> {
    if device.driver.ok().and_then(|driver| driver.as_deref()) != Some("virtio_net") {
        return Datum::known(None, format!("/sys/{base}/device/driver"));
    }
    let bits = |text: &str| -> Vec<u32> {
        (0..)
            .zip(text.chars())
            .filter(|(_, bit)| *bit == '1')
            .map(|(bit, _)| bit)
            .collect()
    };
    files
        .sys(&format!("{base}/device/features"))
        .map(|text| Some(bits(&text)))
}

/// The first file of this name at the device or above it.
fn above(files: &Files, real: &Path, name: &str) -> Option<Datum<String>> {
    let folders = real.ancestors().take(PARENTS_MAX);
    let read = folders.filter_map(|folder| Some(files.sys(folder.join(name).to_str()?)));
    read.into_iter().find(|datum| datum.ok().is_some())
}

fn msi_irqs(files: &Files, real: &Path) -> Vec<u32> {
    let folders = real.ancestors().take(PARENTS_MAX);
    let mut lists = folders.filter_map(|folder| {
        files
            .sys_names(folder.join("msi_irqs").to_str()?)
            .ok()
            .cloned()
    });
    let names = lists.next().unwrap_or_default();
    let mut numbers: Vec<u32> = names.iter().filter_map(|name| name.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}

fn pci_link(files: &Files, real: &Path) -> Datum<Option<PciLink>> {
    let number = |name: &str| {
        let text = above(files, real, name)?;
        // "8.0 GT/s PCIe", or "Unknown".
        text.ok()?.split(' ').next()?.parse::<f64>().ok()
    };
    let lanes = |name: &str| {
        number(name)
            .filter(|lanes| *lanes > 0.0 && *lanes <= 64.0)
            .map(|lanes| lanes as u32)
    };
    let link = || {
        Some(PciLink {
            speed_gts: number("current_link_speed")?,
            lanes: lanes("current_link_width")?,
            speed_max_gts: number("max_link_speed")?,
            lanes_max: lanes("max_link_width")?,
        })
    };
    Datum::known(
        link(),
        format!("/sys/{}/current_link_speed", real.display()),
    )
}

fn forwarding(files: &Files, family: &str, name: &str) -> Datum<bool> {
    let text = files.proc(&format!("sys/net/{family}/conf/{name}/forwarding"));
    // Without IPv6 there is no such folder, and no forwarding.
    let path = format!("/proc/sys/net/{family}/conf/{name}/forwarding");
    files
        .optional(text, &path)
        .map(|text| text.as_deref() == Some("1"))
}

fn yes_or_no(text: &str) -> Result<bool, &'static str> {
    match text {
        "0" | "disabled" => Ok(false),
        "1" | "2" | "enabled" => Ok(true),
        _ => Err("neither 0 nor 1"),
    }
}

/// Numbers of the queues called `rx-N` or `tx-N`.
fn queue_numbers(queues: Datum<Vec<String>>, prefix: &str) -> Datum<Vec<u32>> {
    queues.map(|names| {
        let mut numbers: Vec<u32> = names
            .iter()
            .filter_map(|name| name.strip_prefix(prefix)?.parse().ok())
            .collect();
        numbers.sort_unstable();
        numbers
    })
}

fn rx_queues(files: &Files, base: &str, queues: Datum<Vec<String>>) -> Datum<Vec<RxQueue>> {
    let one = |queue: u32| {
        let file = |name: &str| files.sys(&format!("{base}/queues/rx-{queue}/{name}"));
        RxQueue {
            queue,
            rps_cpus: parsed_by(file("rps_cpus"), CpuSet::from_mask),
            rps_flow_cnt: parsed(file("rps_flow_cnt")),
        }
    };
    queue_numbers(queues, "rx-").map(|numbers| numbers.into_iter().map(one).collect())
}

/// A device with one queue refuses to say (ENOENT; net/core/net-sysfs.c, xps_cpus_show).
fn tx_queues(files: &Files, base: &str, queues: Datum<Vec<String>>) -> Datum<Vec<TxQueue>> {
    let one = |queue: u32| {
        let path = format!("{base}/queues/tx-{queue}/xps_cpus");
        let xps_cpus = parsed_by(files.sys(&path), CpuSet::from_mask);
        TxQueue {
            queue,
            xps_cpus: files.optional(xps_cpus, &format!("/sys/{path}")),
        }
    };
    queue_numbers(queues, "tx-").map(|numbers| numbers.into_iter().map(one).collect())
}
