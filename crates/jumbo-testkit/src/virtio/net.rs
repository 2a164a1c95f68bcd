//! A network card as its driver sees it: queues, buffers and a back end behind a socket.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use super::buffer::{Buffers, Layout};
use super::event::{EventFd, wait_any};
use super::features::{feature, header_len, protocol};
use super::frontend::{FrontEnd, FrontEndError, Inflight};
use super::memory::GuestMemory;
use super::queue::{DeviceFault, DriverQueue, Indirect, Piece, QueueOptions, Used};

/// How long [`VirtioNet::send`] waits for the device to take older packets.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long after a used buffer its interrupt may come.
const GRACE: Duration = Duration::from_millis(200);
/// Device status: the driver is there and has chosen its features (virtio 1.3 section 2.1).
const FEATURES_OK: u8 = 1 | 2 | 8;
/// Device status: the driver is at work.
const DRIVER_OK: u8 = FEATURES_OK | 4;

/// Where the guest's memory lies.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum MemoryLayout {
    /// One region from guest address 0.
    One,
    /// So many regions, a memfd each, with holes of the same size between them; buffers and rings lie in all of them.
    Scattered(usize),
    /// The same in one memfd, so that mappings have offsets.
    OneFile(usize),
    /// One region, not at address 0, with fences around it ([`GuestMemory::fenced`]).
    Fenced,
}

/// What kind of card and driver.
///
/// The booleans and `indirect` are demands: without them in the back end's offer the start fails. `features` and
/// `protocol` are wishes.
#[derive(Clone, Debug)]
pub struct Options {
    /// Virtio features to take where they are offered (see [`feature`]); those of the rings are added by the fields below.
    pub features: u64,
    /// vhost-user protocol features to take where they are offered (see [`protocol`]).
    pub protocol: u64,
    /// Queue pairs.
    pub pairs: u16,
    /// Entries of each ring.
    pub queue_size: u16,
    /// VIRTIO_F_RING_PACKED.
    pub packed: bool,
    /// VIRTIO_NET_F_MRG_RXBUF.
    pub mergeable: bool,
    /// VIRTIO_F_EVENT_IDX.
    pub event_idx: bool,
    /// VIRTIO_F_IN_ORDER.
    pub in_order: bool,
    /// VIRTIO_F_INDIRECT_DESC, and for which chains.
    pub indirect: Indirect,
    /// Without VIRTIO_F_VERSION_1: 10-byte headers, unless `mergeable`.
    pub legacy: bool,
    /// Bytes of a receive buffer, header included. Without `mergeable` a packet must fit into one.
    pub rx_buffer_len: usize,
    /// How receive buffers are cut into descriptors.
    pub rx_layout: Layout,
    /// Longest packet that can be sent, without header.
    pub tx_len: usize,
    /// How sent packets are cut into descriptors.
    pub tx_layout: Layout,
    /// Where memory lies.
    pub memory: MemoryLayout,
    /// The MTU to tell the back end, where it takes one.
    pub mtu: Option<u16>,
    /// Receive buffers go back to the device as soon as they are read. Otherwise by [`VirtioNet::refill`], and none is
    /// there at the start.
    pub auto_refill: bool,
}

impl Default for Options {
    /// One pair of split rings of 256 entries, mergeable buffers of 2 KiB, a modern device, no offloads.
    fn default() -> Self {
        Self {
            features: feature::ANY_LAYOUT,
            protocol: protocol::MQ
                | protocol::REPLY_ACK
                | protocol::MTU
                | protocol::CONFIGURE_MEM_SLOTS
                | protocol::RESET_DEVICE
                | protocol::STATUS,
            pairs: 1,
            queue_size: 256,
            packed: false,
            mergeable: true,
            event_idx: false,
            in_order: false,
            indirect: Indirect::Never,
            legacy: false,
            rx_buffer_len: 2048,
            rx_layout: Layout::default(),
            tx_len: 65_550,
            tx_layout: Layout::default(),
            memory: MemoryLayout::One,
            mtu: None,
            auto_refill: true,
        }
    }
}

