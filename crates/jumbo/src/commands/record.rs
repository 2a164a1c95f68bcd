//! `jumbo record`: this host's offload state as one file.

use std::io::{self, IsTerminal};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use jumbo_host::collect::{Roots, collect};
use jumbo_host::recording::Recording;
use jumbo_host::snapshot::Snapshot;

use crate::args::RecordArgs;
use crate::error::{CliError, Outcome};
use crate::output;

/// Reads and writes.
pub(crate) fn run(args: &RecordArgs) -> Result<Outcome, CliError> {
    let mut recording = take(args.sample)?;
    if args.redact {
        recording.redact();
    }
    let text = serde_json::to_string_pretty(&recording)
        .map_err(|error| CliError::internal(format!("cannot write the recording: {error}")))?;
    match &args.output {
        Some(path) => write(path, &text)?,
        None => output::print_text(&text)?,
    }
    Ok(Outcome::Fine)
}

fn write(path: &Path, text: &str) -> Result<(), CliError> {
    let write = || std::fs::write(path, format!("{text}\n"));
    write().map_err(|error| CliError::machine(format!("cannot write: {error}")).at(path.display()))
}

/// One reading, or two with so many seconds between them.
pub(super) fn take(sample_s: u32) -> Result<Recording, CliError> {
    let first = reading()?;
    if sample_s == 0 {
        return Ok(Recording {
            before: None,
            now: first,
        });
    }
    if io::stderr().is_terminal() {
        output::talk(format_args!("watching for {sample_s} s"));
    }
    sleep(Duration::from_secs(sample_s.into()));
    Ok(Recording {
        before: Some(first),
        now: reading()?,
    })
}

fn reading() -> Result<Snapshot, CliError> {
    collect(&Roots::default())
        .map_err(|error| CliError::machine(format!("cannot list the network devices: {error}")))
}
