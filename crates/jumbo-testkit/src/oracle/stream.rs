//! What a TCP receiver hands to its application.

use super::{Error, Net, parse};
use crate::builder::{Link, tcp_flags};
use std::collections::BTreeMap;

/// The bytes that these packets of one direction of one connection carry, in the order of their
/// sequence numbers, whatever order they come in. The first packet's number is where it begins, or
/// the lowest number up to 2^31 before that.
///
/// # Errors
///
/// If the packets belong to different flows, leave a gap, or disagree about a byte.
pub fn stream_bytes(link: Link, packets: &[Vec<u8>]) -> Result<Vec<u8>, Error> {
    let mut stream = BTreeMap::new();
    let mut first = None;
    for bytes in packets {
        let packet = parse(link, bytes)?;
        let tcp = packet.tcp().ok_or_else(|| Error::new("not TCP"))?;
        let addresses = match &packet.net {
            Net::Ipv4(ip) => [&ip.src[..], &ip.dst[..]].concat(),
            Net::Ipv6(ip) => [&ip.src[..], &ip.dst[..]].concat(),
            Net::Arp(_) | Net::Other(_) => return Err(Error::new("not IP")),
        };
        let flow = (addresses, tcp.src_port, tcp.dst_port);
        // SYN takes a number of its own, before the payload.
        let seq = tcp
            .seq
            .wrapping_add(u32::from(tcp.flags & tcp_flags::SYN != 0));
        let (first_flow, first_seq) = first.get_or_insert((flow.clone(), seq));
        if *first_flow != flow {
            return Err(Error::new("packets of different flows"));
        }
        let offset = i64::from(seq.wrapping_sub(*first_seq).cast_signed());
        for (at, byte) in (offset..).zip(packet.payload(bytes)) {
            if stream
                .insert(at, *byte)
                .is_some_and(|before| before != *byte)
            {
                return Err(Error(format!("two packets disagree about byte {at}")));
            }
        }
    }
    let from = stream.keys().next().copied().unwrap_or(0);
    if let Some((gap, _)) = (from..)
        .zip(stream.keys())
        .find(|(expected, at)| expected != *at)
    {
        return Err(Error(format!("byte {gap} is missing")));
    }
    Ok(stream.into_values().collect())
}
