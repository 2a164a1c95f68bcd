//! The bare forwarder: what any switch between two TAPs costs at least.
//!
//! It reads a packet from one TAP and writes it to the other, virtio-net
//! header included, without looking at it. Both must have the same header
//! length, and what one may hand over the other takes anyway.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use crate::error::{Doing, Error, Result};
use crate::meter::{self, CpuTime, ThreadCpu};
use crate::tap::Tap;

/// Packets taken from one side before the other gets its turn.
const BURST: usize = 64;
/// A super-packet of 64 KiB with its headers.
const PACKET_MAX: usize = (64 << 10) + 256;

/// What passed, and what it cost.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ForwarderReport {
    /// Packets written; a super-packet is one.
    pub packets: u64,
    /// Bytes written, virtio-net headers included.
    pub bytes: u64,
    /// Packets the other side did not take (its link was down, its queue full).
    pub dropped: u64,
    /// CPU of the forwarding thread.
    pub cpu: CpuTime,
    /// From start to stop.
    pub elapsed_s: f64,
}

/// A running forwarder; stops when dropped.
#[derive(Debug)]
pub struct Forwarder {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<io::Result<ForwarderReport>>>,
    tid: i32,
}

impl Forwarder {
    /// Forwards between `a` and `b` on a thread of its own.
    pub fn start(a: Tap, b: Tap) -> Result<Self> {
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).doing(|| "make an eventfd")?);
        let (watch, (tell, told)) = (stop.clone(), std::sync::mpsc::channel());
        let body = move || {
            let _ = tell.send(meter::tid());
            forward(&a, &b, &watch)
        };
        let thread = thread::Builder::new()
            .name("lab-forward".into())
            .spawn(body);
        let thread = Some(thread.doing(|| "start the forwarder")?);
        let tid = told
            .recv()
            .map_err(|_| Error::Stalled("the forwarder died".into()))?;
        Ok(Self { stop, thread, tid })
    }

    /// Kernel id of its thread, for [`meter::thread_total`].
    pub fn tid(&self) -> i32 {
        self.tid
    }

    /// Ends it; the TAPs close.
    pub fn stop(mut self) -> Result<ForwarderReport> {
        self.end()
            .unwrap_or(Ok(ForwarderReport::default()))
            .doing(|| "forward")
    }

    fn end(&mut self) -> Option<io::Result<ForwarderReport>> {
        let thread = self.thread.take()?;
        // Fails only when the counter is full, and then it is readable too.
        let _ = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
        let died = |_| Err(io::Error::other("the forwarder panicked"));
        Some(thread.join().unwrap_or_else(died))
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

fn forward(a: &Tap, b: &Tap, stop: &OwnedFd) -> io::Result<ForwarderReport> {
    let mut report = ForwarderReport::default();
    let mut buffer = vec![0u8; PACKET_MAX];
    let (start, cpu) = (Instant::now(), ThreadCpu::now());
    loop {
        let mut fds = [
            PollFd::new(a, PollFlags::IN),
            PollFd::new(b, PollFlags::IN),
            PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        let [a_ready, b_ready, stopped] = fds.map(|fd| !fd.revents().is_empty());
        if stopped {
            break;
        }
        if a_ready {
            pass(a, b, &mut buffer, &mut report)?;
        }
        if b_ready {
            pass(b, a, &mut buffer, &mut report)?;
        }
    }
    report.cpu = ThreadCpu::now() - cpu;
    report.elapsed_s = start.elapsed().as_secs_f64();
    Ok(report)
}

fn pass(from: &Tap, to: &Tap, buffer: &mut [u8], report: &mut ForwarderReport) -> io::Result<()> {
    for _ in 0..BURST {
        let len = match from.read(buffer) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            other => other?,
        };
        match to.write(&buffer[..len]) {
            Ok(_) => {
                report.packets += 1;
                report.bytes += len as u64;
            }
            // EIO while the far link is down, EAGAIN when its queue is full.
            Err(_) => report.dropped += 1,
        }
    }
    Ok(())
}
