//! A captured packet into the engine's arena: missing bytes, checksum states.

use jumbo_engine::arena::{Arena, HEAD_WANTED_TUNNELS, Memory, PacketId, Pieces, sum_pieces};
use jumbo_engine::checksum::{Sum, pseudo_v4, pseudo_v6};
use jumbo_engine::packet::{Frag, Link, Net, Packet, Transport};
use jumbo_engine::parse::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Opaque, PROTOCOL_TCP, PROTOCOL_UDP};
use jumbo_engine::vnet::{Trust, VnetHeader};

use super::books::{Own, Why};
use crate::args::ChecksumMode;

/// VIRTIO_NET_HDR_F_NEEDS_CSUM and _DATA_VALID (virtio 1.3 section 5.1.6): how the engine is told.
const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
/// VIRTIO_NET_HDR_F_UDP_TUNNEL_CSUM: the outer checksum of a tunnel is meant as well.
const TUNNEL_CSUM: u8 = 8;

/// Bytes the capture does not have are said to be here, where no buffer reaches. The packet's own place is kept
/// above the bits its length can fill, so that no two of them look like neighbours.
const MISSING: u64 = 1 << 63;
const MISSING_SHIFT: u32 = 33;

/// A place inside the packet that a piece of payload belongs to, whether or not its bytes were captured.
pub(crate) fn place_of(at: u64) -> u64 {
    if at & MISSING == 0 {
        at
    } else {
        (at & !MISSING) >> MISSING_SHIFT
    }
}

/// One packet of the capture, its cooked header taken off.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Input<'a> {
    pub(crate) link: Link,
    /// What was captured.
    pub(crate) bytes: &'a [u8],
    /// Where `bytes` are in the memory the engine is given.
    pub(crate) at: u64,
    /// Bytes that were on the link behind the captured ones.
    pub(crate) missing_len: u32,
}

/// A packet in the arena.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Loaded {
    pub(crate) id: PacketId,
    pub(crate) opaque: Option<Opaque>,
    /// Its checksum is a bare pseudo-header sum, and counts as pending.
    pub(crate) pending: bool,
}

/// Admits a packet and settles what is thought of its checksum.
///
/// # Errors
/// Why it cannot be looked at and is passed on as it is.
pub(crate) fn admit(
    arena: &mut Arena,
    input: Input<'_>,
    mode: ChecksumMode,
    memory: &impl Memory,
) -> Result<Loaded, Why> {
    let trusted = VnetHeader {
        flags: DATA_VALID | TUNNEL_CSUM,
        ..VnetHeader::default()
    };
    let header = (mode == ChecksumMode::Trust).then_some(&trusted);
    let loaded = load(arena, input, header)?;
    let packet = arena.packet(loaded.id);
    if input.missing_len > 0 && input.bytes.len() < headers_needed(packet) {
        arena.release(loaded.id);
        return Err(Why::Own(Own::HeadersCut));
    }
    if mode != ChecksumMode::Auto || !is_bare(packet) {
        return Ok(loaded);
    }
    // One checksum in 65536 is right and looks bare.
    if checksum(packet, arena.payload(loaded.id), memory) == Checksum::Right {
        return Ok(loaded);
    }
    let pending = needs_csum(packet);
    arena.release(loaded.id);
    let again = load(arena, input, Some(&pending))?;
    Ok(Loaded {
        pending: true,
        ..again
    })
}

fn load(arena: &mut Arena, input: Input<'_>, header: Option<&VnetHeader>) -> Result<Loaded, Why> {
    let captured = Frag::new(input.at, input.bytes.len() as u32);
    let missing = Frag::new(MISSING | input.at << MISSING_SHIFT, input.missing_len);
    let body = [captured, missing];
    let body = &body[..if input.missing_len == 0 { 1 } else { 2 }];
    let mut padded = [0; HEAD_WANTED_TUNNELS];
    let head = if input.missing_len > 0 && input.bytes.len() < HEAD_WANTED_TUNNELS {
        // Zeros stand for what is missing; `headers_needed` finds out whether any was relied on.
        padded[..input.bytes.len()].copy_from_slice(input.bytes);
        &padded
    } else {
        input.bytes
    };
    let header = header.map(|header| (header, Trust::Kernel));
    let admitted = arena
        .admit(input.link, head, body, header)
        .map_err(Why::Header)?;
    Ok(Loaded {
        id: admitted.id,
        opaque: admitted.opaque,
        pending: false,
    })
}

