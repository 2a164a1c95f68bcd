//! AF_PACKET against the contract of a queue, and against the kernel's whims.

use jumbo_engine::pending::Caps;
use jumbo_engine::vnet::{Form, VnetHeader};
use jumbo_lab::{LabTest, TestError};
use jumbo_ports::conformance::{Subject, check};
use jumbo_ports::packet::{self, Fanout, PacketConfig, PacketError};
use jumbo_ports::queue::{Port, Queue, RxEnd, RxLoss, TxFault};
use jumbo_ports::wrap::fault::{self, Faults};
use jumbo_testkit::oracle::vnet_gso;
use jumbo_testkit::script::TcpStream;

use crate::samples::{base, pending, samples};
use crate::support::{
    AllQueues, FarEnd, Outcome, Served, Taker, Wire, hand_over, send, with_header,
};

pub(crate) fn tests() -> Vec<LabTest> {
    vec![
        LabTest::new("packet_keeps_the_contract", keeps_the_contract),
        LabTest::new(
            "packet_of_several_sockets_keeps_the_contract",
            of_several_sockets,
        ),
        LabTest::new("packet_past_the_qdisc_keeps_the_contract", past_the_qdisc),
        LabTest::new("port_with_faults_keeps_the_contract", with_faults),
        LabTest::new("packet_carries_tags_both_ways", carries_tags),
        LabTest::new(
            "packet_of_full_size_with_two_tags_needs_a_longer_mtu",
            full_size_with_two_tags_needs_a_longer_mtu,
        ),
        LabTest::new("packet_counts_what_the_ring_lost", counts_ring_losses),
        LabTest::new("packet_counts_what_was_cut_off", counts_truncated),
        LabTest::new("packet_does_not_hear_itself", does_not_hear_itself),
        LabTest::new("packet_outlives_down_and_up", outlives_down_and_up),
        LabTest::new(
            "packet_sends_in_order_what_is_short_and_long",
            sends_in_order,
        ),
        LabTest::new("packet_tells_what_a_batch_lost", tells_what_a_batch_lost),
        LabTest::new("packet_undoes_promiscuous_mode", undoes_promiscuous),
        LabTest::new("packet_errors_say_what_is_wrong", errors_say_what_is_wrong),
    ]
}

fn config(queues: usize) -> PacketConfig {
    PacketConfig {
        device: "w0".into(),
        queues,
        takes: Caps::ALL,
        fanout: Fanout::Hash,
        qdisc_bypass: false,
        mtu: None,
    }
}

fn open(wire: &Wire, config: &PacketConfig) -> Result<Port, TestError> {
    Ok(wire.near.run(|| packet::open(config))??)
}

fn subject(config: &PacketConfig) -> Subject {
    let wire = Wire::new().expect("a wire");
    let port = open(&wire, config).expect("a port");
    assert_eq!((port.queues.len(), port.info.mtu), (config.queues, 1500));
    let socket = wire.socket().expect("a socket");
    Subject {
        queue: Box::new(AllQueues(port.queues)),
        peer: Box::new(FarEnd { wire, socket }),
        tag: None,
    }
}

fn keeps_the_contract() -> Outcome {
    check(&mut || subject(&config(1)), &samples());
    Ok(())
}

fn of_several_sockets() -> Outcome {
    for fanout in [Fanout::Hash, Fanout::Queue] {
        let config = PacketConfig {
            fanout,
            ..config(3)
        };
        // Each sample is a flow: order is kept only within one.
        for sample in samples().into_iter().skip(5).step_by(2) {
            check(&mut || subject(&config), &[sample]);
        }
    }
    Ok(())
}

fn past_the_qdisc() -> Outcome {
    let config = PacketConfig {
        qdisc_bypass: true,
        ..config(1)
    };
    check(&mut || subject(&config), &samples());
    Ok(())
}

/// A wrapper that was asked for no faults, and one for a delay that cannot be told from none.
fn with_faults() -> Outcome {
    for faults in [
        Faults::default(),
        "delay:1ns".parse().map_err(TestError::Failed)?,
    ] {
        let mut subject = || {
            let wire = Wire::new().expect("a wire");
            let port = open(&wire, &config(1)).expect("a port");
            let port = fault::wrap(port, faults).expect("a timer");
            let socket = wire.socket().expect("a socket");
            Subject {
                queue: Box::new(Served(port.queues)),
                peer: Box::new(FarEnd { wire, socket }),
                tag: None,
            }
        };
        check(&mut subject, &samples());
    }
    Ok(())
}

fn carries_tags() -> Outcome {
    let wire = Wire::new()?;
    let mut queue = open(&wire, &config(1))?.queues.remove(0);
    let far = wire.socket()?;
    let mut taker = Taker::new();
    let packets = [
        base().vlan(0x8100, 0x6007).payload_len(600).build(),
        base()
            .vlan(0x88a8, 9)
            .vlan(0x8100, 7)
            .payload_len(600)
            .build(),
        base().vlan(0x8100, 7).payload_len(1460).build(),
    ];
    for packet in &packets {
        far.send(&with_header(&VnetHeader::default(), packet))?;
    }
    let (_, got) = taker.drain(&mut *queue);
    let ours = |bytes: &Vec<u8>| bytes[6..12] == packets[0][6..12];
    let got: Vec<_> = got.into_iter().filter(ours).collect();
    assert_eq!(got, packets, "tags are back in their place");
    Ok(())
}

