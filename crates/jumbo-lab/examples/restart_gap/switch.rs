//! The switch as a process that is killed and started again.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use jumbo_lab::ns::NetNs;

use crate::Result;

/// How it is started.
#[derive(Clone)]
pub(crate) struct Plan {
    jumbo: PathBuf,
    folder: PathBuf,
    ports: Vec<String>,
    ns: NetNs,
}

/// A running switch. It ends with this value.
pub(crate) struct Switch {
    plan: Plan,
    child: Child,
}

impl Plan {
    /// With these ports, in `ns`.
    pub(crate) fn new(jumbo: &Path, folder: &Path, ns: &NetNs, ports: &[String]) -> Self {
        Self {
            jumbo: jumbo.into(),
            folder: folder.into(),
            ports: ports.to_vec(),
            ns: ns.clone(),
        }
    }

    fn spawn(&self) -> Result<Child> {
        let log = self.folder.join("log");
        let log = File::options().create(true).append(true).open(log)?;
        let mut command = Command::new(&self.jumbo);
        command.args(["run", "--workers", "1", "--socket"]);
        command.arg(self.folder.join("control"));
        for port in &self.ports {
            command.args(["--port", port]);
        }
        // Where it keeps what outlives it.
        command.env("XDG_RUNTIME_DIR", &self.folder);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        Ok(self.ns.run(|| command.spawn())??)
    }

    pub(crate) fn start(self) -> Result<Switch> {
        let child = self.spawn()?;
        Ok(Switch { plan: self, child })
    }
}

impl Switch {
    /// SIGKILL, and another one as soon as it is dead.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        self.child = self.plan.spawn()?;
        Ok(())
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
