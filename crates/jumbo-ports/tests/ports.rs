//! Every kind of port against the contract of a queue.

use std::os::fd::BorrowedFd;
use std::process::ExitCode;
use std::time::Duration;

use jumbo_engine::arena::Pieces;
use jumbo_engine::checksum::Kernels;
use jumbo_engine::packet::{Packet, Tag};
use jumbo_engine::pending::Caps;
use jumbo_engine::vnet::{Form, VnetHeader};
use jumbo_lab::ns::{Needs, NetNs};
use jumbo_lab::packet_socket::PacketSocket;
use jumbo_lab::{LabTest, TestError, test_main};
use jumbo_ports::conformance::{Peer, Sample, Subject, check};
use jumbo_ports::mem::{self, MemHandle, MemPacket};
use jumbo_ports::pool::Pool;
use jumbo_ports::queue::{Bounds, Burst, Queue, RxEnd, RxStats, TxFault};
use jumbo_ports::tagged::Tagged;
use jumbo_ports::tap::{self, TapConfig};
use jumbo_ports::wrap::fault;
use jumbo_testkit::oracle;

mod samples;

use samples::{base, ip6, samples, tunnelled};

type Outcome = Result<(), TestError>;

fn main() -> ExitCode {
    macro_rules! tests {
        ($($name:ident),* $(,)?) => { vec![$(LabTest::new(stringify!($name), $name)),*] };
    }
    test_main(
        Needs::Taps,
        tests![
            mem_keeps_the_contract,
            faulty_keeps_the_contract,
            tagged_keeps_the_contract,
            tap_keeps_the_contract,
            tap_of_several_queues_keeps_the_contract,
            packet_without_room_for_a_tag_stays_out,
            packet_of_another_vlan_is_refused,
            queue_without_packets_of_its_own_is_never_ready,
            checksum_deep_in_a_tunnel_is_finished_on_the_way_in,
        ],
    )
}

const TAG: Tag = Tag {
    tpid: 0x8100,
    tci: 7,
};

// --- memory ---

struct MemPeer {
    handle: MemHandle,
    sent: std::collections::VecDeque<MemPacket>,
}

impl Peer for MemPeer {
    fn put(&mut self, sample: &Sample) {
        self.handle.put(&sample.vnet, &sample.bytes);
    }

    fn put_short(&mut self) -> bool {
        self.handle.put_raw(vec![0; 11]);
        true
    }

    fn taken(&mut self) -> Option<Sample> {
        self.sent.extend(self.handle.taken());
        let MemPacket { vnet, bytes } = self.sent.pop_front()?;
        Some(Sample { vnet, bytes })
    }

    fn vanish(&mut self) {
        self.handle.vanish();
    }
}

fn mem_queue() -> (Box<dyn Queue>, MemHandle) {
    let caps = Caps::ALL.with_udp_tunnels(true, true);
    let (port, handle) = mem::port("m", 1, caps, caps, 1500).expect("an eventfd");
    (port.queues.into_iter().next().expect("a queue"), handle)
}

fn mem_subject(tag: Option<Tag>) -> Subject {
    let (queue, handle) = mem_queue();
    let sent = Default::default();
    Subject {
        queue: match tag {
            Some(tag) => Box::new(Tagged::new(queue, tag)),
            None => queue,
        },
        peer: Box::new(MemPeer { handle, sent }),
        tag,
    }
}

fn mem_keeps_the_contract() -> Outcome {
    check(&mut || mem_subject(None), &tunnelled());
    Ok(())
}

/// A port that holds every packet up for a moment, and swaps none.
fn faulty_keeps_the_contract() -> Outcome {
    let faults = "delay:1ns".parse().expect("a fault");
    let subject = || {
        let (inner, handle) = mem_queue();
        let (mut port, _) = mem::port("m", 0, Caps::ALL, Caps::ALL, 1500).expect("an eventfd");
        port.queues.push(inner);
        let port = fault::wrap(port, faults).expect("a timer");
        let queue = port.queues.into_iter().next().expect("a queue");
        Subject {
            queue: Box::new(Prompt(queue)),
            peer: Box::new(MemPeer {
                handle,
                sent: Default::default(),
            }),
            tag: None,
        }
    };
    check(&mut || subject(), &tunnelled());
    Ok(())
}

