//! Settings written to the kernel: by netlink what netlink has, otherwise as files.
//!
//! Sources: include/uapi/linux/ethtool_netlink.h, netdev.h, if_link.h; Documentation/networking/ethtool-netlink.rst.

use std::io;

use super::setting::file_text;
use super::{Moderation, NapiKnob, Setting, Side, Value};
use crate::collect::Roots;
use crate::cpus::CpuSet;
use crate::netlink::{Answers, Builder, Bus, Family, Socket, question};

const FEATURES_SET: u8 = 12;
const RINGS_SET: u8 = 16;
const CHANNELS_SET: u8 = 18;
const COALESCE_SET: u8 = 20;
/// Linux 6.17.
const RSS_SET: u8 = 48;
/// Linux 6.13.
const NAPI_SET: u8 = 14;

/// Every message of ethtool begins with this nest, which names the device.
const HEADER: u16 = 1;
const HEADER_DEV_INDEX: u16 = 1;

const RTM_NEWLINK: u16 = 16;
const IFLA_MTU: u16 = 4;
const IFLA_TXQLEN: u16 = 13;
const IFLA_GRO_MAX_SIZE: u16 = 58;

/// RXH_IP_SRC, RXH_IP_DST (include/uapi/linux/ethtool.h).
const ADDRESSES: u32 = 1 << 4 | 1 << 5;
/// RXH_L4_B_0_1, RXH_L4_B_2_3: both ports.
const PORTS: u32 = 1 << 6 | 1 << 7;
const FLOW_UDP4: u16 = 6;
const FLOW_UDP6: u16 = 7;

/// Writes a value. `index` is the device's, where the setting has one.
pub(super) fn write(
    roots: &Roots,
    setting: &Setting,
    index: Option<u32>,
    value: &Value,
) -> io::Result<()> {
    setting
        .fits(value)
        .map_err(|unfit| io::Error::new(io::ErrorKind::InvalidInput, unfit.0))?;
    match (setting, value) {
        (Setting::NapiThread { pid, .. }, Value::Cpus(cpus)) => pin(*pid, cpus),
        (Setting::IrqAffinity { irq }, Value::Cpus(cpus)) => {
            let file = roots.proc.join(format!("irq/{irq}/smp_affinity_list"));
            std::fs::write(file, cpus.to_string())
        }
        _ => match setting.file() {
            Some(file) => std::fs::write(below(roots, &file), file_text(value)),
            None => by_netlink(setting, index.ok_or(io::ErrorKind::NotFound)?, value),
        },
    }
}

/// A path a person would type, below the roots.
pub(super) fn below(roots: &Roots, file: &str) -> std::path::PathBuf {
    match (file.strip_prefix("/sys/"), file.strip_prefix("/proc/")) {
        (Some(inside), _) => roots.sys.join(inside),
        (_, Some(inside)) => roots.proc.join(inside),
        _ => file.into(),
    }
}

fn by_netlink(setting: &Setting, index: u32, value: &Value) -> io::Result<()> {
    let number = match value {
        Value::Number(number) => u32::try_from(*number).unwrap_or(u32::MAX),
        _ => 0,
    };
    match setting {
        Setting::Mtu { .. } => link(index, IFLA_MTU, number),
        Setting::TxQueueLen { .. } => link(index, IFLA_TXQLEN, number),
        Setting::GroMaxSize { .. } => link(index, IFLA_GRO_MAX_SIZE, number),
        Setting::Napi { id, knob, .. } => napi(*id, *knob, value),
        _ => match ethtool(setting, index, value) {
            Some(message) => tell("ethtool", &message),
            None => Err(io::ErrorKind::Unsupported.into()),
        },
    }
}

fn tell(family: &str, message: &Builder) -> io::Result<()> {
    Family::open(family)?.ask(message, Answers::One).map(|_| ())
}

