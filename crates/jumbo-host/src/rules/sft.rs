//! Soft interrupts: the receive work of the whole machine, and how it is spread.

mod sft001;
mod sft002;
mod sft003;
mod sft006;

family!("sft": sft001 sft002 sft003 sft006);

use std::collections::BTreeMap;

use super::framework::View;
use crate::datum::Unknown;
use crate::snapshot::SoftnetCpu;

/// What softnet counted between the readings, by processor, and in how many seconds. The counters have 32 bits and wrap.
fn changes(view: &View<'_>) -> Result<(Vec<SoftnetCpu>, f64), Unknown> {
    let (before, seconds) = view.earlier()?;
    let (now, then) = (view.now.softnet.get()?, before.softnet.get()?);
    let change = |now: &SoftnetCpu| {
        let then = then.iter().find(|then| then.cpu == now.cpu)?;
        Some(SoftnetCpu {
            cpu: now.cpu,
            processed: now.processed.wrapping_sub(then.processed),
            dropped: now.dropped.wrapping_sub(then.dropped),
            time_squeeze: now.time_squeeze.wrapping_sub(then.time_squeeze),
            received_rps: now.received_rps.wrapping_sub(then.received_rps),
            flow_limit: now.flow_limit.wrapping_sub(then.flow_limit),
        })
    };
    Ok((now.iter().filter_map(change).collect(), seconds))
}

/// Runs of the receive loop between the readings, by online processor.
fn net_rx_changes(view: &View<'_>) -> Result<BTreeMap<u32, u64>, Unknown> {
    let (before, _) = view.earlier()?;
    let (now, then) = (view.now.net_rx.get()?, before.net_rx.get()?);
    let online = view.now.cpus.online.get()?;
    let change = |(cpu, now): (&u32, &u64)| {
        let then = then.get(cpu)?;
        online
            .0
            .contains(cpu)
            .then_some((*cpu, now.saturating_sub(*then)))
    };
    Ok(now.iter().filter_map(change).collect())
}

/// Share of a processor's time between the readings that soft interrupts took.
fn softirq_share(view: &View<'_>, cpu: u32) -> Result<f64, Unknown> {
    let (before, _) = view.earlier()?;
    let (now, then) = (view.now.ticks.get()?, before.ticks.get()?);
    let gone = || Unknown(format!("processor {cpu} was not there all the time"));
    let (now, then) = (
        now.get(&cpu).ok_or_else(gone)?,
        then.get(&cpu).ok_or_else(gone)?,
    );
    let total = now.total.saturating_sub(then.total);
    Ok(now.softirq.saturating_sub(then.softirq) as f64 / total.max(1) as f64)
}
