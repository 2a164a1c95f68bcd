//! A switch, its vhost-user ports and the guests behind them.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jumbo_engine::pending::Caps;
use jumbo_ports::mem::{self, MemHandle};
use jumbo_ports::queue::Presence;
use jumbo_ports::vhost::{self, Notice, VhostConfig};
use jumbo_switch::patience::Waits;
use jumbo_switch::switch::{PortState, State, Switch, SwitchConfig};
use jumbo_switch::topology::{Coalesce, PortId};
use jumbo_testkit::pattern;
use jumbo_testkit::virtio::{Options, Received, VirtioNet};
use tempfile::TempDir;

use crate::support::quiet;

/// For anything that should be there at once, on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// What nobody's protocol is (IEEE 802 local experimental).
const ETHERTYPE: [u8; 2] = [0x88, 0xB5];
pub(crate) const BROADCAST: [u8; 6] = [0xFF; 6];

/// The MAC address of station `n`.
pub(crate) fn mac(n: usize) -> [u8; 6] {
    [2, 0, 0, 0, 0, n as u8]
}

/// One port of the rig.
#[derive(Debug)]
pub(crate) struct RigPort {
    pub(crate) id: PortId,
    pub(crate) path: PathBuf,
    pub(crate) notices: Arc<Mutex<Vec<Notice>>>,
}

#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) switch: Switch,
    pub(crate) ports: Vec<RigPort>,
    pub(crate) folder: TempDir,
    workers: usize,
}

impl Rig {
    pub(crate) fn new(workers: usize) -> Self {
        Self::waiting(workers, Waits::default())
    }

    /// With other waits than usual for a port that is full.
    pub(crate) fn waiting(workers: usize, waits: Waits) -> Self {
        Self::started(&SwitchConfig {
            workers,
            waits,
            ..SwitchConfig::default()
        })
    }

    /// Without ports, as told.
    pub(crate) fn started(config: &SwitchConfig) -> Self {
        Self {
            switch: Switch::start(config).expect("a switch starts"),
            ports: Vec::new(),
            folder: tempfile::tempdir().expect("a folder"),
            workers: config.workers,
        }
    }

    /// With `count` ports of up to `pairs` queue pairs.
    pub(crate) fn of(workers: usize, count: usize, pairs: u16) -> Self {
        let mut rig = Self::new(workers);
        for _ in 0..count {
            rig.port(|config| config.queue_pairs = pairs);
        }
        rig
    }

    /// Ends the switch in order, and starts another with the same ports.
    pub(crate) fn restart(&mut self, workers: usize) {
        self.workers = workers;
        let paths = self.end();
        self.begin(paths);
    }

    /// Ends the switch in order. Returns the sockets of its ports.
    pub(crate) fn end(&mut self) -> Vec<PathBuf> {
        let empty = Switch::start(&SwitchConfig::default()).expect("a switch starts");
        drop(std::mem::replace(&mut self.switch, empty));
        self.ports.drain(..).map(|port| port.path).collect()
    }

    /// A fresh switch with ports at these sockets.
    pub(crate) fn begin(&mut self, paths: Vec<PathBuf>) {
        let config = SwitchConfig {
            workers: self.workers,
            ..SwitchConfig::default()
        };
        self.switch = Switch::start(&config).expect("a switch starts");
        for path in paths {
            self.port(|config| config.path = path);
        }
    }

    pub(crate) fn config(&self) -> VhostConfig {
        let name = format!("vm{}.sock", self.ports.len());
        VhostConfig::new(self.folder.path().join(name), self.workers)
    }

    pub(crate) fn port(&mut self, change: impl FnOnce(&mut VhostConfig)) -> usize {
        let mut config = self.config();
        change(&mut config);
        let notices = Arc::new(Mutex::new(Vec::new()));
        let hears = notices.clone();
        let port = vhost::open(&config, move |notice| {
            hears.lock().expect("nobody panics here").push(notice);
        });
        let id = self.switch.add(port.expect("a port opens"), Coalesce::Gro);
        self.ports.push(RigPort {
            id: id.expect("room for it"),
            path: config.path,
            notices,
        });
        self.ports.len() - 1
    }

    /// A port in memory, whose other end the test is.
    pub(crate) fn mem(&mut self, takes: Caps, mtu: usize) -> MemHandle {
        let (port, handle) =
            mem::port("mem", self.workers, Caps::ALL, takes, mtu).expect("an eventfd");
        self.switch.add(port, Coalesce::Gro).expect("room for it");
        handle
    }

