//! Packets in tunnels through the whole data plane, between ports in memory: what leaves stands for what
//! came in, byte for byte, whatever each port takes; the books balance; and a port that refuses is
//! given what it takes.

#[path = "../../jumbo-engine/tests/support/tunnel.rs"]
#[allow(dead_code, reason = "the engine's tests use the rest")]
mod tunnel;
mod support;

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use jumbo_engine::arena::{HEAD_WANTED, Pieces};
use jumbo_engine::packet::{Frag, Link, Packet};
use jumbo_engine::pending::Caps;
use jumbo_engine::vnet::{Trust, VnetHeader};
use jumbo_ports::mem::{self, MemHandle, MemPacket};
use jumbo_ports::pool::{Pool, Region, Regions};
use jumbo_ports::queue::{Bounds, Burst, Queue, RxEnd, RxStats, TxFault};
use jumbo_switch::path::Plane;
use jumbo_switch::topology::{Coalesce, Policy, PortId, Slot, TunnelMode};
use jumbo_testkit::PacketBuilder;
use jumbo_testkit::oracle::{self, vnet_gso};
use jumbo_testkit::script::{IpId, TcpStream};
use proptest::prelude::*;
use support::assert_books;
use tunnel::{Kind, Outer};

/// The testkit's word for a link, as the packets' builder wants it.
fn oracle_link(link: Link) -> jumbo_testkit::Link {
    match link {
        Link::Ethernet => jumbo_testkit::Link::Ethernet,
        Link::RawIp => jumbo_testkit::Link::RawIp,
    }
}

/// Everything, tunnels too.
const ALL: Caps = Caps::ALL.with_udp_tunnels(true, true);

fn mac(n: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, n]
}

/// A data plane without threads; port 0 sends.
struct Rig {
    plane: Plane,
    handles: Vec<MemHandle>,
}

impl Rig {
    fn new(tunnels: TunnelMode, takes: &[Caps]) -> Self {
        let mut plane = Plane::new(Bounds::default(), 300, 0x5eed);
        plane.set_tunnels(tunnels);
        let mut rig = Self {
            plane,
            handles: Vec::new(),
        };
        for takes in takes {
            let (port, handle) = mem::port("m", 1, ALL, *takes, 1500).expect("an eventfd");
            let queue = port.queues.into_iter().next().expect("one queue");
            rig.insert(queue, *takes);
            rig.handles.push(handle);
        }
        rig
    }

    fn insert(&mut self, queue: Box<dyn Queue>, takes: Caps) {
        let policy = Policy {
            coalesce: Coalesce::Gro.into(),
            takes,
            mtu: 1500,
        };
        let id = PortId(self.plane.topology.iter().count() as u16);
        self.plane.topology.insert(Slot::new(id, queue, policy));
    }

    /// Station `n` is behind port `n`, untagged and in VLAN 5.
    fn know(&mut self, n: u8) {
        let hello = PacketBuilder::ethernet().macs([0xff; 6], mac(n));
        let hello = hello.payload_len(1);
        for hello in [hello.clone(), hello.vlan(0x8100, 5)] {
            self.handles[usize::from(n)].put(&VnetHeader::default(), &hello.build());
        }
        self.run(n.into());
        self.taken();
    }

    fn taken(&self) -> Vec<Vec<MemPacket>> {
        self.handles.iter().map(MemHandle::taken).collect()
    }

    fn run(&mut self, port: u16) {
        for _ in 0..10_000 {
            if self.plane.batch(PortId(port), 0) != RxEnd::More {
                return assert_books(&self.plane.books());
            }
        }
        panic!("never ends");
    }

    fn slot(&self, port: u16) -> &Slot {
        self.plane.topology.get(PortId(port)).expect("it is there")
    }
}

/// The tunnel around what station 0 sends to station `to`.
fn outer(kind: Kind, to: u8) -> Outer {
    Outer::new(kind).with(|base| base.macs(mac(to), mac(0)))
}