impl Options {
    /// Features the back end must offer, each with its name.
    fn demands(&self) -> impl Iterator<Item = (u64, &'static str)> {
        let indirect = self.indirect != Indirect::Never;
        [
            (self.packed, feature::RING_PACKED, "VIRTIO_F_RING_PACKED"),
            (self.mergeable, feature::MRG_RXBUF, "VIRTIO_NET_F_MRG_RXBUF"),
            (self.event_idx, feature::EVENT_IDX, "VIRTIO_F_EVENT_IDX"),
            (self.in_order, feature::IN_ORDER, "VIRTIO_F_IN_ORDER"),
            (indirect, feature::INDIRECT_DESC, "VIRTIO_F_INDIRECT_DESC"),
            (!self.legacy, feature::VERSION_1, "VIRTIO_F_VERSION_1"),
        ]
        .into_iter()
        .filter_map(|(wanted, bit, name)| wanted.then_some((bit, name)))
    }

    fn demanded(&self) -> u64 {
        self.demands().fold(0, |all, (bit, _)| all | bit)
    }

    fn queue(&self) -> QueueOptions {
        QueueOptions {
            size: self.queue_size,
            packed: self.packed,
            event_idx: self.event_idx,
            in_order: self.in_order,
            indirect: self.indirect,
            indirect_max: 64,
        }
    }

    /// Receive buffers of a queue: as many as its descriptors allow.
    fn rx_count(&self, header_len: usize) -> usize {
        let each = match self.indirect {
            Indirect::Never => self.rx_layout.count(header_len, self.rx_buffer_len),
            _ => 1,
        };
        usize::from(self.queue_size) / each
    }

    fn memory(&self, header_len: usize) -> io::Result<GuestMemory> {
        let count = usize::from(self.queue_size);
        let rx = Buffers::memory_len(self.rx_layout, header_len, self.rx_buffer_len, count);
        let tx = Buffers::memory_len(self.tx_layout, header_len, header_len + self.tx_len, count);
        // Rings take 26 bytes an entry, indirect tables 1 KiB.
        let ring = 2 * count as u64 * (26 + 1024) + 4096;
        let all = u64::from(self.pairs) * (rx + tx + ring);
        // The regions take turns, so that each may be left with a rest that fits nothing.
        let region =
            |parts: usize| (all / parts as u64 * 5 / 4 + (1 << 20)).next_multiple_of(2 << 20);
        let scattered = |parts: usize| -> Vec<(u64, u64)> {
            let len = region(parts);
            (0..parts as u64)
                .map(|part| (2 * part * len, len))
                .collect()
        };
        match self.memory {
            MemoryLayout::One => GuestMemory::new(&[(0, region(1))]),
            MemoryLayout::Scattered(parts) => GuestMemory::new(&scattered(parts)),
            MemoryLayout::OneFile(parts) => GuestMemory::in_one_file(&scattered(parts)),
            MemoryLayout::Fenced => GuestMemory::fenced(1 << 32, region(1)),
        }
    }
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum NetFault {
    /// On the socket.
    #[error(transparent)]
    FrontEnd(#[from] FrontEndError),
    /// On a ring.
    #[error("queue {queue}: {source}")]
    Device {
        /// Vring index: even for reception, odd for transmission.
        queue: usize,
        /// What the device did.
        source: DeviceFault,
    },
    /// A system call.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The device does not take what was sent.
    #[error("queue {queue}: nothing was used for {PATIENCE:?}, {held} buffers are with the device")]
    Stalled {
        /// Vring index.
        queue: usize,
        /// Buffers the device holds.
        held: u16,
    },
    /// A received packet breaks the rules of `struct virtio_net_hdr`.
    #[error("queue {queue}: {what}")]
    Packet {
        /// Vring index.
        queue: usize,
        /// What is wrong with it.
        what: String,
    },
}

type Result<T> = std::result::Result<T, NetFault>;

/// What the driver has done and seen.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets given to the device.
    pub tx_packets: u64,
    /// Their bytes, without headers.
    pub tx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Their bytes, without headers.
    pub rx_bytes: u64,
    /// Receive buffers they took.
    pub rx_buffers: u64,
    /// Kicks sent.
    pub kicks: u64,
    /// Interrupts received (eventfd counts).
    pub interrupts: u64,
    /// Waits that ended with packets on a ring but without an interrupt: must stay 0.
    pub missed_interrupts: u64,
}

/// A packet as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Queue pair.
    pub pair: usize,
    /// The header, as long as the features make it.
    pub header: Vec<u8>,
    /// The packet from its Ethernet header.
    pub packet: Vec<u8>,
    /// Buffers it took.
    pub buffers: u16,
}

