//! The device's side of a ring, slowly and by the book: what the driver of this module is tested against.
//!
//! Nothing is shared with the driver but the memory and the numbers of the standard.

use std::sync::atomic::{Ordering, fence};

use super::memory::{GuestMemory, Window};
use super::queue::{Piece, QueueOptions, RingAddresses};

/// A buffer as the device sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceChain {
    /// What to call it when it is given back.
    pub id: u16,
    /// Pieces to read.
    pub readable: Vec<Piece>,
    /// Pieces to write.
    pub writable: Vec<Piece>,
}

/// The device's side of one queue.
#[derive(Debug)]
pub struct DeviceQueue {
    memory: GuestMemory,
    options: QueueOptions,
    descriptors: Window,
    driver: Window,
    device: Window,
    /// Next descriptor or entry to take, and the wrap counter there (packed).
    avail: (u16, bool),
    /// Next to give back.
    used: (u16, bool),
    /// `used` when the driver was last asked whether it wants an interrupt.
    asked: (u16, bool),
    /// Descriptors of each buffer (packed), by id.
    taken: Vec<u16>,
    /// Buffers that were popped, in order: with IN_ORDER a batch ends at any of them.
    order: Vec<u16>,
}

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

struct Descriptor {
    addr: u64,
    len: u32,
    /// Bytes 12 and 13: flags of a split descriptor, id of a packed one.
    third: u16,
    /// Bytes 14 and 15: next of a split descriptor, flags of a packed one.
    fourth: u16,
}

fn descriptor(window: &Window, index: usize) -> Descriptor {
    let mut bytes = [0; 16];
    window.read(16 * index, &mut bytes);
    let short = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    Descriptor {
        addr: u64::from_le_bytes(bytes[..8].try_into().expect("eight")),
        len: u32::from_le_bytes(bytes[8..12].try_into().expect("four")),
        third: short(12),
        fourth: short(14),
    }
}

impl DeviceQueue {
    /// Attaches to a ring; `base` is the number of SET_VRING_BASE.
    ///
    /// # Panics
    ///
    /// When the ring does not lie in the memory.
    #[must_use]
    pub fn new(
        memory: &GuestMemory,
        ring: &RingAddresses,
        options: &QueueOptions,
        base: u32,
    ) -> Self {
        let size = usize::from(options.size);
        let (driver_len, device_len) = if options.packed {
            (4, 4)
        } else {
            (6 + 2 * size, 6 + 8 * size)
        };
        let window = |addr, len| memory.window(addr, len).expect("the ring");
        let place = |half: u32| ((half & 0x7FFF) as u16, half & 0x8000 != 0);
        let (avail, used) = if options.packed {
            (place(base & 0xFFFF), place(base >> 16))
        } else {
            ((base as u16, false), (base as u16, false))
        };
        Self {
            memory: memory.clone(),
            options: *options,
            descriptors: window(ring.descriptors, 16 * size),
            driver: window(ring.driver, driver_len),
            device: window(ring.device, device_len),
            avail,
            used,
            asked: used,
            taken: vec![0; size],
            order: Vec::new(),
        }
    }

    fn step(&self, (index, wrap): (u16, bool), by: u16) -> (u16, bool) {
        let next = u32::from(index) + u32::from(by);
        let size = u32::from(self.options.size);
        if next >= size {
            ((next - size) as u16, !wrap)
        } else {
            (next as u16, wrap)
        }
    }

    fn load(window: &Window, at: usize) -> u16 {
        u16::from_le(window.u16(at).load(Ordering::Acquire))
    }

    fn store(window: &Window, at: usize, value: u16) {
        window.u16(at).store(value.to_le(), Ordering::Release);
    }

    /// The next buffer the driver made available.
    pub fn pop(&mut self) -> Option<DeviceChain> {
        let (id, pieces) = if self.options.packed {
            self.pop_packed()?
        } else {
            self.pop_split()?
        };
        self.order.push(id);
        let (writable, readable) = pieces.into_iter().partition(|piece| piece.writable);
        Some(DeviceChain {
            id,
            readable,
            writable,
        })
    }

