//! Captures made by hand.

use std::path::Path;

use jumbo_ports::capture::CaptureReader;
use jumbo_testkit::{PacketBuilder, tcp_flags};

pub(crate) const ETHERNET: u32 = 1;
pub(crate) const RAW_IP: u32 = 101;
pub(crate) const COOKED: u32 = 113;
pub(crate) const COOKED_V2: u32 = 276;

/// A packet in a capture.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) ts_ns: u64,
    pub(crate) bytes: Vec<u8>,
    pub(crate) orig_len: u32,
}

/// Whole packets, a microsecond apart.
pub(crate) fn together(packets: impl IntoIterator<Item = Vec<u8>>) -> Vec<Packet> {
    let packet = |(i, bytes): (usize, Vec<u8>)| Packet {
        ts_ns: 1_000_000_000 + 1000 * i as u64,
        orig_len: bytes.len() as u32,
        bytes,
    };
    packets.into_iter().enumerate().map(packet).collect()
}

/// A pcap file with nanosecond times.
pub(crate) fn pcap(link: u32, packets: &[Packet]) -> Vec<u8> {
    let words = |words: &[u32]| -> Vec<u8> { words.iter().flat_map(|w| w.to_le_bytes()).collect() };
    let mut file = words(&[0xa1b2_3c4d, 0x0004_0002, 0, 0, 262_144, link]);
    for packet in packets {
        file.extend(words(&[
            (packet.ts_ns / 1_000_000_000) as u32,
            (packet.ts_ns % 1_000_000_000) as u32,
            packet.bytes.len() as u32,
            packet.orig_len,
        ]));
        file.extend(&packet.bytes);
    }
    file
}

/// The `i`-th segment of 1000 bytes of a TCP flow over IPv4.
pub(crate) fn segment(start: PacketBuilder, i: u32) -> PacketBuilder {
    start
        .tcp(40000, 5001)
        .seq(1 + 1000 * i)
        .payload_len(1000)
        .flags(tcp_flags::ACK)
}

/// So many segments one behind the other, as Ethernet packets.
pub(crate) fn train(count: u16) -> Vec<Vec<u8>> {
    let one = |i: u16| segment(PacketBuilder::ethernet(), i.into()).id(i).build();
    (0..count).map(one).collect()
}

/// All packets of a capture file.
pub(crate) fn read(path: &Path) -> Vec<Packet> {
    let mut reader = CaptureReader::open(path).expect("a capture");
    let mut packets = Vec::new();
    while let Some(record) = reader.next_record() {
        let record = record.expect("whole");
        packets.push(Packet {
            ts_ns: record.ts_ns.expect("a time"),
            bytes: record.data.to_vec(),
            orig_len: record.orig_len,
        });
    }
    packets
}
