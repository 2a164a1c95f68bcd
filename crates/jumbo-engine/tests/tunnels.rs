//! Tunnels: what comes in by the 24-byte virtio header and leaves by it, segmentation held against
//! an oracle that knows nothing of the engine, coalescing under the lossless law, and the canonical
//! test of every reason that is about tunnels.

mod support;

use jumbo_engine::coalesce::{Alone, End, LRO, Towards};
use jumbo_engine::packet::Link;
use jumbo_engine::pending::Caps;
use jumbo_engine::tunnel::{TunnelKind, Tunnels};
use jumbo_engine::vnet::{Form, HeaderFault, Trust, VnetHeader};
use jumbo_testkit::PacketBuilder;
use jumbo_testkit::oracle::{self, vnet_gso};
use jumbo_testkit::script::{IpId, TcpStream, UdpStream};
use jumbo_testkit::tcp_flags::{ACK, CWR};
use proptest::prelude::*;
use support::tunnel::{Kind, Outer};
use support::{Delivered, Input, Rig, Why};

const TUNNELS: Caps = Caps::ALL.with_udp_tunnels(true, true);

/// An engine that follows tunnels.
fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.arena.follow_tunnels(true);
    rig
}

fn burst(packets: &[Vec<u8>]) -> Vec<Delivered> {
    let mut rig = rig();
    for packet in packets {
        rig.offer(&Input::ethernet(packet.clone())).expect("sound");
    }
    rig.flush(End::BurstEnd);
    rig.done
}

/// Every tunnel there is, over both families.
fn tunnels() -> Vec<Outer> {
    let geneve = |options: usize, bridged| Kind::Geneve {
        options: (0..options as u8).collect(),
        bridged,
    };
    let gre = |key, bridged| Kind::Gre { key, bridged };
    let mut all = Vec::new();
    for kind in [
        Kind::Vxlan { vni: 42 },
        geneve(0, true),
        geneve(8, true),
        geneve(36, false),
        gre(None, false),
        gre(Some(7), false),
        gre(Some(7), true),
        Kind::Ip,
    ] {
        all.push(Outer::new(kind.clone()));
        all.push(Outer::new(kind.clone()).v6());
        if Outer::new(kind.clone()).is_udp() {
            all.push(Outer::new(kind.clone()).csum());
            all.push(Outer::new(kind).v6().csum());
        }
    }
    all.push(Outer::vxlan().with(|base| base.vlan(0x88a8, 3).vlan(0x8100, 4)));
    all.push(Outer::vxlan().csum().with(|base| base.vlan(0x8100, 4)));
    all
}

/// Trains of TCP over both families to put into a tunnel.
fn streams(outer: &Outer) -> Vec<TcpStream> {
    let base = outer.inner_base();
    let stream = |base| TcpStream::new(base).segments(4).mss(100).last_len(33);
    vec![
        stream(base.clone())
            .push_last()
            .ids(IpId::Increment(0xfffe)),
        stream(base.clone().ipv6([1; 16], [2; 16])).timestamps(1, 2),
        stream(base.ipv6([1; 16], [2; 16]).tcp_options(&[1; 40])).fin_last(),
    ]
}

fn virtio(outer: &Outer, inner: &[u8], whole: &[u8], gso_type: u8, size: u16) -> VnetHeader {
    let tcp = gso_type & 0x0f != vnet_gso::UDP_L4;
    let l3 = outer_len(whole, inner) + inner_l2(outer, inner);
    let inner_l3_len = match inner[inner_l2(outer, inner)] >> 4 {
        6 => 40,
        _ => 20,
    };
    // Two tags before IPv4 make 42.
    let outer_v6 = outer_th(whole) >= 54;
    VnetHeader {
        flags: 1 | if outer.csum { 8 } else { 0 },
        gso_type: gso_type | if outer_v6 { 0x40 } else { 0x20 },
        hdr_len: (l3 + inner_l3_len + if tcp { 20 } else { 8 }) as u16,
        gso_size: size,
        csum_start: (l3 + inner_l3_len) as u16,
        csum_offset: if tcp { 16 } else { 6 },
        outer_th_offset: outer_th(whole) as u16,
        inner_nh_offset: l3 as u16,
        num_buffers: 1,
        ..VnetHeader::default()
    }
}

fn outer_len(whole: &[u8], inner: &[u8]) -> usize {
    whole.len() - inner.len()
}

fn inner_l2(outer: &Outer, inner: &[u8]) -> usize {
    match outer.inner_link() {
        Link::RawIp => 0,
        Link::Ethernet if inner[12..14] == [0x81, 0] => 18,
        Link::Ethernet => 14,
    }
}

/// Where the outer transport starts in an Ethernet packet.
fn outer_th(whole: &[u8]) -> usize {
    let mut at = 12;
    while matches!(whole[at..at + 2], [0x81, 0] | [0x88, 0xa8]) {
        at += 4;
    }
    at + 2 + if whole[at + 2] >> 4 == 6 { 40 } else { 20 }
}

/// A super-packet in a tunnel, as a guest or a kernel hands it over.
fn super_packet(outer: &Outer, stream: &TcpStream, size: u16) -> (Vec<u8>, Vec<u8>, VnetHeader) {
    let inner = stream.super_packet().partial_checksum().build();
    // The outer checksum is partial too: the engine writes it anew.
    let whole = outer.wrap(&inner, 0);
    let v6 = inner[inner_l2(outer, &inner)] >> 4 == 6;
    let gso_type = if v6 { vnet_gso::TCPV6 } else { vnet_gso::TCPV4 };
    let header = virtio(outer, &inner, &whole, gso_type, size);
    (inner, whole, header)
}

