//! The fast door: most packets of a bulk transfer join a held flow, and such a one is never admitted.
//!
//! Its header is compared where it lies, under the mask of the flow it would
//! join. If nothing differs, the held packet's layers are its own, and what no
//! mask can compare is little: lengths, sequence, IP ID, checksums. Whatever
//! this cannot answer with "it joins" goes the general way, [`Arena::admit`] and
//! [`Coalescer::offer`]; the results are the same, which a test holds.

use super::judge::{ipv4_header_is_good, next_id};
use super::rules::{FIRST, Masks, differ_in};
use super::table::{Flow, FlowId, IdRule};
use super::{Coalescer, Offer};
use crate::arena::{Admitted, Arena, HEAD_WANTED, Memory};
use crate::checksum::{Sum, pseudo_v4, pseudo_v6};
use crate::packet::{Frag, HEADER_ROOM, L3_AT, Link, Net, array};
use crate::parse::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, PROTOCOL_TCP, PROTOCOL_UDP};
use crate::superpacket::{FIN, PSH, RST, SYN, URG};
use crate::vnet::{HeaderFault, TCP_CSUM, Trust, UDP_CSUM, VnetHeader};

/// A packet as it was received: what [`Arena::admit`] takes.
#[derive(Copy, Clone, Debug)]
pub struct Received<'a> {
    /// How its bytes begin.
    pub link: Link,
    /// Its first bytes, at least `min(packet length, HEAD_WANTED)` of them.
    pub head: &'a [u8],
    /// The whole packet from its first byte on, in the caller's terms.
    pub body: &'a [Frag],
    /// The virtio header that came with it, if the port has one.
    pub vnet: Option<(&'a VnetHeader, Trust)>,
    /// Noted as [`crate::packet::Packet::origin`].
    pub origin: u32,
}

/// What became of a received packet.
#[derive(Copy, Clone, Debug)]
pub enum Taken {
    /// It is part of a held flow now, or of one that just ended.
    Merged,
    /// It was admitted, and [`Coalescer::offer`] said this of it; never [`Offer::Merged`].
    Admitted(Admitted, Offer),
}

impl Coalescer {
    /// Admits a packet and offers it, in one step: the same as [`Arena::admit`], a note of its
    /// origin, and [`Coalescer::offer`], but faster for a packet that merges. The sooner a
    /// packet's first 128 bytes are in the cache, the better: prefetch a few packets ahead.
    ///
    /// # Errors
    /// The [`HeaderFault`] for which the packet is to be dropped.
    #[inline]
    pub fn take(
        &mut self,
        arena: &mut Arena,
        received: &Received<'_>,
        memory: &impl Memory,
    ) -> Result<Taken, HeaderFault> {
        if self.joins(arena, received, memory) {
            return Ok(Taken::Merged);
        }
        self.take_by_all_rules(arena, received, memory)
    }

    #[inline(never)]
    fn take_by_all_rules(
        &mut self,
        arena: &mut Arena,
        received: &Received<'_>,
        memory: &impl Memory,
    ) -> Result<Taken, HeaderFault> {
        let Received {
            link, head, body, ..
        } = *received;
        let admitted = arena.admit(link, head, body, received.vnet)?;
        arena.packet_mut(admitted.id).origin = received.origin;
        Ok(match self.offer(arena, admitted.id, memory) {
            Offer::Merged => Taken::Merged,
            offer => Taken::Admitted(admitted, offer),
        })
    }

    /// Merges the packet, if that takes no more than comparing. `false` says nothing.
    #[inline(always)]
    fn joins(&mut self, arena: &mut Arena, received: &Received<'_>, memory: &impl Memory) -> bool {
        let (Link::Ethernet, [whole]) = (received.link, received.body) else {
            return false;
        };
        let Some(bytes) = received.head.first_chunk::<HEAD_WANTED>() else {
            return false;
        };
        let Some(bytes) = bytes.first_chunk::<HEADER_ROOM>() else {
            return false;
        };
        let line = Line {
            bytes,
            whole: *whole,
            vnet: received.vnet,
            origin: received.origin,
        };
        match be16(bytes, L3_AT - 2) {
            ETHERTYPE_IPV4 => self.line_joins::<20>(arena, &line, memory),
            ETHERTYPE_IPV6 => self.line_joins::<40>(arena, &line, memory),
            _ => false,
        }
    }

