//! The whole switch over ports in memory: where packets go, what becomes of
//! their pending work, and whether each one is accounted for. Every test of the
//! switch runs with one worker and with two.

mod support;

use std::os::fd::BorrowedFd;
use std::time::Duration;

use jumbo_engine::arena::{HEAD_WANTED, Pieces};
use jumbo_engine::coalesce::{CwrRule, End};
use jumbo_engine::complete::Fault;
use jumbo_engine::packet::{Frag, Link as EngineLink, Packet};
use jumbo_engine::pending::Caps;
use jumbo_engine::reason::Reason;
use jumbo_engine::vnet::{HeaderFault, VnetHeader};
use jumbo_ports::mem::{self, MemHandle, MemPacket};
use jumbo_ports::pool::{Pool, Region, Regions};
use jumbo_ports::queue::{
    Bounds, Burst, Control, Port, PortInfo, Presence, Queue, RxEnd, RxStats, TxFault, Workers,
};
use jumbo_switch::fdb::Station;
use jumbo_switch::forward::Stay;
use jumbo_switch::path::Plane;
use jumbo_switch::switch::{State, Switch, SwitchConfig};
use jumbo_switch::topology::{Coalesce, Coalescing, Policy, PortId, Slot};
use jumbo_testkit::oracle::{self, GsoKind, VnetForm, vnet_gso};
use jumbo_testkit::script::{IpId, TcpStream, UdpStream, interleave};
use jumbo_testkit::{Link, PacketBuilder, tcp_flags};
use proptest::prelude::*;
use support::{assert_books, quiet, settled};

const CSUM: Caps = Caps::new(true, false, false, false, false);
const BROADCAST: [u8; 6] = [0xff; 6];
const PLAIN: VnetHeader = VnetHeader {
    flags: 0,
    gso_type: 0,
    hdr_len: 0,
    gso_size: 0,
    csum_start: 0,
    csum_offset: 0,
    num_buffers: 0,
    hash_value: 0,
    hash_report: 0,
    outer_th_offset: 0,
    inner_nh_offset: 0,
};

/// Marks the one test that shows a reason; `every_reason_has_one_canonical_test` counts them.
macro_rules! canonical {
    ($stage:ident :: $reason:ident => fn $name:ident() $body:block) => {
        #[test]
        fn $name() {
            const _: $stage = $stage::$reason;
            $body
        }
    };
}

#[test]
fn every_reason_has_one_canonical_test() {
    fn check<R: Reason>(stage: &str) {
        let source = include_str!("plane.rs");
        for reason in R::ALL {
            let mark = format!("canonical!({stage}::{reason:?} =>");
            assert_eq!(source.matches(&mark).count(), 1, "{mark}");
        }
    }
    check::<Stay>("Stay");
    check::<TxFault>("TxFault");
}

// --- the whole switch ---

/// The MAC address of station `n`.
fn mac(n: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, n]
}

fn both(test: impl Fn(usize)) {
    for workers in [1, 2] {
        test(workers);
    }
}

/// A switch with ports in memory.
struct Rig {
    switch: Switch,
    handles: Vec<MemHandle>,
    put: u64,
}

impl Rig {
    fn new(workers: usize) -> Self {
        Self::of(&SwitchConfig {
            workers,
            ..SwitchConfig::default()
        })
    }

    fn of(config: &SwitchConfig) -> Self {
        Self {
            switch: Switch::start(config).expect("a switch starts"),
            handles: Vec::new(),
            put: 0,
        }
    }

    fn port(&mut self, takes: Caps, mtu: usize) -> usize {
        self.port_of(takes, mtu, Coalesce::Gro)
    }

    fn port_of(&mut self, takes: Caps, mtu: usize, coalesce: Coalesce) -> usize {
        let index = self.handles.len();
        let name = format!("m{index}");
        let (port, handle) =
            mem::port(&name, self.switch.queues(), Caps::ALL, takes, mtu).expect("an eventfd");
        self.switch.add(port, coalesce).expect("room for it");
        self.handles.push(handle);
        index
    }

    fn ports(mut self, takes: &[Caps]) -> Self {
        for takes in takes {
            self.port(*takes, 1500);
        }
        self
    }

    fn put(&mut self, port: usize, packet: &PacketBuilder) {
        self.handles[port].put(&PLAIN, &packet.build());
        self.put += 1;
    }

    fn put_gso(&mut self, port: usize, packet: &PacketBuilder, kind: u8, size: u16) {
        self.handles[port].put_raw(with_header(packet, kind, size));
        self.put += 1;
    }

    #[track_caller]
    fn settle(&self) -> State {
        settled(&self.switch, self.put)
    }

    /// Every station `n` of `0..ports` is known behind port `n`.
    fn acquaint(&mut self) {
        for n in 0..self.handles.len() {
            self.put(n, &hello(n as u8));
        }
        self.settle();
        self.taken();
    }

    fn taken(&self) -> Vec<Vec<MemPacket>> {
        self.handles.iter().map(MemHandle::taken).collect()
    }

    /// How many packets each port sent.
    fn counts(&self) -> Vec<usize> {
        self.taken().iter().map(Vec::len).collect()
    }
}

/// A broadcast from station `n`.
fn hello(n: u8) -> PacketBuilder {
    PacketBuilder::ethernet()
        .macs(BROADCAST, mac(n))
        .ethertype(0x88b5)
        .payload_len(46)
}

fn from_to(from: u8, to: u8) -> PacketBuilder {
    PacketBuilder::ethernet().macs(mac(to), mac(from))
}

/// The packet behind the virtio header of a super-packet.
fn with_header(packet: &PacketBuilder, kind: u8, size: u16) -> Vec<u8> {
    let bytes = packet.clone().partial_checksum().build();
    let header = oracle::VnetHeader::needs_csum(Link::Ethernet, &bytes, kind, size);
    let mut whole = header.expect("TCP or UDP").encode(VnetForm::Merged);
    whole.extend(bytes);
    whole
}

fn tcp_segments(packet: &PacketBuilder, size: usize) -> Vec<Vec<u8>> {
    let kind = GsoKind::Tcp {
        fixed_id: false,
        accecn: false,
    };
    let bytes = packet.clone().partial_checksum().build();
    oracle::segment(Link::Ethernet, &bytes, oracle::Gso { kind, size }).expect("a super-packet")
}

/// The bytes with their pending checksum finished, as a receiver would.
fn finished(packet: &MemPacket) -> Vec<u8> {
    let mut bytes = packet.bytes.clone();
    if packet.vnet.flags & 1 != 0 {
        let udp = oracle::parse(Link::Ethernet, &bytes).is_ok_and(|p| p.udp().is_some());
        let (start, offset) = (
            packet.vnet.csum_start.into(),
            packet.vnet.csum_offset.into(),
        );
        oracle::complete_checksum(&mut bytes, start, offset, udp);
    }
    bytes
}

