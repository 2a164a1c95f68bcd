//! The lab against the real kernel: what it sets is so, what it sends arrives,
//! and nothing is left behind.

use std::fs;
use std::net::UdpSocket;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use jumbo_lab::ethtool::{NapiHold, Offload};
use jumbo_lab::forwarder::Forwarder;
use jumbo_lab::ns::{Needs, NetNs, check_tun};
use jumbo_lab::packet_socket::{PacketSocket, VNET_HEADER_LEN};
use jumbo_lab::tap::{Tap, TapOffloads, TapSpec};
use jumbo_lab::traffic::{
    BulkAmount, BulkSession, BulkSpec, Check, Directions, PingSpec, Transport, UdpSpec, bulk, ping,
    udp,
};
use jumbo_lab::{Family, Host, LabTest, TestError, skip, test_main, veth_pair};

type Result = std::result::Result<(), TestError>;

fn main() -> ExitCode {
    test_main(
        Needs::Links,
        vec![
            LabTest::new("links_are_as_they_were_set", links_are_as_they_were_set),
            LabTest::new(
                "a_veth_end_moves_is_renamed_and_goes",
                a_veth_end_moves_is_renamed_and_goes,
            ),
            LabTest::new("a_bridge_joins_two_hosts", a_bridge_joins_two_hosts),
            LabTest::new("offloads_read_back", offloads_read_back),
            LabTest::new("napi_knobs_read_back", napi_knobs_read_back),
            LabTest::new("bulk_is_intact_both_ways", bulk_is_intact_both_ways),
            LabTest::new(
                "a_session_is_silent_between_slices",
                a_session_is_silent_between_slices,
            ),
            LabTest::new(
                "a_window_is_looked_at_from_both_edges",
                a_window_is_looked_at_from_both_edges,
            ),
            LabTest::new("a_kept_tap_can_be_joined", a_kept_tap_can_be_joined),
            LabTest::new(
                "a_broken_path_ends_with_an_error",
                a_broken_path_ends_with_an_error,
            ),
            LabTest::new("the_forwarder_carries_tcp", the_forwarder_carries_tcp),
            LabTest::new("a_tap_has_several_queues", a_tap_has_several_queues),
            LabTest::new("uso_arrives_as_datagrams", uso_arrives_as_datagrams),
            LabTest::new("every_ping_is_answered", every_ping_is_answered),
            LabTest::new(
                "an_injected_packet_is_received",
                an_injected_packet_is_received,
            ),
            LabTest::new(
                "the_kernel_segments_an_injected_super_packet",
                the_kernel_segments_an_injected_super_packet,
            ),
            LabTest::new(
                "routes_and_neighbours_are_followed",
                routes_and_neighbours_are_followed,
            ),
            LabTest::new("damage_on_the_path_is_seen", damage_on_the_path_is_seen),
            LabTest::new("nothing_is_left_behind", nothing_is_left_behind),
        ],
    )
}

fn links_are_as_they_were_set() -> Result {
    let (a, b) = veth_pair("v0")?;
    let links = a.links()?;
    links.set_mtu("v0", 1400)?;
    links.set_tx_queue_len("v0", 77)?;
    links.set_mac("v0", [2, 0, 0, 0, 0, 1])?;
    links.set_gso_max_size("v0", 30_000)?;
    let link = links.get("v0")?;
    assert_eq!((link.mtu, link.tx_queue_len), (1400, 77));
    assert_eq!(link.mac, Some([2, 0, 0, 0, 0, 1]));
    assert!(link.up && link.running);
    links.down("v0")?;
    assert!(!links.get("v0")?.up);
    assert!(
        !b.links()?.get("v0")?.running,
        "the other end lost its carrier"
    );
    let error = links.get("nowhere").unwrap_err();
    assert_eq!(
        error.io().and_then(|e| e.raw_os_error()),
        Some(19),
        "{error}"
    );
    Ok(())
}

fn a_veth_end_moves_is_renamed_and_goes() -> Result {
    let (a, b) = (NetNs::new()?, NetNs::new()?);
    let (in_a, in_b) = (a.links()?, b.links()?);
    in_a.add_veth("x", "y", &a)?;
    in_a.move_to("y", &b)?;
    in_b.rename("y", "z")?;
    let names: Vec<String> = in_b.list()?.into_iter().map(|l| l.name).collect();
    assert!(
        names.contains(&"z".into()) && !names.contains(&"y".into()),
        "{names:?}"
    );
    in_a.delete("x")?;
    assert!(in_b.get("z").is_err(), "a pair goes as a whole");
    Ok(())
}

