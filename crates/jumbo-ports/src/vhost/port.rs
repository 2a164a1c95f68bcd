//! The data path behind the protocol, and the port as the switch sees it.

use std::any::Any;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::{fmt, io};

use jumbo_engine::pending::Caps;
use jumbo_engine::steer::{MICROSOFT_KEY, Toeplitz};
use jumbo_engine::vnet::Form;
use rustix::fs::Mode;

use super::between::Place;
use super::connection::Ended;
use super::device::{DataPath, Device, LogSpec, Position, ResumeError, RingState};
use super::feature;
use super::guest::GuestMemory;
use super::keep::{Inflight, Kept, Standing};
use super::offer::{Offer, QUEUE_PAIRS_MAX};
use super::queue::{
    FromGuest, Health, NoGuest, Ring, Shared, Terms, ToGuest, VhostQueue, WAYS_MAX, Way,
};
use super::roll_call::RollCall;
use super::serve::{Endpoint, Event, serve};
use super::socket::{ListenError, Stop, listen};
use super::sys::dirty::DirtyLog;
use super::sys::vring::{Direction, Setup, Vring};
use crate::pool::Region;
use crate::queue::{Capability, Control, Port, PortInfo, Presence, Queue, Workers};

const PAGE: u64 = 4096;

/// What a vhost-user port is to be.
#[derive(Clone, Debug)]
pub struct VhostConfig {
    /// The socket.
    pub path: PathBuf,
    /// We connect to it, and try again until somebody listens; otherwise we listen.
    pub client: bool,
    /// Most queue pairs of the guest.
    pub queue_pairs: u16,
    /// Queues of the port: one per worker.
    pub workers: usize,
    /// Pending work we may be handed.
    pub hands: Caps,
    /// Pending work the guest may be offered to take.
    pub takes: Caps,
    /// Largest network packet, bytes, if it is to be told to the guest.
    pub mtu: Option<u16>,
    /// Whether packed rings are offered.
    pub packed: bool,
    /// Whether the guest may have each packet's hash.
    pub hash_report: bool,
    /// Whether the guest may have the number of segments of each super-packet, as
    /// Windows wants it for its statistics (VIRTIO_NET_F_RSC_EXT).
    pub rsc_ext: bool,
    /// A file of ours in which to keep where packed rings stand, so that a guest
    /// survives the sudden end of this process.
    pub state: Option<PathBuf>,
    /// Ports that wait for each other's guests at the start of the process.
    pub roll_call: Option<Arc<RollCall>>,
}

impl VhostConfig {
    /// Everything that is usual, for a port at `path` with so many workers: one
    /// queue pair, all offloads, both kinds of rings.
    pub fn new(path: PathBuf, workers: usize) -> Self {
        Self {
            path,
            client: false,
            queue_pairs: 1,
            workers,
            hands: Caps::ALL.with_ufo(true),
            takes: Caps::ALL,
            mtu: None,
            packed: true,
            hash_report: false,
            rsc_ext: false,
            state: None,
            roll_call: None,
        }
    }
}

/// What happened to a port; for the operator to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// In the course of things.
    Info(String),
    /// Something is wrong.
    Warning(String),
}

/// Why a port cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The socket.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The kernel gives no eventfd.
    #[error("making an eventfd: {0}")]
    Stop(io::Error),
    /// The file of [`VhostConfig::state`].
    #[error("opening the file that keeps where rings stand: {0}")]
    State(io::Error),
    /// A number of queue pairs that cannot be.
    #[error("{0} queue pairs: 1 to {QUEUE_PAIRS_MAX} are possible")]
    QueuePairs(u16),
}

/// Opens the port: from now on a front end can connect, and is served once the
/// switch has the port. `notices` hears what happens, from the port's own thread.
///
/// # Errors
/// The [`OpenError`]; nothing is left behind.
pub fn open(
    config: &VhostConfig,
    notices: impl FnMut(Notice) + Send + 'static,
) -> Result<Port, OpenError> {
    if config.queue_pairs == 0 || usize::from(config.queue_pairs) > WAYS_MAX {
        return Err(OpenError::QueuePairs(config.queue_pairs));
    }
    let endpoint = match config.client {
        true => Endpoint::Connect(config.path.clone()),
        false => Endpoint::Listen(listen(&config.path, Mode::RUSR | Mode::WUSR)?),
    };
    let offer = offer(config);
    let info = idle(config, &offer);
    let rings = offer.rings();
    let kept = match &config.state {
        Some(path) => Some(Kept::open(path, rings).map_err(OpenError::State)?),
        None => None,
    };
    let control = Opened {
        kept,
        roll_call: config.roll_call.clone(),
        endpoint,
        offer,
        idle: info.clone(),
        workers: config.workers,
        stop: Arc::new(Stop::new().map_err(OpenError::Stop)?),
        notices: Box::new(notices),
    };
    let no_guest = || Box::new(NoGuest) as Box<dyn Queue>;
    Ok(Port {
        info,
        queues: (0..config.workers).map(|_| no_guest()).collect(),
        control: Some(Box::new(control)),
    })
}

