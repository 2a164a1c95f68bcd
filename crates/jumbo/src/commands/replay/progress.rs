//! How far a long replay has come: on stderr, only on a terminal, only after a second.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use jumbo_ports::capture::CaptureReader;

/// Nothing is shown for what takes less.
const QUIET: Duration = Duration::from_secs(1);

/// Packets between two looks at the clock.
const LOOK_EVERY: u64 = 4096;

/// Shows itself when it takes long, and goes when dropped.
#[derive(Debug)]
pub(crate) struct Progress {
    started: Option<Instant>,
    bar: Option<ProgressBar>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self {
            started: io::stderr().is_terminal().then(Instant::now),
            bar: None,
        }
    }

    /// Says that `packets` were read so far.
    pub(crate) fn at(&mut self, packets: u64, reader: &CaptureReader) {
        let Some(started) = self.started.filter(|_| packets.is_multiple_of(LOOK_EVERY)) else {
            return;
        };
        if self.bar.is_none() && started.elapsed() >= QUIET {
            self.bar = Some(bar(reader.total_bytes()));
        }
        if let Some(bar) = &self.bar {
            bar.set_position(reader.bytes_read());
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
    let (bar, template) = match total {
        Some(total) => (
            ProgressBar::new(total),
            "{bar:40} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
        ),
        None => (
            ProgressBar::new_spinner(),
            "{spinner} {bytes}, {bytes_per_sec}",
        ),
    };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
