//! Segmentation: a super-packet becomes the train of packets it stands for.
//!
//! Follows the law of [`crate::superpacket`]. Payload is referenced, not copied;
//! each segment's header is the super-packet's with six fields patched. One
//! scratch packet serves all segments, so a segment lives for one call of the sink.

use crate::arena::{Memory, Pieces, sum_pieces};
use crate::checksum::{Sum, udp_nonzero};
use crate::complete::Fault;
use crate::packet::{Frag, L3_AT, Net, Packet, Transport};
use crate::pending::{Csum, Cwr, Gso, GsoKind};
use crate::superpacket::{self, CWR, FIN, PSH};
use crate::tunnel::{self, OuterCsum};
use crate::vnet::{TCP_CSUM, UDP_CSUM, pseudo_header};

/// How many segments `payload_len` bytes make at `size` bytes each.
#[inline]
pub const fn segments(payload_len: u32, size: u16) -> u32 {
    if size == 0 || payload_len == 0 {
        return 1;
    }
    payload_len.div_ceil(size as u32)
}

/// What the checksum of each segment is to be.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum SegmentCsum {
    /// Left partial: the receiver, or its port, finishes it.
    Partial,
    /// Finished; reads the payload once.
    Complete,
}

/// Hands every segment of `packet` to `sink`, in order. Returns how many.
///
/// # Errors
/// [`Fault::PayloadMissing`] if a checksum is wanted and the memory lacks the
/// payload; segments already handed over stay so.
#[inline]
pub fn segment<M: Memory>(
    packet: &Packet,
    gso: Gso,
    mut payload: Pieces<'_>,
    csum: SegmentCsum,
    memory: &M,
    mut sink: impl FnMut(&Packet, Pieces<'_>),
) -> Result<u32, Fault> {
    let count = segments(packet.payload_len, gso.size);
    let template = Template::new(packet, gso, csum);
    let tunnelled = packet.tunnel.is_some();
    let mut scratch = packet.clone();
    scratch.pending.gso = None;
    scratch.pending.lossy = None;
    for index in 0..count {
        let piece = payload.split_off(u32::from(gso.size));
        template.patch(&mut scratch, index, count, piece.len_bytes() as u32);
        match csum {
            SegmentCsum::Partial => template.partial(&mut scratch),
            SegmentCsum::Complete => {
                // In a tunnel the payload stays where it is.
                if let Some(frag) = piece.only().filter(|_| !tunnelled) {
                    let (body, at) = placed(memory, frag)?;
                    template.complete(&mut scratch, body);
                    sink(&scratch, Pieces::one(&Frag::new(at, frag.len)));
                    continue;
                }
                let body = sum_pieces(memory, piece).ok_or(Fault::PayloadMissing)?;
                template.complete(&mut scratch, body);
            }
        }
        if tunnelled {
            outer(&mut scratch, packet, index);
        }
        sink(&scratch, piece);
    }
    Ok(count)
}

/// The sum of a piece, and where it is from now on.
#[inline(always)]
fn placed(memory: &impl Memory, frag: Frag) -> Result<(Sum, u64), Fault> {
    let placed = memory.sum_and_place(frag, None);
    placed.ok_or(Fault::PayloadMissing)
}

/// The outer headers of one segment.
#[inline(never)]
fn outer(segment: &mut Packet, packet: &Packet, index: u32) {
    let step = match packet.tunnel.fixed_id {
        true => 0,
        false => index as u16,
    };
    let id = tunnel::outer_id(packet).wrapping_add(step);
    tunnel::settle(segment, id, OuterCsum::Complete);
}

/// What all segments share, worked out once.
struct Template {
    gso: Gso,
    seq_first: u32,
    id_first: u16,
    flags: u8,
    /// IPv4 header without length, ID and checksum.
    ip_sum: Sum,
    /// Pseudo header without the length.
    pseudo: Sum,
    /// Transport header without sequence number, flags, UDP length and checksum.
    l4_sum: Sum,
    l3_len: u32,
    l4_len: u32,
    l4_at: usize,
    csum: Csum,
}

impl Template {
    #[inline]
    fn new(packet: &Packet, gso: Gso, csum: SegmentCsum) -> Self {
        let layers = packet.layers;
        let l4_at = packet.l4_at();
        let mut blank = packet.clone();
        blank.set_be16(L3_AT + 2, 0);
        blank.set_be16(L3_AT + 4, 0);
        blank.set_be16(L3_AT + 10, 0);
        let ip_sum = superpacket::ipv4_header_sum(&blank);
        let tcp = layers.transport == Transport::Tcp;
        let offset = if tcp { TCP_CSUM } else { UDP_CSUM };
        blank.set_be16(l4_at + usize::from(offset), 0);
        if tcp {
            blank.set_be32(l4_at + 4, 0);
            blank.bytes[l4_at + 13] = 0;
        } else {
            blank.set_be16(l4_at + 4, 0);
        }
        let header = blank.bytes.get(l4_at..l4_at + usize::from(layers.l4_len));
        Self {
            gso,
            seq_first: packet.be32(l4_at + 4),
            id_first: packet.be16(L3_AT + 4),
            flags: superpacket::tcp_flags(packet),
            ip_sum,
            pseudo: pseudo_header(packet, 0),
            l4_sum: Sum::ZERO.add_bytes(header.unwrap_or(&[])),
            l3_len: u32::from(layers.l3_len),
            l4_len: u32::from(layers.l4_len),
            l4_at,
            csum: match csum {
                SegmentCsum::Complete => Csum::Unverified,
                SegmentCsum::Partial => Csum::Partial {
                    start: packet.l4_offset() as u16,
                    offset,
                },
            },
        }
    }

    /// Everything but the transport checksum.
    #[inline]
    fn patch(&self, segment: &mut Packet, index: u32, count: u32, payload_len: u32) {
        segment.payload_len = payload_len;
        segment.pending.csum = self.csum;
        let l4_total = self.l4_len + payload_len;
        let l3_total = self.l3_len + l4_total;
        if segment.layers.net == Net::V4 {
            let step = if self.gso.fixed_id { 0 } else { index as u16 };
            let id = self.id_first.wrapping_add(step);
            let sum = self.ip_sum.add_u16(l3_total as u16).add_u16(id);
            segment.set_be16(L3_AT + 2, l3_total as u16);
            segment.set_be16(L3_AT + 4, id);
            segment.set_be16(L3_AT + 10, sum.checksum());
        } else {
            segment.set_be16(L3_AT + 4, (l3_total - 40) as u16);
        }
        match self.gso.kind {
            GsoKind::Udp | GsoKind::Ufo => segment.set_be16(self.l4_at + 4, l4_total as u16),
            GsoKind::Tcp4 | GsoKind::Tcp6 => {
                let offset = index.wrapping_mul(u32::from(self.gso.size));
                segment.set_be32(self.l4_at + 4, self.seq_first.wrapping_add(offset));
                segment.bytes[self.l4_at + 13] = self.flags_of(index, count);
            }
        }
    }

    #[inline]
    fn flags_of(&self, index: u32, count: u32) -> u8 {
        let mut flags = self.flags;
        if index + 1 != count {
            flags &= !(PSH | FIN);
        }
        if index != 0 && self.gso.cwr == Cwr::FirstOnly {
            flags &= !CWR;
        }
        flags
    }

    /// The pseudo-header sum with this segment's length.
    #[inline]
    fn pseudo_of(&self, segment: &Packet) -> Sum {
        // 32 bits for both families: the upper half of a short length is zero.
        self.pseudo.add_u32(self.l4_len + segment.payload_len)
    }

    #[inline]
    fn partial(&self, segment: &mut Packet) {
        let sum = self.pseudo_of(segment).fold();
        segment.set_be16(self.csum_at(), sum);
    }

    #[inline]
    fn complete(&self, segment: &mut Packet, body: Sum) {
        let sum = self.pseudo_of(segment).add(self.l4_sum).add(body);
        let check = match self.gso.kind {
            GsoKind::Udp | GsoKind::Ufo => {
                let length = (self.l4_len + segment.payload_len) as u16;
                udp_nonzero(sum.add_u16(length).checksum())
            }
            GsoKind::Tcp4 | GsoKind::Tcp6 => {
                let seq = segment.be32(self.l4_at + 4);
                let flags = segment.bytes[self.l4_at + 13];
                sum.add_u32(seq).add_u16(u16::from(flags)).checksum()
            }
        };
        segment.set_be16(self.csum_at(), check);
    }

    #[inline]
    fn csum_at(&self) -> usize {
        let offset = match self.gso.kind {
            GsoKind::Udp | GsoKind::Ufo => UDP_CSUM,
            GsoKind::Tcp4 | GsoKind::Tcp6 => TCP_CSUM,
        };
        self.l4_at + usize::from(offset)
    }
}
