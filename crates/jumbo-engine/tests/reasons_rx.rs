//! Every check on a virtio header from outside, each with its own test, and the canonical test of
//! every reason for which a packet is dropped before it was looked at.

mod support;

use jumbo_engine::arena::Arena;
use jumbo_engine::packet::{Frag, Link};
use jumbo_engine::pending::{Csum, GsoKind};
use jumbo_engine::reason::Reason;
use jumbo_engine::vnet::{Form, HeaderFault, Trust, VnetHeader};
use jumbo_testkit::oracle::{vnet_flags, vnet_gso};
use jumbo_testkit::tcp_flags::{ACK, RST, SYN};
use jumbo_testkit::{Extension, PacketBuilder};
use support::{Input, Rig, assert_each_has_one_canonical_test, needs_csum};

#[test]
fn every_reason_has_its_test() {
    let source = concat!(include_str!("reasons_rx.rs"), include_str!("tunnels.rs"));
    assert_each_has_one_canonical_test::<HeaderFault>("HeaderFault", source);
}

#[track_caller]
fn assert_fault(bytes: &[u8], header: VnetHeader, expected: HeaderFault) {
    let mut rig = Rig::new();
    let input = Input::ethernet(bytes.to_vec()).vnet(header, Trust::Guest);
    assert_eq!(rig.admit(&input).err(), Some(expected));
    assert_eq!(rig.arena.live(), 0, "a refused packet takes no slot");
    assert_eq!(rig.arena.free_frags(), 2048, "and no frags");
}

#[track_caller]
fn admitted(bytes: &[u8], header: VnetHeader) -> jumbo_engine::pending::Pending {
    let mut rig = Rig::new();
    let input = Input::ethernet(bytes.to_vec()).vnet(header, Trust::Guest);
    let admitted = rig.admit(&input).expect("sound");
    *rig.arena.packet(admitted.id).pending()
}

fn tcp() -> Vec<u8> {
    PacketBuilder::ethernet()
        .payload_len(3000)
        .partial_checksum()
        .build()
}

fn udp() -> Vec<u8> {
    let packet = PacketBuilder::ethernet().udp(1, 2);
    packet.payload_len(3000).partial_checksum().build()
}

fn tso(bytes: &[u8]) -> VnetHeader {
    needs_csum(Link::Ethernet, bytes, vnet_gso::TCPV4, 1000)
}

fn uso(bytes: &[u8]) -> VnetHeader {
    needs_csum(Link::Ethernet, bytes, vnet_gso::UDP_L4, 1000)
}

/// A header that asks for a checksum and nothing else.
fn csum_at(start: u16, offset: u16) -> VnetHeader {
    VnetHeader {
        flags: vnet_flags::NEEDS_CSUM,
        csum_start: start,
        csum_offset: offset,
        ..VnetHeader::default()
    }
}

/// The port counts it: without a header there is nothing to admit.
#[test]
fn less_than_a_virtio_header_is_short() {
    for form in [Form::Legacy10, Form::Modern12, Form::Hash20] {
        for len in 0..form.len_bytes() {
            let short = canonical!(HeaderFault::ShortVnetHeader);
            let read = VnetHeader::decode(form, &vec![0; len]).ok_or(short);
            assert_eq!(read, Err(short));
        }
        assert!(VnetHeader::decode(form, &vec![0; form.len_bytes()]).is_some());
    }
}

/// Linux let them through: CVE-2024-41090, CVE-2024-41091.
#[test]
fn less_than_an_ethernet_header_is_short() {
    for len in 0..14 {
        let bytes = vec![0; len];
        assert_fault(
            &bytes,
            VnetHeader::default(),
            canonical!(HeaderFault::ShortPacket),
        );
    }
    let mut rig = Rig::new();
    let nothing = rig.admit(&Input::new(Link::RawIp, Vec::new()));
    assert_eq!(nothing.err(), Some(HeaderFault::ShortPacket));
}

