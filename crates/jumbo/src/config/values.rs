//! The values a configuration is made of. Each is parsed from text by its `FromStr`, whether it comes from the command
//! line or from TOML, so there is one message for one mistake.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use jumbo_engine::coalesce::CwrRule;
use jumbo_switch::topology;
use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// Longest device name, in bytes. Linux: `IFNAMSIZ` is 16 with the final zero.
const DEVICE_NAME_LEN_MAX: usize = 15;
/// Longest port name, in bytes: fits a table column and a metric label.
const PORT_NAME_LEN_MAX: usize = 32;
/// Most worker threads: far more than a switch of this kind can use, few enough to be a typing mistake beyond.
const WORKERS_MAX: u16 = 256;
/// Seconds; IEEE 802.1Q-2018 table 8-6 gives 1 000 000 as the upper end.
const FDB_AGE_S_MAX: u32 = 1_000_000;

/// Microseconds; longer than any wake takes, short enough to be no sleep.
const SPIN_US_MAX: u32 = 1000;

/// Reads a value through its `FromStr`: TOML may say `mtu = 1500`, the command line can only say `mtu=1500` as text.
macro_rules! from_text {
    ($($name:ty),*) => { $(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(Text)?.parse().map_err(D::Error::custom)
            }
        }
    )* };
}

from_text!(
    Mtu,
    Workers,
    FdbAge,
    Spin,
    DeviceName,
    PortName,
    Coalesce,
    Tunnels,
    Peer,
    Hold,
    Cwr,
    LroMax,
    OnOff,
    Queues,
    SocketPath,
    Fanout,
    XdpMode,
    XdpPass,
    CaptureFile,
    FaultSpec
);

/// Turns the scalar that is there into text.
struct Text;

impl Visitor<'_> for Text {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, a whole number or on/off")
    }

    fn visit_str<E>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn visit_bool<E>(self, on: bool) -> Result<String, E> {
        Ok(if on { "on" } else { "off" }.to_owned())
    }

    fn visit_i64<E>(self, number: i64) -> Result<String, E> {
        Ok(number.to_string())
    }

    fn visit_u64<E>(self, number: u64) -> Result<String, E> {
        Ok(number.to_string())
    }
}

/// Largest layer 3 packet of a port, in bytes: 68 to 65521.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mtu(u16);

impl Mtu {
    /// What every IPv4 network must carry (RFC 791, section 3.2); also `ETH_MIN_MTU` of Linux.
    pub(crate) const MIN: u16 = 68;
    /// What a TAP takes: `MAX_MTU` less the Ethernet header, drivers/net/tun.c `tun_net_initialize`, Linux 6.12.
    pub(crate) const MAX: u16 = 65535 - 14;
    /// RFC 894.
    pub(crate) const ETHERNET: Self = Self(1500);

    /// The number of bytes.
    pub(crate) fn get(self) -> u16 {
        self.0
    }
}

impl FromStr for Mtu {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        in_range(text, u32::from(Self::MIN), u32::from(Self::MAX))
            .and_then(|number| u16::try_from(number).ok())
            .map(Self)
            .ok_or_else(|| {
                format!(
                    "mtu {text} is out of range: give {} to {} bytes",
                    Self::MIN,
                    Self::MAX
                )
            })
    }
}

impl fmt::Display for Mtu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Number of worker threads: 1 to 256.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Workers(u16);

impl Workers {
    /// The number of threads.
    pub(crate) fn get(self) -> u16 {
        self.0
    }
}

impl FromStr for Workers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        in_range(text, 1, u32::from(WORKERS_MAX))
            .and_then(|number| u16::try_from(number).ok())
            .map(Self)
            .ok_or_else(|| format!("workers {text} is out of range: give 1 to {WORKERS_MAX}"))
    }
}

/// Seconds after which a learned address is forgotten: 1 to 1 000 000.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FdbAge(u32);

impl FdbAge {
    /// The number of seconds.
    pub(crate) fn seconds(self) -> u32 {
        self.0
    }
}

impl Default for FdbAge {
    /// 300 s: IEEE 802.1Q-2018 table 8-6, and the Linux bridge.
    fn default() -> Self {
        Self(300)
    }
}

impl FromStr for FdbAge {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        in_range(text, 1, FDB_AGE_S_MAX).map(Self).ok_or_else(|| {
            format!("fdb_age_s {text} is out of range: give 1 to {FDB_AGE_S_MAX} seconds")
        })
    }
}

/// How long a worker may look for packets before it sleeps: 0 (off) to 1000 µs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spin(Duration);

impl Spin {
    /// From so many processors on a worker may have one for itself now and then.
    const CPUS_MIN: usize = 8;
    /// Of a machine with as many: what a wake and the sleep before it cost, a few times over.
    const MANY_CPUS: Self = Self(Duration::from_micros(50));

