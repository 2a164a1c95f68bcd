//! What is written is what is read, by us and by others, and nothing half-made stays.

use std::fs;
use std::path::Path;

use jumbo_ports::capture::{CaptureError, CaptureReader, CaptureWriter, LinkType, OutPacket};
use pcap_parser::traits::PcapReaderIterator;
use pcap_parser::{Block, OptionCode, PcapBlockOwned, PcapError, PcapNGReader};
use proptest::prelude::*;

use crate::build::*;

fn packet<'a>(ts_ns: u64, data: &'a [u8], comment: Option<&'a str>) -> OutPacket<'a> {
    OutPacket {
        link: LinkType::Ethernet,
        ts_ns,
        orig_len: data.len() as u32,
        data,
        comment,
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn write_all(path: &Path, packets: &[OutPacket<'_>]) -> u64 {
    let mut writer = CaptureWriter::create(path, None).unwrap();
    for packet in packets {
        writer.write_packet(packet).unwrap();
    }
    assert_eq!(writer.packets(), packets.len() as u64);
    writer.finish().unwrap()
}

/// Interface, ticks, original length, bytes and comment, as another reader sees them.
type Seen = (u32, u64, u32, Vec<u8>, Option<String>);

fn by_pcap_parser(bytes: &[u8]) -> Vec<Seen> {
    let mut reader = PcapNGReader::new(1 << 20, bytes).unwrap();
    let mut seen = Vec::new();
    loop {
        match reader.next() {
            Ok((len, block)) => {
                if let PcapBlockOwned::NG(Block::EnhancedPacket(p)) = &block {
                    let comment = p.options.iter().find(|o| o.code == OptionCode::Comment);
                    let comment = comment.map(|o| o.as_str().unwrap().to_owned());
                    let ticks = u64::from(p.ts_high) << 32 | u64::from(p.ts_low);
                    let data = p.data[..p.caplen as usize].to_vec();
                    seen.push((p.if_id, ticks, p.origlen, data, comment));
                }
                reader.consume(len);
            }
            Err(PcapError::Eof) => return seen,
            Err(PcapError::Incomplete(_)) => reader.refill().unwrap(),
            Err(error) => panic!("{error:?}"),
        }
    }
}

proptest! {
    #[test]
    fn round_trip(packets in prop::collection::vec((
        any::<u64>(),
        prop::collection::vec(any::<u8>(), 0..200),
        0_u32..500,
        prop::sample::select(vec![LinkType::Ethernet, LinkType::RawIp]),
        prop::option::of("[a-zäß ]{1,30}"),
    ), 0..20)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.pcapng");
        let out: Vec<_> = packets.iter().map(|(ts_ns, data, orig_len, link, comment)| OutPacket {
            link: *link, ts_ns: *ts_ns, orig_len: *orig_len, data, comment: comment.as_deref(),
        }).collect();
        let len = write_all(&path, &out);
        let bytes = fs::read(&path).unwrap();
        prop_assert_eq!(len, bytes.len() as u64);
        let ours: Vec<_> = out.iter().map(|p| {
            owned(Some(p.ts_ns), p.link, p.orig_len.max(p.data.len() as u32), p.data)
        }).collect();
        prop_assert_eq!(read_all(&bytes), ours);
        let first = out.first().map(|p| p.link);
        let theirs: Vec<Seen> = out.iter().map(|p| {
            let interface = u32::from(Some(p.link) != first);
            let orig_len = p.orig_len.max(p.data.len() as u32);
            (interface, p.ts_ns, orig_len, p.data.to_vec(), p.comment.map(str::to_owned))
        }).collect();
        prop_assert_eq!(by_pcap_parser(&bytes), theirs);
    }
}

#[test]
fn appears_only_when_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.pcapng");
    let mut writer = CaptureWriter::create(&path, None).unwrap();
    writer.write_packet(&packet(1, b"abc", None)).unwrap();
    assert!(!path.exists());
    drop(writer);
    assert!(names(dir.path()).is_empty());
    write_all(&path, &[packet(1, b"abc", None)]);
    assert_eq!(names(dir.path()), ["out.pcapng"]);
}

#[test]
fn an_abandoned_write_leaves_the_old_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.pcapng");
    fs::write(&path, "old").unwrap();
    drop(CaptureWriter::create(&path, None).unwrap());
    assert_eq!(fs::read(&path).unwrap(), b"old");
    write_all(&path, &[]);
    assert!(read_all(&fs::read(&path).unwrap()).is_empty());
}

#[test]
fn the_input_is_not_overwritten_under_any_name() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("in.pcapng");
    fs::write(&input, motley_pcapng()).unwrap();
    let (hard, soft) = (dir.path().join("hard"), dir.path().join("soft"));
    fs::hard_link(&input, &hard).unwrap();
    std::os::unix::fs::symlink(&input, &soft).unwrap();
    for name in [&input, &hard, &soft, &dir.path().join("./in.pcapng")] {
        let error = CaptureWriter::create(name, Some(&input)).unwrap_err();
        assert!(matches!(error, CaptureError::SameFile { .. }), "{error}");
    }
    let other = CaptureWriter::create(dir.path().join("other"), Some(&input)).unwrap();
    other.finish().unwrap();
    assert_eq!(fs::read(&input).unwrap(), motley_pcapng());
}

