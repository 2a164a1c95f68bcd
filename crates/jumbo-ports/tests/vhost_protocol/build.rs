//! Messages, files, and a data path that writes down what it is asked.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use jumbo_ports::vhost::feature::{self, protocol};
use jumbo_ports::vhost::session::Handled;
use jumbo_ports::vhost::{
    DataPath, Device, Message, Offer, Position, Request, ResumeError, Session, VhostError,
};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::MemfdFlags;

/// VIRTIO_NET_F_MTU, MQ, VIRTIO_F_VERSION_1 and a few of the lower ones.
pub(crate) const NET: u64 = 1 << 3 | 1 << 22 | 1 << 32 | 0x7;
/// Guest memory of these tests: 1 MiB.
pub(crate) const MEMORY_LEN: u64 = 1 << 20;
pub(crate) const GUEST: u64 = 0x4000_0000;
pub(crate) const USER: u64 = 0x7F00_0000_0000;
pub(crate) const RING_SIZE: u32 = 256;

pub(crate) fn offer(queue_pairs: u16) -> Offer {
    Offer {
        features: NET | feature::RING_PACKED | feature::LOG_ALL,
        protocol_features: protocol::ALL,
        queue_pairs,
        mtu: 9000,
        mac: [2, 0, 0, 0, 0, 9],
    }
}

pub(crate) fn event() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC).expect("an eventfd")
}

pub(crate) fn memory() -> OwnedFd {
    rustix::fs::memfd_create("guest", MemfdFlags::CLOEXEC).expect("a memfd")
}

pub(crate) fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

pub(crate) fn pair(first: u32, second: u32) -> Vec<u8> {
    [first, second].map(u32::to_ne_bytes).concat()
}

/// Each ring has 32 KiB of memory.
pub(crate) fn addresses(ring: u32, flags: u32) -> Vec<u8> {
    let at = USER + u64::from(ring) * 0x8000;
    let used_log = GUEST + u64::from(ring) * 0x8000 + 0x4000;
    [
        pair(ring, flags),
        words(&[at, at + 0x4000, at + 0x2000, used_log]),
    ]
    .concat()
}

/// Address, size, user address and offset of one region.
pub(crate) type Numbers = [u64; 4];

pub(crate) const REGION: Numbers = [GUEST, MEMORY_LEN, USER, 0];

pub(crate) fn single(region: Numbers) -> Vec<u8> {
    [words(&[0]), words(&region)].concat()
}

pub(crate) fn table(regions: &[Numbers]) -> Vec<u8> {
    let count = regions.len() as u32;
    [pair(count, 0), words(&regions.concat())].concat()
}

/// What a data path was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Quiesce,
    Resume(Vec<usize>),
    Announce([u8; 6]),
}

#[derive(Debug, Default)]
pub(crate) struct Recorder {
    pub(crate) calls: Vec<Call>,
    pub(crate) running: Vec<usize>,
    /// Where rings are found at the next stop.
    pub(crate) positions: BTreeMap<usize, Position>,
    /// Where rings stood at the last start.
    pub(crate) started_at: BTreeMap<usize, Position>,
    pub(crate) refuses: bool,
}

impl DataPath for Recorder {
    fn quiesce(&mut self) -> Vec<(usize, Position)> {
        assert!(!self.running.is_empty(), "nothing runs");
        self.calls.push(Call::Quiesce);
        let stand = |index: usize| (index, self.positions.get(&index).copied());
        let running = std::mem::take(&mut self.running);
        running
            .into_iter()
            .map(stand)
            .map(|(index, at)| (index, at.unwrap_or(self.started_at[&index])))
            .collect()
    }

    fn resume(&mut self, device: &Device) -> Result<(), ResumeError> {
        assert!(self.running.is_empty(), "it runs already");
        let live: Vec<usize> = device.live().map(|(index, _)| index).collect();
        self.started_at = device
            .live()
            .map(|(index, ring)| (index, ring.position))
            .collect();
        self.calls.push(Call::Resume(live.clone()));
        if self.refuses {
            return Err(ResumeError::Other("no memory left".to_owned()));
        }
        self.running = live;
        Ok(())
    }

    fn announce(&mut self, mac: [u8; 6]) {
        self.calls.push(Call::Announce(mac));
    }
}

/// A front end, a session and a recorder.
pub(crate) struct Bench {
    pub(crate) session: Session,
    pub(crate) path: Recorder,
    pub(crate) need_reply: bool,
    pub(crate) memory: OwnedFd,
}

