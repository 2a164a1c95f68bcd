//! Two cards of the test kit's driver, which spins: from one to the other 20'000 packets a second, every tenth of 64 KB.

use std::collections::HashMap;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use jumbo_lab::ns::NetNs;
use jumbo_testkit::PacketBuilder;
use jumbo_testkit::virtio::{
    FrontEnd, FrontEndListener, HOST_OFFLOADS, Options, VirtioNet, feature,
};

use crate::switch::{Plan, Switch};
use crate::{Result, print};

/// Between two packets.
const EVERY: Duration = Duration::from_micros(50);
/// Traffic before and behind each restart.
const AROUND: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(20);
/// Payload of a TCP segment at MTU 1500, and segments of a super-packet.
const SEGMENT_LEN: usize = 1448;
const SEGMENTS: usize = 44;
const UDP_HEADERS_LEN: usize = 42;
const TCP_HEADERS_LEN: usize = 66;

/// A card that waits for the switch at its socket.
struct Card {
    net: VirtioNet,
    /// Connections, as they come.
    came: Receiver<FrontEnd>,
}

pub(crate) fn options(packed: bool) -> Options {
    Options {
        packed,
        event_idx: true,
        queue_size: 512,
        features: feature::ANY_LAYOUT
            | HOST_OFFLOADS
            | feature::GUEST_CSUM
            | feature::GUEST_TSO4
            | feature::GUEST_TSO6,
        ..Options::default()
    }
}

/// Takes connections at `path` for as long as somebody wants them.
pub(crate) fn connections(path: &Path) -> Result<Receiver<FrontEnd>> {
    let listener = FrontEndListener::bind(path)?;
    let (tell, told) = channel();
    thread::spawn(move || {
        loop {
            match listener.accept(Duration::from_secs(1)) {
                Err(error) if error.kind() == std::io::ErrorKind::TimedOut => {}
                Err(_) => return,
                Ok(front) => {
                    if tell.send(front).is_err() {
                        return;
                    }
                }
            }
        }
    });
    Ok(told)
}

/// What came of one restart.
#[derive(Default)]
struct Sample {
    gap: Duration,
    /// From the kill until both sockets are connected; until both cards have handed over their rings.
    connected: Duration,
    handed_over: Duration,
    lost: u64,
    twice: u64,
}

pub(crate) fn measure(jumbo: &Path, packed: bool, restarts: usize) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let paths = ["a", "b"].map(|name| folder.path().join(name));
    let came = [connections(&paths[0])?, connections(&paths[1])?];
    let ports = paths.map(|path| format!("vhost-user:{},client", path.display()));
    let ns = NetNs::here()?;
    let mut switch = Plan::new(jumbo, folder.path(), &ns, &ports).start()?;
    let mut cards = Vec::new();
    for came in came {
        let net = VirtioNet::start(came.recv_timeout(PATIENCE)?, options(packed))?;
        cards.push(Card { net, came });
    }
    let [a, b] = &mut cards[..] else {
        return Err("two sockets make two cards".into());
    };
    let mut samples = Vec::new();
    for _ in 0..restarts {
        samples.push(one(&mut switch, a, b)?);
    }
    report(&samples);
    Ok(())
}

fn report(samples: &[Sample]) {
    let of = |value: fn(&Sample) -> f64| samples.iter().map(value).collect::<Vec<_>>();
    print("gap between two packets", "ms", &of(|s| ms(s.gap)));
    print("kill to both connected", "ms", &of(|s| ms(s.connected)));
    let handed_over = of(|s| ms(s.handed_over));
    print("kill to both rings handed over", "ms", &handed_over);
    print("lost", "", &of(|s| s.lost as f64));
    print("came twice", "", &of(|s| s.twice as f64));
}

pub(crate) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Traffic, a restart under it, traffic.
fn one(switch: &mut Switch, a: &mut Card, b: &mut Card) -> Result<Sample> {
    let mut traffic = Traffic::new();
    traffic.run_for(a, b, AROUND)?;
    let mut sample = Sample::default();
    let killed = Instant::now();
    thread::scope(|scope| -> Result<()> {
        let restarted = scope.spawn(|| switch.restart().map_err(|error| error.to_string()));
        // Into the ring of nobody, until the first connection.
        let of_a = loop {
            traffic.step(a, b)?;
            if let Ok(front) = a.came.try_recv() {
                break front;
            }
            if killed.elapsed() > PATIENCE {
                return Err("the switch did not come back".into());
            }
        };
        let of_b = b.came.recv_timeout(PATIENCE)?;
        sample.connected = killed.elapsed();
        // Both at once, as two guests do it.
        let back = scope.spawn(|| a.net.reconnect(of_a));
        b.net.reconnect(of_b)?;
        back.join().expect("no panic")?;
        sample.handed_over = killed.elapsed();
        Ok(restarted.join().expect("no panic")?)
    })?;
    traffic.run_for(a, b, AROUND)?;
    traffic.drain(b, AROUND)?;
    sample.gap = traffic.gap;
    sample.lost = traffic.sent - traffic.seen.len() as u64;
    sample.twice = traffic.seen.values().map(|times| times - 1).sum();
    Ok(sample)
}

