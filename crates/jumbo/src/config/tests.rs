//! Tables of good and bad configurations, with the exact text of the main errors.

use std::path::Path;

use super::*;
use crate::switch_api::{Offload, PortKind};
use jumbo_switch::topology::TunnelMode;

fn from_specs(specs: &[&str]) -> Result<RunConfig, CliError> {
    load(&RunArgs {
        ports: specs.iter().map(|spec| (*spec).to_owned()).collect(),
        ..RunArgs::default()
    })
}

fn from_text(text: &str) -> Result<RunConfig, CliError> {
    let (file, ports) = parse_file(Path::new("lab.toml"), text)?;
    Ok(RunConfig {
        ports: check_together(ports)?,
        workers: file.workers,
        socket: file.socket,
        fdb_age: file.fdb_age_s.unwrap_or_default(),
        spin: file.spin,
        tunnels: file.tunnels.unwrap_or_default(),
    })
}

fn offload(csum: bool, tso: bool, uso: bool) -> Offload {
    Offload { csum, tso, uso }
}

#[test]
fn a_bare_port_gets_the_defaults() {
    let config = from_specs(&["tap:vm0"]).expect("valid");
    let port = &config.ports[0];
    assert_eq!(
        (port.name.as_str(), port.kind.device(), port.mtu),
        ("vm0", "vm0", None)
    );
    assert_eq!(
        (port.coalesce, port.offload),
        (values::Coalesce::default(), offload(true, true, true))
    );
    assert_eq!(
        (config.workers, config.socket, config.fdb_age.seconds()),
        (None, None, 300)
    );
    assert_eq!(config.tunnels.0, TunnelMode::Whole);
}

#[test]
fn spin_is_a_time_with_a_bound_or_off() {
    let us = |text: &str| {
        text.parse()
            .map(|spin: values::Spin| spin.get().as_micros())
    };
    for (text, time) in [("off", 0), ("0us", 0), ("50us", 50), ("1000us", 1000)] {
        assert_eq!(us(text), Ok(time));
    }
    for bad in ["50", "1001us", "1ms", "-1us", "us", "on", ""] {
        assert!(
            us(bad)
                .expect_err(bad)
                .contains("give off or 0us to 1000us")
        );
    }
    let file = from_text("spin = \"20us\"\n[[port]]\ntap = \"a\"\n").expect("valid");
    assert_eq!(file.spin, Some("20us".parse().expect("valid")));
    assert_eq!(from_specs(&["tap:a"]).expect("valid").spin, None);
    let usual = |cpus| values::Spin::usual(cpus).get().as_micros();
    assert_eq!([1, 2, 7, 8, 64].map(usual), [0, 0, 0, 50, 50]);
}

#[test]
fn tunnels_are_of_the_switch_and_what_is_typed_wins() {
    let text = |mode: &str| format!("tunnels = \"{mode}\"\n[[port]]\ntap = \"a\"\n");
    for mode in TunnelMode::ALL {
        let config = from_text(&text(mode.name())).expect("valid");
        assert_eq!(config.tunnels.0, mode);
    }
    let typed = RunArgs {
        ports: vec!["tap:vm0".to_owned()],
        tunnels: Some("merge".parse().expect("valid")),
        ..RunArgs::default()
    };
    let config = load(&typed).expect("valid");
    assert_eq!(config.tunnels.0, TunnelMode::Merge);
    assert_eq!(
        from_text(&text("on")).expect_err("refused").to_string(),
        "lab.toml:1: tunnels cannot be `on`: give off, whole, merge"
    );
}

#[test]
fn wire_ports_have_their_keys() {
    let config = from_specs(&[
        "packet:eth0,fanout=queue,qdisc_bypass",
        "xdp:eth1,mode=generic,pass=host,capture=/tmp/x.pcapng,force",
        "auto:eth2,fault=drop:1%,delay:2ms,mtu=9000",
    ])
    .expect("valid");
    let [packet, xdp, auto] = &config.ports[..] else {
        panic!("three ports");
    };
    let is_packet = matches!(
        packet.kind,
        PortKind::Packet {
            fanout: values::Fanout::Queue,
            qdisc_bypass: true,
            ..
        }
    );
    let is_xdp = matches!(
        xdp.kind,
        PortKind::Xdp {
            mode: values::XdpMode::Generic,
            pass: values::XdpPass::Host,
            ..
        }
    );
    assert!(is_packet && is_xdp && xdp.capture.is_some());
    assert_eq!(
        [packet.force, xdp.force, auto.force],
        [false, true, false],
        "a key alone means on"
    );
    from_specs(&["tap:a,force"]).expect_err("a TAP has no such settings");
    let faults = auto.fault.expect("faults").0;
    assert_eq!((faults.drop_ppm, faults.delay_ns), (10_000, 2_000_000));
    assert_eq!(
        auto.mtu.map(values::Mtu::get),
        Some(9000),
        "keys go on behind faults"
    );
    from_specs(&["tun:a", "tun:b"]).expect("a pair");
    from_specs(&["tun:a", "tun:b", "tun:c"]).expect_err("three");
}

