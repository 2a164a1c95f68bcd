//! Every count of `--sample`, worked out by hand from what its scenes say (`src/commands/replay/sample.rs`).

use serde_json::{Value, json};

use crate::{json_of, replay, stderr, stdout};

fn sample(args: &[&str]) -> Value {
    json_of(&replay(&[&["--sample", "--json"], args].concat()), 0)
}

// Packets of each scene.
const BULK_V4: u64 = 3 + 4 * (48 + 1);
const BULK_V6: u64 = 5 * 40;
const INTERLEAVED: u64 = 2 * 16;
const MARKED: u64 = 9;
const LOSS: u64 = 16;
const INTERRUPTED: u64 = 3 * 4 + 2;
const VLAN: u64 = 12;
const QUESTIONS: u64 = 2 * 10;
const SENDING: u64 = 20 + 1;
const NOT_TCP: u64 = 2 * 10 + 2 + 2 + 2 + 1;
const PACKETS: u64 = BULK_V4
    + BULK_V6
    + INTERLEAVED
    + MARKED
    + LOSS
    + INTERRUPTED
    + VLAN
    + QUESTIONS
    + SENDING
    + NOT_TCP;

// Payload bytes: 1500 less the headers, 20 or 40 of IP, 20 of TCP, 12 for timestamps. Flows without timestamps over
// IPv4 also use 1448.
const V4: u64 = 1500 - 20 - 20 - 12;
const V6: u64 = 1500 - 40 - 20;
const V6_TIMESTAMPS: u64 = V6 - 12;
const PAYLOAD: u64 = 4 * 48 * V4
    + BULK_V6 * V6
    + 16 * V4
    + 16 * V6_TIMESTAMPS
    + MARKED * V4
    + LOSS * V4
    + (INTERRUPTED - 1) * V4
    + VLAN * V4
    + 10 * 100
    + 10 * 300
    + 20 * V4
    + 20 * V4
    + 10 * 60
    + 10 * 1200
    + V4;

// Most full segments of an IP packet of 65535 bytes.
const MOST_V4: u64 = (65535 - 20 - 32) / V4;
const MOST_V6: u64 = (65535 - 40 - 20) / V6;

/// Reasons that do not depend on how long a burst is, but `push`, `size_limit`, `burst_end`, `fin`.
fn reasons() -> Value {
    json!({
        // SYN, SYN and ACK.
        "control": 2,
        // The third of the handshake, one per write of the first scene, one among the interruptions.
        "pure_ack": 1 + 4 + 1,
        "window_changed": 1,
        "options_changed": 1,
        // Before the marked packet, and the marked packet itself.
        "ecn_changed": 2,
        // Before the hole; then the retransmission, behind which the rest is ahead again.
        "sequence_gap": 2,
        // The retransmission itself ends what came behind the hole.
        "sequence_old": 1,
        "ended_by_pure_ack": 1,
        // One of TCP, one of UDP.
        "bad_checksum": 2,
        "tcp_checksum": 1,
        // Each question and each answer.
        "last_of_its_train": QUESTIONS,
        "udp_checksum": 1,
        "fragment": 2,
        "arp": 2,
        "other_protocol": 2,
        "ip_checksum": 1,
    })
}

fn with(mut base: Value, more: Value) -> Value {
    let more = more.as_object().expect("an object").clone();
    base.as_object_mut().expect("an object").extend(more);
    base
}

fn total(reasons: &Value) -> u64 {
    let counts = reasons.as_object().expect("an object").values();
    counts.map(|count| count.as_u64().expect("a count")).sum()
}

#[test]
fn totals_are_those_of_the_scenes() {
    let report = sample(&[]);
    assert_eq!(report["packets_in"], PACKETS);
    assert_eq!(report["payload_bytes_in"], PAYLOAD);
    assert_eq!(report["payload_bytes_out"], PAYLOAD);
    assert_eq!(report["already_large"], 1);
    assert_eq!(report["checksum_pending"], SENDING);
    assert_eq!(report["cut_packets"], 0);
    assert_eq!(report["buffer_full"], 0);
    // Scenes with several: handshake and writes, 5 of bulk, questions, 2 of the sending host, 6 of what is not TCP.
    let bursts = (3 + 2 * 4) + 5 + 1 + 1 + 1 + 1 + 1 + QUESTIONS + 2 + 6;
    assert_eq!(report["bursts"], bursts);
    // Two protocols of the network, none of them without IP but ARP.
    assert_eq!(
        report["without_flow"],
        json!({"packets_in": 2, "packets_out": 2, "payload_bytes": 0})
    );
    assert_eq!(
        report["flows_not_listed"],
        json!({"packets_in": 0, "packets_out": 0, "payload_bytes": 0})
    );
}

