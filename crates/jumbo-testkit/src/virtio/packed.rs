//! The driver's side of a packed ring (virtio 1.3 section 2.8).

use std::sync::atomic::{Ordering, fence};

use super::memory::{GuestMemory, Window};
use super::queue::{
    Chains, DESCRIPTOR_LEN, DeviceFault, Piece, QueueOptions, Returned, RingAddresses, Tables,
    Used, passed,
};
use super::split::{INDIRECT, NEXT, WRITE};

/// Equal to the driver's wrap counter in an available descriptor, to the device's in a used one.
pub const AVAIL: u16 = 1 << 7;
/// Unequal to the driver's wrap counter in an available descriptor, equal to the device's in a used one.
pub const USED: u16 = 1 << 15;
/// Event flags: always.
pub const EVENT_ENABLE: u16 = 0;
/// Event flags: never.
pub const EVENT_DISABLE: u16 = 1;
/// Event flags: at a certain descriptor.
pub const EVENT_DESC: u16 = 2;
/// The wrap counter in an event offset, and in the halves of a vring base.
pub const WRAP: u16 = 1 << 15;

/// `struct pvirtq_desc`.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct PackedDescriptor {
    /// Guest address.
    pub addr: u64,
    /// Length in bytes.
    pub len: u32,
    /// The buffer.
    pub id: u16,
    /// The flags of a split descriptor, with [`AVAIL`] and [`USED`].
    pub flags: u16,
}

/// A place in the ring: an index and the wrap counter there.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// Descriptor index.
    pub index: u16,
    /// Wrap counter: true in the first round.
    pub wrap: bool,
}

impl Position {
    /// Where a fresh ring begins.
    pub const START: Self = Self {
        index: 0,
        wrap: true,
    };

    /// `by` descriptors on in a ring of `size`; `by` is at most `size`.
    #[must_use]
    pub fn forward(self, by: u16, size: u16) -> Self {
        let index = u32::from(self.index) + u32::from(by);
        let over = index >= u32::from(size);
        Self {
            index: (index - if over { u32::from(size) } else { 0 }) as u16,
            wrap: self.wrap ^ over,
        }
    }

    /// Index in the low 15 bits, wrap counter above: as in event offsets and vring bases.
    #[must_use]
    pub fn word(self) -> u16 {
        self.index | if self.wrap { WRAP } else { 0 }
    }

    fn avail_flags(self) -> u16 {
        if self.wrap { AVAIL } else { USED }
    }

    fn used_flags(self) -> u16 {
        if self.wrap { AVAIL | USED } else { 0 }
    }
}

/// The driver's side of a packed ring. Its ordinary use is described at [`DriverQueue`](super::DriverQueue); the methods
/// beginning with `raw_` let a test write what no driver would.
#[derive(Debug)]
pub struct PackedDriver {
    descriptors: Window,
    driver_event: Window,
    device_event: Window,
    addresses: RingAddresses,
    tables: Tables,
    chains: Chains,
    size: u16,
    event_idx: bool,
    in_order: bool,
    free: u16,
    free_ids: Vec<u16>,
    next_avail: Position,
    next_used: Position,
    /// The first descriptor that is not published yet, and its flags.
    unpublished: Option<(u16, u16)>,
    /// Descriptors added since the last publish.
    since_publish: u16,
}

