//! The laws, over generated traffic: what GRO merges can be segmented back byte for byte, it
//! merges what the rules allow and nothing else, order within a flow stays, no payload byte is
//! lost or made, and completing twice is completing once.

mod support;

use jumbo_engine::arena::{Arena, SliceMemory};
use jumbo_engine::checksum::Kernels;
use jumbo_engine::coalesce::{Alone, End, GRO, LRO, RSC, RSC_QEMU, Ready, RestBounds, Rules};
use jumbo_engine::complete::{Plan, complete, plan};
use jumbo_engine::packet::{Frag, Link};
use jumbo_engine::pending::{Caps, Csum, Gso, GsoKind};
use jumbo_engine::reason::Reason;
use jumbo_engine::vnet::{Form, Trust, VnetHeader};
use jumbo_testkit::oracle::{self, vnet_flags, vnet_gso};
use jumbo_testkit::script::IpId;
use jumbo_testkit::{Extension, PacketBuilder, pattern, tcp_flags};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use support::lossy::refused;
use support::reference::{Reference, keep_order};
use support::{Delivered, Input, NO_MTU, Rig, Why, bytes_of, needs_csum, oracle_gso, oracle_link};

/// Runs a property over the same cases each time.
fn holds<S: Strategy>(cases: u32, strategy: S, test: impl Fn(S::Value)) {
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 4000,
        ..Config::default()
    };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let run = TestRunner::new_with_rng(config, rng).run(&strategy, |value| {
        test(value);
        Ok(())
    });
    if let Err(error) = run {
        panic!("{error}");
    }
}

/// What a sender does next, or what happens to its packet.
#[derive(Copy, Clone, Debug)]
enum Act {
    Full,
    Short(u16),
    Longer(u16),
    /// This packet is lost on the way.
    Lost,
    /// The one before comes again.
    Again,
    /// This one and the next change places.
    Swapped,
    PureAck,
    AdvancingAck,
    WindowUpdate,
    Flags(u16),
    /// From here on.
    FlagsFromHere(u16),
    Ack,
    Window,
    Timestamp,
    OptionsToggle,
    Ttl,
    Tos(u8),
    Df,
    IdStep(u16),
    IdFixed,
    Urgent,
    FlowLabel,
    BadChecksum,
    BadIpChecksum,
    IpOptions,
    Fragment,
    Extension,
    SuperPacket,
    /// A datagram of so many bytes, perhaps of a train.
    Udp(u16),
    UdpWithoutChecksum,
    UdpWrong,
    UdpFragment,
    /// Neither TCP nor UDP.
    OtherProtocol,
    Arp,
    EndOfBurst,
}

fn act() -> impl Strategy<Value = Act> {
    use tcp_flags::{AE, CWR, ECE, FIN, PSH, RST, SYN, URG};
    let rare = prop_oneof![
        (1u16..600).prop_map(Act::Short),
        (1u16..12).prop_map(Act::Short),
        (1u16..600).prop_map(Act::Longer),
        prop::sample::select(vec![
            Act::Lost,
            Act::Again,
            Act::Swapped,
            Act::Ack,
            Act::Window,
            Act::Timestamp,
            Act::OptionsToggle,
            Act::Ttl,
            Act::Df,
            Act::IdFixed,
            Act::Urgent,
            Act::FlowLabel,
            Act::BadChecksum,
            Act::BadIpChecksum,
            Act::IpOptions,
            Act::Fragment,
            Act::Extension,
            Act::SuperPacket,
            Act::UdpWithoutChecksum,
            Act::UdpWrong,
            Act::UdpFragment,
            Act::OtherProtocol,
            Act::Arp,
            Act::EndOfBurst,
        ]),
        prop::sample::select(vec![FIN, SYN, RST, PSH, PSH | FIN, URG, ECE, CWR, AE])
            .prop_map(Act::Flags),
        prop::sample::select(vec![0, ECE, CWR, ECE | CWR, AE]).prop_map(Act::FlagsFromHere),
        prop::sample::select(vec![0, 1, 2, 3, 4, 0xB8]).prop_map(Act::Tos),
        prop::sample::select(vec![0, 2, 0xFFFF]).prop_map(Act::IdStep),
    ];
    let datagram = prop::sample::select(vec![0, 99, 100, 100, 100, 100, 101]).prop_map(Act::Udp);
    let acks = vec![
        Act::PureAck,
        Act::AdvancingAck,
        Act::WindowUpdate,
        Act::Ack,
        Act::Window,
    ];
    let ack = prop::sample::select(acks);
    prop_oneof![10 => Just(Act::Full), 4 => datagram, 4 => rare, 1 => ack]
}

/// How a packet is handed over.
#[derive(Copy, Clone, Debug)]
enum Handed {
    Plain,
    Partial,
    KernelSaysValid,
    GuestSaysValid,
}

fn handed() -> impl Strategy<Value = Handed> {
    prop_oneof![
        4 => Just(Handed::Plain),
        2 => Just(Handed::Partial),
        1 => Just(Handed::KernelSaysValid),
        1 => Just(Handed::GuestSaysValid),
    ]
}

#[derive(Clone, Debug)]
struct Step {
    flow: usize,
    act: Act,
    handed: Handed,
    splits: Vec<usize>,
    padded: bool,
}

fn step(flows: usize) -> impl Strategy<Value = Step> {
    let splits = prop::collection::vec(0usize..400, 0..4);
    (0..flows, act(), handed(), splits, any::<bool>()).prop_map(
        |(flow, act, handed, splits, padded)| Step {
            flow,
            act,
            handed,
            splits,
            padded,
        },
    )
}

#[derive(Clone, Debug)]
struct Traffic {
    raw: bool,
    mss: usize,
    seq: u32,
    id: u16,
    steps: Vec<Step>,
}

fn traffic() -> impl Strategy<Value = Traffic> {
    let mss = prop_oneof![8usize..40, 400usize..1461, Just(1448), 6000usize..9000];
    let near_wrap = |wrap: u32| prop_oneof![any::<u32>(), wrap.wrapping_sub(20_000)..=wrap];
    (
        any::<bool>(),
        mss,
        near_wrap(u32::MAX),
        prop_oneof![any::<u16>(), 65500u16..=65535],
        (1usize..=8).prop_flat_map(|flows| prop::collection::vec(step(flows), 1..48)),
    )
        .prop_map(|(raw, mss, seq, id, steps)| Traffic {
            raw,
            mss,
            seq,
            id,
            steps,
        })
}

const V6_A: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const V6_B: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