#[test]
fn stations_are_learned_and_move() {
    both(|workers| {
        let mut rig = Rig::new(workers).ports(&[Caps::ALL; 3]);
        rig.put(0, &from_to(0, 1));
        rig.settle();
        assert_eq!(rig.counts(), [0, 1, 1], "unknown: to all others");
        rig.put(1, &from_to(1, 0));
        rig.settle();
        assert_eq!(rig.counts(), [1, 0, 0], "known");
        rig.put(2, &from_to(0, 9));
        rig.settle();
        rig.taken();
        rig.put(1, &from_to(1, 0));
        let state = rig.settle();
        assert_eq!(rig.counts(), [0, 0, 1], "moved");
        assert_eq!(state.fdb_entries, 2);
        assert_eq!(state.ports[0].counters.flooded, 1);
    });
}

#[test]
fn stations_age() {
    both(|workers| {
        let mut rig = Rig::of(&SwitchConfig {
            workers,
            fdb_age_s: 0,
            ..SwitchConfig::default()
        })
        .ports(&[Caps::ALL; 3]);
        rig.acquaint();
        // Forgotten in the second after the one it was seen in.
        std::thread::sleep(Duration::from_millis(2100));
        rig.put(0, &from_to(0, 1));
        rig.settle();
        assert_eq!(rig.counts(), [0, 1, 1]);
    });
}

#[test]
fn same_address_in_two_vlans_is_two_stations() {
    both(|workers| {
        let mut rig = Rig::new(workers).ports(&[Caps::ALL; 3]);
        rig.acquaint();
        rig.put(0, &from_to(0, 1).vlan(0x8100, 7));
        rig.settle();
        assert_eq!(rig.counts(), [0, 1, 1]);
    });
}

#[test]
fn flood_gives_each_port_what_it_takes() {
    both(|workers| {
        let mut rig = Rig::new(workers).ports(&[Caps::ALL, Caps::ALL, CSUM, Caps::NONE]);
        let small = rig.port(Caps::NONE, 1000);
        let small_all = rig.port(Caps::ALL, 1000);
        let twin = rig.port(Caps::NONE, 1500);
        let packet = TcpStream::new(PacketBuilder::ethernet().macs(BROADCAST, mac(0)))
            .segments(14)
            .last_len(77)
            .ids(IpId::Increment(0xfffa))
            .push_last()
            .timestamps(1, 2)
            .super_packet();
        rig.put_gso(0, &packet, vnet_gso::TCPV4, 1448);
        let state = rig.settle();
        let taken = rig.taken();
        let segments = tcp_segments(&packet, 1448);
        assert_eq!(segments.len(), 14);

        assert_eq!(taken[0], [], "never back");
        let [whole] = &taken[1][..] else {
            panic!("{} packets where one was due", taken[1].len())
        };
        assert_eq!(whole.bytes, packet.clone().partial_checksum().build());
        let head = with_header(&packet, vnet_gso::TCPV4, 1448);
        let mut expected = VnetHeader::decode(jumbo_engine::vnet::Form::Modern12, &head).unwrap();
        expected.num_buffers = 1;
        assert_eq!(whole.vnet, expected);

        assert!(
            taken[2]
                .iter()
                .all(|p| p.vnet.flags == 1 && p.vnet.gso_type == 0)
        );
        let partial: Vec<_> = taken[2].iter().map(finished).collect();
        assert_eq!(partial, segments);
        for port in [3, twin] {
            assert!(taken[port].iter().all(|p| p.vnet
                == VnetHeader {
                    num_buffers: 1,
                    ..PLAIN
                }));
            let bytes: Vec<_> = taken[port].iter().map(|p| p.bytes.clone()).collect();
            assert_eq!(bytes, segments, "port {port}");
            assert_eq!(state.ports[port].counters.software_segmented, 1);
        }
        for port in [small, small_all] {
            assert_eq!(taken[port], []);
            assert_eq!(
                state.ports[port]
                    .counters
                    .complete
                    .get(Fault::SegmentOverMtu),
                1
            );
        }
        assert_eq!(state.books.flood_copies, 5);
        assert_eq!(state.books.made_by_segmentation, 3 * 13);
        assert_eq!(state.books.dropped, 2);
    });
}

#[test]
fn udp_super_packet_is_cut_for_a_port_without_uso() {
    both(|workers| {
        let no_uso = Caps::new(true, true, true, true, false);
        let mut rig = Rig::new(workers).ports(&[Caps::ALL, no_uso, Caps::NONE, Caps::ALL]);
        for base in [
            PacketBuilder::ethernet(),
            PacketBuilder::ethernet().ipv6([1; 16], [2; 16]),
        ] {
            let packet = UdpStream::new(base.macs(BROADCAST, mac(0)).udp(1, 2))
                .datagrams(10, 1000, 3)
                .super_packet();
            rig.put_gso(0, &packet, vnet_gso::UDP_L4, 1000);
            rig.settle();
            let bytes = packet.clone().partial_checksum().build();
            let gso = oracle::Gso {
                kind: GsoKind::UdpL4,
                size: 1000,
            };
            let segments = oracle::segment(Link::Ethernet, &bytes, gso).unwrap();
            let taken = rig.taken();
            for port in [1, 2] {
                let got: Vec<_> = taken[port].iter().map(finished).collect();
                assert_eq!(got, segments, "port {port}");
            }
            assert_eq!(taken[3].len(), 1);
            assert_eq!(taken[3][0].bytes, bytes);
        }
    });
}

#[test]
fn partial_checksum_is_finished_for_a_port_that_takes_none() {
    both(|workers| {
        let mut rig = Rig::new(workers).ports(&[Caps::ALL, Caps::NONE, CSUM]);
        rig.acquaint();
        for to in [1, 2] {
            let packet = from_to(0, to).payload_len(333);
            rig.put_gso(0, &packet, vnet_gso::NONE, 0);
            let state = rig.settle();
            let taken = rig.taken();
            let [got] = &taken[usize::from(to)][..] else {
                panic!("{taken:?}")
            };
            assert_eq!(finished(got), packet.build());
            assert_eq!(got.vnet.flags, to - 1);
            let counters = &state.ports[usize::from(to)].counters;
            assert_eq!(counters.software_checksums, u64::from(to == 1));
        }
    });
}

/// The same stream, whose acknowledgement moves, towards a port of each kind.
#[test]
fn each_port_coalesces_by_its_own_rules() {
    both(|workers| {
        let mut rig = Rig::new(workers).ports(&[Caps::ALL]);
        for coalesce in [Coalesce::Gro, Coalesce::Lro, Coalesce::Rsc, Coalesce::Off] {
            rig.port_of(Caps::ALL, 1500, coalesce);
        }
        rig.acquaint();
        let mut packets = Vec::new();
        for to in [1, 2, 3, 4] {
            for index in 0..4u32 {
                let packet = from_to(0, to).seq(1 + 100 * index).ack(9 * index);
                packets.push(packet.id(index as u16).payload_len(100).build());
            }
        }
        // In one burst: what comes one by one may leave one by one.
        rig.handles[0].put_all(&PLAIN, packets.iter().map(Vec::as_slice));
        rig.put += packets.len() as u64;
        let state = rig.settle();
        let counts: Vec<_> = rig.taken().iter().skip(1).map(Vec::len).collect();
        assert_eq!(counts, [4, 1, 1, 4]);
        let rsc = |to: usize| state.ports[to].counters.rsc;
        for to in [2, 3] {
            assert_eq!(rsc(to).coalesced_packets, 4);
            assert_eq!(
                (rsc(to).coalesced_octets, rsc(to).coalesce_events),
                (400, 1)
            );
        }
        assert_eq!(rsc(1).coalesced_packets, 0);
        assert!(state.books.balanced());
    });
}

