//! A guest in QEMU: a real kernel with its own network driver, without KVM.
//!
//! The guest is a distribution's kernel with busybox, iperf3 and ethtool in memory. A small agent on its second serial port
//! runs commands. Source of the options: qemu(1), docs/system/devices/vhost-user.rst.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::console::Console;
use super::initramfs::{Archive, module, read};
use super::missing::{Missing, cache, cached, program};
use super::process::Process;
use crate::error::{Doing, Error, Result};
use crate::ns::NetNs;

/// A guest that answers a command at all does so within this, on a busy machine too.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// Boot takes 4-6 s on two quiet cores.
const BOOT_LIMIT: Duration = Duration::from_secs(180);
/// What a virtual machine may live.
const LIFE_LIMIT: Duration = Duration::from_secs(900);

/// What the virtio network driver needs, in the order of its dependencies.
const MODULES: [&str; 8] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "failover",
    "net_failover",
    "virtio_net",
];

/// The guest's first program.
const INIT: &str = include_str!("init.sh");

/// Programs and files a guest is made of.
#[derive(Debug, Clone)]
pub struct QemuTools {
    qemu: PathBuf,
    busybox: PathBuf,
    programs: Vec<PathBuf>,
    kernel: PathBuf,
    modules: PathBuf,
}

impl QemuTools {
    /// Finds all of them: QEMU, a static busybox, iperf3, ethtool, and the guest kernel that `scripts/vm-tools` unpacks.
    pub fn find() -> std::result::Result<Self, Missing> {
        let kernel = cache().join("kernel");
        let tools = Self {
            qemu: program("qemu-system-x86_64", "qemu-system-x86")?,
            busybox: program("busybox", "busybox-static")?,
            programs: vec![program("iperf3", "iperf3")?, program("ethtool", "ethtool")?],
            kernel: kernel.join("vmlinuz"),
            modules: kernel.join("modules"),
        };
        cached(&tools.kernel, "guest kernel")?;
        cached(&tools.modules, "guest kernel modules")?;
        Ok(tools)
    }

    /// The guest's file system. `more` modules are loaded behind the driver, in this order.
    fn initramfs(&self, more: &[String]) -> Result<Vec<u8>> {
        let mut archive = Archive::default();
        archive.file(Path::new("/bin/busybox"), &read(&self.busybox)?);
        archive.file(Path::new("/init"), INIT.as_bytes());
        for program in &self.programs {
            archive.program(program)?;
        }
        let mut order = String::new();
        let driver = MODULES.iter().map(|&name| (name, false));
        let more = more.iter().map(|name| (name.as_str(), true));
        for (name, must) in driver.chain(more) {
            let Some(content) = module(&self.modules, name)? else {
                // A part of the driver that is no module is in the kernel.
                if must {
                    return Err(Error::Stalled(format!(
                        "the guest's kernel has no module {name}"
                    )));
                }
                continue;
            };
            let path = format!("/modules/{name}.ko");
            archive.file(Path::new(&path), &content);
            let _ = writeln!(order, "{path}");
        }
        archive.file(Path::new("/modules/order"), order.as_bytes());
        Ok(archive.finish())
    }
}

#[derive(Debug, Clone)]
enum Backend {
    VhostUser {
        path: PathBuf,
        server: bool,
        reconnect: bool,
    },
    Tap(String),
    Hub(u32),
}

/// A network card of a guest. It is called `eth0`, `eth1`, … in the order of the cards.
#[derive(Debug, Clone)]
pub struct Nic {
    backend: Backend,
    queues: u32,
    vectors: u32,
    properties: Vec<String>,
}

impl Nic {
    fn new(backend: Backend) -> Self {
        Self {
            backend,
            queues: 1,
            vectors: 0,
            properties: Vec::new(),
        }
    }

