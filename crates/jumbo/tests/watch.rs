//! `jumbo watch` in a pseudo-terminal and as lines of JSON, in namespaces of its own.

use std::io::{Read, Write};
use std::process::{Command, ExitCode, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jumbo_lab::ethtool::Offload;
use jumbo_lab::ns::{Needs, NetNs, check_tun};
use jumbo_lab::{LabTest, TestError, skip, test_main};
use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};
use serde_json::Value;

type Result<T = ()> = std::result::Result<T, TestError>;

/// Nothing here takes longer, unless it hangs.
const LONGEST: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    test_main(
        Needs::Links,
        vec![
            LabTest::new(
                "the_screen_shows_devices_processors_and_events",
                the_screen_shows_devices_processors_and_events,
            ),
            LabTest::new("a_resized_terminal_is_filled", a_resized_terminal_is_filled),
            LabTest::new("a_device_may_vanish", a_device_may_vanish),
            LabTest::new(
                "a_terminal_that_vanishes_ends_it",
                a_terminal_that_vanishes_ends_it,
            ),
            LabTest::new(
                "a_user_without_rights_may_watch",
                a_user_without_rights_may_watch,
            ),
            LabTest::new(
                "lines_are_json_and_a_record_shows_the_same",
                lines_are_json_and_a_record_shows_the_same,
            ),
            LabTest::new("a_bad_record_is_named", a_bad_record_is_named),
            LabTest::new(
                "a_running_switchs_ports_are_shown",
                a_running_switchs_ports_are_shown,
            ),
        ],
    )
}

fn veth() -> Result<NetNs> {
    let ns = NetNs::new()?;
    let links = ns.links()?;
    links.add_veth("v0", "v1", &ns)?;
    links.up("v0")?;
    links.up("v1")?;
    Ok(ns)
}

/// A program in a pseudo-terminal, and what that terminal shows.
struct Screen {
    master: Box<dyn MasterPty + Send>,
    writer: Box<dyn Write + Send>,
    child: Box<dyn Child + Send + Sync>,
    parser: Arc<Mutex<vt100::Parser>>,
}

fn size(rows: u16, cols: u16) -> PtySize {
    PtySize {
        rows,
        cols,
        pixel_width: 0,
        pixel_height: 0,
    }
}

/// The pseudo-terminal's errors are no standard errors.
fn pty(error: impl std::fmt::Display) -> TestError {
    std::io::Error::other(error.to_string()).into()
}

impl Screen {
    fn start(ns: &NetNs, program: &str, words: &[&str]) -> Result<Self> {
        let pair = native_pty_system().openpty(size(30, 100)).map_err(pty)?;
        let mut command = CommandBuilder::new(program);
        command.args(words);
        command.env("TERM", "xterm-256color");
        command.cwd("/");
        let slave = pair.slave;
        let child = ns
            .run_with_sysfs(move || slave.spawn_command(command))?
            .map_err(pty)?;
        let parser = Arc::new(Mutex::new(vt100::Parser::new(30, 100, 0)));
        let (mut reader, shown) = (
            pair.master.try_clone_reader().map_err(pty)?,
            Arc::clone(&parser),
        );
        std::thread::spawn(move || {
            let mut buffer = [0u8; 4096];
            // Ends with the program: a closed pseudo-terminal reads as an error.
            while let Ok(len @ 1..) = reader.read(&mut buffer) {
                shown.lock().expect("a parser").process(&buffer[..len]);
            }
        });
        Ok(Self {
            writer: pair.master.take_writer().map_err(pty)?,
            master: pair.master,
            child,
            parser,
        })
    }

    fn watch(ns: &NetNs) -> Result<Self> {
        Self::start(
            ns,
            env!("CARGO_BIN_EXE_jumbo"),
            &["watch", "--interval", "0.2"],
        )
    }

    fn text(&self) -> String {
        self.parser.lock().expect("a parser").screen().contents()
    }

