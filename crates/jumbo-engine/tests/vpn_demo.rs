//! The VPN example's tunnel between two namespaces, with the kernel's TCP through it.

#![deny(unsafe_code)]

#[path = "../examples/vpn_tun/demo.rs"]
mod demo;
#[path = "../examples/vpn_tun/sys.rs"]
mod sys;
#[path = "../examples/vpn_tun/tunnel.rs"]
mod tunnel;

use std::process::ExitCode;
use std::time::Duration;

use jumbo_lab::ns::Needs;
use jumbo_lab::{LabTest, TestError, test_main};

fn main() -> ExitCode {
    let limit = Duration::from_secs(180);
    let tests = vec![
        LabTest::new(
            "the_vpn_carries_tcp_in_every_mode",
            the_vpn_carries_tcp_in_every_mode,
        )
        .within(limit),
    ];
    test_main(Needs::Taps, tests)
}

fn the_vpn_carries_tcp_in_every_mode() -> Result<(), TestError> {
    let rows = demo::run(Duration::from_millis(200));
    let rows = rows.map_err(|e| TestError::Failed(e.to_string()))?;
    let modes = demo::MODES.map(|(_, mode)| mode);
    assert_eq!(rows.len(), modes.len());
    for (row, mode) in rows.iter().zip(modes) {
        let [sender, receiver] = row.stats;
        assert!(row.intact && row.gbit_per_s > 0.0, "{}", row.name);
        assert_eq!(sender.dropped + receiver.dropped, 0, "{}", row.name);
        assert_eq!(
            sender.datagrams_sent > 2 * sender.reads,
            mode.segment,
            "{}",
            row.name
        );
        let fewer = receiver.datagrams_received > 2 * receiver.writes;
        assert_eq!(
            fewer,
            mode.coalesce && !mode.refuse,
            "{}: {receiver:?}",
            row.name
        );
        assert_eq!(receiver.refused > 0, mode.refuse, "{}", row.name);
    }
    Ok(())
}
