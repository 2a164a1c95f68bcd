//! `jumbo capture`: what passes a port of the running switch, as pcapng.

use std::fs::File;
use std::io::{self, IsTerminal, Write};

use crate::args::CaptureArgs;
use crate::control::socket::Dirs;
use crate::control::{Request, client};
use crate::error::{CliError, Outcome};

/// Copies until the switch or the reader ends.
pub(crate) fn run(args: &CaptureArgs) -> Result<Outcome, CliError> {
    let mut to = sink(args)?;
    let request = Request::Capture {
        port: args.port.clone(),
    };
    let mut from = client::stream(args.socket.as_deref(), &Dirs::of_this_user(), request)?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let len = match io::Read::read(&mut from, &mut buffer) {
            Ok(0) => return Ok(Outcome::Fine),
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(CliError::failed(format!("the capture broke off: {error}"))),
        };
        match to.write_all(&buffer[..len]).and_then(|()| to.flush()) {
            Ok(()) => {}
            // Whoever read it has had enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(Outcome::Fine),
            Err(error) => {
                return Err(
                    CliError::machine(format!("cannot write the capture: {error}"))
                        .at(args.write.display()),
                );
            }
        }
    }
}

fn sink(args: &CaptureArgs) -> Result<Box<dyn Write>, CliError> {
    if args.write.as_os_str() != "-" {
        let file = File::create(&args.write).map_err(|error| {
            CliError::machine(format!("cannot write the capture: {error}")).at(args.write.display())
        })?;
        return Ok(Box::new(file));
    }
    if io::stdout().is_terminal() {
        return Err(CliError::usage("a capture is not for a terminal").way_out(
            "write it to a file with -w FILE, or pipe it: `jumbo capture PORT | tcpdump -r -`",
        ));
    }
    Ok(Box::new(io::stdout().lock()))
}
