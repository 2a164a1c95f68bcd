//! What is under contrib/: that it parses, that it uses only metrics and flags there are, and, where promtool is
//! installed, that the alerts fire as their tests say.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn contrib(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../contrib")
        .join(path)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(contrib(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Words that begin like our metrics.
fn metrics(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words
        .filter(|word| word.starts_with("jumbo_"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn alerts_and_dashboard_use_metrics_that_are_exported() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../jumbo-host/src/export.rs");
    let exported = metrics(&std::fs::read_to_string(source).expect("export.rs"));
    for path in [
        "prometheus/jumbo.rules.yml",
        "prometheus/jumbo.rules.test.yml",
        "grafana/jumbo.json",
    ] {
        let used = metrics(&read(path));
        let unknown: Vec<_> = used.difference(&exported).collect();
        assert!(unknown.is_empty() && used.len() > 1, "{path}: {unknown:?}");
    }
}

#[test]
fn the_dashboard_is_json_with_a_query_in_each_panel() {
    let dashboard: serde_json::Value =
        serde_json::from_str(&read("grafana/jumbo.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    assert!(panels.len() >= 8);
    for panel in panels {
        let targets = panel["targets"].as_array().expect("targets");
        assert!(
            targets
                .iter()
                .all(|target| target["expr"].as_str().is_some_and(|expr| !expr.is_empty())),
            "{panel}"
        );
    }
}

/// The command lines in these files are understood.
#[test]
fn commands_are_ones_there_are() {
    let monitor: serde_json::Value =
        serde_json::from_str(&read("node-problem-detector/jumbo-check.json")).expect("JSON");
    let args = monitor["rules"][0]["args"].as_array().expect("args");
    let npd: Vec<String> = args
        .iter()
        .map(|word| word.as_str().expect("text").to_owned())
        .collect();
    let line = |text: &str, before: &str| -> Vec<String> {
        let line = text
            .lines()
            .find_map(|line| line.split_once(before))
            .expect("a command line")
            .1;
        line.split_whitespace().map(str::to_owned).collect()
    };
    let service = line(
        &read("systemd/jumbo-check.service"),
        "ExecStart=/usr/bin/jumbo ",
    );
    let nagios = line(&read("nagios/jumbo.cfg"), "command_line    /usr/bin/jumbo ");
    let plan = line(
        &read("ansible/tasks.yml"),
        "ansible.builtin.command: jumbo ",
    );
    for words in [npd, service, nagios, plan] {
        // With --help a line is parsed to its end and does nothing.
        let output = Command::new(env!("CARGO_BIN_EXE_jumbo"))
            .args(&words)
            .arg("--help")
            .output()
            .expect("started");
        assert!(
            output.status.success(),
            "{words:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[test]
fn alerts_fire_as_their_tests_say() {
    let promtool = |words: &[&str]| {
        Command::new("promtool")
            .args(words)
            .current_dir(contrib("prometheus"))
            .output()
    };
    let Ok(checked) = promtool(&["check", "rules", "jumbo.rules.yml"]) else {
        println!("skipped: no promtool (apt install prometheus)");
        return;
    };
    assert!(
        checked.status.success(),
        "{}",
        String::from_utf8_lossy(&checked.stderr)
    );
    let tested = promtool(&["test", "rules", "jumbo.rules.test.yml"]).expect("started");
    assert!(
        tested.status.success(),
        "{}{}",
        String::from_utf8_lossy(&tested.stdout),
        String::from_utf8_lossy(&tested.stderr)
    );
}

/// What `promtool check metrics` reads is what the collector reads.
#[test]
fn the_text_format_is_the_collectors() {
    let page = Command::new(env!("CARGO_BIN_EXE_jumbo"))
        .args(["check", "--sample", "0", "--openmetrics"])
        .output()
        .expect("started");
    assert!(page.status.success());
    let mut promtool = match Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(std::process::Stdio::piped())
        .spawn()
    {
        Ok(child) => child,
        Err(_) => {
            println!("skipped: no promtool (apt install prometheus)");
            return;
        }
    };
    std::io::Write::write_all(&mut promtool.stdin.take().expect("piped"), &page.stdout)
        .expect("written");
    assert!(promtool.wait().expect("ended").success());
}
