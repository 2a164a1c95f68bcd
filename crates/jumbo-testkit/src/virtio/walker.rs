//! What a packed ring holds, as the text of virtio 1.2 section 2.8 says it, one sentence after the other: slow, without
//! state, over any bytes, and with a name for each rule that a driver broke.

use super::queue::Piece;

/// Section 2.8.13, struct pvirtq_desc: le64 addr, le32 len, le16 id, le16 flags.
const DESC_LEN: u64 = 16;
/// VIRTQ_DESC_F_NEXT, VIRTQ_DESC_F_WRITE, VIRTQ_DESC_F_INDIRECT (2.8.13), VIRTQ_DESC_F_AVAIL and _USED (2.8.1).
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

/// A ring, and where its device stands.
#[derive(Copy, Clone, Debug)]
pub struct PackedRing {
    /// Guest address of the descriptor ring.
    pub descriptors: u64,
    /// Queue Size.
    pub size: u16,
    /// The next descriptor to look at.
    pub index: u16,
    /// The device's wrap counter.
    pub wrap: bool,
}

/// A buffer the driver made available.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walked {
    /// Buffer ID.
    pub id: u16,
    /// Descriptors of the ring that it takes up.
    pub count: u16,
    /// Its elements.
    pub pieces: Vec<Piece>,
}

/// What no driver may do.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// A list that does not end within the ring (2.8.8: "A driver MUST NOT create a descriptor list longer than allowed by
    /// the device", which is the Queue Size, 2.8.10.1).
    ListTooLong,
    /// A table in a list (2.8.19: "MUST NOT write direct descriptors with VIRTQ_DESC_F_INDIRECT set in a scatter-gather
    /// list linked by VIRTQ_DESC_F_NEXT").
    TableInList,
    /// A table whose length is not that of some descriptors (2.8.7).
    TableLength,
    /// A table outside memory.
    TableOutside,
    /// A flag other than WRITE in a table (2.8.19: "MUST NOT set any flags except DESC_F_WRITE within an indirect
    /// descriptor").
    FlagInTable,
    /// The ring itself is outside memory.
    RingOutside,
}

struct Descriptor {
    addr: u64,
    len: u32,
    id: u16,
    flags: u16,
}

impl Descriptor {
    fn piece(&self) -> Piece {
        Piece {
            addr: self.addr,
            len: self.len,
            writable: self.flags & WRITE != 0,
        }
    }
}

/// The next buffer of a ring in memory that `read` reads: bytes at a guest address, `None` outside. `None`: the driver
/// made nothing available.
///
/// # Errors
/// The first rule that is broken.
pub fn walk_packed(
    read: &dyn Fn(u64, usize) -> Option<Vec<u8>>,
    ring: PackedRing,
) -> Result<Option<Walked>, Flaw> {
    let at = |index: u16| ring.descriptors + DESC_LEN * u64::from(index);
    let first = descriptor(read, at(ring.index)).ok_or(Flaw::RingOutside)?;
    // 2.8.1: "the AVAIL bit ... matches the internal value, and the USED bit ... is the inverse".
    let (avail, used) = (first.flags & AVAIL != 0, first.flags & USED != 0);
    if avail != ring.wrap || used == ring.wrap {
        return Ok(None);
    }
    let (mut pieces, mut index) = (Vec::new(), ring.index);
    for count in 1..=ring.size {
        let found = descriptor(read, at(index)).ok_or(Flaw::RingOutside)?;
        let is_last = found.flags & NEXT == 0;
        if found.flags & INDIRECT == 0 {
            pieces.push(found.piece());
        } else if count == 1 && is_last {
            pieces = table(read, &found)?;
        } else {
            return Err(Flaw::TableInList);
        }
        if is_last {
            // 2.8.6: "Buffer ID is included in the last descriptor in the list".
            let id = found.id;
            return Ok(Some(Walked { id, count, pieces }));
        }
        // 2.8.6: a list is in ring order, and goes on at the beginning.
        index = if index + 1 == ring.size { 0 } else { index + 1 };
    }
    Err(Flaw::ListTooLong)
}

/// 2.8.7: all descriptors of the table, in order.
fn table(
    read: &dyn Fn(u64, usize) -> Option<Vec<u8>>,
    outer: &Descriptor,
) -> Result<Vec<Piece>, Flaw> {
    let len = u64::from(outer.len);
    if len == 0 || !len.is_multiple_of(DESC_LEN) {
        return Err(Flaw::TableLength);
    }
    let entries = (0..len / DESC_LEN).map(|index| {
        let at = outer.addr.checked_add(DESC_LEN * index);
        let inner = at.and_then(|at| descriptor(read, at));
        let inner = inner.ok_or(Flaw::TableOutside)?;
        match inner.flags & !WRITE {
            0 => Ok(inner.piece()),
            _ => Err(Flaw::FlagInTable),
        }
    });
    entries.collect()
}

fn descriptor(read: &dyn Fn(u64, usize) -> Option<Vec<u8>>, at: u64) -> Option<Descriptor> {
    let bytes = read(at, DESC_LEN as usize)?;
    let le = |from: usize, len: usize| {
        let bytes = bytes.get(from..from + len)?;
        let add = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        Some(bytes.iter().rev().fold(0, add))
    };
    Some(Descriptor {
        addr: le(0, 8)?,
        len: le(8, 4)? as u32,
        id: le(12, 2)? as u16,
        flags: le(14, 2)? as u16,
    })
}