/// What a burst was.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Burst {
    /// Packets.
    pub packets: u64,
    /// Their bytes, without headers.
    pub bytes: u64,
}

/// One vring with its doorbells and buffers.
#[derive(Debug)]
pub struct Lane {
    /// The ring.
    pub ring: DriverQueue,
    /// Rings at the device.
    pub kick: EventFd,
    /// Rings at the driver.
    pub call: EventFd,
    buffers: Buffers,
}

/// A network card's driver with its back end.
///
/// Vring 2n receives and 2n+1 sends for pair n, seen from the guest.
///
/// ```no_run
/// use std::time::Duration;
/// use jumbo_testkit::virtio::{Options, VirtioNet};
///
/// let mut net = VirtioNet::connect("/run/switch.sock", Options::default())?;
/// net.send(0, &[0; 12], b"a packet, from its Ethernet header")?;
/// let answer = net.recv(Duration::from_secs(5))?.expect("an answer");
/// assert_eq!(answer.header.len(), net.header_len());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct VirtioNet {
    front: Option<FrontEnd>,
    options: Options,
    features: u64,
    header_len: usize,
    memory: GuestMemory,
    lanes: Vec<Lane>,
    inflight: Option<Inflight>,
    counts: Counts,
    /// Chain being made.
    scratch: Vec<Piece>,
    /// Pair that is asked first at the next `recv`.
    turn: usize,
    /// Length of the packet all send buffers hold, for `send_burst`.
    prepared_len: usize,
}

impl VirtioNet {
    /// Connects to a back end that listens at `path` (waiting up to ten seconds for it) and starts.
    pub fn connect(path: impl AsRef<Path>, options: Options) -> Result<Self> {
        Self::start(FrontEnd::connect(path, PATIENCE)?, options)
    }

    /// Negotiates, makes the rings, hands them over and enables them.
    pub fn start(mut front: FrontEnd, options: Options) -> Result<Self> {
        let features = negotiate(&mut front, &options)?;
        let header_len = header_len(features);
        let mut memory = options.memory(header_len)?;
        let lanes = (0..2 * options.pairs)
            .map(|index| Lane::new(&mut memory, &options, header_len, index % 2 == 0))
            .collect::<io::Result<_>>()?;
        let mut net = Self {
            front: Some(front),
            options,
            features,
            header_len,
            memory,
            lanes,
            inflight: None,
            counts: Counts::default(),
            scratch: Vec::new(),
            turn: 0,
            prepared_len: 0,
        };
        net.share()?;
        let bases = net.fresh_bases();
        if net.options.auto_refill {
            net.fill();
        }
        net.start_rings(&bases)?;
        Ok(net)
    }

    /// What was negotiated.
    #[must_use]
    pub fn features(&self) -> u64 {
        self.features
    }

    /// Bytes of a header.
    #[must_use]
    pub fn header_len(&self) -> usize {
        self.header_len
    }

    /// The connection.
    ///
    /// # Panics
    ///
    /// Between [`disconnect`](Self::disconnect) and [`reconnect`](Self::reconnect).
    #[must_use]
    pub fn front(&self) -> &FrontEnd {
        self.front.as_ref().expect("connected")
    }

    /// The guest's memory.
    pub fn memory(&mut self) -> &mut GuestMemory {
        &mut self.memory
    }

    /// A vring: 2n receives, 2n+1 sends.
    pub fn lane(&mut self, vring: usize) -> &mut Lane {
        &mut self.lanes[vring]
    }

    /// What was done and seen so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The area of what is in flight, if it was negotiated.
    #[must_use]
    pub fn inflight(&self) -> Option<&Inflight> {
        self.inflight.as_ref()
    }

    fn fresh_bases(&self) -> Vec<u32> {
        self.lanes
            .iter()
            .map(|lane| lane.ring.resume_base())
            .collect()
    }

