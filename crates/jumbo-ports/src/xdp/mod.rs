//! AF_XDP: packets are taken from an interface before the host's stack sees them.
//!
//! An XDP program of ours, attached by a link that ends with the process, hands the
//! packets of each receive queue to a socket. They lie in memory that the socket
//! shares with the kernel (with the device itself, where the driver has zero-copy)
//! until the burst ends. AF_XDP knows no super-packets, and partial checksums only
//! when it sends, so a port hands over finished packets and takes nothing more than a
//! checksum that is left to finish; coalescing towards other ports is ours.
//!
//! Such checksums are left to the kernel (`struct xsk_tx_metadata`) on a veth alone.
//! There it makes of them what it makes of its own (Linux 6.18 `net/xdp/xsk.c`
//! `xsk_skb_metadata`). Interfaces that take packets without copying their payload
//! (IFF_TX_SKB_NO_LINEAR, as virtio-net) forgot the metadata before 6.17, and of the
//! drivers with zero-copy each has its own way.

mod partial;
mod program;
mod queue;
mod ring;
mod socket;
mod sys;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use jumbo_engine::pending::Caps;
use rustix::io::Errno;

pub use self::program::Pass;
use self::queue::XdpQueue;
pub use self::socket::TxChecksum;
use self::socket::{Sharing, XdpSocket};
use crate::packet::watch::Watch;
use crate::packet::{self, ETHERNET};
use crate::queue::{Capability, Port, PortInfo, Presence, Queue};
use crate::sys::netdev::{self, control_socket};

/// XDP_FLAGS_SKB_MODE and XDP_FLAGS_DRV_MODE of Linux `include/uapi/linux/if_link.h`.
const GENERIC: u32 = 1 << 1;
const NATIVE: u32 = 1 << 2;

/// Where the program runs.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default)]
pub enum Mode {
    /// In the driver if it can, else in the stack.
    #[default]
    Auto,
    /// In the driver.
    Native,
    /// In the stack, whatever the driver.
    Generic,
}

/// What the operator asks of an AF_XDP port.
#[derive(Clone, Debug)]
pub struct XdpConfig {
    /// The interface. It must exist, be up, and carry Ethernet.
    pub device: String,
    /// One queue per worker.
    pub queues: usize,
    /// Where the program runs.
    pub mode: Mode,
    /// What the host's stack keeps.
    pub pass: Pass,
    /// What becomes of checksums that are left to finish.
    pub tx_checksum: TxChecksum,
}

/// Why an interface could not be opened. Each says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum XdpError {
    /// It does not exist.
    #[error("there is no interface `{device}`: see `ip link`")]
    NoDevice {
        /// The interface.
        device: String,
    },
    /// The user may not.
    #[error(
        "interface `{device}` may not be opened by XDP: run as root (CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF), or use packet:{device}"
    )]
    NotPermitted {
        /// The interface.
        device: String,
    },
    /// It is down.
    #[error("interface `{device}` is down: bring it up with `ip link set {device} up`")]
    Down {
        /// The interface.
        device: String,
    },
    /// It carries something else.
    #[error("interface `{device}` does not carry Ethernet")]
    NotEthernet {
        /// The interface.
        device: String,
    },
    /// Another program has the hook.
    #[error(
        "interface `{device}` has an XDP program of somebody else: stop the program that put it there (`bpftool net` tells), or take it off with `ip link set {device} xdpdrv off` or, if it is generic, `xdpgeneric off`"
    )]
    Busy {
        /// The interface.
        device: String,
    },
    /// Another program has an AF_XDP socket on a receive queue.
    #[error(
        "receive queue {queue} of interface `{device}` has an AF_XDP socket of somebody else: stop that program, or use packet:{device}"
    )]
    QueueTaken {
        /// The interface.
        device: String,
        /// The queue.
        queue: u32,
    },
    /// The driver cannot with this MTU.
    #[error(
        "the MTU of `{device}`, or of its veth peer, is too long for XDP in its driver: lower it, or use mode=generic or packet:{device}"
    )]
    MtuTooLong {
        /// The interface.
        device: String,
    },
    /// Longer packets than this driver's zero-copy takes.
    #[error(
        "the MTU {mtu} of `{device}` is too long for AF_XDP with its driver, which takes packets in one piece only: lower it to {most}, or use packet:{device}"
    )]
    MtuOverChunk {
        /// The interface.
        device: String,
        /// Its MTU.
        mtu: usize,
        /// The longest that fits.
        most: usize,
    },
    /// The driver has no XDP.
    #[error("the driver of `{device}` has no XDP: use mode=generic, or packet:{device}")]
    NoNative {
        /// The interface.
        device: String,
    },
    /// Anything else the kernel says.
    #[error("interface `{device}`: {operation}: {source}")]
    Kernel {
        /// The interface.
        device: String,
        /// What was tried.
        operation: &'static str,
        /// What the kernel said.
        source: Errno,
    },
}

