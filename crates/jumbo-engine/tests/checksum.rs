//! Law L4: the fast checksum is the textbook checksum, and an incremental one is one from scratch.

use jumbo_engine::checksum::{
    Kernels, Sum, pseudo_v4, pseudo_v6, textbook, udp_nonzero, update, update_u32,
};
use proptest::prelude::*;

/// Every set of kernels this processor runs.
fn kernels() -> Vec<Kernels> {
    let all = [
        Some(Kernels::portable()),
        Kernels::avx2(),
        Kernels::avx512(),
    ];
    all.into_iter().flatten().collect()
}

/// Bytes that look random and are the same each time (an LCG with Knuth's constants).
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let step = move || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(step).take(len).collect()
}

/// Holds every kernel to the textbook over these bytes, plain and copying.
fn assert_all_agree(bytes: &[u8]) {
    let expected = textbook::fold(bytes);
    for kernels in kernels() {
        let told = (kernels.name(), bytes.len());
        assert_eq!(kernels.sum(bytes).fold(), expected, "sum: {told:?}");

        // A border on each side, to see a store outside.
        let mut dst = vec![0x5A; bytes.len() + 128];
        let sum = kernels.copy_sum(&mut dst[64..64 + bytes.len()], bytes);
        assert_eq!(sum.fold(), expected, "copy_sum: {told:?}");
        assert_eq!(&dst[64..64 + bytes.len()], bytes, "copy: {told:?}");
        assert!(
            dst[..64].iter().all(|b| *b == 0x5A),
            "stored before: {told:?}"
        );
        assert!(
            dst[64 + bytes.len()..].iter().all(|b| *b == 0x5A),
            "stored behind: {told:?}"
        );
    }
    assert_eq!(Sum::ZERO.add_bytes(bytes).fold(), expected);
    assert_raw_agrees(bytes);
}

/// The same for the raw kernels.
#[allow(unsafe_code, reason = "the kernels for guest memory take pointers")]
fn assert_raw_agrees(bytes: &[u8]) {
    let expected = textbook::fold(bytes);
    for kernels in kernels() {
        let told = (kernels.name(), bytes.len());
        // SAFETY: a slice is readable for its length.
        let sum = unsafe { kernels.raw_sum()(bytes.as_ptr(), bytes.len()) };
        assert_eq!(sum.fold(), expected, "raw sum: {told:?}");

        let mut dst = vec![0x5A; bytes.len() + 64];
        // SAFETY: `dst` is longer than the slice and not part of it.
        let copy = unsafe { kernels.raw_copy_sum()(dst.as_mut_ptr(), bytes.as_ptr(), bytes.len()) };
        assert_eq!(copy.fold(), expected, "raw copy_sum: {told:?}");
        assert_eq!(&dst[..bytes.len()], bytes, "raw copy: {told:?}");
        assert!(
            dst[bytes.len()..].iter().all(|b| *b == 0x5A),
            "stored behind: {told:?}"
        );
    }
}

/// The machine that runs the tests should not silently test the portable code alone.
#[test]
fn says_which_kernels_run() {
    let names: Vec<_> = kernels().iter().map(Kernels::name).collect();
    println!("kernels: {names:?}, detected: {}", Kernels::detect().name());
    assert_eq!(Kernels::detect().name(), *names.last().unwrap());
}

#[test]
fn l4_every_short_length() {
    let noise = noise(300, 1);
    for len in 0..=300 {
        assert_all_agree(&noise[..len]);
        assert_all_agree(&vec![0xFF; len]);
        assert_all_agree(&vec![0x00; len]);
    }
}

#[test]
fn l4_every_alignment() {
    let noise = noise(6000, 2);
    for start in 0..64 {
        for len in [
            0, 1, 63, 64, 65, 127, 128, 255, 256, 319, 1447, 1460, 4095, 4096, 5001,
        ] {
            assert_all_agree(&noise[start..start + len]);
        }
    }
}

