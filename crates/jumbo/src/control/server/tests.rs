//! No test measures time: a client that must be closed is read to its end, which blocks until it is.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;

use serde_json::{Value, json};

use super::*;

/// Time-outs that never come in a test that does not wait for one.
const PATIENT: Limits = Limits {
    clients_max: 4,
    request_len_max: 64,
    client_timeout: Duration::from_secs(600),
};
/// Short enough to wait for.
const HASTY: Limits = Limits {
    client_timeout: Duration::from_millis(30),
    ..PATIENT
};

struct Fixture {
    server: Option<Server>,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

fn fake(request: Request) -> Response {
    Response::data(&format!("{request:?}"))
}

fn start(limits: Limits, handler: impl Fn(Request) -> Response + Send + 'static) -> Fixture {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).expect("bound");
    Fixture {
        server: Some(serve(listener, limits, handler).expect("served")),
        path,
        _dir: dir,
    }
}

impl Fixture {
    fn connect(&self) -> BufReader<UnixStream> {
        let stream = UnixStream::connect(&self.path).expect("connected");
        // No assertion: a server that forgets a client makes the test fail instead of hang.
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .expect("set");
        BufReader::new(stream)
    }
}

fn ask(client: &mut BufReader<UnixStream>, line: &str) -> Value {
    client.get_mut().write_all(line.as_bytes()).expect("sent");
    read(client)
}

fn read(client: &mut BufReader<UnixStream>) -> Value {
    let mut answer = String::new();
    client.read_line(&mut answer).expect("answered");
    serde_json::from_str(&answer).expect("JSON")
}

fn rest(client: &mut BufReader<UnixStream>) -> String {
    let mut text = String::new();
    // A reset counts as an end: the server closed with our bytes unread.
    let _ = client.read_to_string(&mut text);
    text
}

const STATUS: &str = "{\"cmd\":\"status\"}\n";

#[test]
fn requests_on_one_connection_are_answered_in_order() {
    let fixture = start(PATIENT, fake);
    let mut client = fixture.connect();
    assert_eq!(
        ask(&mut client, STATUS),
        json!({"ok": true, "data": "Status"})
    );
    assert_eq!(
        ask(&mut client, "{\"cmd\":\"ports\"}\n{\"cmd\":\"status\"}\n"),
        json!({"ok": true, "data": "Ports"})
    );
    assert_eq!(read(&mut client), json!({"ok": true, "data": "Status"}));
}

#[test]
fn a_request_in_pieces_is_one_request() {
    let fixture = start(PATIENT, fake);
    let mut client = fixture.connect();
    let (last, first) = STATUS.as_bytes().split_last().expect("not empty");
    for byte in first {
        client.get_mut().write_all(&[*byte]).expect("sent");
    }
    client.get_mut().write_all(&[*last]).expect("sent");
    assert_eq!(read(&mut client), json!({"ok": true, "data": "Status"}));
}

#[test]
fn garbage_is_answered_and_the_connection_lives() {
    let fixture = start(PATIENT, fake);
    let mut client = fixture.connect();
    for garbage in [
        "\n",
        "dance\n",
        "{}\n",
        "{\"cmd\":\"dance\"}\n",
        "[1,2]\n",
        "\u{1}\u{2}\n",
    ] {
        let answer = ask(&mut client, garbage);
        assert_eq!(
            (&answer["ok"], &answer["code"]),
            (&json!(false), &json!(2)),
            "{garbage:?} {answer}"
        );
    }
    client.get_mut().write_all(b"\xff\xfe\n").expect("sent");
    assert_eq!(read(&mut client)["code"], 2);
    assert_eq!(ask(&mut client, STATUS)["ok"], true);
}

#[test]
fn an_unknown_command_names_the_known_ones() {
    let fixture = start(PATIENT, fake);
    let error = ask(&mut fixture.connect(), "{\"cmd\":\"dance\"}\n")["error"].to_string();
    assert!(
        error.contains("`dance`") && error.contains("`status`") && error.contains("`ports`"),
        "{error}"
    );
}

#[test]
fn an_oversized_request_is_refused_and_closed() {
    let fixture = start(PATIENT, fake);
    for newline in ["", "\n"] {
        let mut client = fixture.connect();
        let answer = ask(
            &mut client,
            &format!("{}{newline}", "x".repeat(PATIENT.request_len_max + 1)),
        );
        assert_eq!(answer["error"], "the request is longer than 64 bytes");
        assert_eq!(rest(&mut client), "");
    }
    let mut client = fixture.connect();
    let padded = format!("{:<64}\n", STATUS.trim_end());
    assert_eq!(ask(&mut client, &padded)["ok"], true);
}

#[test]
fn a_slow_client_is_closed_and_hinders_nobody() {
    let fixture = start(HASTY, fake);
    let mut slow = fixture.connect();
    slow.get_mut().write_all(b"{\"cmd\":").expect("sent");
    assert_eq!(ask(&mut fixture.connect(), STATUS)["ok"], true);
    assert!(rest(&mut slow).contains("no whole request within"));
}

#[test]
fn a_client_that_does_not_read_is_closed() {
    let long = "x".repeat(1 << 22);
    let fixture = start(HASTY, move |_| Response::data(&long));
    let mut deaf = fixture.connect();
    deaf.get_mut().write_all(STATUS.as_bytes()).expect("sent");
    // Not one byte is read until the server has closed: polling for the hang-up does not take anything.
    let mut fds = [PollFd::new(deaf.get_ref(), PollFlags::RDHUP)];
    poll(&mut fds, None).expect("closed");
    assert!(rest(&mut deaf).len() < 1 << 22);
}

#[test]
fn an_answer_larger_than_the_socket_s_buffer_arrives_whole() {
    let long = "x".repeat(1 << 22);
    let expected = long.clone();
    let fixture = start(PATIENT, move |_| Response::data(&long));
    assert_eq!(ask(&mut fixture.connect(), STATUS)["data"], expected);
}

#[test]
fn a_client_that_leaves_hinders_nobody() {
    let long = "x".repeat(1 << 22);
    let fixture = start(PATIENT, move |_| Response::data(&long));
    for _ in 0..3 * PATIENT.clients_max {
        let mut client = fixture.connect();
        client.get_mut().write_all(STATUS.as_bytes()).expect("sent");
        drop(client);
        drop(fixture.connect());
    }
    // Those that left may still hold their slots for a moment; a refusal is an answer, too.
    while ask(&mut fixture.connect(), STATUS)["ok"] != true {}
}

#[test]
fn one_client_too_many_is_told_so() {
    let fixture = start(PATIENT, fake);
    let mut clients: Vec<_> = (0..PATIENT.clients_max)
        .map(|_| fixture.connect())
        .collect();
    for client in &mut clients {
        assert_eq!(ask(client, STATUS)["ok"], true);
    }
    let mut extra = fixture.connect();
    let answer = rest(&mut extra);
    assert!(
        answer.contains("4 clients are connected already; try again"),
        "{answer}"
    );
    for client in &mut clients {
        assert_eq!(ask(client, STATUS)["ok"], true);
    }
}

#[test]
fn dropping_the_server_closes_its_clients() {
    let mut fixture = start(PATIENT, fake);
    let mut client = fixture.connect();
    assert_eq!(ask(&mut client, STATUS)["ok"], true);
    drop(fixture.server.take());
    assert_eq!(rest(&mut client), "");
    assert!(UnixStream::connect(&fixture.path).is_err());
}
