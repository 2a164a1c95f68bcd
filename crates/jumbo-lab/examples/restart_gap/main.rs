//! How long guests wait when the switch is killed and started again, with the switch as the client of its sockets.
//!
//! `cargo build --release -p jumbo && cargo run --release -p jumbo-lab --example restart_gap -- --jumbo target/release/jumbo`
//!
//! `--works own-split,own-packed,…`, `--restarts N` (of each). In the `own` works both cards are the test kit's driver,
//! which spins, so that nothing is measured but the switch's own return. In the `echo` works such a card asks the kernel of a
//! guest in QEMU (software emulation) each millisecond, in the `tcp` works two guests talk.

mod guest;
mod own;
mod switch;

use std::path::PathBuf;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const USAGE: &str = "restart_gap --jumbo PATH [--restarts N] \
    [--works own-split,own-packed,qemu-split,qemu-packed]";

const WORKS: &str = "own-split,own-packed,echo-split,echo-packed,tcp-split,tcp-packed";

struct Args {
    jumbo: PathBuf,
    restarts: usize,
    works: Vec<String>,
}

fn args() -> Result<Args> {
    let mut args = Args {
        jumbo: PathBuf::new(),
        restarts: 15,
        works: WORKS.split(',').map(String::from).collect(),
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(USAGE);
        match word.as_str() {
            "--jumbo" => args.jumbo = PathBuf::from(value()?).canonicalize()?,
            "--restarts" => args.restarts = value()?.parse()?,
            "--works" => args.works = value()?.split(',').map(String::from).collect(),
            _ => return Err(USAGE.into()),
        }
    }
    if args.jumbo.as_os_str().is_empty() {
        return Err(USAGE.into());
    }
    Ok(args)
}

fn main() -> Result<()> {
    let args = args()?;
    jumbo_lab::ns::enter(jumbo_lab::ns::Needs::Taps)?;
    for work in &args.works {
        let packed = work.ends_with("packed");
        println!("{work}");
        match work.as_str() {
            "own-split" | "own-packed" => own::measure(&args.jumbo, packed, args.restarts)?,
            "echo-split" | "echo-packed" => guest::echoes(&args.jumbo, packed, args.restarts)?,
            "tcp-split" | "tcp-packed" => guest::tcp(&args.jumbo, packed, args.restarts)?,
            _ => return Err(USAGE.into()),
        }
    }
    Ok(())
}

/// A line: the median, and the least and the most.
pub(crate) fn print(name: &str, unit: &str, values: &[f64]) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (Some(least), Some(most)) = (sorted.first(), sorted.last()) else {
        return;
    };
    let median = sorted[sorted.len() / 2];
    let count = sorted.len();
    println!(
        "  {name:<34} median {median:8.2} {unit:<3} ({least:.2} to {most:.2}, {count} restarts)"
    );
}
