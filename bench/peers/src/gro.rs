//! Coalescing: the engine, DPDK's library in both modes, tun-rs.

use std::cell::RefCell;
use std::hint::black_box;
use std::rc::Rc;
use std::time::Instant;

use jumbo_engine::arena::{HEAD_WANTED, Memory, Pieces};
use jumbo_engine::coalesce::Received;
use jumbo_engine::prelude::*;
use jumbo_engine::stage::{Stage, StagedMemory};
use tun_rs::GROTable;

use crate::bench::{Contender, Spent, Work};
use crate::ring::{Family, Ring, Shape, Shared, Sweeper, measure};
use crate::sys::{self, GroContext, Pool, PoolMemory, Span};

type Sweep = Rc<RefCell<Sweeper>>;

/// Largest super-packet with its headers, and room to spare.
const OUT: usize = 66 << 10;

const COPIES_NOTHING: &str = "no copy, no verify, classifies";

/// All works of coalescing.
pub(crate) fn works(pool: &Shared, dpdk: &str, tun_rs: &str) -> Result<Vec<Work>, String> {
    let sweeper = Rc::new(RefCell::new(Sweeper::new()));
    let mut works = Vec::new();
    for family in Family::TCP {
        for (flows, per_flow, flushes, cold) in SHAPES {
            let shape = Shape {
                family,
                flows,
                per_flow,
                flushes,
                cold,
                checksums: false,
            };
            works.extend(headers_only(pool, &sweeper, shape, dpdk)?);
        }
        works.extend(copy_verify(pool, &sweeper, family, dpdk, tun_rs)?);
    }
    let datagrams = Shape {
        family: Family::Udp4,
        ..FLOW
    };
    // rte_gro's UDP joins fragments, not datagrams.
    works.extend(headers_only(pool, &sweeper, datagrams, dpdk)?);
    works.extend(copy_verify(pool, &sweeper, Family::Udp4, dpdk, tun_rs)?);
    Ok(works)
}

/// Flows, packets of each between two flushes, flushes a pass, cold.
const SHAPES: [(usize, usize, usize, bool); 5] = [
    (1, 44, 8, false),
    (128, 16, 1, false),
    (1000, 16, 1, false),
    (1, 44, 640, true),
    (128, 16, 14, true),
];

/// One flow, hot.
const FLOW: Shape = Shape {
    family: Family::V4,
    flows: 1,
    per_flow: 44,
    flushes: 8,
    cold: false,
    checksums: false,
};

/// How many packets the pool must have room for.
pub(crate) const PACKETS: usize = 2 * (352 + 2048 + 16_000 + 28_160 + 28_672 + 352 + 352);

fn name(shape: &Shape) -> String {
    let family = shape.family.name();
    let s = if shape.flows == 1 { "" } else { "s" };
    let heat = if shape.cold { "cold" } else { "hot" };
    format!("gro/{family}/{}-flow{s}/{heat}", shape.flows)
}

/// `None` if the engine does not merge such packets.
fn headers_only(
    pool: &Shared,
    sweeper: &Sweep,
    shape: Shape,
    dpdk: &str,
) -> Result<Option<Work>, String> {
    let ring = Ring::fill(shape, &mut pool.borrow_mut())?;
    let mut work = Work::new(name(&shape), "ns/packet");
    let Some(jumbo) = jumbo(pool, sweeper, ring) else {
        eprintln!("{}: not merged by this engine, left out", work.name);
        return Ok(None);
    };
    work.contenders.push(jumbo);
    work.contenders.extend(context(pool, sweeper, ring, dpdk));
    work.contenders.extend(burst(pool, sweeper, ring, dpdk));
    Ok(Some(work))
}

// --- the engine ---

