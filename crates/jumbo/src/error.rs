//! How a command ends: one error type, one table of exit codes.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | fine |
//! | 1 | findings, or a failed outcome |
//! | 2 | what the operator typed or configured |
//! | 3 | what the machine refuses: permission, kernel, device |
//! | 4 | internal: a fault of Jumbo |
//! | 5 | a change was rolled back |
//! | 6 | a change was not confirmed in time |

use std::fmt;

/// How a command ended that did what it was asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Exit code 0.
    Fine,
    /// Exit code 1: it ran, and what it found is not fine.
    Findings,
    /// An exit code another program prescribes for its plugins.
    Plugin(u8),
}

/// Why a command did not do what it was asked to do. The number is the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Code {
    /// The outcome is a failure that is nobody's mistake: no switch is running, for instance.
    Failed = 1,
    /// What the operator typed or configured.
    Usage = 2,
    /// What the machine refuses: permission, kernel, device.
    Machine = 3,
    /// A fault of Jumbo.
    Internal = 4,
    /// A change did not hold and was taken back.
    RolledBack = 5,
    /// A change was not confirmed in time and was taken back.
    Unconfirmed = 6,
}

impl Code {
    /// The exit code.
    pub(crate) fn number(self) -> u8 {
        self as u8
    }

    /// The code a running switch sent over the control socket; a number nobody knows is a fault of ours.
    pub(crate) fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Failed,
            2 => Self::Usage,
            3 => Self::Machine,
            _ => Self::Internal,
        }
    }
}

/// The one error a command returns: `place: what; way_out`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CliError {
    /// Decides the exit code.
    pub(crate) code: Code,
    /// What is wrong: operation and object, no full stop.
    pub(crate) what: String,
    /// Where: `FILE:LINE`, `--port SPEC`, a path.
    pub(crate) place: Option<String>,
    /// What the operator can do about it.
    pub(crate) way_out: Option<String>,
}

impl CliError {
    fn new(code: Code, what: impl Into<String>) -> Self {
        Self {
            code,
            what: what.into(),
            place: None,
            way_out: None,
        }
    }

    /// Exit code 1.
    pub(crate) fn failed(what: impl Into<String>) -> Self {
        Self::new(Code::Failed, what)
    }

    /// Exit code 2.
    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::new(Code::Usage, what)
    }

    /// Exit code 3.
    pub(crate) fn machine(what: impl Into<String>) -> Self {
        Self::new(Code::Machine, what)
    }

    /// Exit code 4.
    pub(crate) fn internal(what: impl Into<String>) -> Self {
        Self::new(Code::Internal, what)
    }

    /// Exit code 5.
    pub(crate) fn rolled_back(what: impl Into<String>) -> Self {
        Self::new(Code::RolledBack, what)
    }

    /// Exit code 6.
    pub(crate) fn unconfirmed(what: impl Into<String>) -> Self {
        Self::new(Code::Unconfirmed, what)
    }

    /// What a running switch answered.
    pub(crate) fn from_peer(code: u8, what: impl Into<String>) -> Self {
        Self::new(Code::from_number(code), what)
    }

    /// Says where it happened; the innermost place stays.
    pub(crate) fn at(mut self, place: impl fmt::Display) -> Self {
        self.place.get_or_insert_with(|| place.to_string());
        self
    }

    /// Says what the operator can do about it.
    pub(crate) fn way_out(mut self, way_out: impl Into<String>) -> Self {
        self.way_out = Some(way_out.into());
        self
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        f.write_str(&self.what)?;
        match &self.way_out {
            Some(way_out) => write!(f, "; {way_out}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for CliError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_reads_place_what_way_out() {
        let error = CliError::usage("mtu 3 is out of range")
            .at("lab.toml:4")
            .at("outer")
            .way_out("give 68 to 65521");
        assert_eq!(
            error.to_string(),
            "lab.toml:4: mtu 3 is out of range; give 68 to 65521"
        );
    }

    #[test]
    fn codes_survive_the_wire() {
        for code in [Code::Failed, Code::Usage, Code::Machine, Code::Internal] {
            assert_eq!(Code::from_number(code.number()), code);
        }
        assert_eq!(Code::from_number(250), Code::Internal);
    }
}
