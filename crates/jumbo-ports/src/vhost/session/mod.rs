//! One connection's state: messages in, replies and calls to the data path out. No sockets here.
//!
//! Whatever running rings depend on changes only between [`DataPath::quiesce`] and [`DataPath::resume`]. What a front
//! end repeats unchanged changes nothing: QEMU sends features and memory once per queue pair.

mod gate;
mod memory;
mod rings;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::feature::protocol;
use super::inflight;
use super::message::{
    CONFIG_FLAG_MIGRATION, CONFIG_HEAD_LEN, ConfigHead, Fields, InflightArea, Message, Reply,
    Request,
};
use super::offer::{CONFIG_LEN, Offer, set_config_mtu};
use super::{
    DataPath, Device, InflightSpec, LogSpec, RING_SIZE_MAX, Refusal, RingState, VhostError, feature,
};

/// The smallest MTU of a device (virtio 1.3 section 5.1.4.1).
const MTU_MIN: u64 = 68;

/// What came of a message.
#[derive(Debug, Default)]
pub struct Handled {
    /// To be sent.
    pub reply: Option<Reply>,
    /// What was denied; part of the reply already.
    pub refusal: Option<Refusal>,
}

/// What a request's method answers.
enum Answer {
    Done,
    Refused(Refusal),
    Reply(Vec<u8>, Option<OwnedFd>),
}

impl Answer {
    fn u64(value: u64) -> Self {
        Self::Reply(value.to_ne_bytes().to_vec(), None)
    }
}

/// What a change touches.
#[derive(Copy, Clone)]
enum Touches {
    Ring(usize),
    All,
}

/// The back end's side of one connection.
#[derive(Debug)]
pub struct Session {
    offer: Offer,
    device: Device,
    /// Rings the data path has, in order.
    running: Vec<usize>,
    /// They were taken from it, and it does not know yet whether they come back.
    is_paused: bool,
    /// What SET_VRING_BASE said; how it is read depends on a feature.
    bases: Vec<Option<u32>>,
    /// Whether positions are those of packed rings. A reset takes the feature back, and QEMU 7.2 resets (status 0)
    /// before it asks where rings stood.
    has_packed_positions: bool,
    config: [u8; CONFIG_LEN],
    /// Never written to. Were it closed, QEMU would report a lost channel.
    backend_req: Option<OwnedFd>,
}

impl Session {
    /// A front end that has said nothing yet.
    pub fn new(offer: Offer) -> Self {
        let offer = offer.checked();
        let rings = offer.rings();
        let device = Device {
            rings: std::iter::repeat_with(RingState::default)
                .take(rings)
                .collect(),
            ..Device::default()
        };
        Self {
            config: offer.config(),
            device,
            running: Vec::new(),
            is_paused: false,
            bases: vec![None; rings],
            has_packed_positions: false,
            backend_req: None,
            offer,
        }
    }

    /// What the front end has said.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The features that are offered.
    pub fn offered(&self) -> u64 {
        self.offer.features
    }

    /// Whether the data path has rings.
    pub fn is_running(&self) -> bool {
        !self.running.is_empty()
    }

    /// Whether the front end handed over the channel for requests of the back end (SET_BACKEND_REQ_FD).
    pub fn has_backend_channel(&self) -> bool {
        self.backend_req.is_some()
    }

    /// Does what a message says.
    ///
    /// # Errors
    /// The connection is to be ended: [`failure_reply`](Self::failure_reply), then [`close`](Self::close).
    pub fn handle(
        &mut self,
        message: Message,
        data_path: &mut impl DataPath,
    ) -> Result<Handled, VhostError> {
        let (request, need_reply) = (message.request, message.need_reply);
        self.admit(&message)?;
        let answer = self.dispatch(message, data_path);
        self.rest(data_path);
        let (reply, refusal) = match answer? {
            Answer::Reply(payload, fd) => {
                let reply = Reply {
                    request,
                    payload,
                    fd,
                };
                (Some(reply), None)
            }
            Answer::Done => (self.acknowledgement(request, need_reply, 0), None),
            Answer::Refused(refusal) => {
                let reply = self.acknowledgement(request, need_reply, 1);
                (reply, Some(refusal))
            }
        };
        Ok(Handled { reply, refusal })
    }

