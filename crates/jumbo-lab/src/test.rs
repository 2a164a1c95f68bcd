//! A test harness for tests that need a network of their own.
//!
//! An ordinary user's process can enter a user namespace only while it has
//! one thread, which rules out the built-in harness. A test target with
//! `harness = false` calls [`test_main`] instead; it takes the arguments of
//! the built-in harness (filters, `--list`, `--exact`), so `cargo test` and
//! nextest see no difference.

use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::ns::{self, Needs, Refused};

/// How long a test may take unless it says otherwise.
const LIMIT: Duration = Duration::from_secs(60);

/// How a test ended, if not well.
#[derive(Debug)]
pub enum TestError {
    /// It failed.
    Failed(String),
    /// This machine lacks something: "what is missing (way out)".
    Skipped(String),
}

impl<E: std::error::Error> From<E> for TestError {
    fn from(e: E) -> Self {
        Self::Failed(e.to_string())
    }
}

/// Ends a test as skipped: `return Err(skip("no qemu (apt install qemu-system-x86)"))`.
pub fn skip(reason: impl Display) -> TestError {
    TestError::Skipped(reason.to_string())
}

/// A named test; it may panic, fail or be skipped.
#[derive(Debug)]
pub struct LabTest {
    name: &'static str,
    limit: Duration,
    run: fn() -> Result<(), TestError>,
}

impl LabTest {
    /// A test that may take a minute.
    pub const fn new(name: &'static str, run: fn() -> Result<(), TestError>) -> Self {
        Self {
            name,
            limit: LIMIT,
            run,
        }
    }

    /// The same with another time limit.
    pub const fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    fn into_trial(self, refused: Option<Refused>) -> Trial {
        Trial::ignorable_test(self.name, move || match refused {
            Some(refused) => Ok(skipped(self.name, &refused)),
            None => self.watch(),
        })
    }

    /// Runs the test on a thread of its own, so that a hang ends as a failure.
    fn watch(&self) -> Result<Completion, Failed> {
        let (tell, told) = mpsc::channel();
        let run = self.run;
        let thread = thread::Builder::new()
            .name(self.name.into())
            .spawn(move || {
                let end = catch_unwind(AssertUnwindSafe(run));
                let _ =
                    tell.send(end.unwrap_or_else(|panic| Err(TestError::Failed(text_of(&*panic)))));
            });
        thread.map_err(Failed::from)?;
        match told.recv_timeout(self.limit) {
            Ok(Ok(())) => Ok(Completion::Completed),
            Ok(Err(TestError::Skipped(reason))) => Ok(skipped(self.name, &reason)),
            Ok(Err(TestError::Failed(text))) => Err(text.into()),
            Err(RecvTimeoutError::Timeout) => {
                Err(format!("not done after {:?}", self.limit).into())
            }
            Err(RecvTimeoutError::Disconnected) => Err("the test thread vanished".into()),
        }
    }
}

/// Enters a private network, then runs the tests one after another. Where the
/// machine refuses, each test is reported as ignored, with the reason.
///
/// Call it first in `main`, before any thread starts.
pub fn test_main(needs: Needs, tests: Vec<LabTest>) -> ExitCode {
    let mut args = Arguments::from_args();
    // One process-wide network and two cores: in turns, on the main thread.
    args.test_threads = Some(1);
    let refused = if args.list {
        None
    } else {
        ns::enter(needs).err()
    };
    let trials = tests
        .into_iter()
        .map(|test| test.into_trial(refused.clone()))
        .collect();
    libtest_mimic::run(&args, trials).exit_code()
}

fn skipped(name: &str, reason: &impl Display) -> Completion {
    eprintln!("{name}: skipped: {reason}");
    Completion::ignored_with(reason)
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("panicked")
        .into()
}
