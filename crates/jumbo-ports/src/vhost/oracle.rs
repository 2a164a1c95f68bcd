//! The rings' walk beside other readings of the standard, over the same memory: the `virtio-queue` crate for split rings,
//! the test kit's textbook for packed ones, which that crate does not know. What both take is the same, in the same
//! order. Where they differ, the difference is one of those listed in [`split_difference`] and [`packed_difference`].

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use arrayvec::ArrayVec;
use jumbo_testkit::virtio::{Flaw, PackedRing, Piece, Walked, walk_packed};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use super::device::{Position, RegionSpec, RingState};
use super::guest::GuestMemory;
use super::sys::buf::Buf;
use super::sys::vring::{CHAIN_MAX, Direction, RingFault, Setup, Vring};

/// Two regions side by side, so that a buffer may lie in both, and a third apart.
const REGIONS: [(u64, usize); 3] = [(0x1_0000, 0x8000), (0x1_8000, 0x8000), (0x10_0000, 0x4000)];
/// Where the rings lie: descriptors, driver and device area.
const RINGS: [u64; 3] = [0x1_0000, 0x1_1000, 0x1_2000];
/// Where indirect tables lie. The last runs from one region into the next.
const TABLES: [u64; 4] = [0x1_3000, 0x1_3108, 0x10_0000, 0x1_7FE0];
const DESC_LEN: u64 = 16;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

/// A descriptor of either kind.
#[derive(Copy, Clone, Debug)]
struct Desc {
    addr: u64,
    len: u32,
    /// Split: flags, then next. Packed: id, then flags.
    low: u16,
    high: u16,
}

impl Desc {
    fn bytes(self) -> [u8; 16] {
        let rest = u64::from(self.len) | u64::from(self.low) << 32 | u64::from(self.high) << 48;
        let words = [self.addr, rest].map(u64::to_le_bytes);
        std::array::from_fn(|at| words[at / 8][at % 8])
    }
}

/// Memory, as both see it.
struct Memory {
    ours: Arc<GuestMemory>,
    theirs: GuestMemoryMmap,
}

impl Memory {
    fn new() -> Self {
        let files = REGIONS.map(|(_, len)| {
            let file = memfd_create("oracle", MemfdFlags::CLOEXEC).expect("a file");
            ftruncate(&file, len as u64).expect("room");
            File::from(file)
        });
        let pairs = || REGIONS.iter().zip(&files);
        let specs: Vec<_> = pairs()
            .map(|((addr, len), file)| {
                Arc::new(RegionSpec {
                    guest_addr: *addr,
                    size: *len as u64,
                    user_addr: *addr,
                    mmap_offset: 0,
                    file: OwnedFd::from(file.try_clone().expect("a copy")),
                })
            })
            .collect();
        let ranges = pairs().map(|((addr, len), file)| {
            let file = FileOffset::new(file.try_clone().expect("a copy"), 0);
            (GuestAddress(*addr), *len, Some(file))
        });
        let ours = GuestMemory::map(&specs, None).expect("mapped");
        Self {
            ours: Arc::new(ours),
            theirs: GuestMemoryMmap::from_ranges_with_files(ranges).expect("mapped"),
        }
    }

    /// The bytes that are there, also of a write that ends outside.
    fn write(&self, addr: u64, bytes: &[u8]) {
        // What ends outside is written as far as there is memory.
        let _ = self.theirs.write(bytes, GuestAddress(addr));
    }

    fn has(&self, addr: u64, len: u32) -> bool {
        self.theirs.check_range(GuestAddress(addr), len as usize)
    }

    fn is_in_one_region(&self, addr: u64, len: u32) -> bool {
        REGIONS.iter().any(|(start, size)| {
            let end = addr.checked_add(len.into());
            addr >= *start && end.is_some_and(|end| end <= start + *size as u64)
        })
    }

