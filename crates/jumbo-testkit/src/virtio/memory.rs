//! A guest's memory: regions of guest addresses, each backed by a memfd and mapped here.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use super::sys::Mapping;
pub use super::sys::Window;

/// Bytes of a fence, and what stands in it.
const FENCE_LEN: u64 = 64 << 10;
const FENCE_BYTE: u8 = 0xA5;

/// One region, as a vhost-user back end is told of it.
#[derive(Clone, Debug)]
pub struct Region {
    guest_addr: u64,
    len: u64,
    file_offset: u64,
    file: Arc<OwnedFd>,
    mapping: Arc<Mapping>,
    /// Bytes given out so far, from the start.
    taken: u64,
}

impl Region {
    fn map(file: Arc<OwnedFd>, file_offset: u64, guest_addr: u64, len: u64) -> io::Result<Self> {
        let mapping = Mapping::new(&*file, file_offset, len as usize)?;
        Ok(Self {
            guest_addr,
            len,
            file_offset,
            file,
            mapping,
            taken: 0,
        })
    }

    /// Where it begins for the guest.
    #[must_use]
    pub fn guest_addr(&self) -> u64 {
        self.guest_addr
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Never true: a region has bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where it begins in this process ("user address" of the vhost-user messages).
    #[must_use]
    pub fn user_addr(&self) -> u64 {
        self.mapping.address()
    }

    /// Where it begins in its file.
    #[must_use]
    pub fn file_offset(&self) -> u64 {
        self.file_offset
    }

    /// Its file, to be sent to the back end (or cut short by a hostile test).
    #[must_use]
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn offset_of(&self, guest_addr: u64, len: usize) -> Option<usize> {
        let offset = guest_addr.checked_sub(self.guest_addr)?;
        let end = offset.checked_add(len as u64)?;
        (end <= self.len).then_some(offset as usize)
    }

    fn take(&mut self, len: u64, align: u64) -> Option<u64> {
        let start = (self.guest_addr + self.taken).next_multiple_of(align);
        let taken = (start - self.guest_addr).checked_add(len)?;
        (taken <= self.len).then(|| {
            self.taken = taken;
            start
        })
    }
}

/// The memory of one guest. What is given out is never taken back.
///
/// Whatever lies in no region panics, since the tests chose the place; [`GuestMemory::window`] asks.
///
/// ```
/// use jumbo_testkit::virtio::GuestMemory;
///
/// // Two regions with a hole between them.
/// let mut memory = GuestMemory::new(&[(0, 1 << 20), (1 << 32, 1 << 20)])?;
/// let buffer = memory.take(64, 16);
/// memory.write(buffer, b"hello");
/// assert_eq!(memory.read(buffer, 5), b"hello");
/// assert!(memory.window(2 << 20, 1).is_none());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct GuestMemory {
    regions: Vec<Region>,
    /// Memory beside them, in the same file, that nobody is told of.
    fences: Vec<Region>,
    /// The region to take the next buffer from, so that buffers lie in all of them in turns.
    turn: usize,
}

fn file(len: u64) -> io::Result<Arc<OwnedFd>> {
    let file = memfd_create("guest", MemfdFlags::CLOEXEC)?;
    ftruncate(&file, len)?;
    Ok(Arc::new(file))
}

impl GuestMemory {
    /// Regions of (guest address, length in bytes), each with a file of its own. Lengths and addresses are multiples
    /// of a page.
    pub fn new(regions: &[(u64, u64)]) -> io::Result<Self> {
        let map = |&(at, len): &(u64, u64)| Region::map(file(len)?, 0, at, len);
        Ok(Self::of(
            regions.iter().map(map).collect::<io::Result<_>>()?,
        ))
    }

    /// The same out of one file, as QEMU has it below and above 4 GiB: only the first region begins at offset 0.
    pub fn in_one_file(regions: &[(u64, u64)]) -> io::Result<Self> {
        let file = file(regions.iter().map(|(_, len)| len).sum())?;
        let mut offset = 0;
        let mut mapped = Vec::new();
        for &(at, len) in regions {
            mapped.push(Region::map(file.clone(), offset, at, len)?);
            offset += len;
        }
        Ok(Self::of(mapped))
    }

    /// One region between two fences: memory before and behind it in its file, of which no back end is told and where
    /// nothing may be written.
    pub fn fenced(guest_addr: u64, len: u64) -> io::Result<Self> {
        let around = [
            (guest_addr - FENCE_LEN, FENCE_LEN),
            (guest_addr, len),
            (guest_addr + len, FENCE_LEN),
        ];
        let mut memory = Self::in_one_file(&around)?;
        memory.fences = vec![memory.regions.remove(2), memory.regions.remove(0)];
        for fence in &memory.fences {
            let window = fence.mapping.window(0, fence.len as usize);
            window
                .expect("all of it")
                .fill(0, fence.len as usize, FENCE_BYTE);
        }
        Ok(memory)
    }

