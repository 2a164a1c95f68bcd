//! Interfaces that go down, change, are renamed, moved and removed in the middle of a
//! transfer. What was in the way is lost with a reason; the rest goes on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jumbo_lab::ns::NetNs;
use jumbo_lab::traffic::{BulkAmount, BulkSpec, bulk};
use jumbo_lab::{Family, Host, TestError};
use jumbo_ports::tap;
use jumbo_switch::switch::{Switch, SwitchConfig};
use jumbo_switch::topology::Coalesce;

use crate::rig::{Kind, Net, Outcome, Setup, USUAL, no_super_packets, rest, tap_config, transfer};

/// Interfaces of others.
const WIRES: [Kind; 3] = [Kind::Packet, Kind::XdpNative, Kind::XdpGeneric];
/// Losses while an interface comes, goes or is too slow.
const BUSY: [&str; 2] = ["queue_full", "ring_full"];

fn pair(kind: Kind, workers: usize) -> Result<Net, TestError> {
    let mtu = 1500;
    let net = Net::pair(Setup { kind, workers, mtu })?;
    if kind == Kind::XdpGeneric {
        no_super_packets(&net)?;
    }
    Ok(net)
}

/// Transfers follow each other until `change` has been made, and one comes after it.
fn while_transferring(hosts: &[Host], change: impl FnOnce() -> Outcome) -> Outcome {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let running = scope.spawn(|| {
            for family in [Family::V4, Family::V6].into_iter().cycle() {
                let last = done.load(Ordering::Relaxed);
                transfer(&hosts[0], &hosts[1], family, 2, 5_000_000)?;
                if last {
                    break;
                }
            }
            Ok::<_, TestError>(())
        });
        std::thread::sleep(Duration::from_millis(100));
        let changed = change();
        done.store(true, Ordering::Relaxed);
        running.join().expect("no panic")?;
        changed
    })
}

fn allowed(more: &[&'static str]) -> Vec<&'static str> {
    [&BUSY, more].concat()
}

pub(crate) fn interface_goes_down_and_comes_back_in_mid_transfer() -> Outcome {
    for kind in WIRES {
        for workers in [1, 2] {
            let net = pair(kind, workers)?;
            while_transferring(&net.hosts, || {
                for _ in 0..2 {
                    net.links()?.down("w2")?;
                    std::thread::sleep(Duration::from_millis(50));
                    net.links()?.up("w2")?;
                    std::thread::sleep(Duration::from_millis(50));
                }
                Ok(())
            })
            .map_err(|e| TestError::Failed(format!("{kind:?}: {e:?}")))?;
            rest(&net.switch, &allowed(&["link_down"]));
        }
    }
    Ok(())
}

pub(crate) fn interface_is_renamed_and_its_mtu_changed_in_mid_transfer() -> Outcome {
    for kind in WIRES {
        let net = pair(kind, 1)?;
        while_transferring(&net.hosts, || {
            let links = net.links()?;
            links.set_mtu("w2", 9000)?;
            // Up while it is (Linux 6.2 and later allow it).
            Ok(links.rename("w2", "other")?)
        })?;
        net.links()?.set_mtu("w1", 9000)?;
        for host in &net.hosts {
            host.links()?.set_mtu("t0", 9000)?;
        }
        told(&net, 1, "other", 9000)?;
        told(&net, 0, "w1", 9000)?;
        net.transfer(1_000_000)
            .map_err(|e| TestError::Failed(format!("{kind:?}: {e:?}")))?;
        rest(&net.switch, &BUSY);
    }
    Ok(())
}

/// What no longer fits is dropped and said, until it fits again.
pub(crate) fn interface_takes_less_for_a_while_in_mid_transfer() -> Outcome {
    for kind in WIRES {
        let net = pair(kind, 1)?;
        while_transferring(&net.hosts, || {
            net.links()?.set_mtu("w2", 1300)?;
            told(&net, 1, "w2", 1300)?;
            std::thread::sleep(Duration::from_millis(50));
            net.links()?.set_mtu("w2", 1500)?;
            told(&net, 1, "w2", 1500)
        })
        .map_err(|e| TestError::Failed(format!("{kind:?}: {e:?}")))?;
        // Between the change and the news of it the interface refuses by itself.
        let reasons = ["over_mtu", "segment_over_mtu", "gso_refused", "too_long"];
        rest(&net.switch, &allowed(&reasons));
    }
    Ok(())
}

/// Waits until the switch shows the interface as it is now.
fn told(net: &Net, port: usize, device: &str, mtu: usize) -> Outcome {
    for _ in 0..2000 {
        let info = &net.switch.state()?.ports[port].info;
        if (info.device.as_str(), info.mtu) == (device, mtu) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let info = &net.switch.state()?.ports[port].info;
    Err(TestError::Failed(format!("{device} {mtu}: {info:?}")))
}

/// Takes the second host's interface away in the middle of a transfer to it. The
/// third one goes on; then the port is made anew.
fn lose(kind: Kind, workers: usize, take: impl FnOnce(&Net) -> Outcome) -> Result<Net, TestError> {
    let net = Net::new(
        &[Setup {
            kind,
            workers,
            mtu: 1500,
        }; 3],
    )?;
    if kind == Kind::XdpGeneric {
        no_super_packets(&net)?;
    }
    let [a, b, c] = &net.hosts[..] else {
        return Err(TestError::Failed("three hosts".into()));
    };
    let spec = BulkSpec {
        amount: BulkAmount::Time(Duration::from_secs(20)),
        ..BulkSpec::default()
    };
    std::thread::scope(|scope| {
        let doomed = scope.spawn(|| bulk(a, b, &spec));
        std::thread::sleep(Duration::from_millis(200));
        take(&net)?;
        transfer(a, c, Family::V4, 2, 1_000_000)?;
        assert!(doomed.join().expect("no panic").is_err());
        Ok::<(), TestError>(())
    })?;
    transfer(a, c, Family::V6, 2, 1_000_000)?;
    let state = rest(&net.switch, &allowed(&["gone", "link_down"]));
    let up: Vec<bool> = state.ports.iter().map(|port| port.up).collect();
    assert_eq!(up, [true, false, true], "{kind:?}");
    Ok(net)
}

pub(crate) fn interface_that_vanishes_costs_only_its_own_traffic() -> Outcome {
    for kind in WIRES {
        for workers in [1, 2] {
            lose(kind, workers, |net| Ok(net.links()?.delete("w2")?))
                .map_err(|e| TestError::Failed(format!("{kind:?}: {e:?}")))?;
        }
    }
    Ok(())
}

/// It is gone from where the switch is; back there it can be joined anew.
pub(crate) fn interface_that_moves_away_can_come_back() -> Outcome {
    for kind in WIRES {
        let elsewhere = NetNs::new()?;
        let mut net = lose(kind, 1, |net| Ok(net.links()?.move_to("w2", &elsewhere)?))
            .map_err(|e| TestError::Failed(format!("{kind:?}: {e:?}")))?;
        let mut link = elsewhere.links()?.get("w2")?;
        for _ in 0..500 {
            if (link.promiscuity, link.xdp) == (0, false) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
            link = elsewhere.links()?.get("w2")?;
        }
        assert_eq!(
            (link.promiscuity, link.xdp),
            (0, false),
            "{kind:?}: left as it was"
        );
        elsewhere.links()?.move_to("w2", &net.middle)?;
        net.links()?.up("w2")?;
        net.switch.remove(net.ports[1])?;
        let setup = Setup { kind, ..USUAL };
        net.reopen(1, setup)?;
        if kind == Kind::XdpGeneric {
            no_super_packets(&net)?;
        }
        net.transfer(1_000_000)
            .map_err(|e| TestError::Failed(format!("{kind:?}: {e:?}")))?;
    }
    Ok(())
}

pub(crate) fn tun_pair() -> Result<(Switch, Vec<Host>), TestError> {
    let mut switch = Switch::start(&SwitchConfig::default())?;
    let mut hosts = Vec::new();
    for number in [1, 2] {
        let host = Host::new(number)?;
        let port = host.ns.run(|| tap::open_tun(&tap_config("t0", USUAL)))??;
        switch.add(port, Coalesce::Gro)?;
        host.plug("t0")?;
        hosts.push(host);
    }
    Ok((switch, hosts))
}

/// IPv4 alone: a kernel takes the IPv6 addresses off what goes down.
fn tun_transfer(hosts: &[Host], change: impl FnOnce() -> Outcome) -> Outcome {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let running = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                transfer(&hosts[0], &hosts[1], Family::V4, 2, 5_000_000)?;
            }
            Ok::<_, TestError>(())
        });
        std::thread::sleep(Duration::from_millis(100));
        let changed = change();
        done.store(true, Ordering::Relaxed);
        running.join().expect("no panic")?;
        changed
    })
}

