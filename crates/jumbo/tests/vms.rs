//! `jumbo run` under real front ends: guests in QEMU, and DPDK's testpmd. Skipped where they are not installed.

#[path = "vms/moves.rs"]
mod moves;
#[path = "vms/streams.rs"]
mod streams;
#[path = "vms/taps.rs"]
mod taps;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use jumbo_lab::ns::{Needs, NetNs, check_tun};
use jumbo_lab::vm::{
    Nic, Qemu, QemuTools, Testpmd, TestpmdSpec, TestpmdTool, Vdev, VirtioUser, VmSpec,
};
use jumbo_lab::{Family, Host, LabTest, TestError, skip, test_main};
use jumbo_testkit::pattern;
use serde_json::Value;
use streams::Digest;

type Tested<T = ()> = Result<T, TestError>;
type Test = fn() -> Tested;

/// Boots take seconds, or minutes where many tests run at once.
const LONG: Duration = Duration::from_secs(900);

fn main() -> ExitCode {
    let tests: [(&str, Test); 10] = [
        ("guests_and_the_host_talk", guests_and_the_host_talk),
        (
            "offloads_are_taken_as_negotiated",
            offloads_are_taken_as_negotiated,
        ),
        (
            "two_packed_pairs_and_a_large_mtu",
            two_packed_pairs_and_a_large_mtu,
        ),
        (
            "a_guest_reboots_and_lets_its_driver_go",
            a_guest_reboots_and_lets_its_driver_go,
        ),
        (
            "guests_outlive_a_killed_switch",
            guests_outlive_a_killed_switch,
        ),
        (
            "guests_that_listen_outlive_a_killed_switch",
            guests_that_listen_outlive_a_killed_switch,
        ),
        (
            "a_guest_moves_to_another_port",
            moves::a_guest_moves_to_another_port,
        ),
        (
            "a_guest_comes_back_from_a_snapshot",
            moves::a_guest_comes_back_from_a_snapshot,
        ),
        (
            "a_guest_on_a_tap_joins_by_its_device",
            taps::a_guest_on_a_tap_joins_by_its_device,
        ),
        (
            "testpmd_moves_packets_on_every_ring",
            testpmd_moves_packets_on_every_ring,
        ),
    ];
    let tests = tests.map(|(name, run)| LabTest::new(name, run).within(LONG));
    test_main(Needs::Links, tests.into())
}

/// A switch, its folder and the namespace it runs in.
struct Rig {
    ns: NetNs,
    folder: tempfile::TempDir,
    switch: Child,
    ports: Vec<String>,
    workers: usize,
}

impl Drop for Rig {
    /// A failed test leaves no process behind.
    fn drop(&mut self) {
        let _ = self.switch.kill();
        let _ = self.switch.wait();
    }
}

impl Rig {
    /// `ports` as on the command line; `%` stands for the folder.
    fn new(workers: usize, ports: &[&str]) -> Tested<Self> {
        Self::inside(NetNs::new()?, workers, ports)
    }

