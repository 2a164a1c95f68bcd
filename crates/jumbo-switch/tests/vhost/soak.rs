//! Guests under load for as long as `JUMBO_SOAK_S` says (6 seconds without it), half of it with one worker and half with
//! two: four that keep the rules, with super-packets, datagrams, small packets and broadcasts; one that takes nothing; one
//! that attacks and comes back without end; and two hosts on TAPs with TCP between them, where TAPs can be made.
//!
//! In between everything rests: then the books balance, every packet that was sent has come or its drop was counted, and
//! this process has no file, no mapping and no thread more than before.
//!
//! `JUMBO_SOAK_S=600 cargo test -p jumbo-switch --test vhost -- --nocapture guests_under_load`

use std::collections::{BTreeMap, HashSet};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use jumbo_engine::pending::Caps;
use jumbo_engine::reason::Reason;
use jumbo_engine::vnet::HeaderFault;
use jumbo_lab::traffic::connect::connections;
use jumbo_lab::traffic::pattern;
use jumbo_lab::{Family, Host, TestError};
use jumbo_ports::tap::{self, TapConfig};
use jumbo_switch::switch::State;
use jumbo_switch::topology::Coalesce;
use jumbo_testkit::oracle::{self, VnetForm, VnetHeader, vnet_gso};
use jumbo_testkit::virtio::{FrontEnd, Indirect, Options, Piece, VirtioNet, feature};
use jumbo_testkit::{Link, PacketBuilder};

use crate::hostile::{self, EVIL, RX, TX, evil_options, inject};
use crate::offload::{self, wire};
use crate::rig::{BROADCAST, Guest, Rig, SOON, acquaint, body, eventually, mac, raw};
use crate::support::drops;

/// Stations and ports of those that keep the rules.
const GOOD: std::ops::RangeInclusive<usize> = 1..=4;
/// Takes nothing.
const STUCK: usize = 5;
const PORTS: usize = 6;
/// Packets that may be on their way to one guest: half of its buffers.
const WINDOW: usize = 120;
const MSS: usize = 1428;
const SEGMENTS_MAX: usize = 40;
/// Traffic between two rests.
const PHASE: Duration = Duration::from_secs(10);
/// A TCP connection that stands still for so long is lost. Machines pause.
const BROKEN: Duration = Duration::from_secs(100);
/// What a process may grow by between its first rests and its last, bytes. Tables and buffers find their size early.
const GROWTH_MAX: u64 = 24 << 20;

fn duration() -> Duration {
    let given = std::env::var("JUMBO_SOAK_S").ok();
    Duration::from_secs(given.and_then(|s| s.parse().ok()).unwrap_or(6))
}

/// In a process of its own, so that what it holds can be counted.
#[test]
fn guests_under_load_are_accounted_for() {
    let mut child = Command::new(std::env::current_exe().expect("we run"));
    child.args([
        "--ignored",
        "--exact",
        "soak::in_a_process_of_its_own",
        "--nocapture",
    ]);
    let output = child.output().expect("started");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{errors}");
    println!("{said}");
}

#[test]
#[ignore = "run by another test"]
fn in_a_process_of_its_own() {
    for workers in [1, 2] {
        soak(workers, duration() / 2);
    }
}

fn soak(workers: usize, duration: Duration) {
    let end = Instant::now() + duration;
    let mut scene = Scene::new(workers);
    let taps = taps(&mut scene.rig, workers);
    let mut evil = Attacker::new(&scene.rig.ports[EVIL].path);
    let phase = PHASE.min(duration / 3);
    let mut held: Vec<Held> = Vec::new();
    while Instant::now() < end || held.len() < 3 {
        let until = Instant::now() + phase;
        std::thread::scope(|scope| {
            let bulk = taps
                .as_ref()
                .map(|taps| scope.spawn(|| bulk_between(taps, until)));
            let attacks = scope.spawn(|| evil.attack(until));
            while Instant::now() < until {
                scene.society.round();
            }
            attacks.join().expect("no panic");
            if let Some(bulk) = bulk {
                scene.bytes += bulk.join().expect("no panic");
            }
        });
        scene.rest();
        held.push(Held::at_rest(held.get(1)));
        Held::compare(&held);
    }
    scene.report(workers, duration, &evil, &held);
}

