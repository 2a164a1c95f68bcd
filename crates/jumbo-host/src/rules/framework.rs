//! What a rule is and what it answers.

use serde::{Deserialize, Serialize};

use crate::change::{Setting, Value, Wanted};
use crate::datum::{Datum, Unknown};
use crate::snapshot::{Device, Feature, Snapshot};

/// How bad a fault is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Context, or an opportunity.
    Info,
    /// Measurable loss.
    Warning,
    /// Major loss of performance, or a set-up that cannot work.
    Error,
    /// Wrong or lost data, or an outage.
    Critical,
}

impl Severity {
    /// As it is written in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Critical => "critical",
        }
    }
}

/// Who must act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    /// This host's settings.
    Host,
    /// The operating system in the virtual machine.
    Guest,
    /// The program that runs the virtual machine.
    Hypervisor,
    /// The virtual switch or bridge.
    Switch,
}

/// What applying the fix does to traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// No impact.
    Safe,
    /// May take the link down for a moment or make queues anew.
    Reset,
    /// Somebody else must act: hypervisor, guest, switch.
    Peer,
    /// A decision, not a command.
    Advice,
}

/// What the host is for; some rules judge by it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// Virtual machines behind TAPs.
    VmHost,
    /// Forwards between networks.
    Router,
    /// Many bytes per second.
    #[default]
    Throughput,
    /// Short round trips.
    Latency,
}

impl Profile {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::VmHost => "vm-host",
            Self::Router => "router",
            Self::Throughput => "throughput",
            Self::Latency => "latency",
        }
    }

    /// What the host looks like: TAPs make a host of virtual machines, forwarding a router.
    pub fn guess(snapshot: &Snapshot) -> Self {
        if snapshot
            .devices
            .iter()
            .any(|device| device.is_tap() && device.controller.is_some())
        {
            Self::VmHost
        } else if snapshot.sysctl("net.ipv4.ip_forward") == Ok(1) {
            Self::Router
        } else {
            Self::Throughput
        }
    }
}

/// What a check may look at.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The host as it is.
    pub now: &'a Snapshot,
    /// The host a while ago, for what can only be judged by change.
    pub before: Option<&'a Snapshot>,
    /// What the host is for.
    pub profile: Profile,
}

impl<'a> View<'a> {
    /// The earlier reading and the seconds since.
    pub fn earlier(&self) -> Result<(&'a Snapshot, f64), Unknown> {
        let before = self
            .before
            .ok_or_else(|| Unknown("needs two readings (--sample)".into()))?;
        let elapsed_ms = self.now.uptime_ms.saturating_sub(before.uptime_ms);
        match elapsed_ms {
            0 => Err(Unknown("no time passed between the two readings".into())),
            // Exact: a sample is far shorter than 2^53 ms.
            ms => Ok((before, ms as f64 / 1000.0)),
        }
    }

    /// The device in the earlier reading.
    pub fn earlier_device(&self, device: &Device) -> Result<(&'a Device, f64), Unknown> {
        let (before, seconds) = self.earlier()?;
        let gone = || Unknown(format!("{} is new since the first reading", device.name));
        Ok((before.by_index(device.index).ok_or_else(gone)?, seconds))
    }

    /// Counters of softnet, softirqs and interrupts are the whole machine's; inside another namespace they say nothing
    /// about its devices.
    pub fn machine_wide(&self) -> Result<(), Unknown> {
        match self.now.initial_namespace.ok() {
            Some(false) => Err(Unknown(
                "counts the whole machine, not this network namespace (run it outside)".into(),
            )),
            _ => Ok(()),
        }
    }
}

/// What a check answers; unknown is the error.
pub type Outcome = Result<Verdict, Unknown>;

/// What a check found out.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// There is nothing here it could judge.
    NotApplicable,
    /// Fine.
    Pass,
    /// Not fine.
    Fault(Fault),
}

/// A fault, with its evidence.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    /// What is wrong, in one clause.
    pub what: String,
    /// What was read, and where.
    pub evidence: Vec<Evidence>,
    /// What an operator would type, or do.
    pub commands: Vec<String>,
    /// The same as settings, where this host's kernel has them.
    pub wanted: Vec<Wanted>,
    /// Replaces the rule's severity.
    pub severity: Option<Severity>,
    /// Replaces the rule's layer.
    pub layer: Option<Layer>,
    /// Who or what is the cause, in one word, where the rule can tell.
    pub reason: Option<String>,
}

