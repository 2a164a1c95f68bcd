//! The driver's side of a split ring (virtio 1.3 section 2.7).

use std::sync::atomic::{Ordering, fence};

use super::memory::{GuestMemory, Window};
use super::queue::{
    Chains, DESCRIPTOR_LEN, DeviceFault, Piece, QueueOptions, Returned, RingAddresses, Tables,
    Used, passed,
};

/// The descriptor continues in `next`.
pub const NEXT: u16 = 1;
/// The device writes to it.
pub const WRITE: u16 = 2;
/// It refers to a table of descriptors.
pub const INDIRECT: u16 = 4;
/// `avail.flags`: no interrupts, please.
pub const NO_INTERRUPT: u16 = 1;
/// `used.flags`: no kicks, please.
pub const NO_NOTIFY: u16 = 1;

/// `struct virtq_desc`.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct SplitDescriptor {
    /// Guest address.
    pub addr: u64,
    /// Length in bytes.
    pub len: u32,
    /// [`NEXT`], [`WRITE`], [`INDIRECT`].
    pub flags: u16,
    /// Index of the next one of the chain.
    pub next: u16,
}

impl SplitDescriptor {
    /// As it lies in memory.
    #[must_use]
    pub fn bytes(&self) -> [u8; DESCRIPTOR_LEN] {
        let mut bytes = [0; DESCRIPTOR_LEN];
        bytes[..8].copy_from_slice(&self.addr.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&self.next.to_le_bytes());
        bytes
    }
}

/// Offset of `ring` in both `struct virtq_avail` and `struct virtq_used`.
const ENTRIES: usize = 4;
/// Bytes of an entry of the used ring.
const USED_ENTRY_LEN: usize = 8;

/// The driver's side of a split ring. Its ordinary use is described at [`DriverQueue`](super::DriverQueue); the methods
/// beginning with `raw_` let a test write what no driver would.
#[derive(Debug)]
pub struct SplitDriver {
    descriptors: Window,
    avail: Window,
    used: Window,
    addresses: RingAddresses,
    tables: Tables,
    chains: Chains,
    size: u16,
    event_idx: bool,
    in_order: bool,
    free: u16,
    /// First free descriptor.
    first_free: u16,
    /// What follows each descriptor: in its chain, or in the list of free ones.
    next: Vec<u16>,
    /// `avail.idx` with what was added, and as published.
    added: u16,
    published: u16,
    /// Used entries taken so far.
    seen: u16,
}

impl SplitDriver {
    /// Takes memory for the ring.
    ///
    /// # Panics
    ///
    /// When the size is no power of two up to 32768.
    pub fn new(memory: &mut GuestMemory, options: &QueueOptions) -> Self {
        let size = options.size;
        assert!(size.is_power_of_two(), "a split ring of {size} entries");
        let entries = usize::from(size);
        let lens = [
            entries * DESCRIPTOR_LEN,
            ENTRIES + 2 * entries + 2,
            ENTRIES + USED_ENTRY_LEN * entries + 2,
        ];
        let addresses = RingAddresses {
            descriptors: memory.take(lens[0], 16),
            driver: memory.take(lens[1], 2),
            device: memory.take(lens[2], 4),
        };
        let window = |addr, len| memory.window(addr, len).expect("just taken");
        Self {
            descriptors: window(addresses.descriptors, lens[0]),
            avail: window(addresses.driver, lens[1]),
            used: window(addresses.device, lens[2]),
            addresses,
            tables: Tables::new(memory, options),
            chains: Chains::new(options),
            size,
            event_idx: options.event_idx,
            in_order: options.in_order,
            free: size,
            first_free: 0,
            next: (1..=size).map(|next| next % size).collect(),
            added: 0,
            published: 0,
            seen: 0,
        }
    }

    /// See [`DriverQueue`](super::DriverQueue).
    #[must_use]
    pub fn addresses(&self) -> RingAddresses {
        self.addresses
    }

    /// See [`DriverQueue`](super::DriverQueue).
    #[must_use]
    pub fn size(&self) -> u16 {
        self.size
    }

