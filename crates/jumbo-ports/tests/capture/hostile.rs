//! Cut, lying and mutated files: an error or a clean end, never a panic.

use proptest::prelude::*;

use jumbo_ports::capture::CaptureError;
use jumbo_ports::capture::fuzz_bodies::fuzz_capture;

use crate::build::*;

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![motley_pcapng()];
    for order in ORDERS {
        seeds.push(small_pcap(order, 0xa1b2_c3d4));
        seeds.push(small_pcap(order, 0xa1b2_3c4d));
        seeds.push(small_pcap(order, 0xa1b2_cd34));
    }
    let zipped: Vec<_> = seeds.iter().map(|s| gzip(s)).collect();
    seeds.extend(zipped);
    seeds
}

/// Offsets at which a cut is a clean end: where records, or blocks, end.
fn cut_everywhere(bytes: &[u8], clean: &[usize]) {
    let header_len = clean[0];
    let whole = read_all(bytes);
    for len in 1..bytes.len() {
        let (records, error) = read(&bytes[..len]);
        assert_eq!(
            records,
            whole[..records.len()],
            "what was read before the cut is kept"
        );
        if clean.contains(&len) {
            assert!(error.is_none(), "{len}: {error:?}");
            continue;
        }
        match error {
            Some(CaptureError::Truncated { record, byte, .. }) => {
                assert!(len > header_len);
                assert_eq!(record, records.len() as u64 + 1);
                assert!(byte as usize <= len);
            }
            Some(CaptureError::CutHeader { .. }) if len < header_len => {}
            Some(CaptureError::NotCapture { .. }) if len < 4 => {}
            other => panic!("cut at {len}: {other:?}"),
        }
    }
}

#[test]
fn pcap_cut_at_every_byte() {
    for order in ORDERS {
        cut_everywhere(&small_pcap(order, 0xa1b2_c3d4), &[24, 24 + 16 + 5]);
    }
}

#[test]
fn pcapng_cut_at_every_byte() {
    let bytes = motley_pcapng();
    let mut clean = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        // Both orders; no block here is longer than 255 bytes.
        at += usize::from(bytes[at + 4].max(bytes[at + 7]));
        clean.push(at);
    }
    assert_eq!(clean.len(), 11);
    cut_everywhere(&bytes, &clean);
}

#[test]
fn gzip_cut_at_every_byte() {
    let bytes = gzip(&motley_pcapng());
    for len in 3..bytes.len() {
        let (records, error) = read(&bytes[..len]);
        assert_eq!(records, motley_records()[..records.len()]);
        match error {
            Some(CaptureError::Truncated { .. }) => {}
            Some(CaptureError::CutHeader { .. }) => assert!(records.is_empty()),
            other => panic!("cut at {len}: {other:?}"),
        }
    }
}

#[test]
fn a_broken_gzip_stream() {
    let mut bytes = gzip(&motley_pcapng());
    let checksum_at = bytes.len() - 8;
    bytes[checksum_at] ^= 1;
    let (records, error) = read(&bytes);
    assert_eq!(records, motley_records());
    assert!(
        matches!(error, Some(CaptureError::Gzip { .. })),
        "{error:?}"
    );
}

#[test]
fn the_message_says_what_is_left() {
    let bytes = small_pcap(Order::Little, 0xa1b2_c3d4);
    let (_, error) = read(&bytes[..bytes.len() - 1]);
    let expected = "x.pcap ends too early, inside the record or block at byte 45; complete \
                    packets before it: 1; for more, copy or record the file again";
    assert_eq!(error.unwrap().to_string(), expected);
}

fn pcapng(order: Order, block: Vec<u8>) -> (Vec<Owned>, Option<CaptureError>) {
    let packet = order.enhanced(0, 0, 2, b"ok");
    read(&[order.section(), order.interface(1, 0, &[]), packet, block].concat())
}

/// The one packet before the block is returned and the block's place is told.
fn refused(block: Vec<u8>) -> CaptureError {
    let (records, error) = pcapng(Order::Little, block);
    assert_eq!(records.len(), 1);
    let error = error.expect("an error");
    assert!(error.to_string().contains("byte 84"), "{error}");
    error
}

