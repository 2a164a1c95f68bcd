//! What a machine lacks, and the way out.

use std::env;
use std::path::{Path, PathBuf};

/// A program or file that is not there. Its text is "what (way out)".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no {what} ({install})")]
pub struct Missing {
    /// What is missing.
    pub what: String,
    /// How to get it.
    pub install: String,
}

impl Missing {
    pub(super) fn new(what: impl Into<String>, package: &str) -> Self {
        Self {
            what: what.into(),
            install: format!("scripts/vm-tools, or apt-get install {package}"),
        }
    }
}

/// Finds a program as a shell does, and where Debian puts those for administrators.
pub(super) fn program(name: &str, package: &str) -> Result<PathBuf, Missing> {
    let path = env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path)
        .chain(more)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| Missing::new(name, package))
}

/// The folder of `scripts/vm-tools`: `$XDG_CACHE_HOME/jumbo/vm`, or the same below `~/.cache`.
pub(super) fn cache() -> PathBuf {
    let home = || Some(PathBuf::from(env::var_os("HOME")?).join(".cache"));
    env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(home)
        .unwrap_or_else(|| PathBuf::from("/var/cache"))
        .join("jumbo/vm")
}

/// A file of the cache.
pub(super) fn cached(path: &Path, what: &str) -> Result<(), Missing> {
    if path.exists() {
        return Ok(());
    }
    Err(Missing {
        what: what.into(),
        install: "scripts/vm-tools kernel".into(),
    })
}
