//! Packets in tunnels, built and cut without a line of the engine.

use jumbo_engine::packet::Link;
use jumbo_testkit::PacketBuilder;
use jumbo_testkit::oracle::{self, Gso};

/// What goes around a packet.
#[derive(Clone, Debug)]
pub(crate) struct Outer {
    /// Addresses, TTL, TOS, tags, and whether there is an Ethernet header.
    pub(crate) base: PacketBuilder,
    pub(crate) kind: Kind,
    pub(crate) src_port: u16,
    pub(crate) csum: bool,
    pub(crate) id: u16,
    pub(crate) fixed_id: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    Vxlan {
        vni: u32,
    },
    /// Options in steps of four bytes; an inner Ethernet header or none.
    Geneve {
        options: Vec<u8>,
        bridged: bool,
    },
    Gre {
        key: Option<u32>,
        bridged: bool,
    },
    Ip,
}

impl Outer {
    pub(crate) fn new(kind: Kind) -> Self {
        Self {
            base: PacketBuilder::ethernet().ipv4([10, 0, 0, 1], [10, 0, 0, 2]),
            kind,
            src_port: 51234,
            csum: false,
            id: 77,
            fixed_id: false,
        }
    }

    pub(crate) fn vxlan() -> Self {
        Self::new(Kind::Vxlan { vni: 42 })
    }

    pub(crate) fn csum(self) -> Self {
        Self { csum: true, ..self }
    }

    pub(crate) fn v6(self) -> Self {
        let base = self.base.ipv6([0xfd; 16], [0xfe; 16]);
        Self { base, ..self }
    }

    pub(crate) fn id(self, id: u16) -> Self {
        Self { id, ..self }
    }

    pub(crate) fn fixed_id(self) -> Self {
        Self {
            fixed_id: true,
            ..self
        }
    }

    /// Changes the outer IP header.
    pub(crate) fn with(self, change: impl FnOnce(PacketBuilder) -> PacketBuilder) -> Self {
        let base = change(self.base);
        Self { base, ..self }
    }

    /// Whether the packet inside begins with an Ethernet header.
    pub(crate) fn inner_link(&self) -> Link {
        match self.kind {
            Kind::Vxlan { .. }
            | Kind::Geneve { bridged: true, .. }
            | Kind::Gre { bridged: true, .. } => Link::Ethernet,
            _ => Link::RawIp,
        }
    }

    pub(crate) fn inner_base(&self) -> PacketBuilder {
        match self.inner_link() {
            Link::Ethernet => PacketBuilder::ethernet().macs([6; 6], [4; 6]),
            Link::RawIp => PacketBuilder::raw_ip(),
        }
    }

    pub(crate) fn is_udp(&self) -> bool {
        matches!(self.kind, Kind::Vxlan { .. } | Kind::Geneve { .. })
    }

    fn protocol(&self, inner: &[u8]) -> u16 {
        match (self.inner_link(), inner.first().map_or(0, |byte| byte >> 4)) {
            (Link::Ethernet, _) => 0x6558,
            (_, 6) => 0x86dd,
            _ => 0x0800,
        }
    }

    /// All between the outer IP or UDP header and the inner packet.
    pub(crate) fn shim(&self, inner: &[u8]) -> Vec<u8> {
        let protocol = self.protocol(inner).to_be_bytes();
        match &self.kind {
            Kind::Vxlan { vni } => [&[8, 0, 0, 0][..], &(vni << 8).to_be_bytes()].concat(),
            Kind::Geneve { options, .. } => {
                let len = (options.len() / 4) as u8;
                [&[len, 0], &protocol[..], &[0, 0, 9, 0], options].concat()
            }
            Kind::Gre { key: None, .. } => [&[0, 0], &protocol[..]].concat(),
            Kind::Gre { key: Some(key), .. } => {
                [&[0x20, 0], &protocol[..], &key.to_be_bytes()].concat()
            }
            Kind::Ip => Vec::new(),
        }
    }

    /// The `index`-th packet of a train, finished.
    pub(crate) fn wrap(&self, inner: &[u8], index: usize) -> Vec<u8> {
        self.builder(inner, index).build()
    }

    pub(crate) fn wrap_all(&self, inner: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let each = inner.iter().enumerate();
        each.map(|(index, inner)| self.wrap(inner, index)).collect()
    }

    pub(crate) fn builder(&self, inner: &[u8], index: usize) -> PacketBuilder {
        let id = match self.fixed_id {
            true => self.id,
            false => self.id.wrapping_add(index as u16),
        };
        let body = [self.shim(inner), inner.to_vec()].concat();
        let packet = self.base.clone().id(id);
        let packet = match &self.kind {
            Kind::Vxlan { .. } => packet.udp(self.src_port, 4789),
            Kind::Geneve { .. } => packet.udp(self.src_port, 6081),
            Kind::Gre { .. } => packet.ip_proto(47),
            Kind::Ip if inner[0] >> 4 == 6 => packet.ip_proto(41),
            Kind::Ip => packet.ip_proto(4),
        };
        let packet = packet.payload(&body);
        match self.csum || !self.is_udp() {
            true => packet,
            false => packet.no_checksum(),
        }
    }

    /// Cuts the inner packet by the book and wraps each segment anew.
    pub(crate) fn segment(&self, inner: &[u8], gso: Gso) -> Vec<Vec<u8>> {
        let link = super::oracle_link(self.inner_link());
        let inner = oracle::segment(link, inner, gso).expect("a super-packet");
        self.wrap_all(&inner)
    }
}
