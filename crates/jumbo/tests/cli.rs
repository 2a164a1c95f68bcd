//! The binary from outside: exit codes, words, the control protocol as bytes.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn jumbo(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jumbo"));
    command
        .args(args)
        .env_remove("NO_COLOR")
        .env_remove("CLICOLOR_FORCE")
        .stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    jumbo(args).output().expect("started")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

#[test]
fn what_is_mistyped_ends_with_2_and_says_so_on_stderr() {
    for (args, words) in [
        (
            &["run"][..],
            "error: the switch has no ports; give --port tap:DEVICE or -c FILE\n",
        ),
        (
            &["run", "--port", "xyz:a"],
            "error: --port xyz:a: unknown port kind `xyz`: this version has tap, vhost-user, packet, xdp, tun, auto\n",
        ),
        (
            &["run", "--port", "tap:a,mtu=1"],
            "error: --port tap:a,mtu=1: mtu 1 is out of range: give 68 to 65521 bytes\n",
        ),
        (
            &["run", "-c", "/nonexistent.toml"],
            "error: /nonexistent.toml: cannot read the configuration: No such file",
        ),
        (
            &["run", "--port", "tap:a", "--workers", "0"],
            "workers 0 is out of range: give 1 to 256",
        ),
        (&["run", "--prot", "tap:a"], "'--port'"),
        (&["replay"], "<IN|--sample>"),
        (&["dance"], "unrecognized subcommand 'dance'"),
        (&[], "Usage: jumbo"),
    ] {
        let output = run(args);
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
fn a_mistake_in_a_file_names_its_line() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("lab.toml");
    std::fs::write(&path, "workers = 1\n[[port]]\ntap = \"a\"\nmtuu = 1500\n").expect("written");
    let path = path.to_str().expect("text");
    let output = run(&["run", "-c", path]);
    assert_eq!(
        stderr(&output),
        format!("error: {path}:4: unknown key `mtuu`; did you mean `mtu`?\n")
    );
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_socket_in_use_is_refused_before_any_device_is_touched() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("lab.sock");
    let _listener = UnixListener::bind(&path).expect("bound");
    let path = path.to_str().expect("text");
    let output = run(&["run", "--port", "tap:jumbo-none", "--socket", path]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("the socket is in use by a running switch (pid "),
        "{}",
        stderr(&output)
    );
}

#[test]
fn help_and_version_are_data() {
    for args in [
        &["--help"][..],
        &["run", "--help"],
        &["--version"],
        &["help", "replay"],
    ] {
        let output = run(args);
        assert_eq!(
            (output.status.code(), stderr(&output).as_str()),
            (Some(0), ""),
            "{args:?}"
        );
        assert!(!stdout(&output).is_empty(), "{args:?}");
    }
    assert!(stdout(&run(&["--help"])).contains("Exit codes:"));
}

#[test]
fn no_switch_is_a_failed_outcome() {
    let output = run(&["status", "--socket", "/nonexistent/a.sock"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        stderr(&output),
        "error: /nonexistent/a.sock: no switch listens here\n"
    );
}

/// Answers one connection with `answer`, whatever is asked, and returns the line that was.
fn answer_once(path: &Path, answer: &'static str) -> std::thread::JoinHandle<String> {
    let listener = UnixListener::bind(path).expect("bound");
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).expect("asked");
        // A client that went away is for the test to judge.
        let _ = stream.write_all(answer.as_bytes());
        line
    })
}

/// Runs a client command against a switch that gives `answer`; its output and what it asked.
fn ask(command: &[&str], answer: &'static str) -> (Output, String) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("lab.sock");
    let server = answer_once(&path, answer);
    let output = jumbo(command)
        .arg("--socket")
        .arg(&path)
        .output()
        .expect("started");
    (output, server.join().expect("served"))
}

const PORTS: &str = r#"{"ok":true,"data":{"ports":[{"name":"web","kind":"tap","device":"vm0","mtu":1500,"state":"up","capabilities":[{"name":"uso","offered":true,"in_use":false,"why":"not asked for"}],"rx":{"packets":1,"bytes":60,"super_packets":0,"segments_per_packet":1.0},"tx":{"packets":0,"bytes":0,"super_packets":0,"segments_per_packet":0.0},"dropped":3,"flooded":0,"software_segmented":0,"software_checksums":0,"waits":0,"announced":0,"coalesce":"gro","hold_us":0,"cwr":"equal","coalesce_max":65535,"resting":{"packets":0,"bytes":0},"promoted":{"packets":0,"bytes":0},"lossy_segmented":0,"rsc":null,"reasons":{"coalesce":{"psh":{"count":7,"doc":"PSH"}}}}]}}
"#;

