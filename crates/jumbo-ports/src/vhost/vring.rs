//! Virtqueues, the device's side: split (virtio 1.3 section 2.7) and packed (2.8).
//!
//! # Contract
//!
//! The guest owns the memory and may write to it at any moment, whatever the
//! specification says. Hence:
//!
//! * All access is by raw pointers into mappings that the [`Vring`] keeps alive. Each
//!   was checked, with its length and alignment, when it was made.
//! * Everything is read once, into private copies, before it is believed.
//! * Every index from the guest is checked or masked; every loop is bounded by the
//!   ring's size, which was checked at the start, or by [`CHAIN_MAX`].
//! * The guest's indices are read with acquire and ours stored with release order,
//!   so that what they announce is seen whole; a full fence stands between a store
//!   the guest looks at and a load that depends on it having been seen.
#![allow(unsafe_code, reason = "memory shared with a guest")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, Ordering, fence};

use arrayvec::ArrayVec;

use super::device::{Position, RING_SIZE_MAX, RingState, ring_parts};
use super::guest::GuestMemory;
use super::keep::{Keeper, Standing};
use crate::pool::{Lender, Piece, Region};
use crate::sys::region::prefetch;

/// Most descriptors of a chain. Linux sends up to 19, Windows some hundred.
pub(super) const CHAIN_MAX: usize = crate::queue::PACKET_FRAGS_MAX;

const DESC_LEN: usize = 16;

const DESC_F_NEXT: u16 = 1;
const DESC_F_WRITE: u16 = 2;
const DESC_F_INDIRECT: u16 = 4;
const PACKED_F_AVAIL: u16 = 1 << 7;
const PACKED_F_USED: u16 = 1 << 15;

/// Split: VIRTQ_AVAIL_F_NO_INTERRUPT and VIRTQ_USED_F_NO_NOTIFY.
const SPLIT_F_NO_EVENT: u16 = 1;

const EVENT_ENABLE: u16 = 0;
const EVENT_DISABLE: u16 = 1;
const EVENT_DESC: u16 = 2;

const LOG_PAGE: u64 = 4096;

/// How far ahead descriptors are asked for: four stand in a cache line, which comes
/// from the guest's processor.
const DESCS_AHEAD: u16 = 8;

/// What a guest did that no driver may do. The port stops.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RingFault {
    /// The file behind guest memory became shorter.
    #[error("guest memory was truncated")]
    MemoryTruncated,
    /// The available index moved by more than the ring has.
    #[error("the available index jumped by {0}, more than the ring has")]
    AvailIndexJump(u16),
    /// A descriptor index outside the table.
    #[error("descriptor index {0} is outside the ring")]
    DescriptorIndex(u16),
    /// A chain that does not end.
    #[error("a descriptor chain is longer than the ring, or a loop")]
    ChainTooLong,
    /// An indirect descriptor inside an indirect table or a chain.
    #[error("an indirect descriptor stands where none may")]
    NestedIndirect,
    /// An indirect table of a wrong length.
    #[error("an indirect table of {0} bytes")]
    IndirectLength(u32),
    /// An indirect descriptor that was not negotiated.
    #[error("an indirect descriptor, which was not negotiated")]
    IndirectNotNegotiated,
    /// An address outside guest memory.
    #[error("a buffer at guest address {addr:#x} of {len} bytes is outside memory")]
    OutsideMemory {
        /// Where it starts.
        addr: u64,
        /// Its length, bytes.
        len: u32,
    },
    /// A buffer of no bytes.
    #[error("a buffer of no bytes")]
    EmptyBuffer,
    /// A buffer to be written where one to be read was due, or the other way round.
    #[error("a buffer for the wrong direction")]
    WrongDirection,
    /// The ring's own memory is not where the front end said.
    #[error("the ring's {0} is outside memory or misaligned")]
    RingOutsideMemory(&'static str),
    /// A ring of a size the specification does not allow.
    #[error("a ring of {0} entries")]
    RingSize(u16),
}

/// Which way a ring's buffers go.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// The guest fills them, we read.
    FromGuest,
    /// We fill them, the guest reads.
    ToGuest,
}

/// A buffer of a guest: one descriptor, or the part of it within one region.
#[derive(Copy, Clone, Debug)]
pub(super) struct Buf {
    base: *mut u8,
    guest_addr: u64,
    offset: u64,
    region: u8,
    pub(super) len: u32,
}

// SAFETY: an address into a mapping that belongs to no thread; the `Vring` it came
// from keeps the mapping, and the queue that owns both moves as a whole.
unsafe impl Send for Buf {}

impl Buf {
    /// Its bytes from `skip` on, where the burst finds them.
    #[inline]
    pub(super) fn frag_at(&self, lender: Lender, skip: u32) -> u64 {
        lender.at(self.region, self.offset + u64::from(skip))
    }

    /// Copies its first bytes out, as many as both have. Returns how many.
    #[inline]
    pub(super) fn copy_to(&self, out: &mut [u8]) -> usize {
        let len = out.len().min(self.len as usize);
        // SAFETY: `len` bytes at `base` were checked to be inside a mapping that the
        // caller's ring keeps; no slice of ours overlaps a mapping.
        unsafe { std::ptr::copy_nonoverlapping(self.base, out.as_mut_ptr(), len) };
        len
    }

