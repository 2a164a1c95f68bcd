//! TAP ports that come and go, and what the kernel drops at them, in a namespace of the test's own.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitCode, Output, Stdio};

use jumbo_lab::ns::{Needs, NetNs, check_tun};
use jumbo_lab::packet_socket::PacketSocket;
use jumbo_lab::{LabTest, TestError, skip, test_main};
use jumbo_testkit::PacketBuilder;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use serde_json::Value;

type Tested = Result<(), TestError>;

fn main() -> ExitCode {
    test_main(
        Needs::Links,
        vec![
            LabTest::new(
                "a_tap_comes_and_goes_with_its_port",
                a_tap_comes_and_goes_with_its_port,
            ),
            LabTest::new(
                "what_the_kernel_drops_is_shown",
                what_the_kernel_drops_is_shown,
            ),
        ],
    )
}

/// A switch in a namespace of its own.
struct Rig {
    ns: NetNs,
    dir: tempfile::TempDir,
    switch: Child,
}

impl Drop for Rig {
    /// A failed test leaves no process behind.
    fn drop(&mut self) {
        let _ = self.switch.kill();
        let _ = self.switch.wait();
    }
}

impl Rig {
    fn new(ports: &[&str]) -> Result<Self, TestError> {
        check_tun().map_err(skip)?;
        let ns = NetNs::new()?;
        let dir = tempfile::tempdir()?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_jumbo"));
        command
            .arg("run")
            .arg("--socket")
            .arg(dir.path().join("control"));
        for port in ports {
            command.args(["--port", port]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let mut switch = ns.run(|| command.stderr(Stdio::piped()).spawn())??;
        let mut talk = BufReader::new(switch.stderr.take().expect("piped"));
        let mut line = String::new();
        while !line.contains("switching between") {
            line.clear();
            assert_ne!(talk.read_line(&mut line)?, 0, "it ended");
        }
        std::thread::spawn(move || std::io::copy(&mut talk, &mut std::io::stderr()));
        Ok(Self { ns, dir, switch })
    }

    fn command(&self, args: &[&str]) -> Result<Output, TestError> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_jumbo"));
        let socket = self.dir.path().join("control");
        Ok(command.args(args).arg("--socket").arg(socket).output()?)
    }

    #[track_caller]
    fn json(&self, args: &[&str]) -> Value {
        let output = self.command(args).expect("started");
        let talk = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {talk}");
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    fn has_device(&self, name: &str) -> Result<bool, TestError> {
        let read = || std::fs::read_to_string("/proc/thread-self/net/dev");
        let devices = self.ns.run(read)??;
        Ok(devices
            .lines()
            .any(|line| line.trim_start().starts_with(&format!("{name}:"))))
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.switch)
    }
}

fn a_tap_comes_and_goes_with_its_port() -> Tested {
    let rig = Rig::new(&["tap:ja", "tap:jb"])?;
    let report = rig.json(&["path", "ja", "jb", "--json"]);
    let rows = report["rows"].as_array().expect("a list");
    let whole = rows.iter().find(|row| row["packets"] == "tcp4_super");
    assert_eq!(whole.expect("a row")["decision"], "whole");
    for _ in 0..3 {
        let added = rig.json(&["add-port", "tap:jc,mtu=1400,name=third", "--json"]);
        assert_eq!(
            (&added["state"], &added["mtu"]),
            (&"up".into(), &1400.into())
        );
        assert!(rig.has_device("jc")?);
        let refused = rig.command(&["add-port", "tap:jc"])?;
        assert_eq!(refused.status.code(), Some(2), "its device is in use");
        let report = rig.json(&["path", "ja", "third", "--json"]);
        let rows = report["rows"].as_array().expect("a list");
        assert!(
            rows.iter().any(|row| row["packets"] == "over_mtu"),
            "{report}"
        );
        rig.json(&["remove-port", "third", "--json"]);
        assert!(!rig.has_device("jc")?);
    }
    // A device of another kind, and one the kernel does not give.
    let refused = rig.command(&["add-port", "tap:lo"])?;
    assert!(matches!(refused.status.code(), Some(2 | 3)));
    assert_eq!(
        rig.json(&["ports", "--json"])["ports"]
            .as_array()
            .map(Vec::len),
        Some(2)
    );
    Ok(())
}

fn what_the_kernel_drops_is_shown() -> Tested {
    let rig = Rig::new(&["tap:ja", "tap:jb"])?;
    let dropped = || {
        let status = rig.json(&["status", "--json"]);
        let port = &status["ports"][0];
        assert_eq!(port["name"], "ja");
        port["device_dropped"].clone()
    };
    assert_eq!(dropped()["rx"], 0);
    let source = dropped()["source"].to_string();
    assert!(source.contains("/proc/net/dev, ja"), "{source}");
    let socket = PacketSocket::open(&rig.ns, "ja", false)?;
    let packet = PacketBuilder::ethernet()
        .macs([0xff; 6], [2, 0, 0, 0, 0, 1])
        .payload_len(100)
        .build();
    // Nobody reads the device's queue of a thousand packets meanwhile.
    kill_process(rig.pid(), Signal::STOP)?;
    waitpid(Some(rig.pid()), WaitOptions::UNTRACED)?;
    socket.bypass_qdisc()?;
    for _ in 0..3000 {
        // Some kernels tell the sender.
        let _ = socket.send(&packet);
    }
    kill_process(rig.pid(), Signal::CONT)?;
    let lost = dropped()["rx"].as_u64().expect("a number");
    assert!((1000..=3000).contains(&lost), "{lost}");
    let page = rig.command(&["status"])?;
    let page = String::from_utf8_lossy(&page.stdout).into_owned();
    assert!(
        page.contains("dropped by the kernel at its device: rx "),
        "{page}"
    );
    Ok(())
}
