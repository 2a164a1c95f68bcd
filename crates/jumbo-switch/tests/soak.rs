//! Mixed load for as long as `JUMBO_SOAK_S` says (5 seconds without it): bulk
//! both ways, pings, new connections without end, and two senders of nonsense.
//! At the end every byte was right, the books balance and every drop has a reason.
//!
//! `JUMBO_SOAK_S=600 cargo test --release -p jumbo-switch --test soak -- --nocapture`

mod support;
#[path = "support/hosts.rs"]
mod hosts;

use std::net::TcpStream;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use hosts::{Net, Setup, Side, Tested};
use jumbo_engine::pending::Caps;
use jumbo_lab::link::Mac;
use jumbo_lab::ns::Needs;
use jumbo_lab::packet_socket::PacketSocket;
use jumbo_lab::traffic::connect::{PATIENCE, connections};
use jumbo_lab::traffic::{
    BulkAmount, BulkSpec, Directions, PingSpec, Transport, bulk, pattern, ping,
};
use jumbo_lab::{Family, Host, LabTest, test_main};
use jumbo_ports::mem::{self, MemHandle};
use jumbo_switch::topology::Coalesce;
use jumbo_testkit::oracle::{VnetForm, VnetHeader};
use jumbo_testkit::{PacketBuilder, tcp_flags};
use support::{drops, quiet};

/// The nonsense comes in handfuls, with pauses, or nothing else would be heard.
const HANDFUL: usize = 20;
const PAUSE: Duration = Duration::from_millis(2);

fn main() -> ExitCode {
    let limit = duration() + Duration::from_secs(60);
    let soak = LabTest::new("mixed_load_is_accounted_for", mixed_load).within(limit);
    test_main(Needs::Taps, vec![soak])
}

fn duration() -> Duration {
    let given = std::env::var("JUMBO_SOAK_S").ok();
    Duration::from_secs(given.and_then(|s| s.parse().ok()).unwrap_or(5))
}

fn mixed_load() -> Tested<()> {
    let setup = Setup {
        workers: 2,
        ..Setup::USUAL
    };
    let no_uso = Side {
        hands: Caps::ALL,
        takes: Caps::new(true, true, true, true, false),
    };
    let plain = Side {
        hands: Caps::new(true, false, false, false, false),
        takes: Caps::NONE,
    };
    let mut net = Net::new(setup, &[Side::ALL, no_uso, plain])?;
    let (port, guest) = mem::port("guest", setup.workers, Caps::ALL, Caps::ALL, 1500)?;
    net.switch.add(port, Coalesce::Gro)?;
    let until = Instant::now() + duration();
    let [a, b, c] = &net.hosts[..] else {
        unreachable!("three sides make three hosts")
    };
    let mut macs = Vec::new();
    for host in &net.hosts {
        macs.push(host.links()?.get("t0")?.mac.unwrap_or_default());
    }
    let injected = PacketSocket::open(&c.ns, "t0", true)?;
    let (flows, lies, raw) = thread::scope(|scope| {
        let bulk = scope.spawn(|| bulk_between(a, b));
        let pings = scope.spawn(|| pings(a, c));
        let flows = scope.spawn(|| new_flows(b, c, until));
        let lies = scope.spawn(|| lie(&guest, &macs, until));
        let raw = scope.spawn(|| inject(&injected, &macs, until));
        bulk.join().expect("no panic")?;
        pings.join().expect("no panic")?;
        let flows = flows.join().expect("no panic")?;
        let lies = lies.join().expect("no panic");
        Ok::<_, jumbo_lab::TestError>((flows, lies, raw.join().expect("no panic")))
    })?;
    let state = quiet(&net.switch);
    println!("{flows} new connections, {lies} lies, {raw} raw packets");
    println!(
        "{:?}, {} stations, {} news lost",
        state.books, state.fdb_entries, state.news_lost
    );
    for (reason, count) in drops(&state) {
        println!("{count:>10} {reason}");
    }
    for port in &state.ports {
        let refused = port.counters.tx_faults.iter().filter(|(_, n)| *n != 0);
        println!(
            "{} {:?} tx {:?}",
            port.info.device,
            port.takes,
            refused.collect::<Vec<_>>()
        );
        assert!(port.up, "{} is gone", port.info.device);
        assert_eq!(
            port.takes, port.info.takes,
            "a liar cost an honest port its offloads"
        );
    }
    assert!(net.switch.is_running());
    Ok(())
}

fn bulk_between(a: &Host, b: &Host) -> Tested<()> {
    let spec = BulkSpec {
        directions: Directions::Both,
        flows: 2,
        amount: BulkAmount::Time(duration()),
        ..BulkSpec::default()
    };
    let report = bulk(a, b, &spec)?;
    println!(
        "bulk {:.2} Gbit/s, {} retransmits",
        report.gbit_per_s(),
        report.retransmits
    );
    assert_eq!(report.intact, Some(true));
    Ok(())
}

fn pings(a: &Host, c: &Host) -> Tested<()> {
    let spec = PingSpec {
        family: Family::V6,
        transport: Transport::Tcp,
        // It warms up for another tenth.
        duration: duration() * 10 / 11,
        ..PingSpec::default()
    };
    let report = ping(a, c, &spec)?;
    println!(
        "{} pings, p50 {} us, p99 {} us",
        report.transactions,
        report.p50_ns / 1000,
        report.p99_ns / 1000
    );
    assert!(report.transactions > 0);
    Ok(())
}

