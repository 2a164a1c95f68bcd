//! `struct virtio_net_hdr` and its longer forms (virtio 1.3 section 5.1.6), little-endian.
//!
//! A legacy device writes the 10-byte form in the guest's byte order, and a TAP device in the
//! host's; on the machines at hand that is the same.

use super::{Error, Transport, checksum, parse};
use crate::builder::Link;

/// The flags (virtio 1.3 section 5.1.6).
pub mod vnet_flags {
    pub const NEEDS_CSUM: u8 = 1;
    pub const DATA_VALID: u8 = 2;
    pub const RSC_INFO: u8 = 4;
}

/// The GSO types (virtio 1.3 section 5.1.6).
pub mod vnet_gso {
    pub const NONE: u8 = 0;
    pub const TCPV4: u8 = 1;
    pub const UDP: u8 = 3;
    pub const TCPV6: u8 = 4;
    pub const UDP_L4: u8 = 5;
    pub const UDP_TUNNEL_IPV4: u8 = 0x20;
    pub const UDP_TUNNEL_IPV6: u8 = 0x40;
    /// A flag beside the type.
    pub const ECN: u8 = 0x80;
}

/// How long a header is.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum VnetForm {
    /// 10 bytes: legacy without mergeable buffers, and TAP's default.
    Plain,
    /// 12 bytes, with `num_buffers`: version 1, or mergeable buffers.
    Merged,
    /// 20 bytes, with the hash: `VIRTIO_NET_F_HASH_REPORT`.
    Hashed,
}

impl VnetForm {
    /// The length in bytes.
    #[must_use]
    pub fn len_bytes(self) -> usize {
        match self {
            Self::Plain => 10,
            Self::Merged => 12,
            Self::Hashed => 20,
        }
    }
}

/// What the device hashed.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct VnetHash {
    pub value: u32,
    pub report: u16,
}

/// The header. Fields that a form lacks are zero.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct VnetHeader {
    pub flags: u8,
    pub gso_type: u8,
    pub hdr_len: u16,
    pub gso_size: u16,
    /// With `RSC_INFO`: the number of coalesced packets.
    pub csum_start: u16,
    /// With `RSC_INFO`: the number of duplicated ACKs.
    pub csum_offset: u16,
    pub num_buffers: u16,
    pub hash: VnetHash,
}

impl VnetHeader {
    /// The header of a packet of TCP or UDP whose checksum is partial; `gso_type` and `gso_size`
    /// are taken as given (`vnet_gso::NONE` and 0 for no super-packet).
    ///
    /// # Errors
    ///
    /// If the packet is neither TCP nor UDP.
    pub fn needs_csum(
        link: Link,
        bytes: &[u8],
        gso_type: u8,
        gso_size: u16,
    ) -> Result<Self, Error> {
        let packet = parse(link, bytes)?;
        let csum_offset = match packet.transport {
            Transport::Tcp(_) => 16,
            Transport::Udp(_) => 6,
            Transport::Other(_) | Transport::None => return Err(Error::new("neither TCP nor UDP")),
        };
        Ok(Self {
            flags: vnet_flags::NEEDS_CSUM,
            gso_type,
            hdr_len: packet.payload_at as u16,
            gso_size,
            csum_start: packet.l4_at as u16,
            csum_offset,
            ..Self::default()
        })
    }

    /// The bytes of one form; fields that it lacks are left out.
    #[must_use]
    pub fn encode(&self, form: VnetForm) -> Vec<u8> {
        let mut bytes = vec![self.flags, self.gso_type];
        bytes.extend(self.hdr_len.to_le_bytes());
        bytes.extend(self.gso_size.to_le_bytes());
        bytes.extend(self.csum_start.to_le_bytes());
        bytes.extend(self.csum_offset.to_le_bytes());
        bytes.extend(self.num_buffers.to_le_bytes());
        bytes.extend(self.hash.value.to_le_bytes());
        bytes.extend(self.hash.report.to_le_bytes());
        bytes.extend([0, 0]);
        bytes.truncate(form.len_bytes());
        bytes
    }

    /// The header at the front of `bytes`, or `None` if they are too few.
    #[must_use]
    pub fn decode(form: VnetForm, bytes: &[u8]) -> Option<Self> {
        let mut header = bytes.get(..form.len_bytes())?.to_vec();
        header.resize(20, 0);
        let u16_at = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        Some(Self {
            flags: header[0],
            gso_type: header[1],
            hdr_len: u16_at(2),
            gso_size: u16_at(4),
            csum_start: u16_at(6),
            csum_offset: u16_at(8),
            num_buffers: u16_at(10),
            hash: VnetHash {
                value: u32::from(u16_at(14)) << 16 | u32::from(u16_at(12)),
                report: u16_at(16),
            },
        })
    }
}

/// Does what `NEEDS_CSUM` asks for: sums from `csum_start` to the end, with the partial sum that is
/// in the field, and stores the complement there. `udp` says that a zero becomes `0xFFFF`.
///
/// # Panics
///
/// If the field is not within the packet.
pub fn complete_checksum(packet: &mut [u8], csum_start: usize, csum_offset: usize, udp: bool) {
    let check = match checksum(&packet[csum_start..]) {
        0 if udp => 0xFFFF,
        check => check,
    };
    let at = csum_start + csum_offset;
    packet[at..at + 2].copy_from_slice(&check.to_be_bytes());
}
