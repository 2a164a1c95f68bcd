//! `jumbo check --from-dir`: recorded hosts, rule by rule.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use jumbo_host::check::check;
use jumbo_host::fleet::{Fleet, Pivot};
use jumbo_host::recording::REDACTED;
use jumbo_host::waiver::Date;

use super::{options, outcome, recorded, severity};
use crate::args::{CheckArgs, Format};
use crate::error::{CliError, Outcome};
use crate::output;

/// One record at a time: thousands of hosts take the memory of one.
pub(super) fn run(dir: &Path, args: &CheckArgs, format: Format) -> Result<Outcome, CliError> {
    for name in &args.judge.rules {
        super::known_rule(name)?;
    }
    let options = options(&args.judge)?;
    let today = Date::of(SystemTime::now());
    let mut pivot = Pivot::default();
    for path in records(dir)? {
        let name = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        match recorded(&path) {
            Ok(recording) => {
                let report = check(&recording.now, recording.before.as_ref(), &options, today);
                let own = report.host.clone().filter(|host| host != REDACTED);
                pivot.add(&own.unwrap_or(name), &report);
            }
            Err(error) => pivot.add_unusable(&name, error.what),
        }
    }
    let fleet = pivot.finish();
    if fleet.hosts == 0 {
        let what = "no record in this directory could be used";
        return Err(CliError::usage(what)
            .at(dir.display())
            .way_out("jumbo record -o DIR/HOST.json writes one"));
    }
    output::print(format, &fleet, |fleet, _| human(fleet))?;
    Ok(outcome(fleet.worst(), severity(args.fail_on)))
}

fn records(dir: &Path) -> Result<Vec<PathBuf>, CliError> {
    let entries = std::fs::read_dir(dir).map_err(|error| {
        CliError::usage(format!("cannot read the directory: {error}")).at(dir.display())
    })?;
    let paths = entries.flatten().map(|entry| entry.path());
    let mut paths: Vec<PathBuf> = paths
        .filter(|path| path.extension().is_some_and(|ending| ending == "json"))
        .collect();
    paths.sort_unstable();
    Ok(paths)
}

fn human(fleet: &Fleet) -> String {
    let mut text = format!(
        "{} hosts, {} without findings\n",
        fleet.hosts, fleet.healthy
    );
    if !fleet.rules.is_empty() {
        let _ = writeln!(
            text,
            "\n{:<8}{:<10}{:>6}{:>6}{:>9}  {:<36} hosts",
            "rule", "severity", "hosts", "%", "devices", "what"
        );
    }
    for row in &fleet.rules {
        let share = row.hosts as f64 / fleet.hosts.max(1) as f64 * 100.0;
        let more = if row.hosts > row.examples.len() {
            " ..."
        } else {
            ""
        };
        let _ = writeln!(
            text,
            "{:<8}{:<10}{:>6}{share:>6.0}{:>9}  {:<36} {}{more}",
            row.id,
            row.severity.name(),
            row.hosts,
            row.devices,
            row.name,
            row.examples.join(" ")
        );
    }
    if fleet.kernels.len() > 1 {
        text.push_str("\nkernels\n");
        for (kernel, hosts) in &fleet.kernels {
            let _ = writeln!(text, "  {kernel:<30} {hosts}");
        }
    }
    if !fleet.unusable.is_empty() {
        text.push_str("\nnot usable\n");
        for (file, why) in &fleet.unusable {
            let _ = writeln!(text, "  {file}: {why}");
        }
    }
    text
}