    /// What a front end that waits is told before its connection ends.
    pub fn failure_reply(&self, request: Request, need_reply: bool) -> Option<Reply> {
        self.acknowledgement(request, need_reply && !request.has_own_reply(), 1)
    }

    /// The connection is over: the data path gives everything back.
    pub fn close(mut self, data_path: &mut impl DataPath) {
        self.pause(data_path);
        self.rest(data_path);
    }

    /// "VHOST_USER_PROTOCOL_F_REPLY_ACK".
    fn acknowledgement(&self, request: Request, wanted: bool, code: u64) -> Option<Reply> {
        let negotiated = self.device.protocol_features & protocol::REPLY_ACK != 0;
        (wanted && negotiated).then(|| Reply {
            request,
            payload: code.to_ne_bytes().to_vec(),
            fd: None,
        })
    }

    fn dispatch(
        &mut self,
        message: Message,
        data_path: &mut impl DataPath,
    ) -> Result<Answer, VhostError> {
        match message.request {
            Request::GetFeatures => return Ok(Answer::u64(self.offer.features)),
            Request::GetProtocolFeatures => return Ok(Answer::u64(self.offer.protocol_features)),
            Request::GetQueueNum => return Ok(Answer::u64(self.queue_num())),
            Request::GetMaxMemSlots => return Ok(Answer::u64(memory::SLOTS_MAX as u64)),
            Request::GetStatus => return Ok(Answer::u64(self.device.status.into())),
            Request::GetConfig => return self.get_config(&message),
            Request::SetConfig => return self.set_config(&message),
            Request::NetSetMtu => return self.set_mtu(&message, data_path),
            Request::GetVringBase => return self.get_vring_base(&message, data_path),
            Request::GetInflightFd => return self.get_inflight(&message),
            Request::SetLogBase => return self.set_log_base(message, data_path),
            Request::SetFeatures => self.set_features(&message, data_path)?,
            Request::SetProtocolFeatures => self.set_protocol_features(&message)?,
            Request::SetOwner => {}
            Request::ResetOwner => self.disable_all(data_path)?,
            Request::ResetDevice => self.reset(data_path),
            Request::SetStatus => self.set_status(&message, data_path)?,
            Request::SetMemTable => self.set_mem_table(message, data_path)?,
            Request::AddMemReg => self.add_mem_reg(message, data_path)?,
            Request::RemMemReg => self.rem_mem_reg(&message, data_path)?,
            Request::SetLogFd => self.set_log_fd(message, data_path)?,
            Request::SetVringNum => self.set_vring_num(&message, data_path)?,
            Request::SetVringAddr => self.set_vring_addr(&message, data_path)?,
            Request::SetVringBase => self.set_vring_base(&message, data_path)?,
            Request::SetVringKick => self.set_vring_kick(message, data_path)?,
            Request::SetVringCall => self.set_vring_call(message, data_path)?,
            Request::SetVringErr => self.set_vring_err(message, data_path)?,
            Request::SetVringEnable => self.set_vring_enable(&message, data_path)?,
            Request::SetInflightFd => self.set_inflight(message, data_path)?,
            Request::SetBackendReqFd => self.backend_req = message.fds.into_iter().next(),
            Request::SendRarp => data_path.announce(rarp_address(&message)),
            other => return Err(VhostError::NotOffered(other)),
        }
        Ok(Answer::Done)
    }

