//! Engine and ports made into a switch, testable without a process.
//!
//! * [`path`]: a packet's way, a line per stage. Start here.
//! * [`forward`]: which port it leaves by; [`fdb`]: the table that knows.
//! * [`topology`]: the ports as one worker sees them.
//! * [`patience`]: how long packets wait for a receiver that is full.
//! * `spin`: how long a worker looks for packets before it sleeps.
//! * [`worker`]: wakes up, runs the path, sleeps; `alarm` wakes it for what rests.
//! * [`explain`]: what the path does between two ports, and why, without a packet.
//! * [`counters`]: what happened, and the books that must balance.
//! * [`switch`]: the workers together: start, ask, stop.

#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod path;
pub mod forward;
pub mod fdb;
pub mod topology;
pub mod patience;
mod spin;
mod alarm;
pub mod worker;
pub mod explain;
pub mod counters;
pub mod switch;
mod sys;
#[doc(hidden)]
pub mod fuzz_bodies;
