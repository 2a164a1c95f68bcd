//! The kernel's own GRO as the judge of ours: the same packets through both, the same
//! results but for the differences listed here, each a decision.
//!
//! The kernel's side is a veth pair with `gro on` at the receiving end, whose NAPI is polled by a
//! timer, so that a script is one poll. What it made of the packets is read by a packet socket with
//! virtio headers. Ours is one burst.

use std::process::ExitCode;
use std::time::Duration;

use jumbo_engine::prelude::*;
use jumbo_lab::ethtool::{NapiHold, Offload};
use jumbo_lab::ns::{Needs, NetNs};
use jumbo_lab::packet_socket::{PacketSocket, VNET_HEADER_LEN};
use jumbo_lab::{LabTest, TestError, test_main};
use jumbo_testkit::script::{IpId, TcpStream, UdpStream, interleave};
use jumbo_testkit::{Extension, PacketBuilder, oracle, tcp_flags};

type Tested<T> = Result<T, TestError>;

fn main() -> ExitCode {
    let limit = Duration::from_secs(300);
    let tests =
        vec![LabTest::new("kernel_coalesces_as_we_do", kernel_coalesces_as_we_do).within(limit)];
    test_main(Needs::Links, tests)
}

// --- where we differ ---

/// A decision, and what comes of it in which cases, of both families unless one is named: what the kernel makes of the packets,
/// what we make of them. Lengths are counted behind the shortest headers; behind a slash the segment size.
struct Decision {
    why: &'static str,
    cases: &'static [(&'static str, &'static str, &'static str)],
}

