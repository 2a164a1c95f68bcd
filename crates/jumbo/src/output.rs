//! Where words go: data to stdout, talk to stderr, the outcome to the exit code.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use serde::Serialize;

use crate::args::Format;
use crate::error::{CliError, Outcome};
use crate::render::Width;

/// Prints `data` on stdout, as JSON or as the text `human` makes of it.
pub(crate) fn print<T: Serialize>(
    format: Format,
    data: &T,
    human: impl FnOnce(&T, Width) -> String,
) -> Result<(), CliError> {
    let text = match format {
        Format::Table => human(data, terminal_width()),
        Format::Json => to_json(data)?,
    };
    print_text(&text)
}

/// Prints `data` on stderr: stdout is taken by other data.
pub(crate) fn print_aside<T: Serialize>(
    format: Format,
    data: &T,
    human: impl FnOnce(&T, Width) -> String,
) -> Result<(), CliError> {
    let text = match format {
        Format::Table => human(data, None),
        Format::Json => to_json(data)?,
    };
    let _ = writeln!(io::stderr().lock(), "{}", text.trim_end_matches('\n'));
    Ok(())
}

fn terminal_width() -> Width {
    let size = io::stdout()
        .is_terminal()
        .then(terminal_size::terminal_size)
        .flatten();
    size.map(|(width, _)| width.0)
}

fn to_json<T: Serialize>(data: &T) -> Result<String, CliError> {
    serde_json::to_string_pretty(data)
        .map_err(|error| CliError::internal(format!("cannot write the answer as JSON: {error}")))
}

/// Prints text on stdout and ends it with a newline.
///
/// A reader who left (`jumbo status | head -1`) is no error: whoever prints here prints its last word. This is the
/// only place that handles a broken pipe, because Rust programs ignore SIGPIPE and get EPIPE here instead.
pub(crate) fn print_text(text: &str) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    let written = writeln!(stdout, "{}", text.trim_end_matches('\n')).and_then(|()| stdout.flush());
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(CliError::machine(format!(
            "cannot write to stdout: {error}"
        ))),
        Ok(()) => Ok(()),
    }
}

/// Says something to the operator on stderr. Nobody listening is fine.
pub(crate) fn talk(text: impl std::fmt::Display) {
    let _ = writeln!(io::stderr().lock(), "jumbo: {text}");
}

/// Ends the command: the error on stderr, coloured where a terminal and `NO_COLOR` allow it, and the exit code.
pub(crate) fn exit_code(result: Result<Outcome, CliError>) -> ExitCode {
    match result {
        Ok(Outcome::Fine) => ExitCode::SUCCESS,
        Ok(Outcome::Findings) => ExitCode::from(1),
        Ok(Outcome::Plugin(code)) => ExitCode::from(code),
        Err(error) => {
            let _ = writeln!(anstream::stderr().lock(), "\x1b[1;31merror:\x1b[0m {error}");
            ExitCode::from(error.code.number())
        }
    }
}
