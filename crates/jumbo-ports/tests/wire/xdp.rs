//! AF_XDP against the contract of a queue, and the hook it sits on.

use std::time::Duration;

use jumbo_engine::pending::Csum;
use jumbo_engine::vnet::VnetHeader;
use jumbo_lab::packet_socket::PacketSocket;
use jumbo_lab::{LabTest, TestError, skip};
use jumbo_ports::conformance::{Sample, Subject, check};
use jumbo_ports::queue::{Port, RxEnd, RxLoss, TxFault};
use jumbo_ports::xdp::{self, Mode, Pass, TxChecksum, XdpConfig, XdpError};
use jumbo_testkit::oracle::vnet_gso;
use jumbo_testkit::script::TcpStream;

use crate::samples::{base, ip6, pending, samples};
use crate::support::{AllQueues, FarEnd, Outcome, Taker, Wire, send, send_only, with_header};

pub(crate) fn tests() -> Vec<LabTest> {
    vec![
        LabTest::new("xdp_native_keeps_the_contract", native),
        LabTest::new("xdp_generic_keeps_the_contract", generic),
        LabTest::new(
            "xdp_of_more_workers_than_queues_keeps_the_contract",
            more_workers,
        ),
        LabTest::new(
            "xdp_finds_partial_checksums_of_a_veth",
            finds_partial_checksums,
        ),
        LabTest::new(
            "xdp_leaves_the_host_what_is_its_own",
            leaves_the_host_its_own,
        ),
        LabTest::new(
            "xdp_leaves_checksums_to_the_kernel",
            leaves_checksums_to_the_kernel,
        ),
        LabTest::new("xdp_counts_what_the_ring_lost", counts_ring_losses),
        LabTest::new("xdp_counts_what_was_cut_off", counts_truncated),
        LabTest::new("xdp_hook_is_free_again_afterwards", hook_is_free_again),
        LabTest::new("xdp_outlives_down_and_up", outlives_down_and_up),
        LabTest::new("xdp_errors_say_what_is_wrong", errors_say_what_is_wrong),
    ]
}

fn config(mode: Mode, queues: usize) -> XdpConfig {
    XdpConfig {
        device: "w0".into(),
        queues,
        mode,
        pass: Pass::Nothing,
        tx_checksum: TxChecksum::Auto,
    }
}

fn open(wire: &Wire, config: &XdpConfig) -> Result<Port, TestError> {
    match wire.near.run(|| xdp::open(config))? {
        Err(error @ XdpError::NotPermitted { .. }) => Err(skip(error)),
        port => Ok(port?),
    }
}

/// What the port takes: anything but super-packets.
fn single() -> Vec<Sample> {
    let mut samples = samples();
    samples.retain(|sample| !sample.vnet.is_gso());
    samples
}

fn conforms(config: &XdpConfig, samples: &[Sample]) -> Outcome {
    // Whether it may be opened at all.
    open(&Wire::new()?, config)?;
    let mut subject = || {
        let wire = Wire::new().expect("a wire");
        let port = open(&wire, config).expect("a port");
        assert_eq!((port.queues.len(), port.info.mtu), (config.queues, 1500));
        let socket = wire.socket().expect("a socket");
        Subject {
            queue: Box::new(AllQueues(port.queues)),
            peer: Box::new(FarEnd { wire, socket }),
            tag: None,
        }
    };
    check(&mut subject, samples);
    Ok(())
}

fn native() -> Outcome {
    conforms(&config(Mode::Native, 1), &single())
}

fn generic() -> Outcome {
    conforms(&config(Mode::Generic, 1), &single())
}

fn more_workers() -> Outcome {
    for sample in single() {
        conforms(&config(Mode::Auto, 5), &[sample])?;
    }
    Ok(())
}

fn finds_partial_checksums() -> Outcome {
    for mode in [Mode::Native, Mode::Generic] {
        let wire = Wire::new()?;
        let mut queue = AllQueues(open(&wire, &config(mode, 1))?.queues);
        let far = wire.socket()?;
        let mut taker = Taker::new();
        let samples = [
            pending(&base().payload_len(333), vnet_gso::NONE, 0),
            pending(&ip6().udp(1, 2).payload_len(334), vnet_gso::NONE, 0),
            // Tags in the bytes: the port's kernel takes the outer one off.
            pending(
                &base().vlan(0x88a8, 5).vlan(0x8100, 7).payload_len(333),
                vnet_gso::NONE,
                0,
            ),
            Sample {
                vnet: VnetHeader::default(),
                bytes: base().payload_len(333).build(),
            },
        ];
        for sample in &samples {
            far.send(&with_header(&sample.vnet, &sample.bytes))?;
        }
        use jumbo_ports::queue::Queue as _;
        let mut found = Vec::new();
        for _ in 0..10 {
            queue.rx(&mut taker.burst, &mut taker.stats);
            for id in std::mem::take(&mut taker.burst.batch) {
                let packet = taker.burst.arena.packet(id);
                if packet.src_mac() == Some([2, 0, 0, 0, 0, 0x77]) {
                    found.push(matches!(packet.pending().csum, Csum::Partial { .. }));
                }
                taker.burst.arena.release(id);
            }
            taker.burst.reset_if_empty();
            queue.release();
        }
        assert_eq!(found, [true, true, true, false], "{mode:?}");
    }
    Ok(())
}

