//! Who does the pending work: every kind of packet against every set of capabilities.
//!
//! The answers are written out, a line per kind of packet and a column per question, from the
//! virtio specification 1.3 section 5.1.6.2 (what each feature bit lets a driver leave undone) and
//! Linux `include/linux/virtio_net.h` (what the header cannot say).

mod support;

use jumbo_engine::complete::{Fault, Plan, leaving};
use jumbo_engine::packet::Link;
use jumbo_engine::pending::{Caps, Csum};
use jumbo_engine::segment::SegmentCsum;
use jumbo_engine::vnet::{Trust, VnetHeader};
use jumbo_testkit::oracle::{vnet_flags, vnet_gso};
use jumbo_testkit::tcp_flags::{ACK, CWR};
use jumbo_testkit::{PacketBuilder, script::IpId, script::TcpStream};
use support::{Input, Rig, needs_csum, plan_of};

/// What a packet needs of a port to leave whole.
#[derive(Copy, Clone, Debug, PartialEq)]
enum Needs {
    Nothing,
    Csum,
    Tso4,
    Tso6,
    Tso4AndEcn,
    Tso6AndEcn,
    Uso,
    /// No header can say it.
    Impossible,
}

/// A packet that came in, or an aggregate made here.
#[derive(Copy, Clone, Debug, PartialEq)]
enum Kind {
    Plain,
    Verified,
    PartialTcp4,
    PartialTcp6,
    PartialUdp,
    /// From outside: CWR, if any, is the first segment's alone.
    Tso4 {
        cwr: bool,
    },
    Tso6 {
        cwr: bool,
    },
    Uso4,
    Uso6,
    /// Made here: CWR, if any, is on all segments.
    Merged4 {
        cwr: bool,
        fixed_id: bool,
        df: bool,
    },
    Merged6 {
        cwr: bool,
    },
}

/// The table.
const TABLE: &[(Kind, Needs)] = &[
    (Kind::Plain, Needs::Nothing),
    (Kind::Verified, Needs::Nothing),
    (Kind::PartialTcp4, Needs::Csum),
    (Kind::PartialTcp6, Needs::Csum),
    (Kind::PartialUdp, Needs::Csum),
    (Kind::Tso4 { cwr: false }, Needs::Tso4),
    (Kind::Tso4 { cwr: true }, Needs::Tso4AndEcn),
    (Kind::Tso6 { cwr: false }, Needs::Tso6),
    (Kind::Tso6 { cwr: true }, Needs::Tso6AndEcn),
    (Kind::Uso4, Needs::Uso),
    (Kind::Uso6, Needs::Uso),
    (merged4(false, false, false), Needs::Tso4),
    (merged4(false, false, true), Needs::Tso4),
    // An ID that stays has a meaning only where a packet may be fragmented (RFC 6864).
    (merged4(false, true, true), Needs::Tso4),
    (merged4(false, true, false), Needs::Impossible),
    // GSO_ECN puts CWR on the first segment; here all had it.
    (merged4(true, false, false), Needs::Impossible),
    (merged4(true, false, true), Needs::Impossible),
    (merged4(true, true, false), Needs::Impossible),
    (merged4(true, true, true), Needs::Impossible),
    (Kind::Merged6 { cwr: false }, Needs::Tso6),
    (Kind::Merged6 { cwr: true }, Needs::Impossible),
];

const fn merged4(cwr: bool, fixed_id: bool, df: bool) -> Kind {
    Kind::Merged4 { cwr, fixed_id, df }
}

/// The feature sets that virtio allows, by number: csum, tso4, tso6, ecn, uso.
#[derive(Copy, Clone, Debug)]
struct Features([bool; 5]);

impl Features {
    fn all() -> impl Iterator<Item = Self> {
        (0..32u8).map(|set| Self([0, 1, 2, 3, 4].map(|bit| set >> bit & 1 == 1)))
    }

    /// TSO and USO need CSUM, ECN needs one of the TSOs (virtio 1.3 section 5.1.3.1).
    fn is_legal(&self) -> bool {
        let [csum, tso4, tso6, ecn, uso] = self.0;
        (csum || !(tso4 || tso6 || ecn || uso)) && (!ecn || tso4 || tso6)
    }

    fn caps(&self) -> Caps {
        let [csum, tso4, tso6, ecn, uso] = self.0;
        Caps::new(csum, tso4, tso6, ecn, uso)
    }