    fn read(&self, addr: u64, len: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; len];
        let read = self.theirs.read_slice(&mut bytes, GuestAddress(addr));
        read.is_ok().then_some(bytes)
    }

    fn desc(&self, addr: u64) -> Option<Desc> {
        let bytes = self.read(addr, 16)?;
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight"));
        let rest = word(8);
        Some(Desc {
            addr: word(0),
            len: rest as u32,
            low: (rest >> 32) as u16,
            high: (rest >> 48) as u16,
        })
    }

    fn vring(&self, packed: bool, size: u16, position: u16, direction: Direction) -> Vring {
        let [desc, driver, device] = RINGS;
        let ring = RingState {
            size,
            is_addressed: true,
            desc_user_addr: desc,
            avail_user_addr: driver,
            used_user_addr: device,
            ..RingState::default()
        };
        let setup = Setup {
            ring: &ring,
            position: Position {
                avail: position,
                used: Some(position),
            },
            memory: &self.ours,
            direction,
            packed,
            event_idx: false,
            indirect: true,
            log: None,
            keepers: ArrayVec::new(),
        };
        Vring::new(&setup).expect("it lies in memory")
    }
}

/// What our walk took: pieces of one descriptor in two regions are one again.
fn pieces(bufs: &[Buf], wanted: &[Piece]) -> Vec<Piece> {
    let mut bufs = bufs.iter();
    let mut taken = Vec::new();
    while let Some(first) = bufs.next() {
        let (addr, mut len) = (first.guest_addr(), first.len);
        let whole = wanted.get(taken.len()).map_or(len, |piece| piece.len);
        while len < whole {
            let Some(more) = bufs.next() else { break };
            assert_eq!(
                more.guest_addr(),
                addr + u64::from(len),
                "goes on elsewhere"
            );
            len += more.len;
        }
        taken.push(Piece::readable(addr, len));
    }
    taken
}

fn with_direction(pieces: Vec<Piece>, direction: Direction) -> Vec<Piece> {
    let writable = direction == Direction::ToGuest;
    let turned = |piece| Piece { writable, ..piece };
    pieces.into_iter().map(turned).collect()
}

/// An address, and a length that is in memory, mostly.
fn place() -> impl Strategy<Value = (u64, u32)> {
    let inside = (0x1_4000_u64..0x1_6000, 1_u32..0x400);
    let edges = select(vec![
        (0x1_7FFF, 1),
        (0x1_7FF0, 0x20),
        (0x1_FFFF, 1),
        (0x10_3FFF, 1),
        (0x1_0000, 0x1_0000),
    ]);
    let bad = select(vec![
        (0x1_FFFF, 2),
        (0x2_0000, 1),
        (0xFFFF, 1),
        (0, 64),
        (u64::MAX, 1),
        (u64::MAX, 2),
        (0x1_4000, 0),
        (0x1_4000, u32::MAX),
        (0x10_3FFF, 2),
    ]);
    prop_oneof![30 => inside, 4 => edges, 1 => bad]
}

/// A table, and the length its descriptor says, mostly its own.
#[derive(Clone, Debug)]
struct Table {
    at: u64,
    entries: Vec<Desc>,
    len: u32,
}

/// Entries of a split ring's table, or of its own descriptors: chains that lead on, mostly.
fn split_desc(count: u16, wrong: u16) -> impl Strategy<Value = Desc> {
    let flags = prop_oneof![12 => Just(0), 8 => Just(NEXT), 1 => any::<u16>()];
    let next = prop_oneof![30 => 0..count.max(1), 1 => count..=count + 1, 1 => any::<u16>()];
    (place(), flags, next, 0..40_u16).prop_map(move |((addr, len), flags, high, turn)| {
        let direction = if turn == 0 { wrong ^ WRITE } else { wrong };
        let low = flags ^ direction;
        Desc {
            addr,
            len,
            low,
            high,
        }
    })
}

/// Entries that follow each other: the usual table.
fn in_order(mut entries: Vec<Desc>) -> Vec<Desc> {
    let count = entries.len();
    for (at, entry) in entries.iter_mut().enumerate() {
        let flag = if at + 1 < count { NEXT } else { 0 };
        entry.low = entry.low & WRITE | flag;
        entry.high = at as u16 + 1;
    }
    entries
}

fn table_of(
    entry: impl Strategy<Value = Desc>,
    tidy: fn(Vec<Desc>) -> Vec<Desc>,
) -> impl Strategy<Value = Table> {
    let len =
        prop_oneof![20 => Just(None), 1 => select(vec![0_u32, 8, 17, 16, 1 << 20]).prop_map(Some)];
    let entries = (vec(entry, 1..6), any::<bool>());
    (0..TABLES.len(), entries, len).prop_map(move |(at, (entries, is_tidy), len)| {
        let entries = if is_tidy { tidy(entries) } else { entries };
        Table {
            at: TABLES[at],
            len: len.unwrap_or(16 * entries.len() as u32),
            entries,
        }
    })
}

