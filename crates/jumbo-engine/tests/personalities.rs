//! Where the personalities differ: every question one row, every row under all of them.
//!
//! A row is a few packets and, for each table, what leaves: how many packets' payload it carries,
//! and why it ended or was never held.

mod support;

use jumbo_engine::coalesce::{GRO, LRO, RSC, RSC_QEMU, Rules};
use jumbo_engine::packet::Link;
use jumbo_engine::pending::{Caps, Csum, GsoKind};
use jumbo_engine::reason::Reason;
use jumbo_engine::vnet::{Trust, VnetHeader};
use jumbo_testkit::oracle::{self, Net, Parsed, vnet_gso};
use jumbo_testkit::script::TcpStream;
use jumbo_testkit::tcp_flags::{ACK, CWR, ECE, FIN, PSH, RST, SYN, URG};
use jumbo_testkit::{Extension, PacketBuilder, pattern};
use support::{Delivered, Input, Rig, Why, burst_under, needs_csum};

/// The `index`-th of a train of packets of 100 bytes.
fn nth(index: u16) -> PacketBuilder {
    PacketBuilder::ethernet()
        .seq(1 + 100 * u32::from(index))
        .id(index)
        .payload_len(100)
}

fn nth_v6(index: u16) -> PacketBuilder {
    nth(index).ipv6([1; 16], [2; 16])
}

fn datagram(index: u16) -> PacketBuilder {
    PacketBuilder::ethernet()
        .udp(7, 8)
        .id(index)
        .payload_len(100)
}

/// Three in a row, each changed in the same way.
fn all(change: impl Fn(PacketBuilder) -> PacketBuilder) -> Vec<PacketBuilder> {
    (0..3).map(|index| change(nth(index))).collect()
}

/// Two that merge, and a third.
fn third(third: PacketBuilder) -> Vec<PacketBuilder> {
    vec![nth(0), nth(1), third]
}

fn inputs(packets: &[PacketBuilder]) -> Vec<Input> {
    packets.iter().map(|p| Input::ethernet(p.build())).collect()
}

fn under(rules: &Rules, packets: &[PacketBuilder]) -> Vec<Delivered> {
    burst_under(rules, 64, &inputs(packets))
}

/// `3:burst_end 1:control`: payload of so many packets, and why.
fn outcome(rules: &Rules, packets: &[PacketBuilder]) -> String {
    let done = under(rules, packets).into_iter();
    let words = done.map(|done| {
        let why = match done.why {
            Why::Ended(end) => end.name(),
            Why::Alone(alone) => alone.name(),
        };
        format!("{}:{why}", done.members.len())
    });
    words.collect::<Vec<_>>().join(" ")
}

struct Row {
    question: &'static str,
    packets: Vec<PacketBuilder>,
    /// GRO, LRO, RSC, QEMU.
    answers: [&'static str; 4],
}

fn row(question: &'static str, packets: Vec<PacketBuilder>, answers: [&'static str; 4]) -> Row {
    Row {
        question,
        packets,
        answers,
    }
}

const ALL: &str = "3:burst_end";
const APART: &str = "2:burst_end 1:burst_end";

