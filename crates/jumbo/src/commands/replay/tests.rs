//! Parts of the replay, each by itself.

use jumbo_engine::coalesce::GRO;
use std::io::Cursor;

use clap::Parser;

use super::*;
use crate::args::{Burst, ChecksumMode, Cli, Command};

/// The sample through a coalescing replay of its own.
fn coalesced(rule: BurstRule, books: Books) -> Books {
    let mut work = Coalescing::new(&GRO, rule, ChecksumMode::Auto, (false, books), None);
    let bytes = Cursor::new(sample::capture());
    let mut reader = CaptureReader::from_read("sample", bytes, None).expect("a capture");
    while let Some(record) = reader.next_record() {
        work.feed(&record.expect("whole")).expect("nothing written");
    }
    work.finish().expect("nothing written").0
}

fn by_rule_only() -> BurstRule {
    BurstRule::new(Burst::All, 50)
}

#[test]
fn the_sample_is_always_the_same() {
    assert_eq!(sample::capture(), sample::capture());
}

#[test]
fn flows_beyond_the_limit_are_counted_together() {
    let whole = coalesced(by_rule_only(), Books::new(FLOWS_LISTED));
    let books = coalesced(by_rule_only(), Books::new(3));
    assert_eq!(books.flows().len(), 3);
    assert_eq!(books.packets_out, whole.packets_out);
    assert_eq!(books.without_flow, whole.without_flow);
    let listed: u64 = books.flows().iter().map(|flow| flow.packets_in).sum();
    let others = books.rest.packets_in + books.without_flow.packets_in;
    assert_eq!(listed + others, books.packets_in);
    let listed: u64 = books.flows().iter().map(|flow| flow.packets_out).sum();
    let others = books.rest.packets_out + books.without_flow.packets_out;
    assert_eq!(listed + others, books.packets_out);
    let listed: u64 = books.flows().iter().map(|flow| flow.payload_bytes).sum();
    assert_eq!(listed + books.rest.payload_bytes, books.payload_bytes_in);
}

#[test]
fn a_full_buffer_ends_the_burst_and_is_counted() {
    let mut packets = by_rule_only();
    packets.packets_max = 100;
    let books = coalesced(packets, Books::new(FLOWS_LISTED));
    // 550 packets in hundreds.
    assert_eq!((books.bursts, books.buffer_full), (6, 5));
    let mut bytes = by_rule_only();
    bytes.bytes_max = 100_000;
    let books = coalesced(bytes, Books::new(FLOWS_LISTED));
    // About 800 kB, headers included, in hundreds of kB and a packet.
    assert_eq!((books.bursts, books.buffer_full), (8, 7));
    assert_eq!(books.payload_bytes_in, books.payload_bytes_out);
    let unbounded = coalesced(by_rule_only(), Books::new(FLOWS_LISTED));
    assert_eq!((unbounded.bursts, unbounded.buffer_full), (1, 0));
}

#[test]
fn a_few_flows_at_a_time_are_enough() {
    // A burst of 2 leaves room for 2 flows: places are taken over, and nothing gets lost.
    let two = BurstRule::new(Burst::Packets(2.try_into().expect("not 0")), u64::MAX);
    let books = coalesced(two, Books::new(FLOWS_LISTED));
    assert_eq!(books.bursts, 275);
    assert_eq!(books.payload_bytes_in, books.payload_bytes_out);
}

fn args(words: &[&str]) -> ReplayArgs {
    let words = ["jumbo", "replay"].iter().chain(words);
    match Cli::try_parse_from(words).expect("parses").command {
        Command::Replay(args) => args,
        other => panic!("{other:?}"),
    }
}

/// The conclusion on a capture of the sample's packets for which `keep` holds, by number from 1.
fn conclusion_of(words: &[&str], keep: impl Fn(u64) -> bool) -> String {
    let args = args(words);
    let mut work = Work::new(&args, None);
    let bytes = Cursor::new(sample::capture());
    let mut reader = CaptureReader::from_read("sample", bytes, None).expect("a capture");
    while let Some(record) = reader.next_record() {
        let record = record.expect("whole");
        if keep(record.number) {
            work.feed(&record).expect("nothing written");
        }
    }
    let (books, _) = work.finish().expect("nothing written");
    Report::new(&args, &books, None).conclusion
}

#[test]
fn conclusions_say_what_limits_and_where_to_look() {
    // The first scene has 199 packets, the second 200.
    for (words, numbers, wanted) in [
        (
            &["--sample"][..],
            1..=2,
            "Nothing to coalesce: no packet carries TCP payload",
        ),
        (
            &["--sample"],
            1..=52,
            "1 of 2 packets out with TCP payload (50 %) left for `size_limit`",
        ),
        (
            &["--sample"],
            200..=399,
            "4 of 5 packets out with TCP payload (80 %) left for `burst_end`",
        ),
        (
            &["--sample", "--burst", "all"],
            200..=399,
            "4 of 5 packets out with TCP payload (80 %) left for `size_limit`",
        ),
        (
            &["--sample", "--segment", "1448"],
            1..=399,
            "Nothing to segment",
        ),
        (
            &["--sample", "--segment", "1000"],
            200..=209,
            "10 of 10 packets were super-packets and became 20 packets",
        ),
        (&["--sample"], 0..=0, "The capture holds no packets."),
    ] {
        let sentence = conclusion_of(words, |number| numbers.contains(&number));
        assert!(sentence.starts_with(wanted), "{sentence}");
        assert!(
            sentence.ends_with('.') && sentence.matches(". ").count() == 0,
            "{sentence}"
        );
    }
    let advice = conclusion_of(&["--sample"], |number| (200..=399).contains(&number));
    assert!(advice.contains("`--burst all`"), "{advice}");
}