/// A ring with tables, and a driver that has announced some chains.
#[derive(Clone, Debug)]
struct SplitCase {
    size: u16,
    base: u16,
    writes: bool,
    descs: Vec<Desc>,
    /// Tables, and the descriptor that leads to each.
    tables: Vec<(Table, u16, u16)>,
    heads: Vec<u16>,
    /// More than the heads, mostly not.
    jump: u16,
}

fn split_case() -> impl Strategy<Value = SplitCase> {
    let shape = (
        select(vec![1_u16, 2, 4, 8, 16, 32]),
        any::<u16>(),
        any::<bool>(),
    );
    shape.prop_flat_map(|(size, base, writes)| {
        let wrong = if writes { WRITE } else { 0 };
        let table = table_of(split_desc(5, wrong), in_order);
        let flags = prop_oneof![16 => Just(INDIRECT), 1 => Just(INDIRECT | NEXT), 1 => Just(INDIRECT | WRITE)];
        let head = prop_oneof![40 => 0..size, 1 => Just(size), 1 => any::<u16>()];
        let jump = prop_oneof![30 => Just(0_u16), 1 => 1..40_u16];
        let descs = vec(split_desc(size, wrong), usize::from(size));
        let tables = vec((table, 0..size, flags), 0..3);
        let heads = vec(head, 1..=usize::from(size));
        (descs, tables, heads, jump).prop_map(move |(descs, tables, heads, jump)| SplitCase {
            size,
            base,
            writes,
            descs,
            tables,
            heads,
            jump,
        })
    })
}

impl SplitCase {
    fn write(&self, memory: &Memory) {
        let [at, driver, _] = RINGS;
        let mut descs = self.descs.clone();
        for (table, index, flags) in &self.tables {
            let bytes: Vec<u8> = table
                .entries
                .iter()
                .flat_map(|entry| entry.bytes())
                .collect();
            memory.write(table.at, &bytes);
            descs[usize::from(*index)] = Desc {
                addr: table.at,
                len: table.len,
                low: *flags,
                high: descs[usize::from(*index)].high,
            };
        }
        for (index, desc) in (0..).zip(&descs) {
            memory.write(at + DESC_LEN * index, &desc.bytes());
        }
        for (nth, head) in (0..).zip(&self.heads) {
            let slot = self.base.wrapping_add(nth) % self.size;
            memory.write(driver + 4 + 2 * u64::from(slot), &head.to_le_bytes());
        }
        let idx = self.base.wrapping_add(self.heads.len() as u16);
        memory.write(driver, &[0; 2]);
        memory.write(driver + 2, &idx.wrapping_add(self.jump).to_le_bytes());
    }

    fn queue(&self) -> Queue {
        let mut queue = Queue::new(self.size).expect("a size");
        let halves = |addr: u64| (Some(addr as u32), Some((addr >> 32) as u32));
        let [(a, b), (c, d), (e, f)] = RINGS.map(halves);
        queue.set_size(self.size);
        queue.set_desc_table_address(a, b);
        queue.set_avail_ring_address(c, d);
        queue.set_used_ring_address(e, f);
        queue.set_next_avail(self.base);
        queue.set_ready(true);
        queue
    }
}

/// What another reading made of a chain: its pieces, and whether it came to an end.
struct Theirs {
    head: u16,
    pieces: Vec<Piece>,
    is_whole: bool,
}

