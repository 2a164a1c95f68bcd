//! A fake switch behind the seam: the run's own behaviour without packets.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};
use std::sync::Mutex;

use super::*;
use crate::control::client;
use crate::switch_api::{Books, Fdb, PathReport, PortSpec, PortStatus};

#[derive(Default)]
struct Fake {
    /// Calls, in order.
    calls: Mutex<Vec<&'static str>>,
    balanced: bool,
}

impl Fake {
    fn told(&self, call: &'static str) -> Snapshot {
        self.calls.lock().expect("whole").push(call);
        Snapshot {
            workers: 2,
            books: Books {
                balanced: self.balanced,
                ..Books::default()
            },
            ports: vec![PortStatus {
                name: "vm0".into(),
                ..PortStatus::default()
            }],
            ..Snapshot::default()
        }
    }
}

/// What the fakes are never asked.
macro_rules! not_of_this_test {
    () => {
        fn path(&self, _: &str, _: &str) -> Result<PathReport, CliError> {
            Err(CliError::internal("not of this test"))
        }

        fn fdb(&self) -> Result<Fdb, CliError> {
            Err(CliError::internal("not of this test"))
        }

        fn add_port(&self, _: PortSpec) -> Result<PortStatus, CliError> {
            Err(CliError::internal("not of this test"))
        }

        fn remove_port(&self, _: &str) -> Result<PortStatus, CliError> {
            Err(CliError::internal("not of this test"))
        }
    };
}

impl Switch for Fake {
    fn snapshot(&self) -> Result<Snapshot, CliError> {
        Ok(self.told("snapshot"))
    }

    not_of_this_test!();

    fn stop(&self) -> Result<Snapshot, CliError> {
        Ok(self.told("stop"))
    }
}

fn config() -> RunConfig {
    config::load(&RunArgs {
        ports: vec!["tap:vm0".into()],
        ..RunArgs::default()
    })
    .expect("valid")
}

fn dirs(base: &Path) -> Dirs {
    Dirs {
        own: base.join("jumbo"),
        all: vec![base.join("jumbo")],
    }
}

/// Runs `fake` to the cause and returns how it ended.
fn run_fake(fake: &Arc<Fake>, base: &Path, cause: StopCause) -> Result<Outcome, CliError> {
    let fake = Arc::clone(fake);
    let start = move |_: &RunConfig, causes: Sender<StopCause>| {
        causes.send(cause).expect("heard");
        Ok(fake as Arc<dyn Switch>)
    };
    run_until_stopped(&config(), &dirs(base), channel(), start)?.judge()
}

#[test]
fn a_signal_stops_the_switch_and_removes_the_socket() {
    let base = tempfile::tempdir().expect("a directory");
    let fake = Arc::new(Fake {
        balanced: true,
        ..Fake::default()
    });
    assert_eq!(
        run_fake(&fake, base.path(), StopCause::Signal("SIGTERM")),
        Ok(Outcome::Fine)
    );
    assert_eq!(*fake.calls.lock().expect("whole"), ["stop"]);
    assert_eq!(
        std::fs::read_dir(base.path().join("jumbo"))
            .expect("there")
            .count(),
        0
    );
}

#[test]
fn unbalanced_books_are_a_finding() {
    let base = tempfile::tempdir().expect("a directory");
    let fake = Arc::new(Fake::default());
    assert_eq!(
        run_fake(&fake, base.path(), StopCause::Signal("SIGINT")),
        Ok(Outcome::Findings)
    );
}

#[test]
fn a_broken_switch_ends_the_run_with_its_error() {
    let base = tempfile::tempdir().expect("a directory");
    let fake = Arc::new(Fake::default());
    let error = CliError::machine("every port is gone");
    assert_eq!(
        run_fake(&fake, base.path(), StopCause::Broken(error.clone())),
        Err(error)
    );
    assert_eq!(*fake.calls.lock().expect("whole"), ["stop"]);
}

#[test]
fn a_switch_that_does_not_start_leaves_no_socket() {
    let base = tempfile::tempdir().expect("a directory");
    let start = |_: &RunConfig, _| Err(CliError::machine("no /dev/net/tun"));
    let error = run_until_stopped(&config(), &dirs(base.path()), channel(), start)
        .err()
        .expect("refused");
    assert_eq!(error.code.number(), 3);
    assert_eq!(
        std::fs::read_dir(base.path().join("jumbo"))
            .expect("there")
            .count(),
        0
    );
}

