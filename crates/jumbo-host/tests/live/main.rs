//! The rules against the real kernel: a fault is made, found, undone, and gone.
//!
//! Everything happens in namespaces these tests made themselves. What the lab cannot make (VXLAN, MACVLAN) is made with
//! the `ip` program, and compared with the `ethtool` program, where they are installed; the crate itself runs neither.

mod frames;
mod program;
mod sys;
mod tune;

use std::collections::BTreeMap;
use std::io;
use std::process::{Command, ExitCode};

use jumbo_host::check::{Options, Report, Status, check};
use jumbo_host::collect::{Roots, collect};
use jumbo_host::recording::Recording;
use jumbo_host::snapshot::Snapshot;
use jumbo_host::tap::FailureReason;
use jumbo_host::waiver::Date;
use jumbo_lab::ethtool::{NapiHold, Offload};
use jumbo_lab::ns::{Needs, NetNs, check_tun};
use jumbo_lab::tap::{Tap, TapOffloads, TapSpec};
use jumbo_lab::{LabTest, TestError, skip, test_main};

type Result<T = ()> = std::result::Result<T, TestError>;

fn main() -> ExitCode {
    test_main(
        Needs::Links,
        vec![
            LabTest::new(
                "a_tap_is_judged_by_what_its_reader_asked",
                a_tap_is_judged_by_what_its_reader_asked,
            ),
            LabTest::new(
                "each_verdict_on_a_tap_is_real",
                each_verdict_on_a_tap_is_real,
            ),
            LabTest::new("the_owner_of_a_tap_is_named", the_owner_of_a_tap_is_named),
            LabTest::new(
                "segmentation_faults_come_and_go",
                segmentation_faults_come_and_go,
            ),
            LabTest::new(
                "a_bridge_with_unequal_ports_is_seen",
                a_bridge_with_unequal_ports_is_seen,
            ),
            LabTest::new("napi_faults_come_and_go", napi_faults_come_and_go),
            LabTest::new(
                "napi_threads_are_seen_and_pinned",
                napi_threads_are_seen_and_pinned,
            ),
            LabTest::new("big_tcp_on_one_hop_is_seen", big_tcp_on_one_hop_is_seen),
            LabTest::new("tunnel_faults_come_and_go", tunnel_faults_come_and_go),
            LabTest::new("lro_that_is_held_off_is_seen", lro_that_is_held_off_is_seen),
            LabTest::new("bridge_netfilter_is_seen", bridge_netfilter_is_seen),
            LabTest::new(
                "counters_of_the_machine_are_unknown_here",
                counters_of_the_machine_are_unknown_here,
            ),
            LabTest::new(
                "without_its_own_sysfs_much_is_unknown",
                without_its_own_sysfs_much_is_unknown,
            ),
            LabTest::new(
                "without_procfs_and_sysfs_nothing_passes_by_them",
                without_procfs_and_sysfs_nothing_passes_by_them,
            ),
            LabTest::new(
                "features_agree_with_the_ethtool_program",
                features_agree_with_the_ethtool_program,
            ),
            LabTest::new(
                "a_recorded_host_is_judged_as_it_was",
                a_recorded_host_is_judged_as_it_was,
            ),
            LabTest::new(
                "queues_rings_and_moderation_agree_with_the_ethtool_program",
                program::queues_rings_and_moderation_agree_with_the_ethtool_program,
            ),
            LabTest::new(
                "offloads_of_a_tap_decide_what_its_reader_gets",
                frames::offloads_of_a_tap_decide_what_its_reader_gets,
            ),
            LabTest::new(
                "features_are_planned_away_and_back",
                tune::features_are_planned_away_and_back,
            ),
            LabTest::new(
                "a_bridges_faults_are_planned_away_and_back",
                tune::a_bridges_faults_are_planned_away_and_back,
            ),
            LabTest::new(
                "a_taps_faults_are_planned_away_and_back",
                tune::a_taps_faults_are_planned_away_and_back,
            ),
            LabTest::new(
                "napi_faults_are_planned_away_and_back",
                tune::napi_faults_are_planned_away_and_back,
            ),
            LabTest::new(
                "every_kind_that_a_namespace_has_is_set_and_taken_back",
                tune::every_kind_that_a_namespace_has_is_set_and_taken_back,
            ),
            LabTest::new(
                "a_plan_that_does_not_hold_is_rolled_back",
                tune::a_plan_that_does_not_hold_is_rolled_back,
            ),
            LabTest::new(
                "another_namespaces_sysfs_is_not_written",
                tune::another_namespaces_sysfs_is_not_written,
            ),
        ],
    )
}

