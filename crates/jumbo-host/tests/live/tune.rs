//! Plans against the real kernel: a fault is made, planned away, gone, and back after the undo.

use jumbo_host::change::{
    Live, Machine, Moderation, NapiKnob, Setting, Side, Step, Value, perform, undo,
};
use jumbo_host::check::Options;
use jumbo_host::cpus::CpuSet;
use jumbo_host::plan::{Plan, plan};
use jumbo_host::snapshot::Snapshot;
use jumbo_host::waiver::Date;
use jumbo_lab::ethtool::{NapiHold, Offload};
use jumbo_lab::ns::{NetNs, check_tun};
use jumbo_lab::skip;
use jumbo_lab::tap::{Tap, TapOffloads, TapSpec};

use super::{Result, faults, has, ip, report, snapshot, veth};

fn plan_for(now: &Snapshot, id: &str) -> Plan {
    let options = Options {
        rules: vec![id.to_owned()],
        ..Options::default()
    };
    plan(now, None, &options, Date::of(std::time::SystemTime::now()))
}

/// The fault is there; the plan for it is applied and it is gone; it is taken back and the fault is there again.
fn planned_away(ns: &NetNs, device: &str, id: &str) -> Result {
    let ill = snapshot(ns)?;
    assert!(has(&super::judge(&ill), device, id), "{id} was not made");
    let plan = plan_for(&ill, id);
    assert!(!plan.steps.is_empty(), "no plan for {id}: {:?}", plan.left);
    assert_eq!(plan.usable(), Ok(()));
    let done = ns.run_with_sysfs(|| perform(&mut Live::default(), &plan.steps))?;
    assert_eq!(done, Ok(()), "{id}: {:#?}", plan.steps);
    let healed = report(ns)?;
    assert!(
        !has(&healed, device, id),
        "{id} stays: {:?}",
        faults(&healed, device)
    );
    assert!(
        plan_for(&snapshot(ns)?, id).steps.is_empty(),
        "{id} is planned again"
    );
    let undone = ns.run_with_sysfs(|| undo(&mut Live::default(), &plan.steps))?;
    assert!(undone.whole(), "{id}: {undone:?}");
    let back = snapshot(ns)?;
    assert!(
        has(&super::judge(&back), device, id),
        "{id} does not come back"
    );
    for step in &plan.steps {
        let value = step.setting.read(&back)?;
        assert!(value.asks_the_same(&step.old), "{id}: {step:?} is {value}");
    }
    Ok(())
}

/// The kernel itself would not make this fault again (vxlan_change_mtu, drivers/net/vxlan): the undo says so.
fn away_for_good(ns: &NetNs, device: &str, id: &str) -> Result {
    let plan = plan_for(&snapshot(ns)?, id);
    let done = ns.run_with_sysfs(|| perform(&mut Live::default(), &plan.steps))?;
    assert_eq!(done, Ok(()), "{id}: {:#?}", plan.steps);
    assert!(!has(&report(ns)?, device, id), "{id} stays");
    let undone = ns.run_with_sysfs(|| undo(&mut Live::default(), &plan.steps))?;
    assert_eq!(
        (undone.stuck.len(), undone.whole()),
        (1, false),
        "{undone:?}"
    );
    Ok(())
}

pub(super) fn features_are_planned_away_and_back() -> Result {
    let ns = veth()?;
    let links = ns.links()?;
    for (id, offload) in [
        ("SEG001", Offload::Tso),
        ("SEG003", Offload::ScatterGather),
        ("SEG004", Offload::Gso),
        ("SEG002", Offload::TxChecksum),
    ] {
        links.set_offload("v0", offload, false)?;
        planned_away(&ns, "v0", id)?;
        links.set_offload("v0", offload, true)?;
    }
    ip(&ns, "link add vx0 type vxlan id 7 dstport 4789 dev v0")?;
    links.up("vx0")?;
    links.set_feature("v0", "tx-udp_tnl-segmentation", false)?;
    planned_away(&ns, "vx0", "SEG007")?;
    links.set_mtu("v0", 1400)?;
    away_for_good(&ns, "vx0", "MTU001")?;
    links.add_bridge("br0")?;
    links.enslave("vx0", "br0")?;
    links.set_offload("vx0", Offload::Gro, false)?;
    planned_away(&ns, "vx0", "GRO001")?;
    ip(&ns, "link add m0 link v1 type macvlan")?;
    let _ = links.set_feature("m0", "rx-lro", true);
    planned_away(&ns, "m0", "LRO003")
}