#[test]
fn a_packet_that_is_longer_than_any_can_be_is_refused() {
    let mut arena = Arena::new(1, 1);
    let mut admit = |len| {
        let body = [Frag::new(0, len)];
        let admitted = arena.admit(Link::Ethernet, &[0; 136], &body, None);
        admitted.map(|admitted| arena.release(admitted.id)).err()
    };
    assert_eq!(admit(65535 + 14 + 8), None);
    let fault = canonical!(HeaderFault::PacketTooLong);
    assert_eq!(admit(65535 + 14 + 8 + 1), Some(fault));
}

#[test]
fn a_caller_that_shows_too_little_of_the_header_is_told() {
    let mut arena = Arena::new(1, 1);
    let body = [Frag::new(0, 1500)];
    let admitted = arena.admit(Link::Ethernet, &[0; 100], &body, None);
    let fault = canonical!(HeaderFault::HeadMissing);
    assert_eq!(admitted.err(), Some(fault));
}

#[test]
fn a_burst_beyond_the_arena_is_told() {
    let bytes = tcp();
    let body = [Frag::new(0, bytes.len() as u32)];
    let two = [Frag::new(0, 100), Frag::new(100, bytes.len() as u32 - 100)];
    let fault = canonical!(HeaderFault::NoRoom);
    // One packet too many.
    let mut arena = Arena::new(1, 9);
    assert!(arena.admit(Link::Ethernet, &bytes, &body, None).is_ok());
    let admitted = arena.admit(Link::Ethernet, &bytes, &body, None);
    assert_eq!(admitted.err(), Some(fault));
    // One piece too many.
    let admitted = Arena::new(2, 1).admit(Link::Ethernet, &bytes, &two, None);
    assert_eq!(admitted.err(), Some(fault));
}

#[test]
fn hdr_len_beyond_the_packet_is_refused() {
    let bytes = tcp();
    let header = VnetHeader {
        hdr_len: bytes.len() as u16 + 1,
        ..VnetHeader::default()
    };
    assert_fault(&bytes, header, canonical!(HeaderFault::HdrLenBeyondPacket));
}

/// It is a hint for how much to copy, and nobody here copies by it.
#[test]
fn hdr_len_that_lies_within_the_packet_is_not_used() {
    let bytes = tcp();
    let told = admitted(&bytes, tso(&bytes));
    for hdr_len in [0, 1, 33, 3000] {
        let header = VnetHeader {
            hdr_len,
            ..tso(&bytes)
        };
        assert_eq!(admitted(&bytes, header), told);
    }
}

#[test]
fn a_checksum_beyond_the_packet_is_refused() {
    let bytes = tcp();
    let len = bytes.len() as u16;
    let places = [
        (len, 0),
        (len - 1, 0),
        (34, len - 34 - 1),
        // 16-bit sums would wrap to a place that is there.
        (0xFFFF, 0xFFFF),
        (34, 0xFFFF - 33),
    ];
    for (start, offset) in places {
        let fault = canonical!(HeaderFault::CsumBeyondPacket);
        assert_fault(&bytes, csum_at(start, offset), fault);
    }
}

/// Ethernet padding is cut off, and a checksum in it with it.
#[test]
fn a_checksum_in_the_padding_is_refused() {
    let builder = PacketBuilder::ethernet().ip_proto(1).payload_len(4);
    let bytes = builder.pad_to_minimum().build();
    assert_fault(&bytes, csum_at(34, 3), HeaderFault::CsumBeyondPacket);
    assert!(matches!(
        admitted(&bytes, csum_at(34, 2)).csum,
        Csum::Partial { .. }
    ));
}

#[test]
fn a_checksum_that_starts_in_the_network_header_is_refused() {
    let fault = canonical!(HeaderFault::CsumBeforeTransport);
    for start in [0, 13, 14, 33] {
        assert_fault(&tcp(), csum_at(start, 16), fault);
    }
    let v6 = PacketBuilder::ethernet()
        .ipv6([1; 16], [2; 16])
        .payload_len(9);
    assert_fault(&v6.clone().build(), csum_at(53, 16), fault);
    let extended = v6.extension(Extension::Destination(vec![0; 6]));
    assert_fault(&extended.build(), csum_at(54, 16), fault);
    // Also behind an IPv4 header whose length lies.
    let lying = PacketBuilder::ethernet().payload_len(100).ip_len(999);
    assert_fault(&lying.build(), csum_at(14, 10), fault);
}