fn tcp_gso(size: usize) -> oracle::Gso {
    oracle::Gso {
        kind: oracle::GsoKind::Tcp {
            fixed_id: false,
            accecn: false,
        },
        size,
    }
}

/// What leaves towards `caps`, header and bytes.
fn through(input: &Input, caps: Caps) -> Vec<(VnetHeader, Vec<u8>)> {
    let mut rig = rig();
    let id = rig.admit(input).expect("sound").id;
    let ready = jumbo_engine::coalesce::Ready::alone(id, 0);
    let left = rig.complete(ready, caps).expect("no fault");
    let header = |(packet, bytes)| (VnetHeader::for_port(&packet, caps), bytes);
    left.into_iter().map(header).collect()
}

#[test]
fn super_packets_in_udp_tunnels_are_segmented_as_the_oracle_does() {
    for outer in tunnels().into_iter().filter(Outer::is_udp) {
        for stream in streams(&outer) {
            let (inner, whole, header) = super_packet(&outer, &stream, 100);
            let input = Input::ethernet(whole).vnet(header, Trust::Guest);
            let left = through(&input, Caps::NONE);
            let left: Vec<_> = left.into_iter().map(|(_, bytes)| bytes).collect();
            assert_eq!(left, outer.segment(&inner, tcp_gso(100)), "{outer:?}");
        }
    }
}

#[test]
fn segments_with_partial_checksums_have_right_outer_ones() {
    let csum_only = Caps::new(true, false, false, false, false);
    for outer in tunnels().into_iter().filter(Outer::is_udp) {
        for stream in streams(&outer) {
            let (inner, whole, header) = super_packet(&outer, &stream, 100);
            let input = Input::ethernet(whole).vnet(header, Trust::Guest);
            let expected = outer.segment(&inner, tcp_gso(100));
            let left = through(&input, csum_only);
            assert_eq!(left.len(), expected.len());
            for ((header, mut bytes), expected) in left.into_iter().zip(expected) {
                assert_eq!((header.flags, header.gso_type), (1, 0));
                let (start, offset) = (header.csum_start, header.csum_offset);
                oracle::complete_checksum(&mut bytes, start.into(), offset.into(), false);
                assert_eq!(bytes, expected, "{outer:?}");
            }
        }
    }
}

#[test]
fn super_packets_leave_whole_by_the_header_they_came_with() {
    for outer in tunnels().into_iter().filter(Outer::is_udp) {
        for stream in streams(&outer) {
            let (_, whole, header) = super_packet(&outer, &stream, 100);
            let input = Input::ethernet(whole.clone()).vnet(header, Trust::Guest);
            let left = through(&input, TUNNELS);
            let [(sent, bytes)] = &left[..] else {
                panic!("{} packets", left.len());
            };
            let options_len = sent.hdr_len - header.hdr_len;
            assert_eq!(options_len % 4, 0);
            assert_eq!(
                sent,
                &VnetHeader {
                    hdr_len: sent.hdr_len,
                    ..header
                }
            );
            assert_eq!(bytes.len(), whole.len());
            // And once more: what was sent can be received, and means the same.
            let input = Input::ethernet(bytes.clone()).vnet(*sent, Trust::Kernel);
            assert_eq!(&through(&input, TUNNELS), &left);
            // The wire form keeps all of it.
            let mut wire = [0; 24];
            assert_eq!(sent.encode(Form::Tunnel24, &mut wire), Some(24));
            assert_eq!(VnetHeader::decode(Form::Tunnel24, &wire), Some(*sent));
        }
    }
}

#[test]
fn outer_checksum_goes_whole_only_where_it_is_taken() {
    let no_csum = Caps::ALL.with_udp_tunnels(true, false);
    for (outer, caps, whole_packets) in [
        (Outer::vxlan(), no_csum, 1),
        (Outer::vxlan().csum(), no_csum, 4),
        (Outer::vxlan().csum(), TUNNELS, 1),
        (Outer::vxlan(), Caps::ALL, 4),
    ] {
        let (_, whole, header) = super_packet(&outer, &streams(&outer)[0], 100);
        let input = Input::ethernet(whole).vnet(header, Trust::Guest);
        assert_eq!(through(&input, caps).len(), whole_packets);
    }
}

#[test]
fn udp_super_packets_in_tunnels_are_segmented() {
    for outer in tunnels().into_iter().filter(Outer::is_udp) {
        for base in [
            outer.inner_base(),
            outer.inner_base().ipv6([1; 16], [2; 16]),
        ] {
            let stream = UdpStream::new(base.udp(9, 10)).datagrams(3, 90, 9);
            let inner = stream.super_packet().partial_checksum().build();
            let whole = outer.wrap(&inner, 0);
            let header = virtio(&outer, &inner, &whole, vnet_gso::UDP_L4, 90);
            let input = Input::ethernet(whole).vnet(header, Trust::Guest);
            let left = through(&input, Caps::NONE);
            let left: Vec<_> = left.into_iter().map(|(_, bytes)| bytes).collect();
            let gso = oracle::Gso {
                kind: oracle::GsoKind::UdpL4,
                size: 90,
            };
            assert_eq!(left, outer.segment(&inner, gso), "{outer:?}");
        }
    }
}