    #[inline]
    pub(super) fn prefetch(&self) {
        prefetch(self.base);
    }
}

/// A chain that was taken and must be given back: its id, and the entries of a packed
/// ring that it takes up. One word, so that it is never read wider than it was written.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain(u32);

impl Chain {
    #[inline]
    fn new(id: u16, count: u16) -> Self {
        Self(u32::from(id) | u32::from(count) << 16)
    }

    #[inline]
    fn id(self) -> u16 {
        self.0 as u16
    }

    #[inline]
    fn count(self) -> u16 {
        (self.0 >> 16) as u16
    }
}

/// A place to go back to.
#[derive(Copy, Clone, Debug)]
pub(super) struct Mark(u16, bool);

/// How one ring is to be run.
#[derive(Debug)]
pub(super) struct Setup<'a> {
    pub(super) ring: &'a RingState,
    pub(super) position: Position,
    pub(super) memory: &'a Arc<GuestMemory>,
    pub(super) direction: Direction,
    pub(super) packed: bool,
    pub(super) event_idx: bool,
    pub(super) indirect: bool,
    pub(super) log: Option<&'a Arc<DirtyLog>>,
    /// Of a packed ring: keep where it stands.
    pub(super) keepers: ArrayVec<Keeper, 2>,
}

/// One virtqueue.
#[derive(Debug)]
pub(super) struct Vring {
    kind: Kind,
    walk: Walk,
}

#[derive(Debug)]
enum Kind {
    Split(Split),
    Packed(Packed),
}

impl Vring {
    /// A ring in the state the front end described.
    ///
    /// # Errors
    /// What is wrong with its size or its place.
    pub(super) fn new(setup: &Setup<'_>) -> Result<Self, RingFault> {
        let size = setup.ring.size;
        let allowed = size > 0 && size <= RING_SIZE_MAX;
        if !allowed || !(setup.packed || size.is_power_of_two()) {
            return Err(RingFault::RingSize(size));
        }
        let [desc, driver, device] = ring_parts(setup.ring, setup.packed).map(|part| {
            let ptr = setup.memory.user_ptr(part.user_addr, part.len);
            ptr.filter(|ptr| (*ptr as u64).is_multiple_of(part.align))
                .ok_or(RingFault::RingOutsideMemory(part.name))
        });
        let areas = Areas {
            desc: desc?,
            driver: driver?,
            device: device?,
        };
        let kind = if setup.packed {
            Kind::Packed(Packed::new(areas, setup))
        } else {
            Kind::Split(Split::new(areas, setup))
        };
        Ok(Self {
            kind,
            walk: Walk {
                memory: setup.memory.clone(),
                direction: setup.direction,
                indirect: setup.indirect,
                hint: 0,
                log: setup.log.cloned(),
                log_addr: Self::log_addr(setup),
            },
        })
    }

    /// Where writes to the ring are logged. Of a packed ring the front end tells the
    /// place of the event area, but what is given back stands in the ring itself.
    fn log_addr(setup: &Setup<'_>) -> Option<u64> {
        let told = setup.ring.log_guest_addr?;
        if setup.packed {
            return setup.memory.guest_addr(setup.ring.desc_user_addr);
        }
        Some(told)
    }

    /// Takes the next chain, if there is one, and appends its buffers to `bufs`.
    #[inline]
    pub(super) fn pop(&mut self, bufs: &mut Vec<Buf>) -> Result<Option<Chain>, RingFault> {
        match &mut self.kind {
            Kind::Split(split) => split.pop(&mut self.walk, bufs),
            Kind::Packed(packed) => packed.pop(&mut self.walk, bufs),
        }
    }

    /// Where the next chain will be taken.
    #[inline]
    pub(super) fn mark(&self) -> Mark {
        match &self.kind {
            Kind::Split(split) => Mark(split.next_avail, false),
            Kind::Packed(packed) => Mark(packed.avail.index, packed.avail.wrap),
        }
    }

    /// Takes again from there what was taken since and not given back.
    #[inline]
    pub(super) fn rewind(&mut self, Mark(index, wrap): Mark) {
        match &mut self.kind {
            Kind::Split(split) => split.next_avail = index,
            Kind::Packed(packed) => packed.avail = Cursor { index, wrap },
        }
    }

    /// Gives a chain back, with as many bytes written into it. In the order taken;
    /// the guest sees it after [`publish`](Self::publish).
    #[inline]
    pub(super) fn give_back(&mut self, chain: Chain, written: u32) {
        match &mut self.kind {
            Kind::Split(split) => split.give_back(&self.walk, chain, written),
            Kind::Packed(packed) => packed.give_back(&self.walk, chain, written),
        }
    }

    /// Shows the guest what was given back. Whether it wants to be called.
    #[inline]
    pub(super) fn publish(&mut self) -> bool {
        match &mut self.kind {
            Kind::Split(split) => split.publish(&self.walk),
            Kind::Packed(packed) => packed.publish(&self.walk),
        }
    }

