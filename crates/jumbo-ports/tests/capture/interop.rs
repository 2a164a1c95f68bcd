//! tcpdump agrees.

use std::path::Path;
use std::process::Command;

use jumbo_ports::capture::{CaptureWriter, LinkType, OutPacket};

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
