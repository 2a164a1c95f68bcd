//! Ports on interfaces of a kernel: AF_PACKET, TUN, AF_XDP.

mod packet;
#[path = "../samples/mod.rs"]
mod samples;
mod support;
mod tun;
mod xdp;

use std::process::ExitCode;

use jumbo_lab::ns::Needs;
use jumbo_lab::{LabTest, test_main};

fn main() -> ExitCode {
    let mut tests: Vec<LabTest> = Vec::new();
    tests.extend(packet::tests());
    tests.extend(tun::tests());
    tests.extend(xdp::tests());
    test_main(Needs::Taps, tests)
}