/// The message that sets it; None for what the family does not set.
fn ethtool(setting: &Setting, index: u32, value: &Value) -> Option<Builder> {
    let to = |command| {
        let which = Builder::default().u32(HEADER_DEV_INDEX, index);
        question(command).nest(HEADER, which)
    };
    Some(match (setting, value) {
        (Setting::Feature { name, .. }, Value::Feature(feature)) => {
            to(FEATURES_SET).nest(3, one_bit(name, feature.wanted))
        }
        (Setting::Coalesce { .. }, Value::Flag(flag)) => {
            to(COALESCE_SET).bytes(11, &[u8::from(*flag)])
        }
        (Setting::Coalesce { knob, .. }, Value::Number(number)) => {
            let kind = if *knob == Moderation::RxUsecs { 2 } else { 3 };
            to(COALESCE_SET).u32(kind, u32::try_from(*number).ok()?)
        }
        (Setting::Ring { side, .. }, Value::Number(number)) => {
            let kind = if *side == Side::Tx { 9 } else { 6 };
            to(RINGS_SET).u32(kind, u32::try_from(*number).ok()?)
        }
        (Setting::Channels { side, .. }, Value::Number(number)) => {
            let kind = match side {
                Side::Rx => 6,
                Side::Tx => 7,
                Side::Combined => 9,
            };
            to(CHANNELS_SET).u32(kind, u32::try_from(*number).ok()?)
        }
        (Setting::Indirection { .. }, Value::Table(table)) => {
            let bytes: Vec<u8> = table.iter().flat_map(|queue| queue.to_ne_bytes()).collect();
            to(RSS_SET).bytes(4, &bytes)
        }
        (Setting::UdpHash { .. }, Value::Flag(ports)) => {
            let fields = if *ports { ADDRESSES | PORTS } else { ADDRESSES };
            let flows = Builder::default()
                .u32(FLOW_UDP4, fields)
                .u32(FLOW_UDP6, fields);
            to(RSS_SET).nest(8, flows)
        }
        _ => return None,
    })
}

/// A bitset with a mask of one bit, by name: bits { bit { name, value } }; nothing else is touched.
fn one_bit(name: &str, on: bool) -> Builder {
    let bit = Builder::default().text(2, name);
    let bit = if on { bit.bytes(3, &[]) } else { bit };
    Builder::default().nest(3, Builder::default().nest(1, bit))
}

fn link(index: u32, attribute: u16, value: u32) -> io::Result<()> {
    // struct ifinfomsg: only the index says which.
    let mut head = [0u8; 16];
    head[4..8].copy_from_slice(&index.to_ne_bytes());
    let message = Builder::after(&head).u32(attribute, value);
    let socket = Socket::open(Bus::Route)?;
    socket
        .ask(RTM_NEWLINK, &message.0, Answers::One)
        .map(|_| ())
}

fn napi(id: u32, knob: NapiKnob, value: &Value) -> io::Result<()> {
    let Value::Number(number) = value else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let message = question(NAPI_SET).u32(2, id);
    let message = match knob {
        NapiKnob::DeferHardIrqs => message.u32(5, u32::try_from(*number).unwrap_or(u32::MAX)),
        // A number of variable width (NLA_UINT).
        NapiKnob::GroFlushTimeoutNs => message.bytes(6, &number.to_ne_bytes()),
    };
    tell("netdev", &message)
}

