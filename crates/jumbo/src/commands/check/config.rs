//! `/etc/jumbo/check.toml`: what the host is for, and what its operator lives with.

use std::io;
use std::path::Path;

use jumbo_host::rules::{self, Profile};
use jumbo_host::waiver::Waiver;
use serde::Deserialize;

use crate::commands::explain;
use crate::error::CliError;

const DEFAULT: &str = "/etc/jumbo/check.toml";

/// The file.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Config {
    pub(super) profile: Option<Profile>,
    #[serde(default)]
    pub(super) waive: Vec<Waiver>,
}

/// Reads the file that was named, or the usual one if there is one.
pub(super) fn load(named: Option<&Path>) -> Result<Config, CliError> {
    let path = named.unwrap_or(Path::new(DEFAULT));
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&text).map_err(|error| error.at(path.display())),
        Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => {
            Ok(Config::default())
        }
        Err(error) => Err(
            CliError::usage(format!("cannot read the configuration: {error}")).at(path.display()),
        ),
    }
}

fn parse(text: &str) -> Result<Config, CliError> {
    let config: Config = toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(1, |span| {
            text[..span.start.min(text.len())].lines().count().max(1)
        });
        CliError::usage(format!("line {line}: {}", error.message()))
    })?;
    match config
        .waive
        .iter()
        .find(|waiver| rules::by_id(&waiver.id).is_none())
    {
        Some(waiver) => Err(
            CliError::usage(format!("waive: there is no rule {}", waiver.id))
                .way_out(explain::nearest(&waiver.id)),
        ),
        None => Ok(config),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_file_is_read() {
        let text = "profile = \"vm-host\"\n[[waive]]\nid = \"TAP001\"\ndevice = \"t0\"\nreason = \"old guest\"\nuntil = \"2027-01-31\"\n";
        let config = parse(text).expect("fine");
        assert_eq!(
            (config.profile, config.waive.len()),
            (Some(Profile::VmHost), 1)
        );
    }

    #[test]
    fn mistakes_are_named() {
        for (text, words) in [
            ("profile = \"fast\"", "fast"),
            ("\n\n[[waive]]\nid = \"TAP001\"", "reason"),
            ("[[waive]]\nid = \"TAP999\"\nreason = \"x\"", "TAP999"),
            (
                "[[waive]]\nid = \"TAP001\"\nreason = \"x\"\nuntil = \"soon\"",
                "soon",
            ),
        ] {
            let error = parse(text).expect_err("refused").to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
