//! Pending work: what is not yet true of a packet's bytes.
//!
//! A checksum that was left partial, a super-packet still to be segmented. Ports
//! translate pending work from and to their own form (`virtio_net_hdr`, AF_PACKET
//! metadata); only [`crate::complete`] does the work.

use core::fmt;

use crate::segment::segments;
use crate::superpacket::{L3_TOTAL_BIG_MAX, L3_TOTAL_MAX};
use crate::tunnel::Tunnels;

/// State of the transport checksum.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default)]
pub enum Csum {
    /// The bytes hold whatever the sender wrote; nobody checked it.
    #[default]
    Unverified,
    /// Somebody we trust checked it.
    Verified,
    /// The field at `start + offset` holds the folded pseudo-header sum; the sum
    /// from `start` to the end is still to be added. Both count from the first
    /// byte of the packet, VLAN tags left out.
    Partial {
        /// First byte to be summed.
        start: u16,
        /// Where the result goes, counted from `start`.
        offset: u16,
    },
}

/// Which segments of a super-packet carry CWR.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default)]
pub enum Cwr {
    /// The first alone (RFC 3168 section 6.1.2, Linux SKB_GSO_TCP_ECN).
    #[default]
    FirstOnly,
    /// All of them: every merged packet had it (Linux SKB_GSO_TCP_ACCECN).
    All,
}

/// The protocol by which a super-packet is segmented.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum GsoKind {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP over IPv4 or IPv6, one datagram per piece (USO).
    Udp,
    /// One UDP datagram over IPv4 or IPv6, to be fragmented by IP (UFO).
    Ufo,
}

/// How a super-packet is to be segmented.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Gso {
    /// The protocol.
    pub kind: GsoKind,
    /// Payload bytes of every segment but the last, which may be shorter. Never 0. For
    /// [`GsoKind::Ufo`] bytes of IP payload of every fragment, a multiple of 8.
    pub size: u16,
    /// Where CWR goes, if it is set.
    pub cwr: Cwr,
    /// All segments carry the same IPv4 ID instead of counting up.
    pub fixed_id: bool,
}

impl Gso {
    /// How many packets `payload_len` bytes of payload become.
    #[inline]
    pub const fn segments(&self, payload_len: u32) -> u32 {
        let first = match self.kind {
            // The UDP header is part of what is fragmented.
            GsoKind::Ufo => 8,
            _ => 0,
        };
        segments(payload_len + first, self.size)
    }
}

/// What an aggregate was made of that segmentation cannot give back.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Lossy {
    /// Packets with payload that were merged.
    pub segments: u16,
    /// Duplicate ACKs that were merged: none, as Windows wants it.
    pub dup_acks: u16,
    /// Pure ACKs that were folded in and not counted as segments.
    pub acks: u16,
}

/// Pending work of one packet.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default)]
pub struct Pending {
    /// The transport checksum.
    pub csum: Csum,
    /// Segmentation; `None` for an ordinary packet.
    pub gso: Option<Gso>,
    /// Merged in a way that segmentation does not undo: for its receiver only.
    /// The segment size of such a super-packet is its largest.
    pub lossy: Option<Lossy>,
}

impl Pending {
    /// Nothing pending, nothing verified.
    pub const NOTHING: Self = Self {
        csum: Csum::Unverified,
        gso: None,
        lossy: None,
    };
}

/// What a port takes, or hands us, beyond finished packets of its MTU: a set of bits.
///
/// Every way to make one normalises: segmentation implies checksum, and what stands on
/// segmentation implies that (virtio 1.3 section 5.1.3.1).
#[derive(Copy, Clone, PartialEq, Eq, Default, Hash)]
pub struct Caps(u16);

const CSUM: u16 = 1 << 0;
const TSO4: u16 = 1 << 1;
const TSO6: u16 = 1 << 2;
const TSO_ECN: u16 = 1 << 3;
const USO: u16 = 1 << 4;
const RSC_INFO: u16 = 1 << 5;
const UDP_TUNNEL: u16 = 1 << 6;
const UDP_TUNNEL_CSUM: u16 = 1 << 7;
const UFO: u16 = 1 << 8;
const BIG_TCP4: u16 = 1 << 9;
const BIG_TCP6: u16 = 1 << 10;

const TSO: u16 = TSO4 | TSO6;

impl Caps {
    /// Finished packets only.
    pub const NONE: Self = Self(0);

    /// Every kind of pending work that a virtio header of 10 bytes can say.
    pub const ALL: Self = Self(CSUM | TSO | TSO_ECN | USO);

    /// A set with the virtio dependencies enforced: no segmentation without partial
    /// checksums, no ECN without TSO.
    pub const fn new(csum: bool, tso4: bool, tso6: bool, tso_ecn: bool, uso: bool) -> Self {
        let bits = when(csum, CSUM) | when(tso4, TSO4) | when(tso6, TSO6);
        Self::normalised(bits | when(tso_ecn, TSO_ECN) | when(uso, USO))
    }

