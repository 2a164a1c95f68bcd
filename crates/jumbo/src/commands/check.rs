//! `jumbo check`: what is wrong with this host, or a recorded one.

mod config;
mod fleet;
mod guest;
mod human;
mod plugin;

use std::io::{self, Read};
use std::path::Path;
use std::time::SystemTime;

use jumbo_host::check::{self, Options};
use jumbo_host::recording::Recording;
use jumbo_host::rules::{self, Profile, Severity};
use jumbo_host::snapshot::Snapshot;
use jumbo_host::waiver::Date;

use super::{explain, record};
use crate::args::{CheckArgs, Format, JudgeArgs, Level, ProfileName};
use crate::error::{CliError, Outcome};
use crate::output;

/// Reads, judges and shows.
pub(crate) fn run(args: &CheckArgs, format: Format) -> Result<Outcome, CliError> {
    if args.schema {
        output::print_text(check::JSON_SCHEMA)?;
        return Ok(Outcome::Fine);
    }
    if let Some(file) = &args.guest {
        return guest::run(file, format);
    }
    if let Some(dir) = &args.from_dir {
        return fleet::run(dir, args, format);
    }
    let (recording, options) = host(&args.judge)?;
    let today = Date::of(SystemTime::now());
    let report = check::check(&recording.now, recording.before.as_ref(), &options, today);
    if let Some(outcome) = plugin::answer(args, &report, &recording)? {
        return Ok(outcome);
    }
    output::print(format, &report, human::report)?;
    Ok(outcome(report.worst(), severity(args.fail_on)))
}

/// The host that is meant, and how it is to be judged.
pub(super) fn host(args: &JudgeArgs) -> Result<(Recording, Options), CliError> {
    for name in &args.rules {
        known_rule(name)?;
    }
    let options = options(args)?;
    let recording = match &args.from {
        Some(path) => recorded(path)?,
        None => record::take(if needs_sample(args) { args.sample } else { 0 })?,
    };
    known_devices(&recording.now, args)?;
    Ok((recording, options))
}

fn outcome(worst: Option<Severity>, fail_on: Severity) -> Outcome {
    match worst {
        Some(worst) if worst >= fail_on => Outcome::Findings,
        _ => Outcome::Fine,
    }
}

fn options(args: &JudgeArgs) -> Result<Options, CliError> {
    let config = config::load(args.config.as_deref())?;
    Ok(Options {
        devices: args.devices.clone(),
        rules: args.rules.clone(),
        severity: Some(severity(args.severity)),
        profile: args.profile.map(profile).or(config.profile),
        waivers: config.waive,
    })
}

fn severity(level: Level) -> Severity {
    match level {
        Level::Info => Severity::Info,
        Level::Warning => Severity::Warning,
        Level::Error => Severity::Error,
        Level::Critical => Severity::Critical,
    }
}

fn profile(name: ProfileName) -> Profile {
    match name {
        ProfileName::VmHost => Profile::VmHost,
        ProfileName::Router => Profile::Router,
        ProfileName::Throughput => Profile::Throughput,
        ProfileName::Latency => Profile::Latency,
    }
}

fn is_rule(rule: &rules::Rule, name: &str) -> bool {
    name.eq_ignore_ascii_case(rule.id) || name.eq_ignore_ascii_case(rule.family())
}

fn known_rule(name: &str) -> Result<(), CliError> {
    if rules::all().any(|rule| is_rule(rule, name)) {
        return Ok(());
    }
    Err(
        CliError::usage(format!("--rule {name}: there is no such rule"))
            .way_out(explain::nearest(name)),
    )
}

/// Whether any rule that was asked for judges a change.
fn needs_sample(args: &JudgeArgs) -> bool {
    let asked = |rule: &rules::Rule| {
        args.rules.is_empty() || args.rules.iter().any(|name| is_rule(rule, name))
    };
    rules::all().any(|rule| rule.sampled && asked(rule))
}

fn known_devices(snapshot: &Snapshot, args: &JudgeArgs) -> Result<(), CliError> {
    match args
        .devices
        .iter()
        .find(|name| snapshot.by_name(name).is_none())
    {
        Some(name) => {
            let names: Vec<_> = snapshot
                .devices
                .iter()
                .take(20)
                .map(|device| device.name.as_str())
                .collect();
            let error = CliError::usage(format!("--device {name}: there is no such device"));
            Err(error.way_out(format!("there are {}", names.join(", "))))
        }
        None => Ok(()),
    }
}

/// More than any recording of a host with thousands of devices.
const RECORDING_MAX: u64 = 256 << 20;

/// A file, or stdin for `-`.
pub(super) fn read_file(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    if path == Path::new("-") {
        io::stdin()
            .lock()
            .take(RECORDING_MAX)
            .read_to_string(&mut text)?;
    } else {
        std::fs::File::open(path)?
            .take(RECORDING_MAX)
            .read_to_string(&mut text)?;
    }
    Ok(text)
}

fn recorded(path: &Path) -> Result<Recording, CliError> {
    let wrong = |what: String| CliError::usage(what).at(path.display());
    let text =
        read_file(path).map_err(|error| wrong(format!("cannot read the recording: {error}")))?;
    let recording: Recording = serde_json::from_str(&text)
        .map_err(|error| wrong(format!("this is no recorded host: {error}")))?;
    recording
        .usable()
        .map_err(|error| wrong(format!("cannot check this recording: {error}")))?;
    Ok(recording)
}