#[test]
fn coalescing_has_its_settings() {
    let config = from_specs(&[
        "tap:a,hold=50us,cwr=first",
        "tap:b,coalesce=lro,peer=terminates,lro_max=9000,hold=100ms",
        "tap:c",
    ])
    .expect("valid");
    let settings = |port: &PortSpec| {
        let hold = port.hold.map(|hold| (hold.ns(), hold.to_string()));
        (hold, port.cwr.to_string(), port.lro_max.get())
    };
    let hold = |ns, text: &str| Some((ns, text.to_owned()));
    let settings: Vec<_> = config.ports.iter().map(settings).collect();
    assert_eq!(
        settings,
        [
            (hold(50_000, "50us"), "first".to_owned(), 65_535),
            (hold(100_000_000, "100ms"), "equal".to_owned(), 9000),
            (None, "equal".to_owned(), 65_535),
        ]
    );
    let file = "[[port]]\ntap = \"a\"\nhold = \"50us\"\ncwr = \"first\"\n";
    assert_eq!(from_text(file).expect("valid").ports, config.ports[..1]);
}

#[test]
fn settings_that_change_nothing_are_refused() {
    for (spec, expected) in [
        (
            "tap:a,hold=0us",
            "hold cannot be `0us`: give 1us to 100ms, as in 50us",
        ),
        (
            "tap:a,hold=101ms",
            "hold cannot be `101ms`: give 1us to 100ms, as in 50us",
        ),
        (
            "tap:a,hold=50",
            "hold cannot be `50`: give 1us to 100ms, as in 50us",
        ),
        (
            "tap:a,hold=5000000ms",
            "hold cannot be `5000000ms`: give 1us to 100ms, as in 50us",
        ),
        (
            "tap:a,cwr=maybe",
            "cwr cannot be `maybe`: give equal, first or never",
        ),
        (
            "tap:a,coalesce=lro,peer=terminates,lro_max=67",
            "lro_max 67 is out of range: give 68 to 65535 bytes",
        ),
        (
            "tap:a,coalesce=off,hold=50us",
            "coalesce = off merges nothing that could be held; drop `hold` or set `coalesce = gro`",
        ),
        (
            "tap:a,coalesce=rsc,peer=terminates,hold=50us",
            "coalesce = rsc hands over what it has when a burst ends, as NDIS asks; drop `hold` or set `coalesce = gro`",
        ),
        (
            "tap:a,offload=off,hold=50us",
            "hold is about super-packets made for the port, and its super-packets are switched off; drop `hold`",
        ),
        (
            "tap:a,tso=off,cwr=never",
            "cwr is about super-packets made for the port, and its super-packets are switched off; drop `cwr`",
        ),
        (
            "xdp:a,hold=50us",
            "hold is about super-packets made for the port, and an xdp port takes none; drop `hold`",
        ),
        (
            "tap:a,coalesce=lro,peer=terminates,cwr=first",
            "cwr is a choice of coalesce = gro; lro has a rule of its own; drop `cwr`",
        ),
        (
            "tap:a,lro_max=9000",
            "lro_max is of coalesce = lro, not of gro; drop `lro_max`",
        ),
    ] {
        let error = from_specs(&[spec]).expect_err(spec);
        assert_eq!(error.to_string(), format!("--port {spec}: {expected}"));
    }
    from_specs(&["tap:a,tso=off,hold=1ms"]).expect("UDP is merged");
}