    /// The same set, whose receiver wants to be told how many segments a lossy
    /// aggregate had (VIRTIO_NET_F_RSC_EXT); needs TSO.
    pub const fn with_rsc_info(self, wanted: bool) -> Self {
        Self::normalised(self.0 & !RSC_INFO | when(wanted, RSC_INFO))
    }

    /// The same set with super-packets in UDP tunnels, and with those whose outer UDP
    /// checksum is in use (VIRTIO_NET_F_HOST_UDP_TUNNEL_GSO and _CSUM, or GUEST_). Needs a
    /// header form that can say so ([`crate::vnet::Form::Tunnel24`]), and what goes into the
    /// tunnel: both kinds of TSO (virtio 1.4 section 5.1.3.1).
    pub const fn with_udp_tunnels(self, wanted: bool, with_csum: bool) -> Self {
        let tunnels = when(wanted, UDP_TUNNEL) | when(with_csum, UDP_TUNNEL_CSUM);
        Self::normalised(self.0 & !(UDP_TUNNEL | UDP_TUNNEL_CSUM) | tunnels)
    }

    /// The same set with UDP datagrams to be fragmented by IP (VIRTIO_NET_F_HOST_UFO or GUEST_UFO),
    /// which only drivers of old hand over.
    pub const fn with_ufo(self, wanted: bool) -> Self {
        Self::normalised(self.0 & !UFO | when(wanted, UFO))
    }

    /// The same set with TCP super-packets of more than 65535 bytes (Linux calls them BIG TCP), whose
    /// IP length says zero; each needs its TSO. Linux takes such IPv4 packets since 6.3 (`iph_totlen`),
    /// such IPv6 packets without a jumbo payload option (RFC 2675) only after 6.18.
    pub const fn with_big_tcp(self, v4: bool, v6: bool) -> Self {
        let big = when(v4, BIG_TCP4) | when(v6, BIG_TCP6);
        Self::normalised(self.0 & !(BIG_TCP4 | BIG_TCP6) | big)
    }

    /// The set less one kind of super-packet.
    pub const fn without(self, kind: GsoKind) -> Self {
        Self::normalised(self.0 & !kind.cap())
    }

    /// What both sets have.
    pub const fn and(self, other: Self) -> Self {
        Self::normalised(self.0 & other.0)
    }

    const fn normalised(mut bits: u16) -> Self {
        if bits & CSUM == 0 {
            bits = 0;
        }
        if bits & TSO == 0 {
            bits &= !(TSO_ECN | RSC_INFO);
        }
        if bits & TSO != TSO {
            bits &= !UDP_TUNNEL;
        }
        if bits & TSO4 == 0 {
            bits &= !BIG_TCP4;
        }
        if bits & TSO6 == 0 {
            bits &= !BIG_TCP6;
        }
        if bits & UDP_TUNNEL == 0 {
            bits &= !UDP_TUNNEL_CSUM;
        }
        Self(bits)
    }

    /// Partial transport checksums.
    #[inline]
    pub const fn csum(self) -> bool {
        self.0 & CSUM != 0
    }
    /// TCP super-packets over IPv4.
    #[inline]
    pub const fn tso4(self) -> bool {
        self.0 & TSO4 != 0
    }
    /// TCP super-packets over IPv6.
    #[inline]
    pub const fn tso6(self) -> bool {
        self.0 & TSO6 != 0
    }
    /// TCP super-packets whose first segment carries CWR.
    #[inline]
    pub const fn tso_ecn(self) -> bool {
        self.0 & TSO_ECN != 0
    }
    /// UDP super-packets.
    #[inline]
    pub const fn uso(self) -> bool {
        self.0 & USO != 0
    }
    /// TCP super-packets over IPv4 of more than 65535 bytes.
    #[inline]
    pub const fn big_tcp4(self) -> bool {
        self.0 & BIG_TCP4 != 0
    }
    /// The same over IPv6.
    #[inline]
    pub const fn big_tcp6(self) -> bool {
        self.0 & BIG_TCP6 != 0
    }
    /// Longest network packet of this kind that may leave whole, header included, in bytes.
    #[inline]
    pub const fn l3_total_max(self, kind: GsoKind) -> usize {
        match kind {
            GsoKind::Tcp4 if self.big_tcp4() => L3_TOTAL_BIG_MAX,
            GsoKind::Tcp6 if self.big_tcp6() => L3_TOTAL_BIG_MAX,
            _ => L3_TOTAL_MAX,
        }
    }
    /// UDP datagrams to be fragmented by IP.
    #[inline]
    pub const fn ufo(self) -> bool {
        self.0 & UFO != 0
    }
    /// The number of segments of a lossy aggregate.
    #[inline]
    pub const fn rsc_info(self) -> bool {
        self.0 & RSC_INFO != 0
    }