/// The kernel leaves room for one tag beyond the MTU (Linux `net/packet/af_packet.c`
/// `tpacket_snd`, `packet_snd`).
fn full_size_with_two_tags_needs_a_longer_mtu() -> Outcome {
    let wire = Wire::new()?;
    // The other end must take it too.
    wire.far.links()?.set_mtu("w1", 9000)?;
    let mut queue = open(&wire, &config(1))?.queues.remove(0);
    let far = wire.socket()?;
    let full = || base().payload_len(1460);
    let plain = VnetHeader::default();
    let mut arrives = |packet: &[u8]| -> Result<bool, TestError> {
        assert_eq!(send(&mut *queue, &plain, packet), Ok(()));
        assert_eq!(queue.lost(), None);
        for _ in 0..100 {
            match far.recv(std::time::Duration::from_secs(1))? {
                // The receiving kernel takes the outer tag off.
                Some(whole) if whole[10..22] == packet[..12] => {
                    return Ok(whole.len() - 10 == packet.len() - 4);
                }
                Some(_) => {}
                None => return Ok(false),
            }
        }
        Ok(false)
    };
    assert!(arrives(&full().vlan(0x8100, 9).build())?);
    assert!(arrives(&full().vlan(0x88a8, 9).build())?);
    let two = full().vlan(0x8100, 9).vlan(0x8100, 7).build();
    wire.near.links()?.set_mtu("w0", 1508)?;
    assert!(arrives(&two)?);
    wire.near.links()?.set_mtu("w0", 1500)?;
    assert_eq!(send(&mut *queue, &plain, &two), Err(TxFault::TooLong));
    Ok(())
}

fn counts_ring_losses() -> Outcome {
    let wire = Wire::new()?;
    let mut queue = open(&wire, &config(1))?.queues.remove(0);
    let far = wire.socket()?;
    for _ in 0..1500 {
        far.send(&with_header(&VnetHeader::default(), &base().build()))?;
    }
    let mut taker = Taker::new();
    let (_, got) = taker.drain(&mut *queue);
    far.send(&with_header(&VnetHeader::default(), &base().build()))?;
    let (_, more) = taker.drain(&mut *queue);
    let lost = taker.stats.losses.get(canonical!(RxLoss::RingFull));
    let all = (got.len() + more.len()) as u64 + lost;
    assert!(lost > 0 && all >= 1501, "{lost} of {all}");
    Ok(())
}

/// Super-packets wait beside the ring, as many as the socket's buffer takes.
fn counts_truncated() -> Outcome {
    let wire = Wire::new()?;
    let mut queue = open(&wire, &config(1))?.queues.remove(0);
    let far = wire.socket()?;
    let large = pending(
        &TcpStream::new(base()).segments(45).mss(1440).super_packet(),
        vnet_gso::TCPV4,
        1440,
    );
    for _ in 0..1000 {
        far.send(&with_header(&large.vnet, &large.bytes))?;
    }
    let mut taker = Taker::new();
    let (_, got) = taker.drain(&mut *queue);
    let whole = got.iter().filter(|bytes| **bytes == large.bytes).count() as u64;
    let lost = taker.stats.losses.total();
    assert!(whole > 200 && whole + lost >= 1000, "{whole} and {lost}");
    let cut = taker.stats.losses.get(canonical!(RxLoss::Truncated));
    assert!(cut > 0, "{:?}", taker.stats.losses);
    Ok(())
}

fn does_not_hear_itself() -> Outcome {
    let wire = Wire::new()?;
    let mut port = open(&wire, &config(2))?;
    let far = wire.socket()?;
    let mut taker = Taker::new();
    for queue in &mut port.queues {
        assert_eq!(
            send(&mut **queue, &VnetHeader::default(), &base().build()),
            Ok(())
        );
    }
    assert!(far.recv(std::time::Duration::from_secs(1))?.is_some());
    let ours = |bytes: &Vec<u8>| bytes[6..12] == base().build()[6..12];
    for queue in &mut port.queues {
        let (_, heard) = taker.drain(&mut **queue);
        assert_eq!(heard.iter().filter(|bytes| ours(bytes)).count(), 0);
    }
    Ok(())
}

fn outlives_down_and_up() -> Outcome {
    for queues in [1, 2] {
        let wire = Wire::new()?;
        let mut queue = AllQueues(open(&wire, &config(queues))?.queues);
        let far = wire.socket()?;
        let mut taker = Taker::new();
        let packet = with_header(&VnetHeader::default(), &base().build());
        let links = wire.near.links()?;
        links.down("w0")?;
        assert_eq!(taker.drain(&mut queue).0, RxEnd::Drained);
        let sent = send(&mut queue, &VnetHeader::default(), &base().build());
        assert_eq!(sent, Err(TxFault::LinkDown));
        links.up("w0")?;
        links.rename("w0", "w9")?;
        far.send(&packet)?;
        let (end, got) = taker.drain(&mut queue);
        let ours = |bytes: &&Vec<u8>| bytes[6..12] == packet[16..22];
        assert_eq!((end, got.iter().filter(ours).count()), (RxEnd::Drained, 1));
        links.delete("w9")?;
        assert_eq!(taker.drain(&mut queue).0, RxEnd::Gone);
        assert_eq!(taker.drain(&mut queue).0, RxEnd::Gone);
    }
    Ok(())
}