#[test]
fn super_packet_of_one_segment_is_an_ordinary_packet() {
    let outer = Outer::vxlan().csum();
    let (inner, whole, header) = super_packet(&outer, &streams(&outer)[0], 1000);
    let input = Input::ethernet(whole).vnet(header, Trust::Guest);
    let left = through(&input, Caps::NONE);
    let expected = outer.segment(&inner, tcp_gso(1000));
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].1, expected[0]);
}

#[test]
fn segments_longer_than_the_mtu_count_the_outer_headers() {
    use jumbo_engine::complete::{Fault, Plan};
    let outer = Outer::vxlan();
    let (_, whole, header) = super_packet(&outer, &streams(&outer)[0], 100);
    let mut rig = rig();
    let input = Input::ethernet(whole).vnet(header, Trust::Guest);
    let admitted = rig.admit(&input).expect("sound");
    // 20 + 8 + 8 + 14 outside, 20 + 20 inside.
    let len = 50 + 40 + 100;
    let over = Plan::Drop(Fault::SegmentOverMtu);
    assert_eq!(support::plan_of(&rig, admitted, TUNNELS, len - 1), over);
    assert_eq!(support::plan_of(&rig, admitted, TUNNELS, len), Plan::AsIs);
}

// --- coalescing ---

#[test]
fn trains_in_tunnels_merge_and_come_out_as_they_were() {
    for outer in tunnels() {
        for stream in streams(&outer) {
            let packets = outer.wrap_all(&stream.packets());
            let done = burst(&packets);
            assert_eq!(done.len(), 1, "{outer:?} {:?}", done[0].why);
            assert_eq!(done[0].members.len(), 4, "{outer:?}");
            assert_eq!(done[0].finished, packets, "{outer:?}");
        }
    }
}

#[test]
fn merged_packets_leave_whole_and_mean_the_same() {
    for outer in tunnels().into_iter().filter(Outer::is_udp) {
        for stream in streams(&outer) {
            let packets = outer.wrap_all(&stream.packets());
            let mut rig = rig();
            for packet in &packets {
                rig.offer(&Input::ethernet(packet.clone())).expect("sound");
            }
            rig.gro.flush(&mut rig.arena, End::BurstEnd);
            let ready = rig.gro.ready()[0];
            let left = rig.complete(ready, TUNNELS).expect("no fault");
            assert_eq!(left.len(), 1, "{outer:?}");
            let (packet, bytes) = &left[0];
            let header = VnetHeader::for_port(packet, TUNNELS);
            let input = Input::ethernet(bytes.clone()).vnet(header, Trust::Guest);
            let again = through(&input, Caps::NONE);
            let again: Vec<_> = again.into_iter().map(|(_, bytes)| bytes).collect();
            assert_eq!(again, packets, "{outer:?}");
        }
    }
}

#[test]
fn datagrams_in_tunnels_merge() {
    for outer in tunnels() {
        let base = outer.inner_base().udp(9, 10);
        let packets = outer.wrap_all(&UdpStream::new(base).datagrams(3, 90, 9).packets());
        let done = burst(&packets);
        assert_eq!(done.len(), 1, "{outer:?}");
        assert_eq!(done[0].finished, packets);
    }
}

#[test]
fn raw_ip_carries_tunnels_too() {
    let outer = Outer::new(Kind::Vxlan { vni: 1 }).csum();
    let base = PacketBuilder::raw_ip().ipv4([10, 0, 0, 1], [10, 0, 0, 2]);
    let outer = Outer { base, ..outer };
    let packets = outer.wrap_all(&streams(&outer)[1].packets());
    let mut rig = rig();
    for packet in &packets {
        let input = Input::new(Link::RawIp, packet.clone());
        rig.offer(&input).expect("sound");
    }
    rig.flush(End::BurstEnd);
    assert_eq!(rig.done.len(), 1);
    assert_eq!(rig.done[0].finished, packets);
}

#[test]
fn partial_inner_checksums_merge() {
    for outer in [Outer::vxlan(), Outer::vxlan().csum()] {
        let finished = outer.wrap_all(&streams(&outer)[0].packets());
        let mut rig = rig();
        for (index, whole) in finished.iter().enumerate() {
            let inner = streams(&outer)[0].packet(index).partial_checksum().build();
            // The outer checksum is that of the finished packet, as a sender leaves it.
            let mut bytes = whole.clone();
            let at = bytes.len() - inner.len();
            bytes[at..].copy_from_slice(&inner);
            let header = VnetHeader {
                flags: 1,
                csum_start: (at + 34) as u16,
                csum_offset: 16,
                ..VnetHeader::default()
            };
            let input = Input::ethernet(bytes).vnet(header, Trust::Guest);
            rig.offer(&input).expect("sound");
        }
        rig.flush(End::BurstEnd);
        assert_eq!(rig.done.len(), 1);
        assert_eq!(rig.done[0].finished, finished);
    }
}