fn kinds() -> Vec<Kind> {
    vec![
        Kind::Vxlan { vni: 42 },
        Kind::Geneve {
            options: (0..12).collect(),
            bridged: true,
        },
        Kind::Geneve {
            options: Vec::new(),
            bridged: false,
        },
        Kind::Gre {
            key: Some(7),
            bridged: true,
        },
        Kind::Gre {
            key: None,
            bridged: false,
        },
        Kind::Ip,
    ]
}

fn outers(to: u8) -> Vec<Outer> {
    let mut all = Vec::new();
    for kind in kinds() {
        let plain = outer(kind, to);
        all.push(plain.clone().v6());
        if plain.is_udp() {
            all.push(plain.clone().csum());
            all.push(plain.clone().v6().csum());
        }
        all.push(plain.clone().with(|base| base.vlan(0x8100, 5)));
        all.push(plain);
    }
    all
}

fn stream(outer: &Outer, v6: bool, segments: usize) -> TcpStream {
    let base = outer.inner_base();
    let base = if v6 {
        base.ipv6([1; 16], [2; 16])
    } else {
        base
    };
    let stream = TcpStream::new(base).segments(segments).mss(1000);
    stream
        .timestamps(1, 2)
        .push_last()
        .ids(IpId::Increment(0xfffd))
}

/// Bytes before the packet inside.
fn prefix_len(outer: &Outer) -> usize {
    let inner = outer.inner_base().build();
    outer.wrap(&inner, 0).len() - inner.len()
}

fn l3_at(outer: &Outer) -> usize {
    let tagged = outer.wrap(&outer.inner_base().build(), 0)[12..14] == [0x81, 0];
    if tagged { 18 } else { 14 }
}

fn gso(size: u16) -> oracle::Gso {
    oracle::Gso {
        kind: oracle::GsoKind::Tcp {
            fixed_id: false,
            accecn: false,
        },
        size: size.into(),
    }
}

/// A super-packet as a kernel hands it over.
fn super_packet(outer: &Outer, stream: &TcpStream, v6: bool) -> (VnetHeader, Vec<u8>) {
    let inner = stream.super_packet().partial_checksum().build();
    let whole = outer.wrap(&inner, 0);
    let l2_len = match outer.inner_link() {
        Link::Ethernet => 14,
        Link::RawIp => 0,
    };
    let (l3_at, inner_nh) = (l3_at(outer), (prefix_len(outer) + l2_len) as u16);
    let outer_v6 = whole[l3_at] >> 4 == 6;
    let header = VnetHeader {
        flags: if outer.csum { 1 | 8 } else { 1 },
        gso_type: if v6 { vnet_gso::TCPV6 } else { vnet_gso::TCPV4 }
            | if outer_v6 { 0x40 } else { 0x20 },
        gso_size: 1000,
        csum_start: inner_nh + if v6 { 40 } else { 20 },
        csum_offset: 16,
        outer_th_offset: (l3_at + if outer_v6 { 40 } else { 20 }) as u16,
        inner_nh_offset: inner_nh,
        ..VnetHeader::default()
    };
    (header, whole)
}

/// The packets on a wire that what a port was sent stands for.
fn wire(outer: &Outer, sent: &MemPacket) -> Vec<Vec<u8>> {
    let MemPacket { vnet, mut bytes } = sent.clone();
    let at = l3_at(outer);
    if vnet.gso_type != 0 {
        assert_ne!(vnet.gso_type & 0x60, 0, "in a tunnel");
        let id = u16::from_be_bytes([bytes[at + 4], bytes[at + 5]]);
        let inner = &bytes[prefix_len(outer)..];
        return outer.clone().id(id).segment(inner, gso(vnet.gso_size));
    }
    if vnet.flags & 1 != 0 {
        let (start, offset) = (vnet.csum_start.into(), vnet.csum_offset.into());
        oracle::complete_checksum(&mut bytes, start, offset, false);
    }
    vec![bytes]
}

