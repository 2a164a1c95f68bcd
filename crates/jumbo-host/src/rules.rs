//! The rule catalogue: one rule, one file, each a pure function over the snapshot.
//!
//! A rule's file opens with its page (the words of `jumbo explain`), then has its `RULE` and its check. An id is a
//! family and a number; it is never used again for something else. A name states the fault and reads well after
//! "allow".
//!
//! A check answers one of four: it does not apply here, it passes, it found a fault, or it is unknown. `?` on a datum
//! that could not be read makes the whole check unknown; unknown is never taken for a pass.

mod framework;
#[cfg(test)]
mod mutation;
mod registry;
#[cfg(test)]
pub(crate) mod scene;
#[cfg(test)]
mod tests;

pub use framework::{
    Class, Evidence, Fault, Layer, Outcome, Profile, Rule, Scope, Severity, Verdict, View,
};
pub(crate) use irq::receive_irqs;
pub use registry::{all, by_id};

/// What every rule's file uses.
mod prelude {
    pub(crate) use super::framework::*;
    #[cfg(test)]
    pub(crate) use super::scene::Cases;
    pub(crate) use crate::change::{Moderation, NapiKnob, Setting, Side};
    pub(crate) use crate::cpus::CpuSet;
    pub(crate) use crate::snapshot::{Device, Snapshot};
    pub(crate) use crate::snapshot::{Features, Napi};
}

/// A family: its rules, each with the text of its own file.
macro_rules! family {
    ($folder:literal: $($rule:ident)+) => {
        pub(super) static RULES: &[super::Rule] = &[$(super::Rule {
            source: include_str!(concat!($folder, "/", stringify!($rule), ".rs")),
            ..$rule::RULE
        }),+];
        #[cfg(test)]
        pub(super) static CASES: &[(&str, super::scene::Cases)] = &[$(($rule::RULE.id, $rule::CASES)),+];
    };
}

mod tap;
mod gst;
mod lro;
mod gro;
mod seg;
mod csm;
mod coa;
mod rng;
mod sft;
mod nap;
mod rss;
mod str;
mod irq;
mod num;
mod mtu;
mod big;
mod xdp;
mod cap;
mod pci;
mod brg;
mod toe;

/// Families in the order of the report.
static FAMILIES: &[&[Rule]] = &[
    tap::RULES,
    gst::RULES,
    lro::RULES,
    gro::RULES,
    seg::RULES,
    csm::RULES,
    coa::RULES,
    rng::RULES,
    sft::RULES,
    nap::RULES,
    rss::RULES,
    str::RULES,
    irq::RULES,
    num::RULES,
    mtu::RULES,
    big::RULES,
    xdp::RULES,
    cap::RULES,
    pci::RULES,
    brg::RULES,
    toe::RULES,
];

/// The test hosts of every rule.
#[cfg(test)]
pub(crate) fn cases() -> impl Iterator<Item = (&'static str, scene::Cases)> {
    [
        tap::CASES,
        gst::CASES,
        lro::CASES,
        gro::CASES,
        seg::CASES,
        csm::CASES,
        coa::CASES,
        rng::CASES,
        sft::CASES,
        nap::CASES,
        rss::CASES,
        str::CASES,
        irq::CASES,
        num::CASES,
        mtu::CASES,
        big::CASES,
        xdp::CASES,
        cap::CASES,
        pci::CASES,
        brg::CASES,
        toe::CASES,
    ]
    .into_iter()
    .flatten()
    .copied()
}
