//! Verification: a checksum that nobody vouches for is looked at before its packet is merged, once, and never else.

use std::cell::RefCell;

use jumbo_engine::arena::{Arena, Memory, SliceMemory};
use jumbo_engine::checksum::{Kernels, Sum};
use jumbo_engine::coalesce::{Alone, Coalescer, End, GRO, LRO, Offer, RSC, Ready};
use jumbo_engine::packet::{Frag, Link};
use jumbo_engine::pending::Csum;
use jumbo_engine::vnet::{Trust, VnetHeader};
use jumbo_testkit::oracle::vnet_flags;
use jumbo_testkit::tcp_flags::{ACK, ECE};
use jumbo_testkit::{Link as KitLink, PacketBuilder, oracle};

/// Memory that writes down which payload was summed.
struct Watched<'a> {
    memory: SliceMemory<'a>,
    summed: &'a RefCell<Vec<u64>>,
}

impl Memory for Watched<'_> {
    fn sum(&self, frag: Frag) -> Option<Sum> {
        self.summed.borrow_mut().push(frag.at);
        self.memory.sum(frag)
    }
}

/// What left, with whatever vouches for its checksum, and how often each packet's payload was summed.
struct Run {
    left: Vec<(Vec<u8>, Csum)>,
    summed: Vec<usize>,
    alone: Vec<Alone>,
}

const ROOM: usize = 2048;

fn run(
    rules: &jumbo_engine::coalesce::Rules,
    packets: &[Vec<u8>],
    vnet: Option<(&VnetHeader, Trust)>,
) -> Run {
    let mut bytes = vec![0; ROOM * packets.len()];
    for (index, packet) in packets.iter().enumerate() {
        bytes[index * ROOM..][..packet.len()].copy_from_slice(packet);
    }
    let summed = RefCell::new(Vec::new());
    let memory = Watched {
        memory: SliceMemory::new(&bytes, Kernels::portable()),
        summed: &summed,
    };
    let (mut arena, mut gro) = (Arena::new(64, 256), Coalescer::new(rules, 16, 7));
    let mut alone = Vec::new();
    for (index, packet) in packets.iter().enumerate() {
        let body = [Frag::new((index * ROOM) as u64, packet.len() as u32)];
        let admitted = arena.admit(Link::Ethernet, packet, &body, vnet);
        let id = admitted.expect("sound").id;
        let reason = match gro.offer(&mut arena, id, &memory) {
            Offer::Merged => continue,
            Offer::Alone(reason) => reason,
            Offer::Hold(slot) => match gro.hold(&mut arena, id, slot, 0, &memory) {
                Ok(()) => continue,
                Err(reason) => reason,
            },
        };
        alone.push(reason);
        gro.ready().push(Ready::alone(id, 0));
    }
    gro.flush(&mut arena, End::BurstEnd);
    let ready: Vec<_> = gro.ready().drain(..).collect();
    let left = ready.into_iter().map(|ready| {
        let packet = arena.packet(ready.id);
        let mut whole = vec![0; packet.header_len()];
        packet.write_header(&mut whole).expect("room");
        for frag in arena.payload(ready.id) {
            whole.extend(memory.memory.bytes(frag).expect("inside"));
        }
        (whole, packet.pending().csum)
    });
    let left = left.collect();
    let mut times = vec![0; packets.len()];
    for at in summed.borrow().iter() {
        times[*at as usize / ROOM] += 1;
    }
    Run {
        left,
        summed: times,
        alone,
    }
}

fn nth(index: u16) -> PacketBuilder {
    let packet = PacketBuilder::ethernet().seq(1 + 100 * u32::from(index));
    packet.id(index).payload_len(100)
}

/// The packet with one bit of its payload wrong.
fn spoilt(packet: PacketBuilder) -> Vec<u8> {
    let mut bytes = packet.build();
    bytes[100] ^= 0x10;
    bytes
}

/// Packets that merge, one that ends the aggregate and begins the next, another flow.
fn train() -> Vec<Vec<u8>> {
    let changed = |index| nth(index).flags(ACK | ECE).build();
    let mut packets: Vec<_> = (0..3).map(|index| nth(index).build()).collect();
    packets.extend([
        changed(3),
        changed(4),
        nth(0).tcp(9, 9).build(),
        nth(0).udp(5, 5).build(),
    ]);
    packets
}

#[test]
fn each_payload_is_summed_once() {
    for rules in [&GRO, &LRO, &RSC] {
        let run = run(rules, &train(), None);
        // What a table never merges is not looked at.
        let merges = [3, 4].map(|_| usize::from(rules.name != "lro"));
        assert_eq!(run.summed[..3], [1, 1, 1], "{}", rules.name);
        assert!(
            run.summed[3..5]
                .iter()
                .zip(merges)
                .all(|(times, most)| *times <= 1 && *times >= most)
        );
        assert!(
            run.summed.iter().all(|times| *times <= 1),
            "{:?}",
            run.summed
        );
    }
}

#[test]
fn what_is_vouched_for_is_not_summed() {
    let valid = VnetHeader {
        flags: vnet_flags::DATA_VALID,
        ..VnetHeader::default()
    };
    let run_of = |trust| run(&GRO, &train(), Some((&valid, trust))).summed;
    assert_eq!(run_of(Trust::Kernel).iter().sum::<usize>(), 0);
    assert!(
        run_of(Trust::Guest).iter().sum::<usize>() >= 7,
        "a guest's word counts nothing"
    );
}

/// One packet of a train is wrong, whichever: it leaves as it came and vouched for by nobody, its
/// neighbours leave merged and whole, in order.
#[test]
fn a_wrong_packet_costs_its_neighbours_nothing() {
    for rules in [&GRO, &LRO, &RSC] {
        for wrong in 0..5 {
            let mut packets: Vec<_> = (0..5).map(|index| nth(index).build()).collect();
            packets[usize::from(wrong)] = spoilt(nth(wrong));
            let run = run(rules, &packets, None);
            let sizes: Vec<_> = run
                .left
                .iter()
                .map(|(bytes, _)| (bytes.len() - 54) / 100)
                .collect();
            let neighbours = [usize::from(wrong), 1, usize::from(4 - wrong)];
            let expected: Vec<_> = neighbours.into_iter().filter(|count| *count != 0).collect();
            assert_eq!(sizes, expected, "{} {wrong}", rules.name);
            let place = usize::from(wrong != 0);
            let (bytes, csum) = &run.left[place];
            assert_eq!(
                (bytes, *csum),
                (&packets[usize::from(wrong)], Csum::Unverified)
            );
            assert_eq!(run.alone, [Alone::TcpChecksum]);
            // Each payload was looked at once, right or wrong.
            assert_eq!(run.summed, [1; 5], "{} {wrong}", rules.name);
            let good = run
                .left
                .iter()
                .enumerate()
                .filter(|(index, _)| *index != place);
            for (_, (bytes, csum)) in good {
                let payload = &bytes[54..];
                let sent: Vec<u8> = packets.concat();
                assert!(
                    !payload.is_empty() && sent.windows(100).any(|part| part == &payload[..100])
                );
                assert_ne!(*csum, Csum::Unverified);
                assert!(oracle::parse(KitLink::Ethernet, bytes).is_ok());
            }
        }
    }
}