/// Why a chain that they take, in whole or in part, stops our port. `None`: they should agree.
fn split_difference(
    memory: &Memory,
    fault: RingFault,
    theirs: &Theirs,
    writes: bool,
) -> Option<&'static str> {
    // They end a chain of 2^32 bytes (2.7.5.2) before the buffer that we refuse.
    let raw = raw_chain(memory, theirs.head);
    let any = |is: &dyn Fn(&Desc) -> bool| {
        let mut buffers = raw.iter().filter(|(desc, _)| desc.low & INDIRECT == 0);
        buffers.any(|(desc, _)| is(desc))
    };
    let tables = || raw.iter().filter(|(desc, _)| desc.low & INDIRECT != 0);
    let is = |holds: bool, what| holds.then_some(what);
    match fault {
        RingFault::OutsideMemory { .. } if any(&|p| !memory.has(p.addr, p.len)) => {
            Some("they leave it to the user of a buffer to look whether it is in memory")
        }
        RingFault::OutsideMemory { .. } => is(
            tables().any(|(desc, _)| !memory.is_in_one_region(desc.addr, desc.len)),
            "a table must lie in one region here; they read entry by entry, and end where one is outside",
        ),
        RingFault::EmptyBuffer => is(
            any(&|p| p.len == 0),
            "a buffer of no bytes is no buffer of a network card; they leave that to its user",
        ),
        RingFault::WrongDirection => is(
            any(&|p| (p.low & WRITE != 0) != writes),
            "rings of a network card go one way",
        ),
        RingFault::DescriptorIndex(_) | RingFault::ChainTooLong => is(
            !theirs.is_whole,
            "they take the part of a chain before the index, or as long as the ring",
        ),
        RingFault::IndirectLength(len) => is(
            len == 0 || !len.is_multiple_of(16) || len / 16 > CHAIN_MAX as u32,
            "they take what is before the table, and one of up to 65535 entries",
        ),
        RingFault::NestedIndirect if !theirs.is_whole => {
            Some("they take what is before a table within a table")
        }
        RingFault::NestedIndirect => is(
            tables().any(|(desc, _)| desc.low & NEXT != 0),
            "they do not look at NEXT beside INDIRECT (2.7.5.3.1: MUST NOT set both)",
        ),
        _ => None,
    }
}

/// The descriptors from a head on, and where the chain leads in a table those too, as they are; each at most once.
fn raw_chain(memory: &Memory, head: u16) -> Vec<(Desc, u64)> {
    let mut all: Vec<(Desc, u64)> = Vec::new();
    let (mut table, mut index) = (RINGS[0], head);
    loop {
        let at = table.wrapping_add(DESC_LEN * u64::from(index));
        let seen = all.iter().any(|(_, seen)| *seen == at);
        let Some(desc) = memory.desc(at).filter(|_| !seen) else {
            return all;
        };
        all.push((desc, at));
        if desc.low & INDIRECT != 0 {
            (table, index) = (desc.addr, 0);
        } else if desc.low & NEXT != 0 {
            index = desc.high;
        } else {
            return all;
        }
    }
}

/// Runs both over a case. Returns how many chains both took, and how ours ended.
fn compare_split(memory: &Memory, case: &SplitCase) -> (usize, Option<RingFault>) {
    case.write(memory);
    let direction = if case.writes {
        Direction::ToGuest
    } else {
        Direction::FromGuest
    };
    let mut ours = memory.vring(false, case.size, case.base, direction);
    let mut queue = case.queue();
    let Ok(mut chains) = queue.iter(&memory.theirs) else {
        // An index that jumps further than the ring is long is one to neither.
        let jumped = ours.pop(&mut Vec::new());
        assert!(
            matches!(jumped, Err(RingFault::AvailIndexJump(_))),
            "{jumped:?}"
        );
        return (0, jumped.err());
    };
    for taken in 0.. {
        let mut bufs = Vec::new();
        let popped = ours.pop(&mut bufs);
        let Some(chain) = chains.next() else {
            assert_eq!(popped, Ok(None), "{taken} chains, and then another");
            return (taken, None);
        };
        let head = chain.head_index();
        let theirs: Vec<_> = chain.collect();
        let piece = |desc: &virtio_queue::desc::split::Descriptor| Piece {
            addr: desc.addr().0,
            len: desc.len(),
            writable: desc.is_write_only(),
        };
        let theirs = Theirs {
            head,
            pieces: theirs.iter().map(piece).collect(),
            is_whole: theirs.last().is_some_and(|last| !last.has_next()),
        };
        let fault = match popped {
            Err(fault) => fault,
            Ok(ours) => {
                assert!(ours.is_some(), "{taken} chains, and they have another");
                assert!(theirs.is_whole, "a chain that does not end was taken");
                let ours = with_direction(pieces(&bufs, &theirs.pieces), direction);
                assert_eq!(ours, theirs.pieces);
                continue;
            }
        };
        let why = split_difference(memory, fault, &theirs, case.writes);
        assert!(why.is_some(), "{fault:?}: {:?} of {head}", theirs.pieces);
        return (taken, Some(fault));
    }
    unreachable!("one of them ends")
}

/// A packed ring's descriptors; sides are set when they are written.
#[derive(Clone, Debug)]
struct PackedCase {
    size: u16,
    index: u16,
    wrap: bool,
    writes: bool,
    descs: Vec<Desc>,
    tables: Vec<(Table, u16, u16)>,
    /// Descriptors that are available.
    ready: u16,
}

