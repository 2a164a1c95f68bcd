//! Plans: the changes after which the rules are silent.
//!
//! A plan is made by the rules themselves. Each fault names the settings it would have otherwise; they are tried on the
//! snapshot, the rules judge again, and so on until they ask for nothing more. Hence a plan cannot contradict the check.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::change::{Setting, Step, Value, Wanted};
use crate::check::{self, Finding, Options, Status};
use crate::rules::{Class, Layer, Profile};
use crate::snapshot::Snapshot;
use crate::waiver::Date;

/// Names the form of [`Plan`] as JSON.
pub const SCHEMA: &str = "jumbo-plan/1";

/// Rules are asked again so often: once per rank of settings, and for faults behind faults.
const ROUNDS_MAX: usize = 32;

/// Changes for one host, in the order they are to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// [`SCHEMA`].
    pub schema: String,
    /// Host name.
    pub host: String,
    /// The network namespace it was made in, as the kernel names it; empty for a recorded host.
    pub namespace: String,
    /// What the host was judged as.
    pub profile: Profile,
    /// What to change.
    pub steps: Vec<Step>,
    /// Faults no step removes: somebody else must act, or decide.
    pub left: Vec<Left>,
    /// Two rules that want the same setting to be different things; the first one got it.
    pub conflicts: Vec<Conflict>,
}

/// A fault that stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Left {
    /// Rule.
    pub id: String,
    /// Device; None for the host as a whole.
    pub device: Option<String>,
    /// What is wrong.
    pub what: String,
    /// Why no step removes it.
    pub why: String,
}

/// A setting two rules disagree about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conflict {
    /// Which.
    pub setting: Setting,
    /// The rules whose value is in the plan.
    pub kept: Vec<String>,
    /// The rule whose value is not.
    pub dropped: String,
    /// What it wanted.
    pub value: Value,
}

/// A plan this version cannot use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// Made in a form of another version.
    #[error("it has form `{0}`, this version reads `{SCHEMA}`")]
    OtherForm(String),
    /// A step names what no kernel has.
    #[error("step {number}: {what}")]
    Step {
        /// From 1.
        number: usize,
        /// What does not fit.
        what: String,
    },
}

impl Plan {
    /// Whether every step is one jumbo would make: a plan is a file that anybody could have edited.
    pub fn usable(&self) -> Result<(), Unusable> {
        if self.schema != SCHEMA {
            return Err(Unusable::OtherForm(self.schema.clone()));
        }
        for (index, step) in self.steps.iter().enumerate() {
            let fits = step
                .setting
                .fits(&step.old)
                .and_then(|()| step.setting.fits(&step.new));
            fits.map_err(|unfit| Unusable::Step {
                number: index + 1,
                what: unfit.0,
            })?;
        }
        Ok(())
    }
}

/// Makes a plan from one or two readings.
pub fn plan(now: &Snapshot, before: Option<&Snapshot>, options: &Options, today: Date) -> Plan {
    let profile = options.profile.unwrap_or_else(|| Profile::guess(now));
    // Guessed once: a change must not make it another host.
    let options = Options {
        profile: Some(profile),
        ..options.clone()
    };
    let mut draft = Draft::new(now, &options);
    let mut report = check::check(now, before, &options, today);
    for _ in 0..ROUNDS_MAX {
        if !draft.take(&report.findings) {
            break;
        }
        report = check::check(&draft.simulated, before, &options, today);
    }
    Plan {
        schema: SCHEMA.to_owned(),
        host: now.hostname.ok().cloned().unwrap_or_default(),
        namespace: String::new(),
        profile,
        left: draft.left(&report.findings),
        conflicts: draft.conflicts(&report.findings),
        steps: in_order(draft.steps),
    }
}

/// A plan in the making.
struct Draft<'a> {
    now: &'a Snapshot,
    options: &'a Options,
    simulated: Snapshot,
    steps: BTreeMap<Setting, Step>,
}

impl<'a> Draft<'a> {
    fn new(now: &'a Snapshot, options: &'a Options) -> Self {
        Self {
            now,
            options,
            simulated: now.clone(),
            steps: BTreeMap::new(),
        }
    }