    /// What it is where nobody said: nothing on a machine with few processors.
    pub(crate) fn usual(cpus: usize) -> Self {
        match cpus >= Self::CPUS_MIN {
            true => Self::MANY_CPUS,
            false => Self(Duration::ZERO),
        }
    }

    /// The time; zero is off.
    pub(crate) fn get(self) -> Duration {
        self.0
    }
}

impl FromStr for Spin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = match text {
            "off" => Some(0),
            _ => (text.strip_suffix("us")).and_then(|number| in_range(number, 0, SPIN_US_MAX)),
        };
        number
            .map(|us| Self(Duration::from_micros(us.into())))
            .ok_or_else(|| format!("spin {text} is not a time: give off or 0us to {SPIN_US_MAX}us"))
    }
}

fn in_range(text: &str, min: u32, max: u32) -> Option<u32> {
    text.parse()
        .ok()
        .filter(|number| (min..=max).contains(number))
}

/// Name of a network device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeviceName(String);

impl DeviceName {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DeviceName {
    type Err = String;

    /// What Linux takes (net/core/dev.c `dev_valid_name`), less `%`, which would ask the kernel to make up a number.
    fn from_str(text: &str) -> Result<Self, String> {
        let known = !text.is_empty() && text != "." && text != "..";
        let short = text.len() <= DEVICE_NAME_LEN_MAX;
        let clean = !text
            .chars()
            .any(|c| c.is_whitespace() || c.is_control() || "/:%".contains(c));
        if known && short && clean {
            return Ok(Self(text.to_owned()));
        }
        Err(format!(
            "`{text}` cannot be a device: give 1 to {DEVICE_NAME_LEN_MAX} characters without blank, `/`, `:` and `%`"
        ))
    }
}

/// Queue pairs of a guest: 1 to 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Queues(u16);

impl Queues {
    /// More than any guest here has processors.
    const MAX: u16 = 64;

    /// The number of pairs.
    pub(crate) fn get(self) -> u16 {
        self.0
    }
}

impl Default for Queues {
    fn default() -> Self {
        Self(1)
    }
}

impl FromStr for Queues {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        in_range(text, 1, u32::from(Self::MAX))
            .and_then(|number| u16::try_from(number).ok())
            .map(Self)
            .ok_or_else(|| format!("queues {text} is out of range: give 1 to {}", Self::MAX))
    }
}

/// Where a unix socket is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SocketPath(PathBuf);

impl SocketPath {
    pub(crate) fn as_path(&self) -> &Path {
        &self.0
    }

    /// As text; it came as such.
    pub(crate) fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }

    /// The file's name without its extension.
    pub(crate) fn stem(&self) -> String {
        let stem = self.0.file_stem().and_then(|stem| stem.to_str());
        stem.unwrap_or_default().to_owned()
    }
}

/// Longest path of a socket, in bytes (unix(7): `sun_path` is 108 with the final zero).
const SOCKET_PATH_LEN_MAX: usize = 107;

impl FromStr for SocketPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fits = (1..=SOCKET_PATH_LEN_MAX).contains(&text.len());
        if fits && !text.contains('\0') && !text.ends_with('/') {
            return Ok(Self(PathBuf::from(text)));
        }
        Err(format!(
            "`{text}` cannot be a socket: give the path of a file, 1 to {SOCKET_PATH_LEN_MAX} bytes"
        ))
    }
}

/// Name of a port, as tables and counters show it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PortName(String);

impl PortName {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PortName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fits = (1..=PORT_NAME_LEN_MAX).contains(&text.len());
        if fits
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        {
            return Ok(Self(text.to_owned()));
        }
        Err(format!(
            "`{text}` cannot be a port name: give 1 to {PORT_NAME_LEN_MAX} letters, digits, `.`, `_` or `-`"
        ))
    }
}

/// How packets that leave by a port are coalesced; the switch's own word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Coalesce(pub(crate) topology::Coalesce);

impl FromStr for Coalesce {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = topology::Coalesce::ALL.into_iter();
        let found = known.clone().find(|kind| kind.name() == text);
        found.map(Self).ok_or_else(|| {
            let names: Vec<_> = known.map(topology::Coalesce::name).collect();
            format!("coalesce cannot be `{text}`: give {}", names.join(", "))
        })
    }
}

/// What is done to packets in tunnels; the switch's own word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tunnels(pub(crate) topology::TunnelMode);

impl FromStr for Tunnels {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = topology::TunnelMode::ALL.into_iter();
        let found = known.clone().find(|mode| mode.name() == text);
        found.map(Self).ok_or_else(|| {
            let names: Vec<_> = known.map(topology::TunnelMode::name).collect();
            format!("tunnels cannot be `{text}`: give {}", names.join(", "))
        })
    }
}

/// How long packets may rest on their way to a port: 1 us to 100 ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hold(u32);

impl Hold {
    /// Half of the least time after which TCP sends again (Linux `TCP_RTO_MIN`, 200 ms).
    const MAX_NS: u32 = 100_000_000;

