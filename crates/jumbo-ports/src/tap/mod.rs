//! TAP and TUN: the host's own network stack, or a program that owns the other end.
//!
//! Every packet travels with a 10-byte virtio header (a TAP has no use for the
//! buffer count of the longer ones, and pads it), so that super-packets and
//! partial checksums pass whole; with one of 24 bytes where super-packets in
//! tunnels are wanted and the kernel knows them. TUNSETOFFLOAD limits only what the kernel hands
//! us; what we write may always be a super-packet, unless a kernel refuses it,
//! which [`TxFault::GsoRefused`] reports packet by packet.
//!
//! A device that did not exist is made here, brought up, and vanishes with its
//! last queue; a persistent one is attached to and left as it was. A device that
//! is moved into another network namespace keeps working: only its file is used.

mod queue_len;
mod sys;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use jumbo_engine::arena::Pieces;
use jumbo_engine::packet::{Link, Packet};
use jumbo_engine::pending::Caps;
use jumbo_engine::vnet::{Form, HeaderFault, Trust, VnetHeader};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::gather::Gather;
use crate::pool::Pool;
use crate::queue::{Burst, Capability, Port, PortInfo, Presence, Queue, RxEnd, RxStats, TxFault};
use crate::sys::netdev::{self, control_socket};

/// Bits of TUNSETOFFLOAD (Linux `include/uapi/linux/if_tun.h`).
const TUN_F_CSUM: u32 = 0x01;
const TUN_F_TSO4: u32 = 0x02;
const TUN_F_TSO6: u32 = 0x04;
const TUN_F_TSO_ECN: u32 = 0x08;
/// Accepted only both together (drivers/net/tun.c set_offload), since Linux 6.2.
const TUN_F_USO4_USO6: u32 = 0x20 | 0x40;
/// Super-packets in UDP tunnels, and those whose outer checksum is in use, since Linux 6.17.
const TUN_F_UDP_TUNNEL_GSO: u32 = 0x80;
const TUN_F_UDP_TUNNEL_GSO_CSUM: u32 = 0x100;

/// Packets that wait in the device for us: Ethernet's usual 1000 instead of
/// TUN's 500. The kernel drops what does not fit, without telling the sender's
/// TCP to slow down first.
const QUEUE_LEN_PACKETS: u32 = 1000;

/// Super-packets of one kind refused in a row before it is no longer tried.
/// One packet that a kernel dislikes must not cost all others their offload.
const REFUSED_MAX: u8 = 8;

/// What the operator asks of a TAP.
#[derive(Clone, Debug)]
pub struct TapConfig {
    /// The device's name; made if it does not exist.
    pub device: String,
    /// One queue per worker.
    pub queues: usize,
    /// What the kernel may hand us, as far as it can.
    pub hands: Caps,
    /// What we may write.
    pub takes: Caps,
    /// Set on the device; `None` takes what the device has.
    pub mtu: Option<usize>,
}

/// Why a TAP could not be opened. Each says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// There is no TUN device file.
    #[error(
        "/dev/net/tun does not exist: load the kernel module with `modprobe tun`, or pass the device into this container"
    )]
    NoDeviceFile,
    /// It may not be opened.
    #[error(
        "/dev/net/tun may not be opened: run as root, or give this user access to it (`chmod 0666 /dev/net/tun`)"
    )]
    DeviceFileRefused,
    /// The device may not be made or attached to.
    #[error(
        "device `{device}` may not be used: run as root or with CAP_NET_ADMIN, or make it for this user first (`ip tuntap add {device} mode {mode} user $USER`)"
    )]
    NotPermitted {
        /// The device.
        device: String,
        /// `tap` or `tun`.
        mode: &'static str,
    },
    /// Somebody else holds it.
    #[error(
        "device `{device}` is in use by another program: stop that program, or use another device name"
    )]
    Busy {
        /// The device.
        device: String,
    },
    /// It exists and is something else.
    #[error(
        "device `{device}` exists and is no {wanted} but another kind of interface: choose another name"
    )]
    OtherKind {
        /// The device.
        device: String,
        /// `TAP` or `TUN`.
        wanted: &'static str,
    },
    /// The name is not one for a device.
    #[error("`{device}` is no device name: 1 to 15 characters without `/` or spaces")]
    BadName {
        /// The name.
        device: String,
    },
    /// The MTU was refused.
    #[error("device `{device}` refuses the MTU {mtu}: TAPs take 68 to 65521")]
    Mtu {
        /// The device.
        device: String,
        /// What was asked.
        mtu: usize,
    },
    /// The MTU may not be set by this user.
    #[error(
        "the MTU of device `{device}` may not be set by this user: run as root or with CAP_NET_ADMIN, or set it first (`ip link set {device} mtu {mtu}`) and leave out `mtu`"
    )]
    MtuNotPermitted {
        /// The device.
        device: String,
        /// What was asked.
        mtu: usize,
    },
    /// Anything else the kernel says.
    #[error("device `{device}`: {operation}: {source}")]
    Kernel {
        /// The device.
        device: String,
        /// What was tried.
        operation: &'static str,
        /// What the kernel said.
        source: Errno,
    },
}

