//! Checksums and hashes.

use std::hint::black_box;
use std::time::Instant;

use jumbo_engine::checksum::Kernels;
use jumbo_engine::steer::{MICROSOFT_KEY, Toeplitz};
use smoltcp::wire::{IpAddress, TcpPacket};

use crate::bench::{Contender, Spent, Work};
use crate::sys::{self, Softrss};

/// Sums of a pass.
const TIMES: usize = 64;

/// A contender that does `work` so many times a pass.
fn repeated(
    engine: impl Into<String>,
    does: &'static str,
    mut work: impl FnMut() + 'static,
) -> Contender {
    Contender::new(engine, does, "", move || {
        let start = Instant::now();
        for _ in 0..TIMES {
            work();
        }
        let time = start.elapsed();
        Spent { time, units: TIMES }
    })
}

/// Checksums over one hot buffer.
pub(crate) fn checksums(dpdk: &str, tun_rs: &str) -> Vec<Work> {
    [1460, 65536].map(|len| checksum(len, dpdk, tun_rs)).into()
}

fn checksum(len: usize, dpdk: &str, tun_rs: &str) -> Work {
    let mut work = Work::new(format!("checksum/{len}"), "ns");
    let bytes: Vec<u8> = (0..len).map(|i| (i * 7 + i / 256) as u8).collect();
    let right = Kernels::portable().sum(&bytes).fold();
    let best = Kernels::detect();
    let sets = [
        Some(best),
        Kernels::avx2().filter(|avx2| avx2.name() != best.name()),
    ];
    for (index, kernels) in sets.into_iter().flatten().enumerate() {
        assert_eq!(kernels.sum(&bytes).fold(), right);
        let engine = match index {
            0 => "jumbo".into(),
            _ => format!("jumbo-{}", kernels.name()),
        };
        let bytes = bytes.clone();
        work.contenders
            .push(repeated(engine, kernels.name(), move || {
                let _ = black_box(kernels.sum(black_box(&bytes)));
            }));
    }
    work.contenders.push(dpdk_sum(bytes.clone(), right, dpdk));
    work.contenders.push(tun_sum(bytes.clone(), right, tun_rs));
    work.contenders.push(internet(bytes.clone(), right));
    work.contenders.push(smoltcp(bytes));
    work
}

fn dpdk_sum(bytes: Vec<u8>, right: u16, dpdk: &str) -> Contender {
    assert_eq!(sys::raw_cksum(&bytes, 1), right.to_be());
    Contender::new(dpdk, "rte_raw_cksum, -O3 -march=native", "", move || {
        let start = Instant::now();
        black_box(sys::raw_cksum(&bytes, TIMES));
        let time = start.elapsed();
        Spent { time, units: TIMES }
    })
}

fn tun_sum(bytes: Vec<u8>, right: u16, engine: &str) -> Contender {
    assert_eq!(tun_rs::checksum(&bytes, 0), right);
    repeated(engine, "AVX2 where there is", move || {
        black_box(tun_rs::checksum(black_box(&bytes), 0));
    })
}

fn internet(bytes: Vec<u8>, right: u16) -> Contender {
    assert_eq!(
        u16::from_be_bytes(internet_checksum::checksum(&bytes)),
        !right
    );
    let engine = concat!("internet-checksum-", env!("PEERS_INTERNET_CHECKSUM"));
    repeated(engine, "portable", move || {
        black_box(internet_checksum::checksum(black_box(&bytes)));
    })
}

/// Its sum is private; verification adds a pseudo header.
fn smoltcp(mut bytes: Vec<u8>) -> Contender {
    let addr = IpAddress::v4(192, 0, 2, 1);
    TcpPacket::new_unchecked(&mut bytes).fill_checksum(&addr, &addr);
    assert!(TcpPacket::new_unchecked(&bytes).verify_checksum(&addr, &addr));
    let engine = concat!("smoltcp-", env!("PEERS_SMOLTCP"));
    repeated(engine, "portable, with a pseudo header", move || {
        let packet = TcpPacket::new_unchecked(black_box(&bytes));
        black_box(packet.verify_checksum(&addr, &addr));
    })
}