fn taps(rig: &mut Rig, workers: usize) -> Option<[Host; 2]> {
    match try_taps(rig, workers) {
        Ok(hosts) => Some(hosts),
        Err(error) => {
            println!("without TAPs: {error:?} (run as root, with /dev/net/tun)");
            None
        }
    }
}

fn try_taps(rig: &mut Rig, workers: usize) -> Result<[Host; 2], TestError> {
    let config = TapConfig {
        device: "t0".into(),
        queues: workers,
        hands: Caps::ALL,
        takes: Caps::ALL,
        mtu: Some(1500),
    };
    let pair = [Host::new(1)?, Host::new(2)?];
    let mut macs = Vec::new();
    for host in &pair {
        let port = host.ns.run(|| tap::open(&config))??;
        rig.switch.add(port, Coalesce::Gro)?;
        host.plug("t0")?;
        macs.push(host.links()?.get("t0")?.mac.unwrap_or_default());
    }
    pair[0].knows("t0", &pair[1], macs[1])?;
    pair[1].knows("t0", &pair[0], macs[0])?;
    Ok(pair)
}

/// TCP both ways. Returns the bytes that passed.
fn bulk_between([a, b]: &[Host; 2], until: Instant) -> u64 {
    let ways = [(a, b), (b, a)].map(|(from, to)| {
        let pairs = connections(from, to, Family::V4, 1).expect("connected");
        let (client, server) = pairs.into_iter().next().expect("one");
        std::thread::spawn(move || stream(client, server, until).expect("TCP goes on"))
    });
    ways.map(|way| way.join().expect("no panic")).iter().sum()
}

fn stream(mut from: TcpStream, mut to: TcpStream, until: Instant) -> std::io::Result<u64> {
    const LEN: usize = 128 << 10;
    let sender = std::thread::spawn(move || -> std::io::Result<u64> {
        let mut sent = 0;
        while Instant::now() < until {
            from.write_all(pattern::at(sent, LEN))?;
            sent += LEN as u64;
        }
        Ok(sent)
    });
    // Nothing else ends a path that is broken.
    to.set_read_timeout(Some(BROKEN))?;
    let (mut came, mut bytes) = (0, vec![0; LEN]);
    loop {
        let len = match to.read(&mut bytes) {
            // A process that was stopped and goes on.
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            len => len?,
        };
        assert!(pattern::matches(came, &bytes[..len]), "damage at {came}");
        came += len as u64;
        if len == 0 {
            break;
        }
    }
    assert_eq!(came, sender.join().expect("no panic")?);
    Ok(came)
}

/// The switch, and who is on it.
struct Scene {
    rig: Rig,
    society: Society,
    _stuck: Guest,
    /// Of the bulk between TAPs.
    bytes: u64,
    /// Drops at the ports of good guests at the last rest.
    dropped: u64,
}

impl Scene {
    fn new(workers: usize) -> Self {
        let mut rig = Rig::new(workers);
        for port in 0..PORTS {
            rig.port(|config| config.queue_pairs = if port == 4 { 2 } else { 1 });
        }
        let mut guests: Vec<_> = GOOD.map(|n| rig.guest(n, good(n))).collect();
        // What goes to a station that nobody knows is flooded.
        acquaint(&rig, &mut guests);
        let mut stuck = rig.guest(
            STUCK,
            Options {
                auto_refill: false,
                tx_len: 2048,
                ..Options::default()
            },
        );
        stuck.send(0, &raw(BROADCAST, STUCK, 0, 60));
        Self {
            rig,
            society: Society::new(guests),
            _stuck: stuck,
            bytes: 0,
            dropped: 0,
        }
    }

    /// Waits until nothing moves, and accounts for everything.
    fn rest(&mut self) {
        eventually(|| self.rig.waits(EVIL), || "the attacker has gone".into());
        self.rig.quiet();
        self.society.drain();
        let state = self.rig.quiet();
        let dropped = good_drops(&self.rig, &state);
        let missing = self.society.take_missing();
        assert!(
            missing == 0 || dropped > self.dropped,
            "{missing} packets are missing, {:?}",
            drops(&state)
        );
        self.dropped = dropped;
        for port in GOOD {
            assert_eq!(self.rig.stopped(port), None, "a good guest's port");
            let notices = &self.rig.ports[port].notices;
            notices.lock().expect("nobody panics").clear();
        }
        let notices = &self.rig.ports[EVIL].notices;
        notices.lock().expect("nobody panics").clear();
    }