#[rustfmt::skip]
const DIFFERENCES: &[Decision] = &[
    Decision {
        why: "A first segment below 8 bytes (TCP_MIN_GSO_SIZE of include/net/tcp.h) is not held: a switch like ours that \
              takes the aggregate in raises smaller segment sizes to 8 and would cut the train differently. The kernel \
              merges, and segments, down to 1.",
        cases: &[
            ("tcp of 1 bytes", "4/1", "4x1"),
            ("tcp of 2 bytes", "8/2", "4x2"),
            ("tcp of 6 bytes", "24/6", "4x6"),
            ("tcp of 7 bytes", "28/7", "4x7"),
            ("tcp tiny tail", "2003/1000 6/3", "2003/1000 2x3"),
        ],
    },
    Decision {
        why: "CWR is compared like any other flag, as AccECN needs it and Linux 7 does; 6.18 never merges it. \
              Segmentation is told by `Cwr::All`.",
        cases: &[
            ("tcp CWR changes", "3000/1000 3x1000", "2x3000/1000"),
            ("tcp CWR on all", "6x1000", "6000/1000"),
            ("tcp ECE and CWR changes", "3000/1000 3x1000", "2x3000/1000"),
            ("tcp ECE and CWR on all", "6x1000", "6000/1000"),
        ],
    },
    Decision {
        why: "The urgent pointer is compared, with or without URG: the kernel ignores it, and so loses it.",
        cases: &[
            ("tcp urgent pointer changes", "6000/1000", "2x3000/1000"),
            ("tcp urgent pointer on one", "6000/1000", "3000/1000 1000 2000/1000"),
            ("tcp urgent pointer on the first", "6000/1000", "1000 5000/1000"),
        ],
    },
    Decision {
        why: "Without a hash from the device the kernel keeps all flows in one bucket of 8 (MAX_GRO_SKBS); our \
              table has room.",
        cases: &[("tcp 10 flows in turn", "60x500", "10x3000/500")],
    },
    Decision {
        why: "A packet that is refused before its ports are looked at ends the held flows of its addresses: it never \
              overtakes its own. In the kernel it does.",
        cases: &[
            ("tcp bad TCP checksum changes", "3x1000 3000/1000", "3000/1000 3x1000"),
            ("tcp bad TCP checksum on one", "1000 3000/1000 2000/1000", "3000/1000 1000 2000/1000"),
            ("tcp bad IP checksum changes", "3x1000 3000/1000", "3000/1000 3x1000"),
            ("tcp bad IP checksum on one", "1000 3000/1000 2000/1000", "3000/1000 1000 2000/1000"),
            ("tcp IP options changes", "3x1004 3000/1000", "3000/1000 3x1004"),
            ("tcp IP options on one", "1004 3000/1000 2000/1000", "3000/1000 1004 2000/1000"),
            ("tcp more fragments changes", "3x1000 3000/1000", "3000/1000 3x1000"),
            ("tcp more fragments on one", "1000 3000/1000 2000/1000", "3000/1000 1000 2000/1000"),
            ("tcp fragment offset changes", "3x1000 3000/1000", "3000/1000 3x1000"),
            ("tcp fragment offset on one", "1000 3000/1000 2000/1000", "3000/1000 1000 2000/1000"),
            ("udp4 empty between", "0 2x1000/500", "1000/500 0 1000/500"),
            ("udp6 empty between", "0 2000/500", "1000/500 0 1000/500"),
            ("udp4 no checksum on one", "500 1500/500 1000/500", "1500/500 500 1000/500"),
            ("udp6 no checksum on one", "500 2500/500", "1500/500 500 1000/500"),
            ("udp4 bad checksum on one", "500 1500/500 1000/500", "1500/500 500 1000/500"),
            ("udp6 bad checksum on one", "500 2500/500", "1500/500 500 1000/500"),
            ("udp4 length too short on one", "500 1500/500 1000/500", "1500/500 500 1000/500"),
            ("udp6 length too short on one", "500 2500/500", "1500/500 500 1000/500"),
            ("udp4 length too long on one", "500 1500/500 1000/500", "1500/500 500 1000/500"),
            ("udp6 length too long on one", "500 2500/500", "1500/500 500 1000/500"),
        ],
    },
    Decision {
        why: "Bytes behind the IP length are Ethernet padding and cut off, here as at the receiver (ip_rcv_core); what \
              is left may merge. The kernel does not merge a packet with padding.",
        cases: &[
            ("tcp padding changes", "3000/1000 3x1003", "6000/1000"),
            ("tcp padding on one", "3000/1000 1003 2000/1000", "6000/1000"),
            ("tcp padding on the first", "1003 5000/1000", "6000/1000"),
            ("tcp padding on all", "6x1003", "6000/1000"),
            ("udp4 padding on one", "505 1500/500 1000/500", "3000/500"),
            ("udp6 padding on one", "505 2500/500", "3000/500"),
            ("tcp tiny and padded changes", "3000/1000 3x6", "3001/1000 2x1"),
            ("tcp tiny and padded on one", "3000/1000 6 2000/1000", "3001/1000 2000/1000"),
            ("tcp tiny and padded on the first", "6 5000/1000", "1 5000/1000"),
            ("tcp tiny and padded on all", "6x6", "6x1"),
            ("tcp length too short changes", "3000/1000 3x1000", "3000/1000 3x500"),
            ("tcp length too short on one", "3000/1000 1000 2000/1000", "3000/1000 500 2000/1000"),
            ("tcp length too short on the first", "1000 5000/1000", "500 5000/1000"),
            ("tcp length too short on all", "6x1000", "6x500"),
        ],
    },
];

// --- results ---

/// A packet that came out.
#[derive(Clone, PartialEq, Eq)]
struct Outcome {
    bytes: Vec<u8>,
    /// Start and offset of a partial checksum.
    partial: Option<(u16, u16)>,
    /// virtio's segmentation type, and the segment size.
    gso: Option<(u8, u16)>,
}

impl Outcome {
    fn new(header: &VnetHeader, bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            partial: (header.flags & 1 != 0).then_some((header.csum_start, header.csum_offset)),
            gso: header
                .is_gso()
                .then_some((header.gso_type, header.gso_size)),
        }
    }

    fn is_v4(&self) -> bool {
        self.bytes[12] == 0x08
    }

    /// The IP protocol, at its place in a header without options.
    fn protocol(&self) -> u8 {
        self.bytes[if self.is_v4() { 23 } else { 20 }]
    }

    /// Ethernet, IP and TCP, or UDP, without options.
    fn shortest_headers(&self) -> usize {
        let ip = if self.is_v4() { 20 } else { 40 };
        14 + ip + if self.protocol() == 17 { 8 } else { 20 }
    }

    fn summary(&self) -> String {
        let len = self.bytes.len().saturating_sub(self.shortest_headers());
        match self.gso {
            Some((_, size)) => format!("{len}/{size}"),
            None => len.to_string(),
        }
    }
}