    /// A card whose back end listens at `path`; it must listen before the guest starts. QEMU waits for the handshake.
    pub fn vhost_user(path: impl Into<PathBuf>) -> Self {
        Self::new(Backend::VhostUser {
            path: path.into(),
            server: false,
            reconnect: false,
        })
    }

    /// A card of a kept TAP of that name, in the namespace of [`VmSpec::inside`].
    pub fn tap(name: &str) -> Self {
        Self::new(Backend::Tap(name.into()))
    }

    /// A card on a hub inside QEMU: two of the same guest see each other.
    pub fn hub(number: u32) -> Self {
        Self::new(Backend::Hub(number))
    }

    /// QEMU listens at the path and waits for the back end to connect; after that one went away the guest goes on, and the
    /// next one may connect.
    ///
    /// # Panics
    ///
    /// When the card is no vhost-user card.
    #[must_use]
    pub fn server(mut self) -> Self {
        match &mut self.backend {
            Backend::VhostUser { server, .. } => *server = true,
            _ => panic!("only a vhost-user card has a socket"),
        }
        self
    }

    /// QEMU connects again, each second, when the back end went away.
    ///
    /// # Panics
    ///
    /// When the card is no vhost-user card.
    #[must_use]
    pub fn reconnect(mut self) -> Self {
        match &mut self.backend {
            Backend::VhostUser { reconnect, .. } => *reconnect = true,
            _ => panic!("only a vhost-user card has a socket"),
        }
        self
    }

    /// So many queue pairs; the guest uses as many as it has processors, or as `ethtool -L` says.
    #[must_use]
    pub fn queues(mut self, pairs: u32) -> Self {
        self.queues = pairs;
        self
    }

    /// So many MSI-X vectors instead of one shared interrupt line. QEMU 7.2 crashes with them when the driver starts on
    /// vhost-user without KVM; QEMU 10 does not.
    #[must_use]
    pub fn vectors(mut self, count: u32) -> Self {
        self.vectors = count;
        self
    }

    /// Packed rings.
    #[must_use]
    pub fn packed(self) -> Self {
        self.property("packed=on")
    }

    /// The MTU the guest is told.
    #[must_use]
    pub fn mtu(self, mtu: u16) -> Self {
        self.property(&format!("host_mtu={mtu}"))
    }

    /// Features QEMU does not offer to the guest: `csum`, `guest_csum`, `host_tso4`, `guest_tso4`, `mrg_rxbuf`,
    /// `event_idx`, `indirect_desc`, … as virtio-net-pci calls them.
    #[must_use]
    pub fn off(mut self, features: &[&str]) -> Self {
        self.properties
            .extend(features.iter().map(|feature| format!("{feature}=off")));
        self
    }

    /// Any other property of virtio-net-pci, as `name=value`.
    #[must_use]
    pub fn property(mut self, property: &str) -> Self {
        self.properties.push(property.into());
        self
    }

    /// QEMU's arguments for card `index` of guest `guest`.
    fn arguments(&self, guest: u8, index: usize, to: &mut Vec<String>) {
        let queues = self.queues;
        let several = if queues > 1 {
            format!(",queues={queues}")
        } else {
            String::new()
        };
        let netdev = match &self.backend {
            Backend::VhostUser {
                path,
                server,
                reconnect,
            } => {
                let mut socket = format!("socket,id=c{index},path={}", path.display());
                socket.push_str(if *server { ",server=on,wait=off" } else { "" });
                socket.push_str(if *reconnect { ",reconnect=1" } else { "" });
                to.extend(["-chardev".into(), socket]);
                format!("vhost-user,id=n{index},chardev=c{index}{several}")
            }
            Backend::Tap(name) => {
                let rest = "script=no,downscript=no,vhost=off";
                format!("tap,id=n{index},ifname={name},{rest}{several}")
            }
            Backend::Hub(hub) => format!("hubport,id=n{index},hubid={hub}"),
        };
        to.extend(["-netdev".into(), netdev]);
        to.extend(["-device".into(), self.device(guest, index)]);
    }