    fn report(&self, workers: usize, duration: Duration, evil: &Attacker, held: &[Held]) {
        let state = self.rig.quiet();
        let Society {
            sent,
            came,
            missing,
            ..
        } = &self.society;
        println!("{workers} worker(s), {duration:?}, {} rests", held.len());
        println!("  guests: {sent} packets sent as on a wire, {came} came, {missing} dropped");
        println!("  TAPs: {:.2} GB", self.bytes as f64 / 1e9);
        println!(
            "  attacker: {} attacks, came {} times",
            evil.attacks, evil.connections
        );
        println!("  {:?}", state.books);
        let mut kinds = BTreeMap::<String, u64>::new();
        for (what, count) in drops(&state) {
            // Without the path of the socket.
            let kind = what.rsplit('/').next().unwrap_or_default().to_owned();
            *kinds.entry(kind).or_default() += count;
        }
        for (kind, count) in kinds {
            println!("  {count:>10} {kind}");
        }
        println!(
            "  held, first and last: {:?} {:?}",
            held.first(),
            held.last()
        );
    }
}

/// Packets that were to leave by the ports of good guests, and did not.
fn good_drops(rig: &Rig, state: &State) -> u64 {
    let is_good = |id| GOOD.map(|n| rig.ports[n].id).any(|good| good == id);
    let ports = state.ports.iter().filter(|port| is_good(port.id));
    ports
        .map(|port| port.counters.tx_faults.iter().map(|(_, n)| n).sum::<u64>())
        .sum()
}

/// Four kinds of drivers.
fn good(n: usize) -> Options {
    let [host, guest] = offload::ALL;
    let base = Options {
        queue_size: 256,
        ..Options::default()
    };
    match n {
        1 => Options {
            features: feature::ANY_LAYOUT | host | guest,
            event_idx: true,
            ..base
        },
        2 => Options {
            features: feature::ANY_LAYOUT | host | guest,
            packed: true,
            indirect: Indirect::Chains,
            ..base
        },
        3 => Options {
            in_order: true,
            tx_len: 2048,
            ..base
        },
        _ => Options {
            features: feature::ANY_LAYOUT
                | feature::CSUM
                | feature::HOST_TSO4
                | feature::GUEST_CSUM
                | feature::GUEST_TSO4,
            packed: true,
            in_order: true,
            event_idx: true,
            pairs: 2,
            ..base
        },
    }
}

/// What names a packet on the wire: its kind, its sender, and its place among those.
type Key = (u8, usize, u64);
const TCP: u8 = 0;
const UDP: u8 = 1;
const RAW: u8 = 2;
/// The number of packets to the stuck guest: that one says nothing, so its address is forgotten in time, and they are flooded.
const NOBODYS: u64 = 0;

/// Guests that talk to each other.
struct Society {
    guests: Vec<Guest>,
    /// What each is still to receive.
    expected: Vec<HashSet<Key>>,
    /// What is so late that it was probably dropped.
    late: HashSet<(usize, Key)>,
    /// Sequence number of the stream from one to another.
    seq: Vec<u32>,
    number: u64,
    noise: u64,
    sent: u64,
    came: u64,
    missing: u64,
}

impl Society {
    fn new(guests: Vec<Guest>) -> Self {
        let count = guests.len();
        Self {
            guests,
            expected: vec![HashSet::new(); count],
            late: HashSet::new(),
            seq: vec![1; count * count],
            number: 0,
            noise: 1,
            sent: 0,
            came: 0,
            missing: 0,
        }
    }

    /// SplitMix64: the same each time.
    fn below(&mut self, n: usize) -> usize {
        self.noise = self.noise.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.noise ^ (self.noise >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % n as u64) as usize
    }

    /// One guest sends something; all take what is there.
    fn round(&mut self) {
        let from = self.below(self.guests.len());
        let to = (from + 1 + self.below(self.guests.len() - 1)) % self.guests.len();
        match self.below(100) {
            0..=39 => self.super_packet(from, to),
            40..=59 => self.segments(from, to),
            60..=79 => self.datagram(from, to),
            80..=97 => self.small(from, to),
            98 => self.broadcast(from),
            _ => self.send_to_the_stuck(from),
        }
        self.receive();
        self.wait_for_room();
    }

    fn has(&self, guest: usize, bits: u64) -> bool {
        self.guests[guest].net.features() & bits == bits
    }

