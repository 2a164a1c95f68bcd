//! Scripts, segmentation, reassembly and `virtio_net_hdr`, held against each other.

use jumbo_testkit::oracle::{
    Gso, GsoKind, VnetForm, VnetHash, VnetHeader, complete_checksum, parse, segment, stream_bytes,
    verify, verify_ipv4_header, verify_partial, vnet_flags, vnet_gso,
};
use jumbo_testkit::script::{IpId, TcpStream, UdpStream, interleave};
use jumbo_testkit::{Extension, Link, PacketBuilder, pattern, tcp_flags};
use proptest::prelude::*;

const V6_SRC: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const V6_DST: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
const TCP: GsoKind = GsoKind::Tcp {
    fixed_id: false,
    accecn: false,
};

fn cut(link: Link, packet: &[u8], kind: GsoKind, size: usize) -> Vec<Vec<u8>> {
    segment(link, packet, Gso { kind, size }).unwrap()
}

prop_compose! {
    fn stream()(
        ether: bool,
        v6: bool,
        tagged: bool,
        segments in 1usize..20,
        mss in 1usize..1500,
        last in 0usize..1500,
        seq: u32,
        id: u16,
        timestamps: Option<(u32, u32)>,
        push: bool,
        fin: bool,
    ) -> TcpStream {
        let base = if ether { PacketBuilder::ethernet() } else { PacketBuilder::raw_ip() };
        let base = if tagged { base.vlan(0x8100, 42) } else { base };
        let base = if v6 { base.ipv6(V6_SRC, V6_DST) } else { base };
        let last = last % mss + 1;
        let stream =
            TcpStream::new(base).segments(segments).mss(mss).last_len(last).seq(seq).ids(IpId::Increment(id));
        let stream = match timestamps {
            Some((value, echo)) => stream.timestamps(value, echo),
            None => stream,
        };
        let stream = if push { stream.push_last() } else { stream };
        if fin { stream.fin_last() } else { stream }
    }
}

proptest! {
    /// Two ways to the same bytes: the sender cuts, or the super-packet is cut.
    #[test]
    fn segmented_super_packet_is_the_script(stream in stream(), partial: bool) {
        let packets = stream.packets();
        let size = parse(stream.link(), &packets[0]).unwrap().payload(&packets[0]).len();
        let super_packet = stream.super_packet();
        let super_packet = if partial { super_packet.partial_checksum() } else { super_packet };
        prop_assert_eq!(&cut(stream.link(), &super_packet.build(), TCP, size), &packets);
        for packet in &packets {
            verify(stream.link(), packet).unwrap();
        }
        prop_assert_eq!(stream_bytes(stream.link(), &packets).unwrap(), stream.payload());
    }

    #[test]
    fn segmented_datagrams_are_the_script(
        v6: bool,
        count in 1usize..20,
        size in 1usize..1400,
        last in 0usize..1400,
        id: u16,
    ) {
        let base = PacketBuilder::ethernet().udp(1, 2);
        let base = if v6 { base.ipv6(V6_SRC, V6_DST) } else { base };
        let stream = UdpStream::new(base).datagrams(count, size, last % size + 1).ids(IpId::Increment(id));
        let super_packet = stream.super_packet().partial_checksum().build();
        prop_assert_eq!(cut(Link::Ethernet, &super_packet, GsoKind::UdpL4, size), stream.packets());
    }

    /// A partial checksum, completed, is the right one.
    #[test]
    fn completed_partial_is_right(v6: bool, udp: bool, len in 0usize..3000) {
        let base = PacketBuilder::ethernet().vlan(0x8100, 1).payload_len(len);
        let base = if v6 { base.ipv6(V6_SRC, V6_DST) } else { base };
        let base = if udp { base.udp(1, 2) } else { base };
        let mut packet = base.clone().partial_checksum().build();
        verify_partial(Link::Ethernet, &packet).unwrap();
        let vnet = VnetHeader::needs_csum(Link::Ethernet, &packet, vnet_gso::NONE, 0).unwrap();
        prop_assert_eq!(vnet.csum_start, if v6 { 58 } else { 38 });
        complete_checksum(&mut packet, vnet.csum_start.into(), vnet.csum_offset.into(), udp);
        prop_assert_eq!(packet, base.build());
    }

    #[test]
    fn vnet_header_round_trip(
        bytes: (u8, u8),
        words: (u16, u16, u16, u16, u16),
        value: u32,
        report: u16,
    ) {
        let header = VnetHeader {
            flags: bytes.0,
            gso_type: bytes.1,
            hdr_len: words.0,
            gso_size: words.1,
            csum_start: words.2,
            csum_offset: words.3,
            num_buffers: words.4,
            hash: VnetHash { value, report },
        };
        let merged = VnetHeader { hash: VnetHash::default(), ..header };
        let plain = VnetHeader { num_buffers: 0, ..merged };
        for (form, expected) in
            [(VnetForm::Plain, plain), (VnetForm::Merged, merged), (VnetForm::Hashed, header)]
        {
            let bytes = header.encode(form);
            prop_assert_eq!(bytes.len(), form.len_bytes());
            prop_assert_eq!(VnetHeader::decode(form, &bytes), Some(expected));
            prop_assert_eq!(VnetHeader::decode(form, &bytes[1..]), None);
        }
    }
}