    pub(crate) fn guest(&self, port: usize, options: Options) -> Guest {
        let net = VirtioNet::connect(&self.ports[port].path, options).expect("a guest starts");
        Guest { net, n: port }
    }

    pub(crate) fn state(&self) -> State {
        self.switch.state().expect("the workers answer")
    }

    pub(crate) fn port_state(&self, port: usize) -> PortState {
        let id = self.ports[port].id;
        let state = self.state();
        state
            .ports
            .into_iter()
            .find(|p| p.id == id)
            .expect("it is there")
    }

    /// Why a port has stopped, once it has.
    pub(crate) fn stopped(&self, port: usize) -> Option<String> {
        match self.port_state(port).info.presence {
            Presence::Live(why) => why.get().cloned(),
            _ => None,
        }
    }

    /// Whether a port waits for its guest.
    pub(crate) fn waits(&self, port: usize) -> bool {
        matches!(self.port_state(port).info.presence, Presence::Waiting(_))
    }

    #[track_caller]
    pub(crate) fn quiet(&self) -> State {
        quiet(&self.switch)
    }

    /// What the port's notices say, in one line each.
    pub(crate) fn notices(&self, port: usize) -> Vec<String> {
        let notices = self.ports[port].notices.lock().expect("nobody panics here");
        let text = |notice: &Notice| match notice {
            Notice::Info(text) => format!("info: {text}"),
            Notice::Warning(text) => format!("warning: {text}"),
        };
        notices.iter().map(text).collect()
    }

    /// Waits until the port has said something that contains `text`.
    #[track_caller]
    pub(crate) fn hears(&self, port: usize, text: &str) {
        eventually(
            || self.notices(port).iter().any(|said| said.contains(text)),
            || format!("{text:?} in {:?}", self.notices(port)),
        );
    }
}

/// Waits until `is_so`.
#[track_caller]
pub(crate) fn eventually(mut is_so: impl FnMut() -> bool, what: impl FnOnce() -> String) {
    let end = Instant::now() + SOON;
    while !is_so() {
        assert!(Instant::now() < end, "never: {}", what());
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A guest on a port, with station `n`.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) net: VirtioNet,
    pub(crate) n: usize,
}

impl Guest {
    /// The next packet, which must come.
    #[track_caller]
    pub(crate) fn recv(&mut self) -> Received {
        let got = self.net.recv(SOON).expect("the device keeps the rules");
        got.unwrap_or_else(|| panic!("guest {} gets no packet", self.n))
    }

    /// Sends a packet without anything pending.
    #[track_caller]
    pub(crate) fn send(&mut self, pair: usize, packet: &[u8]) {
        let header = vec![0; self.net.header_len()];
        self.net.send(pair, &header, packet).expect("it is taken");
    }

    /// Everything that is there within a moment.
    pub(crate) fn drain(&mut self) -> Vec<Received> {
        let mut all = Vec::new();
        while let Some(got) = self.net.try_recv().expect("the device keeps the rules") {
            all.push(got);
        }
        all
    }
}

/// Makes every guest's station known behind its port.
#[track_caller]
pub(crate) fn acquaint(rig: &Rig, guests: &mut [Guest]) {
    for at in 0..guests.len() {
        let hello = raw(BROADCAST, guests[at].n, 0, 60);
        guests[at].send(0, &hello);
        for (other, guest) in guests.iter_mut().enumerate() {
            if other != at {
                assert_eq!(guest.recv().packet, hello);
            }
        }
    }
    rig.quiet();
}

/// A packet of `len` bytes from station `n` that is not IP: number `number`, where it is long enough to say so.
pub(crate) fn raw(to: [u8; 6], n: usize, number: u64, len: usize) -> Vec<u8> {
    let mut packet = [&to[..], &mac(n), &ETHERTYPE, &number.to_le_bytes()].concat();
    let start = number as usize % 251;
    if len > packet.len() {
        packet.extend(body(start, len - packet.len()));
    }
    packet.truncate(len);
    packet
}

/// Bytes of the pattern, without computing each again.
pub(crate) fn body(start: usize, len: usize) -> &'static [u8] {
    use std::sync::LazyLock;
    static ALL: LazyLock<Vec<u8>> = LazyLock::new(|| pattern(0, 1 << 17));
    &ALL[start..start + len]
}

impl Drop for Rig {
    /// A test that fails says what the switch saw.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let Ok(state) = self.switch.state() else {
            return eprintln!("the switch does not answer");
        };
        eprintln!(
            "{:?}\ndrops: {:?}",
            state.books,
            crate::support::drops(&state)
        );
        for port in 0..self.ports.len() {
            eprintln!("port {port}: {:?}", self.notices(port));
        }
    }
}
