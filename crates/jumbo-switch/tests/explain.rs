//! What `explain` says is what the path does: both are asked about every pair of
//! capability sets.

use jumbo_engine::pending::Caps;
use jumbo_engine::vnet::{Form, VnetHeader};
use jumbo_ports::mem::{self, MemHandle, MemPacket};
use jumbo_ports::queue::Bounds;
use jumbo_switch::explain::{Decision, Kind, Row, Side, Source, Who, explain};
use jumbo_switch::path::Plane;
use jumbo_switch::topology::{Coalesce, Policy, PortId, Slot, TunnelMode};
use jumbo_testkit::oracle::{self, VnetForm, vnet_gso};
use jumbo_testkit::script::{TcpStream, UdpStream};
use jumbo_testkit::{Link, PacketBuilder, tcp_flags};

const A: [u8; 6] = [2, 0, 0, 0, 0, 1];
const B: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// Every set that [`Caps::new`] can make, once.
fn all_caps() -> Vec<Caps> {
    let mut sets: Vec<Caps> = Vec::new();
    for bits in 0..32u8 {
        let bit = |n: u8| bits >> n & 1 == 1;
        let caps = Caps::new(bit(0), bit(1), bit(2), bit(3), bit(4));
        if !sets.contains(&caps) {
            sets.push(caps);
        }
    }
    assert_eq!(sets.len(), 15);
    for tunnels in [(true, false), (true, true)] {
        sets.push(Caps::ALL.with_udp_tunnels(tunnels.0, tunnels.1));
    }
    sets
}

/// Everything, tunnels too.
fn all() -> Caps {
    Caps::ALL.with_udp_tunnels(true, true)
}

/// A plane with a port in memory on each side.
struct Rig {
    plane: Plane,
    from: MemHandle,
    to: MemHandle,
}

impl Rig {
    fn new(source: Source, policy: Policy, tunnels: TunnelMode) -> Self {
        let mut plane = Plane::new(Bounds::default(), 300, 0x5eed);
        plane.set_tunnels(tunnels);
        let mut add = |id, policy: Policy| {
            let (port, handle) =
                mem::port("m", 1, source.hands, policy.takes, policy.mtu).expect("an eventfd");
            let queue = port.queues.into_iter().next().expect("one");
            plane.topology.insert(Slot::new(PortId(id), queue, policy));
            handle
        };
        let open = Policy {
            coalesce: Coalesce::Off.into(),
            takes: Caps::ALL,
            mtu: 65535,
        };
        let from = add(0, open);
        let to = add(1, policy);
        let mut rig = Self { plane, from, to };
        let hello = PacketBuilder::ethernet().macs(A, B).payload_len(1).build();
        rig.to.put(&VnetHeader::default(), &hello);
        rig.run(1);
        rig.from.taken();
        rig
    }

    fn run(&mut self, port: u16) {
        self.plane.batch(PortId(port), 0);
        self.plane.end_burst(0);
    }

    /// What comes out when these go in, in one burst.
    fn pass(&mut self, packets: Vec<Vec<u8>>) -> Vec<MemPacket> {
        for packet in packets {
            self.from.put_raw(packet);
        }
        self.run(0);
        self.to.taken()
    }
}

/// The header of a port that hands over super-packets in tunnels.
const FORM: Form = Form::Tunnel24;

/// A packet behind its virtio header.
fn plain(bytes: &[u8]) -> Vec<u8> {
    let mut whole = vec![0; FORM.len_bytes()];
    whole.extend(bytes);
    whole
}

fn partial(packet: &PacketBuilder, gso_type: u8, size: usize) -> Vec<u8> {
    let bytes = packet.clone().partial_checksum().build();
    let header = oracle::VnetHeader::needs_csum(Link::Ethernet, &bytes, gso_type, size as u16);
    let mut whole = header.expect("TCP or UDP").encode(VnetForm::Merged);
    whole.resize(FORM.len_bytes(), 0);
    whole.extend(bytes);
    whole
}

/// A packet in VXLAN.
fn wrapped(inner: &[u8], csum: bool, index: u16) -> Vec<u8> {
    let body = [&[8, 0, 0, 0, 0, 0, 7, 0], inner].concat();
    let outer = PacketBuilder::ethernet().macs(B, A).id(9 + index);
    let outer = outer.udp(5000, 4789).payload(&body);
    match csum {
        true => outer.build(),
        false => outer.no_checksum().build(),
    }
}

/// Headers of a tunnel around an inner network packet.
const TUNNEL_LEN: usize = 50;