fn new_flows(b: &Host, c: &Host, until: Instant) -> Tested<u64> {
    let mut count = 0;
    while Instant::now() < until {
        let family = [Family::V4, Family::V6][count as usize % 2];
        for (client, server) in connections(b, c, family, 4)? {
            one_way(client, server, 30_000)?;
            count += 1;
        }
    }
    Ok(count)
}

/// Fewer bytes than the socket buffers hold, so that one thread can do both ends.
fn one_way(mut from: TcpStream, mut to: TcpStream, len: usize) -> std::io::Result<()> {
    use std::io::{Error, Read, Write};
    to.set_read_timeout(Some(PATIENCE))?;
    from.write_all(pattern::at(0, len))?;
    drop(from);
    let mut bytes = Vec::new();
    to.read_to_end(&mut bytes)?;
    if bytes.len() != len || !pattern::matches(0, &bytes) {
        return Err(Error::other("damage on a new connection"));
    }
    Ok(())
}

/// SplitMix64: the same nonsense each time.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }

    /// A small number, an arbitrary one, or one that is right.
    fn field(&mut self, right: u16) -> u16 {
        match self.below(4) {
            0 => self.below(100) as u16,
            1 => self.next() as u16,
            _ => right,
        }
    }

    /// A station that never was.
    fn nobody(&mut self) -> Mac {
        let mut mac = [0x5e; 6];
        mac[0] = if self.below(20) == 0 { 0x03 } else { 0x06 };
        mac[5] = self.below(50) as u8;
        mac
    }

    fn somebody(&mut self, macs: &[Mac]) -> Mac {
        match self.below(10) {
            0 => [0xff; 6],
            1 => [1, 0x80, 0xc2, 0, 0, self.below(20) as u8],
            2 => self.nobody(),
            _ => macs[self.below(macs.len())],
        }
    }

    /// A packet that is nearly right.
    fn packet(&mut self, macs: &[Mac]) -> Vec<u8> {
        let packet = PacketBuilder::ethernet().macs(self.somebody(macs), self.nobody());
        let packet = match self.below(4) {
            0 => packet.ipv6([0xfd; 16], [0xfe; 16]),
            1 => packet.vlan(0x8100, self.below(4) as u16),
            2 => packet.df(false).id(self.next() as u16),
            _ => packet.ipv4([10, 0, 0, 77], [10, 0, 0, 1]),
        };
        let packet = match self.below(4) {
            0 => packet.udp(7, 9),
            1 => packet.flags(self.next() as u16 & 0xfff),
            _ => packet.flags(tcp_flags::ACK),
        };
        let len = [0, 1, 100, 1400, 1460, 9000, 60_000][self.below(7)];
        let mut bytes = packet.partial_checksum().payload_len(len).build();
        for _ in 0..self.below(3) {
            let at = self.below(bytes.len().min(80) - 12) + 12;
            bytes[at] = self.next() as u8;
        }
        if self.below(8) == 0 {
            bytes.truncate(self.below(bytes.len()));
        }
        bytes
    }

    fn header(&mut self, packet: &[u8], form: VnetForm) -> Vec<u8> {
        let tagged = packet.get(12..14) == Some(&[0x81, 0]);
        let l3 = if tagged { 18 } else { 14 };
        let six = packet.get(l3).is_some_and(|byte| byte >> 4 == 6);
        let tcp = packet.get(if six { l3 + 6 } else { l3 + 9 }) == Some(&6);
        let start = l3 as u16 + if six { 40 } else { 20 };
        let kind = match (tcp, six) {
            (true, false) => 1,
            (true, true) => 4,
            (false, _) => 5,
        };
        let header = VnetHeader {
            flags: self.field(1) as u8,
            gso_type: self.field(if packet.len() > 1514 { kind } else { 0 }) as u8,
            hdr_len: self.field(start + 20),
            gso_size: self.field(1400),
            csum_start: self.field(start),
            csum_offset: self.field(if tcp { 16 } else { 6 }),
            ..VnetHeader::default()
        };
        header.encode(form)
    }

    fn lie(&mut self, macs: &[Mac], form: VnetForm) -> Vec<u8> {
        if self.below(20) == 0 {
            let len = self.below(300);
            return self.bytes(len);
        }
        let packet = self.packet(macs);
        [self.header(&packet, form), packet].concat()
    }
}

/// A guest that puts whatever it likes before its packets.
fn lie(guest: &MemHandle, macs: &[Mac], until: Instant) -> u64 {
    let (mut noise, mut count) = (Noise(1), 0);
    while Instant::now() < until {
        for _ in 0..HANDFUL {
            guest.put_raw(noise.lie(macs, VnetForm::Merged));
            count += 1;
        }
        drop(guest.taken());
        thread::sleep(PAUSE);
    }
    count
}

/// The same through a kernel, which lets some of it pass.
fn inject(socket: &PacketSocket, macs: &[Mac], until: Instant) -> u64 {
    let (mut noise, mut count) = (Noise(2), 0);
    while Instant::now() < until {
        for _ in 0..HANDFUL {
            count += u64::from(socket.send(&noise.lie(macs, VnetForm::Plain)).is_ok());
        }
        thread::sleep(PAUSE);
    }
    count
}
