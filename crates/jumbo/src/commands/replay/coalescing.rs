//! A capture through the coalescing engine, burst by burst.

use jumbo_engine::arena::{Arena, PacketId, Pieces, SliceMemory};
use jumbo_engine::checksum::Kernels;
use jumbo_engine::coalesce::{Alone, Coalescer, End, Offer, Rules};
use jumbo_engine::packet::Packet;
use jumbo_engine::reason::Reason;
use jumbo_engine::segment::segments;
use jumbo_ports::capture::{CaptureError, LinkType, Record};

use super::admit::{Checksum, Input, Loaded, admit, checksum, place_of};
use super::books::{Books, FlowId, Left, Own, Why};
use super::output::{Envelope, Output};
use super::{came, input_of};
use crate::args::{Burst, ChecksumMode};

/// Bounds of a burst, whatever was asked for: packets, and captured bytes.
const BURST_PACKETS_MAX: usize = 1 << 20;
const BURST_BYTES_MAX: usize = 256 << 20;

/// Flows held at a time.
const FLOWS_HELD_MAX: usize = 32_768;

/// Pieces of payload a packet can need: two if it is cut, and again if it is admitted a second time.
const FRAGS_PER_PACKET: usize = 4;

/// When a burst ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BurstRule {
    packets: usize,
    gap_ns: u64,
    /// What the buffer has room for: packets, and captured bytes.
    pub(super) packets_max: usize,
    pub(super) bytes_max: usize,
}

impl BurstRule {
    pub(crate) fn new(burst: Burst, gap_us: u64) -> Self {
        let (packets, gap_ns) = match burst {
            Burst::All => (usize::MAX, u64::MAX),
            Burst::Packets(packets) => (packets.get(), gap_us.saturating_mul(1000)),
        };
        Self {
            packets,
            gap_ns,
            packets_max: BURST_PACKETS_MAX,
            bytes_max: BURST_BYTES_MAX,
        }
    }
}

/// What is kept of a packet until its burst ends, to be written.
#[derive(Debug, Clone, Copy)]
struct Mark {
    /// Where its bytes begin in the buffer, cooked header included.
    start: usize,
    cooked_len: usize,
    link: LinkType,
    ts_ns: u64,
}

/// The captured bytes of a burst. Without output nothing has to be kept: payload is read once, when it arrives.
#[derive(Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    marks: Vec<Mark>,
}

impl Buffer {
    fn keep(&mut self, record: &Record<'_>, cooked_len: usize) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(record.data);
        self.marks.push(Mark {
            start,
            cooked_len,
            link: record.link,
            ts_ns: record.ts_ns.unwrap_or(0),
        });
        start
    }

    /// The packet that a place in the buffer belongs to.
    fn mark_of(&self, place: u64) -> Option<Mark> {
        let behind = self.marks.partition_point(|m| m.start as u64 <= place);
        self.marks.get(behind.checked_sub(1)?).copied()
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.marks.clear();
    }
}

/// A replay that coalesces.
#[derive(Debug)]
pub(crate) struct Coalescing {
    arena: Arena,
    coalescer: Coalescer,
    kernels: Kernels,
    mode: ChecksumMode,
    rule: BurstRule,
    packets_in_burst: usize,
    bytes_in_burst: usize,
    last_ts_ns: Option<u64>,
    buffer: Buffer,
    books: Books,
    output: Option<Output>,
}

impl Coalescing {
    pub(crate) fn new(
        rules: &Rules,
        rule: BurstRule,
        mode: ChecksumMode,
        (follow_tunnels, books): (bool, Books),
        output: Option<Output>,
    ) -> Self {
        let packets = rule.packets.min(rule.packets_max);
        let flows = packets.min(FLOWS_HELD_MAX);
        // Held flows, what ended and waits to be taken, and the packet being looked at.
        let mut arena = Arena::new(2 * flows + 8, FRAGS_PER_PACKET * packets + 8);
        arena.follow_tunnels(follow_tunnels);
        Self {
            arena,
            // A fixed seed: the same capture gives the same result, and nobody is listening.
            coalescer: Coalescer::new(rules, flows, 0x6a75_6d62_6f00_0001),
            kernels: Kernels::detect(),
            mode,
            rule,
            packets_in_burst: 0,
            bytes_in_burst: 0,
            last_ts_ns: None,
            buffer: Buffer::default(),
            books,
            output,
        }
    }

