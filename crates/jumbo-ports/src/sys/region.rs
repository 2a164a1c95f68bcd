//! Memory that others may write at any moment: a guest's RAM, a ring shared with
//! the kernel.
//!
//! **No reference to such memory is ever formed.** All access goes through the raw
//! pointers here, and what is read is believed only once it has been copied. A
//! copy that races with the other side reads some mixture of old and new bytes;
//! whoever wrote them meanwhile harms only itself.
#![allow(unsafe_code, reason = "mappings and raw copies")]

use std::ffi::c_void;
use std::marker::PhantomData;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

use super::sigbus::Guard;

/// A mapping of shared memory. Unmapped when dropped.
#[derive(Debug)]
pub struct Region {
    base: NonNull<u8>,
    len: usize,
    guard: Guard,
    /// All that is unmapped with it.
    range: Range,
}

/// An address range of ours.
#[derive(Copy, Clone, Debug)]
struct Range {
    start: *mut c_void,
    len: usize,
}

impl Range {
    /// Gives the range back.
    ///
    /// # Safety
    /// It is mapped, and nobody uses it any more.
    unsafe fn unmap(self) {
        // SAFETY: the caller's.
        let _ = unsafe { rustix::mm::munmap(self.start, self.len) };
    }
}

/// Nobody may touch so many bytes beside a fenced mapping. A multiple of every page size that is not huge.
const FENCE: usize = 1 << 16;

/// Larger mappings begin at a multiple of this, as the kernel places them itself, so that they may be of huge pages.
const HUGE_PAGE: usize = 2 << 20;

// SAFETY: the mapping belongs to no thread, and all access is by raw copies that
// make no claim about who else reads or writes.
unsafe impl Send for Region {}
// SAFETY: the same.
unsafe impl Sync for Region {}

impl Region {
    /// Maps `len` bytes of `file` from `offset` on, to be read and written.
    ///
    /// # Errors
    /// What the kernel says; EINVAL for an empty mapping or an offset that is not
    /// a multiple of the page size.
    pub fn map(file: BorrowedFd<'_>, offset: u64, len: usize) -> Result<Self, Errno> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at a place of the kernel's choice.
        let base = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                len,
                protection,
                MapFlags::SHARED | MapFlags::NORESERVE,
                file,
                offset,
            )
        }?;
        let range = Range { start: base, len };
        // SAFETY: just mapped, by one call, and nobody else knows of it.
        unsafe { Self::new(range, base, len) }
    }

    /// As [`Region::map`], with addresses beside it that nobody may touch: an access that misses it ends the process,
    /// and never reaches other memory. `page` is the page size of the file.
    ///
    /// # Errors
    /// Those of [`Region::map`].
    pub fn map_fenced(
        file: BorrowedFd<'_>,
        offset: u64,
        len: usize,
        page: usize,
    ) -> Result<Self, Errno> {
        let large = if len >= HUGE_PAGE { HUGE_PAGE } else { FENCE };
        let align = page.max(large);
        if len == 0 || !align.is_power_of_two() {
            return Err(Errno::INVAL);
        }
        let whole = len.checked_next_multiple_of(align).ok_or(Errno::NOMEM)?;
        let total = whole.checked_add(align + 2 * FENCE).ok_or(Errno::NOMEM)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at a place of the kernel's choice, which nobody may touch.
        let start = unsafe {
            rustix::mm::mmap_anonymous(std::ptr::null_mut(), total, ProtFlags::empty(), flags)
        }?;
        let range = Range { start, len: total };
        let base = (start as usize + FENCE).next_multiple_of(align) as *mut c_void;
        // SAFETY: `whole` bytes at `base` are in the range that was just reserved: less than FENCE and
        // `align` together is before them, so that another FENCE is behind them.
        let mapped = unsafe {
            let flags = MapFlags::SHARED | MapFlags::NORESERVE | MapFlags::FIXED;
            let protection = ProtFlags::READ | ProtFlags::WRITE;
            rustix::mm::mmap(base, len, protection, flags, file, offset)
        };
        if let Err(errno) = mapped {
            // SAFETY: nobody knows of it.
            unsafe { range.unmap() };
            return Err(errno);
        }
        // SAFETY: mapped above, and nobody else knows of it.
        unsafe { Self::new(range, base, len) }
    }

    /// Takes charge of `len` mapped bytes at `base`. On failure the range is given back.
    ///
    /// # Safety
    /// `base` is in `range`, with `len` bytes behind it; all of it is ours alone.
    unsafe fn new(range: Range, base: *mut c_void, len: usize) -> Result<Self, Errno> {
        let made = Guard::new(base as usize, len).and_then(|guard| {
            let base = NonNull::new(base.cast()).ok_or(Errno::INVAL)?;
            Ok(Self {
                base,
                len,
                guard,
                range,
            })
        });
        // SAFETY: the caller's.
        made.inspect_err(|_| unsafe { range.unmap() })
    }

    /// Whether its file was truncated under it and somebody touched what is gone:
    /// all of it reads as zeros since, and what is written reaches nobody.
    #[inline]
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.guard.is_dead()
    }

    /// How many bytes it has.
    #[inline]
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "an empty one cannot be mapped")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// `len` bytes from `at` on; `None` if they are not inside.
    #[inline]
    #[must_use]
    pub fn piece(&self, at: u64, len: u32) -> Option<Piece<'_>> {
        let ptr = self.ptr(at, len as usize)?;
        Some(Piece::new(ptr.as_ptr(), len as usize))
    }

    /// Where the `len` bytes from `at` on are, while the region lives; `None` if
    /// they are not inside.
    #[inline]
    #[must_use]
    pub fn ptr(&self, at: u64, len: usize) -> Option<NonNull<u8>> {
        let at = usize::try_from(at).ok()?;
        if at > self.len || len > self.len - at {
            return None;
        }
        // SAFETY: `at` is at most the length of the mapping.
        Some(unsafe { self.base.add(at) })
    }

    /// Writes `bytes` at `at`; `None`, and nothing is written, if they would not fit.
    pub fn write(&self, at: u64, bytes: &[u8]) -> Option<()> {
        let to = self.ptr(at, bytes.len())?;
        // SAFETY: `ptr` has seen to it that `bytes.len()` bytes are mapped there, and
        // a caller's slice overlaps no mapping of ours.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.as_ptr(), bytes.len()) };
        Some(())
    }

    /// Writes the bytes of `piece` at `at`; `None`, and nothing is written, if they
    /// would not fit.
    #[inline]
    pub fn write_piece(&self, at: u64, piece: Piece<'_>) -> Option<()> {
        let to = self.ptr(at, piece.len)?;
        // SAFETY: `ptr` has seen to it that `piece.len` bytes are mapped there, as many
        // are readable at `piece.base`, and `copy` allows that they overlap.
        unsafe { std::ptr::copy(piece.base, to.as_ptr(), piece.len) };
        Some(())
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        self.guard.end();
        // SAFETY: mapped when the region was made, and pieces borrow the region, so none is left.
        unsafe { self.range.unmap() };
    }
}

