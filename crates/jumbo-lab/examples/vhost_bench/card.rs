//! A guest's card with buffers that are used in turn, so that a stream goes on in the order of its sequence numbers.

use std::time::{Duration, Instant};

use jumbo_testkit::PacketBuilder;
use jumbo_testkit::virtio::{
    FrontEnd, GUEST_OFFLOADS, HOST_OFFLOADS, Options, Piece, VirtioNet, feature,
};

use crate::Result;

/// Ethernet, IPv4 and UDP.
const UDP_HEADERS_LEN: usize = 42;
/// Ethernet, IPv4, TCP with timestamps.
const TCP_HEADERS_LEN: usize = 66;
/// Payload of a TCP segment at MTU 1500.
const SEGMENT_LEN: usize = 1448;

/// What is sent.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Load {
    pub(crate) name: &'static str,
    /// TCP, from a to b only; else UDP, both ways.
    pub(crate) tcp: bool,
    /// Payload of a packet, bytes.
    pub(crate) payload_len: usize,
    /// Different packets, each in a buffer of its own.
    pub(crate) slots: usize,
    /// Packets that may be on their way, each way.
    pub(crate) window: usize,
    /// Entries of a ring, and receive buffers.
    pub(crate) queue_size: u16,
    pub(crate) rx_buffer_len: usize,
    /// Packets a second at the fixed rate, each way.
    pub(crate) rate: f64,
}

impl Load {
    pub(crate) fn packet_len(&self) -> usize {
        self.headers_len() + self.payload_len
    }

    fn headers_len(&self) -> usize {
        if self.tcp {
            TCP_HEADERS_LEN
        } else {
            UDP_HEADERS_LEN
        }
    }

    fn options(&self) -> Options {
        let mut options = Options {
            queue_size: self.queue_size,
            tx_len: self.packet_len().max(4096),
            rx_buffer_len: self.rx_buffer_len,
            ..Options::default()
        };
        if self.tcp {
            options.features |= GUEST_OFFLOADS | HOST_OFFLOADS;
        }
        options
    }

    /// Header and packet number `index` of station `from`, 0 or 1.
    fn packet(&self, from: u8, index: usize) -> (Vec<u8>, Vec<u8>) {
        let to = 1 - from;
        let builder = PacketBuilder::ethernet()
            .macs([2, 0, 0, 0, 0, to], [2, 0, 0, 0, 0, from])
            .ipv4([192, 0, 2, from], [192, 0, 2, to])
            .payload_len(self.payload_len);
        if !self.tcp {
            return (vec![0; 12], builder.udp(40_000, 9).build());
        }
        let seq = 1 + (index * self.payload_len) as u32;
        let builder = builder
            .tcp(40_000, 5001)
            .seq(seq)
            .timestamps(7, 8)
            .id(index as u16);
        if self.payload_len <= SEGMENT_LEN {
            return (vec![0; 12], builder.build());
        }
        (super_header(), builder.partial_checksum().build())
    }
}

/// `struct virtio_net_hdr_v1` of a TCP super-packet over IPv4.
fn super_header() -> Vec<u8> {
    let mut header = vec![0; 12];
    // NEEDS_CSUM, GSO_TCPV4.
    header[0] = 1;
    header[1] = 1;
    let words = [TCP_HEADERS_LEN, SEGMENT_LEN, 34, 16];
    for (bytes, word) in header[2..10].chunks_mut(2).zip(words) {
        bytes.copy_from_slice(&(word as u16).to_le_bytes());
    }
    header
}

/// A card and what it sends.
pub(crate) struct Card {
    pub(crate) net: VirtioNet,
    slots: Vec<Piece>,
    next: usize,
    held: usize,
    headers_len: usize,
    /// Payload sent and received so far, bytes.
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) received_packets: u64,
    payload_len: u64,
}