/// Flows that are easily mistaken for each other.
fn base(raw: bool, flow: usize) -> PacketBuilder {
    let plain = if raw {
        PacketBuilder::raw_ip()
    } else {
        PacketBuilder::ethernet()
    };
    let v6 = || plain.clone().ipv6(V6_A, V6_B).tcp(40000, 80);
    match flow {
        0 => plain,
        1 => plain.tcp(40001, 5001),
        2 => v6(),
        3 if raw => plain.ipv4([192, 0, 2, 1], [192, 0, 2, 3]),
        3 => plain.vlan(0x8100, 7),
        4 if raw => v6().tcp(40000, 81),
        4 => v6().vlan(0x88A8, 100).vlan(0x8100, 7),
        5 => v6().extension(Extension::Destination(vec![1, 4, 0, 0, 0, 0])),
        6 if raw => plain.ipv4([192, 0, 2, 2], [192, 0, 2, 1]),
        6 => plain.vlan(0x8100, 7 | 5 << 13),
        _ if raw => plain.tcp(5001, 40000),
        _ => plain.macs([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 9]),
    }
}

/// One sender: what its next packet says.
struct Sender {
    mss: usize,
    offset: usize,
    seq: u32,
    id: u16,
    id_step: u16,
    udp_id: u16,
    ack: u32,
    window: u16,
    timestamp: Option<u32>,
    ttl: u8,
    tos: u8,
    df: bool,
    flags: u16,
    urgent: u16,
    label: u32,
    last: Option<PacketBuilder>,
    swapped: Option<PacketBuilder>,
}

impl Sender {
    fn new(traffic: &Traffic, flow: usize) -> Self {
        Self {
            mss: traffic.mss,
            offset: flow * 1_000_003,
            seq: traffic.seq.wrapping_add(flow as u32),
            id: traffic.id,
            id_step: 1,
            udp_id: traffic.id.wrapping_add(3),
            ack: 1,
            window: 512,
            timestamp: flow.is_multiple_of(2).then_some(1000),
            ttl: 64,
            tos: 0,
            df: flow != 1,
            flags: tcp_flags::ACK,
            urgent: 0,
            label: 0,
            last: None,
            swapped: None,
        }
    }

    /// Cuts the next `len` bytes of the stream.
    fn next(&mut self, base: &PacketBuilder, len: usize) -> PacketBuilder {
        let packet = base
            .clone()
            .seq(self.seq)
            .ack(self.ack)
            .id(self.id)
            .window(self.window)
            .ttl(self.ttl)
            .tos(self.tos)
            .df(self.df)
            .flags(self.flags)
            .urgent(self.urgent)
            .flow_label(self.label)
            .payload(&pattern(self.offset, len));
        self.seq = self.seq.wrapping_add(len as u32);
        self.offset += len;
        self.id = self.id.wrapping_add(self.id_step);
        match self.timestamp {
            Some(value) => packet.timestamps(value, 5),
            None => packet,
        }
    }

    /// What is not TCP. The network header is the TCP sender's, the IDs are its own.
    fn datagram(&mut self, base: &PacketBuilder, act: Act) -> PacketBuilder {
        let len = match act {
            Act::Udp(len) => usize::from(len),
            _ => 100,
        };
        let packet = base
            .clone()
            .udp(40000, 5001)
            .id(self.udp_id)
            .ttl(self.ttl)
            .tos(self.tos)
            .df(self.df)
            .flow_label(self.label)
            .payload(&pattern(self.offset, len));
        self.offset += len;
        self.udp_id = self.udp_id.wrapping_add(self.id_step);
        match act {
            Act::UdpWithoutChecksum => packet.no_checksum(),
            Act::UdpWrong => packet.bad_checksum(),
            Act::UdpFragment => packet.mf(true).df(false),
            Act::OtherProtocol => packet.ip_proto(132),
            _ => packet,
        }
    }

    /// The packets that arrive because of this act, the last one being the act's own.
    fn packets(&mut self, base: &PacketBuilder, act: Act) -> Vec<PacketBuilder> {
        let mss = self.mss;
        let len = match act {
            Act::Short(cut) => mss.saturating_sub(usize::from(cut)).max(1),
            Act::Longer(more) => mss + usize::from(more),
            Act::PureAck | Act::AdvancingAck | Act::WindowUpdate => 0,
            _ => mss,
        };
        self.change(act);
        let packet = match act {
            Act::Again => self.last.clone().unwrap_or_else(|| self.next(base, len)),
            Act::Lost => {
                let _lost = self.next(base, len);
                self.next(base, len)
            }
            _ => self.next(base, len),
        };
        let packet = match act {
            Act::Flags(flags) => packet.flags(self.flags | flags),
            Act::BadIpChecksum => packet.bad_ip_checksum(),
            Act::IpOptions => packet.ip_options(&[1, 1, 1, 1]),
            Act::Fragment => packet.mf(true).df(false),
            Act::Extension => packet.extension(Extension::HopByHop(vec![1, 4, 0, 0, 0, 0])),
            _ => packet,
        };
        self.last = Some(packet.clone());
        if matches!(act, Act::Swapped) {
            return self.swapped.replace(packet).into_iter().collect();
        }
        [packet].into_iter().chain(self.swapped.take()).collect()
    }

    fn change(&mut self, act: Act) {
        match act {
            Act::FlagsFromHere(flags) => self.flags = tcp_flags::ACK | flags,
            Act::Ack | Act::AdvancingAck => self.ack = self.ack.wrapping_add(1448),
            Act::Window | Act::WindowUpdate => self.window += 1,
            Act::Timestamp => self.timestamp = self.timestamp.map(|value| value + 1),
            Act::OptionsToggle => {
                self.timestamp = match self.timestamp {
                    Some(_) => None,
                    None => Some(7),
                }
            }
            Act::Ttl => self.ttl -= 1,
            Act::Tos(tos) => self.tos = tos,
            Act::Df => self.df = !self.df,
            Act::IdStep(step) => self.id = self.id.wrapping_add(step),
            Act::IdFixed => self.id_step ^= 1,
            Act::Urgent => self.urgent += 1,
            Act::FlowLabel => self.label += 1,
            _ => {}
        }
    }
}

/// What arrives; `None` is the end of a burst.
fn arrivals(traffic: &Traffic) -> Vec<Option<Input>> {
    let mut senders: Vec<_> = (0..8).map(|flow| Sender::new(traffic, flow)).collect();
    let mut arrivals = Vec::new();
    for step in &traffic.steps {
        let base = base(traffic.raw, step.flow);
        match step.act {
            Act::EndOfBurst => arrivals.push(None),
            Act::Udp(_)
            | Act::UdpWithoutChecksum
            | Act::UdpWrong
            | Act::UdpFragment
            | Act::OtherProtocol => {
                let packet = senders[step.flow].datagram(&base, step.act);
                arrivals.push(Some(hand_over(traffic, step, packet)));
            }
            Act::Arp if !traffic.raw => {
                let packet = PacketBuilder::ethernet().arp(jumbo_testkit::ArpPacket {
                    operation: 1,
                    sender_mac: [2, 0, 0, 0, 0, 1],
                    sender_ip: [192, 0, 2, 1],
                    target_mac: [0; 6],
                    target_ip: [192, 0, 2, 2],
                });
                arrivals.push(Some(Input::ethernet(packet.pad_to_minimum().build())));
            }
            act => {
                for packet in senders[step.flow].packets(&base, act) {
                    arrivals.push(Some(hand_over(traffic, step, packet)));
                }
            }
        }
    }
    arrivals.push(None);
    arrivals
}

