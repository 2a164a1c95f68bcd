//! `jumbo tune status`: does what was applied still hold.

use std::fmt::Write as _;

use jumbo_host::change::{Record, Stage, State, Store, states};
use serde::Serialize;

use super::{here, human, last, live};
use crate::args::Format;
use crate::error::{CliError, Outcome};
use crate::output;

/// The last apply, and where its settings stand.
#[derive(Debug, Serialize)]
struct Report {
    id: String,
    at_unix_s: u64,
    stage: Stage,
    settings: Vec<Line>,
}

#[derive(Debug, Serialize)]
struct Line {
    setting: String,
    applied: String,
    /// What it is now; None when it could not be read.
    now: Option<String>,
    holds: bool,
}

/// Compares.
pub(super) fn run(store: &Store, format: Format) -> Result<Outcome, CliError> {
    let Some((id, record)) = last(store, &here(), |stage| stage != Stage::Undone)? else {
        output::talk("nothing is applied here");
        return output::print(format, &None::<Report>, |_, _| String::new())
            .map(|()| Outcome::Fine);
    };
    let report = Report {
        settings: lines(&record),
        id,
        at_unix_s: record.at_unix_s,
        stage: record.stage,
    };
    let drifted = report.settings.iter().any(|line| !line.holds);
    output::print(format, &report, |report, _| human(report))?;
    Ok(if drifted {
        Outcome::Findings
    } else {
        Outcome::Fine
    })
}

fn lines(record: &Record) -> Vec<Line> {
    let states = states(&mut live(), &record.steps);
    let line = |(step, state): (&jumbo_host::change::Step, State)| Line {
        setting: human::name(step),
        applied: step.new.to_string(),
        holds: state == State::New,
        now: match state {
            State::New => Some(step.new.to_string()),
            State::Old => Some(step.old.to_string()),
            State::Other(value) => Some(value.to_string()),
            State::Unreadable(_) => None,
        },
    };
    record.steps.iter().zip(states).map(line).collect()
}

fn human(report: &Report) -> String {
    let mut text = format!("{} ({})\n", report.id, report.stage.word());
    for line in &report.settings {
        let now = match (&line.now, line.holds) {
            (_, true) => "holds".to_owned(),
            (Some(now), false) => format!("is {now} now"),
            (None, false) => "cannot be read now".to_owned(),
        };
        let _ = writeln!(text, "  {:<34} {:<16} {now}", line.setting, line.applied);
    }
    text
}