    /// Whether these chains are all that the ring can hold. A chain of several
    /// descriptors of a split ring counts as one: then this is never known.
    pub(super) fn is_all<'a>(&self, chains: impl Iterator<Item = &'a Chain>) -> bool {
        let size = match &self.kind {
            Kind::Split(split) => split.size,
            Kind::Packed(packed) => packed.size,
        };
        chains
            .map(|chain| usize::from(chain.count()))
            .sum::<usize>()
            >= usize::from(size)
    }

    /// Asks for no kicks.
    #[inline]
    pub(super) fn silence(&mut self) {
        match &mut self.kind {
            Kind::Split(split) => split.silence(),
            Kind::Packed(packed) => packed.set_device_event(0, EVENT_DISABLE),
        }
    }

    /// Asks for a kick with the next chain. Whether there is one already.
    ///
    /// # Errors
    /// An available index that cannot be.
    pub(super) fn listen(&mut self) -> Result<bool, RingFault> {
        match &mut self.kind {
            Kind::Split(split) => split.listen(&self.walk),
            Kind::Packed(packed) => Ok(packed.listen()),
        }
    }

    /// Where the ring stands. Asked for between two bursts, when everything that was
    /// taken has been given back.
    pub(super) fn position(&self) -> Position {
        match &self.kind {
            Kind::Split(split) => Position {
                avail: split.next_avail,
                used: Some(split.next_used),
            },
            Kind::Packed(packed) => Position {
                avail: packed.avail.bits(),
                used: Some(packed.used.bits()),
            },
        }
    }

    /// Whether the ring stands where another process left it; then goes on from there.
    pub(super) fn resume(&mut self, standing: Standing) -> bool {
        let stands = match &self.kind {
            Kind::Split(_) => false,
            Kind::Packed(packed) => packed.stands(standing),
        };
        if stands {
            self.finish(standing);
        }
        stands
    }

    /// Goes on where another process ended.
    pub(super) fn finish(&mut self, standing: Standing) {
        if let Kind::Packed(packed) = &mut self.kind {
            packed.resume(standing, self.walk.direction == Direction::ToGuest);
        }
    }

    /// Writes `prefix`, `header`, then all of `payload`, into `bufs`. Returns the bytes
    /// written, less than all if the buffers are too short.
    #[inline]
    pub(super) fn fill<'a>(
        &self,
        bufs: &[Buf],
        prefix: Prefix,
        header: &'a [u8],
        payload: impl Iterator<Item = Piece<'a>>,
    ) -> usize {
        let written = fill(bufs, prefix, header, payload);
        if let Some(log) = &self.walk.log {
            let mut left = written as u64;
            for buf in bufs {
                let here = left.min(buf.len.into());
                log.mark(buf.guest_addr, here);
                left -= here;
            }
        }
        written
    }
}

/// A virtio header as words, so that it goes from registers to the guest. Through a
/// buffer its bytes would be read wider than they were written, and such a read waits
/// for all stores before it: for the payload of the packet before.
#[derive(Copy, Clone, Debug)]
pub(super) struct Prefix {
    /// As on the wire, the first byte lowest.
    pub(super) words: [u64; 3],
    /// Bytes that count.
    pub(super) len: usize,
}

const PREFIX_ROOM: usize = 24;

impl Prefix {
    /// Writes it at the start of `buf`, with zeros behind it, if it and at least as many
    /// bytes as the zeros fit.
    #[inline]
    fn write_to(self, buf: Option<&Buf>, header_len: usize) -> bool {
        let Some(buf) = buf else { return false };
        if (buf.len as usize) < PREFIX_ROOM || self.len + header_len < PREFIX_ROOM {
            return false;
        }
        let to = buf.base.cast::<u64>();
        // SAFETY: PREFIX_ROOM bytes at `base` were checked to be in a mapping the ring
        // keeps, at any alignment.
        unsafe {
            to.write_unaligned(self.words[0].to_le());
            to.add(1).write_unaligned(self.words[1].to_le());
            to.add(2).write_unaligned(self.words[2].to_le());
        }
        true
    }

    fn bytes(self) -> [u8; PREFIX_ROOM] {
        let mut bytes = [0; PREFIX_ROOM];
        for (out, word) in bytes.chunks_exact_mut(8).zip(self.words) {
            out.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

#[inline]
fn fill<'a>(
    bufs: &[Buf],
    prefix: Prefix,
    header: &'a [u8],
    payload: impl Iterator<Item = Piece<'a>>,
) -> usize {
    let mut to = Target::new(bufs);
    if prefix.write_to(bufs.first(), header.len()) {
        to.skip(prefix.len);
    } else {
        to.write(Piece::of(&prefix.bytes()[..prefix.len.min(PREFIX_ROOM)]));
    }
    to.write(Piece::of(header));
    for piece in payload {
        if !to.write(piece) {
            break;
        }
    }
    to.written
}

/// Where a packet is being written.
struct Target<'a> {
    bufs: std::slice::Iter<'a, Buf>,
    to: *mut u8,
    room: usize,
    written: usize,
}

impl<'a> Target<'a> {
    #[inline]
    fn new(bufs: &'a [Buf]) -> Self {
        Self {
            bufs: bufs.iter(),
            to: std::ptr::null_mut(),
            room: 0,
            written: 0,
        }
    }

