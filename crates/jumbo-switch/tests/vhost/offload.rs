//! What is pending passes between any two guests: whatever each negotiated, the receiver gets what it can take, and the
//! bytes on the wire that it stands for.

use jumbo_engine::pending::Caps;
use jumbo_ports::mem::MemPacket;
use jumbo_testkit::oracle::{
    self, Gso, GsoKind, VnetForm, VnetHeader, complete_checksum, vnet_flags, vnet_gso,
};
use jumbo_testkit::script::{IpId, TcpStream, UdpStream};
use jumbo_testkit::virtio::{Layout, Options, Received, feature};
use jumbo_testkit::{Link, PacketBuilder, tcp_flags};

use crate::rig::{BROADCAST, Guest, Rig, acquaint, eventually, mac};

const LINK: Link = Link::Ethernet;
const MTU: u16 = 1500;
/// TCP payload of a full packet with timestamps, over either protocol.
const MSS: usize = 1428;

/// What a guest may leave to the switch, and what it takes: each as (HOST_*, GUEST_*).
pub(crate) const ALL: [u64; 2] = [
    feature::CSUM | feature::HOST_TSO4 | feature::HOST_TSO6 | feature::HOST_ECN | feature::HOST_USO,
    feature::GUEST_CSUM
        | feature::GUEST_TSO4
        | feature::GUEST_TSO6
        | feature::GUEST_ECN
        | feature::GUEST_USO4
        | feature::GUEST_USO6,
];

/// What is switched off, one by one; without checksums nothing else can be.
const OFF: [[u64; 2]; 6] = [
    [0, 0],
    [feature::HOST_TSO4, feature::GUEST_TSO4],
    [feature::HOST_TSO6, feature::GUEST_TSO6],
    [feature::HOST_ECN, feature::GUEST_ECN],
    [feature::HOST_USO, feature::GUEST_USO4 | feature::GUEST_USO6],
    ALL,
];

fn host(off: usize) -> u64 {
    ALL[0] & !OFF[off][0]
}

fn guest(off: usize) -> u64 {
    ALL[1] & !OFF[off][1]
}

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Kind {
    Tcp4,
    Tcp6,
    /// The first packet of each super-packet has CWR.
    Cwr4,
    Udp4,
    Udp6,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Tcp4, Self::Tcp6, Self::Cwr4, Self::Udp4, Self::Udp6];

    /// What a sender and a receiver of its super-packets must have negotiated.
    fn needs(self) -> [u64; 2] {
        let tcp4 = [feature::HOST_TSO4, feature::GUEST_TSO4];
        match self {
            Self::Tcp4 => tcp4,
            Self::Tcp6 => [feature::HOST_TSO6, feature::GUEST_TSO6],
            Self::Cwr4 => [tcp4[0] | feature::HOST_ECN, tcp4[1] | feature::GUEST_ECN],
            // The switch has one capability for both.
            Self::Udp4 | Self::Udp6 => {
                [feature::HOST_USO, feature::GUEST_USO4 | feature::GUEST_USO6]
            }
        }
    }

    fn gso_type(self) -> u8 {
        match self {
            Self::Tcp4 => vnet_gso::TCPV4,
            Self::Tcp6 => vnet_gso::TCPV6,
            Self::Cwr4 => vnet_gso::TCPV4 | vnet_gso::ECN,
            Self::Udp4 | Self::Udp6 => vnet_gso::UDP_L4,
        }
    }

    fn is_udp(self) -> bool {
        matches!(self, Self::Udp4 | Self::Udp6)
    }
}

/// One super-packet and its segments.
struct Super {
    kind: Kind,
    size: usize,
    whole: PacketBuilder,
    parts: Vec<PacketBuilder>,
}

/// Three super-packets of one flow, one after the other.
fn flow(kind: Kind, to: [u8; 6], from: usize) -> Vec<Super> {
    let (v4, v6) = ([192, 0, 2, from as u8 + 1], [0xFD; 16]);
    let base = PacketBuilder::ethernet().macs(to, mac(from));
    let base = match kind {
        Kind::Tcp6 | Kind::Udp6 => base.ipv6(v6, [0xFE; 16]),
        _ => base.ipv4(v4, [192, 0, 2, 200]),
    };
    (0..3)
        .map(|at| match kind.is_udp() {
            true => udp_super(kind, base.clone().udp(4000, 53), at),
            false => tcp_super(kind, base.clone().tcp(40_000, 5001), at),
        })
        .collect()
}