fn packed_desc(wrong: u16, flags: impl Strategy<Value = u16>) -> impl Strategy<Value = Desc> {
    (place(), flags, any::<u16>(), 0..40_u16).prop_map(move |((addr, len), flags, id, turn)| Desc {
        addr,
        len,
        low: id,
        high: flags ^ if turn == 0 { wrong ^ WRITE } else { wrong },
    })
}

fn packed_case() -> impl Strategy<Value = PackedCase> {
    let shape = (
        select(vec![1_u16, 2, 3, 5, 8, 16, 31]),
        any::<u16>(),
        any::<bool>(),
        any::<bool>(),
    );
    shape.prop_flat_map(|(size, index, wrap, writes)| {
        let wrong = if writes { WRITE } else { 0 };
        let ring_flags = prop_oneof![12 => Just(0), 8 => Just(NEXT), 1 => any::<u16>()];
        let table_flags = prop_oneof![40 => Just(0), 1 => Just(NEXT), 1 => any::<u16>()];
        let table = table_of(packed_desc(wrong, table_flags), |entries| entries);
        let flags = prop_oneof![16 => Just(INDIRECT), 1 => Just(INDIRECT | NEXT), 1 => Just(INDIRECT | WRITE)];
        let descs = vec(packed_desc(wrong, ring_flags), usize::from(size));
        let tables = vec((table, 0..size, flags), 0..3);
        (descs, tables, 0..=size).prop_map(move |(descs, tables, ready)| PackedCase {
            size,
            index: index % size,
            wrap,
            writes,
            descs,
            tables,
            ready,
        })
    })
}

impl PackedCase {
    fn write(&self, memory: &Memory) {
        let mut descs = self.descs.clone();
        for (table, index, flags) in &self.tables {
            let bytes: Vec<u8> = table
                .entries
                .iter()
                .flat_map(|entry| entry.bytes())
                .collect();
            memory.write(table.at, &bytes);
            let desc = &mut descs[usize::from(*index)];
            (desc.addr, desc.len, desc.high) = (table.at, table.len, *flags);
        }
        for (nth, desc) in (0..).zip(&descs) {
            let index = (u32::from(self.index) + nth) % u32::from(self.size);
            let wrap = self.wrap != (index < u32::from(self.index));
            let is_ready = nth < u32::from(self.ready);
            let sides = if wrap == is_ready { AVAIL } else { USED };
            let high = desc.high & !(AVAIL | USED) | sides;
            let bytes = Desc { high, ..*desc }.bytes();
            memory.write(RINGS[0] + DESC_LEN * u64::from(index), &bytes);
        }
    }
}

/// As [`split_difference`].
fn packed_difference(memory: &Memory, fault: RingFault, theirs: &Walked) -> Option<&'static str> {
    let any = |is: &dyn Fn(&Piece) -> bool| theirs.pieces.iter().any(is);
    let is = |holds: bool, what| holds.then_some(what);
    match fault {
        RingFault::OutsideMemory { .. } if any(&|p| !memory.has(p.addr, p.len)) => {
            Some("the textbook does not look at buffers")
        }
        RingFault::OutsideMemory { .. } => is(
            theirs.count == 1,
            "a table must lie in one region here; the textbook reads entry by entry",
        ),
        RingFault::EmptyBuffer => is(
            any(&|p| p.len == 0),
            "a buffer of no bytes is no buffer here",
        ),
        RingFault::WrongDirection => Some("rings of a network card go one way"),
        RingFault::IndirectLength(len) => is(
            len / 16 > CHAIN_MAX as u32,
            "the textbook takes tables of any length",
        ),
        _ => None,
    }
}

/// Whether both name the same rule. Several may be broken at once, and not all look in the same order: what our walk finds
/// in a buffer it finds before the end of its list.
fn is_same_flaw(fault: RingFault, flaw: Flaw) -> bool {
    match fault {
        RingFault::ChainTooLong => flaw == Flaw::ListTooLong,
        RingFault::NestedIndirect => matches!(flaw, Flaw::TableInList | Flaw::FlagInTable),
        RingFault::IndirectLength(_) => {
            matches!(
                flaw,
                Flaw::TableLength | Flaw::TableOutside | Flaw::FlagInTable
            )
        }
        RingFault::OutsideMemory { .. } | RingFault::EmptyBuffer | RingFault::WrongDirection => {
            true
        }
        _ => false,
    }
}

