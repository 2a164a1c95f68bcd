//! Completion: pending work minus what the out port takes, done.
//!
//! [`plan`] decides, as a pure function of the packet, the capabilities and the
//! MTU; [`complete`] does it. The result depends on the capability set, not on
//! the port, so a flood completes once for all ports that take the same.
//! Completion is idempotent, free when nothing is pending, and writes only
//! private header bytes.

use crate::arena::{Memory, Pieces, sum_pieces};
use crate::checksum::{Sum, udp_nonzero};
use crate::fragment;
use crate::packet::{Packet, Transport};
use crate::pending::{Caps, Csum, Cwr, Gso, GsoKind};
use crate::reasons;
use crate::segment::{SegmentCsum, segment};
use crate::superpacket;
use crate::tunnel::{self, OuterCsum};

reasons! {
    /// Why was a packet dropped on its way to a port?
    pub enum Fault in "complete" {
        /// Longer than the out port's MTU.
        OverMtu = "over_mtu",
        /// A super-packet whose segments are longer than the out port's MTU;
        /// they are never cut differently from what the sender asked for.
        SegmentOverMtu = "segment_over_mtu",
        /// The memory the payload was in is gone.
        PayloadMissing = "payload_missing",
    }
}

impl core::error::Error for Fault {}

/// What is to be done before a packet can leave.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Nothing: it leaves as it is, pending work and all.
    AsIs,
    /// The transport checksum.
    Checksum,
    /// Segmentation, with the checksum of each segment.
    Segment(Gso, SegmentCsum),
    /// It cannot leave.
    Drop(Fault),
}

/// Who does the pending work: the out port, as far as it takes it, or we.
///
/// `mtu` limits the network packet, header included, in bytes; VLAN tags do not count.
#[inline]
pub fn plan(packet: &Packet, takes: Caps, mtu: usize) -> Plan {
    let Some(gso) = packet.pending.gso else {
        if packet.l3_total_len() > mtu {
            return Plan::Drop(Fault::OverMtu);
        }
        return match packet.pending.csum {
            Csum::Partial { .. } if !takes.csum() => Plan::Checksum,
            _ => Plan::AsIs,
        };
    };
    let headers = match gso.kind {
        GsoKind::Ufo => fragment::header_len(packet),
        _ => packet.l3_total_len() - packet.payload_len as usize,
    };
    if headers + usize::from(gso.size) > mtu {
        return Plan::Drop(Fault::SegmentOverMtu);
    }
    if takes.takes(gso.kind)
        && packet.l3_total_len() <= takes.l3_total_max(gso.kind)
        && takes.tunnels().take(&packet.tunnel)
        && header_can_say(packet, gso, takes)
    {
        return Plan::AsIs;
    }
    // A fragment has no checksum of its own to be left partial.
    let csum = if takes.csum() && gso.kind != GsoKind::Ufo {
        SegmentCsum::Partial
    } else {
        SegmentCsum::Complete
    };
    Plan::Segment(gso, csum)
}

/// Whether the virtio header can say what the super-packet means. It knows ECN
/// (CWR on the first segment) but neither "CWR on all" nor a fixed IPv4 ID.
/// The ID of a packet that may not be fragmented has no meaning (RFC 6864
/// section 4.1), so with DF set any ID will do.
fn header_can_say(packet: &Packet, gso: Gso, takes: Caps) -> bool {
    let cwr = superpacket::has_cwr(packet);
    let cwr_said = !cwr || (gso.cwr == Cwr::FirstOnly && takes.tso_ecn());
    let outer_said = !packet.tunnel.fixed_id || tunnel::outer_has_df(packet);
    cwr_said && outer_said && (!gso.fixed_id || superpacket::has_df(packet))
}

/// How many packets leave when `packet` goes to a port with these capabilities.
#[inline]
pub fn leaving(packet: &Packet, plan: Plan) -> u32 {
    match plan {
        Plan::AsIs | Plan::Checksum => 1,
        Plan::Segment(gso, _) => gso.segments(packet.payload_len),
        Plan::Drop(_) => 0,
    }
}

/// Does what [`plan`] says and hands each resulting packet to `sink` with its
/// payload. Returns how many there were.
///
/// # Errors
/// The [`Fault`] for which the packet, or what was left of it, is dropped.
#[inline]
pub fn complete<M: Memory>(
    packet: &Packet,
    payload: Pieces<'_>,
    plan: Plan,
    memory: &M,
    mut sink: impl FnMut(&Packet, Pieces<'_>),
) -> Result<u32, Fault> {
    match plan {
        Plan::AsIs => {
            sink(packet, payload);
            Ok(1)
        }
        Plan::Checksum => {
            let mut finished = packet.clone();
            finish_checksum(&mut finished, payload, memory)?;
            sink(&finished, payload);
            Ok(1)
        }
        Plan::Segment(gso, _) if gso.kind == GsoKind::Ufo => {
            fragment::fragment(packet, gso, payload, memory, sink)
        }
        Plan::Segment(gso, csum) => segment(packet, gso, payload, csum, memory, sink),
        Plan::Drop(fault) => Err(fault),
    }
}

/// Finishes a partial checksum: the sum from its start to the end of the packet,
/// over the pseudo-header sum that the field holds (virtio 1.3 section 5.1.6.2).
pub(crate) fn finish_checksum<M: Memory>(
    packet: &mut Packet,
    payload: Pieces<'_>,
    memory: &M,
) -> Result<(), Fault> {
    let Csum::Partial { start, offset } = packet.pending.csum else {
        return Ok(());
    };
    // Behind the headers of a tunnel, which were left out of `bytes`.
    let start = usize::from(start).saturating_sub(usize::from(packet.tunnel.len));
    let from = packet.start() + start;
    let field = from + usize::from(offset);
    let header_end = packet.start() + packet.inner_header_len();
    // Admission made the private header long enough for the field, or refused the packet.
    debug_assert!(field + 2 <= header_end);
    let header = packet.bytes.get(from..header_end).unwrap_or(&[]);
    let mut body = sum_pieces(memory, payload).ok_or(Fault::PayloadMissing)?;
    if header.len() & 1 == 1 {
        body = body.swapped();
    }
    let check = Sum::ZERO.add_bytes(header).add(body).checksum();
    let check = match packet.layers.transport {
        Transport::Udp => udp_nonzero(check),
        Transport::Tcp | Transport::None => check,
    };
    packet.set_be16(field, check);
    packet.pending.csum = Csum::Unverified;
    if packet.pending.gso.is_some() {
        // A super-packet's outer checksum was left partial as well.
        superpacket::settle_outer(packet, OuterCsum::Complete);
    }
    Ok(())
}
