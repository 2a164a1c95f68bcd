//! What can be typed. This one definition makes the parser, the help, the man pages and the completions.

use jumbo_engine::coalesce::{GRO, LRO, RSC, RSC_QEMU, Rules};
use jumbo_switch::topology::Coalesce;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};

use crate::config::values::{FdbAge, Mtu, Spin, Tunnels, Workers};

const EXIT_CODES: &str = "\
Exit codes:
  0  fine
  1  findings, or a failed outcome
  2  what you typed or configured
  3  what the machine refuses: permission, kernel, device
  4  internal: a fault of jumbo
  5  a change was rolled back
  6  a change was not confirmed in time";

/// A software NIC: virtual switch, offload engine and operator's tool
///
/// Checksum and segmentation offload, receive coalescing and the reasons for both, in user space. `jumbo demo` shows
/// it on this machine without root and without configuration.
#[derive(Debug, Parser)]
#[command(name = "jumbo", version, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How the data on stdout looks.
#[derive(Debug, Args)]
pub(crate) struct OutputArgs {
    /// How to print the data
    #[arg(
        long,
        global = true,
        value_name = "FORMAT",
        default_value = "table",
        help_heading = "Output"
    )]
    format: Format,
    /// The same as --format json
    #[arg(long, global = true, help_heading = "Output")]
    json: bool,
}

impl OutputArgs {
    /// The format asked for; `--json` wins.
    pub(crate) fn format(&self) -> Format {
        if self.json { Format::Json } else { self.format }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Tables for people
    Table,
    /// The same data, keys in snake_case
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Demo(DemoArgs),
    Run(RunArgs),
    /// Show the running switch: ports, traffic, and whether its books balance
    Status(ClientArgs),
    /// Show each port of the running switch, a line each; with --json its offloads and reasons too
    Ports(ClientArgs),
    Capture(CaptureArgs),
    Path(PathArgs),
    /// Show the forwarding table of the running switch: which address is behind which port
    Fdb(ClientArgs),
    AddPort(AddPortArgs),
    RemovePort(RemovePortArgs),
    Replay(ReplayArgs),
    Check(CheckArgs),
    Explain(ExplainArgs),
    Record(RecordArgs),
    Tune(TuneArgs),
    Watch(WatchArgs),
    Man(ManArgs),
    Completions(CompletionsArgs),
}

/// Prove it on this machine: two hosts, the switch between them, one row per technique
///
/// Needs neither root nor configuration: both hosts live in namespaces of their own.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// How long it takes, all rows together, in seconds
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(3..=3600))]
    pub(crate) seconds: u32,
    /// MTU of the links between the hosts, in bytes, 1280 or more
    #[arg(long, value_name = "N", default_value_t = Mtu::ETHERNET)]
    pub(crate) mtu: Mtu,
}

/// Run the switch
///
/// Ports come from the command line, from a TOML file, or from both; what is typed wins over the file. SIGINT or
/// SIGTERM stops the switch and prints a summary; a second one ends it at once.
#[derive(Debug, Args, Default)]
#[command(after_help = RUN_HELP)]
pub(crate) struct RunArgs {
    /// Add a port: KIND:DEVICE[,KEY=VALUE...]
    #[arg(long = "port", value_name = "SPEC")]
    pub(crate) ports: Vec<String>,
    /// Read the configuration from a TOML file
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,
    /// Worker threads, each with a queue of every port [default: 1]
    #[arg(long, value_name = "N")]
    pub(crate) workers: Option<Workers>,
    /// Forget a learned address after so many seconds [default: 300]
    #[arg(long, value_name = "N")]
    pub(crate) fdb_age_s: Option<FdbAge>,
    /// How long a worker may look for packets before it sleeps, 0us to 1000us, or off [default: 50us with 8
    /// processors or more, else off]
    #[arg(long, value_name = "TIME")]
    pub(crate) spin: Option<Spin>,
    /// Packets in VXLAN and Geneve: off, nobody looks inside; whole, super-packets in them pass whole; merge,
    /// they are coalesced as well, which wants tunnels that end in a kernel [default: whole]
    #[arg(long, value_name = "MODE")]
    pub(crate) tunnels: Option<Tunnels>,
    /// Where to listen for status, add-port and their like [default: the first free number in /run/jumbo or $XDG_RUNTIME_DIR/jumbo]
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub(crate) socket: Option<PathBuf>,
}

