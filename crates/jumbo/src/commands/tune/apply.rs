//! `jumbo tune apply`: a plan done, or nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jumbo_host::change::{
    Failure, Here, Machine, Record, Stage, State, Step, Store, operators_devices, perform, states,
    undo,
};
use jumbo_host::collect::{Roots, collect};
use jumbo_host::plan::Plan;
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::{here, human, live, now_unix_s, read, store_error};
use crate::args::{ApplyArgs, Format};
use crate::error::{CliError, Outcome};
use crate::output;

/// How often a waiting apply looks for its confirmation.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What was done.
#[derive(Debug, Serialize)]
struct Applied {
    /// For `jumbo tune undo`; None when nothing was changed.
    id: Option<String>,
    dry_run: bool,
    steps: Vec<Step>,
}

/// Everything that can be wrong is looked at before anything is changed.
pub(super) fn run(args: &ApplyArgs, store: &Store, format: Format) -> Result<Outcome, CliError> {
    let (plan, here) = (read(&args.plan)?, here());
    same_place(&plan, &here)?;
    let mut machine = live();
    let todo = to_do(&mut machine, plan.steps)?;
    if todo.is_empty() {
        output::talk("every setting is as planned already; nothing was changed");
        return print(format, None, args.dry_run, todo);
    }
    permitted(&todo, args)?;
    if args.dry_run {
        return print(format, None, true, todo);
    }
    let lock = store.lock().map_err(|error| store_error(&error))?;
    let mut record = Record::begin(
        &here.host,
        &here.boot_id,
        &here.namespace,
        now_unix_s(),
        todo.clone(),
    );
    record.confirm_by_unix_s = args
        .confirm_within
        .map(|within| now_unix_s() + within.0.as_secs());
    let id = store.add(&record).map_err(|error| store_error(&error))?;
    if let Err(failure) = perform(&mut machine, &todo) {
        record.stage = if failure.stuck.is_empty() {
            Stage::Undone
        } else {
            Stage::Begun
        };
        note(store, &id, &record);
        return Err(rolled_back(&todo, &failure));
    }
    if let Some(within) = args.confirm_within {
        record.stage = Stage::Unconfirmed;
        note(store, &id, &record);
        wait(store, &id, within.0, &todo)
            .or_else(|why| take_back(&mut machine, store, &id, &mut record, why))?;
    }
    record.stage = Stage::Applied;
    note(store, &id, &record);
    drop(lock);
    print(format, Some(id), false, todo)
}

/// The steps are on disk already; that the stage could not be added is only worth a word.
fn note(store: &Store, id: &str, record: &Record) {
    if let Err(error) = store.put(id, record) {
        output::talk(error);
    }
}

fn print(
    format: Format,
    id: Option<String>,
    dry_run: bool,
    steps: Vec<Step>,
) -> Result<Outcome, CliError> {
    let applied = Applied { id, dry_run, steps };
    output::print(format, &applied, |applied, _| {
        let mut text = human::diff(&applied.steps);
        match (&applied.id, applied.dry_run) {
            (Some(id), _) => {
                text.push_str(&format!("\ndone; to take it back: jumbo tune undo {id}\n"))
            }
            (None, true) if !applied.steps.is_empty() => {
                text.push_str("\nall of this could be done; nothing was changed\n")
            }
            _ => {}
        }
        text
    })?;
    Ok(Outcome::Fine)
}

fn same_place(plan: &Plan, here: &Here) -> Result<(), CliError> {
    if plan.host != here.host {
        let what = format!(
            "this plan is for the host {}, and this is {}",
            plan.host, here.host
        );
        return Err(CliError::usage(what).way_out("jumbo tune plan makes one for this host"));
    }
    if !plan.namespace.is_empty() && plan.namespace != here.namespace {
        let what = format!(
            "this plan is for another network namespace ({}; this is {})",
            plan.namespace, here.namespace
        );
        return Err(CliError::usage(what));
    }
    Ok(())
}

/// The steps that are still to be done; an error when the host is no longer what the plan was made for.
fn to_do(machine: &mut dyn Machine, steps: Vec<Step>) -> Result<Vec<Step>, CliError> {
    let states = states(machine, &steps);
    let mut todo = Vec::new();
    for (step, state) in steps.into_iter().zip(states) {
        let stale = |what: String| {
            let what = format!("{} {what}; nothing was changed", human::name(&step));
            Err(CliError::failed(what).way_out("make a new plan: jumbo tune plan"))
        };
        match state {
            State::Old => todo.push(step),
            State::New => {}
            State::Other(value) => {
                return stale(format!(
                    "is {value} and was {} when the plan was made",
                    step.old
                ));
            }
            State::Unreadable(reason) => return stale(format!("cannot be read: {reason}")),
        }
    }
    Ok(todo)
}

