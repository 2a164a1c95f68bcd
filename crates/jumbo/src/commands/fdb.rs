//! `jumbo fdb`: the forwarding table of the running switch.

use crate::args::{ClientArgs, Format};
use crate::control::socket::Dirs;
use crate::control::{Request, client};
use crate::error::{CliError, Outcome};
use crate::switch_api::Fdb;
use crate::{output, render};

/// Asks and shows.
pub(crate) fn run(args: &ClientArgs, format: Format) -> Result<Outcome, CliError> {
    let fdb: Fdb = client::ask(args.socket.as_deref(), &Dirs::of_this_user(), Request::Fdb)?;
    output::print(format, &fdb, render::fdb)?;
    Ok(Outcome::Fine)
}