fn snapshot(ns: &NetNs) -> Result<Snapshot> {
    Ok(ns.run_with_sysfs(|| collect(&Roots::default()))??)
}

/// One reading of a namespace, judged.
fn report(ns: &NetNs) -> Result<Report> {
    Ok(judge(&snapshot(ns)?))
}

fn judge(snapshot: &Snapshot) -> Report {
    check(
        snapshot,
        None,
        &Options::default(),
        Date::of(std::time::SystemTime::now()),
    )
}

/// Ids of the faults at a device, with the cause.
fn faults(report: &Report, device: &str) -> Vec<(&'static str, Option<String>)> {
    let here = report
        .findings
        .iter()
        .filter(|finding| finding.device.as_deref() == Some(device));
    let faults = here.filter(|finding| finding.status == Status::Finding);
    faults
        .map(|finding| (finding.id, finding.reason.clone()))
        .collect()
}

fn has(report: &Report, device: &str, id: &str) -> bool {
    faults(report, device).iter().any(|(one, _)| *one == id)
}

/// The fault is not there, is there after `make`, and is gone again after `undo`.
fn comes_and_goes(
    ns: &NetNs,
    (device, id): (&str, &str),
    make: impl FnOnce() -> Result,
    undo: impl FnOnce() -> Result,
) -> Result {
    let before = report(ns)?;
    assert!(
        !has(&before, device, id),
        "{id} is there before: {:?}",
        faults(&before, device)
    );
    make()?;
    let ill = report(ns)?;
    assert!(
        has(&ill, device, id),
        "{id} is not seen: {:?}",
        faults(&ill, device)
    );
    undo()?;
    let healed = report(ns)?;
    assert!(
        !has(&healed, device, id),
        "{id} stays: {:?}",
        faults(&healed, device)
    );
    Ok(())
}

/// Runs `ip` in a namespace.
fn ip(ns: &NetNs, args: &str) -> Result {
    let output = match ns.run(|| Command::new("ip").args(args.split(' ')).output())? {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(skip("no ip (apt install iproute2)"));
        }
        other => other?,
    };
    let words = String::from_utf8_lossy(&output.stderr);
    match output.status.success() {
        true => Ok(()),
        false => Err(skip(format!(
            "ip {args}: {} (another kernel or iproute2)",
            words.trim()
        ))),
    }
}

/// A namespace with `v0` and `v1`, the two ends of a veth pair, both up.
fn veth() -> Result<NetNs> {
    let ns = NetNs::new()?;
    let links = ns.links()?;
    links.add_veth("v0", "v1", &ns)?;
    links.up("v0")?;
    links.up("v1")?;
    Ok(ns)
}