#[test]
fn both_forms_mean_the_same() {
    let typed =
        from_specs(&["tap:vm0,name=web,mtu=9000,coalesce=off,offload=off,csum=on"]).expect("valid");
    for port in [
        "tap = \"vm0\"\nname = \"web\"\nmtu = 9000\ncoalesce = \"off\"\noffload = \"off\"\ncsum = \"on\"",
        "tap = \"vm0\"\nname = \"web\"\nmtu = \"9000\"\ncoalesce = \"off\"\noffload = false\ncsum = true",
    ] {
        assert_eq!(
            from_text(&format!("[[port]]\n{port}\n")).expect("valid"),
            typed
        );
    }
    assert_eq!(typed.ports[0].mtu.expect("set").get(), 9000);
}

#[test]
fn the_file_in_the_help_is_valid() {
    let (_, text) = crate::args::RUN_HELP
        .split_once("A file:\n")
        .expect("a file");
    let config = from_text(text).expect("valid");
    assert_eq!(config.ports[0].name.as_str(), "web");
    assert_eq!(config.workers.expect("set").get(), 2);
    assert_eq!(
        config.socket.as_deref(),
        Some(Path::new("/run/jumbo/lab.sock"))
    );
    assert_eq!(config.fdb_age.seconds(), 300);
}

#[test]
fn the_help_lists_every_key_and_the_limits() {
    let help = crate::args::RUN_HELP;
    let refused = from_specs(&["tap:vm0,?=1"])
        .expect_err("refused")
        .to_string();
    let (_, keys) = refused.split_once("the keys are ").expect("the keys");
    for key in keys.split(", ").filter(|key| *key != "tap") {
        assert!(help.contains(&format!("\n  {key} ")), "{key}");
    }
    let refused = from_text("\"?\" = 1").expect_err("refused").to_string();
    let (_, keys) = refused.split_once("the keys are ").expect("the keys");
    for key in keys.split(", ") {
        assert!(
            help.contains(&format!("\n  {key} =")) || help.contains(&format!("\n  [[{key}]]")),
            "{key}"
        );
    }
    assert!(help.contains(&format!("{} to {}", values::Mtu::MIN, values::Mtu::MAX)));
}

proptest::proptest! {
    #[test]
    fn no_text_makes_a_panic(spec in ".{0,60}", keys in "(tap|name|mtu|port|\\[|\\]|=|,|`|\"|\n|[a-z0-9]){0,30}") {
        let _ = from_specs(&[&spec]);
        let _ = from_specs(&[&format!("tap:{keys}")]);
        let _ = from_text(&spec);
        let _ = from_text(&keys);
    }
}

#[test]
fn offload_keys_override_offload_and_imply_csum() {
    for (keys, expected) in [
        ("", offload(true, true, true)),
        (",offload=off", offload(false, false, false)),
        (",offload=off,tso=on", offload(true, true, false)),
        (",offload=off,uso=on", offload(true, false, true)),
        (",offload=off,csum=on", offload(true, false, false)),
        (",csum=off", offload(false, false, false)),
        (",tso=off", offload(true, false, true)),
        (",tso=off,uso=off", offload(true, false, false)),
        (",csum=off,tso=off", offload(false, false, false)),
    ] {
        let config = from_specs(&[&format!("tap:vm0{keys}")]).expect(keys);
        assert_eq!(config.ports[0].offload, expected, "{keys}");
    }
}