fn tcp_super(kind: Kind, base: PacketBuilder, at: usize) -> Super {
    const SEGMENTS: usize = 40;
    let cwr = if kind == Kind::Cwr4 {
        tcp_flags::CWR
    } else {
        0
    };
    let begin = at * (SEGMENTS - 1) * MSS + at * 700;
    let stream = TcpStream::new(base)
        .segments(SEGMENTS)
        .mss(MSS)
        .last_len(700)
        .seq((1 + begin) as u32)
        .payload_at(begin)
        .ids(IpId::Increment((100 * at) as u16))
        .timestamps(5, 6)
        .first_flags(cwr)
        .push_last();
    Super {
        kind,
        size: MSS,
        whole: stream.super_packet(),
        parts: (0..SEGMENTS).map(|index| stream.packet(index)).collect(),
    }
}

fn udp_super(kind: Kind, base: PacketBuilder, at: usize) -> Super {
    let (count, size) = (20, 1400);
    let ids = |index: usize| (1000 * at + index) as u16;
    let stream = UdpStream::new(base.clone())
        .datagrams(count, size, 33)
        .ids(IpId::Increment(ids(0)));
    let part = |index: usize| {
        let len = if index + 1 == count { 33 } else { size };
        let payload = jumbo_testkit::pattern(index * size, len);
        base.clone().id(ids(index)).payload(&payload)
    };
    Super {
        kind,
        size,
        whole: stream.super_packet(),
        parts: (0..count).map(part).collect(),
    }
}

/// Queues a flow as far as its sender's features let it leave work undone. Returns how many packets that were.
#[track_caller]
fn send(from: &mut Guest, pair: usize, flow: &[Super]) -> u64 {
    let features = from.net.features();
    let mut count = 0;
    for Super {
        kind,
        size,
        whole,
        parts,
    } in flow
    {
        let whole_passes = features & kind.needs()[0] == kind.needs()[0];
        if whole_passes {
            queue_partial(from, pair, whole, kind.gso_type(), *size);
            count += 1;
            continue;
        }
        for part in parts {
            if features & feature::CSUM != 0 {
                queue_partial(from, pair, part, vnet_gso::NONE, 0);
            } else {
                queue(from, pair, &VnetHeader::default(), &part.build());
            }
            count += 1;
        }
    }
    from.net.flush(pair).expect("a kick");
    count
}

#[track_caller]
fn queue_partial(from: &mut Guest, pair: usize, packet: &PacketBuilder, gso: u8, size: usize) {
    let bytes = packet.clone().partial_checksum().build();
    let header = VnetHeader::needs_csum(LINK, &bytes, gso, size as u16).expect("TCP or UDP");
    queue(from, pair, &header, &bytes);
}

#[track_caller]
fn queue(from: &mut Guest, pair: usize, header: &VnetHeader, bytes: &[u8]) {
    let header = header.encode(form(from.net.header_len()));
    let taken = from.net.queue_packet(pair, &header, bytes);
    assert!(taken.expect("no fault"), "room on the ring");
}

fn form(len: usize) -> VnetForm {
    match len {
        10 => VnetForm::Plain,
        12 => VnetForm::Merged,
        _ => VnetForm::Hashed,
    }
}

/// A packet as it would be on a wire, and whether it came whole.
pub(crate) struct Wire {
    pub(crate) packets: Vec<Vec<u8>>,
}

