//! The canonical test of every reason why an aggregate ends or a packet stays alone.

mod support;

use jumbo_engine::coalesce::{Alone, CwrRule, End, GRO, LRO, RSC, RSC_QEMU, RestBounds, Rules};
use jumbo_engine::packet::Link;
use jumbo_engine::vnet::{Trust, VnetHeader};
use jumbo_testkit::oracle::{vnet_flags, vnet_gso};
use jumbo_testkit::tcp_flags::{ACK, CWR, ECE, FIN, PSH, RST, SYN, URG};
use jumbo_testkit::{ArpPacket, Extension, PacketBuilder};
use support::{
    Input, Rig, Why, assert_each_has_one_canonical_test, burst, burst_of, burst_under, needs_csum,
};

#[test]
fn every_reason_has_its_test() {
    let source = concat!(
        include_str!("reasons_coalesce.rs"),
        include_str!("tunnels.rs")
    );
    assert_each_has_one_canonical_test::<End>("End", source);
    assert_each_has_one_canonical_test::<Alone>("Alone", source);
}

/// The `index`-th of a train of packets of 100 bytes.
fn nth(index: u16) -> PacketBuilder {
    PacketBuilder::ethernet()
        .seq(1 + 100 * u32::from(index))
        .id(index)
        .payload_len(100)
}

fn nth_v6(index: u16) -> PacketBuilder {
    nth(index).ipv6([1; 16], [2; 16])
}

fn inputs<const N: usize>(packets: [PacketBuilder; N]) -> Vec<Input> {
    let input = |packet: PacketBuilder| {
        let link = match packet.link() {
            jumbo_testkit::Link::Ethernet => Link::Ethernet,
            jumbo_testkit::Link::RawIp => Link::RawIp,
        };
        Input::new(link, packet.build())
    };
    packets.map(input).into()
}

/// How many packets each delivery has, and why it is one.
fn delivered(inputs: &[Input]) -> Vec<(usize, Why)> {
    let done = burst(inputs).into_iter();
    done.map(|done| (done.members.len(), done.why)).collect()
}

/// Two packets merge, and `third` ends them for `end`; `then` is what becomes of it.
fn assert_ends(third: PacketBuilder, end: End, then: Why) {
    let done = delivered(&inputs([nth(0), nth(1), third]));
    assert_eq!(done, [(2, Why::Ended(end)), (1, then)]);
}

const HELD: Why = Why::Ended(End::BurstEnd);

/// `packet` alone stays alone, for this reason.
fn assert_alone(packet: PacketBuilder, alone: Alone) {
    assert_eq!(delivered(&inputs([packet])), [(1, Why::Alone(alone))]);
}

#[test]
fn nothing_more_to_receive_ends_what_is_held() {
    let done = delivered(&inputs([nth(0), nth(1), nth(2)]));
    assert_eq!(done, [(3, Why::Ended(canonical!(End::BurstEnd)))]);
}

/// 44 segments of 1448 bytes and a header of 52 are 63764 bytes, 45 are 65212, 46 would be 66660.
#[test]
fn an_aggregate_of_64_kb_takes_no_more() {
    let stream = jumbo_testkit::script::TcpStream::new(PacketBuilder::ethernet())
        .segments(46)
        .timestamps(1, 2);
    let packets: Vec<_> = stream.packets().into_iter().map(Input::ethernet).collect();
    assert_eq!(
        delivered(&packets),
        [(45, Why::Ended(canonical!(End::SizeLimit))), (1, HELD)]
    );
}

/// The limit to the byte: 20 + 20 + 15 x 4365 is 65515, and 20 bytes more are 65535.
#[test]
fn the_largest_packet_has_65535_bytes() {
    for (last, merged) in [(20, 16), (21, 15)] {
        let stream = jumbo_testkit::script::TcpStream::new(PacketBuilder::ethernet())
            .segments(16)
            .mss(4365)
            .last_len(last);
        let packets: Vec<_> = stream.packets().into_iter().map(Input::ethernet).collect();
        assert_eq!(delivered(&packets)[0].0, merged);
    }
}

#[test]
fn a_shorter_segment_joins_and_ends() {
    let done = delivered(&inputs([nth(0), nth(1).payload_len(99), nth(2)]));
    let end = canonical!(End::ShortSegment);
    assert_eq!(done, [(2, Why::Ended(end)), (1, HELD)]);
}

