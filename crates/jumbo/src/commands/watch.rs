//! `jumbo watch`: rates, live, from a record, or as lines of JSON.

mod feed;
mod screen;
mod state;

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::args::{Format, WatchArgs};
use crate::error::{CliError, Outcome};
use feed::Feed;
use state::{State, View};

/// Watches until it is told to stop.
pub(crate) fn run(args: &WatchArgs, format: Format) -> Result<Outcome, CliError> {
    let mut feed = Feed::open(args)?;
    let state = State::new(args.devices.clone());
    let batch = args.batch || format == Format::Json || !io::stdout().is_terminal();
    match batch {
        true => lines(&mut feed, state, args)?,
        false => {
            let stop = stop()?;
            screen::run(&mut feed, state, args, &stop)?;
        }
    }
    Ok(Outcome::Fine)
}

/// Set by the signals that end a program.
fn stop() -> Result<Arc<AtomicBool>, CliError> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|error| CliError::machine(format!("cannot listen for signals: {error}")))?;
    }
    Ok(stop)
}

/// A line per interval; a reader who leaves ends it.
fn lines(feed: &mut Feed, mut state: State, args: &WatchArgs) -> Result<(), CliError> {
    let stop = stop()?;
    let mut printed = 0;
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) && args.count.is_none_or(|count| printed < count) {
        let Some(frame) = feed.next()? else { break };
        if let Some(view) = state.take(frame) {
            if !print(view)? {
                break;
            }
            printed += 1;
        }
        if feed.is_live() {
            next += args.interval.0;
            pause(next, &stop);
        }
    }
    feed.finish()
}

fn print(view: &View) -> Result<bool, CliError> {
    let text = serde_json::to_string(view)
        .map_err(|error| CliError::internal(format!("cannot write the rates as JSON: {error}")))?;
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(CliError::machine(format!(
            "cannot write to stdout: {error}"
        ))),
    }
}

/// Longest sleep that a signal has to wait for.
const NAP: Duration = Duration::from_millis(250);

fn pause(until: Instant, stop: &AtomicBool) {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || stop.load(Ordering::Relaxed) {
            return;
        }
        std::thread::sleep(left.min(NAP));
    }
}