/// Asks a port that holds packets up for what is due as soon as something was sent.
#[derive(Debug)]
struct Prompt(Box<dyn Queue>);

impl Queue for Prompt {
    fn rx(&mut self, burst: &mut Burst, stats: &mut RxStats) -> RxEnd {
        self.0.rx(burst, stats)
    }

    fn tx(&mut self, packet: &Packet, payload: Pieces<'_>, pool: &Pool) -> Result<(), TxFault> {
        self.0.tx(packet, payload, pool)
    }

    fn publish(&mut self) {
        let mut none = Burst::new(
            Bounds {
                batch_packets: 0,
                ..Bounds::default()
            },
            Kernels::detect(),
        );
        self.0.rx(&mut none, &mut RxStats::default());
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.0.fd()
    }
}

fn tagged_keeps_the_contract() -> Outcome {
    check(&mut || mem_subject(Some(TAG)), &tunnelled());
    Ok(())
}

// --- TAP ---

struct TapPeer {
    ns: NetNs,
    socket: PacketSocket,
}

impl Peer for TapPeer {
    fn put(&mut self, sample: &Sample) {
        let mut whole = vec![0; Form::Legacy10.len_bytes()];
        sample.vnet.encode(Form::Legacy10, &mut whole);
        whole.extend(&sample.bytes);
        self.socket.send(&whole).expect("the kernel takes a sample");
    }

    fn put_short(&mut self) -> bool {
        // The kernel puts a whole header before every packet.
        false
    }

    fn taken(&mut self) -> Option<Sample> {
        let whole = self
            .socket
            .recv(Duration::from_secs(1))
            .expect("a socket")?;
        let vnet = VnetHeader::decode(Form::Legacy10, &whole).expect("a header");
        // Whether the kernel looked at the checksum itself is not the port's affair.
        let flags = vnet.flags & 1;
        Some(Sample {
            vnet: VnetHeader { flags, ..vnet },
            bytes: whole[Form::Legacy10.len_bytes()..].to_vec(),
        })
    }

    fn vanish(&mut self) {
        let links = self.ns.links().expect("a namespace");
        links.delete("t0").expect("it is there");
    }
}

fn tap_subject(queues: usize) -> Subject {
    let ns = NetNs::new().expect("a namespace");
    let config = TapConfig {
        device: "t0".into(),
        queues,
        hands: Caps::ALL,
        takes: Caps::ALL,
        mtu: Some(1500),
    };
    let port = ns
        .run(|| tap::open(&config))
        .expect("a thread")
        .expect("a TAP");
    assert_eq!(port.info.hands, Caps::ALL);
    assert_eq!((port.queues.len(), port.info.mtu), (queues, 1500));
    let socket = PacketSocket::open(&ns, "t0", true).expect("a socket");
    Subject {
        queue: Box::new(AllQueues(port.queues)),
        peer: Box::new(TapPeer { ns, socket }),
        tag: None,
    }
}

/// All queues of a device as one: the kernel chooses where a packet comes out.
#[derive(Debug)]
struct AllQueues(Vec<Box<dyn Queue>>);

impl Queue for AllQueues {
    fn rx(&mut self, burst: &mut Burst, stats: &mut RxStats) -> RxEnd {
        for queue in &mut self.0 {
            let before = burst.batch.len();
            match queue.rx(burst, stats) {
                RxEnd::Drained if burst.batch.len() == before => {}
                RxEnd::Drained => return RxEnd::More,
                end => return end,
            }
        }
        RxEnd::Drained
    }

    fn tx(
        &mut self,
        packet: &jumbo_engine::packet::Packet,
        payload: jumbo_engine::arena::Pieces<'_>,
        pool: &jumbo_ports::pool::Pool,
    ) -> Result<(), TxFault> {
        self.0.rotate_left(1);
        self.0[0].tx(packet, payload, pool)
    }

    fn fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        None
    }
}

fn tap_keeps_the_contract() -> Outcome {
    check(&mut || tap_subject(1), &samples());
    Ok(())
}

fn tap_of_several_queues_keeps_the_contract() -> Outcome {
    // Each sample is a flow, and flows choose their queues: order is kept only within one.
    for sample in samples() {
        check(&mut || tap_subject(3), &[sample]);
    }
    Ok(())
}

// --- the tagging wrapper ---

