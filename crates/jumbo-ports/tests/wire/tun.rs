//! TUN against the contract of a queue: packets that begin with their IP header.

use std::time::Duration;

use jumbo_engine::pending::Caps;
use jumbo_engine::vnet::{Form, VnetHeader};
use jumbo_lab::LabTest;
use jumbo_lab::ns::NetNs;
use jumbo_lab::packet_socket::PacketSocket;
use jumbo_ports::conformance::{Peer, Sample, Subject, check};
use jumbo_ports::tap::{self, TapConfig, TapError};
use jumbo_testkit::oracle::{self, VnetForm, vnet_gso};
use jumbo_testkit::script::{TcpStream, UdpStream};
use jumbo_testkit::{Link, PacketBuilder};

use crate::support::{AllQueues, Outcome, with_header};

pub(crate) fn tests() -> Vec<LabTest> {
    vec![
        LabTest::new("tun_keeps_the_contract", keeps_the_contract),
        LabTest::new("tun_is_no_tap", is_no_tap),
    ]
}

fn v4() -> PacketBuilder {
    PacketBuilder::raw_ip().ipv4([10, 9, 8, 7], [10, 9, 8, 6])
}

fn v6() -> PacketBuilder {
    PacketBuilder::raw_ip().ipv6([0x2d; 16], [0x2e; 16])
}

fn pending(packet: &PacketBuilder, kind: u8, size: u16) -> Sample {
    let bytes = packet.clone().partial_checksum().build();
    let header = oracle::VnetHeader::needs_csum(Link::RawIp, &bytes, kind, size);
    let header = header.expect("TCP or UDP").encode(VnetForm::Merged);
    Sample {
        vnet: VnetHeader::decode(Form::Modern12, &header).expect("12 bytes"),
        bytes,
    }
}

fn samples() -> Vec<Sample> {
    let finished = |packet: PacketBuilder| Sample {
        vnet: VnetHeader::default(),
        bytes: packet.build(),
    };
    let tcp = |base| TcpStream::new(base).segments(20).mss(1400).super_packet();
    let udp = UdpStream::new(v4().udp(1, 2)).datagrams(20, 1400, 3);
    vec![
        finished(v4().payload_len(1460)),
        finished(v6().payload_len(1001).timestamps(1, 2)),
        finished(v4().udp(1, 2).payload_len(700)),
        pending(&v4().payload_len(333), vnet_gso::NONE, 0),
        pending(&tcp(v4()), vnet_gso::TCPV4, 1400),
        pending(&tcp(v6()), vnet_gso::TCPV6, 1400),
        pending(&udp.super_packet(), vnet_gso::UDP_L4, 1400),
    ]
}

struct Host {
    ns: NetNs,
    socket: PacketSocket,
}

impl Peer for Host {
    fn put(&mut self, sample: &Sample) {
        let whole = with_header(&sample.vnet, &sample.bytes);
        self.socket.send(&whole).expect("the kernel takes a sample");
    }

    fn put_short(&mut self) -> bool {
        // The kernel puts a whole header before every packet.
        false
    }

    fn taken(&mut self) -> Option<Sample> {
        let whole = self.socket.recv(Duration::from_secs(1));
        let whole = whole.expect("a socket")?;
        let vnet = VnetHeader::decode(Form::Legacy10, &whole).expect("a header");
        Some(Sample {
            vnet: VnetHeader {
                flags: vnet.flags & 1,
                ..vnet
            },
            bytes: whole[Form::Legacy10.len_bytes()..].to_vec(),
        })
    }

    fn vanish(&mut self) {
        let links = self.ns.links().expect("a namespace");
        links.delete("u0").expect("it is there");
    }
}

fn config() -> TapConfig {
    TapConfig {
        device: "u0".into(),
        queues: 1,
        hands: Caps::ALL,
        takes: Caps::ALL,
        mtu: Some(1500),
    }
}

fn subject() -> Subject {
    let ns = NetNs::new().expect("a namespace");
    let port = ns.run(|| tap::open_tun(&config()));
    let port = port.expect("a thread").expect("a TUN");
    assert_eq!(port.info.kind, "tun");
    let socket = PacketSocket::open(&ns, "u0", true).expect("a socket");
    Subject {
        queue: Box::new(AllQueues(port.queues)),
        peer: Box::new(Host { ns, socket }),
        tag: None,
    }
}

fn keeps_the_contract() -> Outcome {
    check(&mut subject, &samples());
    Ok(())
}

fn is_no_tap() -> Outcome {
    let ns = NetNs::new()?;
    let _tap = ns.run(|| tap::open(&config()))??;
    let error = ns
        .run(|| tap::open_tun(&config()))?
        .expect_err("it is a TAP");
    assert!(matches!(error, TapError::OtherKind { wanted: "TUN", .. }));
    Ok(())
}
