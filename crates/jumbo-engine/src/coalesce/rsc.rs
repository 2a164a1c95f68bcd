//! RSC: what a Windows host expects of receive segment coalescing.
//!
//! Model: Microsoft's "Rules for Coalescing TCP/IP Segments", "Exception
//! Conditions that Terminate Coalescing", "Updating the IP Headers for Coalesced
//! Segments" and, for UDP, "UDP Receive Segment Coalescing Offload (URO)"
//! (learn.microsoft.com/windows-hardware/drivers/network). **What it merges
//! cannot be taken apart again**: it is only for a port whose peer terminates.
//!
//! Exceptions end what is held and leave alone; too long a datagram and a changed
//! ECN field, ECE or CWR begin anew with the packet. Duplicate ACKs are never
//! folded in: a segment that reports one makes Windows turn RSC off.
//!
//! Narrower than Microsoft's text: timestamps are merged in the one layout that
//! every sender uses (NOP, NOP, timestamps); a pure ACK is never held, so that a
//! window update folds into data only; an aggregate of datagrams has no more than
//! a virtio receiver takes.
//!
//! [`RSC_QEMU`] is the same service as QEMU has it (10.x,
//! `hw/net/virtio-net.c`, `virtio_net_rsc_*`), errors included, for finding out
//! whether a guest depends on them. What it merges is QEMU's; not reproduced are
//! stale checksums, a segment size of zero, pure ACKs that are held, and packets
//! that overtake their flow.

use super::pure_ack_alone;
use super::rules::{
    AckFold, CwrRule, End, EndsAfter, Field, Held, IpIdRule, MarksRefused, Moving, Push, Rules,
    Sizes, TcpOptions, Ttl, UdpRules,
};
use crate::packet::Packet;
use crate::superpacket::{FIN, L3_TOTAL_MAX, RST, SYN, URG};
use crate::vnet::UDP_SEGMENTS_MAX;

/// The table.
pub static RSC: Rules = Rules {
    name: "rsc",
    model: "Microsoft NDIS RSC and URO",
    lossless: false,
    key: &[Field::Link, Field::NetworkKey, Field::Ports],
    equal: &[
        (Field::FlowLabel, End::FlowLabelChanged),
        // "Differentiated services field: must be the same for all segments".
        (Field::Dscp, End::DscpChanged),
        // Exception 8: the ECN field, ECE, CWR. Restarts.
        (Field::Ecn, End::EcnChanged),
        (Field::IpFlags, End::IpFlagsChanged),
        (Field::DataOffset, End::OptionsLengthChanged),
        (Field::Flags, End::FlagsChanged),
        (Field::Cwr, End::FlagsChanged),
    ],
    ip_id: IpIdRule::Free,
    sizes: Sizes::Free,
    cwr: CwrRule::Equal,
    // Exception 3.
    flags_refused: SYN | RST | URG | FIN,
    flags_required: 0,
    // Exception 4; timestamps by the ability that Windows asks for.
    options: TcpOptions::Timestamps,
    // Exception 5.
    ipv6_extensions: false,
    marks_refused: MarksRefused::None,
    df_required: false,
    moving: Moving::LastWins,
    push: Push::Or,
    ttl: Ttl::Minimum,
    pure_ack,
    restarts: true,
    ends_after: EndsAfter {
        push: false,
        fin: false,
        shorter: false,
    },
    two_stage: true,
    // Exception 7.
    l3_total_max: L3_TOTAL_MAX,
    udp: Some(UdpRules {
        equal: &[
            (Field::FlowLabel, End::FlowLabelChanged),
            (Field::Dscp, End::DscpChanged),
            (Field::Ecn, End::EcnChanged),
            (Field::Ttl, End::TtlChanged),
            (Field::IpFlags, End::IpFlagsChanged),
        ],
        ip_id: IpIdRule::Free,
        without_checksum: true,
        datagrams_max: UDP_SEGMENTS_MAX as u16,
    }),
};