    /// "Query how many queues the back-end supports": rings. Cloud Hypervisor compares this with its number of rings
    /// (`virtio-devices/src/vhost_user/net.rs`, `BadQueueNum`), QEMU with its pairs (`net/vhost-user.c`
    /// `vhost_user_start`); the larger number serves both, and a QEMU with too many pairs is told so ring by ring.
    fn queue_num(&self) -> u64 {
        self.offer.rings() as u64
    }

    fn set_features(
        &mut self,
        message: &Message,
        data_path: &mut impl DataPath,
    ) -> Result<(), VhostError> {
        let features = u64_of(message);
        refuse_bits(message.request, features & !self.offer.features)?;
        if self.device.is_negotiated && self.device.features == features {
            return Ok(());
        }
        self.has_packed_positions = features & feature::RING_PACKED != 0;
        let bases = self.bases.clone();
        self.change(message.request, Touches::All, data_path, |device| {
            acknowledge(device, features, &bases);
        })
    }

    fn set_protocol_features(&mut self, message: &Message) -> Result<(), VhostError> {
        let features = u64_of(message);
        refuse_bits(message.request, features & !self.offer.protocol_features)?;
        self.device.protocol_features = features;
        Ok(())
    }

    /// RESET_OWNER: "either ignore this message, or use it to disable all rings".
    fn disable_all(&mut self, data_path: &mut impl DataPath) -> Result<(), VhostError> {
        self.change(Request::ResetOwner, Touches::All, data_path, |device| {
            for ring in &mut device.rings {
                ring.enabled = false;
            }
        })
    }

    /// RESET_DEVICE, and status 0: "disable all rings and reset all internal device state".
    ///
    /// Memory, MTU and the call descriptors stay: QEMU says them again only when they change. So do positions: it still
    /// asks for them.
    fn reset(&mut self, data_path: &mut impl DataPath) {
        self.pause(data_path);
        let device = &mut self.device;
        for ring in &mut device.rings {
            *ring = RingState {
                position: ring.position,
                call: ring.call.take(),
                err: ring.err.take(),
                ..RingState::default()
            };
        }
        self.bases.fill(None);
        device.features = 0;
        device.is_negotiated = false;
        device.status = 0;
        device.log = None;
        device.log_event = None;
        device.inflight = None;
    }

    fn set_status(
        &mut self,
        message: &Message,
        data_path: &mut impl DataPath,
    ) -> Result<(), VhostError> {
        let (request, value) = (message.request, u64_of(message));
        let status = u8::try_from(value).map_err(|_| VhostError::Value { request, value })?;
        if status == 0 {
            self.reset(data_path);
        }
        self.device.status = status;
        Ok(())
    }

    fn set_mtu(
        &mut self,
        message: &Message,
        data_path: &mut impl DataPath,
    ) -> Result<Answer, VhostError> {
        let (asked, max) = (u64_of(message), self.offer.mtu);
        let mtu = match u16::try_from(asked) {
            Ok(mtu) if asked >= MTU_MIN && mtu <= max => mtu,
            _ => return Ok(Answer::Refused(Refusal::Mtu { asked, max })),
        };
        if self.device.mtu == Some(mtu) {
            return Ok(Answer::Done);
        }
        set_config_mtu(&mut self.config, mtu);
        self.change(message.request, Touches::All, data_path, |device| {
            device.mtu = Some(mtu);
        })?;
        Ok(Answer::Done)
    }

    /// "back-end uses zero length of payload to indicate an error". Bytes beyond the structure are zero.
    fn get_config(&self, message: &Message) -> Result<Answer, VhostError> {
        let head = config_head(message)?;
        let Some(range) = head.range() else {
            let empty = ConfigHead { size: 0, ..head };
            return Ok(Answer::Reply(empty.bytes(), None));
        };
        let byte = |at: usize| self.config.get(at).copied().unwrap_or(0);
        let mut payload = head.bytes();
        payload.extend(range.map(byte));
        Ok(Answer::Reply(payload, None))
    }