fn tunnel_packets(kind: Kind, l3_len: usize) -> Vec<Vec<u8>> {
    let csum = kind == Kind::TunnelCsumSuper;
    let size = l3_len - TUNNEL_LEN - 40;
    let base = PacketBuilder::ethernet().df(true);
    let stream = TcpStream::new(base).segments(2).mss(size);
    if kind == Kind::TunnelTrain {
        let inner = stream.packets().into_iter().zip(0..);
        return inner.map(|(p, i)| plain(&wrapped(&p, csum, i))).collect();
    }
    let inner = stream.super_packet().partial_checksum().build();
    let header = VnetHeader {
        flags: if csum { 1 | 8 } else { 1 },
        gso_type: 1 | 0x20,
        hdr_len: 14 + 50 + 40,
        gso_size: size as u16,
        csum_start: 14 + 50 + 20,
        csum_offset: 16,
        outer_th_offset: 34,
        inner_nh_offset: 64,
        ..VnetHeader::default()
    };
    let mut whole = vec![0; FORM.len_bytes()];
    header.encode(FORM, &mut whole).expect("room");
    whole.extend(wrapped(&inner, csum, 0));
    vec![whole]
}

/// Packets of that kind, made by the test kit, `l3_len` bytes each on a wire.
fn packets(kind: Kind, l3_len: usize) -> Vec<Vec<u8>> {
    let base = PacketBuilder::ethernet().macs(B, A);
    let v6 = matches!(kind, Kind::Tcp6Super | Kind::Tcp6SuperCwr | Kind::Tcp6Train);
    let base = match v6 {
        true => base.ipv6([1; 16], [2; 16]),
        false => base.df(true),
    };
    let headers = if v6 { 60 } else { 40 };
    let size = l3_len - headers;
    let stream = TcpStream::new(base.clone()).segments(2).mss(size);
    let cwr = stream.clone().first_flags(tcp_flags::ACK | tcp_flags::CWR);
    match kind {
        Kind::Tcp4Super | Kind::SegmentsOverMtu => {
            vec![partial(&stream.super_packet(), vnet_gso::TCPV4, size)]
        }
        Kind::Tcp6Super => vec![partial(&stream.super_packet(), vnet_gso::TCPV6, size)],
        Kind::Tcp4SuperCwr => vec![partial(
            &cwr.super_packet(),
            vnet_gso::TCPV4 | vnet_gso::ECN,
            size,
        )],
        Kind::Tcp6SuperCwr => vec![partial(
            &cwr.super_packet(),
            vnet_gso::TCPV6 | vnet_gso::ECN,
            size,
        )],
        Kind::UdpSuper => {
            let size = l3_len - 28;
            let stream = UdpStream::new(base.udp(1, 2)).datagrams(2, size, size);
            vec![partial(&stream.super_packet(), vnet_gso::UDP_L4, size)]
        }
        Kind::PartialChecksum => vec![partial(&stream.packet(0), vnet_gso::NONE, 0)],
        Kind::Finished => vec![plain(&base.udp(1, 2).payload_len(l3_len - 28).build())],
        Kind::OverMtu => vec![plain(&stream.packet(0).build())],
        Kind::Tcp4Train | Kind::Tcp6Train => stream.packets().iter().map(|p| plain(p)).collect(),
        Kind::UdpTrain => {
            let size = l3_len - 28;
            let stream = UdpStream::new(base.udp(1, 2)).datagrams(2, size, size);
            stream.packets().iter().map(|p| plain(p)).collect()
        }
        Kind::TunnelSuper | Kind::TunnelCsumSuper | Kind::TunnelTrain => {
            tunnel_packets(kind, l3_len)
        }
    }
}

/// What was seen: decision, who segmented, who computes the checksum.
fn seen(kind: Kind, came_out: &[MemPacket]) -> (&'static str, Who, Who) {
    let super_packet = came_out.iter().any(|p| p.vnet.gso_type != 0);
    let is_partial = came_out.iter().all(|p| p.vnet.flags & 1 != 0);
    let train = matches!(
        kind,
        Kind::Tcp4Train | Kind::Tcp6Train | Kind::UdpTrain | Kind::TunnelTrain
    );
    match (came_out.len(), super_packet, is_partial) {
        (0, ..) => ("dropped", Who::Nobody, Who::Nobody),
        (1, true, true) if train => ("coalesced", Who::Receiver, Who::Receiver),
        (1, true, true) => ("whole", Who::Receiver, Who::Receiver),
        (2, false, false) if train => ("as_it_came", Who::Nobody, Who::Sender),
        (2, false, true) => ("segmented", Who::Switch, Who::Receiver),
        (2, false, false) => ("segmented", Who::Switch, Who::Switch),
        (1, false, true) => ("left_partial", Who::Nobody, Who::Receiver),
        (1, false, false) if kind == Kind::PartialChecksum => {
            ("checksum_finished", Who::Nobody, Who::Switch)
        }
        (1, false, false) => ("as_it_came", Who::Nobody, Who::Sender),
        other => panic!("{kind:?}: {other:?}"),
    }
}