    /// Goes on in the next buffer, if there is one.
    #[inline]
    fn next(&mut self) -> bool {
        let Some(buf) = self.bufs.next() else {
            return false;
        };
        (self.to, self.room) = (buf.base, buf.len as usize);
        true
    }

    /// Leaves out `len` bytes of the first buffer, which has more.
    #[inline]
    fn skip(&mut self, len: usize) {
        if self.next() {
            self.to = self.to.wrapping_add(len);
            self.room = self.room.saturating_sub(len);
            self.written = len;
        }
    }

    /// Writes all of a piece; `false` if there was no room for it.
    #[inline]
    fn write(&mut self, piece: Piece<'_>) -> bool {
        let (mut from, mut left) = (piece.as_ptr(), piece.len());
        while left > 0 {
            if self.room == 0 && !self.next() {
                return false;
            }
            let len = left.min(self.room);
            // SAFETY: `len` bytes are readable at `from`, inside the piece, and
            // writable at `to`, inside the buffer, which was checked to be in a
            // mapping the ring keeps. A guest may have made both overlap: `copy`
            // allows it.
            unsafe {
                std::ptr::copy(from, self.to, len);
                from = from.add(len);
                self.to = self.to.add(len);
            }
            left -= len;
            self.room -= len;
            self.written += len;
        }
        true
    }
}

/// What both kinds need to follow a chain.
#[derive(Debug)]
struct Walk {
    memory: Arc<GuestMemory>,
    direction: Direction,
    indirect: bool,
    /// The region that was hit last.
    hint: u8,
    log: Option<Arc<DirtyLog>>,
    /// Guest address of the ring that is written: used ring, or packed ring.
    log_addr: Option<u64>,
}

/// A descriptor, as it was read.
#[derive(Copy, Clone, Debug)]
struct Desc {
    addr: u64,
    len: u32,
    /// Split: flags, then next. Packed: id, then flags.
    low: u16,
    high: u16,
}

impl Walk {
    /// Notes one buffer. Its parts come one by one, in registers: a descriptor on the
    /// stack would be read wider than it was written.
    #[inline]
    fn note(
        &mut self,
        (mut addr, mut left): (u64, u32),
        flags: u16,
        bufs: &mut Vec<Buf>,
    ) -> Result<(), RingFault> {
        let direction = match flags & DESC_F_WRITE {
            0 => Direction::FromGuest,
            _ => Direction::ToGuest,
        };
        if direction != self.direction {
            return Err(RingFault::WrongDirection);
        }
        if left == 0 {
            return Err(RingFault::EmptyBuffer);
        }
        let outside = RingFault::OutsideMemory { addr, len: left };
        // Once, unless the buffer runs on into the next region.
        while left > 0 {
            let place = self.memory.place(addr, &mut self.hint).ok_or(outside)?;
            let len = u64::from(left).min(place.room) as u32;
            bufs.push(Buf {
                base: self.memory.ptr(place, len).ok_or(outside)?,
                guest_addr: addr,
                offset: place.offset,
                region: place.region,
                len,
            });
            left -= len;
            addr = addr.checked_add(len.into()).ok_or(outside)?;
        }
        Ok(())
    }

    /// Follows an indirect table. `read_flags` and `next` say how its kind of
    /// descriptor is to be read.
    #[cold]
    #[inline(never)]
    fn indirect(
        &mut self,
        table: Desc,
        packed: bool,
        bufs: &mut Vec<Buf>,
    ) -> Result<(), RingFault> {
        if !self.indirect {
            return Err(RingFault::IndirectNotNegotiated);
        }
        let count = table.len as usize / DESC_LEN;
        if count == 0 || !(table.len as usize).is_multiple_of(DESC_LEN) || count > CHAIN_MAX {
            return Err(RingFault::IndirectLength(table.len));
        }
        let outside = RingFault::OutsideMemory {
            addr: table.addr,
            len: table.len,
        };
        let place = self.memory.place(table.addr, &mut self.hint);
        let place = place.filter(|place| place.room >= u64::from(table.len));
        let base = self
            .memory
            .ptr(place.ok_or(outside)?, table.len)
            .ok_or(outside)?;
        if packed {
            // All entries in order; chain flags mean nothing there (2.8.7).
            for index in 0..count {
                // SAFETY: `count` descriptors are mapped at `base`.
                let desc = unsafe { read_desc(base, index) };
                self.indirect_entry(desc, desc.high, bufs)?;
            }
            return Ok(());
        }
        let mut index = 0;
        for _ in 0..count {
            // SAFETY: `index` is below `count`.
            let desc = unsafe { read_desc(base, index) };
            self.indirect_entry(desc, desc.low, bufs)?;
            if desc.low & DESC_F_NEXT == 0 {
                return Ok(());
            }
            index = usize::from(desc.high);
            if index >= count {
                return Err(RingFault::DescriptorIndex(desc.high));
            }
        }
        Err(RingFault::ChainTooLong)
    }