#[test]
fn the_json_says_what_was_done() {
    let coalescing = args(&["--sample", "--burst", "all"]);
    let books = coalesced(by_rule_only(), Books::new(FLOWS_LISTED));
    let report = Report::new(&coalescing, &books, Some("the end".into()));
    let json = serde_json::to_value(&report).expect("JSON");
    let keys = [
        "packets_in",
        "packets_out",
        "payload_bytes_in",
        "payload_bytes_out",
    ];
    assert!(keys.iter().all(|key| json[key].is_u64()), "{json}");
    assert!(json["segments_per_packet"].is_f64());
    let reasons = json["reasons"].as_object().expect("an object");
    assert!(reasons.values().all(serde_json::Value::is_u64));
    assert!(json["flows"].is_array());
    let said = (
        &json["mode"],
        &json["burst"],
        &json["checksum"],
        &json["damage"],
    );
    assert_eq!(
        said,
        (
            &"coalesce".into(),
            &"all".into(),
            &"auto".into(),
            &"the end".into()
        )
    );
}

/// Books that any capture must leave behind.
fn assert_balanced(books: &Books, segmenting: bool) {
    assert_eq!(books.payload_bytes_in, books.payload_bytes_out);
    let seen = || books.merged.seen().into_iter().chain(books.single.seen());
    assert_eq!(
        seen().map(|(_, tally)| tally.left).sum::<u64>(),
        books.packets_out
    );
    assert_eq!(
        seen().map(|(_, tally)| tally.came).sum::<u64>(),
        books.packets_in
    );
    let flows = |of: fn(&books::Flow) -> u64| books.flows().iter().map(of).sum::<u64>();
    let others = books.without_flow.packets_in + books.rest.packets_in;
    assert_eq!(flows(|flow| flow.packets_in) + others, books.packets_in);
    let decided = flows(|flow| flow.reasons.iter().map(|(_, count)| count).sum());
    let wanted = if segmenting {
        books.packets_in - books.without_flow.packets_in
    } else {
        books.packets_out - books.without_flow.packets_out
    };
    assert_eq!(decided, wanted);
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(64))]

    /// Whatever the bytes of the packets say, nothing panics and the books balance.
    #[test]
    fn damaged_packets_leave_balanced_books(
        damage in proptest::collection::vec((0..550_u64, 0..100_usize, 0..=255_u8), 1..400),
        snap_len in 1..300_usize,
        cut in proptest::bool::ANY,
        mode in 0..3_usize,
        segment in proptest::option::of(8..3000_u16),
    ) {
        let mode = ["auto", "verify", "trust"][mode];
        let segment = segment.map(|size| size.to_string());
        let mut words = vec!["--sample", "--checksum", mode];
        words.extend(segment.iter().flat_map(|size| ["--segment", size]));
        let out = tempfile::NamedTempFile::new().expect("a file");
        let output = Output::create(out.path(), None).expect("created");
        let mut work = Work::new(&args(&words), Some(output));
        let bytes = Cursor::new(sample::capture());
        let mut reader = CaptureReader::from_read("sample", bytes, None).expect("a capture");
        while let Some(record) = reader.next_record() {
            let record = record.expect("whole");
            let mut data = record.data.to_vec();
            for (_, at, byte) in damage.iter().filter(|(number, ..)| *number == record.number) {
                if let Some(place) = data.get_mut(*at) {
                    *place = *byte;
                }
            }
            if cut {
                data.truncate(snap_len);
            }
            let record = Record { data: &data, ..record };
            work.feed(&record).expect("written");
        }
        let (books, output) = work.finish().expect("written");
        output.expect("there").finish().expect("written");
        assert_balanced(&books, segment.is_some());
        assert_eq!(books.packets_in, 550);
        let written = CaptureReader::open(out.path()).expect("a capture");
        assert_eq!(count(written), books.packets_out);
    }
}

fn count(mut reader: CaptureReader) -> u64 {
    let mut packets = 0;
    while let Some(record) = reader.next_record() {
        record.expect("whole");
        packets += 1;
    }
    packets
}

/// A reason of the replay's own is a key of what a test of the command expects.
#[test]
fn every_reason_of_the_replay_is_shown_by_a_test() {
    use jumbo_engine::reason::Reason as _;
    let sources = [
        include_str!("../../../tests/replay/formats.rs"),
        include_str!("../../../tests/replay/laws.rs"),
        include_str!("../../../tests/replay/sample.rs"),
    ];
    for reason in books::Own::ALL {
        let key = format!("\"{}\":", reason.name());
        assert!(sources.iter().any(|source| source.contains(&key)), "{key}");
    }
}