    fn pop_split(&mut self) -> Option<(u16, Vec<Piece>)> {
        if self.avail.0 == Self::load(&self.driver, 2) {
            return None;
        }
        let slot = usize::from(self.avail.0 % self.options.size);
        let head = Self::load(&self.driver, 4 + 2 * slot);
        self.avail.0 = self.avail.0.wrapping_add(1);
        let mut pieces = Vec::new();
        let mut table = self.descriptors.clone();
        let mut index = head;
        for _ in 0..=self.options.size {
            let found = descriptor(&table, index.into());
            if found.third & INDIRECT != 0 {
                let inner = self.memory.window(found.addr, found.len as usize);
                (table, index) = (inner.expect("the indirect table"), 0);
                continue;
            }
            pieces.push(Piece {
                addr: found.addr,
                len: found.len,
                writable: found.third & WRITE != 0,
            });
            if found.third & NEXT == 0 {
                return Some((head, pieces));
            }
            index = found.fourth;
        }
        panic!("a chain longer than the ring");
    }

    fn pop_packed(&mut self) -> Option<(u16, Vec<Piece>)> {
        let (mut pieces, mut slots) = (Vec::new(), 0);
        loop {
            let (index, wrap) = self.avail;
            let flags = Self::load(&self.descriptors, 16 * usize::from(index) + 14);
            let (avail, used) = (flags & 1 << 7 != 0, flags & 1 << 15 != 0);
            if avail != wrap || used == wrap {
                assert_eq!(slots, 0, "a chain that is not all available");
                return None;
            }
            let found = descriptor(&self.descriptors, index.into());
            self.avail = self.step(self.avail, 1);
            slots += 1;
            if flags & INDIRECT != 0 {
                self.table_pieces(&found, &mut pieces);
            } else {
                pieces.push(Piece {
                    addr: found.addr,
                    len: found.len,
                    writable: flags & WRITE != 0,
                });
            }
            if flags & NEXT == 0 {
                self.taken[usize::from(found.third)] = slots;
                return Some((found.third, pieces));
            }
        }
    }

    fn table_pieces(&self, outer: &Descriptor, pieces: &mut Vec<Piece>) {
        let table = self.memory.window(outer.addr, outer.len as usize);
        let table = table.expect("the indirect table");
        pieces.extend((0..table.len() / 16).map(|index| {
            let inner = descriptor(&table, index);
            Piece {
                addr: inner.addr,
                len: inner.len,
                writable: inner.fourth & WRITE != 0,
            }
        }));
    }

    /// Gives buffers back: (id, bytes written). With IN_ORDER only the last is written, and they must be in order.
    pub fn push(&mut self, buffers: &[(u16, u32)]) {
        let Some(&last) = buffers.last() else { return };
        if self.options.in_order {
            let ids = self.order.drain(..buffers.len());
            assert!(ids.eq(buffers.iter().map(|(id, _)| *id)), "out of order");
        } else {
            self.order
                .retain(|id| buffers.iter().all(|(other, _)| other != id));
        }
        let written: &[(u16, u32)] = if self.options.in_order {
            &[last]
        } else {
            buffers
        };
        if self.options.packed {
            self.push_packed(buffers, written);
        } else {
            self.push_split(buffers, written);
        }
    }

    fn push_split(&mut self, buffers: &[(u16, u32)], written: &[(u16, u32)]) {
        for (index, (id, len)) in written.iter().enumerate() {
            let slot = self.used.0.wrapping_add(index as u16) % self.options.size;
            let at = 4 + 8 * usize::from(slot);
            self.device.write(at, &u32::from(*id).to_le_bytes());
            self.device.write(at + 4, &len.to_le_bytes());
        }
        self.used.0 = self.used.0.wrapping_add(buffers.len() as u16);
        Self::store(&self.device, 2, self.used.0);
    }

    /// The first used descriptor is shown last, so that the driver never sees a part.
    fn push_packed(&mut self, buffers: &[(u16, u32)], written: &[(u16, u32)]) {
        let mut first = None;
        let mut at = self.used;
        for (id, len) in written {
            let offset = 16 * usize::from(at.0);
            self.descriptors.write(offset + 8, &len.to_le_bytes());
            self.descriptors.write(offset + 12, &id.to_le_bytes());
            let wrap = if at.1 { 1 << 7 | 1 << 15 } else { 0 };
            let flags = wrap | if *len > 0 { WRITE } else { 0 };
            match first {
                None => first = Some((offset + 14, flags)),
                Some(_) => Self::store(&self.descriptors, offset + 14, flags),
            }
            at = self.step(at, self.taken[usize::from(*id)]);
        }
        let slots = buffers.iter().map(|(id, _)| self.taken[usize::from(*id)]);
        self.used = slots.fold(self.used, |at, slots| self.step(at, slots));
        if let Some((offset, flags)) = first {
            Self::store(&self.descriptors, offset, flags);
        }
    }