#[test]
fn a_larger_segment_ends_and_begins_anew() {
    assert_ends(
        nth(2).payload_len(101),
        canonical!(End::LargerSegment),
        HELD,
    );
}

#[test]
fn push_joins_and_ends() {
    let done = delivered(&inputs([nth(0), nth(1).flags(ACK | PSH), nth(2)]));
    assert_eq!(done, [(2, Why::Ended(canonical!(End::Push))), (1, HELD)]);
}

#[test]
fn fin_joins_and_ends() {
    let done = delivered(&inputs([nth(0), nth(1).flags(ACK | FIN)]));
    assert_eq!(done, [(2, Why::Ended(canonical!(End::Fin)))]);
}

#[test]
fn a_hole_in_the_sequence_ends() {
    assert_ends(nth(3), canonical!(End::SequenceGap), HELD);
}

#[test]
fn a_retransmission_ends() {
    assert_ends(nth(1), canonical!(End::SequenceOld), HELD);
}

#[test]
fn a_new_acknowledgement_ends() {
    assert_ends(nth(2).ack(2), canonical!(End::AckChanged), HELD);
}

#[test]
fn a_new_window_ends() {
    assert_ends(nth(2).window(513), canonical!(End::WindowChanged), HELD);
}

#[test]
fn an_ece_flag_on_one_packet_ends() {
    assert_ends(nth(2).flags(ACK | ECE), canonical!(End::FlagsChanged), HELD);
}

#[test]
fn longer_options_end() {
    let third = nth(2).timestamps(1, 2);
    assert_ends(third, canonical!(End::OptionsLengthChanged), HELD);
}

#[test]
fn an_advancing_timestamp_ends() {
    let done = delivered(&inputs([
        nth(0).timestamps(1, 2),
        nth(1).timestamps(1, 2),
        nth(2).timestamps(2, 2),
    ]));
    let end = canonical!(End::OptionsChanged);
    assert_eq!(done, [(2, Why::Ended(end)), (1, HELD)]);
}

#[test]
fn an_urgent_pointer_without_the_flag_ends() {
    assert_ends(
        nth(2).urgent(1),
        canonical!(End::UrgentPointerChanged),
        HELD,
    );
}

#[test]
fn another_way_through_the_network_ends() {
    assert_ends(nth(2).ttl(63), canonical!(End::TtlChanged), HELD);
}

#[test]
fn another_class_of_service_ends() {
    assert_ends(nth(2).tos(0xB8), canonical!(End::DscpChanged), HELD);
}

#[test]
fn a_congestion_mark_ends() {
    assert_ends(nth(2).tos(3), canonical!(End::EcnChanged), HELD);
}

#[test]
fn dont_fragment_on_one_packet_ends() {
    assert_ends(nth(2).df(false), canonical!(End::IpFlagsChanged), HELD);
}

#[test]
fn a_skipped_ip_id_ends() {
    assert_ends(nth(2).id(9), canonical!(End::IpIdIrregular), HELD);
}

#[test]
fn a_pure_ack_ends_its_flow_and_goes_behind_it() {
    let alone = Why::Alone(canonical!(Alone::PureAck));
    assert_ends(nth(2).payload_len(0), canonical!(End::PureAck), alone);
}

#[test]
fn syn_rst_and_urg_end_their_flow_and_go_behind_it() {
    let alone = Why::Alone(canonical!(Alone::Control));
    let end = canonical!(End::Control);
    for flag in [SYN, RST, URG] {
        assert_ends(nth(2).flags(ACK | flag), end, alone);
    }
}

#[test]
fn a_super_packet_ends_its_flow_and_goes_behind_it() {
    let bytes = nth(2).payload_len(3000).partial_checksum().build();
    let header = needs_csum(Link::Ethernet, &bytes, vnet_gso::TCPV4, 1000);
    let mut inputs = inputs([nth(0), nth(1)]);
    inputs.push(Input::ethernet(bytes).vnet(header, Trust::Guest));
    let end = Why::Ended(canonical!(End::SuperPacket));
    let alone = Why::Alone(canonical!(Alone::AlreadyMerged));
    assert_eq!(delivered(&inputs), [(2, end), (1, alone)]);
}

#[test]
fn a_bad_tcp_checksum_ends_its_flow_and_goes_behind_it() {
    let alone = Why::Alone(canonical!(Alone::TcpChecksum));
    assert_ends(nth(2).bad_checksum(), canonical!(End::BadChecksum), alone);
}

