//! Nanoseconds per packet of each stage of the path. Criterion's "time" is that of one packet.
//!
//! Packets are segments of 1448 bytes whose checksum is pending, so that only headers are looked
//! at. *Hot*: headers lie in a ring that fits the second-level cache (with 1000 flows, 3 MB, it
//! does not: the third). *Cold*: whole packets in a ring of 64 MB, each read once, out of memory:
//! before each pass, outside the measured time, a larger buffer is swept through the caches; the
//! receiver prefetches 6 packets ahead.

mod sys;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use jumbo_engine::arena::HEAD_WANTED;
use jumbo_engine::prelude::*;
use jumbo_testkit::PacketBuilder;
use jumbo_testkit::script::{IpId, TcpStream};
use std::hint::black_box;
use std::time::{Duration, Instant};

const MSS: usize = 1448;
const HOT_STRIDE: usize = 192;
const COLD_STRIDE: usize = 2048;
const COLD_RING: usize = 64 << 20;
/// More than any cache here.
const SWEEP: usize = 128 << 20;
const AHEAD: usize = 6;

#[derive(Copy, Clone)]
enum Family {
    /// IPv4 with timestamps.
    V4,
    /// IPv6 without options.
    V6,
}

impl Family {
    const BOTH: [(Self, &str); 2] = [(Self::V4, "v4 ts"), (Self::V6, "v6")];

    fn flow(self, port: u16) -> TcpStream {
        let base = PacketBuilder::ethernet().partial_checksum();
        let stream = match self {
            Self::V4 => TcpStream::new(base.tcp(port, 80)).timestamps(1, 2),
            Self::V6 => TcpStream::new(base.ipv6([1; 16], [2; 16]).tcp(port, 80)),
        };
        stream.mss(MSS).ids(IpId::Increment(port))
    }

    fn vnet(self) -> VnetHeader {
        VnetHeader {
            flags: 1,
            csum_start: match self {
                Self::V4 => 34,
                Self::V6 => 54,
            },
            csum_offset: 16,
            ..VnetHeader::default()
        }
    }
}

/// Received packets, one after the other as they are to be taken.
struct Ring {
    bytes: Vec<u8>,
    stride: usize,
    packets: usize,
    packet_len: usize,
    vnet: VnetHeader,
}

impl Ring {
    /// Flows in turn, `per_flow` packets of each before a flush.
    fn new(family: Family, flows: usize, per_flow: usize, cold: bool) -> Self {
        let (stride, packets) = if cold {
            let flush = flows * per_flow;
            (COLD_STRIDE, COLD_RING / COLD_STRIDE / flush * flush)
        } else {
            (HOT_STRIDE, flows * per_flow)
        };
        let streams: Vec<_> = (0..flows)
            .map(|flow| family.flow(1000 + flow as u16).segments(packets / flows))
            .collect();
        let mut bytes = vec![0; packets * stride];
        let mut packet_len = 0;
        for (index, place) in bytes.chunks_mut(stride).enumerate() {
            let packet = streams[index % flows].packet(index / flows).build();
            packet_len = packet.len();
            let kept = packet.len().min(stride);
            place[..kept].copy_from_slice(&packet[..kept]);
        }
        Self {
            bytes,
            stride,
            packets,
            packet_len,
            vnet: family.vnet(),
        }
    }

    #[inline(always)]
    fn head(&self, index: usize) -> &[u8] {
        &self.bytes[index * self.stride..][..HEAD_WANTED]
    }

    #[inline(always)]
    fn body(&self, index: usize) -> [Frag; 1] {
        [Frag::new(
            (index * COLD_STRIDE) as u64,
            self.packet_len as u32,
        )]
    }
}

/// What [`sweep`] goes through; nothing for a hot pass.
fn sweeper(cold: bool) -> Vec<u8> {
    vec![0; if cold { SWEEP } else { 0 }]
}

/// Throws everything else out of the caches.
fn sweep(buffer: &mut [u8]) {
    for line in buffer.chunks_mut(64) {
        line[0] = line[0].wrapping_add(1);
    }
    black_box(buffer);
}

/// A cold pass spends most of its time unmeasured, in the sweep.
fn measured(cold: bool) -> Duration {
    Duration::from_millis(if cold { 60 } else { 800 })
}

/// Times passes over the ring until there were `packets`, as if there had been exactly so many.
fn per_packet(packets: u64, ring: &Ring, sweeper: &mut [u8], mut pass: impl FnMut()) -> Duration {
    let passes = packets.div_ceil(ring.packets as u64);
    let mut spent = Duration::ZERO;
    for _ in 0..passes {
        sweep(sweeper);
        let start = Instant::now();
        pass();
        spent += start.elapsed();
    }
    spent.mul_f64(packets as f64 / (passes * ring.packets as u64) as f64)
}

#[inline(always)]
fn ahead(ring: &Ring, index: usize, cold: bool) {
    if cold && index + AHEAD < ring.packets {
        sys::prefetch(ring.head(index + AHEAD));
    }
}