impl XdpError {
    fn of(device: &str, operation: &'static str, source: Errno) -> Self {
        let device = device.to_owned();
        match source {
            Errno::NODEV | Errno::NXIO => Self::NoDevice { device },
            Errno::PERM | Errno::ACCESS => Self::NotPermitted { device },
            Errno::NETDOWN => Self::Down { device },
            Errno::BUSY | Errno::EXIST => Self::Busy { device },
            Errno::RANGE => Self::MtuTooLong { device },
            _ => Self::Kernel {
                device,
                operation,
                source,
            },
        }
    }
}

/// An interface as it was found.
struct Found {
    index: u32,
    mtu: usize,
    mac: [u8; 6],
    rx_queues: u32,
    is_veth: bool,
}

/// The program on its interface. It comes off when the last queue is dropped.
#[derive(Debug)]
struct Attached {
    _link: OwnedFd,
    _map: OwnedFd,
}

/// Opens an interface, all its receive queues. It is left as it was when the queues
/// are dropped, or the process ends in whatever way.
///
/// # Errors
/// [`XdpError`]; nothing is left behind.
pub fn open(config: &XdpConfig) -> Result<Port, XdpError> {
    let device = &config.device;
    let failed = |operation| move |source| XdpError::of(device, operation, source);
    let found = find(config)?;
    let map = sys::socket_map(found.rx_queues).map_err(failed("making a map of sockets"))?;
    let program = program::assemble(map.as_fd(), config.pass, found.mac);
    let program = sys::load(&program, true).map_err(failed("loading the XDP program"))?;
    let (link, not_native) = attach(program.as_fd(), found.index, config)?;
    let tx_checksum = match found.is_veth {
        true => config.tx_checksum,
        false => TxChecksum::Off,
    };
    let mut sockets = Vec::new();
    for queue in 0..found.rx_queues {
        let socket = XdpSocket::open(found.index, queue, found.is_veth, tx_checksum)
            .map_err(|errno| socket_error(device, queue, errno))?;
        sys::enter(map.as_fd(), queue, socket.fd()).map_err(failed("entering a socket"))?;
        sockets.push(socket);
    }
    let attached = Arc::new(Attached {
        _link: link,
        _map: map,
    });
    let sharing = sockets.first().map(XdpSocket::sharing);
    let in_pieces = sharing.is_none_or(|sharing| sharing.pieces);
    check_mtu(device, found.mtu, in_pieces)?;
    let tx_csum = sharing.is_some_and(|sharing| sharing.tx_csum);
    let info = PortInfo {
        kind: "xdp",
        device: device.clone(),
        hands: Caps::NONE,
        takes: Caps::new(tx_csum, false, false, false, false),
        mtu: found.mtu,
        capabilities: capabilities(not_native, sharing, why_no_tx_csum(config, &found, tx_csum)),
        presence: Presence::Up,
    };
    let queues = deal(sockets, config, &found, &attached)?;
    let watch = Watch::new(found.index, info.clone()).map_err(failed("watching its state"))?;
    Ok(Port {
        info,
        queues,
        control: Some(Box::new(watch)),
    })
}

