//! Kernels' tunnel devices above two TAPs of a switch: VXLAN, Geneve, GRE, IP in IP, with TCP of both
//! families through them. Every byte is compared, and the switch's own figures say whether
//! super-packets passed whole, were segmented here, or were made here.

mod support;
#[path = "support/hosts.rs"]
mod hosts;
#[path = "support/ip.rs"]
mod ip;
#[path = "support/program.rs"]
mod program;
#[path = "support/transfer.rs"]
mod transfer;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::ExitCode;
use std::time::Duration;

use hosts::{Net, Setup, Side, Tested};
use ip::ip;
use jumbo_engine::coalesce::Alone;
use jumbo_engine::pending::Caps;
use jumbo_lab::ns::Needs;
use jumbo_lab::{Family, Host, LabTest, TestError, skip, test_main};
use jumbo_switch::switch::PortState;
use jumbo_switch::topology::{Coalesce, TunnelMode};
use program::{Around, Program, mac_of};
use support::{drops, quiet};
use transfer::transfer;

type Outcome = Tested<()>;

/// For a machine that has other things to do.
const LIMIT: Duration = Duration::from_secs(180);

fn main() -> ExitCode {
    macro_rules! tests {
        ($($name:ident),* $(,)?) => { vec![$(LabTest::new(stringify!($name), $name).within(LIMIT)),*] };
    }
    test_main(
        Needs::Taps,
        tests![
            super_packets_in_tunnels_pass_whole,
            super_packets_are_segmented_for_a_tap_that_takes_none,
            packets_in_tunnels_are_merged_if_asked_for,
            every_kind_of_tunnel_carries_tcp,
            tunnels_of_programs_carry_tcp,
        ],
    )
}

/// A kind of tunnel device: what `ip link add` wants for it, but for its ends.
#[derive(Copy, Clone, Debug)]
struct Kind {
    name: &'static str,
    /// Which family its ends are of.
    outer: Family,
    options: &'static str,
    /// Families it carries.
    inner: &'static [Family],
    /// In UDP: what the virtio header can describe.
    udp: bool,
}

const BOTH: &[Family] = &[Family::V4, Family::V6];

const fn kind(name: &'static str, outer: Family, options: &'static str) -> Kind {
    Kind {
        name,
        outer,
        options,
        inner: BOTH,
        udp: false,
    }
}

const fn udp(name: &'static str, outer: Family, options: &'static str) -> Kind {
    Kind {
        udp: true,
        ..kind(name, outer, options)
    }
}

const fn only(inner: &'static [Family], kind: Kind) -> Kind {
    Kind { inner, ..kind }
}

/// VXLAN with and without an outer checksum, over both families.
const VXLAN: [Kind; 4] = [
    udp("vxlan", Family::V4, "id 7 dstport 4789 noudpcsum"),
    udp("vxlan", Family::V4, "id 7 dstport 4789 udpcsum"),
    udp("vxlan", Family::V6, "id 7 dstport 4789"),
    udp(
        "vxlan",
        Family::V6,
        "id 7 dstport 4789 udp6zerocsumtx udp6zerocsumrx",
    ),
];

const OTHERS: [Kind; 10] = [
    udp("geneve", Family::V4, "id 7 noudpcsum"),
    udp("geneve", Family::V4, "id 7 udpcsum"),
    udp("geneve", Family::V6, "id 7"),
    only(&[Family::V4], kind("ipip", Family::V4, "")),
    only(&[Family::V6], kind("sit", Family::V4, "")),
    kind("gre", Family::V4, "key 7"),
    kind("gretap", Family::V4, ""),
    kind("ip6gre", Family::V6, ""),
    kind("ip6gretap", Family::V6, ""),
    kind("ip6tnl", Family::V6, "mode any"),
];

impl Kind {
    /// The device on one host, with addresses 10.1.0.N and fd01::N.
    fn add(&self, host: &Host, other: &Host) -> Tested<Host> {
        let number = host.v4.octets()[3];
        let (local, remote) = (host.addr(self.outer), other.addr(self.outer));
        let Self { name, options, .. } = self;
        // Geneve takes whatever address the packet would leave by.
        let ends = match *name {
            "geneve" => format!("remote {remote}"),
            _ => format!("local {local} remote {remote}"),
        };
        ip(
            &host.ns,
            &format!("link add over type {name} {ends} {options}"),
        )?;
        let links = host.links()?;
        let above = Host {
            ns: host.ns.clone(),
            v4: Ipv4Addr::new(10, 1, 0, number),
            v6: Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, number.into()),
        };
        links.add_address("over", above.v4.into(), 24)?;
        links.up("over")?;
        if self.inner.contains(&Family::V6) {
            links.add_address("over", above.v6.into(), 64)?;
        }
        Ok(above)
    }

    /// The device on both hosts of a network, known to each other.
    fn join(&self, net: &Net) -> Tested<[Host; 2]> {
        let [one, two] = [&net.hosts[0], &net.hosts[1]];
        let (above_one, above_two) = (self.add(one, two)?, self.add(two, one)?);
        let mac = |host: &Host| Ok::<_, TestError>(host.links()?.get("over")?.mac);
        // None where it carries no Ethernet.
        if let (Some(mac_one), Some(mac_two)) = (mac(one)?, mac(two)?)
            && self.is_bridged()
        {
            above_one.knows("over", &above_two, mac_two)?;
            above_two.knows("over", &above_one, mac_one)?;
        }
        Ok([above_one, above_two])
    }

    fn is_bridged(&self) -> bool {
        matches!(self.name, "vxlan" | "geneve" | "gretap" | "ip6gretap")
    }
}

