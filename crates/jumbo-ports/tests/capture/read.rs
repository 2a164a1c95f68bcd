//! What the formats say is what the records say.

use std::fs;
use std::io::Read;

use jumbo_ports::capture::{CaptureError, CaptureReader, LinkType};

use crate::build::*;

#[test]
fn pcap_in_both_orders_and_resolutions() {
    for order in ORDERS {
        for (magic, ns) in [(0xa1b2_c3d4, 1000), (0xa1b2_3c4d, 1)] {
            let expected = [
                owned(
                    Some(10_000_000_000 + 7 * ns),
                    LinkType::Ethernet,
                    60,
                    b"hello",
                ),
                owned(
                    Some(11_000_000_000 + 999 * ns),
                    LinkType::Ethernet,
                    3,
                    b"abc",
                ),
            ];
            assert_eq!(
                read_all(&small_pcap(order, magic)),
                expected,
                "{order:?} {magic:#x}"
            );
        }
    }
}

#[test]
fn pcap_patched_header_and_swapped_lengths() {
    let order = Order::Big;
    let patched = [
        order.pcap_header(0xa1b2_cd34, 4, 101),
        order.words(&[1, 2, 3, 9, 0xffff_ffff, 0xffff_ffff]),
        b"abc".to_vec(),
    ]
    .concat();
    assert_eq!(
        read_all(&patched),
        [owned(Some(1_000_002_000), LinkType::RawIp, 9, b"abc")]
    );
    for minor in [2, 3] {
        let header = order.pcap_header(0xa1b2_c3d4, minor, 1);
        let swapped = [header, order.words(&[0, 0, 9, 3]), b"abc".to_vec()].concat();
        assert_eq!(
            read_all(&swapped),
            [owned(Some(0), LinkType::Ethernet, 9, b"abc")]
        );
    }
}

#[test]
fn pcap_link_type_ignores_the_fcs_bits() {
    let bytes = [
        Order::Little.pcap_header(0xa1b2_c3d4, 4, 0x2400_0001),
        vec![0; 16],
    ]
    .concat();
    assert_eq!(
        read_all(&bytes),
        [owned(Some(0), LinkType::Ethernet, 0, b"")]
    );
}

#[test]
fn pcapng_with_everything() {
    assert_eq!(read_all(&motley_pcapng()), motley_records());
}

#[test]
fn pcapng_times() {
    let le = Order::Little;
    let second = 1_000_000_000_u64;
    let cases: [(u8, i64, u64, Option<u64>); 9] = [
        (0, 0, 5, Some(5 * second)),
        (3, 0, 5, Some(5_000_000)),
        (9, 0, 5, Some(5)),
        (12, 0, 5999, Some(5)),
        (127, 0, u64::MAX, Some(0)),
        (0x80 | 1, 0, 3, Some(1_500_000_000)),
        (0xff, 0, u64::MAX, Some(0)),
        (6, 100, 1, Some(100 * second + 1000)),
        (6, -1, 1, None),
    ];
    for (resolution, offset, ticks, expected) in cases {
        let options = [
            le.option(9, &[resolution]),
            le.option(14, &offset.to_le_bytes()),
        ]
        .concat();
        let file = [
            le.section(),
            le.interface(1, 0, &options),
            le.enhanced(0, ticks, 0, b""),
        ]
        .concat();
        assert_eq!(
            read_all(&file)[0].ts_ns,
            expected,
            "{resolution} {offset} {ticks}"
        );
    }
    // 2^64 seconds are past what 64 bits of nanoseconds hold.
    let far = [
        le.section(),
        le.interface(1, 0, &le.option(9, &[0])),
        le.enhanced(0, u64::MAX, 0, b""),
    ];
    assert_eq!(read_all(&far.concat())[0].ts_ns, None);
    let be = Order::Big;
    let offset = be.option(14, &7_i64.to_be_bytes());
    let file = [
        be.section(),
        be.interface(1, 0, &offset),
        be.enhanced(0, 0, 0, b""),
    ]
    .concat();
    assert_eq!(read_all(&file)[0].ts_ns, Some(7 * second));
}

#[test]
fn options_that_are_cut_do_not_cost_the_packet() {
    let le = Order::Little;
    let bad_option = [9, 0, 200, 0];
    let mut packet = le.words(&[0, 0, 1, 3, 3]);
    packet.extend(b"abc\0");
    packet.extend(bad_option);
    let file = [
        le.section(),
        le.interface(1, 0, &bad_option),
        le.block(6, &packet),
    ]
    .concat();
    assert_eq!(
        read_all(&file),
        [owned(Some(1000), LinkType::Ethernet, 3, b"abc")]
    );
}

#[test]
fn gzip_of_one_and_of_two_members() {
    let bytes = motley_pcapng();
    assert_eq!(read_all(&gzip(&bytes)), motley_records());
    let (a, b) = bytes.split_at(77);
    assert_eq!(read_all(&[gzip(a), gzip(b)].concat()), motley_records());
}

#[test]
fn a_source_that_gives_single_bytes() {
    struct Drip(std::io::Cursor<Vec<u8>>);
    impl Read for Drip {
        fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
            let one = buf.len().min(1);
            self.0.read(&mut buf[..one])
        }
    }
    for bytes in [motley_pcapng(), gzip(&motley_pcapng())] {
        let drip = Drip(std::io::Cursor::new(bytes));
        let mut reader = CaptureReader::from_read("drip", drip, None).unwrap();
        let (records, error) = drain(&mut reader);
        assert!(error.is_none(), "{error:?}");
        assert_eq!(records, motley_records());
    }
}

#[test]
fn progress_counts_the_file_not_its_contents() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.pcapng.gz");
    let bytes = gzip(&motley_pcapng());
    fs::write(&path, &bytes).unwrap();
    let mut reader = CaptureReader::open(&path).unwrap();
    assert_eq!(reader.total_bytes(), Some(bytes.len() as u64));
    drain(&mut reader);
    assert_eq!(reader.bytes_read(), bytes.len() as u64);
}

#[test]
fn what_cannot_be_opened() {
    let dir = tempfile::tempdir().unwrap();
    let open = |name: &str| CaptureReader::open(dir.path().join(name)).unwrap_err();
    assert!(matches!(open("none"), CaptureError::Missing { .. }));
    assert!(matches!(open("."), CaptureError::Directory { .. }));
    fs::write(dir.path().join("empty"), "").unwrap();
    assert!(matches!(open("empty"), CaptureError::Empty { .. }));
    fs::write(dir.path().join("text"), "no packets here").unwrap();
    assert!(matches!(open("text"), CaptureError::NotCapture { .. }));
    assert!(
        open("text")
            .to_string()
            .contains("/text is not a pcap or pcapng capture")
    );
}

#[test]
fn permission_denied_says_so() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secret");
    fs::write(&path, motley_pcapng()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    match CaptureReader::open(&path) {
        Ok(_) => println!("skipped: root reads everything (run the tests as a user)"),
        Err(error) => assert!(matches!(error, CaptureError::Permission { .. }), "{error}"),
    }
}
