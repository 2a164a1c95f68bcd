//! UFO: datagrams that come to be fragmented leave as fragments, as the oracle cuts them, with the
//! checksum of the whole; and put together again they are what came.

mod support;

use jumbo_engine::coalesce::{Alone, End, Ready};
use jumbo_engine::complete::{Fault, Plan, complete, plan};
use jumbo_engine::packet::Link;
use jumbo_engine::pending::{Caps, GsoKind};
use jumbo_engine::vnet::{Trust, VnetHeader};
use jumbo_testkit::PacketBuilder;
use jumbo_testkit::oracle::{self, Net, vnet_gso};
use jumbo_testkit::script::UdpStream;
use proptest::prelude::*;
use support::{Input, Rig, Why, needs_csum, oracle_link, plan_of};

fn v4() -> PacketBuilder {
    PacketBuilder::ethernet().udp(7, 8).id(0xabcd)
}

fn v6() -> PacketBuilder {
    v4().ipv6([1; 16], [2; 16])
}

fn input(link: Link, packet: &PacketBuilder, size: u16) -> Input {
    let bytes = packet.clone().partial_checksum().build();
    let header = needs_csum(link, &bytes, vnet_gso::UDP, size);
    let input = match link {
        Link::Ethernet => Input::ethernet(bytes),
        Link::RawIp => Input {
            link,
            ..Input::ethernet(bytes)
        },
    };
    input.vnet(header, Trust::Guest)
}

/// What leaves towards `caps`.
fn through(input: &Input, caps: Caps) -> Vec<Vec<u8>> {
    let mut rig = Rig::new();
    rig.arena.number_fragments_from(0x1234_5678_9abc_def0);
    let id = rig.admit(input).expect("sound").id;
    let left = rig.complete(Ready::alone(id, 0), caps).expect("no fault");
    left.into_iter().map(|(_, bytes)| bytes).collect()
}

/// The identification in the fragment header, where there is one.
fn ipv6_id(link: Link, fragment: &[u8]) -> u32 {
    let packet = oracle::parse(oracle_link(link), fragment).expect("a packet");
    match packet.net {
        Net::Ipv6(ip) => {
            let (_, header) = ip.extensions.last().expect("a fragment header");
            u32::from_be_bytes(header[4..8].try_into().expect("four bytes"))
        }
        _ => 0,
    }
}

fn by_the_book(link: Link, bytes: &[u8], size: u16, ipv6_id: u32) -> Vec<Vec<u8>> {
    let kind = oracle::GsoKind::Ufo { ipv6_id };
    let gso = oracle::Gso {
        kind,
        size: size.into(),
    };
    oracle::segment(oracle_link(link), bytes, gso).expect("UFO")
}

#[test]
fn datagrams_are_fragmented_as_the_oracle_does() {
    for (link, base) in [
        (Link::Ethernet, v4()),
        (Link::Ethernet, v4().df(false)),
        (Link::Ethernet, v4().vlan(0x88a8, 3).vlan(0x8100, 4)),
        (Link::Ethernet, v6()),
        (Link::Ethernet, v6().vlan(0x8100, 4)),
        (Link::RawIp, PacketBuilder::raw_ip().udp(7, 8)),
        (
            Link::RawIp,
            PacketBuilder::raw_ip().udp(7, 8).ipv6([1; 16], [2; 16]),
        ),
    ] {
        for payload_len in [1473, 1480, 2000, 8 * 1480 - 8, 8 * 1480 - 7, 60_001] {
            for size in [8, 1480, 1448, 8184] {
                let input = input(link, &base.clone().payload_len(payload_len), size);
                for caps in [Caps::NONE, Caps::ALL] {
                    let left = through(&input, caps);
                    let id = if left.len() == 1 {
                        0
                    } else {
                        ipv6_id(link, &left[0])
                    };
                    let book = by_the_book(link, &input.bytes, size, id);
                    if left.len() == 1 && caps == Caps::ALL {
                        // An ordinary packet, with its checksum left to the receiver.
                        assert_eq!(book.len(), 1);
                        continue;
                    }
                    assert_eq!(left, book, "{link:?} {payload_len} {size} {caps:?}");
                }
            }
        }
    }
}

#[test]
fn every_datagram_has_a_number_of_its_own() {
    let mut rig = Rig::new();
    rig.arena.number_fragments_from(7);
    let mut seen = std::collections::HashSet::new();
    for _ in 0..200 {
        let input = input(Link::Ethernet, &v6().payload_len(3000), 1448);
        let id = rig.admit(&input).expect("sound").id;
        let ready = Ready::alone(id, 0);
        let left = rig.complete(ready, Caps::NONE).expect("no fault");
        let numbers: Vec<_> = left
            .iter()
            .map(|(_, bytes)| ipv6_id(Link::Ethernet, bytes))
            .collect();
        assert!(numbers.iter().all(|number| *number == numbers[0]));
        assert!(seen.insert(numbers[0]), "met twice");
        rig.arena.release(id);
    }
}

