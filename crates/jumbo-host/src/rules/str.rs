//! Steering in software: RPS, RFS, XPS.

mod str001;
mod str002;
mod str003;
mod str004;
mod str005;
mod str006;
mod str008;
mod str009;

family!("str": str001 str002 str003 str004 str005 str006 str008 str009);

use super::framework::Fault;
use crate::change::Setting;
use crate::cpus::CpuSet;
use crate::datum::Unknown;
use crate::snapshot::{Device, Snapshot};

/// RPS masks of all receive queues, with the queue's number.
fn masks(device: &Device) -> Result<Vec<(u32, &CpuSet)>, Unknown> {
    device
        .rx_queues
        .get()?
        .iter()
        .map(|queue| Ok((queue.queue, queue.rps_cpus.get()?)))
        .collect()
}

/// The file of a queue's mask.
fn place(device: &Device, queue: u32) -> String {
    format!("/sys/class/net/{}/queues/rx-{queue}/rps_cpus", device.name)
}

fn rps(device: &Device, queue: u32) -> Setting {
    Setting::RpsCpus {
        device: device.name.clone(),
        queue,
    }
}

fn xps(device: &Device, queue: u32) -> Setting {
    Setting::XpsCpus {
        device: device.name.clone(),
        queue,
    }
}

/// All processors the device's packets may go to, less those its interrupts use, where others are left.
fn spread(host: &Snapshot, device: &Device) -> CpuSet {
    let targets = super::irq::targets(host, device);
    let irqs = super::irq::receive_irqs(host, device).unwrap_or_default();
    let busy = irqs
        .iter()
        .filter_map(|(_, irq)| irq.effective.ok())
        .filter(|cpus| cpus.len() == 1)
        .fold(CpuSet::default(), |all, cpus| all.or(cpus));
    let rest = targets.without(&busy);
    if rest.is_empty() { targets } else { rest }
}

/// Processors dealt out over the transmit queues: each processor has one queue, the queue of its own number first.
fn ladder(host: &Snapshot, device: &Device) -> Vec<(u32, CpuSet)> {
    let queues = device.tx_queues.ok().map_or(&[][..], Vec::as_slice);
    let online = host.cpus.online.ok().cloned().unwrap_or_default();
    let dealt = |place: usize| {
        online
            .0
            .iter()
            .copied()
            .skip(place)
            .step_by(queues.len().max(1))
    };
    queues
        .iter()
        .enumerate()
        .map(|(place, queue)| (queue.queue, dealt(place).collect()))
        .collect()
}

impl Fault {
    fn change_masks(self, device: &Device, masks: impl Iterator<Item = (u32, CpuSet)>) -> Self {
        masks.fold(self, |fault, (queue, cpus)| {
            fault.set(rps(device, queue), cpus)
        })
    }

    fn change_xps(self, device: &Device, masks: impl IntoIterator<Item = (u32, CpuSet)>) -> Self {
        masks.into_iter().fold(self, |fault, (queue, cpus)| {
            fault.set(xps(device, queue), cpus)
        })
    }
}
