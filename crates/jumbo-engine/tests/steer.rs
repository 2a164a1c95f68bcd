//! From a packet to its queue and worker: types and fall-backs, tables, guests' configurations.

use jumbo_engine::arena::Arena;
use jumbo_engine::packet::{Frag, Link};
use jumbo_engine::steer::{
    Choice, Desired, Flows, HashConfig, HashInput, HashReport, HashTypes, INDIRECTION_MAX,
    Indirection, IndirectionFault, MICROSOFT_KEY, Rps, Rss, RssConfig, RssFault, RssLimits,
    SYMMETRIC_KEY, Toeplitz, Transform, may_move, textbook,
};
use jumbo_testkit::{Extension, PacketBuilder};
use proptest::prelude::*;

const A: [u8; 4] = [66, 9, 149, 187];
const B: [u8; 4] = [161, 142, 100, 80];
const A6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const B6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
const HOME: [u8; 16] = [0xaa; 16];
const ROUTE: [u8; 16] = [0xbb; 16];
const PORTS: [u8; 4] = [0x0a, 0xea, 0x06, 0xe6];

fn v4() -> PacketBuilder {
    PacketBuilder::ethernet().ipv4(A, B)
}

fn v6() -> PacketBuilder {
    PacketBuilder::ethernet().ipv6(A6, B6)
}

fn tcp(base: PacketBuilder) -> PacketBuilder {
    base.tcp(2794, 1766).payload_len(100)
}

fn udp(base: PacketBuilder) -> PacketBuilder {
    base.udp(2794, 1766).payload_len(100)
}

/// Home address option, after a padding of one and one of two more bytes.
fn home() -> Extension {
    let body = [&[0, 1, 1, 0, 0xc9, 16][..], &HOME].concat();
    Extension::Destination(body)
}

fn route() -> Extension {
    Extension::Routing([&[2, 1, 0, 0, 0, 0][..], &ROUTE].concat())
}

fn with_packet<R>(bytes: &[u8], f: impl FnOnce(&jumbo_engine::packet::Packet) -> R) -> R {
    let mut arena = Arena::new(1, 1);
    let body = [Frag::new(0, bytes.len() as u32)];
    let admitted = arena.admit(Link::Ethernet, bytes, &body, None);
    f(arena.packet(admitted.expect("well formed").id))
}

/// What is chosen: the type and the bytes.
fn input(bytes: &[u8], types: HashTypes) -> Option<(HashReport, Vec<u8>)> {
    let input = with_packet(bytes, |packet| {
        HashInput::of(packet, types, Transform::None)
    });
    input.map(|input| (input.report(), input.as_bytes().to_vec()))
}

/// A packet; the types enabled; the type it gets, with the parts of the input.
type Row<'a> = (
    &'a str,
    PacketBuilder,
    HashTypes,
    HashReport,
    &'a [&'a [u8]],
);