/// How many bytes parsing relied on to come to its result.
fn headers_needed(packet: &Packet) -> usize {
    let layers = packet.layers();
    let link_len = usize::from(layers.l2_len) + packet.tags().len_bytes();
    let l3_len = match (layers.net, link_ethertype(packet)) {
        (Net::None, Some(ETHERTYPE_IPV6)) => 40,
        (Net::None, Some(ETHERTYPE_IPV4) | None) => 20,
        (Net::None, Some(_)) => 0,
        _ => usize::from(layers.l3_len),
    };
    let l4_len = match (layers.transport, layers.protocol) {
        (Transport::None, _) if layers.fragment => 0,
        (Transport::None, PROTOCOL_TCP) => 20,
        (Transport::None, PROTOCOL_UDP) => 8,
        _ => usize::from(layers.l4_len),
    };
    packet.outer_header().len() + link_len + l3_len + l4_len
}

fn link_ethertype(packet: &Packet) -> Option<u16> {
    // The header of an opaque packet may end behind the link header, never before.
    let bytes = packet.header().get(12..14)?;
    (packet.layers().l2_len != 0).then(|| u16::from_be_bytes([bytes[0], bytes[1]]))
}

/// What is known of a packet's transport checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Checksum {
    /// It verifies, or UDP over IPv4 has none, or there is no transport to have one.
    Right,
    Wrong,
    /// The capture does not have all bytes of the packet.
    Unknown,
}

/// Verifies the checksum of TCP or UDP.
pub(crate) fn checksum(packet: &Packet, payload: Pieces<'_>, memory: &impl Memory) -> Checksum {
    let Some((field, header)) = field_and_header(packet) else {
        return Checksum::Right;
    };
    let layers = packet.layers();
    if layers.transport == Transport::Udp && layers.net == Net::V4 && field == 0 {
        return Checksum::Right;
    }
    let Some(body) = sum_pieces(memory, payload) else {
        return Checksum::Unknown;
    };
    match pseudo(packet).add_bytes(header).add(body).fold() {
        0xffff => Checksum::Right,
        _ => Checksum::Wrong,
    }
}

/// The checksum field, and the transport header.
fn field_and_header(packet: &Packet) -> Option<(u16, &[u8])> {
    let layers = packet.layers();
    let at = csum_offset(layers.transport)?;
    let header = packet
        .header()
        .get(usize::from(layers.l2_len) + usize::from(layers.l3_len)..)?;
    let field = header.get(at..at + 2)?;
    Some((u16::from_be_bytes([field[0], field[1]]), header))
}

/// RFC 9293 section 3.1, RFC 768.
fn csum_offset(transport: Transport) -> Option<usize> {
    match transport {
        Transport::None => None,
        Transport::Tcp => Some(16),
        Transport::Udp => Some(6),
    }
}

/// Whether the field holds the pseudo-header sum alone, as Linux leaves it to the card (`__tcp_v4_send_check`).
fn is_bare(packet: &Packet) -> bool {
    field_and_header(packet).is_some_and(|(field, _)| field == pseudo(packet).fold())
}

fn needs_csum(packet: &Packet) -> VnetHeader {
    let layers = packet.layers();
    let before = packet.outer_header().len() + packet.tags().len_bytes();
    let start = before + usize::from(layers.l2_len) + usize::from(layers.l3_len);
    VnetHeader {
        flags: NEEDS_CSUM,
        csum_start: start as u16,
        csum_offset: csum_offset(layers.transport).unwrap_or(0) as u16,
        ..VnetHeader::default()
    }
}

fn pseudo(packet: &Packet) -> Sum {
    let layers = packet.layers();
    let header = packet.header();
    let l3 = usize::from(layers.l2_len);
    let l4_total = u32::from(layers.l4_len) + packet.payload_len();
    match layers.net {
        Net::V6 => pseudo_v6(
            array(header, l3 + 8),
            array(header, l3 + 24),
            layers.protocol,
            l4_total,
        ),
        _ => pseudo_v4(
            array(header, l3 + 12),
            array(header, l3 + 16),
            layers.protocol,
            l4_total,
        ),
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let found = bytes.get(at..at + N).and_then(|part| part.try_into().ok());
    found.unwrap_or([0; N])
}