pub(crate) const RUN_HELP: &str = "\
Keys of a port, the same on the command line and in the file:
  name      what the port is called [default: the device]
  mtu       largest layer 3 packet in bytes, 68 to 65521 [default: the device's]
  coalesce  off, gro, lro, rsc or rsc-qemu, for packets leaving by this port [default: gro]
  peer      terminates or forwards: whether the other end ends its TCP connections itself;
            lro and rsc need one that terminates [default: forwards]
  hold      how long aggregates may rest beyond their burst, 1us to 100ms; not with rsc
            [default: they leave when nothing more is ready]
  cwr       equal, first or never: which packets of a gro aggregate may carry TCP's CWR; all or none
            (AccECN), the first (RFC 3168), or it stays alone [default: equal]
  lro_max   largest IP packet that lro makes, 68 to 65535 bytes [default: 65535]
  offload   on or off: csum, tso and uso together [default: on]
  csum      on or off: checksums may be left to whoever takes the packet
  tso       on or off: TCP super-packets; needs csum
  uso       on or off: UDP super-packets; needs csum
  capture   a pcapng file of everything that passes the port
  fault     what goes wrong on purpose: drop:0.1%,corrupt:0.1%,reorder:1%,delay:2ms,seed:7

Kinds of port:
  tap       the host's own stack, or a program that holds the TAP
  packet    an interface, by AF_PACKET: a veth, a TAP of a virtual machine, a NIC
  xdp       an interface, by AF_XDP, before the host's stack
  auto      packet or xdp, whichever is better here
  tun       raw IP; two of them are joined point to point

Keys of tap ports:
  big_tcp   on or off: TCP over IPv4 is merged beyond 65535 bytes for it (Linux 6.3) [default: off]

Keys of packet ports:
  fanout    hash or queue: packets are spread over the workers by flow or by receive queue [default: hash]
  qdisc_bypass  on or off: past the queueing discipline [default: off]

Keys of xdp ports:
  mode      auto, native or generic: where the program runs [default: auto]
  pass      nothing or host: what the host's stack keeps [default: nothing]

A key of packet, xdp and auto ports:
  force     on or off: open the interface though its settings (LRO, hardware GRO below XDP) damage what passes [default: off]

Keys of vhost-user ports:
  vhost-user  in a file: the socket's path
  client    on or off: connect to the socket and retry, instead of listening [default: off]
  queues    most queue pairs of the guest [default: 1]
  packed    on or off: packed rings are offered [default: on]
  hash_report  on or off: each packet's hash is offered to the guest [default: off]

A file:
  workers = 2
  fdb_age_s = 300
  spin = \"50us\"
  tunnels = \"whole\"
  socket = \"/run/jumbo/lab.sock\"

  [[port]]
  tap = \"vm0\"
  name = \"web\"
  mtu = 1500
  coalesce = \"gro\"
  offload = \"on\"";

/// Whom to ask.
#[derive(Debug, Args)]
pub(crate) struct ClientArgs {
    /// Which switch to ask [default: the one that is running]
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub(crate) socket: Option<PathBuf>,
}

/// Write down what passes a port of the running switch, as pcapng
///
/// Super-packets are written whole; what is not yet true of a packet's bytes stands in its comment. What cannot be
/// written fast enough is left out and counted at the end. Ends with the switch, the port, or Ctrl-C.
#[derive(Debug, Args)]
pub(crate) struct CaptureArgs {
    /// The port, by its name in `jumbo ports`
    pub(crate) port: String,
    /// Where to: a file, or - for standard output
    #[arg(short, long, value_name = "FILE", default_value = "-", value_hint = ValueHint::FilePath)]
    pub(crate) write: PathBuf,
    /// Which switch to ask [default: the one that is running]
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub(crate) socket: Option<PathBuf>,
}

/// Say who segments, who checksums and who coalesces what goes from one port to another, and why
///
/// What holds now: after negotiation, and less what a device has refused since. For the other direction ask with the
/// names exchanged.
#[derive(Debug, Args)]
#[command(after_help = PATH_HELP)]
pub(crate) struct PathArgs {
    /// The port the packets come from
    #[arg(value_name = "FROM")]
    pub(crate) from: String,
    /// The port they leave by
    #[arg(value_name = "TO")]
    pub(crate) to: String,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

const PATH_HELP: &str = "\
Packets:
  tcp4_super, tcp6_super  TCP super-packets; with _cwr: their first segment carries CWR
  udp_super               UDP super-packets
  tunnel_super            TCP super-packets in VXLAN or Geneve; tunnel_csum_super: with an outer checksum
  partial_checksum        ordinary packets whose checksum is still to be finished
  finished                ordinary packets with nothing left to do
  tcp4_train, tcp6_train  TCP packets of one flow, one behind the other; udp_train: datagrams;
                          tunnel_train: TCP packets in VXLAN or Geneve
  over_mtu                ordinary packets larger than the MTU of TO
  segments_over_mtu       super-packets whose segments are

Decisions:
  whole, left_partial, as_it_came     nothing is done here
  segmented, checksum_finished        done here, because TO does not take it
  coalesced                           merged here into super-packets
  not_handed                          FROM's own end does the work before
  dropped                             with the reason in jumbo status";

/// Add a port to the running switch
///
/// The switch opens the device, with its own rights and in its own namespace. A socket's relative path is taken from
/// here.
#[derive(Debug, Args)]
#[command(after_help = "The keys of a port are those of jumbo run; see jumbo run --help.")]
pub(crate) struct AddPortArgs {
    /// The port, as for jumbo run --port: KIND:DEVICE[,KEY=VALUE...]
    #[arg(value_name = "SPEC")]
    pub(crate) spec: String,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// Remove a port from the running switch
///
/// Its device is closed: a TAP that the switch made vanishes, a guest sees its link go. What it had counted stays in
/// the books.
#[derive(Debug, Args)]
pub(crate) struct RemovePortArgs {
    /// What the port is called
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// Run a capture through the engine: what coalesces, what does not, and why
///
/// Needs no privileges. Reads Ethernet, raw IP and Linux cooked captures. What cannot be read to its end is replayed as
/// far as it goes, and the exit code is 1.
#[derive(Debug, Clone, Args)]
#[command(group = clap::ArgGroup::new("source").args(["input", "sample"]).required(true))]
pub(crate) struct ReplayArgs {
    /// The capture: pcap or pcapng, gzipped or not; - reads stdin
    #[arg(value_name = "IN", value_hint = ValueHint::FilePath)]
    pub(crate) input: Option<PathBuf>,
    /// Use the built-in sample instead of a capture
    #[arg(long)]
    pub(crate) sample: bool,
    /// Write the result as pcapng, each super-packet with a comment; - writes to stdout and the report to stderr
    #[arg(short, long, value_name = "OUT", value_hint = ValueHint::FilePath)]
    pub(crate) output: Option<PathBuf>,
    /// By whose rules: gro, lro, rsc or rsc-qemu; several with commas, or all, are compared side by side
    #[arg(long, value_name = "LIST", default_value = "gro")]
    pub(crate) coalesce: Personalities,
    /// What to think of the checksums in the capture
    #[arg(long, value_name = "MODE", default_value = "auto")]
    pub(crate) checksum: ChecksumMode,
    /// Packets taken at once before everything held leaves; all: no limit and no gap, aggregates end by rule only
    #[arg(long, value_name = "N|all", default_value = "512")]
    pub(crate) burst: Burst,
    /// A burst also ends when the next packet comes more than so many microseconds after the one before
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub(crate) gap_us: u64,
    /// Look inside of VXLAN, Geneve, GRE and IP in IP: packets in them are merged, or cut, like any others
    #[arg(long)]
    pub(crate) tunnels: bool,
    /// The reverse: cut super-packets into packets with so many payload bytes each, and coalesce nothing
    #[arg(
        long,
        value_name = "N",
        value_parser = clap::value_parser!(u16).range(i64::from(SEGMENT_MIN)..),
        conflicts_with_all = ["burst", "gap_us", "coalesce"]
    )]
    pub(crate) segment: Option<u16>,
}

/// Smallest payload of a segment: below it no sender cuts (TCP_MIN_GSO_SIZE of Linux `include/net/tcp.h`).
const SEGMENT_MIN: u16 = jumbo_engine::vnet::TCP_SEGMENT_MIN;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ChecksumMode {
    /// A bare pseudo-header sum, as captures on the sending host show, was left to the card; the others must verify
    Auto,
    /// Believe only what verifies
    Verify,
    /// Believe every TCP and UDP checksum
    Trust,
}

/// By whose rules `replay` coalesces; one at least.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Personalities(pub(crate) Vec<Coalesce>);

impl Personalities {
    const KNOWN: [Coalesce; 4] = [
        Coalesce::Gro,
        Coalesce::Lro,
        Coalesce::Rsc,
        Coalesce::RscQemu,
    ];

    /// The first one's table.
    pub(crate) fn rules(&self) -> &'static Rules {
        match self.0.first() {
            Some(Coalesce::Lro) => &LRO,
            Some(Coalesce::Rsc) => &RSC,
            Some(Coalesce::RscQemu) => &RSC_QEMU,
            _ => &GRO,
        }
    }
}

impl std::str::FromStr for Personalities {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self(Self::KNOWN.into()));
        }
        let one = |name: &str| {
            let found = Self::KNOWN.into_iter().find(|kind| kind.name() == name);
            found.ok_or_else(|| {
                format!("`{name}` is not known: give gro, lro, rsc, rsc-qemu or all")
            })
        };
        text.split(',').map(one).collect::<Result<_, _>>().map(Self)
    }
}

