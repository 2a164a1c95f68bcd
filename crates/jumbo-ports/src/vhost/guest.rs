//! A guest's memory, mapped, and the two kinds of addresses that reach into it.

use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::Stat;
use rustix::io::Errno;

use super::device::RegionSpec;
use crate::pool::{REGION_LEN_MAX, REGIONS_MAX, Region, Regions};

/// Mappings begin at a multiple of this. Files on huge pages begin at zero anyway.
const PAGE: u64 = 4096;

/// The largest page there is (x86-64, 1 GiB).
const BLOCK_MAX: usize = 1 << 30;

/// A guest's memory. Lives as long as anything refers to it.
#[derive(Debug)]
pub(super) struct GuestMemory {
    /// By guest address, so that neighbours are neighbours.
    table: Box<[Mapped]>,
    regions: Regions,
}

/// One region.
#[derive(Clone, Debug)]
struct Mapped {
    spec: Arc<RegionSpec>,
    region: Arc<Region>,
    /// Bytes of the mapping before the region, because mappings begin at pages.
    skip: u64,
}

/// Why a region cannot be mapped.
#[derive(Debug, thiserror::Error)]
pub(super) enum MapError {
    /// More than the data path can name.
    #[error("{0} memory regions: at most {REGIONS_MAX} are possible")]
    TooManyRegions(usize),
    /// Larger than the data path can name.
    #[error("a memory region of {0:#x} bytes is too large")]
    TooLarge(u64),
    /// The file is shorter than the front end says; to touch it would be fatal.
    #[error("a memory region ends at byte {end} of a file that has {has}")]
    FileTooShort {
        /// Where it should end.
        end: u64,
        /// Where the file ends.
        has: u64,
    },
    /// The kernel does not map it.
    #[error("mapping guest memory: {0}")]
    Kernel(#[from] Errno),
}

/// Where a guest address is: the region, the offset in its mapping, and how many
/// bytes follow in that region.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) region: u8,
    pub(super) offset: u64,
    pub(super) room: u64,
}

impl GuestMemory {
    /// Maps all regions; those that `before` had already stay mapped as they are.
    ///
    /// # Errors
    /// The [`MapError`] of the first that cannot be mapped.
    pub(super) fn map(specs: &[Arc<RegionSpec>], before: Option<&Self>) -> Result<Self, MapError> {
        if specs.len() > REGIONS_MAX {
            return Err(MapError::TooManyRegions(specs.len()));
        }
        let known = |spec: &Arc<RegionSpec>| {
            let mut table = before.into_iter().flat_map(|before| before.table.iter());
            table
                .find(|mapped| Arc::ptr_eq(&mapped.spec, spec))
                .cloned()
        };
        let mut table = specs
            .iter()
            .map(|spec| known(spec).map_or_else(|| Mapped::new(spec), Ok))
            .collect::<Result<Box<[_]>, _>>()?;
        table.sort_by_key(|mapped| mapped.spec.guest_addr);
        let regions = table.iter().map(|mapped| mapped.region.clone()).collect();
        Ok(Self { table, regions })
    }

    /// The mappings, to be lent.
    pub(super) fn regions(&self) -> &Regions {
        &self.regions
    }

    /// Whether memory was truncated under us.
    #[inline]
    pub(super) fn is_dead(&self) -> bool {
        self.regions.iter().any(|region| region.is_dead())
    }

    /// Finds a guest address, looking in region `hint` first and leaving there
    /// where it was found.
    #[inline]
    pub(super) fn place(&self, guest_addr: u64, hint: &mut u8) -> Option<Place> {
        if let Some(place) = self.place_in(*hint, guest_addr) {
            return Some(place);
        }
        let after = self
            .table
            .partition_point(|m| m.spec.guest_addr <= guest_addr);
        *hint = u8::try_from(after.checked_sub(1)?).ok()?;
        self.place_in(*hint, guest_addr)
    }

    #[inline]
    fn place_in(&self, region: u8, guest_addr: u64) -> Option<Place> {
        let mapped = self.table.get(usize::from(region))?;
        let offset = guest_addr.checked_sub(mapped.spec.guest_addr)?;
        let room = mapped
            .spec
            .size
            .checked_sub(offset)
            .filter(|room| *room > 0)?;
        let offset = offset + mapped.skip;
        Some(Place {
            region,
            offset,
            room,
        })
    }

    /// The bytes of a place; `len` must not exceed its room.
    #[inline]
    pub(super) fn ptr(&self, place: Place, len: u32) -> Option<*mut u8> {
        let region = self.regions.get(usize::from(place.region))?;
        Some(region.ptr(place.offset, len as usize)?.as_ptr())
    }