/// The packet as a port would receive it.
fn hand_over(traffic: &Traffic, step: &Step, packet: PacketBuilder) -> Input {
    let link = if traffic.raw {
        Link::RawIp
    } else {
        Link::Ethernet
    };
    // What has no checksum of its own to be left partial.
    let fragment = matches!(
        step.act,
        Act::Fragment | Act::UdpFragment | Act::OtherProtocol | Act::UdpWithoutChecksum
    );
    let flags = |flags| VnetHeader {
        flags,
        ..VnetHeader::default()
    };
    let plain = |packet: &PacketBuilder| {
        let padded = step.padded && !traffic.raw;
        let packet = if padded {
            packet.clone().pad_to_minimum()
        } else {
            packet.clone()
        };
        Input::new(link, packet.build())
    };
    let input = match (step.act, step.handed) {
        (Act::SuperPacket, _) => {
            let mss = traffic.mss.min(9000);
            let bytes = packet.payload_len(2 * mss + 1).partial_checksum().build();
            let kind = match oracle::parse(oracle_link(link), &bytes).map(|p| p.ipv4().is_some()) {
                Ok(true) => vnet_gso::TCPV4,
                _ => vnet_gso::TCPV6,
            };
            let header = needs_csum(link, &bytes, kind, mss as u16);
            Input::new(link, bytes).vnet(header, Trust::Guest)
        }
        (Act::BadChecksum | Act::UdpWrong, _) => plain(&packet.bad_checksum()),
        (_, Handed::Partial) if !fragment => {
            let packet = packet.partial_checksum();
            let input = plain(&packet);
            let header = needs_csum(link, &input.bytes, vnet_gso::NONE, 0);
            input.vnet(header, Trust::Guest)
        }
        (_, Handed::KernelSaysValid) => {
            plain(&packet).vnet(flags(vnet_flags::DATA_VALID), Trust::Kernel)
        }
        (_, Handed::GuestSaysValid) => {
            plain(&packet).vnet(flags(vnet_flags::DATA_VALID), Trust::Guest)
        }
        _ => plain(&packet),
    };
    Input {
        splits: step.splits.clone(),
        ..input
    }
}

/// A packet as it must leave: padding cut off, a partial checksum finished, a super-packet cut.
fn expected_bytes(input: &Input) -> Vec<Vec<u8>> {
    let link = oracle_link(input.link);
    let packet = oracle::parse(link, &input.bytes).expect("well formed");
    let mut bytes = input.bytes.clone();
    match &packet.net {
        oracle::Net::Ipv4(_) | oracle::Net::Ipv6(_) => bytes.truncate(packet.end),
        _ => {}
    }
    match &input.vnet {
        Some((header, _)) if header.gso_type != 0 => {
            let gso = oracle::Gso {
                kind: oracle::GsoKind::Tcp {
                    fixed_id: false,
                    accecn: false,
                },
                size: usize::from(header.gso_size),
            };
            return oracle::segment(link, &bytes, gso).expect("TCP");
        }
        Some((header, _)) if header.flags & vnet_flags::NEEDS_CSUM != 0 => {
            oracle::complete_checksum(
                &mut bytes,
                usize::from(header.csum_start),
                usize::from(header.csum_offset),
                packet.udp().is_some(),
            );
        }
        _ => {}
    }
    vec![bytes]
}

/// The traffic through the engine and through the reference.
fn run(traffic: &Traffic) -> (Vec<Input>, Vec<Delivered>, Reference) {
    run_with(64, traffic)
}

/// The same with room for so many flows; the reference has room for all.
fn run_with(flows: usize, traffic: &Traffic) -> (Vec<Input>, Vec<Delivered>, Reference) {
    let mut rig = Rig::with_flows(flows);
    let mut reference = Reference::default();
    let mut inputs = Vec::new();
    for arrival in arrivals(traffic) {
        match arrival {
            None => {
                rig.flush(End::BurstEnd);
                reference.flush();
            }
            Some(input) => {
                rig.offer(&input).expect("nothing here is malformed");
                reference.offer(&input);
                inputs.push(input);
            }
        }
    }
    (inputs, rig.done, reference)
}

#[test]
fn l1_coalesced_then_segmented_is_what_arrived() {
    holds(250, traffic(), |traffic| {
        let (inputs, delivered, _) = run(&traffic);
        for done in &delivered {
            let expected: Vec<Vec<u8>> = done
                .members
                .iter()
                .flat_map(|index| expected_bytes(&inputs[*index]))
                .collect();
            assert_eq!(done.finished, expected, "members {:?}", done.members);
        }
    });
}

#[test]
fn l2_merges_what_the_rules_allow_and_nothing_else() {
    holds(250, traffic(), |traffic| {
        let (_, delivered, reference) = run(&traffic);
        let got: Vec<_> = delivered.iter().map(|done| done.members.clone()).collect();
        let expected: Vec<_> = reference.out.iter().map(|e| e.members.clone()).collect();
        assert_eq!(got, expected, "{delivered:#?} {:#?}", reference.out);
        for (done, expected) in delivered.iter().zip(&reference.out) {
            assert!(
                expected.whys.contains(&done.why),
                "{:?} is not among {:?}",
                done.why,
                expected.whys
            );
        }
    });
}

/// A table too small for the flows gives up the oldest, and the laws hold all the same.
#[test]
fn l1_and_l2_hold_in_a_table_that_is_too_small() {
    let evicted = std::cell::Cell::new(0);
    holds(200, (1usize..5, traffic()), |(flows, traffic)| {
        let (inputs, delivered, _) = run_with(flows, &traffic);
        let mut left = Vec::new();
        for done in &delivered {
            let arrived = done.members.iter().map(|index| &inputs[*index]);
            let expected: Vec<_> = arrived.flat_map(expected_bytes).collect();
            assert_eq!(done.finished, expected);
            left.extend(done.members.iter().copied());
            let full = done.why == Why::Ended(End::TableFull);
            evicted.set(evicted.get() + u32::from(full));
        }
        assert_nothing_is_overtaken(&inputs, &left);
    });
    assert!(evicted.get() > 100, "{} were evicted", evicted.get());
}