#[test]
fn a_wrong_port_is_refused_in_one_sentence() {
    for (spec, expected) in [
        (
            "vm0",
            "a port is a kind and a device; write KIND:DEVICE[,KEY=VALUE...], as in tap:vm1 or packet:eth0",
        ),
        (
            "xyz:vm0",
            "unknown port kind `xyz`: this version has tap, vhost-user, packet, xdp, tun, auto",
        ),
        (
            "vhost-user:",
            "`` cannot be a socket: give the path of a file, 1 to 107 bytes",
        ),
        (
            "tap:vm0,fault=drop:1%,fall:2%",
            "unknown fault `fall`: give drop, corrupt, reorder, delay or seed",
        ),
        (
            "packet:eth0,fanout=luck",
            "fanout cannot be `luck`: give hash or queue",
        ),
        (
            "tap:vm0,client",
            "`client` is of vhost-user ports; drop `client`",
        ),
        (
            ":vm0",
            "unknown port kind ``: this version has tap, vhost-user, packet, xdp, tun, auto",
        ),
        (
            "tap:",
            "`` cannot be a device: give 1 to 15 characters without blank, `/`, `:` and `%`",
        ),
        (
            "tap:a/b",
            "`a/b` cannot be a device: give 1 to 15 characters without blank, `/`, `:` and `%`",
        ),
        (
            "tap:tap%d",
            "`tap%d` cannot be a device: give 1 to 15 characters without blank, `/`, `:` and `%`",
        ),
        (
            "tap:sixteen-letters0",
            "`sixteen-letters0` cannot be a device: give 1 to 15 characters without blank, `/`, `:` and `%`",
        ),
        (
            "tap:..",
            "`..` cannot be a device: give 1 to 15 characters without blank, `/`, `:` and `%`",
        ),
        ("tap:vm0,fast", "unknown key `fast`; did you mean `fault`?"),
        (
            "tap:vm0,",
            "`` is not KEY=VALUE; write KIND:DEVICE[,KEY=VALUE...]",
        ),
        (
            "tap:vm0,mtuu=1500",
            "unknown key `mtuu`; did you mean `mtu`?",
        ),
        (
            "tap:vm0,colaesce=off",
            "unknown key `colaesce`; did you mean `coalesce`?",
        ),
        ("tap:vm0,x=1", "unknown key `x`; did you mean `xdp`?"),
        (
            "tap:vm0,mtu=1,mtu=2",
            "key `mtu` is given twice; keep one of them",
        ),
        (
            "tap:vm0,tap=vm1",
            "key `tap` is given twice; keep one of them",
        ),
        (
            "tap:vm0,mtu=67",
            "mtu 67 is out of range: give 68 to 65521 bytes",
        ),
        (
            "tap:vm0,mtu=65522",
            "mtu 65522 is out of range: give 68 to 65521 bytes",
        ),
        (
            "tap:vm0,mtu=99999999999",
            "mtu 99999999999 is out of range: give 68 to 65521 bytes",
        ),
        (
            "tap:vm0,mtu=jumbo",
            "mtu jumbo is out of range: give 68 to 65521 bytes",
        ),
        (
            "tap:vm0,coalesce=hw",
            "coalesce cannot be `hw`: give off, gro, lro, rsc, rsc-qemu",
        ),
        (
            "tap:vm0,peer=host",
            "peer cannot be `host`: give forwards or terminates",
        ),
        (
            "tap:vm0,coalesce=rsc",
            "coalesce = rsc merges packets that cannot be taken apart again, so a peer that forwards would send on what nobody sent; add `peer = terminates` if the peer ends its TCP connections itself, or set `coalesce = gro`",
        ),
        (
            "tap:vm0,coalesce=lro,peer=forwards",
            "coalesce = lro merges packets that cannot be taken apart again, so a peer that forwards would send on what nobody sent; add `peer = terminates` if the peer ends its TCP connections itself, or set `coalesce = gro`",
        ),
        ("tap:vm0,tso=yes", "`yes` is neither on nor off"),
        (
            "tap:vm0,csum=off,tso=on",
            "tso needs csum; drop `csum = off` or set `tso = off`",
        ),
        (
            "tap:vm0,csum=off,uso=on",
            "uso needs csum; drop `csum = off` or set `uso = off`",
        ),
        (
            "tap:vm0,name=a b",
            "`a b` cannot be a port name: give 1 to 32 letters, digits, `.`, `_` or `-`",
        ),
        (
            "tap:vm@0",
            "`vm@0` cannot be a port name: give 1 to 32 letters, digits, `.`, `_` or `-`; or keep the device and add a `name`",
        ),
    ] {
        let error = from_specs(&[spec]).expect_err(spec);
        assert_eq!(error.to_string(), format!("--port {spec}: {expected}"));
        assert_eq!(error.code.number(), 2, "{spec}");
    }
}

#[test]
fn the_limits_themselves_are_valid() {
    for spec in [
        "tap:vm0,mtu=68",
        "tap:vm0,mtu=65521",
        "tap:fifteen-letters",
        "tap:vm@0,name=ok",
    ] {
        assert!(from_specs(&[spec]).is_ok(), "{spec}");
    }
}

#[test]
fn ports_must_differ() {
    let name = from_specs(&["tap:a", "tap:b,name=a"])
        .expect_err("refused")
        .to_string();
    assert_eq!(
        name,
        "--port tap:b,name=a: port name `a` is in use already, by --port tap:a; choose another name="
    );
    let device = from_specs(&["tap:a", "tap:a,name=b"])
        .expect_err("refused")
        .to_string();
    assert_eq!(
        device,
        "--port tap:a,name=b: port device `a` is in use already, by --port tap:a; a device can be one port only"
    );
}

