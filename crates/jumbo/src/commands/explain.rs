//! `jumbo explain`: the page of a rule or a technique.

use std::fmt::Write as _;

use jumbo_host::page;
use jumbo_host::rules::{self, Rule, Severity};
use jumbo_host::technique::{self, TECHNIQUES, Technique};
use serde::Serialize;

use crate::args::{ExplainArgs, Format};
use crate::error::{CliError, Outcome};
use crate::output;

/// How far a typed word may be from a known one to be suggested (Jaro-Winkler, as clap does).
const NEAR: f64 = 0.75;
/// Most suggestions.
const SUGGESTIONS_MAX: usize = 3;

/// A page.
#[derive(Debug, Serialize)]
struct Page {
    topic: &'static str,
    text: String,
}

/// A line of the list.
#[derive(Debug, Serialize)]
struct Line {
    topic: &'static str,
    kind: &'static str,
    name: String,
    severity: Option<Severity>,
}

/// Looks up and shows.
pub(crate) fn run(args: &ExplainArgs, format: Format) -> Result<Outcome, CliError> {
    match &args.topic {
        Some(topic) => output::print(format, &find(topic)?, |page, _| terminal(&page.text))?,
        None => output::print(format, &list(), |lines, _| table(lines))?,
    }
    Ok(Outcome::Fine)
}

fn find(topic: &str) -> Result<Page, CliError> {
    let rule = rules::by_id(topic).map(|rule| Page {
        topic: rule.id,
        text: page::of(rule),
    });
    let technique = || {
        technique::by_name(topic).map(|one| Page {
            topic: one.name,
            text: one.page.into(),
        })
    };
    let unknown = || {
        CliError::usage(format!("there is no rule or technique `{topic}`")).way_out(nearest(topic))
    };
    rule.or_else(technique).ok_or_else(unknown)
}

/// "did you mean ...?", or how to see all.
pub(crate) fn nearest(typed: &str) -> String {
    let typed = typed.to_lowercase();
    let names = rules::all()
        .flat_map(|rule| [rule.id, rule.name])
        .chain(TECHNIQUES.iter().map(|one| one.name));
    let mut near: Vec<(f64, &str)> = names
        .map(|name| (strsim::jaro_winkler(&typed, &name.to_lowercase()), name))
        .filter(|(likeness, _)| *likeness >= NEAR)
        .collect();
    near.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    let near: Vec<_> = near
        .iter()
        .take(SUGGESTIONS_MAX)
        .map(|(_, name)| *name)
        .collect();
    match near.is_empty() {
        true => "jumbo explain --list shows all".into(),
        false => format!("did you mean {}?", near.join(", ")),
    }
}

/// Markdown without its marks: headings stand out by themselves.
fn terminal(text: &str) -> String {
    let line = |line: &str| match (line.strip_prefix("# "), line.strip_prefix("## ")) {
        (Some(title), _) => format!("{title}\n{}\n", "=".repeat(title.chars().count())),
        (_, Some(heading)) => format!("{}\n", heading.to_uppercase()),
        _ if line.is_empty() => "\n".into(),
        _ => format!("  {line}\n"),
    };
    text.lines().map(line).collect()
}

fn list() -> Vec<Line> {
    let rule = |rule: &Rule| Line {
        topic: rule.id,
        kind: "rule",
        name: rule.name.into(),
        severity: Some(rule.severity),
    };
    let technique = |one: &Technique| Line {
        topic: one.name,
        kind: "technique",
        name: one
            .page
            .lines()
            .next()
            .unwrap_or_default()
            .trim_start_matches("# ")
            .into(),
        severity: None,
    };
    rules::all()
        .map(rule)
        .chain(TECHNIQUES.iter().map(technique))
        .collect()
}

fn table(lines: &[Line]) -> String {
    lines.iter().fold(String::new(), |mut text, line| {
        let severity = line.severity.map_or(line.kind, Severity::name);
        let _ = writeln!(text, "{:<12}{severity:<11}{}", line.topic, line.name);
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_gets_the_nearest() {
        assert!(nearest("TAP0O1").contains("TAP001"));
        assert_eq!(nearest("zzzzzz"), "jumbo explain --list shows all");
    }

    #[test]
    fn every_topic_of_the_list_has_its_page() {
        for line in list() {
            assert!(
                !terminal(&find(line.topic).expect("there").text).contains("# "),
                "{}",
                line.topic
            );
        }
        assert!(find("tap001").is_ok());
        assert_eq!(find("TAP000").expect_err("none").code.number(), 2);
    }
}
