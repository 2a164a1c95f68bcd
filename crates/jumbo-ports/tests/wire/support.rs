//! A veth pair with a port at one end and a raw socket at the other.

use std::time::Duration;

use jumbo_engine::arena::Pieces;
use jumbo_engine::checksum::Kernels;
use jumbo_engine::packet::{Link, Packet};
use jumbo_engine::vnet::{Form, Trust, VnetHeader};
use jumbo_lab::TestError;
use jumbo_lab::ns::NetNs;
use jumbo_lab::packet_socket::PacketSocket;
use jumbo_ports::conformance::{Peer, Sample};
use jumbo_ports::pool::Pool;
use jumbo_ports::queue::{Bounds, Burst, Queue, RxEnd, RxStats, TxFault};

pub(crate) type Outcome = Result<(), TestError>;

/// The port's end is `w0` in `near`, the other one `w1` in `far`.
pub(crate) struct Wire {
    pub(crate) near: NetNs,
    pub(crate) far: NetNs,
}

impl Wire {
    pub(crate) fn new() -> Result<Self, TestError> {
        let (near, far) = (NetNs::new()?, NetNs::new()?);
        near.links()?.add_veth("w0", "w1", &far)?;
        near.links()?.up("w0")?;
        far.links()?.up("w1")?;
        Ok(Self { near, far })
    }

    /// A raw socket with virtio headers at the other end.
    pub(crate) fn socket(&self) -> Result<PacketSocket, TestError> {
        Ok(PacketSocket::open(&self.far, "w1", true)?)
    }
}

/// Puts a virtio header before a packet.
pub(crate) fn with_header(vnet: &VnetHeader, bytes: &[u8]) -> Vec<u8> {
    let mut whole = vec![0; Form::Legacy10.len_bytes()];
    vnet.encode(Form::Legacy10, &mut whole);
    whole.extend(bytes);
    whole
}

/// Whoever holds the other end of the wire.
pub(crate) struct FarEnd {
    pub(crate) wire: Wire,
    pub(crate) socket: PacketSocket,
}

impl Peer for FarEnd {
    fn put(&mut self, sample: &Sample) {
        let whole = with_header(&sample.vnet, &sample.bytes);
        self.socket.send(&whole).expect("the kernel takes a sample");
    }

    fn put_short(&mut self) -> bool {
        // The kernel puts a whole header before every packet.
        false
    }

    fn taken(&mut self) -> Option<Sample> {
        let whole = self.socket.recv(Duration::from_secs(1));
        let whole = whole.expect("a socket")?;
        let vnet = VnetHeader::decode(Form::Legacy10, &whole).expect("a header");
        // Whether the kernel looked at the checksum itself is not the port's affair.
        let flags = vnet.flags & 1;
        Some(Sample {
            vnet: VnetHeader { flags, ..vnet },
            bytes: whole[Form::Legacy10.len_bytes()..].to_vec(),
        })
    }

    fn vanish(&mut self) {
        let links = self.wire.near.links().expect("a namespace");
        links.delete("w0").expect("it is there");
    }
}

/// All queues of a device as one: the kernel chooses where a packet comes out.
#[derive(Debug)]
pub(crate) struct AllQueues(pub(crate) Vec<Box<dyn Queue>>);

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

    fn tx(&mut self, packet: &Packet, payload: Pieces<'_>, pool: &Pool) -> Result<(), TxFault> {
        self.0.rotate_left(1);
        self.0[0].tx(packet, payload, pool)
    }

    fn link(&self) -> Link {
        self.0[0].link()
    }

    fn publish(&mut self) {
        self.0.iter_mut().for_each(|queue| queue.publish());
    }

    fn lost(&mut self) -> Option<(TxFault, u32)> {
        self.0.iter_mut().find_map(|queue| queue.lost())
    }

    fn release(&mut self) {
        self.0.iter_mut().for_each(|queue| queue.release());
    }

    fn fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        None
    }
}