/// A pass over the ring: take, hold, flush; each result goes to `sink`. Returns how many there were.
#[inline(always)]
fn coalesce(
    pool: &Pool,
    memory: &impl Memory,
    span: Span,
    vnet: Option<&VnetHeader>,
    (arena, gro): &mut (Arena, Coalescer),
    mut sink: impl FnMut(&Packet, Pieces<'_>),
) -> usize {
    let (mut left, end) = (0, span.first + span.count);
    let mut index = span.first;
    while index < end {
        let stop = (index + span.flush).min(end);
        let burst = (index..stop).map(|index| {
            if span.ahead > 0 && index + span.ahead < end {
                sys::prefetch(pool.packet(index + span.ahead));
            }
            let bytes = pool.packet(index);
            Received {
                link: Link::Ethernet,
                head: bytes.get(..HEAD_WANTED).unwrap_or(bytes),
                body: pool.body(index),
                vnet: vnet.map(|header| (header, Trust::Guest)),
                origin: 0,
            }
        });
        gro.take_all(arena, burst, memory, |gro, arena, _, taken| {
            let (packet, offer) = taken.expect("a sound packet");
            match offer {
                Offer::Hold(slot) if gro.hold(arena, packet.id, slot, 0, memory).is_ok() => {}
                _ => gro.ready().push(Ready::alone(packet.id, 0)),
            }
        });
        gro.flush(arena, End::BurstEnd);
        left += gro.ready().len();
        for ready in gro.ready().drain(..) {
            sink(arena.packet(ready.id), arena.payload(ready.id));
            arena.release(ready.id);
        }
        index = stop;
    }
    left
}

fn engine(ring: &Ring) -> (Arena, Coalescer) {
    let arena = Arena::new(ring.shape.flows + 512, ring.span.flush);
    (arena, Coalescer::new(&GRO, 1024, 0x5eed))
}

/// Runs `pass` once for its note, then as a contender.
fn contender(
    engine: String,
    does: &'static str,
    ring: Ring,
    about: &str,
    mut pass: impl FnMut() -> (Spent, usize) + 'static,
) -> Contender {
    let (_, left) = pass();
    let note = format!("{}{about}", ring.note(left));
    Contender::new(engine, does, note, move || pass().0)
}

fn jumbo(pool: &Shared, sweeper: &Sweep, ring: Ring) -> Option<Contender> {
    let (pool, sweeper) = (pool.clone(), sweeper.clone());
    let vnet = ring.shape.family.pending();
    let mut state = engine(&ring);
    let mut pass = move || {
        measure(&pool, &sweeper, &ring, |pool| {
            let memory = PoolMemory::new(pool, Kernels::portable());
            coalesce(
                pool,
                &memory,
                ring.span,
                Some(&vnet),
                &mut state,
                |packet, _| {
                    black_box(packet.wire_len());
                },
            )
        })
    };
    let merges = pass().1 == ring.aggregates();
    assert!(merges || ring.shape.family.is_udp(), "TCP merges");
    let about = ", table of 1024 flows";
    let contender = contender("jumbo".into(), COPIES_NOTHING, ring, about, pass);
    merges.then_some(contender)
}

/// Verified, coalesced, and each aggregate gathered into one buffer, as a consumer with one wants it.
fn copy_verify(
    pool: &Shared,
    sweeper: &Sweep,
    family: Family,
    dpdk: &str,
    tun_rs: &str,
) -> Result<Option<Work>, String> {
    let shape = Shape {
        family,
        checksums: true,
        ..FLOW
    };
    let ring = Ring::fill(shape, &mut pool.borrow_mut())?;
    let mut work = Work::new(
        format!("gro-copy-verify/{}/1-flow", family.name()),
        "ns/packet",
    );
    let Some(jumbo) = jumbo_gather(pool, sweeper, ring) else {
        return Ok(None);
    };
    work.contenders.push(jumbo_staged(pool, sweeper, ring));
    work.contenders.push(jumbo);
    work.contenders.push(tun(pool, ring, tun_rs));
    work.contenders.extend(context(pool, sweeper, ring, dpdk));
    Ok(Some(work))
}

/// Two passes over the payload: the checksum while it is offered, the copy when it leaves.
fn jumbo_gather(pool: &Shared, sweeper: &Sweep, ring: Ring) -> Option<Contender> {
    let (pool, sweeper) = (pool.clone(), sweeper.clone());
    let mut state = engine(&ring);
    let mut out = vec![0; OUT];
    let mut pass = move || {
        measure(&pool, &sweeper, &ring, |pool| {
            let memory = PoolMemory::new(pool, Kernels::detect());
            coalesce(
                pool,
                &memory,
                ring.span,
                None,
                &mut state,
                |packet, payload| {
                    let mut at = packet.write_header(&mut out).expect("room");
                    for frag in payload {
                        let bytes = memory.bytes(frag);
                        out[at..at + bytes.len()].copy_from_slice(bytes);
                        at += bytes.len();
                    }
                    black_box(&mut out[..at]);
                },
            )
        })
    };
    let merges = pass().1 == ring.aggregates();
    let contender = contender("jumbo-two-passes".into(), COPIES_TWICE, ring, "", pass);
    merges.then_some(contender)
}

/// One pass: the payload is copied to where its aggregate will lie while it is verified.
fn jumbo_staged(pool: &Shared, sweeper: &Sweep, ring: Ring) -> Contender {
    let (pool, sweeper) = (pool.clone(), sweeper.clone());
    let mut state = engine(&ring);
    let stage = Stage::new(1, 65_535);
    let pass = move || {
        measure(&pool, &sweeper, &ring, |pool| {
            let kernels = Kernels::detect();
            let memory = StagedMemory::over(PoolMemory::new(pool, kernels), kernels, &stage);
            coalesce(
                pool,
                &memory,
                ring.span,
                None,
                &mut state,
                |packet, payload| {
                    let whole = stage.whole(packet, payload, |bytes| {
                        black_box(bytes);
                    });
                    whole.expect("all was verified");
                    stage.clear();
                },
            )
        })
    };
    let does = "copies, verifies (one pass), classifies";
    contender("jumbo".into(), does, ring, "", pass)
}

// --- DPDK ---

/// The most packets that DPDK merges into one, where it has such a limit (24.11 does, 22.11 does not).
const DPDK_SEGMENTS_MAX: usize = 20;

/// The smallest tables, of flows and of items per flow, in which everything merges: DPDK's searches go
/// over all of them.
fn tables(ring: &Ring) -> (usize, usize) {
    let items = ring.shape.per_flow.div_ceil(DPDK_SEGMENTS_MAX);
    (ring.shape.flows, items + 1)
}

fn tables_note(ring: &Ring) -> String {
    let (flows, items) = tables(ring);
    format!(", tables of {flows} flows x {items} items")
}

fn context(pool: &Shared, sweeper: &Sweep, ring: Ring, dpdk: &str) -> Option<Contender> {
    let (pool, sweeper) = (pool.clone(), sweeper.clone());
    let (flows, items) = tables(&ring);
    if ring.shape.family.is_udp() {
        return None;
    }
    let mut ctx = GroContext::new(flows, items, ring.shape.family.is_v6())?;
    let checksums = ring.shape.checksums;
    let mut out = vec![0; if checksums { OUT } else { 0 }];
    let pass = move || {
        measure(&pool, &sweeper, &ring, |pool| {
            let left = ctx.pass(pool, ring.span, &mut out);
            assert_ne!(left, 0, "a checksum is wrong");
            left
        })
    };
    let does = if checksums {
        COPIES_TWICE
    } else {
        COPIES_NOTHING
    };
    let note = tables_note(&ring);
    Some(contender(format!("{dpdk}-ctx"), does, ring, &note, pass))
}

fn burst(pool: &Shared, sweeper: &Sweep, ring: Ring, dpdk: &str) -> Option<Contender> {
    let (pool, sweeper) = (pool.clone(), sweeper.clone());
    let (flows, items) = tables(&ring);
    let v6 = ring.shape.family.is_v6();
    if ring.shape.family.is_udp() {
        return None;
    }
    // It has no result of its own to say that it does not know the protocol.
    GroContext::new(1, 1, v6)?;
    let pass = move || {
        measure(&pool, &sweeper, &ring, |pool| {
            sys::gro_burst(pool, ring.span, flows, items, v6)
        })
    };
    let note = tables_note(&ring);
    Some(contender(
        format!("{dpdk}-burst"),
        COPIES_NOTHING,
        ring,
        &note,
        pass,
    ))
}

// --- tun-rs ---

/// What it writes before each packet.
const VNET: usize = tun_rs::VIRTIO_NET_HDR_LEN;

/// The same packets without their Ethernet header, in the buffers that tun-rs wants: with room for a
/// whole aggregate each, since it appends to the first.
fn tun(pool: &Shared, ring: Ring, engine: &str) -> Contender {
    let originals: Vec<Vec<u8>> = {
        let mut pool = pool.borrow_mut();
        pool.reset(ring.span.first, ring.span.count);
        let packets = (0..ring.span.count).map(|i| &pool.packet(ring.span.first + i)[14..]);
        packets
            .map(|packet| [&[0; VNET], packet].concat())
            .collect()
    };
    let with_room = |bytes: &Vec<u8>| {
        let mut buffer = Vec::with_capacity(OUT);
        buffer.extend_from_slice(bytes);
        buffer
    };
    let mut buffers: Vec<Vec<u8>> = originals.iter().map(with_room).collect();
    let mut table = GROTable::new();
    let udp = ring.shape.family.is_udp();
    let pass = move || {
        for (buffer, original) in buffers.iter_mut().zip(&originals) {
            buffer.truncate(original.len());
            buffer[..128].copy_from_slice(&original[..128]);
        }
        let start = Instant::now();
        for flush in buffers.chunks_mut(ring.span.flush) {
            table.apply_gro(flush, VNET, udp).expect("sound packets");
        }
        let time = start.elapsed();
        let grown = buffers.iter().zip(&originals);
        let left = grown.filter(|(buffer, original)| buffer.len() > original.len());
        let units = ring.span.count;
        (Spent { time, units }, left.count())
    };
    contender(engine.into(), COPIES_TWICE, ring, "", pass)
}

const COPIES_TWICE: &str = "copies, verifies (two passes), classifies";
