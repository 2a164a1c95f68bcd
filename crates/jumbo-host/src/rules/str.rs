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

use crate::cpus::CpuSet;
use crate::datum::Unknown;
use crate::snapshot::Device;

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