/// Numbered packets from one card to the other.
struct Traffic {
    sent: u64,
    /// How often each came.
    seen: HashMap<u64, u64>,
    next: Instant,
    next_back: Instant,
    last: Option<Instant>,
    gap: Duration,
}

impl Traffic {
    fn new() -> Self {
        Self {
            sent: 0,
            seen: HashMap::new(),
            next: Instant::now(),
            next_back: Instant::now(),
            last: None,
            gap: Duration::ZERO,
        }
    }

    fn run_for(&mut self, a: &mut Card, b: &mut Card, time: Duration) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < time {
            self.step(a, b)?;
        }
        Ok(())
    }

    /// Sends what is due and receives what has come.
    fn step(&mut self, a: &mut Card, b: &mut Card) -> Result<()> {
        if Instant::now() >= self.next {
            let (header, packet) = packet(self.sent);
            // A full ring: the switch is not there.
            self.sent += u64::from(a.net.try_send(0, &header, &packet)?);
            self.next = Instant::now() + EVERY;
        }
        while let Some(received) = b.net.try_recv()? {
            self.arrived(&received.packet);
        }
        // So that the switch knows where it is, as a receiver's acknowledgements tell.
        if Instant::now() >= self.next_back {
            b.net.try_send(0, &[0; 12], &back())?;
            self.next_back = Instant::now() + 20 * EVERY;
        }
        while a.net.try_recv()?.is_some() {}
        Ok(())
    }

    /// Receives what is on its way.
    fn drain(&mut self, b: &mut Card, time: Duration) -> Result<()> {
        let start = Instant::now();
        while self.sent > self.seen.len() as u64 && start.elapsed() < time {
            while let Some(received) = b.net.try_recv()? {
                self.arrived(&received.packet);
            }
        }
        Ok(())
    }

    fn arrived(&mut self, packet: &[u8]) {
        let now = Instant::now();
        let at = match packet.get(23) {
            Some(17) => UDP_HEADERS_LEN,
            Some(6) => TCP_HEADERS_LEN,
            _ => return,
        };
        let Some(number) = packet.get(at..).and_then(|rest| rest.first_chunk()) else {
            return;
        };
        *self.seen.entry(u64::from_be_bytes(*number)).or_default() += 1;
        if let Some(last) = self.last.replace(now) {
            self.gap = self.gap.max(now - last);
        }
    }
}

fn back() -> Vec<u8> {
    let packet = PacketBuilder::ethernet().macs([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    packet
        .ipv4([192, 0, 2, 2], [192, 0, 2, 1])
        .udp(9, 40_000)
        .build()
}

/// Header and packet of a number.
fn packet(number: u64) -> (Vec<u8>, Vec<u8>) {
    let mut payload = number.to_be_bytes().to_vec();
    let builder = PacketBuilder::ethernet()
        .macs([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1])
        .ipv4([192, 0, 2, 1], [192, 0, 2, 2]);
    if !number.is_multiple_of(10) {
        return (
            vec![0; 12],
            builder.udp(40_000, 9).payload(&payload).build(),
        );
    }
    payload.resize(SEGMENTS * SEGMENT_LEN, number as u8);
    let seq = (number as usize / 10 * payload.len()) as u32;
    let packet = builder.tcp(40_000, 5001).seq(seq).timestamps(7, 8);
    let packet = packet.partial_checksum().payload(&payload).build();
    // struct virtio_net_hdr_v1: NEEDS_CSUM, GSO_TCPV4, then hdr_len, gso_size, csum_start, csum_offset.
    let mut header = vec![1, 1];
    for word in [TCP_HEADERS_LEN, SEGMENT_LEN, 34, 16, 0] {
        header.extend((word as u16).to_le_bytes());
    }
    (header, packet)
}
