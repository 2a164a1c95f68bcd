//! The switch with real kernels' stacks on it: TCP and UDP through TAPs with
//! every mixture of offloads, devices that come, move and go, and the kernel's
//! own segmentation beside ours.

mod support;
#[path = "support/hosts.rs"]
mod hosts;
#[path = "support/sys.rs"]
mod sys;
#[path = "support/transfer.rs"]
mod transfer;

use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use hosts::{Net, Setup, Side, Tested, config, open, start};
use jumbo_engine::arena::{Arena, SliceMemory};
use jumbo_engine::checksum::Kernels;
use jumbo_engine::coalesce::End;
use jumbo_engine::complete::{complete, plan};
use jumbo_engine::packet::{Frag, Link as EngineLink, Tag};
use jumbo_engine::pending::Caps;
use jumbo_engine::vnet::{Form, Trust, VnetHeader};
use jumbo_lab::ns::{Needs, NetNs};
use jumbo_lab::packet_socket::PacketSocket;
use jumbo_lab::tap::{Tap, TapOffloads, TapSpec};
use jumbo_lab::traffic::connect::PATIENCE;
use jumbo_lab::traffic::{BulkAmount, BulkSpec, Directions, PingSpec, UdpSpec, bulk, ping, udp};
use jumbo_lab::{Family, Host, LabTest, TestError, skip, test_main};
use jumbo_ports::mem::{self, MemHandle};
use jumbo_ports::queue::{Port, TxFault};
use jumbo_ports::tagged::Tagged;
use jumbo_ports::tap::{self, TapConfig, TapError};
use jumbo_switch::switch::{State, Switch};
use jumbo_switch::topology::Coalesce;
use jumbo_testkit::oracle::{self, VnetForm, vnet_gso};
use jumbo_testkit::script::{IpId, TcpStream as TcpScript, UdpStream};
use jumbo_testkit::{Extension, Link, PacketBuilder, tcp_flags};
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
            tcp_passes_between_all_pairs_of_offloads,
            tcp_passes_in_every_setting,
            super_packets_pass_whole,
            streams_are_coalesced_between_kernels,
            udp_super_packets_arrive_as_datagrams,
            datagrams_left_to_be_fragmented_arrive_whole,
            a_kernel_takes_more_than_an_ip_length_can_say,
            packets_held_over_bursts_arrive_in_fewer,
            idle_worker_with_a_hold_time_sleeps,
            every_ping_is_answered,
            unplugged_port_costs_only_its_own_traffic,
            device_moves_into_another_namespace,
            device_that_is_down_is_counted,
            persistent_device_is_left_as_it_was,
            single_queue_device_serves_two_workers,
            tagged_ports_carry_tcp,
            other_vlan_is_refused,
            kernel_segments_as_we_do,
            errors_say_what_is_wrong,
            nothing_is_left_behind,
        ],
    )
}

const CSUM: Caps = Caps::new(true, false, false, false, false);
const TSO: Caps = Caps::new(true, true, true, true, false);

fn both_families(net: &Net, flows: usize, bytes: u64) -> Outcome {
    for family in [Family::V4, Family::V6] {
        transfer(&net.hosts[0], &net.hosts[1], family, flows, bytes)?;
    }
    Ok(())
}

/// At rest every packet is accounted for, and no reason but these was needed.
#[track_caller]
fn rest(switch: &Switch, allowed: &[&str]) -> State {
    let state = quiet(switch);
    for (reason, count) in drops(&state) {
        let known = allowed.iter().any(|allowed| reason.ends_with(allowed));
        assert!(known, "{count} dropped: {reason}");
    }
    state
}

fn offload_sides() -> Vec<Side> {
    let mut sides = Vec::new();
    for hands in [Caps::NONE, CSUM, TSO, Caps::ALL] {
        for takes in [Caps::NONE, CSUM, Caps::ALL] {
            sides.push(Side { hands, takes });
        }
    }
    sides
}

/// All pairs of sides, 144; the other settings go round among them.
fn tcp_passes_between_all_pairs_of_offloads() -> Outcome {
    let sides = offload_sides();
    for (i, one) in sides.iter().enumerate() {
        for (j, two) in sides.iter().enumerate() {
            let setup = Setup {
                workers: 1 + (i + j) % 2,
                mtu: [1500, 9000][i / 2 % 2],
                coalesce: [Coalesce::Gro, Coalesce::Off][j / 2 % 2],
                hold_ns: [0, 300_000][i % 2],
            };
            let net = Net::new(setup, &[*one, *two])?;
            let family = [Family::V4, Family::V6][(i / 3 + j / 3 + i + j) % 2];
            transfer(&net.hosts[0], &net.hosts[1], family, 1, 300_000)
                .map_err(|e| TestError::Failed(format!("{one:?} {two:?} {setup:?}: {e:?}")))?;
            rest(&net.switch, &[]);
        }
    }
    Ok(())
}