/// The alignment of the destination is another than that of the source.
#[test]
fn l4_copy_to_every_alignment() {
    let src = noise(5001, 3);
    for kernels in kernels() {
        for start in 0..64 {
            let mut dst = vec![0; src.len() + 64];
            let sum = kernels.copy_sum(&mut dst[start..start + src.len()], &src);
            assert_eq!(
                sum.fold(),
                textbook::fold(&src),
                "{} {start}",
                kernels.name()
            );
            assert_eq!(
                dst[start..start + src.len()],
                src,
                "{} {start}",
                kernels.name()
            );
        }
    }
}

/// Sums that leave 16, 32 and, in a lane, 64 bits.
#[test]
fn l4_sums_that_overflow() {
    for len in [65_535, 65_536, 131_074, 1 << 20, (1 << 20) + 1] {
        assert_all_agree(&vec![0xFF; len]);
        assert_all_agree(&vec![0x00; len]);
    }
}

/// Longer than the largest piece a vector kernel takes at once (64 MB).
#[test]
fn l4_longer_than_a_piece() {
    let mut bytes = vec![0xFF; (1 << 26) + 1461];
    bytes[(1 << 26) - 1] = 0x12;
    bytes[1 << 26] = 0x34;
    let expected = textbook::fold(&bytes);
    for kernels in kernels() {
        assert_eq!(kernels.sum(&bytes).fold(), expected, "{}", kernels.name());
    }
}

#[test]
fn copies_no_more_than_the_shorter() {
    let src = noise(500, 4);
    for kernels in kernels() {
        let mut short = vec![0; 333];
        assert_eq!(
            kernels.copy_sum(&mut short, &src).fold(),
            textbook::fold(&src[..333])
        );
        assert_eq!(short, src[..333]);

        let mut long = vec![0; 700];
        assert_eq!(
            kernels.copy_sum(&mut long, &src).fold(),
            textbook::fold(&src)
        );
        assert_eq!(long[..500], src);
        assert!(long[500..].iter().all(|b| *b == 0));
    }
}

/// RFC 1071 section 3: the bytes 00 01 f2 03 f4 f5 f6 f7 sum to ddf2 (there also as 1 | dd f1 ..).
#[test]
fn rfc_1071_worked_example() {
    let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
    assert_eq!(textbook::fold(&bytes), 0xddf2);
    assert_all_agree(&bytes);
    // And in three groups, of which the second begins at an odd offset.
    let (a, b, c) = (&bytes[..1], &bytes[1..6], &bytes[6..]);
    for kernels in kernels() {
        let sum = kernels
            .sum(a)
            .add(kernels.sum(b).swapped())
            .add(kernels.sum(c));
        assert_eq!(sum.fold(), 0xddf2);
    }
}

/// RFC 1624 section 4: HC = 0xDD2F, a field goes from 0x5555 to 0x3285, HC' = 0x0000 (and not
/// 0xFFFF, as equation 2 of RFC 1141 would have it).
#[test]
fn rfc_1624_worked_example() {
    assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
}

/// The header that Wikipedia's "Internet checksum" works through. With its checksum in place it
/// sums to 0xFFFF.
#[test]
fn published_ipv4_header() {
    let mut header = [
        0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0x00, 0x00, 0xc0, 0xa8, 0x00,
        0x01, 0xc0, 0xa8, 0x00, 0xc7,
    ];
    assert_all_agree(&header);
    assert_eq!(Sum::ZERO.add_bytes(&header).checksum(), 0xb861);
    header[10..12].copy_from_slice(&0xb861u16.to_be_bytes());
    assert_eq!(Sum::ZERO.add_bytes(&header).fold(), 0xffff);
}

