//! What holds for every capture: conservation, order, `segment(coalesce(x)) == x`, right checksums.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use etherparse::TransportSlice::{Tcp, Udp};
use etherparse::{NetSlice, SlicedPacket};
use jumbo_testkit::{PacketBuilder, tcp_flags};
use serde_json::Value;

use crate::captures::{ETHERNET, pcap, read, segment, together, train};
use crate::{json_of, replay, report};

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

/// The sample as a file: nothing in it has more than 65535 bytes of payload.
fn sample_file(dir: &Path) -> PathBuf {
    let path = dir.join("sample.pcapng");
    json_of(
        &replay(&[
            "--sample",
            "--segment",
            "65535",
            "-o",
            text(&path),
            "--json",
        ]),
        0,
    );
    path
}

/// Packets by source address and port; none has what the test does not look at.
fn by_flow(path: &Path) -> HashMap<(Vec<u8>, u16), Vec<Vec<u8>>> {
    let mut flows: HashMap<_, Vec<_>> = HashMap::new();
    for packet in read(path) {
        let sliced = SlicedPacket::from_ethernet(&packet.bytes).expect("parses");
        let Some(Tcp(tcp)) = &sliced.transport else {
            continue;
        };
        let src = match &sliced.net {
            Some(NetSlice::Ipv4(ip)) => ip.header().source().to_vec(),
            Some(NetSlice::Ipv6(ip)) => ip.header().source().to_vec(),
            _ => continue,
        };
        let key = (src, tcp.source_port());
        flows.entry(key).or_default().push(packet.bytes.clone());
    }
    flows
}

/// Ports of the flows of the sample whose full segments have so many bytes; the 10th has a super-packet to begin with.
const SIZES: [(u16, &[u16]); 3] = [
    (
        1448,
        &[
            40_001, 40_003, 40_005, 40_006, 40_007, 40_008, 40_009, 40_015, 443,
        ],
    ),
    (1440, &[40_002]),
    (1428, &[40_004]),
];

#[test]
fn what_was_merged_can_be_taken_apart_again() {
    for burst in ["512", "all"] {
        let dir = tempfile::tempdir().expect("a directory");
        let before = sample_file(dir.path());
        let merged = dir.path().join("merged.pcapng");
        json_of(
            &replay(&[
                text(&before),
                "--burst",
                burst,
                "-o",
                text(&merged),
                "--json",
            ]),
            0,
        );
        let original = by_flow(&before);
        let mut compared = 0;
        for (size, ports) in SIZES {
            let back = dir.path().join("back.pcapng");
            let size = size.to_string();
            json_of(
                &replay(&[
                    text(&merged),
                    "--segment",
                    &size,
                    "-o",
                    text(&back),
                    "--json",
                ]),
                0,
            );
            let restored = by_flow(&back);
            for (key, packets) in original
                .iter()
                .filter(|((_, port), _)| ports.contains(port))
            {
                assert_eq!(restored.get(key), Some(packets), "{key:?} {burst}");
                compared += packets.len();
            }
        }
        // Scene by scene; the acknowledgements from port 5001 and the 10th flow are left out.
        assert_eq!(compared, 194 + 200 + 32 + 9 + 16 + 14 + 12 + 20 + 1);
    }
}

/// Packets of the file whose TCP, UDP or IPv4 header checksum etherparse finds wrong.
fn wrong_checksums(path: &Path) -> usize {
    let packets = read(path);
    packets
        .iter()
        .filter(|packet| is_wrong(&packet.bytes))
        .count()
}

