//! Kinds of captures: links, compression, snap lengths, times.

use std::io::Write;

use jumbo_testkit::PacketBuilder;
use serde_json::{Value, json};

use crate::captures::{
    COOKED, COOKED_V2, ETHERNET, Packet, RAW_IP, pcap, read, segment, together, train,
};
use crate::{json_of, replay, replay_with, report};

fn raw_train(count: u16) -> Vec<Vec<u8>> {
    let one = |i: u16| segment(PacketBuilder::raw_ip(), i.into()).id(i).build();
    (0..count).map(one).collect()
}

/// Linux cooked v1: packet type, ARPHRD_ETHER, 6 bytes of address, EtherType.
fn cooked(kind: u8, ethertype: u16, ip: &[u8]) -> Vec<u8> {
    let mut packet = vec![0, kind, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0];
    packet.extend(ethertype.to_be_bytes());
    packet.extend(ip);
    packet
}

/// Linux cooked v2: EtherType, reserved, interface, ARPHRD_ETHER, packet type, address.
fn cooked_v2(interface: u8, ip: &[u8]) -> Vec<u8> {
    let mut packet = vec![
        8, 0, 0, 0, 0, 0, 0, interface, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0,
    ];
    packet.extend(ip);
    packet
}

fn one_super_packet(report: &Value, packets: u64) {
    assert_eq!(report["packets_in"], packets);
    assert_eq!(report["packets_out"], 1);
    assert_eq!(report["reasons"], json!({"burst_end": 1}));
    assert_eq!(report["payload_bytes_out"], 1000 * packets);
    assert_eq!(report["flows"][0]["src"], "192.0.2.1");
}

#[test]
fn ethernet_raw_ip_and_cooked_are_read() {
    one_super_packet(&report(&pcap(ETHERNET, &together(train(7))), &[]), 7);
    one_super_packet(&report(&pcap(RAW_IP, &together(raw_train(7))), &[]), 7);
    let packets = raw_train(7).into_iter().map(|ip| cooked(0, 0x0800, &ip));
    one_super_packet(&report(&pcap(COOKED, &together(packets)), &[]), 7);
    let packets = raw_train(7).into_iter().map(|ip| cooked_v2(3, &ip));
    one_super_packet(&report(&pcap(COOKED_V2, &together(packets)), &[]), 7);
}

#[test]
fn raw_ipv6_is_read() {
    let (src, dst) = ([0xfd; 16], [0xfe; 16]);
    let one = |i| segment(PacketBuilder::raw_ip().ipv6(src, dst), i).build();
    let report = report(&pcap(RAW_IP, &together((0..5).map(one))), &[]);
    assert_eq!(report["packets_out"], 1);
    assert_eq!(report["flows"][0]["protocol"], "tcp");
}

#[test]
fn what_came_by_different_ways_is_not_merged() {
    // The same packets seen on two interfaces of a bridge would repeat each other.
    let both = raw_train(4)
        .into_iter()
        .flat_map(|ip| [cooked_v2(3, &ip), cooked_v2(4, &ip)]);
    let report = report(&pcap(COOKED_V2, &together(both)), &[]);
    assert_eq!(report["packets_out"], 2);
    assert_eq!(report["reasons"], json!({"burst_end": 2}));
}

#[test]
fn cooked_packets_keep_their_header() {
    let dir = tempfile::tempdir().expect("a directory");
    let out = dir.path().join("out.pcapng");
    let mut packets: Vec<_> = raw_train(3)
        .iter()
        .map(|ip| cooked(0, 0x0800, ip))
        .collect();
    packets.push(cooked(4, 0x0806, &[0; 28]));
    let file = pcap(COOKED, &together(packets.clone()));
    let report = report(&file, &["-o", out.to_str().expect("text")]);
    assert_eq!(
        report["reasons"],
        json!({"burst_end": 1, "cooked_not_ip": 1})
    );
    let written = read(&out);
    // What cannot be looked at is not held back by what is held.
    assert_eq!(written[0].bytes, packets[3]);
    assert_eq!(written[1].bytes[..16], packets[0][..16]);
    assert_eq!(written[1].bytes.len(), 16 + 40 + 3000);
}

#[test]
fn gzip_is_read_from_files_and_stdin() {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&pcap(ETHERNET, &together(train(7))))
        .expect("written");
    let bytes = gzip.finish().expect("gzipped");
    one_super_packet(&report(&bytes, &[]), 7);
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("a.pcap.gz");
    std::fs::write(&path, bytes).expect("written");
    let output = replay(&[path.to_str().expect("text"), "--json"]);
    one_super_packet(&json_of(&output, 0), 7);
}

#[test]
fn pcapng_of_our_own_is_read() {
    let output = replay_with(
        &["-", "--segment", "65535", "-o", "-"],
        &pcap(ETHERNET, &together(train(7))),
    );
    assert_eq!(output.status.code(), Some(0));
    one_super_packet(&report(&output.stdout, &[]), 7);
}

#[test]
fn a_gap_is_the_time_to_the_packet_before_in_nanoseconds() {
    let at = |times: &[u64]| {
        let mut packets = together(train(times.len() as u16));
        for (packet, ns) in packets.iter_mut().zip(times) {
            packet.ts_ns = 1_000_000_000 + ns;
        }
        report(&pcap(ETHERNET, &packets), &["--gap-us", "5"])
    };
    // 5 us is no gap, a nanosecond more is; it counts from packet to packet, not from the burst's beginning.
    assert_eq!(at(&[0, 5000, 10_000, 15_000])["packets_out"], 1);
    assert_eq!(at(&[0, 5001, 10_001, 15_001])["packets_out"], 2);
    assert_eq!(at(&[0, 5001, 10_001, 15_001])["bursts"], 2);
    // Clocks that step back leave no gap.
    assert_eq!(at(&[10_000, 0, 5000])["packets_out"], 1);
}

