//! What work costs: CPU time of threads and of the machine, and the figures
//! that describe a series of runs.

use std::fs;
use std::ops::Sub;
use std::time::Duration;

use crate::error::{Doing, Result};
use crate::sys;

/// CPU time, split into what the program did and what the kernel did for it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CpuTime {
    /// Seconds in user space.
    pub user_s: f64,
    /// Seconds in the kernel; contains softirq work done on the thread's call.
    pub sys_s: f64,
}

impl CpuTime {
    /// User and kernel together.
    pub fn total_s(self) -> f64 {
        self.user_s + self.sys_s
    }

    fn from_parts((user, sys): (Duration, Duration)) -> Self {
        Self {
            user_s: user.as_secs_f64(),
            sys_s: sys.as_secs_f64(),
        }
    }
}

impl Sub for CpuTime {
    type Output = Self;
    /// Never below zero: the kernel's split between user and system is an
    /// estimate that may move a little backwards.
    fn sub(self, before: Self) -> Self {
        Self {
            user_s: (self.user_s - before.user_s).max(0.0),
            sys_s: (self.sys_s - before.sys_s).max(0.0),
        }
    }
}

impl std::ops::AddAssign for CpuTime {
    fn add_assign(&mut self, other: Self) {
        self.user_s += other.user_s;
        self.sys_s += other.sys_s;
    }
}

impl std::iter::Sum for CpuTime {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::default(), |mut sum, x| {
            sum += x;
            sum
        })
    }
}

/// CPU time of the calling thread.
#[derive(Debug)]
pub struct ThreadCpu;

impl ThreadCpu {
    /// Since the thread began (getrusage, RUSAGE_THREAD).
    pub fn now() -> CpuTime {
        // Fails only for an unknown `who`, which this is not.
        CpuTime::from_parts(sys::usage::thread().unwrap_or_default())
    }
}

/// CPU time of all threads of this process.
#[derive(Debug)]
pub struct ProcessCpu;

impl ProcessCpu {
    /// Since the process began.
    pub fn now() -> CpuTime {
        CpuTime::from_parts(sys::usage::process().unwrap_or_default())
    }
}

/// Kernel id of the calling thread, for [`thread_total`] and [`thread_split`].
pub fn tid() -> i32 {
    rustix::thread::gettid().as_raw_nonzero().get()
}

/// Exact CPU time of another thread of this process.
/// Source: Documentation/scheduler/sched-stats.rst (`schedstat`).
pub fn thread_total(tid: i32) -> Result<Duration> {
    let path = format!("/proc/self/task/{tid}/schedstat");
    let text = fs::read_to_string(&path).doing(|| format!("read {path}"))?;
    first_number(&text)
        .map(Duration::from_nanos)
        .ok_or(std::io::ErrorKind::InvalidData)
        .doing(|| format!("read {path}"))
}

/// CPU time of another thread of this process, split, in steps of a clock
/// tick (10 ms as a rule). Source: proc_pid_stat(5), fields 14 and 15.
pub fn thread_split(tid: i32) -> Result<CpuTime> {
    let path = format!("/proc/self/task/{tid}/stat");
    let text = fs::read_to_string(&path).doing(|| format!("read {path}"))?;
    split_of_stat(&text, rustix::param::clock_ticks_per_second())
        .ok_or(std::io::ErrorKind::InvalidData)
        .doing(|| format!("read {path}"))
}

fn split_of_stat(text: &str, ticks_per_s: u64) -> Option<CpuTime> {
    // The name in parentheses may itself hold spaces and parentheses.
    let (_, fields) = text.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let mut seconds = || Some(fields.next()?.parse::<u64>().ok()? as f64 / ticks_per_s as f64);
    Some(CpuTime {
        user_s: seconds()?,
        sys_s: seconds()?,
    })
}

fn first_number(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}

/// CPU time of all `ksoftirqd/N` threads; `None` where the kernel's threads
/// cannot be seen (a container's own PID namespace).
pub fn ksoftirqd_total() -> Option<Duration> {
    Ksoftirqd::find()?.total()
}

/// The kernel's `ksoftirqd/N` threads, found once: asking again costs only a
/// small file per CPU.
#[derive(Debug, Clone)]
pub struct Ksoftirqd {
    pids: Vec<u32>,
}

impl Ksoftirqd {
    /// `None` where the kernel's threads cannot be seen.
    pub fn find() -> Option<Self> {
        let pids = ksoftirqd_pids();
        (!pids.is_empty()).then_some(Self { pids })
    }

    /// CPU time of all of them, for everything on the machine.
    pub fn total(&self) -> Option<Duration> {
        let times = self.pids.iter().filter_map(|pid| {
            let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?;
            first_number(&text).map(Duration::from_nanos)
        });
        let times: Vec<Duration> = times.collect();
        (!times.is_empty()).then(|| times.iter().sum())
    }
}

