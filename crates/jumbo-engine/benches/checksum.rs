//! The kernels beside a plain loop over 16-bit words, by size.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use jumbo_engine::checksum::{Kernels, textbook};
use std::hint::black_box;

/// A small packet, a median one, a segment, a jumbo packet, a super-packet.
const SIZES: [usize; 5] = [64, 256, 1460, 9000, 65536];

fn kernels() -> Vec<Kernels> {
    let all = [
        Some(Kernels::portable()),
        Kernels::avx2(),
        Kernels::avx512(),
    ];
    all.into_iter().flatten().collect()
}

fn sum(c: &mut Criterion) {
    let mut group = c.benchmark_group("sum");
    for size in SIZES {
        let bytes = vec![0xA5u8; size];
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("textbook", size), |b| {
            b.iter(|| textbook::fold(black_box(&bytes)));
        });
        for kernels in kernels() {
            group.bench_function(BenchmarkId::new(kernels.name(), size), |b| {
                b.iter(|| kernels.sum(black_box(&bytes)));
            });
        }
    }
}

fn copy_sum(c: &mut Criterion) {
    let mut group = c.benchmark_group("copy_sum");
    for size in SIZES {
        // Half a page apart modulo a page: no store may look like the source of the next load.
        let src = vec![0xA5u8; 1 << 18];
        let mut dst = vec![0u8; 1 << 18];
        let (src, dst) = (&src[..size], &mut dst[2048..2048 + size]);
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("memcpy only", size), |b| {
            b.iter(|| black_box(&mut *dst).copy_from_slice(black_box(src)));
        });
        for kernels in kernels() {
            group.bench_function(BenchmarkId::new(kernels.name(), size), |b| {
                b.iter(|| kernels.copy_sum(black_box(&mut *dst), black_box(src)));
            });
        }
    }
}

criterion_group!(benches, sum, copy_sum);
criterion_main!(benches);
