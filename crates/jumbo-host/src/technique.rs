//! Techniques that are not faults: what `jumbo explain rsc` says.

/// The page of one technique.
#[derive(Debug, Clone, Copy)]
pub struct Technique {
    /// What one types.
    pub name: &'static str,
    /// Other words for it.
    pub aliases: &'static [&'static str],
    /// Markdown: a title, then [`HEADINGS`].
    pub page: &'static str,
}

/// The headings of a technique's page, in this order.
pub const HEADINGS: [&str; 6] = [
    "What it is",
    "Latency and CPU",
    "Where it must be on",
    "Conflicts",
    "Rules",
    "Sources",
];

macro_rules! technique {
    ($name:literal: $($alias:literal),*) => {
        Technique {
            name: $name,
            aliases: &[$($alias),*],
            page: include_str!(concat!("technique/", $name, ".md")),
        }
    };
}

/// All techniques, by name.
pub static TECHNIQUES: &[Technique] = &[
    technique!("big-tcp": "bigtcp"),
    technique!("csum": "checksum"),
    technique!("gro": "gro-hw"),
    technique!("lro": ),
    technique!("moderation": "coalescing", "rx-usecs", "adaptive-rx"),
    technique!("netqueue": "vmdq", "vmq", "vmmq"),
    technique!("networld": "ctxperdev", "netpoll"),
    technique!("rfs": "arfs"),
    technique!("rps": ),
    technique!("rsc": "vrsc"),
    technique!("rss": "vrss"),
    technique!("splitrx": "netsplitrxmode"),
    technique!("splittx": ),
    technique!("sr-iov": "sriov", "vf"),
    technique!("toe": "chimney"),
    technique!("tso": "lso", "gso"),
    technique!("uso": "udp-gso"),
    technique!("vhost": "vhost-net", "vhost-user"),
    technique!("xdp": "af-xdp"),
    technique!("xps": ),
];

/// The technique with this name or alias, in any case.
pub fn by_name(name: &str) -> Option<&'static Technique> {
    let is = |one: &str| one.eq_ignore_ascii_case(name);
    TECHNIQUES
        .iter()
        .find(|technique| is(technique.name) || technique.aliases.iter().any(|alias| is(alias)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{page, rules};

    #[test]
    fn pages_have_all_headings_and_name_rules_that_exist() {
        for technique in TECHNIQUES {
            assert_eq!(
                page::headings(technique.page),
                HEADINGS,
                "{}",
                technique.name
            );
            let rules = page::section(technique.page, "Rules").expect("there");
            for id in rules.split_whitespace() {
                assert!(
                    rules::by_id(id).is_some(),
                    "{}: no rule {id}",
                    technique.name
                );
            }
            assert!(
                technique
                    .page
                    .lines()
                    .all(|line| line.chars().count() <= 100),
                "{}",
                technique.name
            );
        }
    }

    #[test]
    fn every_word_means_one_technique() {
        let words = TECHNIQUES
            .iter()
            .flat_map(|one| one.aliases.iter().chain([&one.name]));
        let all: Vec<_> = words.collect();
        let unique: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(unique.len(), all.len());
        assert_eq!(by_name("LSO").map(|one| one.name), Some("tso"));
    }
}