fn tcp_passes_in_every_setting() -> Outcome {
    let none = Side {
        hands: Caps::NONE,
        takes: Caps::NONE,
    };
    let mixed = Side {
        hands: Caps::ALL,
        takes: CSUM,
    };
    for sides in [[Side::ALL; 2], [none; 2], [mixed, none]] {
        for mtu in [1500, 9000] {
            for coalesce in [Coalesce::Gro, Coalesce::Off] {
                for workers in [1, 2] {
                    let setup = Setup {
                        workers,
                        mtu,
                        coalesce,
                        ..Setup::USUAL
                    };
                    let net = Net::new(setup, &sides)?;
                    both_families(&net, 10, 200_000)?;
                    rest(&net.switch, &[]);
                }
            }
        }
    }
    Ok(())
}

fn super_packets_pass_whole() -> Outcome {
    let net = Net::new(Setup::USUAL, &[Side::ALL; 2])?;
    both_families(&net, 1, 10_000_000)?;
    let state = rest(&net.switch, &[]);
    for port in &state.ports {
        assert_eq!(port.counters.software_segmented, 0);
        assert_eq!(port.counters.software_checksums, 0);
        let tx = port.counters.tx;
        assert!(tx.data_segments > 5 * tx.data_packets, "{tx:?}");
    }
    Ok(())
}

/// A sender without TSO, a receiver that takes it: the switch merges.
fn streams_are_coalesced_between_kernels() -> Outcome {
    for hands in [Caps::NONE, CSUM] {
        let plain = Side {
            hands,
            takes: Caps::ALL,
        };
        let net = Net::new(Setup::USUAL, &[plain, Side::ALL])?;
        for family in [Family::V4, Family::V6] {
            let spec = BulkSpec {
                family,
                flows: 4,
                amount: BulkAmount::BytesPerFlow(3_000_000),
                ..BulkSpec::default()
            };
            assert_eq!(
                bulk(&net.hosts[0], &net.hosts[1], &spec)?.intact,
                Some(true)
            );
        }
        let state = rest(&net.switch, &[]);
        let tx = state.ports[1].counters.tx;
        assert!(state.books.absorbed_by_merging > 0);
        assert!(
            tx.data_segments > tx.data_packets + tx.data_packets / 2,
            "{tx:?}"
        );
    }
    Ok(())
}

fn udp_super_packets_arrive_as_datagrams() -> Outcome {
    let no_uso = |side: Side| Side { takes: TSO, ..side };
    for (side, cut) in [(Side::ALL, false), (no_uso(Side::ALL), true)] {
        for workers in [1, 2] {
            let setup = Setup {
                workers,
                ..Setup::USUAL
            };
            let net = Net::new(setup, &[Side::ALL, side])?;
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
            let state = rest(&net.switch, &[]);
            let counters = &state.ports[1].counters;
            assert_eq!(counters.software_segmented > 0, cut, "{counters:?}");
            assert!(state.ports[0].counters.rx.traffic.super_packets > 0);
            assert_eq!(counters.tx.super_packets > 0, !cut);
        }
    }
    Ok(())
}

/// A guest of old leaves its datagrams to be fragmented; the kernel puts the fragments together, and
/// its socket takes only what has a right checksum.
fn datagrams_left_to_be_fragmented_arrive_whole() -> Outcome {
    const GUEST: [u8; 6] = [2, 0, 0, 0, 0, 9];
    for (workers, takes) in [(1, Caps::ALL), (2, Caps::NONE)] {
        let setup = Setup {
            workers,
            ..Setup::USUAL
        };
        let mut net = Net::new(setup, &[Side { takes, ..Side::ALL }])?;
        let hands = Caps::ALL.with_ufo(true);
        let (port, guest) = mem::port("guest", workers, hands, Caps::NONE, 1500)?;
        net.switch.add(port, Coalesce::Gro)?;
        let host = &net.hosts[0];
        let mac = host.links()?.get("t0")?.mac.unwrap_or_default();
        for family in [Family::V4, Family::V6] {
            let to = host.socket_addr(family, 0);
            let socket = host.ns.run(|| UdpSocket::bind(to))??;
            socket.set_read_timeout(Some(Duration::from_secs(5)))?;
            let port = socket.local_addr()?.port();
            let base = PacketBuilder::ethernet().macs(mac, GUEST);
            let (base, size) = match family {
                Family::V4 => (base.ipv4([10, 0, 0, 9], host.v4.octets()), 1480),
                Family::V6 => {
                    let from = std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 9);
                    (base.ipv6(from.octets(), host.v6.octets()), 1448)
                }
            };
            for (id, payload_len) in (0..).zip([1, 1472, 1473, 9000, 30_000, 60_001]) {
                let packet = base.clone().id(id).udp(53, port).payload_len(payload_len);
                let bytes = packet.partial_checksum().build();
                let header =
                    oracle::VnetHeader::needs_csum(Link::Ethernet, &bytes, vnet_gso::UDP, size)
                        .expect("UDP");
                let header = header.encode(VnetForm::Merged);
                guest.put_raw([header, bytes].concat());
                let mut buffer = vec![0; 65_536];
                let (len, _) = socket.recv_from(&mut buffer)?;
                let right = buffer[..len] == jumbo_testkit::pattern(0, payload_len);
                assert!(right, "{family:?} {payload_len}: {len}");
            }
        }
        rest(&net.switch, &[]);
    }
    Ok(())
}