/// Changes that can cut something off need the operator's word, and those at the operator's own connection a way back.
fn permitted(steps: &[Step], args: &ApplyArgs) -> Result<(), CliError> {
    let resets: Vec<&Step> = steps.iter().filter(|step| step.may_reset()).collect();
    let Some(first) = resets.first() else {
        return Ok(());
    };
    if !args.allow_reset {
        let what = format!(
            "{} may take the link down for a moment ({})",
            human::name(first),
            first.command
        );
        return Err(CliError::usage(what).way_out("give --allow-reset, or make a plan without it"));
    }
    if args.confirm_within.is_some() {
        return Ok(());
    }
    let own = own_devices()?;
    match resets
        .iter()
        .find(|step| step.setting.device().is_some_and(|name| own.contains(name)))
    {
        Some(step) => {
            let what = format!(
                "{} could cut your own connection, which goes through it",
                human::name(step)
            );
            Err(CliError::usage(what)
                .way_out("give --confirm-within 60s too, which takes it back by itself"))
        }
        None => Ok(()),
    }
}

fn own_devices() -> Result<std::collections::BTreeSet<String>, CliError> {
    let roots = Roots::default();
    let host = collect(&roots)
        .map_err(|error| CliError::machine(format!("cannot list the network devices: {error}")))?;
    let ssh = std::env::var("SSH_CONNECTION").ok();
    Ok(operators_devices(&roots, &host, ssh.as_deref()))
}

fn rolled_back(steps: &[Step], failure: &Failure) -> CliError {
    let at = |number: usize| steps.get(number).map(human::name).unwrap_or_default();
    let what = format!("{}: {}", at(failure.step), failure.what);
    match failure.stuck.is_empty() {
        true => CliError::rolled_back(format!("{what}; everything is as it was")),
        false => {
            let stuck = failure
                .stuck
                .iter()
                .map(|(number, why)| format!("{} ({why})", at(*number)));
            let stuck: Vec<_> = stuck.collect();
            CliError::rolled_back(format!(
                "{what}; could not be taken back: {}",
                stuck.join(", ")
            ))
        }
    }
}

/// Why a change does not stay.
enum Why {
    Expired,
    Signal,
}

/// Waits for `jumbo tune confirm`. A terminal that goes away is what this is for, so SIGHUP ends nothing.
fn wait(store: &Store, id: &str, within: Duration, steps: &[Step]) -> Result<(), Why> {
    let (stop, hung_up) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(false)),
    );
    for (signal, flag) in [(SIGINT, &stop), (SIGTERM, &stop), (SIGHUP, &hung_up)] {
        if signal_hook::flag::register(signal, Arc::clone(flag)).is_err() {
            output::talk(
                "cannot listen for signals; only jumbo tune undo takes it back before its time",
            );
        }
    }
    output::talk(format_args!(
        "{} done; `jumbo tune confirm` within {} s keeps them, Ctrl-C takes them back at once",
        if steps.len() == 1 {
            "1 change".to_owned()
        } else {
            format!("{} changes", steps.len())
        },
        within.as_secs()
    ));
    let deadline = Instant::now() + within;
    loop {
        if store.take_confirmation(id) {
            return Ok(());
        }
        if stop.load(Ordering::Relaxed) {
            return Err(Why::Signal);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Why::Expired);
        }
        std::thread::sleep(left.min(LOOK_EVERY));
    }
}

fn take_back(
    machine: &mut dyn Machine,
    store: &Store,
    id: &str,
    record: &mut Record,
    why: Why,
) -> Result<(), CliError> {
    let undone = undo(machine, &record.steps);
    if undone.whole() {
        record.stage = Stage::Undone;
        note(store, id, record);
    }
    let why = match why {
        Why::Expired => "nobody confirmed in time",
        Why::Signal => "stopped before it was confirmed",
    };
    let outcome = match undone.whole() {
        true => "everything is as it was".to_owned(),
        false => super::undo::words(&record.steps, &undone),
    };
    Err(CliError::unconfirmed(format!("{why}: {outcome}")))
}
