//! A report as metrics in the text format of Prometheus, for node_exporter's textfile collector or a push.
//!
//! The number of series is bounded: about forty, six per device that is shown, and no more than a hundred findings.
//! Nothing is labelled by queue, interrupt or flow. Types are gauges throughout: the textfile collector refuses the
//! types of OpenMetrics that the older format does not have.

use std::fmt::{self, Write as _};

use crate::check::{Finding, Report, Status};
use crate::rules::{Profile, Severity};
use crate::snapshot::{Device, Snapshot};

/// Findings that get a series of their own, the worst first.
const FINDINGS_MAX: usize = 100;
/// Cards, bridges and TAPs that get series of their own.
const DEVICES_MAX: usize = 600;

/// Offloads of a card or bridge, as `jumbo_offload_state` names them.
const OFFLOADS: [(&str, &str); 6] = [
    ("csum_tx", "tx-checksum-ip-generic"),
    ("tso4", "tx-tcp-segmentation"),
    ("tso6", "tx-tcp6-segmentation"),
    ("gro", "rx-gro"),
    ("lro", "rx-lro"),
    ("gro_hw", "rx-gro-hw"),
];

/// The metrics of one report, made at `at_unix_s`.
pub fn metrics(
    report: &Report,
    now: &Snapshot,
    before: Option<&Snapshot>,
    at_unix_s: u64,
) -> String {
    let mut page = Page::default();
    about(&mut page, report, at_unix_s);
    counts(&mut page, report);
    findings(&mut page, report);
    devices(&mut page, report, now);
    if let Some(before) = before {
        changes(&mut page, before, now);
    }
    page.text.push_str("# EOF\n");
    page.text
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn gauge(&mut self, name: &str, help: &str) {
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} gauge");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl fmt::Display) {
        self.text.push_str(name);
        for (number, (label, value)) in labels.iter().enumerate() {
            let before = if number == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{before}{label}=\"{}\"", escaped(value));
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{close} {value}");
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

fn about(page: &mut Page, report: &Report, at_unix_s: u64) {
    page.gauge("jumbo_check_info", "What made these figures; always 1.");
    let labels = [
        ("version", env!("CARGO_PKG_VERSION")),
        ("schema", report.schema),
        ("profile", Profile::name(report.profile)),
    ];
    page.sample("jumbo_check_info", &labels, 1);
    page.gauge(
        "jumbo_check_last_run_timestamp_seconds",
        "When the check ran.",
    );
    page.sample("jumbo_check_last_run_timestamp_seconds", &[], at_unix_s);
}

fn counts(page: &mut Page, report: &Report) {
    let summary = &report.summary;
    page.gauge("jumbo_findings", "Faults by severity.");
    for (severity, count) in [
        (Severity::Critical, summary.critical),
        (Severity::Error, summary.error),
        (Severity::Warning, summary.warning),
        (Severity::Info, summary.info),
    ] {
        page.sample("jumbo_findings", &[("severity", severity.name())], count);
    }
    page.gauge("jumbo_checks", "Checks by what became of them.");
    let faults = summary.critical + summary.error + summary.warning + summary.info;
    for (status, count) in [
        ("pass", summary.passed),
        ("finding", faults),
        ("unknown", summary.unknown),
        ("waived", summary.waived),
    ] {
        page.sample("jumbo_checks", &[("status", status)], count);
    }
}

fn findings(page: &mut Page, report: &Report) {
    let mut faults: Vec<&Finding> = report
        .findings
        .iter()
        .filter(|finding| finding.status == Status::Finding)
        .collect();
    faults.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    page.gauge(
        "jumbo_finding",
        "1 for each fault that is there, the worst hundred.",
    );
    for finding in faults.iter().take(FINDINGS_MAX) {
        let labels = [
            ("id", finding.id),
            ("severity", finding.severity.name()),
            ("device", finding.device.as_deref().unwrap_or("")),
            ("reason", finding.reason.as_deref().unwrap_or("")),
        ];
        page.sample("jumbo_finding", &labels, 1);
    }
    page.gauge(
        "jumbo_findings_not_listed",
        "Faults beyond the worst hundred.",
    );
    page.sample(
        "jumbo_findings_not_listed",
        &[],
        faults.len().saturating_sub(FINDINGS_MAX),
    );
}

fn devices(page: &mut Page, report: &Report, now: &Snapshot) {
    let shown = report
        .devices
        .iter()
        .filter_map(|one| now.by_name(&one.name));
    let shown: Vec<&Device> = shown
        .filter(|device| device.is_nic() || device.is_tap() || device.kind == "bridge")
        .take(DEVICES_MAX)
        .collect();
    page.gauge(
        "jumbo_offload_state",
        "Sum of 1 supported, 2 wanted, 4 active.",
    );
    for device in shown.iter().filter(|device| !device.is_tap()) {
        let Some(features) = device.features.ok() else {
            continue;
        };
        for (offload, name) in OFFLOADS {
            let feature = features.get(name);
            let state = u8::from(!feature.fixed || feature.active)
                + 2 * u8::from(feature.wanted)
                + 4 * u8::from(feature.active);
            page.sample(
                "jumbo_offload_state",
                &[("device", &device.name), ("offload", offload)],
                state,
            );
        }
    }
    page.gauge(
        "jumbo_rsc_operational",
        "Whether the machine behind a TAP gets coalesced packets.",
    );
    for device in shown.iter().filter(|device| device.is_tap()) {
        for family in crate::tap::receive_coalescing(device) {
            let reason = format!("{:?}", family.failure_reason);
            let labels = [
                ("device", device.name.as_str()),
                ("family", family.family),
                ("reason", &reason),
            ];
            page.sample(
                "jumbo_rsc_operational",
                &labels,
                u8::from(family.operational),
            );
        }
    }
}

/// What two readings say; nothing where either could not be read.
fn changes(page: &mut Page, before: &Snapshot, now: &Snapshot) {
    if let Some(ratio) = coalescing(before, now) {
        page.gauge(
            "jumbo_coalescing_ratio",
            "Packets on the wire for each packet IP received, in this namespace.",
        );
        page.sample("jumbo_coalescing_ratio", &[], format_args!("{ratio:.3}"));
    }
    if let Some(ratio) = imbalance(before, now) {
        page.gauge(
            "jumbo_net_rx_imbalance_ratio",
            "Receive soft interrupts of the busiest processor against the mean.",
        );
        page.sample(
            "jumbo_net_rx_imbalance_ratio",
            &[],
            format_args!("{ratio:.3}"),
        );
    }
    if let Some((squeezed, dropped)) = softnet(before, now) {
        page.gauge(
            "jumbo_softnet_squeeze_ratio",
            "Poll loops that ended with work left, of all receive soft interrupts.",
        );
        page.sample(
            "jumbo_softnet_squeeze_ratio",
            &[],
            format_args!("{squeezed:.6}"),
        );
        page.gauge(
            "jumbo_softnet_dropped",
            "Packets dropped by a full backlog between the two readings.",
        );
        page.sample("jumbo_softnet_dropped", &[], dropped);
    }
}

fn coalescing(before: &Snapshot, now: &Snapshot) -> Option<f64> {
    let (before, now) = (before.protocols.ok()?, now.protocols.ok()?);
    let packets = now
        .ip_in_receives
        .checked_sub(before.ip_in_receives)
        .filter(|count| *count > 0)?;
    Some(now.ip_in_segments.checked_sub(before.ip_in_segments)? as f64 / packets as f64)
}

fn net_rx(before: &Snapshot, now: &Snapshot) -> Option<Vec<u64>> {
    let (before, now) = (before.net_rx.ok()?, now.net_rx.ok()?);
    Some(
        now.iter()
            .map(|(cpu, count)| count.saturating_sub(before.get(cpu).copied().unwrap_or(*count)))
            .collect(),
    )
}

fn imbalance(before: &Snapshot, now: &Snapshot) -> Option<f64> {
    let counts = net_rx(before, now)?;
    let online = now.cpus.online.ok()?.len();
    let all: u64 = counts.iter().sum();
    let most = counts.iter().max().copied()?;
    (all > 0 && online > 0).then(|| most as f64 / (all as f64 / online as f64))
}

fn softnet(before: &Snapshot, now: &Snapshot) -> Option<(f64, u32)> {
    let old = before.softnet.ok()?;
    let (mut squeezed, mut dropped) = (0u32, 0u32);
    for cpu in now.softnet.ok()? {
        let earlier = old.iter().find(|one| one.cpu == cpu.cpu)?;
        squeezed = squeezed.saturating_add(cpu.time_squeeze.wrapping_sub(earlier.time_squeeze));
        dropped = dropped.saturating_add(cpu.dropped.wrapping_sub(earlier.dropped));
    }
    let runs: u64 = net_rx(before, now)?.iter().sum();
    Some((f64::from(squeezed) / runs.max(1) as f64, dropped))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{Options, check};
    use crate::rules::scene::{Scene, link};
    use crate::snapshot::{Feature, Tun};
    use crate::waiver::Date;

    fn page(scene: &Scene) -> String {
        let report = check(
            &scene.now,
            Some(&scene.before),
            &Options::default(),
            Date::of(std::time::SystemTime::UNIX_EPOCH),
        );
        metrics(&report, &scene.now, Some(&scene.before), 1_700_000_000)
    }

    fn samples(page: &str) -> Vec<&str> {
        page.lines().filter(|line| !line.starts_with('#')).collect()
    }

    #[test]
    fn every_sample_has_a_type_before_it() {
        let mut scene = Scene::healthy();
        scene.feature("eth0", "rx-gro", Feature::OFF);
        let page = page(&scene);
        let mut typed = String::new();
        for line in page.lines() {
            match line.strip_prefix("# TYPE ") {
                Some(rest) => typed = rest.split(' ').next().expect("a name").to_owned(),
                None if line.starts_with('#') => {}
                None => {
                    assert_eq!(
                        line.split(['{', ' ']).next(),
                        Some(typed.as_str()),
                        "{line}"
                    );
                    assert!(
                        line.rsplit(' ')
                            .next()
                            .expect("a value")
                            .parse::<f64>()
                            .is_ok(),
                        "{line}"
                    );
                }
            }
        }
        assert!(
            page.contains(
                "jumbo_finding{id=\"GRO001\",severity=\"warning\",device=\"eth0\",reason=\"\"} 1"
            ),
            "{page}"
        );
        assert!(page.contains("jumbo_offload_state{device=\"eth0\",offload=\"tso4\"} 7"));
        assert!(page.ends_with("# EOF\n"));
    }

    #[test]
    fn series_are_bounded_on_a_host_with_many_ill_taps() {
        let mut scene = Scene::healthy();
        for number in 0..500 {
            let mut tap = link(100 + number, &format!("tap{number}"), "tun");
            tap.tun = Some(Tun {
                tap: true,
                vnet_header: true,
                ..Tun::default()
            });
            scene.add(tap);
            scene.feature(
                &format!("tap{number}"),
                "tx-checksum-ip-generic",
                Feature::OFF,
            );
        }
        let page = page(&scene);
        let devices = 4 + 500;
        let count = samples(&page).len();
        assert!(count <= 40 + 6 * devices + FINDINGS_MAX, "{count}");
        assert!(page.contains("jumbo_findings_not_listed "), "{page}");
        let unique: std::collections::BTreeSet<_> = samples(&page)
            .iter()
            .map(|line| line.rsplit_once(' ').map(|(name, _)| name))
            .collect();
        assert_eq!(unique.len(), count, "a series twice");
    }

    #[test]
    fn labels_are_escaped() {
        assert_eq!(escaped("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }
}
