//! `jumbo remove-port NAME`: a port leaves the running switch.

use crate::args::{Format, RemovePortArgs};
use crate::control::socket::Dirs;
use crate::control::{Request, client};
use crate::error::{CliError, Outcome};
use crate::switch_api::PortStatus;
use crate::{output, render};

/// Asks and shows.
pub(crate) fn run(args: &RemovePortArgs, format: Format) -> Result<Outcome, CliError> {
    let last: PortStatus = client::ask(
        args.client.socket.as_deref(),
        &Dirs::of_this_user(),
        Request::RemovePort {
            name: args.name.clone(),
        },
    )?;
    output::print(format, &last, render::removed_port)?;
    Ok(Outcome::Fine)
}
