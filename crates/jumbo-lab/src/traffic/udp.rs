//! UDP one way: with segmentation offload on send (USO, UDP_SEGMENT), with
//! coalescing on receive (UDP_GRO), or datagram by datagram, at a fixed rate
//! if asked for.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use super::bulk::Check;
use super::connect::{PATIENCE, is_tick};
use super::pattern;
use crate::error::{Doing, Result};
use crate::host::{Family, Host};
use crate::meter::{CpuTime, ThreadCpu};
use crate::sys;

/// Sequence number at the head of each datagram.
const SEQUENCE_LEN: usize = 8;
/// Most datagrams the kernel cuts from one send (include/linux/udp.h
/// `UDP_MAX_SEGMENTS`: 64, since 6.8 128).
const SEGMENTS_MAX: usize = 64;
/// Silence after which a receiver takes what is missing as lost.
const QUIET: Duration = Duration::from_millis(300);

/// What to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UdpSpec {
    /// IP version.
    pub family: Family,
    /// UDP payload bytes of each datagram, 8 to 65507.
    pub payload_len: usize,
    /// Datagrams in all.
    pub count: u64,
    /// Datagrams per send(2) by UDP_SEGMENT; 1 does without.
    pub segments_per_send: usize,
    /// Datagrams per second; `None` as fast as it goes. Kept on average: a
    /// sleeping thread wakes some 50 us late, so above some 10 000 a second
    /// they go out in small bursts.
    pub rate_pps: Option<u32>,
    /// Ask for UDP_GRO at the receiver.
    pub gro: bool,
    /// Whether payloads are compared.
    pub check: Check,
}

impl Default for UdpSpec {
    fn default() -> Self {
        Self {
            family: Family::V4,
            payload_len: 1400,
            count: 10_000,
            segments_per_send: 1,
            rate_pps: None,
            gro: false,
            check: Check::Pattern,
        }
    }
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct UdpReport {
    /// Datagrams handed to the kernel.
    pub sent: u64,
    /// Datagrams received; fewer than sent were lost (UDP promises nothing).
    pub received: u64,
    /// recv(2) calls that returned something: received / reads is how well
    /// the path and UDP_GRO coalesced.
    pub reads: u64,
    /// Datagrams that came after a later one.
    pub reordered: u64,
    /// From the first to the last datagram received.
    pub elapsed_s: f64,
    /// CPU of the sending thread, filling the datagrams included.
    pub sender: CpuTime,
    /// CPU of the receiving thread.
    pub receiver: CpuTime,
    /// Whether all received payloads were right; `None` if nobody looked.
    pub intact: Option<bool>,
}

/// Sends datagrams from `one` to `two` and reports when all have arrived, or
/// when nothing more comes.
pub fn udp(one: &Host, two: &Host, spec: &UdpSpec) -> Result<UdpReport> {
    let spec = &clamp(spec);
    let to = two.ns.run(|| bind(two, spec.family))??;
    let from = one.ns.run(|| bind(one, spec.family))??;
    let addr = to.local_addr().doing(|| "read the port")?;
    from.connect(addr).doing(|| format!("connect to {addr}"))?;
    if spec.segments_per_send > 1 {
        sys::socket::set_udp_segment(from.as_fd(), spec.payload_len as u16)
            .doing(|| "set UDP_SEGMENT")?;
    }
    sys::socket::set_udp_gro(to.as_fd(), spec.gro).doing(|| "set UDP_GRO")?;
    to.set_read_timeout(Some(QUIET)).doing(|| "set a timeout")?;
    run(&from, &to, spec)
}

fn run(from: &UdpSocket, to: &UdpSocket, spec: &UdpSpec) -> Result<UdpReport> {
    let done = AtomicBool::new(false);
    let (sent, received) = thread::scope(|scope| {
        let receiver = scope.spawn(|| receive_all(to, spec, &done));
        let sent = send_all(from, spec);
        done.store(true, Relaxed);
        (
            sent,
            receiver
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
        )
    });
    let (sent, sender) = sent.doing(|| "send datagrams")?;
    let report = received.doing(|| "receive datagrams")?;
    Ok(UdpReport {
        sent,
        sender,
        ..report
    })
}

fn clamp(spec: &UdpSpec) -> UdpSpec {
    let payload_len = spec.payload_len.clamp(SEQUENCE_LEN, 65_507);
    // One send is one IP packet to the kernel until it is segmented.
    let most = (65_507 / payload_len).min(SEGMENTS_MAX);
    let segments_per_send = spec.segments_per_send.clamp(1, most);
    UdpSpec {
        payload_len,
        segments_per_send,
        ..spec.clone()
    }
}

fn bind(host: &Host, family: Family) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(host.socket_addr(family, 0)).doing(|| "bind a UDP socket")?;
    // Room for bursts; the kernel caps it at net.core.rmem_max, which is fine.
    let _ = sys::socket::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, 8 << 20);
    Ok(socket)
}

