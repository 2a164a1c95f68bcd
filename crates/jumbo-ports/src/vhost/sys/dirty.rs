//! Which pages of guest memory were written.
#![allow(unsafe_code, reason = "memory shared with a guest")]

use std::sync::atomic::{AtomicU8, Ordering};

use crate::pool::Region;

const LOG_PAGE: u64 = 4096;

/// Which pages of guest memory were written, for a migration that is under way: a
/// bit for each of 4096 bytes (vhost-user, "Migration").
#[derive(Debug)]
pub(in crate::vhost) struct DirtyLog {
    bits: Region,
    skip: u64,
    len: u64,
}

impl DirtyLog {
    /// A log of `len` bytes that begins `skip` bytes into `bits`.
    pub(in crate::vhost) fn new(bits: Region, skip: u64, len: u64) -> Self {
        Self { bits, skip, len }
    }

    /// Marks `len` bytes at a guest address; what the log has no bits for is not marked.
    pub(in crate::vhost) fn mark(&self, guest_addr: u64, len: u64) {
        if len == 0 {
            return;
        }
        let last = guest_addr.saturating_add(len - 1) / LOG_PAGE;
        for page in guest_addr / LOG_PAGE..=last {
            let Some(at) = self
                .bits
                .ptr(self.skip + page / 8, 1)
                .filter(|_| page / 8 < self.len)
            else {
                return;
            };
            // SAFETY: one mapped byte, which the front end changes with atomic operations too.
            let byte = unsafe { AtomicU8::from_ptr(at.as_ptr()) };
            byte.fetch_or(1 << (page % 8), Ordering::Relaxed);
        }
    }
}