    /// Takes the next packet of the capture.
    pub(crate) fn feed(&mut self, record: &Record<'_>) -> Result<(), CaptureError> {
        self.burst_boundary(record)?;
        self.packets_in_burst += 1;
        self.bytes_in_burst += record.data.len();
        self.books.cut_packets += u64::from(record.is_cut());
        let input = match input_of(record) {
            Ok(input) => input,
            Err(own) => return self.pass(record, Why::Own(own)),
        };
        let cooked_len = record.data.len() - input.bytes.len();
        let Self {
            arena,
            buffer,
            output,
            ..
        } = self;
        let kept = output.is_some();
        let start = if kept {
            buffer.keep(record, cooked_len)
        } else {
            0
        };
        let memory = SliceMemory::new(if kept { &buffer.bytes } else { record.data }, self.kernels);
        let input = Input {
            at: (start + cooked_len) as u64,
            ..input
        };
        match admit(arena, input, self.mode, &memory) {
            Ok(loaded) => {
                // Packets with different cooked headers came by different ways and are not merged.
                arena.packet_mut(loaded.id).origin = fnv(&record.data[..cooked_len]);
                self.admitted(record, loaded)
            }
            Err(why) => self.pass(record, why),
        }
    }

    /// Ends the burst before `record` if it does not belong to it.
    fn burst_boundary(&mut self, record: &Record<'_>) -> Result<(), CaptureError> {
        let gap_ns = match (record.ts_ns, self.last_ts_ns) {
            (Some(now), Some(last)) => now.saturating_sub(last),
            _ => 0,
        };
        self.last_ts_ns = record.ts_ns.or(self.last_ts_ns);
        let full = self.packets_in_burst >= self.rule.packets_max
            || self.bytes_in_burst >= self.rule.bytes_max
            || self.arena.free_frags() < FRAGS_PER_PACKET;
        let over = self.packets_in_burst >= self.rule.packets || gap_ns > self.rule.gap_ns;
        if !over && full {
            self.books.buffer_full += 1;
        }
        if over || full {
            self.end_burst()?;
        }
        Ok(())
    }

    fn admitted(&mut self, record: &Record<'_>, loaded: Loaded) -> Result<(), CaptureError> {
        let Loaded {
            id,
            opaque,
            pending,
        } = loaded;
        let packet = self.arena.packet(id);
        let flow = self.books.flow_of(packet);
        let came = came(packet);
        self.books.came(flow, came);
        self.books.checksum_pending += u64::from(pending);
        self.books.already_large += u64::from(super::is_large(packet));
        self.books.in_tunnels += u64::from(packet.is_in_tunnel());
        let kept = self.output.is_some();
        let bytes = if kept {
            &self.buffer.bytes
        } else {
            record.data
        };
        let memory = SliceMemory::new(bytes, self.kernels);
        let offer = match self.coalescer.offer(&mut self.arena, id, &memory) {
            Offer::Hold(slot) => {
                let held = (self.coalescer).hold(&mut self.arena, id, slot, flow.0, &memory);
                held.map_or_else(Offer::Alone, |()| Offer::Hold(slot))
            }
            other => other,
        };
        let why = match offer {
            Offer::Alone(alone) => {
                let payload = self.arena.payload(id);
                let sum = || checksum(self.arena.packet(id), payload, &memory);
                Some(why_alone(alone, opaque, record, sum))
            }
            _ => None,
        };
        self.drain()?;
        match why {
            Some(why) => self.leave(id, flow, why),
            None => Ok(()),
        }
    }

    /// Takes what has ended.
    fn drain(&mut self) -> Result<(), CaptureError> {
        let mut ready = std::mem::take(self.coalescer.ready());
        let mut result = Ok(());
        for done in ready.drain(..) {
            let why = Why::End(done.ended.unwrap_or(End::BurstEnd));
            result = result.and(self.leave(done.id, FlowId(done.out), why));
        }
        // Gives the list back, so that it is not allocated anew.
        *self.coalescer.ready() = ready;
        result
    }

