//! The engine beside its peers: the same packets, one process, rounds in turn.
//!
//! `peers [--json] [--rounds N] [--only TEXT] [--cpu N]`

#![deny(unsafe_code)]

mod bench;
mod gro;
mod gso;
mod report;
mod ring;
mod sums;
mod sys;

use std::cell::RefCell;
use std::process::ExitCode;
use std::rc::Rc;

use jumbo_engine::checksum::Kernels;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::bench::Work;
use crate::sys::Pool;

struct Options {
    json: bool,
    rounds: usize,
    only: String,
    cpu: Option<usize>,
    /// JSON of another run, to be repeated before this one's.
    with: Option<String>,
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        json: false,
        rounds: 31,
        only: String::new(),
        cpu: None,
        with: None,
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number = || {
            let value = args.next().and_then(|value| value.parse::<usize>().ok());
            value.ok_or_else(|| format!("{arg} wants a number"))
        };
        match arg.as_str() {
            "--json" => options.json = true,
            "--rounds" => options.rounds = number()?.max(1),
            "--cpu" => options.cpu = Some(number()?),
            "--with" => options.with = args.next(),
            "--only" => options.only = args.next().ok_or("--only wants part of a work's name")?,
            _ => {
                return Err(format!(
                    "{arg}: not known (--json, --rounds N, --only TEXT, --cpu N)"
                ));
            }
        }
    }
    Ok(options)
}

/// Stays on one CPU: the one asked for, or the last there is.
fn pin(cpu: Option<usize>) -> Result<usize, String> {
    let allowed = sched_getaffinity(None).map_err(|e| e.to_string())?;
    let last = (0..CpuSet::MAX_CPU).rev().find(|cpu| allowed.is_set(*cpu));
    let cpu = cpu.or(last).ok_or("no CPU to run on")?;
    let mut one = CpuSet::new();
    one.set(cpu);
    sched_setaffinity(None, &one).map_err(|e| format!("CPU {cpu}: {e}"))?;
    Ok(cpu)
}

fn all_works(pool: &ring::Shared, dpdk: &str) -> Result<Vec<Work>, String> {
    let tun_rs = concat!("tun-rs-", env!("PEERS_TUN_RS"));
    let mut works = gro::works(pool, dpdk, tun_rs)?;
    works.extend(gso::works(dpdk, tun_rs));
    works.extend(sums::checksums(dpdk, tun_rs));
    works.extend(sums::toeplitz(dpdk));
    Ok(works)
}

fn run() -> Result<(), String> {
    let options = options()?;
    let cpu = pin(options.cpu)?;
    let pool = Pool::start(cpu, gro::PACKETS)?;
    let pool = Rc::new(RefCell::new(pool));
    let version = sys::dpdk_version();
    let dpdk = format!("dpdk-{version}");
    let mut works = all_works(&pool, &dpdk)?;
    works.retain(|work| work.name.contains(&options.only));
    eprintln!(
        "DPDK {version}; CPU {cpu}; {} rounds; packets on pages of: {}; kernels: {}; shim: {} -O3 -march=native",
        options.rounds,
        pool.borrow().pages(),
        Kernels::detect().name(),
        env!("PEERS_CC"),
    );
    bench::run(&mut works, options.rounds, |round| {
        if round % 10 == 0 {
            eprintln!("round {} of {}", round + 1, options.rounds);
        }
    });
    if options.json {
        let before = options.with.map(std::fs::read_to_string);
        let before = before.transpose().map_err(|e| e.to_string())?;
        println!("{}", report::json(before.as_deref(), &works, &version)?);
    } else {
        print!("{}", report::table(&works));
    }
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("peers: {why}");
            ExitCode::FAILURE
        }
    }
}
