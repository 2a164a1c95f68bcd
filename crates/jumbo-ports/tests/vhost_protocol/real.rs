//! Front ends of other people, where they are installed. Their rings are handed over, never run: what is tested is
//! that they get through the handshake and out of it again.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use jumbo_ports::vhost::feature::{LOG_ALL, RING_PACKED};
use jumbo_ports::vhost::{Ended, Endpoint, Event};

use crate::build::*;
use crate::socket::{Port, place};

/// A process that does not outlive its test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// None, and a line that says so, where it is not installed.
fn start(name: &str, package: &str, args: &[String]) -> Option<Program> {
    let child = Command::new(name)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    match child {
        Ok(child) => Some(Program(child)),
        Err(error) => {
            println!("skipped: {name}: {error} (apt-get install {package})");
            None
        }
    }
}

/// Takes what comes until `rings` run; gives the acknowledged features.
fn until_running(port: &Port, rings: &[usize]) -> u64 {
    assert!(matches!(port.event(), Event::Connected(Some(_))));
    loop {
        if port.call() == Call::Resume(rings.to_vec()) {
            break;
        }
    }
    let event = port.event();
    let Event::Negotiated { features, .. } = event else {
        panic!("{event:?}");
    };
    features
}

/// What ends the connection.
fn until_gone(port: &Port) -> Ended {
    loop {
        if let Event::Disconnected(ended) = port.event() {
            return ended;
        }
    }
}

/// testpmd with an emulated card of `args`.
fn testpmd(path: &Path, args: &str, queues: &str) -> Option<Program> {
    let path = path.display();
    let device = format!("net_virtio_user0,path={path},queue_size=256,queues={queues}{args}");
    let rxq = format!("--rxq={queues}");
    let txq = format!("--txq={queues}");
    let words = [
        "--no-huge",
        "--no-shconf",
        "--no-telemetry",
        "--no-pci",
        "-m",
        "64",
        "--lcores",
        "0@0,1@0",
        "--vdev",
        &device,
        "--",
        "--total-num-mbufs=4096",
        "--no-mlockall",
        "--no-numa",
        "--forward-mode=rxonly",
        &rxq,
        &txq,
    ];
    start("dpdk-testpmd", "dpdk-dev", &words.map(str::to_owned))
}

fn testpmd_runs_and_stops(args: &str, pairs: u16, rings: &[usize], packed: bool) {
    let (_dir, path) = place();
    let port = Port::with_offer(&path, offer(pairs));
    let Some(mut program) = testpmd(&path, args, &pairs.to_string()) else {
        return;
    };
    let features = until_running(&port, rings);
    assert_eq!(features & RING_PACKED != 0, packed);
    // The end of its input is its end.
    drop(program.0.stdin.take());
    assert!(program.0.wait().expect("our child").success());
    let ended = until_gone(&port);
    assert!(matches!(ended, Ended::Closed), "{ended}");
    port.finish();
}

#[test]
fn testpmd_with_split_rings() {
    testpmd_runs_and_stops("", 1, &[0, 1], false);
}

#[test]
fn testpmd_with_packed_rings() {
    testpmd_runs_and_stops(",packed_vq=1", 1, &[0, 1], true);
}

#[test]
fn testpmd_with_two_pairs() {
    testpmd_runs_and_stops("", 2, &[0, 1, 2, 3], false);
}

#[test]
fn testpmd_that_listens() {
    let (_dir, path) = place();
    let Some(_program) = testpmd(&path, ",server=1", "1") else {
        return;
    };
    let port = Port::start(Endpoint::Connect(path));
    loop {
        if port.call() == Call::Resume(vec![0, 1]) {
            break;
        }
    }
    port.finish();
}

/// A guest whose driver is the network boot program in the card's own ROM.
fn qemu(path: &Path, queues: &str, device: &str) -> Option<Program> {
    let chardev = format!("socket,id=c,path={},reconnect=1", path.display());
    let netdev = format!("vhost-user,id=n,chardev=c,queues={queues}");
    // MSI-X with vhost-user crashes QEMU 7.2 under TCG.
    let device = format!("virtio-net-pci,netdev=n,vectors=0,bootindex=0{device}");
    let words = [
        "-nodefaults",
        "-accel",
        "tcg",
        "-m",
        "64M",
        "-object",
        "memory-backend-memfd,id=m,size=64M,share=on",
        "-numa",
        "node,memdev=m",
        "-chardev",
        &chardev,
        "-netdev",
        &netdev,
        "-device",
        &device,
        "-display",
        "none",
        "-monitor",
        "stdio",
    ];
    let package = "qemu-system-x86 ipxe-qemu";
    start("qemu-system-x86_64", package, &words.map(str::to_owned))
}

fn type_in(program: &mut Program, line: &str) {
    let input = program.0.stdin.as_mut().expect("a pipe");
    input.write_all(line.as_bytes()).expect("it reads");
}

fn qemu_runs_resets_and_quits(pairs: u16, device: &str, packed: bool) {
    let (_dir, path) = place();
    let port = Port::with_offer(&path, offer(pairs));
    let Some(mut program) = qemu(&path, &pairs.to_string(), device) else {
        return;
    };
    let features = until_running(&port, &[0, 1]);
    assert_eq!(features & RING_PACKED != 0, packed);
    for there_and_back in ["system_reset\n", "stop\ncont\n"] {
        type_in(&mut program, there_and_back);
        // Only a fresh start has a moment with one ring.
        while port.call() != Call::Resume(vec![0]) {}
        while port.call() != Call::Resume(vec![0, 1]) {}
    }
    type_in(&mut program, "quit\n");
    assert!(program.0.wait().expect("our child").success());
    let ended = until_gone(&port);
    assert!(matches!(ended, Ended::Closed), "{ended}");
    port.finish();
}

#[test]
fn qemu_with_one_pair() {
    qemu_runs_resets_and_quits(1, "", false);
}

#[test]
fn qemu_with_two_pairs_and_an_mtu() {
    qemu_runs_resets_and_quits(2, ",mq=on,host_mtu=9000", false);
}

#[test]
fn qemu_migrates_with_a_log() {
    let (_dir, path) = place();
    let port = Port::with_offer(&path, offer(1));
    let Some(mut program) = qemu(&path, "1", "") else {
        return;
    };
    let features = until_running(&port, &[0, 1]);
    assert_eq!(features & LOG_ALL, 0);
    type_in(&mut program, "migrate \"exec:cat > /dev/null\"\n");
    // Read when the migration is done.
    type_in(&mut program, "quit\n");
    assert!(program.0.wait().expect("our child").success());
    let event = port.event();
    let Event::Negotiated { features, .. } = event else {
        panic!("{event:?}");
    };
    assert_ne!(features & LOG_ALL, 0);
    let ended = until_gone(&port);
    assert!(matches!(ended, Ended::Closed), "{ended}");
    port.finish();
}

#[test]
fn qemu_comes_back_to_a_port_that_was_restarted() {
    let (_dir, path) = place();
    let port = Port::with_offer(&path, offer(1));
    let Some(_program) = qemu(&path, "1", "") else {
        return;
    };
    until_running(&port, &[0, 1]);
    let rest = port.finish();
    assert!(matches!(rest[..], [Event::Disconnected(Ended::Stopped)]));
    let port = Port::with_offer(&path, offer(1));
    until_running(&port, &[0, 1]);
    port.finish();
}
