//! What the protocol side tells the data path, and what it asks of it.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::feature;

/// Entries of the largest ring (virtio 1.3 section 2.7, "Queue Size").
pub const RING_SIZE_MAX: u16 = 32768;

/// One region of guest memory as the front end described it. Not mapped here.
#[derive(Debug)]
pub struct RegionSpec {
    /// Where the guest sees it: descriptors hold such addresses.
    pub guest_addr: u64,
    /// Bytes; more than zero, and no address plus it overflows.
    pub size: u64,
    /// Where the front end sees it: ring addresses are such.
    pub user_addr: u64,
    /// Bytes of `file` before it.
    pub mmap_offset: u64,
    /// The file to map. Nothing about it has been checked.
    pub file: OwnedFd,
}

impl RegionSpec {
    /// Whether `len` bytes at the user address `addr` lie within this region.
    pub fn holds_user_range(&self, addr: u64, len: u64) -> bool {
        let Some(offset) = addr.checked_sub(self.user_addr) else {
            return false;
        };
        offset <= self.size && len <= self.size - offset
    }
}

/// Where a ring stands.
///
/// Split: `avail` is the next index of the available ring, free-running; `used` the index of the used ring. Packed:
/// bits 0-14 an index into the ring, bit 15 the wrap counter, for both (vhost-user, "Vring descriptor indices for
/// packed virtqueues").
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default)]
pub struct Position {
    /// What is taken next.
    pub avail: u16,
    /// What is given back next. `None` after SET_VRING_BASE on a split ring: the message does not say, and the used
    /// ring's own `idx` in guest memory does.
    pub used: Option<u16>,
}

/// One ring as the front end described it.
#[derive(Debug, Default)]
pub struct RingState {
    /// Entries; 0 until told.
    pub size: u16,
    /// Whether the addresses below have been told.
    pub is_addressed: bool,
    /// Descriptor table (split) or descriptor ring (packed), a user address.
    pub desc_user_addr: u64,
    /// Available ring (split) or driver event suppression (packed).
    pub avail_user_addr: u64,
    /// Used ring (split) or device event suppression (packed).
    pub used_user_addr: u64,
    /// The guest address under which writes to the used ring are logged, if they are to be.
    pub log_guest_addr: Option<u64>,
    /// As told by SET_VRING_BASE or by the last stop.
    pub position: Position,
    /// Readable when the guest has added buffers. Not blocking.
    pub kick: Option<Arc<OwnedFd>>,
    /// To be written when buffers were used; `None`: never. Not blocking.
    pub call: Option<Arc<OwnedFd>>,
    /// To be written when the ring is broken. Not blocking.
    pub err: Option<Arc<OwnedFd>>,
    /// By SET_VRING_ENABLE, or from the start where protocol features were not negotiated.
    pub enabled: bool,
    /// Since its kick came, until GET_VRING_BASE or a reset.
    pub started: bool,
}

/// Where pages the device wrote are marked, for migration (vhost-user, "Migration").
#[derive(Debug)]
pub struct LogSpec {
    /// The bitmap's memory.
    pub file: OwnedFd,
    /// Bytes of the bitmap.
    pub size: u64,
    /// Bytes of `file` before it.
    pub offset: u64,
}

/// Where buffers in flight are noted, to outlive this process (vhost-user, "Inflight I/O tracking"). The layout is in
/// [`super::inflight`].
#[derive(Debug)]
pub struct InflightSpec {
    /// The notes' memory.
    pub file: OwnedFd,
    /// Bytes; enough for `queues` regions of `queue_size` entries.
    pub size: u64,
    /// Bytes of `file` before the first region.
    pub offset: u64,
    /// Regions, one per ring from ring 0.
    pub queues: u16,
    /// Entries of each region.
    pub queue_size: u16,
}

/// All a data path needs to know.
#[derive(Debug, Default)]
pub struct Device {
    /// What SET_FEATURES acknowledged, vhost-user's own bits included; 0 before.
    pub features: u64,
    /// Whether SET_FEATURES has come at all.
    pub is_negotiated: bool,
    /// What SET_PROTOCOL_FEATURES acknowledged.
    pub protocol_features: u64,
    /// Guest memory. A region that stays the same stays the same `Arc`.
    pub memory: Vec<Arc<RegionSpec>>,
    /// Two per queue pair: even ones carry packets to the guest, odd ones from it.
    pub rings: Vec<RingState>,
    /// Dirty log, in use while `feature::LOG_ALL` is acknowledged.
    pub log: Option<Arc<LogSpec>>,
    /// May be written after the log was changed.
    pub log_event: Option<Arc<OwnedFd>>,
    /// Buffers in flight.
    pub inflight: Option<Arc<InflightSpec>>,
    /// By NET_SET_MTU.
    pub mtu: Option<u16>,
    /// Virtio device status; 0 where the front end does not tell.
    pub status: u8,
}

