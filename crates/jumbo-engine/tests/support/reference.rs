//! GRO as one would explain it: a list of held flows, all rules asked one by one over packets that
//! the testkit parsed. Slow, and shares no code with the engine. From Linux 6.18
//! `dev_gro_receive`, `inet_gro_receive`, `ipv6_gro_receive`, `tcp_gro_receive`,
//! `udp_gro_receive_segment` and `skb_gro_receive`, with the three differences that `coalesce/gro.rs` states.

use super::{Input, Why, oracle_link};
use jumbo_engine::coalesce::{Alone, End};
use jumbo_engine::vnet::Trust;
use jumbo_testkit::oracle::{self, Net, Parsed, Transport};
use jumbo_testkit::tcp_flags::{FIN, PSH, RST, SYN, URG};

/// What the reference says leaves: which packets, and every reason that would do.
#[derive(Debug)]
pub(crate) struct Expected {
    pub(crate) members: Vec<usize>,
    pub(crate) whys: Vec<Why>,
}

struct Held {
    members: Vec<usize>,
    key: Key,
    head: Parsed,
    size: usize,
    seq_next: u32,
    l3_total: usize,
    id_fixed: Option<bool>,
}

/// What tells flows apart.
#[derive(Clone, PartialEq)]
struct Key {
    link: Vec<u8>,
    addresses: (Vec<u8>, Vec<u8>),
    label: u32,
    extensions: Vec<(u8, Vec<u8>)>,
    ports: (u8, u16, u16),
}

#[derive(Default)]
pub(crate) struct Reference {
    held: Vec<Held>,
    pub(crate) out: Vec<Expected>,
    count: usize,
}

impl Reference {
    pub(crate) fn offer(&mut self, input: &Input) {
        let index = self.count;
        self.count += 1;
        let packet = oracle::parse(oracle_link(input.link), &input.bytes).expect("well formed");
        let Some(addresses) = addresses(&packet) else {
            return self.alone(index, Alone::NotIp);
        };
        let protocol = match &packet.net {
            Net::Ipv4(ip) => ip.proto,
            Net::Ipv6(ip) => ip.proto,
            _ => unreachable!("it has addresses"),
        };
        let unreadable = packet.tcp().is_none() && packet.udp().is_none();
        if !matches!(protocol, 6 | 17) || (protocol == 17 && unreadable && !is_fragment(&packet)) {
            return self.alone(index, Alone::NotTcp);
        }
        if let Some(alone) = refused_below_tcp(input, &packet) {
            let of_pair = |held: &Held| held.key.addresses == addresses;
            while let Some(at) = self.held.iter().position(of_pair) {
                self.end(at, vec![End::RefusedBelowTcp]);
            }
            return self.alone(index, alone);
        }
        let key = key(input, &packet, addresses);
        let at = self.held.iter().position(|held| held.key == key);
        if let Some((alone, end)) = refused(input, &packet) {
            if let Some(at) = at {
                self.end(at, vec![end]);
            }
            return self.alone(index, alone);
        }
        if let Some(at) = at {
            let differences = differences(&self.held[at], &packet);
            if differences.is_empty() {
                return self.merge(at, index, &packet);
            }
            self.end(at, differences);
        }
        self.begin(index, key, packet);
    }

    pub(crate) fn flush(&mut self) {
        while !self.held.is_empty() {
            self.end(0, vec![End::BurstEnd]);
        }
    }

    fn alone(&mut self, index: usize, alone: Alone) {
        self.out.push(Expected {
            members: vec![index],
            whys: vec![Why::Alone(alone)],
        });
    }

    fn end(&mut self, at: usize, ends: Vec<End>) {
        let held = self.held.remove(at);
        self.out.push(Expected {
            members: held.members,
            whys: ends.into_iter().map(Why::Ended).collect(),
        });
    }

    fn begin(&mut self, index: usize, key: Key, head: Parsed) {
        let size = head.end - head.payload_at;
        let mut seq_next = 0;
        if let Some(tcp) = head.tcp() {
            if tcp.flags & (PSH | FIN) != 0 {
                return self.alone(index, Alone::LastOfItsTrain);
            }
            if size < 8 {
                return self.alone(index, Alone::TinyPayload);
            }
            seq_next = tcp.seq.wrapping_add(size as u32);
        }
        self.held.push(Held {
            members: vec![index],
            key,
            size,
            seq_next,
            l3_total: head.end - head.l3_at,
            id_fixed: None,
            head,
        });
    }

