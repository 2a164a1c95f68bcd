//! Memory that notes which buffers are in flight (vhost-user, "Inflight I/O tracking"): one region per ring, each
//! beginning at a multiple of 64 bytes as in libvhost-user and DPDK.
//!
//! Only the layout is here. The memory begins as zeros, which means "uninitialised"; the data path writes it.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, SealFlags};

/// Where regions may begin: INFLIGHT_ALIGNMENT of libvhost-user and DPDK.
const REGION_ALIGN: u64 = 64;

/// `struct QueueRegionSplit` and `struct DescStateSplit`, as offsets.
pub mod split {
    /// Bytes before the entries: features u64, then four u16.
    pub const HEADER_LEN: u64 = 16;
    /// Of the region: u16.
    pub const VERSION_AT: u64 = 8;
    /// Of the region: u16.
    pub const DESC_NUM_AT: u64 = 10;
    /// Of the region: u16.
    pub const LAST_BATCH_HEAD_AT: u64 = 12;
    /// Of the region: u16.
    pub const USED_IDX_AT: u64 = 14;
    /// Bytes of an entry: inflight u8, padding, next u16, counter u64.
    pub const ENTRY_LEN: u64 = 16;
    /// Of an entry: u16.
    pub const NEXT_AT: u64 = 6;
    /// Of an entry: u64.
    pub const COUNTER_AT: u64 = 8;
}

/// `struct QueueRegionPacked` and `struct DescStatePacked`, as offsets.
pub mod packed {
    /// Bytes before the entries; 29 are named, the entries' alignment adds three.
    pub const HEADER_LEN: u64 = 32;
    /// Of the region: u16.
    pub const VERSION_AT: u64 = 8;
    /// Of the region: u16.
    pub const DESC_NUM_AT: u64 = 10;
    /// Of the region: u16.
    pub const FREE_HEAD_AT: u64 = 12;
    /// Of the region: u16.
    pub const OLD_FREE_HEAD_AT: u64 = 14;
    /// Of the region: u16.
    pub const USED_IDX_AT: u64 = 16;
    /// Of the region: u16.
    pub const OLD_USED_IDX_AT: u64 = 18;
    /// Of the region: u8.
    pub const USED_WRAP_AT: u64 = 20;
    /// Of the region: u8.
    pub const OLD_USED_WRAP_AT: u64 = 21;
    /// Bytes of an entry.
    pub const ENTRY_LEN: u64 = 32;
}

/// The version that means "initialised".
pub const VERSION: u16 = 1;

/// Bytes of one region, the gap to the next included.
pub fn region_len(queue_size: u16, is_packed: bool) -> u64 {
    let (header_len, entry_len) = if is_packed {
        (packed::HEADER_LEN, packed::ENTRY_LEN)
    } else {
        (split::HEADER_LEN, split::ENTRY_LEN)
    };
    (header_len + entry_len * u64::from(queue_size)).next_multiple_of(REGION_ALIGN)
}

/// Bytes of all regions.
pub fn total_len(queues: u16, queue_size: u16, is_packed: bool) -> u64 {
    u64::from(queues) * region_len(queue_size, is_packed)
}

/// A file of `len` zeros that nobody can cut short under our feet.
pub(super) fn create(len: u64) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = rustix::fs::memfd_create("jumbo-inflight", flags)?;
    rustix::fs::ftruncate(&file, len)?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file)
}
