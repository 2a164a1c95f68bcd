//! The switch on interfaces of a kernel: containers behind veth pairs, a TAP beside
//! them, TUNs; every mixture of offloads at the far side, coalescing in two stages,
//! interfaces that change in the middle of a transfer, bogus packets, and a soak.

mod bogus;
mod change;
#[path = "../support/ip.rs"]
mod ip;
#[path = "../support/load.rs"]
mod load;
mod mixtures;
#[path = "../support/noise.rs"]
mod noise;
mod overlay;
mod rig;
mod soak;
mod stages;
#[path = "../support/mod.rs"]
mod support;

use std::process::ExitCode;
use std::time::Duration;

use jumbo_engine::vnet::VnetHeader;
use jumbo_lab::ns::Needs;
use jumbo_lab::packet_socket::PacketSocket;
use jumbo_lab::traffic::{PingSpec, UdpSpec, ping, udp};
use jumbo_lab::{Family, Host, LabTest, TestError, test_main};
use jumbo_ports::capture::CaptureReader;
use jumbo_ports::tap;
use jumbo_ports::wrap::fault;
use jumbo_switch::switch::{Switch, SwitchConfig};
use jumbo_switch::topology::Coalesce;
use jumbo_testkit::PacketBuilder;
use rig::{
    Kind, Net, Outcome, Setup, USUAL, base, heard, no_super_packets, rest, tap_config, transfer,
    with_header,
};
use support::drops;

use bogus::{
    bogus_packets_disturb_nobody, bogus_packets_have_a_reason_by_xdp,
    bogus_packets_have_a_reason_each,
};
use change::{
    interface_goes_down_and_comes_back_in_mid_transfer,
    interface_is_renamed_and_its_mtu_changed_in_mid_transfer,
    interface_takes_less_for_a_while_in_mid_transfer, interface_that_moves_away_can_come_back,
    interface_that_vanishes_costs_only_its_own_traffic, tun_changes_in_mid_transfer,
    tun_moves_and_vanishes_in_mid_transfer,
};
use mixtures::{
    every_mixture_of_offloads_passes, every_mixture_of_offloads_passes_tagged,
    every_mixture_of_offloads_passes_tagged_by_a_provider,
    every_mixture_of_offloads_passes_xdp_in_the_driver, tags_are_kept_but_what_xdp_cannot_see,
    tags_in_the_bytes_pass_xdp,
};
use overlay::super_packets_in_tunnels_are_segmented;
use soak::soak_of_all_kinds_is_accounted_for;
use stages::the_kernels_super_packets_are_merged_further;

/// For a machine that has other things to do.
const LIMIT: Duration = Duration::from_secs(300);

fn main() -> ExitCode {
    macro_rules! tests {
        ($($name:ident),* $(,)?) => { vec![$(LabTest::new(stringify!($name), $name).within(LIMIT + load::duration())),*] };
    }
    test_main(
        Needs::Taps,
        tests![
            super_packets_in_tunnels_are_segmented,
            every_mixture_of_offloads_passes,
            every_mixture_of_offloads_passes_tagged,
            every_mixture_of_offloads_passes_tagged_by_a_provider,
            every_mixture_of_offloads_passes_xdp_in_the_driver,
            tags_in_the_bytes_pass_xdp,
            tags_are_kept_but_what_xdp_cannot_see,
            tcp_passes_in_every_setting,
            tcp_passes_by_xdp,
            xdp_is_joined_with_what_takes_super_packets,
            tap_and_container_are_joined,
            tagged_packets_pass_with_their_tags,
            datagrams_and_pings_pass,
            the_kernels_super_packets_are_merged_further,
            tun_pair_is_joined_point_to_point,
            interface_goes_down_and_comes_back_in_mid_transfer,
            interface_is_renamed_and_its_mtu_changed_in_mid_transfer,
            interface_takes_less_for_a_while_in_mid_transfer,
            interface_that_vanishes_costs_only_its_own_traffic,
            interface_that_moves_away_can_come_back,
            tun_changes_in_mid_transfer,
            tun_moves_and_vanishes_in_mid_transfer,
            bogus_packets_have_a_reason_each,
            bogus_packets_have_a_reason_by_xdp,
            bogus_packets_disturb_nobody,
            faults_on_purpose_are_survived_by_tcp,
            capture_holds_what_passed,
            soak_of_all_kinds_is_accounted_for,
        ],
    )
}

