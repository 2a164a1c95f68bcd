//! One TCP connection that carries bytes one way, with the thread at each end.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use super::bulk::{BulkSpec, Check, Segments};
use super::connect::{PATIENCE, TICK, is_tick};
use super::pattern;
use crate::error::{Doing, Error, Result};
use crate::meter::{CpuTime, ThreadCpu};
use crate::sys;

/// Small enough to stay in L2, large enough for a few super-packets.
const READ_LEN: usize = 256 << 10;
/// `Lane::bad_at` while everything matched.
const NOTHING_BAD: u64 = u64::MAX;

/// What the measuring thread tells all lanes.
#[derive(Debug, Default)]
pub(super) struct Control {
    /// Senders may send. Guarded by a lock so that they can sleep on it.
    running: Mutex<bool>,
    changed: Condvar,
    /// Counts up at each edge of a timed window; threads sample their CPU
    /// time when they see a new value.
    epoch: AtomicU64,
    /// A timed window is open.
    measuring: AtomicBool,
    stop: AtomicBool,
}

impl Control {
    pub(super) fn measure(&self, measuring: bool) {
        self.measuring.store(measuring, Relaxed);
    }

    /// Whether a receiver should look at its bytes now.
    fn wants(&self, check: Check) -> bool {
        match check {
            Check::None => false,
            Check::Pattern => true,
            Check::OutsideWindows => !self.measuring.load(Relaxed),
        }
    }

    pub(super) fn run(&self, running: bool) {
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = running;
        self.changed.notify_all();
    }

    pub(super) fn next_epoch(&self) -> u64 {
        let epoch = self.epoch.fetch_add(1, Relaxed) + 1;
        self.changed.notify_all();
        epoch
    }

    pub(super) fn stop(&self) {
        self.stop.store(true, Relaxed);
        self.changed.notify_all();
    }

    fn is_running(&self) -> bool {
        *self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_for_change(&self) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = self.changed.wait_timeout(running, TICK);
    }
}

/// CPU samples of one thread.
#[derive(Debug, Default)]
pub(super) struct Sampler {
    epoch: AtomicU64,
    at: Mutex<CpuTime>,
}

impl Sampler {
    /// Cheap unless the epoch has moved.
    fn look(&self, control: &Control) {
        let epoch = control.epoch.load(Relaxed);
        if epoch != self.epoch.load(Relaxed) {
            let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
            *at = ThreadCpu::now();
            self.epoch.store(epoch, Relaxed);
        }
    }

    /// The sample taken at `epoch`, once there is one.
    pub(super) fn of(&self, epoch: u64) -> Option<CpuTime> {
        let at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        (self.epoch.load(Relaxed) == epoch).then_some(*at)
    }
}

/// What both ends of a lane share with the measuring thread.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) control: Arc<Control>,
    /// The sender stops at this stream offset.
    pub(super) limit: AtomicU64,
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
    /// Stream offset of the first read that did not match.
    bad_at: AtomicU64,
    pub(super) sender: Sampler,
    pub(super) receiver: Sampler,
    failure: Mutex<Option<Error>>,
}

impl Shared {
    fn fail(&self, error: Error) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(error);
    }

    pub(super) fn take_failure(&self) -> Option<Error> {
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    pub(super) fn is_intact(&self) -> bool {
        self.bad_at.load(Relaxed) == NOTHING_BAD
    }

    fn stopped(&self) -> bool {
        self.control.stop.load(Relaxed)
    }

    fn in_flight(&self) -> u64 {
        self.sent
            .load(Relaxed)
            .saturating_sub(self.received.load(Relaxed))
    }
}

/// A connection with its two threads; ends them when dropped.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) shared: Arc<Shared>,
    /// Host 1 sends.
    pub(super) forward: bool,
    sending: TcpStream,
    receiving: TcpStream,
    threads: Vec<JoinHandle<()>>,
}

impl Lane {
    pub(super) fn start(
        (sending, receiving): (TcpStream, TcpStream),
        forward: bool,
        control: Arc<Control>,
        spec: &BulkSpec,
    ) -> Result<Self> {
        for end in [&sending, &receiving] {
            prepare(end).doing(|| "prepare a connection")?;
        }
        let shared = Arc::new(Shared {
            control,
            limit: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            bad_at: AtomicU64::new(NOTHING_BAD),
            sender: Sampler::default(),
            receiver: Sampler::default(),
            failure: Mutex::new(None),
        });
        let mut lane = Self {
            shared,
            forward,
            sending,
            receiving,
            threads: Vec::new(),
        };
        lane.start_sender(spec.write_size)
            .doing(|| "start a sender")?;
        lane.start_receiver(spec.check)
            .doing(|| "start a receiver")?;
        Ok(lane)
    }