/// How many packets `replay` takes before everything held leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Burst {
    /// So many.
    Packets(std::num::NonZeroUsize),
    /// The whole capture.
    All,
}

impl std::str::FromStr for Burst {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            _ => text
                .parse()
                .map(Self::Packets)
                .map_err(|_| "give a number from 1 on, or all".into()),
        }
    }
}

/// Find what is wrong with this host's network offloads, with the evidence and the fix
///
/// Reads the kernel's own interfaces and changes nothing. Works without root; what an ordinary user may not see is
/// reported as unknown, never as fine.
#[derive(Debug, Args)]
#[command(after_help = CHECK_HELP)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pub(crate) judge: JudgeArgs,
    /// End with exit code 1 only from this severity on
    #[arg(long, value_name = "LEVEL", default_value = "warning")]
    pub(crate) fail_on: Level,
    /// Judge what a guest shows instead: Get-NetAdapterRsc | ConvertTo-Json, or ethtool -k; - for stdin
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, group = "other")]
    pub(crate) guest: Option<PathBuf>,
    /// Check every recorded host (*.json) of a directory and print rules by hosts
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, group = "other", conflicts_with = "from")]
    pub(crate) from_dir: Option<PathBuf>,
    /// Print metrics in the text format of Prometheus
    #[arg(long, group = "other")]
    pub(crate) openmetrics: bool,
    /// Write the metrics to this file, whole or not at all, for node_exporter's textfile collector
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, group = "other")]
    pub(crate) textfile: Option<PathBuf>,
    /// Answer as a Nagios plugin does: one line, exit code 0 to 3
    #[arg(long, group = "other")]
    pub(crate) nagios: bool,
    /// Answer as a node-problem-detector plugin does: one short line, exit code 0 or 1
    #[arg(long, group = "other")]
    pub(crate) npd: bool,
    /// Print the JSON Schema of the --json form and check nothing
    #[arg(long)]
    pub(crate) schema: bool,
}

