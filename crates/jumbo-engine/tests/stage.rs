//! Payload that is copied while it is verified: the same packets leave, those that merged in one
//! piece, and no copy with a wrong checksum is used.

mod support;

use jumbo_engine::arena::{Arena, HEAD_WANTED, Memory, SliceMemory};
use jumbo_engine::checksum::Kernels;
use jumbo_engine::coalesce::{Coalescer, End, GRO, Offer, Ready, Received, Taken};
use jumbo_engine::complete::{complete, plan};
use jumbo_engine::packet::{Frag, Link};
use jumbo_engine::pending::Caps;
use jumbo_engine::stage::{Stage, StagedMemory};
use jumbo_engine::vnet::Trust;
use jumbo_testkit::PacketBuilder;
use jumbo_testkit::script::{IpId, TcpStream};
use proptest::prelude::*;
use support::{NO_MTU, needs_csum};

/// A packet that arrives: its flow, and whether its checksum is wrong.
type Arrival = (usize, bool);

fn flow(index: usize) -> TcpStream {
    let base = PacketBuilder::ethernet().tcp(1000 + index as u16, 80);
    let base = match index % 2 {
        0 => base,
        _ => PacketBuilder::ethernet()
            .ipv6([1; 16], [2; 16])
            .tcp(1000 + index as u16, 80),
    };
    TcpStream::new(base)
        .mss(1400)
        .timestamps(1, 2)
        .ids(IpId::Increment(7))
}

/// All packets one behind the other, with a hole between them.
fn lay(arrivals: &[Arrival]) -> (Vec<u8>, Vec<Frag>) {
    let (mut memory, mut frags) = (Vec::new(), Vec::new());
    let mut sent = [0; 4];
    for (flow_index, bad) in arrivals {
        let packet = flow(*flow_index).segments(100).packet(sent[*flow_index]);
        sent[*flow_index] += 1;
        let packet = if *bad { packet.bad_checksum() } else { packet };
        let bytes = packet.build();
        frags.push(Frag::new(memory.len() as u64, bytes.len() as u32));
        memory.extend(bytes);
        memory.extend([0xEE; 5]);
    }
    (memory, frags)
}

/// What left: its bytes, why, and how many of the packets lay whole in the stage.
type Left = (Vec<(Vec<u8>, Option<End>)>, usize);

fn run(bytes: &[u8], frags: &[Frag], by_door: bool, stage: Option<&Stage>) -> Left {
    let plain = SliceMemory::new(bytes, Kernels::detect());
    match stage {
        Some(stage) => run_in(
            bytes,
            frags,
            by_door,
            &StagedMemory::new(plain, stage),
            Some(stage),
        ),
        None => run_in(bytes, frags, by_door, &plain, None),
    }
}

fn run_in(
    bytes: &[u8],
    frags: &[Frag],
    by_door: bool,
    memory: &impl Memory,
    stage: Option<&Stage>,
) -> Left {
    let (mut arena, mut gro) = (Arena::new(256, 256), Coalescer::new(&GRO, 16, 7));
    for frag in frags {
        let rest = &bytes[frag.at as usize..];
        let head = &rest[..(frag.len as usize).min(HEAD_WANTED)];
        let received = Received {
            link: Link::Ethernet,
            head,
            body: std::slice::from_ref(frag),
            vnet: None,
            origin: 0,
        };
        let (id, offer) = if by_door {
            match gro.take(&mut arena, &received, memory).expect("sound") {
                Taken::Merged => continue,
                Taken::Admitted(admitted, offer) => (admitted.id, offer),
            }
        } else {
            let id = arena
                .admit(Link::Ethernet, head, received.body, None)
                .expect("sound")
                .id;
            (id, gro.offer(&mut arena, id, memory))
        };
        match offer {
            Offer::Merged => {}
            Offer::Hold(slot) if gro.hold(&mut arena, id, slot, 0, memory).is_ok() => {}
            _ => gro.ready().push(Ready::alone(id, 0)),
        }
    }
    gro.flush(&mut arena, End::BurstEnd);
    let mut left = (Vec::new(), 0);
    for ready in gro.ready().drain(..) {
        let (packet, payload) = (arena.packet(ready.id), arena.payload(ready.id));
        let whole = stage.and_then(|stage| stage.whole(packet, payload, <[u8]>::to_vec));
        left.1 += usize::from(whole.is_some());
        let gathered = || {
            let mut out = vec![0; 200];
            let len = packet.write_header(&mut out).expect("room");
            out.truncate(len);
            for frag in payload {
                match stage.and_then(|stage| stage.look(frag, <[u8]>::to_vec)) {
                    Some(bytes) => out.extend(bytes),
                    None => out.extend(&bytes[frag.at as usize..][..frag.len as usize]),
                }
            }
            out
        };
        left.0.push((whole.unwrap_or_else(gathered), ready.ended));
    }
    left
}