#[test]
fn a_checked_outer_checksum_says_nothing_of_the_inner_one() {
    let outer = Outer::vxlan();
    let bad = |index| streams(&outer)[0].packet(index).bad_checksum().build();
    for (flags, packets) in [(2, 2), (2 | 8, 1)] {
        let mut rig = rig();
        for index in 0..2 {
            let valid = VnetHeader {
                flags,
                ..VnetHeader::default()
            };
            let input = Input::ethernet(outer.wrap(&bad(index), index));
            rig.offer(&input.vnet(valid, Trust::Kernel)).expect("sound");
        }
        rig.flush(End::BurstEnd);
        assert_eq!(rig.done.len(), packets, "flags {flags}");
    }
}

#[test]
fn other_tunnels_are_other_flows() {
    let change: [fn(Outer) -> Outer; 7] = [
        |outer| Outer {
            kind: Kind::Vxlan { vni: 43 },
            ..outer
        },
        |outer| Outer {
            src_port: 1,
            ..outer
        },
        |outer| outer.with(|base| base.ipv4([10, 0, 0, 3], [10, 0, 0, 2])),
        |outer| outer.with(|base| base.macs([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 9])),
        |outer| outer.with(|base| base.vlan(0x8100, 5)),
        |outer| outer.v6(),
        |outer| Outer {
            kind: Kind::Geneve {
                options: vec![],
                bridged: true,
            },
            ..outer
        },
    ];
    for change in change {
        let outer = Outer::vxlan();
        let inner = streams(&outer)[0].packets();
        let other = change(outer.clone());
        let one = outer.wrap_all(&inner);
        let two = other.wrap_all(&inner);
        let mixed: Vec<_> = one
            .iter()
            .zip(&two)
            .flat_map(|(a, b)| [a.clone(), b.clone()])
            .collect();
        let done = burst(&mixed);
        assert_eq!(done.len(), 2, "{other:?}");
        assert_eq!(done[0].finished, one);
        assert_eq!(done[1].finished, two);
    }
}

#[test]
fn packets_in_a_tunnel_do_not_join_bare_ones() {
    let outer = Outer::new(Kind::Ip);
    let base = PacketBuilder::raw_ip().ipv4([10, 0, 0, 1], [10, 0, 0, 2]);
    let outer = Outer { base, ..outer };
    let inner = streams(&outer)[0].packets();
    let mut rig = rig();
    for packet in [inner[0].clone(), outer.wrap(&inner[1], 0), inner[1].clone()] {
        rig.offer(&Input::new(Link::RawIp, packet)).expect("sound");
    }
    rig.flush(End::BurstEnd);
    assert_eq!(rig.done.len(), 2);
    assert_eq!(rig.done[0].members, [0, 2]);
}

#[test]
fn fixed_outer_ids_are_kept() {
    for outer in [
        Outer::vxlan().fixed_id(),
        Outer::vxlan().fixed_id().with(|b| b.df(false)),
    ] {
        let packets = outer.wrap_all(&streams(&outer)[0].packets());
        let done = burst(&packets);
        assert_eq!(done.len(), 1);
        assert_eq!(done[0].finished, packets);
    }
}

/// Without DF the outer ID means something, and no virtio header can say that it is fixed.
#[test]
fn fixed_outer_ids_leave_whole_only_with_df() {
    for (df, packets) in [(true, 1), (false, 4)] {
        let outer = Outer::vxlan().fixed_id().with(|base| base.df(df));
        let mut rig = rig();
        for packet in outer.wrap_all(&streams(&outer)[0].packets()) {
            rig.offer(&Input::ethernet(packet)).expect("sound");
        }
        rig.gro.flush(&mut rig.arena, End::BurstEnd);
        let ready = rig.gro.ready()[0];
        let left = rig.complete(ready, TUNNELS).expect("no fault");
        assert_eq!(left.len(), packets, "DF {df}");
    }
}

#[test]
fn without_the_asking_a_tunnel_is_what_its_outer_headers_say() {
    let outer = Outer::vxlan().csum();
    let packets = outer.wrap_all(&streams(&outer)[0].packets());
    let done = support::burst(&support_inputs(&packets));
    let finished: Vec<_> = done.iter().flat_map(|done| done.finished.clone()).collect();
    assert_eq!(finished, packets);
    assert!(done.iter().all(|done| {
        done.gso
            .is_none_or(|gso| gso.kind == jumbo_engine::pending::GsoKind::Udp)
    }));
}

fn support_inputs(packets: &[Vec<u8>]) -> Vec<Input> {
    packets.iter().cloned().map(Input::ethernet).collect()
}

/// An inner packet of which something is wrong stays a datagram of the outer flow.
#[test]
fn what_cannot_be_followed_passes_as_it_is() {
    let outer = Outer::vxlan();
    let base = || outer.inner_base().payload_len(100);
    let inner: Vec<Vec<u8>> = vec![
        base().build()[..30].to_vec(),
        base().trailing(&[1, 2, 3]).build(),
        base().ip_len(60).build(),
        base().mf(true).build(),
        base().ip_proto(1).build(),
        outer.inner_base().payload_len(0).pad_to_minimum().build(),
        Vec::new(),
    ];
    for inner in inner {
        let packet = outer.wrap(&inner, 0);
        let mut rig = rig();
        let id = rig
            .admit(&Input::ethernet(packet.clone()))
            .expect("sound")
            .id;
        assert_eq!(rig.arena.packet(id).tunnel().kind(), TunnelKind::Unfollowed);
        let ready = jumbo_engine::coalesce::Ready::alone(id, 0);
        let left = rig.complete(ready, Caps::NONE).expect("no fault");
        assert_eq!(left[0].1, packet);
    }
}

