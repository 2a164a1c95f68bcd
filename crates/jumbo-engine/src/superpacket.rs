//! The law for super-packets: what a merged packet means.
//!
//! [`crate::coalesce`] and [`crate::segment`] both obey this module and neither
//! owns it. A super-packet stands for a train of packets that are equal except
//! for these fields, each of which segmentation can recreate:
//!
//! | field | in segment *i* of *n* | source |
//! |---|---|---|
//! | IP total or payload length | its own | |
//! | IPv4 ID | first + *i* modulo 2^16, or the same in all (`fixed_id`) | Linux 6.18 `inet_gso_segment` |
//! | IPv4 header checksum | its own | |
//! | TCP sequence number | first + *i* x size modulo 2^32 | RFC 9293 section 3.4, `tcp_gso_segment` |
//! | PSH, FIN | the last only | `tcp_gso_segment` |
//! | CWR | the first only, or all (`Cwr::All`) | `tcp_gso_segment`, SKB_GSO_TCP_ECN and _ACCECN |
//! | UDP length | its own | `__udp_gso_segment` |
//! | transport checksum | its own | |
//! | payload | `size` bytes each, the last 1 to `size` | |
//!
//! What changes in the headers of a tunnel is in [`crate::tunnel`].
//! Everything else, from the MAC addresses to the TCP options, is the same in all.

use crate::checksum::Sum;
use crate::packet::{L3_AT, Net, Packet, Transport};
use crate::pending::Csum;
use crate::tunnel::{self, OuterCsum};
use crate::vnet::{TCP_CSUM, UDP_CSUM, pseudo_header};

/// Largest network packet, header included: what 16 bits of IPv4 total length can say.
pub const L3_TOTAL_MAX: usize = 65535;

/// The same where the length field says zero and the true one is told otherwise (BIG TCP): GSO_MAX_SIZE of
/// Linux `include/linux/netdevice.h`. TCP outside of tunnels only.
pub const L3_TOTAL_BIG_MAX: usize = 8 * L3_TOTAL_MAX;

/// TCP flag bits (RFC 9293 section 3.1, RFC 3168 section 6.1).
pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const URG: u8 = 0x20;
pub(crate) const ECE: u8 = 0x40;
pub(crate) const CWR: u8 = 0x80;

/// The TCP flags byte. Only meaningful for [`Transport::Tcp`].
#[inline(always)]
pub(crate) fn tcp_flags(packet: &Packet) -> u8 {
    packet.array::<1>(packet.l4_at() + 13)[0]
}

/// Whether this is a TCP packet with CWR set.
#[inline]
pub(crate) fn has_cwr(packet: &Packet) -> bool {
    packet.layers.transport == Transport::Tcp && tcp_flags(packet) & CWR != 0
}

/// IPv4 "don't fragment".
#[inline]
pub(crate) fn has_df(packet: &Packet) -> bool {
    packet.layers.net == Net::V4 && packet.be16(L3_AT + 6) & 0x4000 != 0
}

/// Sum over the IPv4 header as it stands, checksum field included.
#[inline(always)]
pub(crate) fn ipv4_header_sum(packet: &Packet) -> Sum {
    let len = usize::from(packet.layers.l3_len);
    if len == 20 {
        return Sum::ZERO.add_bytes(&packet.array::<20>(L3_AT));
    }
    Sum::ZERO.add_bytes(packet.bytes.get(L3_AT..L3_AT + len).unwrap_or(&[]))
}

/// Makes the IP length, the IPv4 header checksum and, for UDP, the UDP length
/// agree with the packet's real length.
#[inline]
pub(crate) fn settle_lengths(packet: &mut Packet) {
    let l3_total = packet.inner_l3_total_len();
    // Zero if it does not fit (Linux 6.18 `iph_set_totlen`).
    let said = |len| u16::try_from(len).unwrap_or(0);
    match packet.layers.net {
        Net::V4 => {
            packet.set_be16(L3_AT + 2, said(l3_total));
            packet.set_be16(L3_AT + 10, 0);
            let check = ipv4_header_sum(packet).checksum();
            packet.set_be16(L3_AT + 10, check);
        }
        Net::V6 => packet.set_be16(L3_AT + 4, said(l3_total.saturating_sub(40))),
        Net::None => {}
    }
    if packet.layers.transport == Transport::Udp {
        let l4_total = l3_total - usize::from(packet.layers.l3_len);
        packet.set_be16(packet.l4_at() + 4, said(l4_total));
    }
}

/// Leaves the transport checksum partial: the field holds the folded
/// pseudo-header sum over the packet's real length.
#[inline]
pub(crate) fn settle_partial_csum(packet: &mut Packet) {
    let offset = match packet.layers.transport {
        Transport::Tcp => TCP_CSUM,
        Transport::Udp => UDP_CSUM,
        Transport::None => return,
    };
    let l4_total = packet.inner_l3_total_len() - usize::from(packet.layers.l3_len);
    let sum = pseudo_header(packet, l4_total as u32).fold();
    packet.set_be16(packet.l4_at() + usize::from(offset), sum);
    packet.pending.csum = Csum::Partial {
        start: packet.l4_offset() as u16,
        offset,
    };
}

/// Both of the above: the header of a super-packet whose lengths just changed,
/// or of one from outside that need not have told the truth.
#[inline]
pub(crate) fn settle_header(packet: &mut Packet) {
    settle_lengths(packet);
    settle_partial_csum(packet);
    settle_outer(packet, OuterCsum::Partial);
}

/// The outer headers, if there are any, once the inner ones are settled.
#[inline(always)]
pub(crate) fn settle_outer(packet: &mut Packet, csum: OuterCsum) {
    if packet.tunnel.is_some() {
        tunnel::settle(packet, tunnel::outer_id(packet), csum);
    }
}
