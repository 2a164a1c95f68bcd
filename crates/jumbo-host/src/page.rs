//! The words of a rule: the page at the head of its own file.
//!
//! A rule's file opens with `//!` lines: a title (id and name), then sections with fixed headings. The same text is the
//! rule's documentation, its page in the terminal, and its page in the manual.

use crate::rules::Rule;

/// The headings of a rule's page, in this order.
pub const HEADINGS: [&str; 7] = [
    "What it checks",
    "Why it matters",
    "How to see it by hand",
    "Remedy",
    "When to ignore it",
    "Since kernel",
    "Sources",
];

/// The page of a rule, as Markdown.
pub fn of(rule: &Rule) -> String {
    let lines = rule
        .source
        .lines()
        .map_while(|line| line.strip_prefix("//!"));
    let lines: Vec<_> = lines
        .map(|line| line.strip_prefix(' ').unwrap_or(line))
        .collect();
    lines.join("\n")
}

/// One section of a page, without its heading.
pub fn section(page: &str, heading: &str) -> Option<String> {
    let mut lines = page
        .lines()
        .skip_while(|line| line.strip_prefix("## ") != Some(heading));
    lines.next()?;
    let body: Vec<_> = lines.take_while(|line| !line.starts_with("## ")).collect();
    Some(body.join("\n").trim().to_owned())
}

/// The headings of a page, in their order.
pub fn headings(page: &str) -> Vec<&str> {
    page.lines()
        .filter_map(|line| line.strip_prefix("## "))
        .collect()
}
