//! LRO: throughput into a host that ends its TCP connections itself.
//!
//! The classic large receive offload, before GRO: segment sizes are free,
//! acknowledgement and window are the last packet's, and little else is looked
//! at. **What it merges cannot be taken apart again**, so it is only for a port
//! whose peer terminates. Models: Linux `net/ipv4/inet_lro.c` (until 4.6) and
//! FreeBSD `sys/netinet/tcp_lro.c`; where the two differ:
//!
//! | question | answer here | from |
//! |---|---|---|
//! | congestion experienced (CE) | alone, so that the mark arrives | inet_lro |
//! | ECE, CWR, FIN | alone | inet_lro |
//! | timestamps | the last ones; going back ends it | FreeBSD |
//! | a pure ACK that advances | absorbed | FreeBSD |
//! | a pure ACK with a larger window | absorbed | FreeBSD |
//! | a duplicate ACK | ends it, alone: a sender counts them | both |
//! | an ACK older than what is held | ends it, alone; FreeBSD drops it | |
//! | after a mismatch | begins anew | FreeBSD |
//!
//! Stricter than both: MAC addresses and VLAN tags tell flows apart, since a
//! switch forwards by them.

use super::pure_ack_alone;
use super::rules::{
    AckFold, CwrRule, End, EndsAfter, Field, Held, IpIdRule, MarksRefused, Moving, Push, Rules,
    Sizes, TcpOptions, Ttl,
};
use crate::packet::Packet;
use crate::superpacket::{ACK, CWR, ECE, FIN, L3_TOTAL_MAX, RST, SYN, URG};

/// The table. A shorter `l3_total_max` is LRO's maximum length.
pub static LRO: Rules = Rules {
    name: "lro",
    model: "Linux inet_lro, FreeBSD tcp_lro",
    lossless: false,
    key: &[Field::Link, Field::NetworkKey, Field::Ports],
    equal: &[
        // The reserved bits; every other flag is refused or required.
        (Field::Flags, End::FlagsChanged),
        // With timestamps or without.
        (Field::DataOffset, End::OptionsLengthChanged),
    ],
    ip_id: IpIdRule::Free,
    sizes: Sizes::Free,
    cwr: CwrRule::Equal,
    // lro_tcp_ip_check.
    flags_refused: SYN | RST | URG | FIN | ECE | CWR,
    flags_required: ACK,
    options: TcpOptions::Timestamps,
    ipv6_extensions: false,
    marks_refused: MarksRefused::Ce,
    df_required: false,
    moving: Moving::LastWins,
    // lro_add_packet leaves the first packet's flags.
    push: Push::First,
    ttl: Ttl::First,
    pure_ack,
    restarts: true,
    ends_after: EndsAfter {
        push: false,
        fin: false,
        shorter: false,
    },
    two_stage: true,
    l3_total_max: L3_TOTAL_MAX,
    udp: None,
};

/// FreeBSD `tcp_lro_condense`: pure ACKs are compressed, duplicates are not.
fn pure_ack(held: &Held<'_>, ack: &Packet) -> Option<AckFold> {
    if !held.is_followed_by(ack) {
        return pure_ack_alone(held, ack);
    }
    let advance = held.ack_advance(ack);
    let newer = advance != 0 && advance < 0x8000_0000;
    let wider = advance == 0 && ack.tcp_window() > held.head.tcp_window();
    (newer || wider).then_some(AckFold::Values)
}
