//! What every port must pass: the contract of [`crate::queue`], as tests that a
//! port's own tests call with a device of that kind and somebody at its other end.
//!
//! A super-packet in a tunnel may be among the samples of a port that negotiated them.
//! Packets of others (a kernel sends some by itself) are told apart by their
//! source address and ignored.

use jumbo_engine::arena::{HEAD_WANTED_TUNNELS, PacketId};
use jumbo_engine::checksum::Kernels;
use jumbo_engine::packet::{Frag, HEADERS_MAX, Link, Tag};
use jumbo_engine::vnet::{HeaderFault, Trust, VnetHeader};

use crate::queue::{Bounds, Burst, PACKET_ROOM, Queue, RxEnd, RxStats, TxFault};

/// Calls of `rx` after which nothing more is expected.
const ROUNDS_MAX: usize = 1000;

/// More pieces than any port hands to its device in one call.
const PIECES: usize = 300;

/// A packet with its virtio header. `hdr_len` and `num_buffers` are hints and not compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The virtio header.
    pub vnet: VnetHeader,
    /// The packet.
    pub bytes: Vec<u8>,
}

impl Sample {
    fn plain(&self) -> Self {
        let vnet = VnetHeader {
            hdr_len: 0,
            num_buffers: 0,
            ..self.vnet
        };
        Self {
            vnet,
            bytes: self.bytes.clone(),
        }
    }

    fn is_from(&self, other: &Self, link: Link) -> bool {
        match link {
            Link::Ethernet => self.bytes.get(6..12) == other.bytes.get(6..12),
            // A kernel by itself speaks IPv6 only, from a link-local address or none.
            Link::RawIp => !matches!(
                self.bytes[..],
                [0x60..=0x6f, _, _, _, _, _, _, _, 0 | 0xfe, ..]
            ),
        }
    }
}

/// Whoever is at the other end of the device.
pub trait Peer {
    /// Sends a packet into the port.
    fn put(&mut self, sample: &Sample);
    /// Sends less than a virtio header into the port; `false` where the device makes that impossible.
    fn put_short(&mut self) -> bool;
    /// What the port sent, if anything came within a second.
    fn taken(&mut self) -> Option<Sample>;
    /// Takes the device away.
    fn vanish(&mut self);
}

/// A port under test.
pub struct Subject {
    /// Its first queue.
    pub queue: Box<dyn Queue>,
    /// Its other end.
    pub peer: Box<dyn Peer>,
    /// The tag that the port adds on rx and removes on tx.
    pub tag: Option<Tag>,
}

impl std::fmt::Debug for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.queue.fmt(f)
    }
}

/// Tries the whole contract on fresh devices of one kind, with `samples`, which
/// must differ and have one source address.
///
/// # Panics
/// When the port breaks the contract, or there is no sample.
pub fn check(make: &mut dyn FnMut() -> Subject, samples: &[Sample]) {
    assert!(!samples.is_empty(), "samples are needed");
    rx_does_not_block(make(), &samples[0]);
    rx_gives_what_was_put(make(), samples);
    rx_refuses_what_is_too_short(make(), &samples[0]);
    rx_keeps_its_bounds(make(), samples);
    tx_hands_over_every_byte(make(), samples);
    tx_joins_many_pieces(make(), samples);
    gone_is_final(make(), &samples[0]);
}

/// A burst and what was counted.
struct Taker {
    burst: Burst,
    stats: RxStats,
    ours: Sample,
}

impl Taker {
    fn new(bounds: Bounds, ours: &Sample) -> Self {
        let mut burst = Burst::new(bounds, Kernels::detect());
        burst.arena.follow_tunnels(true);
        Self {
            burst,
            stats: RxStats::default(),
            ours: ours.clone(),
        }
    }