    fn indirect_entry(
        &mut self,
        desc: Desc,
        flags: u16,
        bufs: &mut Vec<Buf>,
    ) -> Result<(), RingFault> {
        if flags & DESC_F_INDIRECT != 0 {
            return Err(RingFault::NestedIndirect);
        }
        self.note((desc.addr, desc.len), flags, bufs)
    }

    /// Marks a write to the ring's own memory.
    #[inline]
    fn log_used(&self, offset: u64, len: u64) {
        if let (Some(log), Some(base)) = (&self.log, self.log_addr) {
            log.mark(base.wrapping_add(offset), len);
        }
    }
}

/// Reads descriptor `index` of the table at `base`, each word once.
///
/// # Safety
/// `base` has more than `index` descriptors, mapped and aligned for 16-bit access at least.
#[inline]
unsafe fn read_desc(base: *const u8, index: usize) -> Desc {
    // SAFETY: the caller's. Unaligned reads, because an indirect table may stand anywhere;
    // volatile is not available for them and not needed: the copy is made once, into a value
    // that the compiler cannot read again from memory it may assume unchanged, because the
    // fence below forbids it.
    let words = unsafe {
        base.add(index * DESC_LEN)
            .cast::<[u64; 2]>()
            .read_unaligned()
    };
    std::sync::atomic::compiler_fence(Ordering::SeqCst);
    let [addr, rest] = words.map(u64::from_le);
    Desc {
        addr,
        len: rest as u32,
        low: (rest >> 32) as u16,
        high: (rest >> 48) as u16,
    }
}

/// Where a ring's three areas are.
#[derive(Copy, Clone, Debug)]
struct Areas {
    desc: *mut u8,
    driver: *mut u8,
    device: *mut u8,
}

// SAFETY: addresses into mappings that belong to no thread. A ring is used by one
// worker at a time.
unsafe impl Send for Areas {}

impl Areas {
    /// A 16-bit word of the driver area.
    ///
    /// # Safety
    /// `at` is even and, with two bytes behind it, inside the area, which is mapped while the
    /// ring lives.
    #[inline]
    unsafe fn driver_word(&self, at: usize) -> &AtomicU16 {
        // SAFETY: the caller's; the area is aligned to two bytes. An atomic may change
        // under a shared reference.
        unsafe { AtomicU16::from_ptr(self.driver.add(at).cast()) }
    }