    fn send(&mut self, from: usize, header: &VnetHeader, packet: &[u8]) {
        let pair = packet.len() % if from == 3 { 2 } else { 1 };
        let header = header.encode(VnetForm::Merged);
        let net = &mut self.guests[from].net;
        net.send(pair, &header, packet).expect("it is taken");
    }

    fn expect(&mut self, to: usize, key: Key) {
        assert!(self.expected[to].insert(key), "{key:?} is not new");
        self.sent += 1;
    }

    /// The next `len` bytes of a stream, with the keys of their segments.
    fn stream(&mut self, from: usize, to: usize, len: usize) -> PacketBuilder {
        let at = from * self.guests.len() + to;
        let seq = self.seq[at];
        self.seq[at] = seq.wrapping_add(len as u32);
        for start in (0..len).step_by(MSS) {
            let key = seq.wrapping_add(start as u32);
            self.expect(to, (TCP, from + 1, key.into()));
        }
        let [src, dst] = [from, to].map(|guest| [192, 0, 2, guest as u8 + 1]);
        PacketBuilder::ethernet()
            .macs(mac(to + 1), mac(from + 1))
            .ipv4(src, dst)
            .id((seq / MSS as u32) as u16)
            .tcp(4000, 5001)
            .seq(seq)
            .timestamps(7, 8)
            .payload(&stream_bytes(seq, len))
    }

    /// Whole, where the guest may.
    fn super_packet(&mut self, from: usize, to: usize) {
        if !self.has(from, feature::HOST_TSO4) {
            return self.segments(from, to);
        }
        let len = (2 + self.below(SEGMENTS_MAX - 1)) * MSS - self.below(MSS);
        let packet = self.stream(from, to, len).partial_checksum().build();
        let header = VnetHeader::needs_csum(Link::Ethernet, &packet, vnet_gso::TCPV4, MSS as u16);
        self.send(from, &header.expect("TCP"), &packet);
    }

    /// Some of one packet each.
    fn segments(&mut self, from: usize, to: usize) {
        for _ in 0..=self.below(20) {
            let packet = self.stream(from, to, MSS);
            self.finish(from, packet);
        }
    }

    /// With its checksum left to the switch, or not.
    fn finish(&mut self, from: usize, packet: PacketBuilder) {
        if self.has(from, feature::CSUM) && self.below(2) == 0 {
            let packet = packet.partial_checksum().build();
            let header = VnetHeader::needs_csum(Link::Ethernet, &packet, 0, 0);
            return self.send(from, &header.expect("TCP or UDP"), &packet);
        }
        self.send(from, &VnetHeader::default(), &packet.build());
    }

    fn datagram(&mut self, from: usize, to: usize) {
        self.number += 1;
        self.expect(to, (UDP, from + 1, self.number));
        let mut payload = self.number.to_be_bytes().to_vec();
        let len = self.below(1400);
        payload.extend(body(self.number as usize % 251, len));
        let addr = |guest: usize| {
            let mut addr = [0xfd; 16];
            addr[15] = guest as u8 + 1;
            addr
        };
        let packet = PacketBuilder::ethernet()
            .macs(mac(to + 1), mac(from + 1))
            .ipv6(addr(from), addr(to))
            .udp(4000, 9)
            .payload(&payload);
        self.finish(from, packet);
    }

    fn small(&mut self, from: usize, to: usize) {
        for _ in 0..=self.below(10) {
            self.number += 1;
            self.expect(to, (RAW, from + 1, self.number));
            let len = 60 + self.below(60);
            let packet = raw(mac(to + 1), from + 1, self.number, len);
            self.send(from, &VnetHeader::default(), &packet);
        }
    }

    fn broadcast(&mut self, from: usize) {
        self.number += 1;
        for to in (0..self.guests.len()).filter(|to| *to != from) {
            self.expect(to, (RAW, from + 1, self.number));
        }
        let packet = raw(BROADCAST, from + 1, self.number, 200);
        self.send(from, &VnetHeader::default(), &packet);
    }

    fn send_to_the_stuck(&mut self, from: usize) {
        let packet = raw(mac(STUCK), from + 1, NOBODYS, 300);
        self.send(from, &VnetHeader::default(), &packet);
    }

