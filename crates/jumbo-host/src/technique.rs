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

/// All techniques.
pub static TECHNIQUES: &[Technique] = &[];

/// The technique with this name or alias, in any case.
pub fn by_name(name: &str) -> Option<&'static Technique> {
    let is = |one: &&str| one.eq_ignore_ascii_case(name);
    TECHNIQUES
        .iter()
        .find(|technique| is(&technique.name) || technique.aliases.iter().any(|alias| is(&alias)))
}
