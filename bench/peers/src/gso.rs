//! Segmentation: a super-packet of 44 segments.

use std::hint::black_box;
use std::rc::Rc;
use std::time::Instant;

use jumbo_engine::arena::{Memory, PacketId};
use jumbo_engine::prelude::*;
use jumbo_engine::stage::{Stage, StagedMemory};
use jumbo_testkit::PacketBuilder;
use tun_rs::{VirtioNetHdr, gso_split};

use crate::bench::{Contender, Spent, Work};
use crate::ring::Family;
use crate::sys;

const SEGMENTS: usize = 44;
/// Between the segments' places.
const STRIDE: usize = 2048;

const HEADERS: &str = "no copy, no checksum";
const CHECKSUM: &str = "no copy, checksum";
const TWO_PASSES: &str = "copies, checksum (two passes)";
const ONE_PASS: &str = "copies, checksum (one pass)";

/// Both works of segmentation.
pub(crate) fn works(dpdk: &str, tun_rs: &str) -> Vec<Work> {
    let mut works = Vec::new();
    for family in Family::TCP {
        let v6 = if family.is_v6() { "/tcp6" } else { "" };
        let mut headers = Work::new(format!("gso/headers{v6}"), "ns/segment");
        let mut full = Work::new(format!("gso/copy-checksum{v6}"), "ns/segment");
        let whole = Rc::new(Whole::new(family));
        headers.contenders.push(jumbo_headers(&whole));
        full.contenders.push(jumbo_one_pass(&whole));
        full.contenders.push(jumbo_two_passes(&whole));
        full.contenders.push(tun(&whole, tun_rs));
        if family == Family::V4 {
            // rte_gso knows TCP over IPv4 only.
            headers.contenders.push(dpdk_gso(&whole, dpdk, false));
            full.contenders.push(dpdk_gso(&whole, dpdk, true));
        }
        works.extend([headers, full]);
    }
    works
}

/// A super-packet, admitted.
struct Whole {
    family: Family,
    bytes: Vec<u8>,
    arena: Arena,
    id: PacketId,
}

impl Whole {
    fn new(family: Family) -> Self {
        let base = PacketBuilder::ethernet().partial_checksum();
        let stream = family.flow(0, base).segments(SEGMENTS);
        let bytes = stream.super_packet().build();
        let vnet = VnetHeader {
            gso_type: if family.is_v6() { 4 } else { 1 },
            gso_size: family.mss() as u16,
            ..family.pending()
        };
        let mut arena = Arena::new(1, 1);
        let body = [Frag::new(0, bytes.len() as u32)];
        let admitted = arena.admit(Link::Ethernet, &bytes, &body, Some((&vnet, Trust::Guest)));
        let id = admitted.expect("a sound super-packet").id;
        Self {
            family,
            bytes,
            arena,
            id,
        }
    }

    fn lens(&self) -> [usize; 3] {
        [14, self.family.l3_len(), 32]
    }

    fn header_len(&self) -> usize {
        self.lens().iter().sum()
    }