#[test]
fn reasons_are_those_of_the_scenes() {
    let report = sample(&[]);
    let expected = with(
        reasons(),
        json!({
            // One per write of 48: what fits, then the rest up to PSH.
            "size_limit": 4,
            // Those rests, the VLAN's write and the sending host's.
            "push": 4 + 1 + 1,
            // 4 bursts of bulk without PSH, both interleaved flows, what follows the mark, the loss and the last
            // interruption; 10 datagrams; and the large packet, which nothing joins.
            "burst_end": 4 + 2 + 1 + 1 + 1 + 1 + 1,
            "fin": 1,
        }),
    );
    assert_eq!(report["reasons"], expected);
    let out = total(&expected);
    assert_eq!(report["packets_out"], out);
    assert_eq!(report["segments_per_packet"], PACKETS as f64 / out as f64);
    // Without payload or not TCP: 2 control, 6 pure ACKs, 2 of each other kind, and 20 UDP, of which 3 leave. All else
    // is TCP data.
    let other = 2 + 6 + 2 + 2 + 2;
    assert_eq!(report["tcp_data"]["packets_in"], PACKETS - other - 20);
    assert_eq!(report["tcp_data"]["packets_out"], out - other - 3);
}

#[test]
fn super_packets_say_what_they_are_made_of() {
    let report = sample(&[]);
    let of = |list: &str, reason: &str| {
        let list = report[list].as_array().expect("a list");
        let line = list.iter().find(|line| line["reason"] == reason);
        line.map(|line| (line["packets_out"].as_u64(), line["packets_in"].as_u64()))
    };
    let counts = |out: u64, came: u64| Some((Some(out), Some(came)));
    let list = "super_packet_reasons";
    assert_eq!(of(list, "size_limit"), counts(4, 4 * MOST_V4));
    assert_eq!(of(list, "push"), counts(6, 4 * (48 - MOST_V4) + 12 + 20));
    assert_eq!(
        of(list, "burst_end"),
        counts(10, 4 * 40 + 8 + 6 + 4 + 4 + 4 + 10)
    );
    assert_eq!(of(list, "fin"), counts(1, 40));
    assert_eq!(of(list, "window_changed"), counts(1, 8));
    assert_eq!(of(list, "options_changed"), counts(1, 10));
    assert_eq!(of(list, "ecn_changed"), counts(1, 4));
    assert_eq!(of(list, "sequence_gap"), counts(1, 6));
    assert_eq!(of(list, "sequence_old"), counts(1, 5));
    assert_eq!(of(list, "ended_by_pure_ack"), counts(1, 4));
    assert_eq!(of(list, "bad_checksum"), counts(2, 4 + 9));
    assert_eq!(of("single_reasons", "sequence_gap"), counts(1, 1));
    assert_eq!(of("single_reasons", "ecn_changed"), counts(1, 1));
    assert_eq!(of("single_reasons", "burst_end"), counts(1, 1));
    // 4 + 6 + 10 of the first three, 2 of the last, 1 of the other seven.
    assert_eq!(report["super_packets"], 4 + 6 + 10 + 2 + 7);
}

#[test]
fn without_bursts_only_rules_end_an_aggregate() {
    let report = sample(&["--burst", "all"]);
    let expected = with(
        reasons(),
        json!({
            // The bulk over IPv6 goes on from burst to burst: 200 in pieces of 45, and the last 20 with FIN.
            "size_limit": 4 + BULK_V6 / MOST_V6,
            "push": 4 + 1 + 1,
            "fin": 1,
            // As before without the 4 bursts of bulk.
            "burst_end": 2 + 1 + 1 + 1 + 1 + 1,
        }),
    );
    assert_eq!(report["reasons"], expected);
    assert_eq!(report["burst"], "all");
    assert_eq!(report["gap_us"], Value::Null);
    assert_eq!(report["bursts"], 1);
    let default = sample(&[]);
    assert_eq!(default["burst"], 512);
    assert_eq!(default["gap_us"], 50);
}

#[test]
fn a_burst_of_one_merges_nothing() {
    let report = sample(&["--burst", "1"]);
    assert_eq!(report["packets_out"], PACKETS);
    assert_eq!(report["super_packets"], 0);
    assert_eq!(report["segments_per_packet"], 1.0);
    // So does a gap that every packet exceeds; 1 us still lets them through.
    assert_eq!(sample(&["--gap-us", "0"])["super_packets"], 0);
    assert_eq!(
        sample(&["--gap-us", "1"])["reasons"],
        sample(&[])["reasons"]
    );
    // 2 ms bridge the pauses of 1 ms, but a burst has 512 packets still.
    assert_eq!(
        sample(&["--gap-us", "2000"])["bursts"],
        PACKETS.div_ceil(512)
    );
}

#[test]
fn checksums_left_to_the_card_are_wrong_to_who_verifies() {
    let report = sample(&["--checksum", "verify"]);
    assert_eq!(report["checksum_pending"], 0);
    assert_eq!(report["reasons"]["tcp_checksum"], 1 + SENDING);
    assert_eq!(report["reasons"]["push"], 4 + 1);
    let trusting = sample(&["--checksum", "trust"]);
    assert_eq!(trusting["reasons"].get("tcp_checksum"), None);
    assert_eq!(trusting["reasons"].get("bad_checksum"), None);
    assert_eq!(trusting["reasons"].get("udp_checksum"), None);
    // The damaged segment is merged with the 4 before and the 4 behind it, the damaged datagram with the 9 before it,
    // and the sending host's 20 are one.
    assert_eq!(
        trusting["packets_out"].as_u64(),
        report["packets_out"].as_u64().map(|out| out - 2 - 1 - 19)
    );
}

