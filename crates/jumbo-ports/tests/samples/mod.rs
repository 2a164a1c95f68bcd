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

/// The same in VXLAN and Geneve: what a header of 24 bytes can say. Of the longest headers there are,
/// so that a port that looks at too few of them is found out.
pub(crate) fn tunnelled() -> Vec<Sample> {
    let mut samples = samples();
    for outer_v6 in [false, true] {
        for inner_v6 in [false, true] {
            for (port, options_len) in [(4789, 0), (6081, 8)] {
                for csum in [false, true] {
                    samples.push(in_tunnel(outer_v6, inner_v6, port, options_len, csum));
                }
            }
        }
    }
    samples
}

fn in_tunnel(outer_v6: bool, inner_v6: bool, port: u16, options_len: usize, csum: bool) -> Sample {
    let inner = PacketBuilder::ethernet().macs([6; 6], [4; 6]);
    let inner = match inner_v6 {
        true => inner.ipv6([1; 16], [2; 16]),
        false => inner,
    };
    let inner = inner.timestamps(1, 2).payload_len(20_001);
    let inner = inner.partial_checksum().build();
    let shim = match port {
        4789 => vec![8, 0, 0, 0, 0, 0, 42, 0],
        _ => {
            let head = [(options_len / 4) as u8, 0, 0x65, 0x58, 0, 0, 42, 0];
            [&head[..], &vec![1; options_len]].concat()
        }
    };
    let body = [&shim[..], &inner].concat();
    let outer = if outer_v6 { ip6() } else { base().id(7) };
    let outer = outer.udp(51234, port).payload(&body);
    let outer = match csum {
        true => outer.partial_checksum(),
        false => outer.no_checksum(),
    };
    let outer_th = 14 + if outer_v6 { 40 } else { 20 };
    let inner_nh = outer_th + 8 + shim.len() as u16 + 14;
    let vnet = VnetHeader {
        flags: if csum { 1 | 8 } else { 1 },
        gso_type: if inner_v6 { 4 } else { 1 } | if outer_v6 { 0x40 } else { 0x20 },
        gso_size: 1200,
        csum_start: inner_nh + if inner_v6 { 40 } else { 20 },
        csum_offset: 16,
        outer_th_offset: outer_th,
        inner_nh_offset: inner_nh,
        ..VnetHeader::default()
    };
    Sample {
        vnet,
        bytes: outer.build(),
    }
}
