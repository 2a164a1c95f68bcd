//! What a peer can put on the wire with a raw socket: each is a packet like any other
//! or has its reason, whichever way it goes, and the next one passes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jumbo_engine::vnet::VnetHeader;
use jumbo_lab::packet_socket::PacketSocket;
use jumbo_lab::{Family, TestError};
use jumbo_switch::switch::State;
use jumbo_testkit::{PacketBuilder, tcp_flags};

use crate::rig::{Kind, Net, Outcome, Setup, USUAL, base, transfer, with_header};
use crate::support::quiet;

/// A packet, and the reason it must be counted under.
struct Bogus {
    what: &'static str,
    vnet: VnetHeader,
    bytes: Vec<u8>,
    reason: &'static str,
}

const PLAIN: VnetHeader = VnetHeader {
    flags: 0,
    gso_type: 0,
    hdr_len: 0,
    gso_size: 0,
    csum_start: 0,
    csum_offset: 0,
    num_buffers: 0,
    hash_value: 0,
    hash_report: 0,
    outer_th_offset: 0,
    inner_nh_offset: 0,
};

/// Of TCP over IPv4 without options.
const fn partial(gso_type: u8, gso_size: u16) -> VnetHeader {
    VnetHeader {
        flags: 1,
        gso_type,
        gso_size,
        hdr_len: 54,
        csum_start: 34,
        csum_offset: 16,
        ..PLAIN
    }
}

/// What is wrong in the bytes alone.
fn bytes_that_lie() -> Vec<Bogus> {
    let bogus = |what, packet: PacketBuilder, len: usize, reason| {
        let (vnet, mut bytes) = (PLAIN, packet.build());
        bytes.truncate(len);
        Bogus {
            what,
            vnet,
            bytes,
            reason,
        }
    };
    let sound = || base().payload_len(500);
    let all = usize::MAX;
    let group = [3, 0, 0, 0, 0, 0x77];
    let bridges = [1, 0x80, 0xc2, 0, 0, 0];
    vec![
        bogus("a link header alone", sound(), 14, "parse ip_truncated"),
        bogus("half an IP header", sound(), 24, "parse ip_truncated"),
        bogus(
            "half a TCP header",
            sound(),
            40,
            "parse ip_length_beyond_packet",
        ),
        bogus(
            "an IP length of 9000",
            sound().ip_len(9000),
            all,
            "parse ip_length_beyond_packet",
        ),
        bogus(
            "an IP length of 10",
            sound().ip_len(10),
            all,
            "parse ip_length_too_small",
        ),
        bogus(
            "a group as the source",
            sound().macs([0xff; 6], group),
            all,
            "forward source_is_group",
        ),
        bogus(
            "a group of bridges",
            sound().macs(bridges, SOURCE),
            all,
            "forward link_local_group",
        ),
    ]
}

/// What lies about pending work; the sender's own kernel lets these pass.
fn headers_that_lie() -> Vec<Bogus> {
    let bogus = |what, vnet, bytes, reason| Bogus {
        what,
        vnet,
        bytes,
        reason,
    };
    let syn = base().payload_len(30_000).flags(tcp_flags::SYN);
    let small = || base().payload_len(500).partial_checksum().build();
    let field = |csum_start, csum_offset| VnetHeader {
        csum_start,
        csum_offset,
        ..partial(0, 0)
    };
    vec![
        bogus(
            "segments of a SYN",
            partial(1, 1448),
            syn.partial_checksum().build(),
            "rx gso_on_syn_or_rst",
        ),
        bogus(
            "a checksum of half the IP header",
            field(24, 16),
            small(),
            "rx csum_before_transport",
        ),
        bogus(
            "a checksum in the wrong field",
            field(34, 10),
            small(),
            "rx csum_field_wrong",
        ),
    ]
}

/// What is too long for the other side, whose MTU is 1500.
fn too_long() -> Vec<Bogus> {
    let (plain, segments) = (base().payload_len(8000), base().payload_len(30_000));
    vec![
        Bogus {
            what: "a giant",
            vnet: PLAIN,
            bytes: plain.build(),
            reason: "complete over_mtu",
        },
        Bogus {
            what: "giant segments",
            vnet: partial(1, 4000),
            bytes: segments.partial_checksum().build(),
            reason: "complete segment_over_mtu",
        },
    ]
}

const SOURCE: [u8; 6] = [2, 0, 0, 0, 0, 0x77];