/// CWR on some segments of a stream, under each policy: how many packets leave towards a port that
/// takes all there is, and that a port without ECN gets what came.
#[test]
fn cwr_is_merged_by_the_port_s_policy_and_cut_in_step() {
    let on_none = Caps::new(true, true, true, false, false);
    let stream = |to: u8, with_cwr: [bool; 4]| {
        let packet = |(index, cwr): (u32, bool)| {
            let flags = tcp_flags::ACK | if cwr { tcp_flags::CWR } else { 0 };
            let packet = from_to(0, to).seq(1 + 100 * index).flags(flags);
            packet.id(index as u16).payload_len(100).build()
        };
        (0..).zip(with_cwr).map(packet).collect::<Vec<_>>()
    };
    let first = [true, false, false, false];
    let all = [true; 4];
    for (cwr, of_first, of_all) in [
        (CwrRule::Equal, 2, 1),
        (CwrRule::FirstOnly, 1, 4),
        (CwrRule::Never, 2, 4),
    ] {
        for (with_cwr, expected) in [(first, of_first), (all, of_all)] {
            let mut rig = PlaneRig::new(&[Caps::ALL, Caps::ALL, on_none]);
            for port in [1, 2] {
                let id = PortId(port);
                rig.plane.hear(Station::untagged(mac(port as u8)), id, 0);
                let slot = rig.plane.topology.get_mut(id).expect("it is there");
                slot.policy.coalesce.cwr = cwr;
                for packet in stream(port as u8, with_cwr) {
                    rig.handles[0].put(&PLAIN, &packet);
                }
            }
            rig.run(0);
            let taken = rig.handles[1].taken();
            // The virtio header cannot say that all have it: then it is cut here.
            let cut = cwr == CwrRule::Equal && with_cwr == all;
            assert_eq!(
                taken.len(),
                if cut { 4 } else { expected },
                "{cwr:?} {with_cwr:?}"
            );
            assert_eq!(
                rig.plane
                    .topology
                    .get(PortId(1))
                    .unwrap()
                    .counters
                    .software_segmented,
                cut.into()
            );
            let bytes: Vec<_> = rig.handles[2].taken().iter().map(finished).collect();
            let sent = stream(2, with_cwr);
            let cut = |bytes: &Vec<u8>| bytes.len() > sent[0].len();
            // Whole aggregates without CWR may leave; with it, none does.
            let plain = bytes.iter().filter(|bytes| cut(bytes));
            assert!(plain.into_iter().all(|bytes| bytes[47] & 0x80 == 0));
            let payload = oracle::stream_bytes(Link::Ethernet, &bytes).unwrap();
            assert_eq!(
                payload,
                oracle::stream_bytes(Link::Ethernet, &sent).unwrap()
            );
            let marked = |packets: &[Vec<u8>]| packets.iter().filter(|p| p[47] & 0x80 != 0).count();
            assert_eq!(marked(&bytes), marked(&sent), "{cwr:?} {with_cwr:?}");
        }
    }
}

#[test]
fn lro_makes_no_longer_packets_than_it_is_told() {
    for (l3_total_max, packets) in [(65_535, 1), (1040, 2), (1039, 3), (140, 20), (139, 20)] {
        let mut rig = PlaneRig::new(&[Caps::ALL; 2]);
        rig.plane.hear(Station::untagged(mac(1)), PortId(1), 0);
        let slot = rig.plane.topology.get_mut(PortId(1)).expect("it is there");
        slot.policy.coalesce = Coalescing {
            l3_total_max,
            ..Coalesce::Lro.into()
        };
        for packet in TcpStream::new(from_to(0, 1))
            .mss(100)
            .segments(20)
            .packets()
        {
            rig.handles[0].put(&PLAIN, &packet);
        }
        rig.run(0);
        let taken = rig.handles[1].taken();
        let longest = taken
            .iter()
            .map(|packet| packet.bytes.len() - 14)
            .max()
            .unwrap();
        assert!(longest <= l3_total_max.max(140) as usize);
        assert_eq!(taken.len(), packets, "{l3_total_max}");
    }
}

#[test]
fn stream_is_coalesced_only_for_a_port_that_takes_it() {
    let stream = |to| {
        TcpStream::new(from_to(0, to))
            .segments(8)
            .push_last()
            .packets()
    };
    both(|workers| {
        let tso6 = Caps::new(true, false, true, false, false);
        let mut rig = Rig::new(workers).ports(&[Caps::ALL, Caps::ALL, Caps::NONE, tso6]);
        rig.acquaint();
        for to in [1, 2, 3] {
            for packet in stream(to) {
                rig.handles[0].put(&PLAIN, &packet);
                rig.put += 1;
            }
        }
        let state = rig.settle();
        let taken = rig.taken();
        for to in [2, 3] {
            let bytes: Vec<_> = taken[to].iter().map(|p| p.bytes.clone()).collect();
            assert_eq!(bytes, stream(to as u8));
            let counters = &state.ports[to].counters;
            assert_eq!(
                counters.software_segmented, 0,
                "merged in vain for port {to}"
            );
        }
        let whole: Vec<_> = taken[1].iter().map(finished).collect();
        assert_eq!(
            oracle::stream_bytes(Link::Ethernet, &whole).unwrap(),
            oracle::stream_bytes(Link::Ethernet, &stream(1)).unwrap()
        );
    });
}

#[test]
fn refused_super_packets_are_segmented_and_then_not_offered() {
    both(|workers| {
        let mut rig = Rig::new(workers).ports(&[Caps::ALL; 2]);
        rig.acquaint();
        rig.handles[1].refuse_gso(true);
        let packet = TcpStream::new(from_to(0, 1)).segments(5).super_packet();
        let segments = tcp_segments(&packet, 1448);
        for sent in 1..=10 {
            rig.put_gso(0, &packet, vnet_gso::TCPV4, 1448);
            let state = rig.settle();
            let bytes: Vec<_> = rig.taken()[1].iter().map(|p| p.bytes.clone()).collect();
            // The port takes checksums, but whoever refused is given finished ones or partial ones.
            assert_eq!(bytes.len(), 5);
            let port = &state.ports[1];
            assert_eq!(
                port.counters.tx_faults.get(TxFault::GsoRefused),
                sent.min(8)
            );
            assert_eq!(port.counters.software_segmented, sent);
            assert_eq!(port.takes.tso4(), sent < 8);
            assert!(port.takes.tso6() && port.takes.uso() && port.takes.csum());
        }
        rig.handles[1].refuse_gso(false);
        rig.put_gso(0, &packet, vnet_gso::TCPV4, 1448);
        rig.settle();
        let got: Vec<_> = rig.taken()[1].iter().map(finished).collect();
        assert_eq!(got, segments, "no way back without being asked");
    });
}