    /// One batch, as the peer knows the packets; all of them, and ours alone.
    fn batch(&mut self, subject: &mut Subject) -> (RxEnd, usize, Vec<Sample>) {
        let end = subject.queue.rx(&mut self.burst, &mut self.stats);
        let ids = std::mem::take(&mut self.burst.batch);
        let all = ids.len();
        let mut ours = Vec::new();
        for id in ids {
            if let Some(tag) = subject.tag {
                let popped = self.burst.arena.packet_mut(id).tags_mut().pop_outer();
                assert_eq!(popped, Some(tag), "received with its tag");
            }
            let sample = sample_of(&self.burst, id);
            if sample.is_from(&self.ours, subject.queue.link()) {
                ours.push(sample.plain());
            }
            self.burst.arena.release(id);
        }
        self.burst.reset_if_empty();
        subject.queue.release();
        (end, all, ours)
    }

    /// Everything that is ready: ours, and how many in all.
    fn drain(&mut self, subject: &mut Subject) -> (usize, Vec<Sample>) {
        let (mut all, mut ours) = (0, Vec::new());
        for _ in 0..ROUNDS_MAX {
            let (end, taken, more) = self.batch(subject);
            all += taken;
            ours.extend(more);
            match end {
                RxEnd::More => {}
                RxEnd::Drained => return (all, ours),
                RxEnd::Gone | RxEnd::Stopped => panic!("ended without having been taken away"),
            }
        }
        panic!("never drained");
    }
}

fn sample_of(burst: &Burst, id: PacketId) -> Sample {
    let packet = burst.arena.packet(id);
    let mut bytes = vec![0; HEADERS_MAX];
    let len = packet
        .write_header(&mut bytes)
        .expect("room for any header");
    bytes.truncate(len);
    for frag in burst.arena.payload(id) {
        burst
            .pool
            .piece(frag)
            .expect("payload in the pool")
            .append_to(&mut bytes);
    }
    Sample {
        vnet: VnetHeader::of(packet),
        bytes,
    }
}

fn rx_does_not_block(mut subject: Subject, ours: &Sample) {
    let mut taker = Taker::new(Bounds::default(), ours);
    for _ in 0..3 {
        assert_eq!(taker.drain(&mut subject).1, []);
    }
}

fn rx_gives_what_was_put(mut subject: Subject, samples: &[Sample]) {
    let mut taker = Taker::new(Bounds::default(), &samples[0]);
    samples.iter().for_each(|sample| subject.peer.put(sample));
    let (all, ours) = taker.drain(&mut subject);
    let expected: Vec<_> = samples.iter().map(Sample::plain).collect();
    assert_eq!(ours, expected, "what was put, in order");
    let traffic = taker.stats.traffic;
    assert_eq!(traffic.packets, all as u64, "admitted is counted");
    assert_eq!(taker.stats.faults.total(), 0);
    let supers = samples.iter().filter(|s| s.vnet.gso_type != 0).count();
    assert_eq!(traffic.super_packets, supers as u64);
    let bytes: usize = samples.iter().map(|sample| sample.bytes.len()).sum();
    assert!(traffic.bytes >= bytes as u64 && traffic.segments >= traffic.packets);
}

fn rx_refuses_what_is_too_short(mut subject: Subject, ours: &Sample) {
    let mut taker = Taker::new(Bounds::default(), ours);
    if !subject.peer.put_short() {
        return;
    }
    subject.peer.put(ours);
    assert_eq!(taker.drain(&mut subject).1, [ours.plain()]);
    assert_eq!(taker.stats.faults.get(HeaderFault::ShortVnetHeader), 1);
}