pub(super) fn a_bridges_faults_are_planned_away_and_back() -> Result {
    let ns = veth()?;
    let links = ns.links()?;
    links.add_bridge("br0")?;
    links.add_veth("w0", "w1", &ns)?;
    links.enslave("v0", "br0")?;
    links.enslave("w0", "br0")?;
    links.set_offload("w0", Offload::Tso, false)?;
    planned_away(&ns, "br0", "SEG005")?;
    links.set_mtu("w0", 9000)?;
    planned_away(&ns, "br0", "MTU001")?;
    ip(&ns, "link set v0 gro_max_size 185000")?;
    planned_away(&ns, "v0", "BIG001")?;
    for name in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"] {
        let write = || std::fs::write(format!("/proc/sys/net/bridge/{name}"), "1");
        ns.run(write)?
            .map_err(|error| skip(format!("{name}: {error} (modprobe br_netfilter)")))?;
    }
    planned_away(&ns, "br0", "BRG001")
}

pub(super) fn a_taps_faults_are_planned_away_and_back() -> Result {
    check_tun().map_err(skip)?;
    let ns = NetNs::new()?;
    let _tap = Tap::create(&ns, &TapSpec::new("t0", TapOffloads::TSO_USO))?;
    let links = ns.links()?;
    links.up("t0")?;
    links.set_offload("t0", Offload::TxChecksum, false)?;
    planned_away(&ns, "t0", "TAP007")?;
    links.set_offload("t0", Offload::TxChecksum, true)?;
    links.add_bridge("br0")?;
    links.add_veth("v0", "v1", &ns)?;
    links.enslave("v0", "br0")?;
    links.enslave("t0", "br0")?;
    ip(&ns, "link set v0 gro_max_size 185000")?;
    planned_away(&ns, "v0", "BIG002")
}

pub(super) fn napi_faults_are_planned_away_and_back() -> Result {
    let ns = veth()?;
    let hold = |gro_flush_timeout_ns, napi_defer_hard_irqs| -> Result {
        let hold = NapiHold {
            gro_flush_timeout_ns,
            napi_defer_hard_irqs,
        };
        Ok(hold.write(&ns, "v0")?)
    };
    hold(0, 2)?;
    planned_away(&ns, "v0", "NAP001")?;
    hold(20_000, 0)?;
    planned_away(&ns, "v0", "NAP002")?;
    hold(0, 0)?;
    // A veth has NAPI only with GRO (or XDP).
    ns.links()?.set_offload("v0", Offload::Gro, true)?;
    let host = snapshot(&ns)?;
    let device = host.by_name("v0").expect("v0");
    let Some(napi) = device
        .napis
        .get()?
        .first()
        .filter(|one| one.defer_hard_irqs.is_some())
    else {
        return Err(skip("no settings per NAPI (Linux 6.13)"));
    };
    let own = Setting::Napi {
        device: "v0".into(),
        id: napi.id,
        knob: NapiKnob::DeferHardIrqs,
    };
    ns.run_with_sysfs(|| Live::default().write(&own, &Value::Number(7)))??;
    planned_away(&ns, "v0", "NAP003")?;
    if host.cpus.online.get()?.len() < 2 {
        return Err(skip("one processor (a machine with two)"));
    }
    let threaded = Setting::Threaded {
        device: "v0".into(),
    };
    ns.run_with_sysfs(|| Live::default().write(&threaded, &Value::Flag(true)))?
        .map_err(|error| skip(format!("threaded NAPI: {error} (Linux 5.12)")))?;
    planned_away(&ns, "v0", "NAP004")
}

