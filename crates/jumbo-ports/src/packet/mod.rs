//! AF_PACKET: any interface of this host as a port, and what is at its other end: a
//! wire, a container behind a veth, a virtual machine whose monitor holds a TAP.
//!
//! A packet is received through a ring shared with the kernel and lies there until
//! the burst ends; one too long for a slot, such as a super-packet, is read into the
//! worker's pool. Every packet has a virtio header both ways, so that super-packets
//! and partial checksums pass whole. What the host itself sends through the interface
//! is not heard, be it the switch's or another program's.
//!
//! The host's own stack goes on hearing what the interface receives. An interface
//! that serves as a port should have no address.

mod queue;
mod ring;
mod sys;
mod transmit;
pub(crate) mod watch;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use jumbo_engine::pending::Caps;
use rustix::io::Errno;

use self::queue::PacketQueue;
use self::ring::Ring;
use self::transmit::TransmitRing;
use self::watch::Watch;
use crate::queue::{Capability, Port, PortInfo, Presence, Queue};
use crate::sys::netdev::{self, control_socket};

/// ARPHRD_ETHER of Linux `include/uapi/linux/if_arp.h`.
pub(crate) const ETHERNET: u16 = 1;

/// Slots of a ring: two bursts.
const SLOTS: usize = 1024;

/// Bytes of an Ethernet header and two VLAN tags.
const LINK_LEN: usize = 14 + 8;

/// What may wait beside the ring, and on the way out, in bytes as the kernel counts
/// them: some hundreds of super-packets.
const SOCKET_BUFFER_LEN: usize = 16 << 20;

const NO_FULL_BUFFERS: &str = "without CAP_NET_ADMIN net.core.rmem_max and wmem_max limit them: a few super-packets \
    fill them (`sysctl -w net.core.rmem_max=16777216 net.core.wmem_max=16777216`)";

/// ETHTOOL_GTXCSUM and ETHTOOL_GTSO of Linux `include/uapi/linux/ethtool.h`.
const ETHTOOL_GTXCSUM: u32 = 0x16;
const ETHTOOL_GTSO: u32 = 0x1e;

/// How packets are spread over the workers.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default)]
pub enum Fanout {
    /// By flow, whatever queue they came by.
    #[default]
    Hash,
    /// By the interface's receive queue: its RSS decides.
    Queue,
}

/// What the operator asks of an AF_PACKET port.
#[derive(Clone, Debug)]
pub struct PacketConfig {
    /// The interface. It must exist, be up, and carry Ethernet.
    pub device: String,
    /// One socket per worker.
    pub queues: usize,
    /// What we may hand to the kernel unfinished.
    pub takes: Caps,
    /// How packets are spread over the workers.
    pub fanout: Fanout,
    /// Past the interface's queueing discipline (PACKET_QDISC_BYPASS): cheaper, without
    /// its queue, and without the kernel finishing what the interface cannot.
    pub qdisc_bypass: bool,
    /// The MTU it will be given; `None` if it keeps its own.
    pub mtu: Option<usize>,
}

