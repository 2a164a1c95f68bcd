//! A tunnel whose ends are programs: a TAP on one side, a socket on the other. For kinds of tunnels
//! that the kernel has no device for, and for what only programs see.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use jumbo_lab::link::Mac;
use jumbo_lab::tap::{Tap, TapOffloads, TapSpec, VNET_HEADER_LEN};
use jumbo_lab::{Host, TestError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketType};

/// What the program puts around packets.
#[derive(Copy, Clone, Debug, PartialEq)]
pub(crate) enum Around {
    /// Geneve with an inner Ethernet header (RFC 8926).
    Geneve,
    /// GRE without a key, around IP.
    Gre,
    /// GRE with a key, around Ethernet.
    GreTap,
    /// IPv4 or IPv6 in IPv4.
    Ip { v6: bool },
}

const ETHERNET_LEN: usize = 14;
const GENEVE_PORT: u16 = 6081;

impl Around {
    fn is_bridged(self) -> bool {
        matches!(self, Self::Geneve | Self::GreTap)
    }

    fn shim(self, packet: &[u8]) -> Vec<u8> {
        match self {
            Self::Geneve => vec![0, 0, 0x65, 0x58, 0, 0, 9, 0],
            Self::Gre if packet[0] >> 4 == 6 => vec![0, 0, 0x86, 0xdd],
            Self::Gre => vec![0, 0, 0x08, 0x00],
            Self::GreTap => vec![0x20, 0, 0x65, 0x58, 0, 0, 0, 9],
            Self::Ip { .. } => Vec::new(),
        }
    }

    fn shim_len(self) -> usize {
        match self {
            Self::Geneve | Self::GreTap => 8,
            Self::Gre => 4,
            Self::Ip { .. } => 0,
        }
    }

    fn socket(self, local: Ipv4Addr) -> Result<OwnedFd, TestError> {
        let (kind, protocol) = match self {
            Self::Geneve => (SocketType::DGRAM, None),
            Self::Gre | Self::GreTap => (SocketType::RAW, Some(47)),
            Self::Ip { v6: false } => (SocketType::RAW, Some(4)),
            Self::Ip { v6: true } => (SocketType::RAW, Some(41)),
        };
        let protocol = protocol.and_then(|n| Some(Protocol::from_raw(n.try_into().ok()?)));
        let socket = rustix::net::socket(AddressFamily::INET, kind, protocol)?;
        rustix::net::bind(&socket, &SocketAddr::V4(self.end(local)))?;
        Ok(socket)
    }

    fn end(self, address: Ipv4Addr) -> SocketAddrV4 {
        SocketAddrV4::new(address, if self == Self::Geneve { GENEVE_PORT } else { 0 })
    }
}

/// One end, while it runs.
#[derive(Debug)]
pub(crate) struct Program {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Program {
    /// On `host`, towards `other`, with a device called `over`, which is still down.
    pub(crate) fn start(around: Around, host: &Host, other: &Host) -> Result<Self, TestError> {
        let tap = Tap::create(&host.ns, &TapSpec::new("over", TapOffloads::NONE))?;
        let socket = host.ns.run(|| around.socket(host.v4))??;
        let stop = Arc::new(AtomicBool::new(false));
        let end = End {
            around,
            tap,
            socket,
            to: around.end(other.v4),
            macs: [mac_of(other), mac_of(host)],
            stop: stop.clone(),
        };
        Ok(Self {
            stop,
            thread: Some(std::thread::spawn(move || end.run())),
        })
    }
}

/// The address that the device of a host is given.
pub(crate) fn mac_of(host: &Host) -> Mac {
    [6, 0, 0, 0, 0, host.v4.octets()[3]]
}

impl Drop for Program {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // What it ran into shows in the transfer.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

struct End {
    around: Around,
    tap: Tap,
    socket: OwnedFd,
    to: SocketAddrV4,
    /// Of the other's device, and of this one.
    macs: [Mac; 2],
    stop: Arc<AtomicBool>,
}

impl End {
    fn run(&self) -> io::Result<()> {
        let tick = Timespec {
            tv_sec: 0,
            tv_nsec: 100_000_000,
        };
        let mut buffer = vec![0; 70_000];
        while !self.stop.load(Ordering::Relaxed) {
            let files = [self.tap.as_fd(), self.socket.as_fd()];
            let mut files = files.map(|file| PollFd::from_borrowed_fd(file, PollFlags::IN));
            poll(&mut files, Some(&tick))?;
            while let Ok(len) = self.tap.read(&mut buffer) {
                self.send(&buffer[VNET_HEADER_LEN..len]);
            }
            while let Ok((_, len)) =
                rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::DONTWAIT)
            {
                self.receive(&buffer[..len]);
            }
        }
        Ok(())
    }

    /// What cannot be sent is lost, as anywhere.
    fn send(&self, frame: &[u8]) {
        let inner = match self.around.is_bridged() {
            true => frame,
            false => &frame[ETHERNET_LEN.min(frame.len())..],
        };
        // ARP and the like have no place in a tunnel of IP.
        let is_ip = matches!(frame.get(12..14), Some([0x08, 0x00] | [0x86, 0xdd]));
        if is_ip && !inner.is_empty() {
            let packet = [&self.around.shim(inner), inner].concat();
            let to = SocketAddr::V4(self.to);
            let _ = rustix::net::sendto(&self.socket, &packet, SendFlags::empty(), &to);
        }
    }

    fn receive(&self, packet: &[u8]) {
        // A raw socket is given the IP header as well (raw(7)).
        let skip = match self.around {
            Around::Geneve => 0,
            _ => usize::from(packet.first().map_or(0, |byte| byte & 15)) * 4,
        };
        let Some(inner) = packet.get(skip + self.around.shim_len()..) else {
            return;
        };
        let kind = match inner.first().map(|byte| byte >> 4) {
            Some(6) => [0x86, 0xdd],
            _ => [0x08, 0x00],
        };
        let [other, own] = self.macs;
        let link = [&own[..], &other, &kind].concat();
        let frame = match self.around.is_bridged() {
            true => inner.to_vec(),
            false => [&link, inner].concat(),
        };
        let _ = self
            .tap
            .write(&[&[0; VNET_HEADER_LEN], &frame[..]].concat());
    }
}