fn all_wire(outer: &Outer, sent: &[MemPacket]) -> Vec<Vec<u8>> {
    sent.iter().flat_map(|sent| wire(outer, sent)).collect()
}

#[test]
fn trains_are_merged_where_they_are_taken_and_nothing_is_lost() {
    const TUNNEL: Caps = Caps::ALL.with_udp_tunnels(true, false);
    for tunnels in TunnelMode::ALL {
        for takes in [Caps::NONE, Caps::ALL, TUNNEL, ALL] {
            for outer in outers(1) {
                for v6 in [false, true] {
                    let mut rig = Rig::new(tunnels, &[Caps::ALL, takes]);
                    rig.know(1);
                    let train = outer.wrap_all(&stream(&outer, v6, 6).packets());
                    let bytes = train.iter().map(Vec::as_slice);
                    rig.handles[0].put_all(&VnetHeader::default(), bytes);
                    rig.run(0);
                    let sent = &rig.taken()[1];
                    let what = || format!("{tunnels:?} {takes:?} {outer:?} {v6}");
                    // Not looked into, the outer datagrams may be merged like any others.
                    if tunnels != TunnelMode::Off {
                        assert_eq!(all_wire(&outer, sent), train, "{}", what());
                    }
                    let merged = tunnels == TunnelMode::Merge
                        && outer.is_udp()
                        && (takes == ALL || takes == TUNNEL && !outer.csum);
                    let expected = if merged { 1 } else { train.len() };
                    if tunnels != TunnelMode::Off || !outer.csum {
                        assert_eq!(sent.len(), expected, "{}", what());
                    }
                }
            }
        }
    }
}

#[test]
fn super_packet_leaves_by_each_port_as_it_takes_it() {
    for outer in outers(9).into_iter().filter(Outer::is_udp) {
        for v6 in [false, true] {
            let mut rig = Rig::new(
                TunnelMode::Whole,
                &[Caps::ALL, ALL, Caps::ALL, Caps::NONE, ALL],
            );
            let stream = stream(&outer, v6, 7);
            let (header, bytes) = super_packet(&outer, &stream, v6);
            // Nobody is station 9: every port is given it.
            rig.handles[0].put(&header, &bytes);
            rig.run(0);
            let inner = &bytes[prefix_len(&outer)..];
            let train = outer.segment(inner, gso(1000));
            let taken = rig.taken();
            for (port, sent) in taken.iter().enumerate().skip(1) {
                assert_eq!(all_wire(&outer, sent), train, "port {port} {outer:?}");
            }
            let counts: Vec<_> = taken.iter().map(Vec::len).collect();
            assert_eq!(counts, [0, 1, 7, 7, 1], "{outer:?}");
            let partial = |sent: &[MemPacket]| sent.iter().all(|p| p.vnet.flags & 1 == 1);
            assert!(partial(&taken[2]) && !partial(&taken[3]));
        }
    }
}

#[test]
fn super_packet_in_a_tunnel_is_refused_where_nobody_looks() {
    let outer = outer(Kind::Vxlan { vni: 1 }, 1);
    let mut rig = Rig::new(TunnelMode::Off, &[Caps::ALL, ALL]);
    rig.know(1);
    let (header, bytes) = super_packet(&outer, &stream(&outer, false, 3), false);
    rig.handles[0].put(&header, &bytes);
    rig.run(0);
    assert_eq!(rig.taken()[1].len(), 0);
    let faults = &rig.slot(0).counters.rx.faults;
    let refused = jumbo_engine::vnet::HeaderFault::GsoTunnelRefused;
    assert_eq!((faults.get(refused), faults.total()), (1, 1));
}

