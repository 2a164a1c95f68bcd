//! A vhost-user back end that returns every packet on the pair it came from: enough of the protocol to test the driver.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};

use rustix::event::{PollFd, PollFlags, poll};

use super::event::EventFd;
use super::features::{feature, header_len, protocol};
use super::memory::{GuestMemory, SharedFile};
use super::message::{self, Message, NEED_REPLY, NO_FD, REPLY, VERSION, request};
use super::queue::{QueueOptions, RingAddresses};
use super::textbook::{DeviceChain, DeviceQueue};

/// What the back end offers and how it behaves.
#[derive(Clone, Debug)]
pub struct LoopbackOptions {
    /// Offered features; PROTOCOL_FEATURES among them or not.
    pub features: u64,
    /// Offered protocol features.
    pub protocol: u64,
    /// Queue pairs.
    pub pairs: u16,
    /// It hangs up after so many packets, in the middle of its work; 0 for never.
    pub hang_up_after: u64,
}

impl Default for LoopbackOptions {
    /// Everything.
    fn default() -> Self {
        Self {
            features: !0,
            protocol: !0,
            pairs: 8,
            hang_up_after: 0,
        }
    }
}

/// What a back end has seen when its connection ended.
#[derive(Clone, Debug, Default)]
pub struct LoopbackReport {
    /// Negotiated features.
    pub features: u64,
    /// Packets taken from the guest.
    pub packets: u64,
    /// The requests, in order.
    pub requests: Vec<u32>,
    /// The last MTU it was told.
    pub mtu: u64,
}

/// A running back end.
#[derive(Debug)]
pub struct Loopback(JoinHandle<io::Result<LoopbackReport>>);

impl Loopback {
    /// Serves one connection on a thread of its own.
    #[must_use]
    pub fn serve(socket: UnixStream, options: LoopbackOptions) -> Self {
        Self(thread::spawn(move || {
            let mut session = Session::new(socket, options);
            match session.run() {
                Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(error),
                _ => Ok(session.report),
            }
        }))
    }

    /// Waits until the connection has ended.
    ///
    /// # Panics
    ///
    /// When the back end did: the driver broke a rule.
    pub fn join(self) -> io::Result<LoopbackReport> {
        self.0.join().expect("the back end runs to its end")
    }
}

#[derive(Debug, Default)]
struct Vring {
    size: u16,
    base: u32,
    addresses: Option<RingAddresses>,
    kick: Option<EventFd>,
    call: Option<EventFd>,
    enabled: bool,
    queue: Option<DeviceQueue>,
}

struct Session {
    socket: UnixStream,
    options: LoopbackOptions,
    report: LoopbackReport,
    protocol: u64,
    /// (guest address, length, offset in the file, user address) of each region, with its file.
    regions: Vec<([u64; 4], OwnedFd)>,
    vrings: Vec<Vring>,
    /// Packets for which no receive buffer was there, by pair.
    waiting: Vec<VecDeque<Vec<u8>>>,
    status: u64,
}

/// Place of `mtu` in `struct virtio_net_config` (virtio 1.3 section 5.1.4).
const MTU_OFFSET: usize = 10;

impl Session {
    fn new(socket: UnixStream, options: LoopbackOptions) -> Self {
        let pairs = usize::from(options.pairs);
        Self {
            socket,
            report: LoopbackReport::default(),
            protocol: 0,
            regions: Vec::new(),
            vrings: (0..2 * pairs).map(|_| Vring::default()).collect(),
            waiting: vec![VecDeque::new(); pairs],
            status: 0,
            options,
        }
    }

    fn run(&mut self) -> io::Result<()> {
        loop {
            let ready = self.wait()?;
            if ready[0] {
                let message = message::receive(&self.socket)?;
                self.answer(message)?;
            }
            for (index, _) in ready[1..].iter().enumerate().filter(|(_, ready)| **ready) {
                if let Some(kick) = &self.vrings[index].kick {
                    kick.drain();
                }
                self.work(index)?;
            }
        }
    }

    /// Whether the socket, and each vring's kick, can be read.
    fn wait(&self) -> io::Result<Vec<bool>> {
        let socket = PollFd::new(&self.socket, PollFlags::IN);
        let mut fds = vec![socket];
        let mut places = vec![0];
        for (index, vring) in self.vrings.iter().enumerate() {
            if let Some(kick) = &vring.kick {
                fds.push(PollFd::from_borrowed_fd(kick.as_fd(), PollFlags::IN));
                places.push(index + 1);
            }
        }
        poll(&mut fds, None)?;
        let mut ready = vec![false; 1 + self.vrings.len()];
        for (place, fd) in places.iter().zip(&fds) {
            ready[*place] = !fd.revents().is_empty();
        }
        Ok(ready)
    }

    fn reply(&self, request: u32, payload: &[u8], fd: Option<&SharedFile>) -> io::Result<()> {
        let fds = fd.map(AsFd::as_fd);
        let head = [request, VERSION | REPLY, payload.len() as u32];
        message::send(&self.socket, head, payload, fds.as_slice())
    }