/// The layout of virtio 1.3 section 5.1.6, byte by byte.
#[test]
fn vnet_header_bytes() {
    let header = VnetHeader {
        flags: vnet_flags::NEEDS_CSUM,
        gso_type: vnet_gso::TCPV4 | vnet_gso::ECN,
        hdr_len: 66,
        gso_size: 1448,
        csum_start: 34,
        csum_offset: 16,
        num_buffers: 3,
        hash: VnetHash {
            value: 0x0403_0201,
            report: 2,
        },
    };
    let bytes = [
        1, 0x81, 66, 0, 0xa8, 5, 34, 0, 16, 0, 3, 0, 1, 2, 3, 4, 2, 0, 0, 0,
    ];
    assert_eq!(header.encode(VnetForm::Hashed), bytes);
}

/// FIN and PSH only on the last, CWR only on the first, everything else on all.
#[test]
fn tcp_flags_and_ids() {
    use tcp_flags::{ACK, CWR, ECE, FIN, PSH};
    let packet = PacketBuilder::ethernet()
        .flags(ACK | PSH | FIN | CWR | ECE)
        .id(0xffff)
        .seq(0xffff_fff0)
        .timestamps(7, 8)
        .payload_len(250)
        .partial_checksum()
        .build();
    let told = |kind| -> Vec<(u16, u16, u32)> {
        let segments = cut(Link::Ethernet, &packet, kind, 100);
        let told = segments.iter().map(|bytes| {
            verify(Link::Ethernet, bytes).unwrap();
            let parsed = parse(Link::Ethernet, bytes).unwrap();
            let tcp = parsed.tcp().unwrap();
            assert_eq!(tcp.timestamps(), Some((7, 8)));
            (parsed.ipv4().unwrap().id, tcp.flags, tcp.seq)
        });
        told.collect()
    };
    let expected = [
        (0xffff, ACK | CWR | ECE, 0xffff_fff0),
        (0, ACK | ECE, 0x54),
        (1, ACK | ECE | FIN | PSH, 0xb8),
    ];
    assert_eq!(told(TCP), expected);

    let other = told(GsoKind::Tcp {
        fixed_id: true,
        accecn: true,
    });
    assert_eq!(
        other.iter().map(|(id, ..)| *id).collect::<Vec<_>>(),
        [0xffff; 3]
    );
    assert!(other.iter().all(|(_, flags, _)| flags & CWR != 0));
}

#[test]
fn big_tcp_super_packet() {
    let stream = TcpStream::new(PacketBuilder::raw_ip().ipv6(V6_SRC, V6_DST)).segments(100);
    let super_packet = stream.super_packet().partial_checksum().build();
    assert!(super_packet.len() > 0xffff);
    assert_eq!(cut(Link::RawIp, &super_packet, TCP, 1448), stream.packets());
}

#[test]
fn ufo_over_ipv4() {
    let base = PacketBuilder::ethernet()
        .udp(1, 2)
        .id(77)
        .df(false)
        .payload_len(3000);
    let whole = base.build();
    let fragments = cut(
        Link::Ethernet,
        &base.partial_checksum().build(),
        GsoKind::Ufo { ipv6_id: 0 },
        1480,
    );
    let told: Vec<_> = fragments
        .iter()
        .map(|bytes| {
            verify_ipv4_header(Link::Ethernet, bytes).unwrap();
            let ip = parse(Link::Ethernet, bytes)
                .unwrap()
                .ipv4()
                .unwrap()
                .clone();
            (ip.total_len, ip.id, ip.fragment.offset, ip.fragment.more)
        })
        .collect();
    assert_eq!(
        told,
        [
            (1500, 77, 0, true),
            (1500, 77, 1480, true),
            (68, 77, 2960, false)
        ]
    );
    let datagram: Vec<u8> = fragments
        .iter()
        .flat_map(|bytes| bytes[34..].to_vec())
        .collect();
    assert_eq!(datagram, whole[34..]);
}

