//! Trains: full segments of one flow that follow one another.
//!
//! When two packets in a row joined the same flow, the next is most likely the
//! next segment, and all of its header is known beforehand: what differs from the
//! flow's first packet is the sequence number, and IPv4's ID with its checksum.
//! So a train's packet is one comparison and three, and the flow is only
//! brought up to date when the train is over. A packet that is not as
//! expected goes the way all others do.

use core::ops::Range;

use super::Coalescer;
use super::door::{Line, Received};
use super::rules::{FIRST, Mask, differ_in};
use super::table::{FlowId, IdRule};
use crate::arena::{Arena, Growth, Memory};
use crate::checksum;
use crate::packet::{HEADER_ROOM, L3_AT, Net, Packet, array};
use crate::superpacket::{FIN, PSH, tcp_flags};

/// What the next packet of a flow must look like.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Train {
    /// The headers of the flow's first packet, and what of them is the same in all.
    head: [u8; HEADER_ROOM],
    mask: Mask,
    /// The mask goes on behind [`FIRST`].
    long: bool,
    v4: bool,
    udp: bool,
    origin: u32,
    header_len: usize,
    /// Headers and payload, bytes.
    total_len: u32,
    seq: u32,
    /// IPv4's, as a number, and how much it grows.
    id: u16,
    id_step: u16,
    /// The IPv4 header checksum that goes with it.
    ip_check: u16,
    /// Packets that may still join, and that might when the train was opened.
    left: u32,
    left_first: u32,
    growth: Growth,
    /// The flow, or that whose packet was seen last.
    flow_id: Option<FlowId>,
}

impl Train {
    /// No flow's; takes nothing.
    pub(super) fn none() -> Self {
        Self {
            head: [0; HEADER_ROOM],
            mask: [0; HEADER_ROOM],
            long: false,
            v4: false,
            udp: false,
            origin: 0,
            header_len: 0,
            total_len: 0,
            seq: 0,
            id: 0,
            id_step: 0,
            ip_check: 0,
            left: 0,
            left_first: 0,
            growth: Growth::NONE,
            flow_id: None,
        }
    }

    /// Merges the packet, if it is the one expected.
    #[inline(always)]
    pub(super) fn takes(
        &mut self,
        arena: &mut Arena,
        received: &Received<'_>,
        memory: &impl Memory,
    ) -> bool {
        let Some(line) = Line::of(received) else {
            return false;
        };
        let same = self.left != 0
            && line.whole.len == self.total_len
            && line.origin == self.origin
            && !differ_in::<0, FIRST>(&self.head, line.bytes, &self.mask)
            && !(self.long && differ_in::<FIRST, HEADER_ROOM>(&self.head, line.bytes, &self.mask));
        same && match self.v4 {
            true => self.takes_line::<20>(arena, &line, memory),
            false => self.takes_line::<40>(arena, &line, memory),
        }
    }

    #[inline(always)]
    fn takes_line<const L3_LEN: usize>(
        &mut self,
        arena: &mut Arena,
        line: &Line<'_>,
        memory: &impl Memory,
    ) -> bool {
        let be16 = |at| u16::from_be_bytes(array(line.bytes, at));
        let (id, ip_check) = (self.id, self.ip_check);
        if L3_LEN == 20 && (be16(L3_AT + 4) != id || be16(L3_AT + 10) != ip_check) {
            return false;
        }
        let seq = u32::from_be_bytes(array(line.bytes, L3_AT + L3_LEN + 4));
        if !self.udp && seq != self.seq {
            return false;
        }
        let end = self.growth.end;
        let payload = line.payload::<L3_LEN>(self.header_len, self.udp, end, memory);
        let Some(frag) = payload else {
            return false;
        };
        arena.append(&mut self.growth, frag);
        self.left -= 1;
        self.seq = seq.wrapping_add(frag.len);
        self.id = id.wrapping_add(self.id_step);
        // One more in the header is one less in its checksum; the negative zero is not used.
        self.ip_check = match ip_check {
            0 => 0xffff - self.id_step,
            check => check - self.id_step,
        };
        true
    }
}