#[test]
fn types_and_fall_backs() {
    use HashReport as R;
    use HashTypes as T;
    let first = |base: PacketBuilder| tcp(base).mf(true);
    let later = |base: PacketBuilder| tcp(base).fragment_offset(8);
    let piece = |offset| Extension::Fragment {
        offset,
        more: true,
        id: 1,
    };
    let (ip4, all4) = (&[&A[..], &B][..], &[&A[..], &B, &PORTS][..]);
    let (ip6, all6) = (&[&A6[..], &B6][..], &[&A6[..], &B6, &PORTS][..]);
    let mobile = || v6().extension(home()).extension(route());
    let (ip_ex, all_ex) = (&[&HOME[..], &ROUTE][..], &[&HOME[..], &ROUTE, &PORTS][..]);
    let no: &[&[u8]] = &[];
    let rows: &[Row] = &[
        ("tcp", tcp(v4()), T::ALL, R::TcpV4, all4),
        ("udp", udp(v4()), T::ALL, R::UdpV4, all4),
        ("other", v4().ip_proto(1), T::ALL, R::Ipv4, ip4),
        ("tcp, type off", tcp(v4()), T::IPV4 | T::UDPV4, R::Ipv4, ip4),
        ("udp, type off", udp(v4()), T::USUAL, R::Ipv4, ip4),
        ("udp, only tcp on", udp(v4()), T::TCPV4, R::None, no),
        (
            "tcp, only the other family on",
            tcp(v4()),
            T::IPV6 | T::TCPV6,
            R::None,
            no,
        ),
        ("none on", tcp(v4()), T::NONE, R::None, no),
        (
            "options",
            tcp(v4().ip_options(&[1, 1, 1, 0])),
            T::ALL,
            R::TcpV4,
            all4,
        ),
        ("vlan", tcp(v4().vlan(0x8100, 7)), T::ALL, R::TcpV4, all4),
        ("first fragment", first(v4()), T::ALL, R::Ipv4, ip4),
        ("later fragment", later(v4()), T::ALL, R::Ipv4, ip4),
        ("fragment, only tcp on", first(v4()), T::TCPV4, R::None, no),
        ("v6 tcp", tcp(v6()), T::ALL, R::TcpV6, all6),
        ("v6 udp", udp(v6()), T::ALL, R::UdpV6, all6),
        ("v6 other", v6().ip_proto(58), T::ALL, R::Ipv6, ip6),
        ("v6 tcp, type off", tcp(v6()), T::IPV6, R::Ipv6, ip6),
        (
            "v6, _ex alone, no extension",
            tcp(v6()),
            T::TCP_EX | T::IP_EX,
            R::None,
            no,
        ),
        (
            "v6 fragment",
            tcp(v6().extension(piece(0))),
            T::USUAL,
            R::Ipv6,
            ip6,
        ),
        (
            "v6 fragment, all on",
            tcp(v6().extension(piece(0))),
            T::ALL,
            R::Ipv6Ex,
            ip6,
        ),
        ("mobile tcp", tcp(mobile()), T::ALL, R::TcpV6Ex, all_ex),
        ("mobile udp", udp(mobile()), T::ALL, R::UdpV6Ex, all_ex),
        (
            "mobile other",
            mobile().ip_proto(58),
            T::ALL,
            R::Ipv6Ex,
            ip_ex,
        ),
        (
            "mobile, tcp_ex off",
            tcp(mobile()),
            T::USUAL | T::IP_EX,
            R::Ipv6Ex,
            ip_ex,
        ),
        ("mobile, _ex off", tcp(mobile()), T::USUAL, R::TcpV6, all6),
        (
            "mobile udp, only tcp_ex on",
            udp(mobile()),
            T::TCP_EX,
            R::None,
            no,
        ),
        (
            "home only",
            tcp(v6().extension(home())),
            T::ALL,
            R::TcpV6Ex,
            &[&HOME, &B6, &PORTS],
        ),
        (
            "route only",
            tcp(v6().extension(route())),
            T::ALL,
            R::TcpV6Ex,
            &[&A6, &ROUTE, &PORTS],
        ),
        (
            "another extension",
            tcp(v6().extension(Extension::HopByHop(vec![1, 4, 0, 0, 0, 0]))),
            T::ALL,
            R::TcpV6Ex,
            all6,
        ),
        (
            "routing type 0 with nothing left",
            tcp(v6().extension(Extension::Routing(
                [&[0, 0, 0, 0, 0, 0][..], &ROUTE].concat(),
            ))),
            T::ALL,
            R::TcpV6Ex,
            all6,
        ),
        (
            "home behind a fragment header",
            tcp(v6().extension(piece(0)).extension(home())),
            T::ALL,
            R::Ipv6Ex,
            ip6,
        ),
    ];
    for (name, packet, types, report, parts) in rows {
        let expected = (*report != R::None).then(|| (*report, parts.concat()));
        assert_eq!(input(&packet.build(), *types), expected, "{name}");
    }
}