    /// The same, if its network header is of this length.
    #[inline(always)]
    fn line_joins<const L3_LEN: usize>(
        &mut self,
        arena: &mut Arena,
        line: &Line<'_>,
        memory: &impl Memory,
    ) -> bool {
        let Some(flow_id) = self.flow_like::<L3_LEN>(line) else {
            return false;
        };
        let flow = self.table.flow(flow_id);
        let head = arena.packet(flow.head);
        let same = usize::from(flow.door) == L3_LEN
            && head.origin == line.origin
            && self
                .masks
                .common(flow.masks)
                .is_some_and(|masks| !line.differs(&head.bytes, masks));
        if !same || !arena.has_room() {
            return false;
        }
        let Some(segment) = line.fits::<L3_LEN>(flow) else {
            return false;
        };
        let frag = Frag::new(
            line.whole.at.wrapping_add(segment.header_len as u64),
            segment.payload_len,
        );
        let frag = match line.word::<L3_LEN>(flow.shape.is_udp()) {
            Word::Vouched => frag,
            Word::Unsaid => {
                let behind = arena.payload_end(flow.head);
                match line.verify::<L3_LEN>(segment, frag, behind, memory) {
                    Some(frag) => frag,
                    None => return false,
                }
            }
            Word::Else => return false,
        };
        let flow = self.table.flow_mut(flow_id);
        let may_end = flow.grow(segment.payload_len, segment.flags, segment.id_rule);
        arena.append(flow.head, frag);
        self.stats.merged += 1;
        self.stats.merged_unadmitted += 1;
        if may_end {
            self.end_after(arena, flow_id, segment.flags, segment.payload_len);
        }
        true
    }

    /// The flow that a packet with these addresses and ports is most likely of.
    #[inline(always)]
    fn flow_like<const L3_LEN: usize>(&mut self, line: &Line<'_>) -> Option<FlowId> {
        let key = line.key::<L3_LEN>();
        if let Some(recent) = self.table.recent(key) {
            return Some(recent);
        }
        let net = if L3_LEN == 20 { Net::V4 } else { Net::V6 };
        let slot = self.table.slot_of(net, line.bytes, L3_AT + L3_LEN);
        let found = self.table.next(&mut self.table.candidates(slot))?;
        self.table.note_recent(key, found);
        Some(found)
    }
}

/// A packet that begins like most do.
struct Line<'a> {
    bytes: &'a [u8; HEADER_ROOM],
    whole: Frag,
    vnet: Option<(&'a VnetHeader, Trust)>,
    origin: u32,
}

/// A packet that fits behind what its flow has.
#[derive(Copy, Clone)]
struct Segment {
    header_len: usize,
    payload_len: u32,
    /// TCP's; none for UDP.
    flags: u8,
    id_rule: IdRule,
}

/// What is known of the transport checksum.
enum Word {
    /// It is still to be made, or somebody trusted checked it.
    Vouched,
    /// Nothing: it must be verified.
    Unsaid,
    /// Something for the general way.
    Else,
}