    /// See [`DriverQueue`](super::DriverQueue).
    #[must_use]
    pub fn free(&self) -> u16 {
        self.free
    }

    /// See [`DriverQueue`](super::DriverQueue).
    #[must_use]
    pub fn held(&self) -> u16 {
        self.chains.held()
    }

    /// See [`DriverQueue::add`](super::DriverQueue::add).
    pub fn add(&mut self, pieces: &[Piece], token: u16) -> Option<u16> {
        let indirect = self.tables.takes(pieces);
        let slots = if indirect { 1 } else { pieces.len() as u16 };
        if slots > self.free || slots == 0 {
            return None;
        }
        let head = self.first_free;
        let last = if indirect {
            self.write_table(head, pieces);
            head
        } else {
            self.write_chain(head, pieces)
        };
        self.first_free = self.next[usize::from(last)];
        self.free -= slots;
        self.chains.lend(head, slots, pieces, token);
        self.raw_avail_entry(self.added % self.size, head);
        self.added = self.added.wrapping_add(1);
        Some(head)
    }

    /// Returns the chain's last descriptor.
    fn write_chain(&self, head: u16, pieces: &[Piece]) -> u16 {
        let mut at = head;
        for (index, piece) in pieces.iter().enumerate() {
            let more = index + 1 < pieces.len();
            let next = self.next[usize::from(at)];
            let descriptor = SplitDescriptor {
                addr: piece.addr,
                len: piece.len,
                flags: flags_of(piece) | if more { NEXT } else { 0 },
                next: if more { next } else { 0 },
            };
            self.raw_descriptor(at, &descriptor);
            if more {
                at = next;
            }
        }
        at
    }

    fn write_table(&self, head: u16, pieces: &[Piece]) {
        let (addr, write) = self.tables.at(head);
        for (index, piece) in pieces.iter().enumerate() {
            let more = index + 1 < pieces.len();
            let flags = flags_of(piece) | if more { NEXT } else { 0 };
            let next = if more { index as u32 + 1 } else { 0 };
            write(index, piece.addr, piece.len, u32::from(flags) | next << 16);
        }
        let descriptor = SplitDescriptor {
            addr,
            len: (pieces.len() * DESCRIPTOR_LEN) as u32,
            flags: INDIRECT,
            next: 0,
        };
        self.raw_descriptor(head, &descriptor);
    }

    /// See [`DriverQueue::publish`](super::DriverQueue::publish).
    pub fn publish(&mut self) -> bool {
        let old = std::mem::replace(&mut self.published, self.added);
        if old == self.added {
            return false;
        }
        self.avail
            .u16(2)
            .store(self.added.to_le(), Ordering::Release);
        // The device must not miss the index if it stopped asking for kicks before it (section 2.7.13.3).
        fence(Ordering::SeqCst);
        if self.event_idx {
            return passed(self.avail_event(), self.added, old);
        }
        self.used_flags() & NO_NOTIFY == 0
    }

    /// See [`DriverQueue::has_used`](super::DriverQueue::has_used).
    #[must_use]
    pub fn has_used(&self) -> bool {
        self.chains.in_batch() || self.used_idx() != self.seen
    }

    /// See [`DriverQueue::poll`](super::DriverQueue::poll).
    pub fn poll(&mut self) -> Result<Option<Used>, DeviceFault> {
        let Returned { used, slots } = if self.chains.in_batch() {
            self.chains.next_of_batch()?
        } else {
            let moved = self.used_idx().wrapping_sub(self.seen);
            if moved == 0 {
                return Ok(None);
            }
            let held = self.chains.held();
            if moved > held {
                return Err(DeviceFault::Ahead { moved, held });
            }
            let (id, len) = self.used_entry(self.seen % self.size);
            self.chains.give_back(id, len)?
        };
        self.seen = self.seen.wrapping_add(1);
        self.release(used.id, slots);
        Ok(Some(used))
    }

