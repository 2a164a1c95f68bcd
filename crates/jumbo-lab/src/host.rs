//! Two hosts and the link between them: the smallest network to measure on.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::error::{Doing, Result};
use crate::link::{Links, Mac};
use crate::ns::NetNs;

/// The IP version of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A namespace that plays one machine: an IPv4 and an IPv6 address of its own.
#[derive(Debug, Clone)]
pub struct Host {
    /// Its network.
    pub ns: NetNs,
    /// 10.0.0.N.
    pub v4: Ipv4Addr,
    /// fd00::N.
    pub v6: Ipv6Addr,
}

impl Host {
    /// A host in a fresh namespace with addresses 10.0.0.`number`/24 and
    /// fd00::`number`/64, which [`Host::plug`] puts on a link.
    pub fn new(number: u8) -> Result<Self> {
        Ok(Self::inside(NetNs::new()?, number))
    }

    /// The same in a namespace that is already there.
    pub fn inside(ns: NetNs, number: u8) -> Self {
        Self {
            ns,
            v4: Ipv4Addr::new(10, 0, 0, number),
            v6: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number.into()),
        }
    }

    /// The host's address of one family.
    pub fn addr(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4.into(),
            Family::V6 => self.v6.into(),
        }
    }

    /// The host's address of one family with a port (0 to let the kernel choose).
    pub fn socket_addr(&self, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(self.addr(family), port)
    }

    /// Puts both addresses on link `name` of this host and sets it up.
    pub fn plug(&self, name: &str) -> Result<()> {
        let links = self.ns.links()?;
        links.add_address(name, self.v4.into(), 24)?;
        links.up(name)?;
        links.add_address(name, self.v6.into(), 64)
    }

    /// Tells this host the other's MAC address, so that neither ARP nor
    /// neighbour discovery is needed on `name`.
    pub fn knows(&self, name: &str, other: &Self, mac: Mac) -> Result<()> {
        let links = self.ns.links()?;
        links.add_neighbour(name, other.v4.into(), mac)?;
        links.add_neighbour(name, other.v6.into(), mac)
    }

    /// Packets its IP layer has received, after the kernel's own GRO: a
    /// super-packet counts as one. Source: RFC 4293 `InReceives`, as in
    /// /proc/net/snmp and /proc/net/snmp6.
    pub fn ip_received(&self, family: Family) -> Result<u64> {
        let (file, find): (_, fn(&str) -> Option<u64>) = match family {
            Family::V4 => ("snmp", in_receives_v4),
            Family::V6 => ("snmp6", in_receives_v6),
        };
        let path = format!("/proc/thread-self/net/{file}");
        let text = self
            .ns
            .run(|| fs::read_to_string(&path))?
            .doing(|| format!("read {path}"))?;
        find(&text)
            .ok_or(io::ErrorKind::InvalidData)
            .doing(|| format!("read {path}"))
    }

    /// Its links.
    pub fn links(&self) -> Result<Links> {
        self.ns.links()
    }
}

/// Two hosts, 1 and 2, joined by a veth pair whose ends are both called `name`.
pub fn veth_pair(name: &str) -> Result<(Host, Host)> {
    let (a, b) = (Host::new(1)?, Host::new(2)?);
    a.links()?.add_veth(name, name, &b.ns)?;
    a.plug(name)?;
    b.plug(name)?;
    for host in [&a, &b] {
        host.links()?.wait_running(name)?;
    }
    Ok((a, b))
}

/// A line of names and, below it, one of numbers, both beginning with `Ip:`.
fn in_receives_v4(text: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Ip:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let at = names
        .split_whitespace()
        .position(|name| name == "InReceives")?;
    values.split_whitespace().nth(at)?.parse().ok()
}

fn in_receives_v6(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Ip6InReceives"))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn received_packets_are_found_by_name() {
        let text = "Ip: Forwarding InReceives InHdrErrors\nIp: 1 77 0\nIcmp: InMsgs\nIcmp: 5\n";
        assert_eq!(in_receives_v4(text), Some(77));
        assert_eq!(in_receives_v4("Tcp: a\nTcp: 1\n"), None);
        let text = "Ip6InReceives                   \t18\nIp6InHdrErrors \t0\n";
        assert_eq!(in_receives_v6(text), Some(18));
    }
}