/// Which host is judged, and how.
#[derive(Debug, Args)]
pub(crate) struct JudgeArgs {
    /// Only this device (may be repeated)
    #[arg(long = "device", visible_alias = "dev", value_name = "NAME")]
    pub(crate) devices: Vec<String>,
    /// Only this rule or family, TAP001 or TAP (may be repeated)
    #[arg(long = "rule", value_name = "ID")]
    pub(crate) rules: Vec<String>,
    /// Leave out what is less severe
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub(crate) severity: Level,
    /// Seconds between two readings, for what only a change shows; 0 for one reading
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=3600))]
    pub(crate) sample: u32,
    /// What the host is for [default: guessed]
    #[arg(long, value_name = "WHAT")]
    pub(crate) profile: Option<ProfileName>,
    /// Profile and waivers [default: /etc/jumbo/check.toml, if it exists]
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,
    /// Check a recorded host instead of this one; - for stdin
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) from: Option<PathBuf>,
}

pub(crate) const CHECK_HELP: &str = "\
Exit code 1 when there is a finding of --fail-on or worse that is not waived; checks that could not be made are
listed as unknown and do not count.

The configuration:
  profile = \"vm-host\"

  [[waive]]
  id = \"IRQ002\"
  device = \"eth2\"          # all devices without it
  reason = \"on purpose: the near node is full\"
  until = \"2027-01-31\"     # for ever without it

