//! The one error of this crate: what was attempted, and what came of it.

use std::io;

use crate::ns::Refused;
use crate::vm::Missing;

/// What went wrong, as one sentence.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused something.
    #[error("{what}: {source}")]
    System {
        /// What was attempted, for example "set mtu of a0".
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The machine does not give us a private network.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The machine lacks a program or file.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// Traffic did not arrive, or not in time.
    #[error("{0}")]
    Stalled(String),
}

/// Result with this crate's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The kernel's answer, when there was one.
    pub fn io(&self) -> Option<&io::Error> {
        match self {
            Self::System { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// Adds what was attempted to an I/O error; the text is made only on failure.
pub(crate) trait Doing<T> {
    fn doing<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: Into<io::Error>> Doing<T> for std::result::Result<T, E> {
    fn doing<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|e| Error::System {
            what: what().into(),
            source: e.into(),
        })
    }
}