fn tcp_passes_in_every_setting() -> Outcome {
    for kind in [Kind::Packet, Kind::PacketBypass] {
        for mtu in [1500, 9000] {
            for workers in [1, 2] {
                let setup = Setup { kind, workers, mtu };
                let net = Net::pair(setup)?;
                net.transfer(3_000_000)
                    .map_err(|e| TestError::Failed(format!("{setup:?}: {e:?}")))?;
                rest(&net.switch, &[]);
            }
        }
    }
    Ok(())
}

fn tcp_passes_by_xdp() -> Outcome {
    for kind in [Kind::XdpNative, Kind::XdpGeneric] {
        for mtu in [1500, 3400, 9000] {
            for workers in [1, 2] {
                let setup = Setup { kind, workers, mtu };
                let net = Net::pair(setup)?;
                if kind == Kind::XdpGeneric {
                    no_super_packets(&net)?;
                }
                net.transfer(1_000_000)
                    .map_err(|e| TestError::Failed(format!("{setup:?}: {e:?}")))?;
                rest(&net.switch, &["ring_full", "queue_full"]);
            }
        }
    }
    Ok(())
}

fn xdp_is_joined_with_what_takes_super_packets() -> Outcome {
    for workers in [1, 2] {
        for other in [Kind::Packet, Kind::Tap] {
            let side = |kind| Setup {
                kind,
                workers,
                mtu: 1500,
            };
            let net = Net::new(&[side(Kind::XdpNative), side(other)])?;
            net.transfer(3_000_000)?;
            let state = rest(&net.switch, &["ring_full", "queue_full"]);
            // Towards XDP super-packets are segmented, from it packets are merged.
            assert!(state.ports[0].counters.software_segmented > 0);
            let tx = state.ports[1].counters.tx;
            assert!(tx.data_segments > tx.data_packets, "{tx:?}");
        }
    }
    Ok(())
}

fn tap_and_container_are_joined() -> Outcome {
    for workers in [1, 2] {
        let side = |kind| Setup {
            kind,
            workers,
            mtu: 1500,
        };
        let net = Net::new(&[side(Kind::Tap), side(Kind::Packet)])?;
        net.transfer(3_000_000)?;
        let state = rest(&net.switch, &[]);
        for port in &state.ports {
            assert_eq!(port.counters.software_segmented, 0, "{:?}", port.counters);
            let tx = port.counters.tx;
            assert!(tx.data_segments > 3 * tx.data_packets, "whole: {tx:?}");
        }
    }
    Ok(())
}

/// The receiver's kernel takes the outer tag off, so each packet has one more than
/// is looked for: what is left in the bytes came through.
fn tagged_packets_pass_with_their_tags() -> Outcome {
    for workers in [1, 2] {
        let net = Net::pair(Setup { workers, ..USUAL })?;
        let from = PacketSocket::open(&net.hosts[0].ns, "t0", true)?;
        let to = PacketSocket::open(&net.hosts[1].ns, "t0", true)?;
        for tags in [&[][..], &[(0x8100, 5)], &[(0x88a8, 6), (0x8100, 0xe007)]] {
            let tag = |packet: PacketBuilder, (tpid, tci): &(u16, u16)| packet.vlan(*tpid, *tci);
            let packet = tags.iter().fold(base(), tag).payload_len(1200).build();
            let inner = tags.iter().skip(1).fold(base(), tag).payload_len(1200);
            from.send(&with_header(&VnetHeader::default(), &packet))?;
            assert_eq!(heard(&to)?, Some(inner.build()), "{tags:?}");
        }
        rest(&net.switch, &[]);
    }
    Ok(())
}