/// The tests above say nothing about a rule that the traffic never meets.
#[test]
fn generated_traffic_meets_every_rule() {
    let seen = std::cell::RefCell::new(std::collections::BTreeMap::new());
    holds(400, traffic(), |traffic| {
        for done in run(&traffic).1 {
            let merged = done.members.len() > 1;
            *seen
                .borrow_mut()
                .entry(format!("{:?} {merged}", done.why))
                .or_insert(0) += 1;
        }
    });
    let seen = seen.into_inner();
    let never = |why: &Why, merged: bool| !seen.contains_key(&format!("{why:?} {merged}"));
    // A table too small, a changed forwarding table and a train of 64 KB have tests of their own.
    let elsewhere = [
        End::TableFull,
        End::ForwardingChanged,
        End::HoldTime,
        End::HoldLimit,
        End::SizeLimit,
        End::DatagramLimit,
        // GRO refuses no more than its table says.
        End::TimestampOld,
        End::FlowLabelChanged,
        End::Exception,
        // Tunnels are not followed here.
        End::TunnelHeaderChanged,
        End::TunnelIdIrregular,
    ];
    let ends = End::ALL.iter().filter(|end| !elsewhere.contains(end));
    let missed: Vec<_> = ends
        .map(|end| Why::Ended(*end))
        .filter(|why| never(why, true))
        .collect();
    assert_eq!(missed, [], "{seen:#?}");
    let elsewhere = [
        Alone::IpFlags,
        Alone::ForeignCsum,
        // Other personalities'.
        Alone::Ipv6Extensions,
        Alone::TcpOptions,
        Alone::CongestionMark,
        Alone::Cwr,
        Alone::MayFragment,
        Alone::AfterMismatch,
        // Tunnels are not followed here.
        Alone::Tunnel,
        Alone::TunnelUnreadable,
        Alone::TunnelHeader,
        Alone::TunnelChecksum,
    ];
    let alone = Alone::ALL.iter().filter(|alone| !elsewhere.contains(alone));
    let missed: Vec<_> = alone
        .map(|a| Why::Alone(*a))
        .filter(|why| never(why, false))
        .collect();
    assert_eq!(missed, [], "{seen:#?}");
}

#[test]
fn l3_every_packet_leaves_once_and_whole() {
    holds(120, traffic(), |traffic| {
        let (inputs, delivered, _) = run(&traffic);
        let mut left: Vec<usize> = delivered.iter().flat_map(|d| d.members.clone()).collect();
        left.sort_unstable();
        assert_eq!(left, (0..inputs.len()).collect::<Vec<_>>());
        for done in &delivered {
            let arrived: usize = done
                .members
                .iter()
                .map(|index| payload_len(&inputs[*index].bytes, inputs[*index].link))
                .sum();
            let link = inputs[done.members[0]].link;
            assert_eq!(payload_len(&done.whole, link), arrived);
        }
    });
}

/// The personalities that do not give back what they merged keep order and payload, and merge no
/// pair that their rules refuse.
#[test]
fn l2_and_l3_hold_for_lro_and_rsc() {
    for rules in [&LRO, &RSC, &RSC_QEMU] {
        let merged = std::cell::Cell::new((0, 0));
        holds(120, traffic(), |traffic| {
            let (inputs, delivered) = run_under(rules, &traffic);
            let left: Vec<usize> = delivered.iter().flat_map(|d| d.members.clone()).collect();
            assert_nothing_is_overtaken(&inputs, &left);
            let folded = assert_payload_is_kept(&inputs, &delivered);
            for pair in delivered.iter().flat_map(|done| done.members.windows(2)) {
                let refused = refused(rules.name, &inputs[pair[0]], &inputs[pair[1]]);
                assert!(refused.is_empty(), "{}: {refused:?}", rules.name);
            }
            let (pairs, acks) = merged.get();
            let more = delivered.iter().map(|d| d.members.len() - 1).sum::<usize>();
            merged.set((pairs + more, acks + folded));
        });
        let (pairs, acks) = merged.get();
        assert!(pairs > 150 && acks > 3, "{}: {pairs}, {acks}", rules.name);
    }
}

/// Bursts in time: how long it is to each arrival, whether a burst ends before it, hold times, and
/// how much may rest.
fn time() -> impl Strategy<Value = (Vec<(u64, bool)>, Vec<u32>, RestBounds)> {
    let steps = prop::collection::vec((0u64..60_000, any::<bool>()), 1..40);
    let holds_ns = prop::collection::vec(
        prop::sample::select(vec![0, 1, 20_000, 50_000, 400_000]),
        1..4,
    );
    let bounds = (
        0usize..5,
        prop::sample::select(vec![0, 2000, 20_000, usize::MAX]),
    );
    let bounds = bounds.prop_map(|(flows, bytes)| RestBounds { flows, bytes });
    (steps, holds_ns, bounds)
}

/// Ends a burst and checks what is promised of what rests.
fn end_burst(rig: &mut Rig, now_ns: u64, bounds: RestBounds) {
    let (before, done) = (rig.gro.resting().collect::<Vec<_>>(), rig.done.len());
    rig.end_burst(now_ns, bounds);
    let resting: Vec<_> = rig.gro.resting().collect();
    let bytes = resting
        .iter()
        .map(|resting| rig.arena.payload(resting.id).len_bytes());
    assert!(resting.len() <= bounds.flows && bytes.sum::<usize>() <= bounds.bytes);
    assert_eq!(resting.len(), rig.gro.held(), "what is held rests");
    let longest = u64::from(*rig.holds_ns.iter().max().expect("some"));
    for rests in &resting {
        let until = rests.deadline_ns;
        assert!(now_ns < until && until <= now_ns + longest);
        let earlier = before.iter().find(|one| one.out == rests.out);
        assert!(
            earlier.is_none_or(|one| one.deadline_ns == until),
            "extended"
        );
        assert!(rig.arena.payload(rests.id).only().is_some(), "one piece");
    }
    let nearest = resting.iter().map(|resting| resting.deadline_ns).min();
    let told = rig.gro.next_deadline_ns();
    assert_eq!(told.is_some(), nearest.is_some());
    // Earlier only if the flow it was told for has left, here for want of room.
    let left = rig.done[done..]
        .iter()
        .any(|done| done.why == Why::Ended(End::HoldLimit));
    assert!(
        told == nearest || left && told < nearest,
        "{told:?} {nearest:?}"
    );
}