/// More than the transmit ring has slots, with packets between them that take no slot.
fn sends_in_order() -> Outcome {
    let wire = Wire::new()?;
    let mut queue = open(&wire, &config(1))?.queues.remove(0);
    let far = wire.socket()?;
    let large = pending(
        &TcpStream::new(base()).segments(3).mss(1440).super_packet(),
        vnet_gso::TCPV4,
        1440,
    );
    for round in 0..12u16 {
        let mut expected = Vec::new();
        for index in 0..50 {
            let payload_len = usize::from(round * 50 + index) + 7;
            let small = base().payload_len(payload_len).build();
            put(&mut *queue, &VnetHeader::default(), &small)?;
            expected.push(small);
        }
        put(&mut *queue, &large.vnet, &large.bytes)?;
        expected.push(large.bytes.clone());
        let mut got = Vec::new();
        while got.len() < expected.len() {
            let Some(bytes) = far.recv(std::time::Duration::from_secs(1))? else {
                break;
            };
            let bytes = bytes[Form::Legacy10.len_bytes()..].to_vec();
            if bytes[6..12] == large.bytes[6..12] {
                got.push(bytes);
            }
        }
        assert_eq!(got.len(), expected.len(), "round {round}");
        assert!(got == expected, "in order, byte for byte");
    }
    queue.publish();
    assert_eq!(queue.lost(), None);
    Ok(())
}

/// All of a batch are counted, none is sent later.
fn tells_what_a_batch_lost() -> Outcome {
    let wire = Wire::new()?;
    let mut queue = open(&wire, &config(1))?.queues.remove(0);
    let far = wire.socket()?;
    let links = wire.near.links()?;
    links.down("w0")?;
    let stale = base().payload_len(99).build();
    for _ in 0..10 {
        put(&mut *queue, &VnetHeader::default(), &stale)?;
    }
    queue.publish();
    assert_eq!(queue.lost(), Some((TxFault::LinkDown, 10)));
    assert_eq!(queue.lost(), None);
    links.up("w0")?;
    // A queue that was down still knows: the first call may say so once more.
    let fresh = base().payload_len(300).build();
    for _ in 0..2 {
        let _ = send(&mut *queue, &VnetHeader::default(), &fresh);
    }
    let mut seen = 0;
    while let Some(bytes) = far.recv(std::time::Duration::from_millis(300))? {
        assert!(bytes[Form::Legacy10.len_bytes()..] != stale, "stale");
        seen += usize::from(bytes[Form::Legacy10.len_bytes()..] == fresh);
    }
    assert!(seen > 0, "it sends again");
    Ok(())
}

/// Hands one packet over without having it sent.
fn put(queue: &mut dyn Queue, vnet: &VnetHeader, bytes: &[u8]) -> Outcome {
    let put = hand_over(queue, vnet, bytes);
    put.map_err(|fault| TestError::Failed(format!("{fault:?}")))
}

fn undoes_promiscuous() -> Outcome {
    let wire = Wire::new()?;
    let read = |name: &str| -> Result<u32, TestError> {
        let path = format!("/sys/class/net/{name}/flags");
        let text = wire
            .near
            .run_with_sysfs(|| std::fs::read_to_string(&path))??;
        let digits = text.trim().trim_start_matches("0x");
        u32::from_str_radix(digits, 16).map_err(TestError::from)
    };
    let port = open(&wire, &config(2))?;
    // The count is not in the flags that sysfs shows; the device's own are.
    let promiscuity = || -> Result<String, TestError> {
        let packet = wire
            .near
            .run(|| std::fs::read_to_string("/proc/thread-self/net/packet"))??;
        Ok(packet)
    };
    assert_eq!(
        promiscuity()?.lines().count(),
        5,
        "a headline, and two sockets a queue"
    );
    drop(port);
    assert_eq!(promiscuity()?.lines().count(), 1);
    assert_eq!(read("w0")? & 0x100, 0);
    Ok(())
}

fn errors_say_what_is_wrong() -> Outcome {
    let wire = Wire::new()?;
    let error = |config: &PacketConfig| {
        let port = wire.near.run(|| packet::open(config)).expect("a thread");
        port.expect_err("it cannot be opened")
    };
    let named = |device: &str| PacketConfig {
        device: device.into(),
        ..config(2)
    };
    assert!(matches!(
        error(&named("nobody")),
        PacketError::NoDevice { .. }
    ));
    assert!(matches!(
        error(&named("lo")),
        PacketError::NotEthernet { .. }
    ));
    wire.near.links()?.down("w0")?;
    assert!(matches!(error(&named("w0")), PacketError::Down { .. }));
    Ok(())
}
