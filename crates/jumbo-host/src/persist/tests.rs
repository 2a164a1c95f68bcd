//! Files for every backend, from one plan with a step of each kind.

use super::*;
use crate::change::NapiKnob;
use crate::cpus::CpuSet;

fn eth0() -> String {
    "eth0".into()
}

fn steps() -> Vec<Step> {
    let feature = |name: &str| Setting::Feature {
        device: eth0(),
        name: name.into(),
    };
    let cpus = || Value::Cpus(CpuSet::from_iter([0, 1]));
    let rows = [
        (feature("rx-gro"), Value::OFF, Value::ON),
        (feature("rx-lro"), Value::ON, Value::OFF),
        (feature("tx-udp_tnl-segmentation"), Value::OFF, Value::ON),
        (
            Setting::Coalesce {
                device: eth0(),
                knob: Moderation::RxUsecs,
            },
            Value::Number(0),
            Value::Number(8),
        ),
        (
            Setting::Coalesce {
                device: eth0(),
                knob: Moderation::AdaptiveRx,
            },
            Value::Flag(false),
            Value::Flag(true),
        ),
        (
            Setting::Ring {
                device: eth0(),
                side: Side::Rx,
            },
            Value::Number(256),
            Value::Number(1024),
        ),
        (
            Setting::Channels {
                device: eth0(),
                side: Side::Combined,
            },
            Value::Number(1),
            Value::Number(4),
        ),
        (
            Setting::Mtu {
                device: "vx0".into(),
            },
            Value::Number(1500),
            Value::Number(1450),
        ),
        (
            Setting::NapiDefault {
                device: eth0(),
                knob: NapiKnob::DeferHardIrqs,
            },
            Value::Number(0),
            Value::Number(2),
        ),
        (
            Setting::RpsCpus {
                device: eth0(),
                queue: 0,
            },
            Value::Cpus(CpuSet::default()),
            cpus(),
        ),
        (
            Setting::Sysctl {
                name: "net.core.netdev_budget".into(),
            },
            Value::Number(300),
            Value::Number(600),
        ),
        (
            Setting::IrqAffinity { irq: 40 },
            cpus(),
            Value::Cpus(CpuSet::from_iter([1])),
        ),
    ];
    rows.map(|(setting, old, new)| Step::new(setting, old, new, "XXX001"))
        .to_vec()
}

fn all(backend: Backend) -> String {
    let all = files(&steps(), backend);
    all.iter()
        .map(|file| format!("{}\n{}", file.path, file.text))
        .collect()
}

#[test]
fn each_backend_says_each_step_in_its_words_or_elsewhere() {
    let rows: [(Backend, &[&str]); 5] = [
        (
            Backend::SystemdLink,
            &[
                "10-jumbo-eth0.link",
                "GenericReceiveOffload=yes",
                "LargeReceiveOffload=no",
                "RxCoalesceSec=8us",
                "UseAdaptiveRxCoalesce=yes",
                "RxBufferSize=1024",
                "CombinedChannels=4",
                "10-jumbo-vx0.link",
                "MTUBytes=1450",
            ],
        ),
        (
            Backend::NetworkManager,
            &[
                "feature-gro=true",
                "feature-lro=false",
                "feature-tx-udp_tnl-segmentation=true",
                "coalesce-rx-usecs=8",
                "coalesce-adaptive-rx=1",
                "ring-rx=1024",
                "channels-combined=4",
                "[ethernet]\nmtu=1450",
            ],
        ),
        (
            Backend::Nmstate,
            &[
                "- name: eth0\n  ethtool:\n    coalesce:\n      rx-usecs: 8\n      adaptive-rx: true\n",
                "rx-gro: true",
                "rx-lro: false",
                "ring:\n      rx: 1024",
                "- name: vx0\n  mtu: 1450",
                "/usr/sbin/ethtool -L eth0 combined 4",
            ],
        ),
        (
            Backend::Udev,
            &[
                "RUN+=\"/usr/sbin/ethtool -K eth0 gro on\"",
                "/usr/sbin/ethtool -G eth0 rx 1024",
                "/usr/sbin/ip link set vx0 mtu 1450",
            ],
        ),
        (
            Backend::Tuned,
            &[
                "[net_eth0]\ntype=net\ndevices=eth0",
                "features=rx-gro on rx-lro off tx-udp_tnl-segmentation on",
                "coalesce=rx-usecs 8 adaptive-rx on",
                "ring=rx 1024",
                "channels=combined 4",
                "[net_vx0]",
                "mtu=1450",
            ],
        ),
    ];
    for (backend, words) in rows {
        let text = all(backend);
        let everywhere = [
            "ATTR{napi_defer_hard_irqs}=\"2\"",
            "ATTR{queues/rx-0/rps_cpus}=\"3\"",
            "# echo 1 > /proc/irq/40/smp_affinity_list",
        ];
        for word in words.iter().chain(&everywhere) {
            assert!(text.contains(word), "{backend:?} lacks {word}:\n{text}");
        }
        let sysctl = text.contains("net.core.netdev_budget = 600")
            || text.contains("net.core.netdev_budget=600");
        assert!(sysctl, "{backend:?}:\n{text}");
    }
}

#[test]
fn no_steps_need_no_files() {
    for backend in [
        Backend::SystemdLink,
        Backend::NetworkManager,
        Backend::Nmstate,
        Backend::Udev,
    ] {
        assert!(files(&[], backend).is_empty(), "{backend:?}");
    }
}