/// A device that refuses tunnels is no longer offered them, and keeps all else.
#[test]
fn refused_tunnels_cost_no_other_offload() {
    let outer = outer(Kind::Vxlan { vni: 1 }, 1);
    let mut rig = Rig::new(TunnelMode::Merge, &[Caps::ALL, ALL]);
    rig.know(1);
    rig.handles[1].refuse_gso(true);
    let stream = stream(&outer, false, 4);
    let (header, bytes) = super_packet(&outer, &stream, false);
    let train = outer.segment(&bytes[prefix_len(&outer)..], gso(1000));
    for _ in 0..10 {
        rig.handles[0].put(&header, &bytes);
        rig.run(0);
        assert_eq!(all_wire(&outer, &rig.taken()[1]), train);
    }
    let slot = rig.slot(1);
    assert!(!slot.policy.takes.udp_tunnel());
    assert!(slot.policy.takes.tso4() && slot.policy.takes.uso());
    assert_eq!(slot.counters.tx_faults.get(TxFault::GsoRefused), 8);
    assert_eq!(rig.plane.books().dropped, 0);
}

/// A device whose packets lie in memory of its own, of which it shows the first bytes only.
#[derive(Debug)]
struct Lending {
    memory: Regions,
    packets: VecDeque<(VnetHeader, u64, usize)>,
}

const SLOT: u64 = 1 << 16;

impl Lending {
    fn with(packets: &[(VnetHeader, Vec<u8>)]) -> Self {
        use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
        let file = memfd_create("lent", MemfdFlags::CLOEXEC).expect("a file");
        let len = SLOT * packets.len() as u64;
        ftruncate(&file, len).expect("a length");
        let region = Region::map(file.as_fd(), 0, len as usize).expect("memory");
        let placed = packets.iter().zip((0..).map(|n| n * SLOT));
        let packets = placed.map(|((vnet, bytes), at)| {
            region.write(at, bytes).expect("inside");
            (*vnet, at, bytes.len())
        });
        Self {
            packets: packets.collect(),
            memory: [Arc::new(region)].into(),
        }
    }
}

