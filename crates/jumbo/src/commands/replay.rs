//! `jumbo replay`.

use crate::args::{Format, ReplayArgs};
use crate::error::{CliError, Outcome};

/// Runs a capture through the engine.
pub(crate) fn run(_args: ReplayArgs, _format: Format) -> Result<Outcome, CliError> {
    Err(CliError::internal("this build has no replay"))
}