/// What a received packet stands for, once its header was found legal for these features (virtio 1.3 section 5.1.6.4).
#[track_caller]
pub(crate) fn wire(features: u64, header: &VnetHeader, bytes: &[u8]) -> Wire {
    let has = |bits: u64| features & bits == bits;
    let packet = oracle::parse(LINK, bytes).expect("a whole packet");
    let partial = header.flags & vnet_flags::NEEDS_CSUM != 0;
    assert_eq!(header.flags & !3, 0, "{header:?}");
    assert!(has(feature::GUEST_CSUM) || header.flags == 0, "{header:?}");
    if header.gso_type != vnet_gso::NONE {
        assert!(partial, "{header:?}");
        assert_eq!(usize::from(header.hdr_len), packet.payload_at);
        let payload = packet.payload(bytes).len();
        assert!(payload > usize::from(header.gso_size) && header.gso_size > 0);
    } else {
        assert_eq!(header.gso_size, 0);
        assert!(
            bytes.len() <= 14 + usize::from(MTU),
            "{} bytes",
            bytes.len()
        );
    }
    if packet.ether.is_some() && matches!(packet.net, oracle::Net::Ipv4(_)) {
        oracle::verify_ipv4_header(LINK, bytes).expect("never left undone");
    }
    if partial {
        let right = VnetHeader::needs_csum(LINK, bytes, 0, 0).expect("TCP or UDP");
        let place = |h: &VnetHeader| (h.csum_start, h.csum_offset);
        assert_eq!(place(header), place(&right));
        oracle::verify_partial(LINK, bytes).expect("the sum of the pseudo header");
    } else {
        oracle::verify_l4(LINK, bytes).expect("a right checksum");
    }
    let cwr = packet
        .tcp()
        .is_some_and(|tcp| tcp.flags & tcp_flags::CWR != 0);
    let ecn = header.gso_type & vnet_gso::ECN != 0;
    let kind = match header.gso_type & !vnet_gso::ECN {
        vnet_gso::NONE => {
            return Wire {
                packets: vec![finished(header, bytes, packet.udp().is_some())],
            };
        }
        vnet_gso::TCPV4 => {
            assert!(has(feature::GUEST_TSO4) && matches!(packet.net, oracle::Net::Ipv4(_)));
            GsoKind::Tcp {
                fixed_id: false,
                accecn: false,
            }
        }
        vnet_gso::TCPV6 => {
            assert!(has(feature::GUEST_TSO6) && matches!(packet.net, oracle::Net::Ipv6(_)));
            GsoKind::Tcp {
                fixed_id: false,
                accecn: false,
            }
        }
        vnet_gso::UDP_L4 => {
            assert!(has(feature::GUEST_USO4 | feature::GUEST_USO6));
            GsoKind::UdpL4
        }
        other => panic!("a GSO type of {other}"),
    };
    assert_eq!(ecn, cwr, "CWR must be told");
    assert!(!ecn || has(feature::GUEST_ECN));
    let gso = Gso {
        kind,
        size: header.gso_size.into(),
    };
    Wire {
        packets: oracle::segment(LINK, bytes, gso).expect("it can be cut"),
    }
}

fn finished(header: &VnetHeader, bytes: &[u8], udp: bool) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if header.flags & vnet_flags::NEEDS_CSUM != 0 {
        let (start, offset) = (header.csum_start.into(), header.csum_offset.into());
        complete_checksum(&mut bytes, start, offset, udp);
    }
    bytes
}

#[track_caller]
fn wire_of(guest: &Guest, got: &Received) -> Wire {
    let header = VnetHeader::decode(form(got.header.len()), &got.header).expect("a header");
    if got.header.len() > 10 {
        assert_eq!(header.num_buffers, got.buffers);
    }
    wire(guest.net.features(), &header, &got.packet)
}

/// Receives until a flow is there. Returns how many packets it came in.
#[track_caller]
fn receive(to: &mut Guest, flow: &[Super]) -> u64 {
    let expected: Vec<Vec<u8>> = flow
        .iter()
        .flat_map(|s| &s.parts)
        .map(PacketBuilder::build)
        .collect();
    let mut seen = Vec::new();
    let mut count = 0;
    while seen.len() < expected.len() {
        let got = to.recv();
        count += 1;
        seen.extend(wire_of(to, &got).packets);
    }
    assert_eq!(seen.len(), expected.len());
    for (index, (seen, expected)) in seen.iter().zip(&expected).enumerate() {
        assert!(
            seen == expected,
            "segment {index}\n{seen:02x?}\n{expected:02x?}"
        );
    }
    count
}

