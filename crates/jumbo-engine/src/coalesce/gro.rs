//! GRO: the lossless personality, the default and the only one fit for forwarding.
//!
//! `segment(coalesce(x)) == x`, byte for byte, except that PSH and FIN appear only
//! on the last segment of an aggregate. It refuses whatever segmentation could
//! not recreate ([`crate::superpacket`]). Model: Linux 6.18
//! `net/ipv4/tcp_offload.c` `tcp_gro_receive`, `include/net/gro.h`
//! `inet_gro_flush`, `net/ipv6/ip6_offload.c` `ipv6_gro_receive`.
//!
//! Where it differs from Linux 6.18, and why:
//! * CWR is compared like any other flag (the AccECN rule of Linux 7.x); 6.18
//!   never merges it. The segmenter is told by [`crate::pending::Cwr::All`].
//! * The urgent pointer is compared. Linux ignores it, and so would lose it.
//! * A packet refused before its ports are looked at ends the held aggregates of
//!   its address pair; in Linux it overtakes them.
//! * A first segment below 8 bytes of payload is not held: Linux raises smaller
//!   segment sizes to 8 (TCP_MIN_GSO_SIZE), which would cut the train differently.

use super::pure_ack_alone;
use super::rules::{
    CwrRule, End, EndsAfter, Field, IpIdRule, MarksRefused, Moving, Push, Rules, Sizes, TcpOptions,
    Ttl, UdpRules,
};
use crate::superpacket::{L3_TOTAL_MAX, RST, SYN, URG};

/// The table.
pub static GRO: Rules = Rules {
    name: "gro",
    model: "Linux 6.18 GRO",
    lossless: true,
    // dev_gro_receive: gro_list_prepare compares the link header bit by bit;
    // inet_gro_receive and ipv6_gro_receive the addresses, protocol and flow
    // label; tcp_gro_lookup the ports.
    key: &[
        Field::Link,
        Field::NetworkKey,
        Field::FlowLabel,
        Field::Ports,
    ],
    equal: &[
        // inet_gro_flush: (iph->tos ^ iph2->tos); ipv6_gro_receive: 0x0FF00000.
        (Field::Dscp, End::DscpChanged),
        (Field::Ecn, End::EcnChanged),
        // inet_gro_flush: (iph->ttl ^ iph2->ttl); ipv6_gro_receive: hop_limit.
        (Field::Ttl, End::TtlChanged),
        // inet_gro_flush: (iph->frag_off ^ iph2->frag_off) & IP_DF.
        (Field::IpFlags, End::IpFlagsChanged),
        // tcp_gro_receive: the flag word but PSH and FIN, data offset, window.
        (Field::DataOffset, End::OptionsLengthChanged),
        (Field::Flags, End::FlagsChanged),
        (Field::Cwr, End::FlagsChanged),
        (Field::Window, End::WindowChanged),
        // tcp_gro_receive: th->ack_seq ^ th2->ack_seq.
        (Field::Ack, End::AckChanged),
        // Ours: see above.
        (Field::UrgentPointer, End::UrgentPointerChanged),
        // tcp_gro_receive: every option word, timestamps included.
        (Field::Options, End::OptionsChanged),
    ],
    ip_id: IpIdRule::FixedOrIncrementing,
    sizes: Sizes::Equal,
    cwr: CwrRule::Equal,
    flags_refused: SYN | RST | URG,
    flags_required: 0,
    options: TcpOptions::Any,
    ipv6_extensions: true,
    marks_refused: MarksRefused::None,
    df_required: false,
    moving: Moving::Nothing,
    push: Push::Or,
    ttl: Ttl::First,
    pure_ack: pure_ack_alone,
    restarts: true,
    // tcp_gro_receive: flush = len < mss || flags & (URG|PSH|RST|SYN|FIN).
    ends_after: EndsAfter {
        push: true,
        fin: true,
        shorter: true,
    },
    // tcp_gro_receive: a GSO packet joins one of its own gso_size. skb_gro_receive keeps out
    // what user space made up (SKB_GSO_DODGY): a guest's, here.
    two_stage: true,
    // skb_gro_receive: below gro_max_size (65536), counted from the network header.
    l3_total_max: L3_TOTAL_MAX,
    // udp_gro_receive_segment.
    udp: Some(UdpRules {
        equal: &[
            (Field::Dscp, End::DscpChanged),
            (Field::Ecn, End::EcnChanged),
            (Field::Ttl, End::TtlChanged),
            (Field::IpFlags, End::IpFlagsChanged),
        ],
        ip_id: IpIdRule::FixedOrIncrementing,
        // "if (!uh->check) flush": a datagram without one is never merged.
        without_checksum: false,
        // UDP_GRO_CNT_MAX.
        datagrams_max: 64,
    }),
};
