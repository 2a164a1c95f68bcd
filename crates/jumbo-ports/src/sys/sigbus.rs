//! SIGBUS: what happens when shared memory is no longer backed.
//!
//! Whoever owns the file behind a mapping may truncate it at any moment; to touch
//! what is gone then is a SIGBUS, which ends a process. Here it ends a region: the
//! handler puts zero pages over all of it and marks it dead, the access goes on
//! and reads zeros, and the port that owns the region stops at its next look.
//!
//! A fault anywhere else is none of ours: it goes to whoever handled SIGBUS before.
#![allow(unsafe_code, reason = "a signal handler and mappings")]

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::io::Errno;

/// Most regions guarded at a time. A handler must not wait for a lock, so that the
/// table has a fixed size.
const GUARDED_MAX: usize = 4096;

struct Slot {
    /// 0: free. 1: being filled in.
    base: AtomicUsize,
    len: AtomicUsize,
    dead: AtomicBool,
}

static SLOTS: [Slot; GUARDED_MAX] = [const {
    Slot {
        base: AtomicUsize::new(0),
        len: AtomicUsize::new(0),
        dead: AtomicBool::new(false),
    }
}; GUARDED_MAX];

/// A region that is guarded, until [`Guard::end`].
#[derive(Debug)]
pub(super) struct Guard {
    slot: usize,
}

impl Guard {
    /// Guards `len` mapped bytes at `base`, both multiples of the page size or, for
    /// `len`, up to one.
    ///
    /// # Errors
    /// ENOMEM when too many regions are guarded; what the kernel says to the handler.
    pub(super) fn new(base: usize, len: usize) -> Result<Self, Errno> {
        install()?;
        for (index, slot) in SLOTS.iter().enumerate() {
            let free = slot
                .base
                .compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed);
            if free.is_ok() {
                slot.dead.store(false, Ordering::Relaxed);
                slot.len.store(len, Ordering::Relaxed);
                slot.base.store(base, Ordering::Release);
                return Ok(Self { slot: index });
            }
        }
        Err(Errno::NOMEM)
    }

    /// Whether the region has lost its backing.
    #[inline]
    pub(super) fn is_dead(&self) -> bool {
        SLOTS[self.slot].dead.load(Ordering::Relaxed)
    }
}

impl Guard {
    /// Guards no more. To be called before the region is unmapped: what is mapped
    /// there afterwards is none of ours.
    pub(super) fn end(&self) {
        let slot = &SLOTS[self.slot];
        slot.len.store(0, Ordering::Relaxed);
        slot.base.store(0, Ordering::Release);
    }
}

/// Who handled SIGBUS before us.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

fn install() -> Result<(), Errno> {
    static INSTALLED: OnceLock<Result<(), Errno>> = OnceLock::new();
    *INSTALLED.get_or_init(|| {
        let mut before = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: all-zero is a valid `sigaction`: no flags, an empty mask.
        let mut action = unsafe { MaybeUninit::<libc::sigaction>::zeroed().assume_init() };
        action.sa_sigaction = on_sigbus as extern "C" fn(_, _, _) as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: both pointers are to live values; the handler does only what a
        // handler may: atomics, mmap and sigaction.
        let result = unsafe { libc::sigaction(libc::SIGBUS, &action, before.as_mut_ptr()) };
        if result != 0 {
            return Err(Errno::INVAL);
        }
        // SAFETY: the call succeeded and filled it in.
        let _ = BEFORE.set(unsafe { before.assume_init() });
        Ok(())
    })
}

extern "C" fn on_sigbus(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: with SA_SIGINFO the kernel passes a valid pointer.
    let at = unsafe { (*info).si_addr() } as usize;
    for slot in &SLOTS {
        let base = slot.base.load(Ordering::Acquire);
        let len = slot.len.load(Ordering::Relaxed);
        if base > 1 && at >= base && at - base < len && replace(base, len) {
            slot.dead.store(true, Ordering::Relaxed);
            return;
        }
    }
    pass_on(signal, info, context);
}

/// Puts zero pages over a region.
fn replace(base: usize, len: usize) -> bool {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the range is a mapping of ours: it is registered from its making to its
    // unmapping. What was there is replaced by memory of the same length and rights.
    let at = unsafe { libc::mmap(base as *mut c_void, len, protection, flags, -1, 0) };
    at != libc::MAP_FAILED
}

/// Leaves a fault that is not ours to whoever was there before.
fn pass_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let handler = BEFORE
        .get()
        .map_or(libc::SIG_DFL, |before| before.sa_sigaction);
    let takes_info = BEFORE
        .get()
        .is_some_and(|b| b.sa_flags & libc::SA_SIGINFO != 0);
    if handler == libc::SIG_DFL || handler == libc::SIG_IGN {
        // SAFETY: all-zero is the default action. The fault happens again and ends the process.
        unsafe {
            let default = MaybeUninit::<libc::sigaction>::zeroed().assume_init();
            libc::sigaction(signal, &default, std::ptr::null_mut());
        }
    } else if takes_info {
        type Handler = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);
        // SAFETY: the kernel gave this address as a handler of that type.
        let handler: Handler = unsafe { std::mem::transmute(handler) };
        handler(signal, info, context);
    } else {
        // SAFETY: the same, of the older type.
        let handler: extern "C" fn(c_int) = unsafe { std::mem::transmute(handler) };
        handler(signal);
    }
}
