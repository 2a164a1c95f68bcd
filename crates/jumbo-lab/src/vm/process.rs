//! A program that never outlives its time.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::error::{Doing, Result};
use crate::ns::NetNs;

/// How long a program may take to end after it was asked to.
const PATIENCE: Duration = Duration::from_secs(10);

/// A child below coreutils' `timeout`: it ends when this value goes, and when its time is over, even if this process
/// was killed in between.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) child: Child,
    name: String,
}

impl Process {
    /// A command line `timeout LIMIT PROGRAM`, with nothing on its stdin.
    pub(super) fn command(program: &Path, limit: Duration) -> Command {
        let mut command = Command::new("timeout");
        command
            .arg("--kill-after=5")
            .arg(limit.as_secs().max(1).to_string());
        command.arg(program).stdin(Stdio::null());
        command
    }

    /// Starts it, in `ns` or where the calling thread is. What it writes goes to `log` unless the command says otherwise.
    pub(super) fn start(mut command: Command, name: &str, ns: Option<&NetNs>) -> Result<Self> {
        let mut spawn = || command.spawn();
        let child = match ns {
            Some(ns) => ns.run(spawn)?,
            None => spawn(),
        };
        Ok(Self {
            child: child.doing(|| format!("start {name}"))?,
            name: name.into(),
        })
    }

    /// Both outputs into a file.
    pub(super) fn log_to(command: &mut Command, path: &Path) -> Result<()> {
        let log = File::create(path).doing(|| format!("create {}", path.display()))?;
        let copy = log.try_clone().doing(|| "copy a descriptor")?;
        command.stdout(log).stderr(copy);
        Ok(())
    }

    /// Whether it still runs.
    pub(super) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for it to end by itself. Returns whether it has.
    pub(super) fn wait(&mut self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        while self.is_running() {
            if Instant::now() >= end {
                return false;
            }
            thread::sleep(Duration::from_millis(5));
        }
        true
    }

    /// Asks it to end (`timeout` passes SIGTERM on, and SIGKILL five seconds later) and waits.
    pub(super) fn stop(&mut self) {
        if !self.is_running() {
            return;
        }
        if let Some(pid) = Pid::from_raw(self.child.id() as i32) {
            let _ = kill_process(pid, Signal::TERM);
        }
        if !self.wait(PATIENCE) {
            eprintln!("{} did not end", self.name);
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}
