//! The `ip` command, for devices that the lab does not make.

use std::process::Command;

use jumbo_lab::ns::NetNs;
use jumbo_lab::{TestError, skip};

/// Runs `ip` in a namespace.
pub(crate) fn ip(ns: &NetNs, arguments: &str) -> Result<(), TestError> {
    let run = || {
        Command::new("ip")
            .args(arguments.split_whitespace())
            .output()
    };
    let output = ns
        .run(run)?
        .map_err(|_| skip("no ip command (apt install iproute2)"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(match said.contains("Unknown device type") {
        true => skip(format!("this kernel has no such device: {arguments}")),
        false => TestError::Failed(format!("ip {arguments}: {said}")),
    })
}