#[test]
fn a_switch_has_ports_and_not_too_many() {
    let none = from_specs(&[]).expect_err("refused").to_string();
    assert_eq!(
        none,
        "the switch has no ports; give --port tap:DEVICE or -c FILE"
    );
    let specs: Vec<_> = (0..=PORTS_MAX)
        .map(|number| format!("tap:t{number}"))
        .collect();
    let specs: Vec<_> = specs.iter().map(String::as_str).collect();
    assert_eq!(
        from_specs(&specs).expect_err("refused").to_string(),
        "1025 ports are more than 1024"
    );
    assert!(from_specs(&specs[1..]).is_ok());
}

#[test]
fn a_wrong_file_is_refused_with_its_line() {
    for (text, expected) in [
        (
            "workers = 2\nsokcet = \"a\"\n",
            "lab.toml:2: unknown key `sokcet`; did you mean `socket`?",
        ),
        (
            "\n\nworkers = 0\n",
            "lab.toml:3: workers 0 is out of range: give 1 to 256",
        ),
        (
            "fdb_age_s = -1\n",
            "lab.toml:1: fdb_age_s -1 is out of range: give 1 to 1000000 seconds",
        ),
        (
            "[[port]]\ntap = \"a\"\nmtuu = 1500\n",
            "lab.toml:3: unknown key `mtuu`; did you mean `mtu`?",
        ),
        (
            "[[port]]\nxdp = \"a\"\nfanout = \"hash\"\n",
            "lab.toml:1: `fanout` is of packet ports; drop `fanout`",
        ),
        (
            "[[port]]\ntun = \"a\"\n[[port]]\ntap = \"b\"\n",
            "lab.toml:1: a tun port carries raw IP and cannot be joined with ports of Ethernet; run a second switch for it",
        ),
        (
            "[[port]]\ntap = \"a\"\n\nmtu = 4\n",
            "lab.toml:4: mtu 4 is out of range: give 68 to 65521 bytes",
        ),
        (
            "[[port]]\ntap = \"a\"\ncoalesce = \"hw\"\n",
            "lab.toml:3: coalesce cannot be `hw`: give off, gro, lro, rsc, rsc-qemu",
        ),
        (
            "workers = 1\n[[port]]\nname = \"a\"\n",
            "lab.toml:2: the port has no device; add `tap = \"DEVICE\"` or `vhost-user = \"/run/NAME.sock\"`",
        ),
        (
            "[[port]]\ntap = \"a\"\n[[port]]\ntap = \"b\"\nname = \"a\"\n",
            "lab.toml:3: port name `a` is in use already, by lab.toml:1; choose another name=",
        ),
        (
            "[[ports]]\ntap = \"a\"\n",
            "lab.toml:1: unknown key `ports`; did you mean `port`?",
        ),
    ] {
        let error = from_text(text).expect_err(text);
        assert_eq!(error.to_string(), expected);
        assert_eq!(error.code.number(), 2, "{text}");
    }
}

#[test]
fn what_is_no_toml_names_its_line() {
    for text in [
        "workers = 1\nworkers =\n",
        "workers = 1\n= 3\n",
        "workers = 1\nworkers = 2\n",
    ] {
        let error = from_text(text).expect_err(text).to_string();
        assert!(error.starts_with("lab.toml:2: "), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn what_is_typed_wins_over_the_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("lab.toml");
    std::fs::write(&path, "workers = 1\nfdb_age_s = 9\n[[port]]\ntap = \"a\"\n").expect("written");
    let args = RunArgs {
        ports: vec!["tap:b".into()],
        config: Some(path),
        workers: Some("3".parse().expect("valid")),
        ..RunArgs::default()
    };
    let config = load(&args).expect("valid");
    assert_eq!(config.workers.expect("set").get(), 3);
    assert_eq!(config.fdb_age.seconds(), 9);
    let names: Vec<_> = config.ports.iter().map(|port| port.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
}

#[test]
fn a_file_that_cannot_be_read_or_never_ends_is_refused() {
    for path in ["/nonexistent/lab.toml", "/dev/zero", "/"] {
        let error = load(&RunArgs {
            config: Some(path.into()),
            ..RunArgs::default()
        })
        .expect_err(path);
        assert_eq!(error.code.number(), 2, "{error}");
    }
}