fn options(pairs: u16, features: u64, bits: usize) -> Options {
    Options {
        features: feature::ANY_LAYOUT | feature::MTU | features,
        pairs,
        packed: bits & 1 != 0,
        mergeable: bits & 2 == 0,
        event_idx: bits & 4 != 0,
        legacy: bits & 9 == 8,
        rx_buffer_len: if bits & 2 == 0 { 2048 } else { 65_601 },
        tx_layout: Layout {
            header_alone: bits & 4 == 0,
            piece_len: 32_768,
        },
        // As many as there are segments in a flow.
        queue_size: 512,
        tx_len: 65_549,
        ..Options::default()
    }
}

/// How a flow must arrive.
#[track_caller]
fn check_count(flow: &[Super], [from, to]: [u64; 2], [sent, came]: [u64; 2]) {
    let kind = flow[0].kind;
    let [hands, takes] = kind.needs();
    let segments: usize = flow.iter().map(|s| s.parts.len()).sum();
    let (hands, takes) = (from & hands == hands, to & takes == takes);
    let supers = flow.len() as u64;
    assert_eq!(sent, if hands { supers } else { segments as u64 });
    match (kind, hands, takes) {
        (_, true, true) => assert_eq!(came, supers, "whole"),
        // GRO: each leaves with its PSH.
        (Kind::Tcp4 | Kind::Tcp6, false, true) => assert_eq!(came, supers, "coalesced"),
        (Kind::Udp4 | Kind::Udp6, false, _) => assert_eq!(came, sent, "as they were"),
        (Kind::Cwr4, _, _) => {}
        (_, _, false) => assert_eq!(came, segments as u64, "segmented"),
    }
}

#[track_caller]
fn pair_of(workers: usize, pairs: u16, off: [usize; 2], bits: usize) {
    let mut rig = Rig::new(workers);
    for _ in 0..2 {
        rig.port(|config| {
            config.queue_pairs = pairs;
            config.mtu = Some(MTU);
        });
    }
    // The other way round each has the other's set.
    let mut guests = [0, 1].map(|at| {
        let features = host(off[at]) | guest(off[1 - at]);
        rig.guest(at, options(pairs, features, bits >> (4 * at)))
    });
    acquaint(&rig, &mut guests);
    for (n, kind) in Kind::ALL.into_iter().enumerate() {
        let pair = n % usize::from(pairs);
        for from in [0, 1] {
            let [one, two] = &mut guests;
            let (a, b) = if from == 0 { (one, two) } else { (two, one) };
            let flow = flow(kind, mac(b.n), a.n);
            let sent = send(a, pair, &flow);
            let came = receive(b, &flow);
            check_count(&flow, [a.net.features(), b.net.features()], [sent, came]);
        }
    }
    rig.quiet();
    for guest in &mut guests {
        assert_eq!(guest.drain(), []);
    }
    assert_eq!(rig.state().books.dropped, 0);
}

#[test]
fn every_pair_of_offloads() {
    for from in 0..OFF.len() {
        for to in 0..OFF.len() {
            pair_of(1, 1, [from, to], 37 * from + 91 * to);
        }
    }
}

#[test]
fn every_pair_of_offloads_with_two_workers() {
    for from in 0..OFF.len() {
        for to in 0..OFF.len() {
            pair_of(2, 2, [from, to], 53 * from + 11 * to);
        }
    }
}

/// A flow to nobody in particular reaches all, each in the form it takes.
#[test]
fn floods_reach_each_guest_as_it_takes_them() {
    for workers in [1, 2] {
        let mut rig = Rig::new(workers);
        let mut guests = Vec::new();
        for off in 0..OFF.len() {
            rig.port(|config| config.mtu = Some(MTU));
            guests.push(rig.guest(off, options(1, host(0) | guest(off), off)));
        }
        acquaint(&rig, &mut guests);
        let multicast = [1, 0, 0x5E, 0, 0, 1];
        let unknown = mac(200);
        let mut flows = 0;
        for to in [BROADCAST, multicast, unknown] {
            for kind in Kind::ALL {
                let flow = flow(kind, to, 0);
                let (first, others) = guests.split_first_mut().expect("there are some");
                send(first, 0, &flow);
                for other in others {
                    receive(other, &flow);
                }
                flows += 1;
            }
        }
        let state = rig.quiet();
        assert_eq!(state.books.dropped, 0);
        assert_eq!(flows, 15);
        for guest in &mut guests {
            assert_eq!(guest.drain(), []);
        }
    }
}

