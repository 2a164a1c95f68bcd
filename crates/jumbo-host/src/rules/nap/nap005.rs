//! # NAP005 busy-polling-for-all
//!
//! ## What it checks
//! `net.core.busy_read` or `net.core.busy_poll` is set: every socket spins on its queue before it
//! sleeps.
//!
//! ## Why it matters
//! Each waiting program burns a processor, which on a host of virtual machines is taken from the
//! guests.
//!
//! ## How to see it by hand
//! `sysctl net.core.busy_read net.core.busy_poll`
//!
//! ## Remedy
//! `sysctl net.core.busy_read=0 net.core.busy_poll=0`, and SO_BUSY_POLL or io_uring in the programs
//! that need it.
//!
//! ## When to ignore it
//! The host does nothing but latency-bound work.
//!
//! ## Since kernel
//! 3.11.
//!
//! ## Sources
//! Documentation/admin-guide/sysctl/net.rst, Linux 6.18.

use super::super::prelude::*;

pub(super) const RULE: Rule = Rule {
    id: "NAP005",
    name: "busy-polling-for-all",
    severity: Severity::Warning,
    layer: Layer::Host,
    class: Class::Safe,
    sampled: false,
    scope: Scope::Host(check),
    source: "",
};

fn check(view: &View<'_>) -> Outcome {
    let (read, poll) = (
        view.now.sysctl("net.core.busy_read")?,
        view.now.sysctl("net.core.busy_poll")?,
    );
    if view.profile == Profile::Latency {
        return NOT_APPLICABLE;
    }
    fault_if(read + poll > 0, || {
        Fault::new("every socket spins before it sleeps")
            .saw("/proc/sys/net/core/busy_read", read)
            .saw("/proc/sys/net/core/busy_poll", poll)
            .set(super::sysctl("net.core.busy_read"), 0u32)
            .set(super::sysctl("net.core.busy_poll"), 0u32)
    })
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        scene.sysctl("net.core.busy_read", "50");
    },
    with: &[],
    silent: |scene| {
        scene.sysctl("net.core.busy_read", "50");
        scene.profile = Profile::Latency;
    },
};
