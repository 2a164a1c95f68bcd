//! What both ring formats share: the driver's side of a queue, and the books of what the device holds.

use std::collections::VecDeque;

use super::memory::{GuestMemory, Window};
use super::packed::PackedDriver;
use super::split::SplitDriver;

/// A piece of a buffer: what one descriptor says.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Guest address.
    pub addr: u64,
    /// Length in bytes.
    pub len: u32,
    /// Whether the device writes to it.
    pub writable: bool,
}

impl Piece {
    /// A piece the device reads.
    #[must_use]
    pub fn readable(addr: u64, len: u32) -> Self {
        Self {
            addr,
            len,
            writable: false,
        }
    }

    /// A piece the device writes.
    #[must_use]
    pub fn writable(addr: u64, len: u32) -> Self {
        Self {
            addr,
            len,
            writable: true,
        }
    }
}

/// A buffer the device has given back.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Used {
    /// What the ring called it.
    pub id: u16,
    /// What the caller of [`DriverQueue::add`] called it.
    pub token: u16,
    /// Bytes the device wrote.
    pub len: u32,
}

/// What the device did against the standard.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceFault {
    /// It gave back a buffer it did not have.
    #[error("the device used buffer {0}, which it does not hold")]
    Unknown(u32),
    /// It says it wrote more than the buffer holds.
    #[error("the device says it wrote {len} bytes to buffer {id}, which holds {room}")]
    Overrun {
        /// The buffer.
        id: u16,
        /// Bytes it claims.
        len: u32,
        /// Bytes there are to write.
        room: u32,
    },
    /// `used.idx` ran ahead of what was made available.
    #[error("used.idx moved by {moved}, but the device holds {held} buffers")]
    Ahead {
        /// Entries between what was seen and the index.
        moved: u16,
        /// Buffers the device holds.
        held: u16,
    },
}

/// Which chains go into an indirect table.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub enum Indirect {
    /// None.
    #[default]
    Never,
    /// Those of more than one piece, as Linux does.
    Chains,
    /// All.
    Always,
}

/// How a queue is made.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct QueueOptions {
    /// Entries: a power of two for a split ring, anything up to 32768 for a packed one.
    pub size: u16,
    /// VIRTIO_F_RING_PACKED.
    pub packed: bool,
    /// VIRTIO_F_EVENT_IDX.
    pub event_idx: bool,
    /// VIRTIO_F_IN_ORDER.
    pub in_order: bool,
    /// Which chains are indirect.
    pub indirect: Indirect,
    /// Longest chain in an indirect table.
    pub indirect_max: u16,
}

impl QueueOptions {
    /// A split ring of `size` entries, nothing else.
    #[must_use]
    pub fn split(size: u16) -> Self {
        Self {
            size,
            packed: false,
            event_idx: false,
            in_order: false,
            indirect: Indirect::Never,
            indirect_max: 64,
        }
    }

    /// A packed ring of `size` entries, nothing else.
    #[must_use]
    pub fn packed(size: u16) -> Self {
        Self {
            packed: true,
            ..Self::split(size)
        }
    }
}

/// Guest addresses of a ring's three parts.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct RingAddresses {
    /// Descriptor table, or descriptor ring.
    pub descriptors: u64,
    /// Available ring, or driver event suppression.
    pub driver: u64,
    /// Used ring, or device event suppression.
    pub device: u64,
}

/// The driver's side of one queue, in either format.
///
/// [`add`](Self::add) writes chains, [`publish`](Self::publish) shows them to the device, [`poll`](Self::poll) takes
/// them back. Eventfds are not its business: `publish` says whether the device wants a kick.
#[derive(Debug)]
pub enum DriverQueue {
    /// virtio 1.3 section 2.7.
    Split(SplitDriver),
    /// virtio 1.3 section 2.8.
    Packed(PackedDriver),
}

macro_rules! either {
    ($self:ident, $queue:ident => $act:expr) => {
        match $self {
            Self::Split($queue) => $act,
            Self::Packed($queue) => $act,
        }
    };
}

impl DriverQueue {
    /// Takes memory for the ring and makes it empty.
    pub fn new(memory: &mut GuestMemory, options: &QueueOptions) -> Self {
        if options.packed {
            Self::Packed(PackedDriver::new(memory, options))
        } else {
            Self::Split(SplitDriver::new(memory, options))
        }
    }