    fn inside(ns: NetNs, workers: usize, ports: &[&str]) -> Tested<Self> {
        let folder = tempfile::tempdir()?;
        let dir = folder.path().display().to_string();
        let ports: Vec<String> = ports.iter().map(|port| port.replace('%', &dir)).collect();
        let switch = run(&ns, folder.path(), workers, &ports)?;
        Ok(Self {
            ns,
            folder,
            switch,
            ports,
            workers,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// SIGKILL, and another one at once.
    fn kill_and_start(&mut self) -> Tested {
        self.switch.kill()?;
        self.switch.wait()?;
        self.switch = run(&self.ns, self.folder.path(), self.workers, &self.ports)?;
        Ok(())
    }

    fn status(&self) -> Value {
        self.ask("status")
    }

    fn ask(&self, command: &str) -> Value {
        let mut client = Command::new(env!("CARGO_BIN_EXE_jumbo"));
        let output = client
            .args([command, "--json", "--socket"])
            .arg(self.path("control"));
        let output = output.output().expect("started");
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }
}

fn run(ns: &NetNs, folder: &Path, workers: usize, ports: &[String]) -> Tested<Child> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jumbo"));
    command
        .arg("run")
        .arg("--socket")
        .arg(folder.join("control"));
    command.args(["--workers", &workers.to_string()]);
    // Where it keeps what outlives it.
    command.env("XDG_RUNTIME_DIR", folder);
    for port in ports {
        command.args(["--port", port]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let mut switch = ns.run(|| command.stderr(Stdio::piped()).spawn())??;
    let mut talk = BufReader::new(switch.stderr.take().expect("piped"));
    let mut line = String::new();
    let mut said = String::new();
    while !line.contains("switching between") {
        line.clear();
        assert_ne!(talk.read_line(&mut line)?, 0, "it ended: {said}");
        said.push_str(&line);
    }
    std::thread::spawn(move || std::io::copy(&mut talk, &mut std::io::stderr()));
    Ok(switch)
}

/// Boots guests at the same time, each with the card given, and gives them addresses: 10.0.0.n and fd00::n.
fn boot<const N: usize>(tools: &QemuTools, specs: [VmSpec; N]) -> Tested<[Qemu; N]> {
    let mut number = 10;
    let mut vms = Vec::new();
    for spec in specs {
        number += 1;
        vms.push((Qemu::spawn(tools, &spec.number(number))?, number));
    }
    let mut ready = Vec::new();
    for (mut vm, number) in vms {
        vm.wait_ready()?;
        address(&mut vm, number)?;
        ready.push(vm);
    }
    Ok(ready.try_into().unwrap_or_else(|_| unreachable!("as many")))
}

fn address(vm: &mut Qemu, number: u8) -> Tested {
    vm.ok(&format!(
        "ip addr add 10.0.0.{number}/24 dev eth0 && ip addr add fd00::{number}/64 dev eth0 && ip link set eth0 up"
    ))?;
    Ok(())
}

#[track_caller]
fn pings(vm: &mut Qemu, to: &str) -> Tested {
    // The first may be lost while a port is not there yet.
    vm.ok(&format!(
        "for i in 1 2 3 4 5 6 7 8 9 10; do ping -c 1 -W 5 {to} && exit; done; exit 1"
    ))?;
    let said = vm.ok(&format!("ping -c 5 -W 10 {to}"))?;
    assert!(said.contains(" 0% packet loss"), "{said}");
    Ok(())
}

/// Takes one connection into `/tmp/came`, and makes `/tmp/sum` when it has ended.
fn listen(port: u16) -> String {
    listen_into(port, "> /tmp/came")
}

/// The same to where `to` says, as a shell does. busybox's nc ends when its input does, so it gets one that never does.
fn listen_into(port: u16, to: &str) -> String {
    format!(
        "rm -f /tmp/sum /tmp/came; test -e /tmp/never || mkfifo /tmp/never; \
         (nc -l -p {port} 0<> /tmp/never {to}; touch /tmp/sum) > /dev/null 2>&1 &"
    )
}

/// Sends `mib` MiB from one guest to the other and compares what arrives.
#[track_caller]
fn transfer(from: &mut Qemu, to: &mut Qemu, address: &str, mib: u32) -> Tested {
    to.ok(&listen(7000))?;
    from.ok(&format!(
        "dd if=/dev/urandom of=/tmp/data bs=1M count={mib} 2> /dev/null"
    ))?;
    let sent = from.ok("md5sum < /tmp/data")?;
    // The other side may not listen yet.
    from.ok(&format!(
        "for i in 1 2 3 4 5; do nc -w 20 {address} 7000 < /tmp/data && exit; sleep 1; done; exit 1"
    ))?;
    let came = to.ok(
        "for i in $(seq 60); do test -e /tmp/sum && break; sleep 1; done; md5sum < /tmp/came",
    )?;
    let len = to.ok("wc -c < /tmp/came")?;
    assert_eq!(sent, came, "{address}: {len} of {mib} MiB");
    Ok(())
}

fn both_ways(one: &mut Qemu, two: &mut Qemu, mib: u32) -> Tested {
    transfer(one, two, "10.0.0.12", mib)?;
    transfer(two, one, "10.0.0.11", mib)?;
    transfer(one, two, "fd00::12", mib)?;
    transfer(two, one, "fd00::11", mib)
}

fn sockets(rig: &Rig) -> [Nic; 2] {
    ["a", "b"].map(|name| Nic::vhost_user(rig.path(name)))
}

fn guests_and_the_host_talk() -> Tested {
    let tools = QemuTools::find().map_err(skip)?;
    check_tun().map_err(skip)?;
    let rig = Rig::new(1, &["vhost-user:%/a", "vhost-user:%/b", "tap:t0"])?;
    let host = Host::inside(rig.ns.clone(), 1);
    host.plug("t0")?;
    let [a, b] = sockets(&rig).map(|nic| VmSpec::new().nic(nic));
    let [mut a, mut b] = boot(&tools, [a, b])?;
    let offloads = a.ok("ethtool -k eth0")?;
    for (name, state) in [
        ("tx-checksumming", "on"),
        ("scatter-gather", "on"),
        ("tcp-segmentation-offload", "on"),
        ("generic-receive-offload", "on"),
        ("rx-checksumming", "on"),
    ] {
        assert!(
            offloads.contains(&format!("{name}: {state}")),
            "{name}: {offloads}"
        );
    }
    for to in ["10.0.0.12", "fd00::12", "10.0.0.1", "fd00::1"] {
        pings(&mut a, to)?;
    }
    both_ways(&mut a, &mut b, 8)?;
    for family in [Family::V4, Family::V6] {
        from_host(&host, family, &mut a)?;
        to_host(&host, family, &mut b)?;
    }
    println!("{}", rig.status());
    Ok(())
}

fn from_host(host: &Host, family: Family, vm: &mut Qemu) -> Tested {
    let address = if family == Family::V4 {
        "10.0.0.11:7001"
    } else {
        "[fd00::11]:7001"
    };
    vm.ok(&listen(7001))?;
    let bytes = pattern(0, 8 << 20);
    let send = || -> std::io::Result<()> {
        let end = Instant::now() + Duration::from_secs(20);
        let mut stream = loop {
            match TcpStream::connect(address) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() > end => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(200)),
            }
        };
        stream.write_all(&bytes)?;
        stream.shutdown(std::net::Shutdown::Write)
    };
    host.ns.run(send)??;
    vm.ok("for i in $(seq 60); do test -e /tmp/sum && break; sleep 1; done; test -e /tmp/sum")?;
    let came = vm.ok("sha256sum < /tmp/came")?;
    let mut local = Digest::new()?;
    local.add(&bytes)?;
    let sent = local.end()?;
    assert_eq!(came.trim(), sent.trim());
    Ok(())
}

fn to_host(host: &Host, family: Family, vm: &mut Qemu) -> Tested {
    let (any, address) = match family {
        Family::V4 => ("0.0.0.0:7002", "10.0.0.1"),
        _ => ("[::]:7002", "fd00::1"),
    };
    let listener = host.ns.run(|| std::net::TcpListener::bind(any))??;
    let reader = std::thread::spawn(move || -> std::io::Result<Vec<u8>> {
        let (mut stream, _) = listener.accept()?;
        let mut bytes = Vec::new();
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.read_to_end(&mut bytes)?;
        Ok(bytes)
    });
    vm.ok("dd if=/dev/urandom of=/tmp/data bs=1M count=8 2> /dev/null")?;
    let sent = vm.ok("sha256sum < /tmp/data")?;
    vm.ok(&format!("nc -w 20 {address} 7002 < /tmp/data"))?;
    let bytes = reader.join().expect("it does not panic")?;
    let mut local = Digest::new()?;
    local.add(&bytes)?;
    let came = local.end()?;
    assert_eq!(came.trim(), sent.trim());
    Ok(())
}

fn offloads_are_taken_as_negotiated() -> Tested {
    let tools = QemuTools::find().map_err(skip)?;
    let rig = Rig::new(2, &["vhost-user:%/a", "vhost-user:%/b"])?;
    let [a, b] = sockets(&rig);
    let [mut b] = boot(&tools, [VmSpec::new().nic(b)])?;
    let off: [&[&str]; 6] = [
        &["csum", "host_tso4", "host_tso6", "host_ecn", "host_ufo"],
        &[
            "guest_csum",
            "guest_tso4",
            "guest_tso6",
            "guest_ecn",
            "guest_ufo",
        ],
        &["host_tso4", "guest_tso6"],
        &["host_tso6", "guest_tso4"],
        &["host_ecn", "guest_ecn", "mrg_rxbuf"],
        &["event_idx", "indirect_desc"],
    ];
    for features in off {
        // Number 12 then: `b` was the first to boot, with 11.
        let spec = VmSpec::new().number(12).nic(a.clone().off(features));
        let mut vm = Qemu::boot(&tools, &spec)?;
        address(&mut vm, 12)?;
        pings(&mut b, "10.0.0.12")?;
        transfer(&mut b, &mut vm, "10.0.0.12", 4)?;
        transfer(&mut vm, &mut b, "10.0.0.11", 4)?;
        transfer(&mut vm, &mut b, "fd00::11", 4)?;
        transfer(&mut b, &mut vm, "fd00::12", 4)?;
        let said = vm.ok("ethtool -k eth0")?;
        let csum = if features.contains(&"csum") {
            "off"
        } else {
            "on"
        };
        assert!(
            said.contains(&format!("tx-checksumming: {csum}")),
            "{features:?}: {said}"
        );
    }
    Ok(())
}

fn two_packed_pairs_and_a_large_mtu() -> Tested {
    let tools = QemuTools::find().map_err(skip)?;
    let port = |name: &str| format!("vhost-user:%/{name},queues=2,mtu=9000");
    let rig = Rig::new(2, &[&port("a"), &port("b")])?;
    let [a, b] = sockets(&rig).map(|nic| {
        let nic = nic.queues(2).packed().mtu(9000);
        VmSpec::new().processors(2).nic(nic)
    });
    let [mut a, mut b] = boot(&tools, [a, b])?;
    assert!(a.ok("cat /sys/class/net/eth0/mtu")?.trim() == "9000");
    assert_ne!(a.features(0)? & (1 << 34), 0, "packed");
    let said = a.ok("ethtool -l eth0; ls /sys/class/net/eth0/queues")?;
    assert!(said.contains("tx-1"), "{said}");
    pings(&mut a, "10.0.0.12")?;
    let said = a.ok("ping -c 3 -W 10 -s 8972 10.0.0.12")?;
    assert!(said.contains(" 0% packet loss"), "{said}");
    both_ways(&mut a, &mut b, 8)?;
    // One pair less, and back.
    a.ok("ethtool -L eth0 combined 1")?;
    transfer(&mut a, &mut b, "10.0.0.12", 4)?;
    a.ok("ethtool -L eth0 combined 2")?;
    both_ways(&mut a, &mut b, 4)
}

fn a_guest_reboots_and_lets_its_driver_go() -> Tested {
    let tools = QemuTools::find().map_err(skip)?;
    let rig = Rig::new(1, &["vhost-user:%/a", "vhost-user:%/b"])?;
    let [a, b] = sockets(&rig);
    let [mut a, mut b] = boot(
        &tools,
        [VmSpec::new().nic(a.packed()), VmSpec::new().nic(b)],
    )?;
    pings(&mut a, "10.0.0.12")?;
    for vm in [0, 1] {
        let (vm, number, to) = match vm {
            0 => (&mut a, 11, "10.0.0.12"),
            _ => (&mut b, 12, "10.0.0.11"),
        };
        vm.reset()?;
        address(vm, number)?;
        pings(vm, to)?;
        let bind = "cd /sys/bus/virtio/drivers/virtio_net; d=$(ls -d virtio*);";
        vm.ok(&format!(
            "{bind} echo $d > unbind; ! ip link show eth0 2> /dev/null; echo $d > bind"
        ))?;
        address(vm, number)?;
        pings(vm, to)?;
    }
    both_ways(&mut a, &mut b, 4)
}

/// Kills the switch in the middle of a transfer, which goes on.
fn outlives(rig: &mut Rig, a: &mut Qemu, b: &mut Qemu) -> Tested {
    pings(a, "10.0.0.12")?;
    for round in 0..3 {
        b.ok(&listen(7000))?;
        a.ok("dd if=/dev/urandom of=/tmp/data bs=1M count=40 2> /dev/null; sleep 1")?;
        let sent = a.ok("md5sum < /tmp/data")?;
        a.ok("(nc 10.0.0.12 7000 < /tmp/data; touch /tmp/sent) > /dev/null 2>&1 & sleep 0.2")?;
        rig.kill_and_start()?;
        let came = b.ok(
            "for i in $(seq 50); do test -e /tmp/sum && break; sleep 1; done; md5sum < /tmp/came",
        )?;
        assert_eq!(sent, came, "round {round}");
        pings(a, "10.0.0.12")?;
    }
    Ok(())
}

fn guests_outlive_a_killed_switch() -> Tested {
    let tools = QemuTools::find().map_err(skip)?;
    let mut rig = Rig::new(1, &["vhost-user:%/a", "vhost-user:%/b"])?;
    let [a, b] = sockets(&rig).map(Nic::reconnect);
    let [mut a, mut b] = boot(&tools, [VmSpec::new().nic(a), VmSpec::new().nic(b)])?;
    outlives(&mut rig, &mut a, &mut b)?;
    Ok(())
}

fn guests_that_listen_outlive_a_killed_switch() -> Tested {
    let tools = QemuTools::find().map_err(skip)?;
    let mut rig = Rig::new(2, &["vhost-user:%/a,client", "vhost-user:%/b,client"])?;
    let [a, b] = sockets(&rig).map(|nic| nic.server().packed());
    let [mut a, mut b] = boot(&tools, [VmSpec::new().nic(a), VmSpec::new().nic(b)])?;
    outlives(&mut rig, &mut a, &mut b)
}

/// One process has both cards and sends what one receives out of the other: what goes round stays the same number.
fn testpmd_moves_packets_on_every_ring() -> Tested {
    let tool = TestpmdTool::find().map_err(skip)?;
    for bits in 0..8_u32 {
        for (len, queues) in [(64, 1), (1500, 2)] {
            let more = if queues > 1 { ",queues=2" } else { "" };
            let port = |name: &str| format!("vhost-user:%/{name}{more}");
            let rig = Rig::new(1 + bits as usize % 2, &[&port("a"), &port("b")])?;
            let card = |name: &str, mac: &str| {
                let mut front = VirtioUser::new(rig.path(name));
                front.packed = bits & 1 != 0;
                front.mergeable = bits & 2 != 0;
                front.in_order = bits & 4 != 0;
                front.queues = queues;
                front.mac = Some(mac.into());
                Vdev::VirtioUser(front)
            };
            let mut spec = TestpmdSpec::new("mac")
                .vdev(card("a", "02:00:00:00:00:0a"))
                .vdev(card("b", "02:00:00:00:00:0b"))
                .argument("--eth-peer=0,02:00:00:00:00:0b")
                .argument("--eth-peer=1,02:00:00:00:00:0a")
                .argument(&format!("--txpkts={len}"));
            spec.queues = queues;
            let mut testpmd = Testpmd::start(&tool, &spec)?;
            testpmd.begin(1)?;
            let end = Instant::now() + Duration::from_secs(60);
            loop {
                let stats = [testpmd.stats(0)?, testpmd.stats(1)?];
                if stats.iter().all(|stats| stats.rx_packets > 20_000) {
                    break;
                }
                assert!(
                    Instant::now() < end,
                    "rings {bits}, {len} bytes: {stats:?}\n{}",
                    rig.status()
                );
                std::thread::sleep(Duration::from_millis(100));
            }
            testpmd.end()?;
            let [a, b] = [testpmd.stats(0)?, testpmd.stats(1)?];
            for stats in [a, b] {
                assert_eq!(stats.rx_errors + stats.tx_errors, 0, "{stats:?}");
                assert_eq!(stats.rx_bytes, stats.rx_packets * len, "{stats:?}");
            }
            testpmd.quit()?;
        }
    }
    Ok(())
}