    fn answer(&mut self, mut message: Message) -> io::Result<()> {
        self.report.requests.push(message.request);
        if let Some(payload) = self.asked(&message)? {
            return self.reply(message.request, &payload, None);
        }
        if message.request == request::GET_INFLIGHT_FD {
            return self.inflight(&message);
        }
        self.told(&mut message)?;
        if message.flags & NEED_REPLY != 0 && self.protocol & protocol::REPLY_ACK != 0 {
            self.reply(message.request, &0_u64.to_ne_bytes(), None)?;
        }
        Ok(())
    }

    /// The reply to a request that always has one.
    fn asked(&mut self, message: &Message) -> io::Result<Option<Vec<u8>>> {
        let number = match message.request {
            request::GET_FEATURES => self.options.features,
            request::GET_PROTOCOL_FEATURES => self.options.protocol,
            request::GET_QUEUE_NUM => self.options.pairs.into(),
            request::GET_MAX_MEM_SLOTS => 32,
            request::GET_STATUS => self.status,
            request::SET_LOG_BASE => 0,
            request::GET_VRING_BASE => {
                let vring = self.vring(message)?;
                let base = vring.queue.take().map_or(vring.base, |queue| queue.base());
                vring.kick = None;
                let index = message.u32(0).unwrap_or(0);
                return Ok(Some([index.to_ne_bytes(), base.to_ne_bytes()].concat()));
            }
            request::GET_CONFIG => {
                let mut payload = message.payload.clone();
                if let Some(mtu) = payload.get_mut(12 + MTU_OFFSET..12 + MTU_OFFSET + 2) {
                    mtu.copy_from_slice(&(self.report.mtu as u16).to_le_bytes());
                }
                return Ok(Some(payload));
            }
            _ => return Ok(None),
        };
        Ok(Some(number.to_ne_bytes().to_vec()))
    }

    /// An area nothing is written to: enough to see it travel.
    fn inflight(&self, message: &Message) -> io::Result<()> {
        let len = 4096_u64;
        let file = SharedFile::new(len as usize)?;
        let mut payload = message.payload.clone();
        payload[..8].copy_from_slice(&len.to_ne_bytes());
        self.reply(message.request, &payload, Some(&file))
    }

    fn vring(&mut self, message: &Message) -> io::Result<&mut Vring> {
        let index = message.u32(0).unwrap_or(u32::MAX) & 0xFF;
        let vring = self.vrings.get_mut(index as usize);
        vring.ok_or_else(|| io::Error::other(format!("vring {index}")))
    }

    fn told(&mut self, message: &mut Message) -> io::Result<()> {
        let number = message.u64(0).unwrap_or(0);
        let second = message.u32(4).unwrap_or(0);
        match message.request {
            request::SET_FEATURES => self.report.features = number,
            request::SET_PROTOCOL_FEATURES => self.protocol = number,
            request::NET_SET_MTU => self.report.mtu = number,
            request::SET_STATUS => self.status = number,
            request::RESET_DEVICE => self.vrings.iter_mut().for_each(|vring| vring.queue = None),
            request::SET_MEM_TABLE => self.set_mem_table(message)?,
            request::ADD_MEM_REG => {
                let fd = message.fds.pop().ok_or(io::ErrorKind::InvalidData)?;
                self.add_region(message, 8, fd)?;
            }
            request::REM_MEM_REG => {
                let guest = message.u64(8);
                self.regions.retain(|([at, ..], _)| Some(*at) != guest);
            }
            request::SET_VRING_NUM => self.vring(message)?.size = second as u16,
            request::SET_VRING_BASE => self.vring(message)?.base = second,
            request::SET_VRING_ENABLE => self.vring(message)?.enabled = second != 0,
            request::SET_VRING_ADDR => self.set_vring_addr(message)?,
            request::SET_VRING_KICK => self.set_kick(message, number)?,
            request::SET_VRING_CALL => {
                let fd = message.fds.pop().map(EventFd::from_fd);
                self.vring(message)?.call = fd;
            }
            _ => {}
        }
        Ok(())
    }

    fn add_region(&mut self, message: &Message, at: usize, fd: OwnedFd) -> io::Result<()> {
        let word = |index: usize| message.u64(at + 8 * index);
        let (Some(guest), Some(len), Some(user), Some(offset)) =
            (word(0), word(1), word(2), word(3))
        else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        self.regions.push(([guest, len, offset, user], fd));
        Ok(())
    }

    fn set_mem_table(&mut self, message: &mut Message) -> io::Result<()> {
        self.regions.clear();
        for (index, fd) in std::mem::take(&mut message.fds).into_iter().enumerate() {
            self.add_region(message, 8 + 32 * index, fd)?;
        }
        Ok(())
    }

    fn set_vring_addr(&mut self, message: &Message) -> io::Result<()> {
        let guest = |at: usize| {
            let user = message.u64(at)?;
            self.regions.iter().find_map(|([guest, len, _, base], _)| {
                let offset = user.checked_sub(*base)?;
                (offset < *len).then_some(guest + offset)
            })
        };
        let (Some(descriptors), Some(device), Some(driver)) = (guest(8), guest(16), guest(24))
        else {
            return Err(io::Error::other("a ring outside of memory"));
        };
        self.vring(message)?.addresses = Some(RingAddresses {
            descriptors,
            driver,
            device,
        });
        Ok(())
    }