    fn device(&self, guest: u8, index: usize) -> String {
        let (mac, vectors) = (Qemu::mac(guest, index), self.vectors);
        let mut device = format!(
            "virtio-net-pci,id=d{index},netdev=n{index},mac={mac},vectors={vectors},romfile=,disable-legacy=on"
        );
        if self.queues > 1 {
            device.push_str(",mq=on");
        }
        for property in &self.properties {
            let _ = write!(device, ",{property}");
        }
        device
    }
}

/// What kind of guest.
#[derive(Debug, Clone)]
pub struct VmSpec {
    number: u8,
    nics: Vec<Nic>,
    processors: u32,
    memory_mib: u32,
    modules: Vec<String>,
    ns: Option<NetNs>,
    incoming: Option<String>,
}

impl Default for VmSpec {
    fn default() -> Self {
        Self::new()
    }
}

impl VmSpec {
    /// One processor, 192 MiB, no card.
    #[must_use]
    pub fn new() -> Self {
        Self {
            number: 1,
            nics: Vec::new(),
            processors: 1,
            memory_mib: 192,
            modules: Vec::new(),
            ns: None,
            incoming: None,
        }
    }

    /// The guest's number, 1 unless said: part of its MAC addresses, so that several guests differ.
    #[must_use]
    pub fn number(mut self, number: u8) -> Self {
        self.number = number;
        self
    }

    /// One more card.
    #[must_use]
    pub fn nic(mut self, nic: Nic) -> Self {
        self.nics.push(nic);
        self
    }

    /// So many processors.
    #[must_use]
    pub fn processors(mut self, count: u32) -> Self {
        self.processors = count;
        self
    }

    /// So much memory, in MiB.
    #[must_use]
    pub fn memory_mib(mut self, mib: u32) -> Self {
        self.memory_mib = mib;
        self
    }

    /// More kernel modules, in the order of their dependencies: `["garp", "mrp", "8021q"]` has llc and stp before it.
    #[must_use]
    pub fn modules(mut self, names: &[&str]) -> Self {
        self.modules.extend(names.iter().map(|&name| name.into()));
        self
    }

    /// QEMU runs in this namespace, where the TAPs are.
    #[must_use]
    pub fn inside(mut self, ns: &NetNs) -> Self {
        self.ns = Some(ns.clone());
        self
    }

    /// No guest is booted: QEMU waits at `uri` for one that another QEMU gives away ([`Qemu::migrate`]). Number, memory,
    /// processors and cards must be the other one's; where the cards lead to may differ. `uri` as QEMU's `-incoming` takes
    /// it: `unix:PATH`, or `exec:cat FILE`.
    #[must_use]
    pub fn incoming(mut self, uri: &str) -> Self {
        self.incoming = Some(uri.into());
        self
    }
}

/// What a command in the guest came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Exit status; 143 when it took too long.
    pub status: i32,
    /// Both outputs, in order.
    pub text: String,
}

/// A running guest. It ends with this value.
#[derive(Debug)]
pub struct Qemu {
    process: Process,
    folder: TempDir,
    agent: Option<Console<UnixStream>>,
    /// Commands so far: each has a number, so that a late answer is not taken for the next one's.
    commands: u64,
}

impl Qemu {
    /// Starts a guest and waits until it takes commands.
    pub fn boot(tools: &QemuTools, spec: &VmSpec) -> Result<Self> {
        let mut vm = Self::spawn(tools, spec)?;
        vm.wait_ready()?;
        Ok(vm)
    }