#[test]
fn hash_is_of_the_outer_headers_unless_asked() {
    use jumbo_engine::steer::{HashInput, HashTypes, Transform};
    let hashed = |bytes: &[u8], follow: bool, inner: bool| {
        let mut rig = rig();
        rig.arena.follow_tunnels(follow);
        let id = rig
            .admit(&Input::ethernet(bytes.to_vec()))
            .expect("sound")
            .id;
        let of = if inner {
            HashInput::of_inner
        } else {
            HashInput::of
        };
        of(rig.arena.packet(id), HashTypes::ALL, Transform::None)
    };
    for outer in tunnels() {
        let inner = streams(&outer)[0].packets().remove(0);
        let packet = outer.wrap(&inner, 0);
        assert_eq!(hashed(&packet, true, false), hashed(&packet, false, false));
        if outer.inner_link() == Link::Ethernet {
            assert_eq!(hashed(&packet, true, true), hashed(&inner, false, false));
        }
    }
}

/// Found by the fuzz body: the outer length would have been put right.
#[test]
fn outer_length_that_lies_is_not_followed() {
    let gre = Outer::new(Kind::Gre {
        key: None,
        bridged: false,
    });
    for outer in [gre.clone().v6(), gre, Outer::new(Kind::Ip).v6()] {
        let packet = outer.clone().with(|base| base.ip_len(900));
        let packet = packet.wrap(&third(&outer), 2);
        assert_alone(
            &outer,
            packet,
            Alone::TunnelUnreadable,
            End::RefusedBelowTcp,
        );
    }
}

#[test]
fn macs_are_the_outer_ones() {
    let outer = Outer::vxlan();
    let mut rig = rig();
    let packet = outer.wrap(&streams(&outer)[0].packets()[0], 0);
    let id = rig
        .admit(&Input::ethernet(packet.clone()))
        .expect("sound")
        .id;
    let packet_in = rig.arena.packet(id);
    assert_eq!(packet_in.tunnel().kind(), TunnelKind::Udp);
    assert_eq!(packet_in.dst_mac().unwrap()[..], packet[..6]);
    assert_eq!(packet_in.src_mac().unwrap()[..], packet[6..12]);
    assert_eq!(packet_in.wire_len(), packet.len());
    assert_eq!(packet_in.l3_total_len(), packet.len() - 14);
    let both = [packet_in.outer_header(), packet_in.header()].concat();
    assert_eq!(both[..], packet[..both.len()]);
}

// --- reasons ---

/// Two packets of a train, then the third, changed.
#[track_caller]
fn assert_ends(outer: Outer, change: impl FnOnce(Outer) -> Outer, end: End) {
    let inner = streams(&outer)[0].packets();
    let mut packets = outer.wrap_all(&inner[..2]);
    packets.push(change(outer).wrap(&inner[2], 2));
    let done = burst(&packets);
    let whys: Vec<_> = done
        .iter()
        .map(|done| (done.members.len(), done.why))
        .collect();
    assert_eq!(whys, [(2, Why::Ended(end)), (1, Why::Ended(End::BurstEnd))]);
    let left: Vec<_> = done.into_iter().flat_map(|done| done.finished).collect();
    assert_eq!(left, packets);
}

#[test]
fn changed_outer_header_ends_the_train() {
    let change: [fn(Outer) -> Outer; 5] = [
        |outer| outer.with(|base| base.ttl(9)),
        |outer| outer.with(|base| base.tos(4)),
        |outer| outer.with(|base| base.tos(3)),
        |outer| outer.with(|base| base.df(false)),
        |outer| Outer {
            csum: !outer.csum,
            ..outer
        },
    ];
    for change in change {
        let end = canonical!(End::TunnelHeaderChanged);
        assert_ends(Outer::vxlan(), change, end);
    }
    for change in [change[0], change[1], change[2], change[4]] {
        assert_ends(Outer::vxlan().v6(), change, End::TunnelHeaderChanged);
    }
}

#[test]
fn outer_id_that_jumps_ends_the_train() {
    let end = canonical!(End::TunnelIdIrregular);
    assert_ends(Outer::vxlan(), |outer| outer.id(99), end);
    assert_ends(Outer::vxlan().fixed_id(), |outer| outer.id(99), end);
}

/// `packet` ends the train that it must not overtake, and goes alone.
#[track_caller]
fn assert_alone(outer: &Outer, packet: Vec<u8>, alone: Alone, end: End) {
    let mut packets = outer.wrap_all(&streams(outer)[0].packets()[..2]);
    packets.push(packet);
    let done = burst(&packets);
    let whys: Vec<_> = done
        .iter()
        .map(|done| (done.members.len(), done.why))
        .collect();
    assert_eq!(whys, [(2, Why::Ended(end)), (1, Why::Alone(alone))]);
    assert_eq!(done[1].finished[..], packets[2..]);
}

fn third(outer: &Outer) -> Vec<u8> {
    streams(outer)[0].packet(2).build()
}

