//! Guests on a TAP that QEMU serves by itself: the switch joins the device, as it joins any interface.

use std::fs;

use jumbo_lab::ns::{NetNs, check_tun};
use jumbo_lab::tap::{Tap, TapOffloads, TapSpec};
use jumbo_lab::vm::{Nic, QemuTools, VmSpec};
use jumbo_lab::{Family, Host, skip};

use super::{Rig, Tested, boot, from_host, pings, to_host};

/// The device of the guest, without an address. The host must not answer there for those it has elsewhere.
fn guests_tap(ns: &NetNs) -> Tested {
    let tap = Tap::create(ns, &TapSpec::new("q0", TapOffloads::TSO))?;
    tap.persist()?;
    ns.links()?.up("q0")?;
    ns.run(|| fs::write("/proc/sys/net/ipv4/conf/q0/arp_ignore", "1"))??;
    Ok(())
}

fn super_packets(rig: &Rig, way: &str) -> u64 {
    let status = rig.status();
    let ports = status["ports"].as_array().cloned().unwrap_or_default();
    let q0 = ports.iter().find(|port| port["name"] == "q0");
    q0.and_then(|port| port[way]["super_packets"].as_u64())
        .unwrap_or_default()
}

/// With all offloads, super-packets pass whole both ways. With fewer, the bytes are right.
pub(super) fn a_guest_on_a_tap_joins_by_its_device() -> Tested {
    let tools = QemuTools::find().map_err(skip)?;
    check_tun().map_err(skip)?;
    let off: [&[&str]; 3] = [
        &[],
        &["host_tso4", "guest_tso6"],
        &["csum", "guest_csum", "mrg_rxbuf"],
    ];
    for (workers, features) in [1, 2, 1].into_iter().zip(off) {
        let ns = NetNs::new()?;
        guests_tap(&ns)?;
        let rig = Rig::inside(ns, workers, &["packet:q0", "tap:t0"])?;
        let host = Host::inside(rig.ns.clone(), 1);
        host.plug("t0")?;
        let spec = VmSpec::new()
            .nic(Nic::tap("q0").off(features))
            .inside(&rig.ns);
        let [mut vm] = boot(&tools, [spec])?;
        for to in ["10.0.0.1", "fd00::1"] {
            pings(&mut vm, to)?;
        }
        for family in [Family::V4, Family::V6] {
            from_host(&host, family, &mut vm)?;
            to_host(&host, family, &mut vm)?;
        }
        let whole = ["rx", "tx"].map(|way| super_packets(&rig, way));
        println!("without {features:?}: {whole:?} super-packets");
        if features.is_empty() {
            assert!(whole.iter().all(|&count| count > 0), "{}", rig.status());
        }
    }
    Ok(())
}