#[test]
fn refusals_count_only_in_a_row() {
    both(|workers| {
        let mut rig = Rig::new(workers).ports(&[Caps::ALL; 2]);
        rig.acquaint();
        let packet = TcpStream::new(from_to(0, 1)).segments(5).super_packet();
        for _ in 0..3 {
            for (refuse, times) in [(true, 7), (false, 1)] {
                rig.handles[1].refuse_gso(refuse);
                for _ in 0..times {
                    rig.put_gso(0, &packet, vnet_gso::TCPV4, 1448);
                }
                rig.settle();
            }
        }
        let state = rig.settle();
        assert!(state.ports[1].takes.tso4());
        assert_eq!(
            state.ports[1].counters.tx_faults.get(TxFault::GsoRefused),
            21
        );
    });
}

#[test]
fn port_that_vanishes_in_mid_burst_costs_only_its_packets() {
    both(|workers| {
        let mut rig = Rig::new(workers).ports(&[Caps::ALL; 3]);
        rig.acquaint();
        let packets = interleave(vec![
            TcpStream::new(from_to(0, 1)).segments(500).packets(),
            TcpStream::new(from_to(0, 2)).segments(500).packets(),
        ]);
        let mut sent = 0;
        for (index, packet) in packets.iter().enumerate() {
            if index == 400 {
                rig.handles[1].vanish();
            }
            rig.handles[0].put(&PLAIN, packet);
            rig.put += 1;
            sent += u64::from(packet[..6] == mac(2));
        }
        rig.settle();
        assert_eq!(sent, 500);
        // A worker busy with one port looks at the others after a while.
        let up = || {
            let state = rig.settle();
            state.ports.iter().map(|p| p.up).collect::<Vec<_>>()
        };
        let noticed = (0..1000).any(|_| {
            std::thread::sleep(Duration::from_millis(1));
            up() == [true, false, true]
        });
        assert!(noticed, "{:?}", up());
        let got: Vec<_> = rig.taken()[2].iter().map(finished).collect();
        let stream = oracle::stream_bytes(Link::Ethernet, &got).unwrap();
        assert!(
            stream.len() >= 500 * 1448,
            "the other port's stream is whole"
        );
        // What is sent to the lost station now is flooded: no black hole.
        rig.put(0, &from_to(0, 1));
        rig.settle();
        assert_eq!(rig.counts()[2], 1);
    });
}

#[test]
fn port_that_is_removed_is_forgotten_and_accounted() {
    both(|workers| {
        let mut rig = Rig::new(workers).ports(&[Caps::ALL; 3]);
        rig.acquaint();
        rig.switch.remove(PortId(1)).unwrap();
        rig.put(0, &from_to(0, 1));
        let state = rig.settle();
        assert_eq!(rig.counts(), [0, 0, 1]);
        let ids: Vec<_> = state.ports.iter().map(|port| port.id.0).collect();
        assert_eq!(ids, [0, 2]);
        assert_eq!(state.removed.ports, 1);
        assert_eq!(
            state.removed.counters.rx.traffic.packets, 1,
            "counters are kept"
        );
        assert!(rig.switch.remove(PortId(1)).is_err(), "only once");
    });
}

#[test]
fn ports_come_and_go_more_often_than_there_are_ids() {
    both(|workers| {
        let mut rig = Rig::new(workers).ports(&[Caps::ALL; 2]);
        rig.acquaint();
        let mut ids = std::collections::BTreeSet::new();
        for round in 0..jumbo_switch::topology::PORTS_MAX + 100 {
            let queues = rig.switch.queues();
            let (port, handle) = mem::port("guest", queues, Caps::ALL, Caps::ALL, 1500).unwrap();
            let id = rig.switch.add(port, Coalesce::Gro).unwrap();
            ids.insert(id.0);
            if round % 64 == 0 {
                // It is known, used, and forgotten with its port.
                handle.put(&PLAIN, &hello(77).build());
                rig.put += 1;
                rig.settle();
                rig.put(0, &from_to(0, 77));
                rig.settle();
                assert_eq!(handle.taken().len(), 1);
                rig.taken();
            }
            rig.switch.remove(id).unwrap();
            if round % 64 == 0 {
                let known = rig.switch.stations().unwrap();
                assert!(known.iter().all(|seen| seen.station.mac != mac(77)));
                rig.put(0, &from_to(0, 77));
                rig.settle();
                assert_eq!(rig.counts(), [0, 1], "nobody has it: to all others");
            }
        }
        assert!(ids.len() < 40, "ids are used again: {ids:?}");
        assert_eq!(rig.switch.state().unwrap().ports.len(), 2);
    });
}

/// A control side that cannot start.
#[derive(Debug)]
struct CannotStart;

impl Control for CannotStart {
    fn start(self: Box<Self>, _: Box<dyn Workers>) -> Result<Box<dyn Send>, String> {
        Err("no thread".to_owned())
    }
}

#[test]
fn port_whose_control_side_cannot_start_is_not_there() {
    both(|workers| {
        let mut rig = Rig::new(workers).ports(&[Caps::ALL; 2]);
        let queues = rig.switch.queues();
        let (mut port, handle) = mem::port("m", queues, Caps::ALL, Caps::ALL, 1500).unwrap();
        port.control = Some(Box::new(CannotStart));
        let error = rig.switch.add(port, Coalesce::Gro).expect_err("refused");
        assert_eq!(error.to_string(), "no thread");
        rig.put(0, &hello(0));
        let state = rig.settle();
        assert_eq!((state.ports.len(), state.removed.ports), (2, 0));
        assert_eq!(rig.counts(), [0, 1]);
        assert!(handle.taken().is_empty(), "no worker has it");
    });
}

#[test]
fn port_is_taken_out_in_the_middle_of_its_traffic() {
    both(|workers| {
        let mut rig = Rig::new(workers).ports(&[Caps::ALL; 3]);
        rig.acquaint();
        let stream = TcpStream::new(from_to(0, 1)).segments(60);
        for round in 0..40 {
            for packet in stream.packets() {
                rig.handles[0].put(&PLAIN, &packet);
                rig.put += 1;
            }
            if round == 20 {
                rig.switch.remove(PortId(1)).unwrap();
            }
        }
        // Towards the port while it was there, to all others afterwards; nothing is lost.
        let state = rig.settle();
        assert_eq!(
            state.books.dropped,
            state.removed.counters.dropped() + state.ports[0].counters.dropped()
        );
        assert!(rig.counts()[2] > 0);
    });
}