#[test]
fn neither_ip_nor_arp_has_a_hash() {
    let other = PacketBuilder::ethernet().ethertype(0x88cc).payload_len(60);
    assert_eq!(input(&other.build(), HashTypes::ALL), None);
    let mut cut = tcp(v4()).build();
    cut.truncate(30);
    assert_eq!(input(&cut, HashTypes::ALL), None);
}

/// Numbers of `hash_report` and bits of `hash_types`: virtio 1.3 section 5.1.6.4.3.
#[test]
fn numbers_are_virtios() {
    let reports = [
        (HashReport::None, 0, HashTypes::NONE),
        (HashReport::Ipv4, 1, HashTypes::IPV4),
        (HashReport::TcpV4, 2, HashTypes::TCPV4),
        (HashReport::UdpV4, 3, HashTypes::UDPV4),
        (HashReport::Ipv6, 4, HashTypes::IPV6),
        (HashReport::TcpV6, 5, HashTypes::TCPV6),
        (HashReport::UdpV6, 6, HashTypes::UDPV6),
        (HashReport::Ipv6Ex, 7, HashTypes::IP_EX),
        (HashReport::TcpV6Ex, 8, HashTypes::TCP_EX),
        (HashReport::UdpV6Ex, 9, HashTypes::UDP_EX),
    ];
    for (report, number, types) in reports {
        assert_eq!((report.number(), report.as_type()), (number, types));
        assert_eq!(
            types.bits(),
            if number == 0 { 0 } else { 1 << (number - 1) }
        );
        assert_eq!(HashTypes::from_bits(types.bits()), Some(types));
    }
    assert_eq!(HashTypes::from_bits(512), None);
}

fn rss(key: &[u8], queues: usize) -> Rss {
    let table = Indirection::even(128, queues).unwrap();
    Rss::new(Toeplitz::new(key), HashTypes::USUAL, table)
}

#[test]
fn a_packet_gets_its_queue() {
    let rss = rss(&MICROSOFT_KEY, 4).with_unclassified(3);
    let choose = |packet: PacketBuilder| with_packet(&packet.build(), |p| rss.choose(p));
    let expected = Choice {
        queue: (0x51ccc178u32 % 128 % 4) as u16,
        hash: 0x51ccc178,
        report: HashReport::TcpV4,
    };
    assert_eq!(choose(tcp(v4())), expected);
    let unclassified = Choice {
        queue: 3,
        hash: 0,
        report: HashReport::None,
    };
    assert_eq!(
        choose(PacketBuilder::ethernet().ethertype(0x88cc)),
        unclassified
    );
}

#[test]
fn transforms_are_linuxs() {
    let bytes = tcp(v4()).build();
    let of = |transform| {
        let input = with_packet(&bytes, |p| HashInput::of(p, HashTypes::ALL, transform));
        input.unwrap().as_bytes().to_vec()
    };
    let pair = |f: fn(u8, u8) -> u8| {
        let addresses: Vec<u8> = A.iter().zip(B).map(|(a, b)| f(*a, b)).collect();
        let ports = vec![f(PORTS[0], PORTS[2]), f(PORTS[1], PORTS[3])];
        (addresses, ports)
    };
    let (xor, or) = (pair(|a, b| a ^ b), pair(|a, b| a | b));
    let (xa, xp) = (&xor.0[..], &xor.1[..]);
    assert_eq!(of(Transform::SymmetricXor), [xa, xa, xp, xp].concat());
    assert_eq!(
        of(Transform::SymmetricOrXor),
        [&or.0, xa, &or.1, xp].concat()
    );
    assert_eq!(of(Transform::None), [&A[..], &B, &PORTS].concat());
}

