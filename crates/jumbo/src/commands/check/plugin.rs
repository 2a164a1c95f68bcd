//! The report in the forms of other programs: Prometheus, Nagios, node-problem-detector.
//!
//! Sources: the Nagios plugin guidelines (exit codes, performance data after a bar), node-problem-detector's custom
//! plugin monitor (exit codes 0 to 2, a line of at most 80 characters).

use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use jumbo_host::check::{Finding, Report, Status};
use jumbo_host::export::metrics;
use jumbo_host::recording::Recording;
use jumbo_host::rules::Severity;

use crate::args::CheckArgs;
use crate::error::{CliError, Outcome};
use crate::output;

/// node-problem-detector cuts longer messages.
const NPD_MAX_LEN: usize = 80;

/// Answers in the form that was asked for; None for the usual ones.
pub(super) fn answer(
    args: &CheckArgs,
    report: &Report,
    recording: &Recording,
) -> Result<Option<Outcome>, CliError> {
    let page = || {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        metrics(report, &recording.now, recording.before.as_ref(), now)
    };
    // Metrics say what is wrong; that they could be made is fine.
    if args.openmetrics {
        output::print_text(&page())?;
        return Ok(Some(Outcome::Fine));
    }
    if let Some(path) = &args.textfile {
        whole(path, &page()).map_err(|error| {
            CliError::machine(format!("cannot write the metrics: {error}")).at(path.display())
        })?;
        return Ok(Some(Outcome::Fine));
    }
    if args.nagios {
        let (code, text) = nagios(report);
        output::print_text(&text)?;
        return Ok(Some(Outcome::Plugin(code)));
    }
    if args.npd {
        let (code, text) = npd(report, super::severity(args.fail_on));
        output::print_text(&text)?;
        return Ok(Some(Outcome::Plugin(code)));
    }
    Ok(None)
}

/// The collector must never see half a file: written beside it, then renamed.
fn whole(path: &Path, text: &str) -> std::io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut file = tempfile::Builder::new()
        .prefix(".jumbo")
        .tempfile_in(folder)?;
    file.write_all(text.as_bytes())?;
    // The collector runs as another user.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    file.as_file().set_permissions(mode)?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

fn faults(report: &Report) -> Vec<&Finding> {
    let mut faults: Vec<&Finding> = report
        .findings
        .iter()
        .filter(|one| one.status == Status::Finding)
        .collect();
    faults.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    faults
}

fn one(finding: &Finding) -> String {
    let device = finding
        .device
        .as_ref()
        .map(|name| format!(" {name}"))
        .unwrap_or_default();
    format!("{}{device}: {}", finding.id, finding.what)
}

/// A bar would begin performance data.
fn plain(text: &str) -> String {
    text.replace('|', "/")
}

fn nagios(report: &Report) -> (u8, String) {
    let summary = &report.summary;
    let (code, word) = match report.worst() {
        Some(Severity::Critical | Severity::Error) => (2, "CRITICAL"),
        Some(Severity::Warning) => (1, "WARNING"),
        _ if summary.passed == 0 && summary.unknown > 0 => (3, "UNKNOWN"),
        _ => (0, "OK"),
    };
    let faults = faults(report);
    let first = faults
        .first()
        .map_or_else(|| "no findings".into(), |finding| one(finding));
    let mut text = format!(
        "OFFLOAD {word} - {}|critical={} error={} warning={} info={} unknown={} passed={}",
        plain(&first),
        summary.critical,
        summary.error,
        summary.warning,
        summary.info,
        summary.unknown,
        summary.passed
    );
    for finding in faults.iter().skip(1) {
        text.push('\n');
        text.push_str(&plain(&one(finding)));
    }
    (code, text)
}

fn npd(report: &Report, fail_on: Severity) -> (u8, String) {
    let bad: Vec<&Finding> = faults(report)
        .into_iter()
        .filter(|finding| finding.severity >= fail_on)
        .collect();
    let Some(first) = bad.first() else {
        return (0, "network offloads are as they should be".into());
    };
    let more = match bad.len() {
        1 => String::new(),
        count => format!(" (+{})", count - 1),
    };
    let room = NPD_MAX_LEN - more.len();
    let text: String = one(first).chars().take(room).collect();
    (1, text + &more)
}

#[cfg(test)]
mod tests {
    use super::*;
    use jumbo_host::check::{Options, check};
    use jumbo_host::snapshot::{Device, Snapshot};
    use jumbo_host::waiver::Date;

    /// A bridge whose ports have different MTUs: one error.
    fn ill() -> Report {
        let port = |index, mtu| Device {
            index,
            name: format!("port{index}"),
            kind: "veth".into(),
            mtu,
            controller: Some(9),
            ..Device::default()
        };
        let bridge = Device {
            index: 9,
            name: "br|0".into(),
            kind: "bridge".into(),
            mtu: 1500,
            ..Device::default()
        };
        let host = Snapshot {
            devices: vec![port(1, 1500), port(2, 9000), bridge],
            ..Snapshot::default()
        };
        let options = Options {
            rules: vec!["MTU001".into()],
            ..Options::default()
        };
        check(&host, None, &options, Date::of(UNIX_EPOCH))
    }

    #[test]
    fn nagios_gets_its_code_one_line_and_figures() {
        let (code, text) = nagios(&ill());
        assert_eq!(code, 2);
        let first = text.lines().next().expect("a line");
        assert!(
            first.starts_with("OFFLOAD CRITICAL - MTU001 br/0: "),
            "{first}"
        );
        assert_eq!(first.matches('|').count(), 1);
        assert!(
            first.ends_with("critical=0 error=1 warning=0 info=0 unknown=0 passed=0"),
            "{first}"
        );
    }

    #[test]
    fn the_node_problem_detector_gets_a_short_line() {
        let (code, text) = npd(&ill(), Severity::Warning);
        assert!(
            code == 1 && text.chars().count() <= NPD_MAX_LEN && !text.contains('\n'),
            "{text}"
        );
        assert_eq!(npd(&ill(), Severity::Critical).0, 0);
    }
}
