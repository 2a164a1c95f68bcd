//! DPDK's testpmd, as vhost-user back end or front end, driven by its own prompt. No huge pages, no root's devices.
//!
//! Source: DPDK Testpmd Application User Guide; Poll Mode Driver for vhost (net_vhost) and for virtio (net_virtio_user).

use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{ChildStdout, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use super::console::Console;
use super::missing::{Missing, program};
use super::process::Process;
use crate::error::{Doing, Error, Result};

const PROMPT: &str = "testpmd> ";
/// Start-up takes half a second, and as long as the other side of a socket when it waits for that.
const START_LIMIT: Duration = Duration::from_secs(60);
const COMMAND_LIMIT: Duration = Duration::from_secs(30);
const LIFE_LIMIT: Duration = Duration::from_secs(900);

/// The program.
#[derive(Debug, Clone)]
pub struct TestpmdTool {
    testpmd: PathBuf,
    stdbuf: PathBuf,
}

impl TestpmdTool {
    /// Finds it.
    pub fn find() -> std::result::Result<Self, Missing> {
        Ok(Self {
            testpmd: program("dpdk-testpmd", "dpdk-dev")?,
            stdbuf: program("stdbuf", "coreutils")?,
        })
    }
}

/// A front end over vhost-user (`net_virtio_user`).
#[derive(Debug, Clone)]
pub struct VirtioUser {
    /// The socket.
    pub path: PathBuf,
    /// It listens and waits for the back end.
    pub server: bool,
    /// Queue pairs.
    pub queues: u16,
    /// Entries of each ring.
    pub queue_size: u16,
    /// Packed rings.
    pub packed: bool,
    /// Mergeable receive buffers.
    pub mergeable: bool,
    /// VIRTIO_F_IN_ORDER.
    pub in_order: bool,
    /// The vectorized paths (they need `mergeable` off, and for packed rings `in_order` and AVX-512).
    pub vectorized: bool,
    /// MAC address, if it matters.
    pub mac: Option<String>,
}

impl VirtioUser {
    /// It connects to `path`: one pair of split rings of 256 entries, mergeable, in order.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            server: false,
            queues: 1,
            queue_size: 256,
            packed: false,
            mergeable: true,
            in_order: true,
            vectorized: false,
            mac: None,
        }
    }

    fn argument(&self, index: usize) -> String {
        let mut text = format!(
            "net_virtio_user{index},path={},queues={},queue_size={},packed_vq={},mrg_rxbuf={},in_order={},vectorized={}",
            self.path.display(),
            self.queues,
            self.queue_size,
            u8::from(self.packed),
            u8::from(self.mergeable),
            u8::from(self.in_order),
            u8::from(self.vectorized),
        );
        if self.server {
            text.push_str(",server=1");
        }
        if let Some(mac) = &self.mac {
            text.push_str(",mac=");
            text.push_str(mac);
        }
        text
    }
}

/// A virtual device of testpmd: port n is the n-th.
#[derive(Debug, Clone)]
pub enum Vdev {
    /// A vhost-user back end (`net_vhost`).
    Vhost {
        /// The socket.
        path: PathBuf,
        /// It connects instead of listening.
        client: bool,
        /// Queue pairs.
        queues: u16,
        /// More parameters, as `tso=1`.
        more: Vec<String>,
    },
    /// A vhost-user front end.
    VirtioUser(VirtioUser),
    /// Any other, as `--vdev` takes it.
    Other(String),
}

impl Vdev {
    /// A back end that listens at `path`, with one pair.
    pub fn vhost(path: impl Into<PathBuf>) -> Self {
        Self::Vhost {
            path: path.into(),
            client: false,
            queues: 1,
            more: Vec::new(),
        }
    }

    fn argument(&self, index: usize) -> String {
        match self {
            Self::Vhost {
                path,
                client,
                queues,
                more,
            } => {
                let client = u8::from(*client);
                let path = path.display();
                let mut text =
                    format!("net_vhost{index},iface={path},queues={queues},client={client}");
                for parameter in more {
                    text.push(',');
                    text.push_str(parameter);
                }
                text
            }
            Self::VirtioUser(front) => front.argument(index),
            Self::Other(text) => text.clone(),
        }
    }
}

