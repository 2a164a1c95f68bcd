//! tcpdump agrees, and pipes work.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use jumbo_ports::capture::{CaptureReader, CaptureWriter, LinkType, OutPacket};

use crate::build::*;

/// tcpdump's account of a file, a line per packet, or `None` without tcpdump.
fn tcpdump(path: &Path) -> Option<Vec<String>> {
    let run = Command::new("tcpdump")
        .args(["-tt", "-n", "-xx", "--nano", "-r"])
        .arg(path)
        .output();
    let Ok(output) = run else {
        println!("skipped: no tcpdump (apt-get install tcpdump)");
        return None;
    };
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Some(
        text.lines()
            .filter(|l| !l.starts_with('\t'))
            .map(str::to_owned)
            .collect(),
    )
}

#[test]
fn tcpdump_reads_what_we_write() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.pcapng");
    let mut writer = CaptureWriter::create(&path, None).unwrap();
    let data = [&[2; 12][..], &[0x08, 0x06], &[0; 46]].concat();
    for ts_ns in [1_700_000_000_123_456_789, 1_700_000_001_000_000_001] {
        let link = LinkType::Ethernet;
        let comment = Some("kept apart: push");
        let out = OutPacket {
            link,
            ts_ns,
            orig_len: 60,
            data: &data,
            comment,
        };
        writer.write_packet(&out).unwrap();
    }
    writer.finish().unwrap();
    let Some(lines) = tcpdump(&path) else { return };
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines[0].starts_with("1700000000.123456789 ARP"),
        "{lines:?}"
    );
    assert!(
        lines[1].starts_with("1700000001.000000001 ARP"),
        "{lines:?}"
    );
}

#[test]
fn tcpdump_reads_an_empty_capture() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.pcapng");
    CaptureWriter::create(&path, None)
        .unwrap()
        .finish()
        .unwrap();
    let Some(lines) = tcpdump(&path) else { return };
    assert!(lines.is_empty(), "{lines:?}");
}

/// Copies standard input to standard output; does nothing unless run by the test below.
#[test]
fn child_copies_standard_streams() {
    if std::env::var_os("JUMBO_TEST_COPY").is_none() {
        return;
    }
    let mut reader = CaptureReader::open("-").unwrap();
    let mut writer = CaptureWriter::create("-", None).unwrap();
    while let Some(record) = reader.next_record() {
        let r = record.unwrap();
        let (link, ts_ns) = (r.link, r.ts_ns.unwrap_or_default());
        let out = OutPacket {
            link,
            ts_ns,
            orig_len: r.orig_len,
            data: r.data,
            comment: None,
        };
        writer.write_packet(&out).unwrap();
    }
    writer.finish().unwrap();
    // The harness would write its summary into the capture.
    std::process::exit(0);
}

#[test]
fn standard_streams() {
    let bytes = small_pcap(Order::Big, 0xa1b2_3c4d);
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "interop::child_copies_standard_streams",
            "--nocapture",
            "-q",
        ])
        .env("JUMBO_TEST_COPY", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    // The harness has announced its one test before the capture begins.
    let start = output
        .stdout
        .windows(4)
        .position(|w| w == [0x0a, 0x0d, 0x0d, 0x0a])
        .unwrap();
    assert_eq!(read_all(&output.stdout[start..]), read_all(&bytes));
}

/// The builders of these tests are no invention of their own.
#[test]
fn tcpdump_counts_what_we_count() {
    let dir = tempfile::tempdir().unwrap();
    for order in ORDERS {
        for magic in [0xa1b2_c3d4, 0xa1b2_3c4d] {
            let path = dir.path().join("in.pcap");
            let bytes = small_pcap(order, magic);
            std::fs::write(&path, &bytes).unwrap();
            let Some(lines) = tcpdump(&path) else { return };
            assert_eq!(lines.len(), read_all(&bytes).len());
        }
    }
}