/// What the port is before its first guest.
pub(super) fn idle(config: &VhostConfig, offer: &Offer) -> PortInfo {
    let waits = match config.client {
        true => "waits for somebody to listen at its socket",
        false => "waits for a front end to connect",
    };
    PortInfo {
        kind: "vhost-user",
        device: config.path.display().to_string(),
        hands: Caps::NONE,
        takes: Caps::NONE,
        mtu: usize::from(offer.mtu),
        capabilities: capabilities(offer.features, 0),
        presence: Presence::Waiting(waits.to_owned()),
    }
}

/// What the guest is offered.
pub(super) fn offer(config: &VhostConfig) -> Offer {
    let mut features = feature::VERSION_1
        | feature::ANY_LAYOUT
        | feature::MRG_RXBUF
        | feature::INDIRECT_DESC
        | feature::EVENT_IDX
        | feature::IN_ORDER
        | feature::RING_RESET
        | feature::CTRL_VQ
        | feature::GUEST_ANNOUNCE
        | feature::LOG_ALL;
    let mut add = |on: bool, bits: u64| features |= if on { bits } else { 0 };
    let (hands, takes) = (config.hands, config.takes);
    add(hands.csum(), feature::CSUM);
    add(hands.tso4(), feature::HOST_TSO4);
    add(hands.tso6(), feature::HOST_TSO6);
    add(hands.tso_ecn(), feature::HOST_ECN);
    add(hands.uso(), feature::HOST_USO);
    add(hands.ufo(), feature::HOST_UFO);
    add(takes.csum(), feature::GUEST_CSUM);
    add(takes.tso4(), feature::GUEST_TSO4);
    add(takes.tso6(), feature::GUEST_TSO6);
    add(takes.tso_ecn(), feature::GUEST_ECN);
    add(takes.uso(), feature::GUEST_USO4 | feature::GUEST_USO6);
    add(config.packed, feature::RING_PACKED);
    add(config.hash_report, feature::HASH_REPORT);
    add(config.rsc_ext, feature::RSC_EXT);
    add(config.queue_pairs > 1, feature::MQ);
    add(config.mtu.is_some(), feature::MTU);
    // Without an MTU the configuration space says nothing that a front end, which
    // has one of its own, would want; QEMU even warns of it.
    let protocol_features = match config.mtu {
        Some(_) => feature::protocol::ALL,
        None => feature::protocol::NET & !feature::protocol::MTU,
    };
    Offer {
        features,
        protocol_features,
        queue_pairs: config.queue_pairs,
        mtu: config.mtu.unwrap_or(u16::MAX),
        mac: [0; 6],
    }
}