    /// Whether nobody has written beside the memory.
    #[must_use]
    pub fn fences_intact(&self) -> bool {
        self.fences.iter().all(|fence| {
            let mut bytes = vec![0; fence.len as usize];
            let window = fence.mapping.window(0, bytes.len());
            window.expect("all of it").read(0, &mut bytes);
            bytes.iter().all(|byte| *byte == FENCE_BYTE)
        })
    }

    /// What a back end was told: (guest address, length, offset in the file) with the file of each.
    pub(super) fn received(regions: Vec<([u64; 3], OwnedFd)>) -> io::Result<Self> {
        let map = |([at, len, offset], file): ([u64; 3], OwnedFd)| {
            Region::map(Arc::new(file), offset, at, len)
        };
        Ok(Self::of(
            regions.into_iter().map(map).collect::<io::Result<_>>()?,
        ))
    }

    fn of(regions: Vec<Region>) -> Self {
        Self {
            regions,
            fences: Vec::new(),
            turn: 0,
        }
    }

    /// One region of `mebibytes` MiB from guest address 0.
    pub fn mebibytes(mebibytes: u64) -> io::Result<Self> {
        Self::new(&[(0, mebibytes << 20)])
    }

    /// The regions, in the order they were added.
    #[must_use]
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// Adds memory, as hot-plug does; the back end is told by `FrontEnd::add_region`.
    pub fn add(&mut self, guest_addr: u64, len: u64) -> io::Result<&Region> {
        self.regions
            .push(Region::map(file(len)?, 0, guest_addr, len)?);
        Ok(self.regions.last().expect("just pushed"))
    }

    /// Takes the region at `guest_addr` out; it stays mapped while a [`Window`] on it lives.
    pub fn remove(&mut self, guest_addr: u64) -> Option<Region> {
        let at = self
            .regions
            .iter()
            .position(|region| region.guest_addr == guest_addr)?;
        Some(self.regions.remove(at))
    }

    /// Gives out `len` bytes, aligned; the regions take turns.
    ///
    /// # Panics
    ///
    /// When no region has room.
    pub fn take(&mut self, len: usize, align: usize) -> u64 {
        let count = self.regions.len();
        for step in 0..count {
            let index = (self.turn + step) % count;
            if let Some(addr) = self.regions[index].take(len as u64, align as u64) {
                self.turn = index + 1;
                return addr;
            }
        }
        panic!("no region of the guest has {len} bytes left");
    }

    /// The range of guest memory, if one region holds all of it.
    #[must_use]
    pub fn window(&self, guest_addr: u64, len: usize) -> Option<Window> {
        self.regions.iter().find_map(|region| {
            region
                .mapping
                .window(region.offset_of(guest_addr, len)?, len)
        })
    }

    /// Where a guest address lies in this process.
    #[must_use]
    pub fn user_addr(&self, guest_addr: u64) -> Option<u64> {
        self.regions
            .iter()
            .find_map(|region| Some(region.user_addr() + region.offset_of(guest_addr, 0)? as u64))
    }

    /// The guest address of a place in this process.
    #[must_use]
    pub fn guest_addr(&self, user_addr: u64) -> Option<u64> {
        self.regions.iter().find_map(|region| {
            let offset = user_addr.checked_sub(region.user_addr())?;
            (offset < region.len).then(|| region.guest_addr + offset)
        })
    }

    fn expect(&self, guest_addr: u64, len: usize) -> Window {
        self.window(guest_addr, len)
            .unwrap_or_else(|| panic!("no guest memory at {guest_addr:#x}+{len}"))
    }

    /// Copies `bytes` into guest memory.
    pub fn write(&self, guest_addr: u64, bytes: &[u8]) {
        self.expect(guest_addr, bytes.len()).write(0, bytes);
    }

    /// Copies out of guest memory.
    #[must_use]
    pub fn read(&self, guest_addr: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.expect(guest_addr, len).read(0, &mut bytes);
        bytes
    }
}

/// A file mapped here that is not the guest's: the in-flight area, or a dirty log.
#[derive(Debug)]
pub struct SharedFile {
    file: OwnedFd,
    window: Window,
}

impl SharedFile {
    /// A fresh one, zeroed.
    pub fn new(len: usize) -> io::Result<Self> {
        let file = memfd_create("shared", MemfdFlags::CLOEXEC)?;
        ftruncate(&file, len as u64)?;
        Self::map(file, 0, len)
    }

    /// One that came over a socket.
    pub fn map(file: OwnedFd, offset: u64, len: usize) -> io::Result<Self> {
        let mapping = Mapping::new(&file, offset, len)?;
        let window = mapping.window(0, len).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self { file, window })
    }

    /// Its bytes.
    #[must_use]
    pub fn window(&self) -> &Window {
        &self.window
    }
}

impl AsFd for SharedFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