impl Coalescer {
    /// A packet joined a flow. If the one before it did as well, there may be more.
    #[inline(always)]
    pub(super) fn open(&mut self, arena: &Arena) {
        let flow_id = self.table.found_last();
        if self.train.flow_id != flow_id {
            self.train.flow_id = flow_id;
        } else if let Some(flow_id) = flow_id {
            self.foretell(arena, flow_id);
        }
    }

    /// What the next packets of a held flow are, if that can be said. Until the train is closed,
    /// nothing else is done with the flow.
    #[inline(never)]
    fn foretell(&mut self, arena: &Arena, flow_id: FlowId) {
        let flow = self.table.flow(flow_id);
        let head = arena.packet(flow.head);
        let (v4, udp) = (flow.shape.net == Net::V4, flow.shape.is_udp());
        // The length in a super-packet's header is not that of its segments.
        let foretold = flow.door != 0
            && flow.segments_first == 1
            && (udp || tcp_flags(head) & (PSH | FIN) == 0)
            && (!v4 || flow.id_rule != IdRule::Undecided);
        let Some(masks) = self.masks.common(flow.masks).filter(|_| foretold) else {
            return;
        };
        let (id, id_step) = match flow.id_rule {
            IdRule::Incrementing if v4 => (flow.id_first.wrapping_add(flow.segments), 1),
            _ => (flow.id_first, 0),
        };
        let (size, growth) = (u32::from(flow.size), arena.growth(flow.head));
        // Up to where an ID would begin again at zero, with another step of the checksum.
        let ids = if id_step == 0 {
            u16::MAX
        } else {
            u16::MAX - id
        };
        let count = u32::from(ids.min(flow.segments_max.saturating_sub(flow.segments)));
        let bytes = flow.l3_total_max.saturating_sub(flow.l3_total);
        let header_len = head.inner_header_len();
        let left = count.min(bytes / size.max(1)).min(arena.room(&growth));
        self.train = Train {
            head: head.bytes,
            mask: mask(masks.all, head),
            long: masks.long,
            v4,
            udp,
            origin: head.origin,
            header_len,
            total_len: header_len as u32 + size,
            seq: flow.seq_next,
            id,
            id_step,
            ip_check: checksum::update(head.be16(L3_AT + 10), flow.id_first, id),
            left,
            left_first: left,
            growth,
            flow_id: Some(flow_id),
        };
    }

    /// Brings the flow up to date with what joined.
    #[inline(always)]
    pub(super) fn close(&mut self, arena: &mut Arena) {
        if self.train.left != self.train.left_first {
            self.catch_up(arena);
        }
        (self.train.left, self.train.left_first) = (0, 0);
    }

    #[inline(never)]
    fn catch_up(&mut self, arena: &mut Arena) {
        let merged = self.train.left_first - self.train.left;
        let Some(flow_id) = self.train.flow_id else {
            return;
        };
        let flow = self.table.flow_mut(flow_id);
        let payload_len = merged * u32::from(flow.size);
        flow.seq_next = flow.seq_next.wrapping_add(payload_len);
        flow.l3_total += payload_len;
        flow.segments += merged as u16;
        arena.grown(flow.head, &self.train.growth, payload_len);
        self.stats.merged += u64::from(merged);
        self.stats.merged_unadmitted += u64::from(merged);
    }
}

/// What all packets of a train share: what its flow's do, all flags, and their lengths.
fn mask(all: Mask, head: &Packet) -> Mask {
    let mut mask = all;
    let l4_at = head.l4_at();
    let mut set = |range: Range<usize>| {
        if let Some(bytes) = mask.get_mut(range) {
            bytes.fill(0xff);
        }
    };
    match head.layers.net {
        Net::V4 => set(L3_AT + 2..L3_AT + 4),
        _ => set(L3_AT + 4..L3_AT + 6),
    }
    match head.layers.l4_len < 20 {
        true => set(l4_at + 4..l4_at + 6),
        false => set(l4_at + 13..l4_at + 14),
    }
    mask
}