impl Fault {
    /// A fault without evidence yet.
    pub fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            evidence: Vec::new(),
            commands: Vec::new(),
            wanted: Vec::new(),
            severity: None,
            layer: None,
            reason: None,
        }
    }

    /// What was read at `source`.
    pub fn saw(mut self, source: impl Into<String>, value: impl ToString) -> Self {
        self.evidence.push(Evidence {
            source: source.into(),
            value: value.to_string(),
        });
        self
    }

    /// The state of a feature of a device.
    pub fn saw_feature(self, device: &Device, name: &str) -> Self {
        let state = device
            .features
            .ok()
            .map_or(Feature::ABSENT, |features| features.get(name));
        let source = device.features.source();
        let source = if source.is_empty() {
            format!("ethtool FEATURES_GET {}", device.name)
        } else {
            source.to_owned()
        };
        self.saw(source, format!("{name}: {}", state.words()))
    }

    /// A datum as it was read.
    pub fn saw_datum<T: ToString>(self, datum: &Datum<T>) -> Self {
        match datum.ok() {
            Some(value) => self.saw(datum.source(), value.to_string()),
            None => self,
        }
    }

    /// What an operator would type.
    pub fn fix(mut self, command: impl Into<String>) -> Self {
        self.commands.push(command.into());
        self
    }

    /// A setting that should be otherwise, with the command that makes it so.
    pub fn set(self, setting: Setting, value: impl Into<Value>) -> Self {
        let value = value.into();
        let command = setting.command(&value);
        self.fix(command).change(setting, value)
    }

    /// A setting that should be otherwise; its command stands among others.
    pub fn change(mut self, setting: Setting, value: impl Into<Value>) -> Self {
        let value = value.into();
        self.wanted.push(Wanted {
            setting,
            value,
            only_if_asked: false,
        });
        self
    }

    /// A feature that should be on or off.
    pub fn turn(self, device: &Device, name: &str, on: bool) -> Self {
        self.set(Setting::feature(device, name), Value::asking(on))
    }

    /// Features among these that the device has and that are not so yet.
    pub fn turn_all(self, device: &Device, names: &[&str], on: bool) -> Self {
        let Some(features) = device.features.ok() else {
            return self;
        };
        let open = |name: &&&str| {
            let feature = features.get(name);
            !feature.fixed && feature != Value::feature_asking(on)
        };
        names
            .iter()
            .filter(open)
            .fold(self, |fault, name| fault.turn(device, name, on))
    }

    /// What the settings cost something else: a plan has them only when the operator names the rule.
    pub fn only_if_asked(mut self) -> Self {
        for wanted in &mut self.wanted {
            wanted.only_if_asked = true;
        }
        self
    }

    /// More or less severe than usual.
    pub fn severity(mut self, severity: Severity) -> Self {
        self.severity = Some(severity);
        self
    }

    /// Another layer than usual must act.
    pub fn layer(mut self, layer: Layer) -> Self {
        self.layer = Some(layer);
        self
    }

    /// The cause in one word.
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }

    /// The answer of a check.
    pub fn found(self) -> Outcome {
        Ok(Verdict::Fault(self))
    }
}

/// One thing that was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Evidence {
    /// File, or netlink question: where to look by hand.
    pub source: String,
    /// What it said.
    pub value: String,
}

/// What a rule looks at in one go.
#[derive(Debug, Clone, Copy)]
pub enum Scope {
    /// One device.
    Device(fn(&Device, &View<'_>) -> Outcome),
    /// The whole host.
    Host(fn(&View<'_>) -> Outcome),
}

/// A rule of the catalogue.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// `TAP001`.
    pub id: &'static str,
    /// States the fault.
    pub name: &'static str,
    /// How bad, unless the fault says otherwise.
    pub severity: Severity,
    /// Who must act, unless the fault says otherwise.
    pub layer: Layer,
    /// What applying the fix does.
    pub class: Class,
    /// It judges a change and needs two readings.
    pub sampled: bool,
    /// The check.
    pub scope: Scope,
    /// Text of the rule's own file; [`crate::page`] takes the page from it.
    pub source: &'static str,
}

impl Rule {
    /// The letters of the id.
    pub fn family(&self) -> &'static str {
        self.id.trim_end_matches(|c: char| c.is_ascii_digit())
    }
}

/// Passes, or is the fault.
pub(crate) fn fault_if(wrong: bool, fault: impl FnOnce() -> Fault) -> Outcome {
    Ok(if wrong {
        Verdict::Fault(fault())
    } else {
        Verdict::Pass
    })
}

/// There is nothing to judge.
pub(crate) const NOT_APPLICABLE: Outcome = Ok(Verdict::NotApplicable);
/// Fine.
pub(crate) const PASS: Outcome = Ok(Verdict::Pass);