    /// Nanoseconds.
    pub(crate) fn ns(self) -> u32 {
        self.0
    }
}

impl FromStr for Hold {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let units = [("us", 1_000), ("ms", 1_000_000)];
        let parse = |(unit, ns): &(&str, u32)| {
            let number: u32 = text.strip_suffix(unit)?.parse().ok()?;
            number.checked_mul(*ns)
        };
        let hold_ns = units.iter().find_map(parse);
        hold_ns
            .filter(|hold_ns| (1..=Self::MAX_NS).contains(hold_ns))
            .map(Self)
            .ok_or_else(|| format!("hold cannot be `{text}`: give 1us to 100ms, as in 50us"))
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 % 1_000_000 {
            0 => write!(f, "{}ms", self.0 / 1_000_000),
            _ => write!(f, "{}us", self.0 / 1_000),
        }
    }
}

/// What CWR does to an aggregate of `gro`; the engine's own rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cwr(pub(crate) CwrRule);

impl Default for Cwr {
    fn default() -> Self {
        Self(CwrRule::Equal)
    }
}

impl FromStr for Cwr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "equal" => Ok(Self(CwrRule::Equal)),
            "first" => Ok(Self(CwrRule::FirstOnly)),
            "never" => Ok(Self(CwrRule::Never)),
            _ => Err(format!(
                "cwr cannot be `{text}`: give equal, first or never"
            )),
        }
    }
}

impl fmt::Display for Cwr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            CwrRule::Equal => "equal",
            CwrRule::FirstOnly => "first",
            CwrRule::Never => "never",
        })
    }
}

/// Longest network packet that `lro` makes, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LroMax(u16);

impl LroMax {
    /// The number of bytes.
    pub(crate) fn get(self) -> u16 {
        self.0
    }
}

impl Default for LroMax {
    fn default() -> Self {
        Self(u16::MAX)
    }
}

impl FromStr for LroMax {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        in_range(text, u32::from(Mtu::MIN), u32::from(u16::MAX))
            .and_then(|number| u16::try_from(number).ok())
            .map(Self)
            .ok_or_else(|| {
                let (min, max) = (Mtu::MIN, u16::MAX);
                format!("lro_max {text} is out of range: give {min} to {max} bytes")
            })
    }
}

/// What the other end of a port does with what it gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Peer {
    /// It may pass packets on: what leaves must be what came.
    #[default]
    Forwards,
    /// It ends the TCP connections itself.
    Terminates,
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "forwards" => Ok(Self::Forwards),
            "terminates" => Ok(Self::Terminates),
            _ => Err(format!(
                "peer cannot be `{text}`: give forwards or terminates"
            )),
        }
    }
}

/// A thing that is on or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OnOff(pub(crate) bool);

impl FromStr for OnOff {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "on" => Ok(Self(true)),
            "off" => Ok(Self(false)),
            _ => Err(format!("`{text}` is neither on nor off")),
        }
    }
}

/// How an AF_PACKET port spreads packets over the workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Fanout {
    /// By flow.
    #[default]
    Hash,
    /// By the interface's receive queue.
    Queue,
}

impl FromStr for Fanout {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "hash" => Ok(Self::Hash),
            "queue" => Ok(Self::Queue),
            _ => Err(format!("fanout cannot be `{text}`: give hash or queue")),
        }
    }
}

/// Where the program of an AF_XDP port runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum XdpMode {
    /// In the driver if it can, else in the stack.
    #[default]
    Auto,
    /// In the driver.
    Native,
    /// In the stack.
    Generic,
}

impl FromStr for XdpMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "native" => Ok(Self::Native),
            "generic" => Ok(Self::Generic),
            _ => Err(format!(
                "mode cannot be `{text}`: give auto, native or generic"
            )),
        }
    }
}

/// What the host's own stack keeps of an AF_XDP port's traffic.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum XdpPass {
    /// Nothing.
    #[default]
    Nothing,
    /// Packets to the interface's own MAC address, and ARP and IPv6 neighbour discovery.
    Host,
}

impl FromStr for XdpPass {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "nothing" => Ok(Self::Nothing),
            "host" => Ok(Self::Host),
            _ => Err(format!("pass cannot be `{text}`: give nothing or host")),
        }
    }
}

/// Where a port's packets are written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CaptureFile(PathBuf);

impl CaptureFile {
    pub(crate) fn as_path(&self) -> &Path {
        &self.0
    }
}

impl FromStr for CaptureFile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" | "on" | "-" => Err("capture wants a file: give capture=FILE.pcapng".to_owned()),
            _ => Ok(Self(text.into())),
        }
    }
}

/// What goes wrong on a port, on purpose.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct FaultSpec(pub(crate) jumbo_ports::wrap::fault::Faults);

impl Eq for FaultSpec {}

impl FromStr for FaultSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self)
    }
}