#[test]
fn stations_are_told_with_their_port_and_vlan() {
    both(|workers| {
        let mut rig = Rig::new(workers).ports(&[Caps::ALL; 2]);
        rig.acquaint();
        rig.put(1, &from_to(1, 0).vlan(0x8100, 7));
        rig.settle();
        let mut known = rig.switch.stations().unwrap();
        known.sort_by_key(|seen| (seen.station.vid, seen.station.mac));
        assert!(known.iter().all(|seen| seen.age_s <= 10), "{known:?}");
        let known: Vec<_> = known
            .iter()
            .map(|seen| (seen.station.vid, seen.station.mac, seen.port.0))
            .collect();
        assert_eq!(known, [(0, mac(0), 0), (0, mac(1), 1), (7, mac(1), 1)]);
    });
}

#[test]
fn oversize_is_dropped_with_its_reason() {
    both(|workers| {
        let mut rig = Rig::new(workers).ports(&[Caps::ALL; 2]);
        rig.acquaint();
        for payload_len in [1460, 1461] {
            rig.put(0, &from_to(0, 1).payload_len(payload_len));
        }
        let big = |mss| {
            TcpStream::new(from_to(0, 1))
                .segments(3)
                .mss(mss)
                .super_packet()
        };
        for size in [1460, 1461] {
            rig.put_gso(0, &big(usize::from(size)), vnet_gso::TCPV4, size);
        }
        let state = rig.settle();
        let faults = &state.ports[1].counters.complete;
        assert_eq!(faults.get(Fault::OverMtu), 1);
        assert_eq!(faults.get(Fault::SegmentOverMtu), 1);
        assert_eq!((state.books.dropped, rig.counts()[1]), (2, 2));
    });
}

#[test]
fn flood_of_invented_addresses_does_not_lock_the_control_side_out() {
    both(|workers| {
        let mut rig = Rig::new(workers).ports(&[Caps::ALL; 2]);
        let mut arrived = 0;
        for n in 0..6000u32 {
            let [_, b, c, d] = n.to_be_bytes();
            rig.put(0, &hello(0).macs(BROADCAST, [6, 0, 0, b, c, d]));
            // Nobody asks the workers in between, which would wake the idle one.
            while n % 50 == 49 && arrived < n as usize {
                std::thread::sleep(Duration::from_micros(100));
                arrived += rig.handles[1].taken().len();
            }
        }
        rig.settle();
    });
}

#[test]
fn news_of_a_port_that_is_gone_makes_no_black_hole() {
    let mut plane = PlaneRig::new(&[Caps::ALL; 3]);
    plane.plane.hear(
        Station {
            vid: 0,
            mac: mac(7),
        },
        PortId(1),
        0,
    );
    plane.plane.remove(PortId(1));
    plane.plane.hear(
        Station {
            vid: 0,
            mac: mac(7),
        },
        PortId(1),
        0,
    );
    plane.put(0, &from_to(0, 7));
    plane.run(0);
    assert_eq!(plane.handles[2].taken().len(), 1);
}

#[test]
fn nothing_is_held_when_a_worker_sleeps() {
    // Small batches: the rounds of a wake-up end before the burst does.
    let bounds = Bounds {
        batch_packets: 1,
        ..Bounds::default()
    };
    both(|workers| {
        let config = SwitchConfig {
            workers,
            bounds,
            ..SwitchConfig::default()
        };
        let mut rig = Rig::of(&config);
        let (port, wire) = LazyEnd::port(rig.switch.queues());
        rig.switch.add(port, Coalesce::Gro).unwrap();
        let out = rig.handles.len();
        rig.port(Caps::ALL, 1500);
        rig.put(out, &hello(1));
        settled(&rig.switch, 1);
        for packet in TcpStream::new(from_to(0, 1)).segments(64).packets() {
            wire.put(packet);
        }
        wire.wake();
        settled(&rig.switch, 65);
        quiet(&rig.switch);
        let got: Vec<_> = rig.taken()[0].iter().map(finished).collect();
        let stream = oracle::stream_bytes(Link::Ethernet, &got).unwrap();
        assert_eq!(stream.len(), 64 * 1448);
    });
}

#[test]
fn garbage_only_wastes_the_sender_s_time() {
    both(|workers| {
        let mut rig = Rig::new(workers).ports(&[Caps::ALL, Caps::NONE]);
        let sizes = [0, 1, 11, 12, 13, 25, 26, 40, 65535 + 14 + 8 + 20, 100_000];
        for size in sizes {
            rig.handles[0].put_raw(vec![0xa5; size]);
            rig.put += 1;
        }
        let state = rig.settle();
        assert!(
            state.ports[0]
                .counters
                .rx
                .faults
                .get(HeaderFault::ShortVnetHeader)
                >= 3
        );
    });
}

#[test]
fn too_many_ports_are_refused() {
    let mut switch = Switch::start(&SwitchConfig::default()).unwrap();
    let port = || mem::port("m", 1, Caps::ALL, Caps::ALL, 1500).unwrap();
    let (first, handle) = port();
    switch.add(first, Coalesce::Gro).unwrap();
    for _ in 1..jumbo_switch::topology::PORTS_MAX {
        switch
            .add(fd_less(Says::port(Ok(()))), Coalesce::Gro)
            .unwrap();
    }
    assert!(switch.add(port().0, Coalesce::Gro).is_err());
    handle.put(&PLAIN, &hello(0).build());
    let state = settled(&switch, 1);
    assert_eq!(state.books.sent, 1023);
}

fn fd_less(queue: Says) -> Port {
    Port {
        info: PortInfo {
            kind: "says",
            device: "says".into(),
            hands: Caps::NONE,
            takes: Caps::ALL,
            mtu: 1500,
            capabilities: Vec::new(),
            presence: Presence::Up,
        },
        queues: vec![Box::new(queue)],
        control: None,
    }
}

/// A device that says [`RxEnd::More`] even when nothing follows, and wakes
/// nobody for what it has already given: what a TAP does whose queue held
/// exactly one batch.
#[derive(Debug)]
struct LazyEnd {
    inbox: std::sync::Arc<std::sync::Mutex<std::collections::VecDeque<Vec<u8>>>>,
    wake: std::sync::Arc<std::os::fd::OwnedFd>,
}

impl LazyEnd {
    fn port(queues: usize) -> (Port, Self) {
        use rustix::event::{EventfdFlags, eventfd};
        let flags = EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC;
        let end = Self {
            inbox: Default::default(),
            wake: std::sync::Arc::new(eventfd(0, flags).unwrap()),
        };
        let mut port = fd_less(Says::port(Ok(())));
        port.queues = vec![Box::new(Self {
            inbox: end.inbox.clone(),
            wake: end.wake.clone(),
        })];
        for _ in 1..queues {
            port.queues.push(Box::new(Says::port(Ok(()))));
        }
        (port, end)
    }

    fn put(&self, packet: Vec<u8>) {
        self.inbox.lock().unwrap().push_back(packet);
    }

    fn wake(&self) {
        rustix::io::write(&*self.wake, &1u64.to_ne_bytes()).unwrap();
    }
}

