//! The house's own rules, as tests: who may depend on whom, where `unsafe` may stand, and that generated pages are fresh.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use jumbo_engine::reason::Reason;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .expect("the workspace is two folders up")
}

fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every Rust file of the workspace's crates.
fn sources() -> Vec<PathBuf> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        let entries = std::fs::read_dir(folder).expect("a folder of the workspace");
        for entry in entries.flatten() {
            let path = entry.path();
            if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
                walk(&path, found);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join("crates"), &mut found);
    assert!(found.len() > 50, "the walk found only {}", found.len());
    found
}

/// What each crate depends on when it is used: section headers and keys of its manifest, test dependencies left out.
fn dependencies(name: &str) -> Vec<String> {
    let manifest = read(root().join("crates").join(name).join("Cargo.toml"));
    let manifest: toml::Table = manifest.parse().expect("a manifest");
    let table = manifest.get("dependencies").and_then(toml::Value::as_table);
    table.map_or_else(Vec::new, |table| table.keys().cloned().collect())
}

#[test]
fn crates_depend_only_along_the_arrows() {
    let allowed = BTreeMap::from([
        ("jumbo-engine", vec![]),
        ("jumbo-testkit", vec![]),
        ("jumbo-lab", vec![]),
        ("jumbo-host", vec![]),
        ("jumbo-ports", vec!["jumbo-engine"]),
        ("jumbo-switch", vec!["jumbo-engine", "jumbo-ports"]),
        (
            "jumbo",
            vec![
                "jumbo-engine",
                "jumbo-host",
                "jumbo-lab",
                "jumbo-ports",
                "jumbo-switch",
            ],
        ),
    ]);
    let folders = std::fs::read_dir(root().join("crates")).expect("crates/");
    for folder in folders.flatten() {
        let name = folder.file_name().into_string().expect("a plain name");
        let allowed = allowed
            .get(name.as_str())
            .unwrap_or_else(|| panic!("{name} is a new crate: say here what it may depend on"));
        for dependency in dependencies(&name) {
            if dependency.starts_with("jumbo") {
                assert!(
                    allowed.contains(&dependency.as_str()),
                    "{name} must not depend on {dependency}"
                );
            }
        }
    }
}

#[test]
fn engine_has_no_io_and_no_std() {
    let lib = read(root().join("crates/jumbo-engine/src/lib.rs"));
    assert!(lib.contains("#![no_std]"));
    assert_eq!(dependencies("jumbo-engine"), ["cpufeatures"]);
    for path in sources() {
        let inside = path.strip_prefix(root()).expect("below the root");
        if !inside.starts_with("crates/jumbo-engine/src") {
            continue;
        }
        let text = read(&path);
        for word in ["extern crate std", "std::"] {
            let used = text
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"))
                .any(|line| line.contains(word));
            assert!(!used, "{} uses {word}", inside.display());
        }
    }
}

/// Files in which `unsafe` may stand; tests that need a global allocator or call raw kernels say so in their name.
fn may_be_unsafe(path: &Path) -> bool {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or("");
    let below_sys = path
        .parent()
        .is_some_and(|folder| folder.components().any(|part| part.as_os_str() == "sys"));
    let kernels = ["sys.rs", "ring.rs", "vring.rs", "simd.rs", "x86.rs"];
    let tests = ["allocations.rs", "checksum.rs"];
    let is_test = path.components().any(|part| part.as_os_str() == "tests");
    kernels.contains(&name) || below_sys || (is_test && tests.contains(&name))
}

#[test]
fn unsafe_stands_only_where_it_may() {
    for path in sources() {
        let text = read(&path);
        // A function type may be unsafe anywhere; what is done must not be.
        let acts = ["{", "impl", "extern"].map(|act| format!("{} {act}", concat!("un", "safe")));
        let used = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .any(|line| acts.iter().any(|act| line.contains(act)));
        let inside = path.strip_prefix(root()).expect("below the root");
        assert!(
            !used || may_be_unsafe(inside),
            "{} contains unsafe code: move it to a sys.rs",
            inside.display()
        );
    }
}

