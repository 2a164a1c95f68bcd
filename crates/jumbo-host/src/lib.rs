//! The offload state of a Linux host, and what is wrong with it.
//!
//! Data flow, in the order of the modules: [`collect`] asks the kernel (netlink, sysfs, procfs) and makes one
//! [`snapshot::Snapshot`], in which each datum is known, with its source, or unknown, with the reason. The [`rules`]
//! are pure functions over it; [`check`] runs them and makes one [`check::Report`]. [`page`] has the words: a page per
//! rule and per technique.
//!
//! A [`plan`] is what the rules would have otherwise, tried on the snapshot until they are silent; [`change`] has the
//! settings it is made of, does them, and undoes them.
//!
//! What is refused: this crate never runs another program, changes no setting but through [`change`], and never takes
//! "unknown" for "fine".
#![deny(unsafe_code)]

pub mod change;
pub mod check;
pub mod collect;
pub mod cpus;
pub mod datum;
pub mod export;
pub mod fleet;
pub mod guest;
pub mod page;
pub mod persist;
pub mod plan;
pub mod rates;
pub mod recording;
pub mod rules;
pub mod sample;
pub mod snapshot;
pub mod tap;
pub mod technique;
pub mod waiver;

mod netlink;
