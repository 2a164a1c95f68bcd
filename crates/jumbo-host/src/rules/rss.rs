//! Receive side scaling: queues, and what goes to which.

mod rss001;
mod rss002;
mod rss003;
mod rss004;
mod rss005;
mod rss007;
mod rss008;

family!("rss": rss001 rss002 rss003 rss004 rss005 rss007 rss008);

use std::collections::BTreeMap;

use crate::change::{Setting, Side, Value};
use crate::datum::Unknown;
use crate::snapshot::{Channels, Device, Snapshot};

/// Physical cores of the device's NUMA node; all where it has none.
fn local_cores(host: &Snapshot, device: &Device) -> Result<usize, Unknown> {
    let cores = host.cpus.cores.get()?;
    let node = *device.numa_node.get()?;
    let near = node.and_then(|node| host.cpus.nodes.ok()?.get(&node));
    Ok(match near {
        Some(near) => cores
            .iter()
            .filter(|core| !core.and(near).is_empty())
            .count(),
        None => cores.len(),
    })
}

/// Buckets by queue, and how many queues there are; None where the device has no indirection table.
#[expect(
    clippy::type_complexity,
    reason = "two numbers a bucket list is about; a name would say no more"
)]
fn buckets(device: &Device) -> Result<Option<(BTreeMap<u32, u32>, u32)>, Unknown> {
    let (Some(rss), Some(channels)) = (device.rss.get()?, device.channels.get()?) else {
        return Ok(None);
    };
    if rss.indirection.is_empty() {
        return Ok(None);
    }
    let mut buckets = BTreeMap::new();
    for queue in &rss.indirection {
        *buckets.entry(*queue).or_default() += 1;
    }
    Ok(Some((buckets, channels.receive())))
}

/// The queues packets arrive on, as the driver counts them.
fn queues_of(device: &Device, channels: &Channels) -> Setting {
    let side = match channels.combined_max {
        0 => Side::Rx,
        _ => Side::Combined,
    };
    Setting::Channels {
        device: device.name.clone(),
        side,
    }
}

fn table_of(device: &Device) -> Setting {
    Setting::Indirection {
        device: device.name.clone(),
    }
}

/// As large as the table is, over all queues.
fn even(device: &Device, queues: u32) -> Value {
    let rss = device.rss.ok().and_then(Option::as_ref);
    Value::even_table(rss.map_or(0, |rss| rss.indirection.len()), queues)
}
