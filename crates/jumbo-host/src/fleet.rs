//! Many reports as one table: rule by rule, on how many hosts.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::check::{Report, Status};
use crate::rules::{self, Severity};

/// Hosts that are named as examples of a rule.
const EXAMPLES_MAX: usize = 5;

/// What was found on many hosts.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Fleet {
    /// Names the form.
    pub schema: &'static str,
    /// Hosts whose record was judged.
    pub hosts: usize,
    /// Hosts without any fault of the least severity asked for.
    pub healthy: usize,
    /// Rules that found something, the worst and most frequent first.
    pub rules: Vec<Row>,
    /// Hosts by kernel release.
    pub kernels: BTreeMap<String, usize>,
    /// Records that could not be judged, with the reason.
    pub unusable: Vec<(String, String)>,
}

/// One rule across the hosts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Rule.
    pub id: &'static str,
    /// Its name.
    pub name: &'static str,
    /// The worst it was found with.
    pub severity: Severity,
    /// Hosts it was found on.
    pub hosts: usize,
    /// Devices, on all of them.
    pub devices: usize,
    /// Hosts on which it could not be judged.
    pub unknown: usize,
    /// Some of the hosts.
    pub examples: Vec<String>,
}

/// Collects reports one by one; none of them is kept.
#[derive(Debug, Default)]
pub struct Pivot {
    hosts: usize,
    healthy: usize,
    rows: BTreeMap<&'static str, Tally>,
    kernels: BTreeMap<String, usize>,
    unusable: Vec<(String, String)>,
}

#[derive(Debug, Default)]
struct Tally {
    severity: Option<Severity>,
    hosts: usize,
    devices: usize,
    unknown: usize,
    examples: Vec<String>,
}

impl Pivot {
    /// Adds a host's report.
    pub fn add(&mut self, host: &str, report: &Report) {
        self.hosts += 1;
        let kernel = report.kernel.clone().unwrap_or_else(|| "unknown".into());
        *self.kernels.entry(kernel).or_default() += 1;
        let (mut found, mut unknown) = (BTreeSet::new(), BTreeSet::new());
        for finding in &report.findings {
            let tally = self.rows.entry(finding.id).or_default();
            match finding.status {
                Status::Finding => {
                    tally.severity = tally.severity.max(Some(finding.severity));
                    tally.devices += usize::from(finding.device.is_some());
                    found.insert(finding.id);
                }
                Status::Unknown => {
                    unknown.insert(finding.id);
                }
                Status::Waived => {}
            }
        }
        self.healthy += usize::from(found.is_empty());
        for (id, tally) in &mut self.rows {
            tally.unknown += usize::from(unknown.contains(id));
            if found.contains(id) {
                tally.hosts += 1;
                if tally.examples.len() < EXAMPLES_MAX {
                    tally.examples.push(host.to_owned());
                }
            }
        }
    }

    /// Adds a record that cannot be judged.
    pub fn add_unusable(&mut self, file: &str, why: String) {
        self.unusable.push((file.to_owned(), why));
    }

    /// The table.
    pub fn finish(self) -> Fleet {
        let row = |(id, tally): (&'static str, Tally)| {
            Some(Row {
                id,
                name: rules::by_id(id)?.name,
                severity: tally.severity?,
                hosts: tally.hosts,
                devices: tally.devices,
                unknown: tally.unknown,
                examples: tally.examples,
            })
        };
        let mut rows: Vec<Row> = self.rows.into_iter().filter_map(row).collect();
        rows.sort_by_key(|row| (std::cmp::Reverse((row.severity, row.hosts)), row.id));
        Fleet {
            schema: "jumbo-fleet/1",
            hosts: self.hosts,
            healthy: self.healthy,
            rules: rows,
            kernels: self.kernels,
            unusable: self.unusable,
        }
    }
}

impl Fleet {
    /// The worst fault of all hosts.
    pub fn worst(&self) -> Option<Severity> {
        self.rules.iter().map(|row| row.severity).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{Options, check};
    use crate::rules::scene::Scene;
    use crate::snapshot::Feature;
    use crate::waiver::Date;

    fn report(ill: bool) -> Report {
        let mut scene = Scene::healthy();
        if ill {
            scene.feature("eth0", "rx-gro", Feature::OFF).feature(
                "eth0",
                "rx-hashing",
                Feature::OFF,
            );
        }
        check(
            &scene.now,
            Some(&scene.before),
            &Options::default(),
            Date::of(std::time::SystemTime::UNIX_EPOCH),
        )
    }

    #[test]
    fn rules_are_counted_over_hosts() {
        let mut pivot = Pivot::default();
        for number in 0..10 {
            pivot.add(&format!("h{number}"), &report(number < 7));
        }
        pivot.add_unusable("bad.json", "cut short".into());
        let fleet = pivot.finish();
        assert_eq!(
            (fleet.hosts, fleet.healthy, fleet.unusable.len()),
            (10, 3, 1)
        );
        let rows: Vec<_> = fleet
            .rules
            .iter()
            .map(|row| (row.id, row.hosts, row.devices))
            .collect();
        assert_eq!(rows, [("GRO001", 7, 7), ("RSS008", 7, 7)]);
        assert_eq!(fleet.rules[0].examples.len(), EXAMPLES_MAX);
        assert_eq!(fleet.worst(), Some(Severity::Warning));
        assert_eq!(fleet.kernels["6.18.0"], 10);
    }
}
