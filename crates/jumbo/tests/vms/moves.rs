//! A guest leaves one QEMU and goes on in another, behind another port.

use jumbo_lab::Host;
use jumbo_lab::ns::check_tun;
use jumbo_lab::skip;
use jumbo_lab::vm::{Nic, Qemu, QemuTools, VmSpec};

use super::streams::Streams;
use super::{Rig, Tested, boot, pings, sockets};

/// The guest's MAC address: its number is 11.
const MAC: &str = "52:54:00:00:0b:00";

/// A switch with two ports for one guest, and the host behind a TAP.
fn house() -> Tested<(Rig, Host)> {
    check_tun().map_err(skip)?;
    let rig = Rig::new(2, &["vhost-user:%/a", "vhost-user:%/b", "tap:t0"])?;
    let host = Host::inside(rig.ns.clone(), 1);
    host.plug("t0")?;
    Ok((rig, host))
}

fn spec(nic: &Nic) -> VmSpec {
    VmSpec::new().number(11).nic(nic.clone())
}

/// From the QEMU behind `from` to a new one behind `nic`. The old one ends.
fn migrate(rig: &Rig, tools: &QemuTools, mut from: Qemu, nic: &Nic) -> Tested<Qemu> {
    let uri = format!("unix:{}", rig.path("migration").display());
    let mut to = Qemu::spawn(tools, &spec(nic).incoming(&uri))?;
    // It listens once its card has come to terms with the switch.
    to.monitor("info migrate")?;
    let said = from.migrate(&uri)?;
    let times = said.lines().filter(|line| line.contains("time"));
    times.for_each(|line| println!("{line}"));
    to.wait_arrived()?;
    Ok(to)
}

/// The port behind which the switch has the guest.
fn place(rig: &Rig) -> String {
    let fdb = rig.ask("fdb");
    let stations = fdb["stations"].as_array().cloned().unwrap_or_default();
    let ours = stations.iter().find(|station| station["mac"] == MAC);
    ours.map_or_else(String::new, |station| {
        station["port"].as_str().unwrap_or_default().to_owned()
    })
}

/// There with traffic both ways; back while it only receives, so that nothing but its announcement tells where it is.
pub(super) fn a_guest_moves_to_another_port() -> Tested {
    let tools = QemuTools::find().map_err(skip)?;
    for packed in [false, true] {
        let (rig, host) = house()?;
        let [a, b] = sockets(&rig).map(|nic| if packed { nic.packed() } else { nic });
        let [mut vm] = boot(&tools, [VmSpec::new().nic(a.clone())])?;
        pings(&mut vm, "10.0.0.1")?;
        for (nic, port, guest_sends) in [(&b, "b", true), (&a, "a", false)] {
            let streams = Streams::start(&host, &mut vm, guest_sends)?;
            vm = migrate(&rig, &tools, vm, nic)?;
            streams.go_on(8 << 20);
            assert_eq!(place(&rig), port, "{}", rig.ask("fdb"));
            streams.end(&mut vm)?;
            pings(&mut vm, "10.0.0.1")?;
        }
    }
    Ok(())
}

/// The state goes into a file, QEMU ends, and another one begins with the file: at the same port, and at the other.
pub(super) fn a_guest_comes_back_from_a_snapshot() -> Tested {
    let tools = QemuTools::find().map_err(skip)?;
    let (rig, host) = house()?;
    let [a, b] = sockets(&rig);
    let [mut vm] = boot(&tools, [VmSpec::new().nic(a.clone())])?;
    pings(&mut vm, "10.0.0.1")?;
    let file = rig.path("snapshot");
    for (nic, port) in [(&a, "a"), (&b, "b")] {
        let streams = Streams::start(&host, &mut vm, true)?;
        vm.migrate(&format!("exec:cat > {}", file.display()))?;
        drop(vm);
        let uri = format!("exec:cat {}", file.display());
        vm = Qemu::spawn(&tools, &spec(nic).incoming(&uri))?;
        vm.wait_arrived()?;
        streams.go_on(4 << 20);
        assert_eq!(place(&rig), port, "{}", rig.ask("fdb"));
        streams.end(&mut vm)?;
    }
    Ok(())
}