fn ksoftirqd_pids() -> Vec<u32> {
    let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = numbers.filter_map(|e| e.file_name().to_str()?.parse().ok());
    numbers.filter(|pid: &u32| is_ksoftirqd(*pid)).collect()
}

fn is_ksoftirqd(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c.starts_with("ksoftirqd/"))
}

/// How busy the machine is with everything, ourselves included.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MachineLoad {
    /// Runnable threads, averaged over the last minute (/proc/loadavg).
    pub load_1min: f64,
    /// CPUs of the machine.
    pub cpus: usize,
    /// CPU seconds not idle since boot, over all CPUs; differences count.
    pub busy_s: f64,
    /// CPU seconds in softirq since boot.
    pub softirq_s: f64,
    /// CPU seconds the hypervisor gave to others since boot.
    pub steal_s: f64,
}

impl MachineLoad {
    /// At this moment. Source: proc_loadavg(5), proc_stat(5).
    pub fn now() -> Result<Self> {
        let load = fs::read_to_string("/proc/loadavg").doing(|| "read /proc/loadavg")?;
        let stat = fs::read_to_string("/proc/stat").doing(|| "read /proc/stat")?;
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        parse_load(&load, &stat, cpus)
            .ok_or(std::io::ErrorKind::InvalidData)
            .doing(|| "read /proc/stat")
    }
}

fn parse_load(load: &str, stat: &str, cpus: usize) -> Option<MachineLoad> {
    let ticks_per_s = rustix::param::clock_ticks_per_second() as f64;
    let line = stat.lines().find(|l| l.starts_with("cpu "))?;
    // user nice system idle iowait irq softirq steal
    let s: Vec<f64> = line
        .split_whitespace()
        .skip(1)
        .filter_map(|n| Some(n.parse::<f64>().ok()? / ticks_per_s))
        .collect();
    let idle_s = s.get(3)? + s.get(4)?;
    Some(MachineLoad {
        load_1min: load.split_whitespace().next()?.parse().ok()?,
        cpus,
        busy_s: s.iter().take(8).sum::<f64>() - idle_s,
        softirq_s: *s.get(6)?,
        steal_s: *s.get(7)?,
    })
}

/// A series of runs in five figures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// Runs.
    pub count: usize,
    /// Smallest.
    pub min: f64,
    /// A quarter of the runs lie below.
    pub q1: f64,
    /// Half of the runs lie below.
    pub median: f64,
    /// A quarter of the runs lie above.
    pub q3: f64,
    /// Largest.
    pub max: f64,
}

impl Summary {
    /// `None` for no values, or if one is not a number.
    pub fn of(values: &[f64]) -> Option<Self> {
        if values.is_empty() || values.iter().any(|v| v.is_nan()) {
            return None;
        }
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            count: sorted.len(),
            min: sorted[0],
            q1: quantile(&sorted, 0.25),
            median: quantile(&sorted, 0.5),
            q3: quantile(&sorted, 0.75),
            max: sorted[sorted.len() - 1],
        })
    }

    /// Distance of the quartiles relative to the median: 0.1 reads "10 %".
    pub fn spread(&self) -> f64 {
        (self.q3 - self.q1) / self.median
    }
}

/// The value below which the share `q` (0 to 1) of the ascending, non-empty
/// `sorted` lies, interpolated between neighbours.
pub fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = q.clamp(0.0, 1.0) * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    low + (high - low) * at.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_of_one_to_five() {
        let s = Summary::of(&[5.0, 1.0, 4.0, 2.0, 3.0]).unwrap();
        assert_eq!(
            (s.min, s.q1, s.median, s.q3, s.max),
            (1.0, 2.0, 3.0, 4.0, 5.0)
        );
        assert_eq!(s.spread(), 2.0 / 3.0);
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn a_thread_name_may_hold_parentheses() {
        let text = "7 (a) b) S 1 1 1 0 -1 0 0 0 0 0 250 50 0 0 20";
        let cpu = split_of_stat(text, 100).unwrap();
        assert_eq!((cpu.user_s, cpu.sys_s), (2.5, 0.5));
    }

    #[test]
    fn work_shows_up_as_user_time() {
        let before = ThreadCpu::now();
        let mut x = 1u64;
        // The kernel accounts in ticks at worst; a bound only ends a hang.
        for _ in 0..1_000_000_000u64 {
            x = std::hint::black_box(x.wrapping_mul(3));
            if x % 65536 == 1 && (ThreadCpu::now() - before).total_s() > 0.0 {
                break;
            }
        }
        assert!((ThreadCpu::now() - before).total_s() > 0.0);
        assert!(thread_total(tid()).unwrap() > Duration::ZERO);
        thread_split(tid()).unwrap();
    }

    #[test]
    fn the_machine_has_been_busy() {
        let load = MachineLoad::now().unwrap();
        assert!(load.busy_s > 0.0 && load.cpus > 0);
    }
}
