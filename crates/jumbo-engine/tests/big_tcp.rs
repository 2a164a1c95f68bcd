//! BIG TCP: trains of more than 65535 bytes become one super-packet where that can be told, whose IP
//! length says zero, and come out of segmentation as they were.

mod support;

use jumbo_engine::arena::{Arena, SliceMemory};
use jumbo_engine::checksum::Kernels;
use jumbo_engine::coalesce::{Coalescer, End, GRO, LRO, Offer, Rules, Towards};
use jumbo_engine::complete::{complete, plan};
use jumbo_engine::packet::{Frag, Link};
use jumbo_engine::pending::Caps;
use jumbo_engine::superpacket::{L3_TOTAL_BIG_MAX, L3_TOTAL_MAX};
use jumbo_engine::vnet::VnetHeader;
use jumbo_testkit::PacketBuilder;
use jumbo_testkit::oracle;
use jumbo_testkit::script::{IpId, TcpStream, UdpStream};
use proptest::prelude::*;
use support::bytes_of;

const BIG: Caps = Caps::ALL.with_big_tcp(true, true);

/// What became of a train: for each packet that left, its length, its header's, and its segments.
struct Left {
    l3_total: usize,
    header: VnetHeader,
    whole: Vec<u8>,
    finished: Vec<Vec<u8>>,
}

fn through(rules: &Rules, packets: &[Vec<u8>], big: u32, takes: Caps) -> Vec<Left> {
    let bytes = packets.concat();
    let memory = SliceMemory::new(&bytes, Kernels::detect());
    let mut arena = Arena::new(packets.len() + 1, packets.len() + 1);
    let mut gro = Coalescer::new(rules, 8, 7);
    let mut at = 0;
    for packet in packets {
        let body = [Frag::new(at, packet.len() as u32)];
        at += packet.len() as u64;
        let id = arena
            .admit(Link::Ethernet, packet, &body, None)
            .expect("sound")
            .id;
        let towards = Towards {
            big_l3_total_max: big,
            ..Towards::from(0)
        };
        match gro.offer(&mut arena, id, &memory) {
            Offer::Merged => {}
            Offer::Hold(slot) => gro
                .hold(&mut arena, id, slot, towards, &memory)
                .expect("held"),
            Offer::Alone(alone) => panic!("{alone}"),
        }
    }
    gro.flush(&mut arena, End::BurstEnd);
    let ready: Vec<_> = gro.ready().drain(..).collect();
    let mut left = Vec::new();
    for ready in ready {
        let packet = arena.packet(ready.id);
        let mut finished = Vec::new();
        let plan = plan(packet, takes, usize::MAX);
        let payload = arena.payload(ready.id);
        complete(packet, payload, plan, &memory, |packet, payload| {
            finished.push(bytes_of(&bytes, packet, payload));
        })
        .expect("no fault");
        left.push(Left {
            l3_total: packet.l3_total_len(),
            header: VnetHeader::of(packet),
            whole: bytes_of(&bytes, packet, payload),
            finished,
        });
    }
    left
}

fn train(v6: bool, segments: usize, mss: usize) -> Vec<Vec<u8>> {
    let base = PacketBuilder::ethernet();
    let base = if v6 {
        base.ipv6([1; 16], [2; 16])
    } else {
        base
    };
    let stream = TcpStream::new(base).segments(segments).mss(mss);
    stream.ids(IpId::Increment(0xff00)).packets()
}