/// One after the other; several alike as `3x1000`.
fn summary(outcomes: &[Outcome]) -> String {
    let all: Vec<String> = outcomes.iter().map(Outcome::summary).collect();
    let runs = all
        .chunk_by(|one, other| one == other)
        .map(|run| match run.len() {
            1 => run[0].clone(),
            count => format!("{count}x{}", run[0]),
        });
    runs.collect::<Vec<_>>().join(" ")
}

/// Where two results of equal summary differ.
fn first_difference(kernel: &[Outcome], ours: &[Outcome]) -> String {
    let pairs = kernel.iter().zip(ours).enumerate();
    for (index, (kernel, ours)) in pairs {
        if (kernel.partial, kernel.gso) != (ours.partial, ours.gso) {
            let kernel = (kernel.partial, kernel.gso);
            let ours = (ours.partial, ours.gso);
            return format!("packet {index}: (csum, gso) kernel {kernel:?}, ours {ours:?}");
        }
        let mut bytes = kernel.bytes.iter().zip(&ours.bytes);
        if let Some(at) = bytes.position(|(kernel, ours)| kernel != ours) {
            let part = |bytes: &[u8]| format!("{:02x?}", &bytes[at..bytes.len().min(at + 8)]);
            let (kernel, ours) = (part(&kernel.bytes), part(&ours.bytes));
            return format!("packet {index}, byte {at}: kernel {kernel}, ours {ours}");
        }
    }
    String::from("not the same number of packets")
}

// --- the kernel's side ---

struct Rig {
    tx: PacketSocket,
    rx: PacketSocket,
    _spaces: [NetNs; 2],
}

impl Rig {
    fn new() -> Tested<Self> {
        let (a, b) = (NetNs::new()?, NetNs::new()?);
        let (from, to) = (a.links()?, b.links()?);
        from.add_veth("v0", "v1", &b)?;
        from.up("v0")?;
        to.up("v1")?;
        // drivers/net/veth.c veth_skb_is_eligible_for_gro: a sender with TSO needs no GRO.
        from.set_offload("v0", Offload::Tso, false)?;
        to.set_offload("v1", Offload::Gro, true)?;
        to.set_feature("v1", "rx-udp-gro-forwarding", true)?;
        let hold = NapiHold {
            gro_flush_timeout_ns: 6_000_000,
            napi_defer_hard_irqs: 1000,
        };
        hold.write(&b, "v1")?;
        Ok(Self {
            tx: PacketSocket::open(&a, "v0", false)?,
            rx: PacketSocket::open(&b, "v1", true)?,
            _spaces: [a, b],
        })
    }

    /// What becomes of the packets of a script.
    fn kernel(&self, packets: &[Vec<u8>]) -> Tested<Vec<Outcome>> {
        // The last poll by timer may be long ago: what wakes the NAPI is polled at once, the rest is not.
        self.tx.send(&wake())?;
        for packet in packets {
            self.tx.send(packet)?;
        }
        let mut outcomes = Vec::new();
        while let Some(outcome) = self.receive(QUIET)? {
            outcomes.extend(outcome);
        }
        Ok(outcomes)
    }

    /// The next packet that is from us, or anything else (`Some(None)`).
    fn receive(&self, within: Duration) -> Tested<Option<Option<Outcome>>> {
        let Some(mut whole) = self.rx.recv(within)? else {
            return Ok(None);
        };
        let bytes = whole.split_off(VNET_HEADER_LEN);
        let ours = bytes.get(6..11) == Some(&SRC_MAC[..5]) && bytes[12..14] != WAKE_TYPE;
        let header = VnetHeader::decode(Form::Legacy10, &whole);
        let header = header.ok_or_else(|| TestError::Failed("a short header".into()))?;
        Ok(Some(ours.then(|| Outcome::new(&header, bytes))))
    }
}

/// Longer than two polls.
const QUIET: Duration = Duration::from_millis(22);
/// An experimental type (IEEE 802), which GRO does not know.
const WAKE_TYPE: [u8; 2] = [0x88, 0xb5];

fn wake() -> Vec<u8> {
    let mut packet = vec![0; 60];
    packet[..6].copy_from_slice(&DST_MAC);
    packet[6..12].copy_from_slice(&SRC_MAC);
    packet[12..14].copy_from_slice(&WAKE_TYPE);
    packet
}

// --- our side ---

