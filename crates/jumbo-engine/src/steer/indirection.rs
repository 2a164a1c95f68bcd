//! The indirection table: from a hash to a queue.

use alloc::boxed::Box;
use core::fmt;

/// Most entries of a table: all that the mask of a virtio device can say.
pub const INDIRECTION_MAX: usize = 1 << 16;

/// Entries of a table unless something else is asked for: what every virtio device with RSS has to
/// offer (virtio 1.3 section 5.1.4), and Microsoft's.
pub const INDIRECTION_DEFAULT: usize = 128;

/// Why there is no such table.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum IndirectionFault {
    /// The number of entries is not a power of two, or not within 1..=[`INDIRECTION_MAX`].
    Entries(usize),
    /// There are no queues to spread over, or more than the numbers of 16 bits.
    Queues(usize),
}

impl fmt::Display for IndirectionFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entries(n) => write!(
                f,
                "an indirection table has 1 to {INDIRECTION_MAX} entries, a power of two, not {n}"
            ),
            Self::Queues(n) => write!(f, "packets are spread over 1 to 65536 queues, not {n}"),
        }
    }
}

impl core::error::Error for IndirectionFault {}

/// A table of queues that the low bits of a hash select from.
///
/// Its length is a power of two. Changing it moves flows: packets that are still in the old queue
/// may then be overtaken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Indirection {
    // Never empty.
    entries: Box<[u16]>,
}

impl Indirection {
    /// `entries` entries that name queues 0 to `queues` - 1 in turn. No queue has more than one
    /// entry more than another; to keep that a small share, have four times as many entries as
    /// queues (Linux `Documentation/networking/scaling.rst`).
    ///
    /// # Errors
    /// [`IndirectionFault`] if either number is out of range.
    pub fn even(entries: usize, queues: usize) -> Result<Self, IndirectionFault> {
        if !(1..=1 << 16).contains(&queues) {
            return Err(IndirectionFault::Queues(queues));
        }
        check_entries(entries)?;
        let entries = (0..entries).map(|at| (at % queues) as u16).collect();
        Ok(Self { entries })
    }

    /// A table of the caller's.
    ///
    /// # Errors
    /// [`IndirectionFault::Entries`] if its length is not a power of two within bounds.
    pub fn new(entries: impl Into<Box<[u16]>>) -> Result<Self, IndirectionFault> {
        let entries = entries.into();
        check_entries(entries.len())?;
        Ok(Self { entries })
    }

    /// The queue for a hash.
    #[inline]
    #[must_use]
    pub fn queue(&self, hash: u32) -> u16 {
        // Not empty, so the mask is the length less one and always in range.
        let mask = self.entries.len().wrapping_sub(1);
        self.entries.get(hash as usize & mask).copied().unwrap_or(0)
    }

    /// The entries.
    #[must_use]
    pub fn entries(&self) -> &[u16] {
        &self.entries
    }
}

fn check_entries(entries: usize) -> Result<(), IndirectionFault> {
    if entries.is_power_of_two() && entries <= INDIRECTION_MAX {
        Ok(())
    } else {
        Err(IndirectionFault::Entries(entries))
    }
}