impl Card {
    pub(crate) fn new(front: FrontEnd, load: &Load, station: u8) -> Result<Self> {
        let mut net = VirtioNet::start(front, load.options())?;
        if load.tcp && net.features() & feature::GUEST_TSO4 == 0 && load.payload_len > SEGMENT_LEN {
            return Err("no TCP super-packets were negotiated".into());
        }
        let slots = (0..load.slots).map(|index| {
            let (header, packet) = load.packet(station, index);
            let bytes = [header, packet].concat();
            let memory = net.memory();
            let addr = memory.take(bytes.len(), 64);
            memory.write(addr, &bytes);
            Piece::readable(addr, bytes.len() as u32)
        });
        let slots = slots.collect();
        Ok(Self {
            net,
            slots,
            next: 0,
            held: 0,
            headers_len: load.headers_len(),
            sent: 0,
            received: 0,
            received_packets: 0,
            payload_len: load.payload_len as u64,
        })
    }

    /// Sends up to `count` packets. Returns how many.
    pub(crate) fn send(&mut self, count: usize) -> Result<usize> {
        let lane = self.net.lane(1);
        while lane.ring.poll()?.is_some() {
            self.held -= 1;
        }
        let room = self.slots.len().min(lane.ring.size().into()) - self.held;
        let count = count.min(room);
        for _ in 0..count {
            // There is room: as many packets as entries at most.
            let _ = lane.ring.add(&self.slots[self.next..=self.next], 0);
            self.next += 1;
            if self.next == self.slots.len() {
                self.next = 0;
            }
        }
        self.held += count;
        if count > 0 && lane.ring.publish() {
            lane.kick.signal()?;
        }
        self.sent += count as u64 * self.payload_len;
        Ok(count)
    }

    /// Takes what has come.
    pub(crate) fn receive(&mut self) -> Result<()> {
        let burst = self.net.recv_burst(0, 256)?;
        self.received_packets += burst.packets;
        self.received += burst.bytes - burst.packets * self.headers_len as u64;
        Ok(())
    }
}

/// What went from one card to the other in a run.
#[derive(Copy, Clone, Debug, Default)]
pub(crate) struct Run {
    /// Packets that arrived, as they were sent.
    pub(crate) packets: f64,
    /// Packets as they were received: fewer where the switch coalesced.
    pub(crate) received_packets: u64,
    pub(crate) payload: u64,
    pub(crate) lost: u64,
    pub(crate) seconds: f64,
}

/// Two cards and their load.
pub(crate) struct Pair {
    pub(crate) cards: [Card; 2],
    pub(crate) load: Load,
}