/// How to start it.
#[derive(Debug, Clone)]
pub struct TestpmdSpec {
    /// Its ports.
    pub vdevs: Vec<Vdev>,
    /// Forwarding mode: `io`, `mac`, `macswap`, `rxonly`, `txonly`, `flowgen`, `csum`, `5tswap`, `icmpecho`.
    pub forward: String,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Packet buffers, of 2 KiB unless `--mbuf-size` says otherwise; they must fit into the memory.
    pub buffers: u32,
    /// Processors of the main thread and of the forwarding threads.
    pub processors: Vec<u32>,
    /// Queues of each port.
    pub queues: u16,
    /// More arguments of testpmd itself: `--txpkts=64`, `--enable-rx-cksum`, …
    pub arguments: Vec<String>,
}

impl TestpmdSpec {
    /// Forwards as `forward` says, one thread, 256 MiB.
    pub fn new(forward: &str) -> Self {
        Self {
            vdevs: Vec::new(),
            forward: forward.into(),
            memory_mib: 256,
            buffers: 16384,
            processors: vec![0, 1],
            queues: 1,
            arguments: Vec::new(),
        }
    }

    /// One more port.
    #[must_use]
    pub fn vdev(mut self, vdev: Vdev) -> Self {
        self.vdevs.push(vdev);
        self
    }

    /// One more argument.
    #[must_use]
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.into());
        self
    }

    fn arguments(&self) -> Vec<String> {
        static RUNS: AtomicU32 = AtomicU32::new(0);
        let run = RUNS.fetch_add(1, Ordering::Relaxed);
        let cores = self.processors.iter().enumerate();
        let cores: Vec<_> = cores.map(|(core, cpu)| format!("{core}@{cpu}")).collect();
        let mut all = vec![
            "--lcores".into(),
            cores.join(","),
            "--no-huge".into(),
            format!("-m {}", self.memory_mib),
            "--no-pci".into(),
            "--no-telemetry".into(),
            format!("--file-prefix=jumbo-{}-{run}", std::process::id()),
        ];
        for (index, vdev) in self.vdevs.iter().enumerate() {
            all.extend(["--vdev".into(), vdev.argument(index)]);
        }
        let threads = self.processors.len().saturating_sub(1).max(1);
        all.extend([
            "--".into(),
            "-i".into(),
            "--no-mlockall".into(),
            "--no-numa".into(),
        ]);
        all.push(format!("--total-num-mbufs={}", self.buffers));
        all.push(format!("--nb-cores={threads}"));
        all.push(format!("--rxq={}", self.queues));
        all.push(format!("--txq={}", self.queues));
        all.push(format!("--forward-mode={}", self.forward));
        all.extend(self.arguments.iter().cloned());
        all
    }
}

/// Counters of a port, as `show port stats` has them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PortStats {
    /// Packets received.
    pub rx_packets: u64,
    /// Packets it had no descriptors for.
    pub rx_missed: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Faulty packets.
    pub rx_errors: u64,
    /// Packets for which there was no memory.
    pub rx_nombuf: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets a second received since the last look.
    pub rx_pps: u64,
    /// Packets a second sent since the last look.
    pub tx_pps: u64,
}

impl PortStats {
    fn parse(text: &str) -> Self {
        let number = |name: &str| {
            let rest = text.split_once(name).map_or("", |(_, rest)| rest);
            let digits = rest.trim_start();
            let end = digits
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(digits.len());
            digits[..end].parse().unwrap_or(0)
        };
        Self {
            rx_packets: number("RX-packets:"),
            rx_missed: number("RX-missed:"),
            rx_bytes: number("RX-bytes:"),
            rx_errors: number("RX-errors:"),
            rx_nombuf: number("RX-nombuf:"),
            tx_packets: number("TX-packets:"),
            tx_errors: number("TX-errors:"),
            tx_bytes: number("TX-bytes:"),
            rx_pps: number("Rx-pps:"),
            tx_pps: number("Tx-pps:"),
        }
    }
}

/// A running testpmd at its prompt. It ends with this value.
#[derive(Debug)]
pub struct Testpmd {
    process: Process,
    console: Console<ChildStdout>,
    folder: TempDir,
}

impl Testpmd {
    /// Starts it and waits for its prompt. It forwards nothing before [`begin`](Self::begin).
    ///
    /// A port waits for the other side of its socket where that is `VirtioUser`; then use [`spawn`](Self::spawn).
    pub fn start(tool: &TestpmdTool, spec: &TestpmdSpec) -> Result<Self> {
        let mut testpmd = Self::spawn(tool, spec)?;
        testpmd.wait_ready()?;
        Ok(testpmd)
    }