/// Every reason that was counted, at all ports together.
fn reasons(state: &State) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for counters in state.ports.iter().map(|port| &port.counters) {
        let mut note = |stage: &str, name: &dyn std::fmt::Display, count| {
            *all.entry(format!("{stage} {name}")).or_insert(0) += count;
        };
        let rx = &counters.rx;
        rx.faults.iter().for_each(|(r, n)| note("rx", &r, n));
        rx.losses.iter().for_each(|(r, n)| note("device", &r, n));
        rx.opaque.iter().for_each(|(r, n)| note("parse", &r, n));
        (counters.forward.iter()).for_each(|(r, n)| note("forward", &r, n));
        (counters.complete.iter()).for_each(|(r, n)| note("complete", &r, n));
        (counters.tx_faults.iter()).for_each(|(r, n)| note("tx", &r, n));
    }
    all
}

/// Sends it, and a good one after it, which arrives; and the books have the reason once.
fn one(net: &Net, bogus: &Bogus, from: &PacketSocket, to: &PacketSocket, id: u16) -> Outcome {
    let failed = |why: String| TestError::Failed(format!("{}: {why}", bogus.what));
    let before = reasons(&quiet(&net.switch));
    from.send(&with_header(&bogus.vnet, &bogus.bytes))
        .map_err(|error| failed(error.to_string()))?;
    let good = base().id(id).payload_len(100).build();
    from.send(&with_header(&PLAIN, &good))?;
    for _ in 0..1000 {
        match to.recv(Duration::from_secs(2))? {
            None => return Err(failed("the next one never arrived".into())),
            Some(whole) if whole[10..] == good => break,
            Some(_) => {}
        }
    }
    let mut after = reasons(&quiet(&net.switch));
    after.retain(|name, count| *count > before.get(name).copied().unwrap_or(0));
    let counted = after.get(bogus.reason).copied().unwrap_or(0);
    let before = before.get(bogus.reason).copied().unwrap_or(0);
    match counted == before + 1 {
        true => Ok(()),
        false => Err(failed(format!("not {}, but {after:?}", bogus.reason))),
    }
}

fn each(net: &Net, list: &[Bogus], (from, to): (usize, usize)) -> Outcome {
    let socket = |host: usize| PacketSocket::open(&net.hosts[host].ns, "t0", true);
    let (from, to) = (socket(from)?, socket(to)?);
    for (id, bogus) in list.iter().enumerate() {
        one(net, bogus, &from, &to, id as u16)?;
    }
    Ok(())
}

pub(crate) fn bogus_packets_have_a_reason_each() -> Outcome {
    for (from, to) in [(0, 1), (1, 0)] {
        let net = Net::pair(USUAL)?;
        each(&net, &bytes_that_lie(), (from, to))?;
        each(&net, &headers_that_lie(), (from, to))?;
        // The other side alone is short.
        net.links()?.set_mtu(&format!("w{}", from + 1), 9000)?;
        net.hosts[from].links()?.set_mtu("t0", 9000)?;
        each(&net, &too_long(), (from, to))?;
        net.hosts[from].links()?.set_mtu("t0", 1500)?;
        net.transfer(300_000)?;
    }
    Ok(())
}

/// XDP has bytes alone.
pub(crate) fn bogus_packets_have_a_reason_by_xdp() -> Outcome {
    for kind in [Kind::XdpNative, Kind::XdpGeneric] {
        for (from, to) in [(0, 1), (1, 0)] {
            let net = Net::pair(Setup { kind, ..USUAL })?;
            each(&net, &bytes_that_lie(), (from, to))
                .map_err(|e| TestError::Failed(format!("{kind:?}: {e:?}")))?;
            crate::rig::no_super_packets(&net)?;
            net.transfer(300_000)?;
        }
    }
    Ok(())
}

/// Of all kinds, while others talk.
pub(crate) fn bogus_packets_disturb_nobody() -> Outcome {
    let net = Net::new(&[USUAL; 3])?;
    let socket = PacketSocket::open(&net.hosts[2].ns, "t0", true)?;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let liar = scope.spawn(|| {
            let all: Vec<_> = (bytes_that_lie().into_iter())
                .chain(headers_that_lie())
                .collect();
            while !done.load(Ordering::Relaxed) {
                for bogus in &all {
                    // A full queue is as good as any other answer.
                    let _ = socket.send(&with_header(&bogus.vnet, &bogus.bytes));
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let [a, b, _] = &net.hosts[..] else {
            return Err(TestError::Failed("three hosts".into()));
        };
        for family in [Family::V4, Family::V6] {
            transfer(a, b, family, 2, 5_000_000)?;
        }
        done.store(true, Ordering::Relaxed);
        liar.join().expect("no panic");
        Ok(())
    })?;
    quiet(&net.switch);
    Ok(())
}
