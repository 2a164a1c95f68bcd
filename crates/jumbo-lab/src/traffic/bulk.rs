//! Bulk TCP: how fast, at what CPU cost, and whether every byte was right.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use super::connect::{PATIENCE, connections};
use super::lane::{Control, Lane, Sampler};
use super::pattern;
use crate::error::{Error, Result};
use crate::host::{Family, Host};
use crate::meter::CpuTime;

/// Which hosts send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Directions {
    /// Host 1 to host 2.
    One,
    /// Also host 2 to host 1, over as many connections again.
    Both,
}

/// How much to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BulkAmount {
    /// As much as goes through in this time, after the warm-up.
    Time(Duration),
    /// This many bytes on each flow, without a warm-up.
    BytesPerFlow(u64),
}

/// Whether the receiver looks at what it gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// Only counts.
    None,
    /// Compares every byte, with memcmp.
    Pattern,
    /// The same, but only counts inside timed windows: looking costs the
    /// measured figures nothing. A byte that was lost or doubled inside still
    /// shows afterwards, because it shifts all that follow.
    OutsideWindows,
}

/// TCP segments a connection's end, or several, have received; a super-packet
/// counts as the segments it is made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Segments {
    /// With and without data.
    pub all: u64,
    /// With data.
    pub data: u64,
}

impl std::ops::Sub for Segments {
    type Output = Self;
    /// TCP_INFO has 32 bits, which wrap.
    fn sub(self, before: Self) -> Self {
        let less = |now: u64, before: u64| u64::from((now as u32).wrapping_sub(before as u32));
        Self {
            all: less(self.all, before.all),
            data: less(self.data, before.data),
        }
    }
}

/// What to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BulkSpec {
    /// IP version.
    pub family: Family,
    /// Who sends.
    pub directions: Directions,
    /// TCP connections per direction.
    pub flows: usize,
    /// For [`bulk`]; a session is told with each slice.
    pub amount: BulkAmount,
    /// Traffic before a timed window, so that TCP has found its speed.
    pub warm_up: Duration,
    /// Whether bytes are compared.
    pub check: Check,
    /// Bytes per write(2), at most [`pattern::RUN_MAX`].
    pub write_size: usize,
}

impl Default for BulkSpec {
    fn default() -> Self {
        Self {
            family: Family::V4,
            directions: Directions::One,
            flows: 1,
            amount: BulkAmount::Time(Duration::from_secs(1)),
            warm_up: Duration::from_millis(100),
            check: Check::Pattern,
            write_size: 128 << 10,
        }
    }
}

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct BulkReport {
    /// Bytes host 2 received from host 1 in the window.
    pub forward_bytes: u64,
    /// Bytes host 1 received from host 2 in the window.
    pub backward_bytes: u64,
    /// The window, without connecting, warm-up and draining.
    pub elapsed_s: f64,
    /// TCP segments sent again, from the first byte to the last drained one.
    pub retransmits: u64,
    /// CPU of all sending threads in the window.
    pub sender: CpuTime,
    /// CPU of all receiving threads in the window.
    pub receiver: CpuTime,
    /// Whether all bytes since the connections opened were right; `None`
    /// when nobody looked.
    pub intact: Option<bool>,
}

impl BulkReport {
    /// Bytes delivered in both directions.
    pub fn bytes(&self) -> u64 {
        self.forward_bytes + self.backward_bytes
    }

    /// TCP payload in Gbit/s, both directions together.
    pub fn gbit_per_s(&self) -> f64 {
        self.bytes() as f64 * 8e-9 / self.elapsed_s
    }

    /// CPU seconds of both ends' threads per 10^9 bytes.
    pub fn cpu_s_per_gb(&self) -> f64 {
        (self.sender.total_s() + self.receiver.total_s()) * 1e9 / self.bytes() as f64
    }
}

/// Connects, sends, reports and closes.
pub fn bulk(one: &Host, two: &Host, spec: &BulkSpec) -> Result<BulkReport> {
    let session = BulkSession::open(one, two, spec)?;
    match spec.amount {
        BulkAmount::Time(duration) => session.slice(duration),
        BulkAmount::BytesPerFlow(bytes) => session.send(bytes),
    }
}

/// Connections that stay open and silent between measured slices, so that
/// several paths can be measured in turns.
#[derive(Debug)]
pub struct BulkSession {
    control: Arc<Control>,
    lanes: Vec<Lane>,
    spec: BulkSpec,
}

/// Where a timed window began.
#[derive(Debug)]
struct Window {
    cpu: [CpuTime; 2],
    start: Instant,
    received: [u64; 2],
}

/// Which thread of a lane.
type End = fn(&Lane) -> &Sampler;

impl BulkSession {
    /// Opens all connections between `one` and `two`.
    pub fn open(one: &Host, two: &Host, spec: &BulkSpec) -> Result<Self> {
        let spec = BulkSpec {
            write_size: spec.write_size.clamp(1, pattern::RUN_MAX),
            ..spec.clone()
        };
        let control = Arc::new(Control::default());
        let mut session = Self {
            control,
            lanes: Vec::new(),
            spec,
        };
        session.add_lanes(one, two, true)?;
        if session.spec.directions == Directions::Both {
            session.add_lanes(two, one, false)?;
        }
        Ok(session)
    }

    fn add_lanes(&mut self, from: &Host, to: &Host, forward: bool) -> Result<()> {
        for pair in connections(from, to, self.spec.family, self.spec.flows)? {
            self.lanes.push(Lane::start(
                pair,
                forward,
                self.control.clone(),
                &self.spec,
            )?);
        }
        Ok(())
    }