fn ours(packets: &[Vec<u8>]) -> Vec<Outcome> {
    let buffer = packets.concat();
    let memory = SliceMemory::new(&buffer, Kernels::detect());
    let mut arena = Arena::new(256, 512);
    let mut gro = Coalescer::new(&GRO, 64, 7);
    let mut at = 0;
    for packet in packets {
        let body = [Frag::new(at, packet.len() as u32)];
        at += packet.len() as u64;
        let admitted = arena.admit(Link::Ethernet, packet, &body, None);
        let id = admitted.expect("no virtio header to be wrong").id;
        match gro.offer(&mut arena, id, &memory) {
            Offer::Merged => {}
            Offer::Hold(slot) if gro.hold(&mut arena, id, slot, 0, &memory).is_ok() => {}
            _ => gro.ready().push(Ready::alone(id, 0)),
        }
    }
    gro.flush(&mut arena, End::BurstEnd);
    let ready: Vec<Ready> = gro.ready().drain(..).collect();
    ready
        .iter()
        .map(|ready| outcome(&arena, *ready, &memory))
        .collect()
}

fn outcome(arena: &Arena, ready: Ready, memory: &SliceMemory<'_>) -> Outcome {
    let packet = arena.packet(ready.id);
    let mut bytes = vec![0; 256];
    let len = packet.write_header(&mut bytes).expect("room");
    bytes.truncate(len);
    for frag in arena.payload(ready.id) {
        bytes.extend_from_slice(memory.bytes(frag).expect("inside"));
    }
    Outcome::new(&VnetHeader::of(packet), bytes)
}

// --- the comparison ---

fn kernel_coalesces_as_we_do() -> Tested<()> {
    let rig = Rig::new()?;
    let cases = cases();
    let mut wrong = Vec::new();
    for case in &cases {
        if let Some(text) = judge(&rig, case)? {
            wrong.push(text);
        }
    }
    for (name, ..) in DIFFERENCES.iter().flat_map(|decision| decision.cases) {
        let left_out = name.starts_with("udp") && !engine_merges_udp();
        let known = cases.iter().any(|case| case.is(name));
        assert!(
            known || left_out,
            "a difference is listed for no case: {name}"
        );
    }
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    assert!(
        wrong.is_empty(),
        "{} of {} cases differ on Linux {release}{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
    Ok(())
}

/// What is wrong with a case, if so. A kernel that decides as we do although the list says otherwise (they
/// differ) is right too. A busy machine may part a script into several polls: up to five tries.
fn judge(rig: &Rig, case: &Case) -> Tested<Option<String>> {
    let ours = case.in_order(ours(&case.packets));
    let made = summary(&ours);
    let listed = case.listed();
    if let Some((_, (_, _, expected))) = listed
        && *expected != made
    {
        return Ok(Some(format!(
            "{}: ours is {made}, listed as {expected}",
            case.name
        )));
    }
    let mut text = String::new();
    for _ in 0..5 {
        let kernel = case.in_order(rig.kernel(&case.packets)?);
        let theirs = summary(&kernel);
        if kernel == ours || listed.is_some_and(|(_, (_, expected, _))| *expected == theirs) {
            return Ok(None);
        }
        text = format!(
            "{}:\n  kernel {theirs}\n  ours   {made}\n  {}\n  listed: {}",
            case.name,
            first_difference(&kernel, &ours),
            listed.map_or("no", |(decision, _)| decision.why),
        );
    }
    Ok(Some(text))
}

// --- the scripts ---

struct Case {
    name: String,
    packets: Vec<Vec<u8>>,
    /// The order between flows is not kept, by neither: compare each flow by itself.
    flows: bool,
}

type Listed = (
    &'static Decision,
    &'static (&'static str, &'static str, &'static str),
);

impl Case {
    /// Whether a name of the list means this case; one without a 4 or 6 means both families.
    fn is(&self, name: &str) -> bool {
        self.name == name || self.name.replacen(['4', '6'], "", 1) == name
    }

    fn listed(&self) -> Option<Listed> {
        let all = DIFFERENCES.iter();
        let mut all =
            all.flat_map(|decision| decision.cases.iter().map(move |case| (decision, case)));
        all.find(|(_, case)| self.is(case.0))
    }