/// Tuples of a pass: 12 KB with their hashes 16.
const TUPLES: usize = 1024;

/// Hashes of IPv4 addresses and ports.
pub(crate) fn toeplitz(dpdk: &str) -> Vec<Work> {
    let tuples: Vec<[u8; 12]> = (0..TUPLES as u64)
        .map(|i| {
            let word = |seed: u64| (i + seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 16;
            let bytes = [word(1).to_be_bytes(), word(1 << 40).to_be_bytes()].concat();
            std::array::from_fn(|at| bytes[at + 4 * usize::from(at >= 4)])
        })
        .collect();
    let ours = Toeplitz::new(&MICROSOFT_KEY);
    let right: Vec<u32> = tuples.iter().map(|tuple| ours.hash(tuple)).collect();
    let softrss = || Softrss::new(&MICROSOFT_KEY, &tuples);
    let mut single = Work::new("toeplitz/12", "ns/hash");
    let mut batch = Work::new("toeplitz/12/batch", "ns/hash");
    single.contenders.push(jumbo_single(tuples.clone()));
    batch.contenders.push(jumbo_batch(tuples.clone()));
    let peer =
        |work: &mut Work, engine: String, does, gfni: bool, hash: fn(&mut Softrss, &mut [u32])| {
            let softrss = softrss();
            if !gfni || softrss.gfni {
                work.contenders
                    .push(dpdk_hash(engine, does, softrss, &right, hash));
            }
        };
    let loops = "reference loop over the bits";
    peer(
        &mut single,
        format!("{dpdk}-softrss"),
        loops,
        false,
        Softrss::softrss,
    );
    peer(
        &mut single,
        format!("{dpdk}-softrss-be"),
        loops,
        false,
        Softrss::softrss_be,
    );
    peer(
        &mut single,
        format!("{dpdk}-gfni"),
        "gfni",
        true,
        Softrss::gfni_one,
    );
    peer(
        &mut batch,
        format!("{dpdk}-gfni-bulk"),
        "gfni",
        true,
        Softrss::gfni_bulk,
    );
    vec![single, batch]
}

fn hashing(
    engine: impl Into<String>,
    does: &'static str,
    mut hash: impl FnMut(&mut [u32]) + 'static,
) -> Contender {
    let mut hashes = vec![0; TUPLES];
    Contender::new(engine, does, "", move || {
        let start = Instant::now();
        hash(&mut hashes);
        let time = start.elapsed();
        black_box(&mut hashes);
        Spent {
            time,
            units: TUPLES,
        }
    })
}

fn jumbo_single(tuples: Vec<[u8; 12]>) -> Contender {
    let toeplitz = Toeplitz::new(&MICROSOFT_KEY);
    hashing("jumbo", toeplitz.kernels().name(), move |hashes| {
        for (hash, tuple) in hashes.iter_mut().zip(black_box(&tuples)) {
            *hash = toeplitz.hash(black_box(tuple));
        }
    })
}

fn jumbo_batch(tuples: Vec<[u8; 12]>) -> Contender {
    let toeplitz = Toeplitz::new(&MICROSOFT_KEY);
    hashing("jumbo", toeplitz.kernels().name(), move |hashes| {
        toeplitz.hash_all(black_box(&tuples), hashes);
    })
}

fn dpdk_hash(
    engine: String,
    does: &'static str,
    mut softrss: Softrss,
    right: &[u32],
    hash: fn(&mut Softrss, &mut [u32]),
) -> Contender {
    let mut hashes = vec![0; TUPLES];
    hash(&mut softrss, &mut hashes);
    assert_eq!(hashes, right, "{engine} and the engine agree");
    hashing(engine, does, move |hashes| hash(&mut softrss, hashes))
}