/// The laws hold for what rests beyond its burst, and it rests no longer than it may, and no more
/// than may.
#[test]
fn l1_l2_and_l3_hold_over_hold_times() {
    let seen = std::cell::Cell::new((0, 0, 0));
    holds(
        400,
        (traffic(), time()),
        |(traffic, (steps, holds_ns, bounds))| {
            let mut rig = Rig::new();
            rig.holds_ns = holds_ns;
            let (mut inputs, mut now_ns) = (Vec::new(), 1 << 40);
            // The burst in which each input came.
            let (mut bursts, mut burst) = (Vec::new(), 0);
            for (arrival, (after_ns, ends)) in
                arrivals(&traffic).into_iter().zip(steps.iter().cycle())
            {
                if arrival.is_none() || *ends {
                    end_burst(&mut rig, now_ns, bounds);
                    burst += 1;
                }
                // The caller wakes up when it was told to.
                let next_ns = now_ns + after_ns;
                while let Some(wake_ns) = rig
                    .gro
                    .next_deadline_ns()
                    .filter(|wake_ns| *wake_ns <= next_ns)
                {
                    now_ns = now_ns.max(wake_ns);
                    end_burst(&mut rig, now_ns, bounds);
                }
                now_ns = next_ns;
                if let Some(input) = arrival {
                    rig.offer(&input).expect("nothing here is malformed");
                    inputs.push(input);
                    bursts.push(burst);
                }
            }
            rig.flush(End::BurstEnd);
            let left: Vec<usize> = rig.done.iter().flat_map(|d| d.members.clone()).collect();
            assert_nothing_is_overtaken(&inputs, &left);
            let mut sorted = left;
            sorted.sort_unstable();
            assert_eq!(sorted, (0..inputs.len()).collect::<Vec<_>>());
            let (mut over_bursts, mut over_time, mut over_bounds) = seen.get();
            for done in &rig.done {
                let arrived = done.members.iter().map(|index| &inputs[*index]);
                let expected: Vec<_> = arrived.flat_map(expected_bytes).collect();
                assert_eq!(done.finished, expected, "members {:?}", done.members);
                let (first, last) = (done.members[0], done.members[done.members.len() - 1]);
                over_bursts += u32::from(bursts[first] != bursts[last]);
                over_time += u32::from(done.why == Why::Ended(End::HoldTime));
                over_bounds += u32::from(done.why == Why::Ended(End::HoldLimit));
            }
            seen.set((over_bursts, over_time, over_bounds));
        },
    );
    let (over_bursts, over_time, over_bounds) = seen.get();
    assert!(
        over_bursts > 100 && over_time > 100 && over_bounds > 100,
        "{seen:?}"
    );
}

/// The fast door is the general way, but faster: the same packets leave, for the same reasons, in
/// the same order, under every personality.
#[test]
fn the_fast_door_is_the_general_way() {
    for rules in [&GRO, &LRO, &RSC, &RSC_QEMU] {
        let merged = std::cell::Cell::new((0, 0));
        holds(150, (1usize..65, traffic()), |(flows, traffic)| {
            let mut general = Rig::with_rules(rules, flows);
            let mut door = Rig::with_rules(rules, flows);
            let mut bursts = Rig::with_rules(rules, flows);
            let mut burst = Vec::new();
            for arrival in arrivals(&traffic) {
                let Some(mut input) = arrival else {
                    general.flush(End::BurstEnd);
                    door.flush(End::BurstEnd);
                    bursts.offer_burst(&std::mem::take(&mut burst));
                    bursts.flush(End::BurstEnd);
                    continue;
                };
                if input.bytes.len() % 4 != 0 {
                    // In one piece, as nearly all packets are.
                    input.splits.clear();
                }
                general.offer(&input).expect("nothing here is malformed");
                door.offer_by_door(&input).expect("the same here");
                burst.push(input);
            }
            assert_eq!(door.done, general.done);
            assert_eq!(bursts.done, general.done);
            let stats = door.gro.stats();
            let of_bursts = bursts.gro.stats();
            assert_eq!(of_bursts.merged_unadmitted, stats.merged_unadmitted);
            assert_eq!(stats.merged, general.gro.stats().merged);
            assert_eq!(stats.alone, general.gro.stats().alone);
            let (all, fast) = merged.get();
            merged.set((all + stats.merged, fast + stats.merged_unadmitted));
        });
        let (all, fast) = merged.get();
        // Only what is lossless has such a door. Much of what merges here is not the usual packet:
        // tagged, in pieces, without Ethernet.
        let enough = if rules.lossless { all / 8 } else { 0 };
        assert!(fast >= enough, "{}: {fast} of {all}", rules.name);
        assert_eq!(fast == 0, !rules.lossless);
    }
}

fn run_under(rules: &Rules, traffic: &Traffic) -> (Vec<Input>, Vec<Delivered>) {
    let mut rig = Rig::with_rules(rules, 64);
    let mut inputs = Vec::new();
    for arrival in arrivals(traffic) {
        match arrival {
            None => rig.flush(End::BurstEnd),
            Some(input) => {
                rig.offer(&input).expect("nothing here is malformed");
                inputs.push(input);
            }
        }
    }
    (inputs, rig.done)
}

fn assert_nothing_is_overtaken(inputs: &[Input], left: &[usize]) {
    for (place, later) in left.iter().enumerate() {
        for earlier in left[place..].iter().filter(|index| *index < later) {
            let overtaken = keep_order(&inputs[*earlier], &inputs[*later]);
            assert!(!overtaken, "{later} overtook {earlier}");
        }
    }
}

/// Every byte of payload leaves once, in its place. Returns how many pure ACKs were folded in.
fn assert_payload_is_kept(inputs: &[Input], delivered: &[Delivered]) -> usize {
    let mut seen = vec![false; inputs.len()];
    for done in delivered {
        let payload = |bytes: &[u8], link| {
            let packet = oracle::parse(oracle_link(link), bytes).expect("well formed");
            bytes[packet.payload_at..packet.end].to_vec()
        };
        let mut expected = Vec::new();
        for index in &done.members {
            assert!(
                !std::mem::replace(&mut seen[*index], true),
                "{index} left twice"
            );
            expected.extend(payload(&inputs[*index].bytes, inputs[*index].link));
        }
        let link = inputs[done.members[0]].link;
        assert!(payload(&done.whole, link) == expected, "{:?}", done.members);
    }
    let gone = inputs.iter().zip(&seen).filter(|(_, seen)| !**seen);
    let acks = gone.map(|(input, _)| payload_len(&input.bytes, input.link));
    acks.inspect(|len| assert_eq!(*len, 0, "payload is gone"))
        .count()
}

fn payload_len(bytes: &[u8], link: Link) -> usize {
    let packet = oracle::parse(oracle_link(link), bytes).expect("well formed");
    match packet.net {
        oracle::Net::Ipv4(_) | oracle::Net::Ipv6(_) => packet.end - packet.payload_at,
        _ => 0,
    }
}

/// A super-packet leaves whole with lengths and a pseudo-header sum that its receiver can use, and
/// the textbook cuts it as the engine does.
#[test]
fn aggregates_are_sound_super_packets() {
    holds(120, traffic(), |traffic| {
        let (inputs, delivered, _) = run(&traffic);
        for done in delivered.iter().filter(|done| done.members.len() > 1) {
            let link = oracle_link(inputs[done.members[0]].link);
            let gso = done.gso.expect("an aggregate is a super-packet");
            let field = match gso.kind {
                GsoKind::Udp | GsoKind::Ufo => 6,
                GsoKind::Tcp4 | GsoKind::Tcp6 => 16,
            };
            assert!(matches!(done.csum, Csum::Partial { offset, .. } if offset == field));
            oracle::verify_partial(link, &done.whole).expect("the pseudo-header sum");
            let packet = oracle::parse(link, &done.whole).expect("well formed");
            if packet.ipv4().is_some() {
                oracle::verify_ipv4_header(link, &done.whole).expect("the IPv4 header");
            }
            // The textbook's datagrams always count up; L1 compares those with what arrived.
            if gso.kind == GsoKind::Udp && gso.fixed_id {
                continue;
            }
            let cut = oracle::segment(link, &done.whole, oracle_gso(gso)).expect("cut");
            assert_eq!(cut, done.finished);
            assert_eq!(cut.len(), done.members.len());
        }
    });
}

