//! Files that are no captures, are not there, are damaged, or are in the way.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::captures::{ETHERNET, pcap, read, together, train};
use crate::{json_of, replay, replay_with, stderr, stdout};

fn file(dir: &tempfile::TempDir, name: &str, bytes: &[u8]) -> String {
    let path = dir.path().join(name);
    fs::write(&path, bytes).expect("written");
    path.to_str().expect("text").to_owned()
}

#[test]
fn what_was_named_wrongly_ends_with_2() {
    let dir = tempfile::tempdir().expect("a directory");
    let text = file(&dir, "text", b"this is no capture");
    let empty = file(&dir, "empty", b"");
    let folder = dir.path().to_str().expect("text").to_owned();
    for (args, words) in [
        (vec!["/nonexistent.pcap"], "no such file"),
        (vec![text.as_str()], "is not a pcap or pcapng capture"),
        (vec![empty.as_str()], "is empty"),
        (vec![folder.as_str()], "is a directory"),
        (vec!["--sample", "-o", folder.as_str()], "is a directory"),
        (vec!["--sample", "--checksum", "maybe"], "invalid value"),
        (vec!["--sample", "--burst", "0"], "invalid value"),
        (vec!["--sample", "--segment", "7"], "7 is not in"),
        (
            vec!["--sample", "--segment", "100", "--gap-us", "1"],
            "cannot be used with",
        ),
        (vec!["--sample", text.as_str()], "cannot be used with"),
    ] {
        let output = replay(&args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(
            stderr(&output).contains(words),
            "{args:?}: {}",
            stderr(&output)
        );
        assert_eq!(stdout(&output), "", "{args:?}");
    }
}

#[test]
fn what_the_machine_refuses_ends_with_3() {
    let output = replay(&["--sample", "-o", "/nonexistent/out.pcapng"]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    let dir = tempfile::tempdir().expect("a directory");
    let secret = file(&dir, "secret.pcap", &pcap(ETHERNET, &[]));
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o0)).expect("set");
    if fs::File::open(&secret).is_ok() {
        eprintln!("skipped: this user reads everything (run the tests without root)");
        return;
    }
    let output = replay(&[&secret]);
    assert_eq!(output.status.code(), Some(3));
    assert!(stderr(&output).contains("permission denied"));
}

#[test]
fn an_unreadable_file_ends_with_3() {
    // Reading a process's memory from its beginning is an I/O error for everybody.
    let output = replay(&["/proc/self/mem"]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("cannot be read"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_truncated_capture_gives_what_was_read_and_1() {
    let dir = tempfile::tempdir().expect("a directory");
    let whole = pcap(ETHERNET, &together(train(10)));
    let cut = file(&dir, "cut.pcap", &whole[..whole.len() - 1]);
    let out = dir.path().join("out.pcapng");
    let output = replay(&[&cut, "--json", "-o", out.to_str().expect("text")]);
    let report = json_of(&output, 1);
    assert_eq!(report["packets_in"], 9);
    assert_eq!(report["packets_out"], 1);
    let damage = report["damage"].as_str().expect("text");
    assert!(damage.contains("ends too early"), "{damage}");
    assert!(
        stderr(&output).contains("ends too early"),
        "{}",
        stderr(&output)
    );
    assert!(stderr(&output).ends_with("the result is of what was read\n"));
    assert_eq!(read(&out).len(), 1);
    let page = replay(&[&cut]);
    assert_eq!(page.status.code(), Some(1));
    assert!(stdout(&page).contains("Not the whole capture: "));
}

#[test]
fn the_input_is_not_overwritten() {
    let dir = tempfile::tempdir().expect("a directory");
    let bytes = pcap(ETHERNET, &together(train(2)));
    let path = file(&dir, "a.pcap", &bytes);
    let output = replay(&[&path, "-o", &path]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(fs::read(&path).expect("there"), bytes);
}

#[test]
fn a_capture_on_stdout_leaves_the_report_to_stderr() {
    let output = replay(&["--sample", "-o", "-"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(
        stderr(&output).starts_with("sample: coalesced"),
        "{}",
        stderr(&output)
    );
    let again = replay_with(&["-", "--json"], &output.stdout);
    let first = replay(&["--sample", "--json"]);
    assert_eq!(
        json_of(&again, 0)["packets_in"],
        json_of(&first, 0)["packets_out"]
    );
}

#[test]
fn a_reader_of_the_capture_who_left_is_no_error() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let status = std::process::Command::new(env!("CARGO_BIN_EXE_jumbo"))
        .args(["replay", "--sample", "-o", "-"])
        .stdout(writer)
        .stderr(std::process::Stdio::null())
        .status()
        .expect("started");
    assert_eq!(status.code(), Some(0));
}

#[test]
fn an_empty_capture_is_fine() {
    let output = replay_with(&["-"], &pcap(ETHERNET, &[]));
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).ends_with("The capture holds no packets.\n"));
}
