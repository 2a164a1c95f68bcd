//! The builder and the parser, held against etherparse.

use etherparse::{NetHeaders, PacketHeaders, TcpHeader, TransportHeader, UdpHeader};
use jumbo_testkit::oracle::{Net, Transport, parse, verify, verify_ipv4_header, verify_l4};
use jumbo_testkit::oracle::{checksum, verify_partial};
use jumbo_testkit::{ArpPacket, Extension, Link, PacketBuilder};
use proptest::prelude::*;

const V6_SRC: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const V6_DST: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

fn flags_of(tcp: &TcpHeader) -> u16 {
    let bits = [
        tcp.fin, tcp.syn, tcp.rst, tcp.psh, tcp.ack, tcp.urg, tcp.ece, tcp.cwr, tcp.ns,
    ];
    bits.iter()
        .enumerate()
        .map(|(at, bit)| u16::from(*bit) << at)
        .sum()
}

/// What etherparse computes for the checksum field of TCP or UDP.
fn their_l4_checksum(packet: &PacketHeaders<'_>) -> u16 {
    let payload = packet.payload.slice();
    let check = match (
        packet.net.as_ref().unwrap(),
        packet.transport.as_ref().unwrap(),
    ) {
        (NetHeaders::Ipv4(ip, _), TransportHeader::Tcp(tcp)) => tcp.calc_checksum_ipv4(ip, payload),
        (NetHeaders::Ipv4(ip, _), TransportHeader::Udp(udp)) => udp.calc_checksum_ipv4(ip, payload),
        (NetHeaders::Ipv6(ip, _), TransportHeader::Tcp(tcp)) => tcp.calc_checksum_ipv6(ip, payload),
        (NetHeaders::Ipv6(ip, _), TransportHeader::Udp(udp)) => udp.calc_checksum_ipv6(ip, payload),
        other => panic!("{other:?}"),
    };
    check.unwrap()
}

/// Everything etherparse finds in a packet of TCP or UDP is what the oracle finds.
fn assert_same(link: Link, bytes: &[u8]) {
    let ours = parse(link, bytes).unwrap();
    let theirs = match link {
        Link::Ethernet => PacketHeaders::from_ethernet_slice(bytes).unwrap(),
        Link::RawIp => PacketHeaders::from_ip_slice(bytes).unwrap(),
    };
    assert_eq!(ours.payload(bytes), theirs.payload.slice());
    if let Some(ether) = &ours.ether {
        let header = theirs.link.clone().unwrap().ethernet2().unwrap();
        assert_eq!((ether.dst, ether.src), (header.destination, header.source));
        let ids: Vec<u16> = theirs.vlan_ids().iter().map(|id| id.value()).collect();
        assert_eq!(
            ours.tags
                .iter()
                .map(|(_, tci)| tci & 0xfff)
                .collect::<Vec<_>>(),
            ids
        );
    }
    match (&ours.net, theirs.net.as_ref().unwrap()) {
        (Net::Ipv4(ours), NetHeaders::Ipv4(theirs, _)) => {
            assert_eq!((ours.src, ours.dst), (theirs.source, theirs.destination));
            assert_eq!(ours.total_len, theirs.total_len);
            assert_eq!(ours.header_len, theirs.header_len());
            assert_eq!(ours.tos, theirs.dscp.value() << 2 | theirs.ecn.value());
            assert_eq!(ours.ttl, theirs.time_to_live);
            assert_eq!(ours.id, theirs.identification);
            assert_eq!(ours.df, theirs.dont_fragment);
            assert_eq!(ours.fragment.more, theirs.more_fragments);
            assert_eq!(
                ours.fragment.offset,
                usize::from(theirs.fragment_offset.byte_offset())
            );
            assert_eq!(ours.options, theirs.options.as_slice());
            assert_eq!(ours.check, theirs.calc_header_checksum());
        }
        (Net::Ipv6(ours), NetHeaders::Ipv6(theirs, _)) => {
            assert_eq!((ours.src, ours.dst), (theirs.source, theirs.destination));
            assert_eq!(ours.traffic_class, theirs.traffic_class);
            assert_eq!(ours.flow_label, theirs.flow_label.value());
            assert_eq!(ours.payload_len, theirs.payload_length);
            assert_eq!(ours.next, theirs.next_header.0);
            assert_eq!(ours.hop_limit, theirs.hop_limit);
        }
        other => panic!("{other:?}"),
    }
    match (&ours.transport, theirs.transport.as_ref().unwrap()) {
        (Transport::Tcp(ours), TransportHeader::Tcp(theirs)) => assert_same_tcp(ours, theirs),
        (Transport::Udp(ours), TransportHeader::Udp(theirs)) => assert_same_udp(ours, theirs),
        other => panic!("{other:?}"),
    }
    let found = match &ours.transport {
        Transport::Tcp(tcp) => tcp.check,
        Transport::Udp(udp) => udp.check,
        other => panic!("{other:?}"),
    };
    assert_eq!(found, their_l4_checksum(&theirs));
    verify(link, bytes).unwrap();
}