    fn start_sender(&mut self, write_size: usize) -> io::Result<()> {
        let (shared, socket) = (self.shared.clone(), self.sending.try_clone()?);
        let body = move || report(&shared, send_all(&shared, socket, write_size));
        self.threads
            .push(thread::Builder::new().name("lab-send".into()).spawn(body)?);
        Ok(())
    }

    fn start_receiver(&mut self, check: Check) -> io::Result<()> {
        let (shared, socket) = (self.shared.clone(), self.receiving.try_clone()?);
        let body = move || report(&shared, receive_all(&shared, socket, check));
        self.threads.push(
            thread::Builder::new()
                .name("lab-receive".into())
                .spawn(body)?,
        );
        Ok(())
    }

    pub(super) fn retransmits(&self) -> Result<u64> {
        Ok(info(&self.sending)?.tcpi_total_retrans.into())
    }

    /// What the end that sends data (or the other one) has received.
    pub(super) fn segments(&self, of_sender: bool) -> Result<Segments> {
        let end = match of_sender {
            true => &self.sending,
            false => &self.receiving,
        };
        let info = info(end)?;
        Ok(Segments {
            all: info.tcpi_segs_in.into(),
            data: info.tcpi_data_segs_in.into(),
        })
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.shared.control.stop();
        for end in [&self.sending, &self.receiving] {
            let _ = end.shutdown(Shutdown::Both);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn info(end: &TcpStream) -> Result<libc::tcp_info> {
    sys::socket::tcp_info(end.as_fd()).doing(|| "read TCP_INFO")
}

fn prepare(end: &TcpStream) -> io::Result<()> {
    end.set_read_timeout(Some(TICK))?;
    end.set_write_timeout(Some(TICK))
}

fn report(shared: &Shared, result: Result<()>) {
    match result {
        // After the stop flag a reset connection is how the end looks.
        Err(error) if !shared.stopped() => shared.fail(error),
        _ => {}
    }
}

fn send_all(shared: &Shared, mut socket: TcpStream, write_size: usize) -> Result<()> {
    let mut sent = 0u64;
    let mut moved = Instant::now();
    while !shared.stopped() {
        shared.sender.look(&shared.control);
        let left = shared.limit.load(Relaxed).saturating_sub(sent);
        if left == 0 || !shared.control.is_running() {
            shared.control.wait_for_change();
            moved = Instant::now();
            continue;
        }
        let len = write_size.min(left.try_into().unwrap_or(usize::MAX));
        match socket.write(pattern::at(sent, len)) {
            Ok(n) => {
                sent += n as u64;
                shared.sent.store(sent, Relaxed);
                moved = Instant::now();
            }
            Err(e) if is_tick(&e) => stalled(moved, "sent")?,
            Err(e) => return Err(e).doing(|| format!("send at offset {sent}")),
        }
    }
    Ok(())
}

fn receive_all(shared: &Shared, mut socket: TcpStream, check: Check) -> Result<()> {
    let mut buffer = vec![0u8; READ_LEN];
    let mut received = 0u64;
    let mut moved = Instant::now();
    while !shared.stopped() {
        shared.receiver.look(&shared.control);
        match socket.read(&mut buffer) {
            Ok(0) => return Err(Error::Stalled("the connection closed early".into())),
            Ok(n) => {
                if shared.control.wants(check) && !pattern::matches(received, &buffer[..n]) {
                    let _ = shared
                        .bad_at
                        .compare_exchange(NOTHING_BAD, received, Relaxed, Relaxed);
                }
                received += n as u64;
                shared.received.store(received, Relaxed);
                moved = Instant::now();
            }
            Err(e) if is_tick(&e) && shared.in_flight() == 0 => moved = Instant::now(),
            Err(e) if is_tick(&e) => stalled(moved, "received")?,
            Err(e) => return Err(e).doing(|| format!("receive at offset {received}")),
        }
    }
    Ok(())
}

fn stalled(moved: Instant, what: &str) -> Result<()> {
    if moved.elapsed() < PATIENCE {
        return Ok(());
    }
    Err(Error::Stalled(format!(
        "nothing was {what} for {PATIENCE:?}: the path is broken"
    )))
}
