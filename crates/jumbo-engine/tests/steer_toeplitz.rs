//! Law L5: Toeplitz matches the published vectors, and the fast kernels are the textbook.

use jumbo_engine::steer::{HashKernels, MICROSOFT_KEY, SYMMETRIC_KEY, Toeplitz, textbook};
use proptest::prelude::*;
use std::net::{IpAddr, SocketAddr};

/// Every set of kernels this processor runs.
fn kernels() -> Vec<HashKernels> {
    let all = [
        Some(HashKernels::table()),
        HashKernels::clmul(),
        HashKernels::gfni(),
    ];
    all.into_iter().flatten().collect()
}

/// Source, destination; hashed: addresses, addresses and ports, the same with the symmetric key.
type Vector = (&'static str, &'static str, [u32; 3]);

/// "Verifying the RSS hash calculation", Microsoft. The last column is not theirs: it was computed
/// with another program.
const VECTORS: [Vector; 8] = [
    (
        "66.9.149.187:2794",
        "161.142.100.80:1766",
        [0x323e8fc2, 0x51ccc178, 0x9fcc9fcc],
    ),
    (
        "199.92.111.2:14230",
        "65.69.140.83:4739",
        [0xd718262a, 0xc626b0ea, 0x60d760d7],
    ),
    (
        "24.19.198.95:12898",
        "12.22.207.184:38024",
        [0xd2d0a5de, 0x5c2b394a, 0x3a3e3a3e],
    ),
    (
        "38.27.205.30:48228",
        "209.142.163.6:2217",
        [0x82989176, 0xafc7327f, 0xd26ed26e],
    ),
    (
        "153.39.163.191:44251",
        "202.188.127.2:1303",
        [0x5d1809c5, 0x10e828a2, 0xf23ef23e],
    ),
    (
        "[3ffe:2501:200:1fff::7]:2794",
        "[3ffe:2501:200:3::1]:1766",
        [0x2cc18cd5, 0x40207d3d, 0x13eb13eb],
    ),
    (
        "[3ffe:501:8::260:97ff:fe40:efab]:14230",
        "[ff02::1]:4739",
        [0x0f0c461c, 0xdde51bbf, 0x36913691],
    ),
    (
        "[3ffe:1900:4545:3:200:f8ff:fe21:67cf]:44251",
        "[fe80::200:f8ff:fe21:67cf]:38024",
        [0x4b61e985, 0x02d1feef, 0x08090809],
    ),
];

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Addresses; addresses and ports.
fn inputs(src: &str, dst: &str) -> (Vec<u8>, Vec<u8>) {
    let (src, dst): (SocketAddr, SocketAddr) = (src.parse().unwrap(), dst.parse().unwrap());
    let addresses = [octets(src.ip()), octets(dst.ip())].concat();
    let ports = [src.port().to_be_bytes(), dst.port().to_be_bytes()].concat();
    (addresses.clone(), [addresses, ports].concat())
}

#[test]
fn l5_published_vectors() {
    for (src, dst, [ip, ports, symmetric]) in VECTORS {
        let (addresses, tuple) = inputs(src, dst);
        assert_eq!(textbook::hash(&MICROSOFT_KEY, &addresses), ip, "{src}");
        assert_eq!(textbook::hash(&MICROSOFT_KEY, &tuple), ports, "{src}");
        assert_eq!(textbook::hash(&SYMMETRIC_KEY, &tuple), symmetric, "{src}");
        for kernels in kernels() {
            let (asked, same) = (
                Toeplitz::with_kernels(&MICROSOFT_KEY, kernels),
                Toeplitz::with_kernels(&SYMMETRIC_KEY, kernels),
            );
            assert_eq!(asked.hash(&addresses), ip, "{} {src}", kernels.name());
            assert_eq!(asked.hash(&tuple), ports, "{} {src}", kernels.name());
            assert_eq!(same.hash(&tuple), symmetric, "{} {src}", kernels.name());
        }
    }
}

/// The machine that runs the tests should not silently test the tables alone.
#[test]
fn says_which_kernels_run() {
    let names: Vec<_> = kernels().iter().map(HashKernels::name).collect();
    println!(
        "kernels: {names:?}, detected: {}",
        HashKernels::detect().name()
    );
    assert!(names.contains(&HashKernels::detect().name()));
}

