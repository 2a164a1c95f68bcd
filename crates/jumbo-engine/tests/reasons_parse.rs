//! The canonical test of every reason why a packet was not followed down to TCP or UDP.

mod support;

use jumbo_engine::coalesce::Ready;
use jumbo_engine::packet::{Link, Net, Transport};
use jumbo_engine::parse::Opaque;
use jumbo_engine::pending::Caps;
use jumbo_testkit::{ArpPacket, Extension, PacketBuilder};
use support::{Input, Rig, assert_each_has_one_canonical_test};

#[test]
fn every_reason_has_its_test() {
    let source = include_str!("reasons_parse.rs");
    assert_each_has_one_canonical_test::<Opaque>("Opaque", source);
}

/// The packet is admitted for what it is, and leaves as it came.
#[track_caller]
fn assert_opaque(link: Link, bytes: Vec<u8>, expected: Opaque) {
    let mut rig = Rig::new();
    let input = Input::new(link, bytes);
    let admitted = rig.admit(&input).expect("opaque is no fault");
    assert_eq!(admitted.opaque, Some(expected));
    assert_eq!(
        rig.arena.packet(admitted.id).layers().transport,
        Transport::None
    );
    let ready = Ready::alone(admitted.id, 0);
    let left = rig.complete(ready, Caps::NONE).expect("nothing to do");
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].1, input.bytes);
}

fn assert_ethernet(bytes: Vec<u8>, expected: Opaque) {
    assert_opaque(Link::Ethernet, bytes, expected);
}

fn v4() -> PacketBuilder {
    PacketBuilder::ethernet().payload_len(100)
}

fn v6() -> PacketBuilder {
    v4().ipv6([1; 16], [2; 16])
}

/// Cuts to `len` bytes behind the Ethernet header, and has IP agree.
fn cut_to(packet: PacketBuilder, len: usize) -> Vec<u8> {
    let v6 = packet.build()[14] >> 4 == 6;
    let said = if v6 { len - 40 } else { len };
    let mut bytes = packet.ip_len(said as u16).build();
    bytes.truncate(14 + len);
    bytes
}

#[test]
fn arp_is_passed_on() {
    let arp = PacketBuilder::ethernet().arp(ArpPacket {
        operation: 1,
        sender_mac: [2, 0, 0, 0, 0, 1],
        sender_ip: [192, 0, 2, 1],
        target_mac: [0; 6],
        target_ip: [192, 0, 2, 2],
    });
    assert_ethernet(arp.build(), canonical!(Opaque::Arp));
}

#[test]
fn an_unknown_ethertype_is_passed_on() {
    let lldp = v4().ethertype(0x88CC);
    assert_ethernet(lldp.build(), canonical!(Opaque::OtherEtherType));
}

#[test]
fn a_third_tag_is_not_looked_behind() {
    let tagged = v4().vlan(0x88A8, 1).vlan(0x8100, 2).vlan(0x8100, 3);
    assert_ethernet(tagged.build(), canonical!(Opaque::TooManyTags));
}

#[test]
fn a_tag_that_is_cut_off_is_passed_on() {
    for len in [14, 15, 16, 17] {
        let mut bytes = v4().vlan(0x8100, 1).build();
        bytes.truncate(len);
        assert_ethernet(bytes, canonical!(Opaque::TagTruncated));
    }
    let mut bytes = v4().vlan(0x88A8, 1).vlan(0x8100, 2).build();
    bytes.truncate(20);
    assert_ethernet(bytes, Opaque::TagTruncated);
}

#[test]
fn icmp_is_passed_on() {
    assert_ethernet(v4().ip_proto(1).build(), canonical!(Opaque::OtherProtocol));
    assert_ethernet(v6().ip_proto(58).build(), Opaque::OtherProtocol);
    let nothing = v6().ip_proto(59).payload_len(0);
    assert_ethernet(nothing.build(), Opaque::OtherProtocol);
}

#[test]
fn fragments_are_passed_on() {
    let first = v4().df(false).mf(true);
    assert_ethernet(first.clone().build(), canonical!(Opaque::Fragment));
    assert_ethernet(first.fragment_offset(5).build(), Opaque::Fragment);
    let last = v4().df(false).fragment_offset(5).ip_proto(17);
    assert_ethernet(last.build(), Opaque::Fragment);
    let v6 = v6().extension(Extension::Fragment {
        offset: 0,
        more: true,
        id: 1,
    });
    assert_ethernet(v6.build(), Opaque::Fragment);
}

#[test]
fn a_version_that_does_not_fit_is_passed_on() {
    for (packet, first) in [(v4(), 0x65), (v6(), 0x40), (v4(), 0x05)] {
        let mut bytes = packet.build();
        bytes[14] = first;
        assert_ethernet(bytes, canonical!(Opaque::IpVersion));
    }
    assert_opaque(Link::RawIp, vec![0x15; 40], Opaque::IpVersion);
    assert_opaque(Link::RawIp, vec![0], Opaque::IpVersion);
}