/// Everything, tunnels too.
fn all() -> Caps {
    Caps::ALL.with_udp_tunnels(true, true)
}

fn side(hands: Caps, takes: Caps) -> Side {
    Side { hands, takes }
}

/// What the ports of both hosts have counted at rest; nothing was dropped.
fn rest(net: &Net) -> [PortState; 2] {
    let state = quiet(&net.switch);
    assert_eq!(drops(&state), []);
    [0, 1].map(|index| {
        let port = state.ports.iter().find(|port| port.id == net.ports[index]);
        port.expect("there").clone()
    })
}

/// TCP of every family through the tunnel, both ways at once.
fn through(kind: Kind, net: &Net, bytes: u64) -> Outcome {
    let [one, two] = kind.join(net)?;
    for family in kind.inner {
        transfer(&one, &two, *family, 2, bytes)
            .map_err(|e| TestError::Failed(format!("{kind:?} {family:?}: {e:?}")))?;
    }
    ip(&net.hosts[0].ns, "link del over")?;
    ip(&net.hosts[1].ns, "link del over")
}

fn setup(workers: usize, coalesce: Coalesce) -> Setup {
    Setup {
        workers,
        coalesce,
        ..Setup::USUAL
    }
}

/// Whether this kernel's TAPs know super-packets in tunnels.
fn needs_tunnels(net: &Net) -> Outcome {
    let state = net.switch.state()?;
    match state
        .ports
        .iter()
        .all(|port| port.info.hands.udp_tunnel_csum())
    {
        true => Ok(()),
        false => Err(skip(
            "this kernel knows no tunnels on a TAP (Linux 6.17 does)",
        )),
    }
}

/// Kinds that this kernel has; what it lacks is said.
fn each(kinds: &[Kind], mut test: impl FnMut(Kind) -> Outcome) -> Outcome {
    let mut missing = Vec::new();
    for kind in kinds {
        match test(*kind) {
            Err(TestError::Skipped(why)) => missing.push(why),
            other => other?,
        }
    }
    if missing.len() == kinds.len() {
        return Err(skip(missing.join("; ")));
    }
    for why in missing {
        eprintln!("left out: {why}");
    }
    Ok(())
}

fn super_packets_in_tunnels_pass_whole() -> Outcome {
    each(&[&VXLAN[..], &OTHERS[..3]].concat(), |kind| {
        for (workers, tunnels) in [(1, TunnelMode::Whole), (2, TunnelMode::Merge)] {
            let setup = setup(workers, Coalesce::Gro);
            let net = Net::with_tunnels(setup, tunnels, &[side(all(), all()); 2])?;
            needs_tunnels(&net)?;
            through(kind, &net, 4_000_000)?;
            for port in rest(&net) {
                let counters = &port.counters;
                let (rx, tx) = (counters.rx.traffic, counters.tx);
                assert_eq!(counters.software_segmented, 0, "{kind:?}");
                assert!(rx.super_packets > 20, "{kind:?}: {rx:?}");
                assert!(tx.super_packets > 20, "{kind:?}: {tx:?}");
                // Both ways alike: about half of each are acknowledgements.
                assert!(tx.data_segments > 3 * tx.data_packets, "{kind:?}: {tx:?}");
                assert!(port.takes.udp_tunnel_csum(), "never refused");
            }
        }
        Ok(())
    })
}

fn super_packets_are_segmented_for_a_tap_that_takes_none() -> Outcome {
    const CSUM: Caps = Caps::new(true, false, false, false, false);
    each(&[&VXLAN[..], &OTHERS[..3]].concat(), |kind| {
        for (workers, takes) in [(1, Caps::NONE), (2, CSUM), (1, Caps::ALL)] {
            let setup = setup(workers, Coalesce::Gro);
            let sides = [side(all(), all()), side(all(), takes)];
            let net = Net::new(setup, &sides)?;
            needs_tunnels(&net)?;
            through(kind, &net, 2_000_000)?;
            let [takes_all, takes_less] = rest(&net);
            assert!(takes_less.counters.software_segmented > 10, "{kind:?}");
            assert_eq!(takes_less.counters.tx.super_packets, 0, "{kind:?}");
            assert_eq!(takes_all.counters.software_segmented, 0, "{kind:?}");
            assert!(takes_all.counters.tx.super_packets > 10, "{kind:?}");
        }
        Ok(())
    })
}