    /// Takes and checks what is there.
    fn receive(&mut self) {
        for to in 0..self.guests.len() {
            let features = self.guests[to].net.features();
            for got in self.guests[to].drain() {
                let from = got.packet.get(6..12).and_then(station);
                // The attacker, and the hosts.
                let Some(from) = from.filter(|from| GOOD.contains(from)) else {
                    continue;
                };
                let header = VnetHeader::decode(VnetForm::Merged, &got.header).expect("a header");
                for key in keys(features, &header, &got.packet, from) {
                    let is_due = self.expected[to].remove(&key) || self.late.remove(&(to, key));
                    assert!(is_due, "{key:?} to {to}: not expected");
                    self.came += 1;
                }
            }
        }
    }

    /// A receiver is not sent more than it has buffers for.
    fn wait_for_room(&mut self) {
        while self.expected.iter().any(|keys| keys.len() > WINDOW) {
            if self.is_quiet() {
                self.write_off();
            }
        }
    }

    /// What is expected now is late.
    fn write_off(&mut self) {
        for (to, keys) in self.expected.iter_mut().enumerate() {
            self.late.extend(keys.drain().map(|key| (to, key)));
        }
    }

    /// Whether nothing comes for a moment.
    fn is_quiet(&mut self) -> bool {
        let before = self.came;
        let end = Instant::now() + Duration::from_millis(20);
        while self.came == before && Instant::now() < end {
            self.receive();
        }
        self.came == before
    }

    fn drain(&mut self) {
        while !self.is_quiet() {}
    }

    /// What did not come until now will not.
    fn take_missing(&mut self) -> usize {
        self.write_off();
        let missing = self.late.len();
        self.late.clear();
        self.missing += missing as u64;
        missing
    }
}

fn station(mac: &[u8]) -> Option<usize> {
    match mac {
        [2, 0, 0, 0, 0, n] => Some(usize::from(*n)),
        _ => None,
    }
}

/// What a segment with this sequence number holds.
fn segment_bytes(seq: u32, len: usize) -> &'static [u8] {
    body(seq as usize % 60_000, len)
}

/// Segment after segment.
fn stream_bytes(seq: u32, len: usize) -> Vec<u8> {
    let segment = |start: usize| {
        let seq = seq.wrapping_add(start as u32);
        segment_bytes(seq, MSS.min(len - start))
    };
    (0..len).step_by(MSS).flat_map(segment).copied().collect()
}

/// What a received packet stands for, its content compared.
fn keys(features: u64, header: &VnetHeader, packet: &[u8], from: usize) -> Vec<Key> {
    if packet[12..14] == [0x88, 0xB5] {
        let number = packet[14..].first_chunk().expect("a number");
        let number = u64::from_le_bytes(*number);
        assert_eq!(*packet, raw_like(packet, from, number), "damage");
        return match number {
            NOBODYS => Vec::new(),
            _ => vec![(RAW, from, number)],
        };
    }
    let packets = wire(features, header, packet).packets;
    packets.iter().map(|packet| key(packet, from)).collect()
}

fn raw_like(packet: &[u8], from: usize, number: u64) -> Vec<u8> {
    let to = packet.first_chunk().expect("an address");
    raw(*to, from, number, packet.len())
}

fn key(packet: &[u8], from: usize) -> Key {
    let parsed = oracle::parse(Link::Ethernet, packet).expect("a whole packet");
    let payload = parsed.payload(packet);
    if let Some(tcp) = parsed.tcp() {
        assert_eq!(payload, segment_bytes(tcp.seq, payload.len()), "damage");
        return (TCP, from, tcp.seq.into());
    }
    let (number, rest) = payload.split_first_chunk().expect("a number");
    let number = u64::from_be_bytes(*number);
    assert_eq!(rest, body(number as usize % 251, rest.len()), "damage");
    (UDP, from, number)
}

/// A guest that attacks.
struct Attacker {
    path: std::path::PathBuf,
    attacks: u64,
    connections: u64,
}

impl Attacker {
    fn new(path: &Path) -> Self {
        Self {
            path: path.into(),
            attacks: 0,
            connections: 0,
        }
    }

