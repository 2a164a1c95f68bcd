//! A burst of packets, built by hand, becomes a few super-packets and then the burst again.
//!
//! `cargo run -p jumbo-engine --example coalesce_burst`

use jumbo_engine::prelude::*;

/// Payload of a full segment: an MTU of 1500 bytes less IPv4 and TCP headers.
const MSS: usize = 1460;

fn main() {
    println!("Ethernet, two flows in turn, ten segments each:");
    let ethernet: Vec<_> = (0..20)
        .map(|i| packet(Link::Ethernet, 40000 + i % 2, i / 2))
        .collect();
    round_trip(Link::Ethernet, &ethernet);

    println!("Raw IP, as on a TUN device, one flow:");
    let raw: Vec<_> = (0..10).map(|i| packet(Link::RawIp, 40000, i)).collect();
    round_trip(Link::RawIp, &raw);
}

/// Coalesces the burst, prints what came of it, cuts it again and compares.
fn round_trip(link: Link, packets: &[Vec<u8>]) {
    // The engine owns no packets: they lie in a buffer of ours, and it refers to them by index.
    let buffer = packets.concat();
    let memory = SliceMemory::new(&buffer, Kernels::detect());
    let mut arena = Arena::new(64, 256);
    let mut gro = Coalescer::new(&GRO, 64, 0x5eed); // take a random seed for real

    let mut at = 0;
    for bytes in packets {
        let body = [Frag::new(at as u64, bytes.len() as u32)];
        at += bytes.len();
        let admitted = match arena.admit(link, bytes, &body, None) {
            Ok(admitted) => admitted,
            Err(fault) => {
                println!("  dropped: {fault}");
                continue;
            }
        };
        match gro.offer(&mut arena, admitted.id, &memory) {
            Offer::Merged => {}
            // Here a switch would look up where the flow goes.
            Offer::Hold(slot) => {
                if let Err(why) = gro.hold(&mut arena, admitted.id, slot, 0, &memory) {
                    println!("  alone: {why}");
                    gro.ready().push(Ready::alone(admitted.id, 0));
                }
            }
            Offer::Alone(why) => {
                println!("  alone: {why}");
                gro.ready().push(Ready::alone(admitted.id, 0));
            }
        }
    }
    // Nothing more to receive: everything held leaves.
    gro.flush(&mut arena, End::BurstEnd);

    let mut again = Vec::new();
    for ready in gro.ready().drain(..) {
        let aggregate = arena.packet(ready.id);
        let header = VnetHeader::of(aggregate);
        println!(
            "  {} bytes, gso_type {}, gso_size {}, csum_start {}",
            aggregate.wire_len(),
            header.gso_type,
            header.gso_size,
            header.csum_start,
        );
        // A port that takes super-packets would get it as it is; this one takes nothing.
        let plan = plan(aggregate, Caps::NONE, 1500);
        let payload = arena.payload(ready.id);
        let done = complete(aggregate, payload, plan, &memory, |packet, payload| {
            again.push(wire_bytes(&memory, packet, payload));
        });
        done.expect("the buffer is still there");
        arena.release(ready.id);
    }
    println!("  ends: {:?}", gro.stats().aggregate_ends);

    // Order holds within a flow, not between flows.
    let mut expected = packets.to_vec();
    expected.sort();
    again.sort();
    assert_eq!(again, expected);
    println!(
        "  cut again: {} packets, byte for byte the same",
        again.len()
    );
}

/// Gathers a packet: its private header, then the payload it refers to.
fn wire_bytes(memory: &SliceMemory<'_>, packet: &Packet, payload: Pieces<'_>) -> Vec<u8> {
    let mut header = [0; 256];
    let len = packet.write_header(&mut header).expect("256 bytes suffice");
    let pieces = payload.filter_map(|frag| memory.bytes(frag));
    let mut bytes = header[..len].to_vec();
    pieces.for_each(|piece| bytes.extend(piece));
    bytes
}

/// The `index`-th segment of the flow from `src_port`, checksums and all.
fn packet(link: Link, src_port: u16, index: u16) -> Vec<u8> {
    let payload: Vec<u8> = (0..MSS).map(|i| (i + usize::from(index)) as u8).collect();
    let (src, dst) = ([192, 0, 2, 1], [192, 0, 2, 2]);

    let mut tcp = Vec::new();
    tcp.extend(src_port.to_be_bytes());
    tcp.extend(5001u16.to_be_bytes());
    tcp.extend((1 + u32::from(index) * MSS as u32).to_be_bytes()); // sequence number
    tcp.extend(1u32.to_be_bytes()); // acknowledgement number
    tcp.extend([5 << 4, 0x10]); // header of 5 words; ACK
    tcp.extend(512u16.to_be_bytes()); // window
    tcp.extend([0; 4]); // checksum, urgent pointer
    tcp.extend(payload);
    let pseudo = jumbo_engine::checksum::pseudo_v4(src, dst, 6, tcp.len() as u32);
    let check = pseudo.add_bytes(&tcp).checksum();
    tcp[16..18].copy_from_slice(&check.to_be_bytes());

    let mut ip = vec![0x45, 0];
    ip.extend((20 + tcp.len() as u16).to_be_bytes());
    ip.extend(index.to_be_bytes()); // identification
    ip.extend([0x40, 0, 64, 6, 0, 0]); // DF, TTL 64, TCP, checksum
    ip.extend(src);
    ip.extend(dst);
    let check = jumbo_engine::checksum::Sum::ZERO.add_bytes(&ip).checksum();
    ip[10..12].copy_from_slice(&check.to_be_bytes());

    let ethernet: &[u8] = match link {
        Link::Ethernet => &[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x08, 0x00],
        Link::RawIp => &[],
    };
    [ethernet, &ip, &tcp].concat()
}
