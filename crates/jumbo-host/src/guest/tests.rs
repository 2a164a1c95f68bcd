//! Outputs as guests print them.

use super::*;

fn sides(guest: &Guest) -> Vec<(&str, Side)> {
    guest
        .lines
        .iter()
        .map(|line| (line.reason.as_str(), line.side))
        .collect()
}

#[test]
fn windows_names_its_reason_and_the_side_follows() {
    let adapter = |reason: &str| {
        format!(
            r#"{{"Name":"Ethernet","IPv4Enabled":true,"IPv6Enabled":true,"IPv4OperationalState":false,"IPv6OperationalState":true,"IPv4FailureReason":"{reason}","IPv6FailureReason":"NoFailure"}}"#
        )
    };
    for (reason, side, words) in [
        ("WFPCompatibility", Side::Guest, "filter driver"),
        ("Capability", Side::Host, "TAP001"),
        ("NicPropertyDisabled", Side::Guest, "Enable-NetAdapterRsc"),
        ("NDISCompatibility", Side::Guest, "NetKVM"),
        ("ForwardingEnabled", Side::Guest, "Forwarding Disabled"),
        (
            "NetOffloadGlobalDisabled",
            Side::Guest,
            "Set-NetOffloadGlobalSetting",
        ),
        ("SomethingNew", Side::Unknown, "name the reason"),
    ] {
        let guest = read(adapter(reason).as_bytes()).expect("read");
        assert_eq!(sides(&guest), [(reason, side), ("NoFailure", Side::None)]);
        assert!(guest.lines[0].remedy.contains(words), "{reason}");
        assert!(guest.ill() && guest.lines[0].adapter.as_deref() == Some("Ethernet"));
    }
}

#[test]
fn numbers_are_told_by_the_other_properties() {
    let text = r#"[{"Name":"a","IPv4Enabled":true,"IPv4Supported":false,"IPv4OperationalState":false,"IPv4FailureReason":6},
        {"Name":"b","IPv4Enabled":false,"IPv4OperationalState":false,"IPv4FailureReason":1},
        {"Name":"c","IPv4Enabled":true,"IPv4OperationalState":false,"IPv4FailureReason":2}]"#;
    let guest = read(text.as_bytes()).expect("read");
    assert_eq!(
        sides(&guest),
        [
            ("Capability", Side::Host),
            ("NicPropertyDisabled", Side::Guest),
            ("Unknown (2)", Side::Unknown)
        ]
    );
}

#[test]
fn powershells_utf_16_is_read() {
    let text = "\u{feff}{\"IPv4OperationalState\":true}";
    let bytes: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert!(!read(&bytes).expect("read").ill());
}

#[test]
fn linux_tells_what_the_host_does_not_offer_from_what_is_turned_off() {
    let text = "Features for eth0:\nrx-checksumming: off [fixed]\ntx-checksumming: on\n\ttx-checksum-ipv4: off [fixed]\n\
        tcp-segmentation-offload: off\ngeneric-receive-offload: on\nlarge-receive-offload: on\nrx-gro-hw: off [fixed]\n";
    let guest = read(text.as_bytes()).expect("read");
    let lines: Vec<_> = guest
        .lines
        .iter()
        .map(|line| (line.what.as_str(), line.side))
        .collect();
    assert_eq!(
        lines,
        [
            ("rx-checksumming", Side::Host),
            ("tx-checksumming", Side::None),
            ("tcp-segmentation-offload", Side::Guest),
            ("generic-receive-offload", Side::None),
            ("large-receive-offload", Side::Guest),
        ]
    );
    assert_eq!(guest.lines[0].adapter.as_deref(), Some("eth0"));
    let held = read(b"tcp-segmentation-offload: off [requested on]\ntx-checksumming: off\n")
        .expect("read");
    assert!(
        held.lines
            .iter()
            .any(|line| line.remedy.contains("held off by tx-checksumming"))
    );
}

#[test]
fn anything_else_is_refused() {
    for bad in [
        &b""[..],
        b"{",
        b"[]",
        b"{\"Name\":\"x\"}",
        b"hello",
        b"\xff\xfe\x00",
        b"MemTotal: 4 kB",
    ] {
        assert!(read(bad).is_err(), "{bad:?}");
    }
}
