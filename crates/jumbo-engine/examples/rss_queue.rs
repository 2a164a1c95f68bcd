//! Which queue does a packet belong to? Flows of a few kinds, spread over four queues.
//!
//! `cargo run -p jumbo-engine --example rss_queue`

use jumbo_engine::prelude::*;
use jumbo_engine::steer::{HashTypes, Indirection, Rps, Rss, SYMMETRIC_KEY, Toeplitz};

const QUEUES: usize = 4;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Take random bytes for a key that senders should not know. This one sends both directions of
    // a connection to one queue.
    let toeplitz = Toeplitz::new(&SYMMETRIC_KEY);
    println!("hashing with: {}", toeplitz.kernels().name());
    let rss = Rss::new(toeplitz, HashTypes::USUAL, Indirection::even(128, QUEUES)?);
    let workers = Rps::new([0, 1, 2]);

    let (a, b) = ([192, 0, 2, 1], [192, 0, 2, 2]);
    let shown = [
        ("TCP, there", packet(a, b, 6, 40000, 443, 0)),
        ("TCP, and back", packet(b, a, 6, 443, 40000, 0)),
        ("TCP, another port", packet(a, b, 6, 40001, 443, 0)),
        (
            "a fragment of it: addresses only",
            packet(a, b, 6, 40001, 443, 0x2000),
        ),
        (
            "UDP: addresses only, as the type is off",
            packet(a, b, 17, 40000, 53, 0),
        ),
    ];
    for (what, bytes) in &shown {
        let choice = admit(bytes, |packet| rss.choose(packet));
        println!(
            "  queue {} worker {:?}  {} {:#010x}  {what}",
            choice.queue,
            workers.worker(choice.hash),
            choice.report,
            choice.hash,
        );
    }

    let mut counts = [0; QUEUES];
    for port in 0..10_000 {
        let bytes = packet(a, b, 6, 20_000 + port, 443, 0);
        let choice = admit(&bytes, |packet| rss.choose(packet));
        counts[usize::from(choice.queue)] += 1;
    }
    println!("10000 connections: {counts:?}");
    Ok(())
}

/// Parses a packet and asks `f` about it.
fn admit<R>(bytes: &[u8], f: impl FnOnce(&Packet) -> R) -> R {
    let mut arena = Arena::new(1, 1);
    let body = [Frag::new(0, bytes.len() as u32)];
    let admitted = arena.admit(Link::RawIp, bytes, &body, None);
    f(arena.packet(admitted.expect("one packet fits").id))
}

/// IPv4 with the first bytes of a transport header, no checksums: nobody here looks at them.
fn packet(src: [u8; 4], dst: [u8; 4], proto: u8, from: u16, to: u16, fragment: u16) -> Vec<u8> {
    let mut bytes = vec![0x45, 0, 0, 40, 0, 0];
    bytes.extend(fragment.to_be_bytes());
    bytes.extend([64, proto, 0, 0]);
    bytes.extend([src, dst].concat());
    bytes.extend([from.to_be_bytes(), to.to_be_bytes()].concat());
    bytes.extend([0, 20, 0, 0, 0, 0, 0, 0]); // UDP's length; TCP's sequence number
    bytes.extend([5 << 4, 0x10, 0, 0, 0, 0, 0, 0]); // TCP's header length; ACK
    bytes
}
