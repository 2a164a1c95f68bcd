//! A guest's network card as a load generator: sends one packet over and over to a vhost-user back end, counts what comes
//! back, and prints both rates each second.
//!
//! `cargo run --release -p jumbo-testkit --example virtio_load -- SOCKET [SECONDS] [PACKET_LEN] [packed] [in_order]`

use std::error::Error;
use std::time::{Duration, Instant};

use jumbo_testkit::PacketBuilder;
use jumbo_testkit::virtio::{Options, VirtioNet};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let usage = "virtio_load SOCKET [SECONDS] [PACKET_LEN] [packed] [in_order]";
    let socket = arguments.next().ok_or(usage)?;
    let seconds: u64 = arguments.next().map_or(Ok(5), |text| text.parse())?;
    let len: usize = arguments.next().map_or(Ok(64), |text| text.parse())?;
    let words: Vec<String> = arguments.collect();
    let has = |word: &str| words.iter().any(|other| other == word);
    let options = Options {
        queue_size: 1024,
        packed: has("packed"),
        in_order: has("in_order"),
        tx_len: len.max(42),
        ..Options::default()
    };
    let mut net = VirtioNet::connect(socket, options)?;
    // Ethernet, IPv4 and UDP headers take 42 bytes.
    let packet = PacketBuilder::ethernet()
        .ipv4([192, 0, 2, 1], [192, 0, 2, 2])
        .udp(40_000, 9)
        .payload_len(len.saturating_sub(42))
        .build();
    let header = vec![0; net.header_len()];
    net.prepare(0, &header, &packet)?;
    for _ in 0..seconds {
        one_second(&mut net)?;
    }
    net.stop()?;
    Ok(())
}

fn one_second(net: &mut VirtioNet) -> Result<(), Box<dyn Error>> {
    let before = net.counts();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(1) {
        for _ in 0..64 {
            net.send_burst(0, 32)?;
            net.recv_burst(0, 64)?;
        }
    }
    let now = net.counts();
    let rate = |packets: u64| packets as f64 / start.elapsed().as_secs_f64() / 1e6;
    println!(
        "sent {:.2} Mpps, received {:.2} Mpps, {} kicks",
        rate(now.tx_packets - before.tx_packets),
        rate(now.rx_packets - before.rx_packets),
        now.kicks - before.kicks
    );
    Ok(())
}
