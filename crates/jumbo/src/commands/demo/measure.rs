//! Traffic in short slices, all rows in turn, so that a busy minute of the machine falls on all of them.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};
use jumbo_lab::meter::{CpuTime, Ksoftirqd, MachineLoad, ProcessCpu};
use jumbo_lab::traffic::{BulkReport, BulkSession, BulkSpec, Check, Directions, Segments};
use jumbo_lab::{Error, Family};
use jumbo_switch::switch::State;

use super::machine;
use super::pair::Pair;
use super::technique::Technique;
use crate::error::CliError;

/// Lets TCP find its speed after the pause; the receiver looks at what it gets.
const WARM_UP: Duration = Duration::from_millis(40);
/// What a slice needs beside its window: warm-up, draining, looking.
const OVERHEAD: Duration = Duration::from_millis(60);
/// Bounds of a timed window.
const WINDOW: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(500)];
/// Slices a second, where time allows more than [`ROUNDS_MIN`].
const SLICES_PER_S: usize = 4;
/// Fewer slices of a row have no median worth the name.
const ROUNDS_MIN: usize = 3;

/// All that was measured.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) mtu: u16,
    pub(super) elapsed_s: f64,
    pub(super) load: Option<MachineLoad>,
    /// Whether the kernel's own threads could be seen and are counted.
    pub(super) ksoftirqd: bool,
    pub(super) cells: Vec<Cell>,
    /// How each switch ended.
    pub(super) switches: Vec<(Technique, State)>,
}

/// One row to be.
#[derive(Debug)]
pub(super) struct Cell {
    pub(super) technique: Technique,
    pub(super) family: Family,
    pub(super) directions: Directions,
    pub(super) slices: Vec<Slice>,
}

/// What one slice gave.
#[derive(Debug, Clone)]
pub(super) struct Slice {
    pub(super) report: BulkReport,
    /// Of all threads of this process, and of ksoftirqd, in the window.
    pub(super) path_cpu_s: f64,
    /// Of the switch's worker, in the window.
    pub(super) switch_cpu: Option<CpuTime>,
    /// Over the whole slice, towards receivers of data.
    pub(super) data: Delivered,
    /// By the switch.
    pub(super) drops: Option<u64>,
    /// By the links' queues.
    pub(super) queue_drops: u64,
}

/// Packets with payload as the receiving host's IP gets them, and what they stand for on a wire.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Delivered {
    pub(super) packets: u64,
    pub(super) segments: u64,
}

/// Sets up, measures for about `seconds` altogether, takes down.
pub(super) fn run(seconds: u32, mtu: u16) -> Result<Measured, CliError> {
    let start = Instant::now();
    let until = start + Duration::from_secs(seconds.into());
    let bar = bar(seconds);
    let pairs = pairs(mtu)?;
    let mut lines = lines(&pairs)?;
    let ksoftirqd = Ksoftirqd::find();
    let load = MachineLoad::now().ok();
    let rounds = rounds(seconds as usize, lines.len());
    for done in 0..rounds * lines.len() {
        let left = rounds * lines.len() - done;
        let at = done % lines.len();
        let line = &mut lines[at];
        bar.set_position(start.elapsed().as_millis() as u64);
        bar.set_message(line.cell.technique.name());
        let slice = line.slice(window(until, left), ksoftirqd.as_ref())?;
        line.cell.slices.push(slice);
    }
    drop(bar);
    let cells = lines.into_iter().map(|line| line.cell).collect();
    Ok(Measured {
        mtu,
        elapsed_s: start.elapsed().as_secs_f64(),
        load,
        ksoftirqd: ksoftirqd.is_some(),
        cells,
        switches: stop(pairs)?,
    })
}

/// On stderr, and only if that is a terminal.
fn bar(seconds: u32) -> ProgressBar {
    let bar = ProgressBar::new(u64::from(seconds) * 1000).with_finish(ProgressFinish::AndClear);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {percent:>3} %  {msg}") {
        bar.set_style(style);
    }
    bar.set_message("setting up");
    bar
}