fn a_bridge_joins_two_hosts() -> Result {
    let (a, b, middle) = (Host::new(1)?, Host::new(2)?, NetNs::new()?);
    let links = middle.links()?;
    links.add_bridge("br0")?;
    links.up("br0")?;
    for (host, port) in [(&a, "p1"), (&b, "p2")] {
        links.add_veth(port, "eth0", &host.ns)?;
        links.enslave(port, "br0")?;
        links.up(port)?;
        host.plug("eth0")?;
    }
    let spec = BulkSpec {
        amount: BulkAmount::BytesPerFlow(1 << 20),
        ..BulkSpec::default()
    };
    assert_eq!(bulk(&a, &b, &spec)?.intact, Some(true));
    assert!(links.stats("p1")?.rx_bytes > 1 << 20);
    Ok(())
}

fn offloads_read_back() -> Result {
    let (a, _b) = veth_pair("v0")?;
    let links = a.links()?;
    let all = [
        Offload::UdpSegmentation,
        Offload::Gro,
        Offload::Tso,
        Offload::Gso,
        Offload::TxChecksum,
    ];
    for offload in all {
        for on in [false, true, false] {
            links.set_offload("v0", offload, on)?;
            assert_eq!(links.offload("v0", offload)?, on, "{offload:?}");
        }
    }
    // What depends on something that is off is refused, not silently ignored.
    assert!(links.set_offload("v0", Offload::Tso, true).is_err());
    assert!(links.feature("v0", "no-such-feature").is_err());
    assert!(!links.feature("v0", "tx-tcp6-segmentation")?);
    Ok(())
}

fn napi_knobs_read_back() -> Result {
    let (a, b) = veth_pair("v0")?;
    let hold = NapiHold {
        gro_flush_timeout_ns: 1_000_000,
        napi_defer_hard_irqs: 10,
    };
    hold.write(&a.ns, "v0")
        .map_err(|e| skip(format!("{e} (run as root)")))?;
    assert_eq!(NapiHold::read(&a.ns, "v0")?, hold);
    assert_ne!(NapiHold::read(&b.ns, "v0")?, hold, "each end has its own");
    Ok(())
}

fn bulk_is_intact_both_ways() -> Result {
    let (a, b) = veth_pair("v0")?;
    for family in [Family::V4, Family::V6] {
        let spec = BulkSpec {
            family,
            directions: Directions::Both,
            flows: 2,
            amount: BulkAmount::BytesPerFlow(20_000_000),
            ..BulkSpec::default()
        };
        let report = bulk(&a, &b, &spec)?;
        assert_eq!(
            (report.forward_bytes, report.backward_bytes),
            (40_000_000, 40_000_000)
        );
        assert_eq!(report.intact, Some(true));
        assert!(report.receiver.total_s() > 0.0 && report.sender.total_s() > 0.0);
    }
    Ok(())
}

fn a_session_is_silent_between_slices() -> Result {
    let (a, b) = veth_pair("v0")?;
    let session = BulkSession::open(
        &a,
        &b,
        &BulkSpec {
            check: Check::None,
            ..BulkSpec::default()
        },
    )?;
    for _ in 0..3 {
        let report = session.slice(Duration::from_millis(100))?;
        assert!(
            report.forward_bytes > 0 && report.backward_bytes == 0,
            "{report:?}"
        );
        assert_eq!(report.intact, None);
        // Delayed acknowledgements may still trickle; payload must not.
        let before = b.links()?.stats("v0")?.rx_bytes;
        std::thread::sleep(Duration::from_millis(50));
        let after = b.links()?.stats("v0")?.rx_bytes;
        assert!(
            after - before < 1448,
            "{} bytes while silent",
            after - before
        );
    }
    Ok(())
}

