//! Offload features by their kernel names, each in the words of `ethtool -k`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One feature bit of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Feature {
    /// It works now.
    pub active: bool,
    /// Somebody, or the driver's default, asked for it.
    pub wanted: bool,
    /// Nobody can change it: the driver does not offer it as a choice.
    pub fixed: bool,
}

/// Not the words of a feature.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no feature state")]
pub struct NotAFeature(String);

impl Feature {
    /// On and changeable.
    pub const ON: Self = Self {
        active: true,
        wanted: true,
        fixed: false,
    };
    /// Off and changeable.
    pub const OFF: Self = Self {
        active: false,
        wanted: false,
        fixed: false,
    };
    /// Asked for and not so: something else prevents it.
    pub const DENIED: Self = Self {
        active: false,
        wanted: true,
        fixed: false,
    };
    /// The driver cannot do it.
    pub const ABSENT: Self = Self {
        active: false,
        wanted: false,
        fixed: true,
    };

    /// As `ethtool -k` prints it.
    pub fn words(self) -> &'static str {
        match (self.active, self.wanted, self.fixed) {
            (true, _, true) => "on [fixed]",
            (false, _, true) => "off [fixed]",
            (true, true, false) => "on",
            (false, false, false) => "off",
            (true, false, false) => "on [requested off]",
            (false, true, false) => "off [requested on]",
        }
    }
}

impl From<Feature> for String {
    fn from(feature: Feature) -> Self {
        feature.words().into()
    }
}

impl TryFrom<String> for Feature {
    type Error = NotAFeature;

    fn try_from(words: String) -> Result<Self, NotAFeature> {
        let all = [false, true].into_iter().flat_map(|active| {
            let one = move |wanted, fixed| Self {
                active,
                wanted,
                fixed,
            };
            [one(active, false), one(!active, false), one(active, true)]
        });
        let mut matching = all.filter(|feature| feature.words() == words);
        matching.next().ok_or(NotAFeature(words))
    }
}

/// All features of a device. Names are the kernel's (net/ethtool/common.c, netdev_features_strings).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Features(pub BTreeMap<String, Feature>);

impl Features {
    /// Transmit checksum offloads: generic, or one per family.
    pub const TX_CHECKSUMS: [&str; 3] = [
        "tx-checksum-ip-generic",
        "tx-checksum-ipv4",
        "tx-checksum-ipv6",
    ];
    /// TCP segmentation offload of both families.
    pub const TSO: [&str; 2] = ["tx-tcp-segmentation", "tx-tcp6-segmentation"];

    /// The state of one feature; a kernel that does not know it cannot do it.
    pub fn get(&self, name: &str) -> Feature {
        self.0.get(name).copied().unwrap_or(Feature::ABSENT)
    }

    /// Whether it works now.
    pub fn active(&self, name: &str) -> bool {
        self.get(name).active
    }

    /// Whether any transmit checksum offload works: the generic one or that of one family.
    pub fn tx_checksum(&self) -> bool {
        Self::TX_CHECKSUMS.iter().any(|name| self.active(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_its_words_and_back() {
        for (active, wanted, fixed) in [
            (true, true, false),
            (true, false, false),
            (false, true, false),
            (false, false, true),
            (true, true, true),
        ] {
            let feature = Feature {
                active,
                wanted,
                fixed,
            };
            assert_eq!(Feature::try_from(String::from(feature)), Ok(feature));
        }
        assert!(Feature::try_from("maybe".to_owned()).is_err());
    }
}