#[test]
fn block_lengths_that_lie() {
    let le = Order::Little;
    let packet = le.enhanced(0, 0, 2, b"ok");
    for (at, value) in [(4, 13), (4, 8), (4, 0), (4, 32), (20, 9), (32, 40)] {
        let mut block = packet.clone();
        block[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
        block.extend([0; 64]);
        let error = refused(block);
        assert!(
            matches!(error, CaptureError::Damaged { record: 2, .. }),
            "{at} {value}: {error}"
        );
    }
}

#[test]
fn a_block_length_that_is_no_multiple_of_four() {
    // Consistent in itself: only the alignment is wrong.
    let le = Order::Little;
    let block = [
        le.words(&[0x0bad, 13]),
        vec![7],
        le.words(&[13]),
        vec![0; 64],
    ]
    .concat();
    let error = refused(block);
    assert!(error.to_string().contains("not a multiple of 4"), "{error}");
}

#[test]
fn absurd_lengths_are_refused_before_they_are_allocated() {
    let le = Order::Little;
    let block = [
        le.words(&[6, u32::MAX - 3, 0, 0, 0]),
        le.words(&[u32::MAX - 64, 0]),
    ]
    .concat();
    let error = refused(block);
    assert!(
        matches!(error, CaptureError::TooLong { record: 2, .. }),
        "{error}"
    );
    let header = le.pcap_header(0xa1b2_c3d4, 4, 1);
    let (_, error) = read(&[header, le.words(&[0, 0, 262_145, 262_145])].concat());
    assert!(matches!(
        error,
        Some(CaptureError::TooLong {
            len: 262_145,
            byte: 24,
            ..
        })
    ));
}

#[test]
fn interfaces_nobody_described() {
    let error = refused(Order::Little.enhanced(1, 0, 2, b"no"));
    let unknown = matches!(
        error,
        CaptureError::UnknownInterface {
            interface: 1,
            known: 1,
            ..
        }
    );
    assert!(unknown, "{error}");
    // A section starts without any.
    let le = Order::Little;
    let (_, error) = pcapng(le, [le.section(), le.simple(2, b"no")].concat());
    assert!(
        matches!(error, Some(CaptureError::UnknownInterface { known: 0, .. })),
        "{error:?}"
    );
}

#[test]
fn interfaces_without_end() {
    let le = Order::Little;
    let file = [le.section(), le.interface(1, 0, &[]).repeat(65_537)].concat();
    assert!(matches!(
        read(&file).1,
        Some(CaptureError::TooManyInterfaces { .. })
    ));
}

#[test]
fn unknown_versions() {
    let mut file = motley_pcapng();
    file[12] = 9;
    assert!(matches!(
        read(&file).1,
        Some(CaptureError::Version { major: 9, .. })
    ));
    let mut file = small_pcap(Order::Little, 0xa1b2_c3d4);
    file[4] = 3;
    assert!(matches!(
        read(&file).1,
        Some(CaptureError::Version {
            major: 3,
            minor: 4,
            ..
        })
    ));
}

#[test]
fn a_large_unknown_block_is_passed_over() {
    let le = Order::Little;
    let large = le.block(0x0bad, &vec![7; 3_000_000]);
    let (records, error) = pcapng(le, [large, le.enhanced(0, 0, 4, b"next")].concat());
    assert!(error.is_none(), "{error:?}");
    assert_eq!(records[1].data, b"next");
}

#[test]
fn mutated_files() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for seed in seeds() {
        for _ in 0..2000 {
            fuzz_capture(&mutate(&seed, &mut random));
        }
    }
}

/// A few bytes changed, a run repeated, or the end cut.
fn mutate(seed: &[u8], random: &mut Random) -> Vec<u8> {
    const EDGES: [u8; 6] = [0, 1, 4, 0x7f, 0x80, 0xff];
    let mut bytes = seed.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        match random.below(8) {
            0 => bytes.truncate(at.max(1)),
            1 => bytes.extend_from_within(at..),
            2..5 => bytes[at] = EDGES[random.below(EDGES.len())],
            _ => bytes[at] ^= 1 << random.below(8),
        }
    }
    bytes
}

/// Marsaglia's xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % bound
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        fuzz_capture(&bytes);
        for start in [motley_pcapng(), small_pcap(Order::Big, 0xa1b2_c3d4)[..24].to_vec()] {
            fuzz_capture(&[&start[..], &bytes].concat());
        }
    }

    #[test]
    fn arbitrary_blocks(blocks in prop::collection::vec(
        (0_u32..8, prop::collection::vec(0_u8..6, 0..60)), 0..20,
    )) {
        let le = Order::Little;
        let blocks = blocks.iter().flat_map(|(kind, body)| le.block(*kind, body));
        let file: Vec<u8> = le.section().into_iter().chain(blocks).collect();
        fuzz_capture(&file);
    }
}