/// Checks one row against the path.
fn check(row: &Row, rig: &mut Rig, source: Source, policy: &Policy) {
    let at = || format!("{row:?} from {source:?} to {policy:?}");
    if row.decision == Decision::NotHanded {
        assert!(matches!(row.lacks, Some((Side::From, _))), "{}", at());
        return;
    }
    let l3_len = match row.kind {
        Kind::OverMtu | Kind::SegmentsOverMtu => policy.mtu + 1,
        _ => source.mtu.min(policy.mtu),
    };
    let came_out = rig.pass(packets(row.kind, l3_len));
    let expected = (row.decision.name(), row.segments, row.checksums);
    assert_eq!(seen(row.kind, &came_out), expected, "{}", at());
    let merged = row.coalesces == Who::Switch;
    assert_eq!(merged, row.decision == Decision::Coalesced, "{}", at());
    if let Decision::Dropped(fault) = row.decision {
        let slot = rig.plane.topology.get_mut(PortId(1)).expect("there");
        let faults = std::mem::take(&mut slot.counters.complete);
        assert_eq!((faults.get(fault), faults.total()), (1, 1), "{}", at());
    }
    assert!(rig.plane.books().balanced());
}

#[test]
fn every_pair_of_ports_is_treated_as_explained() {
    let mut rows = 0;
    for ((from_mtu, to_mtu), tunnels) in [
        ((1500, 1500), TunnelMode::Merge),
        ((9000, 1500), TunnelMode::Whole),
        ((1500, 9000), TunnelMode::Merge),
        ((68, 1500), TunnelMode::Merge),
    ] {
        for takes in all_caps() {
            for coalesce in Coalesce::ALL {
                let policy = Policy {
                    coalesce: coalesce.into(),
                    takes,
                    mtu: to_mtu,
                };
                let source = |hands| Source {
                    hands,
                    mtu: from_mtu,
                };
                let mut rig = Rig::new(source(all()), policy, tunnels);
                for hands in all_caps() {
                    for row in explain(source(hands), &policy, tunnels) {
                        check(&row, &mut rig, source(hands), &policy);
                        rows += 1;
                    }
                }
            }
        }
    }
    assert!(rows > 15_000, "{rows}");
}

#[test]
fn every_kind_has_a_sample() {
    // A sample that the engine refuses would read as "not handed".
    for (from_mtu, to_mtu) in [(65535, 1500), (65535, 65533), (9000, 68), (1500, 1500)] {
        let policy = Policy {
            coalesce: Coalesce::Gro.into(),
            takes: Caps::NONE,
            mtu: to_mtu,
        };
        let source = Source {
            hands: all(),
            mtu: from_mtu,
        };
        let rows = explain(source, &policy, TunnelMode::Whole);
        let over = if from_mtu > to_mtu { 0 } else { 2 };
        let tunnels = if to_mtu < 118 { 3 } else { 0 };
        assert_eq!(rows.len(), Kind::ALL.len() - over - tunnels);
        for row in rows {
            assert_ne!(row.decision, Decision::NotHanded, "{row:?}");
        }
    }
}

#[test]
fn reasons_name_the_port_that_lacks_something() {
    let policy = Policy {
        coalesce: Coalesce::Gro.into(),
        takes: Caps::new(true, false, true, false, true),
        mtu: 1500,
    };
    let hands = Caps::new(true, true, true, true, false);
    let rows = explain(Source { hands, mtu: 9000 }, &policy, TunnelMode::Whole);
    let reason = |kind| {
        let row = rows.iter().find(|row| row.kind == kind).expect("a row");
        row.reason("web", "db", None)
    };
    assert_eq!(
        reason(Kind::Tcp4Super),
        "db does not take them (tx_tso4): cut here, the checksum of each segment left to db"
    );
    assert_eq!(
        reason(Kind::UdpSuper),
        "web does not hand them over (rx_uso): whatever is behind web segments by itself"
    );
    // The sender's own segments have partial checksums, which the other takes.
    let row = rows.iter().find(|row| row.kind == Kind::UdpSuper);
    let row = row.expect("a row");
    assert_eq!((row.segments, row.checksums), (Who::Sender, Who::Receiver));
    assert_eq!(
        reason(Kind::Tcp6SuperCwr),
        "db does not take them (tx_tso_ecn): cut here, the checksum of each segment left to db"
    );
    assert_eq!(
        reason(Kind::Tcp4Train),
        "db does not take them merged (tx_tso4): each leaves as it came"
    );
    let row = rows.iter().find(|row| row.kind == Kind::Tcp4Super);
    assert_eq!(
        row.expect("a row").reason("web", "db", Some("too old")),
        "db does not take them (tx_tso4: too old): cut here, the checksum of each segment left to db"
    );
    assert_eq!(
        reason(Kind::TunnelTrain),
        "nothing is merged in tunnels: each leaves as it came"
    );
    assert_eq!(
        reason(Kind::TunnelSuper),
        "web does not hand them over (rx_udp_tunnel): whatever is behind web segments by itself"
    );
    assert_eq!(
        reason(Kind::OverMtu),
        "larger than the MTU of db, and a switch does not fragment"
    );
}
