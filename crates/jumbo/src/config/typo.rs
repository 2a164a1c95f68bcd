//! Turns what serde says about a key into what helps the operator.

use crate::error::CliError;

/// Up to this Jaro likeness a key is not offered; the value clap uses for its own suggestions.
const LIKENESS_MIN: f64 = 0.7;

/// Rewrites serde's "unknown field `x`, expected one of `a`, `b`"; other messages stay as they are.
///
/// serde has no other way to tell: its error types keep only the text.
pub(super) fn explain(message: &str) -> CliError {
    let mut quoted = message.split('`').skip(1).step_by(2);
    match quoted.next() {
        Some(key) if message.starts_with("unknown field") => {
            unknown_key(key, &quoted.collect::<Vec<_>>())
        }
        _ => CliError::usage(message),
    }
}

fn unknown_key(key: &str, known: &[&str]) -> CliError {
    let error = CliError::usage(format!("unknown key `{key}`"));
    match nearest(key, known) {
        Some(near) => error.way_out(format!("did you mean `{near}`?")),
        None => error.way_out(format!("the keys are {}", known.join(", "))),
    }
}

fn nearest<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|candidate| (strsim::jaro(key, candidate), *candidate))
        .filter(|(likeness, _)| *likeness > LIKENESS_MIN)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}