#[test]
fn ports_asks_one_line_and_shows_table_or_json() {
    let (output, asked) = ask(&["ports"], PORTS);
    assert_eq!(asked, "{\"cmd\":\"ports\"}\n");
    assert_eq!(
        (output.status.code(), stderr(&output).as_str()),
        (Some(0), "")
    );
    assert!(
        stdout(&output).contains("\nweb   tap   vm0     up     1500 "),
        "{}",
        stdout(&output)
    );
    for form in [
        &["ports", "--json"][..],
        &["ports", "--format", "json"],
        &["--json", "ports"],
    ] {
        let (output, _) = ask(form, PORTS);
        let json: serde_json::Value = serde_json::from_str(&stdout(&output)).expect("JSON");
        let sent: serde_json::Value = serde_json::from_str(PORTS).expect("JSON");
        assert_eq!(json, sent["data"], "{form:?}");
    }
}

#[test]
fn commands_ask_in_one_line_and_end_as_the_switch_says() {
    let refusal = "{\"ok\":false,\"error\":\"it is gone; look there\",\"code\":3}\n";
    for (args, line) in [
        (
            &["path", "a", "b c"][..],
            r#"{"cmd":"path","from":"a","to":"b c"}"#,
        ),
        (&["fdb"], r#"{"cmd":"fdb"}"#),
        (
            &["add-port", "tap:a,mtu=1500"],
            r#"{"cmd":"add_port","spec":"tap:a,mtu=1500"}"#,
        ),
        (
            &["add-port", "vhost-user:/run/a,client"],
            r#"{"cmd":"add_port","spec":"vhost-user:/run/a,client"}"#,
        ),
        (&["remove-port", "a"], r#"{"cmd":"remove_port","name":"a"}"#),
    ] {
        let (output, asked) = ask(args, refusal);
        assert_eq!(asked, format!("{line}\n"));
        assert_eq!(output.status.code(), Some(3), "{args:?}");
        assert_eq!(stderr(&output), "error: it is gone; look there\n");
    }
}

#[test]
fn strange_answers_are_errors_and_no_panics() {
    for (answer, code, words) in [
        ("", 1, "closed the connection without an answer"),
        ("dance\n", 1, "cannot understand the switch's answer"),
        ("{\"ok\":true}\n", 4, "refuses without a reason"),
        (
            "{\"ok\":true,\"data\":{}}\n",
            1,
            "is it a jumbo of another version?",
        ),
        (
            "{\"ok\":false,\"error\":\"the device is gone\",\"code\":3}\n",
            3,
            "error: the device is gone\n",
        ),
        (
            "{\"ok\":false,\"error\":\"odd\",\"code\":200}\n",
            4,
            "error: odd\n",
        ),
    ] {
        let (output, asked) = ask(&["status"], answer);
        assert_eq!(asked, "{\"cmd\":\"status\"}\n");
        assert_eq!(
            output.status.code(),
            Some(code),
            "{answer:?}: {}",
            stderr(&output)
        );
        assert!(
            stderr(&output).contains(words),
            "{answer:?}: {}",
            stderr(&output)
        );
    }
}

#[test]
fn a_reader_who_left_is_no_error() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = jumbo(&["man"]).stdout(writer).output().expect("started");
    assert_eq!(
        (output.status.code(), stderr(&output).as_str()),
        (Some(0), "")
    );
}

#[test]
fn a_full_disk_is_the_machine_s_refusal() {
    let full = File::options()
        .write(true)
        .open("/dev/full")
        .expect("Linux");
    let output = jumbo(&["man"]).stdout(full).output().expect("started");
    assert_eq!(output.status.code(), Some(3));
    assert!(
        stderr(&output).starts_with("error: cannot write to stdout: "),
        "{}",
        stderr(&output)
    );
}

#[test]
fn colour_is_for_terminals_and_never_against_no_color() {
    assert!(!stderr(&run(&["run"])).contains('\x1b'));
    let forced = jumbo(&["run"])
        .env("CLICOLOR_FORCE", "1")
        .output()
        .expect("started");
    assert!(stderr(&forced).contains('\x1b'));
    let refused = jumbo(&["run"])
        .env("CLICOLOR_FORCE", "1")
        .env("NO_COLOR", "1")
        .output()
        .expect("started");
    assert!(!stderr(&refused).contains('\x1b'));
}

#[test]
fn man_pages_and_completions_come_from_the_binary() {
    let dir = tempfile::tempdir().expect("a directory");
    let output = run(&["man", dir.path().to_str().expect("text")]);
    assert_eq!(
        (output.status.code(), stdout(&output).as_str()),
        (Some(0), "")
    );
    assert!(dir.path().join("jumbo-run.1").exists());
    for shell in ["bash", "zsh", "fish"] {
        let output = run(&["completions", shell]);
        assert!(stdout(&output).contains("jumbo"), "{shell}");
    }
    assert_eq!(run(&["completions", "cmd.exe"]).status.code(), Some(2));
}

/// A veth without segmentation offload, recorded: two devices, one fault.
fn recorded_host(dir: &Path) -> String {
    let path = dir.join("host.json");
    let output = run(&[
        "record",
        "--sample",
        "0",
        "-o",
        path.to_str().expect("text"),
    ]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    path.to_str().expect("text").to_owned()
}

#[test]
fn a_recorded_host_is_checked_like_the_host() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = recorded_host(dir.path());
    let output = run(&["check", "--from", &path, "--json", "--rule", "SEG"]);
    assert!(
        matches!(output.status.code(), Some(0 | 1)),
        "{}",
        stderr(&output)
    );
    let report: serde_json::Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    assert_eq!(report["schema"], "jumbo-check/1");
    assert!(report["findings"].is_array());
    let names = report["devices"].as_array().expect("a list");
    assert!(
        names.iter().any(|device| device["name"] == "lo"),
        "{report}"
    );
}

#[test]
fn findings_are_the_exit_code() {
    let dir = tempfile::tempdir().expect("a directory");
    let text = std::fs::read_to_string(recorded_host(dir.path())).expect("recorded");
    let mut host: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    // One device, whose MTU and bridge cannot go together.
    let device = |index: u32, name: &str, mtu: u32| serde_json::json!({"index": index, "name": name, "kind": "veth", "mtu": mtu, "controller": 9});
    host["now"]["devices"] = serde_json::json!([device(7, "a", 1500), device(8, "b", 9000), {"index": 9, "name": "br", "kind": "bridge", "mtu": 1500}]);
    let path = dir.path().join("ill.json");
    std::fs::write(&path, host.to_string()).expect("written");
    let path = path.to_str().expect("text");
    let ill = run(&["check", "--from", path, "--rule", "MTU001"]);
    assert_eq!(ill.status.code(), Some(1), "{}", stderr(&ill));
    assert!(
        stdout(&ill).contains("ip link set b mtu 1500"),
        "{}",
        stdout(&ill)
    );
    let spared = run(&[
        "check",
        "--from",
        path,
        "--rule",
        "MTU001",
        "--fail-on",
        "critical",
    ]);
    assert_eq!(spared.status.code(), Some(0));
    let config = dir.path().join("check.toml");
    std::fs::write(&config, "[[waive]]\nid = \"MTU001\"\nreason = \"a test\"\n").expect("written");
    let waived = run(&[
        "check",
        "--from",
        path,
        "--rule",
        "MTU001",
        "-c",
        config.to_str().expect("text"),
    ]);
    assert_eq!(
        (waived.status.code(), stdout(&waived).contains("waived")),
        (Some(0), true)
    );
}

#[test]
fn what_check_and_explain_do_not_know_ends_with_2() {
    let dir = tempfile::tempdir().expect("a directory");
    let bad = dir.path().join("bad.json");
    std::fs::write(&bad, "{\"now\": {\"devices\": 7}}").expect("written");
    let bad = bad.to_str().expect("text");
    for (args, words) in [
        (&["explain", "TAP0O1"][..], "did you mean TAP001"),
        (&["explain"], "<TOPIC|--list>"),
        (&["check", "--rule", "TAPP01"], "there is no such rule"),
        (
            &["check", "--sample", "0", "--device", "nosuch0"],
            "there is no such device",
        ),
        (&["check", "--from", bad], "this is no recorded host"),
        (
            &["check", "--from", "/nonexistent.json"],
            "cannot read the recording",
        ),
        (
            &["check", "-c", "/nonexistent.toml"],
            "cannot read the configuration",
        ),
    ] {
        let output = run(args);
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
fn a_rule_and_a_technique_are_explained() {
    for (topic, words) in [
        ("tap001", "HOW TO SEE IT BY HAND"),
        ("rsc", "LATENCY AND CPU"),
        ("lso", "TSO"),
    ] {
        let output = run(&["explain", topic]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert!(
            stdout(&output).contains(words),
            "{topic}: {}",
            stdout(&output)
        );
    }
}

/// A veth pair's end without TSO and with a faulty bridge, as a record.
fn ill_record(dir: &Path, name: &str) -> String {
    let text = std::fs::read_to_string(recorded_host(dir)).expect("recorded");
    let mut host: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let device = |index: u32, name: &str, mtu: u32| serde_json::json!({"index": index, "name": name, "kind": "veth", "mtu": mtu, "controller": 9});
    host["now"]["devices"] = serde_json::json!([device(7, "a", 1500), device(8, "b", 9000), {"index": 9, "name": "br", "kind": "bridge", "mtu": 1500}]);
    let path = dir.join(name);
    std::fs::write(&path, host.to_string()).expect("written");
    path.to_str().expect("text").to_owned()
}

/// Other programs' forms, over a record so that every machine answers the same.
#[test]
fn other_programs_get_their_forms_and_codes() {
    let dir = tempfile::tempdir().expect("a directory");
    let ill = ill_record(dir.path(), "ill.json");
    let nagios = run(&["check", "--from", &ill, "--rule", "MTU001", "--nagios"]);
    assert_eq!(nagios.status.code(), Some(2), "{}", stderr(&nagios));
    assert!(
        stdout(&nagios).starts_with("OFFLOAD CRITICAL - MTU001 br: "),
        "{}",
        stdout(&nagios)
    );
    let npd = run(&["check", "--from", &ill, "--rule", "MTU001", "--npd"]);
    assert_eq!(
        (npd.status.code(), stdout(&npd).lines().count()),
        (Some(1), 1)
    );
    let page = run(&["check", "--from", &ill, "--rule", "MTU001", "--openmetrics"]);
    assert_eq!(page.status.code(), Some(0));
    assert!(
        stdout(&page).contains(
            "jumbo_finding{id=\"MTU001\",severity=\"error\",device=\"br\",reason=\"\"} 1\n"
        ),
        "{}",
        stdout(&page)
    );
    let file = dir.path().join("jumbo.prom");
    let name = file.to_str().expect("text");
    let written = run(&[
        "check",
        "--from",
        &ill,
        "--rule",
        "MTU001",
        "--textfile",
        name,
    ]);
    assert_eq!(
        (written.status.code(), stdout(&written).as_str()),
        (Some(0), "")
    );
    assert!(
        std::fs::read_to_string(&file)
            .expect("there")
            .ends_with("# EOF\n")
    );
    let left: Vec<_> = std::fs::read_dir(dir.path())
        .expect("a folder")
        .flatten()
        .map(|one| one.file_name())
        .collect();
    assert!(
        !left
            .iter()
            .any(|name| name.to_string_lossy().starts_with(".jumbo")),
        "{left:?}"
    );
    let nowhere = run(&[
        "check",
        "--from",
        &ill,
        "--textfile",
        "/nonexistent/jumbo.prom",
    ]);
    assert_eq!(nowhere.status.code(), Some(3));
    assert_eq!(run(&["check", "--nagios", "--npd"]).status.code(), Some(2));
}

#[test]
fn a_directory_of_records_is_one_table() {
    let dir = tempfile::tempdir().expect("a directory");
    let (one, records) = (dir.path().join("one"), dir.path().join("records"));
    for folder in [&one, &records] {
        std::fs::create_dir(folder).expect("made");
    }
    ill_record(&one, "host.json");
    for name in ["a.json", "b.json"] {
        std::fs::copy(one.join("host.json"), records.join(name)).expect("copied");
    }
    std::fs::write(records.join("cut.json"), "{").expect("written");
    std::fs::write(records.join("notes.txt"), "not a record").expect("written");
    let records = records.to_str().expect("text");
    let table = run(&["check", "--from-dir", records, "--rule", "MTU001"]);
    assert_eq!(table.status.code(), Some(1), "{}", stderr(&table));
    let text = stdout(&table);
    assert!(text.starts_with("2 hosts, 0 without findings"), "{text}");
    assert!(
        text.contains("MTU001") && text.contains("not usable\n  cut: this is no recorded host"),
        "{text}"
    );
    let json = run(&["check", "--from-dir", records, "--rule", "MTU001", "--json"]);
    let fleet: serde_json::Value = serde_json::from_str(&stdout(&json)).expect("JSON");
    assert_eq!(
        (&fleet["hosts"], &fleet["rules"][0]["hosts"]),
        (&2.into(), &2.into())
    );
    for bad in ["/nonexistent", dir.path().to_str().expect("text")] {
        assert_eq!(
            run(&["check", "--from-dir", bad]).status.code(),
            Some(2),
            "{bad}"
        );
    }
}

#[test]
fn a_guest_is_judged_by_what_it_shows() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("rsc.json");
    std::fs::write(&file, r#"{"Name":"Ethernet","IPv4OperationalState":false,"IPv4FailureReason":"WFPCompatibility"}"#).expect("written");
    let name = file.to_str().expect("text");
    let human = run(&["check", "--guest", name]);
    assert_eq!(human.status.code(), Some(1), "{}", stderr(&human));
    assert!(
        stdout(&human).contains("the guest must act"),
        "{}",
        stdout(&human)
    );
    let json = run(&["check", "--guest", name, "--json"]);
    let guest: serde_json::Value = serde_json::from_str(&stdout(&json)).expect("JSON");
    assert_eq!(
        (&guest["system"], &guest["lines"][0]["side"]),
        (&"windows".into(), &"guest".into())
    );
    std::fs::write(&file, "hello").expect("written");
    assert_eq!(run(&["check", "--guest", name]).status.code(), Some(2));
}

#[test]
fn a_record_goes_through_a_pipe_and_may_name_nobody() {
    let recorded = run(&["record", "--sample", "0", "--redact"]);
    assert_eq!(recorded.status.code(), Some(0), "{}", stderr(&recorded));
    let host: serde_json::Value = serde_json::from_str(&stdout(&recorded)).expect("JSON");
    assert_eq!(host["now"]["hostname"]["value"], "redacted");
    let mut check = jumbo(&["check", "--from", "-", "--rule", "LRO", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    check
        .stdin
        .take()
        .expect("piped")
        .write_all(&recorded.stdout)
        .expect("written");
    let output = check.wait_with_output().expect("ended");
    assert!(
        matches!(output.status.code(), Some(0 | 1)),
        "{}",
        stderr(&output)
    );
    let report: serde_json::Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    assert_eq!(report["host"], "redacted");
}

/// The published schema, by an implementation that is not ours.
#[test]
fn what_check_prints_fits_its_published_schema() {
    let dir = tempfile::tempdir().expect("a directory");
    let published = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/check.schema.json");
    let published = std::fs::read_to_string(published).expect("docs/check.schema.json");
    assert_eq!(
        stdout(&run(&["check", "--schema"])).trim(),
        published.trim()
    );
    let schema: serde_json::Value = serde_json::from_str(&published).expect("JSON");
    let schema = jsonschema::validator_for(&schema).expect("a schema");
    let ill = ill_record(dir.path(), "ill.json");
    for args in [
        &["check", "--from", &ill, "--json"][..],
        &["check", "--sample", "0", "--json"],
    ] {
        let report: serde_json::Value = serde_json::from_str(&stdout(&run(args))).expect("JSON");
        let wrong: Vec<String> = schema
            .iter_errors(&report)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        assert!(wrong.is_empty(), "{wrong:?}");
        assert!(!report["findings"].as_array().expect("a list").is_empty());
    }
    assert!(!schema.is_valid(&serde_json::json!({"schema": "jumbo-check/1"})));
}