On another host: ssh HOST jumbo record | jumbo check --from -";

/// How severe, from the least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Level {
    /// Context, or an opportunity
    Info,
    /// Measurable loss
    Warning,
    /// Major loss, or a set-up that cannot work
    Error,
    /// Wrong or lost data, or an outage
    Critical,
}

/// What a host is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProfileName {
    /// Virtual machines behind TAPs
    VmHost,
    /// Forwards between networks
    Router,
    /// Many bytes per second
    Throughput,
    /// Short round trips
    Latency,
}

/// Explain a rule or a technique: jumbo explain TAP001, jumbo explain rsc
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").args(["topic", "list"]).required(true))]
pub(crate) struct ExplainArgs {
    /// A rule's id, or a technique
    #[arg(value_name = "TOPIC")]
    pub(crate) topic: Option<String>,
    /// List all rules and techniques
    #[arg(long)]
    pub(crate) list: bool,
}

/// Write this host's offload state as one file, for jumbo check --from
#[derive(Debug, Args)]
pub(crate) struct RecordArgs {
    /// Where to; stdout without it
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) output: Option<PathBuf>,
    /// Seconds between two readings; 0 for one reading
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=3600))]
    pub(crate) sample: u32,
    /// Take out the host's name and the names of uncommon programs; addresses and keys are never recorded
    #[arg(long)]
    pub(crate) redact: bool,
}

/// Change what the checks found, with a plan, and take it back
///
/// A plan is whatever makes the rules of `jumbo check` silent. It is applied step by step, each read back; what does not
/// hold is rolled back (exit code 5). What was changed is written down before it is changed.
#[derive(Debug, Args)]
#[command(after_help = TUNE_HELP)]
pub(crate) struct TuneArgs {
    /// Where undo files are kept [default: /var/lib/jumbo for root, else $XDG_STATE_HOME/jumbo]
    #[arg(long, global = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) state_dir: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: TuneCommand,
}

const TUNE_HELP: &str = "\
  jumbo tune plan -o plan.json       what would change; exit code 1 when there is something
  jumbo tune apply plan.json         do it
  jumbo tune status                  does it still hold
  jumbo tune undo                    take it back
  jumbo tune persist --backend udev  files that do it at every boot; nothing is installed";

