//! `jumbo status`: the running switch as a whole.

use crate::args::{ClientArgs, Format};
use crate::control::socket::Dirs;
use crate::control::{Request, Status, client};
use crate::error::{CliError, Outcome};
use crate::{output, render};

/// Asks and shows.
pub(crate) fn run(args: &ClientArgs, format: Format) -> Result<Outcome, CliError> {
    let status: Status = client::ask(
        args.socket.as_deref(),
        &Dirs::of_this_user(),
        Request::Status,
    )?;
    output::print(format, &status, render::status)?;
    Ok(Outcome::Fine)
}
