//! Ports on interfaces of a kernel: AF_PACKET, TUN, AF_XDP.

/// Marks the one test of a port that shows a reason; `every_loss_has_one_canonical_test` counts them.
macro_rules! canonical {
    ($reason:expr) => {
        $reason
    };
}

mod packet;
#[path = "../samples/mod.rs"]
mod samples;
mod support;
mod tun;
mod xdp;

use std::process::ExitCode;

use jumbo_engine::reason::Reason as _;
use jumbo_lab::ns::Needs;
use jumbo_lab::{LabTest, test_main};
use jumbo_ports::queue::RxLoss;

fn main() -> ExitCode {
    let mut tests = vec![LabTest::new(
        "every_loss_has_one_canonical_test",
        every_loss_has_one_canonical_test,
    )];
    tests.extend(packet::tests());
    tests.extend(tun::tests());
    tests.extend(xdp::tests());
    test_main(Needs::Taps, tests)
}

/// By AF_PACKET and by AF_XDP, the two that can lose a packet before the switch sees it.
fn every_loss_has_one_canonical_test() -> support::Outcome {
    for source in [include_str!("packet.rs"), include_str!("xdp.rs")] {
        for reason in RxLoss::ALL {
            let mark = format!("canonical!(RxLoss::{reason:?})");
            assert_eq!(source.matches(&mark).count(), 1, "{mark}");
        }
    }
    Ok(())
}