#[test]
fn tunnels_nobody_takes_stay_alone() {
    let cases = [
        (Outer::vxlan(), Tunnels::None, false),
        (Outer::vxlan(), Tunnels::Udp, true),
        (Outer::vxlan().csum(), Tunnels::Udp, false),
        (Outer::vxlan().csum(), Tunnels::UdpCsum, true),
        (Outer::new(Kind::Ip), Tunnels::UdpCsum, false),
        (Outer::new(Kind::Ip), Tunnels::All, true),
    ];
    for (outer, tunnels, merges) in cases {
        let mut rig = rig();
        let input = Input::ethernet(outer.wrap(&third(&outer), 0));
        let id = rig.admit(&input).expect("sound").id;
        let memory = jumbo_engine::arena::SliceMemory::new(
            &rig.memory,
            jumbo_engine::checksum::Kernels::portable(),
        );
        let offer = rig.gro.offer(&mut rig.arena, id, &memory);
        let jumbo_engine::coalesce::Offer::Hold(slot) = offer else {
            panic!("{offer:?}");
        };
        let towards = Towards {
            tunnels,
            ..Towards::from(0)
        };
        let held = rig.gro.hold(&mut rig.arena, id, slot, towards, &memory);
        let alone = canonical!(Alone::Tunnel);
        assert_eq!(held.err(), (!merges).then_some(alone), "{outer:?}");
    }
}

#[test]
fn lossy_personalities_merge_no_tunnels() {
    let outer = Outer::vxlan();
    let mut rig = Rig::with_rules(&LRO, 8);
    rig.arena.follow_tunnels(true);
    for packet in outer.wrap_all(&streams(&outer)[0].packets()) {
        rig.offer(&Input::ethernet(packet)).expect("sound");
    }
    rig.flush(End::BurstEnd);
    assert!(
        rig.done
            .iter()
            .all(|done| done.why == Why::Alone(Alone::Tunnel))
    );
    assert_eq!(rig.done.len(), 4);
}

#[test]
fn unreadable_tunnel_ends_its_pair() {
    let alone = canonical!(Alone::TunnelUnreadable);
    let vxlan = Outer::vxlan();
    let arp = vxlan.wrap(
        &vxlan.inner_base().ethertype(0x0806).payload_len(28).build(),
        9,
    );
    let no_vni = {
        let mut bytes = vxlan.wrap(&third(&vxlan), 2);
        bytes[42] = 0;
        bytes
    };
    for packet in [arp, no_vni] {
        assert_alone(&vxlan, packet, alone, End::RefusedBelowTcp);
    }
    let gre = Outer::new(Kind::Gre {
        key: Some(1),
        bridged: false,
    });
    for flags in [0x80, 0x10, 0x40] {
        let mut packet = gre.wrap(&third(&gre), 2);
        packet[34] |= flags;
        assert_alone(&gre, packet, alone, End::RefusedBelowTcp);
    }
    let geneve = Outer::new(Kind::Geneve {
        options: vec![0; 4],
        bridged: true,
    });
    for (at, bits) in [(42, 0x40), (43, 0x80), (44, 0x80)] {
        let mut packet = geneve.wrap(&third(&geneve), 2);
        packet[at] |= bits;
        assert_alone(&geneve, packet, alone, End::RefusedBelowTcp);
    }
    // A tunnel in a tunnel.
    let ip = Outer::new(Kind::Ip);
    let nested = PacketBuilder::raw_ip()
        .ip_proto(4)
        .payload(&third(&ip))
        .build();
    assert_alone(&ip, ip.wrap(&nested, 2), alone, End::RefusedBelowTcp);
}

#[test]
fn outer_header_that_cannot_be_recreated_ends_its_pair() {
    let alone = canonical!(Alone::TunnelHeader);
    let outer = Outer::vxlan();
    let bad = outer.clone().with(|base| base.bad_ip_checksum());
    assert_alone(
        &outer,
        bad.wrap(&third(&outer), 2),
        alone,
        End::RefusedBelowTcp,
    );
    let mut evil = outer.wrap(&third(&outer), 2);
    evil[20] |= 0x80;
    let check = u16::from_be_bytes([evil[24], evil[25]]);
    let check = jumbo_engine::checksum::update(check, 0x4000, 0xc000);
    evil[24..26].copy_from_slice(&check.to_be_bytes());
    assert_alone(&outer, evil, alone, End::RefusedBelowTcp);
}

#[test]
fn wrong_outer_checksum_ends_its_flow() {
    let alone = canonical!(Alone::TunnelChecksum);
    let outer = Outer::vxlan().csum();
    let bad = outer.builder(&third(&outer), 2).bad_checksum().build();
    assert_alone(&outer, bad, alone, End::BadChecksum);
}

#[test]
fn wrong_inner_checksum_ends_its_flow() {
    let outer = Outer::vxlan().csum();
    let inner = streams(&outer)[0].packet(2).bad_checksum().build();
    assert_alone(
        &outer,
        outer.wrap(&inner, 2),
        Alone::TcpChecksum,
        End::BadChecksum,
    );
}

/// A super-packet in a tunnel that is in order but for one thing in its virtio header.
#[track_caller]
fn assert_fault(
    outer: &Outer,
    change: impl FnOnce(&mut VnetHeader, &mut Vec<u8>),
    fault: HeaderFault,
) {
    let (_, mut whole, mut header) = super_packet(outer, &streams(outer)[0], 100);
    change(&mut header, &mut whole);
    let mut rig = rig();
    let input = Input::ethernet(whole).vnet(header, Trust::Guest);
    assert_eq!(rig.admit(&input).err(), Some(fault));
    assert_eq!(rig.arena.live(), 0, "a refused packet takes no slot");
}