fn is_wrong(bytes: &[u8]) -> bool {
    let sliced = SlicedPacket::from_ethernet(bytes).expect("parses");
    let (says, should_say) = match (&sliced.net, &sliced.transport) {
        (Some(NetSlice::Ipv4(ip)), transport) => {
            let header = ip.header();
            if header.to_header().calc_header_checksum() != header.header_checksum() {
                return true;
            }
            let (src, dst) = (header.source(), header.destination());
            match transport {
                Some(Tcp(tcp)) => (tcp.checksum(), tcp.calc_checksum_ipv4(src, dst)),
                Some(Udp(udp)) => {
                    let header = udp.to_header();
                    (
                        udp.checksum(),
                        header.calc_checksum_ipv4_raw(src, dst, udp.payload()),
                    )
                }
                _ => return false,
            }
        }
        (Some(NetSlice::Ipv6(ip)), transport) => {
            let (src, dst) = (ip.header().source(), ip.header().destination());
            match transport {
                Some(Tcp(tcp)) => (tcp.checksum(), tcp.calc_checksum_ipv6(src, dst)),
                Some(Udp(udp)) => {
                    let header = udp.to_header();
                    (
                        udp.checksum(),
                        header.calc_checksum_ipv6_raw(src, dst, udp.payload()),
                    )
                }
                _ => return false,
            }
        }
        _ => return false,
    };
    says != should_say.expect("a length")
}

#[test]
fn written_checksums_are_right_but_those_that_were_wrong() {
    let dir = tempfile::tempdir().expect("a directory");
    for args in [
        &[][..],
        &["--burst", "all"],
        &["--segment", "1448"],
        &["--segment", "700"],
    ] {
        let out = dir.path().join("out.pcapng");
        let args = [&["--sample", "-o", text(&out), "--json"], args].concat();
        json_of(&replay(&args), 0);
        // The damaged segment, the damaged datagram, the damaged IPv4 header.
        assert_eq!(wrong_checksums(&out), 3, "{args:?}");
        tcpdump_agrees(&out, &args);
    }
}

fn tcpdump_agrees(out: &Path, args: &[&str]) {
    let Ok(output) = Command::new("tcpdump").args(["-vvnr", text(out)]).output() else {
        eprintln!("skipped: tcpdump is not installed (apt install tcpdump)");
        return;
    };
    let page = String::from_utf8_lossy(&output.stdout);
    let count = |words| page.matches(words).count();
    let told = (
        count("(incorrect"),
        count("bad udp cksum"),
        count("bad cksum"),
    );
    assert_eq!(told, (1, 1, 1), "{args:?}\n{page}");
}

#[test]
fn payload_is_conserved_in_order() {
    let dir = tempfile::tempdir().expect("a directory");
    let before = sample_file(dir.path());
    let stream = |path: &Path, port: u16| -> Vec<u8> {
        let mut flows = by_flow(path);
        flows.retain(|(_, src_port), _| *src_port == port);
        let packets = flows.into_values().flatten();
        let payload = |bytes: Vec<u8>| {
            let sliced = SlicedPacket::from_ethernet(&bytes).expect("parses");
            match &sliced.transport {
                Some(Tcp(tcp)) => tcp.payload().to_vec(),
                _ => Vec::new(),
            }
        };
        packets.flat_map(payload).collect()
    };
    for args in [
        &[][..],
        &["--burst", "all"],
        &["--burst", "7"],
        &["--segment", "333"],
    ] {
        let out = dir.path().join("out.pcapng");
        json_of(
            &replay(&[&[text(&before), "-o", text(&out), "--json"], args].concat()),
            0,
        );
        for port in 40_001..=40_010 {
            let wanted = stream(&before, port);
            assert!(!wanted.is_empty(), "{port}");
            assert!(stream(&out, port) == wanted, "{port} {args:?}");
        }
    }
}

#[test]
fn reasons_add_up() {
    let sum = |report: &Value| -> u64 {
        let reasons = report["reasons"].as_object().expect("an object");
        reasons.values().filter_map(Value::as_u64).sum()
    };
    for args in [&[][..], &["--burst", "3"], &["--checksum", "trust"]] {
        let report = json_of(&replay(&[&["--sample", "--json"], args].concat()), 0);
        assert_eq!(report["packets_out"], sum(&report), "{args:?}");
    }
    let report = json_of(&replay(&["--sample", "--json", "--segment", "100"]), 0);
    assert_eq!(report["packets_in"], sum(&report));
}