/// Sent with a checksum left to finish: the other end of the veth hears of it, or
/// gets it finished if the kernel was asked for that, which shows that our metadata
/// is read as it was meant. Packets of one chunk, of three, and with a tag.
fn leaves_checksums_to_the_kernel() -> Outcome {
    for mode in [Mode::Native, Mode::Generic] {
        for tx_checksum in [TxChecksum::Auto, TxChecksum::InKernel] {
            let wire = Wire::new()?;
            wire.near.links()?.set_mtu("w0", 9000)?;
            wire.far.links()?.set_mtu("w1", 9000)?;
            let config = XdpConfig {
                tx_checksum,
                ..config(mode, 1)
            };
            let port = open(&wire, &config)?;
            let row = |name| {
                port.info
                    .capabilities
                    .iter()
                    .find(move |row| row.name == name)
            };
            if let Some(why) = row("tx_csum").and_then(|row| row.why.clone()) {
                return Err(skip(format!("{why} (a younger kernel)")));
            }
            assert!(port.info.takes.csum() && !port.info.takes.tso4());
            let mut queue = AllQueues(port.queues);
            let far = wire.socket()?;
            let mut packets = vec![
                base().payload_len(333),
                base().udp(7, 8).payload_len(1200),
                base().vlan(0x8100, 7).vlan(0x8100, 5).payload_len(500),
                ip6().payload_len(4072 - 74),
            ];
            if tx_checksum == TxChecksum::Auto {
                // Asked to finish it, the kernel sums the first chunk alone (`skb_checksum_help`
                // before the others are there): that flag is for tests of single chunks.
                packets.extend([4072 - 73, 8000].map(|len| ip6().payload_len(len)));
            }
            for packet in packets {
                let sample = pending(&packet, vnet_gso::NONE, 0);
                assert_eq!(send(&mut queue, &sample.vnet, &sample.bytes), Ok(()));
                let whole = heard(&far)?;
                let (head, bytes) = whole.split_at(10);
                let (flag, mut expected) = match tx_checksum {
                    TxChecksum::InKernel => (0, packet.build()),
                    _ => (1, sample.bytes),
                };
                if expected[12..14] == [0x81, 0] {
                    // The receiving kernel takes the outer tag off.
                    expected.drain(12..16);
                }
                let what = format!("{mode:?} {tx_checksum:?}, {} bytes", expected.len());
                let got = (head[0] & 1, bytes.len());
                assert_eq!(got, (flag, expected.len()), "{what}");
                let differs = bytes.iter().zip(&expected).position(|(a, b)| a != b);
                assert_eq!(differs, None, "{what}");
            }
        }
    }
    let wire = Wire::new()?;
    let config = XdpConfig {
        tx_checksum: TxChecksum::Off,
        ..config(Mode::Auto, 1)
    };
    let port = open(&wire, &config)?;
    assert!(!port.info.takes.csum());
    let sample = pending(&base(), vnet_gso::NONE, 0);
    let refused = send(&mut AllQueues(port.queues), &sample.vnet, &sample.bytes);
    assert_eq!(refused, Err(TxFault::Refused), "nobody would finish it");
    Ok(())
}

/// The next packet of ours, with its virtio header; the kernel has some of its own.
fn heard(far: &PacketSocket) -> Result<Vec<u8>, TestError> {
    loop {
        let whole = far.recv(Duration::from_secs(1))?;
        let whole = whole.ok_or_else(|| TestError::Failed("it never arrived".into()))?;
        if whole[16..22] == [2, 0, 0, 0, 0, 0x77] {
            return Ok(whole);
        }
    }
}

fn counts_ring_losses() -> Outcome {
    for mode in [Mode::Native, Mode::Generic] {
        let wire = Wire::new()?;
        let mut queue = AllQueues(open(&wire, &config(mode, 1))?.queues);
        let far = wire.socket()?;
        let packet = with_header(&VnetHeader::default(), &base().build());
        for _ in 0..3000 {
            far.send(&packet)?;
        }
        let mut taker = Taker::new();
        let (_, got) = taker.drain(&mut queue);
        // It is counted when nothing more comes.
        taker.drain(&mut queue);
        let lost = taker.stats.losses.get(canonical!(RxLoss::RingFull));
        assert!(got.len() >= 1000 && lost > 0, "{} and {lost}", got.len());
        assert!(got.len() as u64 + lost < 3100, "{} and {lost}", got.len());
        far.send(&packet)?;
        let (_, more) = taker.drain(&mut queue);
        assert!(!more.is_empty(), "{mode:?}: it goes on");
    }
    Ok(())
}