    fn have(&self, needs: Needs) -> bool {
        let [csum, tso4, tso6, ecn, uso] = self.0;
        match needs {
            Needs::Nothing => true,
            Needs::Csum => csum,
            Needs::Tso4 => tso4,
            Needs::Tso6 => tso6,
            Needs::Tso4AndEcn => tso4 && ecn,
            Needs::Tso6AndEcn => tso6 && ecn,
            Needs::Uso => uso,
            Needs::Impossible => false,
        }
    }
}

fn is_v6(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::PartialTcp6 | Kind::Tso6 { .. } | Kind::Merged6 { .. } | Kind::Uso6
    )
}

const SIZE: usize = 1000;

fn builder(kind: Kind) -> PacketBuilder {
    let packet = PacketBuilder::ethernet();
    let packet = if is_v6(kind) {
        packet.ipv6([1; 16], [2; 16])
    } else {
        packet
    };
    match kind {
        Kind::Tso4 { cwr } | Kind::Tso6 { cwr } | Kind::Merged6 { cwr } => packet.flags(flags(cwr)),
        Kind::Merged4 { cwr, df, .. } => packet.flags(flags(cwr)).df(df),
        Kind::Uso4 | Kind::Uso6 | Kind::PartialUdp => packet.udp(1, 2),
        _ => packet,
    }
}

fn flags(cwr: bool) -> u16 {
    if cwr { ACK | CWR } else { ACK }
}

/// Network and transport header of this kind.
fn header_len(kind: Kind) -> usize {
    let udp = matches!(kind, Kind::Uso4 | Kind::Uso6 | Kind::PartialUdp);
    (if is_v6(kind) { 40 } else { 20 }) + (if udp { 8 } else { 20 })
}

/// Three segments, the last one short, or one packet.
fn payload_len(kind: Kind) -> usize {
    match kind {
        Kind::Plain | Kind::Verified | Kind::PartialTcp4 | Kind::PartialTcp6 | Kind::PartialUdp => {
            SIZE
        }
        _ => 2 * SIZE + 1,
    }
}

fn inputs(kind: Kind) -> Vec<Input> {
    let builder = builder(kind).payload_len(payload_len(kind));
    let partial = || builder.clone().partial_checksum().build();
    let with = |gso_type: u8, gso_size: usize| {
        let header = needs_csum(Link::Ethernet, &partial(), gso_type, gso_size as u16);
        vec![Input::ethernet(partial()).vnet(header, Trust::Guest)]
    };
    match kind {
        Kind::Plain => vec![Input::ethernet(builder.build())],
        Kind::Verified => {
            let valid = VnetHeader {
                flags: vnet_flags::DATA_VALID,
                ..VnetHeader::default()
            };
            vec![Input::ethernet(builder.build()).vnet(valid, Trust::Kernel)]
        }
        Kind::PartialTcp4 | Kind::PartialTcp6 | Kind::PartialUdp => with(vnet_gso::NONE, 0),
        Kind::Tso4 { cwr: false } => with(vnet_gso::TCPV4, SIZE),
        Kind::Tso4 { cwr: true } => with(vnet_gso::TCPV4 | vnet_gso::ECN, SIZE),
        Kind::Tso6 { cwr: false } => with(vnet_gso::TCPV6, SIZE),
        Kind::Tso6 { cwr: true } => with(vnet_gso::TCPV6 | vnet_gso::ECN, SIZE),
        Kind::Uso4 | Kind::Uso6 => with(vnet_gso::UDP_L4, SIZE),
        Kind::Merged4 { .. } | Kind::Merged6 { .. } => train(kind),
    }
}

fn train(kind: Kind) -> Vec<Input> {
    let (cwr, fixed_id) = match kind {
        Kind::Merged4 { cwr, fixed_id, .. } => (cwr, fixed_id),
        Kind::Merged6 { cwr } => (cwr, false),
        _ => unreachable!("only these are merged"),
    };
    let ids = if fixed_id {
        IpId::Fixed(7)
    } else {
        IpId::Increment(7)
    };
    let stream = TcpStream::new(builder(kind))
        .segments(3)
        .mss(SIZE)
        .last_len(1)
        .flags(flags(cwr))
        .ids(ids);
    stream.packets().into_iter().map(Input::ethernet).collect()
}