#[test]
fn every_file_begins_with_what_it_is() {
    for path in sources() {
        let text = read(&path);
        assert!(
            text.starts_with("//!") || text.starts_with("#!["),
            "{} has no module documentation",
            path.display()
        );
    }
}

/// One stage of docs/reasons.md.
fn stage<R: Reason>(page: &mut String) {
    let question = R::QUESTION.trim();
    let _ = writeln!(page, "\n## {}\n\n{question}\n", R::STAGE);
    page.push_str("| reason | meaning |\n|---|---|\n");
    for reason in R::ALL {
        let _ = writeln!(page, "| `{}` | {} |", reason.name(), reason.doc().trim());
    }
}

fn reasons_page() -> String {
    let mut page = String::from(
        "# Reasons\n\n\
        Every packet that is not forwarded as it came has one of these reasons. `jumbo status` counts them by port under\n\
        the stage's name. This page is generated from the code: `UPDATE_DOCS=1 cargo test -p jumbo --test house`.\n",
    );
    stage::<jumbo_engine::vnet::HeaderFault>(&mut page);
    stage::<jumbo_engine::parse::Opaque>(&mut page);
    stage::<jumbo_switch::forward::Stay>(&mut page);
    stage::<jumbo_engine::coalesce::Alone>(&mut page);
    stage::<jumbo_engine::coalesce::End>(&mut page);
    stage::<jumbo_engine::complete::Fault>(&mut page);
    stage::<jumbo_ports::queue::RxLoss>(&mut page);
    stage::<jumbo_ports::queue::TxFault>(&mut page);
    page
}

#[test]
fn reasons_page_is_fresh() {
    let path = root().join("docs/reasons.md");
    let page = reasons_page();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &page).expect("docs/ can be written");
    }
    assert_eq!(
        read(&path),
        page,
        "docs/reasons.md is stale: UPDATE_DOCS=1 cargo test -p jumbo --test house"
    );
}

#[test]
fn reason_names_are_unique_and_plain() {
    fn check<R: Reason>() {
        let mut names: Vec<_> = R::ALL.iter().map(|reason| reason.name()).collect();
        for (index, reason) in R::ALL.iter().enumerate() {
            assert_eq!(reason.index(), index);
            assert!(!reason.doc().trim().is_empty());
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            assert!(reason.name().chars().all(plain), "{}", reason.name());
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), R::ALL.len(), "a name twice in {}", R::STAGE);
    }
    check::<jumbo_engine::vnet::HeaderFault>();
    check::<jumbo_engine::parse::Opaque>();
    check::<jumbo_switch::forward::Stay>();
    check::<jumbo_engine::coalesce::Alone>();
    check::<jumbo_engine::coalesce::End>();
    check::<jumbo_engine::complete::Fault>();
    check::<jumbo_ports::queue::RxLoss>();
    check::<jumbo_ports::queue::TxFault>();
}

fn rules_page() -> String {
    let mut page = String::from(
        "# Rules of `jumbo check`\n\n\
        `jumbo explain ID` has the whole page of each. This list is generated from the code:\n\
        `UPDATE_DOCS=1 cargo test -p jumbo --test house`.\n\n\
        | id | the fault | severity | who acts | what it checks |\n|---|---|---|---|---|\n",
    );
    for rule in jumbo_host::rules::all() {
        let what = jumbo_host::page::section(&jumbo_host::page::of(rule), "What it checks")
            .expect("a heading");
        let what = what.replace('\n', " ").replace('|', "\\|");
        let layer = format!("{:?}", rule.layer).to_lowercase();
        let (id, name, severity) = (rule.id, rule.name, rule.severity.name());
        let _ = writeln!(page, "| {id} | {name} | {severity} | {layer} | {what} |");
    }
    page
}

#[test]
fn rules_page_is_fresh() {
    let path = root().join("docs/checks.md");
    let page = rules_page();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &page).expect("docs/ can be written");
    }
    assert_eq!(
        read(&path),
        page,
        "docs/checks.md is stale: UPDATE_DOCS=1 cargo test -p jumbo --test house"
    );
}
