//! `jumbo ports`: each port of the running switch, a line each.

use crate::args::{ClientArgs, Format};
use crate::control::socket::Dirs;
use crate::control::{Ports, Request, client};
use crate::error::{CliError, Outcome};
use crate::{output, render};

/// Asks and shows.
pub(crate) fn run(args: &ClientArgs, format: Format) -> Result<Outcome, CliError> {
    let ports: Ports = client::ask(
        args.socket.as_deref(),
        &Dirs::of_this_user(),
        Request::Ports,
    )?;
    output::print(format, &ports, render::ports)?;
    Ok(Outcome::Fine)
}