#[test]
fn ufo_over_ipv6() {
    let base = PacketBuilder::raw_ip()
        .ipv6(V6_SRC, V6_DST)
        .extension(Extension::HopByHop(vec![1, 4, 0, 0, 0, 0]))
        .udp(1, 2)
        .payload_len(2000);
    let fragments = cut(
        Link::RawIp,
        &base.build(),
        GsoKind::Ufo { ipv6_id: 0xabcd },
        1200,
    );
    let mut datagram: Vec<u8> = Vec::new();
    for (index, bytes) in fragments.iter().enumerate() {
        let parsed = parse(Link::RawIp, bytes).unwrap();
        let ip = parsed.ipv6().unwrap();
        let fragment = ip.fragment.unwrap();
        assert_eq!(
            (fragment.id, fragment.offset, fragment.more),
            (0xabcd, index * 1200, index == 0)
        );
        assert_eq!((ip.next, ip.proto), (0, 17));
        datagram.extend(&bytes[40 + 8 + 8..]);
    }
    assert_eq!(datagram, base.build()[48..]);
    assert_eq!(fragments.len(), 2);
}

#[test]
fn what_cannot_be_segmented() {
    let tcp = PacketBuilder::ethernet().payload_len(100).build();
    let gso = |kind, size| segment(Link::Ethernet, &tcp, Gso { kind, size });
    assert!(gso(TCP, 0).is_err());
    assert!(gso(GsoKind::UdpL4, 10).is_err());
    assert_eq!(gso(TCP, 100).unwrap(), std::slice::from_ref(&tcp));

    let udp = PacketBuilder::ethernet().udp(1, 2).payload_len(100).build();
    let ufo = Gso {
        kind: GsoKind::Ufo { ipv6_id: 1 },
        size: 12,
    };
    assert!(segment(Link::Ethernet, &udp, ufo).is_err());
}

/// Order does not matter to reassembly; a gap, a contradiction and a stranger do.
#[test]
fn reassembly() {
    let stream = TcpStream::new(PacketBuilder::ethernet())
        .segments(5)
        .mss(100)
        .seq(0xffff_ff80);
    let bytes = |packets: &[Vec<u8>]| stream_bytes(Link::Ethernet, packets);
    let mut packets = stream.packets();
    packets.reverse();
    assert_eq!(bytes(&packets).unwrap(), stream.payload());
    packets.push(packets[2].clone());
    assert_eq!(bytes(&packets).unwrap(), stream.payload());

    let gap = [packets[0].clone(), packets[2].clone()];
    assert!(bytes(&gap).unwrap_err().to_string().contains("missing"));

    let contradiction = stream.packet(1).payload(&[0; 100]).build();
    assert!(
        bytes(&[packets[3].clone(), contradiction])
            .unwrap_err()
            .to_string()
            .contains("disagree")
    );

    let stranger = stream.packet(1).tcp(1, 1).build();
    assert!(
        bytes(&[packets[3].clone(), stranger])
            .unwrap_err()
            .to_string()
            .contains("flows")
    );
}

#[test]
fn scripts_in_detail() {
    let stream = TcpStream::new(PacketBuilder::ethernet())
        .segments(3)
        .mss(10)
        .timestamps(u32::MAX, 5)
        .timestamp_step(1)
        .first_flags(tcp_flags::CWR)
        .push_last()
        .fin_last()
        .payload_at(1000)
        .ids(IpId::Random(1));
    let parsed: Vec<_> = stream
        .packets()
        .iter()
        .map(|bytes| parse(Link::Ethernet, bytes).unwrap())
        .collect();
    let ack = tcp_flags::ACK;
    let flags: Vec<_> = parsed
        .iter()
        .map(|packet| packet.tcp().unwrap().flags)
        .collect();
    assert_eq!(
        flags,
        [
            ack | tcp_flags::CWR,
            ack,
            ack | tcp_flags::PSH | tcp_flags::FIN
        ]
    );
    let values: Vec<_> = parsed
        .iter()
        .map(|packet| packet.tcp().unwrap().timestamps())
        .collect();
    assert_eq!(values, [Some((u32::MAX, 5)), Some((0, 5)), Some((1, 5))]);
    assert_eq!(stream.payload(), pattern(1000, 30));
    let ids: Vec<_> = parsed
        .iter()
        .map(|packet| packet.ipv4().unwrap().id)
        .collect();
    assert!(
        ids[0] != ids[1] && ids[1].wrapping_sub(ids[0]) != 1,
        "{ids:?}"
    );

    let short = vec![vec![1]];
    let long = vec![vec![2], vec![3]];
    assert_eq!(interleave(vec![short, long]), [[1], [2], [3]]);
}