fn a_tap_is_judged_by_what_its_reader_asked() -> Result {
    check_tun().map_err(skip)?;
    let ns = NetNs::new()?;
    let tap = Tap::create(&ns, &TapSpec::new("t0", TapOffloads::TSO_USO))?;
    let links = ns.links()?;
    links.up("t0")?;
    let (ask, refuse) = (
        || Ok(tap.set_offloads(TapOffloads::TSO_USO)?),
        |offloads| Ok(tap.set_offloads(offloads)?),
    );
    comes_and_goes(&ns, ("t0", "TAP001"), || refuse(TapOffloads::NONE), ask)?;
    comes_and_goes(&ns, ("t0", "TAP002"), || refuse(TapOffloads::CHECKSUM), ask)?;
    let only_v4 = TapOffloads::from_bits(0x01 | 0x02);
    comes_and_goes(&ns, ("t0", "TAP003"), || refuse(only_v4), ask)?;
    comes_and_goes(&ns, ("t0", "TAP013"), || refuse(TapOffloads::TSO), ask)?;
    // What the host took away, the host gives back, or the guest's next request does.
    let take = || Ok(links.set_offload("t0", Offload::TxChecksum, false)?);
    let give = || Ok(links.set_offload("t0", Offload::TxChecksum, true)?);
    comes_and_goes(&ns, ("t0", "TAP007"), take, give)?;
    comes_and_goes(&ns, ("t0", "TAP007"), take, ask)
}

/// The decoder's table, each row made for real.
fn each_verdict_on_a_tap_is_real() -> Result {
    check_tun().map_err(skip)?;
    let ns = NetNs::new()?;
    let verdict = |name: &str| -> Result<FailureReason> {
        let snapshot = snapshot(&ns)?;
        let device = snapshot.by_name(name).expect("the TAP");
        Ok(jumbo_host::tap::verdict(device)?)
    };
    let open = |name: &str, flags, persist| -> Result<std::fs::File> {
        let file = ns.run(|| sys::open_tap(name, flags, persist))??;
        ns.links()?.up(name)?;
        Ok(file)
    };
    // Also of a link that is still down.
    let down = ns.run(|| sys::open_tap("t9", libc::IFF_VNET_HDR, true))??;
    assert_eq!(verdict("t9")?, FailureReason::GuestNotRequested);
    drop(down);
    assert_eq!(verdict("t9")?, FailureReason::NoReader);
    let silent = open("t0", libc::IFF_VNET_HDR, true)?;
    assert_eq!(verdict("t0")?, FailureReason::GuestNotRequested);
    drop(silent);
    assert_eq!(verdict("t0")?, FailureReason::NoReader);
    assert!(has(&report(&ns)?, "t0", "TAP006"));
    let _plain = open("t1", 0, false)?;
    assert_eq!(verdict("t1")?, FailureReason::NoVnetHeader);
    let tap = Tap::create(&ns, &TapSpec::new("t2", TapOffloads::NONE))?;
    ns.links()?.up("t2")?;
    assert_eq!(verdict("t2")?, FailureReason::GuestDeclined);
    tap.set_offloads(TapOffloads::CHECKSUM)?;
    assert_eq!(verdict("t2")?, FailureReason::PartialNegotiation);
    tap.set_offloads(TapOffloads::TSO)?;
    assert_eq!(verdict("t2")?, FailureReason::NoFailure);
    ns.links()?.set_offload("t2", Offload::TxChecksum, false)?;
    assert_eq!(verdict("t2")?, FailureReason::HostAdminDisabled);
    Ok(())
}

fn the_owner_of_a_tap_is_named() -> Result {
    check_tun().map_err(skip)?;
    let ns = NetNs::new()?;
    let _tap = Tap::create(&ns, &TapSpec::new("jumbo-own0", TapOffloads::TSO))?;
    let snapshot = snapshot(&ns)?;
    let device = snapshot.by_name("jumbo-own0").expect("the TAP");
    let owners = device.owners.get()?;
    assert!(
        owners
            .iter()
            .any(|owner| owner.pid == std::process::id() && owner.fds == 1),
        "{owners:?}"
    );
    let tun = device.tun.expect("a TAP");
    assert!(tun.tap && tun.vnet_header && !tun.multi_queue);
    Ok(())
}