/// One packet of a super-packet's making, to be segmented.
#[derive(Clone, Debug)]
struct SuperPacket {
    raw: bool,
    kind: u8,
    tags: usize,
    options: usize,
    payload_len: usize,
    size: u16,
    id: u16,
    seq: u32,
    flags: u16,
    odd_urgent: u16,
    splits: Vec<usize>,
    with_csum: bool,
}

fn super_packet() -> impl Strategy<Value = SuperPacket> {
    let shape = (any::<bool>(), 0u8..4, 0usize..=2, 0usize..=10);
    let size = prop_oneof![8u16..64, 500u16..1500, Just(1448u16), 1500u16..9000];
    let payload = (size, 1usize..60, 0usize..9000);
    let numbers = (
        prop_oneof![any::<u16>(), 65500u16..=65535],
        prop_oneof![any::<u32>(), 0xFFFF_0000u32..=0xFFFF_FFFF],
        0u16..0x1000,
        any::<u16>(),
    );
    let splits = prop::collection::vec(0usize..4000, 0..12);
    (shape, payload, numbers, splits, any::<bool>()).prop_map(
        |(
            (raw, kind, tags, options),
            (size, full, rest),
            (id, seq, flags, odd_urgent),
            splits,
            with_csum,
        )| {
            let payload_len = full * usize::from(size) + rest % usize::from(size);
            SuperPacket {
                raw,
                kind,
                tags,
                options,
                payload_len: payload_len.min(65000),
                size,
                id,
                seq,
                flags: flags & !(tcp_flags::SYN | tcp_flags::RST),
                odd_urgent,
                splits,
                with_csum,
            }
        },
    )
}

impl SuperPacket {
    fn udp(&self) -> bool {
        self.kind >= 2
    }

    fn input(&self) -> Input {
        let base = if self.raw {
            PacketBuilder::raw_ip()
        } else {
            PacketBuilder::ethernet()
        };
        let base = (0..self.tags * usize::from(!self.raw))
            .fold(base, |base, tag| base.vlan(0x8100, 7 + tag as u16));
        let base = if self.kind.is_multiple_of(2) {
            base
        } else {
            base.ipv6(V6_A, V6_B)
        };
        let base = if self.udp() {
            base.udp(1000, 2000)
        } else {
            base.tcp_options(&pattern(3, 4 * self.options))
        };
        let bytes = base
            .id(self.id)
            .seq(self.seq)
            .flags(self.flags)
            .urgent(self.odd_urgent)
            .payload_len(self.payload_len)
            .partial_checksum()
            .build();
        let link = if self.raw {
            Link::RawIp
        } else {
            Link::Ethernet
        };
        let gso_type = [
            vnet_gso::TCPV4,
            vnet_gso::TCPV6,
            vnet_gso::UDP_L4,
            vnet_gso::UDP_L4,
        ][usize::from(self.kind)];
        let header = needs_csum(link, &bytes, gso_type, self.size);
        let header = if self.with_csum || self.udp() {
            header
        } else {
            // TCP may come without: then the field is ours to compute.
            VnetHeader {
                flags: 0,
                csum_start: 0,
                csum_offset: 0,
                ..header
            }
        };
        Input {
            splits: self.splits.clone(),
            ..Input::new(link, bytes).vnet(header, Trust::Guest)
        }
    }

    /// By the book.
    fn segments(&self) -> Vec<Vec<u8>> {
        let input = self.input();
        let kind = if self.udp() {
            oracle::GsoKind::UdpL4
        } else {
            oracle::GsoKind::Tcp {
                fixed_id: false,
                accecn: false,
            }
        };
        let gso = oracle::Gso {
            kind,
            size: usize::from(self.size),
        };
        oracle::segment(oracle_link(input.link), &input.bytes, gso).expect("sound")
    }
}

#[test]
fn super_packets_are_cut_as_by_the_book() {
    holds(250, super_packet(), |case| {
        let input = case.input();
        let mut rig = Rig::new();
        if case.udp() && case.payload_len > 128 * usize::from(case.size) {
            assert!(rig.admit(&input).is_err(), "too many datagrams");
            return;
        }
        let admitted = rig.admit(&input).expect("sound");
        let ready = Ready::alone(admitted.id, 0);
        let complete = rig.complete(ready, Caps::NONE).expect("no fault");
        let complete: Vec<_> = complete.into_iter().map(|(_, bytes)| bytes).collect();
        assert_eq!(complete, case.segments());

        let only_csum = Caps::new(true, false, false, false, false);
        let partial = rig.complete(ready, only_csum).expect("no fault");
        assert_eq!(partial.len(), complete.len());
        for ((packet, mut bytes), whole) in partial.into_iter().zip(complete) {
            let header = VnetHeader::of(&packet);
            oracle::verify_partial(oracle_link(input.link), &bytes).expect("partial");
            let (start, offset) = (header.csum_start.into(), header.csum_offset.into());
            oracle::complete_checksum(&mut bytes, start, offset, case.udp());
            assert_eq!(bytes, whole);
        }
    });
}

/// The header that leaves with a super-packet admits the same super-packet again.
#[test]
fn a_super_packet_survives_the_way_over_the_virtio_header() {
    holds(120, super_packet(), |case| {
        let input = case.input();
        let mut rig = Rig::new();
        let Ok(admitted) = rig.admit(&input) else {
            return;
        };
        let packet = rig.arena.packet(admitted.id).clone();
        let bytes = rig.bytes_of(&packet, rig.arena.payload(admitted.id));
        for form in [Form::Legacy10, Form::Modern12, Form::Hash20] {
            let mut wire = [0; 20];
            let len = VnetHeader::of(&packet)
                .encode(form, &mut wire)
                .expect("room");
            let oracle_form = [
                (Form::Legacy10, oracle::VnetForm::Plain),
                (Form::Modern12, oracle::VnetForm::Merged),
                (Form::Hash20, oracle::VnetForm::Hashed),
            ];
            let oracle_form = oracle_form.iter().find(|(f, _)| *f == form).expect("one").1;
            let read = oracle::VnetHeader::decode(oracle_form, &wire[..len]).expect("long enough");
            assert_eq!(read.encode(oracle_form), wire[..len]);
            let header = VnetHeader::decode(form, &wire[..len]).expect("long enough");
            let again = Input::new(input.link, bytes.clone()).vnet(header, Trust::Guest);
            let again = rig.admit(&again).expect("what we send we take");
            let again = rig.arena.packet(again.id);
            assert_eq!(again.pending(), packet.pending());
            assert_eq!(again.header(), packet.header());
        }
    });
}

