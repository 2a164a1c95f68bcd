//! The fuzz targets' bodies over a small corpus and, each time the same, mutations of it.

mod support;

use jumbo_engine::fuzz_bodies;
use jumbo_engine::packet::Link;
use jumbo_engine::vnet::{Form, VnetHeader};
use jumbo_testkit::oracle::{vnet_flags, vnet_gso};
use jumbo_testkit::script::{IpId, TcpStream, UdpStream, interleave};
use jumbo_testkit::{Extension, PacketBuilder, tcp_flags};
use std::path::PathBuf;
use support::needs_csum;

type Body = fn(&[u8]);

const BODIES: [(&str, Body); 3] = [
    ("parse", fuzz_bodies::parse),
    ("vnet_header", fuzz_bodies::vnet_header),
    ("coalesce_and_segment", fuzz_bodies::coalesce_and_segment),
];

fn folder(name: &str) -> PathBuf {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus");
    PathBuf::from(corpus).join(name)
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(folder(name)).expect("the corpus is in the repository");
    let mut paths: Vec<_> = entries
        .map(|entry| entry.expect("readable").path())
        .collect();
    paths.sort();
    let read = |path| std::fs::read(path).expect("readable");
    paths.into_iter().map(read).collect()
}

/// xorshift64*: the same numbers each time.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

/// A few small changes where headers are.
fn mutated(seed: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut data = seed.to_vec();
    for _ in 0..1 + rng.below(4) {
        let at = match rng.below(3) {
            0 => rng.below(data.len()),
            _ => rng.below(data.len().min(90)),
        };
        let Some(byte) = data.get_mut(at) else {
            continue;
        };
        match rng.below(6) {
            0 => *byte ^= 1 << rng.below(8),
            1 => *byte = rng.next() as u8,
            2 => *byte = [0, 1, 0x7F, 0x80, 0xFF][rng.below(5)],
            3 => *byte = byte.wrapping_add(1),
            4 if rng.below(4) == 0 => data.truncate(at),
            _ => {
                let from = rng.below(data.len() - at) + at;
                data.copy_within(from.., at);
            }
        }
    }
    data
}

#[test]
fn the_corpus_and_its_mutations_break_nothing() {
    let rounds = [
        ("parse", 6000),
        ("vnet_header", 6000),
        ("coalesce_and_segment", 600),
    ];
    for ((name, body), (_, rounds)) in BODIES.iter().zip(rounds) {
        let seeds = corpus(name);
        assert!(!seeds.is_empty(), "{name}");
        let mut rng = Rng(0x5EED);
        for seed in &seeds {
            body(seed);
            for len in 0..seed.len().min(120) {
                body(&seed[..len]);
            }
        }
        for round in 0..rounds {
            let seed = &seeds[round % seeds.len()];
            body(&mutated(seed, &mut rng));
        }
    }
}

/// The corpus is what the builders below make; `UPDATE_CORPUS=1` writes it anew.
#[test]
fn the_corpus_is_fresh() {
    for (index, packet) in singles().into_iter().enumerate() {
        seed("parse", index, &packet);
    }
    for (index, (header, packet)) in with_headers().into_iter().enumerate() {
        seed("vnet_header", index, &[header, packet].concat());
    }
    for (index, records) in trains().into_iter().enumerate() {
        seed("coalesce_and_segment", index, &records);
    }
}

fn seed(name: &str, index: usize, bytes: &[u8]) {
    let path = folder(name).join(format!("{index:02}"));
    if std::env::var_os("UPDATE_CORPUS").is_some() {
        std::fs::create_dir_all(folder(name)).expect("writable");
        std::fs::write(&path, bytes).expect("writable");
    }
    let there = std::fs::read(&path).expect("a seed");
    assert_eq!(there, bytes, "{} is stale", path.display());
}

fn v6() -> PacketBuilder {
    PacketBuilder::ethernet().ipv6([1; 16], [2; 16])
}

fn singles() -> Vec<Vec<u8>> {
    let v4 = PacketBuilder::ethernet().payload_len(30);
    let packets = [
        v4.clone().timestamps(1, 2),
        v4.clone().udp(1, 2),
        v4.clone().vlan(0x88A8, 1).vlan(0x8100, 2),
        v4.clone().ip_options(&[1; 40]),
        v4.clone().mf(true),
        v6().payload_len(30),
        v6().extension(Extension::HopByHop(vec![0; 6]))
            .extension(Extension::Destination(vec![0; 14]))
            .udp(1, 2),
        v6().extension(Extension::Fragment {
            offset: 1,
            more: true,
            id: 1,
        }),
        PacketBuilder::raw_ip().payload_len(10),
        PacketBuilder::raw_ip().ipv6([1; 16], [2; 16]).udp(1, 2),
    ];
    packets.iter().map(PacketBuilder::build).collect()
}