impl Pair {
    /// Both stations become known.
    pub(crate) fn greet(&mut self) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(20);
        let mut heard = [false; 2];
        while heard != [true; 2] {
            if Instant::now() > end {
                return Err(format!("nothing came: {heard:?}").into());
            }
            for from in 0..2 {
                self.cards[from].send(1)?;
                std::thread::sleep(Duration::from_millis(2));
                let to = &mut self.cards[1 - from];
                to.receive()?;
                heard[1 - from] = to.received > 0;
            }
        }
        std::thread::sleep(Duration::from_millis(5));
        self.cards.iter_mut().try_for_each(Card::receive)?;
        self.forget();
        Ok(())
    }

    /// Counts from zero.
    fn forget(&mut self) {
        for card in &mut self.cards {
            (card.sent, card.received, card.received_packets) = (0, 0, 0);
        }
    }

    fn directions(&self) -> usize {
        if self.load.tcp { 1 } else { 2 }
    }

    fn in_flight(&self, from: usize) -> u64 {
        self.cards[from]
            .sent
            .saturating_sub(self.cards[1 - from].received)
    }

    /// As fast as a window of packets goes round.
    pub(crate) fn saturate(&mut self, seconds: f64) -> Result<Run> {
        self.forget();
        let payload_len = self.load.payload_len as u64;
        let start = Instant::now();
        let mut lost = 0;
        let (mut moved, mut seen) = (start, 0);
        'all: loop {
            for _ in 0..16 {
                for from in 0..self.directions() {
                    let window = self.load.window - (self.in_flight(from) / payload_len) as usize;
                    if window > 0 {
                        self.cards[from].send(window.min(32))?;
                    }
                    self.cards[1 - from].receive()?;
                }
            }
            let now = Instant::now();
            let received = self.cards[0].received + self.cards[1].received;
            if received != seen {
                (seen, moved) = (received, now);
            } else if now - moved > Duration::from_millis(100) {
                // What is on its way will not come.
                for from in 0..self.directions() {
                    lost += self.in_flight(from) / payload_len;
                    self.cards[from].sent = self.cards[1 - from].received;
                }
                moved = now;
            }
            if (now - start).as_secs_f64() >= seconds {
                break 'all;
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        self.drain()?;
        self.result(seconds, lost)
    }

    /// Waits for what is on its way.
    fn drain(&mut self) -> Result<()> {
        let end = Instant::now() + Duration::from_millis(10);
        while (0..self.directions()).any(|from| self.in_flight(from) > 0) && Instant::now() < end {
            self.cards.iter_mut().try_for_each(Card::receive)?;
        }
        Ok(())
    }

    fn result(&self, seconds: f64, lost: u64) -> Result<Run> {
        let payload = self.cards.iter().map(|card| card.received).sum::<u64>();
        let each = self.load.payload_len as u64;
        let late = (0..self.directions()).map(|from| self.in_flight(from) / each);
        Ok(Run {
            packets: payload as f64 / each as f64,
            received_packets: self.cards.iter().map(|card| card.received_packets).sum(),
            payload,
            lost: lost + late.sum::<u64>(),
            seconds,
        })
    }

    /// So many packets a second each way, in bursts of `burst`.
    pub(crate) fn paced(&mut self, rate: f64, burst: usize, seconds: f64) -> Result<Run> {
        self.forget();
        let start = Instant::now();
        let mut due = [0_f64; 2];
        loop {
            let now = start.elapsed().as_secs_f64();
            if now >= seconds {
                break;
            }
            let directions = self.directions();
            for (from, due) in due.iter_mut().enumerate().take(directions) {
                let behind = now * rate - *due;
                if behind >= burst as f64 {
                    // What the ring has no room for is sent later.
                    *due += self.cards[from].send(burst)? as f64;
                }
                self.cards[1 - from].receive()?;
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        self.drain()?;
        let mut run = self.result(seconds, 0)?;
        // What was due and never sent counts too, but for what a pause of this thread delayed.
        for due in &due[..self.directions()] {
            run.lost += ((seconds * rate - due) as u64).saturating_sub(4 * burst as u64);
        }
        Ok(run)
    }

    /// How long packets take from a to b, each alone, ns. The receiver sleeps until it is called.
    pub(crate) fn ping(&mut self, count: usize) -> Result<Vec<u64>> {
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            // Nothing is there: the one before was taken.
            let _ = self.cards[1].net.lane(0).ring.enable_interrupts();
            let call = |card: &mut Card| card.net.lane(0).call.drain();
            call(&mut self.cards[1]);
            let start = Instant::now();
            self.cards[0].send(1)?;
            let came = self.cards[1]
                .net
                .lane(0)
                .call
                .wait(Duration::from_secs(1))?;
            let took = start.elapsed().as_nanos() as u64;
            if !came {
                return Err("a ping was lost".into());
            }
            self.cards[1].net.lane(0).ring.disable_interrupts();
            self.cards[1].receive()?;
            times.push(took);
            // Long enough for the switch to go to sleep again.
            let until = Instant::now() + Duration::from_micros(50);
            while Instant::now() < until {
                std::hint::spin_loop();
            }
        }
        Ok(times)
    }
}