/// QEMU's own RSC, for comparison.
pub static RSC_QEMU: Rules = Rules {
    name: "rsc-qemu",
    model: "QEMU 10 virtio_net_rsc",
    // The mask of the flag test is 0x3f, so that ECE and CWR pass it; neither
    // DSCP nor flow label is looked at.
    equal: &[(Field::DataOffset, End::OptionsLengthChanged)],
    options: TcpOptions::None,
    marks_refused: MarksRefused::All,
    df_required: true,
    // virtio_net_rsc_coalesce_data: the last flag word overwrites.
    push: Push::Last,
    ttl: Ttl::First,
    pure_ack: pure_ack_as_qemu,
    restarts: false,
    two_stage: false,
    udp: None,
    ..RSC
};

/// Decision chart of "Rules for Coalescing TCP/IP Segments": a window update
/// folds in, anything else ends what is held.
fn pure_ack(held: &Held<'_>, ack: &Packet) -> Option<AckFold> {
    if !held.is_followed_by(ack) {
        return pure_ack_alone(held, ack);
    }
    let update = held.ack_advance(ack) == 0 && ack.tcp_window() != held.head.tcp_window();
    update.then_some(AckFold::Values)
}

/// `virtio_net_rsc_coalesce_data`: behind data every pure ACK is swallowed; with
/// the head's sequence number only a window update is.
fn pure_ack_as_qemu(held: &Held<'_>, ack: &Packet) -> Option<AckFold> {
    if held.is_followed_by(ack) {
        return Some(AckFold::Segment);
    }
    let at_head = ack.tcp_seq() == held.head.tcp_seq();
    let update = held.ack_advance(ack) == 0 && ack.tcp_window() != held.head.tcp_window();
    (at_head && update).then_some(AckFold::Values)
}

/// What Windows counts of coalescing (`NDIS_RSC_STATISTICS_INFO`). It counts a
/// packet when it is added; here they are counted when their aggregate ends.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct RscStats {
    /// Packets that became part of an aggregate of two and more.
    pub coalesced_packets: u64,
    /// Their payload, bytes.
    pub coalesced_octets: u64,
    /// Aggregates of two packets and more.
    pub coalesce_events: u64,
    /// Exceptions that were met, but for too long a datagram.
    pub aborts: u64,
}

impl RscStats {
    /// Counts a packet that was held and leaves, and why it ended.
    pub fn ended(&mut self, packet: &Packet, end: End) {
        self.aborts += u64::from(end.is_rsc_abort());
        if let (Some(lossy), Some(_)) = (packet.pending.lossy, packet.pending.gso) {
            self.coalesced_packets += u64::from(lossy.segments);
            self.coalesced_octets += u64::from(packet.payload_len);
            self.coalesce_events += 1;
        }
    }

    /// Adds another set of counters, such as another worker's.
    pub fn add(&mut self, other: &Self) {
        self.coalesced_packets += other.coalesced_packets;
        self.coalesced_octets += other.coalesced_octets;
        self.coalesce_events += other.coalesce_events;
        self.aborts += other.aborts;
    }
}

impl End {
    /// Whether Microsoft's rules call it an exception that aborts coalescing.
    pub fn is_rsc_abort(self) -> bool {
        matches!(
            self,
            Self::TableFull
                | Self::BadChecksum
                | Self::Control
                | Self::Exception
                | Self::RefusedBelowTcp
                | Self::EcnChanged
                | Self::FlagsChanged
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_two_workers_add_up() {
        let one = RscStats {
            coalesced_packets: 1,
            coalesced_octets: 20,
            coalesce_events: 300,
            aborts: 4000,
        };
        let mut sum = RscStats {
            coalesced_packets: 5,
            coalesced_octets: 60,
            coalesce_events: 700,
            aborts: 8000,
        };
        sum.add(&one);
        let expected = RscStats {
            coalesced_packets: 6,
            coalesced_octets: 80,
            coalesce_events: 1000,
            aborts: 12_000,
        };
        assert_eq!(sum, expected);
    }
}