#[derive(Debug, Subcommand)]
pub(crate) enum TuneCommand {
    /// Show what would change, and write it down with -o; exit code 1 when there is something to change
    Plan(PlanArgs),
    Apply(ApplyArgs),
    /// Keep what an apply with --confirm-within did
    Confirm,
    /// Take back the last apply, or the one with this id
    Undo(UndoArgs),
    /// Show whether what was applied still holds; exit code 1 when it does not
    Status,
    /// Print files that make the plan last, for the tool that sets up the network; installs nothing
    Persist(PersistArgs),
}

/// Make a plan.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) judge: JudgeArgs,
    /// Write the plan to this file, for apply
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) output: Option<PathBuf>,
}

/// Do what a plan says
///
/// Nothing is changed unless every setting still is what it was when the plan was made, and the undo file is on disk.
#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// The plan; - for stdin
    #[arg(value_name = "PLAN", value_hint = ValueHint::FilePath)]
    pub(crate) plan: PathBuf,
    /// Also do what may take a link down for a moment or make its queues anew
    #[arg(long)]
    pub(crate) allow_reset: bool,
    /// Take everything back unless jumbo tune confirm is run within this time: 60s, 5m
    #[arg(long, value_name = "TIME")]
    pub(crate) confirm_within: Option<Within>,
    /// Check everything and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Take back.
#[derive(Debug, Args)]
pub(crate) struct UndoArgs {
    /// Which apply, as jumbo tune apply named it [default: the last]
    #[arg(value_name = "ID")]
    pub(crate) id: Option<String>,
}

/// Make it last.
#[derive(Debug, Args)]
pub(crate) struct PersistArgs {
    /// The plan [default: what was applied last]
    #[arg(value_name = "PLAN", value_hint = ValueHint::FilePath)]
    pub(crate) plan: Option<PathBuf>,
    /// For whom
    #[arg(long, value_name = "TOOL", default_value = "systemd-link")]
    pub(crate) backend: BackendName,
}

/// Tools that set up the network at boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BackendName {
    /// .link files of systemd-udevd, and sysctl.d
    SystemdLink,
    /// Keyfile sections of NetworkManager
    Networkmanager,
    /// A desired state for nmstatectl
    Nmstate,
    /// Rules for udev that run ethtool and ip
    Udev,
    /// A profile for tuned
    Tuned,
}

/// How long to wait, from a second to an hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Within(pub(crate) std::time::Duration);

/// An hour: longer than an operator watches.
const WITHIN_MAX_S: u64 = 3600;

impl std::str::FromStr for Within {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, factor) = match text.strip_suffix('m') {
            Some(minutes) => (minutes, 60),
            None => (text.strip_suffix('s').unwrap_or(text), 1),
        };
        let seconds = number
            .parse()
            .ok()
            .and_then(|number: u64| number.checked_mul(factor));
        match seconds {
            Some(seconds @ 1..=WITHIN_MAX_S) => Ok(Self(std::time::Duration::from_secs(seconds))),
            _ => Err("give seconds or minutes, 1s to 60m".into()),
        }
    }
}

/// Watch queues, processors, coalescing and the switch's ports, live
///
/// Reads counters once a second and needs no privileges. Where stdout is no terminal it prints a line of JSON per
/// interval instead.
#[derive(Debug, Args)]
#[command(after_help = WATCH_HELP)]
pub(crate) struct WatchArgs {
    /// Seconds between two readings, 0.1 to 60
    #[arg(long, value_name = "SECONDS", default_value = "1")]
    pub(crate) interval: Interval,
    /// Print a line of JSON per interval
    #[arg(long)]
    pub(crate) batch: bool,
    /// End after so many intervals
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Only these devices (may be repeated)
    #[arg(long = "device", visible_alias = "dev", value_name = "NAME")]
    pub(crate) devices: Vec<String>,
    /// Also write what was read to this file, for --replay
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "replay")]
    pub(crate) record: Option<PathBuf>,
    /// Show what was recorded instead of this host
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) replay: Option<PathBuf>,
    /// Which switch's ports to show [default: the one that is running, if any]
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub(crate) socket: Option<PathBuf>,
}

