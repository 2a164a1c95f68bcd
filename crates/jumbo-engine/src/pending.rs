//! Pending work: what is not yet true of a packet's bytes.
//!
//! A checksum that was left partial, a super-packet still to be segmented. Ports
//! translate pending work from and to their own form (`virtio_net_hdr`, AF_PACKET
//! metadata); only [`crate::complete`] does the work.

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
}

/// How a super-packet is to be segmented.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Gso {
    /// The protocol.
    pub kind: GsoKind,
    /// Payload bytes of every segment but the last, which may be shorter. Never 0.
    pub size: u16,
    /// Where CWR goes, if it is set.
    pub cwr: Cwr,
    /// All segments carry the same IPv4 ID instead of counting up.
    pub fixed_id: bool,
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

/// What a port takes, or hands us, beyond finished packets of its MTU.
///
/// Built only by [`Caps::new`], which normalises: segmentation implies checksum.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default, Hash)]
pub struct Caps {
    csum: bool,
    tso4: bool,
    tso6: bool,
    tso_ecn: bool,
    uso: bool,
    rsc_info: bool,
    udp_tunnel: bool,
    udp_tunnel_csum: bool,
}

impl Caps {
    /// Finished packets only.
    pub const NONE: Self = Self {
        csum: false,
        tso4: false,
        tso6: false,
        tso_ecn: false,
        uso: false,
        rsc_info: false,
        udp_tunnel: false,
        udp_tunnel_csum: false,
    };

    /// Every kind of pending work that a virtio header of 10 bytes can say.
    pub const ALL: Self = Self {
        csum: true,
        tso4: true,
        tso6: true,
        tso_ecn: true,
        uso: true,
        rsc_info: false,
        udp_tunnel: false,
        udp_tunnel_csum: false,
    };

    /// A set with the virtio dependencies enforced (virtio 1.3 section 5.1.3.1):
    /// no segmentation without partial checksums, no ECN without TSO.
    pub const fn new(csum: bool, tso4: bool, tso6: bool, tso_ecn: bool, uso: bool) -> Self {
        Self {
            csum,
            tso4: tso4 && csum,
            tso6: tso6 && csum,
            tso_ecn: tso_ecn && csum && (tso4 || tso6),
            uso: uso && csum,
            rsc_info: false,
            udp_tunnel: false,
            udp_tunnel_csum: false,
        }
    }

    /// The same set, whose receiver wants to be told how many segments a lossy
    /// aggregate had (VIRTIO_NET_F_RSC_EXT); needs TSO.
    pub const fn with_rsc_info(self, wanted: bool) -> Self {
        let rsc_info = wanted && (self.tso4 || self.tso6);
        Self { rsc_info, ..self }
    }

    /// The same set with super-packets in UDP tunnels, and with those whose outer UDP
    /// checksum is in use (VIRTIO_NET_F_HOST_UDP_TUNNEL_GSO and _CSUM, or GUEST_). Needs a
    /// header form that can say so ([`crate::vnet::Form::Tunnel24`]), and what goes into the
    /// tunnel: both kinds of TSO (virtio 1.4 section 5.1.3.1).
    pub const fn with_udp_tunnels(self, wanted: bool, with_csum: bool) -> Self {
        let udp_tunnel = wanted && self.tso4 && self.tso6;
        Self {
            udp_tunnel,
            udp_tunnel_csum: udp_tunnel && with_csum,
            ..self
        }
    }

    /// The set less one kind of super-packet.
    pub const fn without(self, kind: GsoKind) -> Self {
        Self::new(
            self.csum,
            self.tso4 && !matches!(kind, GsoKind::Tcp4),
            self.tso6 && !matches!(kind, GsoKind::Tcp6),
            self.tso_ecn,
            self.uso && !matches!(kind, GsoKind::Udp),
        )
        .with_rsc_info(self.rsc_info)
        .with_udp_tunnels(self.udp_tunnel, self.udp_tunnel_csum)
    }

    /// What both sets have.
    pub const fn and(self, other: Self) -> Self {
        Self::new(
            self.csum && other.csum,
            self.tso4 && other.tso4,
            self.tso6 && other.tso6,
            self.tso_ecn && other.tso_ecn,
            self.uso && other.uso,
        )
        .with_rsc_info(self.rsc_info && other.rsc_info)
        .with_udp_tunnels(
            self.udp_tunnel && other.udp_tunnel,
            self.udp_tunnel_csum && other.udp_tunnel_csum,
        )
    }

    /// Partial transport checksums.
    pub const fn csum(self) -> bool {
        self.csum
    }
    /// TCP super-packets over IPv4.
    pub const fn tso4(self) -> bool {
        self.tso4
    }
    /// TCP super-packets over IPv6.
    pub const fn tso6(self) -> bool {
        self.tso6
    }
    /// TCP super-packets whose first segment carries CWR.
    pub const fn tso_ecn(self) -> bool {
        self.tso_ecn
    }
    /// UDP super-packets.
    pub const fn uso(self) -> bool {
        self.uso
    }
    /// The number of segments of a lossy aggregate.
    pub const fn rsc_info(self) -> bool {
        self.rsc_info
    }

    /// Super-packets in UDP tunnels.
    pub const fn udp_tunnel(self) -> bool {
        self.udp_tunnel
    }
    /// Super-packets in UDP tunnels whose outer checksum is in use.
    pub const fn udp_tunnel_csum(self) -> bool {
        self.udp_tunnel_csum
    }

    /// The tunnels whose super-packets may leave whole.
    pub const fn tunnels(self) -> Tunnels {
        match (self.udp_tunnel, self.udp_tunnel_csum) {
            (false, _) => Tunnels::None,
            (true, false) => Tunnels::Udp,
            (true, true) => Tunnels::UdpCsum,
        }
    }

    /// Whether a super-packet of this kind may leave whole.
    pub const fn takes(self, kind: GsoKind) -> bool {
        match kind {
            GsoKind::Tcp4 => self.tso4,
            GsoKind::Tcp6 => self.tso6,
            GsoKind::Udp => self.uso,
        }
    }
}
