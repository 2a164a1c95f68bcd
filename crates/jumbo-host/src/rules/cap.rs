//! Capacity: what the processors have for each bit and packet.

mod cap001;
mod cap002;

family!("cap": cap001 cap002);

use crate::datum::Unknown;
use crate::snapshot::Snapshot;

/// What comes in, and what there is to handle it.
#[derive(Debug, Clone, Copy)]
struct Capacity {
    /// Bits per second of all cards that are up.
    bits: f64,
    /// Clock cycles per second of all physical cores.
    hertz: f64,
}

/// None where no card says its speed.
fn capacity(host: &Snapshot) -> Result<Option<Capacity>, Unknown> {
    let mut bits = 0.0;
    for device in host
        .devices
        .iter()
        .filter(|device| device.up && device.is_nic())
    {
        bits += device
            .speed_mbps
            .get()?
            .map_or(0.0, |mbps| f64::from(mbps) * 1e6);
    }
    let hertz = host.cpus.cores.get()?.len() as f64 * host.cpus.mhz.get()? * 1e6;
    Ok((bits > 0.0).then_some(Capacity { bits, hertz }))
}