    /// Whether the driver wants an interrupt for what was given back since the last time this was asked.
    pub fn interrupt_wanted(&mut self) -> bool {
        fence(Ordering::SeqCst);
        let old = std::mem::replace(&mut self.asked, self.used);
        if old == self.used {
            return false;
        }
        if self.options.packed {
            return self.wanted_packed(old);
        }
        if !self.options.event_idx {
            return Self::load(&self.driver, 0) & 1 == 0;
        }
        let event = Self::load(&self.driver, 4 + 2 * usize::from(self.options.size));
        // One of the entries old, old + 1, ... used - 1.
        self.used.0.wrapping_sub(old.0) > event.wrapping_sub(old.0)
    }

    fn wanted_packed(&self, old: (u16, bool)) -> bool {
        match Self::load(&self.driver, 2) & 3 {
            0 => true,
            1 => false,
            _ => {
                let word = Self::load(&self.driver, 0);
                let event = (word & 0x7FFF, word & 0x8000 != 0);
                let mut at = old;
                while at != self.used {
                    if at == event {
                        return true;
                    }
                    at = self.step(at, 1);
                }
                false
            }
        }
    }

    /// Asks for a kick at the next buffer. Returns whether there is one already.
    #[must_use]
    pub fn enable_kicks(&mut self) -> bool {
        match (self.options.packed, self.options.event_idx) {
            (true, true) => {
                let wrap = if self.avail.1 { 0x8000 } else { 0 };
                Self::store(&self.device, 0, self.avail.0 | wrap);
                Self::store(&self.device, 2, 2);
            }
            (true, false) => Self::store(&self.device, 2, 0),
            (false, true) => {
                let at = 4 + 8 * usize::from(self.options.size);
                Self::store(&self.device, at, self.avail.0);
            }
            (false, false) => Self::store(&self.device, 0, 0),
        }
        fence(Ordering::SeqCst);
        if self.options.packed {
            let flags = Self::load(&self.descriptors, 16 * usize::from(self.avail.0) + 14);
            let (avail, used) = (flags & 1 << 7 != 0, flags & 1 << 15 != 0);
            return avail == self.avail.1 && used != self.avail.1;
        }
        self.avail.0 != Self::load(&self.driver, 2)
    }

    /// Asks for no kicks.
    pub fn disable_kicks(&mut self) {
        match (self.options.packed, self.options.event_idx) {
            (true, _) => Self::store(&self.device, 2, 1),
            (false, true) => {
                let at = 4 + 8 * usize::from(self.options.size);
                Self::store(&self.device, at, self.avail.0.wrapping_sub(1));
            }
            (false, false) => Self::store(&self.device, 0, 1),
        }
    }

    /// Where it stands, as GET_VRING_BASE answers.
    #[must_use]
    pub fn base(&self) -> u32 {
        let word = |(index, wrap): (u16, bool)| u32::from(index) | u32::from(wrap) << 15;
        if self.options.packed {
            word(self.avail) | word(self.used) << 16
        } else {
            self.avail.0.into()
        }
    }

    /// Copies what the driver wrote.
    #[must_use]
    pub fn read(&self, chain: &DeviceChain) -> Vec<u8> {
        let pieces = chain.readable.iter();
        pieces
            .flat_map(|piece| self.memory.read(piece.addr, piece.len as usize))
            .collect()
    }

    /// Writes the beginning of `bytes` to a buffer. Returns how many fitted.
    pub fn write(&self, chain: &DeviceChain, bytes: &[u8]) -> usize {
        let mut done = 0;
        for piece in &chain.writable {
            let part = &bytes[done..bytes.len().min(done + piece.len as usize)];
            self.memory.write(piece.addr, part);
            done += part.len();
        }
        done
    }
}
