//! A host on a TAP and a guest on a vhost-user port, with a kernel's stack at both ends: the guest's driver is our own, and
//! what it carries comes from a second TAP whose link the guest's kernel has. Every byte is compared, with every set of
//! offloads that a guest can have, each way.

mod support;
#[path = "support/hosts.rs"]
mod hosts;
#[path = "support/transfer.rs"]
mod transfer;

use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{fs, sync::Arc};

use hosts::{Setup, Side, Tested, config, open, start};
use jumbo_lab::link::Mac;
use jumbo_lab::ns::Needs;
use jumbo_lab::packet_socket::PacketSocket;
use jumbo_lab::tap::{Tap, TapOffloads, TapSpec};
use jumbo_lab::traffic::{UdpSpec, udp};
use jumbo_lab::{Family, Host, LabTest, TestError, test_main};
use jumbo_ports::vhost::{self, VhostConfig};
use jumbo_switch::switch::{State, Switch};
use jumbo_switch::topology::Coalesce;
use jumbo_testkit::virtio::{Options, VirtioNet, feature, protocol};
use support::{drops, quiet};
use tempfile::TempDir;
use transfer::transfer;

type Outcome = Tested<()>;

/// For a machine that has other things to do.
const LIMIT: Duration = Duration::from_secs(300);
/// For anything that should be there at once.
const SOON: Duration = Duration::from_secs(20);
/// The virtio header of both, bytes.
const HEADER_LEN: usize = 12;
/// Ports of the switch, in the order they are added.
const HOST: usize = 0;
const GUEST: usize = 1;

fn main() -> ExitCode {
    macro_rules! tests {
        ($($name:ident),* $(,)?) => { vec![$(LabTest::new(stringify!($name), $name).within(LIMIT)),*] };
    }
    test_main(
        Needs::Taps,
        tests![
            bytes_pass_with_every_set_of_offloads,
            datagrams_pass_with_every_set_of_offloads,
            a_bridge_behind_a_tap_learns_where_a_guest_is,
        ],
    )
}

/// A set of offloads, one way: checksums, TCP over IPv4, over IPv6, UDP.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
struct Set {
    csum: bool,
    tso4: bool,
    tso6: bool,
    uso: bool,
}

/// None, checksums alone, and every set of super-packets with them, which need them.
fn sets() -> Vec<Set> {
    let none = Set {
        csum: false,
        tso4: false,
        tso6: false,
        uso: false,
    };
    let with = (0..8).map(|bits| Set {
        csum: true,
        tso4: bits & 1 != 0,
        tso6: bits & 2 != 0,
        uso: bits & 4 != 0,
    });
    std::iter::once(none).chain(with).collect()
}

fn bits(pairs: &[(bool, u64)]) -> u64 {
    pairs.iter().filter(|(on, _)| *on).map(|(_, bit)| bit).sum()
}

impl Set {
    /// What the guest hands over.
    fn host_features(self) -> u64 {
        bits(&[
            (self.csum, feature::CSUM),
            (self.tso4, feature::HOST_TSO4),
            (self.tso6, feature::HOST_TSO6),
            (self.uso, feature::HOST_USO),
        ])
    }

    /// What the guest takes.
    fn guest_features(self) -> u64 {
        bits(&[
            (self.csum, feature::GUEST_CSUM),
            (self.tso4, feature::GUEST_TSO4),
            (self.tso6, feature::GUEST_TSO6),
            (self.uso, feature::GUEST_USO4 | feature::GUEST_USO6),
        ])
    }

    /// What the guest's kernel leaves to its driver (`TUN_F_*`, linux/if_tun.h).
    fn tap(self) -> TapOffloads {
        let flags = bits(&[
            (self.csum, 1),
            (self.tso4, 2),
            (self.tso6, 4),
            (self.uso, 0x20 | 0x40),
        ]);
        TapOffloads::from_bits(flags as u32)
    }
}

/// The guest's card: what its kernel sends goes to the switch, what the switch sends to its kernel.
struct Card {
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<(), String>>>,
}

impl Card {
    fn start(tap: Tap, mut net: VirtioNet) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let ends = done.clone();
        let thread = std::thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                let sent = send(&tap, &mut net)?;
                if !(sent | receive(&tap, &mut net)?) {
                    net.wait(Duration::from_micros(300)).map_err(text)?;
                }
            }
            Ok(())
        });
        Self {
            done,
            thread: Some(thread),
        }
    }

    fn stop(mut self) -> Outcome {
        self.done.store(true, Ordering::Relaxed);
        let ended = self.thread.take().expect("once").join();
        ended.expect("no panic").map_err(TestError::Failed)
    }
}