/// Its ports are not looked at, so it must not overtake any flow of its addresses.
#[test]
fn ip_options_end_all_flows_of_their_addresses() {
    let end = canonical!(End::RefusedBelowTcp);
    let options = nth(2).ip_options(&[1, 1, 1, 1]);
    let elsewhere = nth(0).ipv4([192, 0, 2, 9], [192, 0, 2, 2]);
    let done = delivered(&inputs([
        elsewhere,
        nth(0),
        nth(0).tcp(9, 9),
        nth(1),
        options,
    ]));
    let alone = Why::Alone(canonical!(Alone::IpOptions));
    assert_eq!(
        done,
        [
            (2, Why::Ended(end)),
            (1, Why::Ended(end)),
            (1, alone),
            (1, HELD)
        ]
    );
}

#[test]
fn a_full_table_gives_up_its_oldest_flow() {
    let packets = [nth(0), nth(0).tcp(9, 9), nth(1).tcp(9, 9)];
    let done = burst_of(1, &inputs(packets)).into_iter();
    let done: Vec<_> = done.map(|done| (done.members, done.why)).collect();
    let end = Why::Ended(canonical!(End::TableFull));
    assert_eq!(done, [(vec![0], end), (vec![1, 2], HELD)]);
}

/// A rig whose packets may rest for 50 us, with the first two of a train and a packet of another flow.
fn resting() -> Rig {
    let mut rig = Rig::new();
    rig.holds_ns = vec![50_000];
    for input in inputs([nth(0), nth(1), nth(0).tcp(9, 9)]) {
        rig.offer(&input).expect("sound");
    }
    rig
}

/// What left so far: which packets, and why.
fn left(rig: &Rig) -> Vec<(Vec<usize>, Why)> {
    let done = rig.done.iter();
    done.map(|done| (done.members.clone(), done.why)).collect()
}

const MANY: RestBounds = RestBounds {
    flows: 10,
    bytes: 10_000,
};

#[test]
fn what_rests_goes_on_growing_until_its_time_is_over() {
    let mut rig = resting();
    rig.end_burst(1000, MANY);
    assert_eq!(
        (left(&rig), rig.gro.next_deadline_ns()),
        (vec![], Some(51_000))
    );
    rig.offer(&inputs([nth(2)])[0]).expect("sound");
    rig.end_burst(50_999, MANY);
    assert_eq!(left(&rig), []);
    rig.end_burst(51_000, MANY);
    let end = Why::Ended(canonical!(End::HoldTime));
    assert_eq!(left(&rig), [(vec![0, 1, 3], end), (vec![2], end)]);
    assert_eq!(rig.gro.next_deadline_ns(), None);
}

#[test]
fn too_much_to_rest_sends_the_oldest() {
    let mut rig = resting();
    rig.end_burst(0, RestBounds { flows: 1, ..MANY });
    let end = Why::Ended(canonical!(End::HoldLimit));
    assert_eq!(left(&rig), [(vec![0, 1], end)]);
    let mut rig = resting();
    rig.end_burst(0, RestBounds { bytes: 299, ..MANY });
    assert_eq!(left(&rig), [(vec![0, 1], end)]);
    let mut rig = resting();
    rig.end_burst(0, RestBounds { bytes: 300, ..MANY });
    assert_eq!(left(&rig), []);
}

/// What never reaches the table of flows waits for what rests all the same.
#[test]
fn what_rests_is_not_overtaken_by_its_own_flow() {
    let fragment = nth(2).fragment_offset(1);
    for packet in [fragment, nth(2).payload_len(0), nth(7)] {
        let mut rig = resting();
        rig.end_burst(0, MANY);
        rig.offer(&inputs([packet])[0]).expect("sound");
        rig.flush(End::BurstEnd);
        let order: Vec<_> = left(&rig)
            .into_iter()
            .flat_map(|(members, _)| members)
            .collect();
        let place = |member| order.iter().position(|one| *one == member);
        assert!(place(0) < place(3) && place(1) < place(3), "{order:?}");
    }
}

/// One queue's burst ends, another's goes on: only the former's packets rest.
#[test]
fn only_what_came_by_the_queue_rests() {
    let mut rig = resting();
    rig.gro.end_burst(&mut rig.arena, Some(1), 0, MANY);
    assert_eq!((rig.gro.held(), rig.gro.resting_flows()), (2, 0));
    rig.gro.end_burst(&mut rig.arena, Some(0), 0, MANY);
    assert_eq!((rig.gro.held(), rig.gro.resting_flows()), (2, 2));
    // Whose queue it came by plays no part in when it has rested enough.
    rig.gro.end_burst(&mut rig.arena, Some(1), 50_000, MANY);
    assert_eq!((rig.gro.held(), rig.gro.ready().len()), (0, 2));
}

