//! `jumbo completions`: generated from the one definition of the arguments.

use clap::CommandFactory;

use crate::args::{Cli, CompletionsArgs};
use crate::error::{CliError, Outcome};
use crate::output;

/// Prints the completions of one shell.
pub(crate) fn run(args: &CompletionsArgs) -> Result<Outcome, CliError> {
    output::print_text(&generate(args.shell))?;
    Ok(Outcome::Fine)
}

fn generate(shell: clap_complete::Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "jumbo", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn every_shell_knows_every_flag() {
        for shell in clap_complete::Shell::value_variants() {
            let script = generate(*shell);
            for flag in crate::commands::man::long_flags(&Cli::command()) {
                // fish writes `-l flag`, the others `--flag`.
                let known =
                    script.contains(&format!("--{flag}")) || script.contains(&format!("-l {flag}"));
                assert!(known, "{shell}: --{flag}");
            }
        }
    }
}
