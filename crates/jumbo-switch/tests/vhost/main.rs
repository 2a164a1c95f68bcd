//! The whole switch with guests on vhost-user ports: real sockets, real shared memory, and drivers of our own in this
//! process instead of virtual machines. Needs no privileges.

#[path = "../support/mod.rs"]
mod support;

mod hostile;
mod life;
mod offload;
mod rig;
mod rings;
mod spin;
mod soak;
mod ufo;
