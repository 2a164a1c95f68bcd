//! Packets of all kinds, with one source address.
#![allow(dead_code, reason = "each test binary uses its part")]

use jumbo_engine::vnet::{Form, VnetHeader};
use jumbo_ports::conformance::Sample;
use jumbo_testkit::oracle::{self, VnetForm, vnet_gso};
use jumbo_testkit::script::{TcpStream, UdpStream};
use jumbo_testkit::{Link, PacketBuilder};

pub(crate) fn base() -> PacketBuilder {
    PacketBuilder::ethernet().macs([0xff; 6], [2, 0, 0, 0, 0, 0x77])
}

pub(crate) fn ip6() -> PacketBuilder {
    base().ipv6([0xfd; 16], [0xfe; 16])
}

pub(crate) fn finished(packet: &PacketBuilder) -> Sample {
    Sample {
        vnet: VnetHeader::default(),
        bytes: packet.build(),
    }
}

pub(crate) fn pending(packet: &PacketBuilder, kind: u8, size: u16) -> Sample {
    let bytes = packet.clone().partial_checksum().build();
    let header = oracle::VnetHeader::needs_csum(Link::Ethernet, &bytes, kind, size);
    let header = header.expect("TCP or UDP").encode(VnetForm::Merged);
    Sample {
        vnet: VnetHeader::decode(Form::Modern12, &header).expect("12 bytes"),
        bytes,
    }
}

pub(crate) fn samples() -> Vec<Sample> {
    let tcp = |base| TcpStream::new(base).segments(20).mss(1400).super_packet();
    let udp = |base: PacketBuilder| {
        UdpStream::new(base.udp(1, 2))
            .datagrams(20, 1400, 3)
            .super_packet()
    };
    vec![
        finished(&base().ethertype(0x88b5).payload_len(46)),
        finished(&base().payload_len(1460)),
        finished(&ip6().payload_len(1001).timestamps(1, 2)),
        finished(&base().udp(1, 2).payload_len(700)),
        pending(&base().payload_len(333), vnet_gso::NONE, 0),
        pending(&ip6().udp(1, 2).payload_len(334), vnet_gso::NONE, 0),
        pending(&tcp(base()), vnet_gso::TCPV4, 1400),
        pending(&tcp(ip6()), vnet_gso::TCPV6, 1400),
        pending(&udp(base()), vnet_gso::UDP_L4, 1400),
        pending(&udp(ip6()), vnet_gso::UDP_L4, 1400),
    ]
}
