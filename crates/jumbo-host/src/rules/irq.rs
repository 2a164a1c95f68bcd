//! Interrupts: which processor a queue wakes.

mod irq001;
mod irq002;
mod irq004;
mod irq006;

family!("irq": irq001 irq002 irq004 irq006);

use crate::cpus::CpuSet;
use crate::datum::Unknown;
use crate::snapshot::{Device, Irq, Snapshot};

/// Words in the name of an interrupt that brings no received packets.
const OTHERS: [&str; 8] = [
    "config", "control", "async", "misc", "output", "-tx-", "fdir", "mgmnt",
];

/// The device's interrupts that bring received packets: those its NAPIs name, otherwise those of its PCI function
/// whose name does not say otherwise (`virtio0-input.0`, `eth0-TxRx-3`, `mlx5_comp4@pci:...`).
pub(crate) fn receive_irqs<'a>(
    host: &'a Snapshot,
    device: &Device,
) -> Result<Vec<(u32, &'a Irq)>, Unknown> {
    let numbers = device.irqs.get()?;
    let irqs = host.irqs.get()?;
    let named: Vec<u32> = device
        .napis
        .ok()
        .into_iter()
        .flatten()
        .filter_map(|napi| napi.irq)
        .collect();
    let candidates = if named.is_empty() { numbers } else { &named };
    let found = candidates
        .iter()
        .filter_map(|number| Some((*number, irqs.get(number)?)));
    Ok(found
        .filter(|(_, irq)| !OTHERS.iter().any(|word| irq.name.contains(word)))
        .collect())
}

/// Where the device's interrupts should go: what runs, is not set aside and is near the device.
pub(super) fn targets(host: &Snapshot, device: &Device) -> CpuSet {
    let all = CpuSet::default();
    let online = host.cpus.online.ok().unwrap_or(&all);
    let isolated = host.cpus.isolated.ok().unwrap_or(&all);
    let free = online.without(isolated);
    let node = device.numa_node.ok().copied().flatten();
    let near = node.and_then(|node| host.cpus.nodes.ok()?.get(&node));
    let near = near.map(|near| free.and(near)).unwrap_or_default();
    match (near.is_empty(), free.is_empty()) {
        (false, _) => near,
        (true, false) => free,
        (true, true) => online.clone(),
    }
}