    /// Waits until the screen shows this.
    fn shows(&self, part: &str) {
        let began = Instant::now();
        while !self.text().contains(part) {
            assert!(
                began.elapsed() < LONGEST,
                "no `{part}` on:\n{}",
                self.text()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn press(&mut self, keys: &str) -> Result {
        self.writer.write_all(keys.as_bytes())?;
        Ok(self.writer.flush()?)
    }

    fn resize(&self, rows: u16, cols: u16) -> Result {
        self.parser
            .lock()
            .expect("a parser")
            .screen_mut()
            .set_size(rows, cols);
        self.master.resize(size(rows, cols)).map_err(pty)
    }

    /// Ends it with a key, and says how it ended.
    fn quit(mut self) -> Result<u32> {
        self.press("q")?;
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status.exit_code());
            }
            if began.elapsed() > LONGEST {
                self.child.kill()?;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn is_alternate(&self) -> bool {
        self.parser
            .lock()
            .expect("a parser")
            .screen()
            .alternate_screen()
    }
}

fn the_screen_shows_devices_processors_and_events() -> Result {
    let ns = veth()?;
    let mut screen = Screen::watch(&ns)?;
    for part in [
        "jumbo watch",
        "v0",
        "v1",
        "seg/pkt",
        "NET_RX/s",
        "cpu0",
        "q quit",
    ] {
        screen.shows(part);
    }
    ns.links()?.set_offload("v0", Offload::Gso, false)?;
    screen.shows("tx-generic-segmentation: on -> off");
    ns.links()?.down("v1")?;
    screen.shows("v0 carrier went");
    screen.shows("v0 (down)");
    screen.press("4")?;
    screen.shows("s ago");
    screen.press("3")?;
    screen.shows("no switch is running");
    screen.press("2")?;
    screen.shows("squeeze/s");
    screen.press("p")?;
    screen.shows("paused");
    assert!(screen.is_alternate());
    let parser = Arc::clone(&screen.parser);
    assert_eq!(screen.quit()?, 0);
    assert!(
        !parser.lock().expect("a parser").screen().alternate_screen(),
        "the terminal is not put back"
    );
    Ok(())
}

fn a_resized_terminal_is_filled() -> Result {
    let ns = veth()?;
    let screen = Screen::watch(&ns)?;
    screen.shows("q quit");
    // Smaller than anything that fits, and larger than what is drawn.
    for (rows, cols) in [(3, 20), (1, 1), (60, 200), (12, 60)] {
        screen.resize(rows, cols)?;
        std::thread::sleep(Duration::from_millis(300));
    }
    screen.shows("jumbo watch");
    screen.shows("v0");
    assert_eq!(screen.quit()?, 0);
    Ok(())
}

fn a_device_may_vanish() -> Result {
    let ns = veth()?;
    let links = ns.links()?;
    links.add_veth("w0", "w1", &ns)?;
    let screen = Screen::watch(&ns)?;
    screen.shows("w0");
    links.delete("w0")?;
    screen.shows("w0 vanished");
    links.add_veth("x0", "x1", &ns)?;
    screen.shows("x0 appeared");
    assert_eq!(screen.quit()?, 0);
    Ok(())
}

/// Counters are everybody's to read.
fn a_terminal_that_vanishes_ends_it() -> Result {
    let ns = veth()?;
    let pair = native_pty_system().openpty(size(30, 100)).map_err(pty)?;
    let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_jumbo"));
    command.args(["watch", "--interval", "0.2"]);
    command.env("TERM", "xterm-256color");
    command.cwd("/");
    let (master, slave) = (pair.master, pair.slave);
    let mut child = ns
        .run_with_sysfs(move || slave.spawn_command(command))?
        .map_err(pty)?;
    // Read here and not by a thread: nobody else may hold the terminal.
    let mut reader = master.try_clone_reader().map_err(pty)?;
    let mut parser = vt100::Parser::new(30, 100, 0);
    let mut buffer = [0u8; 4096];
    while !parser.screen().contents().contains("q quit") {
        let len = reader.read(&mut buffer)?;
        assert!(len > 0, "it ended: {}", parser.screen().contents());
        parser.process(&buffer[..len]);
    }
    drop((reader, master));
    let began = Instant::now();
    while child.try_wait()?.is_none() {
        if began.elapsed() > LONGEST {
            child.kill()?;
            panic!("it goes on without a terminal");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn a_user_without_rights_may_watch() -> Result {
    let ns = veth()?;
    let me = env!("CARGO_BIN_EXE_jumbo");
    let drop_rights = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let probe = Command::new("setpriv")
        .args(drop_rights)
        .args([me, "--version"])
        .output();
    let works = probe.map(|output| output.status.success()).unwrap_or(false);
    if !works {
        return Err(skip(
            "nobody cannot run jumbo here (setpriv, run as root, a path others may read)",
        ));
    }
    let mut words = drop_rights.to_vec();
    words.extend([me, "watch", "--interval", "0.2"]);
    let screen = Screen::start(&ns, "setpriv", &words)?;
    screen.shows("v0");
    screen.shows("cpu0");
    ns.links()?.set_offload("v0", Offload::Gso, false)?;
    screen.shows("tx-generic-segmentation: on -> off");
    assert_eq!(screen.quit()?, 0);
    Ok(())
}

fn batch(ns: &NetNs, words: &[&str]) -> Result<Output> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jumbo"));
    command.arg("watch").args(words).stdin(Stdio::null());
    Ok(ns.run_with_sysfs(|| command.output())??)
}

fn parsed(output: &Output) -> Result<Vec<Value>> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .map(|line| Ok(serde_json::from_str(line)?))
        .collect()
}

fn lines_are_json_and_a_record_shows_the_same() -> Result {
    let ns = veth()?;
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("watched.jsonl");
    let file = file.to_str().expect("text");
    let live = batch(
        &ns,
        &["--interval", "0.1", "--count", "3", "--record", file],
    )?;
    assert_eq!(
        live.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&live.stderr)
    );
    let lines = parsed(&live)?;
    assert_eq!(lines.len(), 3);
    for line in &lines {
        let names: Vec<_> = line["devices"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|one| one["name"].clone())
            .collect();
        assert!(names.contains(&"v0".into()), "{line}");
        assert!(
            line["cpus"].as_array().is_some_and(|cpus| !cpus.is_empty()),
            "{line}"
        );
        assert!(
            line["interval_s"]
                .as_f64()
                .is_some_and(|seconds| seconds > 0.0)
        );
    }
    let replayed = batch(&ns, &["--batch", "--replay", file])?;
    assert_eq!(parsed(&replayed)?, lines);
    let one = batch(&ns, &["--replay", file, "--device", "v1", "--count", "1"])?;
    assert_eq!(
        parsed(&one)?[0]["devices"].as_array().map(Vec::len),
        Some(1)
    );
    Ok(())
}

fn a_bad_record_is_named() -> Result {
    let ns = veth()?;
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("bad.jsonl");
    std::fs::write(&file, "{\"sample\": 7}\n")?;
    for (words, code, part) in [
        (
            vec!["--replay", file.to_str().expect("text")],
            2,
            "bad.jsonl:1: this is no record of jumbo watch",
        ),
        (
            vec!["--replay", "/nonexistent"],
            2,
            "cannot read the record",
        ),
        (
            vec!["--record", "/proc/nonexistent"],
            3,
            "cannot write the record",
        ),
        (vec!["--interval", "0"], 2, "0.1 to 60"),
        (
            vec!["--socket", "/nonexistent.sock"],
            1,
            "no switch listens here",
        ),
    ] {
        let output = batch(&ns, &words)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{words:?}: {said}");
        assert!(said.contains(part), "{words:?}: {said}");
    }
    Ok(())
}

fn a_running_switchs_ports_are_shown() -> Result {
    check_tun().map_err(skip)?;
    let ns = NetNs::new()?;
    let dir = tempfile::tempdir()?;
    let socket = dir.path().join("s.sock");
    let path = socket.to_str().expect("text");
    let mut command = Command::new(env!("CARGO_BIN_EXE_jumbo"));
    command
        .args([
            "run", "--port", "tap:a0", "--port", "tap:b0", "--socket", path,
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut switch = ns.run_with_sysfs(|| command.spawn())??;
    let began = Instant::now();
    while !socket.exists() && began.elapsed() < LONGEST {
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = batch(
        &ns,
        &["--interval", "0.1", "--count", "2", "--socket", path],
    );
    switch.kill()?;
    switch.wait()?;
    let lines = parsed(&output?)?;
    let names: Vec<_> = lines[1]["ports"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|port| port["name"].clone())
        .collect();
    assert_eq!(names, ["a0", "b0"]);
    assert!(lines[1]["ports"][0]["rx_pps"].is_number());
    Ok(())
}