    /// Gives memory and the in-flight area to the back end.
    fn share(&mut self) -> Result<()> {
        let front = self.front.as_ref().expect("connected");
        if front.has(protocol::CONFIGURE_MEM_SLOTS) {
            for region in self.memory.regions() {
                front.add_region(region)?;
            }
        } else {
            front.set_mem_table(&self.memory)?;
        }
        if front.has(protocol::INFLIGHT_SHMFD) {
            if self.inflight.is_none() {
                let queues = self.lanes.len() as u16;
                self.inflight = Some(front.get_inflight(queues, self.options.queue_size)?);
            }
            front.set_inflight(self.inflight.as_ref().expect("just made"))?;
        }
        Ok(())
    }

    /// Hands over all rings, to go on at `bases` (one word for each vring), and enables them.
    pub fn start_rings(&mut self, bases: &[u32]) -> Result<()> {
        let front = self.front.as_ref().expect("connected");
        for (index, (lane, base)) in self.lanes.iter().zip(bases).enumerate() {
            let index = index as u32;
            front.set_vring_num(index, lane.ring.size().into())?;
            front.set_vring_base(index, *base)?;
            front.set_vring_addr(index, &self.memory, &lane.ring.addresses(), None)?;
            front.set_vring_call(index, Some(lane.call.as_fd()))?;
            front.set_vring_kick(index, Some(lane.kick.as_fd()))?;
        }
        self.enable(true)?;
        let front = self.front();
        if front.has(protocol::STATUS) {
            front.set_status(DRIVER_OK)?;
        }
        // A ring starts at its first kick, and may hold something already.
        for lane in &self.lanes {
            lane.kick.signal()?;
        }
        Ok(())
    }

    /// Disables and stops all rings. Returns where each stopped, for [`start_rings`](Self::start_rings).
    pub fn stop(&mut self) -> Result<Vec<u32>> {
        self.enable(false)?;
        let count = self.lanes.len() as u32;
        let bases = (0..count).map(|index| self.front().get_vring_base(index));
        Ok(bases.collect::<std::result::Result<_, _>>()?)
    }

    /// Enables or disables all rings; without protocol features they always are.
    pub fn enable(&self, on: bool) -> Result<()> {
        if self.features & feature::PROTOCOL_FEATURES != 0 {
            for index in 0..self.lanes.len() {
                self.front().set_vring_enable(index as u32, on)?;
            }
        }
        Ok(())
    }

    /// Hangs up; rings and buffers stay as they are.
    pub fn disconnect(&mut self) {
        self.front = None;
    }

    /// Ends the driver and keeps the connection, for another driver to begin anew on it.
    ///
    /// # Panics
    ///
    /// When disconnected.
    #[must_use]
    pub fn into_front(self) -> FrontEnd {
        self.front.expect("connected")
    }

    /// Goes on with another back end (or the same one, restarted) as QEMU does: a split ring at `used.idx`, a packed
    /// ring at the first descriptor that is not used, or as the in-flight area says.
    pub fn reconnect(&mut self, mut front: FrontEnd) -> Result<()> {
        let wanted = self.features;
        let features = negotiate(&mut front, &self.options)?;
        if features & wanted != wanted {
            return Err(FrontEndError::Missing("what it offered before").into());
        }
        self.front = Some(front);
        self.share()?;
        let bases = self.fresh_bases();
        self.start_rings(&bases)
    }

    /// Gives all free receive buffers to the device.
    fn fill(&mut self) {
        for pair in 0..usize::from(self.options.pairs) {
            let lane = &mut self.lanes[2 * pair];
            while lane.post() {}
            lane.ring.publish();
        }
    }

    /// Gives up to `count` receive buffers of `pair` to the device. Returns how many.
    pub fn refill(&mut self, pair: usize, count: usize) -> Result<usize> {
        let lane = &mut self.lanes[2 * pair];
        let given = (0..count).take_while(|_| lane.post()).count();
        self.show(2 * pair)?;
        Ok(given)
    }

    /// Publishes a vring and kicks if that is wanted.
    fn show(&mut self, vring: usize) -> Result<()> {
        let lane = &mut self.lanes[vring];
        if lane.ring.publish() {
            lane.kick.signal()?;
            self.counts.kicks += 1;
        }
        Ok(())
    }