#[test]
fn a_symbolic_link_stays_one() {
    let dir = tempfile::tempdir().unwrap();
    let (file, link) = (dir.path().join("file"), dir.path().join("link"));
    fs::write(&file, "old").unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    write_all(&link, &[packet(5, b"abc", None)]);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(read_all(&fs::read(&file).unwrap()).len(), 1);
}

#[test]
fn a_device_is_written_to_not_replaced() {
    use std::os::unix::fs::FileTypeExt;
    write_all(Path::new("/dev/null"), &[packet(5, b"abc", None)]);
    assert!(
        fs::metadata("/dev/null")
            .unwrap()
            .file_type()
            .is_char_device()
    );
}

#[test]
fn what_cannot_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let error = CaptureWriter::create(dir.path(), None).unwrap_err();
    assert!(matches!(error, CaptureError::Directory { .. }), "{error}");
    let error = CaptureWriter::create(dir.path().join("no/such/out"), None).unwrap_err();
    assert!(matches!(error, CaptureError::Write { .. }), "{error}");
    let error = CaptureWriter::create("/dev/full", None)
        .unwrap()
        .finish()
        .unwrap_err();
    assert!(matches!(error, CaptureError::Write { .. }), "{error}");
}

#[test]
fn too_long_a_packet_is_refused_and_the_rest_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out");
    let data = vec![0; 262_145];
    let mut writer = CaptureWriter::create(&path, None).unwrap();
    let error = writer.write_packet(&packet(0, &data, None)).unwrap_err();
    assert!(matches!(error, CaptureError::TooLong { len: 262_145, .. }));
    writer.write_packet(&packet(0, &data[1..], None)).unwrap();
    writer.finish().unwrap();
    assert_eq!(read_all(&fs::read(path).unwrap())[0].data.len(), 262_144);
}

#[test]
fn long_comments_are_cut_at_a_character() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out");
    let comment = "ä".repeat(40_000);
    write_all(&path, &[packet(0, b"abc", Some(&comment))]);
    let seen = by_pcap_parser(&fs::read(path).unwrap());
    assert_eq!(seen[0].4.as_deref(), Some(&comment[..65_534]));
}

#[test]
fn permissions_are_those_of_any_new_file() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let (ours, plain) = (dir.path().join("ours"), dir.path().join("plain"));
    write_all(&ours, &[]);
    fs::write(&plain, "").unwrap();
    let mode = |path| fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(ours), mode(plain));
}

#[test]
fn a_reader_opens_what_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out");
    write_all(&path, &[packet(77, b"abc", Some("held 3 us"))]);
    let mut reader = CaptureReader::open(&path).unwrap();
    let record = reader.next_record().unwrap().unwrap();
    assert_eq!(
        (record.ts_ns, record.data, record.is_cut()),
        (Some(77), &b"abc"[..], false)
    );
}