/// A port whose switch is not there yet.
struct Opened {
    kept: Option<Kept>,
    roll_call: Option<Arc<RollCall>>,
    endpoint: Endpoint,
    offer: Offer,
    idle: PortInfo,
    workers: usize,
    stop: Arc<Stop>,
    notices: Box<dyn FnMut(Notice) + Send>,
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

impl Control for Opened {
    fn start(self: Box<Self>, workers: Box<dyn Workers>) -> Result<Box<dyn Send>, String> {
        let stop = self.stop.clone();
        let thread = std::thread::Builder::new()
            .name("jumbo-vhost".to_owned())
            .spawn(move || self.run(workers))
            .map_err(|e| format!("starting a thread for a vhost-user port: {e}"))?;
        Ok(Box::new(Started {
            stop,
            thread: Some(thread),
        }))
    }
}

impl Opened {
    fn run(mut self, workers: Box<dyn Workers>) {
        let offered = self.offer.features;
        let mut guest = Guest::new(workers, self.workers, self.idle, offered, self.kept);
        guest.roll_call = self.roll_call;
        let mut events = |event| {
            if let Some(notice) = notice(event) {
                (self.notices)(notice);
            }
        };
        let stop = self.stop.clone();
        let stop = stop.as_fd();
        if let Err(error) = serve(&self.endpoint, &self.offer, &mut guest, stop, &mut events) {
            (self.notices)(Notice::Warning(format!(
                "cannot wait for messages: {error}"
            )));
        }
    }
}

/// What an event says to an operator.
fn notice(event: Event) -> Option<Notice> {
    Some(match event {
        Event::Waiting(error) => Notice::Info(format!("waits: {error}")),
        Event::Connected(Some(pid)) => Notice::Info(format!("process {pid} has connected")),
        Event::Connected(None) => Notice::Info("a front end has connected".to_owned()),
        Event::Refused(refusal) => Notice::Warning(format!("refused: {refusal}")),
        Event::SecondRefused => {
            Notice::Warning("a second front end was sent away: one is there already".to_owned())
        }
        Event::Disconnected(Ended::Stopped) => return None,
        Event::Disconnected(Ended::Closed) => Notice::Info("the front end has gone".to_owned()),
        Event::Disconnected(ended) => Notice::Warning(format!("connection ended: {ended}")),
        Event::Negotiated { .. } => return None,
    })
}

/// A running control side. Dropping it takes the rings back and waits for that.
struct Started {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Started {
    fn drop(&mut self) {
        self.stop.request();
        if let Some(thread) = self.thread.take() {
            // One that panicked has said so on stderr.
            let _ = thread.join();
        }
    }
}

/// The rings of one guest, handed to the workers and taken back.
#[derive(Debug)]
pub(super) struct Guest {
    workers: Box<dyn Workers>,
    count: usize,
    /// What the port is while no guest is there.
    idle: PortInfo,
    /// Features that were offered.
    offered: u64,
    memory: Option<Arc<GuestMemory>>,
    kept: Option<Kept>,
    /// What the port was last, while it ran.
    live: Option<PortInfo>,
    /// Where the workers look for rings while they have none: between [`DataPath::quiesce`] and what follows.
    places: Vec<Place>,
    /// Until it was answered.
    roll_call: Option<Arc<RollCall>>,
}

impl Guest {
    pub(super) fn new(
        workers: Box<dyn Workers>,
        count: usize,
        idle: PortInfo,
        offered: u64,
        kept: Option<Kept>,
    ) -> Self {
        Self {
            workers,
            count,
            idle,
            offered,
            memory: None,
            kept,
            live: None,
            places: Vec::new(),
            roll_call: None,
        }
    }

    fn try_resume(&mut self, device: &Device) -> Result<(), String> {
        let memory = GuestMemory::map(&device.memory, self.memory.as_deref());
        let memory = Arc::new(memory.map_err(|e| e.to_string())?);
        self.memory = Some(memory.clone());
        let log = match (&device.log, device.features & feature::LOG_ALL) {
            (Some(spec), bits) if bits != 0 => Some(Arc::new(open_log(spec)?)),
            _ => None,
        };
        let terms = terms(device, memory);
        let inflight = match &device.inflight {
            Some(spec) if device.is_packed() => Some(Inflight::open(spec)?),
            _ => None,
        };
        let make = Maker {
            device,
            terms: &terms,
            log,
            inflight,
            kept: self.kept.as_ref().filter(|_| device.is_packed()),
        };
        let queues = make.queues(self.count)?;
        let info = self.info(device, &terms.health);
        self.live = Some(info.clone());
        let places = std::mem::take(&mut self.places);
        let queues = match places.is_empty() {
            true => queues,
            false => put(&places, queues, &info),
        };
        self.workers.exchange(queues, info);
        // Now that packets can reach this guest. Rings are enabled one by one, its first one before those it sends by.
        if let Some(call) = self.roll_call.take() {
            call.answer();
        }
        Ok(())
    }

    fn info(&self, device: &Device, health: &Health) -> PortInfo {
        let mtu = device.mtu.map_or(self.idle.mtu, usize::from);
        PortInfo {
            hands: hands(device.features),
            takes: takes(device.features),
            mtu: mtu.min(self.idle.mtu),
            capabilities: capabilities(self.offered, device.features),
            presence: Presence::Live(health.clone()),
            ..self.idle.clone()
        }
    }
}

impl DataPath for Guest {
    fn quiesce(&mut self) -> Vec<(usize, Position)> {
        self.places = (0..self.count).map(|_| Place::new()).collect();
        let between = self.places.iter().map(Place::between).collect();
        // What was held for the guest is what it took until now.
        let info = self.live.clone().unwrap_or_else(|| self.idle.clone());
        let old = self.workers.exchange(between, info);
        let mut positions: Vec<(usize, Position)> = Vec::new();
        for queue in old {
            let queue: Box<dyn Any> = queue;
            if let Ok(mut queue) = queue.downcast::<VhostQueue>() {
                positions.extend(queue.positions());
            }
        }
        positions.sort_by_key(|(index, _)| *index);
        positions.dedup_by_key(|(index, _)| *index);
        positions
    }