proptest! {
    /// Either way to symmetry: both directions of a connection go to one queue.
    #[test]
    fn symmetric_laws(a: [u8; 16], b: [u8; 16], ports: [u16; 2], is_v6: bool, key: [u8; 40]) {
        let [from, to] = ports;
        let packet = |a: [u8; 16], b: [u8; 16], from, to| {
            let base = PacketBuilder::ethernet();
            let base = if is_v6 {
                base.ipv6(a, b)
            } else {
                base.ipv4(*a.first_chunk().unwrap(), *b.first_chunk().unwrap())
            };
            base.tcp(from, to).build()
        };
        let (there, back) = (packet(a, b, from, to), packet(b, a, to, from));
        let all = [
            rss(&SYMMETRIC_KEY, 4),
            rss(&key, 4).with_transform(Transform::SymmetricXor),
            rss(&key, 4).with_transform(Transform::SymmetricOrXor),
        ];
        for rss in all {
            let one = with_packet(&there, |packet| rss.choose(packet));
            prop_assert_eq!(one, with_packet(&back, |packet| rss.choose(packet)));
        }
    }

    /// Any bytes get an answer, and one within the table.
    #[test]
    fn any_bytes_get_an_answer(
        mut bytes in proptest::collection::vec(any::<u8>(), 14..200),
        kind in 0..3usize,
        next in proptest::sample::select(vec![0u8, 43, 44, 60, 6, 17]),
    ) {
        if kind > 0 && bytes.len() > 24 {
            let ethertype: [u8; 2] = [[0x08, 0x00], [0x86, 0xdd]][kind - 1];
            bytes[12..14].copy_from_slice(&ethertype);
            bytes[14] = [0x45, 0x60][kind - 1];
            let len = (bytes.len() - 54.min(bytes.len())) as u16;
            bytes[18..20].copy_from_slice(&len.to_be_bytes());
            bytes[20] = next;
        }
        let table = Indirection::even(8, 3).unwrap();
        let rss = Rss::new(Toeplitz::new(&MICROSOFT_KEY), HashTypes::ALL, table);
        let choice = with_packet(&bytes, |packet| rss.choose(packet));
        prop_assert!(choice.queue < 3);
    }
}

#[test]
fn tables_have_bounds() {
    for entries in [1, 2, 128, INDIRECTION_MAX] {
        let table = Indirection::even(entries, 3).unwrap();
        let counts = (0..3).map(|q| table.entries().iter().filter(|e| **e == q).count());
        let counts: Vec<_> = counts.collect();
        let spread = counts.iter().max().unwrap() - counts.iter().min().unwrap();
        assert!(spread <= 1, "{counts:?}");
        // The low bits choose, and all of them.
        let last = table.entries()[entries - 1];
        assert_eq!(table.queue(u32::MAX), last);
        assert_eq!(table.queue(0xffff_0000), 0);
    }
    for entries in [0, 3, 127, INDIRECTION_MAX * 2] {
        let fault = Err(IndirectionFault::Entries(entries));
        assert_eq!(Indirection::even(entries, 1), fault);
        assert_eq!(Indirection::new(vec![0; entries]), fault);
    }
    assert_eq!(Indirection::even(128, 0), Err(IndirectionFault::Queues(0)));
    assert_eq!(
        Indirection::even(128, 65537),
        Err(IndirectionFault::Queues(65537))
    );
    assert_eq!(
        Indirection::even(1 << 16, 1 << 16).unwrap().queue(!0),
        65535
    );
}

/// 40000 connections of random ports and addresses over 8 queues, 5000 expected in each. Were they
/// thrown at random, a queue's count would have a standard deviation of
/// sqrt(40000 * 1/8 * 7/8) = 66; five of them, 331, are left by one honest run in 200000 or so. The
/// seed is fixed, so this passes always or never.
#[test]
fn connections_spread_evenly() {
    let mut state = 7u64;
    let mut random = || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 32) as u32
    };
    let (table, rps) = (
        Indirection::even(128, 8).unwrap(),
        Rps::new((0..8).collect::<Vec<u16>>()),
    );
    let toeplitz = Toeplitz::new(&MICROSOFT_KEY);
    let (mut queues, mut workers) = ([0i32; 8], [0i32; 8]);
    for _ in 0..40_000 {
        let tuple = [random(), random(), random()]
            .map(u32::to_be_bytes)
            .concat();
        let hash = toeplitz.hash(&tuple);
        queues[usize::from(table.queue(hash))] += 1;
        workers[usize::from(rps.worker(hash).unwrap())] += 1;
    }
    for count in queues.iter().chain(&workers) {
        assert!((count - 5000).abs() < 331, "{queues:?} {workers:?}");
    }
}