    fn in_order(&self, mut outcomes: Vec<Outcome>) -> Vec<Outcome> {
        if self.flows {
            outcomes.sort_by_key(|outcome| {
                let ports_at = if outcome.is_v4() { 34 } else { 54 };
                let ports = outcome.bytes[ports_at..ports_at + 4].to_vec();
                (outcome.bytes[11], outcome.protocol(), ports)
            });
        }
        outcomes
    }
}

const SRC_MAC: [u8; 6] = [2, 0, 0, 0x77, 0, 1];
const DST_MAC: [u8; 6] = [2, 0, 0, 0x78, 0, 1];

#[derive(Clone, Copy)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn name(self) -> &'static str {
        match self {
            Self::V4 => "4",
            Self::V6 => "6",
        }
    }

    fn base(self) -> PacketBuilder {
        let base = PacketBuilder::ethernet().macs(DST_MAC, SRC_MAC);
        match self {
            Self::V4 => base,
            Self::V6 => base.ipv6([0xfd; 16], [0xfe; 16]),
        }
    }

    /// Full segments of a bulk flow.
    fn stream(self) -> TcpStream {
        TcpStream::new(self.base().tcp(40000, 5001))
            .mss(1000)
            .ids(IpId::Increment(500))
    }
}

/// The scripts of one family under way.
struct Scripts {
    family: Family,
    cases: Vec<Case>,
}

impl Scripts {
    fn add(&mut self, name: &str, packets: Vec<Vec<u8>>) {
        self.cases.push(Case {
            name: format!("tcp{} {name}", self.family.name()),
            packets,
            flows: false,
        });
    }

    fn flows(&mut self, name: &str, packets: Vec<Vec<u8>>) {
        self.add(name, packets);
        if let Some(case) = self.cases.last_mut() {
            case.flows = true;
        }
    }

    /// Six packets of the usual stream, each as `change` wants it.
    fn six(&mut self, name: &str, change: impl Fn(usize, PacketBuilder) -> PacketBuilder) {
        let stream = self.family.stream().segments(6);
        self.each(name, &stream, 6, change);
    }

    fn each(
        &mut self,
        name: &str,
        stream: &TcpStream,
        count: usize,
        change: impl Fn(usize, PacketBuilder) -> PacketBuilder,
    ) {
        let packets = (0..count).map(|i| change(i, stream.packet(i)).build());
        self.add(name, packets.collect());
    }

    /// The same with another value from the fourth packet on, and on the fourth alone.
    fn changes(&mut self, name: &str, change: impl Fn(PacketBuilder) -> PacketBuilder) {
        let when = |wanted: bool, packet| if wanted { change(packet) } else { packet };
        self.six(&format!("{name} changes"), |i, packet| when(i >= 3, packet));
        self.six(&format!("{name} on one"), |i, packet| when(i == 3, packet));
        self.six(&format!("{name} on the first"), |i, packet| {
            when(i == 0, packet)
        });
        self.six(&format!("{name} on all"), |_, packet| when(true, packet));
    }
}

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for family in [Family::V4, Family::V6] {
        let mut scripts = Scripts {
            family,
            cases: Vec::new(),
        };
        shapes(&mut scripts);
        flags(&mut scripts);
        tcp_fields(&mut scripts);
        sequences(&mut scripts);
        network_fields(&mut scripts);
        several_flows(&mut scripts);
        broken(&mut scripts);
        match family {
            Family::V4 => only_v4(&mut scripts),
            Family::V6 => only_v6(&mut scripts),
        }
        all.append(&mut scripts.cases);
        if engine_merges_udp() {
            all.extend(datagrams(family));
        }
    }
    all
}

