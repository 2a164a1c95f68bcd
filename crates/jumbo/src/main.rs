//! `jumbo`: a software NIC.
//!
//! The binary parses what the operator typed, runs one command and ends with one of the exit codes of [`error`]. One
//! file per command in [`commands`]; the switch itself lives behind [`switch_api`].
#![deny(unsafe_code)]

mod args;
mod commands;
mod config;
mod control;
mod error;
mod output;
mod render;
mod running;
mod switch_api;
mod wire;

use std::process::ExitCode;

fn main() -> ExitCode {
    output::exit_code(commands::dispatch(args::parse()))
}