    /// "MUST NOT accept SET_CONFIG for read-only configuration space fields unless the live migration bit is set":
    /// all fields are read-only.
    fn set_config(&mut self, message: &Message) -> Result<Answer, VhostError> {
        let request = message.request;
        let head = config_head(message)?;
        let bytes = message.payload.get(CONFIG_HEAD_LEN..).unwrap_or_default();
        let range = head.range().filter(|range| range.len() == bytes.len());
        let value = u64::from(head.offset);
        let range = range.ok_or(VhostError::Value { request, value })?;
        if head.flags & CONFIG_FLAG_MIGRATION == 0 {
            return Ok(Answer::Refused(Refusal::ConfigReadOnly));
        }
        for (at, byte) in range.zip(bytes) {
            if let Some(place) = self.config.get_mut(at) {
                *place = *byte;
            }
        }
        Ok(Answer::Done)
    }

    /// The reply has no meaning but is waited for: QEMU reads whatever comes, the rust-vmm front end an u64.
    fn set_log_base(
        &mut self,
        message: Message,
        data_path: &mut impl DataPath,
    ) -> Result<Answer, VhostError> {
        let request = message.request;
        let mut fields = Fields(&message.payload);
        let (size, offset) = (fields.u64(), fields.u64());
        if size == 0 || offset.checked_add(size).is_none() {
            return Err(VhostError::Area {
                request,
                size,
                offset,
            });
        }
        let file = only_fd(message)?;
        let log = Arc::new(LogSpec { file, size, offset });
        self.change(request, Touches::All, data_path, |device| {
            device.log = Some(log);
        })?;
        Ok(Answer::u64(0))
    }

    fn set_log_fd(
        &mut self,
        message: Message,
        data_path: &mut impl DataPath,
    ) -> Result<(), VhostError> {
        let request = message.request;
        let event = only_fd(message)?;
        rings::make_event(request, &event)?;
        self.change(request, Touches::All, data_path, |device| {
            device.log_event = Some(Arc::new(event));
        })
    }

    fn get_inflight(&self, message: &Message) -> Result<Answer, VhostError> {
        let request = message.request;
        let mut area = InflightArea::parse(&message.payload);
        area.size = self.inflight_len(request, area)?;
        area.offset = 0;
        let file =
            inflight::create(area.size).map_err(|source| VhostError::System { request, source })?;
        Ok(Answer::Reply(area.bytes(message.payload.len()), Some(file)))
    }

    fn set_inflight(
        &mut self,
        message: Message,
        data_path: &mut impl DataPath,
    ) -> Result<(), VhostError> {
        let request = message.request;
        let area = InflightArea::parse(&message.payload);
        let needed = self.inflight_len(request, area)?;
        let (size, offset) = (area.size, area.offset);
        if size < needed || offset.checked_add(size).is_none() {
            return Err(VhostError::Area {
                request,
                size,
                offset,
            });
        }
        let file = only_fd(message)?;
        let inflight = Arc::new(InflightSpec {
            file,
            size,
            offset,
            queues: area.queues,
            queue_size: area.queue_size,
        });
        self.change(request, Touches::All, data_path, |device| {
            device.inflight = Some(inflight);
        })
    }

    /// Bytes of the regions `area` speaks of.
    fn inflight_len(&self, request: Request, area: InflightArea) -> Result<u64, VhostError> {
        let (queues, queue_size) = (area.queues, area.queue_size);
        let queues_fit = (1..=self.offer.rings()).contains(&usize::from(queues));
        if queues_fit && (1..=RING_SIZE_MAX).contains(&queue_size) {
            let is_packed = self.device.is_packed();
            return Ok(inflight::total_len(queues, queue_size, is_packed));
        }
        Err(VhostError::InflightShape {
            request,
            queues,
            queue_size,
        })
    }