/// How long packets and trains are.
fn shapes(s: &mut Scripts) {
    let stream = s.family.stream();
    s.add("plain", stream.clone().segments(10).packets());
    s.add("single", stream.clone().segments(1).packets());
    let stamped = stream.clone().timestamps(5, 6);
    s.add("timestamps", stamped.clone().segments(10).packets());
    s.add(
        "short tail",
        stream.clone().segments(5).last_len(333).packets(),
    );
    s.add(
        "tail of one byte",
        stream.clone().segments(5).last_len(1).packets(),
    );
    s.add(
        "odd",
        stream.clone().mss(999).segments(5).last_len(77).packets(),
    );
    let full = stamped.mss(1428);
    s.add("up to 65535 bytes", full.segments(50).packets());
    s.add(
        "small, many",
        stream.clone().mss(100).segments(50).packets(),
    );
    for mss in [1, 2, 6, 7, 8, 9] {
        let packets = stream.clone().mss(mss).segments(4).packets();
        s.add(&format!("of {mss} bytes"), packets);
    }
    let lens = |name: &str, s: &mut Scripts, lens: &[usize]| {
        let mut seq = 1;
        let packets = lens.iter().enumerate().map(|(i, len)| {
            let packet = s
                .family
                .stream()
                .segments(9)
                .packet(i)
                .seq(seq)
                .payload_len(*len);
            seq += *len as u32;
            packet.build()
        });
        let packets = packets.collect();
        s.add(name, packets);
    };
    lens("short in the middle", s, &[1000, 1000, 400, 1000, 1000]);
    lens("longer behind shorter", s, &[400, 1000, 1000, 400, 400]);
    lens("shorter and shorter", s, &[1000, 900, 800, 700]);
    lens("longer and longer", s, &[700, 800, 900, 1000]);
    lens("tiny tail", s, &[1000, 1000, 3, 3, 3]);
}

fn flags(s: &mut Scripts) {
    use tcp_flags::{ACK, AE, CWR, ECE, FIN, PSH, RST, SYN, URG};
    let stream = s.family.stream().segments(5);
    s.add("push at the end", stream.clone().push_last().packets());
    s.add("fin at the end", stream.clone().fin_last().packets());
    s.add(
        "push and fin at the end",
        stream.clone().push_last().fin_last().packets(),
    );
    for (name, flag) in [
        ("PSH", PSH),
        ("FIN", FIN),
        ("SYN", SYN),
        ("RST", RST),
        ("URG", URG),
        ("ECE", ECE),
        ("CWR", CWR),
        ("ECE and CWR", ECE | CWR),
        ("AE", AE),
    ] {
        s.changes(name, |packet| packet.flags(ACK | flag));
    }
    s.changes("no ACK", |packet| packet.flags(0));
    s.six("CWR and PSH", |i, packet| match i {
        2 => packet.flags(ACK | CWR | PSH),
        _ => packet,
    });
}

fn tcp_fields(s: &mut Scripts) {
    s.changes("window", |packet| packet.window(700));
    s.six("window on each", |i, packet| packet.window(700 + i as u16));
    s.changes("ack", |packet| packet.ack(77));
    s.six("ack on each", |i, packet| packet.ack(77 + i as u32));
    s.changes("urgent pointer", |packet| packet.urgent(9));
    s.changes("timestamps", |packet| packet.timestamps(3, 4));
    s.changes("options of NOP", |packet| packet.tcp_options(&[1; 4]));
    s.changes("SACK", |packet| {
        packet.tcp_options(&[1, 1, 5, 10, 0, 0, 0, 9, 0, 0, 0, 19])
    });
    s.changes("40 bytes of options", |packet| packet.tcp_options(&[1; 40]));
    let stepping = s.family.stream().timestamps(1, 2).timestamp_step(1);
    s.add("timestamps step", stepping.segments(5).packets());
    let stamped = s.family.stream().timestamps(1, 2).segments(6);
    s.each("echo steps", &stamped, 6, |i, packet| {
        packet.timestamps(1, 2 + i as u32 / 3)
    });
    s.each("stamps or NOPs", &stamped, 6, |i, packet| match i {
        3 => packet.tcp_options(&[1; 12]),
        _ => packet,
    });
}

/// Sequence numbers that do not simply go on.
fn sequences(s: &mut Scripts) {
    let stream = s.family.stream().segments(8);
    let all = stream.packets();
    let pick =
        |order: &[usize]| -> Vec<Vec<u8>> { order.iter().map(|i| all[*i].clone()).collect() };
    s.add("duplicate", pick(&[0, 1, 1, 2, 3]));
    s.add("duplicate at once", pick(&[0, 0, 1, 2]));
    s.add("lost", pick(&[0, 1, 3, 4, 5]));
    s.add("reordered", pick(&[0, 2, 1, 3, 4, 5]));
    s.add("backwards", pick(&[3, 2, 1, 0]));
    s.add("late", pick(&[1, 2, 3, 0, 4, 5]));
    s.six("overlap", |i, packet| match i {
        3 => packet.seq(2901),
        _ => packet,
    });
    s.add(
        "over the top",
        stream.clone().seq(u32::MAX - 2500).packets(),
    );
    s.six("pure ACK between", |i, packet| match i {
        3 => packet.seq(3001).payload(&[]),
        _ => packet,
    });
    s.six("pure ACK first", |i, packet| match i {
        0 => packet.payload(&[]).seq(1001),
        _ => packet,
    });
    s.six("pure ACKs", |_, packet| packet.seq(1).payload(&[]));
    s.six("FIN without data", |i, packet| match i {
        5 => packet.payload(&[]).flags(tcp_flags::FIN | tcp_flags::ACK),
        _ => packet,
    });
    s.six("keep-alive", |i, packet| match i {
        3 => packet.seq(3000).payload(&[0]),
        _ => packet,
    });
}