/// DHCP answers of a guest that leaves checksums to others, to one that does not understand that.
#[test]
fn a_partial_checksum_is_finished_for_a_guest_that_takes_none() {
    let mut rig = Rig::of(1, 2, 1);
    rig.port(|config| config.takes = Caps::NONE);
    let all = |n: usize| options(1, ALL[0] | ALL[1], n);
    let plain = options(1, 0, 3);
    let mut guests = [
        rig.guest(0, all(0)),
        rig.guest(1, plain),
        rig.guest(2, all(2)),
    ];
    // What the operator switched off was not offered.
    assert_eq!(guests[2].net.features() & ALL[1], 0);
    acquaint(&rig, &mut guests);
    let offer = PacketBuilder::ethernet()
        .macs(BROADCAST, mac(0))
        .ipv4([192, 0, 2, 1], [255; 4])
        .udp(67, 68)
        .payload_len(301);
    queue_partial(&mut guests[0], 0, &offer, vnet_gso::NONE, 0);
    guests[0].net.flush(0).expect("a kick");
    for to in [1, 2] {
        let got = guests[to].recv();
        assert_eq!(got.packet, offer.build());
        assert_eq!(got.header[0], 0);
    }
    assert_eq!(rig.port_state(1).counters.software_checksums, 1);
}

#[test]
fn super_packets_pass_between_a_guest_and_memory() {
    for workers in [1, 2] {
        let mut rig = Rig::new(workers);
        rig.port(|config| config.mtu = Some(MTU));
        let whole = rig.mem(Caps::ALL, MTU.into());
        let mut guests = [rig.guest(0, options(1, ALL[0] | ALL[1], 0))];
        let hello = PacketBuilder::ethernet()
            .macs(BROADCAST, mac(9))
            .payload_len(20);
        whole.put(&jumbo_engine::vnet::VnetHeader::default(), &hello.build());
        assert_eq!(guests[0].recv().packet, hello.build());
        for kind in Kind::ALL {
            let there = flow(kind, mac(9), 0);
            send(&mut guests[0], 0, &there);
            let mut taken = Vec::new();
            eventually(
                || {
                    taken.extend(whole.taken());
                    taken.len() >= there.len()
                },
                || format!("{kind:?}: {} packets", there.len()),
            );
            assert_eq!(taken.len(), there.len());
            let seen: Vec<Vec<u8>> = taken.iter().flat_map(|p| mem_wire(p).packets).collect();
            let parts = there.iter().flat_map(|s| &s.parts);
            assert!(seen == parts.map(PacketBuilder::build).collect::<Vec<_>>());

            let mut back = flow(kind, mac(0), 9);
            back.truncate(1);
            let bytes = back[0].whole.clone().partial_checksum().build();
            let gso = (kind.gso_type(), back[0].size as u16);
            let header = VnetHeader::needs_csum(LINK, &bytes, gso.0, gso.1).expect("TCP or UDP");
            let mut raw = header.encode(VnetForm::Merged);
            raw.extend(bytes);
            whole.put_raw(raw);
            assert_eq!(receive(&mut guests[0], &back), 1);
        }
        rig.quiet();
    }
}

#[track_caller]
fn mem_wire(packet: &MemPacket) -> Wire {
    let v = &packet.vnet;
    let header = VnetHeader {
        flags: v.flags,
        gso_type: v.gso_type,
        hdr_len: v.hdr_len,
        gso_size: v.gso_size,
        csum_start: v.csum_start,
        csum_offset: v.csum_offset,
        ..VnetHeader::default()
    };
    wire(ALL[1], &header, &packet.bytes)
}
