//! AF_XDP against the contract of a queue, and the hook it sits on.

use std::time::Duration;

use jumbo_engine::pending::Csum;
use jumbo_engine::vnet::VnetHeader;
use jumbo_lab::{LabTest, TestError, skip};
use jumbo_ports::conformance::{Sample, Subject, check};
use jumbo_ports::queue::{Port, RxEnd, TxFault};
use jumbo_ports::xdp::{self, Mode, Pass, XdpConfig, XdpError};
use jumbo_testkit::oracle::vnet_gso;

use crate::samples::{base, ip6, pending, samples};
use crate::support::{AllQueues, FarEnd, Outcome, Taker, Wire, send, with_header};

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
    }
}

fn open(wire: &Wire, config: &XdpConfig) -> Result<Port, TestError> {
    match wire.near.run(|| xdp::open(config))? {
        Err(error @ XdpError::NotPermitted { .. }) => Err(skip(error)),
        port => Ok(port?),
    }
}

/// What the port takes: finished packets.
fn finished() -> Vec<Sample> {
    let whole = |sample: &Sample| sample.vnet == VnetHeader::default();
    samples().into_iter().filter(whole).collect()
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
    conforms(&config(Mode::Native, 1), &finished())
}

fn generic() -> Outcome {
    conforms(&config(Mode::Generic, 1), &finished())
}

fn more_workers() -> Outcome {
    for sample in finished() {
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
        assert_eq!(found, [true, true, false], "{mode:?}");
    }
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
    let _ = send(&mut queue, &plain, &packet);
    assert_eq!(send(&mut queue, &plain, &packet), Ok(()));
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