fn send_all(socket: &UdpSocket, spec: &UdpSpec) -> io::Result<(u64, CpuTime)> {
    let cpu = ThreadCpu::now();
    let mut buffer = vec![0u8; spec.payload_len * spec.segments_per_send];
    let (mut sent, start) = (0u64, Instant::now());
    while sent < spec.count {
        let segments = (spec.count - sent).min(spec.segments_per_send as u64) as usize;
        let bytes = &mut buffer[..segments * spec.payload_len];
        for (i, datagram) in bytes.chunks_mut(spec.payload_len).enumerate() {
            fill(datagram, sent + i as u64);
        }
        wait_for_turn(start, sent, spec.rate_pps);
        send_one(socket, bytes)?;
        sent += segments as u64;
    }
    Ok((sent, ThreadCpu::now() - cpu))
}

/// Sends, waiting while the link's queue is full (ENOBUFS).
fn send_one(socket: &UdpSocket, bytes: &[u8]) -> io::Result<()> {
    let start = Instant::now();
    loop {
        match socket.send(bytes) {
            Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) && start.elapsed() < PATIENCE => {
                thread::yield_now();
            }
            other => return other.map(drop),
        }
    }
}

fn wait_for_turn(start: Instant, sent: u64, rate_pps: Option<u32>) {
    let Some(rate_pps) = rate_pps else { return };
    let due = start + Duration::from_secs_f64(sent as f64 / f64::from(rate_pps.max(1)));
    thread::sleep(due.saturating_duration_since(Instant::now()));
}

fn fill(datagram: &mut [u8], sequence: u64) {
    let (head, body) = datagram.split_at_mut(SEQUENCE_LEN);
    head.copy_from_slice(&sequence.to_be_bytes());
    body.copy_from_slice(pattern::at(body_offset(sequence), body.len()));
}

/// Each datagram carries another stretch of the pattern.
fn body_offset(sequence: u64) -> u64 {
    sequence.wrapping_mul(1_447)
}

fn receive_all(socket: &UdpSocket, spec: &UdpSpec, done: &AtomicBool) -> io::Result<UdpReport> {
    let cpu = ThreadCpu::now();
    let mut seen = Seen {
        check: spec.check,
        ..Seen::default()
    };
    let mut buffer = vec![0u8; 64 << 10];
    let mut window: Option<(Instant, Instant)> = None;
    while seen.received < spec.count {
        match socket.recv(&mut buffer) {
            Ok(len) => {
                let now = Instant::now();
                window = Some((window.map_or(now, |w| w.0), now));
                seen.take(&buffer[..len], spec.payload_len);
            }
            // The sender was done before this silence began, or during it.
            Err(e) if is_tick(&e) && done.load(Relaxed) => break,
            Err(e) if is_tick(&e) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(UdpReport {
        received: seen.received,
        reads: seen.reads,
        reordered: seen.reordered,
        elapsed_s: window.map_or(0.0, |(first, last)| (last - first).as_secs_f64()),
        receiver: ThreadCpu::now() - cpu,
        intact: (spec.check == Check::Pattern).then_some(!seen.bad),
        ..UdpReport::default()
    })
}

/// What a receiver has counted.
#[derive(Debug)]
struct Seen {
    check: Check,
    received: u64,
    reads: u64,
    reordered: u64,
    next: u64,
    bad: bool,
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            check: Check::None,
            received: 0,
            reads: 0,
            reordered: 0,
            next: 0,
            bad: false,
        }
    }
}

impl Seen {
    /// One read: datagrams of equal length, except that UDP_GRO never joins
    /// unequal ones, so a length that does not divide is damage.
    fn take(&mut self, bytes: &[u8], payload_len: usize) {
        self.reads += 1;
        for datagram in bytes.chunks(payload_len) {
            self.received += 1;
            if datagram.len() != payload_len {
                self.bad = true;
                continue;
            }
            self.take_one(datagram);
        }
    }

    fn take_one(&mut self, datagram: &[u8]) {
        let (head, body) = datagram.split_at(SEQUENCE_LEN);
        let sequence = head.iter().fold(0u64, |n, byte| n << 8 | u64::from(*byte));
        if sequence < self.next {
            self.reordered += 1;
        }
        self.next = self.next.max(sequence.saturating_add(1));
        if self.check == Check::Pattern {
            self.bad |= !pattern::matches(body_offset(sequence), body);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagrams(sequences: &[u64]) -> Vec<u8> {
        let mut bytes = vec![0; sequences.len() * 100];
        for (datagram, sequence) in bytes.chunks_mut(100).zip(sequences) {
            fill(datagram, *sequence);
        }
        bytes
    }

    #[test]
    fn a_coalesced_read_counts_each_datagram() {
        let mut seen = Seen {
            check: Check::Pattern,
            ..Seen::default()
        };
        seen.take(&datagrams(&[0, 1, 3, 2]), 100);
        assert_eq!(
            (seen.received, seen.reads, seen.reordered, seen.bad),
            (4, 1, 1, false)
        );
    }

    #[test]
    fn damage_and_odd_lengths_are_seen() {
        let mut bytes = datagrams(&[0, 1]);
        bytes[199] ^= 1;
        let mut seen = Seen {
            check: Check::Pattern,
            ..Seen::default()
        };
        seen.take(&bytes, 100);
        assert!(seen.bad);
        let mut seen = Seen::default();
        seen.take(&datagrams(&[0])[..99], 100);
        assert!(seen.bad);
    }

    #[test]
    fn one_send_stays_within_one_ip_packet() {
        let spec = clamp(&UdpSpec {
            payload_len: 1400,
            segments_per_send: 1000,
            ..UdpSpec::default()
        });
        assert_eq!(spec.segments_per_send, 46);
    }
}