fn network_rows() -> Vec<Row> {
    let extended = |index| nth_v6(index).extension(Extension::Destination(vec![1, 4, 0, 0, 0, 0]));
    let alone_v6 = "1:extension_headers 1:extension_headers 1:extension_headers";
    let fragments = "1:may_fragment 1:may_fragment 1:may_fragment";
    let options = "2:refused_below_tcp 1:ip_options";
    let unreadable = "2:refused_below_tcp 1:tcp_unreadable";
    let label = vec![nth_v6(0), nth_v6(1), nth_v6(2).flow_label(9)];
    let marked = "2:exception 1:congestion_mark";
    vec![
        row(
            "IPv4 options",
            third(nth(2).ip_options(&[1; 4])),
            [options; 4],
        ),
        row(
            "IPv6 extension headers",
            (0..3).map(extended).collect(),
            [ALL, alone_v6, alone_v6, alone_v6],
        ),
        row(
            "IPv4 fragment",
            third(nth(2).df(false).mf(true)),
            [unreadable; 4],
        ),
        row("DF clear", all(|p| p.df(false)), [ALL, ALL, ALL, fragments]),
        row(
            "DF differs",
            third(nth(2).df(false)),
            [
                "2:ip_flags_changed 1:burst_end",
                ALL,
                "2:ip_flags_changed 1:burst_end",
                "2:exception 1:may_fragment",
            ],
        ),
        row(
            "TTL differs",
            third(nth(2).ttl(63)),
            ["2:ttl_changed 1:burst_end", ALL, ALL, ALL],
        ),
        row(
            "hop limit differs",
            vec![nth_v6(0), nth_v6(1), nth_v6(2).ttl(63)],
            ["2:ttl_changed 1:burst_end", ALL, ALL, ALL],
        ),
        row(
            "DSCP differs",
            third(nth(2).tos(0xB8)),
            [
                "2:dscp_changed 1:burst_end",
                ALL,
                "2:dscp_changed 1:burst_end",
                ALL,
            ],
        ),
        row(
            "ECT differs",
            third(nth(2).tos(2)),
            [
                "2:ecn_changed 1:burst_end",
                ALL,
                "2:ecn_changed 1:burst_end",
                marked,
            ],
        ),
        row(
            "congestion experienced",
            third(nth(2).tos(3)),
            [
                "2:ecn_changed 1:burst_end",
                marked,
                "2:ecn_changed 1:burst_end",
                marked,
            ],
        ),
        row(
            "congestion experienced, IPv6",
            vec![nth_v6(0), nth_v6(1), nth_v6(2).tos(3)],
            [
                "2:ecn_changed 1:burst_end",
                marked,
                "2:ecn_changed 1:burst_end",
                marked,
            ],
        ),
        row(
            "IP ID jumps",
            third(nth(2).id(9)),
            ["2:ip_id_irregular 1:burst_end", ALL, ALL, ALL],
        ),
        row(
            "flow label differs",
            label,
            [APART, ALL, "2:flow_label_changed 1:burst_end", ALL],
        ),
        row(
            "MAC differs",
            third(nth(2).macs([2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 1])),
            [APART; 4],
        ),
        row("VLAN differs", third(nth(2).vlan(0x8100, 5)), [APART; 4]),
        row("port differs", third(nth(2).tcp(9, 9)), [APART; 4]),
    ]
}