#[test]
fn a_super_packet_leaves_when_its_last_segment_came() {
    let dir = tempfile::tempdir().expect("a directory");
    let out = dir.path().join("out.pcapng");
    let packets = together(train(7));
    report(
        &pcap(ETHERNET, &packets),
        &["-o", out.to_str().expect("text")],
    );
    let written = read(&out);
    assert_eq!(written[0].ts_ns, packets[6].ts_ns);
    let file = std::fs::read(&out).expect("there");
    let comment = b"Jumbo: 7 segments, gso_size 1000, ended: burst_end";
    assert!(file.windows(comment.len()).any(|window| window == comment));
}

/// The same packets with only so many bytes captured.
fn snapped(packets: &[Packet], len: usize) -> Vec<Packet> {
    let cut = |packet: &Packet| Packet {
        bytes: packet.bytes[..len.min(packet.bytes.len())].to_vec(),
        ..packet.clone()
    };
    packets.iter().map(cut).collect()
}

#[test]
fn cut_payload_cannot_be_verified_but_believed() {
    // 54 bytes of headers.
    let file = pcap(ETHERNET, &snapped(&together(train(5)), 96));
    let doubtful = report(&file, &[]);
    assert_eq!(doubtful["reasons"], json!({"payload_cut": 5}));
    assert_eq!(doubtful["cut_packets"], 5);
    assert_eq!(doubtful["payload_bytes_in"], 5000);
    assert_eq!(
        report(&file, &["--checksum", "verify"])["reasons"],
        json!({"payload_cut": 5})
    );
    let believed = report(&file, &["--checksum", "trust"]);
    one_super_packet(&believed, 5);
    // A pending checksum needs no payload to be told.
    let partial = (0..5).map(|i| {
        segment(PacketBuilder::ethernet(), i)
            .id(i as u16)
            .partial_checksum()
            .build()
    });
    let pending = report(&pcap(ETHERNET, &snapped(&together(partial), 54)), &[]);
    one_super_packet(&pending, 5);
    assert_eq!(pending["checksum_pending"], 5);
}

#[test]
fn cut_headers_are_not_guessed() {
    let ethernet = together(train(3));
    for len in [1, 13, 14, 20, 33, 34, 40, 53] {
        let report = report(
            &pcap(ETHERNET, &snapped(&ethernet, len)),
            &["--checksum", "trust"],
        );
        assert_eq!(report["reasons"], json!({"headers_cut": 3}), "{len}");
        assert_eq!(report["without_flow"]["packets_out"], 3, "{len}");
    }
    let at_least = report(
        &pcap(ETHERNET, &snapped(&ethernet, 54)),
        &["--checksum", "trust"],
    );
    one_super_packet(&at_least, 3);
    let ipv6: Vec<_> = (0..3)
        .map(|i| segment(PacketBuilder::ethernet().ipv6([0xfd; 16], [0xfe; 16]), i).build())
        .collect();
    for len in [14, 53, 54, 73] {
        let file = pcap(ETHERNET, &snapped(&together(ipv6.clone()), len));
        let report = report(&file, &["--checksum", "trust"]);
        assert_eq!(report["reasons"], json!({"headers_cut": 3}), "{len}");
    }
}

#[test]
fn cut_packets_are_written_as_cut() {
    let dir = tempfile::tempdir().expect("a directory");
    let out = dir.path().join("out.pcapng");
    let file = pcap(ETHERNET, &snapped(&together(train(5)), 96));
    report(
        &file,
        &["--checksum", "trust", "-o", out.to_str().expect("text")],
    );
    let written = read(&out);
    assert_eq!(written.len(), 1);
    // Headers and what is known of the first segment; nothing is put where bytes are missing.
    assert_eq!(
        (written[0].bytes.len(), written[0].orig_len),
        (96, 54 + 5000)
    );
    assert_eq!(written[0].ts_ns, 1_000_000_000 + 4000);
    let again = report(
        &std::fs::read(&out).expect("there"),
        &["--segment", "1000", "--checksum", "trust"],
    );
    assert_eq!(
        (&again["packets_in"], &again["packets_out"]),
        (&json!(1), &json!(5))
    );
}

#[test]
fn a_link_nobody_reads_is_named() {
    let report = report(&pcap(105, &together(train(2))), &[]);
    assert_eq!(report["reasons"], json!({"unsupported_link": 2}));
}

#[test]
fn a_cooked_header_that_is_cut_or_has_a_tag_is_named() {
    let whole: Vec<_> = (raw_train(2).iter())
        .map(|ip| cooked(0, 0x0800, ip))
        .collect();
    let cut = report(&pcap(COOKED, &snapped(&together(whole), 10)), &[]);
    assert_eq!(cut["reasons"], json!({"link_header_cut": 2}));
    let tagged = raw_train(2).into_iter().map(|ip| cooked(0, 0x8100, &ip));
    let tagged = report(&pcap(COOKED, &together(tagged)), &[]);
    assert_eq!(tagged["reasons"], json!({"cooked_vlan": 2}));
}