fn pairs(mtu: u16) -> Result<Vec<(Technique, Pair)>, CliError> {
    let pair = |technique| Ok((technique, Pair::new(technique, mtu)?));
    Technique::ALL.into_iter().map(pair).collect()
}

fn stop(pairs: Vec<(Technique, Pair)>) -> Result<Vec<(Technique, State)>, CliError> {
    let mut states = Vec::new();
    for (technique, pair) in pairs {
        states.extend(pair.stop()?.map(|state| (technique, state)));
    }
    Ok(states)
}

/// All rows, techniques next to each other in time. Every connection is opened here and stays open.
fn lines(pairs: &[(Technique, Pair)]) -> Result<Vec<Line<'_>>, CliError> {
    let mut lines = Vec::new();
    for directions in [Directions::One, Directions::Both] {
        for family in [Family::V4, Family::V6] {
            for (technique, pair) in pairs {
                lines.push(Line::open(*technique, pair, family, directions)?);
            }
        }
    }
    Ok(lines)
}

/// How often each of `rows` is measured.
fn rounds(seconds: usize, rows: usize) -> usize {
    let many = seconds * SLICES_PER_S / rows.max(1);
    // A tenth of a second is the shortest slice.
    let few = seconds * 10 / rows.max(1);
    many.max(few.min(ROUNDS_MIN)).max(1)
}

/// How long the next window may be, with so many slices left.
fn window(until: Instant, slices: usize) -> Duration {
    let left = until.saturating_duration_since(Instant::now());
    let share = left / u32::try_from(slices.max(1)).unwrap_or(u32::MAX);
    share.saturating_sub(OVERHEAD).clamp(WINDOW[0], WINDOW[1])
}

/// A row while it is measured.
struct Line<'a> {
    pair: &'a Pair,
    session: BulkSession,
    cell: Cell,
}

/// CPU time at an edge of the window.
struct Edge {
    process: CpuTime,
    ksoftirqd: Duration,
    switch: Result<Option<State>, CliError>,
}

/// What was counted at a moment without traffic.
enum Quiet {
    Switch(Box<State>),
    Veth { ip: [u64; 2], tcp: [Segments; 2] },
}

impl<'a> Line<'a> {
    fn open(
        technique: Technique,
        pair: &'a Pair,
        family: Family,
        directions: Directions,
    ) -> Result<Self, CliError> {
        let spec = BulkSpec {
            family,
            directions,
            warm_up: WARM_UP,
            // Looking at every byte would slow down the fast rows most.
            check: Check::OutsideWindows,
            ..BulkSpec::default()
        };
        let [one, two] = &pair.hosts;
        let cell = Cell {
            technique,
            family,
            directions,
            slices: Vec::new(),
        };
        let session = BulkSession::open(one, two, &spec).map_err(|e| failed(&cell, e))?;
        Ok(Self {
            pair,
            session,
            cell,
        })
    }

    fn slice(&self, window: Duration, ksoftirqd: Option<&Ksoftirqd>) -> Result<Slice, CliError> {
        let (before, lost) = (self.quiet()?, self.pair.queue_drops()?);
        let (report, [start, end]) = self
            .session
            .slice_between(window, || self.edge(ksoftirqd))
            .map_err(|e| failed(&self.cell, e))?;
        let (after, lost_after) = (self.quiet()?, self.pair.queue_drops()?);
        let softirq = end.ksoftirqd.saturating_sub(start.ksoftirqd);
        Ok(Slice {
            report,
            path_cpu_s: (end.process - start.process).total_s() + softirq.as_secs_f64(),
            switch_cpu: switch_cpu(start.switch?, end.switch?),
            data: self.delivered(&before, &after),
            drops: drops(&before, &after),
            queue_drops: lost_after - lost,
        })
    }

    /// The worker answers between two bursts, so its time and ours are taken at the same moment.
    fn edge(&self, ksoftirqd: Option<&Ksoftirqd>) -> Edge {
        let switch = self.pair.state();
        Edge {
            process: ProcessCpu::now(),
            ksoftirqd: ksoftirqd.and_then(Ksoftirqd::total).unwrap_or_default(),
            switch,
        }
    }