#[test]
fn whole_only_to_who_asked_for_it() {
    let input = input(Link::Ethernet, &v4().payload_len(3000), 1480);
    let left = through(&input, Caps::ALL.with_ufo(true));
    assert_eq!(left, std::slice::from_ref(&input.bytes));
    let mut rig = Rig::new();
    let admitted = rig.admit(&input).expect("sound");
    let header = VnetHeader::of(rig.arena.packet(admitted.id));
    assert_eq!((header.gso_type, header.gso_size), (3, 1480));
    assert!(matches!(
        plan_of(&rig, admitted, Caps::ALL, 1500),
        Plan::Segment(..)
    ));
}

#[test]
fn fragments_longer_than_the_mtu_are_dropped() {
    for (base, size) in [(v4(), 1480), (v6(), 1448)] {
        let input = input(Link::Ethernet, &base.payload_len(3000), size);
        let mut rig = Rig::new();
        let admitted = rig.admit(&input).expect("sound");
        let plan = |mtu| plan_of(&rig, admitted, Caps::ALL, mtu);
        let least = if size == 1480 { 1500 } else { 1496 };
        assert!(matches!(plan(least), Plan::Segment(..)), "{size}");
        assert_eq!(plan(least - 1), Plan::Drop(Fault::SegmentOverMtu));
    }
}

#[test]
fn nothing_leaves_of_a_datagram_whose_payload_is_gone() {
    let input = input(Link::Ethernet, &v4().payload_len(3000), 1480);
    let mut rig = Rig::new();
    let id = rig.admit(&input).expect("sound").id;
    let packet = rig.arena.packet(id);
    let memory = jumbo_engine::arena::SliceMemory::new(
        &rig.memory[..1000],
        jumbo_engine::checksum::Kernels::portable(),
    );
    let plan = plan(packet, Caps::NONE, 1500);
    let mut left = 0;
    let result = complete(packet, rig.arena.payload(id), plan, &memory, |_, _| {
        left += 1;
    });
    assert_eq!((result, left), (Err(Fault::PayloadMissing), 0));
}

#[test]
fn datagrams_before_it_leave_before_it() {
    let stream = UdpStream::new(v4()).datagrams(2, 100, 100);
    let mut rig = Rig::new();
    for packet in stream.packets() {
        rig.offer(&Input::ethernet(packet)).expect("sound");
    }
    let large = input(Link::Ethernet, &v4().payload_len(3000), 1480);
    rig.offer(&large).expect("sound");
    rig.flush(End::BurstEnd);
    let whys: Vec<_> = rig.done.iter().map(|done| done.why).collect();
    assert_eq!(
        whys,
        [
            Why::Ended(End::SuperPacket),
            Why::Alone(Alone::AlreadyMerged)
        ]
    );
    assert_eq!(rig.done[1].gso.expect("whole").kind, GsoKind::Ufo);
    assert_eq!(rig.done[1].finished.len(), 3);
}

/// Puts fragments together as RFC 791 section 3.2 and RFC 8200 section 4.5 say, in any order.
fn reassembled(fragments: &[Vec<u8>]) -> Vec<u8> {
    let mut datagram = Vec::new();
    for bytes in fragments {
        let packet = oracle::parse(oracle_link(Link::Ethernet), bytes).expect("a packet");
        let (offset, at) = match &packet.net {
            Net::Ipv4(_) => {
                let word = u16::from_be_bytes([bytes[20], bytes[21]]);
                (usize::from(word & 0x1fff) * 8, 34)
            }
            _ => (
                usize::from(u16::from_be_bytes([bytes[56], bytes[57]]) & !7),
                62,
            ),
        };
        let piece = &bytes[at..];
        datagram.resize(datagram.len().max(offset + piece.len()), 0);
        datagram[offset..offset + piece.len()].copy_from_slice(piece);
    }
    datagram
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever pieces the payload lies in, the fragments are the datagram with its checksum.
    #[test]
    fn fragments_put_together_are_the_datagram(
        is_v6 in any::<bool>(),
        payload_len in 1usize..9000,
        units in 1u16..1200,
        splits in prop::collection::vec(1usize..2000, 0..5),
        id in any::<u16>(),
    ) {
        let base = if is_v6 { v6() } else { v4().id(id) };
        let packet = base.payload_len(payload_len);
        let input = Input { splits, ..input(Link::Ethernet, &packet, 8 * units) };
        let left = through(&input, Caps::NONE);
        let finished = packet.build();
        let l4_at = if is_v6 { 54 } else { 34 };
        if left.len() == 1 {
            prop_assert_eq!(&left[0], &finished);
        } else {
            prop_assert_eq!(reassembled(&left), &finished[l4_at..]);
            let count = (8 + payload_len).div_ceil(usize::from(8 * units));
            prop_assert_eq!(left.len(), count);
        }
    }
}

/// What a fragment is to the rest of the engine: not looked into again.
#[test]
fn fragments_are_fragments() {
    let input = input(Link::Ethernet, &v6().payload_len(3000), 1448);
    let mut rig = Rig::new();
    let id = rig.admit(&input).expect("sound").id;
    let left = rig.complete(Ready::alone(id, 0), Caps::ALL).expect("sound");
    for (packet, bytes) in left {
        assert!(packet.layers().fragment && packet.pending().gso.is_none());
        assert_eq!(VnetHeader::of(&packet).flags, 0);
        let again = Rig::new().admit(&Input::ethernet(bytes)).expect("sound");
        assert!(again.opaque.is_some());
    }
}
