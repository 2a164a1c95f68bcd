//! Every ring format a driver can choose, both ways, with every length of packet.

use jumbo_testkit::PacketBuilder;
use jumbo_testkit::virtio::{Indirect, Layout, MemoryLayout, Options};

use crate::rig::{Guest, Rig, acquaint, mac, raw};

/// The longest packet: 65535 bytes behind an Ethernet header.
const LONGEST: usize = 65_549;
/// Room for it with any header.
const ROOM_FOR_ALL: usize = 65_601;

/// Options from the bits of a number: every combination of them has one.
fn format(bits: u32, queue_size: u16) -> Options {
    let bit = |n: u32| bits & 1 << n != 0;
    let indirect = match bits >> 4 & 3 {
        0 => Indirect::Never,
        1 => Indirect::Chains,
        _ => Indirect::Always,
    };
    let (packed, mergeable) = (bit(0), bit(1));
    let small = queue_size < 64;
    Options {
        packed,
        mergeable,
        in_order: bit(2),
        event_idx: bit(3),
        // A device without VERSION_1 has no packed rings.
        legacy: bit(6) && !packed,
        indirect,
        queue_size,
        rx_buffer_len: match (mergeable, small) {
            (true, false) => 2048,
            _ => ROOM_FOR_ALL,
        },
        tx_len: if queue_size > 256 { 9014 } else { LONGEST },
        tx_layout: Layout {
            header_alone: bit(7) && queue_size > 1,
            piece_len: if small { 0 } else { 4096 },
        },
        rx_layout: Layout {
            header_alone: bit(7) && !mergeable && queue_size > 1,
            piece_len: 0,
        },
        memory: match bits >> 8 & 1 {
            0 => MemoryLayout::Scattered(3),
            _ => MemoryLayout::OneFile(2),
        },
        ..Options::default()
    }
}

fn buffers(options: &Options, len: usize) -> usize {
    match options.mergeable {
        true => (len + 20).div_ceil(options.rx_buffer_len),
        false => 1,
    }
}

/// Sends packets of all lengths from one guest to the other, as many at once as it has buffers for.
struct Stream {
    next: u64,
    lens: Vec<usize>,
}

impl Stream {
    fn new(longest: usize) -> Self {
        let lens = [
            14, 15, 60, 127, 128, 1514, 2035, 2036, 2037, 4096, 9014, 30_000, LONGEST,
        ];
        let lens = lens.into_iter().filter(|len| *len <= longest).collect();
        Self { next: 0, lens }
    }

    fn len(&self, number: u64) -> usize {
        self.lens[number as usize % self.lens.len()]
    }

    /// One batch from `pair`; returns how many packets it was.
    #[track_caller]
    fn batch(&mut self, from: &mut Guest, to: &mut Guest, pair: usize, room: &Options) -> u64 {
        let slots = match room.indirect {
            Indirect::Never => room.rx_layout.count(20, room.rx_buffer_len),
            _ => 1,
        };
        let mut budget = usize::from(room.queue_size) / slots;
        let first = self.next;
        while let Some(left) = budget.checked_sub(buffers(room, self.len(self.next))) {
            budget = left;
            let packet = raw(mac(to.n), from.n, self.next, self.len(self.next));
            from.send(pair, &packet);
            self.next += 1;
        }
        assert!(self.next > first, "no room for a single packet: {room:?}");
        for number in first..self.next {
            let packet = raw(mac(to.n), from.n, number, self.len(number));
            let got = to.recv();
            assert_eq!(got.packet.len(), packet.len(), "packet {number}");
            assert!(
                got.packet == packet,
                "packet {number} of {} bytes",
                packet.len()
            );
            let flags = &got.header[..10];
            assert_eq!(flags, [0; 10], "nothing is pending");
            assert_eq!(
                usize::from(got.buffers),
                buffers_used(room, got.header.len() + packet.len())
            );
        }
        self.next - first
    }
}

/// Buffers a packet takes and no more.
fn buffers_used(options: &Options, len: usize) -> usize {
    match options.mergeable {
        true => len.div_ceil(options.rx_buffer_len),
        false => 1,
    }
}

/// Both ways between two guests, until their rings have wrapped some times.
#[track_caller]
fn exchange(workers: usize, pairs: u16, one: Options, other: Options) {
    let mut rig = Rig::new(workers);
    let ports = [
        rig.port(|c| c.queue_pairs = pairs),
        rig.port(|c| c.queue_pairs = pairs),
    ];
    let options = [one, other].map(|o| Options { pairs, ..o });
    let [mut a, mut b] = [0, 1].map(|at| rig.guest(ports[at], options[at].clone()));
    let mut guests = [a, b];
    acquaint(&rig, &mut guests);
    [a, b] = guests;
    let before = rig.state().books;
    let longest = options[0].tx_len.min(options[1].tx_len);
    let (mut there, mut back) = (Stream::new(longest), Stream::new(longest));
    let wraps = |o: &Options| 3 * u64::from(o.queue_size.min(64));
    let enough = wraps(&options[0]).max(wraps(&options[1])).max(40);
    let mut sent = 0;
    let mut pair = 0;
    while there.next < enough || back.next < enough {
        sent += there.batch(&mut a, &mut b, pair, &options[1]);
        sent += back.batch(&mut b, &mut a, pair, &options[0]);
        pair = (pair + 1) % usize::from(pairs);
    }
    let after = rig.quiet();
    assert_eq!(after.books.received - before.received, sent);
    assert_eq!(after.books.sent - before.sent, sent);
    assert_eq!(after.books.dropped, 0);
    for guest in [&mut a, &mut b] {
        for pair in 0..usize::from(pairs) {
            guest.net.wait_sent(pair).expect("all are given back");
        }
        let counts = guest.net.counts();
        assert_eq!(counts.missed_interrupts, 0, "{counts:?}");
        assert_eq!(guest.drain(), [], "nothing more comes");
    }
    for (port, guest) in [(0, &a), (1, &b)] {
        let counters = rig.port_state(port).counters;
        let counts = guest.net.counts();
        assert_eq!(counters.rx.traffic.packets, counts.tx_packets);
        assert_eq!(counters.rx.traffic.bytes, counts.tx_bytes);
        assert_eq!(counters.tx.packets, counts.rx_packets);
        assert_eq!(counters.tx.bytes, counts.rx_bytes);
    }
}

