//! Request and response, one at a time: what small packets wait.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use super::connect::{PATIENCE, TICK, accept, connect_retry, is_tick};
use super::pattern;
use crate::error::{Doing, Error, Result};
use crate::host::{Family, Host};
use crate::meter::{CpuTime, ThreadCpu};

/// TCP (with TCP_NODELAY) or UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP; a lost request is counted after 200 ms.
    Udp,
}

/// What to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PingSpec {
    /// IP version.
    pub family: Family,
    /// What carries it.
    pub transport: Transport,
    /// Bytes of the request and of the response, at least 8.
    pub payload_len: usize,
    /// For how long, after a tenth of it as warm-up.
    pub duration: Duration,
    /// Requests per second; `None`: the next follows the response at once.
    pub rate_pps: Option<u32>,
}

impl Default for PingSpec {
    fn default() -> Self {
        Self {
            family: Family::V4,
            transport: Transport::Tcp,
            payload_len: 64,
            duration: Duration::from_secs(1),
            rate_pps: None,
        }
    }
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PingReport {
    /// Responses in the window.
    pub transactions: u64,
    /// Requests without a response (UDP).
    pub lost: u64,
    /// Half of the responses came within this time.
    pub p50_ns: u64,
    /// 99 of 100 came within this time.
    pub p99_ns: u64,
    /// 999 of 1000 came within this time.
    pub p999_ns: u64,
    /// The slowest.
    pub max_ns: u64,
    /// The window.
    pub elapsed_s: f64,
    /// CPU of the asking thread in the window.
    pub client: CpuTime,
    /// CPU of the answering thread, warm-up included.
    pub server: CpuTime,
}

/// Asks from `one`, answers in `two`.
pub fn ping(one: &Host, two: &Host, spec: &PingSpec) -> Result<PingReport> {
    let spec = &PingSpec {
        payload_len: spec.payload_len.clamp(8, 65_000),
        ..spec.clone()
    };
    let (client, server) = match spec.transport {
        Transport::Tcp => tcp_pair(one, two, spec.family)?,
        Transport::Udp => udp_pair(one, two, spec.family)?,
    };
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let answering = scope.spawn(|| answer(server, spec.payload_len, &done));
        let asked = ask(client, spec);
        done.store(true, Relaxed);
        let server = answering
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok(PingReport {
            server: server.doing(|| "answer requests")?,
            ..asked?
        })
    })
}

/// One end of the exchange.
enum End {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

impl End {
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.write_all(bytes),
            Self::Udp(socket) => socket.send(bytes).map(drop),
        }
    }

    /// One message of exactly `buffer.len()` bytes; false when none began
    /// within [`TICK`]. A message that began gets [`PATIENCE`] to end.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        let (mut filled, start) = (0, Instant::now());
        while filled < buffer.len() {
            let result = match self {
                Self::Tcp(stream) => stream.read(&mut buffer[filled..]),
                Self::Udp(socket) => socket.recv(&mut buffer[filled..]),
            };
            match result {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => filled += n,
                Err(e) if is_tick(&e) && filled == 0 => return Ok(false),
                Err(e) if is_tick(&e) && start.elapsed() < PATIENCE => {}
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }
}

fn tcp_pair(one: &Host, two: &Host, family: Family) -> Result<(End, End)> {
    let addr = two.socket_addr(family, 0);
    let listener = two.ns.run(|| TcpListener::bind(addr))?.doing(|| "listen")?;
    let addr = listener.local_addr().doing(|| "read the port")?;
    let client = one.ns.run(|| connect_retry(addr, PATIENCE))??;
    let server = accept(&listener, PATIENCE)?;
    for end in [&client, &server] {
        end.set_nodelay(true).doing(|| "set TCP_NODELAY")?;
        end.set_read_timeout(Some(TICK)).doing(|| "set a timeout")?;
        end.set_write_timeout(Some(PATIENCE))
            .doing(|| "set a timeout")?;
    }
    Ok((End::Tcp(client), End::Tcp(server)))
}