    fn resume(&mut self, device: &Device) -> Result<(), ResumeError> {
        self.try_resume(device).map_err(ResumeError::Other)
    }

    fn rest(&mut self) {
        self.places.drain(..).for_each(|place| place.give_up());
        self.live = None;
        self.idle.presence = Presence::Waiting("the guest has stopped its rings".to_owned());
        let nothing = (0..self.count).map(|_| Box::new(NoGuest) as Box<dyn Queue>);
        self.workers.exchange(nothing.collect(), self.idle.clone());
    }

    fn told_position(&mut self, index: usize) {
        if let Some(kept) = &self.kept {
            kept.forget(index);
        }
    }

    fn announce(&mut self, mac: [u8; 6]) {
        self.workers.announce(mac);
    }
}

/// Puts each worker's queue where its packets wait for it.
fn put(places: &[Place], queues: Vec<Box<dyn Queue>>, info: &PortInfo) -> Vec<Box<dyn Queue>> {
    let pairs = places.iter().zip(queues);
    pairs
        .map(|(place, queue)| place.put(queue, info.takes, info.mtu))
        .collect()
}

fn open_log(spec: &LogSpec) -> Result<DirtyLog, String> {
    let skip = spec.offset % PAGE;
    let has = rustix::fs::fstat(&spec.file).map_err(|e| e.to_string())?;
    let end = spec.offset.checked_add(spec.size);
    if spec.size == 0 || end.is_none_or(|end| end > has.st_size as u64) {
        return Err("the dirty log is longer than its file".to_owned());
    }
    let len = usize::try_from(spec.size + skip).map_err(|e| e.to_string())?;
    let bits = Region::map(spec.file.as_fd(), spec.offset - skip, len);
    let bits = bits.map_err(|e| format!("mapping the dirty log: {e}"))?;
    Ok(DirtyLog::new(bits, skip, spec.size))
}

fn terms(device: &Device, memory: Arc<GuestMemory>) -> Terms {
    let has = |bit: u64| device.features & bit != 0;
    let form = if has(feature::HASH_REPORT) {
        Form::Hash20
    } else if has(feature::VERSION_1) || has(feature::MRG_RXBUF) {
        Form::Modern12
    } else {
        Form::Legacy10
    };
    Terms {
        memory,
        form,
        mergeable: has(feature::MRG_RXBUF),
        takes: takes(device.features),
        hands: hands(device.features),
        hash: has(feature::HASH_REPORT).then(|| Arc::new(Toeplitz::new(&MICROSOFT_KEY))),
        health: Health::default(),
    }
}

/// Makes queues of a device's rings.
struct Maker<'a> {
    device: &'a Device,
    terms: &'a Terms,
    log: Option<Arc<DirtyLog>>,
    inflight: Option<Inflight>,
    kept: Option<&'a Kept>,
}

impl Maker<'_> {
    /// One queue for each of `count` workers. Pair `n` belongs to worker `n` modulo
    /// `count`; a worker without a pair sends into all of the others'.
    fn queues(&self, count: usize) -> Result<Vec<Box<dyn Queue>>, String> {
        let mut from: Vec<Vec<FromGuest>> = (0..count).map(|_| Vec::new()).collect();
        let mut to: Vec<Vec<ToGuest>> = (0..count).map(|_| Vec::new()).collect();
        for (index, ring) in self.device.live() {
            let Some(kick) = &ring.kick else { continue };
            let worker = index / 2 % count;
            let ring = Ring {
                index,
                vring: self.vring(index, ring)?,
                kick: kick.clone(),
                call: ring.call.clone(),
                err: ring.err.clone(),
            };
            if index % 2 == 0 {
                to[worker].push(ToGuest::new(ring));
            } else {
                from[worker].push(FromGuest::new(ring));
            }
        }
        let ways = share(to);
        let queue = |(from, ways)| -> Result<Box<dyn Queue>, String> {
            let queue = VhostQueue::new(self.terms.clone(), from, ways);
            let queue = queue.map_err(|e| format!("making an epoll set: {e}"))?;
            Ok(Box::new(queue))
        };
        from.into_iter().zip(ways).map(queue).collect()
    }

