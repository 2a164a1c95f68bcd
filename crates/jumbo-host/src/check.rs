//! Runs the rules and makes one report of what they say.

use serde::Serialize;

use crate::change::Wanted;
use crate::page;
use crate::rules::{
    self, Class, Evidence, Layer, Outcome, Profile, Rule, Scope, Severity, Verdict, View,
};
use crate::snapshot::{Device, Snapshot};
use crate::tap::{ReceiveCoalescing, receive_coalescing};
use crate::waiver::{Date, Waiver};

/// Names the form of [`Report`] as JSON. It changes when a key changes its meaning; keys may be added.
pub const SCHEMA: &str = "jumbo-check/1";

/// JSON Schema (draft 2020-12) of [`Report`].
pub const JSON_SCHEMA: &str = include_str!("check/schema.json");

/// What to look at, and how to judge.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Only these devices, and nothing that belongs to the host as a whole; all when empty.
    pub devices: Vec<String>,
    /// Only these rules or families; all when empty.
    pub rules: Vec<String>,
    /// Findings below it are left out.
    pub severity: Option<Severity>,
    /// What the host is for; None to guess.
    pub profile: Option<Profile>,
    /// What the operator lives with.
    pub waivers: Vec<Waiver>,
}

/// What was found on a host.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// Host name; None when it is unknown.
    pub host: Option<String>,
    /// Kernel release.
    pub kernel: Option<String>,
    /// What the host was judged as.
    pub profile: Profile,
    /// Seconds between the two readings; None for one reading.
    pub sample_seconds: Option<f64>,
    /// The devices looked at.
    pub devices: Vec<DeviceSummary>,
    /// What is not fine, what is unknown and what was waived; by device, the worst first.
    pub findings: Vec<Finding>,
    /// How many of each.
    pub summary: Summary,
}

/// A device of the report.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DeviceSummary {
    /// Name.
    pub name: String,
    /// What it is: `nic`, `tun`, `veth`, `bridge`...
    pub kind: String,
    /// Driver, where it has one.
    pub driver: Option<String>,
    /// Largest L3 packet, in bytes.
    pub mtu: u32,
    /// Set up.
    pub up: bool,
    /// Programs that hold it, for TUN and TAP: `name[pid]`.
    pub owners: Vec<String>,
    /// Receive coalescing by family, for TAPs and NICs.
    pub receive_coalescing: Vec<ReceiveCoalescing>,
}

/// What became of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It found a fault.
    Finding,
    /// It could not be made.
    Unknown,
    /// It found a fault the operator lives with.
    Waived,
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// Rule.
    pub id: &'static str,
    /// Its name.
    pub name: &'static str,
    /// How bad.
    pub severity: Severity,
    /// Device; None for the host as a whole.
    pub device: Option<String>,
    /// Fault, unknown, or waived.
    pub status: Status,
    /// What is wrong, or why nobody knows.
    pub what: String,
    /// The cause in one word, where the rule can tell.
    pub reason: Option<String>,
    /// Who must act.
    pub layer: Layer,
    /// What was read, and where.
    pub evidence: Vec<Evidence>,
    /// Why it matters.
    pub why: String,
    /// What to do.
    pub fix: Fix,
    /// The same as settings, for a plan.
    #[serde(skip)]
    pub wanted: Vec<Wanted>,
    /// The waiver that covers it, even when it has expired.
    pub waiver: Option<Waiver>,
}

/// What to do about a finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fix {
    /// What it does to traffic.
    pub class: Class,
    /// What to type, or do.
    pub commands: Vec<String>,
}

/// How many checks ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Faults by severity.
    pub critical: u32,
    /// Errors.
    pub error: u32,
    /// Warnings.
    pub warning: u32,
    /// Remarks.
    pub info: u32,
    /// Checks that could not be made.
    pub unknown: u32,
    /// Faults the operator lives with.
    pub waived: u32,
    /// Checks that passed.
    pub passed: u32,
    /// Checks that had nothing to judge.
    pub not_applicable: u32,
}

impl Report {
    /// The worst fault that is not waived.
    pub fn worst(&self) -> Option<Severity> {
        let faults = self
            .findings
            .iter()
            .filter(|finding| finding.status == Status::Finding);
        faults.map(|finding| finding.severity).max()
    }
}