/// More than 64 KB in one: a sender with BIG TCP (gso_max_size above 65536) before
/// generic XDP, which hands over super-packets without their segment size.
fn counts_truncated() -> Outcome {
    let wire = Wire::new()?;
    let mut queue = AllQueues(open(&wire, &config(Mode::Generic, 1))?.queues);
    wire.far.links()?.set_gso_max_size("w1", 200_000)?;
    let far = wire.socket()?;
    let large = TcpStream::new(ip6()).segments(45).mss(1440).super_packet();
    let mut large = pending(&large, vnet_gso::TCPV6, 1440);
    large.bytes.resize(100_000, 0x55);
    far.send(&with_header(&large.vnet, &large.bytes))?;
    let small = base().build();
    far.send(&with_header(&VnetHeader::default(), &small))?;
    let mut taker = Taker::new();
    let (_, got) = taker.drain(&mut queue);
    let cut = taker.stats.losses.get(canonical!(RxLoss::Truncated));
    assert_eq!(cut, 1, "{:?}", taker.stats);
    assert_eq!(got.last(), Some(&small), "it goes on");
    Ok(())
}

fn leaves_the_host_its_own() -> Outcome {
    let wire = Wire::new()?;
    let mac = wire.near.links()?.get("w0")?.mac.unwrap_or_default();
    let config = XdpConfig {
        pass: Pass::Host,
        ..config(Mode::Auto, 1)
    };
    let mut queue = AllQueues(open(&wire, &config)?.queues);
    let far = wire.socket()?;
    let from = [2, 0, 0, 0, 0, 0x77];
    let mut arp = base().ethertype(0x0806).payload_len(46).build();
    let to_host = base().macs(mac, from).payload_len(100).build();
    let solicitation = base().macs([0x33, 0x33, 0xff, 1, 2, 3], from).build();
    let kept = [&arp, &to_host, &solicitation];
    let others = [
        base().payload_len(100).build(),
        base().macs([0x33, 0x33, 0, 1, 2, 3], from).build(),
        base().macs([2, 0, 0, 0, 0, 0x99], from).build(),
    ];
    for packet in kept.into_iter().chain(&others) {
        far.send(&with_header(&VnetHeader::default(), packet))?;
    }
    let (_, got) = Taker::new().drain(&mut queue);
    let ours = |bytes: &Vec<u8>| bytes[6..12] == from;
    let got: Vec<_> = got.into_iter().filter(ours).collect();
    assert_eq!(got, others);
    arp.clear();
    Ok(())
}

fn hook_is_free_again() -> Outcome {
    let wire = Wire::new()?;
    let config = config(Mode::Auto, 1);
    let port = open(&wire, &config)?;
    let error = wire.near.run(|| xdp::open(&config))?.expect_err("taken");
    assert!(matches!(error, XdpError::Busy { .. }), "{error}");
    drop(port);
    open(&wire, &config).map(drop)
}

fn outlives_down_and_up() -> Outcome {
    let wire = Wire::new()?;
    let mut queue = AllQueues(open(&wire, &config(Mode::Auto, 1))?.queues);
    let far = wire.socket()?;
    let mut taker = Taker::new();
    let packet = base().build();
    let plain = VnetHeader::default();
    let links = wire.near.links()?;
    links.down("w0")?;
    assert_eq!(taker.drain(&mut queue).0, RxEnd::Drained);
    // The first one finds out.
    let _ = send(&mut queue, &plain, &packet);
    assert_eq!(send(&mut queue, &plain, &packet), Err(TxFault::LinkDown));
    links.up("w0")?;
    // A sender that is told LinkDown has nothing to publish, and asks again all the same.
    assert_eq!(send_only(&mut queue, &plain, &packet), Ok(()));
    assert!(far.recv(Duration::from_secs(1))?.is_some());
    far.send(&with_header(&plain, &packet))?;
    let (end, got) = taker.drain(&mut queue);
    let ours = |bytes: &&Vec<u8>| bytes[6..12] == packet[6..12];
    assert_eq!((end, got.iter().filter(ours).count()), (RxEnd::Drained, 1));
    Ok(())
}

fn errors_say_what_is_wrong() -> Outcome {
    let wire = Wire::new()?;
    open(&wire, &config(Mode::Auto, 1))?;
    let error = |config: &XdpConfig| {
        let port = wire.near.run(|| xdp::open(config)).expect("a thread");
        port.expect_err("it cannot be opened")
    };
    let named = |device: &str| XdpConfig {
        device: device.into(),
        ..config(Mode::Auto, 1)
    };
    assert!(matches!(error(&named("nobody")), XdpError::NoDevice { .. }));
    assert!(matches!(error(&named("lo")), XdpError::NotEthernet { .. }));
    wire.near.links()?.down("w0")?;
    assert!(matches!(error(&named("w0")), XdpError::Down { .. }));
    Ok(())
}