/// Opens a TAP: makes it or attaches to it, and negotiates its offloads.
///
/// # Errors
/// [`TapError`]; nothing is left behind.
pub fn open(config: &TapConfig) -> Result<Port, TapError> {
    open_as(config, Link::Ethernet)
}

/// Opens a TUN, the same without Ethernet: its packets begin with their IP header.
///
/// # Errors
/// [`TapError`]; nothing is left behind.
pub fn open_tun(config: &TapConfig) -> Result<Port, TapError> {
    open_as(config, Link::RawIp)
}

fn open_as(config: &TapConfig, link: Link) -> Result<Port, TapError> {
    let device = config.device.clone();
    if !plausible_name(&device) {
        // The kernel would make up a name of its own for an empty one or a pattern.
        return Err(TapError::BadName { device });
    }
    let kernel = |operation| {
        let device = device.clone();
        move |source| TapError::Kernel {
            device: device.clone(),
            operation,
            source,
        }
    };
    let socket = control_socket().map_err(kernel("opening a socket"))?;
    let existed = netdev::exists(socket.as_fd(), &device);
    let files = attach_all(config, link)?;
    let first = files.first().map(AsFd::as_fd);
    let Some(first) = first else {
        return Err(kernel("attaching")(Errno::INVAL));
    };
    let form = header_form(first, config);
    for file in &files {
        sys::set_vnet_header_len(file.as_fd(), form.len_bytes())
            .map_err(kernel("setting the virtio header length"))?;
        sys::set_vnet_little_endian(file.as_fd())
            .map_err(kernel("setting the virtio header byte order"))?;
    }
    let hands = negotiate(first, config.hands).map_err(kernel("setting offloads"))?;
    if !existed {
        queue_len::set(&device, QUEUE_LEN_PACKETS).map_err(kernel("setting the queue length"))?;
        netdev::set_up(socket.as_fd(), &device).map_err(kernel("bringing it up"))?;
    }
    let mtu = netdev::mtu(socket.as_fd(), &device).map_err(kernel("reading the MTU"))?;
    let queues = queues(files, config, link, form, kernel("duplicating a queue"))?;
    let tunnels = form == Form::Tunnel24;
    let takes = config.takes;
    let takes = takes.with_udp_tunnels(tunnels && takes.udp_tunnel(), takes.udp_tunnel_csum());
    let big = takes.big_tcp4() && link == Link::Ethernet && kernel_takes_big_tcp4();
    let takes = takes.with_big_tcp(big, false);
    let mut info = PortInfo {
        kind: match link {
            Link::Ethernet => "tap",
            Link::RawIp => "tun",
        },
        device: device.clone(),
        hands,
        takes,
        mtu,
        capabilities: capabilities(config, hands, takes),
        presence: Presence::Up,
    };
    if let Some(mtu) = config.mtu {
        set_mtu(&mut info, mtu)?;
    }
    Ok(Port {
        info,
        queues,
        control: None,
    })
}