impl Queue for LazyEnd {
    fn rx(&mut self, burst: &mut Burst, stats: &mut RxStats) -> RxEnd {
        let mut inbox = self.inbox.lock().unwrap();
        let Some(packet) = inbox.pop_front() else {
            return RxEnd::Drained;
        };
        if inbox.is_empty() {
            let _ = rustix::io::read(&*self.wake, &mut [0; 8]);
        }
        burst.pool.space()[..packet.len()].copy_from_slice(&packet);
        burst.admit(EngineLink::Ethernet, 0, packet.len(), None, stats);
        RxEnd::More
    }

    fn tx(&mut self, _: &Packet, _: Pieces<'_>, _: &Pool) -> Result<(), TxFault> {
        Ok(())
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        use std::os::fd::AsFd;
        Some(self.wake.as_fd())
    }
}

/// A device whose packets lie in memory of its own, one in each of its slots, and
/// which writes down what is asked of it.
#[derive(Debug)]
struct Lending {
    memory: Regions,
    lens: std::collections::VecDeque<(u64, usize)>,
    diary: std::sync::Arc<std::sync::Mutex<Vec<String>>>,
}

const LENT_SLOT: u64 = 4096;

impl Lending {
    fn with(packets: &[Vec<u8>]) -> Self {
        use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
        use std::os::fd::AsFd;
        let file = memfd_create("lent", MemfdFlags::CLOEXEC).unwrap();
        let len = LENT_SLOT as usize * packets.len().max(1);
        ftruncate(&file, len as u64).unwrap();
        let region = Region::map(file.as_fd(), 0, len).unwrap();
        let places = packets.iter().enumerate().map(|(slot, packet)| {
            let at = slot as u64 * LENT_SLOT;
            region.write(at, packet).unwrap();
            (at, packet.len())
        });
        Self {
            lens: places.collect(),
            memory: [std::sync::Arc::new(region)].into(),
            diary: Default::default(),
        }
    }

    fn wrote(&self, what: impl Into<String>) {
        self.diary.lock().unwrap().push(what.into());
    }
}

impl Queue for Lending {
    fn rx(&mut self, burst: &mut Burst, stats: &mut RxStats) -> RxEnd {
        let lender = burst.pool.borrow(&self.memory).expect("few lend");
        while let Some((at, len)) = self.lens.pop_front() {
            let mut head = [0; HEAD_WANTED];
            let head_len = self.memory[0]
                .piece(at, len as u32)
                .unwrap()
                .copy_to(&mut head);
            // In two pieces, as guests have it.
            let body = [
                Frag::new(lender.at(0, at), 30),
                Frag::new(lender.at(0, at + 30), len as u32 - 30),
            ];
            burst.admit_lent(EngineLink::Ethernet, &head[..head_len], &body, None, stats);
        }
        RxEnd::Drained
    }

    fn tx(&mut self, packet: &Packet, payload: Pieces<'_>, pool: &Pool) -> Result<(), TxFault> {
        let mut bytes = vec![0; 256];
        let len = packet.write_header(&mut bytes).unwrap();
        bytes.truncate(len);
        pool.append_to(payload, &mut bytes)
            .ok_or(TxFault::PayloadMissing)?;
        self.wrote(format!("tx {}", bytes.len()));
        Ok(())
    }

    fn publish(&mut self) {
        self.wrote("publish");
    }