fn rx_keeps_its_bounds(mut subject: Subject, samples: &[Sample]) {
    let small = samples.iter().min_by_key(|sample| sample.bytes.len());
    let large = samples.iter().max_by_key(|sample| sample.bytes.len());
    let (Some(small), Some(large)) = (small, large) else {
        return;
    };
    let bounds = Bounds {
        batch_packets: 4,
        batch_bytes: 2 * large.bytes.len(),
        ..Bounds::default()
    };
    for (sample, most) in [(small, 4), (large, 3)] {
        let mut taker = Taker::new(bounds, sample);
        (0..20).for_each(|_| subject.peer.put(sample));
        let mut ours = 0;
        for _ in 0..ROUNDS_MAX {
            let (end, all, more) = taker.batch(&mut subject);
            assert!(all <= most, "{all} packets in a batch of {most}");
            ours += more.len();
            if end == RxEnd::Drained {
                break;
            }
        }
        assert_eq!(ours, 20);
    }
    // Without room for another packet of any size nothing is taken, and nothing lost.
    let mut taker = Taker::new(
        Bounds {
            pool_bytes: PACKET_ROOM - 1,
            ..bounds
        },
        small,
    );
    subject.peer.put(small);
    assert_eq!(taker.batch(&mut subject), (RxEnd::More, 0, Vec::new()));
    let mut taker = Taker::new(bounds, small);
    assert_eq!(taker.drain(&mut subject).1, [small.plain()]);
}

/// A burst that holds the sample in `pieces` pieces, none beside another.
fn scattered(sample: &Sample, pieces: usize, subject: &Subject) -> (Burst, PacketId) {
    let bounds = Bounds {
        pool_bytes: 2 * PACKET_ROOM,
        ..Bounds::default()
    };
    let mut burst = Burst::new(bounds, Kernels::detect());
    burst.arena.follow_tunnels(true);
    // The pool starts each piece on a line of its own.
    let len = sample.bytes.len().div_ceil(pieces).max(1);
    let body: Vec<Frag> = sample
        .bytes
        .chunks(len)
        .map(|piece| {
            burst.pool.space()[..piece.len()].copy_from_slice(piece);
            Frag::new(burst.pool.take(piece.len() + 1), piece.len() as u32)
        })
        .collect();
    let head = &sample.bytes[..sample.bytes.len().min(HEAD_WANTED_TUNNELS)];
    let vnet = Some((&sample.vnet, Trust::Guest));
    let admitted = burst.arena.admit(subject.queue.link(), head, &body, vnet);
    let id = admitted.expect("a sample is right").id;
    if let Some(tag) = subject.tag {
        let tags = burst.arena.packet_mut(id).tags_mut();
        assert!(tags.push_outer(tag), "room for a tag");
    }
    (burst, id)
}

fn send(subject: &mut Subject, sample: &Sample, pieces: usize) -> Result<(), TxFault> {
    let (burst, id) = scattered(sample, pieces, subject);
    let payload = burst.arena.payload(id);
    let answer = subject
        .queue
        .tx(burst.arena.packet(id), payload, &burst.pool);
    subject.queue.publish();
    match subject.queue.lost() {
        Some((fault, _)) => answer.and(Err(fault)),
        None => answer,
    }
}

/// The next packet of ours that came out of the device.
fn taken(subject: &mut Subject, ours: &Sample) -> Option<Sample> {
    for _ in 0..ROUNDS_MAX {
        let sample = subject.peer.taken()?;
        if sample.is_from(ours, subject.queue.link()) {
            return Some(sample.plain());
        }
    }
    None
}

fn tx_hands_over_every_byte(mut subject: Subject, samples: &[Sample]) {
    for sample in samples {
        assert_eq!(send(&mut subject, sample, 1), Ok(()));
        // The memory is gone by now: nothing may have been kept for later.
        assert_eq!(taken(&mut subject, sample), Some(sample.plain()));
    }
}

fn tx_joins_many_pieces(mut subject: Subject, samples: &[Sample]) {
    for sample in samples {
        for pieces in [2, 63, 64, 65, 66, PIECES] {
            assert_eq!(send(&mut subject, sample, pieces), Ok(()));
            assert_eq!(
                taken(&mut subject, sample),
                Some(sample.plain()),
                "{pieces} pieces"
            );
        }
    }
}

fn gone_is_final(mut subject: Subject, sample: &Sample) {
    subject.peer.vanish();
    let mut taker = Taker::new(Bounds::default(), sample);
    for _ in 0..3 {
        assert_eq!(taker.batch(&mut subject).0, RxEnd::Gone);
        assert_eq!(send(&mut subject, sample, 1), Err(TxFault::Gone));
    }
}
