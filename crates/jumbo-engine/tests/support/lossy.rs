//! What `lro` and `rsc` must never merge, asked pair by pair of packets that the testkit parsed.
//! Shares no code with the engine.

use super::{Input, oracle_link};
use jumbo_testkit::oracle::{self, Net, Parsed};
use jumbo_testkit::tcp_flags::{ACK, CWR, ECE, FIN, RST, SYN, URG};

/// Why `later` must not stand behind `earlier` in one aggregate of that personality.
pub(crate) fn refused(name: &str, earlier: &Input, later: &Input) -> Vec<&'static str> {
    let parse =
        |input: &Input| oracle::parse(oracle_link(input.link), &input.bytes).expect("well formed");
    let (a, b) = (parse(earlier), parse(later));
    let mut why = network(name, &a, &b);
    if earlier.bytes[..a.l3_at] != later.bytes[..b.l3_at] {
        why.push("link");
    }
    match (a.tcp(), b.tcp()) {
        (Some(_), Some(_)) => why.extend(tcp(name, &a, &b)),
        (None, None) if name == "rsc" && a.udp().is_some() => why.extend(udp(&a, &b)),
        _ => why.push("protocol"),
    }
    why
}

fn network(name: &str, a: &Parsed, b: &Parsed) -> Vec<&'static str> {
    let mut why = Vec::new();
    let mut ask = |wrong: bool, what| why.extend(wrong.then_some(what));
    let (tos, other) = match (&a.net, &b.net) {
        (Net::Ipv4(a), Net::Ipv4(b)) => {
            ask((a.src, a.dst) != (b.src, b.dst), "address");
            ask(name == "rsc" && a.df != b.df, "DF");
            ask(name == "rsc-qemu" && !(a.df && b.df), "DF clear");
            ask(!a.options.is_empty() || !b.options.is_empty(), "options");
            (a.tos, b.tos)
        }
        (Net::Ipv6(a), Net::Ipv6(b)) => {
            ask((a.src, a.dst) != (b.src, b.dst), "address");
            ask(name == "rsc" && a.flow_label != b.flow_label, "label");
            ask(
                !a.extensions.is_empty() || !b.extensions.is_empty(),
                "extensions",
            );
            (a.traffic_class, b.traffic_class)
        }
        _ => {
            ask(true, "version");
            (0, 0)
        }
    };
    ask(name == "rsc" && tos != other, "DSCP or ECN");
    ask(name == "lro" && (tos & 3 == 3 || other & 3 == 3), "CE");
    ask(name == "rsc-qemu" && (tos | other) & 3 != 0, "ECN");
    why
}

fn tcp(name: &str, a: &Parsed, b: &Parsed) -> Vec<&'static str> {
    let mut why = Vec::new();
    let mut ask = |wrong: bool, what| why.extend(wrong.then_some(what));
    let (first, second) = (a.tcp().expect("TCP"), b.tcp().expect("TCP"));
    let len = (a.end - a.payload_at) as u32;
    ask(second.seq != first.seq.wrapping_add(len), "sequence");
    let ports = |tcp: &oracle::Tcp| (tcp.src_port, tcp.dst_port);
    ask(ports(first) != ports(second), "ports");
    let flags = first.flags | second.flags;
    ask(flags & (SYN | RST | URG | FIN) != 0, "flags");
    ask(name == "lro" && flags & (ECE | CWR) != 0, "ECE or CWR");
    let differ = (first.flags ^ second.flags) & (ECE | CWR | ACK) != 0;
    ask(name == "rsc" && differ, "ECE, CWR or ACK differ");
    let stamp = |tcp: &oracle::Tcp| match tcp.options[..] {
        [] => None,
        [1, 1, 8, 10, a, b, c, d, ..] if tcp.options.len() == 12 => {
            Some(u32::from_be_bytes([a, b, c, d]))
        }
        _ => panic!("an option was merged"),
    };
    match (stamp(first), stamp(second)) {
        (None, None) => {}
        (Some(a), Some(b)) if name != "rsc-qemu" => ask(b.wrapping_sub(a) >= 1 << 31, "age"),
        _ => ask(true, "timestamps"),
    }
    why
}

fn udp(a: &Parsed, b: &Parsed) -> Vec<&'static str> {
    let (first, second) = (a.udp().expect("UDP"), b.udp());
    let Some(second) = second else {
        return vec!["protocol"];
    };
    let mut why = Vec::new();
    let ports = |udp: &oracle::Udp| (udp.src_port, udp.dst_port);
    why.extend((ports(first) != ports(second)).then_some("ports"));
    why.extend((second.len > first.len || second.len == 8).then_some("size"));
    why
}
