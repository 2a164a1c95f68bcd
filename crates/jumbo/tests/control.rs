//! A running switch and the commands that ask and change it, from outside. Its ports are vhost-user sockets in a
//! temporary directory, its guests the test kit's drivers: no privileges are needed.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use jumbo_testkit::PacketBuilder;
use jumbo_testkit::virtio::{Options, VirtioNet, feature};
use serde_json::Value;

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(20);

const ALL_OFFLOADS: u64 = feature::ANY_LAYOUT
    | feature::CSUM
    | feature::GUEST_CSUM
    | feature::HOST_TSO4
    | feature::HOST_TSO6
    | feature::HOST_ECN
    | feature::HOST_USO
    | feature::GUEST_TSO4
    | feature::GUEST_TSO6
    | feature::GUEST_ECN
    | feature::GUEST_USO4
    | feature::GUEST_USO6;
const CSUM_ONLY: u64 = feature::ANY_LAYOUT | feature::CSUM | feature::GUEST_CSUM;

/// A switch in a directory of its own.
struct Rig {
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
    /// A switch with a vhost-user port for each name.
    fn new(workers: &str, names: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut command = Command::new(env!("CARGO_BIN_EXE_jumbo"));
        command.args(["run", "--workers", workers, "--socket"]);
        command.arg(dir.path().join("control"));
        for name in names {
            let path = dir.path().join(format!("{name}.sock"));
            command
                .arg("--port")
                .arg(format!("vhost-user:{},mtu=1500", path.display()));
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut switch = command.spawn().expect("started");
        let talk = switch.stderr.take().expect("piped");
        let mut talk = BufReader::new(talk);
        let mut line = String::new();
        while !line.contains("switching between") {
            line.clear();
            assert_ne!(talk.read_line(&mut line).expect("read"), 0, "it ended");
        }
        // Somebody reads on, or the switch would stand still behind a full pipe.
        std::thread::spawn(move || std::io::copy(&mut talk, &mut std::io::stderr()));
        Self { dir, switch }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn guest(&self, name: &str, features: u64) -> VirtioNet {
        let options = Options {
            features,
            ..Options::default()
        };
        let guest = VirtioNet::connect(self.path(&format!("{name}.sock")), options);
        let guest = guest.expect("a guest starts");
        self.wait_for_state(name, "up");
        guest
    }

    fn command(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_jumbo"));
        command.args(args).arg("--socket").arg(self.path("control"));
        command.current_dir(self.dir.path());
        command.output().expect("started")
    }

    /// A command that succeeds; what it says.
    #[track_caller]
    fn says(&self, args: &[&str]) -> String {
        let output = self.command(args);
        let talk = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {talk}");
        String::from_utf8(output.stdout).expect("text")
    }

    #[track_caller]
    fn json(&self, args: &[&str]) -> Value {
        let mut args = args.to_vec();
        args.push("--json");
        serde_json::from_str(&self.says(&args)).expect("JSON")
    }

    /// A command that is refused with that exit code; why.
    #[track_caller]
    fn refuses(&self, code: i32, args: &[&str]) -> String {
        let output = self.command(args);
        let talk = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {talk}");
        talk
    }

    fn names(&self) -> Vec<String> {
        let ports = self.json(&["ports"]);
        let ports = ports["ports"].as_array().expect("a list");
        let name = |port: &Value| port["name"].as_str().expect("text").to_owned();
        ports.iter().map(name).collect()
    }

    #[track_caller]
    fn wait_for_state(&self, name: &str, state: &str) {
        let end = Instant::now() + PATIENCE;
        loop {
            let ports = self.json(&["ports"]);
            let mut list = ports["ports"].as_array().expect("a list").iter();
            let port = list.find(|port| port["name"] == name).expect("the port");
            if port["state"] == state {
                return;
            }
            assert!(Instant::now() < end, "{port}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends the switch as an operator does.
    fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.switch);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("sent");
        assert_eq!(self.switch.wait().expect("ended").code(), Some(0));
    }
}

fn mac(n: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, n]
}

/// Sends a broadcast from station `n`.
fn hello(guest: &mut VirtioNet, n: u8) {
    let packet = PacketBuilder::ethernet()
        .macs([0xff; 6], mac(n))
        .ethertype(0x88b5)
        .payload_len(46);
    let header = vec![0; guest.header_len()];
    guest.send(0, &header, &packet.build()).expect("sent");
}

#[track_caller]
fn hears(guest: &mut VirtioNet) {
    let packet = guest.recv(PATIENCE).expect("no fault");
    assert!(packet.is_some(), "nothing has come");
}

/// One row of `jumbo path`.
fn row<'a>(report: &'a Value, packets: &str) -> &'a Value {
    let mut rows = report["rows"].as_array().expect("a list").iter();
    let row = rows.find(|row| row["packets"] == packets);
    row.unwrap_or_else(|| panic!("no {packets} in {report}"))
}

