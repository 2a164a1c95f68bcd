//! Links, addresses, routes and neighbours by rtnetlink, synchronously.
//!
//! Source: rtnetlink(7), net/core/rtnetlink.c.

mod netlink;

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::thread;
use std::time::{Duration, Instant};

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage,
};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkXdp,
    XdpAttached,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};

use crate::error::{Doing, Result};
use crate::ns::NetNs;
use netlink::Socket;

/// The kernel looks at carriers once a second at the latest.
const CARRIER_PATIENCE: Duration = Duration::from_secs(5);

/// A MAC address.
pub type Mac = [u8; 6];

/// The links of one namespace. The sockets inside belong to the namespace in
/// which [`Links::here`] was called; the value itself may move anywhere.
#[derive(Debug)]
pub struct Links {
    netlink: Socket,
    /// Any socket of the namespace carries ethtool ioctls.
    pub(crate) control: OwnedFd,
}

/// Counters of a link, as the kernel sees it (rx is into its stack).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Packets received; a super-packet counts as one on veth and TAP.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes received, from the MAC header on.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets dropped on receive.
    pub rx_dropped: u64,
    /// Packets dropped on send.
    pub tx_dropped: u64,
    /// Receive errors.
    pub rx_errors: u64,
    /// Send errors.
    pub tx_errors: u64,
}

/// One link as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its index in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Largest L3 packet in bytes.
    pub mtu: u32,
    /// Transmit queue length in packets.
    pub tx_queue_len: u32,
    /// MAC address; `None` for links without one.
    pub mac: Option<Mac>,
    /// Administratively up.
    pub up: bool,
    /// Has a carrier and is up.
    pub running: bool,
    /// How many want to hear everything that passes (IFLA_PROMISCUITY).
    pub promiscuity: u32,
    /// Whether an XDP program is on it, wherever.
    pub xdp: bool,
    /// Counters at the moment of the question.
    pub stats: LinkStats,
}

impl Links {
    /// For the namespace of the calling thread.
    pub fn here() -> Result<Self> {
        let control = rustix::net::socket(
            rustix::net::AddressFamily::INET,
            rustix::net::SocketType::DGRAM,
            None,
        );
        Ok(Self {
            netlink: Socket::open().doing(|| "open a netlink socket")?,
            control: control.doing(|| "open a control socket")?,
        })
    }

    /// All links of the namespace.
    pub fn list(&self) -> Result<Vec<Link>> {
        let replies = self
            .netlink
            .ask(Message::GetLink(LinkMessage::default()), NLM_F_DUMP);
        Ok(replies
            .doing(|| "list links")?
            .iter()
            .filter_map(as_link)
            .collect())
    }

    /// The link called `name`; `ENODEV` when there is none.
    pub fn get(&self, name: &str) -> Result<Link> {
        let question = Message::GetLink(named(name));
        let replies = self
            .netlink
            .ask(question, 0)
            .doing(|| format!("find link {name}"))?;
        let found = replies
            .iter()
            .find_map(as_link)
            .ok_or(io::ErrorKind::NotFound);
        found.doing(|| format!("find link {name}"))
    }

    /// Index of the link called `name`.
    pub fn index(&self, name: &str) -> Result<u32> {
        Ok(self.get(name)?.index)
    }

    /// Counters of the link called `name`.
    pub fn stats(&self, name: &str) -> Result<LinkStats> {
        Ok(self.get(name)?.stats)
    }

    /// Sets the link up.
    pub fn up(&self, name: &str) -> Result<()> {
        self.set_flag(name, LinkFlags::Up)
    }