#[test]
fn csum_start_counts_vlan_tags() {
    let bytes = PacketBuilder::ethernet()
        .vlan(0x88A8, 1)
        .vlan(0x8100, 2)
        .payload_len(100)
        .partial_checksum()
        .build();
    assert_fault(&bytes, csum_at(34, 16), HeaderFault::CsumBeforeTransport);
    assert_fault(&bytes, csum_at(7, 16), HeaderFault::CsumBeforeTransport);
    let pending = admitted(&bytes, csum_at(42, 16));
    let (start, offset) = (34, 16);
    assert_eq!(pending.csum, Csum::Partial { start, offset });
}

#[test]
fn a_checksum_field_that_is_not_the_protocols_is_refused() {
    let fault = canonical!(HeaderFault::CsumFieldWrong);
    assert_fault(&tcp(), csum_at(34, 6), fault);
    assert_fault(&tcp(), csum_at(34, 4), fault);
    assert_fault(&udp(), csum_at(34, 16), fault);
    // A super-packet whose pending checksum is another header's.
    let bytes = tcp();
    let header = VnetHeader {
        csum_start: 60,
        ..tso(&bytes)
    };
    assert_fault(&bytes, header, fault);
}

/// An odd start is legal (virtio says nothing about parity), and so is a place deeper inside.
#[test]
fn an_odd_and_deeper_start_is_taken() {
    let (start, offset) = (61, 5);
    let pending = admitted(&tcp(), csum_at(start, offset));
    assert_eq!(pending.csum, Csum::Partial { start, offset });
}

#[test]
fn a_checksum_field_too_deep_for_the_private_header_is_refused() {
    let fault = canonical!(HeaderFault::CsumFieldTooDeep);
    assert_fault(&tcp(), csum_at(100, 27), fault);
    let pending = admitted(&tcp(), csum_at(100, 26));
    assert!(matches!(pending.csum, Csum::Partial { .. }));
}

#[test]
fn a_checksum_on_a_fragment_is_refused() {
    let fault = canonical!(HeaderFault::CsumOnFragment);
    let first = PacketBuilder::ethernet()
        .df(false)
        .mf(true)
        .payload_len(100);
    assert_fault(&first.build(), csum_at(34, 16), fault);
    let v6 = PacketBuilder::ethernet()
        .ipv6([1; 16], [2; 16])
        .payload_len(100);
    let v6 = v6.extension(Extension::Fragment {
        offset: 0,
        more: true,
        id: 1,
    });
    assert_fault(&v6.build(), csum_at(62, 16), fault);
}

#[test]
fn an_unassigned_segmentation_type_is_refused() {
    let bytes = tcp();
    for gso_type in [2, 6, 7, 8, 0x10, 0x1F, 0x11, 0x80, 0x82, 0x9F] {
        let header = VnetHeader {
            gso_type,
            ..tso(&bytes)
        };
        assert_fault(&bytes, header, canonical!(HeaderFault::GsoTypeUnknown));
    }
}

#[test]
fn a_tunnel_segmentation_type_is_refused() {
    let bytes = tcp();
    for tunnel in [0x20, 0x40, 0x60] {
        let header = VnetHeader {
            gso_type: vnet_gso::TCPV4 | tunnel,
            ..tso(&bytes)
        };
        assert_fault(&bytes, header, canonical!(HeaderFault::GsoTunnelRefused));
    }
}

/// IP options and extension headers, of which not every one is for every fragment.
#[test]
fn fragmentation_of_more_than_plain_headers_is_refused() {
    let udp = || PacketBuilder::ethernet().udp(7, 8).payload_len(3000);
    let hop_by_hop = Extension::HopByHop(vec![1, 4, 0, 0, 0, 0]);
    for packet in [
        udp().ip_options(&[1; 4]),
        udp().ipv6([1; 16], [2; 16]).extension(hop_by_hop),
    ] {
        let bytes = packet.partial_checksum().build();
        let header = VnetHeader {
            gso_type: 3,
            gso_size: 1480,
            ..uso(&bytes)
        };
        assert_fault(&bytes, header, canonical!(HeaderFault::GsoUfoRefused));
    }
}