impl Queue for Lending {
    fn rx(&mut self, burst: &mut Burst, stats: &mut RxStats) -> RxEnd {
        let lender = burst.pool.borrow(&self.memory).expect("few lend");
        while let Some((vnet, at, len)) = self.packets.pop_front() {
            let mut head = [0; HEAD_WANTED];
            let piece = self.memory[0].piece(at, len as u32).expect("inside");
            let head_len = piece.copy_to(&mut head);
            // In pieces that end in the middle of the headers, as guests may have it.
            let ends = [0, 60, 150, len as u64];
            let pieces = ends.windows(2).map(|w| {
                let from = lender.at(0, at + w[0]);
                Frag::new(from, (w[1] - w[0]) as u32)
            });
            let body: Vec<_> = pieces.collect();
            let vnet = Some((&vnet, Trust::Guest));
            burst.admit_lent(Link::Ethernet, &head[..head_len], &body, vnet, stats);
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

/// A guest's ring, say: the first look is at fewer bytes than the headers of IPv6 in IPv6 take.
#[test]
fn headers_behind_the_first_look_are_found() {
    for outer in outers(9) {
        for v6 in [false, true] {
            let stream = stream(&outer, v6, 5);
            let train = outer.wrap_all(&stream.packets());
            let mut packets: Vec<_> = train
                .iter()
                .map(|bytes| (VnetHeader::default(), bytes.clone()))
                .collect();
            let mut expected = train;
            if outer.is_udp() {
                let next = stream.clone().seq(77).ids(IpId::Increment(500));
                let (header, bytes) = super_packet(&outer, &next, v6);
                expected.extend(outer.segment(&bytes[prefix_len(&outer)..], gso(1000)));
                packets.push((header, bytes));
            }
            let mut rig = Rig::new(TunnelMode::Merge, &[ALL]);
            rig.insert(Box::new(Lending::with(&packets)), ALL);
            rig.run(1);
            let sent = &rig.taken()[0];
            assert_eq!(all_wire(&outer, sent), expected, "{outer:?}");
            let supers = sent.iter().filter(|p| p.vnet.gso_type != 0).count();
            // A flood is not merged, but what came whole is seen to be whole.
            assert_eq!(supers, usize::from(outer.is_udp()), "{outer:?}");
            assert_eq!(rig.slot(1).counters.rx.faults.total(), 0);
        }
    }
}

// --- anything at all ---

#[derive(Clone, Debug)]
enum Input {
    /// So many packets of the flow, as they are on a wire.
    Train(usize),
    /// The same as one.
    Super(usize),
    /// A super-packet with some of its bytes wrong, and of its header.
    Damaged(Vec<(u8, u8)>, Vec<(u8, u8)>),
}

fn input() -> impl Strategy<Value = Input> {
    let bytes = |len| prop::collection::vec((any::<u8>(), any::<u8>()), 0..len);
    prop_oneof![
        3 => (1usize..9).prop_map(Input::Train),
        2 => (2usize..9).prop_map(Input::Super),
        1 => (bytes(6), bytes(3)).prop_map(|(packet, header)| Input::Damaged(packet, header)),
    ]
}

fn caps() -> impl Strategy<Value = Caps> {
    any::<[bool; 7]>()
        .prop_map(|[a, b, c, d, e, f, g]| Caps::new(a, b, c, d, e).with_udp_tunnels(f, g))
}

/// One flow's tunnel; its source port tells it from what was damaged.
fn any_outer() -> impl Strategy<Value = Outer> {
    let all = outers(1);
    let all: Vec<_> = all.into_iter().filter(Outer::is_udp).collect();
    prop::sample::select(all)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// The books balance whatever comes, and what is sound arrives in order, whole, and once.
    #[test]
    fn books_balance_and_tunnels_come_out_as_they_were(
        takes in caps(),
        others in prop::array::uniform2(caps()),
        outer in any_outer(),
        v6 in any::<bool>(),
        mode in prop::sample::select(vec![TunnelMode::Whole, TunnelMode::Merge]),
        inputs in prop::collection::vec(input(), 1..20),
    ) {
        let mut rig = Rig::new(mode, &[Caps::ALL, takes, others[0], others[1]]);
        rig.know(1);
        let (mut expected, mut sent) = (Vec::new(), 0);
        for input in inputs {
            let next = |count: usize| {
                stream(&outer, v6, count)
                    .seq(1000 * sent as u32)
                    .ids(IpId::Increment(sent as u16))
            };
            let here = outer.clone().id(0xfff0u16.wrapping_add(sent as u16));
            match input {
                Input::Train(count) => {
                    let train = here.wrap_all(&next(count).packets());
                    for packet in &train {
                        rig.handles[0].put(&VnetHeader::default(), packet);
                    }
                    expected.extend(train);
                    sent += count;
                }
                Input::Super(count) => {
                    let (header, bytes) = super_packet(&here, &next(count), v6);
                    rig.handles[0].put(&header, &bytes);
                    expected.extend(here.segment(&bytes[prefix_len(&here)..], gso(1000)));
                    sent += count;
                }
                Input::Damaged(packet, header) => {
                    // Of another station: what becomes of it is not known, but for the books.
                    let stranger = here.with(|base| base.macs(mac(7), mac(0)));
                    let (vnet, mut bytes) = super_packet(&stranger, &next(3), v6);
                    for (at, value) in packet {
                        bytes[12 + usize::from(at)] ^= value;
                    }
                    let mut whole = vec![0; 24];
                    vnet.encode(jumbo_engine::vnet::Form::Tunnel24, &mut whole).expect("room");
                    for (at, value) in header {
                        whole[usize::from(at) % 24] ^= value;
                    }
                    whole.extend(bytes);
                    rig.handles[0].put_raw(whole);
                }
            }
        }
        rig.run(0);
        let taken = rig.taken();
        let own = taken[1].iter().filter(|packet| packet.bytes[..6] == mac(1));
        let left: Vec<_> = own.flat_map(|packet| wire(&outer, packet)).collect();
        prop_assert_eq!(left, expected);
    }
}
