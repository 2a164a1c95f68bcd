//! Ports on interfaces of a kernel: AF_PACKET.

mod packet;
#[path = "../samples/mod.rs"]
mod samples;
mod support;

use std::process::ExitCode;

use jumbo_lab::ns::Needs;
use jumbo_lab::{LabTest, test_main};

fn main() -> ExitCode {
    let mut tests: Vec<LabTest> = Vec::new();
    tests.extend(packet::tests());
    test_main(Needs::Links, tests)
}