#[test]
fn pseudo_headers_are_the_bytes_they_stand_for() {
    let (src, dst) = ([192, 0, 2, 1], [198, 51, 100, 254]);
    let bytes = [192, 0, 2, 1, 198, 51, 100, 254, 0, 6, 0x12, 0x34];
    assert_eq!(
        pseudo_v4(src, dst, 6, 0x1234).fold(),
        textbook::fold(&bytes)
    );

    let src: [u8; 16] = noise(16, 5).try_into().unwrap();
    let dst: [u8; 16] = noise(16, 6).try_into().unwrap();
    let mut bytes = [src, dst].concat();
    bytes.extend([0x00, 0x01, 0x23, 0x45, 0, 0, 0, 17]);
    assert_eq!(
        pseudo_v6(src, dst, 17, 0x12345).fold(),
        textbook::fold(&bytes)
    );
}

#[test]
fn only_udp_has_no_zero() {
    assert_eq!(udp_nonzero(0), 0xffff);
    assert_eq!(udp_nonzero(1), 1);
    assert_eq!(udp_nonzero(0xffff), 0xffff);
    // A sum of 0xFFFF makes the field 0, and nobody but UDP minds.
    assert_eq!(Sum::ZERO.add_u16(0xffff).checksum(), 0);
}

/// Zero has two names, and no addition loses the difference.
#[test]
fn nonzero_stays_nonzero() {
    let ones = Sum::ZERO.add_bytes(&[0xff; 8]);
    let mut sum = ones;
    for _ in 0..1000 {
        sum = sum.add(ones);
        assert_eq!(sum.fold(), 0xffff);
    }
    assert_eq!(Sum::ZERO.add(Sum::default()).fold(), 0);
    assert_eq!(Sum::ZERO.swapped().fold(), 0);
}

proptest! {
    #[test]
    fn l4_random_lengths(len in 0usize..=70_000, seed: u64) {
        assert_all_agree(&noise(len, seed));
    }

    /// Any two pieces make the whole, the second one swapped if it begins at an odd offset.
    #[test]
    fn l4_pieces_make_the_whole(
        bytes in proptest::collection::vec(any::<u8>(), 0..3000),
        cut in any::<prop::sample::Index>(),
    ) {
        let cut = cut.index(bytes.len() + 1);
        let (a, b) = bytes.split_at(cut);
        for kernels in kernels() {
            let b = kernels.sum(b);
            let b = if cut % 2 == 1 { b.swapped() } else { b };
            prop_assert_eq!(kernels.sum(a).add(b).fold(), textbook::fold(&bytes));
        }
    }

    #[test]
    fn l4_incremental_is_from_scratch(
        mut bytes in proptest::collection::vec(any::<u8>(), 4..200),
        at in any::<prop::sample::Index>(),
        new: u32,
    ) {
        let at = at.index((bytes.len() - 2) / 2) * 2;
        let before = textbook::checksum(&bytes);

        let old = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let new16 = (new >> 16) as u16;
        bytes[at..at + 2].copy_from_slice(&new16.to_be_bytes());
        prop_assume!(bytes.iter().any(|b| *b != 0)); // the documented exception
        let after = textbook::checksum(&bytes);
        prop_assert_eq!(update(before, old, new16), after);

        if at + 4 <= bytes.len() {
            let word = &mut bytes[at..at + 4];
            let old = u32::from_be_bytes([word[0], word[1], word[2], word[3]]);
            word.copy_from_slice(&new.to_be_bytes());
            prop_assume!(bytes.iter().any(|b| *b != 0));
            prop_assert_eq!(update_u32(after, old, new), textbook::checksum(&bytes));
        }
    }

    #[test]
    fn fields_add_as_their_bytes(a: u16, b: u32, c: u16) {
        let bytes = [&a.to_be_bytes()[..], &b.to_be_bytes(), &c.to_be_bytes()].concat();
        let sum = Sum::ZERO.add_u16(a).add_u32(b).add_u16(c);
        prop_assert_eq!(sum.fold(), textbook::fold(&bytes));
        prop_assert_eq!(sum.checksum(), textbook::checksum(&bytes));
    }
}
