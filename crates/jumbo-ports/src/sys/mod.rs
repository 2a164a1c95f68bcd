//! Memory that is not ours alone, and the system calls that take pointers to it.

pub(crate) mod io;
pub(crate) mod netdev;
pub(crate) mod region;
mod sigbus;