#[test]
fn l7_completing_twice_is_completing_once() {
    let caps = (
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(csum, tso4, tso6, ecn, uso)| Caps::new(csum, tso4, tso6, ecn, uso));
    holds(150, (super_packet(), caps), |(case, caps)| {
        let mut rig = Rig::new();
        let Ok(admitted) = rig.admit(&case.input()) else {
            return;
        };
        let ready = Ready::alone(admitted.id, 0);
        let memory = rig.memory.clone();
        let slices = SliceMemory::new(&memory, Kernels::detect());
        let packet = rig.arena.packet(ready.id);
        let first = plan(packet, caps, NO_MTU);
        let payload = rig.arena.payload(ready.id);
        complete(packet, payload, first, &slices, |once, payload| {
            let second = plan(once, caps, NO_MTU);
            assert_eq!(second, Plan::AsIs, "nothing is left to do");
            let before = bytes_of(&memory, once, payload);
            complete(once, payload, second, &slices, |twice, payload| {
                assert_eq!(bytes_of(&memory, twice, payload), before);
                assert_eq!(twice.pending(), once.pending());
            })
            .expect("no fault");
        })
        .expect("no fault");
        assert_eq!(rig.memory, memory, "the payload is untouched");
    });
}

/// IDs that stay, and IDs that wrap, in a train of any length.
#[test]
fn id_rules_hold_around_the_wrap() {
    for ids in [IpId::Increment(0xFFFE), IpId::Fixed(0), IpId::Fixed(0xFFFF)] {
        for df in [false, true] {
            let stream = jumbo_testkit::script::TcpStream::new(PacketBuilder::ethernet().df(df))
                .segments(40)
                .mss(1000)
                .ids(ids);
            let inputs: Vec<_> = stream.packets().into_iter().map(Input::ethernet).collect();
            let done = support::burst(&inputs);
            assert_eq!(done.len(), 1, "{ids:?}");
            assert_eq!(done[0].finished, stream.packets());
            let fixed = matches!(ids, IpId::Fixed(_));
            assert_eq!(done[0].gso.map(|gso: Gso| gso.fixed_id), Some(fixed));
        }
    }
}

/// A checksum field of 0xFFFF verifies where 0x0000 would be written: it cannot be made again.
#[test]
fn the_negative_zero_is_passed_on_as_it_is() {
    let packet = |last: u16| {
        let payload = [&[7u8; 98][..], &last.to_be_bytes()].concat();
        PacketBuilder::ethernet().payload(&payload).build()
    };
    let zero_at = 14 + 20 + 16;
    let last = (0..=u16::MAX)
        .find(|last| packet(*last)[zero_at..zero_at + 2] == [0, 0])
        .expect("one of 65536 sums to it");
    let honest = packet(last);
    let mut negative = honest.clone();
    negative[zero_at..zero_at + 2].fill(0xFF);
    oracle::verify(jumbo_testkit::Link::Ethernet, &negative).expect("it verifies");
    let next = PacketBuilder::ethernet()
        .seq(101)
        .id(1)
        .payload_len(100)
        .build();
    let done = support::burst(&[
        Input::ethernet(negative.clone()),
        Input::ethernet(next.clone()),
    ]);
    assert_eq!(done.len(), 2);
    assert_eq!(done[0].finished, [negative]);
    let done = support::burst(&[
        Input::ethernet(honest.clone()),
        Input::ethernet(next.clone()),
    ]);
    assert_eq!(done.len(), 1, "the honest zero merges");
    assert_eq!(done[0].finished, [honest, next]);
}

/// A packet whose slot another port used before is of no port until the caller says so.
#[test]
fn a_recycled_slot_remembers_no_origin() {
    let bytes = PacketBuilder::ethernet().payload_len(10).build();
    let mut arena = Arena::new(1, 4);
    let body = [Frag::new(0, bytes.len() as u32)];
    let first = arena
        .admit(Link::Ethernet, &bytes, &body, None)
        .expect("sound");
    arena.packet_mut(first.id).origin = 7;
    arena.release(first.id);
    let second = arena
        .admit(Link::Ethernet, &bytes, &body, None)
        .expect("sound");
    assert_eq!(arena.packet(second.id).origin, 0);
}

/// Every bit of the header, flipped in the third of four packets: the engine does with it what the
/// reference does, and nothing is lost.
#[test]
fn every_header_bit_is_compared_or_recreated() {
    for flow in [0, 2, 4, 5, 8] {
        let packets: Vec<_> = (0..4).map(|index| flippable(flow, index)).collect();
        let header = &packets[2];
        let parsed = oracle::parse(jumbo_testkit::Link::Ethernet, header).expect("well formed");
        for bit in 0..8 * parsed.payload_at {
            let mut packets = packets.clone();
            packets[2][bit / 8] ^= 1 << (bit % 8);
            mend_ip_checksum(&mut packets[2], &parsed, bit / 8);
            assert_as_the_reference(&packets, &format!("flow {flow}, bit {bit}"));
        }
    }
}

/// Checksums are right by the word of the kernel: flipping a bit must not be seen by them.
fn flippable(flow: usize, index: u32) -> Vec<u8> {
    let options = pattern(7, 40);
    let base = match flow {
        8 => base(false, 0).tcp_options(&options),
        _ => base(false, flow).timestamps(3, 4),
    };
    base.seq(1000 + 100 * index)
        .id(7 + index as u16)
        .payload_len(100)
        .build()
}

fn mend_ip_checksum(bytes: &mut [u8], before: &oracle::Parsed, flipped: usize) {
    let check_at = before.l3_at + 10;
    let ipv4 = before.ipv4().is_some() && (before.l3_at..before.l4_at).contains(&flipped);
    if ipv4 && !(check_at..check_at + 2).contains(&flipped) {
        bytes[check_at..check_at + 2].fill(0);
        let check = oracle::checksum(&bytes[before.l3_at..before.l4_at]);
        bytes[check_at..check_at + 2].copy_from_slice(&check.to_be_bytes());
    }
}

fn assert_as_the_reference(packets: &[Vec<u8>], what: &str) {
    let valid = VnetHeader {
        flags: vnet_flags::DATA_VALID,
        ..VnetHeader::default()
    };
    let link = jumbo_testkit::Link::Ethernet;
    // The textbook knows a third TPID, 0x9100, which no standard has.
    let common = |bytes: &Vec<u8>| {
        let parsed = oracle::parse(link, bytes);
        parsed.is_ok_and(|packet| packet.tags.iter().all(|(tpid, _)| *tpid != 0x9100))
    };
    if !packets.iter().all(common) {
        return;
    }
    let mut rig = Rig::new();
    let mut reference = Reference::default();
    for bytes in packets {
        let input = Input::ethernet(bytes.clone()).vnet(valid, Trust::Kernel);
        rig.offer(&input).expect("sound");
        reference.offer(&input);
    }
    rig.flush(End::BurstEnd);
    reference.flush();
    let got: Vec<_> = rig.done.iter().map(|done| &done.members).collect();
    let expected: Vec<_> = reference.out.iter().map(|done| &done.members).collect();
    assert_eq!(got, expected, "{what}");
    for (done, expected) in rig.done.iter().zip(&reference.out) {
        assert!(expected.whys.contains(&done.why), "{what}: {:?}", done.why);
        for (left, index) in done.finished.iter().zip(&done.members) {
            assert_equal_but_checksum(left, &packets[*index], what);
        }
    }
}