    /// The guest address of a user address.
    pub(super) fn guest_addr(&self, user_addr: u64) -> Option<u64> {
        let mut table = self.table.iter();
        let mapped = table.find(|mapped| mapped.spec.holds_user_range(user_addr, 1))?;
        Some(user_addr - mapped.spec.user_addr + mapped.spec.guest_addr)
    }

    /// Where `len` bytes at a user address are, all in one region.
    pub(super) fn user_ptr(&self, user_addr: u64, len: u64) -> Option<*mut u8> {
        let mut table = self.table.iter();
        let mapped = table.find(|mapped| mapped.spec.holds_user_range(user_addr, len))?;
        let offset = user_addr - mapped.spec.user_addr + mapped.skip;
        Some(
            mapped
                .region
                .ptr(offset, usize::try_from(len).ok()?)?
                .as_ptr(),
        )
    }
}

impl Mapped {
    fn new(spec: &Arc<RegionSpec>) -> Result<Self, MapError> {
        let skip = spec.mmap_offset % PAGE;
        let len = (spec.size.checked_add(skip)).filter(|len| *len < REGION_LEN_MAX);
        let (Some(len), Some(end)) = (len, spec.mmap_offset.checked_add(spec.size)) else {
            return Err(MapError::TooLarge(spec.size));
        };
        let file = spec.file.as_fd();
        let stat = rustix::fs::fstat(file)?;
        let has = stat.st_size as u64;
        // Device files have no size; what is behind them is the kernel's word.
        if has != 0 && end > has {
            return Err(MapError::FileTooShort { end, has });
        }
        let page = page_len(&stat);
        let region = Region::map_fenced(file, spec.mmap_offset - skip, len as usize, page)?;
        Ok(Self {
            spec: spec.clone(),
            region: Arc::new(region),
            skip,
        })
    }
}

/// Bytes of the pages that a file is mapped by: of one on huge pages its block is one (Linux fs/hugetlbfs/inode.c
/// `hugetlbfs_fill_super`).
fn page_len(stat: &Stat) -> usize {
    let block = usize::try_from(stat.st_blksize).unwrap_or(0);
    match block.is_power_of_two() {
        true => block.clamp(PAGE as usize, BLOCK_MAX),
        false => PAGE as usize,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    fn spec(guest_addr: u64, size: u64, offset: u64, file_len: u64) -> Arc<RegionSpec> {
        let file = memfd_create("guest", MemfdFlags::CLOEXEC).expect("memfd");
        ftruncate(&file, file_len).expect("room");
        Arc::new(RegionSpec {
            guest_addr,
            size,
            user_addr: 0x7000_0000 + guest_addr,
            mmap_offset: offset,
            file,
        })
    }

    #[test]
    fn addresses_are_found_at_their_edges_and_not_beyond() {
        let specs = [
            spec(0x10000, 0x1000, 0, 0x1000),
            spec(0, 0x2000, 0x1800, 0x4000),
        ];
        let memory = GuestMemory::map(&specs, None).expect("mapped");
        let mut hint = 0;
        let mut place = |at| memory.place(at, &mut hint);
        let at = |region, offset, room| {
            Some(Place {
                region,
                offset,
                room,
            })
        };
        assert_eq!(place(0), at(0, 0x800, 0x2000), "sorted; page offset kept");
        assert_eq!(place(0x1fff), at(0, 0x27ff, 1));
        assert_eq!(place(0x2000), None);
        assert_eq!(place(0xffff), None);
        assert_eq!(place(0x10000), at(1, 0, 0x1000));
        assert_eq!(place(0x10fff), at(1, 0xfff, 1));
        assert_eq!(place(0x11000), None);
        assert_eq!(place(u64::MAX), None);
        assert!(memory.user_ptr(0x7000_0000, 0x2000).is_some());
        assert!(memory.user_ptr(0x7000_0001, 0x2000).is_none());
    }

    #[test]
    fn same_region_stays_mapped_once() {
        let specs = [spec(0, 0x1000, 0, 0x1000)];
        let first = GuestMemory::map(&specs, None).expect("mapped");
        let more = [specs[0].clone(), spec(0x1000, 0x1000, 0, 0x1000)];
        let second = GuestMemory::map(&more, Some(&first)).expect("mapped");
        assert!(Arc::ptr_eq(&first.regions[0], &second.regions[0]));
    }

    #[test]
    fn file_that_is_too_short_is_refused() {
        let error = GuestMemory::map(&[spec(0, 0x2000, 0, 0x1000)], None).err();
        let said = error.map(|e| e.to_string()).unwrap_or_default();
        assert_eq!(
            said,
            "a memory region ends at byte 8192 of a file that has 4096"
        );
    }
}
