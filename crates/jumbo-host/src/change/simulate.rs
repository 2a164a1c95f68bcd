//! A change tried on a snapshot: what the host would say afterwards.

use super::{Moderation, NapiKnob, Setting, Side, Value};
use crate::datum::Datum;
use crate::snapshot::{Device, Features, RxQueue, Snapshot, TxQueue};

/// Dependencies are followed so many times; the longest chain is three.
const ROUNDS: usize = 4;

impl Setting {
    /// Makes a snapshot look as if the setting had this value. What is not in the snapshot stays out of it.
    pub fn simulate(&self, host: &mut Snapshot, value: &Value) {
        match (self, value) {
            (Self::Sysctl { name }, Value::Number(number)) => {
                if let Some(Datum::Known { value, .. }) = host.sysctls.get_mut(name) {
                    *value = Some(number.to_string());
                }
            }
            (Self::IrqAffinity { irq }, Value::Cpus(cpus)) => {
                let irqs = known(&mut host.irqs);
                if let Some(irq) = irqs.and_then(|irqs| irqs.get_mut(irq)) {
                    set(&mut irq.affinity, cpus.clone());
                    set(&mut irq.effective, cpus.clone());
                }
            }
            _ => {
                let name = self.device().unwrap_or_default().to_owned();
                let device = host.devices.iter_mut().find(|device| device.name == name);
                if let Some(device) = device {
                    self.of_device(device, value);
                }
            }
        }
    }

    fn of_device(&self, device: &mut Device, value: &Value) {
        match (self, value) {
            (Self::Feature { name, .. }, Value::Feature(asked)) => {
                if let Some(features) = known(&mut device.features) {
                    turn(features, name, asked.wanted);
                }
            }
            (Self::Indirection { .. }, Value::Table(table)) => {
                if let Some(Some(rss)) = known(&mut device.rss) {
                    rss.indirection.clone_from(table);
                }
            }
            (Self::UdpHash { .. }, Value::Flag(flag)) => {
                if let Some(Some(rss)) = known(&mut device.rss) {
                    rss.udp_by_ports = Some(*flag);
                }
            }
            (Self::Threaded { .. }, Value::Flag(flag)) => set(&mut device.threaded, *flag),
            (Self::Coalesce { .. }, Value::Flag(flag)) => {
                if let Some(Some(coalesce)) = known(&mut device.coalesce) {
                    coalesce.adaptive_rx = Some(*flag);
                }
            }
            (_, Value::Cpus(cpus)) => self.of_cpus(device, cpus),
            (_, Value::Number(number)) => self.of_number(device, *number),
            _ => {}
        }
    }

    fn of_cpus(&self, device: &mut Device, cpus: &crate::cpus::CpuSet) {
        match self {
            Self::RpsCpus { queue, .. } => {
                if let Some(one) = rx_queue(device, *queue) {
                    set(&mut one.rps_cpus, cpus.clone());
                }
            }
            Self::XpsCpus { queue, .. } => {
                if let Some(one) = tx_queue(device, *queue) {
                    set(&mut one.xps_cpus, Some(cpus.clone()));
                }
            }
            Self::NapiThread { pid, .. } => {
                let napis = known(&mut device.napis).into_iter().flatten();
                for napi in napis.filter(|napi| napi.pid == Some(*pid)) {
                    napi.thread_cpus = Some(cpus.clone());
                }
            }
            _ => {}
        }
    }

    fn of_number(&self, device: &mut Device, number: u64) {
        let small = u32::try_from(number).unwrap_or(u32::MAX);
        match self {
            Self::Mtu { .. } => device.mtu = small,
            Self::TxQueueLen { .. } => device.tx_queue_len = small,
            Self::GroMaxSize { .. } => device.gro_max_size = small,
            Self::RpsFlowCnt { queue, .. } => {
                if let Some(one) = rx_queue(device, *queue) {
                    set(&mut one.rps_flow_cnt, number);
                }
            }
            Self::Coalesce { knob, .. } => {
                if let Some(Some(coalesce)) = known(&mut device.coalesce) {
                    match knob {
                        Moderation::RxUsecs => coalesce.rx_usecs = Some(small),
                        Moderation::RxFrames => coalesce.rx_max_frames = Some(small),
                        Moderation::AdaptiveRx => {}
                    }
                }
            }
            Self::Ring { side, .. } => {
                if let Some(Some(rings)) = known(&mut device.rings) {
                    *(if *side == Side::Tx {
                        &mut rings.tx
                    } else {
                        &mut rings.rx
                    }) = small;
                }
            }
            Self::Channels { side, .. } => channels(device, *side, small),
            Self::NapiDefault { knob, .. } => napi_default(device, *knob, number),
            Self::Napi { id, knob, .. } => {
                let napis = known(&mut device.napis).into_iter().flatten();
                for napi in napis.filter(|napi| napi.id == *id) {
                    napi_knob(napi, *knob, number);
                }
            }
            _ => {}
        }
    }
}

fn known<T>(datum: &mut Datum<T>) -> Option<&mut T> {
    match datum {
        Datum::Known { value, .. } => Some(value),
        Datum::Unknown { .. } => None,
    }
}

