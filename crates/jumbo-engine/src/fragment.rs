//! Fragmentation: a datagram that its sender left to be fragmented (UFO) becomes IP fragments.
//!
//! Follows Linux 6.18 `udp4_ufo_fragment` and `inet_gso_segment` for IPv4 (RFC 791 section 3.2):
//! every fragment has the datagram's header with its own length, offset and checksum, and
//! "don't fragment" is gone; and `udp6_ufo_fragment` for IPv6 (RFC 8200 section 4.5): a
//! fragment header comes behind the IPv6 header, with an identification that the arena chose
//! ([`crate::arena::Arena::number_fragments_from`]). The UDP checksum is that of the whole datagram,
//! finished before it is cut: nobody behind could. Payload is referenced, not copied.

use crate::arena::{Memory, Pieces};
use crate::complete::{Fault, finish_checksum};
use crate::packet::{L3_AT, Net, Packet, Transport};
use crate::parse::PROTOCOL_UDP;
use crate::pending::{Gso, Pending};
use crate::superpacket;

const UDP_LEN: u32 = 8;
const IPV6_LEN: usize = 40;
/// IPv6 fragment header: its length, and the number that announces it.
const FRAGMENT_LEN: usize = 8;
const FRAGMENT: u8 = 44;
/// IPv4: more fragments follow. IPv6: the same in its own word.
const MORE_V4: u16 = 0x2000;
const MORE_V6: u16 = 1;

/// Headers of each fragment, from the network header on, in bytes.
pub(crate) fn header_len(packet: &Packet) -> usize {
    let extra = match packet.layers.net {
        Net::V6 => FRAGMENT_LEN,
        _ => 0,
    };
    usize::from(packet.layers.l3_len) + extra
}

/// Notes the identification that the fragments of an IPv6 datagram will have.
pub(crate) fn set_id(packet: &mut Packet, id: u32) {
    packet.outer[..4].copy_from_slice(&id.to_be_bytes());
}

/// Hands every fragment of `packet` to `sink`, in order. Returns how many.
///
/// # Errors
/// [`Fault::PayloadMissing`] if the memory lacks the payload, before anything was handed over.
pub(crate) fn fragment<M: Memory>(
    packet: &Packet,
    gso: Gso,
    mut payload: Pieces<'_>,
    memory: &M,
    mut sink: impl FnMut(&Packet, Pieces<'_>),
) -> Result<u32, Fault> {
    let mut whole = packet.clone();
    whole.pending.gso = None;
    finish_checksum(&mut whole, payload, memory)?;
    whole.pending = Pending::NOTHING;
    whole.layers.fragment = true;
    whole.layers.transport = Transport::None;
    if whole.layers.net == Net::V6 {
        insert_header(&mut whole);
    }
    let count = gso.segments(packet.payload_len);
    for index in 0..count {
        // The UDP header is in the first.
        let own = if index == 0 { UDP_LEN } else { 0 };
        let piece = payload.split_off(u32::from(gso.size) - own);
        whole.layers.l4_len = own as u8;
        whole.payload_len = piece.len_bytes() as u32;
        place(&mut whole, index * u32::from(gso.size), index + 1 < count);
        sink(&whole, piece);
    }
    Ok(count)
}

/// Puts a fragment header behind the IPv6 header, which has no other extension.
fn insert_header(packet: &mut Packet) {
    let at = L3_AT + IPV6_LEN;
    let udp: [u8; UDP_LEN as usize] = packet.array(at);
    let [a, b, c, d, ..] = packet.outer;
    packet.bytes[L3_AT + 6] = FRAGMENT;
    packet.bytes[at..at + FRAGMENT_LEN].copy_from_slice(&[PROTOCOL_UDP, 0, 0, 0, a, b, c, d]);
    packet.bytes[at + FRAGMENT_LEN..at + FRAGMENT_LEN + UDP_LEN as usize].copy_from_slice(&udp);
    packet.layers.l3_len = (IPV6_LEN + FRAGMENT_LEN) as u8;
    packet.layers.extended = true;
}

/// Writes where in the datagram the fragment is, and what follows from that.
fn place(packet: &mut Packet, offset: u32, more: bool) {
    let word = offset as u16;
    match packet.layers.net {
        Net::V6 => {
            let more = if more { MORE_V6 } else { 0 };
            packet.set_be16(L3_AT + IPV6_LEN + 2, word | more);
        }
        _ => {
            let more = if more { MORE_V4 } else { 0 };
            packet.set_be16(L3_AT + 6, word >> 3 | more);
        }
    }
    superpacket::settle_lengths(packet);
}