/// The caller says so: it knows that a held flow's out port may be another now.
#[test]
fn a_changed_forwarding_table_ends_what_is_held() {
    let mut rig = Rig::new();
    for input in inputs([nth(0), nth(1)]) {
        rig.offer(&input).expect("sound");
    }
    let end = canonical!(End::ForwardingChanged);
    rig.flush(end);
    assert_eq!(rig.done[0].why, Why::Ended(end));
    assert_eq!(rig.gro.stats().ends.get(end), 1);
    assert_eq!(rig.gro.stats().aggregate_ends.get(end), 1);
}

#[test]
fn arp_is_passed_on_and_ends_nothing() {
    let arp = PacketBuilder::ethernet().arp(ArpPacket {
        operation: 1,
        sender_mac: [2, 0, 0, 0, 0, 1],
        sender_ip: [192, 0, 2, 1],
        target_mac: [0; 6],
        target_ip: [192, 0, 2, 2],
    });
    let done = delivered(&inputs([nth(0), arp, nth(1)]));
    assert_eq!(done, [(1, Why::Alone(canonical!(Alone::NotIp))), (2, HELD)]);
}

#[test]
fn sctp_is_passed_on_and_ends_nothing() {
    let done = delivered(&inputs([nth(0), nth(0).ip_proto(132), nth(1)]));
    assert_eq!(
        done,
        [(1, Why::Alone(canonical!(Alone::NotTcp))), (2, HELD)]
    );
}

#[test]
fn a_fragment_of_tcp_ends_all_flows_of_its_addresses() {
    let alone = Why::Alone(canonical!(Alone::TcpUnreadable));
    assert_ends(nth(2).df(false).mf(true), End::RefusedBelowTcp, alone);
    // A later fragment has no TCP header at all.
    let later = nth(2).df(false).fragment_offset(1).ip_proto(6);
    assert_ends(later, End::RefusedBelowTcp, alone);
    // A header that lies about its length.
    let mut lying = nth(2).build();
    lying[14 + 20 + 12] = 0x40;
    let mut packets = inputs([nth(0), nth(1)]);
    packets.push(Input::ethernet(lying));
    let done = delivered(&packets);
    assert_eq!(done, [(2, Why::Ended(End::RefusedBelowTcp)), (1, alone)]);
}

#[test]
fn a_fragment_of_tcp_over_ipv6_ends_all_flows_of_its_addresses() {
    let alone = Why::Alone(Alone::TcpUnreadable);
    let fragment = Extension::Fragment {
        offset: 0,
        more: true,
        id: 1,
    };
    let chains = [
        vec![fragment.clone()],
        // Behind the fragment header may stand more than TCP.
        vec![fragment, Extension::Destination(vec![0; 6])],
        // Longer than is followed: TCP may be at its end.
        vec![Extension::HopByHop(vec![0; 126])],
    ];
    for chain in chains {
        let third = chain.into_iter().fold(nth_v6(2), PacketBuilder::extension);
        let done = delivered(&inputs([nth_v6(0), nth_v6(1), third]));
        assert_eq!(done, [(2, Why::Ended(End::RefusedBelowTcp)), (1, alone)]);
    }
}

/// The packet is truncated, its addresses are not: it must not overtake its flow (Linux too ends
/// the flow first: `inet_gro_receive` compares the length with what is there).
#[test]
fn an_ip_length_beyond_the_packet_ends_all_flows_of_its_addresses() {
    let alone = Why::Alone(Alone::TcpUnreadable);
    assert_ends(nth(2).ip_len(1500), End::RefusedBelowTcp, alone);
    let done = delivered(&inputs([nth_v6(0), nth_v6(1), nth_v6(2).ip_len(1500)]));
    assert_eq!(done, [(2, Why::Ended(End::RefusedBelowTcp)), (1, alone)]);
}

#[test]
fn a_bad_ip_checksum_ends_all_flows_of_its_addresses() {
    let alone = Why::Alone(canonical!(Alone::IpChecksum));
    assert_ends(nth(2).bad_ip_checksum(), End::RefusedBelowTcp, alone);
}