    /// A packet or super-packet leaves.
    fn leave(&mut self, id: PacketId, flow: FlowId, why: Why) -> Result<(), CaptureError> {
        let packet = self.arena.packet(id);
        let came = came(packet);
        let count = packets_of(packet);
        let left = Left {
            left: 1,
            came: u64::from(count),
            payload_bytes: came.payload_bytes,
            tcp_data: came.tcp_data,
        };
        self.books.left(flow, why, left);
        let written = match &mut self.output {
            None => Ok(()),
            Some(output) => {
                let payload = self.arena.payload(id);
                let memory = SliceMemory::new(&self.buffer.bytes, self.kernels);
                let envelope = envelope(&self.buffer, payload);
                let comment = comment(packet, count, why);
                output.packet(envelope, packet, payload, &memory, comment.as_deref())
            }
        };
        self.arena.release(id);
        written
    }

    /// A packet that the engine cannot look at leaves as it came.
    fn pass(&mut self, record: &Record<'_>, why: Why) -> Result<(), CaptureError> {
        super::pass(&mut self.books, self.output.as_mut(), record, why)
    }

    fn end_burst(&mut self) -> Result<(), CaptureError> {
        self.coalescer.flush(&mut self.arena, End::BurstEnd);
        self.drain()?;
        self.books.bursts += u64::from(self.packets_in_burst > 0);
        self.packets_in_burst = 0;
        self.bytes_in_burst = 0;
        self.buffer.clear();
        Ok(())
    }

    /// Lets everything leave that is still held.
    pub(crate) fn finish(mut self) -> Result<(Books, Option<Output>), CaptureError> {
        self.end_burst()?;
        Ok((self.books, self.output))
    }
}

/// Names the most particular reason that is known for a packet that was no candidate.
fn why_alone(
    alone: Alone,
    opaque: Option<jumbo_engine::parse::Opaque>,
    record: &Record<'_>,
    sum: impl Fn() -> Checksum,
) -> Why {
    match (alone, opaque) {
        (_, Some(opaque)) => Why::Opaque(opaque),
        (Alone::TcpChecksum | Alone::UdpChecksum, None)
            if record.is_cut() && sum() == Checksum::Unknown =>
        {
            Why::Own(Own::PayloadCut)
        }
        (alone, None) => Why::Alone(alone),
    }
}

/// Link and cooked header of the first packet, time of the last: the super-packet could not leave earlier.
fn envelope<'a>(buffer: &'a Buffer, payload: Pieces<'_>) -> Envelope<'a> {
    let mut pieces = payload.map(|piece| place_of(piece.at));
    let first = pieces.next().and_then(|at| buffer.mark_of(at));
    let last = pieces.last().and_then(|at| buffer.mark_of(at));
    // Without payload it was not held, so it is the one that came last.
    let newest = buffer.marks.last().copied();
    let (first, last) = (first.or(newest), last.or(first).or(newest));
    let cooked = first.and_then(|m| buffer.bytes.get(m.start..m.start + m.cooked_len));
    Envelope {
        link: first.map_or(LinkType::Ethernet, |mark| mark.link),
        cooked: cooked.unwrap_or(&[]),
        ts_ns: last.map_or(0, |mark| mark.ts_ns),
    }
}

/// How many packets of the capture it is made of.
fn packets_of(packet: &Packet) -> u32 {
    let pending = packet.pending();
    match (pending.lossy, pending.gso) {
        (Some(lossy), _) => u32::from(lossy.segments) + u32::from(lossy.acks),
        (None, Some(gso)) => segments(packet.payload_len(), gso.size),
        (None, None) => 1,
    }
}

fn comment(packet: &Packet, count: u32, why: Why) -> Option<String> {
    let gso = packet.pending().gso?;
    let reason = match why {
        Why::End(end) => end.name(),
        other => other.name(),
    };
    Some(format!(
        "Jumbo: {count} segments, gso_size {}, ended: {reason}",
        gso.size
    ))
}

/// FNV-1a, 32 bits.
fn fnv(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}