    /// Puts a chain's descriptors back. Under IN_ORDER they are free already by their place.
    fn release(&mut self, head: u16, slots: u16) {
        self.free += slots;
        if self.in_order {
            return;
        }
        let last = (1..slots).fold(head, |at, _| self.next[usize::from(at)]);
        self.next[usize::from(last)] = self.first_free;
        self.first_free = head;
    }

    /// See [`DriverQueue::interrupt_after`](super::DriverQueue::interrupt_after).
    #[must_use]
    pub fn interrupt_after(&mut self, count: u16) -> bool {
        if self.event_idx {
            let event = self.seen.wrapping_add(count - 1);
            self.raw_used_event(event);
        } else {
            self.raw_avail_flags(0);
        }
        // The device must see the wish, or we its index (section 2.7.14).
        fence(Ordering::SeqCst);
        let count = if self.event_idx { count } else { 1 };
        self.chains.in_batch() || self.used_idx().wrapping_sub(self.seen) >= count
    }

    /// See [`DriverQueue::disable_interrupts`](super::DriverQueue::disable_interrupts).
    pub fn disable_interrupts(&mut self) {
        if self.event_idx {
            // Only after another 65535 buffers.
            self.raw_used_event(self.seen.wrapping_sub(1));
        } else {
            self.raw_avail_flags(NO_INTERRUPT);
        }
    }

    /// See [`DriverQueue::resume_base`](super::DriverQueue::resume_base).
    #[must_use]
    pub fn resume_base(&self) -> u32 {
        self.used_idx().into()
    }

    /// `used.idx`.
    #[must_use]
    pub fn used_idx(&self) -> u16 {
        u16::from_le(self.used.u16(2).load(Ordering::Acquire))
    }

    /// `used.flags`.
    #[must_use]
    pub fn used_flags(&self) -> u16 {
        u16::from_le(self.used.u16(0).load(Ordering::Acquire))
    }

    /// An entry of the used ring: (id, len).
    #[must_use]
    pub fn used_entry(&self, slot: u16) -> (u32, u32) {
        let at = ENTRIES + USED_ENTRY_LEN * usize::from(slot);
        let word = |at| u32::from_le(self.used.u32(at).load(Ordering::Relaxed));
        (word(at), word(at + 4))
    }

    /// `avail_event`: the index at which the device wants a kick.
    #[must_use]
    pub fn avail_event(&self) -> u16 {
        let at = ENTRIES + USED_ENTRY_LEN * usize::from(self.size);
        u16::from_le(self.used.u16(at).load(Ordering::Acquire))
    }

    /// Index of `avail.idx` that was last published.
    #[must_use]
    pub fn avail_idx(&self) -> u16 {
        self.published
    }

    /// Writes a descriptor as it is.
    pub fn raw_descriptor(&self, index: u16, descriptor: &SplitDescriptor) {
        let at = usize::from(index) * DESCRIPTOR_LEN;
        self.descriptors.write(at, &descriptor.bytes());
    }

    /// Writes an entry of the available ring: a head.
    pub fn raw_avail_entry(&self, slot: u16, head: u16) {
        let at = ENTRIES + 2 * usize::from(slot);
        self.avail.u16(at).store(head.to_le(), Ordering::Relaxed);
    }

    /// Writes `avail.idx`.
    pub fn raw_avail_idx(&mut self, idx: u16) {
        self.added = idx;
        self.published = idx;
        self.avail.u16(2).store(idx.to_le(), Ordering::Release);
    }

    /// Writes `avail.flags`.
    pub fn raw_avail_flags(&self, flags: u16) {
        self.avail.u16(0).store(flags.to_le(), Ordering::Release);
    }

    /// Writes `used_event`: the index after which an interrupt is wanted.
    pub fn raw_used_event(&self, event: u16) {
        let at = ENTRIES + 2 * usize::from(self.size);
        self.avail.u16(at).store(event.to_le(), Ordering::Release);
    }

    /// Writes `used.idx`, which belongs to the device.
    pub fn raw_used_idx(&self, idx: u16) {
        self.used.u16(2).store(idx.to_le(), Ordering::Release);
    }
}

fn flags_of(piece: &Piece) -> u16 {
    if piece.writable { WRITE } else { 0 }
}
