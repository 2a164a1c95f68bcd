//! One file per command.

mod add_port;
mod check;
mod completions;
mod demo;
mod explain;
mod fdb;
mod man;
mod path;
mod ports;
mod record;
mod remove_port;
mod replay;
mod run;
mod status;
mod tune;
mod watch;

use crate::args::{Cli, Command};
use crate::error::{CliError, Outcome};

/// Runs the command that was typed.
pub(crate) fn dispatch(cli: Cli) -> Result<Outcome, CliError> {
    let format = cli.output.format();
    match cli.command {
        Command::Demo(args) => demo::run(args, format),
        Command::Run(args) => run::run(&args, format),
        Command::Status(args) => status::run(&args, format),
        Command::Ports(args) => ports::run(&args, format),
        Command::Path(args) => path::run(&args, format),
        Command::Fdb(args) => fdb::run(&args, format),
        Command::AddPort(args) => add_port::run(&args, format),
        Command::RemovePort(args) => remove_port::run(&args, format),
        Command::Replay(args) => replay::run(args, format),
        Command::Check(args) => check::run(&args, format),
        Command::Explain(args) => explain::run(&args, format),
        Command::Record(args) => record::run(&args),
        Command::Tune(args) => tune::run(&args, format),
        Command::Watch(args) => watch::run(&args, format),
        Command::Man(args) => man::run(&args),
        Command::Completions(args) => completions::run(&args),
    }
}
