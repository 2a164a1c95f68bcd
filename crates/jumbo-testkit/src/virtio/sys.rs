//! Shared memory, mapped: the one place of this crate that touches raw pointers.
//!
//! Another process writes to the same memory at any time. So whatever both sides look at while the other may write
//! goes through atomics, and payload is copied, never borrowed.
#![expect(unsafe_code, reason = "mappings; each block states why it is sound")]

use std::io;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64};

use rustix::mm::{MapFlags, ProtFlags};

/// A shared mapping of a file, unmapped when the last [`Window`] on it goes.
#[derive(Debug)]
pub(super) struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to this value and is reached only through atomics and copies.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes of `fd` from `offset`, for reading and writing.
    pub(super) fn new(fd: impl AsFd, offset: u64, len: usize) -> io::Result<Arc<Self>> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses the place, so no existing mapping is touched.
        let at = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                len,
                prot,
                MapFlags::SHARED,
                fd,
                offset,
            )
        }?;
        let base = NonNull::new(at.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Arc::new(Self { base, len }))
    }

    /// The address of the first byte in this process.
    pub(super) fn address(&self) -> u64 {
        self.base.as_ptr() as u64
    }

    /// The bytes from `offset`, `len` of them, or nothing when they do not all lie inside.
    pub(super) fn window(self: &Arc<Self>, offset: usize, len: usize) -> Option<Window> {
        let end = offset.checked_add(len)?;
        if end > self.len {
            return None;
        }
        // SAFETY: `offset` is at most `self.len`, so this stays inside the mapping or one past its end.
        let base = unsafe { self.base.add(offset) };
        Some(Window {
            base,
            len,
            _mapping: self.clone(),
        })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: every window holds the `Arc` this value lives in, so nothing points here any more.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// A contiguous range of shared memory that stays mapped as long as this value lives.
///
/// Whatever does not lie inside panics: the callers are tests, which chose the place themselves.
#[derive(Clone, Debug)]
pub struct Window {
    base: NonNull<u8>,
    len: usize,
    _mapping: Arc<Mapping>,
}

// SAFETY: as for `Mapping`, which the window keeps alive.
unsafe impl Send for Window {}
// SAFETY: as above.
unsafe impl Sync for Window {}

impl Window {
    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn pointer(&self, offset: usize, len: usize, align: usize) -> *mut u8 {
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.len);
        assert!(inside, "{len} bytes at {offset} of {}", self.len);
        // SAFETY: `offset` lies inside, by the assertion.
        let at = unsafe { self.base.add(offset) }.as_ptr();
        assert!(at.addr().is_multiple_of(align), "unaligned at {offset}");
        at
    }

    /// The 16-bit word at `offset`.
    #[must_use]
    pub fn u16(&self, offset: usize) -> &AtomicU16 {
        // SAFETY: inside, aligned, alive as long as `self`, and only reached as an atomic or by copies.
        unsafe { AtomicU16::from_ptr(self.pointer(offset, 2, 2).cast()) }
    }

    /// The 32-bit word at `offset`.
    #[must_use]
    pub fn u32(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: as for `u16`.
        unsafe { AtomicU32::from_ptr(self.pointer(offset, 4, 4).cast()) }
    }

    /// The 64-bit word at `offset`.
    #[must_use]
    pub fn u64(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: as for `u16`.
        unsafe { AtomicU64::from_ptr(self.pointer(offset, 8, 8).cast()) }
    }

    /// Copies `bytes` to `offset`.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        let to = self.pointer(offset, bytes.len(), 1);
        // SAFETY: `to` has room for them and cannot overlap a borrowed slice of private memory.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) }
    }

    /// Copies from `offset` until `bytes` is full.
    pub fn read(&self, offset: usize, bytes: &mut [u8]) {
        let from = self.pointer(offset, bytes.len(), 1);
        // SAFETY: `from` has as many bytes and cannot overlap a borrowed slice of private memory.
        unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len()) }
    }

    /// Appends `len` bytes from `offset` to `bytes`.
    pub fn read_to(&self, offset: usize, len: usize, bytes: &mut Vec<u8>) {
        let start = bytes.len();
        bytes.resize(start + len, 0);
        self.read(offset, &mut bytes[start..]);
    }

    /// Sets `len` bytes from `offset` to `value`.
    pub fn fill(&self, offset: usize, len: usize, value: u8) {
        let to = self.pointer(offset, len, 1);
        // SAFETY: `to` has room for them.
        unsafe { std::ptr::write_bytes(to, value, len) }
    }
}