fn socket_error(device: &str, queue: u32, errno: Errno) -> XdpError {
    match errno {
        Errno::BUSY => XdpError::QueueTaken {
            device: device.to_owned(),
            queue,
        },
        errno => XdpError::of(device, "opening an AF_XDP socket", errno),
    }
}

fn find(config: &XdpConfig) -> Result<Found, XdpError> {
    let device = &config.device;
    let failed = |operation| move |source| XdpError::of(device, operation, source);
    let socket = control_socket().map_err(failed("opening a socket"))?;
    let socket = socket.as_fd();
    let index = netdev::index(socket, device).map_err(failed("finding it"))?;
    let flags = netdev::flags(socket, device).map_err(failed("reading its flags"))?;
    let (hardware, mac) =
        netdev::hardware_address(socket, device).map_err(failed("reading its address"))?;
    if hardware != ETHERNET {
        let device = device.clone();
        return Err(XdpError::NotEthernet { device });
    }
    if flags & libc::IFF_UP as u16 == 0 {
        let device = device.clone();
        return Err(XdpError::Down { device });
    }
    Ok(Found {
        index,
        mac,
        mtu: netdev::mtu(socket, device).map_err(failed("reading its MTU"))?,
        rx_queues: netdev::rx_queues(socket, device),
        is_veth: netdev::driver(socket, device).is_ok_and(|driver| driver == "veth"),
    })
}

/// Whether packets of that MTU get through.
fn check_mtu(device: &str, mtu: usize, in_pieces: bool) -> Result<(), XdpError> {
    let most = socket::MTU_IN_ONE_CHUNK;
    let device = device.to_owned();
    match in_pieces || mtu <= most {
        true => Ok(()),
        false => Err(XdpError::MtuOverChunk { device, mtu, most }),
    }
}

/// Attaches the program; tells why not in the driver, if not there.
fn attach(
    program: BorrowedFd<'_>,
    index: u32,
    config: &XdpConfig,
) -> Result<(OwnedFd, Option<&'static str>), XdpError> {
    let device = &config.device;
    let failed = |source| XdpError::of(device, "attaching the XDP program", source);
    let mut why = "mode=generic was asked for";
    if config.mode != Mode::Generic {
        match sys::attach(program, index, NATIVE) {
            Ok(link) => return Ok((link, None)),
            Err(errno) => why = not_native(config, errno)?,
        }
    }
    let link = sys::attach(program, index, GENERIC).map_err(failed)?;
    Ok((link, Some(why)))
}

/// Why the driver does not run the program, where the stack may do it instead.
fn not_native(config: &XdpConfig, errno: Errno) -> Result<&'static str, XdpError> {
    let device = config.device.clone();
    match (errno, config.mode) {
        // The driver cannot at all, or not as it is set up.
        (Errno::OPNOTSUPP | Errno::INVAL, Mode::Native) => Err(XdpError::NoNative { device }),
        (Errno::OPNOTSUPP | Errno::INVAL, _) => Ok("the driver has no XDP, or not as it is set up"),
        (Errno::RANGE, Mode::Auto) => Ok("the MTU is too long for XDP in the driver"),
        (errno, _) => Err(XdpError::of(&device, "attaching the XDP program", errno)),
    }
}

/// Deals the sockets out to the workers. One without a socket sends by AF_PACKET.
fn deal(
    sockets: Vec<XdpSocket>,
    config: &XdpConfig,
    found: &Found,
    attached: &Arc<Attached>,
) -> Result<Vec<Box<dyn Queue>>, XdpError> {
    let failed = |source| XdpError::of(&config.device, "dealing out its queues", source);
    let workers = config.queues.max(1);
    let mut hands: Vec<Vec<XdpSocket>> = (0..workers).map(|_| Vec::new()).collect();
    for (index, socket) in sockets.into_iter().enumerate() {
        hands[index % workers].push(socket);
    }
    let mut queues: Vec<Box<dyn Queue>> = Vec::with_capacity(workers);
    for sockets in hands {
        if sockets.is_empty() {
            queues.push(packet::sender(found.index, found.mtu).map_err(failed)?);
        } else {
            let queue = XdpQueue::new(sockets, attached.clone()).map_err(failed)?;
            queues.push(Box::new(queue));
        }
    }
    Ok(queues)
}