#[test]
fn a_switch_whose_threads_all_died_is_our_fault() {
    let base = tempfile::tempdir().expect("a directory");
    // The only sender is dropped by the start.
    let start = |_: &RunConfig, _| Ok(Arc::new(Fake::default()) as Arc<dyn Switch>);
    let error = run_until_stopped(&config(), &dirs(base.path()), channel(), start)
        .err()
        .expect("ended");
    assert_eq!(error.code.number(), 4);
}

/// The environment variable by which the tests below start themselves as the switch: signals are the whole process's.
const CHILD: &str = "JUMBO_TEST_RUN_IN";

/// The child of the tests below; by itself it does nothing.
#[test]
fn child_is_a_switch() {
    let Some(base) = std::env::var_os(CHILD) else {
        return;
    };
    let (causes, stop) = channel();
    watch_signals(causes.clone()).expect("watched");
    let dirs = dirs(Path::new(&base));
    let slow_stop = std::env::var_os("JUMBO_TEST_HANG").is_some();
    let start = move |_: &RunConfig, _| Ok(Arc::new(Hanging { slow_stop }) as Arc<dyn Switch>);
    let ended = run_until_stopped(&config(), &dirs, (causes, stop), start).expect("started");
    output::print(Format::Json, &ended.last, render::status).expect("printed");
    assert_eq!(ended.judge(), Ok(Outcome::Fine));
}

/// A switch whose `stop` says so and may never return.
struct Hanging {
    slow_stop: bool,
}

impl Switch for Hanging {
    fn snapshot(&self) -> Result<Snapshot, CliError> {
        let fake = Fake {
            balanced: true,
            ..Fake::default()
        };
        Ok(fake.told("snapshot"))
    }

    not_of_this_test!();

    fn stop(&self) -> Result<Snapshot, CliError> {
        output::talk("stopping");
        if self.slow_stop {
            // Nobody sends: the sender lives as long as the wait.
            let (_sender, never) = channel::<()>();
            let _ = never.recv();
        }
        self.snapshot()
    }
}

struct Running {
    child: Child,
    talk: BufReader<std::process::ChildStderr>,
}

impl Drop for Running {
    /// A failed test leaves no process behind.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    fn start(base: &Path, hang: bool) -> Self {
        let mut command = std::process::Command::new(std::env::current_exe().expect("this test"));
        command.args([
            "--exact",
            "commands::run::tests::child_is_a_switch",
            "--nocapture",
        ]);
        command
            .env(CHILD, base)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if hang {
            command.env("JUMBO_TEST_HANG", "1");
        }
        let mut child = command.spawn().expect("started");
        let talk = BufReader::new(child.stderr.take().expect("piped"));
        Self { child, talk }
    }

    fn wait_for(&mut self, words: &str) {
        let mut line = String::new();
        while !line.contains(words) {
            line.clear();
            assert_ne!(
                self.talk.read_line(&mut line).expect("read"),
                0,
                "ended without {words:?}"
            );
        }
    }

    fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal)
            .expect("sent");
    }
}

#[test]
fn sigterm_answers_to_the_last_and_prints_a_summary() {
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::INT] {
        let base = tempfile::tempdir().expect("a directory");
        let mut running = Running::start(base.path(), false);
        running.wait_for("switching between vm0");
        let status: Status =
            client::ask(None, &dirs(base.path()), Request::Status).expect("answered");
        assert_eq!((status.pid, status.switch.workers), (running.child.id(), 2));
        let ports: Ports = client::ask(None, &dirs(base.path()), Request::Ports).expect("answered");
        assert_eq!(ports.ports[0].name, "vm0");
        running.signal(signal);
        running.wait_for("stopped by SIG");
        let mut summary = String::new();
        running
            .child
            .stdout
            .take()
            .expect("piped")
            .read_to_string(&mut summary)
            .expect("read");
        assert!(summary.contains("\"uptime_s\""), "{summary}");
        assert!(running.child.wait().expect("ended").success());
    }
}

#[test]
fn a_second_signal_ends_at_once() {
    let base = tempfile::tempdir().expect("a directory");
    let mut running = Running::start(base.path(), true);
    running.wait_for("switching between vm0");
    running.signal(rustix::process::Signal::INT);
    running.wait_for("stopping");
    running.signal(rustix::process::Signal::INT);
    assert_eq!(running.child.wait().expect("ended").code(), Some(1));
    // The socket was left behind; the next run takes it.
    assert_eq!(
        claim(None, &dirs(base.path())).expect("claimed").path,
        base.path().join("jumbo/0.sock")
    );
}