    /// Starts it and returns at once.
    pub fn spawn(tool: &TestpmdTool, spec: &TestpmdSpec) -> Result<Self> {
        let mut command = Process::command(&tool.stdbuf, LIFE_LIMIT);
        // Its prompt is unbuffered, the rest would be buffered in blocks.
        command
            .args(["-oL", "-eL"])
            .arg(&tool.testpmd)
            .args(spec.arguments());
        let folder = tempfile::tempdir().doing(|| "make a folder")?;
        let log = File::create(folder.path().join("log")).doing(|| "make testpmd's log")?;
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log);
        let mut process = Process::start(command, "testpmd", None)?;
        let output = process.child.stdout.take().expect("piped");
        Ok(Self {
            process,
            console: Console::new(output, "testpmd"),
            folder,
        })
    }

    /// Waits for the prompt. Returns what it said before.
    pub fn wait_ready(&mut self) -> Result<String> {
        let said = self.console.until(PROMPT, START_LIMIT);
        said.map_err(|error| Error::Stalled(format!("{error}\nits log:\n{}", self.log())))
    }

    /// What DPDK's libraries have logged so far: each vhost-user message among it.
    pub fn log(&self) -> String {
        let log = fs::read(self.folder.path().join("log"));
        String::from_utf8_lossy(&log.unwrap_or_default()).into_owned()
    }

    /// Types a command and returns what it says, up to the next prompt.
    pub fn command(&mut self, line: &str) -> Result<String> {
        self.type_in(line)?;
        // The echo is drawn with the prompt; the answer begins on the next line.
        self.console.until("\n", COMMAND_LIMIT)?;
        let text = self.console.until(PROMPT, COMMAND_LIMIT)?;
        Ok(text.trim_end_matches(PROMPT).into())
    }

    fn type_in(&mut self, line: &str) -> Result<()> {
        let input = self.process.child.stdin.as_mut().expect("piped");
        writeln!(input, "{line}").doing(|| format!("type {line:?} into testpmd"))
    }

    /// Begins to forward; `tx_first` sends so many bursts of packets at first.
    pub fn begin(&mut self, tx_first: u32) -> Result<()> {
        let line = match tx_first {
            0 => "start".into(),
            bursts => format!("start tx_first {bursts}"),
        };
        let said = self.command(&line)?;
        if said.contains("packet forwarding") {
            return Ok(());
        }
        Err(Error::Stalled(format!("testpmd did not start: {said}")))
    }

    /// Stops forwarding. Returns its summary.
    pub fn end(&mut self) -> Result<String> {
        self.command("stop")
    }

    /// The counters of a port.
    pub fn stats(&mut self, port: usize) -> Result<PortStats> {
        let text = self.command(&format!("show port stats {port}"))?;
        Ok(PortStats::parse(&text))
    }

    /// All named counters of a port, one a line (`rx_q0_size_64_packets: 3`).
    pub fn xstats(&mut self, port: usize) -> Result<String> {
        self.command(&format!("show port xstats {port}"))
    }

    /// Whether the other side of a port's socket is there and has set it up.
    pub fn is_up(&mut self, port: usize) -> Result<bool> {
        let text = self.command(&format!("show port info {port}"))?;
        Ok(text.contains("Link status: up"))
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// Ends it in an orderly way. Returns what it said.
    pub fn quit(mut self) -> Result<String> {
        self.type_in("quit")?;
        let text = self.console.until("Bye...", COMMAND_LIMIT)?;
        self.process.wait(COMMAND_LIMIT);
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_name() {
        let text = "\n  ######################## NIC statistics for port 0  ########################\n  \
            RX-packets: 75295232   RX-missed: 7          RX-bytes:  64\n  RX-errors: 1\n  RX-nombuf:  2         \n  \
            TX-packets: 74925600   TX-errors: 3          TX-bytes:  5\n\n  Throughput (since last show)\n  \
            Rx-pps:     30999651          Rx-bps:            0\n  Tx-pps:     30847471          Tx-bps:            0\n";
        let stats = PortStats {
            rx_packets: 75_295_232,
            rx_missed: 7,
            rx_bytes: 64,
            rx_errors: 1,
            rx_nombuf: 2,
            tx_packets: 74_925_600,
            tx_errors: 3,
            tx_bytes: 5,
            rx_pps: 30_999_651,
            tx_pps: 30_847_471,
        };
        assert_eq!(PortStats::parse(text), stats);
        assert_eq!(PortStats::parse("No such port"), PortStats::default());
    }
}
