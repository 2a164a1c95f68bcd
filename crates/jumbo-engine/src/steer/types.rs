//! Hash types: which of a packet's fields are hashed, as virtio and Windows number them.

use core::fmt;
use core::ops::BitOr;

/// A set of hash types, with virtio's bits (virtio 1.3 section 5.1.6.4.3.1; NDIS has the same types
/// under other bits).
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default)]
pub struct HashTypes(u32);

impl HashTypes {
    /// Nothing is hashed.
    pub const NONE: Self = Self(0);
    /// IPv4 addresses.
    pub const IPV4: Self = Self(1);
    /// IPv4 addresses and TCP ports.
    pub const TCPV4: Self = Self(1 << 1);
    /// IPv4 addresses and UDP ports.
    pub const UDPV4: Self = Self(1 << 2);
    /// IPv6 addresses.
    pub const IPV6: Self = Self(1 << 3);
    /// IPv6 addresses and TCP ports.
    pub const TCPV6: Self = Self(1 << 4);
    /// IPv6 addresses and UDP ports.
    pub const UDPV6: Self = Self(1 << 5);
    /// As [`IPV6`](Self::IPV6), with the addresses that extension headers hold.
    pub const IP_EX: Self = Self(1 << 6);
    /// As [`TCPV6`](Self::TCPV6), with the addresses that extension headers hold.
    pub const TCP_EX: Self = Self(1 << 7);
    /// As [`UDPV6`](Self::UDPV6), with the addresses that extension headers hold.
    pub const UDP_EX: Self = Self(1 << 8);

    /// Every type this version knows.
    pub const ALL: Self = Self((1 << 9) - 1);

    /// Addresses and, for TCP, ports: what is usually on. UDP is not, since the fragments of a
    /// datagram would go elsewhere than its neighbours and overtake them.
    pub const USUAL: Self = Self(Self::IPV4.0 | Self::TCPV4.0 | Self::IPV6.0 | Self::TCPV6.0);

    /// The set with these bits; `None` if one of them means nothing.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Option<Self> {
        if bits & !Self::ALL.0 == 0 {
            Some(Self(bits))
        } else {
            None
        }
    }

    /// The bits.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether all of `other` are in the set.
    #[inline]
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether the set is empty.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl BitOr for HashTypes {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The type that a packet's hash was made by, with virtio's number for `hash_report` (virtio 1.3
/// section 5.1.6.4.3.5).
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default)]
#[repr(u16)]
pub enum HashReport {
    /// No hash.
    #[default]
    None = 0,
    /// [`HashTypes::IPV4`].
    Ipv4 = 1,
    /// [`HashTypes::TCPV4`].
    TcpV4 = 2,
    /// [`HashTypes::UDPV4`].
    UdpV4 = 3,
    /// [`HashTypes::IPV6`].
    Ipv6 = 4,
    /// [`HashTypes::TCPV6`].
    TcpV6 = 5,
    /// [`HashTypes::UDPV6`].
    UdpV6 = 6,
    /// [`HashTypes::IP_EX`].
    Ipv6Ex = 7,
    /// [`HashTypes::TCP_EX`].
    TcpV6Ex = 8,
    /// [`HashTypes::UDP_EX`].
    UdpV6Ex = 9,
}

impl HashReport {
    /// The number for the `hash_report` field.
    #[inline]
    #[must_use]
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// The set of this type alone.
    #[inline]
    #[must_use]
    pub const fn as_type(self) -> HashTypes {
        match self {
            Self::None => HashTypes::NONE,
            _ => HashTypes(1 << (self as u32 - 1)),
        }
    }
}

impl fmt::Display for HashReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Ipv4 => "ipv4",
            Self::TcpV4 => "tcpv4",
            Self::UdpV4 => "udpv4",
            Self::Ipv6 => "ipv6",
            Self::TcpV6 => "tcpv6",
            Self::UdpV6 => "udpv6",
            Self::Ipv6Ex => "ipv6_ex",
            Self::TcpV6Ex => "tcpv6_ex",
            Self::UdpV6Ex => "udpv6_ex",
        })
    }
}