fn a_window_is_looked_at_from_both_edges() -> Result {
    let (a, b) = veth_pair("v0")?;
    let spec = BulkSpec {
        directions: Directions::Both,
        check: Check::OutsideWindows,
        ..BulkSpec::default()
    };
    let session = BulkSession::open(&a, &b, &spec)?;
    let (ip, tcp) = (b.ip_received(Family::V4)?, session.segments()?);
    let mut looks = 0;
    let (report, edges) = session.slice_between(Duration::from_millis(100), || {
        looks += 1;
        looks
    })?;
    assert_eq!(edges, [1, 2]);
    assert_eq!(report.intact, Some(true));
    let segments = session.segments()?;
    let [one, two] = [segments[0] - tcp[0], segments[1] - tcp[1]];
    // No segment holds more than the MSS of 1448, and some carry only an ACK.
    assert!(
        two.data >= report.forward_bytes / 1448,
        "{two:?} {report:?}"
    );
    assert!(
        one.data >= report.backward_bytes / 1448,
        "{one:?} {report:?}"
    );
    assert!(two.all >= two.data && one.all >= one.data);
    let packets = b.ip_received(Family::V4)? - ip;
    assert!(packets > 0 && packets <= two.all, "{packets} of {two:?}");
    Ok(())
}

fn a_kept_tap_can_be_joined() -> Result {
    check_tun().map_err(skip)?;
    let host = Host::new(1)?;
    let spec = TapSpec::new("t0", TapOffloads::NONE);
    let tap = Tap::create(&host.ns, &spec)?;
    tap.persist()?;
    drop(tap);
    let index = host.links()?.get("t0")?.index;
    let _again = Tap::create(&host.ns, &spec)?;
    assert_eq!(host.links()?.get("t0")?.index, index, "the same device");
    Ok(())
}

fn a_broken_path_ends_with_an_error() -> Result {
    let (a, b) = veth_pair("v0")?;
    let session = BulkSession::open(&a, &b, &BulkSpec::default())?;
    b.links()?.down("v0")?;
    let error = session.slice(Duration::from_secs(20)).unwrap_err();
    assert!(matches!(error, jumbo_lab::Error::Stalled(_)), "{error}");
    Ok(())
}

fn two_taps(offloads: TapOffloads) -> std::result::Result<(Host, Host, Forwarder), TestError> {
    check_tun().map_err(skip)?;
    let (a, b) = (Host::new(1)?, Host::new(2)?);
    let tap = |host: &Host| Tap::create(&host.ns, &TapSpec::new("t0", offloads));
    let (in_a, in_b) = (tap(&a)?, tap(&b)?);
    a.plug("t0")?;
    b.plug("t0")?;
    Ok((a, b, Forwarder::start(in_a, in_b)?))
}

fn the_forwarder_carries_tcp() -> Result {
    for (offloads, most, least) in [
        (TapOffloads::TSO, 65_600, 3_000),
        (TapOffloads::NONE, 1_526, 0),
    ] {
        let (a, b, forwarder) = two_taps(offloads)?;
        for family in [Family::V4, Family::V6] {
            let amount = BulkAmount::BytesPerFlow(20_000_000);
            let report = bulk(
                &a,
                &b,
                &BulkSpec {
                    family,
                    amount,
                    ..BulkSpec::default()
                },
            )?;
            assert_eq!(
                (report.intact, report.forward_bytes),
                (Some(true), 20_000_000)
            );
        }
        let sent = a.links()?.stats("t0")?;
        let mean = sent.tx_bytes / sent.tx_packets;
        let report = forwarder.stop()?;
        assert!(report.bytes > 40_000_000, "{report:?}");
        assert!(
            (least..=most).contains(&mean),
            "{mean} bytes a packet with {offloads:?}"
        );
    }
    Ok(())
}

fn a_tap_has_several_queues() -> Result {
    check_tun().map_err(skip)?;
    let ns = NetNs::new()?;
    let spec = TapSpec {
        multi_queue: true,
        ..TapSpec::new("t0", TapOffloads::TSO_USO)
    };
    let first = Tap::create(&ns, &spec)?;
    let second = first.queue()?;
    drop(first);
    assert_eq!(
        ns.links()?.get("t0")?.name,
        "t0",
        "the second queue keeps it"
    );
    assert!(Tap::create(&ns, &TapSpec::new("t0", TapOffloads::TSO)).is_err());
    drop(second);
    assert!(
        ns.links()?.get("t0").is_err(),
        "the last queue takes it along"
    );
    Ok(())
}