/// 0xFFFF in the IPv4 checksum field verifies, but nobody would write it.
#[test]
fn the_negative_zero_of_ipv4_is_passed_on_as_it_is() {
    let zero = |id: &u16| nth(0).id(*id).build()[24..26] == [0, 0];
    let id = (0..=u16::MAX).find(zero).expect("one ID sums to it");
    let mut bytes = nth(0).id(id).build();
    bytes[24..26].fill(0xFF);
    let done = burst(&[Input::ethernet(bytes.clone())]);
    assert_eq!(done[0].why, Why::Alone(Alone::IpChecksum));
    assert_eq!(done[0].finished, [bytes]);
}

#[test]
fn the_reserved_ip_flag_stays_alone() {
    let mut bytes = nth(2).build();
    bytes[14 + 6] |= 0x80;
    // The checksum must go on to be right, or that would be the reason.
    let check = u16::from_be_bytes([bytes[24], bytes[25]]) - 0x8000;
    bytes[24..26].copy_from_slice(&check.to_be_bytes());
    let mut packets = inputs([nth(0), nth(1)]);
    packets.push(Input::ethernet(bytes));
    let alone = Why::Alone(canonical!(Alone::IpFlags));
    let done = delivered(&packets);
    assert_eq!(done, [(2, Why::Ended(End::RefusedBelowTcp)), (1, alone)]);
}

/// A checksum pending deeper than TCP's own, such as an inner packet's.
#[test]
fn a_partial_checksum_of_something_else_stays_alone() {
    let bytes = nth(2).build();
    let header = VnetHeader {
        flags: vnet_flags::NEEDS_CSUM,
        csum_start: 14 + 20 + 20 + 8,
        csum_offset: 6,
        ..VnetHeader::default()
    };
    let mut packets = inputs([nth(0), nth(1)]);
    packets.push(Input::ethernet(bytes).vnet(header, Trust::Guest));
    let alone = Why::Alone(canonical!(Alone::ForeignCsum));
    let done = delivered(&packets);
    assert_eq!(done, [(2, Why::Ended(End::BadChecksum)), (1, alone)]);
}

#[test]
fn push_with_nothing_held_before_it_waits_for_nothing() {
    let alone = canonical!(Alone::LastOfItsTrain);
    assert_alone(nth(0).flags(ACK | PSH), alone);
    assert_alone(nth(0).flags(ACK | FIN), alone);
}

/// Linux raises a segment size below 8 to 8 (TCP_MIN_GSO_SIZE) and would cut elsewhere.
#[test]
fn seven_bytes_begin_no_train() {
    assert_alone(nth(0).payload_len(7), canonical!(Alone::TinyPayload));
    assert_eq!(delivered(&inputs([nth(0).payload_len(8)])), [(1, HELD)]);
}

/// The checksum of a packet with a routing header under way covers its final destination, which
/// is not the one in the IPv6 header (RFC 8200 section 8.1): it could not be made again.
#[test]
fn a_routing_header_under_way_stays_alone() {
    let routing = Extension::Routing(vec![4, 1, 0, 0, 0, 0]);
    let valid = VnetHeader {
        flags: vnet_flags::DATA_VALID,
        ..VnetHeader::default()
    };
    let input = |index| {
        let bytes = nth_v6(index)
            .extension(routing.clone())
            .bad_checksum()
            .build();
        Input::ethernet(bytes).vnet(valid, Trust::Kernel)
    };
    let inputs = [input(0), input(1)];
    for (done, input) in burst(&inputs).iter().zip(&inputs) {
        assert_eq!(done.why, Why::Alone(Alone::TcpUnreadable));
        assert_eq!(done.finished[..], *std::slice::from_ref(&input.bytes));
    }
}

// --- UDP ---

fn datagram(index: u16) -> PacketBuilder {
    nth(index).udp(7, 8)
}

/// Two datagrams merge, and `third` ends them for `end`; `then` is what becomes of it.
fn assert_ends_datagrams(third: PacketBuilder, end: End, then: Why) {
    let done = delivered(&inputs([datagram(0), datagram(1), third]));
    assert_eq!(done, [(2, Why::Ended(end)), (1, then)]);
}

#[test]
fn a_fragment_of_udp_ends_all_flows_of_its_addresses() {
    let alone = Why::Alone(canonical!(Alone::UdpUnreadable));
    let third = datagram(2).df(false).mf(true);
    assert_ends_datagrams(third, End::RefusedBelowTcp, alone);
    assert_ends_datagrams(datagram(2).udp_len(9), End::RefusedBelowTcp, alone);
}