fn segmentation_faults_come_and_go() -> Result {
    let ns = veth()?;
    let links = ns.links()?;
    let set = |offload, on| {
        move |links: &jumbo_lab::link::Links| -> Result {
            Ok(links.set_offload("v0", offload, on)?)
        }
    };
    for (id, offload) in [
        ("SEG001", Offload::Tso),
        ("SEG003", Offload::ScatterGather),
        ("SEG004", Offload::Gso),
    ] {
        comes_and_goes(
            &ns,
            ("v0", id),
            || set(offload, false)(&links),
            || set(offload, true)(&links),
        )?;
    }
    // TSO stays wanted and falls with the checksum.
    let (off, on) = (
        || set(Offload::TxChecksum, false)(&links),
        || set(Offload::TxChecksum, true)(&links),
    );
    comes_and_goes(&ns, ("v0", "SEG002"), off, on)
}

fn a_bridge_with_unequal_ports_is_seen() -> Result {
    let ns = veth()?;
    let links = ns.links()?;
    links.add_bridge("br0")?;
    links.add_veth("w0", "w1", &ns)?;
    links.enslave("v0", "br0")?;
    links.enslave("w0", "br0")?;
    let tso = |on| Ok(links.set_offload("w0", Offload::Tso, on)?);
    comes_and_goes(&ns, ("br0", "SEG005"), || tso(false), || tso(true))?;
    let mtu = |mtu| Ok(links.set_mtu("w0", mtu)?);
    comes_and_goes(&ns, ("br0", "MTU001"), || mtu(9000), || mtu(1500))
}

fn napi_faults_come_and_go() -> Result {
    let ns = veth()?;
    let set = |gro_flush_timeout_ns, napi_defer_hard_irqs| -> Result {
        Ok(NapiHold {
            gro_flush_timeout_ns,
            napi_defer_hard_irqs,
        }
        .write(&ns, "v0")?)
    };
    comes_and_goes(&ns, ("v0", "NAP001"), || set(0, 2), || set(20_000, 2))?;
    comes_and_goes(&ns, ("v0", "NAP002"), || set(20_000, 0), || set(0, 0))
}

fn napi_threads_are_seen_and_pinned() -> Result {
    let ns = veth()?;
    // A veth has NAPI only with GRO (or XDP).
    ns.links()?.set_offload("v0", Offload::Gro, true)?;
    if snapshot(&ns)?.cpus.online.get()?.len() < 2 {
        return Err(skip("one processor (a machine with two)"));
    }
    let threaded = |on: &str| -> Result {
        let write = || std::fs::write("/sys/class/net/v0/threaded", on);
        ns.run_with_sysfs(write)?
            .map_err(|error| skip(format!("threaded NAPI: {error} (Linux 5.12)")))
    };
    let pin = || -> Result {
        let snapshot = snapshot(&ns)?;
        let napis = snapshot.by_name("v0").expect("v0").napis.get()?.clone();
        let pids: Vec<_> = napis.iter().filter_map(|napi| napi.pid).collect();
        assert!(!pids.is_empty(), "{napis:?}");
        for pid in pids {
            let status = Command::new("taskset")
                .args(["-pc", "0", &pid.to_string()])
                .output();
            let status = status
                .map_err(|_| skip("no taskset (apt install util-linux)"))?
                .status;
            assert!(status.success());
        }
        Ok(())
    };
    comes_and_goes(&ns, ("v0", "NAP004"), || threaded("1"), pin)
}

fn big_tcp_on_one_hop_is_seen() -> Result {
    let ns = veth()?;
    let links = ns.links()?;
    links.add_bridge("br0")?;
    links.add_veth("w0", "w1", &ns)?;
    links.enslave("v0", "br0")?;
    links.enslave("w0", "br0")?;
    let size = |bytes: u32| ip(&ns, &format!("link set v0 gro_max_size {bytes}"));
    comes_and_goes(&ns, ("v0", "BIG001"), || size(185_000), || size(65_536))?;
    check_tun().map_err(skip)?;
    let _tap = Tap::create(&ns, &TapSpec::new("t0", TapOffloads::TSO_USO))?;
    links.enslave("t0", "br0")?;
    comes_and_goes(&ns, ("v0", "BIG002"), || size(185_000), || size(65_536))
}