    /// Sends for the warm-up and then for `duration`, which is what the report
    /// counts; afterwards the path is drained and silent.
    pub fn slice(&self, duration: Duration) -> Result<BulkReport> {
        self.slice_between(duration, || ())
            .map(|(report, _)| report)
    }

    /// The same; `look` is called at both edges of the timed window, just
    /// before its bytes and its clock are read, and its values are returned.
    pub fn slice_between<T>(
        &self,
        duration: Duration,
        mut look: impl FnMut() -> T,
    ) -> Result<(BulkReport, [T; 2])> {
        let retransmits = self.retransmits()?;
        self.allow(|_| u64::MAX);
        self.rest(self.spec.warm_up)?;
        self.control.measure(true);
        let cpu = self.edge()?;
        let before = look();
        let window = self.window(cpu);
        self.rest(duration)?;
        let after = look();
        let report = self.close_window(&window)?;
        self.control.measure(false);
        Ok((self.finish(report, retransmits)?, [before, after]))
    }

    /// What host 1 and host 2 have received so far on this session's
    /// connections; for differences.
    pub fn segments(&self) -> Result<[Segments; 2]> {
        let mut hosts = [Segments::default(); 2];
        for lane in &self.lanes {
            for (host, sum) in hosts.iter_mut().enumerate() {
                let segments = lane.segments(lane.forward == (host == 0))?;
                sum.all += segments.all;
                sum.data += segments.data;
            }
        }
        Ok(hosts)
    }

    /// Sends `bytes` on each flow and waits until all have arrived.
    pub fn send(&self, bytes: u64) -> Result<BulkReport> {
        let retransmits = self.retransmits()?;
        let window = self.window(self.edge()?);
        self.allow(|sent| sent.saturating_add(bytes));
        self.wait_until(|lane| received(lane) >= lane.shared.limit.load(Relaxed))?;
        let report = self.close_window(&window)?;
        self.finish(report, retransmits)
    }

    fn window(&self, cpu: [CpuTime; 2]) -> Window {
        Window {
            cpu,
            start: Instant::now(),
            received: self.received(),
        }
    }

    fn close_window(&self, window: &Window) -> Result<BulkReport> {
        let received = self.received();
        let elapsed_s = window.start.elapsed().as_secs_f64();
        let cpu = self.edge()?;
        Ok(BulkReport {
            forward_bytes: received[0] - window.received[0],
            backward_bytes: received[1] - window.received[1],
            elapsed_s,
            retransmits: 0,
            sender: cpu[0] - window.cpu[0],
            receiver: cpu[1] - window.cpu[1],
            intact: None,
        })
    }

    /// Drains the path and adds what is known only then.
    fn finish(&self, report: BulkReport, retransmits: u64) -> Result<BulkReport> {
        self.silence()?;
        let intact = self.lanes.iter().all(|lane| lane.shared.is_intact());
        Ok(BulkReport {
            retransmits: self.retransmits()?.saturating_sub(retransmits),
            intact: (self.spec.check != Check::None).then_some(intact),
            ..report
        })
    }

    /// Lets every sender go up to the offset `limit` makes of where it is.
    fn allow(&self, limit: impl Fn(u64) -> u64) {
        for lane in &self.lanes {
            let sent = lane.shared.sent.load(Relaxed);
            lane.shared.limit.store(limit(sent), Relaxed);
        }
        self.control.run(true);
    }

    /// Stops the senders and waits until everything sent has arrived.
    fn silence(&self) -> Result<()> {
        self.control.run(false);
        // A sender that was inside write(2) has booked it once it has seen
        // a later epoch.
        let epoch = self.control.next_epoch();
        self.wait_until(|lane| lane.shared.sender.of(epoch).is_some())?;
        self.wait_until(|lane| received(lane) >= lane.shared.sent.load(Relaxed))
    }

    /// An edge of the timed window: CPU of all [senders, receivers] then.
    fn edge(&self) -> Result<[CpuTime; 2]> {
        let epoch = self.control.next_epoch();
        let ends: [End; 2] = [|lane| &lane.shared.sender, |lane| &lane.shared.receiver];
        self.wait_until(|lane| ends.iter().all(|end| end(lane).of(epoch).is_some()))?;
        Ok(ends.map(|end| {
            self.lanes
                .iter()
                .filter_map(|lane| end(lane).of(epoch))
                .sum()
        }))
    }

    fn rest(&self, duration: Duration) -> Result<()> {
        let until = Instant::now() + duration;
        loop {
            self.failure()?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(Duration::from_millis(100)));
        }
    }

    /// Waits for all lanes; gives up when none has moved for [`PATIENCE`].
    fn wait_until(&self, done: impl Fn(&Lane) -> bool) -> Result<()> {
        let (mut moved, mut last) = (Instant::now(), self.received());
        while !self.lanes.iter().all(&done) {
            self.failure()?;
            let now = self.received();
            if now != last {
                (moved, last) = (Instant::now(), now);
            } else if moved.elapsed() > PATIENCE {
                return Err(Error::Stalled(format!("nothing arrived for {PATIENCE:?}")));
            }
            thread::sleep(Duration::from_micros(200));
        }
        Ok(())
    }

    fn failure(&self) -> Result<()> {
        self.lanes
            .iter()
            .find_map(|lane| lane.shared.take_failure())
            .map_or(Ok(()), Err)
    }

    /// Bytes received so far, [forward, backward].
    fn received(&self) -> [u64; 2] {
        let of = |forward| {
            self.lanes
                .iter()
                .filter(|l| l.forward == forward)
                .map(received)
                .sum()
        };
        [of(true), of(false)]
    }

    fn retransmits(&self) -> Result<u64> {
        self.lanes.iter().map(Lane::retransmits).sum()
    }
}

fn received(lane: &Lane) -> u64 {
    lane.shared.received.load(Relaxed)
}
