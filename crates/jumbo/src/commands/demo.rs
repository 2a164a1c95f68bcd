//! `jumbo demo`.

use crate::args::{DemoArgs, Format};
use crate::error::{CliError, Outcome};

/// Proves it on this machine.
pub(crate) fn run(args: DemoArgs, _format: Format) -> Result<Outcome, CliError> {
    let DemoArgs { seconds, mtu } = args;
    Err(CliError::internal(format!(
        "this build has no demo ({seconds} s, mtu {mtu})"
    )))
}
