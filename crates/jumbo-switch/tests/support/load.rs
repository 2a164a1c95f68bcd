//! Load of many kinds, for as long as a soak lasts.

use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use jumbo_lab::link::Mac;
use jumbo_lab::packet_socket::PacketSocket;
use jumbo_lab::traffic::connect::{PATIENCE, connections};
use jumbo_lab::traffic::{
    BulkAmount, BulkSpec, Directions, PingSpec, Transport, bulk, pattern, ping,
};
use jumbo_lab::{Family, Host, TestError};
use jumbo_ports::mem::MemHandle;
use jumbo_testkit::oracle::VnetForm;

use crate::noise::Noise;

type Tested<T> = Result<T, TestError>;

/// The nonsense comes in handfuls, with pauses, or nothing else would be heard.
const HANDFUL: usize = 20;
const PAUSE: Duration = Duration::from_millis(2);

pub(crate) fn duration() -> Duration {
    let given = std::env::var("JUMBO_SOAK_S").ok();
    Duration::from_secs(given.and_then(|s| s.parse().ok()).unwrap_or(5))
}

pub(crate) fn bulk_between(a: &Host, b: &Host, time: Duration) -> Tested<()> {
    let spec = BulkSpec {
        directions: Directions::Both,
        flows: 2,
        amount: BulkAmount::Time(time),
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

pub(crate) fn pings(a: &Host, c: &Host, time: Duration) -> Tested<()> {
    let spec = PingSpec {
        family: Family::V6,
        transport: Transport::Tcp,
        // It warms up for another tenth.
        duration: time * 10 / 11,
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

pub(crate) fn new_flows(b: &Host, c: &Host, until: Instant) -> Tested<u64> {
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

/// A guest that puts whatever it likes before its packets.
pub(crate) fn lie(guest: &MemHandle, macs: &[Mac], until: Instant) -> u64 {
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
pub(crate) fn inject(socket: &PacketSocket, macs: &[Mac], until: Instant) -> u64 {
    let (mut noise, mut count) = (Noise(2), 0);
    while Instant::now() < until {
        for _ in 0..HANDFUL {
            count += u64::from(socket.send(&noise.lie(macs, VnetForm::Plain)).is_ok());
        }
        thread::sleep(PAUSE);
    }
    count
}