/// Runs the rules.
pub fn check(now: &Snapshot, before: Option<&Snapshot>, options: &Options, today: Date) -> Report {
    let profile = options.profile.unwrap_or_else(|| Profile::guess(now));
    let view = View {
        now,
        before,
        profile,
    };
    let wanted =
        |device: &&Device| options.devices.is_empty() || options.devices.contains(&device.name);
    let devices: Vec<&Device> = now.devices.iter().filter(wanted).collect();
    let mut book = Book {
        options,
        today,
        findings: Vec::new(),
        summary: Summary::default(),
    };
    for rule in
        rules::all().filter(|rule| selected(rule, options) && (!rule.sampled || before.is_some()))
    {
        match rule.scope {
            Scope::Device(check) => {
                devices
                    .iter()
                    .for_each(|device| book.enter(rule, Some(device), check(device, &view)));
            }
            Scope::Host(check) if options.devices.is_empty() => {
                book.enter(rule, None, check(&view))
            }
            Scope::Host(_) => {}
        }
    }
    book.sort(now);
    Report {
        schema: SCHEMA,
        host: now.hostname.ok().cloned(),
        kernel: now.kernel.ok().cloned(),
        profile,
        sample_seconds: view.earlier().ok().map(|(_, seconds)| seconds),
        devices: devices.into_iter().map(summary).collect(),
        findings: book.findings,
        summary: book.summary,
    }
}

fn selected(rule: &Rule, options: &Options) -> bool {
    let named = |name: &String| {
        name.eq_ignore_ascii_case(rule.id) || name.eq_ignore_ascii_case(rule.family())
    };
    options.rules.is_empty() || options.rules.iter().any(named)
}

fn summary(device: &Device) -> DeviceSummary {
    let owners = device.owners.ok().into_iter().flatten();
    DeviceSummary {
        name: device.name.clone(),
        kind: device.kind.clone(),
        driver: device.driver.ok().cloned().flatten(),
        mtu: device.mtu,
        up: device.up,
        owners: owners
            .map(|owner| format!("{}[{}]", owner.program, owner.pid))
            .collect(),
        receive_coalescing: receive_coalescing(device),
    }
}

/// Collects what the rules say.
struct Book<'a> {
    options: &'a Options,
    today: Date,
    findings: Vec<Finding>,
    summary: Summary,
}

impl Book<'_> {
    fn enter(&mut self, rule: &Rule, device: Option<&Device>, outcome: Outcome) {
        let finding = match outcome {
            Ok(Verdict::NotApplicable) => return self.summary.not_applicable += 1,
            Ok(Verdict::Pass) => return self.summary.passed += 1,
            Ok(Verdict::Fault(fault)) => Finding {
                severity: fault.severity.unwrap_or(rule.severity),
                what: fault.what,
                reason: fault.reason,
                layer: fault.layer.unwrap_or(rule.layer),
                evidence: fault.evidence,
                wanted: fault.wanted,
                fix: Fix {
                    class: rule.class,
                    commands: fault.commands,
                },
                ..blank(rule, device, Status::Finding)
            },
            Err(unknown) => Finding {
                what: unknown.0,
                ..blank(rule, device, Status::Unknown)
            },
        };
        if self
            .options
            .severity
            .is_none_or(|least| finding.severity >= least)
        {
            let finding = self.waive(finding);
            self.count(&finding);
            self.findings.push(finding);
        }
    }

    /// An expired waiver stays beside the finding it no longer covers.
    fn waive(&self, mut finding: Finding) -> Finding {
        let covers = |waiver: &&Waiver| waiver.covers(finding.id, finding.device.as_deref());
        let waiver = self
            .options
            .waivers
            .iter()
            .filter(covers)
            .min_by_key(|waiver| waiver.expired(self.today));
        if finding.status == Status::Finding
            && let Some(waiver) = waiver
        {
            if !waiver.expired(self.today) {
                finding.status = Status::Waived;
            }
            finding.waiver = Some(waiver.clone());
        }
        finding
    }

    fn count(&mut self, finding: &Finding) {
        let counter = match (finding.status, finding.severity) {
            (Status::Unknown, _) => &mut self.summary.unknown,
            (Status::Waived, _) => &mut self.summary.waived,
            (Status::Finding, Severity::Critical) => &mut self.summary.critical,
            (Status::Finding, Severity::Error) => &mut self.summary.error,
            (Status::Finding, Severity::Warning) => &mut self.summary.warning,
            (Status::Finding, Severity::Info) => &mut self.summary.info,
        };
        *counter += 1;
    }

    /// The host first, then devices in the kernel's order; within one the worst first.
    fn sort(&mut self, now: &Snapshot) {
        let place = |finding: &Finding| {
            let device = finding.device.as_deref().and_then(|name| now.by_name(name));
            (
                device.map(|device| device.index),
                std::cmp::Reverse(finding.severity),
                finding.id,
            )
        };
        self.findings.sort_by_key(place);
    }
}

/// A finding without its particulars.
fn blank(rule: &Rule, device: Option<&Device>, status: Status) -> Finding {
    Finding {
        id: rule.id,
        name: rule.name,
        severity: rule.severity,
        device: device.map(|device| device.name.clone()),
        status,
        what: String::new(),
        reason: None,
        layer: rule.layer,
        evidence: Vec::new(),
        why: page::section(&page::of(rule), "Why it matters").unwrap_or_default(),
        fix: Fix {
            class: rule.class,
            commands: Vec::new(),
        },
        wanted: Vec::new(),
        waiver: None,
    }
}

#[cfg(test)]
mod tests;