/// Each format against one that differs from it in everything, so that both are seen sending and receiving.
#[track_caller]
fn all_formats(workers: usize, pairs: u16, size: u16) {
    for bits in 0..1_u32 << 7 {
        if bits >> 4 & 3 == 3 {
            continue;
        }
        // The layouts go with whatever the rest happens to be.
        let extra = bits.wrapping_mul(5) & 3;
        let one = format(bits | extra << 7, size);
        let other = format(!bits & 0x7F | (extra ^ 3) << 7, size);
        exchange(workers, pairs, one, other);
    }
}

#[test]
fn every_format_with_one_worker() {
    all_formats(1, 1, 64);
}

#[test]
fn every_format_with_two_workers_and_pairs() {
    all_formats(2, 2, 64);
}

#[test]
fn every_format_with_rings_of_four() {
    all_formats(1, 1, 4);
}

#[test]
fn a_worker_without_a_pair_shares_one() {
    for bits in [0, 3, 7, 15] {
        exchange(2, 1, format(bits, 64), format(!bits & 0x1F, 64));
    }
}

#[test]
fn one_worker_serves_two_pairs() {
    for bits in [0, 3, 7, 15] {
        exchange(1, 2, format(bits, 64), format(!bits & 0x1F, 64));
    }
}

#[test]
fn rings_of_every_size() {
    for size in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024] {
        for bits in [0b0000, 0b1010, 0b1101] {
            exchange(1, 1, format(bits, size), format(bits ^ 1, size));
        }
    }
}

#[test]
fn packed_rings_of_odd_sizes() {
    for size in [1, 3, 5, 7, 33, 100, 255, 257] {
        for bits in [0b0001, 0b1011, 0b1101] {
            exchange(1, 1, format(bits, size), format(bits ^ 6, size));
        }
    }
}

/// Free-running indices pass 65535, with one packet at a time and with full rings.
#[test]
fn indices_wrap() {
    for (packed, size) in [(false, 8), (true, 7), (false, 256)] {
        let options = Options {
            packed,
            queue_size: size,
            event_idx: packed,
            rx_buffer_len: 128,
            tx_len: 128,
            ..Options::default()
        };
        let rig = Rig::of(1, 2, 1);
        let mut guests = [rig.guest(0, options.clone()), rig.guest(1, options)];
        acquaint(&rig, &mut guests);
        let [a, b] = &mut guests;
        let header = vec![0; a.net.header_len()];
        let mut number = 0;
        while number < 70_000 {
            let first = number;
            for _ in 0..size {
                let packet = raw(mac(1), 0, number, 60);
                assert!(a.net.queue_packet(0, &header, &packet).expect("no fault"));
                number += 1;
            }
            a.net.flush(0).expect("a kick");
            for number in first..number {
                assert_eq!(b.recv().packet, raw(mac(1), 0, number, 60));
            }
            a.net.wait_sent(0).expect("given back");
        }
        let books = rig.quiet().books;
        assert_eq!((books.sent, books.dropped), (number + 2, 0));
    }
}

/// A packet of flow `n` between two stations, one way or back.
fn of_flow(n: u16, from: usize, to: usize, number: u32) -> Vec<u8> {
    let port = |station: usize| if station == 0 { 1000 + n } else { 80 };
    PacketBuilder::ethernet()
        .macs(mac(to), mac(from))
        .ipv4([10, 0, 0, from as u8 + 1], [10, 0, 0, to as u8 + 1])
        .tcp(port(from), port(to))
        .seq(number)
        .payload_len(64)
        .build()
}

/// A flow goes to the guest by the pair that the guest last sent it by, also after it changed its mind: each of these flows
/// takes all pairs in turn, which no hash of it would.
#[test]
fn flows_return_by_the_pair_they_came_by() {
    const PAIRS: usize = 4;
    for (workers, packed) in [(1, false), (1, true), (2, false)] {
        let rig = Rig::of(workers, 2, PAIRS as u16);
        let several = Options {
            pairs: PAIRS as u16,
            packed,
            queue_size: 64,
            ..Options::default()
        };
        let mut guests = [rig.guest(0, several.clone()), rig.guest(1, several)];
        acquaint(&rig, &mut guests);
        let [a, b] = &mut guests;
        // Pairs 0 and 2 are the first worker's, of two; a's pair 0 too.
        let pairs: Vec<usize> = (0..PAIRS).step_by(workers).collect();
        for round in 0..4 {
            for n in 0..20_u16 {
                let pair = pairs[(usize::from(n) + round) % pairs.len()];
                let out = of_flow(n, 1, 0, round as u32);
                b.send(pair, &out);
                // Two packets at once may be one for the guest: each comes before the next goes.
                assert_eq!(a.recv().packet, out);
                let back = of_flow(n, 0, 1, round as u32);
                a.send(0, &back);
                rig.quiet();
                let came: Vec<usize> = (0..PAIRS)
                    .filter(|pair| b.net.try_recv_on(*pair).expect("no fault").is_some())
                    .collect();
                assert_eq!(came, [pair], "flow {n}, round {round}");
            }
        }
        assert_eq!(rig.quiet().books.dropped, 0);
    }
}