    /// Waits until the link has a carrier. The kernel hears of one late on a busy
    /// machine (net/core/link_watch.c), and until then drops in silence what is sent.
    pub fn wait_running(&self, name: &str) -> Result<()> {
        let deadline = Instant::now() + CARRIER_PATIENCE;
        while !self.get(name)?.running {
            if Instant::now() > deadline {
                return Err(io::Error::from(io::ErrorKind::TimedOut))
                    .doing(|| format!("wait for the carrier of {name}"));
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Sets the link down.
    pub fn down(&self, name: &str) -> Result<()> {
        self.set_flag(name, LinkFlags::empty())
    }

    /// Sets the MTU in bytes of L3.
    pub fn set_mtu(&self, name: &str, mtu: u32) -> Result<()> {
        self.set(name, LinkAttribute::Mtu(mtu))
    }

    /// Sets the transmit queue length in packets.
    pub fn set_tx_queue_len(&self, name: &str, packets: u32) -> Result<()> {
        self.set(name, LinkAttribute::TxQueueLen(packets))
    }

    /// Sets the MAC address.
    pub fn set_mac(&self, name: &str, mac: Mac) -> Result<()> {
        self.set(name, LinkAttribute::Address(mac.to_vec()))
    }

    /// Renames a link, which may have to be down (kernels before 6.2).
    pub fn rename(&self, name: &str, to: &str) -> Result<()> {
        let index = self.index(name)?;
        self.set_by_index(index, name, LinkAttribute::IfName(to.into()))
    }

    /// Moves a link into another namespace; it arrives down, without addresses.
    pub fn move_to(&self, name: &str, ns: &NetNs) -> Result<()> {
        self.set(name, LinkAttribute::NetNsFd(ns.as_fd().as_raw_fd()))
    }

    /// Makes `name` a port of the bridge `bridge`.
    pub fn enslave(&self, name: &str, bridge: &str) -> Result<()> {
        let bridge = self.index(bridge)?;
        self.set(name, LinkAttribute::Controller(bridge))
    }

    /// Limits the kernel's own super-packets: `gso_max_size` in bytes.
    pub fn set_gso_max_size(&self, name: &str, bytes: u32) -> Result<()> {
        self.set(name, LinkAttribute::GsoMaxSize(bytes))
    }

    /// Limits what the kernel's GRO makes of received packets, of both IP versions:
    /// bytes of a super-packet (a size up to 65536 counts for IPv4 too, net/core/dev.h
    /// netif_set_gro_max_size).
    pub fn set_gro_max_size(&self, name: &str, bytes: u32) -> Result<()> {
        self.set(name, LinkAttribute::GroMaxSize(bytes))
    }

    /// Puts an XDP program on a link, or takes it off (a negative `program`).
    /// `flags` are those of IFLA_XDP_FLAGS.
    pub fn set_xdp(&self, name: &str, program: RawFd, flags: u32) -> Result<()> {
        let facts = vec![LinkXdp::Fd(program), LinkXdp::Flags(flags)];
        self.set(name, LinkAttribute::Xdp(facts))
    }

    /// Removes a link.
    pub fn delete(&self, name: &str) -> Result<()> {
        self.act(Message::DelLink(named(name)), 0, || {
            format!("delete link {name}")
        })
    }

    /// Adds a veth pair: one end here, the other in `peer_ns`. Both are down.
    pub fn add_veth(&self, name: &str, peer: &str, peer_ns: &NetNs) -> Result<()> {
        let mut far = named(peer);
        far.attributes
            .push(LinkAttribute::NetNsFd(peer_ns.as_fd().as_raw_fd()));
        let data = LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(far)));
        self.add(name, vec![LinkInfo::Kind(InfoKind::Veth), data])
    }

    /// Adds a bridge, down and without ports.
    pub fn add_bridge(&self, name: &str) -> Result<()> {
        self.add(name, vec![LinkInfo::Kind(InfoKind::Bridge)])
    }

    /// Adds an address with its connected route; IPv6 without duplicate
    /// address detection, so it works at once.
    pub fn add_address(&self, name: &str, addr: IpAddr, prefix_len: u8) -> Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = family(addr);
        message.header.prefix_len = prefix_len;
        message.header.index = self.index(name)?;
        message.header.flags = AddressHeaderFlags::Nodad;
        message.attributes = vec![
            AddressAttribute::Local(addr),
            AddressAttribute::Address(addr),
            AddressAttribute::Flags(AddressFlags::Nodad),
        ];
        let create = NLM_F_CREATE | NLM_F_EXCL;
        self.act(Message::NewAddress(message), create, || {
            format!("add {addr} to {name}")
        })
    }