/// Why checksums are finished before a packet is sent, if they are.
fn why_no_tx_csum(config: &XdpConfig, found: &Found, tx_csum: bool) -> Option<&'static str> {
    match (tx_csum, config.tx_checksum, found.is_veth) {
        (true, ..) => None,
        (_, TxChecksum::Off, _) => Some("switched off in the configuration"),
        (_, _, true) => Some("this kernel has no metadata for it (Linux 6.11 has)"),
        _ => Some("left to the kernel on a veth only"),
    }
}

/// What was got, for `jumbo status`.
fn capabilities(
    not_native: Option<&str>,
    sharing: Option<Sharing>,
    no_tx_csum: Option<&str>,
) -> Vec<Capability> {
    let sharing = sharing.unwrap_or(Sharing {
        zero_copy: false,
        pieces: false,
        tx_csum: false,
    });
    let row = |name, in_use: bool, why: &str| Capability {
        name,
        offered: in_use,
        in_use,
        why: (!in_use).then(|| why.to_owned()),
    };
    vec![
        row("xdp_native", not_native.is_none(), not_native.unwrap_or("")),
        row(
            "zero_copy",
            sharing.zero_copy,
            "the driver has no zero-copy for AF_XDP: packets are copied once",
        ),
        row(
            "multi_buffer",
            sharing.pieces,
            "packets longer than a page are refused by kernel or driver",
        ),
        row("rx_csum", false, "AF_XDP knows no partial checksums"),
        row("tx_csum", no_tx_csum.is_none(), no_tx_csum.unwrap_or("")),
        row("tx_tso4", false, "AF_XDP knows no super-packets"),
        row("tx_tso6", false, "AF_XDP knows no super-packets"),
        row("tx_uso", false, "AF_XDP knows no super-packets"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(mode: Mode) -> XdpConfig {
        XdpConfig {
            device: "eth0".into(),
            queues: 1,
            mode,
            pass: Pass::Nothing,
            tx_checksum: TxChecksum::Auto,
        }
    }

    /// No driver of a software interface says ERANGE to a program that takes packets in pieces.
    #[test]
    fn an_mtu_too_long_for_the_driver_falls_back_or_names_itself() {
        let say = |mode| not_native(&config(mode), Errno::RANGE);
        let error = say(Mode::Native).expect_err("asked for").to_string();
        assert!(error.contains("the MTU of `eth0`") && error.contains("mode=generic"));
        assert!(say(Mode::Auto).is_ok_and(|why| why.contains("MTU")));
    }

    #[test]
    fn a_driver_without_xdp_falls_back_or_names_itself() {
        for errno in [Errno::OPNOTSUPP, Errno::INVAL] {
            let say = |mode| not_native(&config(mode), errno);
            assert!(matches!(say(Mode::Native), Err(XdpError::NoNative { .. })));
            assert!(say(Mode::Auto).is_ok());
        }
    }

    #[test]
    fn an_mtu_over_a_chunk_needs_packets_in_pieces() {
        let most = socket::MTU_IN_ONE_CHUNK;
        assert!(check_mtu("eth0", most, false).is_ok());
        assert!(check_mtu("eth0", 9000, true).is_ok());
        let error = check_mtu("eth0", most + 1, false).expect_err("too long");
        assert!(error.to_string().contains(&format!("lower it to {most}")));
    }

    /// Another program is never taken for a driver that cannot.
    #[test]
    fn a_taken_hook_never_falls_back() {
        for errno in [Errno::BUSY, Errno::EXIST] {
            for mode in [Mode::Auto, Mode::Native] {
                let error = not_native(&config(mode), errno).expect_err("taken");
                assert!(matches!(error, XdpError::Busy { .. }));
            }
        }
    }
}