#[test]
fn tunnel_of_both_families_is_refused() {
    let fault = canonical!(HeaderFault::TunnelBothFamilies);
    assert_fault(&Outer::vxlan(), |header, _| header.gso_type |= 0x60, fault);
}

#[test]
fn tunnel_without_a_type_inside_is_refused() {
    let fault = canonical!(HeaderFault::TunnelWithoutGso);
    for gso_type in [0, 3] {
        assert_fault(
            &Outer::vxlan(),
            |header, _| header.gso_type = 0x20 | gso_type,
            fault,
        );
    }
}

#[test]
fn tunnel_without_a_partial_checksum_is_refused() {
    let fault = canonical!(HeaderFault::TunnelWithoutCsum);
    assert_fault(&Outer::vxlan(), |header, _| header.flags = 0, fault);
}

#[test]
fn tunnel_said_to_be_checked_is_refused() {
    let fault = canonical!(HeaderFault::TunnelDataValid);
    assert_fault(&Outer::vxlan(), |header, _| header.flags |= 2, fault);
}

#[test]
fn tunnel_offsets_that_overlap_are_refused() {
    let change: [fn(&mut VnetHeader); 4] = [
        |header| header.outer_th_offset = 33,
        |header| header.inner_nh_offset = header.outer_th_offset + 7,
        |header| header.inner_nh_offset = header.csum_start - 19,
        |header| header.outer_th_offset = u16::MAX,
    ];
    for change in change {
        let fault = canonical!(HeaderFault::TunnelOffsets);
        assert_fault(&Outer::vxlan(), |header, _| change(header), fault);
    }
}

#[test]
fn tunnel_that_is_not_what_the_header_says_is_refused() {
    let fault = canonical!(HeaderFault::TunnelOuterMismatch);
    let vxlan = Outer::vxlan();
    assert_fault(&vxlan, |header, _| header.outer_th_offset += 2, fault);
    // TCP instead of UDP, and the other family.
    assert_fault(&vxlan, |_, bytes| bytes[23] = 6, fault);
    let v6 = Outer::vxlan().v6();
    assert_fault(&v6, |header, _| header.gso_type ^= 0x60, fault);
}

#[test]
fn tunnel_header_beyond_the_private_bytes_is_refused() {
    let fault = canonical!(HeaderFault::TunnelTooDeep);
    let options = vec![0; 100];
    let outer = Outer::new(Kind::Geneve {
        options,
        bridged: true,
    });
    assert_fault(&outer, |_, _| {}, fault);
}

#[test]
fn outer_checksum_nobody_asked_for_is_refused() {
    let fault = canonical!(HeaderFault::TunnelCsumNotAsked);
    assert_fault(&Outer::vxlan().csum(), |header, _| header.flags = 1, fault);
}

#[test]
fn outer_checksum_without_a_tunnel_is_refused() {
    let fault = canonical!(HeaderFault::TunnelCsumWithoutTunnel);
    let change = |header: &mut VnetHeader, _: &mut Vec<u8>| {
        header.flags |= 8;
        header.gso_type &= !0x60;
    };
    assert_fault(&Outer::vxlan(), change, fault);
}

#[test]
fn inner_protocol_must_fit_the_type() {
    let fault = HeaderFault::GsoProtocolMismatch;
    let vxlan = Outer::vxlan();
    assert_fault(&vxlan, |header, _| header.gso_type = 0x20 | 5, fault);
    // IPv6 said, IPv4 there: its transport starts too early for that.
    let too_early = HeaderFault::TunnelOffsets;
    assert_fault(&vxlan, |header, _| header.gso_type = 0x20 | 4, too_early);
}

// --- laws ---

fn any_outer() -> impl Strategy<Value = Outer> {
    let all = tunnels();
    let outer = (0..all.len()).prop_map(move |at| all[at].clone());
    (
        outer,
        any::<u16>(),
        any::<u16>(),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(outer, id, src_port, fixed_id, df)| Outer {
            id,
            src_port,
            fixed_id,
            base: outer.base.clone().df(df),
            ..outer
        })
}

fn any_stream(outer: &Outer, shape: (bool, usize, usize, usize, bool, u32)) -> TcpStream {
    let (v6, segments, mss, last, cwr, seq) = shape;
    let base = match v6 {
        true => outer.inner_base().ipv6([1; 16], [2; 16]),
        false => outer.inner_base(),
    };
    let stream = TcpStream::new(base).segments(segments).mss(mss).seq(seq);
    let stream = stream.last_len(last.min(mss)).push_last();
    match cwr {
        true => stream.first_flags(ACK | CWR),
        false => stream,
    }
}