    fn merge(&mut self, at: usize, index: usize, packet: &Parsed) {
        let held = &mut self.held[at];
        let size = packet.end - packet.payload_at;
        if let (Net::Ipv4(head), Net::Ipv4(ip)) = (&held.head.net, &packet.net) {
            held.id_fixed.get_or_insert(head.id == ip.id);
        }
        held.members.push(index);
        held.seq_next = held.seq_next.wrapping_add(size as u32);
        held.l3_total += size;
        let flags = packet.tcp().map_or(0, |tcp| tcp.flags);
        let mut ends = Vec::new();
        ends.extend((flags & PSH != 0).then_some(End::Push));
        ends.extend((flags & FIN != 0).then_some(End::Fin));
        ends.extend((size < held.size).then_some(End::ShortSegment));
        if !ends.is_empty() {
            self.end(at, ends);
        }
    }
}

/// Whether `later` must not leave before `earlier`: they are of one flow, or of one pair of
/// addresses and the ports of one of them are not looked at.
pub(crate) fn keep_order(earlier: &Input, later: &Input) -> bool {
    let parse =
        |input: &Input| oracle::parse(oracle_link(input.link), &input.bytes).expect("well formed");
    let (a, b) = (parse(earlier), parse(later));
    let (Some(a_pair), Some(b_pair)) = (addresses(&a), addresses(&b)) else {
        return false;
    };
    let refused = refused_below_tcp(earlier, &a).or(refused_below_tcp(later, &b));
    let has_ports = |packet: &Parsed| packet.tcp().is_some() || packet.udp().is_some();
    match (has_ports(&a), has_ports(&b)) {
        (true, true) if refused.is_some() => a_pair == b_pair,
        (true, true) => key(earlier, &a, a_pair) == key(later, &b, b_pair),
        _ => false,
    }
}

fn is_fragment(packet: &Parsed) -> bool {
    match &packet.net {
        Net::Ipv4(ip) => ip.fragment.is_fragment(),
        Net::Ipv6(ip) => ip.fragment.is_some(),
        _ => false,
    }
}

fn addresses(packet: &Parsed) -> Option<(Vec<u8>, Vec<u8>)> {
    match &packet.net {
        Net::Ipv4(ip) => Some((ip.src.to_vec(), ip.dst.to_vec())),
        Net::Ipv6(ip) => Some((ip.src.to_vec(), ip.dst.to_vec())),
        Net::Arp(_) | Net::Other(_) => None,
    }
}

/// IP options, fragments and wrong IPv4 headers: the network layer's refusals.
fn refused_below_tcp(input: &Input, packet: &Parsed) -> Option<Alone> {
    match &packet.net {
        Net::Ipv4(ip) if is_fragment(packet) && ip.proto == 17 => Some(Alone::UdpUnreadable),
        Net::Ipv6(ip) if is_fragment(packet) && ip.proto == 17 => Some(Alone::UdpUnreadable),
        _ if is_fragment(packet) => Some(Alone::TcpUnreadable),
        Net::Ipv4(ip) if !ip.options.is_empty() => Some(Alone::IpOptions),
        Net::Ipv4(ip) if ip.reserved => Some(Alone::IpFlags),
        Net::Ipv4(ip) => {
            let right = oracle::verify_ipv4_header(oracle_link(input.link), &input.bytes);
            (right.is_err() || ip.check == 0xFFFF).then_some(Alone::IpChecksum)
        }
        _ => None,
    }
}

/// TCP's own refusals, and what each ends its flow for.
fn refused(input: &Input, packet: &Parsed) -> Option<(Alone, End)> {
    let (flags, gso) = match &input.vnet {
        Some((header, _)) => (header.flags, header.gso_type != 0),
        None => (0, false),
    };
    if gso {
        return Some((Alone::AlreadyMerged, End::SuperPacket));
    }
    let Some(tcp) = packet.tcp() else {
        return udp_refused(input, packet, flags);
    };
    if tcp.flags & (SYN | RST | URG) != 0 {
        return Some((Alone::Control, End::Control));
    }
    if packet.payload_at == packet.end {
        return Some((Alone::PureAck, End::PureAck));
    }
    if flags & oracle::vnet_flags::NEEDS_CSUM != 0 {
        return None;
    }
    let believed = matches!(input.vnet, Some((_, Trust::Kernel)))
        && flags & oracle::vnet_flags::DATA_VALID != 0;
    let right = believed || oracle::verify_l4(oracle_link(input.link), &input.bytes).is_ok();
    (!right || tcp.check == 0xFFFF).then_some((Alone::TcpChecksum, End::BadChecksum))
}