const WATCH_HELP: &str = "\
Keys: 1 devices and queues, 2 processors, 3 ports, 4 events, 0 all; s sort; up and down scroll; p pause; q quit.";

/// Time between two readings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Interval(pub(crate) std::time::Duration);

impl std::str::FromStr for Interval {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let seconds = text.trim_end_matches('s').parse::<f64>().ok();
        match seconds.filter(|seconds| (0.1..=60.0).contains(seconds)) {
            Some(seconds) => Ok(Self(std::time::Duration::from_secs_f64(seconds))),
            None => Err("give seconds, 0.1 to 60".into()),
        }
    }
}

/// Write the man pages
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Write one page per command into this directory, which must exist; without it, the main page goes to stdout
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) dir: Option<PathBuf>,
}

/// Write the completions for a shell to stdout
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub(crate) shell: clap_complete::Shell,
}

/// Parses the command line; what cannot be understood ends the process with clap's message and exit code 2.
pub(crate) fn parse() -> Cli {
    Cli::parse()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn json_wins_over_format() {
        let cli = Cli::try_parse_from(["jumbo", "status", "--format", "table", "--json"])
            .expect("parses");
        assert_eq!(cli.output.format(), Format::Json);
    }

    #[test]
    fn every_flag_and_command_has_help() {
        fn check(command: &clap::Command) {
            for argument in command.get_arguments() {
                assert!(
                    argument.get_help().is_some(),
                    "{} {}",
                    command.get_name(),
                    argument.get_id()
                );
            }
            for sub in command.get_subcommands() {
                assert!(sub.get_about().is_some(), "{}", sub.get_name());
                check(sub);
            }
        }
        check(&Cli::command());
    }

    #[test]
    fn times_have_units_and_bounds() {
        let seconds = |text: &str| text.parse::<Within>().map(|within| within.0.as_secs());
        assert_eq!(
            (seconds("60s"), seconds("5m"), seconds("7")),
            (Ok(60), Ok(300), Ok(7))
        );
        for bad in ["0", "61m", "2h", "-1s", "", "9999999999999999999m"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
        for (text, fine) in [
            ("0.1", true),
            ("60s", true),
            ("0", false),
            ("61", false),
            ("NaN", false),
            ("x", false),
        ] {
            assert_eq!(text.parse::<Interval>().is_ok(), fine, "{text}");
        }
    }

    #[test]
    fn help_of_workers_says_the_default() {
        let command = Cli::command();
        let run = command.find_subcommand("run").expect("there is one");
        let workers = run.get_arguments().find(|arg| arg.get_id() == "workers");
        let help = workers.and_then(|arg| arg.get_help()).expect("has help");
        let default = format!("[default: {}]", crate::running::WORKERS_DEFAULT);
        assert!(help.to_string().contains(&default), "{help}");
    }

    #[test]
    fn replay_defaults_are_the_documented_ones() {
        let cli = Cli::try_parse_from(["jumbo", "replay", "in.pcap"]).expect("parses");
        let Command::Replay(args) = cli.command else {
            panic!("{cli:?}")
        };
        assert_eq!(args.burst, Burst::Packets(512.try_into().expect("not 0")));
        assert_eq!((args.gap_us, args.checksum), (50, ChecksumMode::Auto));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for bad in [
            &["replay"][..],
            &["replay", "in.pcap", "--sample"],
            &["replay", "in.pcap", "--burst", "0"],
            &["replay", "in.pcap", "--segment", "0"],
            &["replay", "in.pcap", "--segment", "7"],
            &["replay", "in.pcap", "--segment", "1448", "--burst", "all"],
            &["run", "--workers", "0"],
            &["demo", "--mtu", "67"],
            &["demo", "--seconds", "0"],
        ] {
            let parsed = Cli::try_parse_from(["jumbo"].iter().chain(bad));
            assert_eq!(parsed.expect_err("refused").exit_code(), 2, "{bad:?}");
        }
    }
}