/// Bytes that may be shared: to be copied or handed to the kernel, never to be
/// looked at in place. Has the layout of `struct iovec`.
#[derive(Copy, Clone, Debug)]
#[repr(C)]
pub struct Piece<'a> {
    base: *const u8,
    len: usize,
    lives: PhantomData<&'a u8>,
}

impl<'a> Piece<'a> {
    /// The caller's bytes, `len` of them readable at `base` for `'a`.
    #[inline]
    fn new(base: *const u8, len: usize) -> Self {
        Self {
            base,
            len,
            lives: PhantomData,
        }
    }

    /// Bytes that are ours.
    #[inline]
    #[must_use]
    pub fn of(bytes: &'a [u8]) -> Self {
        Self::new(bytes.as_ptr(), bytes.len())
    }

    /// How many bytes.
    #[inline]
    #[must_use]
    pub fn len(self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[inline]
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// Where they are. To be used only while what the piece was made from lives.
    #[inline]
    #[must_use]
    pub fn as_ptr(self) -> *const u8 {
        self.base
    }

    /// Copies the first bytes to `out`, as many as both have. Returns how many.
    #[inline]
    pub fn copy_to(self, out: &mut [u8]) -> usize {
        let len = self.len.min(out.len());
        // SAFETY: `len` bytes are readable at `base` and writable at `out`, and a
        // caller's unique slice overlaps neither shared memory nor another slice.
        unsafe { std::ptr::copy_nonoverlapping(self.base, out.as_mut_ptr(), len) };
        len
    }

    /// Appends all bytes to `out`.
    pub fn append_to(self, out: &mut Vec<u8>) {
        out.reserve(self.len);
        let at = out.len();
        // SAFETY: `reserve` made room for `len` bytes behind `at`, which are then
        // written from `base`, where `len` are readable, before they count.
        unsafe {
            std::ptr::copy_nonoverlapping(self.base, out.as_mut_ptr().add(at), self.len);
            out.set_len(at + self.len);
        }
    }

    /// Sums the bytes with `kernels`.
    #[inline]
    pub fn sum(self, kernels: &jumbo_engine::checksum::Kernels) -> jumbo_engine::checksum::Sum {
        // SAFETY: `len` bytes are readable at `base`.
        unsafe { kernels.raw_sum()(self.base, self.len) }
    }

    /// Asks the processor to fetch the first cache line.
    #[inline]
    pub fn prefetch(self) {
        prefetch(self.base);
    }
}

/// Asks the processor to fetch a cache line. Any address will do.
#[inline]
pub(crate) fn prefetch(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch never faults, whatever the address.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    use std::os::fd::AsFd;

    fn region(len: usize) -> Region {
        let file = memfd_create("region", MemfdFlags::CLOEXEC).expect("memfd");
        ftruncate(&file, len as u64).expect("room");
        Region::map(file.as_fd(), 0, len).expect("mapped")
    }

    #[test]
    fn what_is_written_is_read_and_nothing_outside_is_reached() {
        let region = region(8192);
        region.write(4090, b"across a page").expect("inside");
        let piece = region.piece(4090, 13).expect("inside");
        let mut all = b"x".to_vec();
        piece.append_to(&mut all);
        assert_eq!(all, b"xacross a page");
        let mut some = [0; 6];
        assert_eq!(piece.copy_to(&mut some), 6);
        assert_eq!(&some, b"across");
        region.write_piece(0, piece).expect("inside");
        region
            .write_piece(7, region.piece(0, 13).expect("inside"))
            .expect("overlapping");
        let mut all = Vec::new();
        region.piece(0, 20).expect("inside").append_to(&mut all);
        assert_eq!(all, b"across across a page");
        assert!(region.write_piece(8180, piece).is_none(), "not all inside");
        assert!(region.piece(8192, 0).is_some(), "the very end, no bytes");
        for (at, len) in [(8192, 1), (8191, 2), (0, 8193), (u64::MAX, 1), (8193, 0)] {
            assert!(region.piece(at, len).is_none(), "{at}+{len}");
            assert!(
                region.write(at, &vec![0; len as usize]).is_none(),
                "{at}+{len}"
            );
        }
    }

    /// The rights of the mapping that an address lies in, as the kernel shows them.
    fn rights(at: usize) -> Option<String> {
        let maps = std::fs::read_to_string("/proc/self/maps").expect("our own");
        let found = maps.lines().find(|line| {
            let (start, end) = line
                .split_once(' ')
                .unwrap_or_default()
                .0
                .split_once('-')
                .expect("a range");
            let hex = |text| usize::from_str_radix(text, 16).expect("an address");
            (hex(start)..hex(end)).contains(&at)
        });
        Some(found?.split(' ').nth(1)?.to_owned())
    }

    #[test]
    fn a_fence_is_on_both_sides() {
        let file = memfd_create("region", MemfdFlags::CLOEXEC).expect("memfd");
        ftruncate(&file, 8 << 20).expect("room");
        for (len, align) in [
            (1, FENCE),
            (4096, FENCE),
            (FENCE, FENCE),
            ((2 << 20) + 1, HUGE_PAGE),
        ] {
            let region = Region::map_fenced(file.as_fd(), 4096, len, 4096).expect("mapped");
            region.write(len as u64 - 1, b"x").expect("inside");
            let base = region.ptr(0, len).expect("inside").as_ptr() as usize;
            let end = base + len.next_multiple_of(4096);
            assert_eq!(base % align, 0);
            for at in [base - 1, base - FENCE, end, end + FENCE - 1] {
                assert_eq!(
                    rights(at).as_deref(),
                    Some("---p"),
                    "{len}: {at:x}, {base:x}"
                );
            }
            assert_eq!(rights(end - 1).as_deref(), Some("rw-s"));
        }
        let refused = [(0, 4096), (4096, 3 << 20), (usize::MAX, 4096)];
        for (len, page) in refused {
            assert!(Region::map_fenced(file.as_fd(), 0, len, page).is_err());
        }
        assert!(
            Region::map_fenced(file.as_fd(), 1, 4096, 4096).is_err(),
            "no page's"
        );
    }

    #[test]
    fn truncated_memory_reads_as_zeros_and_is_dead() {
        let file = memfd_create("region", MemfdFlags::CLOEXEC).expect("memfd");
        ftruncate(&file, 8192).expect("room");
        let gone = Region::map(file.as_fd(), 0, 8192).expect("mapped");
        let other = region(4096);
        gone.write(0, b"here").expect("inside");
        other.write(0, b"stays").expect("inside");
        ftruncate(&file, 0).expect("truncated");
        assert!(!gone.is_dead(), "nobody has touched it yet");
        let mut bytes = [1; 4];
        gone.piece(4096, 4).expect("inside").copy_to(&mut bytes);
        assert_eq!(bytes, [0; 4]);
        assert!(gone.is_dead());
        gone.write(0, b"lost").expect("no fault any more");
        let mut bytes = [0; 5];
        other.piece(0, 5).expect("inside").copy_to(&mut bytes);
        assert_eq!(&bytes, b"stays");
        assert!(!other.is_dead());
    }

    #[test]
    fn nothing_is_not_mapped() {
        let file = memfd_create("empty", MemfdFlags::CLOEXEC).expect("memfd");
        assert_eq!(Region::map(file.as_fd(), 0, 0).err(), Some(Errno::INVAL));
    }
}