    /// Takes back the send buffers the device is done with. Returns how many.
    pub fn reclaim(&mut self, pair: usize) -> Result<usize> {
        let queue = 2 * pair + 1;
        let lane = &mut self.lanes[queue];
        let mut count = 0;
        while let Some(used) = lane.poll(queue)? {
            lane.buffers.put(used.token);
            count += 1;
        }
        Ok(count)
    }

    /// Sends a packet if there is room now. Returns whether there was. The device is told at once.
    ///
    /// # Panics
    ///
    /// When it is longer than [`Options::tx_len`].
    pub fn try_send(&mut self, pair: usize, header: &[u8], packet: &[u8]) -> Result<bool> {
        let queued = self.queue_packet(pair, header, packet)?;
        self.show(2 * pair + 1)?;
        Ok(queued)
    }

    /// Puts a packet on the ring without telling the device: [`flush`](Self::flush) does. Returns whether there was room.
    pub fn queue_packet(&mut self, pair: usize, header: &[u8], packet: &[u8]) -> Result<bool> {
        self.reclaim(pair)?;
        let lane = &mut self.lanes[2 * pair + 1];
        let len = header.len() + packet.len();
        assert!(len <= lane.buffers.room, "a packet of {len} bytes");
        let Some(slot) = lane.buffers.take() else {
            return Ok(false);
        };
        lane.buffers.write(slot, header, packet);
        lane.buffers.pieces_to(slot, len, &mut self.scratch);
        if lane.ring.add(&self.scratch, slot).is_none() {
            lane.buffers.put(slot);
            return Ok(false);
        }
        self.counts.tx_packets += 1;
        self.counts.tx_bytes += packet.len() as u64;
        Ok(true)
    }

    /// Tells the device of what was queued.
    pub fn flush(&mut self, pair: usize) -> Result<()> {
        self.show(2 * pair + 1)
    }

