//! What a static check costs on a large host: a card with 64 queues and 500 TAPs, made in a namespace of its own.
//!
//! `cargo run --release -p jumbo-host --example cost`. Prints milliseconds of one reading and one judgement, each the
//! least and the median of ten, and the peak of this process' memory. The aim is 150 ms and 30 MB.

use std::process::{Command, ExitCode};
use std::time::{Instant, SystemTime};

use jumbo_host::check::{Options, check};
use jumbo_host::collect::{Roots, collect};
use jumbo_host::waiver::Date;
use jumbo_lab::ns::{Needs, NetNs, enter};
use jumbo_lab::tap::{Tap, TapOffloads, TapSpec};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const TAPS: usize = 500;
const QUEUES: u32 = 64;
const ROUNDS: usize = 10;

fn main() -> ExitCode {
    match enter(Needs::Links)
        .map_err(|refused| refused.to_string().into())
        .and_then(|_| run())
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cost: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result {
    let ns = NetNs::new()?;
    let link = format!(
        "link add c0 numrxqueues {QUEUES} numtxqueues {QUEUES} type veth peer name c1 numrxqueues {QUEUES} numtxqueues {QUEUES}"
    );
    let made = ns.run(|| Command::new("ip").args(link.split(' ')).status())??;
    if !made.success() {
        return Err("ip cannot make a link with 64 queues".into());
    }
    let taps = (0..TAPS).map(|number| {
        let name = format!("tap{number}");
        Tap::create(&ns, &TapSpec::new(&name, TapOffloads::TSO))
    });
    let taps = taps.collect::<std::result::Result<Vec<_>, _>>()?;
    let (mut reading, mut judging) = (Vec::new(), Vec::new());
    let mut findings = 0;
    for _ in 0..ROUNDS {
        let began = Instant::now();
        let host = ns.run_with_sysfs(|| collect(&Roots::default()))??;
        reading.push(began.elapsed());
        let began = Instant::now();
        let report = check(
            &host,
            None,
            &Options::default(),
            Date::of(SystemTime::now()),
        );
        judging.push(began.elapsed());
        findings = report.findings.len();
    }
    drop(taps);
    for (what, mut times) in [("reading", reading), ("judging", judging)] {
        times.sort_unstable();
        let ms = |at: usize| {
            times
                .get(at)
                .map_or(0.0, |time| time.as_secs_f64() * 1000.0)
        };
        println!(
            "{what}: {:.1} ms at least, {:.1} ms median",
            ms(0),
            ms(ROUNDS / 2)
        );
    }
    println!(
        "{findings} findings; peak memory {} kB",
        peak_kb().unwrap_or(0)
    );
    Ok(())
}

/// `VmHWM` of `/proc/self/status`.
fn peak_kb() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}