fn compare_packed(memory: &Memory, case: &PackedCase) -> (usize, Option<RingFault>) {
    case.write(memory);
    let direction = if case.writes {
        Direction::ToGuest
    } else {
        Direction::FromGuest
    };
    let wrap_bit = |wrap: bool| u16::from(wrap) << 15;
    let position = case.index | wrap_bit(case.wrap);
    let mut ours = memory.vring(true, case.size, position, direction);
    let read = |at: u64, len: usize| memory.read(at, len);
    let mut ring = PackedRing {
        descriptors: RINGS[0],
        size: case.size,
        index: case.index,
        wrap: case.wrap,
    };
    let mut now = position;
    for taken in 0..=usize::from(case.size) {
        let mut bufs = Vec::new();
        assert_eq!(ours.position().avail, now);
        let popped = ours.pop(&mut bufs);
        match (popped, walk_packed(&read, ring)) {
            (Ok(None), Ok(None)) => return (taken, None),
            (Ok(Some(chain)), Ok(Some(theirs))) => {
                assert_eq!((chain.id(), chain.count()), (theirs.id, theirs.count));
                let ours = with_direction(pieces(&bufs, &theirs.pieces), direction);
                assert_eq!(ours, theirs.pieces);
                let next = ring.index + theirs.count;
                let wraps = next >= ring.size;
                ring.index = if wraps { next - ring.size } else { next };
                ring.wrap ^= wraps;
                now = ring.index | wrap_bit(ring.wrap);
            }
            (Err(fault), Ok(Some(theirs))) => {
                let why = packed_difference(memory, fault, &theirs);
                assert!(why.is_some(), "{fault:?}: {theirs:?}");
                return (taken, Some(fault));
            }
            (Err(fault), Err(flaw)) => {
                assert!(is_same_flaw(fault, flaw), "{fault:?} and {flaw:?}");
                return (taken, Some(fault));
            }
            // The one thing the textbook forbids and we let pass: flags in a table that mean nothing there.
            (Ok(Some(_)), Err(Flaw::FlagInTable)) => return (taken, None),
            (ours, theirs) => panic!("{ours:?} and {theirs:?}"),
        }
    }
    (usize::from(case.size), None)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn split_rings_are_read_as_virtio_queue_reads_them(case in split_case()) {
        compare_split(&Memory::new(), &case);
    }

    #[test]
    fn packed_rings_are_read_as_the_textbook_reads_them(case in packed_case()) {
        compare_packed(&Memory::new(), &case);
    }
}

/// How often each outcome comes up in so many cases: chains that both took, and what ours refused.
fn outcomes<T>(
    cases: impl Strategy<Value = T>,
    compare: impl Fn(&Memory, &T) -> (usize, Option<RingFault>),
) -> (usize, Vec<&'static str>) {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let (mut taken, mut faults) = (0, Vec::new());
    for _ in 0..3000 {
        let case = cases.new_tree(&mut runner).expect("a case").current();
        let (chains, fault) = compare(&Memory::new(), &case);
        taken += chains;
        faults.extend(fault.map(name));
    }
    faults.sort_unstable();
    faults.dedup();
    (taken, faults)
}

fn name(fault: RingFault) -> &'static str {
    match fault {
        RingFault::AvailIndexJump(_) => "jump",
        RingFault::DescriptorIndex(_) => "index",
        RingFault::ChainTooLong => "long",
        RingFault::NestedIndirect => "nested",
        RingFault::IndirectLength(_) => "table length",
        RingFault::OutsideMemory { .. } => "outside",
        RingFault::EmptyBuffer => "empty",
        RingFault::WrongDirection => "direction",
        other => panic!("{other:?}"),
    }
}

/// The comparison above would be worth nothing if one of them refused everything, or nothing.
#[test]
fn what_is_compared_is_both_right_and_wrong() {
    let (taken, faults) = outcomes(split_case(), compare_split);
    assert!(taken > 3000, "{taken} chains taken");
    let all = [
        "direction",
        "empty",
        "index",
        "jump",
        "long",
        "nested",
        "outside",
        "table length",
    ];
    assert_eq!(faults, all);
    let (taken, faults) = outcomes(packed_case(), compare_packed);
    assert!(taken > 3000, "{taken} chains taken");
    let all = [
        "direction",
        "empty",
        "long",
        "nested",
        "outside",
        "table length",
    ];
    assert_eq!(faults, all);
}