    /// Sends a packet, waiting for room if need be.
    pub fn send(&mut self, pair: usize, header: &[u8], packet: &[u8]) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while !self.try_send(pair, header, packet)? {
            self.wait_used(2 * pair + 1, end)?;
        }
        Ok(())
    }

    /// Waits until the device has taken everything that was sent.
    pub fn wait_sent(&mut self, pair: usize) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            self.reclaim(pair)?;
            if self.lanes[2 * pair + 1].ring.held() == 0 {
                return Ok(());
            }
            self.wait_used(2 * pair + 1, end)?;
        }
    }

    fn wait_used(&mut self, queue: usize, end: Instant) -> Result<()> {
        if self.wait_for(&[queue], end)? {
            return Ok(());
        }
        let held = self.lanes[queue].ring.held();
        Err(NetFault::Stalled { queue, held })
    }

    /// Waits with interrupts on until one of `queues` has something used, or the time is over. Returns whether one has.
    fn wait_for(&mut self, queues: &[usize], end: Instant) -> Result<bool> {
        loop {
            let ready = self.await_call(queues, end)?;
            for &queue in queues {
                let lane = &mut self.lanes[queue];
                lane.ring.disable_interrupts();
                self.counts.interrupts += lane.call.drain();
            }
            // An interrupt left over from before is no used buffer, and no reason to give up.
            if ready || Instant::now() >= end {
                return Ok(ready);
            }
        }
    }

    fn await_call(&mut self, queues: &[usize], end: Instant) -> Result<bool> {
        let mut ready = false;
        for &queue in queues {
            ready |= self.lanes[queue].ring.enable_interrupts();
        }
        if ready {
            return Ok(true);
        }
        let lanes = queues.iter().map(|&queue| &self.lanes[queue]);
        let calls: Vec<BorrowedFd<'_>> = lanes.clone().map(|lane| lane.call.as_fd()).collect();
        let called = wait_any(&calls, end.saturating_duration_since(Instant::now()))?;
        let ready = lanes.clone().any(|lane| lane.ring.has_used());
        // The device may be between its two steps.
        let missed = ready && !called && !wait_any(&calls, GRACE)?;
        self.counts.missed_interrupts += u64::from(missed);
        Ok(ready)
    }

    /// Waits until a packet is there, or the time is over. Returns whether one is.
    pub fn wait(&mut self, timeout: Duration) -> Result<bool> {
        let queues: Vec<usize> = (0..self.lanes.len()).step_by(2).collect();
        self.wait_for(&queues, Instant::now() + timeout)
    }

    /// The next packet of any pair, waiting for it.
    pub fn recv(&mut self, timeout: Duration) -> Result<Option<Received>> {
        if let Some(received) = self.try_recv()? {
            return Ok(Some(received));
        }
        if self.wait(timeout)? {
            self.try_recv()
        } else {
            Ok(None)
        }
    }

    /// The next packet of any pair, if one is there.
    pub fn try_recv(&mut self) -> Result<Option<Received>> {
        let pairs = usize::from(self.options.pairs);
        for step in 0..pairs {
            let pair = (self.turn + step) % pairs;
            if let Some(received) = self.try_recv_on(pair)? {
                self.turn = (pair + 1) % pairs;
                return Ok(Some(received));
            }
        }
        Ok(None)
    }

    /// The next packet of one pair, if one is there.
    pub fn try_recv_on(&mut self, pair: usize) -> Result<Option<Received>> {
        let queue = 2 * pair;
        let Some(first) = self.lanes[queue].poll(queue)? else {
            return Ok(None);
        };
        let mut bytes = Vec::with_capacity(first.len as usize);
        self.take_in(queue, first, &mut bytes)?;
        let buffers = self.buffers_of(queue, &bytes)?;
        for index in 1..buffers {
            let more = self.lanes[queue].poll(queue)?;
            let Some(used) = more else {
                let what = format!("{index} of {buffers} buffers are used");
                return Err(NetFault::Packet { queue, what });
            };
            self.take_in(queue, used, &mut bytes)?;
        }
        if self.options.auto_refill {
            self.refill(pair, buffers.into())?;
        }
        let packet = bytes.split_off(self.header_len);
        self.counts.rx_packets += 1;
        self.counts.rx_bytes += packet.len() as u64;
        self.counts.rx_buffers += u64::from(buffers);
        Ok(Some(Received {
            pair,
            header: bytes,
            packet,
            buffers,
        }))
    }

    /// Copies a used receive buffer out and frees it. All before it must have been full.
    fn take_in(&mut self, queue: usize, used: Used, bytes: &mut Vec<u8>) -> Result<()> {
        let lane = &mut self.lanes[queue];
        let room = lane.buffers.room;
        let fault = |what: String| Err(NetFault::Packet { queue, what });
        if !bytes.len().is_multiple_of(room) {
            return fault(format!(
                "a buffer before the last is not full: {}",
                bytes.len()
            ));
        }
        if !lane.buffers.gaps_intact(used.token) {
            return fault("bytes beside the descriptors were written".into());
        }
        lane.buffers.read_to(used.token, used.len as usize, bytes);
        lane.buffers.put(used.token);
        Ok(())
    }

    /// `num_buffers`, checked.
    fn buffers_of(&self, queue: usize, bytes: &[u8]) -> Result<u16> {
        let fault = |what: String| Err(NetFault::Packet { queue, what });
        if bytes.len() < self.header_len {
            return fault(format!("{} bytes, less than a header", bytes.len()));
        }
        if self.header_len < 12 {
            return Ok(1);
        }
        let buffers = u16::from_le_bytes([bytes[10], bytes[11]]);
        if buffers == 0 || (buffers > 1 && !self.options.mergeable) {
            return fault(format!("num_buffers is {buffers}"));
        }
        Ok(buffers)
    }

    /// Writes one packet into every send buffer, for [`send_burst`](Self::send_burst). `send` may not be used after it.
    ///
    /// # Panics
    ///
    /// When packets are on their way.
    pub fn prepare(&mut self, pair: usize, header: &[u8], packet: &[u8]) -> Result<()> {
        self.reclaim(pair)?;
        let lane = &mut self.lanes[2 * pair + 1];
        assert_eq!(lane.ring.held(), 0, "the device holds packets");
        lane.buffers.shorten(header.len() + packet.len());
        for slot in 0..lane.buffers.count() {
            lane.buffers.write(slot, header, packet);
        }
        self.prepared_len = packet.len();
        Ok(())
    }

    /// Sends the prepared packet up to `count` times, as often as there is room. Copies and allocates nothing.
    pub fn send_burst(&mut self, pair: usize, count: usize) -> Result<usize> {
        self.reclaim(pair)?;
        let lane = &mut self.lanes[2 * pair + 1];
        let sent = (0..count).take_while(|_| lane.post()).count();
        self.show(2 * pair + 1)?;
        self.counts.tx_packets += sent as u64;
        self.counts.tx_bytes += (sent * self.prepared_len) as u64;
        Ok(sent)
    }

    /// Counts up to `limit` used receive buffers and gives them back. Copies and allocates nothing; no checks but the
    /// ring's own.
    pub fn recv_burst(&mut self, pair: usize, limit: usize) -> Result<Burst> {
        let queue = 2 * pair;
        let header_len = self.header_len as u64;
        let mergeable = self.options.mergeable;
        let lane = &mut self.lanes[queue];
        let (mut burst, mut taken, mut open) = (Burst::default(), 0, 0);
        while taken < limit || open > 0 {
            let Some(used) = lane.poll(queue)? else { break };
            taken += 1;
            burst.bytes += u64::from(used.len);
            if open == 0 {
                burst.packets += 1;
                burst.bytes = burst.bytes.saturating_sub(header_len);
                open = if mergeable {
                    lane.buffers.num_buffers(used.token)
                } else {
                    1
                };
            }
            open = open.saturating_sub(1);
            lane.buffers.put(used.token);
            lane.post();
        }
        self.show(queue)?;
        self.counts.rx_packets += burst.packets;
        self.counts.rx_bytes += burst.bytes;
        self.counts.rx_buffers += taken as u64;
        Ok(burst)
    }
}

