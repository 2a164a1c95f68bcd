//! `jumbo demo` from outside, where the machine allows it.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

const TECHNIQUES: [&str; 8] = [
    "none",
    "gro",
    "tso",
    "gso",
    "kernel_gro",
    "kernel_tso",
    "lro",
    "rsc",
];

fn demo(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jumbo"));
    command.arg("demo").args(args).stdin(Stdio::null());
    command.output().expect("started")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn every_row_is_there_and_every_byte_is_right() {
    let output = demo(&["--seconds", "12", "--json"]);
    let said = text(&output.stderr);
    if output.status.code() == Some(3) {
        assert!(said.contains("jumbo replay --sample"), "{said}");
        println!("skipped: {}", said.trim());
        return;
    }
    assert_eq!(output.status.code(), Some(0), "{said}");
    let json: Value = serde_json::from_slice(&output.stdout).expect("JSON alone on stdout");
    assert_eq!(json["books_balanced"], true);
    assert!(
        json["conclusion"]
            .as_str()
            .is_some_and(|s| s.contains("gro"))
    );
    let rows = json["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), TECHNIQUES.len() * 4);
    for direction in ["one", "both"] {
        for family in ["ipv4", "ipv6"] {
            for technique in TECHNIQUES {
                check(find(rows, technique, family, direction));
            }
        }
    }
    assert!(json["ends"][0]["percent"].as_f64().is_some_and(|p| p > 0.0));
}

fn find<'a>(rows: &'a [Value], technique: &str, family: &str, direction: &str) -> &'a Value {
    let wanted = |row: &&Value| {
        row["technique"] == technique && row["family"] == family && row["direction"] == direction
    };
    let mut found = rows.iter().filter(wanted);
    let row = found
        .next()
        .unwrap_or_else(|| panic!("{technique} {family} {direction}"));
    assert!(found.next().is_none(), "twice: {row}");
    row
}

fn check(row: &Value) {
    let number = |key: &str| row[key].as_f64();
    assert_eq!(row["intact"], true, "{row}");
    assert!(number("gbit_per_s").is_some_and(|rate| rate > 0.0), "{row}");
    assert!(
        number("cpu_s_per_gb").is_some_and(|cost| cost > 0.0),
        "{row}"
    );
    assert!(number("spread").is_some(), "{row}");
    let merged = number("segments_per_packet").unwrap_or_default();
    match row["technique"].as_str() {
        Some("none" | "gso") => assert_eq!(merged, 1.0, "{row}"),
        _ => assert!(merged > 2.0, "{row}"),
    }
    let kernel = row["technique"]
        .as_str()
        .is_some_and(|t| t.starts_with("kernel"));
    for key in ["switch_user_s_per_gb", "switch_sys_s_per_gb", "drops"] {
        assert_eq!(row[key].is_null(), kernel, "{key}: {row}");
    }
}

#[test]
fn an_mtu_ipv6_cannot_have_is_refused_before_anything_is_made() {
    let output = demo(&["--mtu", "1279"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        text(&output.stderr),
        "error: --mtu 1279: too small for IPv6; give 1280 bytes or more\n"
    );
}