    /// Takes the rings from the data path if it has any it must not keep, applies a change, and hands over what may
    /// run now.
    fn change(
        &mut self,
        request: Request,
        touches: Touches,
        data_path: &mut impl DataPath,
        apply: impl FnOnce(&mut Device),
    ) -> Result<(), VhostError> {
        let affected = match touches {
            Touches::All => true,
            Touches::Ring(index) => self.running.contains(&index),
        };
        if affected {
            self.pause(data_path);
        }
        apply(&mut self.device);
        self.settle(request, data_path)
    }

    fn pause(&mut self, data_path: &mut impl DataPath) {
        if self.running.is_empty() {
            return;
        }
        self.running.clear();
        self.is_paused = true;
        for (index, position) in data_path.quiesce() {
            if let Some(ring) = self.device.rings.get_mut(index) {
                ring.position = position;
            }
        }
    }

    /// What was taken from the data path and not given back stays with us.
    fn rest(&mut self, data_path: &mut impl DataPath) {
        if std::mem::take(&mut self.is_paused) {
            data_path.rest();
        }
    }

    fn settle(
        &mut self,
        request: Request,
        data_path: &mut impl DataPath,
    ) -> Result<(), VhostError> {
        let live: Vec<usize> = self.device.live().map(|(index, _)| index).collect();
        if live == self.running {
            return Ok(());
        }
        self.pause(data_path);
        if live.is_empty() {
            return Ok(());
        }
        for &index in &live {
            rings::check(&self.device, request, index)?;
        }
        data_path
            .resume(&self.device)
            .map_err(|source| VhostError::Resume { request, source })?;
        self.running = live;
        self.is_paused = false;
        Ok(())
    }
}

/// SET_FEATURES. "If VHOST_USER_F_PROTOCOL_FEATURES has not been negotiated, the ring starts directly in the enabled
/// state"; if it has, what SET_VRING_ENABLE said stays, also from before.
fn acknowledge(device: &mut Device, features: u64, bases: &[Option<u32>]) {
    let changed = device.features ^ features;
    let is_first = !device.is_negotiated;
    device.features = features;
    device.is_negotiated = true;
    let explicit = features & feature::PROTOCOL_FEATURES != 0;
    if !explicit || (!is_first && changed & feature::PROTOCOL_FEATURES != 0) {
        for ring in &mut device.rings {
            ring.enabled = !explicit;
        }
    }
    if is_first || changed & feature::RING_PACKED != 0 {
        let is_packed = device.is_packed();
        for (ring, base) in device.rings.iter_mut().zip(bases) {
            ring.position = rings::position(*base, is_packed);
        }
    }
}

fn refuse_bits(request: Request, bits: u64) -> Result<(), VhostError> {
    match bits {
        0 => Ok(()),
        bits => Err(VhostError::UnofferedBits { request, bits }),
    }
}

fn u64_of(message: &Message) -> u64 {
    Fields(&message.payload).u64()
}

/// "The first 6 bytes of the payload contain the mac address".
fn rarp_address(message: &Message) -> [u8; 6] {
    let address = message.payload.first_chunk();
    address.copied().unwrap_or_default()
}

fn config_head(message: &Message) -> Result<ConfigHead, VhostError> {
    let len = message.payload.len();
    let head = ConfigHead::parse(&message.payload);
    // The front end may or may not leave room for what it asks for.
    let rest = len - CONFIG_HEAD_LEN;
    if rest == 0 || rest == head.size as usize {
        return Ok(head);
    }
    let request = message.request;
    Err(VhostError::PayloadLen { request, len })
}

fn only_fd(message: Message) -> Result<OwnedFd, VhostError> {
    let (request, got) = (message.request, message.fds.len());
    let mut fds = message.fds.into_iter();
    match (fds.next(), fds.next()) {
        (Some(fd), None) => Ok(fd),
        _ => Err(VhostError::FdCount {
            request,
            got,
            expected: 1,
        }),
    }
}