fn assert_same_tcp(ours: &jumbo_testkit::oracle::Tcp, theirs: &TcpHeader) {
    assert_eq!(
        (ours.src_port, ours.dst_port),
        (theirs.source_port, theirs.destination_port)
    );
    assert_eq!(
        (ours.seq, ours.ack),
        (theirs.sequence_number, theirs.acknowledgment_number)
    );
    assert_eq!(
        (ours.window, ours.urgent),
        (theirs.window_size, theirs.urgent_pointer)
    );
    assert_eq!(ours.flags & 0x1ff, flags_of(theirs));
    assert_eq!(ours.header_len, theirs.header_len());
    assert_eq!(ours.options, theirs.options.as_slice());
}

fn assert_same_udp(ours: &jumbo_testkit::oracle::Udp, theirs: &UdpHeader) {
    assert_eq!(
        (ours.src_port, ours.dst_port),
        (theirs.source_port, theirs.destination_port)
    );
    assert_eq!(ours.len, theirs.length);
}

prop_compose! {
    fn builder()(
        ether: bool,
        tags in proptest::collection::vec((prop_oneof![Just(0x8100u16), Just(0x88A8)], any::<u16>()), 0..3),
        v6: bool,
        udp: bool,
        ports: (u16, u16),
        numbers: (u32, u32),
        words: (u16, u16, u16),
        flags in 0u16..0x200,
        bytes: (u8, u8),
        df: bool,
        label in 0u32..1 << 20,
        ip_options in proptest::collection::vec(Just(1u8), 0..40),
        tcp_options in proptest::collection::vec(Just(1u8), 0..40),
        payload in proptest::collection::vec(any::<u8>(), 0..2000),
        addresses: ([u8; 4], [u8; 4], [u8; 16], [u8; 16]),
    ) -> PacketBuilder {
        let builder = if ether { PacketBuilder::ethernet() } else { PacketBuilder::raw_ip() };
        let builder = tags.iter().fold(builder, |builder, (tpid, tci)| builder.vlan(*tpid, *tci));
        let builder = match v6 {
            true => builder.ipv6(addresses.2, addresses.3).flow_label(label),
            false => builder.ipv4(addresses.0, addresses.1).ip_options(&ip_options),
        };
        let builder = builder.tos(bytes.0).ttl(bytes.1).id(words.0).df(df).payload(&payload);
        match udp {
            true => builder.udp(ports.0, ports.1),
            false => builder
                .tcp(ports.0, ports.1)
                .seq(numbers.0)
                .ack(numbers.1)
                .window(words.1)
                .urgent(words.2)
                .flags(flags)
                .tcp_options(&tcp_options),
        }
    }
}

proptest! {
    #[test]
    fn any_packet_is_what_etherparse_sees(builder in builder()) {
        assert_same(builder.link(), &builder.build());
    }

    /// And with padding behind it.
    #[test]
    fn padding_is_not_payload(builder in builder(), trailing in proptest::collection::vec(any::<u8>(), 1..64)) {
        assert_same(builder.link(), &builder.trailing(&trailing).build());
    }

    #[test]
    fn a_bad_checksum_is_found(builder in builder()) {
        let bytes = builder.clone().bad_checksum().build();
        // UDP over IPv4: zero is no bad checksum, it is none.
        let none = parse(builder.link(), &bytes).unwrap().udp().is_some_and(|udp| udp.check == 0);
        prop_assume!(!none);
        prop_assert!(verify_l4(builder.link(), &bytes).is_err());
        prop_assert!(verify_partial(builder.link(), &builder.partial_checksum().build()).is_ok());
    }

    /// No input makes the parser panic.
    #[test]
    fn any_bytes_are_parsed_or_not(
        builder in builder(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        end in any::<prop::sample::Index>(),
    ) {
        let mut bytes = builder.build();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(end.index(bytes.len() + 1));
        let _ = parse(builder.link(), &bytes);
        let _ = verify(builder.link(), &bytes);
    }

    /// The oracle's checksum folds by a remainder; etherparse's is a third way to do it.
    #[test]
    fn checksum_is_etherparses(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
        let theirs = etherparse::checksum::Sum16BitWords::new().add_slice(&bytes);
        prop_assert_eq!(checksum(&bytes), theirs.ones_complement().to_be());
    }
}

/// The builder gives the very bytes that etherparse's does.
#[test]
fn builds_what_etherparse_builds() {
    let payload = jumbo_testkit::pattern(0, 777);
    let mut theirs = Vec::new();
    etherparse::PacketBuilder::ethernet2([1; 6], [2; 6])
        .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 33)
        .tcp(1234, 80, 0xdead_beef, 4096)
        .ack(77)
        .psh()
        .options_raw(&[1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 8])
        .unwrap()
        .write(&mut theirs, &payload)
        .unwrap();
    let ours = PacketBuilder::ethernet()
        .macs([2; 6], [1; 6])
        .ipv4([10, 0, 0, 1], [10, 0, 0, 2])
        .ttl(33)
        .tcp(1234, 80)
        .seq(0xdead_beef)
        .ack(77)
        .flags(0x18)
        .window(4096)
        .timestamps(9, 8)
        .payload(&payload)
        .build();
    assert_eq!(ours, theirs);
    let parsed = parse(Link::Ethernet, &ours).unwrap();
    assert_eq!(parsed.tcp().unwrap().timestamps(), Some((9, 8)));
}