impl Device {
    /// Whether rings are packed.
    pub fn is_packed(&self) -> bool {
        self.features & feature::RING_PACKED != 0
    }

    /// Whether ring `index` is to run: started, enabled, fully described, and its memory is there.
    pub fn is_live(&self, index: usize) -> bool {
        self.is_set_up(index) && self.is_mapped(index)
    }

    /// The rings that are to run.
    pub fn live(&self) -> impl Iterator<Item = (usize, &RingState)> {
        let rings = self.rings.iter().enumerate();
        rings.filter(|(index, _)| self.is_live(*index))
    }

    /// As [`is_live`](Self::is_live), whatever memory there is.
    pub(super) fn is_set_up(&self, index: usize) -> bool {
        let told =
            |ring: &RingState| ring.started && ring.enabled && ring.is_addressed && ring.size > 0;
        self.is_negotiated && self.rings.get(index).is_some_and(told)
    }

    /// Whether each part of a ring lies within one region.
    pub(super) fn is_mapped(&self, index: usize) -> bool {
        let Some(ring) = self.rings.get(index) else {
            return false;
        };
        let parts = ring_parts(ring, self.is_packed());
        parts.iter().all(|part| {
            let mut regions = self.memory.iter();
            regions.any(|region| region.holds_user_range(part.user_addr, part.len))
        })
    }
}

/// One of the three areas a ring consists of.
#[derive(Copy, Clone, Debug)]
pub struct RingPart {
    /// Its name in the virtio specification.
    pub name: &'static str,
    /// Where it begins.
    pub user_addr: u64,
    /// Bytes. Event indices are counted in, negotiated or not: guests reserve them always (virtio 1.3 section 2.7).
    pub len: u64,
    /// What its address must be a multiple of.
    pub align: u64,
}

/// Descriptor, driver and device area (virtio 1.3 sections 2.7 and 2.8).
pub fn ring_parts(ring: &RingState, packed: bool) -> [RingPart; 3] {
    let part = |name, user_addr, len, align| RingPart {
        name,
        user_addr,
        len,
        align,
    };
    let size = u64::from(ring.size);
    let desc = ("descriptor area", ring.desc_user_addr, 16 * size, 16);
    let (driver_len, driver_align, device_len) = if packed {
        (4, 4, 4)
    } else {
        (6 + 2 * size, 2, 6 + 8 * size)
    };
    [
        part(desc.0, desc.1, desc.2, desc.3),
        part(
            "driver area",
            ring.avail_user_addr,
            driver_len,
            driver_align,
        ),
        part("device area", ring.used_user_addr, device_len, 4),
    ]
}

/// What the session asks of the data path.
///
/// Calls alternate: `resume` comes only when nothing runs, `quiesce` only after a `resume` that succeeded. Before the
/// message is answered that made it necessary, `quiesce` is followed by a `resume` that succeeds, or by `rest`.
pub trait DataPath {
    /// Takes the port's rings away from the workers. On return nobody refers to guest memory, rings or their event
    /// descriptors any more. Gives the position of every ring that ran, `used` included.
    ///
    /// Packets for the guest may wait: rings come back at once, or `rest` says that they do not.
    fn quiesce(&mut self) -> Vec<(usize, Position)>;

    /// Hands the rings of [`Device::live`] to the workers; there is at least one.
    ///
    /// # Errors
    /// The front end is at fault or memory cannot be mapped: nothing runs, and the connection ends.
    fn resume(&mut self, device: &Device) -> Result<(), ResumeError>;

    /// Nothing runs until the next `resume`, whenever that comes.
    fn rest(&mut self) {}

    /// The front end was told where ring `index`, which has stopped, stands.
    fn told_position(&mut self, _index: usize) {}

    /// SEND_RARP: tells the network that this address is here now.
    fn announce(&mut self, mac: [u8; 6]);
}

/// Why rings cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ResumeError {
    /// {0}
    #[error("{0}")]
    Other(String),
}