pub(crate) fn tun_changes_in_mid_transfer() -> Outcome {
    let (switch, hosts) = tun_pair()?;
    let links = hosts[1].links()?;
    tun_transfer(&hosts, || {
        links.down("t0")?;
        std::thread::sleep(Duration::from_millis(50));
        links.up("t0")?;
        std::thread::sleep(Duration::from_millis(50));
        links.set_mtu("t0", 1300)?;
        std::thread::sleep(Duration::from_millis(50));
        links.set_mtu("t0", 1500)?;
        std::thread::sleep(Duration::from_millis(50));
        Ok(links.rename("t0", "u9")?)
    })?;
    links.rename("u9", "t0")?;
    transfer(&hosts[0], &hosts[1], Family::V4, 2, 1_000_000)?;
    rest(&switch, &["link_down", "queue_full"]);
    Ok(())
}

/// A TUN keeps its file: where it moves to, it goes on.
pub(crate) fn tun_moves_and_vanishes_in_mid_transfer() -> Outcome {
    let (switch, hosts) = tun_pair()?;
    let spec = BulkSpec {
        amount: BulkAmount::Time(Duration::from_secs(20)),
        ..BulkSpec::default()
    };
    let elsewhere = Host::new(2)?;
    std::thread::scope(|scope| {
        let doomed = scope.spawn(|| bulk(&hosts[0], &hosts[1], &spec));
        std::thread::sleep(Duration::from_millis(100));
        hosts[1].links()?.move_to("t0", &elsewhere.ns)?;
        assert!(doomed.join().expect("no panic").is_err());
        Ok::<_, TestError>(())
    })?;
    elsewhere.plug("t0")?;
    for family in [Family::V4, Family::V6] {
        transfer(&hosts[0], &elsewhere, family, 2, 1_000_000)?;
    }
    assert!(switch.state()?.ports.iter().all(|port| port.up));
    std::thread::scope(|scope| {
        let doomed = scope.spawn(|| bulk(&hosts[0], &elsewhere, &spec));
        std::thread::sleep(Duration::from_millis(100));
        elsewhere.links()?.delete("t0")?;
        assert!(doomed.join().expect("no panic").is_err());
        Ok::<_, TestError>(())
    })?;
    // What still comes from the first one has nowhere to go.
    let state = rest(&switch, &["link_down", "gone", "queue_full", "no_ethernet"]);
    assert_eq!(state.ports.iter().filter(|port| port.up).count(), 1);
    assert!(switch.is_running());
    Ok(())
}