fn udp_refused(input: &Input, packet: &Parsed, flags: u8) -> Option<(Alone, End)> {
    if packet.payload_at == packet.end {
        return Some((Alone::EmptyDatagram, End::EmptyDatagram));
    }
    if flags & oracle::vnet_flags::NEEDS_CSUM != 0 {
        return None;
    }
    if packet.udp().expect("UDP").check == 0 {
        return Some((Alone::UdpNoChecksum, End::BadChecksum));
    }
    let believed = matches!(input.vnet, Some((_, Trust::Kernel)))
        && flags & oracle::vnet_flags::DATA_VALID != 0;
    let right = believed || oracle::verify_l4(oracle_link(input.link), &input.bytes).is_ok();
    (!right).then_some((Alone::UdpChecksum, End::BadChecksum))
}

fn key(input: &Input, packet: &Parsed, addresses: (Vec<u8>, Vec<u8>)) -> Key {
    let (label, extensions) = match &packet.net {
        Net::Ipv6(ip) => (ip.flow_label, ip.extensions.clone()),
        _ => (0, Vec::new()),
    };
    let ports = match &packet.transport {
        Transport::Tcp(tcp) => (6, tcp.src_port, tcp.dst_port),
        Transport::Udp(udp) => (17, udp.src_port, udp.dst_port),
        _ => unreachable!("it has ports"),
    };
    Key {
        link: input.bytes[..packet.l3_at].to_vec(),
        addresses,
        label,
        extensions,
        ports,
    }
}

/// Every reason why the packet cannot join; none, and it must.
fn differences(held: &Held, packet: &Parsed) -> Vec<End> {
    let mut ends = network_differences(held, packet);
    let size = packet.end - packet.payload_at;
    if packet.udp().is_some() {
        let mut ask = |differs: bool, end: End| ends.extend(differs.then_some(end));
        ask(size > held.size, End::LargerSegment);
        ask(held.members.len() >= 64, End::DatagramLimit);
        ask(held.l3_total + size > 65535, End::SizeLimit);
        return ends;
    }
    let (Transport::Tcp(a), Transport::Tcp(b)) = (&held.head.transport, &packet.transport) else {
        unreachable!("the key has the protocol");
    };
    let mut ask = |differs: bool, end: End| ends.extend(differs.then_some(end));
    ask(a.ack != b.ack, End::AckChanged);
    ask(a.window != b.window, End::WindowChanged);
    let but_last = !(PSH | FIN);
    ask(a.flags & but_last != b.flags & but_last, End::FlagsChanged);
    ask(a.header_len != b.header_len, End::OptionsLengthChanged);
    ask(a.options != b.options, End::OptionsChanged);
    ask(a.urgent != b.urgent, End::UrgentPointerChanged);
    let ahead = b.seq.wrapping_sub(held.seq_next).cast_signed();
    ask(ahead > 0, End::SequenceGap);
    ask(ahead < 0, End::SequenceOld);
    ask(size > held.size, End::LargerSegment);
    ask(held.l3_total + size > 65535, End::SizeLimit);
    ends
}

fn network_differences(held: &Held, packet: &Parsed) -> Vec<End> {
    let (tos, ttl) = match (&held.head.net, &packet.net) {
        (Net::Ipv4(a), Net::Ipv4(b)) => (a.tos ^ b.tos, a.ttl ^ b.ttl),
        (Net::Ipv6(a), Net::Ipv6(b)) => {
            (a.traffic_class ^ b.traffic_class, a.hop_limit ^ b.hop_limit)
        }
        _ => unreachable!("the key has the addresses"),
    };
    let mut ends = Vec::new();
    let mut ask = |differs: bool, end: End| ends.extend(differs.then_some(end));
    ask(tos & 0xFC != 0, End::DscpChanged);
    ask(tos & 0x03 != 0, End::EcnChanged);
    ask(ttl != 0, End::TtlChanged);
    if let (Net::Ipv4(a), Net::Ipv4(b)) = (&held.head.net, &packet.net) {
        ask(a.df != b.df, End::IpFlagsChanged);
        let up = a.id.wrapping_add(held.members.len() as u16) == b.id;
        let goes_on = match held.id_fixed {
            None => up || a.id == b.id,
            Some(true) => a.id == b.id,
            Some(false) => up,
        };
        ask(!goes_on, End::IpIdIrregular);
    }
    ends
}