#[test]
fn an_ip_header_that_is_cut_off_is_passed_on() {
    for len in [0, 1, 19] {
        let mut bytes = v4().build();
        bytes.truncate(14 + len);
        assert_ethernet(bytes, canonical!(Opaque::IpTruncated));
    }
    let mut bytes = v6().build();
    bytes.truncate(14 + 39);
    assert_ethernet(bytes, Opaque::IpTruncated);
    let mut bytes = v4().ip_options(&[1; 40]).build();
    bytes.truncate(14 + 59);
    assert_ethernet(bytes, Opaque::IpTruncated);
    assert_opaque(Link::RawIp, vec![0x45], Opaque::IpTruncated);
}

#[test]
fn an_ipv4_header_of_16_bytes_is_passed_on() {
    let mut bytes = v4().build();
    bytes[14] = 0x44;
    assert_ethernet(bytes, canonical!(Opaque::Ipv4HeaderLength));
}

#[test]
fn an_ip_length_within_the_header_is_passed_on() {
    let reason = canonical!(Opaque::IpLengthTooSmall);
    assert_ethernet(v4().ip_len(19).build(), reason);
    assert_ethernet(v4().ip_len(0).build(), reason);
    let options = v4().ip_options(&[1; 8]).ip_len(27);
    assert_ethernet(options.build(), reason);
    assert_ethernet(v6().ip_len(0).build(), reason);
}

#[test]
fn an_ip_length_beyond_the_packet_is_passed_on() {
    let reason = canonical!(Opaque::IpLengthBeyondPacket);
    assert_ethernet(v4().ip_len(141).build(), reason);
    assert_ethernet(v6().ip_len(121).build(), reason);
}

#[test]
fn extension_headers_that_cannot_be_followed_are_passed_on() {
    let reason = canonical!(Opaque::Ipv6Extensions);
    let long = v6().extension(Extension::HopByHop(vec![0; 126]));
    assert_ethernet(long.build(), reason);
    let many = (0..9).fold(v6(), |packet, _| {
        packet.extension(Extension::Destination(vec![0; 6]))
    });
    assert_ethernet(many.build(), reason);
    let cut = v6().extension(Extension::Destination(vec![0; 14]));
    assert_ethernet(cut_to(cut.clone(), 40 + 15), reason);
    assert_ethernet(cut_to(cut, 40 + 1), reason);
    let under_way = v6().extension(Extension::Routing(vec![4, 1, 0, 0, 0, 0]));
    assert_ethernet(under_way.build(), reason);
}

#[test]
fn extension_headers_that_fit_are_followed() {
    let packet = (0..8).fold(v6().udp(1, 2), |packet, _| {
        packet.extension(Extension::Destination(vec![0; 6]))
    });
    let arrived = Extension::Routing(vec![4, 0, 0, 0, 0, 0]);
    for packet in [packet, v6().extension(arrived)] {
        let mut rig = Rig::new();
        let admitted = rig.admit(&Input::ethernet(packet.build()));
        assert_eq!(admitted.expect("sound").opaque, None);
    }
}

#[test]
fn a_tcp_header_that_is_cut_off_is_passed_on() {
    let reason = canonical!(Opaque::TcpTruncated);
    assert_ethernet(cut_to(v4(), 20 + 19), reason);
    assert_ethernet(cut_to(v6(), 40 + 19), reason);
    assert_ethernet(cut_to(v4().timestamps(1, 2), 20 + 31), reason);
}

#[test]
fn a_tcp_header_of_16_bytes_is_passed_on() {
    let mut bytes = v4().build();
    bytes[14 + 20 + 12] = 0x40;
    assert_ethernet(bytes, canonical!(Opaque::TcpHeaderLength));
}

#[test]
fn a_udp_header_that_is_cut_off_is_passed_on() {
    let bytes = cut_to(v4().udp(1, 2), 20 + 7);
    assert_ethernet(bytes, canonical!(Opaque::UdpTruncated));
}

#[test]
fn a_udp_length_that_lies_is_passed_on() {
    for len in [0, 7, 107, 109] {
        let bytes = v4().udp(1, 2).udp_len(len).build();
        assert_ethernet(bytes, canonical!(Opaque::UdpLength));
    }
}

/// 14 + 60 + 60 bytes are more than the 128 that are kept private.
#[test]
fn the_longest_headers_are_passed_on() {
    let packet = v4().ip_options(&[1; 40]).tcp_options(&[1; 40]);
    assert_ethernet(packet.build(), canonical!(Opaque::HeadersTooLong));
    let deep = v6().extension(Extension::Destination(vec![0; 62]));
    assert_ethernet(deep.build(), Opaque::HeadersTooLong);
    let deep = v6().extension(Extension::Destination(vec![0; 70]));
    assert_ethernet(deep.udp(1, 2).build(), Opaque::HeadersTooLong);
}

/// A length that lies leaves the addresses as they are, and the fields behind them.
#[test]
fn a_lying_ip_length_hides_no_addresses() {
    for (packet, net) in [(v4().ip_len(999), Net::V4), (v6().ip_len(999), Net::V6)] {
        let mut rig = Rig::new();
        let admitted = rig.admit(&Input::ethernet(packet.build())).expect("opaque");
        let layers = rig.arena.packet(admitted.id).layers();
        assert_eq!((layers.net, layers.protocol), (net, 6));
    }
}
