//! The manual's page: its examples run as typed, and what it shows is what is printed.

use std::path::Path;
use std::process::Command;

use crate::{replay, stdout};

const MANUAL: &str = include_str!("../../../../docs/replay.md");

#[test]
fn examples_work_as_typed() {
    let dir = tempfile::tempdir().expect("a directory");
    let binary = Path::new(env!("CARGO_BIN_EXE_jumbo"));
    let folder = binary.parent().expect("a folder").display();
    let path = std::env::var("PATH").unwrap_or_default();
    let examples = MANUAL
        .lines()
        .filter(|line| line.starts_with("jumbo replay --sample") && !line.contains("jq"));
    let mut run = 0;
    for example in examples {
        let output = Command::new("sh")
            .args(["-c", example])
            .current_dir(dir.path())
            .env("PATH", format!("{folder}:{path}"))
            .output()
            .expect("a shell");
        assert!(output.status.success(), "{example}: {output:?}");
        assert!(!output.stdout.is_empty(), "{example}");
        run += 1;
    }
    assert!(run >= 6, "{run} examples found");
}

#[test]
fn the_page_shown_is_the_page_printed() {
    let shown = MANUAL
        .split_once("$ jumbo replay --sample\n")
        .and_then(|(_, rest)| rest.split_once("```"))
        .map(|(page, _)| page)
        .expect("an example with its output");
    assert!(stdout(&replay(&["--sample"])).starts_with(shown), "{shown}");
}

#[test]
fn every_option_is_explained() {
    let help = stdout(&replay(&["--help"]));
    let options = help
        .split_whitespace()
        .filter(|word| word.starts_with("--"))
        .map(|word| word.trim_end_matches([',', '.', ';', ')']));
    // Of every command, and explained there.
    for option in options.filter(|option| !["--help", "--format"].contains(option)) {
        let known = MANUAL.contains(&format!("`{option}")) || option == "--output";
        assert!(known, "{option}");
    }
}