    fn release(&mut self) {
        self.wrote("release");
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

#[test]
fn lent_packets_are_delivered_shown_and_given_back_in_that_order() {
    let stream = TcpStream::new(from_to(1, 2)).mss(1448).segments(8);
    let sender = Lending::with(&stream.packets());
    let receiver = Lending {
        diary: sender.diary.clone(),
        ..Lending::with(&[])
    };
    let (memory, diary) = (sender.memory.clone(), sender.diary.clone());
    let mut rig = PlaneRig::new(&[Caps::NONE]);
    rig.insert(1, Box::new(sender), Caps::ALL, 1500);
    rig.insert(2, Box::new(receiver), Caps::ALL, 1500);
    let station = Station::untagged(mac(2));
    rig.plane.hear(station, PortId(2), 0);
    rig.run(1);
    let whole = stream.super_packet().build().len();
    assert_eq!(
        *diary.lock().unwrap(),
        [format!("tx {whole}"), "publish".into(), "release".into()]
    );
    assert_eq!(std::sync::Arc::strong_count(&memory), 2, "given back");
}

#[test]
fn frag_of_memory_that_nobody_lent_is_a_fault_and_not_a_read() {
    let mut pool = Pool::new(4096, jumbo_engine::checksum::Kernels::detect());
    let lending = Lending::with(&[vec![7; 100]]);
    let lender = pool.borrow(&lending.memory).unwrap();
    assert_eq!(pool.borrow(&lending.memory), Some(lender), "once is enough");
    let frag = |region, at, len| Frag::new(lender.at(region, at), len);
    assert!(pool.piece(frag(0, 0, 4096)).is_some());
    for wrong in [frag(0, 1, 4096), frag(1, 0, 1), frag(0, 1 << 43, 1)] {
        assert!(pool.piece(wrong).is_none(), "{wrong:?}");
        assert!(pool.promote(&[wrong]).is_none(), "{wrong:?}");
    }
    assert!(
        pool.promote(&[frag(0, 0, 4096), frag(0, 0, 1)]).is_none(),
        "no room"
    );
    pool.reset();
    assert!(pool.piece(frag(0, 0, 1)).is_none(), "lent no more");
}

// --- one plane: reasons, and what packets of all kinds do ---

/// A data plane without threads: a batch is taken when the test says so.
struct PlaneRig {
    plane: Plane,
    handles: Vec<MemHandle>,
}

impl PlaneRig {
    fn new(takes: &[Caps]) -> Self {
        let mut rig = Self {
            plane: Plane::new(Bounds::default(), 300, 0x5eed),
            handles: Vec::new(),
        };
        for (index, takes) in takes.iter().enumerate() {
            let (port, handle) = mem::port("m", 1, Caps::ALL, *takes, 1500).expect("an eventfd");
            let queue = port.queues.into_iter().next().expect("one queue");
            rig.insert(index, queue, *takes, 1500);
            rig.handles.push(handle);
        }
        rig
    }

    fn insert(&mut self, index: usize, queue: Box<dyn Queue>, takes: Caps, mtu: usize) {
        let policy = Policy {
            coalesce: Coalesce::Gro.into(),
            takes,
            mtu,
        };
        let slot = Slot::new(PortId(index as u16), queue, policy);
        self.plane.topology.insert(slot);
    }

    fn put(&self, port: usize, packet: &PacketBuilder) {
        self.handles[port].put(&PLAIN, &packet.build());
    }

    /// Takes everything a port has, within bounds.
    fn run(&mut self, port: usize) {
        for _ in 0..10_000 {
            if self.plane.batch(PortId(port as u16), 0) != RxEnd::More {
                return assert_books(&self.plane.books());
            }
        }
        panic!("port {port} never ends");
    }

    fn stays(&self, port: usize, reason: Stay) -> u64 {
        let slot = self.plane.topology.get(PortId(port as u16));
        slot.expect("it is there").counters.forward.get(reason)
    }

    /// One packet from port 0, which stays for `reason`.
    #[track_caller]
    fn stays_for(mut self, packet: &PacketBuilder, reason: Stay) {
        self.put(0, packet);
        self.run(0);
        assert_eq!(self.stays(0, reason), 1);
        let books = self.plane.books();
        assert_eq!((books.dropped, books.sent), (1, 0));
    }
}

canonical!(Stay::SamePort => fn station_behind_the_port_it_came_by() {
    let mut rig = PlaneRig::new(&[Caps::ALL; 2]);
    rig.put(0, &from_to(5, 9));
    rig.run(0);
    rig.put(0, &from_to(6, 5));
    rig.run(0);
    assert_eq!(rig.stays(0, Stay::SamePort), 1);
    assert_eq!(rig.handles[1].taken().len(), 1);
});

canonical!(Stay::NoOtherPort => fn flood_of_a_single_port() {
    PlaneRig::new(&[Caps::ALL]).stays_for(&hello(0), Stay::NoOtherPort);
});

canonical!(Stay::SourceIsGroup => fn group_address_as_source() {
    let packet = hello(0).macs(mac(1), [3, 0, 0, 0, 0, 1]);
    PlaneRig::new(&[Caps::ALL; 2]).stays_for(&packet, Stay::SourceIsGroup);
});

canonical!(Stay::LinkLocalGroup => fn reserved_groups_are_not_forwarded() {
    for last in 0..=0x0f {
        let packet = hello(0).macs([1, 0x80, 0xc2, 0, 0, last], mac(0));
        PlaneRig::new(&[Caps::ALL; 2]).stays_for(&packet, Stay::LinkLocalGroup);
    }
    let mut rig = PlaneRig::new(&[Caps::ALL; 2]);
    for group in [[1, 0x80, 0xc2, 0, 0, 0x10], [1, 0x80, 0xc2, 0, 1, 0], [0x33, 0x33, 0, 0, 0, 1]] {
        rig.put(0, &hello(0).macs(group, mac(0)));
    }
    rig.run(0);
    assert_eq!(rig.handles[1].taken().len(), 3, "neighbours of the range are");
});

canonical!(Stay::PortGone => fn port_removed_while_packets_for_it_are_held() {
    let mut rig = PlaneRig::new(&[Caps::ALL; 3]);
    rig.put(1, &hello(1));
    rig.run(1);
    rig.plane.batch(PortId(0), 0);
    let packets = TcpStream::new(from_to(0, 1)).segments(65).packets();
    for packet in &packets {
        rig.handles[0].put(&PLAIN, packet);
    }
    assert_eq!(rig.plane.batch(PortId(0), 0), RxEnd::More);
    rig.plane.remove(PortId(1));
    rig.run(0);
    assert!(rig.stays(0, Stay::PortGone) > 0);
});

#[test]
fn station_that_moves_ends_what_is_held_for_it() {
    let mut rig = PlaneRig::new(&[Caps::ALL; 3]);
    rig.put(1, &hello(1));
    rig.run(1);
    rig.handles[0].taken();
    rig.handles[2].taken();
    let packets = TcpStream::new(from_to(0, 1)).segments(3).packets();
    for packet in &packets[..2] {
        rig.handles[0].put(&PLAIN, packet);
    }
    // Its station speaks through port 0 now: the rest goes nowhere else.
    rig.put(0, &from_to(1, 9));
    rig.handles[0].put(&PLAIN, &packets[2]);
    rig.run(0);
    let slot = rig.plane.topology.get(PortId(1)).expect("port 1");
    assert_eq!(slot.counters.ends.get(End::ForwardingChanged), 1);
    assert_eq!(rig.stays(0, Stay::SamePort), 1);
}

/// A device without link header.
#[derive(Debug)]
struct RawIp(Option<Vec<u8>>);

impl Queue for RawIp {
    fn rx(&mut self, burst: &mut Burst, stats: &mut RxStats) -> RxEnd {
        if let Some(packet) = self.0.take() {
            burst.pool.space()[..packet.len()].copy_from_slice(&packet);
            burst.admit(EngineLink::RawIp, 0, packet.len(), None, stats);
        }
        RxEnd::Drained
    }

    fn tx(&mut self, _: &Packet, _: Pieces<'_>, _: &Pool) -> Result<(), TxFault> {
        Ok(())
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

canonical!(Stay::NoEthernet => fn packet_without_ethernet_header() {
    let mut rig = PlaneRig::new(&[Caps::ALL]);
    let packet = PacketBuilder::raw_ip().payload_len(10).build();
    rig.insert(1, Box::new(RawIp(Some(packet))), Caps::ALL, 1500);
    rig.run(1);
    assert_eq!(rig.stays(1, Stay::NoEthernet), 1);
});

/// A device that answers every packet alike.
#[derive(Debug)]
struct Says {
    answer: Result<(), TxFault>,
}

impl Says {
    fn port(answer: Result<(), TxFault>) -> Self {
        Self { answer }
    }
}

impl Queue for Says {
    fn rx(&mut self, _: &mut Burst, _: &mut RxStats) -> RxEnd {
        RxEnd::Drained
    }

    fn tx(&mut self, packet: &Packet, _: Pieces<'_>, _: &Pool) -> Result<(), TxFault> {
        match self.answer {
            Err(TxFault::GsoRefused) if packet.pending().gso.is_none() => Ok(()),
            answer => answer,
        }
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// A packet and a super-packet flooded to a good port and one that says `fault`:
/// the good one's copies leave, the other's are counted.
#[track_caller]
fn counted(fault: TxFault, refused: u64, sent: u64) {
    let mut rig = PlaneRig::new(&[Caps::ALL; 2]);
    rig.insert(2, Box::new(Says::port(Err(fault))), Caps::ALL, 1500);
    let packet = TcpStream::new(hello(0).ipv4([1; 4], [2; 4]))
        .segments(3)
        .super_packet();
    rig.handles[0].put_raw(with_header(&packet, vnet_gso::TCPV4, 1448));
    rig.put(0, &hello(0));
    rig.run(0);
    assert_eq!(rig.handles[1].taken().len(), 2);
    let slot = rig.plane.topology.get(PortId(2)).expect("it is there");
    assert_eq!(slot.counters.tx_faults.get(fault), refused);
    assert_eq!(slot.counters.tx_faults.total(), refused);
    assert_eq!(slot.counters.tx.packets, sent);
    let dropped = if fault == TxFault::GsoRefused {
        0
    } else {
        refused
    };
    assert_eq!(rig.plane.books().dropped, dropped);
}

canonical!(TxFault::QueueFull => fn full_queue_is_counted() {
    counted(TxFault::QueueFull, 2, 0);
});
canonical!(TxFault::LinkDown => fn link_down_is_counted() {
    counted(TxFault::LinkDown, 2, 0);
});
canonical!(TxFault::Gone => fn gone_device_is_counted() {
    counted(TxFault::Gone, 2, 0);
});
canonical!(TxFault::GsoRefused => fn refused_super_packet_leaves_in_segments() {
    counted(TxFault::GsoRefused, 1, 4);
});
canonical!(TxFault::Refused => fn refused_packet_is_counted() {
    counted(TxFault::Refused, 2, 0);
});
canonical!(TxFault::Injected => fn fault_on_purpose_is_counted() {
    counted(TxFault::Injected, 2, 0);
});
canonical!(TxFault::PayloadMissing => fn missing_payload_is_counted() {
    counted(TxFault::PayloadMissing, 2, 0);
});
canonical!(TxFault::TooLong => fn packet_too_long_for_its_receiver_is_counted() {
    counted(TxFault::TooLong, 2, 0);
});
canonical!(TxFault::Stopped => fn stopped_port_is_counted() {
    counted(TxFault::Stopped, 2, 0);
});

// --- packets of all kinds over ports of all kinds ---

#[derive(Clone, Debug)]
enum Input {
    /// Bytes behind a header, both arbitrary.
    Garbage(Vec<u8>),
    /// A packet that is right but for the header before it.
    Lie(oracle::VnetHeader, usize),
    /// The next packets of flow `n`.
    Stream(usize, usize),
    /// A super-packet, to be taken as one.
    Super(usize),
}

fn caps() -> impl Strategy<Value = Caps> {
    any::<[bool; 5]>().prop_map(|[a, b, c, d, e]| Caps::new(a, b, c, d, e))
}

fn header() -> impl Strategy<Value = oracle::VnetHeader> {
    let small = prop_oneof![0u16..80, any::<u16>()];
    let kind = prop_oneof![
        Just(0u8),
        Just(1),
        Just(3),
        Just(4),
        Just(5),
        Just(0x81),
        any::<u8>()
    ];
    (
        0u8..8,
        kind,
        small.clone(),
        small.clone(),
        small.clone(),
        small,
    )
        .prop_map(
            |(flags, gso_type, hdr_len, gso_size, csum_start, csum_offset)| oracle::VnetHeader {
                flags,
                gso_type,
                hdr_len,
                gso_size,
                csum_start,
                csum_offset,
                ..Default::default()
            },
        )
}

fn input() -> impl Strategy<Value = Input> {
    prop_oneof![
        1 => prop::collection::vec(any::<u8>(), 0..200).prop_map(Input::Garbage),
        3 => (header(), 0usize..8).prop_map(|(header, shape)| Input::Lie(header, shape)),
        6 => (0usize..4, 1usize..12).prop_map(|(flow, count)| Input::Stream(flow, count)),
        2 => (0usize..4).prop_map(Input::Super),
    ]
}

/// Packets for lies to stand before.
fn shapes() -> Vec<PacketBuilder> {
    let base = || from_to(0, 200).payload_len(3000);
    vec![
        base(),
        base().ipv6([1; 16], [2; 16]),
        base().udp(1, 2),
        base().ipv6([1; 16], [2; 16]).udp(1, 2),
        base().vlan(0x88a8, 3).vlan(0x8100, 4),
        base().mf(true),
        base().flags(tcp_flags::SYN),
        base().ethertype(0x88b5),
    ]
}

/// Four flows from port 0, one to each other port and a second to port 1: packet
/// `count` segments on from `sent`.
fn flow_base(flow: usize) -> PacketBuilder {
    let to = [1, 2, 3, 1][flow];
    let base = from_to(0, to).tcp(1000 + flow as u16, 80);
    match flow {
        1 => base.ipv6([1; 16], [2; 16]),
        2 => base.vlan(0x8100, 5),
        _ => base,
    }
}

fn flow_part(flow: usize, sent: usize, count: usize) -> TcpStream {
    TcpStream::new(flow_base(flow))
        .segments(count)
        .mss(500)
        .seq((sent as u32).wrapping_sub(40_000))
        .payload_at(sent)
        .ids(IpId::Increment(sent as u16 / 500))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn books_balance_and_payload_is_conserved(
        takes in prop::array::uniform4(caps()),
        inputs in prop::collection::vec(input(), 1..60),
        vlan in any::<bool>(),
    ) {
        let mut rig = PlaneRig::new(&takes);
        for n in 0..4u8 {
            rig.put(n.into(), &hello(n));
            rig.put(n.into(), &hello(n).vlan(0x8100, 5));
            rig.run(n.into());
        }
        rig.handles.iter().for_each(|handle| drop(handle.taken()));
        let shapes = shapes();
        let mut sent = [0usize; 4];
        for input in inputs {
            match input {
                Input::Garbage(bytes) => rig.handles[0].put_raw(bytes),
                Input::Lie(header, shape) => {
                    let mut bytes = header.encode(VnetForm::Merged);
                    let packet = shapes[shape].clone();
                    bytes.extend(if vlan { packet.vlan(0x8100, 1) } else { packet }.build());
                    rig.handles[0].put_raw(bytes);
                }
                Input::Stream(flow, count) => {
                    for packet in flow_part(flow, sent[flow], count).packets() {
                        rig.handles[0].put(&PLAIN, &packet);
                    }
                    sent[flow] += count * 500;
                }
                Input::Super(flow) => {
                    let packet = flow_part(flow, sent[flow], 7).super_packet();
                    let kind = if flow == 1 { vnet_gso::TCPV6 } else { vnet_gso::TCPV4 };
                    rig.handles[0].put_raw(with_header(&packet, kind, 500));
                    sent[flow] += 7 * 500;
                }
            }
        }
        rig.run(0);
        let taken: Vec<_> = rig.handles.iter().map(MemHandle::taken).collect();
        for flow in 0..4 {
            let to = [1, 2, 3, 1][flow];
            let own: Vec<Vec<u8>> = taken[to]
                .iter()
                .map(finished)
                .filter(|bytes| {
                    let Ok(packet) = oracle::parse(Link::Ethernet, bytes) else { return false };
                    let own = bytes[..6] == mac(to as u8);
                    own && packet.tcp().is_some_and(|tcp| tcp.src_port == 1000 + flow as u16)
                })
                .collect();
            // In order, whole, and once.
            let mut at = 0u32.wrapping_sub(40_000);
            for bytes in &own {
                oracle::verify_l4(Link::Ethernet, bytes).expect("a good checksum");
                let packet = oracle::parse(Link::Ethernet, bytes).expect("parsed before");
                prop_assert_eq!(packet.tcp().expect("TCP").seq, at);
                let payload = packet.payload(bytes);
                let offset = at.wrapping_add(40_000) as usize;
                prop_assert_eq!(payload, &jumbo_testkit::pattern(offset, payload.len())[..]);
                at = at.wrapping_add(payload.len() as u32);
            }
            prop_assert_eq!(at.wrapping_add(40_000) as usize, sent[flow]);
        }
    }
}
