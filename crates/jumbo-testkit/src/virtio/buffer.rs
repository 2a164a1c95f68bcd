//! Buffers in guest memory, and how a packet is laid out over the descriptors of one.

use super::memory::{GuestMemory, Window};
use super::queue::Piece;

/// How a buffer is cut into descriptors. Any layout must do (virtio 1.3 section 2.7.4.4).
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// The header has a descriptor of its own.
    pub header_alone: bool,
    /// Longest piece in bytes; 0 for no limit.
    pub piece_len: usize,
}

/// Bytes between two pieces and behind the last, which belong to no descriptor.
const GAP_LEN: usize = 16;
const GAP_BYTE: u8 = 0xEE;

/// One piece: where it stands in the buffer, and which bytes of header and packet it holds.
#[derive(Copy, Clone, Debug)]
struct Span {
    at: usize,
    start: usize,
    len: usize,
}

impl Layout {
    /// All of `len` bytes (header included) as spans. Between two spans is a gap.
    fn spans(self, header_len: usize, len: usize) -> impl Iterator<Item = Span> {
        let (mut at, mut start) = (0, 0);
        std::iter::from_fn(move || {
            let left = len.checked_sub(start).filter(|left| *left > 0)?;
            let most = if self.piece_len == 0 {
                left
            } else {
                self.piece_len
            };
            let most = if self.header_alone && start < header_len {
                most.min(header_len - start)
            } else {
                most
            };
            let span = Span {
                at,
                start,
                len: left.min(most),
            };
            start += span.len;
            at += span.len + GAP_LEN;
            Some(span)
        })
    }

    /// Descriptors that `len` bytes need.
    #[must_use]
    pub fn count(self, header_len: usize, len: usize) -> usize {
        self.spans(header_len, len).count()
    }

    fn stride(self, header_len: usize, len: usize) -> usize {
        len + GAP_LEN * self.count(header_len, len)
    }
}

/// The buffers of one queue, all alike.
#[derive(Debug)]
pub(super) struct Buffers {
    layout: Layout,
    header_len: usize,
    /// Bytes of header and packet that fit.
    pub(super) room: usize,
    base: Vec<(u64, Window)>,
    /// All of the buffer as pieces.
    whole: Vec<Vec<Piece>>,
    free: Vec<u16>,
    writable: bool,
}

impl Buffers {
    /// Bytes of guest memory they take.
    pub(super) fn memory_len(layout: Layout, header_len: usize, room: usize, count: usize) -> u64 {
        let each = layout.stride(header_len, room).next_multiple_of(64);
        (each * count) as u64
    }

    pub(super) fn new(
        memory: &mut GuestMemory,
        layout: Layout,
        [header_len, room, count]: [usize; 3],
        writable: bool,
    ) -> Self {
        let stride = layout.stride(header_len, room);
        let mut base = Vec::with_capacity(count);
        for _ in 0..count {
            let addr = memory.take(stride, 64);
            let window = memory.window(addr, stride).expect("just taken");
            window.fill(0, stride, GAP_BYTE);
            base.push((addr, window));
        }
        let mut buffers = Self {
            layout,
            header_len,
            room,
            base,
            whole: Vec::new(),
            free: (0..count as u16).rev().collect(),
            writable,
        };
        buffers.whole = (0..count as u16)
            .map(|slot| buffers.pieces(slot, room))
            .collect();
        buffers
    }

    /// The first `len` bytes of a buffer as pieces.
    fn pieces(&self, slot: u16, len: usize) -> Vec<Piece> {
        let mut pieces = Vec::new();
        self.pieces_to(slot, len, &mut pieces);
        pieces
    }

    /// The same into a vector that is there.
    pub(super) fn pieces_to(&self, slot: u16, len: usize, pieces: &mut Vec<Piece>) {
        let base = self.base[usize::from(slot)].0;
        pieces.clear();
        pieces.extend(self.layout.spans(self.header_len, len).map(|span| Piece {
            addr: base + span.at as u64,
            len: span.len as u32,
            writable: self.writable,
        }));
    }

    /// All of a buffer as pieces, or what [`shorten`](Self::shorten) left of it.
    pub(super) fn whole(&self, slot: u16) -> &[Piece] {
        &self.whole[usize::from(slot)]
    }

    /// From now on every buffer is `len` bytes long.
    pub(super) fn shorten(&mut self, len: usize) {
        self.whole = (0..self.base.len() as u16)
            .map(|slot| self.pieces(slot, len))
            .collect();
    }

    pub(super) fn count(&self) -> u16 {
        self.base.len() as u16
    }

    pub(super) fn take(&mut self) -> Option<u16> {
        self.free.pop()
    }

    pub(super) fn put(&mut self, slot: u16) {
        self.free.push(slot);
    }

    /// Writes header and packet into a buffer.
    pub(super) fn write(&self, slot: u16, header: &[u8], packet: &[u8]) {
        let window = &self.base[usize::from(slot)].1;
        let len = header.len() + packet.len();
        for span in self.layout.spans(self.header_len, len) {
            let in_header = header.get(span.start..).unwrap_or(&[]);
            let in_header = &in_header[..in_header.len().min(span.len)];
            window.write(span.at, in_header);
            let start = (span.start + in_header.len()).saturating_sub(header.len());
            let rest = &packet[start..start + span.len - in_header.len()];
            window.write(span.at + in_header.len(), rest);
        }
    }

    /// Appends the first `len` bytes of a buffer.
    pub(super) fn read_to(&self, slot: u16, len: usize, bytes: &mut Vec<u8>) {
        let window = &self.base[usize::from(slot)].1;
        for span in self.layout.spans(self.header_len, self.room) {
            let take = len.saturating_sub(span.start).min(span.len);
            window.read_to(span.at, take, bytes);
        }
    }

    /// `num_buffers` of a header in this buffer.
    pub(super) fn num_buffers(&self, slot: u16) -> u16 {
        let mut bytes = [0; 2];
        let window = &self.base[usize::from(slot)].1;
        for span in self.layout.spans(self.header_len, self.header_len) {
            for (index, byte) in bytes.iter_mut().enumerate() {
                let place = 10 + index;
                if (span.start..span.start + span.len).contains(&place) {
                    let at = span.at + place - span.start;
                    window.read(at, std::slice::from_mut(byte));
                }
            }
        }
        u16::from_le_bytes(bytes)
    }

    /// Whether the bytes that belong to no descriptor are as they were.
    pub(super) fn gaps_intact(&self, slot: u16) -> bool {
        let window = &self.base[usize::from(slot)].1;
        self.layout.spans(self.header_len, self.room).all(|span| {
            let mut gap = [0; GAP_LEN];
            window.read(span.at + span.len, &mut gap);
            gap == [GAP_BYTE; GAP_LEN]
        })
    }
}