    /// Where it lies.
    #[must_use]
    pub fn addresses(&self) -> RingAddresses {
        either!(self, queue => queue.addresses())
    }

    /// Entries.
    #[must_use]
    pub fn size(&self) -> u16 {
        either!(self, queue => queue.size())
    }

    /// Descriptors that a chain can still take.
    #[must_use]
    pub fn free(&self) -> u16 {
        either!(self, queue => queue.free())
    }

    /// Buffers the device holds (published or not yet).
    #[must_use]
    pub fn held(&self) -> u16 {
        either!(self, queue => queue.held())
    }

    /// Writes a chain: readable pieces first. `None` when the ring has no room for it. The device sees it at the next
    /// [`publish`](Self::publish). The token comes back with the buffer.
    pub fn add(&mut self, pieces: &[Piece], token: u16) -> Option<u16> {
        either!(self, queue => queue.add(pieces, token))
    }

    /// Shows the device what was added. Returns whether it wants a kick for it.
    pub fn publish(&mut self) -> bool {
        either!(self, queue => queue.publish())
    }

    /// Takes back one buffer that the device has used.
    pub fn poll(&mut self) -> Result<Option<Used>, DeviceFault> {
        either!(self, queue => queue.poll())
    }

    /// Whether [`poll`](Self::poll) has something.
    #[must_use]
    pub fn has_used(&self) -> bool {
        either!(self, queue => queue.has_used())
    }

    /// Asks for an interrupt at the next used buffer. Returns whether there is one already: then poll again, since the
    /// device may not have seen the wish.
    #[must_use]
    pub fn enable_interrupts(&mut self) -> bool {
        self.interrupt_after(1)
    }

    /// Asks for an interrupt once `count` more buffers are used. Without EVENT_IDX that is the next one. Returns whether
    /// they are there already.
    #[must_use]
    pub fn interrupt_after(&mut self, count: u16) -> bool {
        either!(self, queue => queue.interrupt_after(count))
    }

    /// Asks for no interrupts. With EVENT_IDX on a split ring this can only be made unlikely.
    pub fn disable_interrupts(&mut self) {
        either!(self, queue => queue.disable_interrupts());
    }

    /// Where the device goes on if it starts anew: the `num` of SET_VRING_BASE. For a split ring `used.idx`; for a
    /// packed ring the first descriptor that is not used, with its wrap counter, in both halves.
    #[must_use]
    pub fn resume_base(&self) -> u32 {
        either!(self, queue => queue.resume_base())
    }

    /// The split ring, for tests that write to it directly.
    ///
    /// # Panics
    ///
    /// When it is packed.
    pub fn split(&mut self) -> &mut SplitDriver {
        match self {
            Self::Split(queue) => queue,
            Self::Packed(_) => panic!("the ring is packed"),
        }
    }

    /// The packed ring, for tests that write to it directly.
    ///
    /// # Panics
    ///
    /// When it is split.
    pub fn packed(&mut self) -> &mut PackedDriver {
        match self {
            Self::Packed(queue) => queue,
            Self::Split(_) => panic!("the ring is split"),
        }
    }
}

/// What the driver knows of a buffer.
#[derive(Copy, Clone, Debug, Default)]
struct Chain {
    /// Descriptors it takes in the ring.
    slots: u16,
    token: u16,
    room: u32,
    held: bool,
}

/// The buffers the device holds, by id.
#[derive(Debug)]
pub(super) struct Chains {
    by_id: Vec<Chain>,
    held: u16,
    /// With IN_ORDER: the ids in order.
    order: Option<VecDeque<u16>>,
    /// With IN_ORDER: the last id of a batch the device has used, and its length.
    batch: Option<(u16, u32)>,
}

/// A chain that came back: what the caller gets, and the descriptors it had.
pub(super) struct Returned {
    pub(super) used: Used,
    pub(super) slots: u16,
}

impl Chains {
    pub(super) fn new(options: &QueueOptions) -> Self {
        let size = usize::from(options.size);
        Self {
            by_id: vec![Chain::default(); size],
            held: 0,
            order: options.in_order.then(|| VecDeque::with_capacity(size)),
            batch: None,
        }
    }

    pub(super) fn held(&self) -> u16 {
        self.held
    }

    /// Descriptors of a chain the device holds.
    pub(super) fn slots(&self, id: u32) -> Option<u16> {
        let chain = self.by_id.get(id as usize)?;
        chain.held.then_some(chain.slots)
    }

