//! The Toeplitz kernels beside the textbook loop, and a packet's way to its queue. Criterion's
//! "time" is that of one hash, or of one packet.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use jumbo_engine::arena::{Arena, PacketId};
use jumbo_engine::packet::{Frag, Link};
use jumbo_engine::steer::{
    HashKernels, HashTypes, Indirection, MICROSOFT_KEY, Rss, Toeplitz, textbook,
};
use jumbo_testkit::PacketBuilder;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Inputs to hash in turn: more than a branch predictor learns, less than the first-level cache.
const INPUTS: usize = 512;

fn kernels() -> Vec<HashKernels> {
    let all = [
        Some(HashKernels::table()),
        HashKernels::clmul(),
        HashKernels::gfni(),
    ];
    all.into_iter().flatten().collect()
}

/// Bytes that look random and are the same each time.
fn inputs<const N: usize>() -> Vec<[u8; N]> {
    let mut state = 1u64;
    let mut byte = || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 56) as u8
    };
    (0..INPUTS)
        .map(|_| std::array::from_fn(|_| byte()))
        .collect()
}

/// The time of `rounds` passes over all inputs, counted as that of one input.
fn per_input(iterations: u64, mut pass: impl FnMut()) -> Duration {
    let rounds = iterations.div_ceil(INPUTS as u64);
    let start = Instant::now();
    (0..rounds).for_each(|_| pass());
    let whole = start.elapsed().as_secs_f64();
    Duration::from_secs_f64(whole * iterations as f64 / (rounds * INPUTS as u64) as f64)
}

fn hash<const N: usize>(c: &mut Criterion) {
    let mut group = c.benchmark_group(format!("toeplitz/{N}"));
    let inputs = inputs::<N>();
    let mut hashes = vec![0; INPUTS];
    group.bench_function("textbook", |b| {
        b.iter_custom(|iterations| {
            per_input(iterations, || {
                for input in &inputs {
                    black_box(textbook::hash(&MICROSOFT_KEY, black_box(input)));
                }
            })
        });
    });
    for kernels in kernels() {
        let toeplitz = Toeplitz::with_kernels(&MICROSOFT_KEY, kernels);
        group.bench_function(BenchmarkId::new(kernels.name(), "one"), |b| {
            b.iter_custom(|iterations| {
                per_input(iterations, || {
                    for input in &inputs {
                        black_box(toeplitz.hash(black_box(input)));
                    }
                })
            });
        });
        // Each input depends on the hash before it: what a lone packet waits.
        group.bench_function(BenchmarkId::new(kernels.name(), "latency"), |b| {
            b.iter_custom(|iterations| {
                let mut input = [1; N];
                per_input(iterations, || {
                    for _ in 0..INPUTS {
                        let hash = toeplitz.hash(&input);
                        input[N - 4..].copy_from_slice(&hash.to_le_bytes());
                    }
                })
            });
        });
        group.bench_function(BenchmarkId::new(kernels.name(), "batch of 512"), |b| {
            b.iter_custom(|iterations| {
                per_input(iterations, || {
                    toeplitz.hash_all(black_box(&inputs), black_box(&mut hashes));
                })
            });
        });
    }
}

fn choose(c: &mut Criterion) {
    let mut group = c.benchmark_group("choose");
    let v4 = PacketBuilder::ethernet();
    let v6 = PacketBuilder::ethernet().ipv6([1; 16], [2; 16]);
    for (name, base) in [("tcp v4", v4), ("tcp v6", v6)] {
        let mut arena = Arena::new(INPUTS, INPUTS);
        let ids: Vec<PacketId> = (0..INPUTS as u16)
            .map(|port| {
                let bytes = base.clone().tcp(port, 80).payload_len(64).build();
                let body = [Frag::new(0, bytes.len() as u32)];
                let admitted = arena.admit(Link::Ethernet, &bytes, &body, None);
                admitted.expect("well formed").id
            })
            .collect();
        let table = Indirection::even(128, 4).expect("powers of two");
        let rss = Rss::new(Toeplitz::new(&MICROSOFT_KEY), HashTypes::USUAL, table);
        group.bench_function(name, |b| {
            b.iter_custom(|iterations| {
                per_input(iterations, || {
                    for id in &ids {
                        black_box(rss.choose(arena.packet(*id)));
                    }
                })
            });
        });
    }
}

criterion_group!(benches, hash::<12>, hash::<36>, choose);
criterion_main!(benches);