/// Why an interface could not be opened. Each says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum PacketError {
    /// It does not exist.
    #[error("there is no interface `{device}`: see `ip link`")]
    NoDevice {
        /// The interface.
        device: String,
    },
    /// The user may not.
    #[error(
        "interface `{device}` may not be opened: run as root or with CAP_NET_RAW (`setcap cap_net_raw,cap_net_admin+ep $(which jumbo)`)"
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
    #[error(
        "interface `{device}` does not carry Ethernet: join it as `tun:{device}` if it is a TUN"
    )]
    NotEthernet {
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

impl PacketError {
    fn of(device: &str, operation: &'static str, source: Errno) -> Self {
        let device = device.to_owned();
        match source {
            Errno::NODEV | Errno::NXIO => Self::NoDevice { device },
            Errno::PERM | Errno::ACCESS => Self::NotPermitted { device },
            Errno::NETDOWN => Self::Down { device },
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
    takes: Caps,
}

/// Opens an interface. It is left as it was when the queues are dropped.
///
/// # Errors
/// [`PacketError`]; nothing is left behind.
pub fn open(config: &PacketConfig) -> Result<Port, PacketError> {
    let device = &config.device;
    let failed = |operation| move |source| PacketError::of(device, operation, source);
    let found = find(config)?;
    let packet_len = LINK_LEN + found.mtu.max(config.mtu.unwrap_or(0));
    let mut sockets = Vec::with_capacity(config.queues);
    let mut full_buffers = true;
    for _ in 0..config.queues.max(1) {
        let socket = sys::socket().map_err(failed("opening a packet socket"))?;
        let (ring, full) = prepare(socket.as_fd(), config, packet_len)
            .map_err(failed("preparing a packet socket"))?;
        full_buffers &= full;
        sockets.push((socket, ring));
    }
    bind_all(&sockets, found.index, config.fanout).map_err(failed("listening to it"))?;
    let mut queues: Vec<Box<dyn Queue>> = Vec::with_capacity(sockets.len());
    for (socket, ring) in sockets {
        let transmit = TransmitRing::open(found.index, packet_len, config.qdisc_bypass)
            .map_err(failed("preparing to send"))?;
        queues.push(Box::new(PacketQueue::new(socket, ring, transmit)));
    }
    let info = PortInfo {
        kind: "packet",
        device: device.clone(),
        hands: Caps::ALL,
        takes: found.takes,
        mtu: found.mtu,
        capabilities: capabilities(config, found.takes, full_buffers),
        presence: Presence::Up,
    };
    let watch = Watch::new(found.index, info.clone()).map_err(failed("watching its state"))?;
    Ok(Port {
        info,
        queues,
        control: Some(Box::new(watch)),
    })
}

/// A queue that sends by interface `index`, and hears nothing.
pub(crate) fn sender(index: u32, mtu: usize) -> Result<Box<dyn Queue>, Errno> {
    let config = PacketConfig {
        device: String::new(),
        queues: 1,
        takes: Caps::NONE,
        fanout: Fanout::Hash,
        qdisc_bypass: false,
        mtu: None,
    };
    let socket = sys::socket()?;
    let (ring, _) = prepare(socket.as_fd(), &config, LINK_LEN + mtu)?;
    sys::bind_to_send(socket.as_fd(), index)?;
    let transmit = TransmitRing::open(index, LINK_LEN + mtu, config.qdisc_bypass)?;
    Ok(Box::new(PacketQueue::new(socket, ring, transmit)))
}

fn find(config: &PacketConfig) -> Result<Found, PacketError> {
    let device = &config.device;
    let failed = |operation| move |source| PacketError::of(device, operation, source);
    let socket = control_socket().map_err(failed("opening a socket"))?;
    let socket = socket.as_fd();
    let index = netdev::index(socket, device).map_err(failed("finding it"))?;
    let flags = netdev::flags(socket, device).map_err(failed("reading its flags"))?;
    let (hardware, _) =
        netdev::hardware_address(socket, device).map_err(failed("reading its type"))?;
    if hardware != ETHERNET {
        let device = device.clone();
        return Err(PacketError::NotEthernet { device });
    }
    if flags & libc::IFF_UP as u16 == 0 {
        let device = device.clone();
        return Err(PacketError::Down { device });
    }
    let mtu = netdev::mtu(socket, device).map_err(failed("reading its MTU"))?;
    let takes = match config.qdisc_bypass {
        false => config.takes,
        true => config.takes.and(device_takes(socket, device)),
    };
    Ok(Found { index, mtu, takes })
}

/// What the interface does itself: past the queueing discipline nobody else will
/// (Linux `net/core/dev.c` `__dev_direct_xmit`).
fn device_takes(socket: BorrowedFd<'_>, device: &str) -> Caps {
    let has = |question| netdev::ethtool(socket, device, question).is_ok_and(|word| word != 0);
    let (csum, tso) = (has(ETHTOOL_GTXCSUM), has(ETHTOOL_GTSO));
    Caps::new(csum, tso, tso, false, false)
}

/// All that must be done before a socket hears anything. Tells whether its buffers
/// are as large as they should be.
fn prepare(
    fd: BorrowedFd<'_>,
    config: &PacketConfig,
    packet_len: usize,
) -> Result<(Ring, bool), Errno> {
    sys::prepare(fd, config.qdisc_bypass)?;
    // Where the user may not exceed the limit of the machine, the limit must do.
    use rustix::net::sockopt;
    let mut full = true;
    if sockopt::set_socket_recv_buffer_size_force(fd, SOCKET_BUFFER_LEN).is_err() {
        sockopt::set_socket_recv_buffer_size(fd, SOCKET_BUFFER_LEN)?;
        full &= sockopt::socket_recv_buffer_size(fd)? >= SOCKET_BUFFER_LEN;
    }
    set_send_buffer(fd)?;
    full &= sockopt::socket_send_buffer_size(fd)? >= SOCKET_BUFFER_LEN;
    Ok((Ring::new(fd, SLOTS, packet_len)?, full))
}

/// What may be on its way out.
fn set_send_buffer(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    use rustix::net::sockopt;
    sockopt::set_socket_send_buffer_size_force(fd, SOCKET_BUFFER_LEN)
        .or_else(|_| sockopt::set_socket_send_buffer_size(fd, SOCKET_BUFFER_LEN))
}

/// Binds the sockets and makes them share the packets.
fn bind_all(sockets: &[(OwnedFd, Ring)], index: u32, fanout: Fanout) -> Result<(), Errno> {
    let spread = match fanout {
        Fanout::Hash => sys::Spread::Hash,
        Fanout::Queue => sys::Spread::Queue,
    };
    let mut group = None;
    for (socket, _) in sockets {
        let fd = socket.as_fd();
        sys::bind(fd, index)?;
        sys::listen_to_all(fd, index)?;
        match group {
            _ if sockets.len() == 1 => {}
            None => group = Some(sys::make_group(fd, spread)?),
            Some(group) => sys::join_group(fd, group, spread)?,
        }
    }
    Ok(())
}

/// Both directions of each capability, for `jumbo status`.
fn capabilities(config: &PacketConfig, takes: Caps, full_buffers: bool) -> Vec<Capability> {
    type Get = fn(Caps) -> bool;
    let rows: [(&str, &str, Get); 5] = [
        ("rx_csum", "tx_csum", Caps::csum),
        ("rx_tso4", "tx_tso4", Caps::tso4),
        ("rx_tso6", "tx_tso6", Caps::tso6),
        ("rx_tso_ecn", "tx_tso_ecn", Caps::tso_ecn),
        ("rx_uso", "tx_uso", Caps::uso),
    ];
    let mut list = Vec::new();
    for (rx, tx, get) in rows {
        list.push(Capability {
            name: rx,
            offered: true,
            in_use: true,
            why: None,
        });
        let (wanted, got) = (get(config.takes), get(takes));
        let why = match (wanted, got) {
            (_, true) => None,
            (false, _) => Some("switched off in the configuration".to_owned()),
            (true, false) => {
                Some("with qdisc_bypass only what the interface does itself".to_owned())
            }
        };
        list.push(Capability {
            name: tx,
            offered: got || !wanted,
            in_use: got,
            why,
        });
    }
    list.push(Capability {
        name: "full_buffers",
        offered: full_buffers,
        in_use: full_buffers,
        why: (!full_buffers).then(|| NO_FULL_BUFFERS.to_owned()),
    });
    list
}
