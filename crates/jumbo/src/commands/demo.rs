//! `jumbo demo`: what each technique does for kernel TCP, measured on this machine.
//!
//! * [`technique`]: what the rows are.
//! * [`pair`]: two hosts and what joins them.
//! * [`measure`]: traffic in interleaved slices.
//! * [`report`]: rows, reasons and the conclusion, out of the slices.
//! * [`page`]: the same for people.

mod measure;
mod page;
mod pair;
mod report;
mod technique;

use jumbo_lab::ns::{self, Needs, Refused};

use crate::args::{DemoArgs, Format};
use crate::config::values::Mtu;
use crate::error::{CliError, Outcome};
use crate::output;

/// The smallest MTU of IPv6 (RFC 8200, section 5).
const MTU_MIN: u16 = 1280;

/// What to try where this machine refuses, and afterwards.
const NEXT: &str = "jumbo replay --sample";

/// Proves it on this machine.
pub(crate) fn run(args: DemoArgs, format: Format) -> Result<Outcome, CliError> {
    check_mtu(args.mtu)?;
    // Before anything starts a thread: only then may a user enter namespaces.
    ns::enter(Needs::Taps).map_err(refused)?;
    let measured = measure::run(args.seconds, args.mtu.get())?;
    let demo = report::of(measured);
    output::print(format, &demo, page::demo)?;
    Ok(outcome(&demo))
}

fn check_mtu(mtu: Mtu) -> Result<(), CliError> {
    match mtu.get() {
        MTU_MIN.. => Ok(()),
        less => Err(CliError::usage("too small for IPv6")
            .at(format!("--mtu {less}"))
            .way_out(format!("give {MTU_MIN} bytes or more"))),
    }
}

/// The refusal names its own way out; the rest of Jumbo is not lost with it.
fn refused(refused: Refused) -> CliError {
    match refused {
        Refused::Threads => CliError::internal(refused.to_string()),
        _ => machine(refused),
    }
}

fn machine(error: impl std::fmt::Display) -> CliError {
    CliError::machine(error.to_string()).way_out(format!("`{NEXT}` needs no rights at all"))
}

fn outcome(demo: &report::Demo) -> Outcome {
    for row in demo.rows.iter().filter(|row| !row.intact) {
        output::talk(format_args!("{}: bytes arrived wrong", row.label()));
    }
    if !demo.books_balanced {
        output::talk("the books do not balance: packets are unaccounted for");
    }
    match demo.books_balanced && demo.rows.iter().all(|row| row.intact) {
        true => Outcome::Fine,
        false => Outcome::Findings,
    }
}

#[cfg(test)]
mod tests;
