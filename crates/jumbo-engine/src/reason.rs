//! Why a packet was not simply forwarded: one enum per stage.
//!
//! Every variant has a stable name (metrics, `--json`), one line of
//! documentation (the manual is generated from it), a counter and one canonical
//! test. Packets do not fail, they have a reason.

use alloc::boxed::Box;
use alloc::vec;
use core::fmt;
use core::marker::PhantomData;

/// What the reason enums of all stages have in common.
pub trait Reason: Copy + Eq + fmt::Debug + 'static {
    /// The stage of the packet's path, as in `jumbo status`.
    const STAGE: &'static str;
    /// What the enum as a whole answers, one sentence.
    const QUESTION: &'static str;
    /// Every reason of the stage, in the order of [`Reason::index`].
    const ALL: &'static [Self];
    /// Position in [`Reason::ALL`].
    fn index(self) -> usize;
    /// Stable name in snake_case.
    fn name(self) -> &'static str;
    /// One line for the manual.
    fn doc(self) -> &'static str;
}

/// Declares a reason enum; the doc comment of a variant is its line in the manual.
#[macro_export]
macro_rules! reasons {
    ($(#[doc = $question:literal])+ $vis:vis enum $name:ident in $stage:literal {
        $( $(#[doc = $doc:literal])+ $variant:ident = $text:literal, )+
    }) => {
        $(#[doc = $question])+
        #[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        $vis enum $name { $( $(#[doc = $doc])+ $variant, )+ }

        impl $crate::reason::Reason for $name {
            const STAGE: &'static str = $stage;
            const QUESTION: &'static str = concat!($($question),+);
            const ALL: &'static [Self] = &[$( Self::$variant, )+];
            #[inline]
            fn index(self) -> usize { self as usize }
            fn name(self) -> &'static str {
                match self { $( Self::$variant => $text, )+ }
            }
            fn doc(self) -> &'static str {
                match self { $( Self::$variant => concat!($($doc),+), )+ }
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.write_str($crate::reason::Reason::name(*self))
            }
        }
    };
}

/// One counter per reason of a stage.
#[derive(Clone, PartialEq, Eq)]
pub struct Counts<R> {
    counts: Box<[u64]>,
    reasons: PhantomData<R>,
}

impl<R: Reason> Counts<R> {
    /// All counters at zero; allocates once.
    pub fn new() -> Self {
        Self {
            counts: vec![0; R::ALL.len()].into_boxed_slice(),
            reasons: PhantomData,
        }
    }

    /// Counts one packet.
    #[inline]
    pub fn count(&mut self, reason: R) {
        self.counts[reason.index()] += 1;
    }

    /// Counts several packets at once.
    #[inline]
    pub fn count_many(&mut self, reason: R, packets: u64) {
        self.counts[reason.index()] += packets;
    }

    /// The present count of one reason.
    pub fn get(&self, reason: R) -> u64 {
        self.counts[reason.index()]
    }

    /// Adds another set of counters, such as another worker's.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
    }

    /// The sum over all reasons.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Every reason with its count, zeros included.
    pub fn iter(&self) -> impl Iterator<Item = (R, u64)> + '_ {
        R::ALL.iter().copied().zip(self.counts.iter().copied())
    }
}

impl<R: Reason> Default for Counts<R> {
    fn default() -> Self {
        Self::new()
    }
}

impl<R: Reason> fmt::Debug for Counts<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seen = self.iter().filter(|(_, count)| *count > 0);
        f.debug_map()
            .entries(seen.map(|(r, n)| (r.name(), n)))
            .finish()
    }
}