#[test]
fn staged_or_not_the_same_leaves() {
    let arrival = (0usize..4, proptest::bool::weighted(0.05));
    let config = ProptestConfig::with_cases(60);
    proptest!(config, |(arrivals in prop::collection::vec(arrival, 1..200))| {
        let (memory, frags) = lay(&arrivals);
        let (expected, _) = run(&memory, &frags, false, None);
        let verified = expected.iter().filter(|(_, ended)| ended.is_some()).count();
        for by_door in [false, true] {
            let stage = Stage::new(200, 65_535);
            let (left, whole) = run(&memory, &frags, by_door, Some(&stage));
            prop_assert_eq!(&left, &expected);
            // All that was held was verified, and so was copied; a room each, and no more.
            prop_assert_eq!((whole, stage.taken()), (verified, verified));
            // Rooms for two and a half segments, and too few of them.
            let stage = Stage::new(2, 3500);
            let (left, _) = run(&memory, &frags, by_door, Some(&stage));
            prop_assert_eq!(&left, &expected);
        }
    });
}

/// A packet without a room.
#[test]
fn what_finds_no_room_stays_where_it_is() {
    let (memory, frags) = lay(&[(0, false), (1, false), (2, true)]);
    let stage = Stage::new(1, 1400);
    let (left, whole) = run(&memory, &frags, true, Some(&stage));
    assert_eq!((left.len(), whole, stage.taken()), (3, 1, 1));
    assert_eq!(left, run(&memory, &frags, true, None).0);
    stage.clear();
    let (left, whole) = run(&memory, &frags[..1], true, Some(&stage));
    assert_eq!(
        (left.len(), whole),
        (1, 1),
        "a cleared stage has its room again"
    );
}

#[test]
fn a_wrong_checksum_takes_no_room() {
    let wrong: Vec<Arrival> = (0..50).map(|n| (n % 4, true)).collect();
    let (memory, frags) = lay(&wrong);
    let stage = Stage::new(4, 65_535);
    let (left, whole) = run(&memory, &frags, true, Some(&stage));
    assert_eq!((left.len(), whole, stage.taken()), (50, 0, 0));
}

/// Segments whose checksums are made lie in the stage, the same as those made in two passes.
#[test]
fn segments_are_copied_while_they_are_summed() {
    let stream = flow(0).segments(9).super_packet().partial_checksum();
    let bytes = stream.build();
    let header = needs_csum(Link::Ethernet, &bytes, 1, 1400);
    let mut arena = Arena::new(4, 4);
    let body = [Frag::new(0, bytes.len() as u32)];
    let vnet = Some((&header, Trust::Guest));
    let id = arena
        .admit(Link::Ethernet, &bytes, &body, vnet)
        .expect("sound")
        .id;
    let (packet, payload) = (arena.packet(id), arena.payload(id));
    let plan = plan(packet, Caps::NONE, NO_MTU);
    let plain = SliceMemory::new(&bytes, Kernels::detect());

    let mut expected = Vec::new();
    let gather = complete(packet, payload, plan, &plain, |packet, payload| {
        expected.push(support::bytes_of(&bytes, packet, payload));
    });
    // Room for eight of nine: the last is summed where it is.
    let stage = Stage::new(8, 1400);
    let mut staged = Vec::new();
    let memory = StagedMemory::new(plain, &stage);
    let made = complete(packet, payload, plan, &memory, |packet, payload| {
        let whole = stage.whole(packet, payload, <[u8]>::to_vec);
        assert_eq!(whole.is_some(), staged.len() < 8);
        staged.push(whole.unwrap_or_else(|| support::bytes_of(&bytes, packet, payload)));
    });
    assert_eq!((made, gather), (Ok(9), Ok(9)));
    assert_eq!(staged, expected);
}