#[test]
fn fragments_are_multiples_of_eight() {
    let bytes = udp();
    for gso_size in [1, 7, 1001, 1479] {
        let header = VnetHeader {
            gso_type: 3,
            gso_size,
            ..uso(&bytes)
        };
        assert_fault(&bytes, header, canonical!(HeaderFault::GsoUfoSize));
    }
}

#[test]
fn ecn_on_udp_is_refused() {
    let bytes = udp();
    let header = VnetHeader {
        gso_type: vnet_gso::UDP_L4 | vnet_gso::ECN,
        ..uso(&bytes)
    };
    assert_fault(&bytes, header, canonical!(HeaderFault::GsoEcnNotTcp));
}

#[test]
fn a_segment_size_of_zero_is_refused() {
    let bytes = tcp();
    let header = VnetHeader {
        gso_size: 0,
        ..tso(&bytes)
    };
    assert_fault(&bytes, header, canonical!(HeaderFault::GsoSizeZero));
}

#[test]
fn the_kernels_reserved_segment_size_is_refused() {
    let bytes = tcp();
    let header = VnetHeader {
        gso_size: 0xFFFF,
        ..tso(&bytes)
    };
    assert_fault(&bytes, header, canonical!(HeaderFault::GsoSizeReserved));
}

/// Family and protocol, and headers that cannot be read at all.
#[test]
fn a_segmentation_type_for_another_protocol_is_refused() {
    let fault = canonical!(HeaderFault::GsoProtocolMismatch);
    let v6 = PacketBuilder::ethernet().ipv6([1; 16], [2; 16]);
    let v6 = v6.payload_len(3000).partial_checksum().build();
    let of = |bytes: &[u8], gso_type| needs_csum(Link::Ethernet, bytes, gso_type, 1000);
    assert_fault(&v6, of(&v6, vnet_gso::TCPV4), fault);
    assert_fault(&tcp(), of(&tcp(), vnet_gso::TCPV6), fault);
    assert_fault(&tcp(), of(&tcp(), vnet_gso::UDP_L4), fault);
    assert_fault(&udp(), of(&udp(), vnet_gso::TCPV4), fault);

    let without_csum = VnetHeader {
        gso_type: vnet_gso::TCPV4,
        gso_size: 1000,
        ..VnetHeader::default()
    };
    let builder = PacketBuilder::ethernet().payload_len(3000);
    let fragment = builder.clone().df(false).mf(true).build();
    assert_fault(&fragment, without_csum, fault);
    let mut data_offset = builder.clone().build();
    data_offset[14 + 20 + 12] = 0x40;
    assert_fault(&data_offset, without_csum, fault);
    let mut header_length = builder.clone().build();
    header_length[14] = 0x44;
    assert_fault(&header_length, without_csum, fault);
    let chain = builder.ipv6([1; 16], [2; 16]);
    let chain = chain.extension(Extension::HopByHop(vec![0; 254])).build();
    let header = VnetHeader {
        gso_type: vnet_gso::TCPV6,
        ..without_csum
    };
    assert_fault(&chain, header, fault);
}

#[test]
fn udp_segmentation_without_a_partial_checksum_is_refused() {
    let bytes = udp();
    let header = VnetHeader {
        flags: 0,
        ..uso(&bytes)
    };
    assert_fault(&bytes, header, canonical!(HeaderFault::GsoWithoutCsum));
}

/// UDP: 128 at most. TCP: a size below 8 is raised to 8, so at most 8189.
#[test]
fn a_flood_of_tiny_segments_is_refused() {
    let bytes = udp();
    for (gso_size, refused) in [(1, true), (23, true), (24, false)] {
        let header = VnetHeader {
            gso_size,
            ..uso(&bytes)
        };
        if refused {
            assert_fault(&bytes, header, canonical!(HeaderFault::GsoTooManySegments));
        } else {
            assert!(admitted(&bytes, header).gso.is_some());
        }
    }
    let bytes = tcp();
    for (gso_size, size) in [(1, 8), (7, 8), (8, 8), (9, 9)] {
        let header = VnetHeader {
            gso_size,
            ..tso(&bytes)
        };
        assert_eq!(admitted(&bytes, header).gso.expect("gso").size, size);
    }
}