#[test]
fn rps_multiplies() {
    let rps = Rps::new([7, 8, 9]);
    // The borders of thirds of 2^32.
    assert_eq!(rps.worker(0), None);
    assert_eq!(rps.worker(1), Some(7));
    assert_eq!(rps.worker(0x5555_5555), Some(7));
    assert_eq!(rps.worker(0x5555_5556), Some(8));
    assert_eq!(rps.worker(0xaaaa_aaaa), Some(8));
    assert_eq!(rps.worker(0xaaaa_aaab), Some(9));
    assert_eq!(rps.worker(u32::MAX), Some(9));
    assert_eq!(Rps::default().worker(5), None);
}

#[test]
fn a_wish_is_that_of_its_own_flow() {
    let mut desired = Desired::new(16, 4);
    assert_eq!(desired.worker(0x1234_0005), None);
    desired.record(0x1234_0005, 3);
    assert_eq!(desired.worker(0x1234_0005), Some(3));
    // The same entry, another flow; then that one writes.
    assert_eq!(desired.worker(0x9999_0005), None);
    desired.record(0x9999_0005, 0);
    assert_eq!(desired.worker(0x1234_0005), None);
    assert_eq!(desired.worker(0x9999_0005), Some(0));
    // No hash, no flow; a worker beyond what was said is not noted.
    desired.record(0, 1);
    assert_eq!(desired.worker(0), None);
    desired.record(0x7777_0001, 9);
    assert_eq!(desired.worker(0x7777_0001), None);
    // A hash that looks like an empty entry.
    assert_eq!(Desired::new(1, 1).worker(u32::MAX), None);
}

#[test]
fn a_flow_moves_when_it_cannot_be_reordered() {
    assert!(may_move(None, 5));
    assert!(!may_move(Some(4), 5));
    assert!(may_move(Some(5), 5));
    // Across the wrap.
    assert!(!may_move(Some(u32::MAX), 0));
    assert!(may_move(Some(0), u32::MAX));
}

#[test]
fn flows_follow_their_consumers() {
    let mut flows = Flows::new(8);
    let heads = |worker: u16| (worker < 2).then_some(100 * u32::from(worker));
    let hash = 0xabcd_0003;
    assert_eq!(flows.steer(hash, None, &heads), None, "nobody wants it");
    assert_eq!(
        flows.steer(hash, Some(0), &heads),
        Some(0),
        "unset: goes there"
    );
    flows.enqueued(hash, 1);
    assert_eq!(
        flows.steer(hash, Some(1), &heads),
        Some(0),
        "one is still in 0"
    );
    assert_eq!(
        flows.steer(hash, Some(0), &heads),
        Some(0),
        "wanted where it is"
    );
    let later = |worker: u16| (worker < 2).then_some(1 + 100 * u32::from(worker));
    assert_eq!(
        flows.steer(hash, Some(1), &later),
        Some(1),
        "taken out: moves"
    );
    flows.enqueued(hash, 102);
    assert_eq!(flows.steer(hash, Some(0), &later), Some(1));
    let gone = |worker: u16| (worker == 0).then_some(1);
    assert_eq!(
        flows.steer(hash, Some(0), &gone),
        Some(0),
        "its worker is gone"
    );
    assert_eq!(
        flows.steer(hash, Some(1), &gone),
        None,
        "wanted by one that is gone"
    );
}

