//! `jumbo replay` from outside: exit codes, data, words, packets.

mod captures;
mod files;
mod formats;
mod laws;
mod manual;
mod sample;

use std::io::Write;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Runs `jumbo replay` with these arguments and this standard input.
fn replay_with(args: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_jumbo"))
        .arg("replay")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_vec();
    // Beside reading, or both sides could wait for each other; a child that does not read is its own affair.
    let feeder = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().expect("ended");
    feeder.join().expect("fed");
    output
}

fn replay(args: &[&str]) -> Output {
    replay_with(args, &[])
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

/// The JSON of a run that ends with this exit code.
fn json_of(output: &Output, code: i32) -> Value {
    assert_eq!(output.status.code(), Some(code), "{}", stderr(output));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// The report on a capture that is read from standard input, and is fine.
fn report(capture: &[u8], args: &[&str]) -> Value {
    let args = [&["-", "--json"], args].concat();
    json_of(&replay_with(&args, capture), 0)
}