#[test]
fn extension_headers() {
    let bytes = PacketBuilder::ethernet()
        .ipv6(V6_SRC, V6_DST)
        .extension(Extension::HopByHop(vec![5, 2, 0, 0]))
        .extension(Extension::Routing(vec![4, 0, 0, 0, 0, 0]))
        .extension(Extension::Fragment {
            offset: 0,
            more: false,
            id: 0x1234_5678,
        })
        .extension(Extension::Destination(vec![
            1, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ]))
        .udp(1, 2)
        .payload_len(100)
        .build();
    assert_same(Link::Ethernet, &bytes);

    let parsed = parse(Link::Ethernet, &bytes).unwrap();
    let ip = parsed.ipv6().unwrap();
    let numbers: Vec<_> = ip
        .extensions
        .iter()
        .map(|(number, bytes)| (*number, bytes.len()))
        .collect();
    assert_eq!(numbers, [(0, 8), (43, 8), (44, 8), (60, 16)]);
    assert_eq!(ip.fragment.unwrap().id, 0x1234_5678);

    let theirs = PacketHeaders::from_ethernet_slice(&bytes).unwrap();
    let Some(NetHeaders::Ipv6(_, theirs)) = theirs.net else {
        panic!("not IPv6")
    };
    assert!(theirs.hop_by_hop_options.is_some());
    assert!(theirs.routing.unwrap().final_destination_options.is_some());
    assert_eq!(theirs.fragment.unwrap().identification, 0x1234_5678);
}

#[test]
fn arp_is_what_etherparse_sees() {
    let arp = ArpPacket {
        operation: 1,
        sender_mac: [2, 0, 0, 0, 0, 9],
        sender_ip: [10, 0, 0, 1],
        target_mac: [0; 6],
        target_ip: [10, 0, 0, 2],
    };
    let bytes = PacketBuilder::ethernet()
        .macs([0xff; 6], arp.sender_mac)
        .arp(arp)
        .pad_to_minimum()
        .build();
    assert_eq!(bytes.len(), 60);

    let theirs = PacketHeaders::from_ethernet_slice(&bytes).unwrap();
    let Some(NetHeaders::Arp(theirs)) = theirs.net else {
        panic!("not ARP")
    };
    let theirs = theirs.try_eth_ipv4().unwrap();
    assert_eq!(theirs.operation.0, 1);
    assert_eq!(
        (theirs.sender_mac, theirs.sender_ipv4),
        (arp.sender_mac, arp.sender_ip)
    );
    assert_eq!(
        (theirs.target_mac, theirs.target_ipv4),
        (arp.target_mac, arp.target_ip)
    );

    let Net::Arp(ours) = parse(Link::Ethernet, &bytes).unwrap().net else {
        panic!("not ARP")
    };
    assert_eq!(ours.sender_ip, arp.sender_ip);
    assert_eq!(ours.target_ip, arp.target_ip);
}

#[test]
fn a_bad_ip_checksum_is_found() {
    let bytes = PacketBuilder::raw_ip()
        .bad_ip_checksum()
        .payload_len(10)
        .build();
    assert!(verify_ipv4_header(Link::RawIp, &bytes).is_err());
    assert!(verify_l4(Link::RawIp, &bytes).is_ok());
    assert!(verify(Link::RawIp, &bytes).is_err());
}

#[test]
fn udp_may_do_without_over_ipv4_only() {
    let udp = PacketBuilder::raw_ip()
        .udp(1, 2)
        .payload_len(10)
        .no_checksum();
    assert!(verify(Link::RawIp, &udp.build()).is_ok());
    assert!(verify(Link::RawIp, &udp.ipv6(V6_SRC, V6_DST).build()).is_err());
}

/// A datagram whose sum is 0xFFFF is sent with 0xFFFF, which UDP alone does.
#[test]
fn udp_never_sends_zero() {
    for last in 0..=0xffffu16 {
        let udp = PacketBuilder::raw_ip()
            .udp(1, 2)
            .payload(&last.to_be_bytes())
            .build();
        let check = parse(Link::RawIp, &udp).unwrap().udp().unwrap().check;
        assert_ne!(check, 0, "payload {last:#06x}");
    }
    let tcp = |last: u16| PacketBuilder::raw_ip().payload(&last.to_be_bytes()).build();
    let check = |last| parse(Link::RawIp, &tcp(last)).unwrap().tcp().unwrap().check;
    assert_eq!((0..=0xffff).filter(|last| check(*last) == 0).count(), 1);
}

#[test]
fn lengths_may_lie() {
    let bytes = PacketBuilder::raw_ip().ip_len(2000).payload_len(10).build();
    assert!(parse(Link::RawIp, &bytes).is_err());
    let bytes = PacketBuilder::raw_ip().ip_len(45).payload_len(10).build();
    assert_eq!(parse(Link::RawIp, &bytes).unwrap().payload(&bytes).len(), 5);
}