/// Datagrams that come one by one: without a hold time each is a burst of its own.
fn packets_held_over_bursts_arrive_in_fewer() -> Outcome {
    let one_by_one = Side {
        hands: Caps::NONE,
        takes: Caps::ALL,
    };
    for workers in [1, 2] {
        let setup = Setup {
            workers,
            hold_ns: 5_000_000,
            ..Setup::USUAL
        };
        let net = Net::new(setup, &[one_by_one; 2])?;
        for family in [Family::V4, Family::V6] {
            let spec = UdpSpec {
                family,
                payload_len: 1000,
                count: 1500,
                rate_pps: Some(5000),
                ..UdpSpec::default()
            };
            let report = udp(&net.hosts[0], &net.hosts[1], &spec)?;
            assert_eq!(
                (report.received, report.intact, report.reordered),
                (1500, Some(true), 0)
            );
        }
        let counters = rest(&net.switch, &[]).ports[1].counters.clone();
        let tx = counters.tx;
        assert!(tx.data_segments > 4 * tx.data_packets, "{tx:?}");
        assert!(counters.ends.get(End::HoldTime) > 0 && counters.promoted.packets > 0);
        // Held or not, what TCP sends arrives, both ways at once.
        both_families(&net, 2, 3_000_000)?;
        rest(&net.switch, &[]);
    }
    Ok(())
}

/// A station that speaks TCP by hand, so that what is sent comes in one burst.
struct ByHand {
    guest: MemHandle,
    base: PacketBuilder,
}

impl ByHand {
    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
    const V4: [u8; 4] = [10, 0, 0, 9];
    const PORT: u16 = 7000;

