//! Segmentation as Linux does it: `tcp_gso_segment` (net/ipv4/tcp_offload.c), `inet_gso_segment`
//! (net/ipv4/af_inet.c), `ipv6_gso_segment` (net/ipv6/ip6_offload.c), `__udp_gso_segment` and
//! `udp4_ufo_fragment` (net/ipv4/udp_offload.c), `udp6_ufo_fragment` (net/ipv6/udp_offload.c).

use super::{Error, Net, Parsed, Transport, checksum, l4_checks, parse};
use crate::builder::{Link, tcp_flags};

/// How a super-packet is to be cut.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Gso {
    pub kind: GsoKind,
    /// Bytes of payload a segment, or for UFO of IP payload a fragment.
    pub size: usize,
}

/// The `SKB_GSO_*` types and flags that change what comes out.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum GsoKind {
    /// `SKB_GSO_TCPV4`, `SKB_GSO_TCPV6`.
    Tcp {
        /// All segments keep the first one's IPv4 ID (`SKB_GSO_TCP_FIXEDID`).
        fixed_id: bool,
        /// CWR stays on all segments instead of the first alone (`SKB_GSO_TCP_ACCECN`).
        accecn: bool,
    },
    /// Datagrams of `size` bytes (`SKB_GSO_UDP_L4`, USO).
    UdpL4,
    /// Fragments of one datagram (`SKB_GSO_UDP`, UFO).
    Ufo {
        /// The identification in the fragment headers that IPv6 needs.
        ipv6_id: u32,
    },
}

/// Cuts a super-packet. Checksums in it may be partial; those of the results are right. Ethernet
/// padding is dropped. What fits into one segment comes out as one.
///
/// # Errors
///
/// If the super-packet is not what `gso` is for.
pub fn segment(link: Link, bytes: &[u8], gso: Gso) -> Result<Vec<Vec<u8>>, Error> {
    let packet = parse(link, bytes)?;
    if gso.size == 0 {
        return Err(Error::new("a GSO size of zero"));
    }
    match (gso.kind, &packet.transport) {
        (GsoKind::Tcp { fixed_id, accecn }, Transport::Tcp(_)) => cut(bytes, &packet, gso.size)
            .enumerate()
            .map(finish_tcp(link, fixed_id, accecn))
            .collect(),
        (GsoKind::UdpL4, Transport::Udp(_)) => cut(bytes, &packet, gso.size)
            .enumerate()
            .map(finish_udp(link))
            .collect(),
        (GsoKind::Ufo { ipv6_id }, Transport::Udp(_)) => {
            fragment(bytes, &packet, gso.size, ipv6_id)
        }
        _ => Err(Error::new("the transport is not the one of the GSO type")),
    }
}

/// One segment to be: all headers as they were, one piece of the payload.
struct Piece {
    bytes: Vec<u8>,
    /// Where in the payload it begins.
    offset: usize,
    last: bool,
}

fn cut(bytes: &[u8], packet: &Parsed, size: usize) -> impl Iterator<Item = Piece> {
    let headers = bytes[..packet.payload_at].to_vec();
    let payload = packet.payload(bytes).to_vec();
    let count = payload.len().div_ceil(size).max(1);
    (0..count).map(move |index| {
        let offset = index * size;
        let end = payload.len().min(offset + size);
        let bytes = [&headers[..], &payload[offset..end]].concat();
        Piece {
            bytes,
            offset,
            last: index + 1 == count,
        }
    })
}

fn finish_tcp(
    link: Link,
    fixed_id: bool,
    accecn: bool,
) -> impl Fn((usize, Piece)) -> Result<Vec<u8>, Error> {
    move |(
        index,
        Piece {
            mut bytes,
            offset,
            last,
        },
    )| {
        let id_step = if fixed_id { 0 } else { index };
        let l4_at = finish_ip(link, &mut bytes, id_step)?;
        let seq = get_u32(&bytes, l4_at + 4).wrapping_add(offset as u32);
        bytes[l4_at + 4..l4_at + 8].copy_from_slice(&seq.to_be_bytes());
        let mut flags = get_u16(&bytes, l4_at + 12);
        if !last {
            flags &= !(tcp_flags::FIN | tcp_flags::PSH);
        }
        if index > 0 && !accecn {
            flags &= !tcp_flags::CWR;
        }
        put_u16(&mut bytes, l4_at + 12, flags);
        finish_l4(link, &mut bytes, l4_at + 16)?;
        Ok(bytes)
    }
}

fn finish_udp(link: Link) -> impl Fn((usize, Piece)) -> Result<Vec<u8>, Error> {
    move |(index, Piece { mut bytes, .. })| {
        let l4_at = finish_ip(link, &mut bytes, index)?;
        let len = (bytes.len() - l4_at) as u16;
        put_u16(&mut bytes, l4_at + 4, len);
        finish_l4(link, &mut bytes, l4_at + 6)?;
        Ok(bytes)
    }
}

