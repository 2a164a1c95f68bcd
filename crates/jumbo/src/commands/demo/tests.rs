//! The figures, the conclusion and the page, with made-up numbers.

use jumbo_lab::ns::Refused;

use super::*;
use crate::error::Code;

#[test]
fn every_refusal_ends_with_3_a_way_out_and_what_needs_none() {
    let path = || "/dev/net/tun".to_owned();
    for (refusal, way_out) in [
        (
            Refused::UserNamespacesOff {
                sysctl: "kernel.unprivileged_userns_clone",
                value: 0,
                way_out: 1,
            },
            "sudo sysctl -w kernel.unprivileged_userns_clone=1",
        ),
        (Refused::NoUserNamespaces, "run as root"),
        (
            Refused::AppArmor,
            "kernel.apparmor_restrict_unprivileged_userns=0",
        ),
        (
            Refused::Container {
                what: "making a user namespace",
            },
            "--privileged",
        ),
        (Refused::TunMissing { path: path() }, "modprobe tun"),
        (
            Refused::TunForbidden {
                path: path(),
                mode: 0o600,
            },
            "mode is 0600",
        ),
        (Refused::NoTun, "modprobe tun"),
    ] {
        let error = refused(refusal);
        let text = error.to_string();
        assert_eq!(error.code, Code::Machine, "{text}");
        assert!(text.contains(way_out), "{text}");
        assert!(
            text.ends_with("; `jumbo replay --sample` needs no rights at all"),
            "{text}"
        );
        assert_eq!(text.lines().count(), 1, "{text}");
    }
    assert_eq!(refused(Refused::Threads).code, Code::Internal);
}

#[test]
fn an_mtu_too_small_for_ipv6_is_the_operator_s() {
    let mtu = |text: &str| text.parse().expect("an MTU");
    let error = check_mtu(mtu("1279")).expect_err("refused");
    assert_eq!(
        (error.code, error.to_string().as_str()),
        (
            Code::Usage,
            "--mtu 1279: too small for IPv6; give 1280 bytes or more"
        )
    );
    assert_eq!(check_mtu(mtu("1280")), Ok(()));
}

#[test]
fn wrong_bytes_or_books_are_findings() {
    let good = report::of(report::samples::measured());
    assert_eq!(outcome(&good), Outcome::Fine);
    let mut bytes = good.clone();
    bytes.rows[2].intact = false;
    assert_eq!(outcome(&bytes), Outcome::Findings);
    let books = report::Demo {
        books_balanced: false,
        ..good
    };
    assert_eq!(outcome(&books), Outcome::Findings);
}