impl PackedDriver {
    /// Takes memory for the ring.
    ///
    /// # Panics
    ///
    /// When the size is zero or above 32768.
    pub fn new(memory: &mut GuestMemory, options: &QueueOptions) -> Self {
        let size = options.size;
        assert!((1..=1 << 15).contains(&size), "a packed ring of {size}");
        let ring_len = usize::from(size) * DESCRIPTOR_LEN;
        let addresses = RingAddresses {
            descriptors: memory.take(ring_len, 16),
            driver: memory.take(4, 4),
            device: memory.take(4, 4),
        };
        let window = |addr, len| memory.window(addr, len).expect("just taken");
        Self {
            descriptors: window(addresses.descriptors, ring_len),
            driver_event: window(addresses.driver, 4),
            device_event: window(addresses.device, 4),
            addresses,
            tables: Tables::new(memory, options),
            chains: Chains::new(options),
            size,
            event_idx: options.event_idx,
            in_order: options.in_order,
            free: size,
            free_ids: (0..size).rev().collect(),
            next_avail: Position::START,
            next_used: Position::START,
            unpublished: None,
            since_publish: 0,
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
        let id = self.take_id();
        if indirect {
            let table = self.write_table(id, pieces);
            self.place(&table, id, INDIRECT);
        } else {
            for (index, piece) in pieces.iter().enumerate() {
                let more = index + 1 < pieces.len();
                let flags = if piece.writable { WRITE } else { 0 };
                self.place(piece, id, flags | if more { NEXT } else { 0 });
            }
        }
        self.free -= slots;
        self.chains.lend(id, slots, pieces, token);
        Some(id)
    }

    /// Under IN_ORDER the place of the head, which is free; otherwise the one given back last.
    fn take_id(&mut self) -> u16 {
        if self.in_order {
            return self.next_avail.index;
        }
        self.free_ids.pop().expect("a free descriptor has an id")
    }

    /// Writes the next descriptor, with its flags unless it is the first that the device has not seen.
    fn place(&mut self, piece: &Piece, id: u16, flags: u16) {
        let at = self.next_avail;
        let flags = flags | at.avail_flags();
        let offset = usize::from(at.index) * DESCRIPTOR_LEN;
        self.descriptors.write(offset, &piece.addr.to_le_bytes());
        self.descriptors.write(offset + 8, &piece.len.to_le_bytes());
        self.descriptors.write(offset + 12, &id.to_le_bytes());
        if self.unpublished.is_some() {
            self.store_flags(at.index, flags, Ordering::Relaxed);
        } else {
            self.unpublished = Some((at.index, flags));
        }
        self.next_avail = at.forward(1, self.size);
        self.since_publish += 1;
    }

    fn write_table(&self, id: u16, pieces: &[Piece]) -> Piece {
        let (addr, write) = self.tables.at(id);
        for (index, piece) in pieces.iter().enumerate() {
            // Only WRITE means something here, and there is no id (section 2.8.7).
            let flags = if piece.writable { WRITE } else { 0 };
            write(index, piece.addr, piece.len, u32::from(flags) << 16);
        }
        Piece::readable(addr, (pieces.len() * DESCRIPTOR_LEN) as u32)
    }

    fn store_flags(&self, index: u16, flags: u16, order: Ordering) {
        let at = usize::from(index) * DESCRIPTOR_LEN + 14;
        self.descriptors.u16(at).store(flags.to_le(), order);
    }

    /// See [`DriverQueue::publish`](super::DriverQueue::publish).
    pub fn publish(&mut self) -> bool {
        let Some((index, flags)) = self.unpublished.take() else {
            return false;
        };
        self.store_flags(index, flags, Ordering::Release);
        // The device must not miss the flags if it stopped asking for kicks before them (section 2.8.21.2).
        fence(Ordering::SeqCst);
        let added = std::mem::take(&mut self.since_publish);
        let (offset_wrap, flags) = self.device_event();
        if flags != EVENT_DESC {
            return flags != EVENT_DISABLE;
        }
        let new = self.next_avail;
        let mut event = offset_wrap & !WRAP;
        if (offset_wrap & WRAP != 0) != new.wrap {
            event = event.wrapping_sub(self.size);
        }
        passed(event, new.index, new.index.wrapping_sub(added))
    }

    fn flags_at(&self, index: u16) -> u16 {
        let at = usize::from(index) * DESCRIPTOR_LEN + 14;
        u16::from_le(self.descriptors.u16(at).load(Ordering::Acquire))
    }

    /// A used descriptor's (id, len). The length counts only where the device says that it wrote (section 2.8.5).
    fn used_at(&self, index: u16) -> (u16, u32) {
        let descriptor = self.descriptor(index);
        let wrote = descriptor.flags & WRITE != 0;
        (descriptor.id, if wrote { descriptor.len } else { 0 })
    }

    fn is_used(&self, at: Position) -> bool {
        self.flags_at(at.index) & (AVAIL | USED) == at.used_flags()
    }

    /// See [`DriverQueue::has_used`](super::DriverQueue::has_used).
    #[must_use]
    pub fn has_used(&self) -> bool {
        self.chains.in_batch() || (self.chains.held() > 0 && self.is_used(self.next_used))
    }

    /// See [`DriverQueue::poll`](super::DriverQueue::poll).
    pub fn poll(&mut self) -> Result<Option<Used>, DeviceFault> {
        if !self.has_used() {
            return Ok(None);
        }
        let Returned { used, slots } = if self.chains.in_batch() {
            self.chains.next_of_batch()?
        } else {
            let (id, len) = self.used_at(self.next_used.index);
            self.chains.give_back(id.into(), len)?
        };
        self.next_used = self.next_used.forward(slots, self.size);
        self.free += slots;
        if !self.in_order {
            self.free_ids.push(used.id);
        }
        Ok(Some(used))
    }

    /// See [`DriverQueue::interrupt_after`](super::DriverQueue::interrupt_after). `count` is in descriptors here.
    #[must_use]
    pub fn interrupt_after(&mut self, count: u16) -> bool {
        let count = if self.event_idx { count } else { 1 };
        let at = self.next_used.forward(count - 1, self.size);
        if self.event_idx {
            self.raw_driver_event(at.word(), EVENT_DESC);
        } else {
            self.raw_driver_event(0, EVENT_ENABLE);
        }
        // The device must see the wish, or we its flags (section 2.8.22).
        fence(Ordering::SeqCst);
        self.chains.in_batch() || (self.chains.held() > 0 && self.is_used(at))
    }

    /// See [`DriverQueue::disable_interrupts`](super::DriverQueue::disable_interrupts).
    pub fn disable_interrupts(&mut self) {
        self.raw_driver_event(0, EVENT_DISABLE);
    }

    /// See [`DriverQueue::resume_base`](super::DriverQueue::resume_base).
    #[must_use]
    pub fn resume_base(&self) -> u32 {
        let word = u32::from(self.device_position().word());
        word | word << 16
    }

    /// The first descriptor the device has not used, from what it wrote; nothing is taken back.
    #[must_use]
    pub fn device_position(&self) -> Position {
        let mut at = self.next_used;
        for _ in 0..self.chains.held() {
            if !self.is_used(at) {
                break;
            }
            let Some(slots) = self.chains.slots(self.used_at(at.index).0.into()) else {
                break;
            };
            at = at.forward(slots, self.size);
        }
        at
    }

    /// Where the driver writes next.
    #[must_use]
    pub fn next_avail(&self) -> Position {
        self.next_avail
    }

    /// Where the driver looks for the next used descriptor.
    #[must_use]
    pub fn next_used(&self) -> Position {
        self.next_used
    }

    /// A descriptor as it stands in the ring.
    #[must_use]
    pub fn descriptor(&self, index: u16) -> PackedDescriptor {
        let at = usize::from(index) * DESCRIPTOR_LEN;
        // Flags first: what they guard must not be older than they are.
        let flags = self.flags_at(index);
        PackedDescriptor {
            addr: u64::from_le(self.descriptors.u64(at).load(Ordering::Relaxed)),
            len: u32::from_le(self.descriptors.u32(at + 8).load(Ordering::Relaxed)),
            id: u16::from_le(self.descriptors.u16(at + 12).load(Ordering::Relaxed)),
            flags,
        }
    }

    /// What the device wants of kicks: (offset and wrap, flags).
    #[must_use]
    pub fn device_event(&self) -> (u16, u16) {
        let word = |at| u16::from_le(self.device_event.u16(at).load(Ordering::Acquire));
        (word(0), word(2) & 3)
    }

    /// Writes a descriptor as it is, flags last.
    pub fn raw_descriptor(&self, index: u16, descriptor: &PackedDescriptor) {
        let at = usize::from(index) * DESCRIPTOR_LEN;
        self.descriptors.write(at, &descriptor.addr.to_le_bytes());
        self.descriptors
            .write(at + 8, &descriptor.len.to_le_bytes());
        self.descriptors
            .write(at + 12, &descriptor.id.to_le_bytes());
        self.store_flags(index, descriptor.flags, Ordering::Release);
    }

    /// Writes the driver's event suppression: offset and wrap, flags.
    pub fn raw_driver_event(&self, offset_wrap: u16, flags: u16) {
        self.driver_event
            .u16(0)
            .store(offset_wrap.to_le(), Ordering::Relaxed);
        self.driver_event
            .u16(2)
            .store(flags.to_le(), Ordering::Release);
    }
}