fn uso_arrives_as_datagrams() -> Result {
    let (a, b) = veth_pair("v0")?;
    for family in [Family::V4, Family::V6] {
        for (segments_per_send, gro) in [(1, false), (40, false), (40, true)] {
            let spec = UdpSpec {
                family,
                segments_per_send,
                gro,
                count: 4_000,
                rate_pps: Some(20_000),
                ..UdpSpec::default()
            };
            let report = udp(&a, &b, &spec)?;
            assert_eq!((report.intact, report.sent), (Some(true), 4_000));
            assert!((1..=4_000).contains(&report.received), "{report:?}");
            assert_eq!(report.reordered, 0, "{report:?}");
            if gro {
                assert!(
                    report.reads < report.received,
                    "UDP_GRO joined nothing: {report:?}"
                );
            } else {
                assert_eq!(report.reads, report.received);
            }
        }
    }
    Ok(())
}

fn every_ping_is_answered() -> Result {
    let (a, b) = veth_pair("v0")?;
    for transport in [Transport::Tcp, Transport::Udp] {
        let duration = Duration::from_millis(200);
        let report = ping(
            &a,
            &b,
            &PingSpec {
                transport,
                duration,
                ..PingSpec::default()
            },
        )?;
        assert!(report.transactions > 0, "{report:?}");
        assert!(
            report.p50_ns <= report.p99_ns && report.p99_ns <= report.max_ns,
            "{report:?}"
        );
    }
    let spec = PingSpec {
        rate_pps: Some(100),
        duration: Duration::from_millis(500),
        ..PingSpec::default()
    };
    let report = ping(&a, &b, &spec)?;
    assert!((1..=52).contains(&report.transactions), "paced: {report:?}");
    Ok(())
}