fn pin(pid: u32, cpus: &CpuSet) -> io::Result<()> {
    let thread = i32::try_from(pid)
        .ok()
        .and_then(rustix::thread::Pid::from_raw)
        .ok_or(io::ErrorKind::InvalidInput)?;
    let mut set = rustix::thread::CpuSet::new();
    for cpu in &cpus.0 {
        let cpu = *cpu as usize;
        if cpu >= rustix::thread::CpuSet::MAX_CPU {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        set.set(cpu);
    }
    Ok(rustix::thread::sched_setaffinity(Some(thread), &set)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::attributes;
    use crate::snapshot::Feature;

    const DEVICE: &str = "eth0";

    fn message(setting: &Setting, value: &Value) -> Vec<u8> {
        ethtool(setting, 7, value).expect("a message").0
    }

    /// The numbers of a flat message after its header nest, by kind.
    fn numbers(message: &[u8]) -> Vec<(u16, u32)> {
        let all = attributes(&message[4..]).filter(|one| one.kind != HEADER);
        all.filter_map(|one| Some((one.kind, one.u32()?))).collect()
    }

    #[test]
    fn one_feature_is_named_and_no_other() {
        let setting = Setting::Feature {
            device: DEVICE.into(),
            name: "rx-gro".into(),
        };
        for (state, on) in [(Feature::ON, true), (Feature::OFF, false)] {
            let message = message(&setting, &Value::Feature(state));
            assert_eq!(message[0], FEATURES_SET);
            let wanted = attributes(&message[4..])
                .find(|one| one.kind == 3)
                .expect("wanted");
            let bits: Vec<_> = wanted.nested().collect();
            assert_eq!(bits.len(), 1, "no mask of all bits");
            let bit: Vec<_> = bits[0].nested().collect();
            assert_eq!(bit.len(), 1);
            let inside: Vec<_> = bit[0].nested().collect();
            assert_eq!(inside[0].text(), "rx-gro");
            assert_eq!(inside.iter().any(|one| one.kind == 3), on);
        }
    }

    #[test]
    fn numbers_stand_where_the_kernel_looks() {
        let device = || DEVICE.to_owned();
        let rows = [
            (
                Setting::Coalesce {
                    device: device(),
                    knob: Moderation::RxUsecs,
                },
                COALESCE_SET,
                2,
            ),
            (
                Setting::Coalesce {
                    device: device(),
                    knob: Moderation::RxFrames,
                },
                COALESCE_SET,
                3,
            ),
            (
                Setting::Ring {
                    device: device(),
                    side: Side::Rx,
                },
                RINGS_SET,
                6,
            ),
            (
                Setting::Ring {
                    device: device(),
                    side: Side::Tx,
                },
                RINGS_SET,
                9,
            ),
            (
                Setting::Channels {
                    device: device(),
                    side: Side::Rx,
                },
                CHANNELS_SET,
                6,
            ),
            (
                Setting::Channels {
                    device: device(),
                    side: Side::Combined,
                },
                CHANNELS_SET,
                9,
            ),
        ];
        for (setting, command, kind) in rows {
            let message = message(&setting, &Value::Number(64));
            assert_eq!(
                (message[0], numbers(&message)),
                (command, vec![(kind, 64)]),
                "{setting}"
            );
        }
    }

    #[test]
    fn receive_scaling_is_set_whole() {
        let setting = Setting::Indirection {
            device: DEVICE.into(),
        };
        let message = message(&setting, &Value::Table(vec![0, 1, 2]));
        let table = attributes(&message[4..])
            .find(|one| one.kind == 4)
            .expect("indir");
        assert_eq!((message[0], table.value.len()), (RSS_SET, 12));
        let setting = Setting::UdpHash {
            device: DEVICE.into(),
        };
        let message = self::message(&setting, &Value::Flag(true));
        let flows = attributes(&message[4..])
            .find(|one| one.kind == 8)
            .expect("flow-hash");
        let fields: Vec<_> = flows.nested().map(|flow| (flow.kind, flow.u32())).collect();
        assert_eq!(fields, [(6, Some(0xf0)), (7, Some(0xf0))]);
    }

    #[test]
    fn files_are_written_below_the_roots() {
        let dir = tempfile::tempdir().expect("a directory");
        let roots = Roots {
            proc: dir.path().join("proc"),
            sys: dir.path().join("sys"),
        };
        let queue = roots.sys.join("class/net/eth0/queues/rx-0");
        std::fs::create_dir_all(&queue).expect("made");
        std::fs::create_dir_all(roots.proc.join("irq/40")).expect("made");
        std::fs::create_dir_all(roots.proc.join("sys/net/core")).expect("made");
        let cpus: CpuSet = "0-2".parse().expect("processors");
        let rps = Setting::RpsCpus {
            device: DEVICE.into(),
            queue: 0,
        };
        write(&roots, &rps, None, &Value::Cpus(cpus.clone())).expect("written");
        assert_eq!(
            std::fs::read_to_string(queue.join("rps_cpus")).expect("there"),
            "7"
        );
        let irq = Setting::IrqAffinity { irq: 40 };
        write(&roots, &irq, None, &Value::Cpus(cpus)).expect("written");
        let file = roots.proc.join("irq/40/smp_affinity_list");
        assert_eq!(std::fs::read_to_string(file).expect("there"), "0-2");
        let sysctl = Setting::Sysctl {
            name: "net.core.netdev_budget".into(),
        };
        write(&roots, &sysctl, None, &Value::Number(600)).expect("written");
        let file = roots.proc.join("sys/net/core/netdev_budget");
        assert_eq!(std::fs::read_to_string(file).expect("there"), "600");
    }

    #[test]
    fn what_does_not_fit_is_refused_before_anything_is_touched() {
        let roots = Roots {
            proc: "/nonexistent".into(),
            sys: "/nonexistent".into(),
        };
        let rows = [
            (
                Setting::Sysctl {
                    name: "net.core.../../kernel/core_pattern".into(),
                },
                Value::Number(1),
            ),
            (
                Setting::Sysctl {
                    name: "kernel.panic".into(),
                },
                Value::Number(1),
            ),
            (
                Setting::Threaded {
                    device: "../../x".into(),
                },
                Value::Flag(true),
            ),
            (
                Setting::Mtu {
                    device: DEVICE.into(),
                },
                Value::Flag(true),
            ),
            (
                Setting::Mtu {
                    device: DEVICE.into(),
                },
                Value::Number(1 << 40),
            ),
        ];
        for (setting, value) in rows {
            let error = write(&roots, &setting, Some(1), &value).expect_err("refused");
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{setting}");
        }
    }
}
