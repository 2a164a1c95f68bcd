//! A burst taken at once is the same packets taken one by one, however a train is disturbed.

mod support;

use jumbo_engine::coalesce::{End, GRO};
use jumbo_engine::vnet::{Trust, VnetHeader};
use jumbo_testkit::PacketBuilder;
use jumbo_testkit::script::{IpId, TcpStream, UdpStream};
use proptest::prelude::*;
use support::{Input, Rig};

/// A flow of which a burst has several packets in a row.
#[derive(Clone, Debug)]
struct Flow {
    v6: bool,
    udp: bool,
    ids: IpId,
    /// The checksum is still to be made, or must be verified.
    pending: bool,
    timestamps: bool,
    tagged: bool,
    short: Option<usize>,
    seq: u32,
}

impl Flow {
    fn packets(&self, port: u16, count: usize) -> Vec<Input> {
        let base = PacketBuilder::ethernet();
        let base = if self.tagged {
            base.vlan(0x8100, 5)
        } else {
            base
        };
        let base = match self.pending {
            true => base.partial_checksum(),
            false => base,
        };
        let base = match self.v6 {
            true => base.ipv6([0xfd; 16], [0xfe; 16]),
            false => base,
        };
        let last = self.short.unwrap_or(100);
        let packets = match self.udp {
            true => UdpStream::new(base.udp(port, 80))
                .datagrams(count, 100, last)
                .ids(self.ids)
                .packets(),
            false => {
                let stream = TcpStream::new(base.tcp(port, 80)).ids(self.ids);
                let stream = stream.mss(100).segments(count).last_len(last).seq(self.seq);
                match self.timestamps {
                    true => stream.timestamps(1, 2).packets(),
                    false => stream.packets(),
                }
            }
        };
        let header = VnetHeader {
            flags: 1,
            csum_start: 14 + if self.v6 { 40 } else { 20 } + 4 * u16::from(self.tagged),
            csum_offset: if self.udp { 6 } else { 16 },
            ..VnetHeader::default()
        };
        let packets = packets.into_iter().map(Input::ethernet);
        let noted = |packet: Input| match self.pending {
            true => packet.vnet(header, Trust::Guest),
            false => packet,
        };
        packets.map(noted).collect()
    }
}

fn flow() -> impl Strategy<Value = Flow> {
    // Near where an ID begins again at zero, and where its checksum does.
    let first = prop_oneof![
        any::<u16>(),
        Just(0xfff8),
        Just(0xffff),
        (0x9000u16..0xa000)
    ];
    let ids = prop_oneof![
        4 => first.clone().prop_map(IpId::Increment),
        1 => first.prop_map(IpId::Fixed),
    ];
    let seq = prop_oneof![any::<u32>(), Just(u32::MAX - 350)];
    let short = proptest::option::weighted(0.3, 1usize..100);
    let flags = proptest::array::uniform5(proptest::bool::weighted(0.3));
    (ids, flags, short, seq).prop_map(
        |(ids, [v6, udp, pending, no_ts, tagged], short, seq)| Flow {
            v6,
            udp,
            ids,
            pending: !pending,
            timestamps: !no_ts,
            tagged: tagged && udp,
            short,
            seq,
        },
    )
}

/// A byte of a packet that comes out differently, and what it is changed by.
fn disturbance() -> impl Strategy<Value = (usize, usize, u8)> {
    (0usize..40, 0usize..180, 1u8..)
}

fn same(inputs: &[Input]) -> (u64, u64) {
    let (mut one_by_one, mut at_once) = (Rig::with_rules(&GRO, 64), Rig::with_rules(&GRO, 64));
    for input in inputs {
        // What is malformed is dropped.
        let _ = one_by_one.offer(input);
    }
    at_once.offer_burst(inputs);
    one_by_one.flush(End::BurstEnd);
    at_once.flush(End::BurstEnd);
    assert_eq!(at_once.done, one_by_one.done);
    let stats = at_once.gro.stats();
    assert_eq!(stats.merged, one_by_one.gro.stats().merged);
    (stats.merged, stats.merged_unadmitted)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_burst_is_its_packets_one_by_one(
        flows in proptest::collection::vec((flow(), 1usize..16), 1..4),
        disturbed in proptest::collection::vec(disturbance(), 0..3),
        lost in proptest::option::of(0usize..40),
    ) {
        let mut inputs: Vec<_> = flows
            .iter()
            .zip(1000..)
            .flat_map(|((flow, count), port)| flow.packets(port, *count))
            .collect();
        for (packet, at, change) in disturbed {
            let count = inputs.len();
            let bytes = &mut inputs[packet % count].bytes;
            let at = at % bytes.len();
            bytes[at] ^= change;
        }
        if let Some(lost) = lost.filter(|lost| *lost < inputs.len()) {
            inputs.remove(lost);
        }
        same(&inputs);
    }
}

/// What the property would not notice: that trains are taken as such, over all that may be foretold.
#[test]
fn whole_trains_join_unadmitted() {
    let plain = Flow {
        v6: false,
        udp: false,
        ids: IpId::Increment(0xfff0),
        pending: true,
        timestamps: true,
        tagged: false,
        short: None,
        seq: u32::MAX - 1000,
    };
    let flows = [
        plain.clone(),
        Flow {
            v6: true,
            ..plain.clone()
        },
        Flow {
            udp: true,
            ..plain.clone()
        },
        Flow {
            pending: false,
            ..plain.clone()
        },
        Flow {
            ids: IpId::Fixed(7),
            ..plain
        },
    ];
    for flow in flows {
        assert_eq!(same(&flow.packets(1000, 40)), (39, 39), "{flow:?}");
    }
}

/// Every header bit of a train's packet that changes has the same effect as anywhere else.
#[test]
fn each_bit_of_a_header_counts() {
    for (v6, udp, pending) in [
        (false, false, true),
        (true, false, true),
        (false, true, false),
        (false, false, false),
    ] {
        let flow = Flow {
            v6,
            udp,
            ids: IpId::Increment(3),
            pending,
            timestamps: true,
            tagged: false,
            short: None,
            seq: 1,
        };
        let inputs = flow.packets(1000, 8);
        for bit in 0..8 * 90 {
            let mut changed = inputs.clone();
            changed[5].bytes[bit / 8] ^= 1 << (bit % 8);
            same(&changed);
        }
    }
}