fn admit_pass(ring: &Ring, cold: bool, arena: &mut Arena) {
    for index in 0..ring.packets {
        ahead(ring, index, cold);
        let vnet = Some((&ring.vnet, Trust::Guest));
        let body = ring.body(index);
        let admitted = arena.admit(Link::Ethernet, ring.head(index), &body, vnet);
        arena.release(black_box(admitted.expect("sound")).id);
    }
}

fn admit(c: &mut Criterion) {
    let mut group = c.benchmark_group("admit");
    for (family, name) in Family::BOTH {
        for (cold, heat) in [(false, "hot"), (true, "cold")] {
            let ring = Ring::new(family, 16, 16, cold);
            let mut sweeper = sweeper(cold);
            group.measurement_time(measured(cold));
            let mut arena = Arena::new(512, 1024);
            group.bench_function(BenchmarkId::new(name, heat), |b| {
                b.iter_custom(|packets| {
                    per_packet(packets, &ring, &mut sweeper, || {
                        admit_pass(&ring, cold, &mut arena);
                    })
                });
            });
        }
    }
}

/// The path up to completion: admit, offer, hold, flush, take, release.
fn coalesce_pass(ring: &Ring, cold: bool, flush: usize, arena: &mut Arena, gro: &mut Coalescer) {
    let memory = SliceMemory::new(&[], Kernels::portable());
    let mut index = 0;
    while index < ring.packets {
        for index in index..index + flush {
            ahead(ring, index, cold);
            let vnet = Some((&ring.vnet, Trust::Guest));
            let body = ring.body(index);
            let admitted = arena.admit(Link::Ethernet, ring.head(index), &body, vnet);
            let id = admitted.expect("sound").id;
            match gro.offer(arena, id, &memory) {
                Offer::Merged => {}
                Offer::Hold(slot) => gro.hold(arena, id, slot, 0, &memory).expect("sound"),
                Offer::Alone(_) => gro.ready().push(Ready::alone(id, 0)),
            }
        }
        gro.flush(arena, End::BurstEnd);
        for ready in gro.ready().drain(..) {
            black_box(arena.packet(ready.id).wire_len());
            arena.release(ready.id);
        }
        index += flush;
    }
}

fn coalesce(c: &mut Criterion) {
    let mut group = c.benchmark_group("coalesce");
    let shapes = [(1, 16), (1, 44), (16, 16), (128, 16), (1000, 16)];
    for (family, name) in Family::BOTH {
        for (cold, heat) in [(false, "hot"), (true, "cold")] {
            let mut sweeper = sweeper(cold);
            for (flows, per_flow) in shapes {
                let ring = Ring::new(family, flows, per_flow, cold);
                let flush = flows * per_flow;
                group.measurement_time(measured(cold));
                let mut arena = Arena::new(flows + 512, flush);
                let mut gro = Coalescer::new(&GRO, 1024, 0x5eed);
                let id = BenchmarkId::new(format!("{name} {heat}"), format!("{flows}x{per_flow}"));
                group.bench_function(id, |b| {
                    b.iter_custom(|packets| {
                        per_packet(packets, &ring, &mut sweeper, || {
                            coalesce_pass(&ring, cold, flush, &mut arena, &mut gro);
                        })
                    });
                });
                let stats = gro.stats();
                assert_eq!(
                    stats.merged,
                    stats.aggregates * (per_flow as u64 - 1),
                    "everything merges"
                );
            }
        }
    }
}

/// A super-packet of 44 segments; the time is that of one segment.
fn segment(c: &mut Criterion) {
    let mut group = c.benchmark_group("segment");
    let only_csum = Caps::new(true, false, false, false, false);
    for (family, name) in Family::BOTH {
        let packet = family.flow(1000).segments(44).super_packet().build();
        let vnet = VnetHeader {
            gso_type: match family {
                Family::V4 => 1,
                Family::V6 => 4,
            },
            gso_size: MSS as u16,
            ..family.vnet()
        };
        let mut arena = Arena::new(1, 1);
        let body = [Frag::new(0, packet.len() as u32)];
        let vnet = Some((&vnet, Trust::Guest));
        let admitted = arena.admit(Link::Ethernet, &packet, &body, vnet);
        let id = admitted.expect("sound").id;
        let memory = SliceMemory::new(&packet, Kernels::detect());
        for (caps, work) in [(only_csum, "headers"), (Caps::NONE, "headers and checksum")] {
            group.bench_function(BenchmarkId::new(name, work), |b| {
                b.iter_custom(|segments| {
                    let rounds = segments.div_ceil(44);
                    let start = Instant::now();
                    for _ in 0..rounds {
                        let packet = arena.packet(id);
                        let plan = plan(packet, caps, 9000);
                        let mut out = [0; 256];
                        let done = complete(
                            packet,
                            arena.payload(id),
                            plan,
                            &memory,
                            |packet, payload| {
                                black_box(packet.write_header(&mut out));
                                black_box(payload.len_bytes());
                            },
                        );
                        assert_eq!(black_box(done), Ok(44));
                    }
                    start
                        .elapsed()
                        .mul_f64(segments as f64 / (rounds * 44) as f64)
                });
            });
        }
    }
}

fn short() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(50))
        .measurement_time(measured(false))
        .without_plots()
}

criterion_group! {
    name = benches;
    config = short();
    targets = admit, coalesce, segment
}
criterion_main!(benches);
