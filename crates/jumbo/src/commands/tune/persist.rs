//! `jumbo tune persist`: files for the tool that sets up the network at boot.

use jumbo_host::change::{Stage, Step, Store};
use jumbo_host::persist::{Backend, files};

use super::{here, last, read};
use crate::args::{BackendName, PersistArgs};
use crate::error::{CliError, Outcome};
use crate::output;

/// Prints; installing is the operator's.
pub(super) fn run(
    args: &PersistArgs,
    store: impl Fn() -> Result<Store, CliError>,
) -> Result<Outcome, CliError> {
    let steps = steps(args, store)?;
    let backend = match args.backend {
        BackendName::SystemdLink => Backend::SystemdLink,
        BackendName::Networkmanager => Backend::NetworkManager,
        BackendName::Nmstate => Backend::Nmstate,
        BackendName::Udev => Backend::Udev,
        BackendName::Tuned => Backend::Tuned,
    };
    let text: Vec<String> = files(&steps, backend)
        .iter()
        .map(|file| format!("# {}\n{}", file.path, file.text))
        .collect();
    output::print_text(&text.join("\n"))?;
    Ok(Outcome::Fine)
}

fn steps(
    args: &PersistArgs,
    store: impl Fn() -> Result<Store, CliError>,
) -> Result<Vec<Step>, CliError> {
    if let Some(path) = &args.plan {
        return Ok(read(path)?.steps);
    }
    match last(&store()?, &here(), |stage| stage == Stage::Applied)? {
        Some((_, record)) => Ok(record.steps),
        None => Err(CliError::failed("nothing is applied here")
            .way_out("name a plan: jumbo tune persist PLAN")),
    }
}
