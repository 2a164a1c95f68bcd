//! The report for people: by device, quiet when healthy.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use jumbo_host::check::{DeviceSummary, Finding, Report, Status, Summary};
use jumbo_host::rules::{Class, Layer};

use crate::render::Width;

/// `jumbo check`.
pub(super) fn report(report: &Report, width: Width) -> String {
    let mut text = heading(report);
    let of = |device: Option<&str>| -> Vec<&Finding> {
        let here = |finding: &&Finding| {
            finding.device.as_deref() == device && finding.status != Status::Unknown
        };
        report.findings.iter().filter(here).collect()
    };
    group(&mut text, "this host", &of(None), width);
    for device in &report.devices {
        group(&mut text, &title(device), &of(Some(&device.name)), width);
    }
    unknown(&mut text, report, width);
    let _ = write!(text, "\n{}", total(report));
    text
}

fn heading(report: &Report) -> String {
    let or = |value: &Option<String>| value.clone().unwrap_or_else(|| "unknown".into());
    let mut text = format!(
        "{}, kernel {}, judged as {}",
        or(&report.host),
        or(&report.kernel),
        report.profile.name()
    );
    if let Some(seconds) = report.sample_seconds {
        let _ = write!(text, ", watched for {seconds:.1} s");
    }
    text.push('\n');
    text
}

fn title(device: &DeviceSummary) -> String {
    let mut title = format!(
        "{}: {}",
        device.name,
        device.driver.as_ref().unwrap_or(&device.kind)
    );
    let _ = write!(title, ", mtu {}", device.mtu);
    if !device.owners.is_empty() {
        let _ = write!(title, ", open in {}", device.owners.join(", "));
    }
    let off: Vec<_> = device
        .receive_coalescing
        .iter()
        .filter(|family| !family.operational)
        .collect();
    if let Some(first) = off.first() {
        let which = if off.len() > 1 {
            String::new()
        } else {
            format!(" for {}", first.family)
        };
        let _ = write!(
            title,
            ", no receive coalescing{which}: {}",
            first.failure_reason.words()
        );
    }
    title
}

/// Nothing at all for what is fine.
fn group(text: &mut String, title: &str, findings: &[&Finding], width: Width) {
    if findings.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n{title}");
    for finding in findings {
        one(text, finding, width);
    }
}

fn one(text: &mut String, finding: &Finding, width: Width) {
    let waived = finding.status == Status::Waived;
    let word = if waived {
        "waived"
    } else {
        finding.severity.name()
    };
    let reason = finding
        .reason
        .as_ref()
        .map(|reason| format!(" ({reason})"))
        .unwrap_or_default();
    entry(
        text,
        &format!("{word:<9}{}", finding.id),
        &format!("{}{reason}", finding.what),
        18,
        2,
        width,
    );
    if let Some(waiver) = &finding.waiver {
        let expired = if waived { "" } else { "expired: " };
        let until = waiver
            .until
            .map(|until| format!(", until {until}"))
            .unwrap_or_default();
        entry(
            text,
            "waiver",
            &format!("{expired}{}{until}", waiver.reason),
            8,
            11,
            width,
        );
    }
    if waived {
        return;
    }
    for evidence in &finding.evidence {
        entry(
            text,
            "saw",
            &format!("{}   [{}]", evidence.value, evidence.source),
            8,
            11,
            width,
        );
    }
    for command in &finding.fix.commands {
        entry(
            text,
            "fix",
            &format!("{command}{}", who(finding)),
            8,
            11,
            width,
        );
    }
}

/// Whoever must act, unless it is the reader; and what it costs.
fn who(finding: &Finding) -> &'static str {
    match (finding.layer, finding.fix.class) {
        (Layer::Guest, _) => "   (guest)",
        (Layer::Hypervisor, _) => "   (hypervisor)",
        (Layer::Switch, _) => "   (switch)",
        (Layer::Host, Class::Reset) => "   (may take the link down for a moment)",
        (Layer::Host, _) => "",
    }
}

/// A label and a text that wraps beneath itself.
fn entry(
    text: &mut String,
    label: &str,
    words: &str,
    label_len: usize,
    indent: usize,
    width: Width,
) {
    let hang = indent + label_len;
    let room = width.map_or(usize::MAX, |width| {
        usize::from(width).saturating_sub(hang).max(30)
    });
    for (number, line) in wrap(words, room).iter().enumerate() {
        let label = if number == 0 { label } else { "" };
        let _ = writeln!(text, "{:indent$}{label:<label_len$}{line}", "");
    }
}

fn wrap(words: &str, room: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in words.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= room => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Checks that could not be made, by reason.
fn unknown(text: &mut String, report: &Report, width: Width) {
    let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for finding in report
        .findings
        .iter()
        .filter(|finding| finding.status == Status::Unknown)
    {
        let ids = reasons.entry(&finding.what).or_default();
        if !ids.contains(&finding.id) {
            ids.push(finding.id);
        }
    }
    if !reasons.is_empty() {
        text.push_str("\nnot known\n");
    }
    for (reason, ids) in reasons {
        entry(
            text,
            "unknown",
            &format!("{reason}: {}", ids.join(" ")),
            9,
            2,
            width,
        );
    }
}

fn total(report: &Report) -> String {
    let Summary {
        critical,
        error,
        warning,
        info,
        unknown,
        waived,
        passed,
        not_applicable: _,
    } = report.summary;
    let counts = [
        (critical, "critical", "critical"),
        (error, "error", "errors"),
        (warning, "warning", "warnings"),
        (info, "remark", "remarks"),
        (waived, "waived", "waived"),
        (unknown, "unknown", "unknown"),
        (passed, "check passed", "checks passed"),
    ];
    let some = counts.into_iter().filter(|(count, _, _)| *count > 0);
    let words: Vec<_> = some
        .map(|(count, one, many)| format!("{count} {}", if count == 1 { one } else { many }))
        .collect();
    let first = report
        .findings
        .iter()
        .find(|finding| finding.status == Status::Finding);
    let hint = first
        .map(|finding| format!("; more: jumbo explain {}", finding.id))
        .unwrap_or_default();
    match words.is_empty() {
        true => "nothing to check".into(),
        false => format!("{}{hint}", words.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_words_stay_whole_and_lines_hang() {
        let mut text = String::new();
        entry(
            &mut text,
            "fix",
            &format!("{} b c", "a".repeat(40)),
            8,
            2,
            Some(40),
        );
        assert_eq!(
            text,
            format!("  fix     {}\n          b c\n", "a".repeat(40))
        );
    }
}