/// A queue whose owner looks again after each packet sent, as a worker does that is woken.
#[derive(Debug)]
pub(crate) struct Served(pub(crate) Vec<Box<dyn Queue>>);

impl Queue for Served {
    fn rx(&mut self, burst: &mut Burst, stats: &mut RxStats) -> RxEnd {
        self.0[0].rx(burst, stats)
    }

    fn tx(&mut self, packet: &Packet, payload: Pieces<'_>, pool: &Pool) -> Result<(), TxFault> {
        self.0[0].tx(packet, payload, pool)
    }

    fn publish(&mut self) {
        self.0[0].publish();
        // What was held up is due by now; nothing is received where nothing has room.
        let bounds = Bounds {
            pool_bytes: 0,
            ..Bounds::default()
        };
        let mut burst = Burst::new(bounds, Kernels::detect());
        self.0[0].rx(&mut burst, &mut RxStats::default());
    }

    fn lost(&mut self) -> Option<(TxFault, u32)> {
        self.0[0].lost()
    }

    fn release(&mut self) {
        self.0[0].release();
    }

    fn fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        self.0[0].fd()
    }
}

/// Receives by hand.
pub(crate) struct Taker {
    pub(crate) burst: Burst,
    pub(crate) stats: RxStats,
}

impl Taker {
    pub(crate) fn new() -> Self {
        Self {
            burst: Burst::new(Bounds::default(), Kernels::detect()),
            stats: RxStats::default(),
        }
    }

    /// Everything that is ready, as bytes, and how it ended.
    pub(crate) fn drain(&mut self, queue: &mut dyn Queue) -> (RxEnd, Vec<Vec<u8>>) {
        let mut packets = Vec::new();
        for _ in 0..1000 {
            let end = queue.rx(&mut self.burst, &mut self.stats);
            for id in std::mem::take(&mut self.burst.batch) {
                let packet = self.burst.arena.packet(id);
                let mut bytes = vec![0; 256];
                let len = packet.write_header(&mut bytes).expect("room");
                bytes.truncate(len);
                let payload = self.burst.arena.payload(id);
                self.burst
                    .pool
                    .append_to(payload, &mut bytes)
                    .expect("it is there");
                packets.push(bytes);
                self.burst.arena.release(id);
            }
            self.burst.reset_if_empty();
            queue.release();
            if end != RxEnd::More {
                return (end, packets);
            }
        }
        panic!("never drained");
    }
}

/// Sends one packet by hand.
pub(crate) fn send(queue: &mut dyn Queue, vnet: &VnetHeader, bytes: &[u8]) -> Result<(), TxFault> {
    let answer = hand_over(queue, vnet, bytes);
    queue.publish();
    answer.and(what_was_lost(queue))
}

/// The same; it is published only if something was sent.
pub(crate) fn send_only(
    queue: &mut dyn Queue,
    vnet: &VnetHeader,
    bytes: &[u8],
) -> Result<(), TxFault> {
    hand_over(queue, vnet, bytes)?;
    queue.publish();
    what_was_lost(queue)
}

fn what_was_lost(queue: &mut dyn Queue) -> Result<(), TxFault> {
    queue.lost().map_or(Ok(()), |(fault, _)| Err(fault))
}

/// Hands one packet over, to be sent with those that follow.
pub(crate) fn hand_over(
    queue: &mut dyn Queue,
    vnet: &VnetHeader,
    bytes: &[u8],
) -> Result<(), TxFault> {
    let mut burst = Burst::new(Bounds::default(), Kernels::detect());
    let mut stats = RxStats::default();
    burst.pool.space()[..bytes.len()].copy_from_slice(bytes);
    let header = Some((vnet, Trust::Guest));
    burst.admit(Link::Ethernet, 0, bytes.len(), header, &mut stats);
    let id = burst.batch[0];
    let payload = burst.arena.payload(id);
    queue.tx(burst.arena.packet(id), payload, &burst.pool)
}