/// Gives IP the length that the packet really has, and IPv4 its ID and checksum. Returns where the
/// transport is.
fn finish_ip(link: Link, bytes: &mut [u8], id_step: usize) -> Result<usize, Error> {
    // The old length is that of the super-packet; zero stands for all there is.
    let l3_at = l3_at(link, bytes);
    let len = bytes.len() - l3_at;
    let version = bytes[l3_at] >> 4;
    if version == 4 {
        put_u16(bytes, l3_at + 2, len as u16);
        let id = get_u16(bytes, l3_at + 4).wrapping_add(id_step as u16);
        put_u16(bytes, l3_at + 4, id);
        finish_ipv4_check(bytes, l3_at);
    } else {
        put_u16(bytes, l3_at + 4, (len - 40) as u16);
    }
    parse(link, bytes).map(|packet| packet.l4_at)
}

/// Where the IP header is: behind Ethernet and its tags.
fn l3_at(link: Link, bytes: &[u8]) -> usize {
    if link == Link::RawIp {
        return 0;
    }
    let mut at = 12;
    while matches!(get_u16(bytes, at), 0x8100 | 0x88A8 | 0x9100) {
        at += 4;
    }
    at + 2
}

fn finish_ipv4_check(bytes: &mut [u8], l3_at: usize) {
    let header_len = usize::from(bytes[l3_at] & 15) * 4;
    put_u16(bytes, l3_at + 10, 0);
    let check = checksum(&bytes[l3_at..l3_at + header_len]);
    put_u16(bytes, l3_at + 10, check);
}

fn finish_l4(link: Link, bytes: &mut [u8], check_at: usize) -> Result<(), Error> {
    let packet = parse(link, bytes)?;
    let (_, right) = l4_checks(bytes, &packet)?;
    put_u16(bytes, check_at, right);
    Ok(())
}

/// UFO: completes the checksum of the whole datagram, then cuts what follows the unfragmentable
/// part into pieces of `size` bytes.
fn fragment(
    bytes: &[u8],
    packet: &Parsed,
    size: usize,
    ipv6_id: u32,
) -> Result<Vec<Vec<u8>>, Error> {
    if !size.is_multiple_of(8) {
        return Err(Error::new("a fragment's length must be a multiple of 8"));
    }
    let mut whole = bytes[..packet.end].to_vec();
    let (_, right) = l4_checks(&whole, packet)?;
    put_u16(&mut whole, packet.l4_at + 6, right);
    let datagram_len = packet.end - packet.l4_at;
    if datagram_len <= size {
        return Ok(vec![whole]);
    }
    let pieces = whole[packet.l4_at..].chunks(size).enumerate();
    pieces
        .map(|(index, piece)| {
            let offset = index * size;
            let more = offset + piece.len() < datagram_len;
            let word = offset as u16 | u16::from(more);
            match &packet.net {
                Net::Ipv4(_) => Ok(ipv4_fragment(&whole, packet, piece, word)),
                Net::Ipv6(_) => ipv6_fragment(&whole, packet, piece, word, ipv6_id),
                Net::Arp(_) | Net::Other(_) => Err(Error::new("not IP")),
            }
        })
        .collect()
}

/// `word` is the offset in bytes, whose low bits are free, and whether more follow. As in Linux the
/// whole field is written, so "don't fragment" is gone.
fn ipv4_fragment(whole: &[u8], packet: &Parsed, piece: &[u8], word: u16) -> Vec<u8> {
    let mut bytes = [&whole[..packet.l4_at], piece].concat();
    let len = (bytes.len() - packet.l3_at) as u16;
    put_u16(&mut bytes, packet.l3_at + 2, len);
    put_u16(&mut bytes, packet.l3_at + 6, word >> 3 | (word & 1) << 13);
    finish_ipv4_check(&mut bytes, packet.l3_at);
    bytes
}

/// Puts a fragment header behind the hop-by-hop and routing headers (`ip6_find_1stfragopt`).
fn ipv6_fragment(
    whole: &[u8],
    packet: &Parsed,
    piece: &[u8],
    word: u16,
    id: u32,
) -> Result<Vec<u8>, Error> {
    let Net::Ipv6(ip) = &packet.net else {
        return Err(Error::new("not IPv6"));
    };
    // Where the number of the next header stands that the fragment header takes the place of.
    let (mut next_at, mut at) = (packet.l3_at + 6, packet.l3_at + 40);
    let mut routing_seen = false;
    for (number, extension) in &ip.extensions {
        match number {
            0 | 43 => routing_seen |= *number == 43,
            60 if !routing_seen => {}
            60 => break,
            _ => return Err(Error::new("a fragment cannot be fragmented")),
        }
        (next_at, at) = (at, at + extension.len());
    }
    let mut header = vec![whole[next_at], 0];
    header.extend(word.to_be_bytes());
    header.extend(id.to_be_bytes());

    let rest = &whole[at..packet.l4_at];
    if !rest.is_empty() {
        return Err(Error::new("extension headers in the fragmentable part"));
    }
    let mut bytes = [&whole[..at], &header, piece].concat();
    bytes[next_at] = 44;
    let len = (bytes.len() - packet.l3_at - 40) as u16;
    put_u16(&mut bytes, packet.l3_at + 4, len);
    Ok(bytes)
}

fn get_u16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn get_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn put_u16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}
