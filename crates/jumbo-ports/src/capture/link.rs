//! Link types, and what each means for a switch: Ethernet, IP, or a reason why neither.

use std::fmt;

use super::reader::Record;

/// What the bytes of a record begin with (<https://www.tcpdump.org/linktypes.html>).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LinkType {
    /// 1: an Ethernet header.
    Ethernet,
    /// 101, and 12 and 14 as some systems write it: an IPv4 or IPv6 header.
    RawIp,
    /// 228: an IPv4 header.
    Ipv4,
    /// 229: an IPv6 header.
    Ipv6,
    /// 113: the 16-byte cooked header of Linux's `any` device.
    LinuxSll,
    /// 276: the 20-byte cooked header of Linux's `any` device.
    LinuxSll2,
    /// 0: a BSD address family in the byte order of the capturing machine.
    Null,
    /// 108: a BSD address family in network byte order.
    Loopback,
    /// Any other, by number.
    Other(u32),
}

impl From<u32> for LinkType {
    fn from(number: u32) -> Self {
        match number {
            0 => LinkType::Null,
            1 => LinkType::Ethernet,
            12 | 14 | 101 => LinkType::RawIp,
            108 => LinkType::Loopback,
            113 => LinkType::LinuxSll,
            228 => LinkType::Ipv4,
            229 => LinkType::Ipv6,
            276 => LinkType::LinuxSll2,
            other => LinkType::Other(other),
        }
    }
}

impl LinkType {
    /// The number that files written by us use.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            LinkType::Null => 0,
            LinkType::Ethernet => 1,
            LinkType::RawIp => 101,
            LinkType::Loopback => 108,
            LinkType::LinuxSll => 113,
            LinkType::Ipv4 => 228,
            LinkType::Ipv6 => 229,
            LinkType::LinuxSll2 => 276,
            LinkType::Other(number) => number,
        }
    }
}

impl fmt::Display for LinkType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            LinkType::Ethernet => "Ethernet",
            LinkType::RawIp => "raw IP",
            LinkType::Ipv4 => "raw IPv4",
            LinkType::Ipv6 => "raw IPv6",
            LinkType::LinuxSll => "Linux cooked v1",
            LinkType::LinuxSll2 => "Linux cooked v2",
            LinkType::Null => "BSD null",
            LinkType::Loopback => "BSD loopback",
            LinkType::Other(number) => return write!(f, "link type {number}"),
        };
        f.write_str(name)
    }
}

/// A record in a form the engine takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Normalised<'a> {
    /// Bytes that begin with an Ethernet header.
    Ethernet(&'a [u8]),
    /// Bytes that begin with an IP header; its version is in the bytes, which may be cut.
    Ip(&'a [u8]),
    /// Neither can be had from it.
    Unusable(LinkReason),
}

/// Why a record has neither Ethernet nor IP to offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LinkReason {
    /// The capture was made on a kind of link we do not read.
    UnsupportedLink(LinkType),
    /// Fewer bytes were captured than the link's header has.
    TruncatedLinkHeader {
        /// Bytes the header has.
        need: u32,
        /// Bytes captured.
        have: u32,
    },
    /// A cooked packet with a VLAN tag: its Ethernet header is gone.
    CookedVlan,
    /// A cooked or loopback packet that is not IP: the EtherType, or the address family.
    NotIp(u32),
}

impl LinkReason {
    /// A short stable name for counters and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            LinkReason::UnsupportedLink(_) => "unsupported_link",
            LinkReason::TruncatedLinkHeader { .. } => "truncated_link_header",
            LinkReason::CookedVlan => "cooked_vlan",
            LinkReason::NotIp(_) => "cooked_not_ip",
        }
    }
}

impl fmt::Display for LinkReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LinkReason::UnsupportedLink(link) => {
                write!(
                    f,
                    "captured on {link}; capture on an Ethernet or IP interface"
                )
            }
            LinkReason::TruncatedLinkHeader { need, have } => write!(
                f,
                "only {have} of the link header's {need} bytes were captured; use a larger snap length"
            ),
            LinkReason::CookedVlan => f.write_str(
                "has a VLAN tag in a cooked capture; capture on the interface, not on \"any\"",
            ),
            LinkReason::NotIp(kind) => write!(f, "is not IP (type {kind:#06x})"),
        }
    }
}

const SLL_LEN: usize = 16;
const SLL2_LEN: usize = 20;
const FAMILY_LEN: usize = 4;

/// Strips cooked and loopback headers; Ethernet and raw IP pass as they are.
///
/// Does not look into the IP header: short or false ones are for the engine's parser to
/// name.
#[must_use]
pub fn ip_or_ethernet<'a>(record: &Record<'a>) -> Normalised<'a> {
    let data = record.data;
    match record.link {
        LinkType::Ethernet => Normalised::Ethernet(data),
        LinkType::RawIp | LinkType::Ipv4 | LinkType::Ipv6 => Normalised::Ip(data),
        LinkType::LinuxSll => cooked::<SLL_LEN>(data, 14),
        LinkType::LinuxSll2 => cooked::<SLL2_LEN>(data, 0),
        LinkType::Null => by_family(data, |f| {
            bsd_is_ip(u32::from_le_bytes(f)) || bsd_is_ip(u32::from_be_bytes(f))
        }),
        LinkType::Loopback => by_family(data, |f| bsd_is_ip(u32::from_be_bytes(f))),
        LinkType::Other(_) => Normalised::Unusable(LinkReason::UnsupportedLink(record.link)),
    }
}

/// A cooked header of `LEN` bytes with the EtherType at `protocol_at`.
fn cooked<const LEN: usize>(data: &[u8], protocol_at: usize) -> Normalised<'_> {
    let Some((header, ip)) = data.split_first_chunk::<LEN>() else {
        return truncated(LEN, data.len());
    };
    match u16::from_be_bytes([header[protocol_at], header[protocol_at + 1]]) {
        0x0800 | 0x86dd => Normalised::Ip(ip),
        0x8100 | 0x88a8 | 0x9100 => Normalised::Unusable(LinkReason::CookedVlan),
        other => Normalised::Unusable(LinkReason::NotIp(u32::from(other))),
    }
}

fn by_family(data: &[u8], is_ip: impl Fn([u8; FAMILY_LEN]) -> bool) -> Normalised<'_> {
    match data.split_first_chunk::<FAMILY_LEN>() {
        None => truncated(FAMILY_LEN, data.len()),
        Some((family, ip)) if is_ip(*family) => Normalised::Ip(ip),
        Some((family, _)) => {
            let (le, be) = (u32::from_le_bytes(*family), u32::from_be_bytes(*family));
            Normalised::Unusable(LinkReason::NotIp(le.min(be)))
        }
    }
}

/// AF_INET everywhere; AF_INET6 on Linux, NetBSD/OpenBSD, FreeBSD, Darwin.
fn bsd_is_ip(family: u32) -> bool {
    matches!(family, 2 | 10 | 24 | 28 | 30)
}

fn truncated<'a>(need: usize, have: usize) -> Normalised<'a> {
    // A header is some bytes and `have` is less than that.
    Normalised::Unusable(LinkReason::TruncatedLinkHeader {
        need: need as u32,
        have: have as u32,
    })
}
