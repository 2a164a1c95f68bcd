//! The rules against the real kernel: a fault is made, found, undone, and gone.

use std::process::ExitCode;

use jumbo_host::check::{Options, Report, Status, check};
use jumbo_host::collect::{Roots, collect};
use jumbo_host::waiver::Date;
use jumbo_lab::ns::{Needs, NetNs, check_tun};
use jumbo_lab::tap::{Tap, TapOffloads, TapSpec};
use jumbo_lab::{LabTest, TestError, skip, test_main};

type Result = std::result::Result<(), TestError>;

fn main() -> ExitCode {
    test_main(
        Needs::Links,
        vec![LabTest::new(
            "a_tap_is_judged_by_what_its_reader_asked",
            a_tap_is_judged_by_what_its_reader_asked,
        )],
    )
}

/// One reading of a namespace, judged.
fn report(ns: &NetNs) -> std::result::Result<Report, TestError> {
    let snapshot = ns.run_with_sysfs(|| collect(&Roots::default()))??;
    Ok(check(
        &snapshot,
        None,
        &Options::default(),
        Date::of(std::time::SystemTime::now()),
    ))
}

/// Ids of the faults at a device, with the cause.
fn faults(report: &Report, device: &str) -> Vec<(&'static str, Option<String>)> {
    let here = report
        .findings
        .iter()
        .filter(|finding| finding.device.as_deref() == Some(device));
    let faults = here.filter(|finding| finding.status == Status::Finding);
    faults
        .map(|finding| (finding.id, finding.reason.clone()))
        .collect()
}

fn has(report: &Report, device: &str, id: &str) -> bool {
    faults(report, device).iter().any(|(one, _)| *one == id)
}

fn a_tap_is_judged_by_what_its_reader_asked() -> Result {
    check_tun().map_err(skip)?;
    let ns = NetNs::new()?;
    let tap = Tap::create(&ns, &TapSpec::new("t0", TapOffloads::NONE))?;
    ns.links()?.up("t0")?;
    let declined = report(&ns)?;
    assert!(
        faults(&declined, "t0").contains(&("TAP001", Some("GuestDeclined".into()))),
        "{declined:#?}"
    );
    tap.set_offloads(TapOffloads::TSO_USO)?;
    let fine = report(&ns)?;
    assert!(!has(&fine, "t0", "TAP001"), "{:?}", faults(&fine, "t0"));
    Ok(())
}