fn packet_without_room_for_a_tag_stays_out() -> Outcome {
    let (queue, handle) = mem_queue();
    let mut tagged = Tagged::new(queue, TAG);
    let mut burst = Burst::new(Bounds::default(), jumbo_engine::checksum::Kernels::detect());
    let mut stats = RxStats::default();
    let with_tags = |tags: &[u16]| {
        let packet = tags
            .iter()
            .fold(base(), |packet, tci| packet.vlan(0x8100, *tci));
        handle.put(&VnetHeader::default(), &packet.payload_len(100).build());
    };
    with_tags(&[5, 6]);
    with_tags(&[5]);
    with_tags(&[5, 6, 7]);
    with_tags(&[]);
    tagged.rx(&mut burst, &mut stats);
    let outer: Vec<u16> = burst
        .batch
        .iter()
        .map(|id| burst.arena.packet(*id).tags().outer_vid())
        .collect();
    assert_eq!(outer, [7, 7], "a packet of a VLAN of its own choice");
    assert_eq!((burst.arena.live(), stats.faults.total()), (2, 2));
    Ok(())
}

fn packet_of_another_vlan_is_refused() -> Outcome {
    for tags in [vec![], vec![8], vec![8, 7]] {
        let (queue, handle) = mem_queue();
        let (inner, sent) = mem_queue();
        let mut from = queue;
        let mut to = Tagged::new(inner, TAG);
        let mut burst = Burst::new(Bounds::default(), jumbo_engine::checksum::Kernels::detect());
        let packet = tags
            .iter()
            .fold(base(), |packet, tci| packet.vlan(0x8100, *tci));
        handle.put(&VnetHeader::default(), &packet.build());
        from.rx(&mut burst, &mut RxStats::default());
        let id = burst.batch[0];
        let payload = burst.arena.payload(id);
        let answer = to.tx(burst.arena.packet(id), payload, &burst.pool);
        assert_eq!(answer, Err(TxFault::Refused), "{tags:?}");
        assert_eq!(sent.taken(), []);
    }
    Ok(())
}

fn queue_without_packets_of_its_own_is_never_ready() -> Outcome {
    let (port, handle) = mem::port("m", 2, Caps::ALL, Caps::ALL, 1500)?;
    handle.put(&VnetHeader::default(), &base().build());
    let mut queues = port.queues;
    let mut burst = Burst::new(Bounds::default(), jumbo_engine::checksum::Kernels::detect());
    let mut stats = RxStats::default();
    assert!(queues[1].fd().is_none());
    assert_eq!(queues[1].rx(&mut burst, &mut stats), RxEnd::Drained);
    assert_eq!(queues[0].rx(&mut burst, &mut stats), RxEnd::Drained);
    assert_eq!(burst.batch.len(), 1);
    Ok(())
}

/// What a kernel hands over for TCP in IPv6 in VXLAN in IPv6: the inner checksum
/// is pending, 124 bytes in.
fn checksum_deep_in_a_tunnel_is_finished_on_the_way_in() -> Outcome {
    const START: u16 = 14 + 40 + 8 + 8 + 14 + 40;
    let mut bytes = ip6().udp(4789, 4789).payload_len(501).build();
    let field = usize::from(START + 16);
    bytes[field..field + 2].copy_from_slice(&[0x12, 0x34]); // the pseudo-header sum
    let vnet = VnetHeader {
        flags: 1,
        csum_start: START,
        csum_offset: 16,
        ..VnetHeader::default()
    };
    let (port, handle) = mem::port("deep", 1, Caps::ALL, Caps::ALL, 1500)?;
    let mut queue = port.queues.into_iter().next().expect("one queue");
    let mut burst = Burst::new(Bounds::default(), jumbo_engine::checksum::Kernels::detect());
    let mut stats = RxStats::default();
    handle.put(&vnet, &bytes);
    queue.rx(&mut burst, &mut stats);
    assert_eq!(stats.faults.total(), 0, "{:?}", stats.faults);
    let id = burst.batch[0];
    queue
        .tx(burst.arena.packet(id), burst.arena.payload(id), &burst.pool)
        .expect("sent");
    let sent = &handle.taken()[0];
    assert_eq!(sent.vnet.flags, 0, "nothing is pending any more");
    oracle::complete_checksum(&mut bytes, usize::from(START), 16, false);
    assert_eq!(sent.bytes, bytes);
    Ok(())
}