    /// The same of the device area.
    ///
    /// # Safety
    /// That of [`Areas::driver_word`].
    #[inline]
    unsafe fn device_word(&self, at: usize) -> &AtomicU16 {
        // SAFETY: the caller's; the area is aligned to four bytes.
        unsafe { AtomicU16::from_ptr(self.device.add(at).cast()) }
    }
}

/// Whether an event index lies among what was just done (virtio 1.3 section 2.7.10).
#[inline]
fn wants_event(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

/// A split ring. Driver area: flags, idx, `size` heads, used_event. Device area:
/// flags, idx, `size` pairs of id and length, avail_event.
#[derive(Debug)]
struct Split {
    areas: Areas,
    size: u16,
    event_idx: bool,
    /// What is taken next, and the guest's index when last looked at.
    next_avail: u16,
    seen_avail: u16,
    /// What is given back next, and what the guest was shown.
    next_used: u16,
    shown_used: u16,
    /// The used index when the guest was last asked whether it wants a call.
    asked_used: Option<u16>,
}

const IDX: usize = 2;
const RING: usize = 4;

impl Split {
    fn new(areas: Areas, setup: &Setup<'_>) -> Self {
        let position = setup.position;
        // SAFETY: the used index is in every device area.
        let shown = unsafe { areas.device_word(IDX) }.load(Ordering::Acquire);
        let used = position.used.unwrap_or(u16::from_le(shown));
        Self {
            areas,
            size: setup.ring.size,
            event_idx: setup.event_idx,
            next_avail: position.avail,
            seen_avail: position.avail,
            next_used: used,
            shown_used: used,
            asked_used: None,
        }
    }

    #[inline]
    fn slot(&self, index: u16) -> usize {
        // A power of two.
        usize::from(index & (self.size - 1))
    }

    /// Looks how far the guest is.
    #[inline]
    fn look(&mut self) -> Result<(), RingFault> {
        // SAFETY: inside every driver area.
        let seen = unsafe { self.areas.driver_word(IDX) }.load(Ordering::Acquire);
        let seen = u16::from_le(seen);
        let jump = seen.wrapping_sub(self.next_avail);
        if jump > self.size {
            return Err(RingFault::AvailIndexJump(jump));
        }
        self.seen_avail = seen;
        Ok(())
    }

    #[inline]
    fn pop(&mut self, walk: &mut Walk, bufs: &mut Vec<Buf>) -> Result<Option<Chain>, RingFault> {
        if self.next_avail == self.seen_avail {
            self.look()?;
            if self.next_avail == self.seen_avail {
                return Ok(None);
            }
        }
        // SAFETY: `slot` is below the ring's size.
        let head = unsafe {
            self.areas
                .driver_word(RING + 2 * self.slot(self.next_avail))
        };
        let head = u16::from_le(head.load(Ordering::Relaxed));
        self.prefetch_desc();
        self.chain(head, walk, bufs)?;
        self.next_avail = self.next_avail.wrapping_add(1);
        Ok(Some(Chain::new(head, 1)))
    }

    /// Asks for a descriptor that will soon be taken.
    #[inline]
    fn prefetch_desc(&self) {
        if self.seen_avail.wrapping_sub(self.next_avail) <= DESCS_AHEAD {
            return;
        }
        let at = RING + 2 * self.slot(self.next_avail.wrapping_add(DESCS_AHEAD));
        // SAFETY: `slot` is below the ring's size.
        let head = unsafe { self.areas.driver_word(at) }.load(Ordering::Relaxed);
        let offset = self.slot(u16::from_le(head)) * DESC_LEN;
        prefetch(self.areas.desc.wrapping_add(offset));
    }

    #[inline]
    fn chain(&self, head: u16, walk: &mut Walk, bufs: &mut Vec<Buf>) -> Result<(), RingFault> {
        let mut index = head;
        for taken in 0..usize::from(self.size).min(CHAIN_MAX) {
            if index >= self.size {
                return Err(RingFault::DescriptorIndex(index));
            }
            // SAFETY: below the ring's size, as just checked.
            let desc = unsafe { read_desc(self.areas.desc, usize::from(index)) };
            let flags = desc.low;
            if flags & DESC_F_INDIRECT != 0 {
                if taken > 0 || flags & DESC_F_NEXT != 0 {
                    return Err(RingFault::NestedIndirect);
                }
                return walk.indirect(desc, false, bufs);
            }
            walk.note((desc.addr, desc.len), flags, bufs)?;
            if flags & DESC_F_NEXT == 0 {
                return Ok(());
            }
            index = desc.high;
        }
        Err(RingFault::ChainTooLong)
    }

    #[inline]
    fn give_back(&mut self, walk: &Walk, chain: Chain, written: u32) {
        let at = RING + 8 * self.slot(self.next_used);
        let pair = [u32::from(chain.id()).to_le(), written.to_le()];
        // SAFETY: `slot` is below the ring's size; the area is aligned to four bytes.
        unsafe {
            self.areas
                .device
                .add(at)
                .cast::<[u32; 2]>()
                .write_volatile(pair)
        };
        walk.log_used(at as u64, 8);
        self.next_used = self.next_used.wrapping_add(1);
    }

    #[inline]
    fn publish(&mut self, walk: &Walk) -> bool {
        if self.next_used == self.shown_used {
            return false;
        }
        // SAFETY: inside every device area.
        let index = unsafe { self.areas.device_word(IDX) };
        index.store(self.next_used.to_le(), Ordering::Release);
        walk.log_used(IDX as u64, 2);
        self.shown_used = self.next_used;
        // The guest arms, then looks at the index; we store it, then look whether it is armed.
        fence(Ordering::SeqCst);
        let asked = self.asked_used.replace(self.next_used);
        if self.event_idx {
            let at = RING + 2 * usize::from(self.size);
            // SAFETY: used_event stands behind the heads and was counted in.
            let event = unsafe { self.areas.driver_word(at) }.load(Ordering::Relaxed);
            let event = u16::from_le(event);
            return asked.is_none_or(|old| wants_event(event, self.next_used, old));
        }
        // SAFETY: the flags are the first word of every driver area.
        let flags = unsafe { self.areas.driver_word(0) }.load(Ordering::Relaxed);
        u16::from_le(flags) & SPLIT_F_NO_EVENT == 0
    }

    fn silence(&mut self) {
        if !self.event_idx {
            // SAFETY: the flags are the first word of every device area.
            unsafe { self.areas.device_word(0) }.store(SPLIT_F_NO_EVENT.to_le(), Ordering::Relaxed);
        }
        // With event indices an index that stays behind asks for nothing.
    }

    fn listen(&mut self, walk: &Walk) -> Result<bool, RingFault> {
        if self.event_idx {
            let at = RING + 8 * usize::from(self.size);
            // SAFETY: avail_event stands behind the pairs and was counted in.
            let event = unsafe { self.areas.device_word(at) };
            event.store(self.next_avail.to_le(), Ordering::Relaxed);
            walk.log_used(at as u64, 2);
        } else {
            // SAFETY: the flags are the first word of every device area.
            unsafe { self.areas.device_word(0) }.store(0, Ordering::Relaxed);
        }
        // We arm, then look at the guest's index; it stores it, then looks whether we are armed.
        fence(Ordering::SeqCst);
        self.look()?;
        Ok(self.next_avail != self.seen_avail)
    }
}

/// A place in a packed ring.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
struct Cursor {
    index: u16,
    wrap: bool,
}

impl Cursor {
    fn of(bits: u16, size: u16) -> Self {
        Self {
            index: (bits & 0x7fff) % size,
            wrap: bits & 0x8000 != 0,
        }
    }

    fn bits(self) -> u16 {
        self.index | u16::from(self.wrap) << 15
    }

    #[inline]
    fn advance(&mut self, count: u16, size: u16) {
        // At most a ring's length more than an index: fits, and wraps once at most.
        self.index += count;
        if self.index >= size {
            self.index -= size;
            self.wrap = !self.wrap;
        }
    }
}

/// The flags of an entry that was given back.
#[inline]
fn used_flags(wrap: bool, written: bool) -> u16 {
    let sides = if wrap {
        PACKED_F_AVAIL | PACKED_F_USED
    } else {
        0
    };
    sides | if written { DESC_F_WRITE } else { 0 }
}

/// A packed ring. Driver and device area: an event's place with its wrap counter, flags.
#[derive(Debug)]
struct Packed {
    areas: Areas,
    size: u16,
    event_idx: bool,
    avail: Cursor,
    used: Cursor,
    /// The first entry given back since the last `publish`: its flags are stored last,
    /// because the guest looks at entries in order.
    first: Option<(u16, u16)>,
    /// The used index when the guest was last asked whether it wants a call.
    asked_used: Option<u16>,
    standing: Standing,
    keepers: ArrayVec<Keeper, 2>,
}

impl Packed {
    fn new(areas: Areas, setup: &Setup<'_>) -> Self {
        let size = setup.ring.size;
        let position = setup.position;
        let used = Cursor::of(position.used.unwrap_or(position.avail), size);
        let packed = Self {
            areas,
            size,
            event_idx: setup.event_idx,
            avail: Cursor::of(position.avail, size),
            used,
            first: None,
            asked_used: None,
            standing: Standing {
                used: used.bits(),
                first: used.bits(),
                last: used.bits(),
                witness: None,
            },
            keepers: setup.keepers.clone(),
        };
        packed.keep();
        packed.keep_witness();
        packed
    }

    /// The flags of an entry.
    #[inline]
    fn flags(&self, index: u16) -> &AtomicU16 {
        debug_assert!(index < self.size);
        // SAFETY: cursors are below the ring's size; the area is aligned to 16 bytes.
        unsafe {
            AtomicU16::from_ptr(
                self.areas
                    .desc
                    .add(usize::from(index) * DESC_LEN + 14)
                    .cast(),
            )
        }
    }

    #[inline]
    fn is_available(&self) -> bool {
        let flags = u16::from_le(self.flags(self.avail.index).load(Ordering::Acquire));
        let (avail, used) = (flags & PACKED_F_AVAIL != 0, flags & PACKED_F_USED != 0);
        avail == self.avail.wrap && used != self.avail.wrap
    }

    #[inline]
    fn pop(&mut self, walk: &mut Walk, bufs: &mut Vec<Buf>) -> Result<Option<Chain>, RingFault> {
        if !self.is_available() {
            return Ok(None);
        }
        let mut at = self.avail;
        let ahead = usize::from(at.index + DESCS_AHEAD) * DESC_LEN;
        // Beyond the ring it fetches something else, and faults never.
        prefetch(self.areas.desc.wrapping_add(ahead));
        for count in 1..=self.size.min(CHAIN_MAX as u16) {
            // SAFETY: cursors are below the ring's size.
            let desc = unsafe { read_desc(self.areas.desc, usize::from(at.index)) };
            let (id, flags) = (desc.low, desc.high);
            at.advance(1, self.size);
            if flags & DESC_F_INDIRECT != 0 {
                if count > 1 || flags & DESC_F_NEXT != 0 {
                    return Err(RingFault::NestedIndirect);
                }
                walk.indirect(desc, true, bufs)?;
            } else {
                walk.note((desc.addr, desc.len), flags, bufs)?;
            }
            if flags & DESC_F_NEXT == 0 {
                self.avail = at;
                return Ok(Some(Chain::new(id, count)));
            }
        }
        Err(RingFault::ChainTooLong)
    }

    #[inline]
    fn give_back(&mut self, walk: &Walk, chain: Chain, written: u32) {
        let Cursor { index, wrap } = self.used;
        let at = usize::from(index) * DESC_LEN;
        // SAFETY: cursors are below the ring's size; the area is aligned to 16 bytes.
        unsafe {
            let entry = self.areas.desc.add(at);
            // Where nothing was written the length means nothing (2.8.5). The guest's own
            // stays: should this process end here, the entry is taken once more.
            if written > 0 {
                entry.add(8).cast::<u32>().write_volatile(written.to_le());
            }
            entry
                .add(12)
                .cast::<u16>()
                .write_volatile(chain.id().to_le());
        }
        walk.log_used(at as u64, DESC_LEN as u64);
        self.used.advance(chain.count(), self.size);
        self.note_given_back(Cursor { index, wrap });
        let flags = used_flags(wrap, written > 0);
        match self.first {
            None => self.first = Some((index, flags)),
            Some(_) => self.flags(index).store(flags.to_le(), Ordering::Release),
        }
    }

    /// Writes down where the ring stands once this chain is back: before the guest
    /// can see it, and after all but its flags is there. Whoever goes on from here
    /// can finish it.
    #[inline]
    fn note_given_back(&mut self, at: Cursor) {
        self.standing.used = self.used.bits();
        self.standing.last = at.bits();
        if self.first.is_none() {
            self.standing.first = at.bits();
        }
        if self.used.wrap && !at.wrap {
            // The entries of the last time round were given back once more since.
            self.standing.witness = None;
            self.keep_witness();
        }
        self.keep();
    }

    #[inline]
    fn keep_witness(&self) {
        for keeper in &self.keepers {
            keeper.keep_witness(self.standing.witness);
            fence(Ordering::Release);
        }
    }

    #[inline]
    fn keep(&self) {
        for keeper in &self.keepers {
            // Also so that the compiler does not move it.
            fence(Ordering::Release);
            keeper.keep(self.standing);
            fence(Ordering::Release);
        }
    }

    /// Whether this is a ring that stands there. A ring that its driver has begun
    /// anew has in no entry the USED bit that only a device sets, and the witness
    /// has it until it is given back once more.
    fn stands(&self, standing: Standing) -> bool {
        let used = Cursor::of(standing.used, self.size);
        let Some(index) = standing.witness else {
            return true;
        };
        let passed = !used.wrap && index < used.index;
        passed
            || self.is_finished(Cursor {
                index: index % self.size,
                wrap: true,
            })
    }

    /// Whether the entry was given back when it was met with that wrap counter.
    fn is_finished(&self, at: Cursor) -> bool {
        let flags = u16::from_le(self.flags(at.index).load(Ordering::Acquire));
        (flags & PACKED_F_USED != 0) == at.wrap
    }

    /// Goes on where another process ended, perhaps between two stores.
    fn resume(&mut self, standing: Standing, writes: bool) {
        self.used = Cursor::of(standing.used, self.size);
        self.avail = self.used;
        self.standing = standing;
        // The first last, as always.
        for at in [standing.last, standing.first] {
            let at = Cursor::of(at, self.size);
            if at != self.used && !self.is_finished(at) {
                let flags = used_flags(at.wrap, writes);
                self.flags(at.index).store(flags.to_le(), Ordering::Release);
            }
        }
        self.keep();
        self.keep_witness();
    }

    #[inline]
    fn publish(&mut self, _walk: &Walk) -> bool {
        let Some((index, flags)) = self.first.take() else {
            return false;
        };
        self.flags(index).store(flags.to_le(), Ordering::Release);
        let last = Cursor::of(self.standing.last, self.size);
        if last.wrap && !self.keepers.is_empty() {
            self.standing.witness = Some(last.index);
            self.keep_witness();
        }
        fence(Ordering::SeqCst);
        let new = self.used.index;
        let Some(old) = self.asked_used.replace(new) else {
            return true;
        };
        // SAFETY: both words are in every driver area.
        let (place, flags) = unsafe { (self.areas.driver_word(0), self.areas.driver_word(2)) };
        let flags = u16::from_le(flags.load(Ordering::Acquire));
        let place = u16::from_le(place.load(Ordering::Relaxed));
        match flags & 3 {
            EVENT_DISABLE => false,
            EVENT_DESC if self.event_idx => self.wants_call(place, new, old),
            _ => true,
        }
    }

    /// Both wrap counters seen, as in Linux `virtqueue_kick_prepare_packed`.
    fn wants_call(&self, place: u16, new: u16, old: u16) -> bool {
        let mut event = place & 0x7fff;
        if (place & 0x8000 != 0) != self.used.wrap {
            event = event.wrapping_sub(self.size);
        }
        let old = if new <= old {
            old.wrapping_sub(self.size)
        } else {
            old
        };
        wants_event(event, new, old)
    }

    fn set_device_event(&mut self, place: u16, flags: u16) {
        // SAFETY: both words are in every device area.
        let (to_place, to_flags) =
            unsafe { (self.areas.device_word(0), self.areas.device_word(2)) };
        to_place.store(place.to_le(), Ordering::Relaxed);
        to_flags.store(flags.to_le(), Ordering::Release);
    }

    fn listen(&mut self) -> bool {
        let flags = if self.event_idx {
            EVENT_DESC
        } else {
            EVENT_ENABLE
        };
        self.set_device_event(self.avail.bits(), flags);
        fence(Ordering::SeqCst);
        self.is_available()
    }
}

/// Which pages of guest memory were written, for a migration that is under way: a
/// bit for each of 4096 bytes (vhost-user, "Migration").
#[derive(Debug)]
pub(super) struct DirtyLog {
    bits: Region,
    skip: u64,
    len: u64,
}

impl DirtyLog {
    /// A log of `len` bytes that begins `skip` bytes into `bits`.
    pub(super) fn new(bits: Region, skip: u64, len: u64) -> Self {
        Self { bits, skip, len }
    }

    /// Marks `len` bytes at a guest address; what the log has no bits for is not marked.
    pub(super) fn mark(&self, guest_addr: u64, len: u64) {
        if len == 0 {
            return;
        }
        let last = guest_addr.saturating_add(len - 1) / LOG_PAGE;
        for page in guest_addr / LOG_PAGE..=last {
            let Some(at) = self
                .bits
                .ptr(self.skip + page / 8, 1)
                .filter(|_| page / 8 < self.len)
            else {
                return;
            };
            // SAFETY: one mapped byte, which the front end changes with atomic operations too.
            let byte = unsafe { AtomicU8::from_ptr(at.as_ptr()) };
            byte.fetch_or(1 << (page % 8), Ordering::Relaxed);
        }
    }
}
