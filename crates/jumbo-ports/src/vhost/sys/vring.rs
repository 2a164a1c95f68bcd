//! A virtqueue, the device's side, whichever its kind.

use std::sync::Arc;

use arrayvec::ArrayVec;
use rustix::io::Errno;

use super::buf::{Buf, Prefix, fill};
use super::dirty::DirtyLog;
use super::packed::{Cursor, EVENT_DISABLE, Packed};
use super::split::Split;
use super::walk::{Areas, Walk};
use crate::pool::Piece;
use crate::vhost::device::{Position, RING_SIZE_MAX, RingState, ring_parts};
use crate::vhost::guest::GuestMemory;
use crate::vhost::keep::{Keeper, Standing};

/// Most descriptors of a chain. Linux sends up to 19, Windows some hundred.
pub(in crate::vhost) const CHAIN_MAX: usize = crate::queue::PACKET_FRAGS_MAX;

/// What a guest did that no driver may do. The port stops.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::vhost) enum RingFault {
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
    /// The kick descriptor is a pipe whose other end is closed: nobody can ever kick.
    #[error("its kick pipe is closed at the other end")]
    KickClosed,
    /// The kick descriptor cannot be read: the other end of a pipe, or no event at all.
    #[error("its kick descriptor cannot be read: {0}")]
    KickUnreadable(Errno),
}

/// Which way a ring's buffers go.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(in crate::vhost) enum Direction {
    /// The guest fills them, we read.
    FromGuest,
    /// We fill them, the guest reads.
    ToGuest,
}

/// A chain that was taken and must be given back: its id, and the entries of a packed
/// ring that it takes up. One word, so that it is never read wider than it was written.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(in crate::vhost) struct Chain(u32);

impl Chain {
    #[inline]
    pub(super) fn new(id: u16, count: u16) -> Self {
        Self(u32::from(id) | u32::from(count) << 16)
    }

    #[inline]
    pub(in crate::vhost) fn id(self) -> u16 {
        self.0 as u16
    }

    #[inline]
    pub(in crate::vhost) fn count(self) -> u16 {
        (self.0 >> 16) as u16
    }
}

/// A place to go back to.
#[derive(Copy, Clone, Debug)]
pub(in crate::vhost) struct Mark(u16, bool);

/// How one ring is to be run.
#[derive(Debug)]
pub(in crate::vhost) struct Setup<'a> {
    pub(in crate::vhost) ring: &'a RingState,
    pub(in crate::vhost) position: Position,
    pub(in crate::vhost) memory: &'a Arc<GuestMemory>,
    pub(in crate::vhost) direction: Direction,
    pub(in crate::vhost) packed: bool,
    pub(in crate::vhost) event_idx: bool,
    pub(in crate::vhost) indirect: bool,
    pub(in crate::vhost) log: Option<&'a Arc<DirtyLog>>,
    /// Of a packed ring: keep where it stands.
    pub(in crate::vhost) keepers: ArrayVec<Keeper, 2>,
}

/// One virtqueue.
#[derive(Debug)]
pub(in crate::vhost) struct Vring {
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
    pub(in crate::vhost) fn new(setup: &Setup<'_>) -> Result<Self, RingFault> {
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
    pub(in crate::vhost) fn pop(
        &mut self,
        bufs: &mut Vec<Buf>,
    ) -> Result<Option<Chain>, RingFault> {
        match &mut self.kind {
            Kind::Split(split) => split.pop(&mut self.walk, bufs),
            Kind::Packed(packed) => packed.pop(&mut self.walk, bufs),
        }
    }

    /// Whether there is another chain, or the guest says so.
    #[inline]
    pub(in crate::vhost) fn has_more(&self) -> bool {
        match &self.kind {
            Kind::Split(split) => split.has_more(),
            Kind::Packed(packed) => packed.is_available(),
        }
    }

    /// Where the next chain will be taken.
    #[inline]
    pub(in crate::vhost) fn mark(&self) -> Mark {
        match &self.kind {
            Kind::Split(split) => Mark(split.next_avail, false),
            Kind::Packed(packed) => Mark(packed.avail.index, packed.avail.wrap),
        }
    }

    /// Takes again from there what was taken since and not given back.
    #[inline]
    pub(in crate::vhost) fn rewind(&mut self, Mark(index, wrap): Mark) {
        match &mut self.kind {
            Kind::Split(split) => split.next_avail = index,
            Kind::Packed(packed) => packed.avail = Cursor { index, wrap },
        }
    }

    /// Gives a chain back, with as many bytes written into it. In the order taken;
    /// the guest sees it after [`publish`](Self::publish).
    #[inline]
    pub(in crate::vhost) fn give_back(&mut self, chain: Chain, written: u32) {
        match &mut self.kind {
            Kind::Split(split) => split.give_back(&self.walk, chain, written),
            Kind::Packed(packed) => packed.give_back(&self.walk, chain, written),
        }
    }

    /// Gives chains back that were read from, in the order taken.
    #[inline]
    pub(in crate::vhost) fn give_back_unwritten(&mut self, chains: &mut Vec<Chain>) {
        let walk = &self.walk;
        match &mut self.kind {
            Kind::Split(split) => chains.drain(..).for_each(|c| split.give_back(walk, c, 0)),
            Kind::Packed(packed) => chains.drain(..).for_each(|c| packed.give_back(walk, c, 0)),
        }
    }

    /// Shows the guest what was given back. Whether it wants to be called.
    #[inline]
    pub(in crate::vhost) fn publish(&mut self) -> bool {
        match &mut self.kind {
            Kind::Split(split) => split.publish(&self.walk),
            Kind::Packed(packed) => packed.publish(&self.walk),
        }
    }

    /// Whether these chains are all that the ring can hold. A chain of several
    /// descriptors of a split ring counts as one: then this is never known.
    pub(in crate::vhost) fn is_all<'a>(&self, chains: impl Iterator<Item = &'a Chain>) -> bool {
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
    pub(in crate::vhost) fn silence(&mut self) {
        match &mut self.kind {
            Kind::Split(split) => split.silence(),
            Kind::Packed(packed) => packed.set_device_event(0, EVENT_DISABLE),
        }
    }

    /// Asks for a kick with the next chain. Whether there is one already.
    ///
    /// # Errors
    /// An available index that cannot be.
    pub(in crate::vhost) fn listen(&mut self) -> Result<bool, RingFault> {
        match &mut self.kind {
            Kind::Split(split) => split.listen(&self.walk),
            Kind::Packed(packed) => Ok(packed.listen()),
        }
    }

    /// Where the ring stands. Asked for between two bursts, when everything that was
    /// taken has been given back.
    pub(in crate::vhost) fn position(&self) -> Position {
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
    pub(in crate::vhost) fn resume(&mut self, standing: Standing) -> bool {
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
    pub(in crate::vhost) fn finish(&mut self, standing: Standing) {
        if let Kind::Packed(packed) = &mut self.kind {
            packed.resume(standing, self.walk.direction == Direction::ToGuest);
        }
    }

    /// Writes `prefix`, `header`, then all of `payload`, into `bufs`. Returns the bytes
    /// written, less than all if the buffers are too short.
    #[inline]
    pub(in crate::vhost) fn fill<'a>(
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