    /// Adds a permanent neighbour entry, so that nobody has to ask for it.
    pub fn add_neighbour(&self, name: &str, addr: IpAddr, mac: Mac) -> Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.family = family(addr);
        message.header.ifindex = self.index(name)?;
        message.header.state = NeighbourState::Permanent;
        let destination = match addr {
            IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
            IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
        };
        message.attributes = vec![
            NeighbourAttribute::Destination(destination),
            NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
        ];
        let create = NLM_F_CREATE | NLM_F_REPLACE;
        self.act(Message::NewNeighbour(message), create, || {
            format!("add neighbour {addr}")
        })
    }

    /// Adds a route to `to`/`prefix_len` out of `name`, by a gateway if given.
    pub fn add_route(
        &self,
        name: &str,
        to: IpAddr,
        prefix_len: u8,
        gateway: Option<IpAddr>,
    ) -> Result<()> {
        let mut message = RouteMessage::default();
        message.header = RouteHeader {
            address_family: family(to),
            destination_prefix_length: prefix_len,
            table: RouteHeader::RT_TABLE_MAIN,
            protocol: RouteProtocol::Static,
            scope: if gateway.is_some() {
                RouteScope::Universe
            } else {
                RouteScope::Link
            },
            kind: RouteType::Unicast,
            ..RouteHeader::default()
        };
        message.attributes = vec![
            RouteAttribute::Destination(RouteAddress::from(to)),
            RouteAttribute::Oif(self.index(name)?),
        ];
        let gateway = gateway.map(|g| RouteAttribute::Gateway(RouteAddress::from(g)));
        message.attributes.extend(gateway);
        let create = NLM_F_CREATE | NLM_F_EXCL;
        self.act(Message::NewRoute(message), create, || {
            format!("add route to {to}")
        })
    }

    fn add(&self, name: &str, info: Vec<LinkInfo>) -> Result<()> {
        let mut message = named(name);
        message.attributes.push(LinkAttribute::LinkInfo(info));
        let create = NLM_F_CREATE | NLM_F_EXCL;
        self.act(Message::NewLink(message), create, || {
            format!("add link {name}")
        })
    }

    fn set(&self, name: &str, attribute: LinkAttribute) -> Result<()> {
        let index = self.index(name)?;
        self.set_by_index(index, name, attribute)
    }

    fn set_by_index(&self, index: u32, name: &str, attribute: LinkAttribute) -> Result<()> {
        let what = format!("set {attribute:?} on {name}");
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(attribute);
        self.act(Message::SetLink(message), 0, || what)
    }

    fn set_flag(&self, name: &str, flags: LinkFlags) -> Result<()> {
        let mut message = named(name);
        message.header.flags = flags;
        message.header.change_mask = LinkFlags::Up;
        self.act(Message::SetLink(message), 0, || {
            format!("set {name} up or down")
        })
    }

    fn act(&self, message: Message, flags: u16, what: impl FnOnce() -> String) -> Result<()> {
        self.netlink
            .ask(message, flags | NLM_F_ACK)
            .doing(what)
            .map(drop)
    }
}

impl AsFd for Links {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }
}

fn named(name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.into()));
    message
}

fn family(addr: IpAddr) -> AddressFamily {
    match addr {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn as_link(message: &Message) -> Option<Link> {
    let Message::NewLink(message) = message else {
        return None;
    };
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mtu: 0,
        tx_queue_len: 0,
        mac: None,
        up: flags.contains(LinkFlags::Up),
        running: flags.contains(LinkFlags::Running),
        promiscuity: 0,
        xdp: false,
        stats: LinkStats::default(),
    };
    for attribute in &message.attributes {
        fill(&mut link, attribute);
    }
    Some(link)
}

fn fill(link: &mut Link, attribute: &LinkAttribute) {
    match attribute {
        LinkAttribute::IfName(name) => link.name.clone_from(name),
        LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
        LinkAttribute::TxQueueLen(packets) => link.tx_queue_len = *packets,
        LinkAttribute::Address(mac) => link.mac = mac.as_slice().try_into().ok(),
        LinkAttribute::Promiscuity(count) => link.promiscuity = *count,
        LinkAttribute::Xdp(facts) => {
            let none = |fact: &LinkXdp| *fact == LinkXdp::Attached(XdpAttached::None);
            link.xdp = !facts.is_empty() && !facts.iter().any(none);
        }
        LinkAttribute::Stats64(s) => {
            link.stats = LinkStats {
                rx_packets: s.rx_packets,
                tx_packets: s.tx_packets,
                rx_bytes: s.rx_bytes,
                tx_bytes: s.tx_bytes,
                rx_dropped: s.rx_dropped,
                tx_dropped: s.tx_dropped,
                rx_errors: s.rx_errors,
                tx_errors: s.tx_errors,
            }
        }
        _ => {}
    }
}
