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
use crate::switch_api::{RunConfig, Snapshot, StopCause, Switch};
use crate::{config, output, render, running};

/// Runs until a signal or until the switch breaks, then prints the summary.
pub(crate) fn run(args: &RunArgs, format: Format) -> Result<Outcome, CliError> {
    let config = config::load(args)?;
    let (causes, stop) = channel();
    watch_signals(causes.clone())?;
    let ended = run_until_stopped(
        &config,
        &Dirs::of_this_user(),
        (causes, stop),
        running::start,
    )?;
    output::print(format, &ended.last, render::status)?;
    ended.judge()
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

/// How a run ended.
struct Ended {
    cause: StopCause,
    last: Status,
}

/// Socket first, as it is cheap to refuse; then the switch; then answers until there is a cause to stop.
fn run_until_stopped(
    config: &RunConfig,
    dirs: &Dirs,
    (causes, stop): (Sender<StopCause>, Receiver<StopCause>),
    start: impl FnOnce(&RunConfig, Sender<StopCause>) -> Result<Arc<dyn Switch>, CliError>,
) -> Result<Ended, CliError> {
    let claimed = claim(config.socket.as_deref(), dirs)?;
    let switch = start(config, causes)?;
    let about = About {
        started: Instant::now(),
        socket: claimed.path.display().to_string(),
    };
    let server = claimed
        .listener
        .try_clone()
        .and_then(|listener| {
            serve(
                listener,
                Limits::default(),
                handler(about.clone(), Arc::clone(&switch)),
            )
        })
        .map_err(|error| CliError::machine(format!("cannot serve the control socket: {error}")));
    let cause = server.and_then(|_server| {
        greet(config, &claimed.path);
        stop.recv()
            .map_err(|_| CliError::internal("nobody is left who could stop the switch"))
    });
    // Whatever happened since it started: the workers end before the process does.
    let last = switch.stop();
    let cause = cause?;
    // What broke it says more than workers that no longer answer.
    if let StopCause::Broken(error) = cause {
        return Err(error);
    }
    Ok(Ended {
        cause,
        last: about.status(last?),
    })
}

fn greet(config: &RunConfig, socket: &Path) {
    let ports: Vec<_> = config.ports.iter().map(|port| port.name.as_str()).collect();
    output::talk(format_args!(
        "switching between {}; control socket {}",
        ports.join(", "),
        socket.display()
    ));
}

impl Ended {
    fn judge(self) -> Result<Outcome, CliError> {
        match self.cause {
            StopCause::Broken(error) => Err(error),
            StopCause::Signal(_) if !self.last.switch.books.balanced => {
                output::talk("the books do not balance: packets are unaccounted for");
                Ok(Outcome::Findings)
            }
            StopCause::Signal(name) => {
                output::talk(format_args!("stopped by {name}"));
                Ok(Outcome::Fine)
            }
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
        Request::Status => Response::of(switch.snapshot().map(|now| about.status(now))),
        Request::Ports => Response::of(
            switch
                .snapshot()
                .map(|Snapshot { ports, .. }| Ports { ports }),
        ),
        Request::Path { from, to } => Response::of(switch.path(&from, &to)),
        Request::Fdb => Response::of(switch.fdb()),
        Request::AddPort { spec } => {
            let added = config::parse_port(&spec).and_then(|spec| switch.add_port(spec));
            Response::of(added.map_err(|error| error.at(&spec)))
        }
        Request::RemovePort { name } => Response::of(switch.remove_port(&name)),
    }
}

#[cfg(test)]
mod tests;
