//! `jumbo man`: generated from the one definition of the arguments.

use clap::CommandFactory;

use crate::args::{Cli, ManArgs};
use crate::error::{CliError, Outcome};
use crate::output;

/// Prints the main page, or writes all pages into a directory.
pub(crate) fn run(args: &ManArgs) -> Result<Outcome, CliError> {
    let command = Cli::command();
    match &args.dir {
        None => output::print_text(&page(command)?)?,
        Some(dir) => clap_mangen::generate_to(command, dir).map_err(|error| {
            CliError::machine(format!("cannot write the man pages: {error}")).at(dir.display())
        })?,
    }
    Ok(Outcome::Fine)
}

fn page(command: clap::Command) -> Result<String, CliError> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command)
        .render(&mut page)
        .map_err(|error| CliError::internal(format!("cannot make the man page: {error}")))?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}

/// Every long flag of the command and those below it, without `--`.
#[cfg(test)]
pub(super) fn long_flags(command: &clap::Command) -> Vec<String> {
    let own = command
        .get_arguments()
        .filter_map(|argument| argument.get_long().map(str::to_owned));
    own.chain(command.get_subcommands().flat_map(long_flags))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pages_mention_every_flag_and_command() {
        let dir = tempfile::tempdir().expect("a directory");
        run(&ManArgs {
            dir: Some(dir.path().to_owned()),
        })
        .expect("written");
        let mut command = Cli::command();
        command.build();
        let read = |name: &str| {
            std::fs::read_to_string(dir.path().join(name))
                .expect("a page")
                .replace("\\-", "-")
        };
        mentions(&command, "jumbo", &read);
    }

    /// A page per command, which names its flags and the commands below it.
    fn mentions(command: &clap::Command, name: &str, read: &impl Fn(&str) -> String) {
        let page = read(&format!("{name}.1"));
        for argument in command.get_arguments() {
            let flag = argument.get_long().map(|flag| format!("--{flag}"));
            assert!(
                flag.as_ref().is_none_or(|flag| page.contains(flag)),
                "{name}: {flag:?}"
            );
        }
        let subs = command.get_subcommands();
        for sub in subs.filter(|sub| sub.get_name() != "help") {
            let below = format!("{name}-{}", sub.get_name());
            assert!(page.contains(&below), "{below}");
            mentions(sub, &below, read);
        }
    }

    #[test]
    fn a_missing_directory_is_the_machine_s_refusal() {
        let error = run(&ManArgs {
            dir: Some("/nonexistent/jumbo".into()),
        })
        .expect_err("refused");
        assert_eq!(error.code.number(), 3);
    }
}