    /// Takes what the findings want, of the lowest rank only: what stands on it may look otherwise afterwards. The worst
    /// findings first; whether anything was new.
    fn take(&mut self, findings: &[Finding]) -> bool {
        let mut faults: Vec<&Finding> = findings
            .iter()
            .filter(|finding| finding.status == Status::Finding)
            .collect();
        faults.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        let mut wishes: Vec<(&str, &Wanted)> = Vec::new();
        for finding in faults {
            let asked = self.asked_for(finding);
            let allowed = finding
                .wanted
                .iter()
                .filter(|one| asked || !one.only_if_asked);
            wishes.extend(allowed.map(|wanted| (finding.id, wanted)));
        }
        // Stable: within a rank the worst stays first.
        wishes.sort_by_key(|(_, wanted)| wanted.setting.rank());
        let mut taken = None;
        for (rule, wanted) in wishes {
            let rank = wanted.setting.rank();
            if taken.is_some_and(|taken| rank > taken) {
                break;
            }
            if self.want(rule, &wanted.setting, &wanted.value) {
                taken = Some(rank);
            }
        }
        taken.is_some()
    }

    fn asked_for(&self, finding: &Finding) -> bool {
        self.options
            .rules
            .iter()
            .any(|name| name.eq_ignore_ascii_case(finding.id))
    }

    /// One setting; whether it is new.
    fn want(&mut self, rule: &str, setting: &Setting, value: &Value) -> bool {
        if let Some(step) = self.steps.get_mut(setting) {
            let known = step.rules.iter().any(|other| other == rule);
            if step.new.asks_the_same(value) && !known {
                step.rules.push(rule.to_owned());
            }
            return false;
        }
        let Ok(old) = setting.read(self.now) else {
            return false;
        };
        // It fell into place by itself, with another step.
        let already = setting.read(&self.simulated).is_ok_and(|is| is == *value);
        if already || old == *value || setting.fits(value).is_err() {
            return false;
        }
        setting.simulate(&mut self.simulated, value);
        let step = Step::new(setting.clone(), old, value.clone(), rule);
        self.steps.insert(setting.clone(), step);
        true
    }

    /// What rules want on the simulated host that another rule has decided otherwise.
    fn conflicts(&self, findings: &[Finding]) -> Vec<Conflict> {
        let faults = findings
            .iter()
            .filter(|finding| finding.status == Status::Finding);
        let wishes =
            faults.flat_map(|finding| finding.wanted.iter().map(move |one| (finding, one)));
        let conflict = |(finding, wanted): (&Finding, &Wanted)| {
            let step = self.steps.get(&wanted.setting)?;
            let own = step.rules.iter().any(|id| id == finding.id);
            let dropped = !own && !step.new.asks_the_same(&wanted.value);
            dropped.then(|| Conflict {
                setting: wanted.setting.clone(),
                kept: step.rules.clone(),
                dropped: finding.id.to_owned(),
                value: wanted.value.clone(),
            })
        };
        wishes.filter_map(conflict).collect()
    }

    /// Faults that stay on the simulated host, with why.
    fn left(&self, findings: &[Finding]) -> Vec<Left> {
        let stay =
            |finding: &&Finding| finding.status == Status::Finding && !self.is_addressed(finding);
        let left = |finding: &Finding| Left {
            id: finding.id.to_owned(),
            device: finding.device.clone(),
            what: finding.what.clone(),
            why: self.why(finding),
        };
        findings.iter().filter(stay).map(left).collect()
    }

    /// A rule that judges counters sees the old ones on the simulated host.
    fn is_addressed(&self, finding: &Finding) -> bool {
        let planned = |setting: &Setting| {
            self.steps
                .get(setting)
                .is_some_and(|step| step.rules.iter().any(|id| id == finding.id))
        };
        finding.wanted.iter().any(|wanted| planned(&wanted.setting))
    }

    fn why(&self, finding: &Finding) -> String {
        let asks = finding.wanted.iter().any(|wanted| wanted.only_if_asked);
        match (finding.layer, finding.fix.class) {
            (Layer::Guest, _) => "the guest must act".into(),
            (Layer::Hypervisor, _) => "the hypervisor must act".into(),
            (Layer::Switch, _) if finding.wanted.is_empty() => "the switch must act".into(),
            _ if asks && !self.asked_for(finding) => {
                format!("it costs something else; ask for it: --rule {}", finding.id)
            }
            (_, Class::Advice | Class::Peer) => "a decision, not a setting".into(),
            _ if finding.wanted.is_empty() => "no setting of this kernel changes it".into(),
            _ => "the setting cannot be read here, or another rule wants it otherwise".into(),
        }
    }
}

/// By rank; things turned off before things turned on, so that what excludes each other can change places.
fn in_order(steps: BTreeMap<Setting, Step>) -> Vec<Step> {
    let mut steps: Vec<Step> = steps.into_values().collect();
    let turned_on = |step: &Step| matches!(step.new, Value::Feature(feature) if feature.wanted);
    steps.sort_by(|a, b| {
        let key = |step: &Step| (step.setting.rank(), turned_on(step));
        key(a).cmp(&key(b)).then_with(|| a.setting.cmp(&b.setting))
    });
    steps
}

#[cfg(test)]
mod tests;