/// What must be done, from the table alone.
fn expected(kind: Kind, needs: Needs, features: Features, fits: bool) -> &'static str {
    let whole = payload_len(kind) == SIZE;
    match (fits, features.have(needs), whole) {
        (false, _, true) => "drop: over mtu",
        (false, _, false) => "drop: segment over mtu",
        (true, true, _) => "as is",
        (true, false, true) => "checksum",
        (true, false, false) if features.0[0] => "segment, partial",
        (true, false, false) => "segment, complete",
    }
}

fn said(plan: Plan) -> &'static str {
    match plan {
        Plan::AsIs => "as is",
        Plan::Checksum => "checksum",
        Plan::Segment(_, SegmentCsum::Partial) => "segment, partial",
        Plan::Segment(_, SegmentCsum::Complete) => "segment, complete",
        Plan::Drop(Fault::OverMtu) => "drop: over mtu",
        Plan::Drop(Fault::SegmentOverMtu) => "drop: segment over mtu",
        Plan::Drop(_) => "drop",
    }
}

/// Brings the packet into an engine of its own and asks about it.
fn with_packet(kind: Kind, ask: impl Fn(&Rig, jumbo_engine::arena::Admitted)) {
    let mut rig = Rig::new();
    let mut head = None;
    for input in inputs(kind) {
        let admitted = if payload_len(kind) == SIZE || input.vnet.is_some() {
            rig.admit(&input).expect("sound")
        } else {
            rig.offer(&input).expect("sound")
        };
        head.get_or_insert(admitted);
    }
    rig.gro
        .flush(&mut rig.arena, jumbo_engine::coalesce::End::BurstEnd);
    let head = head.expect("at least one packet");
    assert_eq!(rig.arena.live(), 1, "{kind:?} is one packet");
    ask(&rig, head);
}

#[test]
fn every_packet_meets_every_port() {
    for (kind, needs) in TABLE {
        with_packet(*kind, |rig, head| {
            let largest = header_len(*kind) + SIZE;
            for features in Features::all().filter(Features::is_legal) {
                for (mtu, fits) in [(largest, true), (largest - 1, false), (9000, true)] {
                    let plan = plan_of(rig, head, features.caps(), mtu);
                    let expected = expected(*kind, *needs, features, fits);
                    assert_eq!(said(plan), expected, "{kind:?} {features:?} mtu {mtu}");
                    let count = match expected {
                        "as is" | "checksum" => 1,
                        "segment, partial" | "segment, complete" => 3,
                        _ => 0,
                    };
                    assert_eq!(leaving(rig.arena.packet(head.id), plan), count);
                }
            }
        });
    }
}

/// An illegal set is the legal one below it.
#[test]
fn features_without_what_they_need_are_not_there() {
    for features in Features::all() {
        let [csum, tso4, tso6, ecn, uso] = features.0;
        let caps = features.caps();
        let tso = csum && (tso4 || tso6);
        let expected = [csum, csum && tso4, csum && tso6, tso && ecn, csum && uso];
        let got = [
            caps.csum(),
            caps.tso4(),
            caps.tso6(),
            caps.tso_ecn(),
            caps.uso(),
        ];
        assert_eq!(got, expected, "{features:?}");
        let again = Caps::new(got[0], got[1], got[2], got[3], got[4]);
        assert_eq!(again, caps);
        assert_eq!(caps.and(Caps::ALL), caps);
        assert_eq!(caps.and(Caps::NONE), Caps::NONE);
    }
}

/// The kinds are what their names say, or the table is about something else.
#[test]
fn the_kinds_are_what_they_are_called() {
    for (kind, _) in TABLE {
        with_packet(*kind, |rig, head| {
            let pending = rig.arena.packet(head.id).pending();
            assert_eq!(
                pending.gso.is_some(),
                payload_len(*kind) != SIZE,
                "{kind:?}"
            );
            let fixed = matches!(kind, Kind::Merged4 { fixed_id: true, .. });
            assert!(
                pending.gso.is_none_or(|gso| gso.fixed_id == fixed),
                "{kind:?}"
            );
            let partial = matches!(pending.csum, Csum::Partial { .. });
            let plain = matches!(kind, Kind::Plain | Kind::Verified);
            assert_eq!(partial, !plain, "{kind:?}");
        });
    }
}