    /// One attack after the other, each behind a fresh handshake.
    fn attack(&mut self, until: Instant) {
        let cases = hostile::cases();
        while Instant::now() < until {
            let turn = self.attacks as usize;
            self.attacks += 1;
            if turn % 10 == 9 {
                self.garbage(turn);
                continue;
            }
            let case = &cases[turn / 4 % cases.len()];
            let (packed, ring) = (turn.is_multiple_of(2), [TX, RX][turn / 2 % 2]);
            let options = Options {
                tx_len: 80_000,
                ..evil_options(packed)
            };
            let Ok(net) = VirtioNet::connect(&self.path, options) else {
                // The port has not seen the last one go yet.
                continue;
            };
            self.connections += 1;
            let mut evil = Guest { net, n: EVIL };
            evil.send(0, &raw(mac(1), EVIL, 0, 60));
            match turn % 10 {
                7 => truncate(evil),
                8 => lies(&mut evil),
                _ if if packed { case.packed } else { case.split } => {
                    let mut descs = (case.descs)(&mut evil.net);
                    if ring == RX {
                        hostile::to_be_written(&mut evil.net, &mut descs);
                    }
                    inject(&mut evil.net, ring, &descs);
                    storm(&mut evil);
                    assert!(evil.net.memory().fences_intact(), "{}", case.what);
                }
                _ => storm(&mut evil),
            }
        }
    }

    /// Messages that are none.
    fn garbage(&mut self, turn: usize) {
        let Ok(front) = FrontEnd::connect(&self.path, SOON) else {
            return;
        };
        self.connections += 1;
        let payload = body(turn % 60_000, turn % 300);
        for request in 0..3 {
            let head = [
                (turn + request) as u32 % 50,
                1 | (turn as u32 & 8),
                payload.len() as u32,
            ];
            if front.raw_send(head, payload, &[]).is_err() {
                return;
            }
        }
    }
}

/// Kicks, for a moment.
fn storm(evil: &mut Guest) {
    for _ in 0..50 {
        for ring in [TX, RX] {
            evil.net.lane(ring).kick.signal().expect("a kick");
        }
    }
}

/// Memory shrinks under the switch. Nobody here may touch it afterwards.
fn truncate(mut evil: Guest) {
    let file = evil.net.memory().regions()[0].file().try_clone_to_owned();
    let file = file.expect("a file");
    rustix::fs::ftruncate(file.as_fd(), 0).expect("no seal");
    for ring in [TX, RX] {
        evil.net.lane(ring).kick.signal().expect("a kick");
    }
    std::thread::sleep(Duration::from_millis(1));
}

/// Virtio headers that lie, one of each kind.
fn lies(evil: &mut Guest) {
    for fault in HeaderFault::ALL.iter().copied() {
        let Some(lie) = hostile::lie(fault) else {
            continue;
        };
        let addr = evil.net.memory().take(lie.len(), 64);
        evil.net.memory().write(addr, &lie);
        let lane = evil.net.lane(TX);
        if lane
            .ring
            .add(&[Piece::readable(addr, lie.len() as u32)], 0)
            .is_none()
        {
            break;
        }
        lane.ring.publish();
        lane.kick.signal().expect("a kick");
    }
    std::thread::sleep(Duration::from_millis(1));
}

/// What this process holds at a rest.
#[derive(Copy, Clone, Debug)]
struct Held {
    files: usize,
    mappings: usize,
    threads: usize,
    resident_bytes: u64,
}

impl Held {
    fn now() -> Self {
        let count = |folder: &str| std::fs::read_dir(folder).expect("/proc").count();
        let read = |file: &str| std::fs::read_to_string(file).expect("/proc");
        let pages = read("/proc/self/statm");
        let pages = pages.split_whitespace().nth(1).and_then(|n| n.parse().ok());
        let pages: u64 = pages.expect("a number");
        Self {
            files: count("/proc/self/fd"),
            mappings: read("/proc/self/maps").lines().count(),
            threads: count("/proc/self/task"),
            resident_bytes: pages * rustix::param::page_size() as u64,
        }
    }

    /// Now, or when the files of a connection that has just ended are closed.
    fn at_rest(before: Option<&Self>) -> Self {
        let end = Instant::now() + SOON;
        loop {
            let now = Self::now();
            let same = |before: &Self| (before.files, before.threads) == (now.files, now.threads);
            if before.is_none_or(same) || Instant::now() > end {
                return now;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn compare(all: &[Self]) {
        // The first rest may come before everything has been used once.
        let [_, first, .., last] = all else { return };
        assert_eq!(last.files, first.files, "{all:?}");
        assert_eq!(last.threads, first.threads, "{all:?}");
        assert!(last.mappings <= first.mappings + 16, "{all:?}");
        let most = first.resident_bytes + GROWTH_MAX;
        assert!(last.resident_bytes <= most, "{all:?}");
    }
}
