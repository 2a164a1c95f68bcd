//! Ports on interfaces of a kernel: AF_PACKET, TUN.

mod packet;
#[path = "../samples/mod.rs"]
mod samples;
mod support;
mod tun;

use std::process::ExitCode;

use jumbo_lab::ns::Needs;
use jumbo_lab::{LabTest, test_main};

fn main() -> ExitCode {
    let mut tests: Vec<LabTest> = Vec::new();
    tests.extend(packet::tests());
    tests.extend(tun::tests());
    test_main(Needs::Taps, tests)
}