#[test]
fn udp_super_packets_are_cut_and_datagrams_are_not() {
    let udp = |len| PacketBuilder::ethernet().udp(50_000, 443).payload_len(len);
    let file = pcap(
        ETHERNET,
        &together([
            udp(12_500).partial_checksum().build(),
            udp(12_500).build(),
            udp(12_500).bad_checksum().build(),
            // 28 bytes of headers: the largest that an Ethernet carries, and one more.
            udp(1472).build(),
            udp(1473).build(),
            udp(60_000).build(),
        ]),
    );
    let report = report(&file, &["--segment", "400"]);
    let reasons = serde_json::json!({
        "segmented": 3, "udp_checksum": 1, "datagram": 1, "too_many_datagrams": 1
    });
    assert_eq!(report["reasons"], reasons);
    assert_eq!(
        report["packets_out"],
        2 * 12_500_u64.div_ceil(400) + 1473_u64.div_ceil(400) + 3
    );
}

#[test]
fn what_cannot_be_cut_is_left_whole() {
    let tcp = |flags| {
        segment(PacketBuilder::ethernet(), 0)
            .payload_len(5000)
            .flags(flags)
    };
    let file = pcap(
        ETHERNET,
        &together([
            tcp(tcp_flags::SYN).build(),
            tcp(tcp_flags::ACK | tcp_flags::URG).build(),
            tcp(tcp_flags::ACK).bad_checksum().build(),
            tcp(tcp_flags::ACK).build(),
        ]),
    );
    let report = report(&file, &["--segment", "1000"]);
    let reasons = serde_json::json!({"control": 2, "tcp_checksum": 1, "segmented": 1});
    assert_eq!(report["reasons"], reasons);
    assert_eq!(report["packets_out"], 3 + 5);
    assert_eq!(report["already_large"], 4);
}

/// A train in VXLAN, its outer IDs counting up.
fn in_vxlan(csum: bool) -> Vec<Vec<u8>> {
    let wrap = |(inner, id): (Vec<u8>, u16)| {
        let body = [&[8, 0, 0, 0, 0, 0, 7, 0], &inner[..]].concat();
        let outer = PacketBuilder::ethernet().id(id).udp(5000, 4789);
        let outer = outer.payload(&body);
        match csum {
            true => outer.build(),
            false => outer.no_checksum().build(),
        }
    };
    train(9).into_iter().zip(40..).map(wrap).collect()
}

#[test]
fn tunnels_are_looked_into_if_asked() {
    for csum in [false, true] {
        let packets = in_vxlan(csum);
        let dir = tempfile::tempdir().expect("a directory");
        let [before, merged, back] = ["before", "merged", "back"].map(|name| dir.path().join(name));
        std::fs::write(&before, pcap(ETHERNET, &together(packets.clone()))).expect("written");
        let out = |from: &Path, to: &Path, more: &[&str]| {
            let args = [&[text(from), "-o", text(to), "--json"], more].concat();
            json_of(&replay(&args), 0)
        };
        let shut = report(&std::fs::read(&before).expect("read"), &[]);
        assert_eq!(shut["in_tunnels"], 0);
        let open = out(&before, &merged, &["--tunnels"]);
        assert_eq!(
            (&open["in_tunnels"], &open["packets_out"]),
            (&9.into(), &1.into())
        );
        // The ports inside.
        assert_eq!(open["flows"][0]["dst_port"], 5001);
        let whole = &read(&merged)[0].bytes;
        jumbo_testkit::oracle::verify(jumbo_testkit::Link::Ethernet, whole).expect("outer sums");
        let inner = &whole[50..];
        jumbo_testkit::oracle::verify(jumbo_testkit::Link::Ethernet, inner).expect("inner sums");
        out(&merged, &back, &["--tunnels", "--segment", "1000"]);
        let restored: Vec<_> = read(&back).into_iter().map(|packet| packet.bytes).collect();
        assert_eq!(restored, packets);
    }
}
