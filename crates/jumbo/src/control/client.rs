//! Asks a running switch.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::socket::{Dirs, Probe, is_trusted, pid_note, probe, sockets_in};
use super::{Request, Response};
use crate::error::CliError;

/// Longest wait for an answer; the switch answers from counters.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest answer, in bytes: 256 ports with all their reasons are below 10 MB.
const ANSWER_LEN_MAX: u64 = 32 << 20;

/// Finds the switch and asks it.
///
/// # Errors
/// 1 when no switch runs, 2 when several do, 3 when it may not be asked, else what the switch says.
pub(crate) fn ask<T: DeserializeOwned>(
    socket: Option<&Path>,
    dirs: &Dirs,
    request: Request,
) -> Result<T, CliError> {
    let stream = match socket {
        Some(path) => connect(path)?,
        None => find(dirs)?,
    };
    exchange(stream, request)
}

/// Asks for what does not end with the answer; returns what follows it.
///
/// # Errors
/// As for [`ask`].
pub(crate) fn stream(
    socket: Option<&Path>,
    dirs: &Dirs,
    request: Request,
) -> Result<impl Read + use<>, CliError> {
    let mut stream = match socket {
        Some(path) => connect(path)?,
        None => find(dirs)?,
    };
    let mut line =
        serde_json::to_vec(&request).map_err(|error| CliError::internal(error.to_string()))?;
    line.push(b'\n');
    let timeout = Some(ANSWER_TIMEOUT);
    stream.set_read_timeout(timeout).map_err(broken)?;
    stream.write_all(&line).map_err(broken)?;
    let mut reader = BufReader::new(stream);
    let mut answer = Vec::new();
    (&mut reader)
        .take(ANSWER_LEN_MAX)
        .read_until(b'\n', &mut answer)
        .map_err(broken)?;
    understand::<serde_json::Value>(&answer)?;
    // From here on silence means that nothing passes.
    reader.get_ref().set_read_timeout(None).map_err(broken)?;
    Ok(reader)
}

fn connect(path: &Path) -> Result<UnixStream, CliError> {
    match probe(path) {
        Probe::Live(stream) => Ok(stream),
        Probe::Closed(error) => Err(refused(path, &error)),
        Probe::Stale => {
            Err(CliError::failed("the switch of this socket has ended").at(path.display()))
        }
        Probe::Other => Err(CliError::failed("no switch listens here").at(path.display())),
    }
}

fn refused(path: &Path, error: &std::io::Error) -> CliError {
    CliError::machine(format!("cannot ask the switch: {error}"))
        .at(path.display())
        .way_out("ask as the user who runs it")
}

/// The one switch that is running.
fn find(dirs: &Dirs) -> Result<UnixStream, CliError> {
    let mut live: Vec<(PathBuf, UnixStream)> = Vec::new();
    let mut closed = None;
    for path in dirs
        .all
        .iter()
        .filter(|dir| is_trusted(dir))
        .flat_map(|dir| sockets_in(dir))
    {
        match probe(&path) {
            Probe::Live(stream) => live.push((path, stream)),
            Probe::Closed(error) => closed = Some(refused(&path, &error)),
            Probe::Stale | Probe::Other => {}
        }
    }
    if live.len() > 1 {
        return Err(several(&live));
    }
    match (live.pop(), closed) {
        (Some((_, stream)), _) => Ok(stream),
        (None, Some(refused)) => Err(refused),
        (None, None) => {
            Err(CliError::failed("no switch is running").way_out("start one with `jumbo run`"))
        }
    }
}

fn several(live: &[(PathBuf, UnixStream)]) -> CliError {
    let list: String = live
        .iter()
        .map(|(path, stream)| format!("\n  {}{}", path.display(), pid_note(stream)))
        .collect();
    CliError::usage(format!("{} switches are running", live.len()))
        .way_out(format!("choose one with --socket:{list}"))
}

fn exchange<T: DeserializeOwned>(mut stream: UnixStream, request: Request) -> Result<T, CliError> {
    let mut line =
        serde_json::to_vec(&request).map_err(|error| CliError::internal(error.to_string()))?;
    line.push(b'\n');
    stream
        .set_read_timeout(Some(ANSWER_TIMEOUT))
        .map_err(broken)?;
    stream
        .set_write_timeout(Some(ANSWER_TIMEOUT))
        .map_err(broken)?;
    // A server that is full answers and closes without reading: its answer says more than our broken pipe.
    let written = stream.write_all(&line);
    let mut answer = Vec::new();
    BufReader::new(stream.take(ANSWER_LEN_MAX))
        .read_until(b'\n', &mut answer)
        .map_err(broken)?;
    if answer.is_empty() {
        written.map_err(broken)?;
        return Err(CliError::failed(
            "the switch closed the connection without an answer",
        ));
    }
    understand(&answer)
}

fn broken(error: std::io::Error) -> CliError {
    use std::io::ErrorKind::{TimedOut, WouldBlock};
    if matches!(error.kind(), WouldBlock | TimedOut) {
        let limit_s = ANSWER_TIMEOUT.as_secs();
        return CliError::failed(format!("the switch does not answer within {limit_s} s"))
            .way_out("see whether its process is stopped");
    }
    CliError::failed(format!("the switch does not answer: {error}"))
}

fn understand<T: DeserializeOwned>(answer: &[u8]) -> Result<T, CliError> {
    let strange = |error: serde_json::Error| {
        CliError::failed(format!("cannot understand the switch's answer: {error}"))
            .way_out("is it a jumbo of another version?")
    };
    match serde_json::from_slice(answer).map_err(strange)? {
        Response {
            ok: true,
            data: Some(data),
            ..
        } => serde_json::from_value(data).map_err(strange),
        Response { error, code, .. } => {
            let what = error.unwrap_or_else(|| "the switch refuses without a reason".into());
            Err(CliError::from_peer(code.unwrap_or(4), what))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switch_that_is_stopped_is_told_from_one_that_broke() {
        // What a read gives whose timeout has passed (socket(7), SO_RCVTIMEO).
        let late = broken(std::io::Error::from_raw_os_error(11)).to_string();
        assert!(late.contains("within 5 s"), "{late}");
        let reset = broken(std::io::Error::from_raw_os_error(104)).to_string();
        assert!(reset.contains("os error 104"), "{reset}");
    }
}