fn tcp_rows() -> Vec<Row> {
    let sack = [1, 1, 5, 10, 0, 0, 0, 1, 0, 0, 0, 2];
    let odd = "1:tcp_options 1:tcp_options 1:tcp_options";
    let one_odd = "2:exception 1:tcp_options";
    let stamped = |value, echo| {
        let first = [nth(0).timestamps(7, 2), nth(1).timestamps(7, 2)];
        let mut packets = first.to_vec();
        packets.push(nth(2).timestamps(value, echo));
        packets
    };
    let changed = "2:options_changed 1:burst_end";
    let control = "2:control 1:control";
    let controls = "1:control 1:control 1:control";
    let flags = "2:flags_changed 1:burst_end";
    let push = vec![nth(0), nth(1).flags(ACK | PSH), nth(2)];
    let short = vec![nth(0), nth(1).payload_len(60), nth(2).seq(161)];
    let gap = "2:sequence_gap 1:burst_end";
    let old = "2:sequence_old 1:burst_end";
    vec![
        row(
            "SACK blocks",
            all(|p| p.tcp_options(&sack)),
            [ALL, odd, odd, odd],
        ),
        row(
            "SACK block on one",
            third(nth(2).tcp_options(&sack)),
            [
                "2:options_length_changed 1:burst_end",
                one_odd,
                one_odd,
                one_odd,
            ],
        ),
        row(
            "timestamps begin",
            third(nth(2).timestamps(1, 2)),
            [
                "2:options_length_changed 1:burst_end",
                "2:options_length_changed 1:burst_end",
                "2:options_length_changed 1:burst_end",
                one_odd,
            ],
        ),
        row(
            "timestamp advances",
            stamped(8, 2),
            [changed, ALL, ALL, odd],
        ),
        row(
            "timestamp goes back",
            stamped(6, 2),
            [
                changed,
                "2:timestamp_old 1:burst_end",
                "2:timestamp_old 1:burst_end",
                odd,
            ],
        ),
        row(
            "timestamp echo differs",
            stamped(7, 3),
            [changed, ALL, ALL, odd],
        ),
        row(
            "acknowledgement advances",
            third(nth(2).ack(500)),
            ["2:ack_changed 1:burst_end", ALL, ALL, ALL],
        ),
        row(
            "window differs",
            third(nth(2).window(9)),
            ["2:window_changed 1:burst_end", ALL, ALL, ALL],
        ),
        row(
            "urgent pointer without the flag",
            third(nth(2).urgent(1)),
            ["2:urgent_pointer_changed 1:burst_end", ALL, ALL, ALL],
        ),
        row("SYN", third(nth(2).flags(ACK | SYN)), [control; 4]),
        row("RST", third(nth(2).flags(ACK | RST)), [control; 4]),
        row("URG", third(nth(2).flags(ACK | URG)), [control; 4]),
        row(
            "FIN with data",
            third(nth(2).flags(ACK | FIN)),
            ["3:fin", control, control, control],
        ),
        row(
            "no ACK flag",
            third(nth(2).flags(0)),
            [flags, control, flags, ALL],
        ),
        row("PSH", push, ["2:push 1:burst_end", ALL, ALL, ALL]),
        row(
            "ECE",
            third(nth(2).flags(ACK | ECE)),
            [flags, control, flags, ALL],
        ),
        row(
            "CWR",
            third(nth(2).flags(ACK | CWR)),
            [flags, control, flags, ALL],
        ),
        row(
            "ECE on all",
            all(|p| p.flags(ACK | ECE)),
            [ALL, controls, ALL, ALL],
        ),
        row(
            "CWR on all",
            all(|p| p.flags(ACK | CWR)),
            [ALL, controls, ALL, ALL],
        ),
        row(
            "larger than the first",
            third(nth(2).payload_len(101)),
            ["2:larger_segment 1:burst_end", ALL, ALL, ALL],
        ),
        row(
            "smaller than the first",
            short,
            ["2:short_segment 1:burst_end", ALL, ALL, ALL],
        ),
        row(
            "sequence gap",
            third(nth(3)),
            [gap, gap, gap, "2:sequence_gap 1:after_mismatch"],
        ),
        row(
            "retransmission",
            third(nth(1)),
            [old, old, old, "2:sequence_old 1:after_mismatch"],
        ),
        row(
            "wrong checksum",
            third(nth(2).bad_checksum()),
            ["2:bad_checksum 1:tcp_checksum"; 4],
        ),
        row("one alone", vec![nth(0)], ["1:burst_end"; 4]),
        row(
            "seven bytes",
            vec![nth(0).payload_len(7), nth(0).seq(8).id(1).payload_len(7)],
            [
                "1:tiny_payload 1:tiny_payload",
                "2:burst_end",
                "2:burst_end",
                "2:burst_end",
            ],
        ),
    ]
}

/// A pure ACK behind two packets with data.
fn ack() -> PacketBuilder {
    nth(2).payload_len(0)
}

fn ack_rows() -> Vec<Row> {
    let apart = "2:pure_ack 1:pure_ack";
    let folded = "2:burst_end";
    let at_head = nth(0).payload_len(0);
    vec![
        row(
            "larger window",
            third(ack().window(600)),
            [apart, folded, folded, folded],
        ),
        row(
            "smaller window",
            third(ack().window(9)),
            [apart, apart, folded, folded],
        ),
        row("duplicate ACK", third(ack()), [apart, apart, apart, folded]),
        row(
            "ACK that advances",
            third(ack().ack(9)),
            [apart, folded, apart, folded],
        ),
        row(
            "ACK that goes back",
            third(ack().ack(0)),
            [apart, apart, apart, folded],
        ),
        row(
            "window of an old sequence number",
            third(at_head.clone().window(600)),
            [apart, apart, apart, folded],
        ),
        row(
            "duplicate of an old sequence number",
            third(at_head),
            [apart; 4],
        ),
        row("ACK with nothing held", vec![ack()], ["1:pure_ack"; 4]),
    ]
}

