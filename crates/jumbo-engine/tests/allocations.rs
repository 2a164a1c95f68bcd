//! After construction and one burst to warm up, the path allocates nothing.

#[path = "support/sys.rs"]
mod sys;

use jumbo_engine::prelude::*;
use jumbo_testkit::PacketBuilder;
use jumbo_testkit::script::{IpId, TcpStream, interleave};
use std::sync::atomic::Ordering;
use sys::ALLOCATIONS;

/// Packets in one buffer, as a ring would hold them.
struct Received {
    memory: Vec<u8>,
    places: Vec<(usize, usize)>,
    vnet: Option<VnetHeader>,
}

impl Received {
    fn new(packets: &[Vec<u8>], vnet: Option<VnetHeader>) -> Self {
        let mut memory = Vec::new();
        let mut places = Vec::new();
        for packet in packets {
            places.push((memory.len(), packet.len()));
            memory.extend(packet);
            memory.push(0);
        }
        Self {
            memory,
            places,
            vnet,
        }
    }
}

/// The whole path for one burst; returns how many packets left and their bytes.
fn burst(arena: &mut Arena, gro: &mut Coalescer, rx: &Received, caps: Caps) -> (u32, usize) {
    let memory = SliceMemory::new(&rx.memory, Kernels::detect());
    for (at, len) in &rx.places {
        let body = [Frag::new(*at as u64, *len as u32)];
        let vnet = rx.vnet.as_ref().map(|header| (header, Trust::Guest));
        let head = &rx.memory[*at..at + len];
        let admitted = arena
            .admit(Link::Ethernet, head, &body, vnet)
            .expect("sound");
        match gro.offer(arena, admitted.id, &memory) {
            Offer::Merged => {}
            Offer::Hold(slot) => gro
                .hold(arena, admitted.id, slot, 0, &memory)
                .expect("sound"),
            Offer::Alone(_) => gro.ready().push(Ready::alone(admitted.id, 0)),
        }
    }
    gro.flush(arena, End::BurstEnd);
    let (mut count, mut len) = (0, 0);
    for ready in gro.ready().drain(..) {
        let packet = arena.packet(ready.id);
        let plan = plan(packet, caps, 1500);
        let payload = arena.payload(ready.id);
        let mut header = [0; 256];
        count += complete(packet, payload, plan, &memory, |packet, payload| {
            len += packet.write_header(&mut header).expect("room");
            len += payload.map(|frag| frag.len as usize).sum::<usize>();
        })
        .expect("no fault");
        arena.release(ready.id);
    }
    assert_eq!(arena.live(), 0);
    (count, len)
}

fn assert_none(what: &str, rx: &Received, caps: Caps, leaving: u32) {
    let mut arena = Arena::new(4096, 16384);
    let mut gro = Coalescer::new(&GRO, 1024, 1);
    let (_, len) = burst(&mut arena, &mut gro, rx, caps);
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    for _ in 0..10 {
        assert_eq!(burst(&mut arena, &mut gro, rx, caps), (leaving, len));
    }
    let made = ALLOCATIONS.load(Ordering::Relaxed) - before;
    assert_eq!(made, 0, "{what}");
}

fn flows(count: u16, packets: usize) -> Received {
    let flow = |flow| {
        TcpStream::new(PacketBuilder::ethernet().tcp(1000 + flow, 80))
            .segments(packets)
            .timestamps(1, 2)
            .ids(IpId::Increment(flow))
            .packets()
    };
    Received::new(&interleave((0..count).map(flow).collect()), None)
}

/// One test, so that no other allocates meanwhile.
#[test]
fn the_path_allocates_nothing() {
    // The counter counts, or the rest would prove nothing.
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    drop(std::hint::black_box(Box::new(1)));
    assert!(ALLOCATIONS.load(Ordering::Relaxed) > before);

    assert_none("one flow", &flows(1, 440), Caps::ALL, 10);
    assert_none("one flow, cut again", &flows(1, 440), Caps::NONE, 440);
    assert_none("300 flows", &flows(300, 4), Caps::ALL, 300);
    assert_none("300 flows, cut again", &flows(300, 4), Caps::NONE, 1200);

    let builder = PacketBuilder::ethernet()
        .timestamps(1, 2)
        .payload_len(44 * 1448);
    let packet = builder.partial_checksum().build();
    let header = VnetHeader {
        flags: 1,
        gso_type: 1,
        gso_size: 1448,
        csum_start: 34,
        csum_offset: 16,
        ..VnetHeader::default()
    };
    let rx = Received::new(&vec![packet; 50], Some(header));
    assert_none("segmentation", &rx, Caps::NONE, 50 * 44);
    let only_csum = Caps::new(true, false, false, false, false);
    assert_none("segmentation, partial", &rx, only_csum, 50 * 44);

    // Nothing merges: what stays alone and what the table gives up.
    let alone: Vec<_> = (0..1000)
        .map(|i| {
            PacketBuilder::ethernet()
                .tcp(i, 80)
                .payload_len(usize::from(i % 3) * 50)
        })
        .map(|packet| packet.build())
        .collect();
    assert_none(
        "nothing merges",
        &Received::new(&alone, None),
        Caps::NONE,
        1000,
    );
    let extension = jumbo_testkit::Extension::Destination(vec![0; 6]);
    let v6 = PacketBuilder::ethernet()
        .ipv6([1; 16], [2; 16])
        .extension(extension);
    let v6 = TcpStream::new(v6).segments(40).mss(1400).packets();
    assert_none(
        "IPv6 extension headers",
        &Received::new(&v6, None),
        Caps::ALL,
        1,
    );
}
