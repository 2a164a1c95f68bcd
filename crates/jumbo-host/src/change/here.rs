//! Which host, which boot, which network namespace: what a plan and its undo belong to.

use crate::collect::{self, Roots};

/// Where settings are changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Here {
    /// Host name; empty when it cannot be read.
    pub host: String,
    /// The boot's random name: settings do not outlive it.
    pub boot_id: String,
    /// The calling thread's network namespace, as the kernel names it (`net:[4026531840]`).
    pub namespace: String,
}

impl Here {
    /// Of the calling thread.
    pub fn read(roots: &Roots) -> Self {
        let (host, boot_id, namespace) = collect::whereabouts(roots);
        Self {
            host,
            boot_id,
            namespace,
        }
    }
}