    fn segment(
        &self,
        caps: Caps,
        memory: &impl Memory,
        sink: impl FnMut(&Packet, jumbo_engine::arena::Pieces<'_>),
    ) {
        let packet = self.arena.packet(self.id);
        let plan = plan(packet, caps, 1500);
        let done = complete(packet, self.arena.payload(self.id), plan, memory, sink);
        assert_eq!(black_box(done), Ok(SEGMENTS as u32));
    }
}

fn timed(mut work: impl FnMut()) -> Spent {
    let start = Instant::now();
    work();
    let time = start.elapsed();
    Spent {
        time,
        units: SEGMENTS,
    }
}

fn jumbo_headers(whole: &Rc<Whole>) -> Contender {
    let whole = whole.clone();
    let only_csum = Caps::new(true, false, false, false, false);
    let mut out = [0; 256];
    let pass = move || {
        let memory = SliceMemory::new(&whole.bytes, Kernels::portable());
        timed(|| {
            whole.segment(only_csum, &memory, |packet, payload| {
                black_box(packet.write_header(&mut out));
                black_box(payload.len_bytes());
            });
        })
    };
    Contender::new(
        "jumbo",
        HEADERS,
        "headers written out, payload by reference",
        pass,
    )
}

/// Payload is copied to a room for each segment while it is summed.
fn one_pass(whole: &Whole, stage: &Stage, mut look: impl FnMut(&[u8])) {
    let memory = SliceMemory::new(&whole.bytes, Kernels::detect());
    let memory = StagedMemory::new(memory, stage);
    stage.clear();
    whole.segment(Caps::NONE, &memory, |packet, payload| {
        let seen = stage.whole(packet, payload, &mut look);
        seen.expect("room for each");
    });
}

fn stage(whole: &Whole) -> Stage {
    Stage::new(SEGMENTS, whole.family.mss())
}

fn jumbo_one_pass(whole: &Rc<Whole>) -> Contender {
    let whole = whole.clone();
    let stage = stage(&whole);
    check(&whole, &stage);
    let pass = move || {
        timed(|| {
            one_pass(&whole, &stage, |segment| {
                black_box(segment);
            });
        })
    };
    Contender::new("jumbo", ONE_PASS, "a stage", pass)
}

/// The segments are what the textbook makes of the super-packet.
fn check(whole: &Whole, stage: &Stage) {
    use jumbo_testkit::oracle;
    one_pass(whole, stage, |segment| {
        oracle::verify(jumbo_testkit::Link::Ethernet, segment).expect("a right segment");
    });
}

fn jumbo_two_passes(whole: &Rc<Whole>) -> Contender {
    let whole = whole.clone();
    let mut out = vec![0; SEGMENTS * STRIDE];
    let pass = move || {
        timed(|| {
            let memory = SliceMemory::new(&whole.bytes, Kernels::detect());
            let mut places = out.chunks_mut(STRIDE);
            whole.segment(Caps::NONE, &memory, |packet, payload| {
                let place = places.next().expect("a place for each");
                let mut at = packet.write_header(place).expect("room");
                for frag in payload {
                    let bytes = memory.bytes(frag).expect("inside");
                    place[at..at + bytes.len()].copy_from_slice(bytes);
                    at += bytes.len();
                }
                black_box(place);
            });
        })
    };
    Contender::new("jumbo-two-passes", TWO_PASSES, "checksum, then copy", pass)
}

/// It works on IP packets.
fn tun(whole: &Rc<Whole>, engine: &str) -> Contender {
    let mut input = whole.bytes[14..].to_vec();
    let hdr = VirtioNetHdr {
        gso_type: if whole.family.is_v6() { 4 } else { 1 },
        flags: 1,
        hdr_len: whole.header_len() as u16 - 14,
        gso_size: whole.family.mss() as u16,
        csum_start: whole.family.l3_len() as u16,
        csum_offset: 16,
    };
    let is_v6 = whole.family.is_v6();
    let mut out = vec![vec![0; STRIDE]; SEGMENTS];
    let mut sizes = vec![0; SEGMENTS];
    let pass = move || {
        timed(|| {
            let made = gso_split(&mut input, hdr, &mut out, &mut sizes, 0, is_v6);
            assert_eq!(made.ok(), Some(SEGMENTS));
            black_box(&mut out);
        })
    };
    Contender::new(engine, TWO_PASSES, "", pass)
}

fn dpdk_gso(whole: &Rc<Whole>, dpdk: &str, checksum: bool) -> Contender {
    let mss = whole.family.mss();
    assert!(sys::gso_set(&whole.bytes, whole.lens(), mss), "room for it");
    assert_eq!(
        sys::gso_checksums(SEGMENTS),
        textbook(whole),
        "DPDK's segments are ours"
    );
    let pass = move || timed(|| assert_eq!(sys::gso(checksum), SEGMENTS as i32));
    let does = if checksum { CHECKSUM } else { HEADERS };
    let note = "an indirect mbuf per segment, freed again";
    Contender::new(format!("{dpdk}-gso"), does, note, pass)
}

/// The checksums of the segments as the engine computes them, as they stand in memory.
fn textbook(whole: &Whole) -> Vec<u16> {
    let at = whole.header_len() - 32 + 16;
    let mut checks = Vec::new();
    one_pass(whole, &stage(whole), |segment| {
        checks.push(u16::from_ne_bytes([segment[at], segment[at + 1]]));
    });
    checks
}