/// Kinds of settings that no rule asks for on software devices: written, read back, taken back.
pub(super) fn every_kind_that_a_namespace_has_is_set_and_taken_back() -> Result {
    let ns = veth()?;
    // A veth has NAPI only with GRO (or XDP).
    ns.links()?.set_offload("v0", Offload::Gro, true)?;
    let device = || "v0".to_owned();
    let cpus = |list: &str| Value::Cpus(list.parse::<CpuSet>().expect("processors"));
    let mut wanted = vec![
        (Setting::Mtu { device: device() }, Value::Number(1400)),
        (Setting::TxQueueLen { device: device() }, Value::Number(777)),
        (
            Setting::GroMaxSize { device: device() },
            Value::Number(32_768),
        ),
        (Setting::Threaded { device: device() }, Value::Flag(true)),
        (
            Setting::RpsCpus {
                device: device(),
                queue: 0,
            },
            cpus("0"),
        ),
        (
            Setting::RpsFlowCnt {
                device: device(),
                queue: 0,
            },
            Value::Number(64),
        ),
        (
            Setting::NapiDefault {
                device: device(),
                knob: NapiKnob::GroFlushTimeoutNs,
            },
            Value::Number(30_000),
        ),
    ];
    let host = snapshot(&ns)?;
    let v0 = host.by_name("v0").expect("v0");
    if v0.tx_queues.get()?.len() > 1 {
        wanted.push((
            Setting::XpsCpus {
                device: device(),
                queue: 1,
            },
            cpus("0"),
        ));
    }
    if v0
        .channels
        .get()?
        .is_some_and(|channels| channels.tx_max > 1)
    {
        // Receive queues of a veth may not be more than its peer's transmit queues; fewer transmit queues always go.
        let fewer = if v0.channels.get()?.is_some_and(|channels| channels.tx > 1) {
            1
        } else {
            2
        };
        wanted.push((
            Setting::Channels {
                device: device(),
                side: Side::Tx,
            },
            Value::Number(fewer),
        ));
    }
    let mut steps = Vec::new();
    for (setting, new) in wanted {
        let old = setting.read(&host)?;
        assert_ne!(old, new, "{setting}");
        steps.push(Step::new(setting, old, new, "XXX001"));
    }
    assert!(steps.len() > 7, "{}", steps.len());
    // Channels first: they make the queues anew.
    steps.sort_by_key(|step| step.setting.rank());
    set_and_taken_back(&ns, &steps)?;
    check_tun().map_err(skip)?;
    let _tap = Tap::create(&ns, &TapSpec::new("t0", TapOffloads::TSO))?;
    let frames = Setting::Coalesce {
        device: "t0".into(),
        knob: Moderation::RxFrames,
    };
    let old = frames.read(&snapshot(&ns)?)?;
    set_and_taken_back(&ns, &[Step::new(frames, old, Value::Number(64), "TAP011")])
}

fn set_and_taken_back(ns: &NetNs, steps: &[Step]) -> Result {
    let done = ns.run_with_sysfs(|| perform(&mut Live::default(), steps))?;
    assert_eq!(done, Ok(()));
    let host = snapshot(ns)?;
    for step in steps {
        assert_eq!(step.setting.read(&host)?, step.new, "{}", step.setting);
    }
    let undone = ns.run_with_sysfs(|| undo(&mut Live::default(), steps))?;
    assert_eq!(
        (undone.restored.len(), undone.whole()),
        (steps.len(), true),
        "{undone:?}"
    );
    let host = snapshot(ns)?;
    for step in steps {
        assert_eq!(step.setting.read(&host)?, step.old, "{}", step.setting);
    }
    Ok(())
}

/// What the kernel refuses or quietly ignores leaves nothing behind.
pub(super) fn a_plan_that_does_not_hold_is_rolled_back() -> Result {
    check_tun().map_err(skip)?;
    let ns = veth()?;
    let _tap = Tap::create(&ns, &TapSpec::new("t0", TapOffloads::NONE))?;
    ns.links()?.up("t0")?;
    let feature = |device: &str, name: &str| Setting::Feature {
        device: device.into(),
        name: name.into(),
    };
    let rows = [
        // Only its reader can ask for it: accepted, and off all the same.
        (feature("t0", "tx-checksum-ip-generic"), Value::ON),
        // The driver has other knobs.
        (
            Setting::Coalesce {
                device: "t0".into(),
                knob: Moderation::RxUsecs,
            },
            Value::Number(8),
        ),
        (
            Setting::Mtu {
                device: "v1".into(),
            },
            Value::Number(3),
        ),
    ];
    let gro = feature("v0", "rx-gro");
    for (setting, new) in rows {
        let host = snapshot(&ns)?;
        let old = setting.read(&host).unwrap_or(Value::Number(0));
        let first = Step::new(gro.clone(), gro.read(&host)?, Value::ON, "GRO002");
        let steps = [first, Step::new(setting.clone(), old, new, "XXX001")];
        let failure = ns
            .run_with_sysfs(|| perform(&mut Live::default(), &steps))?
            .expect_err("it does not hold");
        assert_eq!(failure.step, 1, "{failure:?}");
        let after = snapshot(&ns)?;
        assert_eq!(gro.read(&after)?, Value::OFF, "{setting}");
    }
    Ok(())
}

/// A sysfs of another namespace has a device of the same name; it must not be touched.
pub(super) fn another_namespaces_sysfs_is_not_written() -> Result {
    let ns = veth()?;
    let threaded = Setting::RpsCpus {
        device: "v0".into(),
        queue: 0,
    };
    let cpus = Value::Cpus(CpuSet::from_iter([0]));
    let refused = ns.run(|| Live::default().write(&threaded, &cpus))?;
    let words = refused.expect_err("refused").to_string();
    assert!(words.contains("not of this network namespace"), "{words}");
    Ok(())
}