/// Sets the MTU of an open TAP, and of the port. A persistent device keeps it.
///
/// # Errors
/// What the kernel says of the MTU, or of the caller.
pub fn set_mtu(info: &mut PortInfo, mtu: usize) -> Result<(), TapError> {
    let device = info.device.clone();
    let set = control_socket().and_then(|socket| netdev::set_mtu(socket.as_fd(), &device, mtu));
    match set {
        Ok(()) => {
            info.mtu = mtu;
            Ok(())
        }
        Err(Errno::INVAL) => Err(TapError::Mtu { device, mtu }),
        Err(Errno::PERM) => Err(TapError::MtuNotPermitted { device, mtu }),
        Err(source) => Err(TapError::Kernel {
            device,
            operation: "setting the MTU",
            source,
        }),
    }
}

/// One file per queue. A device made with a single queue gives one file, which
/// all workers may write and the first one reads.
fn attach_all(config: &TapConfig, link: Link) -> Result<Vec<OwnedFd>, TapError> {
    let kind = match link {
        Link::Ethernet => libc::IFF_TAP,
        Link::RawIp => libc::IFF_TUN,
    };
    let base = kind | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    let multi = base | libc::IFF_MULTI_QUEUE;
    if config.queues <= 1 {
        // A persistent device that was made with several queues wants the flag.
        return match attach(config, base) {
            Err(TapError::OtherKind { .. }) => attach(config, multi),
            single => single,
        }
        .map(|file| vec![file]);
    }
    match attach(config, multi) {
        Ok(first) => {
            let mut files = vec![first];
            for _ in 1..config.queues {
                files.push(attach(config, multi)?);
            }
            Ok(files)
        }
        Err(TapError::OtherKind { .. }) => Ok(vec![attach(config, base)?]),
        Err(error) => Err(error),
    }
}

fn attach(config: &TapConfig, flags: libc::c_int) -> Result<OwnedFd, TapError> {
    let device = &config.device;
    let file = rustix::fs::open(
        "/dev/net/tun",
        OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|errno| match errno {
        Errno::NOENT | Errno::NODEV | Errno::NXIO => TapError::NoDeviceFile,
        Errno::ACCESS | Errno::PERM => TapError::DeviceFileRefused,
        source => TapError::Kernel {
            device: device.clone(),
            operation: "opening /dev/net/tun",
            source,
        },
    })?;
    let device = device.clone();
    let (wanted, mode) = match flags & libc::IFF_TUN {
        0 => ("TAP", "tap"),
        _ => ("TUN", "tun"),
    };
    match sys::set_iff(file.as_fd(), &device, flags) {
        Ok(_) => Ok(file),
        Err(Errno::PERM | Errno::ACCESS) => Err(TapError::NotPermitted { device, mode }),
        Err(Errno::BUSY) => Err(TapError::Busy { device }),
        Err(Errno::NAMETOOLONG) => Err(TapError::BadName { device }),
        Err(Errno::INVAL) => Err(TapError::OtherKind { device, wanted }),
        Err(source) => Err(TapError::Kernel {
            device,
            operation: "attaching to it",
            source,
        }),
    }
}

/// Linux `net/core/dev.c` `dev_valid_name`, plus `%`, which would choose a number.
fn plausible_name(name: &str) -> bool {
    let bad = |c: char| c == '/' || c == ':' || c == '%' || c.is_whitespace();
    !name.is_empty() && name != "." && name != ".." && !name.contains(bad)
}

/// The longer header where tunnels are wanted and the kernel knows them. (Every
/// kernel takes any length; what it does not know it would not read.)
fn header_form(file: BorrowedFd<'_>, config: &TapConfig) -> Form {
    let wanted = config.hands.udp_tunnel() || config.takes.udp_tunnel();
    let probe = offload_bits(Caps::ALL.with_udp_tunnels(true, true)) & !TUN_F_USO4_USO6;
    match wanted && sys::set_offload(file, probe).is_ok() {
        true => Form::Tunnel24,
        false => Form::Legacy10,
    }
}

/// Asks for as much of `wanted` as the kernel accepts, tunnels last.
fn negotiate(file: BorrowedFd<'_>, wanted: Caps) -> Result<Caps, Errno> {
    let plain = negotiate_plain(file, wanted)?;
    for csum in [wanted.udp_tunnel_csum(), false] {
        let caps = plain.with_udp_tunnels(wanted.udp_tunnel(), csum);
        if caps.udp_tunnel() && sys::set_offload(file, offload_bits(caps)).is_ok() {
            return Ok(caps);
        }
    }
    Ok(plain)
}