fn udp_pair(one: &Host, two: &Host, family: Family) -> Result<(End, End)> {
    let bind = |host: &Host| host.ns.run(|| UdpSocket::bind(host.socket_addr(family, 0)));
    let client = bind(one)?.doing(|| "bind a UDP socket")?;
    let server = bind(two)?.doing(|| "bind a UDP socket")?;
    for (end, other) in [(&client, &server), (&server, &client)] {
        let addr = other.local_addr().doing(|| "read the port")?;
        end.connect(addr).doing(|| format!("connect to {addr}"))?;
        end.set_read_timeout(Some(TICK)).doing(|| "set a timeout")?;
    }
    Ok((End::Udp(client), End::Udp(server)))
}

fn answer(mut end: End, payload_len: usize, done: &AtomicBool) -> io::Result<CpuTime> {
    let mut buffer = vec![0; payload_len];
    let start = ThreadCpu::now();
    while !done.load(Relaxed) {
        match end.receive(&mut buffer) {
            Ok(true) => end.send(&buffer)?,
            Ok(false) => {}
            // The asking end closed: it is done, or says itself what broke.
            Err(_) => break,
        }
    }
    Ok(ThreadCpu::now() - start)
}

fn ask(mut end: End, spec: &PingSpec) -> Result<PingReport> {
    let mut asking = Asking::new(spec);
    asking.until(&mut end, Instant::now() + spec.duration / 10)?;
    asking.times_ns.clear();
    asking.lost = 0;
    let (start, cpu) = (Instant::now(), ThreadCpu::now());
    asking.until(&mut end, start + spec.duration)?;
    let client = ThreadCpu::now() - cpu;
    Ok(PingReport {
        client,
        elapsed_s: start.elapsed().as_secs_f64(),
        ..asking.report()
    })
}

/// The asking end's state between requests.
struct Asking {
    gap: Duration,
    request: Vec<u8>,
    response: Vec<u8>,
    sequence: u64,
    times_ns: Vec<u64>,
    lost: u64,
}

impl Asking {
    fn new(spec: &PingSpec) -> Self {
        let gap = spec
            .rate_pps
            .map(|rate| Duration::from_secs(1) / rate.max(1));
        Self {
            gap: gap.unwrap_or_default(),
            request: pattern::at(0, spec.payload_len).to_vec(),
            response: vec![0; spec.payload_len],
            sequence: 0,
            times_ns: Vec::with_capacity(1 << 20),
            lost: 0,
        }
    }

    fn until(&mut self, end: &mut End, until: Instant) -> Result<()> {
        let mut due = Instant::now();
        while due < until {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            self.once(end)?;
            due = (due + self.gap).max(Instant::now() - self.gap);
        }
        Ok(())
    }

    fn once(&mut self, end: &mut End) -> Result<()> {
        self.sequence += 1;
        self.request[..8].copy_from_slice(&self.sequence.to_be_bytes());
        let start = Instant::now();
        end.send(&self.request).doing(|| "send a request")?;
        loop {
            let came = end
                .receive(&mut self.response)
                .doing(|| "receive a response")?;
            if came && self.response == self.request {
                self.times_ns.push(start.elapsed().as_nanos() as u64);
                return Ok(());
            }
            match end {
                // The late response to a request already counted as lost.
                End::Udp(_) if came => {}
                End::Udp(_) => break,
                End::Tcp(_) if came => return Err(Error::Stalled("a wrong response".into())),
                // TCP sends a lost request again, after 200 ms or more.
                End::Tcp(_) if start.elapsed() < PATIENCE => {}
                End::Tcp(_) => {
                    return Err(Error::Stalled(format!("no response within {PATIENCE:?}")));
                }
            }
        }
        self.lost += 1;
        Ok(())
    }

    fn report(mut self) -> PingReport {
        self.times_ns.sort_unstable();
        let at = |q: f64| {
            let last = self.times_ns.len().saturating_sub(1);
            self.times_ns
                .get((last as f64 * q) as usize)
                .copied()
                .unwrap_or_default()
        };
        PingReport {
            transactions: self.times_ns.len() as u64,
            lost: self.lost,
            p50_ns: at(0.5),
            p99_ns: at(0.99),
            p999_ns: at(0.999),
            max_ns: at(1.0),
            ..PingReport::default()
        }
    }
}