/// Each single bit of the input meets its own 32 bits of the key, for every kernel and length.
#[test]
fn l5_every_bit_of_every_length() {
    for kernels in kernels() {
        let toeplitz = Toeplitz::with_kernels(&MICROSOFT_KEY, kernels);
        for len in 0..=45 {
            for bit in 0..8 * len {
                let mut input = vec![0; len];
                input[bit / 8] = 0x80 >> (bit % 8);
                let told = (kernels.name(), len, bit);
                let expected = textbook::hash(&MICROSOFT_KEY, &input);
                assert_eq!(toeplitz.hash(&input), expected, "{told:?}");
            }
        }
    }
}

/// What the textbook says of one bit, said without a loop.
#[test]
fn textbook_is_a_window_of_the_key() {
    let key = u128::from_be_bytes(MICROSOFT_KEY[..16].try_into().unwrap());
    for bit in 0..96 {
        let mut input = [0; 12];
        input[bit / 8] = 0x80 >> (bit % 8);
        let window = (key << bit >> 96) as u32;
        assert_eq!(textbook::hash(&MICROSOFT_KEY, &input), window, "{bit}");
    }
}

/// Compares batches of inputs of `N` bytes with the textbook.
fn assert_batch<const N: usize>(key: &[u8], bytes: &[u8], count: usize) {
    let inputs: Vec<[u8; N]> = (0..count)
        .map(|i| std::array::from_fn(|j| bytes[(i * 31 + j) % bytes.len()]))
        .collect();
    let expected: Vec<u32> = inputs.iter().map(|i| textbook::hash(key, i)).collect();
    for kernels in kernels() {
        let toeplitz = Toeplitz::with_kernels(key, kernels);
        let mut hashes = vec![0xdead_beef; count + 1];
        toeplitz.hash_all(&inputs, &mut hashes);
        assert_eq!(hashes[..count], expected, "{} {N} {count}", kernels.name());
        assert_eq!(hashes[count], 0xdead_beef, "one too many");
        if count > 0 {
            let mut fewer = vec![0; count - 1];
            toeplitz.hash_all(&inputs, &mut fewer);
            assert_eq!(
                fewer,
                expected[..count - 1],
                "{} {N} {count}",
                kernels.name()
            );
        }
    }
}

proptest! {
    // Each case runs every kernel over many lengths.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn l5_fast_is_textbook(
        key in proptest::collection::vec(any::<u8>(), 0..=100),
        input in proptest::collection::vec(any::<u8>(), 0..=100),
    ) {
        for kernels in kernels() {
            let toeplitz = Toeplitz::with_kernels(&key, kernels);
            prop_assert_eq!(toeplitz.hash(&input), textbook::hash(&key, &input), "{:?}", kernels);
        }
    }

    #[test]
    fn l5_batches_are_textbook(
        key in proptest::collection::vec(any::<u8>(), 0..=52),
        bytes in proptest::collection::vec(any::<u8>(), 1..=300),
        count in 0usize..40,
    ) {
        assert_batch::<0>(&key, &bytes, count);
        assert_batch::<1>(&key, &bytes, count);
        assert_batch::<8>(&key, &bytes, count);
        assert_batch::<12>(&key, &bytes, count);
        assert_batch::<13>(&key, &bytes, count);
        assert_batch::<32>(&key, &bytes, count);
        assert_batch::<36>(&key, &bytes, count);
        assert_batch::<40>(&key, &bytes, count);
    }

    /// The hash is linear: the law that every kernel builds on.
    #[test]
    fn hash_of_a_sum_is_the_sum_of_hashes(a: [u8; 36], b: [u8; 36]) {
        let sum: [u8; 36] = std::array::from_fn(|i| a[i] ^ b[i]);
        let hash = |input: &[u8]| textbook::hash(&MICROSOFT_KEY, input);
        prop_assert_eq!(hash(&a) ^ hash(&b), hash(&sum));
    }

    /// With a key of 16-bit period, both directions of a connection hash alike.
    #[test]
    fn symmetric_key_is_symmetric(src: [u8; 16], dst: [u8; 16], ports: [u16; 2], pattern: [u8; 2]) {
        let key: Vec<u8> = pattern.iter().copied().cycle().take(40).collect();
        let [a, b] = ports.map(u16::to_be_bytes);
        for kernels in kernels() {
            let toeplitz = Toeplitz::with_kernels(&key, kernels);
            for len in [4, 16] {
                let there = [&src[..len], &dst[..len], &a, &b].concat();
                let back = [&dst[..len], &src[..len], &b, &a].concat();
                let hash = toeplitz.hash(&there);
                prop_assert_eq!(hash, toeplitz.hash(&back));
                prop_assert_eq!(hash >> 16, hash & 0xffff);
            }
        }
    }
}