    /// Starts QEMU and returns before the guest runs. With a vhost-user card QEMU itself waits for the back end's handshake, so a test
    /// that plays the back end starts it behind this and calls [`wait_ready`](Self::wait_ready) then.
    pub fn spawn(tools: &QemuTools, spec: &VmSpec) -> Result<Self> {
        let folder = tempfile::tempdir().doing(|| "make a folder")?;
        let initramfs = tools.initramfs(&spec.modules)?;
        let initrd = folder.path().join("initramfs");
        fs::write(&initrd, initramfs).doing(|| "write the initramfs")?;
        let mut command = Process::command(&tools.qemu, LIFE_LIMIT);
        command.args(machine(spec));
        command
            .arg("-kernel")
            .arg(&tools.kernel)
            .arg("-initrd")
            .arg(&initrd);
        serial(&mut command, folder.path());
        let mut cards = Vec::new();
        for (index, nic) in spec.nics.iter().enumerate() {
            nic.arguments(spec.number, index, &mut cards);
        }
        command.args(cards);
        if let Some(uri) = &spec.incoming {
            command.args(["-incoming", uri]);
        }
        Process::log_to(&mut command, &folder.path().join("qemu.log"))?;
        let mut vm = Self {
            process: Process::start(command, "qemu", spec.ns.as_ref())?,
            folder,
            agent: None,
            commands: 0,
        };
        // At once: what the guest says while nobody is connected is lost.
        let socket = vm.connect("agent.sock", Instant::now() + BOOT_LIMIT)?;
        vm.agent = Some(Console::new(socket, "the guest"));
        Ok(vm)
    }

    /// Waits until the guest takes commands; also after it was reset.
    pub fn wait_ready(&mut self) -> Result<()> {
        let agent = self.agent.as_mut().expect("connected by spawn");
        let ready = agent.until("AGENT READY\n", BOOT_LIMIT);
        ready.map(drop).map_err(|error| self.explain(error))
    }

    /// Gives the running guest away: to the QEMU that waits at `uri` ([`VmSpec::incoming`]), or into a file
    /// (`exec:cat > FILE`). The guest goes on while its memory is copied and is stopped for the rest. Returns what QEMU says
    /// of it, times among it.
    pub fn migrate(&mut self, uri: &str) -> Result<String> {
        self.monitor(&format!("migrate -d \"{uri}\""))?;
        self.poll("info migrate", "status: completed", &["status: failed"])
    }

    /// Waits until the guest that was given to this QEMU runs here. Commands can be given then.
    pub fn wait_arrived(&mut self) -> Result<()> {
        self.poll("info status", "VM status: running", &["error"])
            .map(drop)
    }