#[test]
fn path_follows_what_guests_negotiate() {
    let rig = Rig::new("1", &["new", "old"]);
    let report = rig.json(&["path", "new", "old"]);
    assert_eq!(report["to"]["state"], "waiting");
    assert_eq!(row(&report, "tcp4_super")["decision"], "not_handed");
    let reason = row(&report, "tcp4_super")["reason"].to_string();
    assert!(reason.contains("rx_tso4: no guest is there"), "{reason}");

    let _new = rig.guest("new", ALL_OFFLOADS);
    let _old = rig.guest("old", CSUM_ONLY);
    let report = rig.json(&["path", "new", "old"]);
    for (packets, decision, segments, checksums, coalesces) in [
        ("tcp4_super", "segmented", "switch", "receiver", "nobody"),
        ("udp_super", "segmented", "switch", "receiver", "nobody"),
        (
            "partial_checksum",
            "left_partial",
            "nobody",
            "receiver",
            "nobody",
        ),
        ("finished", "as_it_came", "nobody", "sender", "nobody"),
        ("tcp6_train", "as_it_came", "nobody", "sender", "nobody"),
    ] {
        let row = row(&report, packets);
        let got = ["decision", "segments", "checksums", "coalesces"].map(|key| &row[key]);
        assert_eq!(got, [decision, segments, checksums, coalesces], "{row}");
    }
    assert_eq!(
        row(&report, "tcp4_super")["reason"],
        "old does not take them (tx_tso4: the guest, or its monitor, did not ask for it): \
         cut here, the checksum of each segment left to old"
    );
    let back = rig.json(&["path", "old", "new"]);
    assert_eq!(row(&back, "tcp4_super")["decision"], "not_handed");
    assert_eq!(row(&back, "tcp4_train")["decision"], "coalesced");
    let page = rig.says(&["path", "old", "new"]);
    assert!(
        page.starts_with("packets from old (vhost-user, mtu 1500) to new (vhost-user, mtu 1500)\n"),
        "{page}"
    );
    let train = page.lines().find(|line| line.starts_with("tcp4_train "));
    assert!(
        train.is_some_and(|line| line.contains(" coalesced ")),
        "{page}"
    );

    let why = rig.refuses(2, &["path", "new", "odl"]);
    assert_eq!(
        why,
        "error: there is no port `odl`; the ports are new, old\n"
    );
    let why = rig.refuses(2, &["path", "new", "new"]);
    assert!(why.contains("nothing goes from port `new` back"), "{why}");
    rig.stop();
}

#[test]
fn fdb_tells_which_address_is_where() {
    for workers in ["1", "2"] {
        let rig = Rig::new(workers, &["a", "b"]);
        assert_eq!(rig.says(&["fdb"]), "no addresses learned\n");
        let mut a = rig.guest("a", ALL_OFFLOADS);
        let mut b = rig.guest("b", ALL_OFFLOADS);
        hello(&mut a, 1);
        hears(&mut b);
        hello(&mut b, 2);
        hears(&mut a);
        let fdb = rig.json(&["fdb"]);
        let stations = fdb["stations"].as_array().expect("a list");
        assert_eq!(stations.len(), 2, "{fdb}");
        for (station, (mac, port)) in stations
            .iter()
            .zip([("02:00:00:00:00:01", "a"), ("02:00:00:00:00:02", "b")])
        {
            assert_eq!(
                (&station["mac"], &station["port"]),
                (&mac.into(), &port.into())
            );
            assert_eq!(station["vlan"], Value::Null);
            assert!(station["age_s"].as_u64().is_some_and(|age| age < 300));
        }
        let page = rig.says(&["fdb"]);
        assert!(page.contains("02:00:00:00:00:02     -  b  "), "{page}");
        rig.stop();
    }
}

