//! Sets of processors, in the two forms the kernel writes them: lists (`0-3,8`) and masks (`ff,0000000f`).

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// More processors than Linux supports (NR_CPUS is 8192 at most on x86-64): bounds what a damaged file can ask for.
const CPUS_MAX: u32 = 65_536;

/// A set of processors. Written as the kernel writes a list: `0-3,8`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct CpuSet(pub BTreeSet<u32>);

/// Not a list or mask of processors.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no set of processors")]
pub struct NotCpus(String);

impl CpuSet {
    /// From the hexadecimal mask of `rps_cpus` and `xps_cpus`: words of 32 bits, the highest first.
    pub fn from_mask(text: &str) -> Result<Self, NotCpus> {
        let bad = || NotCpus(text.trim().into());
        let mut cpus = BTreeSet::new();
        for (word, digits) in text.trim().rsplit(',').enumerate() {
            let bits = u32::from_str_radix(digits, 16).map_err(|_| bad())?;
            let base = u32::try_from(word * 32).map_err(|_| bad())?;
            cpus.extend(
                (0..32)
                    .filter(|bit| bits >> bit & 1 == 1)
                    .map(|bit| base + bit),
            );
        }
        Ok(Self(cpus))
    }

    /// The mask the kernel takes for this set, without leading zeros.
    pub fn to_mask(&self) -> String {
        let words = self.0.last().map_or(1, |last| last / 32 + 1);
        let word = |index: u32| {
            let bits = self.0.range(index * 32..(index + 1) * 32);
            bits.fold(0u32, |word, cpu| word | 1 << (cpu % 32))
        };
        let highest = format!("{:x}", word(words - 1));
        (0..words - 1)
            .rev()
            .fold(highest, |text, index| format!("{text},{:08x}", word(index)))
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// None at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those in both.
    pub fn and(&self, other: &Self) -> Self {
        Self(self.0.intersection(&other.0).copied().collect())
    }

    /// Those not in the other.
    pub fn without(&self, other: &Self) -> Self {
        Self(self.0.difference(&other.0).copied().collect())
    }

    /// Those in either.
    pub fn or(&self, other: &Self) -> Self {
        Self(self.0.union(&other.0).copied().collect())
    }
}

impl FromIterator<u32> for CpuSet {
    fn from_iter<I: IntoIterator<Item = u32>>(cpus: I) -> Self {
        Self(cpus.into_iter().collect())
    }
}

impl FromStr for CpuSet {
    type Err = NotCpus;

    fn from_str(text: &str) -> Result<Self, NotCpus> {
        let bad = || NotCpus(text.trim().into());
        let mut cpus = BTreeSet::new();
        for range in text.trim().split(',').filter(|range| !range.is_empty()) {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last): (u32, u32) = (
                first.parse().map_err(|_| bad())?,
                last.parse().map_err(|_| bad())?,
            );
            if first > last || last >= CPUS_MAX {
                return Err(bad());
            }
            cpus.extend(first..=last);
        }
        Ok(Self(cpus))
    }
}

impl TryFrom<String> for CpuSet {
    type Error = NotCpus;

    fn try_from(text: String) -> Result<Self, NotCpus> {
        text.parse()
    }
}

impl From<CpuSet> for String {
    fn from(cpus: CpuSet) -> Self {
        cpus.to_string()
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.iter().copied().peekable();
        let mut comma = "";
        while let Some(first) = rest.next() {
            let mut last = first;
            while rest.next_if_eq(&(last + 1)).is_some() {
                last += 1;
            }
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
            comma = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_masks_are_two_forms_of_one_set() {
        for (list, mask) in [
            ("0-3,8", "10f"),
            ("", "0"),
            ("31-33", "3,80000000"),
            ("64", "1,00000000,00000000"),
        ] {
            let set: CpuSet = list.parse().expect("a list");
            assert_eq!(CpuSet::from_mask(mask).expect("a mask"), set);
            assert_eq!(
                (set.to_string().as_str(), set.to_mask().as_str()),
                (list, mask)
            );
        }
    }

    #[test]
    fn what_is_no_set_is_refused() {
        for bad in ["a", "3-1", "0-4294967295", "1--2"] {
            assert!(bad.parse::<CpuSet>().is_err(), "{bad}");
        }
        assert!(CpuSet::from_mask("fg").is_err());
    }
}
