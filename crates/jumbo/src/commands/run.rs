//! `jumbo run`: the switch, from its configuration to its summary.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use signal_hook::consts::{SIGINT, SIGTERM};

use crate::args::{Format, RunArgs};
use crate::control::server::{Limits, serve};
use crate::control::socket::{Dirs, claim};
use crate::control::{Ports, Request, Response, Status};
use crate::error::{CliError, Outcome};
use crate::switch_api::{self, RunConfig, Snapshot, StopCause, Switch};
use crate::{config, output, render};

/// Runs until a signal or until the switch breaks.
pub(crate) fn run(args: &RunArgs, format: Format) -> Result<Outcome, CliError> {
    let config = config::load(args)?;
    let (causes, stop) = channel();
    watch_signals(causes.clone())?;
    run_with(
        &config,
        &Dirs::of_this_user(),
        format,
        (causes, stop),
        switch_api::start,
    )
}

/// The first SIGINT or SIGTERM becomes a [`StopCause`]; the second ends the process at once, with exit code 1.
fn watch_signals(causes: Sender<StopCause>) -> Result<(), CliError> {
    let refuse =
        |error: std::io::Error| CliError::machine(format!("cannot watch for signals: {error}"));
    let seen = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order: the first signal arms what the second one finds.
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&seen))
            .map_err(refuse)?;
        signal_hook::flag::register(signal, Arc::clone(&seen)).map_err(refuse)?;
    }
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM]).map_err(refuse)?;
    let wait = move || {
        if let Some(signal) = signals.forever().next() {
            let _ = causes.send(StopCause::Signal(if signal == SIGINT {
                "SIGINT"
            } else {
                "SIGTERM"
            }));
        }
    };
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(wait)
        .map_err(refuse)?;
    Ok(())
}

/// Socket first, as it is cheap to refuse; then the switch; then answers until there is a cause to stop.
fn run_with(
    config: &RunConfig,
    dirs: &Dirs,
    format: Format,
    (causes, stop): (Sender<StopCause>, Receiver<StopCause>),
    start: impl FnOnce(&RunConfig, Sender<StopCause>) -> Result<Arc<dyn Switch>, CliError>,
) -> Result<Outcome, CliError> {
    let claimed = claim(config.socket.as_deref(), dirs)?;
    let switch = start(config, causes)?;
    let about = About {
        started: Instant::now(),
        socket: claimed.path.display().to_string(),
    };
    let listener = claimed
        .listener
        .try_clone()
        .map_err(|error| CliError::machine(error.to_string()))?;
    let server = serve(
        listener,
        Limits::default(),
        handler(about.clone(), Arc::clone(&switch)),
    )
    .map_err(|error| CliError::machine(format!("cannot serve the control socket: {error}")))?;
    greet(config, &claimed.path);

    let cause = stop
        .recv()
        .map_err(|_| CliError::internal("nobody is left who could stop the switch"));
    drop(server);
    let last = about.status(switch.stop());
    output::print(format, &last, render::status)?;
    judge(cause?, &last.switch)
}

fn greet(config: &RunConfig, socket: &Path) {
    let ports: Vec<_> = config.ports.iter().map(|port| port.name.as_str()).collect();
    output::talk(format_args!(
        "switching between {}; control socket {}",
        ports.join(", "),
        socket.display()
    ));
}

fn judge(cause: StopCause, last: &Snapshot) -> Result<Outcome, CliError> {
    match cause {
        StopCause::Broken(error) => Err(error),
        StopCause::Signal(_) if !last.books.balanced => {
            output::talk("the books do not balance: packets are unaccounted for");
            Ok(Outcome::Findings)
        }
        StopCause::Signal(name) => {
            output::talk(format_args!("stopped by {name}"));
            Ok(Outcome::Fine)
        }
    }
}

/// What the switch does not know about itself.
#[derive(Debug, Clone)]
struct About {
    started: Instant,
    socket: String,
}

impl About {
    fn status(&self, switch: Snapshot) -> Status {
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs(),
            socket: self.socket.clone(),
            switch,
        }
    }
}

fn handler(about: About, switch: Arc<dyn Switch>) -> impl Fn(Request) -> Response + Send + 'static {
    move |request| match request {
        Request::Status => Response::data(&about.status(switch.snapshot())),
        Request::Ports => Response::data(&Ports {
            ports: switch.snapshot().ports,
        }),
    }
}

#[cfg(test)]
mod tests;