/// TOS or traffic class, TTL or hop limit.
fn network_fields(s: &mut Scripts) {
    s.changes("TTL", |packet| packet.ttl(63));
    s.changes("DSCP", |packet| packet.tos(0xb8));
    s.changes("ECT(0)", |packet| packet.tos(2));
    s.changes("CE", |packet| packet.tos(3));
    s.six("TTL of zero", |_, packet| packet.ttl(0));
}

fn several_flows(s: &mut Scripts) {
    let family = s.family;
    let flow = |port: u16, offset: usize| {
        let base = family.base().tcp(port, 5001);
        let stream = TcpStream::new(base)
            .mss(500)
            .segments(6)
            .ids(IpId::Increment(port));
        stream.payload_at(offset).packets()
    };
    for count in [2, 7, 10] {
        let flows = (0..count)
            .map(|i| flow(40000 + i, usize::from(i)))
            .collect();
        s.flows(&format!("{count} flows in turn"), interleave(flows));
    }
    let [one, two] = [flow(40000, 0), flow(40001, 0)];
    s.flows("one behind the other", [one.clone(), two].concat());
    let mut other_mac = one.clone();
    other_mac.iter_mut().for_each(|packet| packet[11] = 2);
    s.flows(
        "same ports, another MAC",
        interleave(vec![one.clone(), other_mac]),
    );
    let udp = family.base().udp(40000, 5001).payload(b"hello").build();
    let between = |packet: Vec<u8>| [&one[..3], &[packet], &one[3..]].concat();
    s.flows("a datagram between", between(udp));
    let other = PacketBuilder::ethernet()
        .macs(DST_MAC, SRC_MAC)
        .ethertype(0x88b6);
    s.flows(
        "another type between",
        between(other.payload(&[0; 50]).build()),
    );
}

/// Packets that are not what they say.
fn broken(s: &mut Scripts) {
    s.changes("bad TCP checksum", PacketBuilder::bad_checksum);
    s.changes("padding", |packet| packet.trailing(&[0; 3]));
    s.changes("tiny and padded", |packet| {
        packet.payload(&[7]).pad_to_minimum()
    });
    s.changes("length too long", |packet| packet.ip_len(1300));
    let short = match s.family {
        Family::V4 => 540,
        // Without the header.
        Family::V6 => 520,
    };
    s.changes("length too short", |packet| packet.ip_len(short));
}

fn patch_ipv4(packet: &mut [u8], at: usize, value: u8) {
    packet[14 + at] = value;
    packet[24..26].fill(0);
    let check = oracle::checksum(&packet[14..34]);
    packet[24..26].copy_from_slice(&check.to_be_bytes());
}

