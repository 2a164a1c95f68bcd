//! What a setting can be.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::cpus::CpuSet;
use crate::snapshot::Feature;

/// The value of a setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    /// On or off.
    Flag(bool),
    /// An offload feature, in the words of `ethtool -k`. Only what was asked for can be written.
    Feature(Feature),
    /// A count, a size, a time; the setting says of what.
    Number(u64),
    /// Processors.
    Cpus(CpuSet),
    /// An indirection table: a queue per bucket.
    Table(Vec<u32>),
}

impl Value {
    /// A feature that is asked for and works.
    pub const ON: Self = Self::Feature(Feature::ON);
    /// A feature nobody asks for.
    pub const OFF: Self = Self::Feature(Feature::OFF);

    /// A feature that is to be on or off.
    pub const fn asking(on: bool) -> Self {
        Self::Feature(Self::feature_asking(on))
    }

    /// The same, as a feature.
    pub const fn feature_asking(on: bool) -> Feature {
        if on { Feature::ON } else { Feature::OFF }
    }

    /// The same as far as writing goes: whether a feature works is for the kernel to say, not for us to set.
    pub fn asks_the_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Feature(one), Self::Feature(other)) => one.wanted == other.wanted,
            _ => self == other,
        }
    }

    /// Features that both work, or both do not.
    pub(super) fn works_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Feature(one), Self::Feature(other)) => one.active == other.active,
            _ => false,
        }
    }

    /// A table that spreads over the queues evenly.
    pub fn even_table(buckets: usize, queues: u32) -> Self {
        let queues = queues.max(1);
        Self::Table((0..queues).cycle().take(buckets).collect())
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(true) => f.write_str("on"),
            Self::Flag(false) => f.write_str("off"),
            Self::Feature(feature) => f.write_str(feature.words()),
            Self::Number(number) => write!(f, "{number}"),
            Self::Cpus(cpus) if cpus.is_empty() => f.write_str("none"),
            Self::Cpus(cpus) => write!(f, "{cpus}"),
            Self::Table(table) => write!(f, "{}", table_words(table)),
        }
    }
}

/// A table in short: how many buckets each queue has.
fn table_words(table: &[u32]) -> String {
    let mut counts = std::collections::BTreeMap::new();
    for queue in table {
        *counts.entry(queue).or_insert(0u32) += 1;
    }
    let words = counts
        .iter()
        .map(|(queue, count)| format!("{queue}:{count}"));
    format!("buckets {}", words.collect::<Vec<_>>().join(" "))
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl From<CpuSet> for Value {
    fn from(cpus: CpuSet) -> Self {
        Self::Cpus(cpus)
    }
}