fn shape() -> impl Strategy<Value = (bool, usize, usize, usize, bool, u32)> {
    (
        any::<bool>(),
        1..6usize,
        8..300usize,
        1..300usize,
        any::<bool>(),
        any::<u32>(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Coalescing is undone by segmentation, byte for byte, and keeps each flow's order.
    #[test]
    fn what_merges_in_tunnels_comes_out_as_it_was(
        flows in proptest::collection::vec((any_outer(), shape()), 1..4),
        swaps in proptest::collection::vec(any::<usize>(), 0..6),
    ) {
        let mut packets = Vec::new();
        for (index, (outer, shape)) in flows.iter().enumerate() {
            let outer = outer.clone().with(|base| base.macs([2; 6], [index as u8 * 2; 6]));
            packets.push(outer.wrap_all(&any_stream(&outer, *shape).packets()));
        }
        let mut mixed = jumbo_testkit::script::interleave(packets);
        for swap in swaps {
            let (at, len) = (swap % mixed.len(), mixed.len());
            mixed.swap(at, (at + 1) % len);
        }
        let done = burst(&mixed);
        let left: Vec<_> = done.into_iter().flat_map(|done| done.finished).collect();
        for index in 0..flows.len() {
            let of = |packets: &[Vec<u8>]| -> Vec<Vec<u8>> {
                let mine = packets.iter().filter(|packet| packet[6] == index as u8 * 2);
                mine.cloned().collect()
            };
            prop_assert_eq!(of(&left), of(&mixed));
        }
    }

    /// The fast door leaves packets in tunnels to the general way, whatever is beside them.
    #[test]
    fn the_fast_door_is_the_general_way_beside_tunnels(
        flows in proptest::collection::vec((any_outer(), shape(), any::<bool>()), 1..4),
        swaps in proptest::collection::vec(any::<usize>(), 0..4),
    ) {
        let mut packets = Vec::new();
        for (outer, shape, bare) in &flows {
            packets.push(match bare {
                // Its own addresses and ports are those inside a tunnel.
                true => {
                    let bridge = Outer::vxlan();
                    any_stream(&bridge, *shape).packets()
                }
                false => outer.wrap_all(&any_stream(outer, *shape).packets()),
            });
        }
        let mut mixed = jumbo_testkit::script::interleave(packets);
        for swap in swaps {
            let (at, len) = (swap % mixed.len(), mixed.len());
            mixed.swap(at, (at + 1) % len);
        }
        let (mut general, mut door) = (rig(), rig());
        for packet in mixed {
            let input = Input::ethernet(packet);
            general.offer(&input).expect("sound");
            door.offer_by_door(&input).expect("sound");
        }
        general.flush(End::BurstEnd);
        door.flush(End::BurstEnd);
        prop_assert_eq!(&door.done, &general.done);
        let (door, general) = (door.gro.stats(), general.gro.stats());
        prop_assert_eq!(door.merged, general.merged);
        prop_assert_eq!(&door.alone, &general.alone);
        if flows.iter().all(|(_, _, bare)| !bare) {
            prop_assert_eq!(door.merged_unadmitted, 0);
        }
    }

    /// A super-packet in a tunnel is cut as the oracle cuts it.
    #[test]
    fn super_packets_are_cut_by_the_book(outer in any_outer(), shape in shape(), size in 8u16..200) {
        prop_assume!(outer.is_udp());
        let outer = Outer { fixed_id: false, ..outer };
        let stream = any_stream(&outer, shape);
        let (inner, whole, mut header) = super_packet(&outer, &stream, size);
        header.gso_type |= if shape.4 { vnet_gso::ECN } else { 0 };
        let input = Input::ethernet(whole).vnet(header, Trust::Guest);
        let left = through(&input, Caps::NONE);
        let left: Vec<_> = left.into_iter().map(|(_, bytes)| bytes).collect();
        prop_assert_eq!(left, outer.segment(&inner, tcp_gso(size.into())));
    }
}

// --- any bytes ---

fn record(flags: u8, header: &[u8], packet: &[u8]) -> Vec<u8> {
    let len = (packet.len() as u16).to_le_bytes();
    [&[flags], &len[..], header, packet].concat()
}

/// Trains and super-packets in every tunnel, as the fuzz body reads them.
fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for outer in tunnels() {
        let stream = &streams(&outer)[0];
        let train = outer.wrap_all(&stream.packets());
        seeds.push(train.iter().flat_map(|p| record(0, &[], p)).collect());
        if outer.is_udp() {
            let (_, whole, header) = super_packet(&outer, stream, 100);
            let mut wire = [0; 24];
            header.encode(Form::Tunnel24, &mut wire);
            seeds.push([record(1, &wire, &whole), record(33, &wire, &whole)].concat());
        }
    }
    seeds
}

#[test]
fn whole_seeds_pass_the_fuzz_bodies() {
    // `SEEDS_DIR=fuzz/corpus/tunnels` writes them for a fuzzer to begin with.
    let folder = std::env::var_os("SEEDS_DIR").map(std::path::PathBuf::from);
    for (index, seed) in seeds().iter().enumerate() {
        jumbo_engine::fuzz_bodies::tunnels(seed);
        if let Some(folder) = &folder {
            std::fs::create_dir_all(folder).expect("writable");
            std::fs::write(folder.join(format!("seed{index:02}")), seed).expect("writable");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// What a fuzzer would do, for a moment.
    #[test]
    fn damaged_tunnels_do_no_harm(
        which in any::<usize>(),
        damage in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..8),
        cut in any::<Option<u16>>(),
    ) {
        let seeds = seeds();
        let mut data = seeds[which % seeds.len()].clone();
        let len = data.len();
        for (at, value) in damage {
            // Mostly in the headers of the first record.
            let at = if at % 3 == 0 { at / 3 % len } else { at % len.min(170) };
            data[at] = value;
        }
        data.truncate(cut.map_or(len, usize::from).max(1));
        jumbo_engine::fuzz_bodies::tunnels(&data);
        jumbo_engine::fuzz_bodies::vnet_header(data.get(3..).unwrap_or(&[]));
    }
}
