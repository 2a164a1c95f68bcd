//! What an aggregate takes over from the packets that join it, and what it says when it ends.

use super::judge::has_timestamps;
use super::rules::{Moving, Push, Rules, Ttl};
use super::table::{Flow, IdRule};
use crate::packet::{L3_AT, Net, Packet, Transport};
use crate::pending::{Cwr, Gso, GsoKind, Lossy};
use crate::superpacket::{self, FIN, PSH};
use crate::vnet::TCP_SEGMENT_MIN;

/// The values of a packet that may outlive it.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Moved {
    ack: u32,
    window: u16,
    flags: u8,
    ttl: u8,
    timestamps: Option<[u8; 8]>,
}

impl Moved {
    pub(crate) fn of(packet: &Packet) -> Self {
        Self {
            ack: packet.tcp_ack(),
            window: packet.tcp_window(),
            flags: superpacket::tcp_flags(packet),
            ttl: packet.bytes[ttl_at(packet)],
            timestamps: has_timestamps(packet).then(|| packet.array(packet.l4_at() + 24)),
        }
    }

    /// Acknowledgement, window and timestamps: the last ones.
    pub(crate) fn fold_into(&self, head: &mut Packet) {
        let l4_at = head.l4_at();
        head.set_be32(l4_at + 8, self.ack);
        head.set_be16(l4_at + 14, self.window);
        if let (Some(values), Some(place)) =
            (self.timestamps, head.bytes.get_mut(l4_at + 24..l4_at + 32))
        {
            place.copy_from_slice(&values);
        }
    }

    /// All that a segment changes in the aggregate it joined.
    pub(crate) fn join(&self, rules: &Rules, head: &mut Packet) {
        if rules.moving == Moving::LastWins {
            self.fold_into(head);
        }
        if rules.ttl == Ttl::Minimum {
            let at = ttl_at(head);
            head.bytes[at] = head.bytes[at].min(self.ttl);
        }
        let flags_at = head.l4_at() + 13;
        if let Some(flags) = head.bytes.get_mut(flags_at) {
            match rules.push {
                Push::Or => *flags |= self.flags & (PSH | FIN),
                Push::First => {}
                Push::Last => *flags = self.flags,
            }
        }
    }
}

fn ttl_at(packet: &Packet) -> usize {
    match packet.layers.net {
        Net::V6 => L3_AT + 7,
        _ => L3_AT + 8,
    }
}

/// Writes what a super-packet's header must say (Linux `tcp_gro_complete`,
/// `inet_gro_complete`, `udp_gro_complete`).
pub(crate) fn complete_aggregate(rules: &Rules, head: &mut Packet, flow: &Flow) {
    let udp = head.layers.transport == Transport::Udp;
    let flags_at = head.l4_at() + 13;
    if !udp && let Some(flags) = head.bytes.get_mut(flags_at) {
        *flags |= flow.last_flags;
    }
    let kind = match (udp, head.layers.net) {
        (true, _) => GsoKind::Udp,
        (false, Net::V6) => GsoKind::Tcp6,
        (false, _) => GsoKind::Tcp4,
    };
    let size = match kind {
        GsoKind::Udp | GsoKind::Ufo => flow.size,
        // What a receiver would make of a smaller one; lossless rules begin no such train.
        GsoKind::Tcp4 | GsoKind::Tcp6 => flow.size.max(TCP_SEGMENT_MIN),
    };
    let gso = Gso {
        kind,
        size,
        cwr: cwr(rules, head),
        fixed_id: rules.lossless && flow.id_rule == IdRule::Fixed,
    };
    // One segment and folded ACKs are an ordinary packet.
    head.pending.gso = (head.payload_len > u32::from(size)).then_some(gso);
    if !rules.lossless {
        head.pending.lossy = Some(Lossy {
            segments: flow.segments,
            dup_acks: 0,
            acks: flow.acks,
        });
    }
    head.tunnel.fixed_id = flow.outer_id_rule == IdRule::Fixed;
    superpacket::settle_header(head);
}

/// Which segments carry CWR. The header of what is lossy can say no more than "the first".
fn cwr(rules: &Rules, head: &Packet) -> Cwr {
    if rules.is_plain() && superpacket::has_cwr(head) {
        Cwr::All
    } else {
        Cwr::FirstOnly
    }
}