#[test]
fn a_super_packet_with_syn_or_rst_is_refused() {
    for flag in [SYN, RST] {
        let builder = PacketBuilder::ethernet()
            .flags(ACK | flag)
            .payload_len(3000);
        let bytes = builder.partial_checksum().build();
        assert_fault(&bytes, tso(&bytes), canonical!(HeaderFault::GsoOnSynOrRst));
    }
}

#[test]
fn a_super_packet_beyond_64_kb_is_refused() {
    let of = |len: usize| {
        let builder = PacketBuilder::ethernet().payload_len(len - 40);
        builder.partial_checksum().build()
    };
    let bytes = of(65536);
    assert_fault(&bytes, tso(&bytes), canonical!(HeaderFault::GsoTooLong));
    let bytes = of(65535);
    assert!(admitted(&bytes, tso(&bytes)).gso.is_some());
}

/// Not an error: Linux too takes it for an ordinary packet.
#[test]
fn a_super_packet_of_one_segment_is_an_ordinary_packet() {
    let builder = PacketBuilder::ethernet().payload_len(1000);
    let bytes = builder.partial_checksum().build();
    let pending = admitted(&bytes, tso(&bytes));
    assert_eq!(pending.gso, None);
    let (start, offset) = (34, 16);
    assert_eq!(pending.csum, Csum::Partial { start, offset });
}

/// Windows sends zero, Linux the truth; what counts is what is there.
#[test]
fn the_ip_length_of_a_super_packet_may_be_anything() {
    for ip_len in [0, 20, 1040, 0xFFFF] {
        let builder = PacketBuilder::ethernet().ip_len(ip_len).payload_len(3000);
        let mut bytes = builder.partial_checksum().build();
        let header = VnetHeader {
            flags: vnet_flags::NEEDS_CSUM,
            gso_type: vnet_gso::TCPV4,
            gso_size: 1000,
            csum_start: 34,
            csum_offset: 16,
            ..VnetHeader::default()
        };
        bytes[24..26].fill(0);
        assert_eq!(
            admitted(&bytes, header).gso.expect("gso").kind,
            GsoKind::Tcp4
        );
    }
}

/// A driver must not set it, and whether it is good is ours to find out.
#[test]
fn a_guest_is_not_believed_about_checksums() {
    let bytes = PacketBuilder::ethernet()
        .payload_len(100)
        .bad_checksum()
        .build();
    let header = VnetHeader {
        flags: vnet_flags::DATA_VALID | vnet_flags::RSC_INFO,
        csum_start: 3,
        csum_offset: 1,
        ..VnetHeader::default()
    };
    assert_eq!(admitted(&bytes, header).csum, Csum::Unverified);
    let mut rig = Rig::new();
    let input = Input::ethernet(bytes).vnet(header, Trust::Kernel);
    let kernel = rig.admit(&input).expect("sound");
    assert_eq!(rig.arena.packet(kernel.id).pending().csum, Csum::Verified);
}

/// Names in metrics and in the manual are one per reason.
#[test]
fn names_and_lines_of_the_manual_are_complete() {
    fn check<R: Reason>() {
        let mut names: Vec<_> = R::ALL.iter().map(|reason| reason.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), R::ALL.len(), "two of one name in {}", R::STAGE);
        for (index, reason) in R::ALL.iter().enumerate() {
            assert_eq!(reason.index(), index);
            assert!(reason.doc().trim().ends_with('.'), "{reason:?}");
        }
        assert!(R::QUESTION.trim().ends_with('?'), "{}", R::QUESTION);
    }
    check::<HeaderFault>();
    check::<jumbo_engine::parse::Opaque>();
    check::<jumbo_engine::coalesce::End>();
    check::<jumbo_engine::coalesce::Alone>();
    check::<jumbo_engine::complete::Fault>();
}