impl Bench {
    pub(crate) fn new(queue_pairs: u16) -> Self {
        Self::with(offer(queue_pairs))
    }

    pub(crate) fn with(offer: Offer) -> Self {
        Self {
            session: Session::new(offer),
            path: Recorder::default(),
            need_reply: false,
            memory: memory(),
        }
    }

    pub(crate) fn try_send(
        &mut self,
        request: Request,
        payload: Vec<u8>,
        fds: Vec<OwnedFd>,
    ) -> Result<Handled, VhostError> {
        let message = Message {
            request,
            need_reply: self.need_reply,
            payload,
            fds,
        };
        self.session.handle(message, &mut self.path)
    }

    pub(crate) fn send(
        &mut self,
        request: Request,
        payload: Vec<u8>,
        fds: Vec<OwnedFd>,
    ) -> Handled {
        self.try_send(request, payload, fds)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// A request that wants nothing back.
    pub(crate) fn tell(&mut self, request: Request, payload: Vec<u8>, fds: Vec<OwnedFd>) {
        let handled = self.send(request, payload, fds);
        assert!(
            handled.reply.is_none() && handled.refusal.is_none(),
            "{request}"
        );
    }

    /// A request whose payload comes back changed.
    pub(crate) fn ask(&mut self, request: Request, payload: Vec<u8>) -> Vec<u8> {
        self.send(request, payload, vec![])
            .reply
            .expect("a reply")
            .payload
    }

    pub(crate) fn ask_u64(&mut self, request: Request) -> u64 {
        let payload = self.ask(request, vec![]);
        u64::from_ne_bytes(payload.try_into().expect("an u64"))
    }

    pub(crate) fn set(&mut self, request: Request, value: u64) {
        self.tell(request, words(&[value]), vec![]);
    }

    pub(crate) fn state(&mut self, request: Request, ring: u32, num: u32) {
        self.tell(request, pair(ring, num), vec![]);
    }

    pub(crate) fn event(&mut self, request: Request, ring: u32) {
        self.tell(request, words(&[ring.into()]), vec![event()]);
    }

    /// Acknowledged with zero.
    pub(crate) fn acknowledged(&mut self, request: Request, payload: Vec<u8>, fds: Vec<OwnedFd>) {
        self.need_reply = true;
        let handled = self.send(request, payload, fds);
        self.need_reply = false;
        let reply = handled.reply.expect("an acknowledgement");
        assert_eq!((reply.request, reply.payload), (request, words(&[0])));
        assert_eq!(handled.refusal, None);
    }

    pub(crate) fn base(&mut self, ring: u32) -> u32 {
        let payload = self.ask(Request::GetVringBase, pair(ring, 0));
        let [index, num] = [0, 4]
            .map(|at| u32::from_ne_bytes(payload[at..at + 4].try_into().expect("four bytes")));
        assert_eq!(index, ring);
        num
    }

    pub(crate) fn memory(&self) -> OwnedFd {
        self.memory.try_clone().expect("a descriptor")
    }

    /// NUM, BASE, ADDR, KICK, CALL.
    pub(crate) fn set_up(&mut self, ring: u32, base: u32) {
        self.state(Request::SetVringNum, ring, RING_SIZE);
        self.state(Request::SetVringBase, ring, base);
        self.tell(Request::SetVringAddr, addresses(ring, 0), vec![]);
        self.event(Request::SetVringKick, ring);
        self.event(Request::SetVringCall, ring);
    }

    /// All protocol features, `features`, memory, and `rings` that run.
    pub(crate) fn run(&mut self, features: u64, rings: &[u32]) {
        self.set(Request::SetProtocolFeatures, protocol::ALL);
        self.set(Request::SetFeatures, features | feature::PROTOCOL_FEATURES);
        self.tell(Request::AddMemReg, single(REGION), vec![self.memory()]);
        let base = match features & feature::RING_PACKED {
            0 => 0,
            _ => 0x8000_8000,
        };
        for &ring in rings {
            self.set_up(ring, base);
            self.state(Request::SetVringEnable, ring, 1);
        }
        let rings: Vec<usize> = rings.iter().map(|&ring| ring as usize).collect();
        assert_eq!(self.path.running, rings);
        self.path.calls.clear();
    }

    /// What was asked since the last time.
    pub(crate) fn calls(&mut self) -> Vec<Call> {
        std::mem::take(&mut self.path.calls)
    }
}