/// A sender that segments by itself: what it sends is merged where that is asked for.
fn packets_in_tunnels_are_merged_if_asked_for() -> Outcome {
    let sender = side(Caps::NONE, Caps::NONE);
    each(&[&VXLAN[..], &OTHERS[..3]].concat(), |kind| {
        for (workers, tunnels) in [
            (1, TunnelMode::Merge),
            (2, TunnelMode::Merge),
            (1, TunnelMode::Whole),
        ] {
            let setup = setup(workers, Coalesce::Gro);
            let net = Net::with_tunnels(setup, tunnels, &[sender, side(Caps::NONE, all())])?;
            through(kind, &net, 3_000_000)?;
            let [_, receiver] = rest(&net);
            let tx = receiver.counters.tx;
            match receiver.takes.udp_tunnel() && tunnels == TunnelMode::Merge {
                true => assert!(tx.super_packets > 20, "{kind:?}: {tx:?}"),
                false => assert_eq!(tx.super_packets, 0, "{kind:?}: {tx:?}"),
            }
        }
        Ok(())
    })
}

/// Whatever the kernel has, in every mode.
fn every_kind_of_tunnel_carries_tcp() -> Outcome {
    each(&[&VXLAN[..], &OTHERS].concat(), |kind| {
        for (workers, tunnels) in [
            (1, TunnelMode::Off),
            (2, TunnelMode::Whole),
            (1, TunnelMode::Merge),
        ] {
            let caps = match tunnels {
                TunnelMode::Off => Caps::ALL,
                _ => all(),
            };
            let setup = setup(workers, Coalesce::Gro);
            let net = Net::with_tunnels(setup, tunnels, &[side(caps, caps); 2])?;
            through(kind, &net, 1_000_000)?;
            let ports = rest(&net);
            let whole = ports
                .iter()
                .all(|port| port.counters.rx.traffic.super_packets > 0);
            let expected = kind.udp && ports.iter().all(|port| port.info.hands.udp_tunnel());
            assert!(whole || !expected, "{kind:?}");
        }
        Ok(())
    })
}

/// Kinds that this kernel may have no device for, with a program at each end.
fn tunnels_of_programs_carry_tcp() -> Outcome {
    for (around, families) in [
        (Around::Geneve, BOTH),
        (Around::Gre, BOTH),
        (Around::GreTap, BOTH),
        (Around::Ip { v6: false }, &[Family::V4]),
        (Around::Ip { v6: true }, &[Family::V6]),
    ] {
        for (workers, tunnels) in [(1, TunnelMode::Whole), (2, TunnelMode::Merge)] {
            // A program is not to be given merged datagrams; GRE and IP in IP are not merged.
            if around == Around::Geneve && tunnels == TunnelMode::Merge {
                continue;
            }
            let setup = setup(workers, Coalesce::Gro);
            let net = Net::with_tunnels(setup, tunnels, &[side(all(), all()); 2])?;
            through_programs(around, families, &net)?;
            for port in rest(&net) {
                // Seen to be a tunnel, and left as it was: for the port's sake, or because the
                // checksum that the kernel left to us is the outer one.
                let alone = &port.counters.alone;
                let seen = alone.get(Alone::Tunnel) + alone.get(Alone::TunnelUnreadable);
                assert!(seen > 20, "{around:?}: {alone:?}");
                assert_eq!(port.counters.tx.super_packets, 0, "{around:?}");
            }
        }
    }
    Ok(())
}

fn through_programs(around: Around, families: &[Family], net: &Net) -> Outcome {
    let [one, two] = [&net.hosts[0], &net.hosts[1]];
    let _programs = [
        Program::start(around, one, two)?,
        Program::start(around, two, one)?,
    ];
    let above = [one, two].map(|host| Host {
        v4: Ipv4Addr::new(10, 1, 0, host.v4.octets()[3]),
        v6: Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, host.v4.octets()[3].into()),
        ..host.clone()
    });
    for host in &above {
        let links = host.links()?;
        links.set_mac("over", mac_of(host))?;
        links.set_mtu("over", 1400)?;
        host.plug("over")?;
    }
    above[0].knows("over", &above[1], mac_of(&above[1]))?;
    above[1].knows("over", &above[0], mac_of(&above[0]))?;
    for family in families {
        transfer(&above[0], &above[1], *family, 2, 500_000)
            .map_err(|e| TestError::Failed(format!("{around:?} {family:?}: {e:?}")))?;
    }
    Ok(())
}
