//! `jumbo tune`: what the checks found, changed by plan, and taken back.

mod apply;
mod human;
mod persist;
mod status;
mod undo;

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use jumbo_host::change::{Here, Live, Record, Stage, Store, StoreError};
use jumbo_host::collect::Roots;
use jumbo_host::plan::{self, Plan};
use jumbo_host::waiver::Date;

use super::check;
use crate::args::{Format, PlanArgs, TuneArgs, TuneCommand};
use crate::error::{CliError, Outcome};
use crate::output;

/// Runs one of the commands.
pub(crate) fn run(args: &TuneArgs, format: Format) -> Result<Outcome, CliError> {
    let at = || Ok::<_, CliError>(Store::below(&state_dir(args)?));
    match &args.command {
        TuneCommand::Plan(args) => make(args, format),
        TuneCommand::Apply(args) => apply::run(args, &at()?, format),
        TuneCommand::Confirm => undo::confirm(&at()?),
        TuneCommand::Undo(args) => undo::run(args, &at()?, format),
        TuneCommand::Status => status::run(&at()?, format),
        TuneCommand::Persist(args) => persist::run(args, at),
    }
}

fn make(args: &PlanArgs, format: Format) -> Result<Outcome, CliError> {
    let (recording, options) = check::host(&args.judge)?;
    let today = Date::of(SystemTime::now());
    let mut plan = plan::plan(&recording.now, recording.before.as_ref(), &options, today);
    if args.judge.from.is_none() {
        plan.namespace = here().namespace;
    }
    if let Some(path) = &args.output {
        write(path, &plan)?;
    }
    let file = args.output.as_deref();
    output::print(format, &plan, |plan, _| human::plan(plan, file))?;
    Ok(match plan.steps.is_empty() {
        true => Outcome::Fine,
        false => Outcome::Findings,
    })
}

fn write(path: &Path, plan: &Plan) -> Result<(), CliError> {
    let text = serde_json::to_string_pretty(plan)
        .map_err(|error| CliError::internal(format!("cannot write the plan: {error}")))?;
    std::fs::write(path, text + "\n").map_err(|error| {
        CliError::machine(format!("cannot write the plan: {error}")).at(path.display())
    })
}

/// Reads a plan, and believes nothing in it.
fn read(path: &Path) -> Result<Plan, CliError> {
    let wrong = |what: String| CliError::usage(what).at(path.display());
    let text =
        check::read_file(path).map_err(|error| wrong(format!("cannot read the plan: {error}")))?;
    let plan: Plan = serde_json::from_str(&text).map_err(|error| {
        wrong(format!("this is no plan: {error}")).way_out("jumbo tune plan -o FILE makes one")
    })?;
    plan.usable()
        .map_err(|error| wrong(format!("cannot use this plan: {error}")))?;
    Ok(plan)
}

fn here() -> Here {
    Here::read(&Roots::default())
}

fn live() -> Live {
    Live::default()
}

fn now_unix_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// The directory that was named, or the usual one of this user.
fn state_dir(args: &TuneArgs) -> Result<PathBuf, CliError> {
    if let Some(dir) = &args.state_dir {
        return Ok(dir.clone());
    }
    if rustix::process::geteuid().is_root() {
        return Ok("/var/lib/jumbo".into());
    }
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
    let missing =
        || CliError::usage("neither XDG_STATE_HOME nor HOME is set").way_out("give --state-dir");
    Ok(state.ok_or_else(missing)?.join("jumbo"))
}

/// What a broken store means for the exit code.
fn store_error(error: &StoreError) -> CliError {
    match error {
        StoreError::Write { .. } => {
            CliError::machine(error.to_string()).way_out("nothing was changed")
        }
        StoreError::Read { .. } => CliError::machine(error.to_string()),
        StoreError::Damaged { .. } => CliError::usage(error.to_string()),
        StoreError::Busy => CliError::failed(error.to_string()),
        StoreError::None(_) => {
            CliError::usage(error.to_string()).way_out("jumbo tune status lists them")
        }
    }
}

/// The last apply in this namespace that is as `wanted`.
fn last(
    store: &Store,
    here: &Here,
    wanted: impl Fn(Stage) -> bool,
) -> Result<Option<(String, Record)>, CliError> {
    let list = store.list().map_err(|error| store_error(&error))?;
    let usable = list.into_iter().filter_map(|one| match one.record {
        Ok(record) => Some((one.id, record)),
        Err(error) => {
            output::talk(error);
            None
        }
    });
    let ours =
        usable.filter(|(_, record)| record.namespace == here.namespace && record.host == here.host);
    Ok(ours.filter(|(_, record)| wanted(record.stage)).last())
}