/// Ethernet II with an experimental type (IEEE 802: 0x88B5), broadcast.
fn ethernet(payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0xff; 6];
    packet.extend([2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
    packet.extend(payload);
    packet
}

fn receive_type(
    socket: &PacketSocket,
    at: usize,
    ethertype: [u8; 2],
) -> std::result::Result<Option<Vec<u8>>, TestError> {
    // Others' packets (neighbour discovery, MLD) may be in between.
    for _ in 0..100 {
        match socket.recv(Duration::from_secs(2))? {
            Some(packet) if packet.get(at + 12..at + 14) == Some(&ethertype) => {
                return Ok(Some(packet));
            }
            Some(_) => {}
            None => return Ok(None),
        }
    }
    Ok(None)
}

fn an_injected_packet_is_received() -> Result {
    let (a, b) = veth_pair("v0")?;
    for vnet_header in [false, true] {
        let at = if vnet_header { VNET_HEADER_LEN } else { 0 };
        let sending = PacketSocket::open(&a.ns, "v0", vnet_header)?;
        let receiving = PacketSocket::open(&b.ns, "v0", vnet_header)?;
        let mut packet = vec![0; at];
        packet.extend(ethernet(&[7; 100]));
        sending.send(&packet)?;
        let received = receive_type(&receiving, at, [0x88, 0xb5])?.expect("the packet arrives");
        assert_eq!(received, packet);
        assert_eq!(
            sending
                .recv(Duration::from_millis(20))?
                .filter(|p| p[at + 12..][..2] == [0x88, 0xb5]),
            None
        );
    }
    Ok(())
}

/// An IPv4 TCP packet with `payload_len` zero bytes and its virtio-net header
/// (little-endian: 1 NEEDS_CSUM, gso_type 1 TCPV4, virtio 1.2 section 5.1.6).
fn tcp_super_packet(payload_len: usize, gso_size: u16) -> Vec<u8> {
    let mut packet = vec![1, 1];
    for field in [54, gso_size, 34, 16] {
        packet.extend(field.to_le_bytes());
    }
    packet.extend([0xff; 6]);
    packet.extend([2, 0, 0, 0, 0, 1, 0x08, 0x00]);
    let total_len = (40 + payload_len) as u16;
    packet.extend([0x45, 0]);
    packet.extend(total_len.to_be_bytes());
    packet.extend([0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    packet.extend([
        0x30, 0x39, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0,
    ]);
    packet.resize(packet.len() + payload_len, 0);
    packet
}

fn the_kernel_segments_an_injected_super_packet() -> Result {
    let (a, b) = veth_pair("v0")?;
    a.links()?.set_offload("v0", Offload::Tso, false)?;
    let sending = PacketSocket::open(&a.ns, "v0", true)?;
    let receiving = PacketSocket::open(&b.ns, "v0", true)?;
    sending.send(&tcp_super_packet(3_500, 1_000))?;
    let mut payload_lens = Vec::new();
    for _ in 0..4 {
        let packet = receive_type(&receiving, VNET_HEADER_LEN, [8, 0])?.expect("a segment");
        payload_lens.push(packet.len() - VNET_HEADER_LEN - 54);
    }
    assert_eq!(payload_lens, [1_000, 1_000, 1_000, 500]);
    Ok(())
}

fn routes_and_neighbours_are_followed() -> Result {
    let (a, b) = veth_pair("v0")?;
    let far: std::net::IpAddr = [192, 0, 2, 1].into();
    a.links()?
        .add_route("v0", [192, 0, 2, 0].into(), 24, Some(b.v4.into()))?;
    a.knows("v0", &b, [2, 0, 0, 0, 0, 0x99])?;
    let receiving = PacketSocket::open(&b.ns, "v0", false)?;
    a.ns.run(|| UdpSocket::bind("0.0.0.0:0")?.send_to(b"x", (far, 9)))??;
    let packet = receive_type(&receiving, 0, [8, 0])?.expect("the datagram arrives");
    assert_eq!(packet[..6], [2, 0, 0, 0, 0, 0x99]);
    assert_eq!(packet[30..34], [192, 0, 2, 1]);
    Ok(())
}

/// Passes packets both ways, flipping the last byte of each large one: with
/// partial checksums nobody but the pattern check can tell.
fn damage(a: &Tap, b: &Tap, stop: &AtomicBool) {
    let mut buffer = vec![0; 70_000];
    while !stop.load(Relaxed) {
        for (from, to) in [(a, b), (b, a)] {
            let Ok(len) = from.read(&mut buffer) else {
                std::thread::sleep(Duration::from_micros(100));
                continue;
            };
            buffer[len - 1] ^= u8::from(len > 1_000);
            let _ = to.write(&buffer[..len]);
        }
    }
}

fn damage_on_the_path_is_seen() -> Result {
    check_tun().map_err(skip)?;
    let (a, b) = (Host::new(1)?, Host::new(2)?);
    let tap = |host: &Host| Tap::create(&host.ns, &TapSpec::new("t0", TapOffloads::TSO));
    let (in_a, in_b) = (tap(&a)?, tap(&b)?);
    a.plug("t0")?;
    b.plug("t0")?;
    let stop = AtomicBool::new(false);
    let amount = BulkAmount::BytesPerFlow(1_000_000);
    let report = std::thread::scope(|scope| {
        scope.spawn(|| damage(&in_a, &in_b, &stop));
        let report = bulk(
            &a,
            &b,
            &BulkSpec {
                amount,
                ..BulkSpec::default()
            },
        );
        stop.store(true, Relaxed);
        report
    })?;
    assert_eq!(
        (report.intact, report.forward_bytes),
        (Some(false), 1_000_000)
    );
    Ok(())
}

fn open_files() -> usize {
    fs::read_dir("/proc/self/fd").map_or(0, |dir| dir.count())
}

fn threads() -> usize {
    fs::read_dir("/proc/self/task").map_or(0, |dir| dir.count())
}

fn nothing_is_left_behind() -> Result {
    let here = NetNs::here()?.links()?;
    let now = || Ok::<_, TestError>((open_files(), threads(), here.list()?.len()));
    // A thread of the test before this one may still be on its way out.
    let mut before = now()?;
    for _ in 0..50 {
        std::thread::sleep(Duration::from_millis(100));
        let again = now()?;
        if again == before {
            break;
        }
        before = again;
    }
    // A veth with one end here shows when the far namespace is gone.
    let (a, b) = veth_pair("v0")?;
    here.add_veth("left", "right", &a.ns)?;
    bulk(
        &a,
        &b,
        &BulkSpec {
            amount: BulkAmount::BytesPerFlow(1 << 20),
            ..BulkSpec::default()
        },
    )?;
    udp(
        &a,
        &b,
        &UdpSpec {
            count: 10,
            ..UdpSpec::default()
        },
    )?;
    drop(PacketSocket::open(&a.ns, "v0", true)?);
    if check_tun().is_ok() {
        drop(two_taps(TapOffloads::TSO)?);
    }
    drop((a, b));
    // The kernel takes namespaces down in the background (net/core/net_namespace.c
    // cleanup_net); a bounded wait.
    for _ in 0..500 {
        if now()? == before {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(now()?, before, "(open files, threads, links)");
    Ok(())
}