impl Drop for Card {
    /// A test that fails says how the card did.
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        if let Some(Ok(Err(error))) = self.thread.take().map(JoinHandle::join) {
            eprintln!("the guest's card: {error}");
        }
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Some packets of the guest's kernel. Whether there were any.
fn send(tap: &Tap, net: &mut VirtioNet) -> Result<bool, String> {
    let mut buffer = vec![0; HEADER_LEN + 65_550];
    for count in 0..32 {
        match tap.read(&mut buffer) {
            Ok(len) => {
                let (header, packet) = buffer[..len].split_at(HEADER_LEN);
                net.send(0, header, packet).map_err(text)?;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(count > 0),
            Err(error) => return Err(format!("reading the guest's TAP: {error}")),
        }
    }
    Ok(true)
}

/// Some packets of the switch. Whether there were any.
fn receive(tap: &Tap, net: &mut VirtioNet) -> Result<bool, String> {
    for count in 0..128 {
        let Some(got) = net.try_recv().map_err(text)? else {
            return Ok(count > 0);
        };
        let packet = [&got.header[..], &got.packet].concat();
        let written = tap.write(&packet);
        // The kernel is the judge of what the switch made.
        written.map_err(|error| format!("the guest's kernel: {error}: {:?}", got.header))?;
    }
    Ok(true)
}

/// The switch with a host on a TAP, and a socket for a guest.
struct Scene {
    switch: Switch,
    host: Host,
    socket: PathBuf,
    _folder: TempDir,
}

impl Scene {
    fn new(workers: usize) -> Tested<Self> {
        let folder = tempfile::tempdir()?;
        let socket = folder.path().join("vm.sock");
        let mut switch = start(workers)?;
        let setup = Setup {
            workers,
            ..Setup::USUAL
        };
        let host = Host::new(1)?;
        switch.add(open(&host, &config(setup, Side::ALL))?, Coalesce::Gro)?;
        let port = vhost::open(&VhostConfig::new(socket.clone(), workers), |_| {});
        switch.add(port?, Coalesce::Gro)?;
        Ok(Self {
            switch,
            host,
            socket,
            _folder: folder,
        })
    }

    /// A guest with its own kernel, that knows the host and is known to it.
    fn guest(&self, options: Options, offloads: TapOffloads) -> Tested<(Host, Card)> {
        let guest = Host::new(2)?;
        let tap = Tap::create(&guest.ns, &TapSpec::new("t0", offloads))?;
        let net = VirtioNet::connect(&self.socket, options).map_err(|e| failed(&e))?;
        assert_eq!(net.header_len(), HEADER_LEN);
        // A TAP that is down can be neither read nor written.
        guest.plug("t0")?;
        let card = Card::start(tap, net);
        let mac =
            |host: &Host| -> Tested<Mac> { Ok(host.links()?.get("t0")?.mac.unwrap_or_default()) };
        self.host.knows("t0", &guest, mac(&guest)?)?;
        guest.knows("t0", &self.host, mac(&self.host)?)?;
        Ok((guest, card))
    }

    /// Nothing was lost but what these reasons say.
    #[track_caller]
    fn rest(&self, allowed: &[&str]) -> State {
        let state = quiet(&self.switch);
        assert!(state.books.balanced(), "{:?}", state.books);
        for (reason, count) in drops(&state) {
            let known = allowed.iter().any(|allowed| reason.ends_with(allowed));
            assert!(known, "{count} dropped: {reason}");
        }
        state
    }
}

fn failed(error: &dyn std::fmt::Display) -> TestError {
    TestError::Failed(error.to_string())
}

/// Rings and buffers of several kinds in turn.
fn options(nth: usize, hands: Set, takes: Set) -> Options {
    let mergeable = !nth.is_multiple_of(3);
    Options {
        features: feature::ANY_LAYOUT | hands.host_features() | takes.guest_features(),
        packed: nth & 1 != 0,
        mergeable,
        event_idx: nth & 2 != 0,
        rx_buffer_len: if mergeable { 2048 } else { 65_600 },
        // So many that a few super-packets fit, each in many buffers.
        queue_size: if mergeable { 1024 } else { 256 },
        ..Options::default()
    }
}

/// The settings of one test: workers, rings, what the guest hands over and takes.
fn settings() -> Vec<(usize, usize, Set, Set)> {
    let pairs: Vec<_> = sets()
        .into_iter()
        .flat_map(|hands| sets().into_iter().map(move |takes| (hands, takes)))
        .collect();
    let numbered = pairs.into_iter().enumerate();
    numbered
        .map(|(nth, (hands, takes))| (1 + nth / 2 % 2, nth, hands, takes))
        .collect()
}

/// What is lost is sent again by TCP; a port that is busy for long is the only reason.
const TCP_LOSSES: [&str; 3] = ["no_other_port", "queue_full", "link_down"];

fn bytes_pass_with_every_set_of_offloads() -> Outcome {
    for workers in [1, 2] {
        let mut seen = Vec::new();
        for (own, nth, hands, takes) in settings() {
            if own != workers {
                continue;
            }
            let scene = Scene::new(workers)?;
            scene.host.plug("t0")?;
            let (guest, card) = scene.guest(options(nth, hands, takes), hands.tap())?;
            for family in [Family::V4, Family::V6] {
                transfer(&scene.host, &guest, family, 2, 150_000)?;
            }
            let state = scene.rest(&TCP_LOSSES);
            card.stop()?;
            let [host, guest] = [HOST, GUEST].map(|port| &state.ports[port].counters);
            let wholes = (guest.rx.traffic.super_packets, guest.tx.super_packets);
            assert_eq!(
                wholes.0 > 0,
                hands.tso4 | hands.tso6,
                "{hands:?}: {wholes:?}"
            );
            assert_eq!(
                wholes.1 > 0,
                takes.tso4 | takes.tso6,
                "{takes:?}: {wholes:?}"
            );
            assert!(
                host.rx.traffic.super_packets > 0,
                "the host hands super-packets over"
            );
            seen.push((hands, takes));
        }
        assert!(seen.len() >= 40, "{} settings", seen.len());
    }
    Ok(())
}

fn datagrams_pass_with_every_set_of_offloads() -> Outcome {
    for (nth, set) in sets().into_iter().enumerate() {
        for workers in [1, 2] {
            let scene = Scene::new(workers)?;
            scene.host.plug("t0")?;
            let (guest, card) = scene.guest(options(nth + workers, set, set), set.tap())?;
            // Each set with both families, one with each number of workers.
            let family = [Family::V4, Family::V6][(nth + workers) % 2];
            for (one, two) in [(&scene.host, &guest), (&guest, &scene.host)] {
                let spec = UdpSpec {
                    family,
                    count: 800,
                    segments_per_send: 20,
                    rate_pps: Some(20_000),
                    ..UdpSpec::default()
                };
                let report = udp(one, two, &spec)?;
                assert_eq!((report.intact, report.reordered), (Some(true), 0));
                assert!(report.received > 0, "{report:?}");
            }
            let state = scene.rest(&TCP_LOSSES);
            card.stop()?;
            let guest = &state.ports[GUEST].counters;
            let wholes = (
                guest.rx.traffic.super_packets > 0,
                guest.tx.super_packets > 0,
            );
            assert_eq!(wholes, (set.uso, set.uso), "{set:?}");
        }
    }
    Ok(())
}

/// The addresses that a kernel's bridge has learned (net/bridge/br_sysfs_br.c `brforward_read`, struct `__fdb_entry`).
fn learned(host: &Host, bridge: &str) -> Tested<Vec<[u8; 6]>> {
    let path = format!("/sys/class/net/{bridge}/brforward");
    let table = host.ns.run_with_sysfs(|| fs::read(path))??;
    let entries = table.chunks_exact(16);
    let learned = entries.filter(|entry| entry[7] == 0);
    Ok(learned
        .map(|entry| std::array::from_fn(|at| entry[at]))
        .collect())
}

fn a_bridge_behind_a_tap_learns_where_a_guest_is() -> Outcome {
    const STATION: [u8; 6] = [2, 0, 0, 0, 0, 0x77];
    for workers in [1, 2] {
        let scene = Scene::new(workers)?;
        let links = scene.host.links()?;
        links.add_bridge("br0")?;
        links.enslave("t0", "br0")?;
        links.up("t0")?;
        links.up("br0")?;
        let ears = PacketSocket::open(&scene.host.ns, "br0", false)?;
        let options = Options {
            protocol: Options::default().protocol | protocol::RARP,
            ..Options::default()
        };
        let net = VirtioNet::connect(&scene.socket, options).map_err(|e| failed(&e))?;
        assert_eq!(learned(&scene.host, "br0")?, Vec::<[u8; 6]>::new());
        let end = Instant::now() + SOON;
        // A bridge's port learns only some time after its link is there: QEMU too announces several times.
        while !learned(&scene.host, "br0")?.contains(&STATION) {
            net.front().send_rarp(STATION).map_err(|e| failed(&e))?;
            assert!(Instant::now() < end, "the bridge never learns");
            std::thread::sleep(Duration::from_millis(50));
        }
        let heard = |packet: &[u8]| packet[6..12] == STATION && packet[12..14] == [0x80, 0x35];
        loop {
            let packet = ears
                .recv(SOON)?
                .expect("the announcement passes the bridge");
            if heard(&packet) {
                assert_eq!(packet.len(), 60);
                break;
            }
        }
        let state = quiet(&scene.switch);
        assert!(state.books.balanced() && state.ports[GUEST].counters.announced > 0);
    }
    Ok(())
}