/// A model of workers' queues: whatever is wanted and taken out, a flow is never reordered.
fn never_reordered(steps: &[(u8, u16, u8)]) -> Result<(), TestCaseError> {
    let mut flows = Flows::new(4);
    let (mut heads, mut tails) = ([u32::MAX - 3; 3], [u32::MAX - 3; 3]);
    let mut in_queue: [std::collections::VecDeque<(u32, u64)>; 3] = Default::default();
    let mut last_out = [0u64; 16];
    for (serial, (flow, wanted, drain)) in (1u64..).zip(steps) {
        let flow = u32::from(flow % 16);
        let now = heads;
        let worker = flows.steer(flow, Some(wanted % 3), &|w: u16| {
            now.get(usize::from(w)).copied()
        });
        let worker = usize::from(worker.expect("all workers are there"));
        tails[worker] = tails[worker].wrapping_add(1);
        in_queue[worker].push_back((flow, serial));
        flows.enqueued(flow, tails[worker]);
        let drained = usize::from(drain % 3);
        for _ in 0..drain / 64 {
            if let Some((flow, serial)) = in_queue[drained].pop_front() {
                heads[drained] = heads[drained].wrapping_add(1);
                prop_assert!(
                    last_out[flow as usize] < serial,
                    "flow {flow} was reordered"
                );
                last_out[flow as usize] = serial;
            }
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn flows_are_never_reordered(steps in proptest::collection::vec(any::<(u8, u16, u8)>(), 1..300)) {
        never_reordered(&steps)?;
    }
}

/// A command as a guest writes it.
#[derive(Clone)]
struct Command {
    types: u32,
    mask: u16,
    unclassified: u16,
    table: Vec<u16>,
    tx_queues: u16,
    key: Vec<u8>,
}

impl Command {
    /// As Linux would write it for four queues.
    fn good() -> Self {
        Self {
            types: 0x3f,
            mask: 127,
            unclassified: 0,
            table: (0..128).map(|i| i % 4).collect(),
            tx_queues: 4,
            key: MICROSOFT_KEY.to_vec(),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.types.to_le_bytes().to_vec();
        bytes.extend(self.mask.to_le_bytes());
        bytes.extend(self.unclassified.to_le_bytes());
        bytes.extend(self.table.iter().flat_map(|id| id.to_le_bytes()));
        bytes.extend(self.tx_queues.to_le_bytes());
        bytes.push(self.key.len() as u8);
        bytes.extend(&self.key);
        bytes
    }

    fn decode(&self) -> Result<RssConfig, RssFault> {
        RssConfig::decode(&self.bytes(), &RssLimits::least(4))
    }
}

#[test]
fn a_guests_configuration_is_taken() {
    let config = Command::good().decode().unwrap();
    assert_eq!(config.hash_types.bits(), 0x3f);
    assert_eq!(config.table, Indirection::even(128, 4).unwrap());
    assert_eq!((config.unclassified_queue, config.tx_queues), (0, 4));
    assert_eq!(&config.key[..], MICROSOFT_KEY);
    let choice = with_packet(&tcp(v4()).build(), |p| config.into_rss().choose(p));
    assert_eq!((choice.hash, choice.queue), (0x51ccc178, 0));

    // No types: everything is unclassified, and no key is needed.
    let off = Command {
        types: 0,
        mask: 0,
        unclassified: 2,
        table: vec![0],
        key: vec![],
        ..Command::good()
    };
    let rss = off.decode().unwrap().into_rss();
    let choice = with_packet(&tcp(v4()).build(), |p| rss.choose(p));
    assert_eq!((choice.queue, choice.report), (2, HashReport::None));

    // A short key is one with zeros behind.
    let mut short = Command::good();
    short.key.truncate(8);
    let choice = with_packet(&tcp(v4()).build(), |p| {
        short.decode().unwrap().into_rss().choose(p)
    });
    let tuple = [&A[..], &B, &PORTS].concat();
    assert_eq!(choice.hash, textbook::hash(&MICROSOFT_KEY[..8], &tuple));
}

#[test]
fn a_guests_mistakes_are_named() {
    let good = Command::good;
    let table = |len: u16| (0..len).map(|i| i % 4).collect::<Vec<_>>();
    let with = |at: usize, id| {
        let mut table = table(128);
        table[at] = id;
        table
    };
    let rows = [
        (
            Command {
                types: 0x201,
                ..good()
            },
            RssFault::HashTypes(0x200),
        ),
        (
            Command {
                mask: 126,
                table: table(127),
                ..good()
            },
            RssFault::TableLength(127),
        ),
        (
            Command {
                mask: 255,
                table: table(256),
                ..good()
            },
            RssFault::TableTooLong(256),
        ),
        (
            Command {
                mask: 0xffff,
                ..good()
            },
            RssFault::TableTooLong(65536),
        ),
        (
            Command {
                table: with(127, 4),
                ..good()
            },
            RssFault::TableQueue(4),
        ),
        (
            Command {
                table: with(0, 0x8000),
                ..good()
            },
            RssFault::ReservedBit(0x8000),
        ),
        (
            Command {
                unclassified: 4,
                ..good()
            },
            RssFault::UnclassifiedQueue(4),
        ),
        (
            Command {
                unclassified: 0x8001,
                ..good()
            },
            RssFault::ReservedBit(0x8001),
        ),
        (
            Command {
                tx_queues: 0,
                ..good()
            },
            RssFault::TxQueues(0),
        ),
        (
            Command {
                tx_queues: 5,
                ..good()
            },
            RssFault::TxQueues(5),
        ),
        (
            Command {
                key: vec![1; 41],
                ..good()
            },
            RssFault::KeyTooLong(41),
        ),
        (
            Command {
                key: vec![],
                ..good()
            },
            RssFault::NoKey,
        ),
    ];
    for (command, fault) in rows {
        assert_eq!(command.decode(), Err(fault), "{fault}");
    }
    let bytes = good().bytes();
    for len in 0..bytes.len() {
        let cut = RssConfig::decode(&bytes[..len], &RssLimits::least(4));
        assert_eq!(cut, Err(RssFault::Truncated), "{len}");
    }
    // Of the types offered, not of those we know.
    let limits = RssLimits {
        hash_types: HashTypes::USUAL,
        ..RssLimits::least(4)
    };
    let refused = RssConfig::decode(&bytes, &limits);
    assert_eq!(refused, Err(RssFault::HashTypes(0x3f & !0x1b)));
}

#[test]
fn a_guests_hash_configuration() {
    let limits = RssLimits::least(1);
    let mut bytes = vec![0x3f, 0, 0, 0];
    bytes.extend([0; 8]);
    bytes.push(40);
    bytes.extend(MICROSOFT_KEY);
    let config = HashConfig::decode(&bytes, &limits).unwrap();
    assert_eq!(
        (config.hash_types.bits(), &config.key[..]),
        (0x3f, &MICROSOFT_KEY[..])
    );
    for len in 0..bytes.len() {
        let cut = HashConfig::decode(&bytes[..len], &limits);
        assert_eq!(cut, Err(RssFault::Truncated));
    }
}

proptest! {
    /// What is accepted can be used: every queue it can name is there.
    #[test]
    fn accepted_means_usable(
        bytes in proptest::collection::vec(0u8..4, 0..120),
        queues in 1u16..4,
    ) {
        let limits = RssLimits { entries_max: 32, ..RssLimits::least(queues) };
        if let Ok(config) = RssConfig::decode(&bytes, &limits) {
            prop_assert!(config.table.entries().len() <= 32);
            prop_assert!(config.table.entries().iter().all(|queue| *queue < queues));
            prop_assert!(config.unclassified_queue < queues);
            prop_assert!((1..=queues).contains(&config.tx_queues));
        }
    }
}
