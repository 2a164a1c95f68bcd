//! `jumbo add-port SPEC`: a port joins the running switch.

use crate::args::{AddPortArgs, Format};
use crate::control::socket::Dirs;
use crate::control::{Request, client};
use crate::error::{CliError, Outcome};
use crate::switch_api::PortStatus;
use crate::{config, output, render};

/// Asks and shows.
pub(crate) fn run(args: &AddPortArgs, format: Format) -> Result<Outcome, CliError> {
    let spec = config::absolute(&args.spec)?;
    // What cannot be meant is said here, whether a switch runs or not.
    config::parse_port(&spec).map_err(|error| error.at(&args.spec))?;
    let port: PortStatus = client::ask(
        args.client.socket.as_deref(),
        &Dirs::of_this_user(),
        Request::AddPort { spec },
    )?;
    output::print(format, &port, render::added_port)?;
    Ok(Outcome::Fine)
}