fn only_v4(s: &mut Scripts) {
    for df in [true, false] {
        let stream = |ids| {
            let base = s.family.base().df(df).tcp(40000, 5001);
            TcpStream::new(base).mss(1000).segments(6).ids(ids)
        };
        let tail = if df { "" } else { ", no DF" };
        let scripts = [
            ("IDs fixed", stream(IpId::Fixed(9)).packets()),
            ("IDs zero", stream(IpId::Fixed(0)).packets()),
            ("IDs wrap", stream(IpId::Increment(0xfffd)).packets()),
            ("IDs random", stream(IpId::Random(3)).packets()),
        ];
        for (name, packets) in scripts {
            s.add(&format!("{name}{tail}"), packets);
        }
        for (name, ids) in [
            ("IDs 1 2 2", [1, 2, 2, 2, 2, 2]),
            ("IDs 1 1 2", [1, 1, 2, 3, 4, 5]),
            ("IDs 1 3 5", [1, 3, 5, 7, 9, 11]),
            ("IDs 1 2 1", [1, 2, 1, 2, 1, 2]),
            ("IDs 1 1 1 4", [1, 1, 1, 4, 5, 6]),
            ("IDs down", [9, 8, 7, 6, 5, 4]),
        ] {
            let packet = |i: usize, packet: PacketBuilder| packet.id(ids[i]).df(df);
            s.six(&format!("{name}{tail}"), packet);
        }
    }
    s.changes("DF", |packet| packet.df(false));
    s.changes("IP options", |packet| packet.ip_options(&[1; 4]));
    s.changes("bad IP checksum", PacketBuilder::bad_ip_checksum);
    s.changes("more fragments", |packet| packet.mf(true));
    s.changes("fragment offset", |packet| packet.fragment_offset(100));
    let reserved = |which: fn(usize) -> bool| -> Vec<Vec<u8>> {
        let mut packets = Family::V4.stream().segments(6).packets();
        for (i, packet) in packets.iter_mut().enumerate() {
            if which(i) {
                patch_ipv4(packet, 6, 0xc0);
            }
        }
        packets
    };
    s.add("reserved bit on one", reserved(|i| i == 3));
    s.add("reserved bit on all", reserved(|_| true));
}

fn only_v6(s: &mut Scripts) {
    s.changes("flow label", |packet| packet.flow_label(0x54321));
    s.changes("hop-by-hop header", |packet| {
        packet.extension(Extension::HopByHop(vec![1, 4, 0, 0, 0, 0]))
    });
    s.changes("destination options", |packet| {
        packet.extension(Extension::Destination(vec![1, 4, 0, 0, 0, 0]))
    });
}

// --- datagrams ---

/// Whether the engine coalesces UDP.
fn engine_merges_udp() -> bool {
    let packets = UdpStream::new(Family::V4.base().udp(1, 2)).packets();
    ours(&packets).len() < packets.len()
}

fn datagrams(family: Family) -> Vec<Case> {
    let base = || family.base().udp(40000, 5001);
    let stream = |count, size, last| {
        UdpStream::new(base())
            .datagrams(count, size, last)
            .packets()
    };
    let mut cases = Vec::new();
    let mut add = |name: &str, packets| {
        cases.push(Case {
            name: format!("udp{} {name}", family.name()),
            packets,
            flows: false,
        });
    };
    add("plain", stream(10, 1000, 1000));
    add("short tail", stream(5, 1000, 333));
    add("odd", stream(5, 999, 1));
    add("of one byte", stream(5, 1, 1));
    add("up to 65535 bytes", stream(50, 1400, 1400));
    let sized = |sizes: &[usize]| -> Vec<Vec<u8>> {
        let packets = sizes.iter().enumerate();
        packets
            .map(|(i, size)| base().id(1 + i as u16).payload_len(*size).build())
            .collect()
    };
    add("longer behind shorter", sized(&[400, 400, 1000, 1000]));
    add("short in the middle", sized(&[1000, 1000, 400, 1000, 1000]));
    add("empty", sized(&[0, 0, 0]));
    add("empty between", sized(&[500, 500, 0, 500, 500]));
    let each = |change: &dyn Fn(usize, PacketBuilder) -> PacketBuilder| -> Vec<Vec<u8>> {
        let packets = (0..6).map(|i| change(i, base().id(1 + i as u16).payload_len(500)));
        packets.map(|packet| packet.build()).collect()
    };
    add(
        "no checksum on all",
        each(&|_, packet| packet.no_checksum()),
    );
    let one = |change: fn(PacketBuilder) -> PacketBuilder| {
        each(&|i, packet| if i == 3 { change(packet) } else { packet })
    };
    add("no checksum on one", one(PacketBuilder::no_checksum));
    add("bad checksum on one", one(PacketBuilder::bad_checksum));
    add("TTL on one", one(|packet| packet.ttl(9)));
    add("TOS on one", one(|packet| packet.tos(9)));
    add("padding on one", one(|packet| packet.trailing(&[0; 5])));
    add("length too short on one", one(|packet| packet.udp_len(400)));
    add("length too long on one", one(|packet| packet.udp_len(600)));
    add("another port on one", one(|packet| packet.udp(40000, 9)));
    add("IDs fixed", each(&|_, packet| packet.id(7)));
    add("IDs random", each(&|i, packet| packet.id(7 * i as u16)));
    cases
}