/// The same but for tunnels; bits the kernel does not know make it refuse the whole set.
fn negotiate_plain(file: BorrowedFd<'_>, wanted: Caps) -> Result<Caps, Errno> {
    let none = (false, false);
    let (uso, ecn) = (wanted.uso(), wanted.tso_ecn());
    let mut refused = Errno::INVAL;
    for (uso, ecn) in [(uso, ecn), (false, ecn), (uso, false), none] {
        let caps = Caps::new(wanted.csum(), wanted.tso4(), wanted.tso6(), ecn, uso);
        match sys::set_offload(file, offload_bits(caps)) {
            Ok(()) => return Ok(caps),
            Err(Errno::INVAL) => refused = Errno::INVAL,
            Err(errno) => return Err(errno),
        }
    }
    match sys::set_offload(file, 0) {
        Ok(()) => Ok(Caps::NONE),
        Err(_) => Err(refused),
    }
}

fn offload_bits(caps: Caps) -> u32 {
    let bit = |on, bits| if on { bits } else { 0 };
    bit(caps.csum(), TUN_F_CSUM)
        | bit(caps.tso4(), TUN_F_TSO4)
        | bit(caps.tso6(), TUN_F_TSO6)
        | bit(caps.tso_ecn(), TUN_F_TSO_ECN)
        | bit(caps.uso(), TUN_F_USO4_USO6)
        | bit(caps.udp_tunnel(), TUN_F_UDP_TUNNEL_GSO)
        | bit(caps.udp_tunnel_csum(), TUN_F_UDP_TUNNEL_GSO_CSUM)
}

/// Whether this kernel takes TCP over IPv4 of more than 65535 bytes: since Linux 6.3 an IPv4 length of
/// zero means that of the super-packet (`iph_totlen`); before, it is an error.
fn kernel_takes_big_tcp4() -> bool {
    let release = rustix::system::uname();
    let release = release.release().to_str().unwrap_or_default();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next().and_then(|n| n.parse::<u32>().ok());
    (number(), number()) >= (Some(6), Some(3))
}

/// Both directions of each capability, for `jumbo status`.
fn capabilities(config: &TapConfig, hands: Caps, takes: Caps) -> Vec<Capability> {
    type Get = fn(Caps) -> bool;
    let rows: [(&str, &str, Get); 7] = [
        ("rx_csum", "tx_csum", Caps::csum),
        ("rx_tso4", "tx_tso4", Caps::tso4),
        ("rx_tso6", "tx_tso6", Caps::tso6),
        ("rx_tso_ecn", "tx_tso_ecn", Caps::tso_ecn),
        ("rx_uso", "tx_uso", Caps::uso),
        ("rx_udp_tunnel", "tx_udp_tunnel", Caps::udp_tunnel),
        (
            "rx_udp_tunnel_csum",
            "tx_udp_tunnel_csum",
            Caps::udp_tunnel_csum,
        ),
    ];
    let why = |wanted: bool, got: bool| match (wanted, got) {
        (_, true) => None,
        (false, _) => Some("switched off in the configuration".to_owned()),
        (true, false) => Some("this kernel does not know it".to_owned()),
    };
    let mut list = Vec::new();
    for (rx, tx, get) in rows {
        let (wanted, got) = (get(config.hands), get(hands));
        list.push(Capability {
            name: rx,
            offered: got || !wanted,
            in_use: got,
            why: why(wanted, got),
        });
        let (wanted, got) = (get(config.takes), get(takes));
        list.push(Capability {
            name: tx,
            offered: got || !wanted,
            in_use: got,
            why: why(wanted, got),
        });
    }
    // One way: no TAP hands such packets over (its `tso_max_size` is 65536).
    let (wanted, got) = (config.takes.big_tcp4(), takes.big_tcp4());
    list.push(Capability {
        name: "tx_big_tcp4",
        offered: got || !wanted,
        in_use: got,
        why: why(wanted, got),
    });
    list
}