    /// The last thing a ring needs: it is attached here.
    fn set_kick(&mut self, message: &mut Message, word: u64) -> io::Result<()> {
        let has = |bit| self.report.features & bit != 0;
        let fd = message.fds.pop().filter(|_| word & NO_FD == 0);
        let (packed, always_on) = (has(feature::RING_PACKED), !has(feature::PROTOCOL_FEATURES));
        let mut options = QueueOptions::split(0);
        options.packed = packed;
        options.event_idx = has(feature::EVENT_IDX);
        options.in_order = has(feature::IN_ORDER);
        let regions = self.regions.iter().map(|([guest, len, offset, _], file)| {
            Ok(([*guest, *len, *offset], file.try_clone()?))
        });
        let memory = GuestMemory::received(regions.collect::<io::Result<_>>()?)?;
        let vring = self.vring(message)?;
        options.size = vring.size;
        let addresses = vring.addresses.ok_or(io::ErrorKind::InvalidData)?;
        vring.queue = Some(DeviceQueue::new(&memory, &addresses, &options, vring.base));
        vring.kick = fd.map(EventFd::from_fd);
        vring.enabled |= always_on;
        Ok(())
    }

    /// Serves a vring that was kicked.
    fn work(&mut self, index: usize) -> io::Result<()> {
        let pair = index / 2;
        loop {
            match &mut self.vrings[index].queue {
                Some(queue) => queue.disable_kicks(),
                None => return Ok(()),
            }
            if index % 2 == 1 {
                self.take(pair)?;
            }
            self.deliver(pair)?;
            let Some(queue) = &mut self.vrings[index].queue else {
                return Ok(());
            };
            let idle = index.is_multiple_of(2) && self.waiting[pair].is_empty();
            if !queue.enable_kicks() || idle {
                return Ok(());
            }
        }
    }

    fn interrupt(vring: &mut Vring) -> io::Result<()> {
        let wanted = vring
            .queue
            .as_mut()
            .is_some_and(DeviceQueue::interrupt_wanted);
        match &vring.call {
            Some(call) if wanted => call.signal(),
            _ => Ok(()),
        }
    }

    /// Takes what the guest has sent. Without IN_ORDER the last comes back first.
    fn take(&mut self, pair: usize) -> io::Result<()> {
        let header_len = header_len(self.report.features);
        let in_order = self.report.features & feature::IN_ORDER != 0;
        let vring = &mut self.vrings[2 * pair + 1];
        let Some(queue) = &mut vring.queue else {
            return Ok(());
        };
        let mut done = Vec::new();
        while let Some(chain) = queue.pop() {
            assert!(chain.writable.is_empty(), "a packet to write to");
            let bytes = queue.read(&chain);
            assert!(bytes.len() >= header_len, "a packet without header");
            done.push((chain.id, 0));
            if vring.enabled {
                self.waiting[pair].push_back(bytes);
            }
            self.report.packets += 1;
            if self.report.packets == self.options.hang_up_after {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        if !in_order {
            done.reverse();
        }
        queue.push(&done);
        Self::interrupt(vring)
    }

    /// Gives the guest what waits for it.
    fn deliver(&mut self, pair: usize) -> io::Result<()> {
        let header_len = header_len(self.report.features);
        let vring = &mut self.vrings[2 * pair];
        if !vring.enabled {
            return Ok(());
        }
        let Some(queue) = &mut vring.queue else {
            return Ok(());
        };
        let mut used = Vec::new();
        while let Some(bytes) = self.waiting[pair].front() {
            if !receive(queue, bytes, header_len, &mut used) {
                break;
            }
            self.waiting[pair].pop_front();
        }
        for packet in used {
            queue.push(&packet);
        }
        Self::interrupt(vring)
    }
}

/// Writes one packet into as many buffers as it needs. Returns whether there were any.
fn receive(
    queue: &mut DeviceQueue,
    bytes: &[u8],
    header_len: usize,
    used: &mut Vec<Vec<(u16, u32)>>,
) -> bool {
    let Some(first) = queue.pop() else {
        return false;
    };
    let mut bytes = bytes.to_vec();
    let mut chains = vec![first];
    let room = |chain: &DeviceChain| -> usize {
        chain.writable.iter().map(|piece| piece.len as usize).sum()
    };
    while chains.iter().map(room).sum::<usize>() < bytes.len() {
        // The driver always has buffers for the longest packet: the tests see to that.
        chains.push(queue.pop().expect("buffers for one packet"));
    }
    if header_len >= 12 {
        bytes[10..12].copy_from_slice(&(chains.len() as u16).to_le_bytes());
    }
    let mut done = 0;
    let packet = chains.iter().map(|chain| {
        let len = queue.write(chain, &bytes[done..]);
        done += len;
        (chain.id, len as u32)
    });
    used.push(packet.collect());
    true
}