/// In the form of 12 bytes.
fn encoded(header: VnetHeader) -> Vec<u8> {
    let mut bytes = vec![0; 12];
    header.encode(Form::Modern12, &mut bytes).expect("room");
    bytes
}

fn with_headers() -> Vec<(Vec<u8>, Vec<u8>)> {
    let cases = [
        (PacketBuilder::ethernet(), vnet_gso::TCPV4),
        (
            PacketBuilder::ethernet().vlan(0x8100, 7),
            vnet_gso::TCPV4 | vnet_gso::ECN,
        ),
        (v6(), vnet_gso::TCPV6),
        (v6().udp(1, 2), vnet_gso::UDP_L4),
        (PacketBuilder::ethernet().udp(1, 2), vnet_gso::NONE),
        (PacketBuilder::ethernet().udp(1, 2), vnet_gso::UDP),
        (v6().udp(1, 2), vnet_gso::UDP),
    ];
    let mut all = Vec::new();
    for (builder, gso_type) in cases {
        let packet = builder.payload_len(100).partial_checksum().build();
        let size = if gso_type == vnet_gso::NONE { 0 } else { 40 };
        let header = needs_csum(Link::Ethernet, &packet, gso_type, size);
        all.push((encoded(header), packet));
    }
    all
}

fn record(flags: u8, header: &[u8], packet: &[u8]) -> Vec<u8> {
    let len = (packet.len() as u16).to_le_bytes();
    [&[flags], &len[..], header, packet].concat()
}

fn trains() -> Vec<Vec<u8>> {
    let base = PacketBuilder::ethernet();
    let stream = |base: PacketBuilder| TcpStream::new(base).segments(4).mss(50).last_len(21);
    let plain = |packets: Vec<Vec<u8>>, flags: u8| -> Vec<u8> {
        packets
            .iter()
            .flat_map(|packet| record(flags, &[], packet))
            .collect()
    };
    let mut trains = vec![
        plain(stream(base.clone()).push_last().packets(), 0),
        plain(stream(v6()).timestamps(1, 2).fin_last().packets(), 16),
        plain(
            stream(PacketBuilder::raw_ip())
                .ids(IpId::Fixed(7))
                .packets(),
            4,
        ),
        plain(
            interleave(vec![
                stream(base.clone().vlan(0x8100, 7)).packets(),
                stream(base.clone().tcp(9, 9))
                    .first_flags(tcp_flags::CWR)
                    .packets(),
                UdpStream::new(base.clone().udp(1, 2))
                    .datagrams(3, 40, 9)
                    .packets(),
            ]),
            0,
        ),
        plain(stream(base.clone()).packets(), 8),
    ];
    for (header, packet) in with_headers() {
        trains.push([record(1, &header, &packet), record(33, &header, &packet)].concat());
    }
    let valid = encoded(VnetHeader {
        flags: vnet_flags::DATA_VALID,
        ..VnetHeader::default()
    });
    let packets = stream(base).packets();
    trains.push(
        packets
            .iter()
            .flat_map(|packet| record(3, &valid, packet))
            .collect(),
    );
    // Under each of the lossy tables, with acknowledgements that move, and none of their own between.
    for personality in 1..4u8 {
        let moving = (0..5u32).flat_map(|n| {
            let packet = PacketBuilder::ethernet().df(true).id(n as u16).ack(n / 2);
            let len = if n == 3 { 0 } else { 40 };
            let packet = packet.seq(1 + 40 * n.min(3)).timestamps(n, 5);
            record(personality << 6, &[], &packet.payload_len(len).build())
        });
        trains.push(moving.collect());
    }
    trains
}

/// A kernel's super-packets of two segments: four are more than an IP length can say. Too much work to
/// be mutated here.
#[test]
fn a_long_train_breaks_nothing() {
    let long = |n: u32| {
        let packet = PacketBuilder::ethernet().id(2 * n as u16);
        let packet = packet
            .seq(1 + 20_040 * n)
            .payload_len(40)
            .partial_checksum();
        let packet = packet.build();
        let header = needs_csum(Link::Ethernet, &packet, vnet_gso::TCPV4, 10_020);
        record(35, &encoded(header), &packet)
    };
    let train: Vec<u8> = (0..4).flat_map(long).collect();
    fuzz_bodies::coalesce_and_segment(&train);
}