#[test]
fn a_long_train_is_one_packet_and_comes_apart() {
    for v6 in [false, true] {
        for segments in [46, 200, 350] {
            let packets = train(v6, segments, 1448);
            let [left] = &through(&GRO, &packets, u32::MAX, Caps::NONE)[..] else {
                panic!("one");
            };
            assert!(left.l3_total > L3_TOTAL_MAX);
            let at = if v6 { 18 } else { 16 };
            assert_eq!(
                left.whole[at..at + 2],
                [0, 0],
                "the length is not told there"
            );
            assert_eq!(left.finished, packets);
            assert_eq!(left.header.gso_size, 1448);
            // The partial checksum is over the true length.
            let l4_total = (left.whole.len() - if v6 { 54 } else { 34 }) as u32;
            let field = usize::from(left.header.csum_start) + 16;
            let said = u16::from_be_bytes([left.whole[field], left.whole[field + 1]]);
            let pseudo = match v6 {
                true => jumbo_engine::checksum::pseudo_v6([1; 16], [2; 16], 6, l4_total),
                false => {
                    let address = |at: usize| {
                        let bytes = &left.whole[at..at + 4];
                        [bytes[0], bytes[1], bytes[2], bytes[3]]
                    };
                    jumbo_engine::checksum::pseudo_v4(address(26), address(30), 6, l4_total)
                }
            };
            assert_eq!(said, pseudo.fold());
            if !v6 {
                let right = oracle::checksum(&left.whole[14..34]);
                assert_eq!(right, 0, "the header's own checksum");
            }
        }
    }
}

#[test]
fn the_limit_is_what_is_told_and_never_more_than_eight_times_the_usual() {
    let packets = train(false, 500, 1448);
    let lens = |big| -> Vec<usize> {
        let left = through(&GRO, &packets, big, Caps::NONE);
        left.iter().map(|left| left.l3_total).collect()
    };
    assert!(lens(0).iter().all(|len| *len <= L3_TOTAL_MAX));
    assert!(lens(1000).iter().all(|len| *len <= L3_TOTAL_MAX), "no less");
    let some = lens(100_000);
    assert!(some[0] > 98_000 && some.iter().all(|len| *len <= 100_000));
    let all = lens(u32::MAX);
    assert!(all[0] > L3_TOTAL_BIG_MAX - 1448 && all[0] <= L3_TOTAL_BIG_MAX);
    assert_eq!(all.len(), 2);
}

#[test]
fn only_who_takes_it_is_given_it_whole() {
    for (v6, takes, whole) in [
        (false, BIG, true),
        (true, BIG, true),
        (false, Caps::ALL.with_big_tcp(true, false), true),
        (true, Caps::ALL.with_big_tcp(true, false), false),
        (false, Caps::ALL, false),
        (true, Caps::ALL.with_big_tcp(true, false), false),
    ] {
        let left = through(&GRO, &train(v6, 100, 1448), u32::MAX, takes);
        let expected = if whole { 1 } else { 100 };
        assert_eq!(left[0].finished.len(), expected, "{v6} {takes:?}");
    }
}

#[test]
fn datagrams_and_lossy_tables_stay_below() {
    let stream = UdpStream::new(PacketBuilder::ethernet().udp(1, 2)).datagrams(60, 1400, 1400);
    let left = through(&GRO, &stream.packets(), u32::MAX, BIG);
    assert!(left.iter().all(|left| left.l3_total <= L3_TOTAL_MAX));
    let left = through(&LRO, &train(false, 100, 1448), u32::MAX, BIG);
    assert!(left.iter().all(|left| left.l3_total <= L3_TOTAL_MAX));
}

#[test]
fn a_packet_of_usual_length_needs_no_capability() {
    let packets = train(false, 40, 1448);
    let left = through(&GRO, &packets, u32::MAX, Caps::ALL);
    assert_eq!((left.len(), left[0].finished.len()), (1, 1));
    let said = u16::from_be_bytes([left[0].whole[16], left[0].whole[17]]);
    assert_eq!(usize::from(said), left[0].l3_total);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn whatever_the_sizes_it_comes_out_as_it_was(
        v6 in any::<bool>(),
        segments in 1usize..400,
        mss in 8usize..9000,
        limit in any::<u32>(),
    ) {
        let packets = train(v6, segments.min(900_000 / mss + 1), mss);
        let big = limit % 600_000;
        let left = through(&GRO, &packets, big, Caps::NONE);
        let most = (big as usize).clamp(L3_TOTAL_MAX, L3_TOTAL_BIG_MAX);
        prop_assert!(left.iter().all(|left| left.l3_total <= most));
        let finished: Vec<_> = left.into_iter().flat_map(|left| left.finished).collect();
        prop_assert_eq!(finished, packets);
    }
}
