//! The fast door: most packets of a bulk transfer join a held flow, and such a one is never admitted.
//!
//! Its header is compared where it lies, under the mask of the flow it would
//! join. If nothing differs, the held packet's layers are its own, and what no
//! mask can compare is little: lengths, sequence, IP ID, checksums. Whatever
//! this cannot answer with "it joins" goes the general way, [`Arena::admit`] and
//! [`Coalescer::offer`]; the results are the same, which tests hold.

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

    /// [`Coalescer::take`] for a burst, and the fastest way: what a train of packets has in
    /// common is looked at once. What is not merged goes to `rest`, which does what a caller
    /// of `take` would do with it, before the next packet is looked at. An iterator that prefetches a
    /// few packets ahead of the one it gives makes cold packets nearly as cheap as hot ones.
    ///
    /// ```
    /// use jumbo_engine::coalesce::Received;
    /// use jumbo_engine::prelude::*;
    ///
    /// # let (ring, bodies): (Vec<Vec<u8>>, Vec<Frag>) = (Vec::new(), Vec::new());
    /// # let (mut arena, mut gro) = (Arena::new(64, 128), Coalescer::new(&GRO, 64, 0x5eed));
    /// # let memory = SliceMemory::new(&[], Kernels::detect());
    /// // A ring of packets, and where each of them lies.
    /// let burst = ring.iter().zip(&bodies).map(|(packet, body)| Received {
    ///     link: Link::Ethernet,
    ///     head: packet,
    ///     body: core::slice::from_ref(body),
    ///     vnet: None,
    ///     origin: 0,
    /// });
    /// gro.take_all(&mut arena, burst, &memory, |gro, arena, _, taken| {
    ///     let Ok((admitted, offer)) = taken else {
    ///         return; // malformed: counted and dropped
    ///     };
    ///     match offer {
    ///         Offer::Hold(slot) if gro.hold(arena, admitted.id, slot, 0, &memory).is_ok() => {}
    ///         _ => gro.ready().push(Ready::alone(admitted.id, 0)),
    ///     }
    /// });
    /// ```
    #[inline]
    pub fn take_all<'a>(
        &mut self,
        arena: &mut Arena,
        burst: impl IntoIterator<Item = Received<'a>>,
        memory: &impl Memory,
        mut rest: impl FnMut(
            &mut Self,
            &mut Arena,
            Received<'a>,
            Result<(Admitted, Offer), HeaderFault>,
        ),
    ) {
        for received in burst {
            if self.train.takes(arena, &received, memory) {
                continue;
            }
            self.close(arena);
            if self.joins(arena, &received, memory) {
                self.open(arena);
                continue;
            }
            // A copy, so that nobody else wants this one in memory.
            let other = received;
            match self.take_by_all_rules(arena, &other, memory) {
                Ok(Taken::Merged) => {}
                Ok(Taken::Admitted(admitted, offer)) => {
                    rest(self, arena, other, Ok((admitted, offer)));
                }
                Err(fault) => rest(self, arena, other, Err(fault)),
            }
        }
        self.close(arena);
    }

    /// Merges the packet, if that takes no more than comparing. `false` says nothing.
    #[inline(always)]
    fn joins(&mut self, arena: &mut Arena, received: &Received<'_>, memory: &impl Memory) -> bool {
        let Some(line) = Line::of(received) else {
            return false;
        };
        match line.l3_len() {
            20 => self.line_joins::<20>(arena, &line, memory),
            40 => self.line_joins::<40>(arena, &line, memory),
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
        let mut growth = arena.growth(flow.head);
        let open = usize::from(flow.door) == L3_LEN && arena.room(&growth) != 0;
        let Some(masks) = self.masks.common(flow.masks).filter(|_| open) else {
            return false;
        };
        let head = arena.packet(flow.head);
        if line.origin != head.origin || line.differs(&head.bytes, masks) {
            return false;
        }
        let Some(segment) = line.fits::<L3_LEN>(flow, growth.end, memory) else {
            return false;
        };
        arena.append(&mut growth, segment.frag);
        let flow = self.table.flow_mut(flow_id);
        let may_end = flow.grow(segment.frag.len, segment.flags, segment.id_rule);
        arena.grown(flow.head, &growth, segment.frag.len);
        self.stats.merged += 1;
        self.stats.merged_unadmitted += 1;
        if may_end {
            self.end_after(arena, flow_id, segment.flags, segment.frag.len);
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
pub(super) struct Line<'a> {
    pub(super) bytes: &'a [u8; HEADER_ROOM],
    pub(super) whole: Frag,
    vnet: Option<(&'a VnetHeader, Trust)>,
    pub(super) origin: u32,
}

/// A packet that fits behind what its flow has.
#[derive(Copy, Clone)]
struct Segment {
    /// Its payload, where it is from now on.
    frag: Frag,
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

impl<'a> Line<'a> {
    #[inline(always)]
    pub(super) fn of(received: &Received<'a>) -> Option<Self> {
        let (Link::Ethernet, [whole]) = (received.link, received.body) else {
            return None;
        };
        let bytes = received.head.first_chunk::<HEAD_WANTED>()?;
        Some(Self {
            bytes: bytes.first_chunk::<HEADER_ROOM>()?,
            whole: *whole,
            vnet: received.vnet,
            origin: received.origin,
        })
    }

    /// Length of a network header without options or extensions, by the EtherType.
    #[inline(always)]
    fn l3_len(&self) -> usize {
        match be16(self.bytes, L3_AT - 2) {
            ETHERTYPE_IPV4 => 20,
            ETHERTYPE_IPV6 => 40,
            _ => 0,
        }
    }

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

    /// What no mask can compare. The headers are those of the flow's first packet, as far as they
    /// are compared; the flow's payload ends at `end`.
    #[inline(always)]
    fn fits<const L3_LEN: usize>(
        &self,
        flow: &Flow,
        end: u64,
        memory: &impl Memory,
    ) -> Option<Segment> {
        let (bytes, l4_at, udp) = (self.bytes, L3_AT + L3_LEN, flow.shape.is_udp());
        let (l3_total, id_rule) = self.network::<L3_LEN>(flow)?;
        let (flags, follows) = if udp {
            let l4_total = usize::from(be16(bytes, l4_at + 4));
            (0, L3_LEN + l4_total == l3_total)
        } else {
            let flags = bytes[l4_at + 13];
            let seq = u32::from_be_bytes(array(bytes, l4_at + 4));
            let plain = flags & (SYN | RST | URG) == 0;
            (flags & (PSH | FIN), plain && seq == flow.seq_next)
        };
        let header_len = l4_at + usize::from(flow.shape.l4_len);
        let payload_len = self.whole.len.wrapping_sub(header_len as u32);
        // Without payload, or with less than headers, `payload_len - 1` is huge.
        let fits = follows
            && L3_AT + l3_total == self.whole.len as usize
            && payload_len.wrapping_sub(1) < u32::from(flow.size)
            && flow.segments < flow.segments_max
            && flow.l3_total + payload_len <= flow.l3_total_max;
        if !fits {
            return None;
        }
        let frag = self.payload::<L3_LEN>(header_len, udp, end, memory)?;
        Some(Segment {
            frag,
            flags,
            id_rule,
        })
    }

    /// The payload behind headers of this length, once nothing can be wrong with its checksum.
    #[inline(always)]
    pub(super) fn payload<const L3_LEN: usize>(
        &self,
        header_len: usize,
        udp: bool,
        end: u64,
        memory: &impl Memory,
    ) -> Option<Frag> {
        let at = self.whole.at.wrapping_add(header_len as u64);
        let len = self.whole.len.wrapping_sub(header_len as u32);
        let at = match self.word::<L3_LEN>(udp) {
            Word::Vouched => at,
            Word::Unsaid => self.verify::<L3_LEN>(header_len, Frag::new(at, len), end, memory)?,
            Word::Else => return None,
        };
        Some(Frag::new(at, len))
    }

    /// Length of the network packet, and how IPv4's IDs go on.
    #[inline(always)]
    fn network<const L3_LEN: usize>(&self, flow: &Flow) -> Option<(usize, IdRule)> {
        let bytes = self.bytes;
        if L3_LEN != 20 {
            let l3_total = L3_LEN + usize::from(be16(bytes, L3_AT + 4));
            return Some((l3_total, IdRule::Undecided));
        }
        if !ipv4_header_is_good(bytes) || be16(bytes, L3_AT + 10) == 0xffff {
            return None;
        }
        let delta = be16(bytes, L3_AT + 4).wrapping_sub(flow.id_first);
        let id_rule = next_id(flow.id_rule, delta, flow.segments)?;
        Some((usize::from(be16(bytes, L3_AT + 2)), id_rule))
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
    #[inline(never)]
    fn verify<const L3_LEN: usize>(
        &self,
        header_len: usize,
        frag: Frag,
        end: u64,
        memory: &impl Memory,
    ) -> Option<u64> {
        let (bytes, l4_at) = (self.bytes, L3_AT + L3_LEN);
        let header = bytes.get(l4_at..header_len)?;
        let protocol = if header.len() < 20 {
            PROTOCOL_UDP
        } else {
            PROTOCOL_TCP
        };
        let l4_total = header.len() as u32 + frag.len;
        let pseudo = if L3_LEN == 20 {
            let (src, dst) = (array(bytes, L3_AT + 12), array(bytes, L3_AT + 16));
            pseudo_v4(src, dst, protocol, l4_total)
        } else {
            let (src, dst) = (array(bytes, L3_AT + 8), array(bytes, L3_AT + 24));
            pseudo_v6(src, dst, protocol, l4_total)
        };
        let (body, at) = memory.sum_and_place(frag, Some(end))?;
        let sum: Sum = pseudo.add_bytes(header).add(body);
        (sum.fold() == 0xffff).then_some(at)
    }
}

#[inline(always)]
fn be16(bytes: &[u8; HEADER_ROOM], at: usize) -> u16 {
    u16::from_be_bytes(array(bytes, at))
}