    /// Asks QEMU's monitor until its answer has `mark` in it.
    fn poll(&mut self, line: &str, mark: &str, bad: &[&str]) -> Result<String> {
        let end = Instant::now() + BOOT_LIMIT;
        loop {
            let said = self.monitor(line)?;
            if said.contains(mark) {
                return Ok(said);
            }
            if Instant::now() >= end || bad.iter().any(|bad| said.contains(bad)) {
                let error = Error::Stalled(format!("QEMU's {line:?} said: {said}"));
                return Err(self.explain(error));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn connect(&mut self, socket: &str, end: Instant) -> Result<UnixStream> {
        let path = self.folder.path().join(socket);
        loop {
            match UnixStream::connect(&path) {
                Ok(socket) => return Ok(socket),
                Err(error) if Instant::now() >= end || !self.process.is_running() => {
                    let error = Err(error).doing(|| format!("connect to QEMU's {socket}"));
                    return error.map_err(|error| self.explain(error));
                }
                Err(_) => thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// An error with what QEMU and the guest's kernel said last.
    fn explain(&mut self, error: Error) -> Error {
        let state = if self.process.is_running() {
            "runs"
        } else {
            "has ended"
        };
        let tail = |name: &str| {
            let text = fs::read(self.folder.path().join(name)).unwrap_or_default();
            let start = text.len().saturating_sub(2000);
            String::from_utf8_lossy(&text[start..]).into_owned()
        };
        let (qemu, kernel) = (tail("qemu.log"), tail("console.log"));
        Error::Stalled(format!(
            "{error}\nQEMU {state}, saying:\n{qemu}\nthe guest's kernel:\n{kernel}"
        ))
    }

    /// Whether QEMU still runs.
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// Runs a shell command in the guest, for up to a minute.
    pub fn run(&mut self, command: &str) -> Result<Output> {
        self.run_within(command, COMMAND_LIMIT)
    }

    /// Runs a shell command in the guest; what takes longer than `limit` (of the guest's clock) is ended there. Leave what
    /// stays in the background without our output: `iperf3 -s -D`, or `… >/dev/null 2>&1 &`.
    pub fn run_within(&mut self, command: &str, limit: Duration) -> Result<Output> {
        self.commands += 1;
        let number = self.commands;
        let hex = command.bytes().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        let line = format!("{number} {} {hex}\n", limit.as_secs().max(1));
        let agent = self.agent.as_mut().ok_or_else(not_ready)?;
        agent
            .end
            .write_all(line.as_bytes())
            .doing(|| "send a command to the guest")?;
        let mark = format!("\x1e{number} ");
        match agent.until(&mark, limit + COMMAND_LIMIT).and_then(|text| {
            let status = agent.until("\n", COMMAND_LIMIT)?;
            Ok((text, status))
        }) {
            Ok((text, status)) => Ok(Output {
                status: status.trim().parse().unwrap_or(-1),
                text: text.trim_end_matches(&mark).into(),
            }),
            Err(error) => Err(self.explain(error)),
        }
    }

    /// Runs a command that must succeed. Returns what it said.
    pub fn ok(&mut self, command: &str) -> Result<String> {
        let Output { status, text } = self.run(command)?;
        if status == 0 {
            return Ok(text);
        }
        Err(Error::Stalled(format!(
            "in the guest, {command:?} ended with {status}: {text}"
        )))
    }

    /// The features the guest's driver negotiated for card `index`: bit n of the virtio standard is bit n here.
    pub fn features(&mut self, index: usize) -> Result<u64> {
        let text = self.ok(&format!("cat /sys/class/net/eth{index}/device/features"))?;
        let bits = text.trim().bytes().enumerate();
        Ok(bits.fold(0, |all, (bit, digit)| {
            all | if digit == b'1' && bit < 64 {
                1 << bit
            } else {
                0
            }
        }))
    }

    /// Says a line to QEMU's monitor (`system_reset`, `set_link n0 off`, `info network`, `device_del d0`) and returns what it
    /// answers. Card n is device `dn` on network `nn`.
    pub fn monitor(&mut self, line: &str) -> Result<String> {
        let socket = self.connect("monitor.sock", Instant::now() + COMMAND_LIMIT)?;
        let mut monitor = Console::new(socket, "QEMU's monitor");
        monitor.until("(qemu) ", COMMAND_LIMIT)?;
        let said = monitor.end.write_all(format!("{line}\n").as_bytes());
        said.doing(|| "write to QEMU's monitor")?;
        monitor.until("(qemu) ", COMMAND_LIMIT)
    }

    /// Restarts the guest as a reset button does, and waits until it takes commands.
    pub fn reset(&mut self) -> Result<()> {
        if let Some(agent) = &mut self.agent {
            agent.drain()?;
        }
        self.monitor("system_reset")?;
        self.wait_ready()
    }

    /// What the guest's kernel has said so far.
    pub fn kernel_log(&self) -> String {
        let log = fs::read(self.folder.path().join("console.log"));
        String::from_utf8_lossy(&log.unwrap_or_default()).into_owned()
    }

    /// What QEMU itself has said so far.
    pub fn log(&self) -> String {
        let log = fs::read(self.folder.path().join("qemu.log"));
        String::from_utf8_lossy(&log.unwrap_or_default()).into_owned()
    }

    /// The MAC address of a guest's card.
    pub fn mac(guest: u8, index: usize) -> String {
        format!("52:54:00:00:{guest:02x}:{index:02x}")
    }

    /// Runs iperf3 as client in the guest for so many seconds (`arguments`: `-c 10.0.0.1 -P 2`). Returns what the receiver
    /// got, in bits a second.
    pub fn iperf3(&mut self, arguments: &str, seconds: u32) -> Result<f64> {
        let command = format!("iperf3 -J -t {seconds} {arguments}");
        let limit = COMMAND_LIMIT + Duration::from_secs(seconds.into());
        let said = self.run_within(&command, limit)?;
        received_bits(&said.text)
            .ok_or_else(|| Error::Stalled(format!("in the guest, {command} ended: {}", said.text)))
    }
}

/// `bits_per_second` of `sum_received` in the JSON of iperf3.
fn received_bits(json: &str) -> Option<f64> {
    let (_, sum) = json.split_once("\"sum_received\"")?;
    let (_, value) = sum.split_once("\"bits_per_second\":")?;
    value.split([',', '}']).next()?.trim().parse().ok()
}

fn not_ready() -> Error {
    Error::Stalled("the guest was not waited for".into())
}

fn machine(spec: &VmSpec) -> Vec<String> {
    let memory = spec.memory_mib;
    let text = format!(
        "-nodefaults -no-user-config -display none -machine q35 -accel tcg,thread=multi -cpu Nehalem -smp {} -m {memory} \
         -object memory-backend-memfd,id=m,size={memory}M,share=on -numa node,memdev=m",
        spec.processors
    );
    let mut arguments: Vec<String> = text.split_whitespace().map(String::from).collect();
    // random.trust_cpu: nothing in the guest waits for entropy.
    let kernel = "console=ttyS0 quiet panic=-1 net.ifnames=0 random.trust_cpu=on mitigations=off tsc=reliable";
    arguments.extend(["-append".into(), kernel.into()]);
    arguments
}

/// First serial port: the kernel's log. Second: the agent. And the monitor.
fn serial(command: &mut Command, folder: &Path) {
    let path = |name: &str| folder.join(name).display().to_string();
    let socket = |id: &str| {
        format!(
            "socket,id={id},path={},server=on,wait=off",
            path(&format!("{id}.sock"))
        )
    };
    command
        .arg("-chardev")
        .arg(format!("file,id=log,path={}", path("console.log")));
    command.args(["-serial", "chardev:log"]);
    command.arg("-chardev").arg(socket("agent"));
    command.args(["-serial", "chardev:agent"]);
    command.arg("-chardev").arg(socket("monitor"));
    command.args(["-mon", "chardev=monitor,mode=readline"]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_receivers_rate_is_found() {
        let json = r#"{"end": {"sum_sent": {"bits_per_second": 1.0}, "sum_received": {"seconds": 1,
            "bits_per_second":	9.5e8, "sender": true}}}"#;
        assert_eq!(received_bits(json), Some(9.5e8));
        assert_eq!(received_bits(r#"{"error": "unable to connect"}"#), None);
    }

    #[test]
    fn a_card_becomes_two_or_three_arguments() {
        let mut arguments = Vec::new();
        let nic = Nic::vhost_user("/s")
            .server()
            .queues(2)
            .packed()
            .off(&["csum"]);
        nic.arguments(3, 1, &mut arguments);
        let expected = [
            "-chardev",
            "socket,id=c1,path=/s,server=on,wait=off",
            "-netdev",
            "vhost-user,id=n1,chardev=c1,queues=2",
            "-device",
            "virtio-net-pci,id=d1,netdev=n1,mac=52:54:00:00:03:01,vectors=0,romfile=,disable-legacy=on,mq=on,packed=on,csum=off",
        ];
        assert_eq!(arguments, expected);
        Nic::tap("t0").arguments(1, 0, &mut arguments);
        assert_eq!(arguments.len(), expected.len() + 4);
    }
}