#[test]
fn a_bad_udp_checksum_ends_its_flow_and_goes_behind_it() {
    let alone = Why::Alone(canonical!(Alone::UdpChecksum));
    assert_ends_datagrams(datagram(2).bad_checksum(), End::BadChecksum, alone);
}

#[test]
fn a_datagram_without_checksum_ends_its_flow_and_goes_behind_it() {
    let alone = Why::Alone(canonical!(Alone::UdpNoChecksum));
    assert_ends_datagrams(datagram(2).no_checksum(), End::BadChecksum, alone);
}

#[test]
fn an_empty_datagram_ends_its_flow_and_goes_behind_it() {
    let alone = Why::Alone(canonical!(Alone::EmptyDatagram));
    let end = canonical!(End::EmptyDatagram);
    assert_ends_datagrams(datagram(2).payload_len(0), end, alone);
}

/// Linux `UDP_GRO_CNT_MAX`.
#[test]
fn sixty_four_datagrams_are_enough() {
    let packets: Vec<_> = (0..65).map(|index| datagram(index).build()).collect();
    let packets: Vec<_> = packets.into_iter().map(Input::ethernet).collect();
    let end = Why::Ended(canonical!(End::DatagramLimit));
    assert_eq!(delivered(&packets), [(64, end), (1, HELD)]);
}

// --- what only other personalities and policies know ---

/// Two packets merge under these rules, and `third` ends them for `end`.
fn assert_ends_under(rules: &Rules, packets: [PacketBuilder; 3], end: End, then: Why) {
    let done = burst_under(rules, 8, &inputs(packets)).into_iter();
    let done: Vec<_> = done.map(|done| (done.members.len(), done.why)).collect();
    assert_eq!(done, [(2, Why::Ended(end)), (1, then)]);
}

#[test]
fn a_timestamp_that_goes_back_ends_under_rsc() {
    let stamped = |index, value| nth(index).timestamps(value, 1);
    let packets = [stamped(0, 7), stamped(1, 8), stamped(2, 7)];
    assert_ends_under(&RSC, packets, canonical!(End::TimestampOld), HELD);
}

#[test]
fn another_flow_label_ends_under_rsc() {
    let packets = [nth_v6(0), nth_v6(1), nth_v6(2).flow_label(1)];
    assert_ends_under(&RSC, packets, canonical!(End::FlowLabelChanged), HELD);
}

#[test]
fn an_option_is_an_exception_under_rsc() {
    let packets = [nth(0), nth(1), nth(2).tcp_options(&[1, 1, 1, 1])];
    let alone = Why::Alone(canonical!(Alone::TcpOptions));
    assert_ends_under(&RSC, packets, canonical!(End::Exception), alone);
}

#[test]
fn extension_headers_stay_alone_under_lro() {
    let packet = nth_v6(0).extension(Extension::Destination(vec![1, 4, 0, 0, 0, 0]));
    let done = burst_under(&LRO, 8, &inputs([packet]));
    assert_eq!(done[0].why, Why::Alone(canonical!(Alone::Ipv6Extensions)));
}

#[test]
fn a_congestion_mark_is_not_hidden_by_lro() {
    let packets = [nth(0), nth(1), nth(2).tos(3)];
    let alone = Why::Alone(canonical!(Alone::CongestionMark));
    assert_ends_under(&LRO, packets, End::Exception, alone);
}

#[test]
fn cwr_stays_alone_by_the_rule_of_linux_6_18() {
    let rules = Rules {
        cwr: CwrRule::Never,
        ..GRO
    };
    let packets = [nth(0), nth(1), nth(2).flags(ACK | CWR)];
    let alone = Why::Alone(canonical!(Alone::Cwr));
    assert_ends_under(&rules, packets, End::FlagsChanged, alone);
}

#[test]
fn df_clear_stays_alone_under_qemus_rules() {
    let packets = [nth(0), nth(1), nth(2).df(false)];
    let alone = Why::Alone(canonical!(Alone::MayFragment));
    assert_ends_under(&RSC_QEMU, packets, End::Exception, alone);
}

#[test]
fn a_mismatch_begins_nothing_under_qemus_rules() {
    let packets = [nth(0), nth(1), nth(7)];
    let alone = Why::Alone(canonical!(Alone::AfterMismatch));
    assert_ends_under(&RSC_QEMU, packets, End::SequenceGap, alone);
}
