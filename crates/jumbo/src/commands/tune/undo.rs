//! `jumbo tune undo` and `confirm`.

use jumbo_host::change::{Record, Stage, Step, Store, Undone, undo};
use serde::Serialize;

use super::{here, human, last, live, store_error};
use crate::args::{Format, UndoArgs};
use crate::error::{CliError, Outcome};
use crate::output;

/// What was taken back.
#[derive(Debug, Serialize)]
struct Report {
    id: String,
    restored: Vec<String>,
    already: Vec<String>,
    left_alone: Vec<String>,
    failed: Vec<String>,
}

/// Takes back one apply.
pub(super) fn run(args: &UndoArgs, store: &Store, format: Format) -> Result<Outcome, CliError> {
    let here = here();
    let (id, mut record) = chosen(args, store)?;
    if record.host != here.host || record.namespace != here.namespace {
        let what = format!(
            "{id} was applied on {} in {}, and this is {} in {}",
            record.host, record.namespace, here.host, here.namespace
        );
        return Err(CliError::usage(what));
    }
    if record.boot_id != here.boot_id {
        output::talk(
            "it was applied before the last boot; what that reset already is left as it is",
        );
    }
    let _lock = store.lock().map_err(|error| store_error(&error))?;
    let undone = undo(&mut live(), &record.steps);
    if undone.whole() {
        record.stage = Stage::Undone;
        store
            .put(&id, &record)
            .map_err(|error| CliError::machine(error.to_string()))?;
    }
    output::print(format, &report(id, &record.steps, &undone), |_, _| {
        words(&record.steps, &undone)
    })?;
    match undone.stuck.first() {
        Some(_) => Err(CliError::machine("not everything could be taken back")),
        None if undone.whole() => Ok(Outcome::Fine),
        None => Ok(Outcome::Findings),
    }
}

fn chosen(args: &UndoArgs, store: &Store) -> Result<(String, Record), CliError> {
    match &args.id {
        Some(id) => {
            let record = store.get(id).map_err(|error| store_error(&error))?;
            Ok((id.clone(), record))
        }
        None => last(store, &here(), |stage| stage != Stage::Undone)?
            .ok_or_else(|| CliError::failed("nothing was applied here that could be taken back")),
    }
}

fn report(id: String, steps: &[Step], undone: &Undone) -> Report {
    let name = |number: &usize| steps.get(*number).map(human::name).unwrap_or_default();
    let with = |(number, why): &(usize, String)| format!("{}: {why}", name(number));
    Report {
        id,
        restored: undone.restored.iter().map(name).collect(),
        already: undone.already.iter().map(name).collect(),
        left_alone: undone.foreign.iter().map(with).collect(),
        failed: undone.stuck.iter().map(with).collect(),
    }
}

/// A line per step.
pub(super) fn words(steps: &[Step], undone: &Undone) -> String {
    let mut lines = Vec::new();
    for (number, step) in steps.iter().enumerate() {
        let name = human::name(step);
        let said = |list: &[(usize, String)]| {
            list.iter()
                .find(|(other, _)| *other == number)
                .map(|(_, why)| why.clone())
        };
        let line = match (said(&undone.foreign), said(&undone.stuck)) {
            (Some(value), _) => format!("{name}: somebody made it {value} since; left alone"),
            (_, Some(why)) => format!("{name}: cannot be taken back: {why}"),
            _ if undone.restored.contains(&number) => format!("{name}: {} again", step.old),
            _ => format!("{name}: was {} already", step.old),
        };
        lines.push(line);
    }
    lines.join("\n")
}

/// Keeps what waits for it.
pub(super) fn confirm(store: &Store) -> Result<Outcome, CliError> {
    let waiting = last(store, &here(), |stage| stage == Stage::Unconfirmed)?;
    let Some((id, record)) = waiting.filter(|(_, record)| still(record)) else {
        return Err(CliError::failed("nothing waits to be confirmed"));
    };
    store
        .confirm(&id)
        .map_err(|error| CliError::machine(error.to_string()))?;
    output::talk(format_args!("{} kept", human_count(record.steps.len())));
    Ok(Outcome::Fine)
}

fn still(record: &Record) -> bool {
    record
        .confirm_by_unix_s
        .is_some_and(|until| until >= super::now_unix_s())
}

fn human_count(steps: usize) -> String {
    match steps {
        1 => "1 change".into(),
        steps => format!("{steps} changes"),
    }
}