    fn quiet(&self) -> Result<Quiet, CliError> {
        if let Some(state) = self.pair.state()? {
            return Ok(Quiet::Switch(Box::new(state)));
        }
        let [one, two] = &self.pair.hosts;
        let received = |host: &jumbo_lab::Host| host.ip_received(self.cell.family);
        Ok(Quiet::Veth {
            ip: [
                received(one).map_err(machine)?,
                received(two).map_err(machine)?,
            ],
            tcp: self.session.segments().map_err(machine)?,
        })
    }

    /// What reached the hosts that receive data, between two quiet moments.
    fn delivered(&self, before: &Quiet, after: &Quiet) -> Delivered {
        let hosts: &[usize] = match self.cell.directions {
            Directions::One => &[1],
            Directions::Both => &[0, 1],
        };
        let mut sum = Delivered::default();
        for &host in hosts {
            let one = match (before, after) {
                (Quiet::Switch(before), Quiet::Switch(after)) => {
                    self.by_switch(before, after, host)
                }
                (Quiet::Veth { ip, tcp }, Quiet::Veth { ip: ip2, tcp: tcp2 }) => {
                    by_stack(ip2[host] - ip[host], tcp2[host] - tcp[host])
                }
                _ => Delivered::default(),
            };
            sum.packets += one.packets;
            sum.segments += one.segments;
        }
        sum
    }

    fn by_switch(&self, before: &State, after: &State, host: usize) -> Delivered {
        let port = self.pair.port(host);
        let tx = |state: &State| {
            let port = state.ports.iter().find(|p| Some(p.id) == port);
            port.map(|p| p.counters.tx).unwrap_or_default()
        };
        let (before, after) = (tx(before), tx(after));
        Delivered {
            packets: after.data_packets - before.data_packets,
            segments: after.data_segments - before.data_segments,
        }
    }
}

/// The stack counts all packets after GRO, and the segments TCP made of them; those without data are never merged.
fn by_stack(packets: u64, tcp: Segments) -> Delivered {
    Delivered {
        packets: packets.saturating_sub(tcp.all - tcp.data),
        segments: tcp.data,
    }
}

fn drops(before: &Quiet, after: &Quiet) -> Option<u64> {
    match (before, after) {
        (Quiet::Switch(before), Quiet::Switch(after)) => {
            Some(after.books.dropped - before.books.dropped)
        }
        _ => None,
    }
}

fn switch_cpu(start: Option<State>, end: Option<State>) -> Option<CpuTime> {
    let time = |state: State| CpuTime {
        user_s: state.cpu.user.as_secs_f64(),
        sys_s: state.cpu.system.as_secs_f64(),
    };
    Some(time(end?) - time(start?))
}

/// Traffic that stalls is a finding about the switch; anything else the machine refused.
fn failed(cell: &Cell, error: Error) -> CliError {
    let error = match error {
        Error::Stalled(_) => CliError::failed(error.to_string()),
        _ => machine(error),
    };
    error.at(cell.label())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_fill_the_time_and_are_three_where_they_can() {
        let got = [3, 8, 20, 30, 600].map(|seconds| rounds(seconds, 24));
        assert_eq!(got, [1, 3, 3, 5, 100]);
    }

    #[test]
    fn a_window_that_is_late_is_still_one() {
        let now = Instant::now();
        assert_eq!(window(now, 10), WINDOW[0]);
        assert_eq!(window(now + Duration::from_secs(3600), 10), WINDOW[1]);
    }

    #[test]
    fn pure_acks_are_no_data_packets() {
        let tcp = Segments {
            all: 450,
            data: 440,
        };
        let delivered = Delivered {
            packets: 10,
            segments: 440,
        };
        assert_eq!(by_stack(20, tcp), delivered);
    }

    #[test]
    fn traffic_that_stalls_is_a_failed_outcome() {
        let cell = Cell {
            technique: Technique::Gro,
            family: Family::V6,
            directions: Directions::Both,
            slices: Vec::new(),
        };
        let error = failed(&cell, Error::Stalled("nothing arrived".into()));
        assert_eq!(error.code, crate::error::Code::Failed);
        assert_eq!(
            error.to_string(),
            "gro, ipv6, both directions: nothing arrived"
        );
    }
}