#[test]
fn ports_are_added_and_removed_while_others_talk() {
    for workers in ["1", "2"] {
        let rig = Rig::new(workers, &["a", "b"]);
        let mut a = rig.guest("a", ALL_OFFLOADS);
        let mut b = rig.guest("b", CSUM_ONLY);
        for round in 0..3 {
            // Relative to where the command was typed.
            let said = rig.says(&["add-port", "vhost-user:c.sock,mtu=1500,name=third"]);
            let path = rig.path("c.sock");
            assert_eq!(
                said,
                format!(
                    "added third: vhost-user {}, waiting (waits for a front end to connect), mtu 1500\n",
                    path.display()
                )
            );
            assert_eq!(rig.names(), ["a", "b", "third"]);
            let options = Options {
                features: ALL_OFFLOADS,
                ..Options::default()
            };
            let mut c = VirtioNet::connect(&path, options).expect("a guest starts");
            rig.wait_for_state("third", "up");
            hello(&mut a, 1);
            hears(&mut b);
            hears(&mut c);
            hello(&mut c, 3);
            hears(&mut a);
            hears(&mut b);
            assert_eq!(
                rig.json(&["fdb"])["stations"].as_array().map(Vec::len),
                Some(2)
            );

            let last = rig.json(&["remove-port", "third"]);
            assert_eq!(last["rx"]["packets"], 1);
            assert_eq!(last["tx"]["packets"], 1);
            assert!(c.front().is_closed(PATIENCE).expect("no fault"));
            assert!(!Path::new(&path).exists(), "its socket is gone");
            assert_eq!(rig.names(), ["a", "b"]);
            let fdb = rig.json(&["fdb"]);
            assert_eq!(fdb["stations"].as_array().map(Vec::len), Some(1), "{fdb}");
            let status = rig.json(&["status"]);
            assert_eq!(status["books"]["balanced"], true);
            assert_eq!(status["removed"]["ports"], round + 1);
            assert_eq!(status["removed"]["rx"]["packets"], round + 1);
        }
        let page = rig.says(&["status"]);
        assert!(
            page.contains("\nremoved ports: 3, rx 3 packets, tx 3, dropped 0\n"),
            "{page}"
        );
        hello(&mut b, 2);
        hears(&mut a);
        rig.stop();
    }
}

#[test]
fn what_cannot_be_added_or_removed_is_refused_as_at_the_start() {
    let rig = Rig::new("1", &["a"]);
    let spec = |name: &str, keys: &str| format!("vhost-user:{}{keys}", rig.path(name).display());
    let taken_name = spec("other.sock", ",name=a");
    let taken_device = spec("a.sock", ",name=other");
    let nowhere = "vhost-user:/nonexistent/x.sock".to_owned();
    for (code, spec, words) in [
        (2, "xyz:a".to_owned(), "xyz:a: unknown port kind `xyz`"),
        (
            2,
            "tap:t,mtu=1".to_owned(),
            "tap:t,mtu=1: mtu 1 is out of range",
        ),
        (
            2,
            taken_name,
            "port name `a` is in use already; choose another name=",
        ),
        (2, taken_device, "is in use already, by port `a`"),
        (3, nowhere, "port `x`: "),
    ] {
        let why = rig.refuses(code, &["add-port", &spec]);
        assert!(why.starts_with("error: ") && why.contains(words), "{why}");
    }
    let why = rig.refuses(2, &["remove-port", "b"]);
    assert_eq!(why, "error: there is no port `b`; the ports are a\n");
    // The last one may go: the switch is asked for others.
    rig.says(&["remove-port", "a"]);
    assert_eq!(rig.names(), [""; 0]);
    let why = rig.refuses(2, &["remove-port", "a"]);
    assert_eq!(why, "error: there is no port `a`; there is none\n");
    rig.says(&["add-port", &spec("a.sock", "")]);
    rig.stop();
}

#[test]
fn spec_is_judged_before_a_switch_is_looked_for() {
    let output = Command::new(env!("CARGO_BIN_EXE_jumbo"))
        .args(["add-port", "tap:t,mtu=1", "--socket", "/nonexistent/x"])
        .output()
        .expect("started");
    assert_eq!(output.status.code(), Some(2));
    for args in [&["path", "a", "b"][..], &["fdb"], &["remove-port", "a"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_jumbo"))
            .args(args)
            .args(["--socket", "/nonexistent/x"])
            .output()
            .expect("started");
        assert_eq!(output.status.code(), Some(1), "{args:?}");
    }
}