    pub(super) fn lend(&mut self, id: u16, slots: u16, pieces: &[Piece], token: u16) {
        let writable = pieces.iter().filter(|piece| piece.writable);
        let chain = Chain {
            slots,
            token,
            room: writable.fold(0, |sum: u32, piece| sum.saturating_add(piece.len)),
            held: true,
        };
        self.by_id[usize::from(id)] = chain;
        self.held += 1;
        if let Some(order) = &mut self.order {
            order.push_back(id);
        }
    }

    /// Whether a batch is not yet taken back to its end.
    pub(super) fn in_batch(&self) -> bool {
        self.batch.is_some()
    }

    /// The device says: `id` is used, with `len` bytes written. Under IN_ORDER that covers all before it, which are
    /// taken one by one by [`next_of_batch`](Self::next_of_batch).
    pub(super) fn give_back(&mut self, id: u32, len: u32) -> Result<Returned, DeviceFault> {
        let chain = self.by_id.get(id as usize).filter(|chain| chain.held);
        let room = chain.ok_or(DeviceFault::Unknown(id))?.room;
        let id = id as u16;
        if len > room {
            return Err(DeviceFault::Overrun { id, len, room });
        }
        if self.order.is_some() {
            self.batch = Some((id, len));
            return self.next_of_batch();
        }
        Ok(self.close(id, len))
    }

    /// The next buffer of a batch. What the device wrote to one it skipped is not said: it filled it (virtio 1.3
    /// section 2.7.9).
    pub(super) fn next_of_batch(&mut self) -> Result<Returned, DeviceFault> {
        let (last, len) = self.batch.expect("a batch is open");
        let order = self.order.as_mut().expect("IN_ORDER");
        let id = order
            .pop_front()
            .ok_or(DeviceFault::Unknown(u32::from(last)))?;
        if id == last {
            self.batch = None;
            return Ok(self.close(id, len));
        }
        let room = self.by_id[usize::from(id)].room;
        Ok(self.close(id, room))
    }

    fn close(&mut self, id: u16, len: u32) -> Returned {
        let chain = &mut self.by_id[usize::from(id)];
        chain.held = false;
        self.held -= 1;
        Returned {
            used: Used {
                id,
                token: chain.token,
                len,
            },
            slots: chain.slots,
        }
    }
}

/// One indirect table for each id.
#[derive(Debug)]
pub(super) struct Tables {
    when: Indirect,
    base: u64,
    window: Option<Window>,
    max: u16,
}

/// Bytes of a descriptor, in both formats.
pub(super) const DESCRIPTOR_LEN: usize = 16;

impl Tables {
    pub(super) fn new(memory: &mut GuestMemory, options: &QueueOptions) -> Self {
        let each = usize::from(options.indirect_max.min(options.size)) * DESCRIPTOR_LEN;
        let len = match options.indirect {
            Indirect::Never => 0,
            _ => each * usize::from(options.size),
        };
        let base = memory.take(len, DESCRIPTOR_LEN);
        Self {
            when: options.indirect,
            base,
            window: (len > 0).then(|| memory.window(base, len).expect("just taken")),
            // No chain is longer than the ring, in a table or not (section 2.7.5.3.1).
            max: options.indirect_max.min(options.size),
        }
    }

    /// Whether a chain goes into a table.
    pub(super) fn takes(&self, pieces: &[Piece]) -> bool {
        let fits = pieces.len() <= usize::from(self.max);
        match self.when {
            Indirect::Never => false,
            Indirect::Chains => fits && pieces.len() > 1,
            Indirect::Always => fits,
        }
    }

    /// The table of `id`: its guest address, and a writer of (index, address, length, last four bytes).
    pub(super) fn at(&self, id: u16) -> (u64, impl Fn(usize, u64, u32, u32) + '_) {
        let start = usize::from(id) * usize::from(self.max) * DESCRIPTOR_LEN;
        let window = self
            .window
            .as_ref()
            .expect("indirect tables were asked for");
        let write = move |index: usize, addr: u64, len: u32, last: u32| {
            let at = start + index * DESCRIPTOR_LEN;
            window.write(at, &addr.to_le_bytes());
            window.write(at + 8, &len.to_le_bytes());
            window.write(at + 12, &last.to_le_bytes());
        };
        (self.base + start as u64, write)
    }
}

/// Whether index `event` lies among those passed on the way from `old` to `new` (virtio 1.3 section 2.7.10.1).
pub(super) fn passed(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}
