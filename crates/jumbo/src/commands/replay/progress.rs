//! How far a long replay has come: on stderr, only on a terminal, only after a second.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jumbo_ports::capture::CaptureReader;

/// Nothing is shown for what takes less.
const QUIET: Duration = Duration::from_secs(1);

/// Packets between two looks at the clock.
const LOOK_EVERY: u64 = 4096;

/// Shows itself when it takes long, and goes when dropped.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    /// Until it is shown.
    quiet_since: Option<Instant>,
}

impl Progress {
    pub(crate) fn new(reader: &CaptureReader) -> Self {
        let terminal = io::stderr().is_terminal();
        Self {
            // Hidden from the beginning, so that its estimate is of the whole.
            bar: terminal.then(|| bar(reader.total_bytes())),
            quiet_since: Some(Instant::now()),
        }
    }

    /// Says that `packets` were read so far.
    pub(crate) fn at(&mut self, packets: u64, reader: &CaptureReader) {
        let Some(bar) = self
            .bar
            .as_ref()
            .filter(|_| packets.is_multiple_of(LOOK_EVERY))
        else {
            return;
        };
        bar.set_position(reader.bytes_read());
        if self
            .quiet_since
            .is_some_and(|since| since.elapsed() >= QUIET)
        {
            bar.set_draw_target(ProgressDrawTarget::stderr());
            self.quiet_since = None;
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar(total: Option<u64>) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden());
    let template = match total {
        Some(_) => "{bar:40} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
        None => "{spinner} {bytes}, {bytes_per_sec}",
    };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