fn tunnel_faults_come_and_go() -> Result {
    let ns = veth()?;
    let links = ns.links()?;
    ip(&ns, "link add vx0 type vxlan id 7 dstport 4789 dev v0")?;
    links.up("vx0")?;
    let name = "tx-udp_tnl-segmentation";
    let tunnel = |on| Ok(links.set_feature("v0", name, on)?);
    comes_and_goes(&ns, ("vx0", "SEG007"), || tunnel(false), || tunnel(true))?;
    // The kernel keeps the tunnel's MTU within the link's when it is set; the link below may shrink afterwards.
    comes_and_goes(
        &ns,
        ("vx0", "MTU001"),
        || Ok(links.set_mtu("v0", 1400)?),
        || Ok(links.set_mtu("v0", 1500)?),
    )?;
    links.add_bridge("br0")?;
    links.enslave("vx0", "br0")?;
    let gro = |on| Ok(links.set_offload("vx0", Offload::Gro, on)?);
    comes_and_goes(&ns, ("vx0", "GRO001"), || gro(false), || gro(true))
}

/// A MACVLAN's LRO follows the link below it, which has none: wanted, and held off.
fn lro_that_is_held_off_is_seen() -> Result {
    let ns = veth()?;
    let links = ns.links()?;
    ip(&ns, "link add m0 link v0 type macvlan")?;
    // The kernel keeps it off, which the lab reports as an error.
    let ask = || {
        let _ = links.set_feature("m0", "rx-lro", true);
        Ok(())
    };
    comes_and_goes(&ns, ("m0", "LRO003"), ask, || {
        Ok(links.set_feature("m0", "rx-lro", false)?)
    })
}

fn bridge_netfilter_is_seen() -> Result {
    let ns = veth()?;
    let links = ns.links()?;
    links.add_bridge("br0")?;
    links.enslave("v0", "br0")?;
    links.enslave("v1", "br0")?;
    let set = |on: &str| -> Result {
        for name in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"] {
            let write = || std::fs::write(format!("/proc/sys/net/bridge/{name}"), on);
            ns.run(write)?
                .map_err(|error| skip(format!("{name}: {error} (modprobe br_netfilter)")))?;
        }
        Ok(())
    };
    set("0")?;
    comes_and_goes(&ns, ("br0", "BRG001"), || set("1"), || set("0"))
}

/// softnet_stat and /proc/softirqs count the whole machine, whatever namespace reads them.
fn counters_of_the_machine_are_unknown_here() -> Result {
    let ns = veth()?;
    let (before, mut now) = (snapshot(&ns)?, snapshot(&ns)?);
    now.uptime_ms += 1000;
    assert_eq!(now.initial_namespace.get(), Ok(&false));
    let report = check(
        &now,
        Some(&before),
        &Options::default(),
        Date::of(std::time::SystemTime::now()),
    );
    for id in ["SFT001", "SFT002", "SFT006"] {
        let status = report
            .findings
            .iter()
            .find(|finding| finding.id == id)
            .map(|finding| finding.status);
        assert_eq!(status, Some(Status::Unknown), "{id}");
    }
    Ok(())
}

/// A sysfs of another namespace must not be taken for this one's.
fn without_its_own_sysfs_much_is_unknown() -> Result {
    let ns = veth()?;
    let snapshot = ns.run(|| collect(&Roots::default()))??;
    let device = snapshot.by_name("v0").expect("v0");
    assert!(
        device.gro_flush_timeout_ns.get().is_err(),
        "{:?}",
        device.gro_flush_timeout_ns
    );
    assert!(device.features.get().is_ok(), "netlink needs no sysfs");
    let report = judge(&snapshot);
    let unknown = report
        .findings
        .iter()
        .filter(|finding| finding.status == Status::Unknown);
    assert!(unknown.filter(|finding| finding.id == "NAP001").count() > 0);
    Ok(())
}

