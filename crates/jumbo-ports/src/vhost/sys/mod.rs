//! Virtqueues, the device's side: [`vring`] is a ring of either kind, [`split`] and [`packed`]
//! are the two, [`walk`] follows chains, [`buf`] copies, [`dirty`] logs.
//!
//! # Contract
//!
//! The guest owns the memory and may write to it at any moment, whatever the
//! specification says. Hence:
//!
//! * All access is by raw pointers into mappings that the [`vring::Vring`] keeps alive. Each
//!   was checked, with its length and alignment, when it was made.
//! * Everything is read once, into private copies, before it is believed.
//! * Every index from the guest is checked or masked; every loop is bounded by the
//!   ring's size, which was checked at the start, or by [`vring::CHAIN_MAX`].
//! * The guest's indices are read with acquire and ours stored with release order,
//!   so that what they announce is seen whole; a full fence stands between a store
//!   the guest looks at and a load that depends on it having been seen.

pub(super) mod buf;
pub(super) mod dirty;
mod packed;
mod split;
pub(super) mod vring;
mod walk;