impl Lane {
    fn new(
        memory: &mut GuestMemory,
        options: &Options,
        header_len: usize,
        receives: bool,
    ) -> io::Result<Self> {
        let mut ring = DriverQueue::new(memory, &options.queue());
        ring.disable_interrupts();
        let size = usize::from(options.queue_size);
        let (layout, room, count) = if receives {
            let count = options.rx_count(header_len);
            (options.rx_layout, options.rx_buffer_len, count)
        } else {
            (options.tx_layout, header_len + options.tx_len, size)
        };
        Ok(Self {
            ring,
            kick: EventFd::new()?,
            call: EventFd::new()?,
            buffers: Buffers::new(memory, layout, [header_len, room, count], receives),
        })
    }

    /// Puts a free buffer on the ring, whole. Returns whether there was one, and room.
    fn post(&mut self) -> bool {
        let Some(slot) = self.buffers.take() else {
            return false;
        };
        if self.ring.add(self.buffers.whole(slot), slot).is_none() {
            self.buffers.put(slot);
            return false;
        }
        true
    }

    fn poll(&mut self, queue: usize) -> Result<Option<Used>> {
        self.ring
            .poll()
            .map_err(|source| NetFault::Device { queue, source })
    }
}

/// Everything up to FEATURES_OK. Returns the features.
fn negotiate(front: &mut FrontEnd, options: &Options) -> Result<u64> {
    let offered = front.features()?;
    if let Some((_, name)) = options.demands().find(|(bit, _)| offered & bit == 0) {
        return Err(FrontEndError::Missing(name).into());
    }
    let several = if options.pairs > 1 { feature::MQ } else { 0 };
    let wished = options.features | options.demanded() | several;
    let features = offered & (wished | feature::PROTOCOL_FEATURES);
    if offered & feature::PROTOCOL_FEATURES != 0 {
        let protocol = front.protocol_features()? & options.protocol;
        front.set_protocol_features(protocol)?;
    }
    front.set_owner()?;
    if options.pairs > 1 && !front.has(protocol::MQ) {
        return Err(FrontEndError::Missing("VHOST_USER_PROTOCOL_F_MQ").into());
    }
    if front.has(protocol::MQ) && front.queue_num()? < options.pairs.into() {
        return Err(FrontEndError::Missing("as many queue pairs").into());
    }
    if let Some(mtu) = options.mtu.filter(|_| front.has(protocol::MTU)) {
        front.set_mtu(mtu)?;
    }
    front.set_features(features)?;
    if front.has(protocol::STATUS) {
        front.set_status(FEATURES_OK)?;
    }
    Ok(features)
}