    fn vring(&self, index: usize, ring: &RingState) -> Result<Vring, String> {
        let features = self.device.features;
        let direction = match index % 2 {
            0 => Direction::ToGuest,
            _ => Direction::FromGuest,
        };
        let inflight = self.inflight.as_ref();
        let inflight = inflight.and_then(|region| region.ring(index, ring.size));
        let left = self.kept.and_then(|kept| kept.standing(index, ring));
        let keeper = self.kept.and_then(|kept| kept.begin(index, ring));
        let (front_end, in_region) = inflight.unzip();
        let in_region = in_region.flatten();
        let setup = Setup {
            ring,
            position: in_region.map_or(ring.position, Standing::position),
            memory: &self.terms.memory,
            direction,
            packed: self.device.is_packed(),
            event_idx: features & feature::EVENT_IDX != 0,
            indirect: features & feature::INDIRECT_DESC != 0,
            log: self.log.as_ref(),
            keepers: [keeper, front_end].into_iter().flatten().collect(),
        };
        let mut vring = Vring::new(&setup).map_err(|fault| format!("ring {index}: {fault}"))?;
        // The front end knows which ring its region is of; our file must be doubted.
        if let Some(standing) = in_region {
            vring.finish(standing);
        } else if let Some(standing) = left {
            vring.resume(standing);
        }
        Ok(vring)
    }
}

/// Workers that have a ring of their own keep it to themselves, unless another has
/// none and must share.
fn share(to: Vec<Vec<ToGuest>>) -> Vec<Vec<Way>> {
    let all_have = to.iter().all(|rings| !rings.is_empty());
    if all_have {
        let own = |rings: Vec<ToGuest>| rings.into_iter().map(|r| Way::Own(Box::new(r)));
        return to.into_iter().map(|rings| own(rings).collect()).collect();
    }
    let count = to.len();
    let shared: Vec<Shared> = to.into_iter().flatten().map(Shared::new).collect();
    let ways = || shared.iter().cloned().map(Way::Shared).collect();
    (0..count).map(|_| ways()).collect()
}

/// What the guest takes: its GUEST_* features.
fn takes(features: u64) -> Caps {
    let has = |bit: u64| features & bit != 0;
    Caps::new(
        has(feature::GUEST_CSUM),
        has(feature::GUEST_TSO4),
        has(feature::GUEST_TSO6),
        has(feature::GUEST_ECN),
        has(feature::GUEST_USO4) && has(feature::GUEST_USO6),
    )
    .with_rsc_info(has(feature::RSC_EXT))
}

/// What the guest may hand us: its HOST_* features.
fn hands(features: u64) -> Caps {
    let has = |bit: u64| features & bit != 0;
    Caps::new(
        has(feature::CSUM),
        has(feature::HOST_TSO4),
        has(feature::HOST_TSO6),
        has(feature::HOST_ECN),
        has(feature::HOST_USO),
    )
    .with_ufo(has(feature::HOST_UFO))
}

/// Both directions of each capability, for `jumbo status`.
pub(super) fn capabilities(offered: u64, acked: u64) -> Vec<Capability> {
    let rows: [(&'static str, u64); 17] = [
        ("rx_csum", feature::CSUM),
        ("tx_csum", feature::GUEST_CSUM),
        ("rx_tso4", feature::HOST_TSO4),
        ("tx_tso4", feature::GUEST_TSO4),
        ("rx_tso6", feature::HOST_TSO6),
        ("tx_tso6", feature::GUEST_TSO6),
        ("rx_tso_ecn", feature::HOST_ECN),
        ("tx_tso_ecn", feature::GUEST_ECN),
        ("rx_uso", feature::HOST_USO),
        ("tx_uso", feature::GUEST_USO4 | feature::GUEST_USO6),
        ("rx_ufo", feature::HOST_UFO),
        ("mergeable", feature::MRG_RXBUF),
        ("packed", feature::RING_PACKED),
        ("event_idx", feature::EVENT_IDX),
        ("in_order", feature::IN_ORDER),
        ("hash_report", feature::HASH_REPORT),
        ("rsc_ext", feature::RSC_EXT),
    ];
    let row = |(name, bits): (&'static str, u64)| {
        let (offered, in_use) = (offered & bits == bits, acked & bits == bits);
        let why = match (offered, in_use) {
            (_, true) => None,
            (true, false) if acked == 0 => Some("no guest is there".to_owned()),
            (true, false) => Some("the guest, or its monitor, did not ask for it".to_owned()),
            (false, false) => Some("switched off in the configuration".to_owned()),
        };
        Capability {
            name,
            offered,
            in_use,
            why,
        }
    };
    rows.into_iter().map(row).collect()
}