    /// Super-packets in UDP tunnels.
    #[inline]
    pub const fn udp_tunnel(self) -> bool {
        self.0 & UDP_TUNNEL != 0
    }
    /// Super-packets in UDP tunnels whose outer checksum is in use.
    #[inline]
    pub const fn udp_tunnel_csum(self) -> bool {
        self.0 & UDP_TUNNEL_CSUM != 0
    }

    /// The tunnels whose super-packets may leave whole.
    pub const fn tunnels(self) -> Tunnels {
        match (self.udp_tunnel(), self.udp_tunnel_csum()) {
            (false, _) => Tunnels::None,
            (true, false) => Tunnels::Udp,
            (true, true) => Tunnels::UdpCsum,
        }
    }

    /// Whether a super-packet of this kind may leave whole.
    #[inline]
    pub const fn takes(self, kind: GsoKind) -> bool {
        self.0 & kind.cap() != 0
    }
}

impl GsoKind {
    /// Its bit in [`Caps`].
    const fn cap(self) -> u16 {
        match self {
            Self::Tcp4 => TSO4,
            Self::Tcp6 => TSO6,
            Self::Udp => USO,
            Self::Ufo => UFO,
        }
    }
}

const fn when(wanted: bool, bits: u16) -> u16 {
    if wanted { bits } else { 0 }
}

impl fmt::Debug for Caps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (CSUM, "csum"),
            (TSO4, "tso4"),
            (TSO6, "tso6"),
            (TSO_ECN, "tso_ecn"),
            (USO, "uso"),
            (RSC_INFO, "rsc_info"),
            (UDP_TUNNEL, "udp_tunnel"),
            (UDP_TUNNEL_CSUM, "udp_tunnel_csum"),
            (UFO, "ufo"),
            (BIG_TCP4, "big_tcp4"),
            (BIG_TCP6, "big_tcp6"),
        ];
        let has = names.iter().filter(|(bit, _)| self.0 & bit != 0);
        f.write_str("Caps")?;
        f.debug_set().entries(has.map(|(_, name)| name)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every set, with the dependencies and without.
    fn all() -> impl Iterator<Item = (u16, Caps)> {
        (0..1 << 11).map(|bits| (bits, Caps::normalised(bits)))
    }

    #[test]
    fn every_set_has_what_its_members_need() {
        for (asked, caps) in all() {
            let tso = caps.tso4() || caps.tso6();
            assert!(caps.csum() || caps == Caps::NONE, "{caps:?}");
            assert!(tso || !(caps.tso_ecn() || caps.rsc_info()), "{caps:?}");
            assert!(caps.tso4() && caps.tso6() || !caps.udp_tunnel(), "{caps:?}");
            assert!(caps.udp_tunnel() || !caps.udp_tunnel_csum(), "{caps:?}");
            assert_eq!(caps.0 & !asked, 0, "nothing was added");
            assert_eq!(Caps::normalised(caps.0), caps, "once is enough");
        }
    }

    #[test]
    fn builders_make_every_set() {
        for (asked, caps) in all() {
            let has = |bit: u16| asked & bit != 0;
            let built = Caps::new(has(CSUM), has(TSO4), has(TSO6), has(TSO_ECN), has(USO))
                .with_rsc_info(has(RSC_INFO))
                .with_udp_tunnels(has(UDP_TUNNEL), has(UDP_TUNNEL_CSUM))
                .with_ufo(has(UFO))
                .with_big_tcp(has(BIG_TCP4), has(BIG_TCP6));
            assert_eq!(built, caps);
        }
    }

    #[test]
    fn taking_away_keeps_the_rest() {
        let caps = Caps::ALL.with_rsc_info(true).with_udp_tunnels(true, true);
        let less = caps.without(GsoKind::Tcp4);
        assert!(!less.takes(GsoKind::Tcp4) && !less.udp_tunnel() && !less.udp_tunnel_csum());
        assert!(less.takes(GsoKind::Tcp6) && less.takes(GsoKind::Udp) && less.rsc_info());
        let less = less.without(GsoKind::Tcp6);
        assert_eq!(less, Caps::new(true, false, false, false, true));
        assert_eq!(caps.and(Caps::ALL), Caps::ALL);
        assert_eq!(caps.and(Caps::NONE), Caps::NONE);
        let (tso4, tso6) = (
            Caps::ALL.without(GsoKind::Tcp6),
            Caps::ALL.without(GsoKind::Tcp4),
        );
        assert_eq!(tso4.and(tso6), Caps::new(true, false, false, false, true));
    }

    #[test]
    fn debug_names_what_is_in_the_set() {
        extern crate alloc;
        let caps = Caps::new(true, true, false, false, false);
        assert_eq!(alloc::format!("{caps:?}"), "Caps{\"csum\", \"tso4\"}");
        assert_eq!(core::mem::size_of::<Caps>(), 2);
    }
}