fn limit_rows() -> Vec<Row> {
    let stream = TcpStream::new(PacketBuilder::ethernet()).segments(46);
    let many = (0..46).map(|index| stream.packet(index)).collect();
    let full = "45:size_limit 1:burst_end";
    vec![row(
        "64 KB",
        many,
        [full, full, full, "45:size_limit 1:after_mismatch"],
    )]
}

fn udp_rows() -> Vec<Row> {
    let three = |change: fn(PacketBuilder) -> PacketBuilder| {
        (0..3)
            .map(|index| change(datagram(index)))
            .collect::<Vec<_>>()
    };
    let with_third = |packet: PacketBuilder| vec![datagram(0), datagram(1), packet];
    let not = "1:not_tcp 1:not_tcp 1:not_tcp";
    let none = "1:udp_no_checksum 1:udp_no_checksum 1:udp_no_checksum";
    let empty = "2:empty_datagram 1:empty_datagram";
    let larger = "2:larger_segment 1:burst_end";
    let short = vec![datagram(0), datagram(1).payload_len(99), datagram(2)];
    let ends = "2:short_segment 1:burst_end";
    let ttl = "2:ttl_changed 1:burst_end";
    vec![
        row("datagrams", three(|p| p), [ALL, not, ALL, not]),
        row(
            "datagrams without checksum",
            three(|p| p.no_checksum()),
            [none, not, ALL, not],
        ),
        row(
            "an empty datagram",
            with_third(datagram(2).payload_len(0)),
            [
                empty,
                "1:not_tcp 1:not_tcp 1:empty_datagram",
                empty,
                "1:not_tcp 1:not_tcp 1:empty_datagram",
            ],
        ),
        row(
            "a larger datagram",
            with_third(datagram(2).payload_len(101)),
            [larger, not, larger, not],
        ),
        row("a shorter datagram", short, [ends, not, ends, not]),
        row(
            "datagrams, TTL differs",
            with_third(datagram(2).ttl(63)),
            [ttl, not, ttl, not],
        ),
        row(
            "datagrams, ID jumps",
            with_third(datagram(9)),
            ["2:ip_id_irregular 1:burst_end", not, ALL, not],
        ),
        row(
            "a datagram's checksum is wrong",
            with_third(datagram(2).bad_checksum()),
            [
                "2:bad_checksum 1:udp_checksum",
                "1:not_tcp 1:not_tcp 1:udp_checksum",
                "2:bad_checksum 1:udp_checksum",
                "1:not_tcp 1:not_tcp 1:udp_checksum",
            ],
        ),
    ]
}

