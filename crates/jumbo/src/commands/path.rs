//! `jumbo path A B`: the offload decisions between two ports of the running switch.

use crate::args::{Format, PathArgs};
use crate::control::socket::Dirs;
use crate::control::{Request, client};
use crate::error::{CliError, Outcome};
use crate::switch_api::PathReport;
use crate::{output, render};

/// Asks and shows.
pub(crate) fn run(args: &PathArgs, format: Format) -> Result<Outcome, CliError> {
    let report: PathReport = client::ask(
        args.client.socket.as_deref(),
        &Dirs::of_this_user(),
        Request::Path {
            from: args.from.clone(),
            to: args.to.clone(),
        },
    )?;
    output::print(format, &report, render::path)?;
    Ok(Outcome::Fine)
}