impl Line<'_> {
    /// The end of the destination's address, the ports, and the source's address or 8 bytes of it:
    /// what two packets in a row hardly share unless they are of one flow.
    #[inline(always)]
    fn key<const L3_LEN: usize>(&self) -> [u64; 2] {
        let word = |at| u64::from_ne_bytes(array(self.bytes, at));
        let src = if L3_LEN == 20 { 12 } else { 16 };
        [word(L3_AT + L3_LEN - 4), word(L3_AT + src)]
    }

    /// Whether the header differs from a flow's first one. Few headers are longer than the first part.
    #[inline(always)]
    fn differs(&self, head: &[u8; HEADER_ROOM], masks: &Masks) -> bool {
        let (bytes, mask) = (self.bytes, &masks.all);
        differ_in::<0, FIRST>(head, bytes, mask)
            || (masks.long && differ_in::<FIRST, HEADER_ROOM>(head, bytes, mask))
    }

    /// What no mask can compare, checksum of the payload left out. The headers are those of the
    /// flow's first packet, as far as they are compared.
    #[inline(always)]
    fn fits<const L3_LEN: usize>(&self, flow: &Flow) -> Option<Segment> {
        let bytes = self.bytes;
        let l4_at = L3_AT + L3_LEN;
        let header_len = l4_at + usize::from(flow.shape.l4_len);
        let (said, id_rule) = if L3_LEN == 20 {
            if !ipv4_header_is_good(bytes) || be16(bytes, L3_AT + 10) == 0xffff {
                return None;
            }
            let delta = be16(bytes, L3_AT + 4).wrapping_sub(flow.id_first);
            let id_rule = next_id(flow.id_rule, delta, flow.segments)?;
            (usize::from(be16(bytes, L3_AT + 2)), id_rule)
        } else {
            (
                L3_LEN + usize::from(be16(bytes, L3_AT + 4)),
                IdRule::Undecided,
            )
        };
        let payload_len = self.whole.len.wrapping_sub(header_len as u32);
        let (flags, follows) = if flow.shape.is_udp() {
            let l4_total = usize::from(be16(bytes, l4_at + 4));
            (0, L3_LEN + l4_total == said)
        } else {
            let flags = bytes[l4_at + 13];
            let seq = u32::from_be_bytes(array(bytes, l4_at + 4));
            (
                flags,
                seq == flow.seq_next && flags & (SYN | RST | URG) == 0,
            )
        };
        // Without payload, or with less than headers, `payload_len - 1` is huge.
        let fits = follows
            && L3_AT + said == self.whole.len as usize
            && payload_len.wrapping_sub(1) < u32::from(flow.size)
            && flow.segments < flow.segments_max
            && flow.l3_total + payload_len <= flow.l3_total_max;
        fits.then_some(Segment {
            header_len,
            payload_len,
            flags: flags & (PSH | FIN),
            id_rule,
        })
    }

    /// What the virtio header says of the checksum.
    #[inline(always)]
    fn word<const L3_LEN: usize>(&self, udp: bool) -> Word {
        let offset = if udp { UDP_CSUM } else { TCP_CSUM };
        let l4_at = L3_AT + L3_LEN;
        let (mut partial, mut valid) = (false, false);
        if let Some((header, trust)) = self.vnet {
            if header.is_gso() || u32::from(header.hdr_len) > self.whole.len {
                return Word::Else;
            }
            partial = header.needs_csum();
            valid = !partial && header.data_valid() && trust == Trust::Kernel;
            if partial && (usize::from(header.csum_start), header.csum_offset) != (l4_at, offset) {
                return Word::Else;
            }
        }
        // Not what a sender would write: TCP's negative zero, UDP's "no checksum".
        let check = be16(self.bytes, l4_at + usize::from(offset));
        match partial {
            true => Word::Vouched,
            false if check == if udp { 0 } else { 0xffff } => Word::Else,
            false if valid => Word::Vouched,
            false => Word::Unsaid,
        }
    }

    /// Verifies the transport checksum. Returns where the payload is from now on.
    #[inline(always)]
    fn verify<const L3_LEN: usize>(
        &self,
        segment: Segment,
        frag: Frag,
        behind: Option<u64>,
        memory: &impl Memory,
    ) -> Option<Frag> {
        let (bytes, l4_at) = (self.bytes, L3_AT + L3_LEN);
        let header = bytes.get(l4_at..segment.header_len)?;
        let protocol = if header.len() < 20 {
            PROTOCOL_UDP
        } else {
            PROTOCOL_TCP
        };
        let l4_total = header.len() as u32 + segment.payload_len;
        let pseudo = if L3_LEN == 20 {
            let (src, dst) = (array(bytes, L3_AT + 12), array(bytes, L3_AT + 16));
            pseudo_v4(src, dst, protocol, l4_total)
        } else {
            let (src, dst) = (array(bytes, L3_AT + 8), array(bytes, L3_AT + 24));
            pseudo_v6(src, dst, protocol, l4_total)
        };
        let (body, at) = memory.sum_and_place(frag, behind)?;
        let sum: Sum = pseudo.add_bytes(header).add(body);
        (sum.fold() == 0xffff).then_some(Frag::new(at, frag.len))
    }
}

#[inline(always)]
fn be16(bytes: &[u8; HEADER_ROOM], at: usize) -> u16 {
    u16::from_be_bytes(array(bytes, at))
}
