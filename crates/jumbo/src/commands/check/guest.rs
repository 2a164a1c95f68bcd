//! `jumbo check --guest`: what a guest shows, and on which side the cause is.

use std::fmt::Write as _;
use std::io::{self, Read};
use std::path::Path;

use jumbo_host::guest::{Guest, read};

use crate::args::Format;
use crate::error::{CliError, Outcome};
use crate::output;

/// More than any adapter list.
const GUEST_MAX_LEN: u64 = 16 << 20;

/// Reads, judges and shows.
pub(super) fn run(path: &Path, format: Format) -> Result<Outcome, CliError> {
    let wrong = |what: String| CliError::usage(what).at(path.display());
    let bytes =
        bytes(path).map_err(|error| wrong(format!("cannot read what the guest shows: {error}")))?;
    let guest = read(&bytes).map_err(|error| wrong(error.to_string()))?;
    output::print(format, &guest, |guest, _| human(guest))?;
    Ok(if guest.ill() {
        Outcome::Findings
    } else {
        Outcome::Fine
    })
}

fn bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match path == Path::new("-") {
        true => io::stdin()
            .lock()
            .take(GUEST_MAX_LEN)
            .read_to_end(&mut bytes)?,
        false => std::fs::File::open(path)?
            .take(GUEST_MAX_LEN)
            .read_to_end(&mut bytes)?,
    };
    Ok(bytes)
}

fn human(guest: &Guest) -> String {
    let mut text = format!("a guest with {}\n", guest.system);
    for line in &guest.lines {
        let adapter = line
            .adapter
            .as_deref()
            .map(|name| format!("{name} "))
            .unwrap_or_default();
        let state = if line.operational {
            "works"
        } else {
            "does not work"
        };
        let _ = writeln!(text, "\n{adapter}{}: {state} ({})", line.what, line.reason);
        if !line.operational {
            let _ = writeln!(text, "  {}\n  fix  {}", line.side.words(), line.remedy);
        }
    }
    text
}