/// Folders without the files are not a host without the settings.
fn without_procfs_and_sysfs_nothing_passes_by_them() -> Result {
    let ns = veth()?;
    let links = ns.links()?;
    links.add_bridge("br0")?;
    let nowhere = Roots {
        proc: "/nonexistent/proc".into(),
        sys: "/nonexistent/sys".into(),
    };
    let snapshot = ns.run(|| collect(&nowhere))??;
    assert!(
        snapshot.iscsi_sessions.get().is_err()
            && snapshot.sysctls.values().all(|value| value.get().is_err())
    );
    let report = judge(&snapshot);
    for (device, id) in [
        (Some("br0"), "BRG001"),
        (Some("v0"), "NAP001"),
        (None, "NAP005"),
        (None, "CAP001"),
    ] {
        let finding = report
            .findings
            .iter()
            .find(|finding| finding.id == id && finding.device.as_deref() == device);
        assert_eq!(
            finding.map(|finding| finding.status),
            Some(Status::Unknown),
            "{id}"
        );
    }
    Ok(())
}

/// What the ethtool program calls some features.
const ALIASES: [(&str, &str); 8] = [
    ("rx-checksumming", "rx-checksum"),
    ("generic-segmentation-offload", "tx-generic-segmentation"),
    ("generic-receive-offload", "rx-gro"),
    ("large-receive-offload", "rx-lro"),
    ("rx-vlan-offload", "rx-vlan-hw-parse"),
    ("tx-vlan-offload", "tx-vlan-hw-insert"),
    ("ntuple-filters", "rx-ntuple-filter"),
    ("receive-hashing", "rx-hashing"),
];

fn features_agree_with_the_ethtool_program() -> Result {
    let ns = veth()?;
    let links = ns.links()?;
    links.add_bridge("br0")?;
    links.set_offload("v0", Offload::TxChecksum, false)?;
    let snapshot = snapshot(&ns)?;
    let mut compared = 0;
    for device in &snapshot.devices {
        let features = device.features.get()?;
        for (name, words) in ethtool_features(&ns, &device.name)? {
            let alias = ALIASES
                .iter()
                .find(|(theirs, _)| *theirs == name)
                .map(|(_, ours)| (*ours).to_owned());
            let Some(ours) = features.0.get(&alias.unwrap_or(name.clone())) else {
                continue;
            };
            assert_eq!(ours.words(), words, "{} {name}", device.name);
            compared += 1;
        }
    }
    assert!(compared > 100, "only {compared} features compared");
    Ok(())
}

fn ethtool_features(ns: &NetNs, device: &str) -> Result<BTreeMap<String, String>> {
    let output = ns.run(|| Command::new("ethtool").args(["-k", device]).output())?;
    let output = output.map_err(|_| skip("no ethtool (apt install ethtool)"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = text.lines().filter_map(|line| line.trim().split_once(": "));
    Ok(lines
        .map(|(name, words)| (name.to_owned(), words.to_owned()))
        .collect())
}

fn a_recorded_host_is_judged_as_it_was() -> Result {
    let ns = veth()?;
    ns.links()?.set_offload("v0", Offload::Tso, false)?;
    let now = snapshot(&ns)?;
    let live = judge(&now);
    let text = serde_json::to_string(&Recording { before: None, now })?;
    drop(ns);
    let recording: Recording = serde_json::from_str(&text)?;
    recording.usable()?;
    assert_eq!(judge(&recording.now), live);
    assert!(has(&live, "v0", "SEG001"));
    Ok(())
}