#[test]
fn every_row_under_every_personality() {
    let rows = [
        network_rows(),
        tcp_rows(),
        ack_rows(),
        limit_rows(),
        udp_rows(),
    ];
    let mut wrong = Vec::new();
    for row in rows.iter().flatten() {
        for (rules, expected) in [&GRO, &LRO, &RSC, &RSC_QEMU].into_iter().zip(row.answers) {
            let got = outcome(rules, &row.packets);
            if got != expected {
                let (name, question) = (rules.name, row.question);
                wrong.push(format!("{question}, {name}: {got}, not {expected}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn as_many_datagrams_as_each_receiver_accepts() {
    let packets: Vec<_> = (0..130).map(|id| datagram(id).payload_len(20)).collect();
    let gro = "64:datagram_limit 64:datagram_limit 2:burst_end";
    assert_eq!(outcome(&GRO, &packets), gro);
    assert_eq!(outcome(&RSC, &packets), "128:datagram_limit 2:burst_end");
}

// --- what leaves ---

fn parsed(done: &Delivered) -> Parsed {
    oracle::parse(jumbo_testkit::Link::Ethernet, &done.whole).expect("well formed")
}

/// The one aggregate of the packets.
fn one(rules: &Rules, packets: &[PacketBuilder]) -> Delivered {
    let mut done = under(rules, packets);
    assert_eq!(done.len(), 1, "{}", outcome(rules, packets));
    let done = done.remove(0);
    oracle::verify_partial(jumbo_testkit::Link::Ethernet, &done.whole).expect("pseudo header");
    done
}

#[test]
fn the_last_values_leave_and_the_lossy_mark() {
    let packets = [
        nth(0).timestamps(7, 2),
        nth(1).timestamps(8, 3).ack(50).window(60).payload_len(300),
        nth(2).seq(401).timestamps(9, 4).ack(70).window(80).ttl(63),
    ];
    for (rules, ttl) in [(&LRO, 64), (&RSC, 63)] {
        let done = one(rules, &packets);
        let packet = parsed(&done);
        let tcp = packet.tcp().expect("TCP");
        assert_eq!(
            (tcp.seq, tcp.ack, tcp.window),
            (1, 70, 80),
            "{}",
            rules.name
        );
        assert_eq!(tcp.options[4..12], [0, 0, 0, 9, 0, 0, 0, 4]);
        let Net::Ipv4(ip) = &packet.net else { panic!() };
        assert_eq!((ip.id, ip.ttl), (0, ttl));
        oracle::verify_ipv4_header(jumbo_testkit::Link::Ethernet, &done.whole).expect("checksum");
        let gso = done.gso.expect("a super-packet");
        assert_eq!(
            (gso.kind, gso.size),
            (GsoKind::Tcp4, 300),
            "the largest segment"
        );
        assert_eq!(
            done.lossy.map(|lossy| (lossy.segments, lossy.dup_acks)),
            Some((3, 0))
        );
        // Cut all the same, it is sound: every byte is there, every checksum right.
        let bytes: usize = done.finished.iter().map(|packet| packet.len() - 66).sum();
        assert_eq!((bytes, done.finished.len()), (500, 2));
        for packet in &done.finished {
            oracle::verify(jumbo_testkit::Link::Ethernet, packet).expect("sound");
        }
    }
}

#[test]
fn push_is_joined_lost_or_the_last() {
    let packets = [nth(0), nth(1).flags(ACK | PSH), nth(2)];
    for (rules, push) in [(&LRO, false), (&RSC, true), (&RSC_QEMU, false)] {
        let done = one(rules, &packets);
        let flags = parsed(&done).tcp().expect("TCP").flags;
        assert_eq!(flags & PSH != 0, push, "{}", rules.name);
    }
    let last = [nth(0), nth(1), nth(2).flags(ACK | PSH)];
    let flags = parsed(&one(&RSC_QEMU, &last)).tcp().expect("TCP").flags;
    assert_eq!(flags & PSH, PSH);
}

/// Microsoft: a window update is no segment. QEMU counts whatever it swallows.
#[test]
fn a_folded_ack_is_counted_by_qemu_alone() {
    let packets = third(ack().window(600));
    for (rules, segments) in [(&LRO, 2), (&RSC, 2), (&RSC_QEMU, 3)] {
        let done = one(rules, &packets);
        assert_eq!(parsed(&done).tcp().expect("TCP").window, 600);
        assert_eq!(
            done.lossy.expect("lossy").segments,
            segments,
            "{}",
            rules.name
        );
        assert_eq!(done.gso.expect("a super-packet").size, 100);
    }
}

/// One segment and a folded window update: an ordinary packet with a new window.
#[test]
fn a_single_packet_takes_over_a_window() {
    let packets = [nth(0), nth(1).payload_len(0).window(600)];
    let done = one(&RSC, &packets);
    assert_eq!(
        (done.gso, parsed(&done).tcp().expect("TCP").window),
        (None, 600)
    );
    let expected = nth(0).window(600).build();
    assert_eq!(done.finished, [expected]);
}

#[test]
fn a_single_packet_leaves_as_it_came() {
    for rules in [&GRO, &LRO, &RSC, &RSC_QEMU] {
        let done = under(rules, &[nth(0)]);
        assert_eq!((done[0].gso, done[0].lossy), (None, None));
        assert_eq!(done[0].finished, [nth(0).build()]);
        // Its checksum was looked at: the receiver need not.
        assert_eq!(done[0].csum, Csum::Verified);
    }
}

#[test]
fn datagrams_without_checksum_get_one() {
    let packets: Vec<_> = (0..3).map(|id| datagram(id).no_checksum()).collect();
    let done = one(&RSC, &packets);
    assert_eq!(done.gso.expect("a super-packet").kind, GsoKind::Udp);
    for (index, packet) in done.finished.iter().enumerate() {
        assert_eq!(*packet, datagram(index as u16).build());
    }
}

#[test]
fn a_receiver_that_wants_it_is_told_the_count() {
    let packets: Vec<_> = all(|p| p.ack(7))
        .into_iter()
        .chain([nth(3).ack(9)])
        .collect();
    let mut rig = Rig::with_rules(&RSC, 8);
    for input in inputs(&packets) {
        rig.offer(&input).expect("sound");
    }
    rig.gro
        .flush(&mut rig.arena, jumbo_engine::coalesce::End::BurstEnd);
    let [ready] = rig.gro.ready()[..] else {
        panic!("one aggregate")
    };
    let packet = rig.arena.packet(ready.id);
    let told = VnetHeader::for_port(packet, Caps::ALL.with_rsc_info(true));
    let plain = VnetHeader::for_port(packet, Caps::ALL);
    assert_eq!((told.flags, told.csum_start, told.csum_offset), (5, 4, 0));
    assert_eq!(
        (plain.flags, plain.csum_start, plain.csum_offset),
        (1, 34, 16)
    );
    assert_eq!((told.gso_type, told.gso_size), (vnet_gso::TCPV4, 100));
    let stats = rig.gro.stats().rsc;
    assert_eq!((stats.coalesced_packets, stats.coalesced_octets), (4, 400));
    assert_eq!((stats.coalesce_events, stats.aborts), (1, 0));
}

/// Windows counts every exception but a datagram that would be too long.
#[test]
fn aborts_are_exceptions() {
    let aborts = |packets: &[PacketBuilder]| {
        let mut rig = Rig::with_rules(&RSC, 8);
        for input in inputs(packets) {
            rig.offer(&input).expect("sound");
        }
        rig.flush(jumbo_engine::coalesce::End::BurstEnd);
        rig.gro.stats().rsc.aborts
    };
    assert_eq!(aborts(&third(nth(2).tos(3))), 1);
    assert_eq!(aborts(&third(nth(2).flags(ACK | ECE))), 1);
    assert_eq!(aborts(&third(nth(2).bad_checksum())), 1);
    assert_eq!(aborts(&third(nth(2).flags(ACK | FIN))), 1);
    assert_eq!(aborts(&[nth(0).flags(ACK | FIN)]), 1, "with nothing held");
    assert_eq!(aborts(&third(nth(3))), 0, "a hole is none");
    let stream = TcpStream::new(PacketBuilder::ethernet()).segments(46);
    let many: Vec<_> = (0..46).map(|index| stream.packet(index)).collect();
    assert_eq!(aborts(&many), 0);
}

/// LRO's maximum length is the table's, or the port's.
#[test]
fn a_shorter_maximum_length_ends_sooner() {
    let short = Rules {
        l3_total_max: 40 + 250,
        ..LRO
    };
    let packets: Vec<_> = (0..5).map(nth).collect();
    let expected = "2:size_limit 2:size_limit 1:burst_end";
    assert_eq!(outcome(&short, &packets), expected);
}

// --- super-packets merged further ---

/// `segments` segments of 100 bytes from the `at`-th on, of one stream.
fn part(at: u16, segments: usize) -> PacketBuilder {
    nth(at).payload(&pattern(100 * usize::from(at), 100 * segments))
}

fn parts(count: u16) -> Vec<Vec<u8>> {
    (0..count).map(|at| part(at, 1).build()).collect()
}

/// The same as a super-packet.
fn train(at: u16, segments: usize, trust: Trust) -> Input {
    train_of(part(at, segments), 100, trust)
}

fn train_of(packet: PacketBuilder, size: u16, trust: Trust) -> Input {
    let bytes = packet.partial_checksum().build();
    let header = needs_csum(Link::Ethernet, &bytes, vnet_gso::TCPV4, size);
    Input::ethernet(bytes).vnet(header, trust)
}

fn counts(rules: &Rules, inputs: &[Input]) -> Vec<(usize, Why)> {
    let done = burst_under(rules, 8, inputs).into_iter();
    done.map(|done| (done.members.len(), done.why)).collect()
}

#[test]
fn super_packets_of_the_host_merge_and_a_guests_never() {
    use jumbo_engine::coalesce::{Alone, End};
    let trains = |trust| [train(0, 3, trust), train(3, 2, trust), train(5, 4, trust)];
    for rules in [&GRO, &LRO, &RSC] {
        let merged = counts(rules, &trains(Trust::Kernel));
        assert_eq!(merged, [(3, Why::Ended(End::BurstEnd))], "{}", rules.name);
        let guest = counts(rules, &trains(Trust::Guest));
        assert_eq!(guest, [(1, Why::Alone(Alone::AlreadyMerged)); 3]);
    }
    let done = burst_under(&GRO, 8, &trains(Trust::Kernel)).remove(0);
    assert!(done.finished == parts(9), "byte for byte");
    let qemu = counts(&RSC_QEMU, &trains(Trust::Kernel));
    assert_eq!(qemu, [(1, Why::Alone(Alone::AlreadyMerged)); 3]);
}

#[test]
fn super_packets_and_single_packets_merge() {
    let single = |at| Input::ethernet(part(at, 1).build());
    for inputs in [
        [single(0), train(1, 3, Trust::Kernel), single(4)],
        [train(0, 3, Trust::Kernel), single(3), single(4)],
    ] {
        let done = burst_under(&GRO, 8, &inputs);
        assert_eq!(done.len(), 1);
        assert!(done[0].finished == parts(5), "byte for byte");
    }
}

#[test]
fn super_packets_that_could_not_be_recreated_stay_apart() {
    use jumbo_engine::coalesce::{Alone, End};
    let kernel = Trust::Kernel;
    let first = || train(0, 2, kernel);
    let cases = [
        // Another segment size.
        (
            train_of(nth(2).payload_len(300), 150, kernel),
            End::SuperPacket,
        ),
        // IDs that would have to stay where they count.
        (
            train_of(nth(2).id(0).payload_len(200), 100, kernel),
            End::IpIdIrregular,
        ),
        (train(3, 2, kernel), End::SequenceGap),
    ];
    for (second, end) in cases {
        let done = counts(&GRO, &[first(), second]);
        assert_eq!(done[0], (1, Why::Ended(end)));
    }
    // A short last segment ends the aggregate, and begins none.
    let short = || train_of(nth(2).payload_len(250), 100, kernel);
    let done = counts(&GRO, &[first(), short()]);
    assert_eq!(done, [(2, Why::Ended(End::ShortSegment))]);
    assert_eq!(
        counts(&GRO, &[short()]),
        [(1, Why::Alone(Alone::AlreadyMerged))]
    );
    // CWR on the first of many is neither on all nor on none.
    let cwr = train_of(nth(0).flags(ACK | CWR).payload_len(200), 100, kernel);
    assert_eq!(counts(&GRO, &[cwr])[0].1, Why::Alone(Alone::AlreadyMerged));
    // One that is as long as can be.
    let full = train_of(nth(0).payload_len(65400), 1090, kernel);
    assert_eq!(counts(&GRO, &[full])[0].1, Why::Alone(Alone::AlreadyMerged));
}

// --- what CWR does is a policy ---

#[test]
fn cwr_by_three_policies() {
    use jumbo_engine::coalesce::CwrRule;
    let cwr = ACK | CWR;
    let first = [nth(0).flags(cwr), nth(1), nth(2)];
    let later = [nth(0), nth(1).flags(cwr), nth(2)];
    let with = |cwr| Rules { cwr, ..GRO };
    let by = |rule, packets: &[PacketBuilder]| outcome(&with(rule), packets);
    assert_eq!(by(CwrRule::Equal, &first), "1:flags_changed 2:burst_end");
    assert_eq!(by(CwrRule::FirstOnly, &first), ALL);
    assert_eq!(by(CwrRule::Never, &first), "1:cwr 2:burst_end");
    assert_eq!(
        by(CwrRule::FirstOnly, &later),
        "1:flags_changed 2:burst_end"
    );
    assert_eq!(
        by(CwrRule::Never, &later),
        "1:flags_changed 1:cwr 1:burst_end"
    );
    // The segmenter is in step.
    let done = under(&with(CwrRule::FirstOnly), &first).remove(0);
    assert_eq!(
        done.finished,
        inputs(&first)
            .into_iter()
            .map(|i| i.bytes)
            .collect::<Vec<_>>()
    );
}