#[test]
fn flows_are_those_of_the_scenes() {
    let report = sample(&[]);
    let flows = report["flows"].as_array().expect("a list");
    let expected = [
        // src, packets in, out, payload, most frequent reason
        ("2001:db8::2", BULK_V6, 5, BULK_V6 * V6, "burst_end"),
        (
            "192.0.2.1",
            2 + 4 * 48,
            2 + 4 * 2,
            4 * 48 * V4,
            "size_limit",
        ),
        ("192.0.2.10", SENDING, 2, 40 * V4, "push"),
        ("192.0.2.3", 16, 2, 16 * V4, "window_changed"),
        ("192.0.2.6", 16, 4, 16 * V4, "sequence_gap"),
        ("2001:db8::4", 16, 2, 16 * V6_TIMESTAMPS, "options_changed"),
        ("192.0.2.7", 14, 5, 13 * V4, "ended_by_pure_ack"),
        ("192.0.2.8", 12, 1, 12 * V4, "push"),
        ("192.0.2.5", 9, 3, 9 * V4, "ecn_changed"),
        ("2001:db8::c", 10, 2, 12_000, "bad_checksum"),
        ("198.51.100.1", 10, 10, 3000, "last_of_its_train"),
        ("192.0.2.15", 1, 1, V4, "ip_checksum"),
        ("192.0.2.9", 10, 10, 1000, "last_of_its_train"),
        ("192.0.2.11", 10, 1, 600, "burst_end"),
        // No payload: the acknowledgements, the fragments, the ping and its answer.
        ("198.51.100.1", 1 + 4, 5, 0, "pure_ack"),
        ("192.0.2.13", 2, 2, 0, "fragment"),
        ("192.0.2.14", 1, 1, 0, "other_protocol"),
        ("198.51.100.1", 1, 1, 0, "other_protocol"),
    ];
    assert_eq!(flows.len(), expected.len());
    for (flow, (src, came, left, payload, top)) in flows.iter().zip(expected) {
        assert_eq!(flow["src"], src);
        assert_eq!(flow["packets_in"], came, "{src}");
        assert_eq!(flow["packets_out"], left, "{src}");
        assert_eq!(flow["payload_bytes"], payload, "{src}");
        assert_eq!(flow["top_reason"], top, "{src}");
        assert_eq!(flow["segments_per_packet"], came as f64 / left as f64);
        assert_eq!(total(&flow["reasons"]), left, "{src}");
    }
    assert_eq!(flows[7]["vlan"], 100);
    assert_eq!(flows[0].get("vlan"), None);
    assert_eq!(
        (&flows[0]["src_port"], &flows[0]["dst_port"]),
        (&json!(40002), &json!(5001))
    );
    assert_eq!(flows[15].get("src_port"), None);
}

#[test]
fn segmentation_cuts_the_super_packet_alone() {
    let report = sample(&["--segment", "1448"]);
    assert_eq!(report["mode"], "segment");
    assert_eq!(report["packets_in"], PACKETS);
    assert_eq!(report["packets_out"], PACKETS - 1 + 20);
    assert_eq!(report["payload_bytes_out"], PAYLOAD);
    assert_eq!(report["super_packets"], 1);
    let (arp, icmp, fragments) = (2, 2, 2);
    let expected = json!({
        "segmented": 1,
        "arp": arp,
        "other_protocol": icmp,
        "fragment": fragments,
        "fits": PACKETS - 1 - arp - icmp - fragments,
    });
    assert_eq!(report["reasons"], expected);
    assert_eq!(report.get("burst"), None);
    // 1000 cuts every full segment in two, but neither what is wrong nor datagrams of 1200 bytes.
    let halved = sample(&["--segment", "1000"]);
    let full = 4 * 48 + BULK_V6 + INTERLEAVED + MARKED + LOSS + (INTERRUPTED - 2) + VLAN + 20;
    assert_eq!(halved["reasons"]["segmented"], full + 1);
    assert_eq!(
        halved["packets_out"],
        PACKETS - 1 + full + (20 * V4).div_ceil(1000)
    );
    assert_eq!(halved["reasons"]["tcp_checksum"], 1);
    assert_eq!(halved["reasons"]["ip_checksum"], 1);
    assert_eq!(halved["reasons"]["datagram"], 10);
}

#[test]
fn the_page_is_the_reviewed_one() {
    let output = replay(&["--sample"]);
    assert_eq!(
        (output.status.code(), stderr(&output).as_str()),
        (Some(0), "")
    );
    assert_eq!(stdout(&output), include_str!("sample.txt"));
    let output = replay(&["--sample", "--segment", "1448"]);
    assert_eq!(stdout(&output), include_str!("segment.txt"));
}