fn set<T>(datum: &mut Datum<T>, to: T) {
    if let Some(value) = known(datum) {
        *value = to;
    }
}

fn rx_queue(device: &mut Device, queue: u32) -> Option<&mut RxQueue> {
    let queues = known(&mut device.rx_queues)?;
    queues.iter_mut().find(|one| one.queue == queue)
}

fn tx_queue(device: &mut Device, queue: u32) -> Option<&mut TxQueue> {
    let queues = known(&mut device.tx_queues)?;
    queues.iter_mut().find(|one| one.queue == queue)
}

/// Writing a device's default sets it for each NAPI (net/core/dev.h, netdev_set_gro_flush_timeout, Linux 6.13).
fn napi_default(device: &mut Device, knob: NapiKnob, number: u64) {
    match knob {
        NapiKnob::DeferHardIrqs => set(
            &mut device.napi_defer_hard_irqs,
            u32::try_from(number).unwrap_or(u32::MAX),
        ),
        NapiKnob::GroFlushTimeoutNs => set(&mut device.gro_flush_timeout_ns, number),
    }
    for napi in known(&mut device.napis).into_iter().flatten() {
        napi_knob(napi, knob, number);
    }
}

fn napi_knob(napi: &mut crate::snapshot::Napi, knob: NapiKnob, number: u64) {
    match knob {
        NapiKnob::DeferHardIrqs => napi.defer_hard_irqs = u32::try_from(number).ok(),
        NapiKnob::GroFlushTimeoutNs => napi.gro_flush_timeout_ns = Some(number),
    }
}

/// Queues come and go with their channels, and the driver makes a new table for them. Interrupts are not foreseen.
fn channels(device: &mut Device, side: Side, count: u32) {
    if let Some(Some(channels)) = known(&mut device.channels) {
        match side {
            Side::Rx => channels.rx = count,
            Side::Tx => channels.tx = count,
            Side::Combined => channels.combined = count,
        }
    }
    if let Some(Some(rss)) = known(&mut device.rss)
        && let Value::Table(table) = Value::even_table(rss.indirection.len(), count)
        && side != Side::Tx
    {
        rss.indirection = table;
    }
}

fn turn(features: &mut Features, name: &str, on: bool) {
    if let Some(feature) = features.0.get_mut(name).filter(|feature| !feature.fixed) {
        feature.wanted = on;
        feature.active = on;
    }
    for _ in 0..ROUNDS {
        settle(features);
    }
}

/// What the kernel's netdev_fix_features (net/core/dev.c) makes of what is wanted.
fn settle(features: &mut Features) {
    let names: Vec<String> = features.0.keys().cloned().collect();
    for name in names {
        let (can, depends) = allowed(features, &name);
        let Some(feature) = features.0.get_mut(&name) else {
            continue;
        };
        if depends && !feature.fixed {
            feature.active = feature.wanted && can;
        }
    }
}

/// Whether a feature may be active beside the others; and whether it depends on others at all.
fn allowed(features: &Features, name: &str) -> (bool, bool) {
    let active = |name: &str| features.active(name);
    let generic = active("tx-checksum-ip-generic");
    let gathers = active("tx-scatter-gather");
    match name {
        "tx-generic-segmentation" => (gathers, true),
        "tx-tcp-segmentation" | "tx-tcp-ecn-segmentation" | "tx-tcp-mangleid-segmentation" => {
            (gathers && (generic || active("tx-checksum-ipv4")), true)
        }
        "tx-tcp6-segmentation" => (gathers && (generic || active("tx-checksum-ipv6")), true),
        "rx-gro-hw" => (active("rx-checksum"), true),
        "rx-lro" => {
            // Others hold it off too (forwarding, a bridge); what is held off stays off.
            let lro = features.get("rx-lro");
            (
                lro.active && active("rx-checksum") && !active("rx-gro-hw"),
                true,
            )
        }
        _ => (true, false),
    }
}

/// So that a feature that was `Feature::DENIED` can be seen to work after what denied it is gone.
#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Feature;

    fn features(all: &[(&str, Feature)]) -> Features {
        Features(
            all.iter()
                .map(|(name, state)| ((*name).to_owned(), *state))
                .collect(),
        )
    }

    #[test]
    fn what_was_denied_comes_with_what_it_stands_on() {
        let mut all = features(&[
            ("tx-scatter-gather", Feature::OFF),
            ("tx-checksum-ip-generic", Feature::ON),
            ("tx-generic-segmentation", Feature::DENIED),
            ("tx-tcp-segmentation", Feature::DENIED),
        ]);
        turn(&mut all, "tx-scatter-gather", true);
        assert!(
            all.0.values().all(|feature| *feature == Feature::ON),
            "{all:?}"
        );
        turn(&mut all, "tx-checksum-ip-generic", false);
        assert_eq!(all.get("tx-tcp-segmentation"), Feature::DENIED);
        assert_eq!(all.get("tx-generic-segmentation"), Feature::ON);
    }

    #[test]
    fn what_is_fixed_stays() {
        let mut all = features(&[("rx-gro-hw", Feature::ABSENT)]);
        turn(&mut all, "rx-gro-hw", true);
        assert_eq!(all.get("rx-gro-hw"), Feature::ABSENT);
    }
}