fn datagrams_and_pings_pass() -> Outcome {
    for workers in [1, 2] {
        let net = Net::pair(Setup { workers, ..USUAL })?;
        for family in [Family::V4, Family::V6] {
            for gro in [false, true] {
                let spec = UdpSpec {
                    family,
                    count: 2000,
                    segments_per_send: 40,
                    rate_pps: Some(20_000),
                    gro,
                    ..UdpSpec::default()
                };
                let report = udp(&net.hosts[0], &net.hosts[1], &spec)?;
                assert_eq!((report.intact, report.reordered), (Some(true), 0));
                assert!(report.received > 0, "{report:?}");
            }
        }
        let spec = PingSpec {
            duration: Duration::from_millis(300),
            ..PingSpec::default()
        };
        assert!(ping(&net.hosts[0], &net.hosts[1], &spec)?.transactions > 0);
        rest(&net.switch, &[]);
    }
    Ok(())
}

fn tun_pair_is_joined_point_to_point() -> Outcome {
    for workers in [1, 2] {
        let setup = Setup { workers, ..USUAL };
        let mut switch = Switch::start(&SwitchConfig {
            workers,
            ..SwitchConfig::default()
        })?;
        let mut hosts = Vec::new();
        for number in [1, 2] {
            let host = Host::new(number)?;
            let port = host.ns.run(|| tap::open_tun(&tap_config("t0", setup)))??;
            switch.add(port, Coalesce::Gro)?;
            host.plug("t0")?;
            hosts.push(host);
        }
        for family in [Family::V4, Family::V6] {
            transfer(&hosts[0], &hosts[1], family, 4, 3_000_000)?;
        }
        let state = rest(&switch, &[]);
        let tx = state.ports[0].counters.tx;
        assert!(tx.data_segments > tx.data_packets, "super-packets: {tx:?}");
        let third = Host::new(3)?;
        let port = third.ns.run(|| tap::open_tun(&tap_config("t0", setup)))??;
        assert!(switch.add(port, Coalesce::Gro).is_err(), "a third");
        let port = third.ns.run(|| tap::open(&tap_config("t1", setup)))??;
        assert!(switch.add(port, Coalesce::Gro).is_err(), "Ethernet");
    }
    Ok(())
}

fn faults_on_purpose_are_survived_by_tcp() -> Outcome {
    for spec in [
        "drop:1%,seed:1",
        "reorder:5%,seed:2",
        "corrupt:0.5%,seed:3",
        "delay:2ms",
    ] {
        let faults = spec.parse().map_err(TestError::Failed)?;
        let mut net = Net::empty(1)?;
        net.join(USUAL, |port| port)?;
        net.join(USUAL, |port| fault::wrap(port, faults).expect("a timer"))?;
        net.plug()?;
        // Enough packets, whole as they are, for each fault to come.
        net.transfer(10_000_000)
            .map_err(|e| TestError::Failed(format!("{spec}: {e:?}")))?;
        let state = rest(&net.switch, &["injected"]);
        let injected = drops(&state)
            .iter()
            .any(|(name, _)| name.ends_with("injected"));
        assert_eq!(
            injected,
            spec.starts_with("drop"),
            "{spec} {:?}",
            drops(&state)
        );
    }
    Ok(())
}

fn capture_holds_what_passed() -> Outcome {
    let net = Net::pair(USUAL)?;
    let recorder = net.switch.capture(net.ports[0])?;
    let mut bytes = Vec::new();
    let recorded = std::thread::scope(|scope| {
        let writer = scope.spawn(|| recorder.run(&mut bytes));
        net.transfer(2_000_000)?;
        let state = rest(&net.switch, &[]);
        drop(net);
        let recorded = writer.join().expect("no panic")?;
        let counters = &state.ports[0].counters;
        let passed = counters.rx.traffic.packets + counters.tx.packets;
        assert!(recorded.packets + recorded.dropped <= passed);
        assert_eq!(recorded.dropped, 0);
        Ok::<_, TestError>(recorded)
    })?;
    let whole = std::io::Cursor::new(bytes);
    let mut reader = CaptureReader::from_read("memory", whole, None)
        .map_err(|e| TestError::Failed(e.to_string()))?;
    let mut packets = 0;
    while let Some(record) = reader.next_record() {
        let record = record.map_err(|e| TestError::Failed(e.to_string()))?;
        assert!(!record.is_cut() && record.data.len() >= 42);
        packets += 1;
    }
    assert_eq!(packets, recorded.packets);
    Ok(())
}