    /// The sequence number after the other's SYN.
    fn connect(&self) -> Tested<u32> {
        let syn = self.base.clone().seq(99).flags(tcp_flags::SYN);
        let syn = syn.tcp_options(&[2, 4, 5, 0xb4, 1, 3, 3, 14]);
        self.guest.put(&VnetHeader::default(), &syn.build());
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            for packet in self.guest.taken() {
                let parsed = oracle::parse(Link::Ethernet, &packet.bytes);
                let tcp = parsed.ok().and_then(|packet| packet.tcp().cloned());
                if let Some(tcp) = tcp.filter(|tcp| tcp.dst_port == Self::PORT) {
                    let ack = tcp.seq.wrapping_add(1);
                    let packet = self.base.clone().seq(100).ack(ack);
                    self.guest.put(&VnetHeader::default(), &packet.build());
                    return Ok(ack);
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Err(TestError::Failed("no answer to a SYN".into()))
    }
}

/// 300 packets of a train leave as one of 430 KB, which the kernel's TCP takes.
fn a_kernel_takes_more_than_an_ip_length_can_say() -> Outcome {
    for workers in [1, 2] {
        let setup = Setup {
            workers,
            ..Setup::USUAL
        };
        let takes = Caps::ALL.with_big_tcp(true, false);
        let mut net = Net::new(setup, &[Side { takes, ..Side::ALL }])?;
        let (port, guest) = mem::port("guest", workers, Caps::ALL, Caps::NONE, 1500)?;
        net.switch.add(port, Coalesce::Gro)?;
        let state = net.switch.state()?;
        if !state.ports[0].takes.big_tcp4() {
            return Err(skip(
                "this kernel knows no BIG TCP over IPv4 (Linux 6.3 does)",
            ));
        }
        let host = &net.hosts[0];
        let links = host.links()?;
        links.add_neighbour("t0", ByHand::V4.into(), ByHand::MAC)?;
        let mac = links.get("t0")?.mac.unwrap_or_default();
        let to = host.socket_addr(Family::V4, 0);
        let listener = host.ns.run(|| std::net::TcpListener::bind(to))??;
        // The whole train fits into the window.
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&listener, 4 << 20)?;
        let base = PacketBuilder::ethernet().macs(mac, ByHand::MAC);
        let base = base.ipv4(ByHand::V4, host.v4.octets());
        let base = base.tcp(ByHand::PORT, listener.local_addr()?.port());
        let by_hand = ByHand { guest, base };
        let ack = by_hand.connect()?;
        let (mut stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let before = quiet(&net.switch).ports[0].counters.tx;
        let train = TcpScript::new(by_hand.base.clone().ack(ack));
        let packets = train.segments(300).mss(1448).seq(100).packets();
        let bytes = packets.iter().map(Vec::as_slice);
        by_hand.guest.put_all(&VnetHeader::default(), bytes);
        let mut got = vec![0; 300 * 1448];
        std::io::Read::read_exact(&mut stream, &mut got)?;
        assert!(got == jumbo_testkit::pattern(0, got.len()), "every byte");
        let after = rest(&net.switch, &[]).ports[0].counters.tx;
        let new = (
            after.packets - before.packets,
            after.segments - before.segments,
        );
        assert_eq!(new, (1, 300), "in one piece");
    }
    Ok(())
}

/// A hold time costs nothing while nothing is held.
fn idle_worker_with_a_hold_time_sleeps() -> Outcome {
    let setup = Setup {
        hold_ns: 50_000,
        ..Setup::USUAL
    };
    let net = Net::new(setup, &[Side::ALL; 2])?;
    both_families(&net, 1, 100_000)?;
    let before = rest(&net.switch, &[]).wakes;
    std::thread::sleep(Duration::from_secs(1));
    let wakes = net.switch.state()?.wakes - before;
    // A timer of 50 us that went on would wake it some 20'000 times.
    assert!(wakes < 100, "{wakes} wake-ups");
    Ok(())
}

fn every_ping_is_answered() -> Outcome {
    let net = Net::new(Setup::USUAL, &[Side::ALL; 2])?;
    let spec = PingSpec {
        duration: Duration::from_millis(300),
        ..PingSpec::default()
    };
    assert!(ping(&net.hosts[0], &net.hosts[1], &spec)?.transactions > 0);
    rest(&net.switch, &[]);
    Ok(())
}

fn unplugged_port_costs_only_its_own_traffic() -> Outcome {
    for workers in [1, 2] {
        let setup = Setup {
            workers,
            ..Setup::USUAL
        };
        let net = Net::new(setup, &[Side::ALL; 3])?;
        let [a, b, c] = &net.hosts[..] else {
            return Err(skip("three hosts were made"));
        };
        let spec = |time| BulkSpec {
            directions: Directions::Both,
            flows: 2,
            amount: BulkAmount::Time(time),
            ..BulkSpec::default()
        };
        std::thread::scope(|scope| {
            let doomed = scope.spawn(|| bulk(a, b, &spec(Duration::from_secs(20))));
            let spared = scope.spawn(|| bulk(a, c, &spec(Duration::from_secs(2))));
            std::thread::sleep(Duration::from_millis(500));
            b.links()?.delete("t0")?;
            let spared = spared.join().expect("no panic")?;
            assert_eq!(spared.intact, Some(true));
            assert!(spared.forward_bytes > 0 && spared.backward_bytes > 0);
            assert!(doomed.join().expect("no panic").is_err());
            Ok::<(), TestError>(())
        })?;
        transfer(a, c, Family::V6, 2, 1_000_000)?;
        let state = rest(&net.switch, &["gone", "link_down"]);
        let up: Vec<bool> = state.ports.iter().map(|port| port.up).collect();
        assert_eq!(up, [true, false, true]);
    }
    Ok(())
}

fn device_moves_into_another_namespace() -> Outcome {
    let mut net = Net::new(Setup::USUAL, &[Side::ALL])?;
    let before = NetNs::new()?;
    let mut moving = config(Setup::USUAL, Side::ALL);
    moving.device = "m0".into();
    let port = before.run(|| tap::open(&moving))??;
    net.switch.add(port, Coalesce::Gro)?;
    let host = Host::new(9)?;
    before.links()?.move_to("m0", &host.ns)?;
    drop(before);
    host.plug("m0")?;
    transfer(&net.hosts[0], &host, Family::V4, 2, 2_000_000)?;
    transfer(&net.hosts[0], &host, Family::V6, 2, 2_000_000)?;
    // What is flooded while it is being moved finds it down.
    let state = rest(&net.switch, &["link_down", "no_other_port"]);
    assert!(state.ports[1].up);
    Ok(())
}

fn device_that_is_down_is_counted() -> Outcome {
    let net = Net::new(Setup::USUAL, &[Side::ALL; 2])?;
    transfer(&net.hosts[0], &net.hosts[1], Family::V4, 1, 100_000)?;
    net.hosts[1].links()?.down("t0")?;
    send_datagram(&net.hosts[0], &net.hosts[1])?;
    let state = eventually(&net.switch, |state| {
        state.ports[1].counters.tx_faults.get(TxFault::LinkDown) > 0
    })?;
    assert!(state.ports[1].up, "down is not gone");
    net.hosts[1].links()?.up("t0")?;
    transfer(&net.hosts[0], &net.hosts[1], Family::V4, 1, 100_000)?;
    rest(&net.switch, &["link_down"]);
    Ok(())
}

fn send_datagram(from: &Host, to: &Host) -> Outcome {
    let socket = from.ns.run(|| UdpSocket::bind((from.v4, 0)))??;
    socket.send_to(b"hello", (to.v4, 9))?;
    Ok(())
}

/// The state once it is as wanted; an error when it never is.
fn eventually(switch: &Switch, wanted: impl Fn(&State) -> bool) -> Tested<State> {
    let start = Instant::now();
    loop {
        let state = switch.state()?;
        if wanted(&state) {
            return Ok(state);
        }
        if start.elapsed() > Duration::from_secs(5) {
            return Err(TestError::Failed(format!("never came: {state:#?}")));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn persistent(host: &Host, multi_queue: bool) -> Outcome {
    let spec = TapSpec {
        multi_queue,
        ..TapSpec::new("t0", TapOffloads::NONE)
    };
    let tap = Tap::create(&host.ns, &spec)?;
    sys::set_persistent(tap.as_fd(), true)?;
    Ok(())
}

fn persistent_device_is_left_as_it_was() -> Outcome {
    for (multi_queue, workers) in [(false, 1), (true, 2)] {
        let host = Host::new(1)?;
        persistent(&host, multi_queue)?;
        let links = host.links()?;
        links.set_mtu("t0", 1400)?;
        links.set_tx_queue_len("t0", 77)?;
        let look = || -> Tested<_> {
            let link = links.get("t0")?;
            Ok((link.index, link.mtu, link.tx_queue_len, link.mac, link.up))
        };
        for up in [false, true] {
            if up {
                links.up("t0")?;
            }
            let before = look()?;
            let mut switch = start(workers)?;
            let mut config = config(Setup::USUAL, Side::ALL);
            (config.mtu, config.queues) = (None, workers);
            let port = open(&host, &config)?;
            assert_eq!(port.info.mtu, 1400);
            switch.add(port, Coalesce::Gro)?;
            assert_eq!(look()?, before, "while attached");
            switch.stop()?;
            assert_eq!(look()?, before, "afterwards");
        }
        links.delete("t0")?;
    }
    Ok(())
}

fn single_queue_device_serves_two_workers() -> Outcome {
    let setup = Setup {
        workers: 2,
        ..Setup::USUAL
    };
    let mut net = Net::new(setup, &[Side::ALL])?;
    let host = Host::new(9)?;
    persistent(&host, false)?;
    let port = open(&host, &config(setup, Side::ALL))?;
    assert_eq!(port.queues.len(), 2);
    net.switch.add(port, Coalesce::Gro)?;
    host.plug("t0")?;
    transfer(&net.hosts[0], &host, Family::V4, 10, 500_000)?;
    transfer(&net.hosts[0], &host, Family::V6, 10, 500_000)?;
    // The device was there, and down, before it was plugged.
    let state = rest(&net.switch, &["no_other_port", "link_down"]);
    assert!(state.ports.iter().all(|port| port.up));
    // When it goes, the worker that only writes hears of it too.
    host.links()?.delete("t0")?;
    eventually(&net.switch, |state| !state.ports[1].up)?;
    transfer_fails(&net.hosts[0], &host);
    rest(&net.switch, &["no_other_port", "link_down", "gone"]);
    Ok(())
}

fn transfer_fails(one: &Host, two: &Host) {
    // An address is looked for in vain: nothing is left that could answer.
    let _ = send_datagram(one, two);
}

fn into_vlan(mut port: Port, vid: u16) -> Port {
    let tag = Tag {
        tpid: 0x8100,
        tci: vid,
    };
    let wrap = |queue| -> Box<dyn jumbo_ports::queue::Queue> { Box::new(Tagged::new(queue, tag)) };
    port.queues = port.queues.into_iter().map(wrap).collect();
    port
}

fn in_vlans(setup: Setup, sides: [Side; 2], vids: [u16; 2]) -> Tested<Net> {
    let mut net = Net::new(setup, &[])?;
    for (side, vid) in sides.into_iter().zip(vids) {
        net.join(side, |port| into_vlan(port, vid))?;
    }
    net.plug()?;
    Ok(net)
}

fn tagged_ports_carry_tcp() -> Outcome {
    let none = Side {
        hands: Caps::NONE,
        takes: Caps::NONE,
    };
    let cut = Side {
        hands: Caps::ALL,
        takes: Caps::NONE,
    };
    for sides in [[Side::ALL; 2], [none, Side::ALL], [cut, cut]] {
        for workers in [1, 2] {
            let setup = Setup {
                workers,
                ..Setup::USUAL
            };
            let net = in_vlans(setup, sides, [7, 7])?;
            both_families(&net, 2, 1_000_000)?;
            rest(&net.switch, &[]);
        }
    }
    Ok(())
}

fn other_vlan_is_refused() -> Outcome {
    let net = in_vlans(Setup::USUAL, [Side::ALL; 2], [7, 8])?;
    let socket = net.hosts[1]
        .ns
        .run(|| UdpSocket::bind((net.hosts[1].v4, 9)))??;
    socket.set_nonblocking(true)?;
    send_datagram(&net.hosts[0], &net.hosts[1])?;
    eventually(&net.switch, |state| {
        state.ports[1].counters.tx_faults.get(TxFault::Refused) > 0
    })?;
    assert!(
        socket.recv(&mut [0; 64]).is_err(),
        "a packet crossed the VLANs"
    );
    rest(&net.switch, &["refused"]);
    Ok(())
}

// --- segmentation, the kernel's and ours ---

/// A super-packet and its segmentation type and size.
struct Case {
    name: &'static str,
    packet: PacketBuilder,
    kind: u8,
    size: u16,
}

const SRC_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x77];

fn base() -> PacketBuilder {
    PacketBuilder::ethernet().macs([2, 0, 0, 0, 0, 0x78], SRC_MAC)
}

fn ip6(base: PacketBuilder) -> PacketBuilder {
    let mut addr = [0; 16];
    addr[0] = 0xfd;
    base.ipv6(addr, [0xfd; 16])
}

fn tcp_case(
    name: &'static str,
    base: PacketBuilder,
    kind: u8,
    change: fn(TcpScript) -> TcpScript,
) -> Case {
    let stream = TcpScript::new(base).segments(7).mss(1000).last_len(333);
    Case {
        name,
        packet: change(stream.ids(IpId::Increment(0xfffd)).seq(u32::MAX - 2500)).super_packet(),
        kind,
        size: 1000,
    }
}

fn udp_case(name: &'static str, base: PacketBuilder) -> Case {
    Case {
        name,
        packet: UdpStream::new(base.udp(4, 5))
            .datagrams(9, 1201, 7)
            .super_packet(),
        kind: vnet_gso::UDP_L4,
        size: 1201,
    }
}

fn cases() -> Vec<Case> {
    use tcp_flags::{ACK, CWR, ECE, FIN, PSH};
    use vnet_gso::{ECN, TCPV4, TCPV6};
    let tagged = |base: PacketBuilder| base.vlan(0x8100, 0x6007);
    let qinq = |base: PacketBuilder| base.vlan(0x88a8, 100).vlan(0x8100, 7);
    let options6 = ip6(base()).extension(Extension::Destination(vec![1, 4, 0, 0, 0, 0]));
    vec![
        tcp_case("tcp4", base(), TCPV4, |s| s.push_last()),
        tcp_case("tcp4 without DF", base().df(false), TCPV4, |s| s.fin_last()),
        tcp_case(
            "tcp4 with options",
            base().ip_options(&[1; 8]).tos(0xb9),
            TCPV4,
            |s| s.timestamps(5, 6),
        ),
        tcp_case("tcp4 odd", base(), TCPV4, |s| {
            s.mss(1000).segments(3).last_len(1)
        }),
        tcp_case("tcp4 all flags", base(), TCPV4 | ECN, |s| {
            s.flags(ACK | PSH | FIN | ECE | CWR)
        }),
        tcp_case("tcp4 one segment", base(), TCPV4, |s| s.segments(1)),
        tcp_case("tcp4 exact", base(), TCPV4, |s| s.last_len(1000)),
        tcp_case("tcp4 tagged", tagged(base()), TCPV4, |s| s.push_last()),
        tcp_case("tcp4 qinq", qinq(base()), TCPV4, |s| s.push_last()),
        tcp_case("tcp6", ip6(base()).flow_label(0x12345), TCPV6, |s| {
            s.timestamps(1, 2).fin_last()
        }),
        tcp_case("tcp6 CWR", ip6(base()), TCPV6 | ECN, |s| {
            s.flags(ACK | CWR | PSH)
        }),
        tcp_case("tcp6 tagged", tagged(ip6(base())), TCPV6, |s| s.push_last()),
        tcp_case("tcp6 qinq", qinq(ip6(base())), TCPV6, |s| s.push_last()),
        tcp_case("tcp4 AE", base(), TCPV4, |s| {
            s.flags(ACK | tcp_flags::AE | PSH)
        }),
        tcp_case(
            "tcp4 40 bytes of options",
            base().tcp_options(&[1; 40]),
            TCPV4,
            |s| s,
        ),
        tcp_case("tcp6 destination options", options6, TCPV6, |s| {
            s.fin_last()
        }),
        Case {
            size: 8,
            ..tcp_case("tcp4 of 8 bytes", base(), TCPV4, |s| {
                s.mss(8).segments(20).last_len(3)
            })
        },
        Case {
            size: 1460,
            ..tcp_case("tcp4 of 65535 bytes", base(), TCPV4, |s| {
                s.mss(1460).segments(45).last_len(1255)
            })
        },
        udp_case("udp4", base()),
        udp_case("udp4 without DF", base().df(false).id(0xffff)),
        udp_case("udp4 tagged", tagged(base())),
        udp_case("udp4 qinq", qinq(base())),
        udp_case("udp6", ip6(base())),
        udp_case("udp6 tagged", tagged(ip6(base()))),
        udp_case("udp6 qinq", qinq(ip6(base()))),
    ]
}

impl Case {
    fn bytes(&self) -> Vec<u8> {
        self.packet.clone().partial_checksum().build()
    }

    fn header(&self, form: VnetForm) -> Vec<u8> {
        oracle::VnetHeader::needs_csum(Link::Ethernet, &self.bytes(), self.kind, self.size)
            .expect("TCP or UDP")
            .encode(form)
    }

    fn ours(&self) -> Vec<Vec<u8>> {
        let bytes = self.bytes();
        let mut arena = Arena::new(1, 1);
        let memory = SliceMemory::new(&bytes, Kernels::detect());
        let header = VnetHeader::decode(Form::Modern12, &self.header(VnetForm::Merged)).unwrap();
        let body = [Frag::new(0, bytes.len() as u32)];
        let vnet = Some((&header, Trust::Guest));
        let id = arena
            .admit(EngineLink::Ethernet, &bytes, &body, vnet)
            .expect(self.name)
            .id;
        let packet = arena.packet(id);
        let mut segments = Vec::new();
        let plan = plan(packet, Caps::NONE, 1500);
        complete(
            packet,
            arena.payload(id),
            plan,
            &memory,
            |packet, payload| {
                let mut segment = vec![0; 256];
                let len = packet.write_header(&mut segment).expect("room");
                segment.truncate(len);
                for frag in payload {
                    segment.extend_from_slice(memory.bytes(frag).expect("inside"));
                }
                segments.push(segment);
            },
        )
        .expect(self.name);
        segments
    }
}

/// What a TAP that takes nothing is given, if it is from us.
fn read_segments(tap: &Tap, count: usize) -> Vec<Vec<u8>> {
    let (mut segments, start) = (Vec::new(), Instant::now());
    let mut buffer = vec![0; 70_000];
    while segments.len() < count && start.elapsed() < Duration::from_secs(2) {
        match tap.read(&mut buffer) {
            Ok(len) if len > 26 && buffer[18..24] == SRC_MAC => {
                assert_eq!(buffer[..2], [0, 0], "nothing pending");
                segments.push(buffer[12..len].to_vec());
            }
            Ok(_) => {}
            Err(_) => std::thread::sleep(Duration::from_micros(200)),
        }
    }
    segments
}

fn kernel_segments_as_we_do() -> Outcome {
    let ns = NetNs::new()?;
    let tap = Tap::create(&ns, &TapSpec::new("t0", TapOffloads::NONE))?;
    ns.links()?.up("t0")?;
    let socket = PacketSocket::open(&ns, "t0", true)?;
    let mut different = Vec::new();
    for case in cases() {
        let mut whole = case.header(VnetForm::Plain);
        whole.extend(case.bytes());
        if let Err(e) = socket.send(&whole) {
            different.push(format!("{}: the kernel refuses it: {e}", case.name));
            continue;
        }
        let ours = case.ours();
        let kernel = read_segments(&tap, ours.len());
        if kernel != ours {
            let at = kernel.iter().zip(&ours).position(|(a, b)| a != b);
            different.push(format!(
                "{}: {} and {} segments, first different {at:?}\n kernel {:02x?}\n ours   {:02x?}",
                case.name,
                kernel.len(),
                ours.len(),
                at.map(|at| &kernel[at][..kernel[at].len().min(90)]),
                at.map(|at| &ours[at][..ours[at].len().min(90)]),
            ));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
    Ok(())
}

// --- errors ---

fn opened(ns: &NetNs, device: &str, queues: usize, mtu: Option<usize>) -> Tested<Option<TapError>> {
    let config = TapConfig {
        device: device.into(),
        queues,
        hands: Caps::ALL,
        takes: Caps::ALL,
        mtu,
    };
    Ok(ns.run(|| tap::open(&config))?.err())
}

fn errors_say_what_is_wrong() -> Outcome {
    let (ns, other) = (NetNs::new()?, NetNs::new()?);
    let links = ns.links()?;
    links.add_veth("v0", "v1", &other)?;
    let held = Tap::create(&ns, &TapSpec::new("t0", TapOffloads::NONE))?;
    let before = links.list()?.len();
    for queues in [1, 2] {
        let error = opened(&ns, "t0", queues, None)?;
        assert!(matches!(error, Some(TapError::Busy { .. })), "{error:?}");
        for name in ["v0", "lo"] {
            let error = opened(&ns, name, queues, None)?;
            assert!(
                matches!(error, Some(TapError::OtherKind { .. })),
                "{error:?}"
            );
        }
        for name in [
            "",
            "a/b",
            "a b",
            "tap%d",
            ".",
            "..",
            "a:b",
            "sixteen_letters_",
            "a\0b",
        ] {
            let error = opened(&ns, name, queues, None)?;
            assert!(
                matches!(error, Some(TapError::BadName { .. })),
                "{name}: {error:?}"
            );
        }
        for mtu in [0, 67, 65522, 1 << 40] {
            let error = opened(&ns, "t1", queues, Some(mtu))?;
            assert!(
                matches!(error, Some(TapError::Mtu { .. })),
                "{mtu}: {error:?}"
            );
        }
    }
    for (hide, expected) in [(false, "not_permitted"), (true, "no_file")] {
        let error = if hide {
            without_device_file(&ns)?
        } else {
            without_rights(&ns)?
        };
        let right = match expected {
            "no_file" => matches!(error, Some(TapError::NoDeviceFile)),
            _ => matches!(error, Some(TapError::NotPermitted { .. })),
        };
        assert!(right, "{expected}: {error:?}");
    }
    assert_eq!(links.list()?.len(), before, "nothing is left behind");
    drop(held);
    Ok(())
}

/// Capabilities are a thread's own.
fn without_rights(ns: &NetNs) -> Tested<Option<TapError>> {
    use rustix::thread::CapabilitySet;
    let mut config = config(Setup::USUAL, Side::ALL);
    config.device = "t9".into();
    let attempt = || {
        let mut sets = rustix::thread::capabilities(None)?;
        sets.effective.remove(CapabilitySet::NET_ADMIN);
        sets.permitted.remove(CapabilitySet::NET_ADMIN);
        rustix::thread::set_capabilities(None, sets)?;
        Ok::<_, rustix::io::Errno>(tap::open(&config).err())
    };
    Ok(ns.run(attempt)??)
}

fn without_device_file(ns: &NetNs) -> Tested<Option<TapError>> {
    let mut config = config(Setup::USUAL, Side::ALL);
    config.device = "t9".into();
    let attempt = || {
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("none", "/dev/net", "tmpfs", flags, None)?;
        Ok::<_, rustix::io::Errno>(tap::open(&config).err())
    };
    let refused = |e: jumbo_lab::Error| skip(format!("{e} (run as root)"));
    Ok(ns.run_with_sysfs(attempt).map_err(refused)??)
}

fn nothing_is_left_behind() -> Outcome {
    let here = NetNs::here()?.links()?;
    let count = |dir| std::fs::read_dir(dir).map_or(0, Iterator::count);
    let now = || -> Tested<_> {
        let links = here.list()?.len();
        Ok((count("/proc/self/fd"), count("/proc/self/task"), links))
    };
    // A thread of the test before this one may still be on its way out.
    let mut before = now()?;
    for _ in 0..50 {
        std::thread::sleep(Duration::from_millis(100));
        let again = now()?;
        if again == before {
            break;
        }
        before = again;
    }
    let setup = Setup {
        workers: 2,
        ..Setup::USUAL
    };
    let net = Net::new(setup, &[Side::ALL; 2])?;
    both_families(&net, 2, 100_000)?;
    drop(net);
    let start = Instant::now();
    while now()? != before && start.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(now()?, before, "(open files, threads, links)");
    Ok(())
}
