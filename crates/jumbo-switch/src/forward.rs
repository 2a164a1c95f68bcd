//! Which port a packet leaves by: a pure decision over its addresses and the table.

use jumbo_engine::packet::Packet;
use jumbo_engine::reasons;

use crate::fdb::{Fdb, Station};
use crate::topology::PortId;

reasons! {
    /// Why was a packet not forwarded to any port?
    pub enum Stay in "forward" {
        /// Its destination is behind the port it came from.
        SamePort = "same_port",
        /// It goes to every port, and there is no other.
        NoOtherPort = "no_other_port",
        /// Its source address is a group address, which no station has.
        SourceIsGroup = "source_is_group",
        /// A link-local group address (01:80:c2:00:00:00 to 0f: pause, spanning
        /// tree, LLDP), which bridges do not forward (IEEE 802.1Q section 8.6.3).
        LinkLocalGroup = "link_local_group",
        /// The port it should leave by went away in this very burst.
        PortGone = "port_gone",
        /// It has no Ethernet header, and there is not exactly one other port of its kind.
        NoEthernet = "no_ethernet",
    }
}

/// Where a packet goes.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// One port.
    Port(PortId),
    /// Every port but the one it came from.
    Flood,
    /// Nowhere.
    Stay(Stay),
}

/// The source of a packet, if it may be learned.
#[inline]
pub fn source(packet: &Packet) -> Result<Station, Stay> {
    let mac = packet.src_mac().ok_or(Stay::NoEthernet)?;
    if mac[0] & 1 != 0 {
        return Err(Stay::SourceIsGroup);
    }
    Ok(Station {
        vid: packet.tags().outer_vid(),
        mac,
    })
}

/// Where the packet says that it comes from and goes to, of whatever kind those addresses
/// are; `None` if it has none.
#[inline]
pub fn ends(packet: &Packet) -> Option<(Station, Station)> {
    let vid = packet.tags().outer_vid();
    let station = |mac| Station { vid, mac };
    Some((station(packet.src_mac()?), station(packet.dst_mac()?)))
}

/// Where the packet goes.
#[inline]
pub fn forward(packet: &Packet, came_by: PortId, fdb: &Fdb, now_s: u32) -> Destination {
    let Some(mac) = packet.dst_mac() else {
        return Destination::Stay(Stay::NoEthernet);
    };
    if mac[0] & 1 != 0 {
        if mac[..5] == [0x01, 0x80, 0xc2, 0, 0] && mac[5] & 0xf0 == 0 {
            return Destination::Stay(Stay::LinkLocalGroup);
        }
        return Destination::Flood;
    }
    let station = Station {
        vid: packet.tags().outer_vid(),
        mac,
    };
    match fdb.find(station, now_s) {
        Some(port) if port == came_by => Destination::Stay(Stay::SamePort),
        Some(port) => Destination::Port(port),
        None => Destination::Flood,
    }
}