/// The TCP checksum was made again, from bytes that the kernel said were good and are not.
fn assert_equal_but_checksum(left: &[u8], arrived: &[u8], what: &str) {
    let parsed = oracle::parse(jumbo_testkit::Link::Ethernet, arrived).expect("parsed before");
    let blank = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        if parsed.tcp().is_some() {
            bytes.truncate(parsed.end);
            bytes[parsed.l4_at + 16..parsed.l4_at + 18].fill(0);
        }
        bytes
    };
    assert_eq!(blank(left), blank(arrived), "{what}");
}

/// The second packet decides whether IDs stay or count, and that is then for good.
#[test]
fn the_second_id_decides() {
    let cases: [(&[u16], &[usize]); 9] = [
        (&[7, 8, 9], &[3]),
        (&[7, 7, 7], &[3]),
        (&[7, 8, 8], &[2, 1]),
        (&[7, 7, 8], &[2, 1]),
        (&[7, 7, 9], &[2, 1]),
        (&[7, 8, 7], &[2, 1]),
        (&[7, 9, 11], &[1, 1, 1]),
        (&[7, 6, 7], &[1, 2]),
        (&[0xFFFF, 0, 1], &[3]),
    ];
    for (ids, counts) in cases {
        let packet = |(index, id): (usize, &u16)| {
            let packet = PacketBuilder::ethernet().seq(100 * index as u32).id(*id);
            Input::ethernet(packet.payload_len(100).build())
        };
        let inputs: Vec<_> = ids.iter().enumerate().map(packet).collect();
        let done = support::burst(&inputs).into_iter();
        let got: Vec<_> = done.map(|done| done.members.len()).collect();
        assert_eq!(got, counts, "{ids:?}");
    }
}

/// A checksum of any place behind the network header, at odd and even places.
#[test]
fn any_partial_checksum_is_finished_as_by_the_book() {
    let place = (any::<bool>(), 0u16..70, 0u16..40, 0usize..300);
    let splits = prop::collection::vec(0usize..100, 0..5);
    holds(
        300,
        (place, splits),
        |((own, start, offset, len), splits)| {
            let bytes = PacketBuilder::ethernet()
                .timestamps(1, 2)
                .payload_len(40 + len)
                .partial_checksum()
                .build();
            let (start, offset) = match own {
                true => (34, 16),
                false => (35 + start, offset),
            };
            let header = VnetHeader {
                flags: vnet_flags::NEEDS_CSUM,
                csum_start: start,
                csum_offset: offset,
                ..VnetHeader::default()
            };
            let input = Input {
                splits,
                ..Input::ethernet(bytes.clone()).vnet(header, Trust::Guest)
            };
            let mut rig = Rig::new();
            let Ok(admitted) = rig.admit(&input) else {
                return;
            };
            let ready = Ready::alone(admitted.id, 0);
            let left = rig.complete(ready, Caps::NONE).expect("no fault");
            let mut expected = bytes;
            oracle::complete_checksum(&mut expected, start.into(), offset.into(), false);
            assert_eq!(left[0].1, expected);
        },
    );
}

/// UDP's zero means "no checksum", so a computed zero is written as 0xFFFF.
#[test]
fn a_udp_checksum_of_zero_is_written_as_ffff() {
    let payload = |last: u16| [&[7u8; 98][..], &last.to_be_bytes()].concat();
    let packet = |last| PacketBuilder::ethernet().udp(1, 2).payload(&payload(last));
    let check_at = 14 + 20 + 6;
    let zero = |last: &u16| packet(*last).build()[check_at..check_at + 2] == [0xFF, 0xFF];
    let last = (0..=u16::MAX).find(zero).expect("one of 65536 sums to it");
    let partial = packet(last).partial_checksum().build();
    let double = [payload(last), payload(0)].concat();
    let double = packet(0).payload(&double).partial_checksum().build();
    for (bytes, gso_type, gso_size) in [
        (partial, vnet_gso::NONE, 0),
        (double, vnet_gso::UDP_L4, 100),
    ] {
        let header = needs_csum(Link::Ethernet, &bytes, gso_type, gso_size);
        let mut rig = Rig::new();
        let input = Input::ethernet(bytes).vnet(header, Trust::Guest);
        let ready = Ready::alone(rig.admit(&input).expect("sound").id, 0);
        let left = rig.complete(ready, Caps::NONE).expect("no fault");
        assert_eq!(left[0].1, packet(last).build());
    }
}

/// Pieces that happen to be neighbours become one, others stay apart; the bytes are the same.
#[test]
fn neighbours_become_one_piece() {
    for gaps in [[0, 0, 0], [0, 5, 0], [5, 0, 0], [5, 5, 5]] {
        let stream = jumbo_testkit::script::TcpStream::new(PacketBuilder::ethernet()).segments(4);
        let mut memory = Vec::new();
        let mut arena = Arena::new(4, 16);
        let mut gro = jumbo_engine::coalesce::Coalescer::new(&jumbo_engine::coalesce::GRO, 4, 1);
        for (bytes, gap) in stream.packets().iter().zip([0].iter().chain(&gaps)) {
            // Headers apart, payload behind payload.
            memory.extend(vec![0xEE; *gap]);
            let at = memory.len() as u64;
            memory.extend(&bytes[54..]);
            let body = [
                Frag::new(1 << 40, 54),
                Frag::new(at, 1000),
                Frag::new(at + 1000, 448),
            ];
            let admitted = arena
                .admit(Link::Ethernet, bytes, &body, None)
                .expect("sound");
            let slices = SliceMemory::new(&memory, Kernels::portable());
            let offer = gro.offer(&mut arena, admitted.id, &slices);
            if let jumbo_engine::coalesce::Offer::Hold(slot) = offer {
                gro.hold(&mut arena, admitted.id, slot, 0, &slices)
                    .expect("sound");
            }
        }
        gro.flush(&mut arena, End::BurstEnd);
        let [ready] = gro.ready()[..] else {
            panic!("one aggregate");
        };
        let payload: Vec<u8> = arena
            .payload(ready.id)
            .flat_map(|frag| memory[frag.at as usize..][..frag.len as usize].to_vec())
            .collect();
        assert_eq!(payload, stream.payload());
        let pieces = arena.payload(ready.id).count();
        let apart = gaps.iter().filter(|gap| **gap > 0).count();
        assert_eq!(pieces, 8 - (3 - apart), "{gaps:?}");
    }
}