fn queues(
    files: Vec<OwnedFd>,
    config: &TapConfig,
    link: Link,
    form: Form,
    failed: impl Fn(Errno) -> TapError,
) -> Result<Vec<Box<dyn Queue>>, TapError> {
    let mut queues: Vec<Box<dyn Queue>> = Vec::with_capacity(config.queues);
    let missing = config.queues.saturating_sub(files.len());
    let mut writers = Vec::with_capacity(missing);
    for _ in 0..missing {
        let Some(first) = files.first() else { break };
        writers.push(rustix::io::fcntl_dupfd_cloexec(first, 0).map_err(&failed)?);
    }
    for file in files {
        queues.push(Box::new(TapQueue::new(file, link, form, true)));
    }
    for file in writers {
        queues.push(Box::new(TapQueue::new(file, link, form, false)));
    }
    Ok(queues)
}

/// One queue of a TAP.
#[derive(Debug)]
struct TapQueue {
    file: OwnedFd,
    link: Link,
    form: Form,
    reads: bool,
    gather: Gather,
}

impl TapQueue {
    fn new(file: OwnedFd, link: Link, form: Form, reads: bool) -> Self {
        Self {
            file,
            link,
            form,
            reads,
            gather: Gather::new(form),
        }
    }
}

/// What an unsuccessful write means (drivers/net/tun.c tun_get_user).
fn tx_fault(errno: Errno, gso: bool) -> TxFault {
    match errno {
        Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM => TxFault::QueueFull,
        Errno::IO => TxFault::LinkDown,
        Errno::BADFD => TxFault::Gone,
        Errno::INVAL if gso => TxFault::GsoRefused,
        _ => TxFault::Refused,
    }
}

impl Queue for TapQueue {
    #[inline]
    fn rx(&mut self, burst: &mut Burst, stats: &mut RxStats) -> RxEnd {
        if !self.reads {
            return RxEnd::Drained;
        }
        let (mut bytes, vnet_len) = (0, self.form.len_bytes());
        for _ in 0..burst.bounds.batch_packets {
            if bytes >= burst.bounds.batch_bytes || !burst.has_room() {
                return RxEnd::More;
            }
            let got = match rustix::io::read(&self.file, burst.pool.space()) {
                Ok(got) => got,
                Err(Errno::AGAIN) => return RxEnd::Drained,
                Err(Errno::INTR) => continue,
                Err(Errno::INVAL | Errno::FAULT) => {
                    // The kernel has taken the packet off its queue and could
                    // not describe it (tun_put_user): that one is lost.
                    stats.faults.count(HeaderFault::HeadMissing);
                    continue;
                }
                Err(_) => return RxEnd::Gone,
            };
            let Some(header) =
                VnetHeader::decode(self.form, burst.pool.peek_space(vnet_len.min(got)))
            else {
                stats.faults.count(HeaderFault::ShortVnetHeader);
                continue;
            };
            let vnet = Some((&header, Trust::Kernel));
            burst.admit(self.link, vnet_len, got - vnet_len, vnet, stats);
            bytes += got;
        }
        RxEnd::More
    }

    #[inline]
    fn tx(&mut self, packet: &Packet, payload: Pieces<'_>, pool: &Pool) -> Result<(), TxFault> {
        let written = self
            .gather
            .write(self.file.as_fd(), packet, payload, pool)?;
        match written {
            Ok(_) => Ok(()),
            Err(errno) => Err(tx_fault(errno, packet.pending().gso.is_some())),
        }
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.reads.then(|| self.file.as_fd())
    }

    fn link(&self) -> Link {
        self.link
    }
}

/// Whether a super-packet kind should no longer be offered to the device.
#[derive(Copy, Clone, Debug, Default)]
pub struct Refusals {
    in_a_row: u8,
}

impl Refusals {
    /// A super-packet was refused; `true` once it is time to stop trying.
    pub fn refused(&mut self) -> bool {
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.in_a_row >= REFUSED_MAX
    }

    /// A super-packet was taken.
    pub fn taken(&mut self) {
        self.in_a_row = 0;
    }
}
