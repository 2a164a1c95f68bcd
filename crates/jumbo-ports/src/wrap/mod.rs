//! What can be put around every kind of port.
//!
//! * [`fault`]: packets that leave by it are lost, held up, swapped or damaged on purpose.
//! * [`capture`]: what passes it is written down; not a queue of its own but a probe
//!   that the switch calls, so that a port that is not watched pays nothing.

pub mod capture;
pub mod fault;
