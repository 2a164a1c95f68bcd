//! The switch behind the seam: ports opened as configured, workers' figures made into a status.

mod device;
mod path;

use std::collections::BTreeMap;
use std::num::NonZero;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use jumbo_engine::coalesce::RscStats;
use jumbo_engine::pending::Caps;
use jumbo_engine::reason::{Counts, Reason};
use jumbo_ports::queue;
use jumbo_ports::queue::Presence;
use jumbo_ports::tap::{self, TapConfig, TapError};
use jumbo_ports::vhost::{self, Notice, RollCall, VhostConfig};
use jumbo_switch::counters::{Gauge, PortCounters};
use jumbo_switch::switch::{self, Event, Switch as Workers, SwitchConfig, SwitchError};
use jumbo_switch::topology::{self, Coalescing, PortId, TunnelMode};

use crate::config;
use crate::config::values::{Cwr, Hold, Mtu, Spin};
use crate::control::socket;
use crate::error::CliError;
use crate::switch_api::{
    Books, Capability, Fdb, FdbEntry, Offload, PathReport, PortKind, PortSpec, PortState,
    PortStatus, ReasonCount, Removed, Rest, RscStatus, RunConfig, Snapshot, StopCause, Switch,
    Traffic,
};
use crate::{output, wire};
use jumbo_ports::wrap::capture::Recorder;

/// Worker threads where nothing is said: one is right until it is busy.
pub(crate) const WORKERS_DEFAULT: usize = 1;

/// How long the guests of `client` ports, which are all there again at once after a restart, wait for each other. Much
/// less than TCP waits before it sends again; and no more than a restart takes, because two cards of one QEMU, which does
/// one thing after the other, wait in vain.
const ROLL_CALL_LIMIT: Duration = Duration::from_millis(20);

/// By the processors this process may run on.
fn usual_spin() -> Spin {
    Spin::usual(std::thread::available_parallelism().map_or(1, NonZero::get))
}

/// Opens every port, then starts forwarding between them. Whatever was made is gone again on an error.
pub(crate) fn start(
    config: &RunConfig,
    broken: Sender<StopCause>,
) -> Result<Arc<dyn Switch>, CliError> {
    let workers = config
        .workers
        .map_or(WORKERS_DEFAULT, |workers| usize::from(workers.get()));
    let tunnels = config.tunnels.0;
    let roll_call = RollCall::new(clients(&config.ports), ROLL_CALL_LIMIT);
    let mut ports = config
        .ports
        .iter()
        .map(|spec| Ok((spec, open(spec, workers, tunnels, Some(&roll_call))?)))
        .collect::<Result<Vec<_>, CliError>>()?;
    // Only now that all are there: a device that was there before keeps its MTU if another cannot be opened.
    for (spec, port) in &mut ports {
        set_mtu(spec, port)?;
    }
    let mut switch = Workers::start(&SwitchConfig {
        workers,
        fdb_age_s: config.fdb_age.seconds(),
        spin: config.spin.unwrap_or_else(usual_spin).get(),
        tunnels,
        ..SwitchConfig::default()
    })
    .map_err(refused)?;
    let names = Arc::<Names>::default();
    watch(&mut switch, Arc::clone(&names), broken);
    let mut live = Live {
        switch,
        names,
        tunnels,
        specs: BTreeMap::new(),
        captures: Vec::new(),
    };
    for (spec, port) in ports {
        live.join(spec.clone(), port)?;
    }
    Ok(Arc::new(Running {
        state: Mutex::new(State::Running(live)),
    }))
}

fn clients(ports: &[PortSpec]) -> usize {
    let is_client =
        |spec: &&PortSpec| matches!(spec.kind, PortKind::VhostUser { client, .. } if client);
    ports.iter().filter(is_client).count()
}

fn set_mtu(spec: &PortSpec, port: &mut queue::Port) -> Result<(), CliError> {
    match (spec.mtu, spec.kind.is_interface()) {
        (Some(mtu), true) => {
            tap::set_mtu(&mut port.info, mtu.get().into()).map_err(|error| port_error(spec, &error))
        }
        _ => Ok(()),
    }
}

/// What the ports that are there are called, for whoever hears of them by their id.
#[derive(Debug, Default)]
struct Names(Mutex<BTreeMap<PortId, Named>>);

#[derive(Debug)]
struct Named {
    name: String,
    /// The operator has heard that its device is gone.
    told_gone: bool,
}

impl Names {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<PortId, Named>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, port: PortId) -> Option<String> {
        self.lock().get(&port).map(|named| named.name.clone())
    }

    /// The port's name, once: each worker says that the device is gone.
    fn newly_gone(&self, port: PortId) -> Option<String> {
        let mut names = self.lock();
        let named = names.get_mut(&port).filter(|named| !named.told_gone)?;
        named.told_gone = true;
        Some(named.name.clone())
    }
}

/// A worker never ends by itself; should one, the run ends with it.
fn watch(switch: &mut Workers, names: Arc<Names>, broken: Sender<StopCause>) {
    let events = switch.events();
    std::thread::spawn(move || {
        while let Ok(event) = events.recv() {
            let how = match event {
                Event::Stopped => return,
                Event::PortStopped(port, why) => {
                    // Without a name it was removed meanwhile; here and below.
                    if let Some(name) = names.of(port) {
                        output::talk(format_args!(
                            "port `{name}` has stopped: {why}. The other ports go on; it starts again when its guest resets the device"
                        ));
                    }
                    continue;
                }
                Event::PortGone(port) => {
                    if let Some(name) = names.newly_gone(port) {
                        output::talk(format_args!(
                            "port `{name}`: its device went away; the other ports go on. To have it back: `jumbo remove-port {name}`, then `jumbo add-port`"
                        ));
                    }
                    continue;
                }
                Event::Failed(error) => format!("a worker has ended: {error}"),
                Event::Panicked => "a worker has panicked".to_owned(),
            };
            // Nobody listens once the run is over.
            let _ = broken.send(StopCause::Broken(CliError::internal(how)));
            return;
        }
    });
}

fn open(
    spec: &PortSpec,
    workers: usize,
    tunnels: TunnelMode,
    roll_call: Option<&Arc<RollCall>>,
) -> Result<queue::Port, CliError> {
    wire::wrapped(spec, open_device(spec, workers, tunnels, roll_call)?)
}

fn open_device(
    spec: &PortSpec,
    workers: usize,
    tunnels: TunnelMode,
    roll_call: Option<&Arc<RollCall>>,
) -> Result<queue::Port, CliError> {
    let caps = caps(spec.offload);
    match &spec.kind {
        PortKind::Tap { device, big_tcp } => {
            let followed = tunnels != TunnelMode::Off;
            let caps = caps.with_udp_tunnels(followed, followed);
            tap::open(&TapConfig {
                device: device.as_str().to_owned(),
                queues: workers,
                hands: caps,
                takes: caps.with_big_tcp(*big_tcp, false),
                mtu: None,
            })
            .map_err(|error| port_error(spec, &error))
        }
        PortKind::Tun { device } => wire::open_tun(spec, device, workers),
        PortKind::Packet {
            device,
            fanout,
            qdisc_bypass,
        } => wire::open_packet(spec, device, *fanout, *qdisc_bypass, workers),
        PortKind::Xdp { device, mode, pass } => wire::open_xdp(spec, device, *mode, pass, workers),
        PortKind::Auto { device } => wire::open_auto(spec, device, workers),
        PortKind::VhostUser {
            path,
            client,
            queues,
            packed,
            hash_report,
        } => {
            let state = socket::state_file(path.as_path());
            if state.is_none() {
                output::talk(format_args!(
                    "port `{}`: no runtime directory to keep ring positions in: guests with packed rings must be reset if this process ends suddenly",
                    spec.name.as_str()
                ));
            }
            let config = VhostConfig {
                client: *client,
                queue_pairs: queues.get(),
                hands: caps.with_ufo(spec.offload.uso),
                takes: caps,
                mtu: spec.mtu.map(Mtu::get),
                packed: *packed,
                hash_report: *hash_report,
                rsc_ext: spec.coalesce.0 == topology::Coalesce::Rsc,
                state,
                roll_call: roll_call.filter(|_| *client).cloned(),
                ..VhostConfig::new(path.as_path().to_owned(), workers)
            };
            vhost::open(&config, notices(spec)).map_err(|error| {
                CliError::machine(format!("port `{}`: {error}", spec.name.as_str()))
            })
        }
    }
}

/// Tells the operator what happens to a port.
fn notices(spec: &PortSpec) -> impl FnMut(Notice) + Send + 'static {
    let name = spec.name.as_str().to_owned();
    move |notice| match notice {
        Notice::Info(text) | Notice::Warning(text) => {
            output::talk(format_args!("port `{name}`: {text}"));
        }
    }
}

pub(crate) fn port_error(spec: &PortSpec, error: &TapError) -> CliError {
    let text = format!("port `{}`: {error}", spec.name.as_str());
    match error {
        TapError::BadName { .. } | TapError::OtherKind { .. } | TapError::Mtu { .. } => {
            CliError::usage(text)
        }
        _ => CliError::machine(text),
    }
}

pub(crate) fn caps(offload: Offload) -> Caps {
    let Offload { csum, tso, uso } = offload;
    Caps::new(csum, tso, tso, tso, uso)
}

/// How packets that leave by the port are coalesced.
fn coalescing(spec: &PortSpec) -> Coalescing {
    Coalescing {
        cwr: spec.cwr.0,
        l3_total_max: spec.lro_max.get().into(),
        hold_ns: spec.hold.map_or(0, Hold::ns),
        ..spec.coalesce.0.into()
    }
}

fn refused(error: SwitchError) -> CliError {
    match error {
        SwitchError::TooManyPorts | SwitchError::MixedLinks | SwitchError::TooManyRaw => {
            CliError::usage(error.to_string())
        }
        SwitchError::WorkerGone => CliError::internal(error.to_string()),
        _ => CliError::machine(error.to_string()),
    }
}

struct Running {
    state: Mutex<State>,
}

#[expect(clippy::large_enum_variant, reason = "there is one in a process")]
enum State {
    Running(Live),
    /// With its last words, if the workers had any.
    Stopped(Option<Snapshot>),
}

/// The workers, and their ports as the operator knows them.
struct Live {
    switch: Workers,
    names: Arc<Names>,
    tunnels: TunnelMode,
    specs: BTreeMap<PortId, PortSpec>,
    /// Those that write captures to files; each ends with its port.
    captures: Vec<JoinHandle<()>>,
}

impl Live {
    /// Hands an open port to the workers.
    fn join(&mut self, spec: PortSpec, port: queue::Port) -> Result<PortId, CliError> {
        let file = wire::capture_file(&spec)?;
        // Held until the name is known: the port may have news at once.
        let mut names = self.names.lock();
        let id = self.switch.add(port, coalescing(&spec)).map_err(refused)?;
        let named = Named {
            name: spec.name.as_str().to_owned(),
            told_gone: false,
        };
        names.insert(id, named);
        drop(names);
        if let Some(file) = file {
            let recorder = self.switch.capture(id).map_err(refused)?;
            let thread = wire::write_capture(spec.name.as_str(), recorder, file)?;
            self.captures.push(thread);
        }
        self.specs.insert(id, spec);
        Ok(id)
    }

    fn add(&mut self, spec: PortSpec) -> Result<PortStatus, CliError> {
        config::check_joins(&spec, self.specs.values())?;
        let mut port = open(&spec, self.switch.queues(), self.tunnels, None)?;
        set_mtu(&spec, &mut port)?;
        let id = self.join(spec, port)?;
        self.port(id)
    }

    fn capture(&self, name: &str) -> Result<Recorder, CliError> {
        self.switch.capture(self.find(name)?).map_err(refused)
    }

    fn remove(&mut self, name: &str) -> Result<PortStatus, CliError> {
        let id = self.find(name)?;
        let last = self.port(id)?;
        self.names.lock().remove(&id);
        self.specs.remove(&id);
        self.switch.remove(id).map_err(refused)?;
        Ok(last)
    }

    /// The port of that name.
    fn find(&self, name: &str) -> Result<PortId, CliError> {
        let mut specs = self.specs.iter();
        let found = specs.find(|(_, spec)| spec.name.as_str() == name);
        found.map(|(id, _)| *id).ok_or_else(|| {
            let names: Vec<_> = self.specs.values().map(|spec| spec.name.as_str()).collect();
            CliError::usage(format!("there is no port `{name}`")).way_out(match names.len() {
                0 => "there is none".to_owned(),
                _ => format!("the ports are {}", names.join(", ")),
            })
        })
    }

    fn name(&self, id: PortId) -> &str {
        self.specs.get(&id).map_or("?", |spec| spec.name.as_str())
    }

    /// The port as it is.
    fn port(&self, id: PortId) -> Result<PortStatus, CliError> {
        let state = self.switch.state().map_err(refused)?;
        let port = state.ports.iter().find(|port| port.id == id);
        let port = port.ok_or_else(|| refused(SwitchError::NoSuchPort))?;
        Ok(status(port, self.name(id), &device::drops()))
    }

    fn snapshot(&self) -> Result<Snapshot, CliError> {
        let state = self.switch.state().map_err(refused)?;
        Ok(snapshot(|id| self.name(id), &state))
    }

    fn path(&self, from: &str, to: &str) -> Result<PathReport, CliError> {
        let (from_id, to_id) = (self.find(from)?, self.find(to)?);
        if from_id == to_id {
            return Err(
                CliError::usage(format!("nothing goes from port `{from}` back to it"))
                    .way_out("name two ports"),
            );
        }
        let state = self.switch.state().map_err(refused)?;
        let port = |id| {
            let port = state.ports.iter().find(|port| port.id == id);
            port.ok_or_else(|| refused(SwitchError::NoSuchPort))
        };
        Ok(path::report(
            (from, port(from_id)?),
            (to, port(to_id)?),
            self.tunnels,
        ))
    }

    fn fdb(&self) -> Result<Fdb, CliError> {
        let mut stations = self.switch.stations().map_err(refused)?;
        stations.sort_by_key(|seen| (seen.station.vid, seen.station.mac));
        let entry = |seen: &jumbo_switch::fdb::Seen| FdbEntry {
            mac: seen.station.mac.map(|byte| format!("{byte:02x}")).join(":"),
            vlan: Some(seen.station.vid).filter(|vid| *vid != 0),
            port: self.name(seen.port).to_owned(),
            age_s: seen.age_s,
        };
        Ok(Fdb {
            stations: stations.iter().map(entry).collect(),
        })
    }
}

impl Running {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the switch, if it still runs.
    fn live<T>(&self, ask: impl FnOnce(&mut Live) -> Result<T, CliError>) -> Result<T, CliError> {
        match &mut *self.state() {
            State::Running(live) => ask(live),
            State::Stopped(_) => Err(CliError::failed("the switch is stopping")),
        }
    }
}

impl Switch for Running {
    fn snapshot(&self) -> Result<Snapshot, CliError> {
        match &*self.state() {
            State::Running(live) => live.snapshot(),
            State::Stopped(Some(last)) => Ok(last.clone()),
            State::Stopped(None) => Err(refused(SwitchError::WorkerGone)),
        }
    }

    fn capture(&self, name: &str) -> Result<Recorder, CliError> {
        self.live(|live| live.capture(name))
    }

    fn path(&self, from: &str, to: &str) -> Result<PathReport, CliError> {
        self.live(|live| live.path(from, to))
    }

    fn fdb(&self) -> Result<Fdb, CliError> {
        self.live(|live| live.fdb())
    }

    fn add_port(&self, spec: PortSpec) -> Result<PortStatus, CliError> {
        self.live(|live| live.add(spec))
    }

    fn remove_port(&self, name: &str) -> Result<PortStatus, CliError> {
        self.live(|live| live.remove(name))
    }

    fn stop(&self) -> Result<Snapshot, CliError> {
        let mut state = self.state();
        let running = std::mem::replace(&mut *state, State::Stopped(None));
        *state = match running {
            State::Running(live) => {
                let Live {
                    switch,
                    specs,
                    captures,
                    ..
                } = live;
                let name = |id| {
                    specs
                        .get(&id)
                        .map_or("?", |spec: &PortSpec| spec.name.as_str())
                };
                let last = switch.stop().ok();
                for capture in captures {
                    // It has said what went wrong, if anything did.
                    let _ = capture.join();
                }
                State::Stopped(last.map(|state| snapshot(name, &state)))
            }
            stopped => stopped,
        };
        drop(state);
        self.snapshot()
    }
}

fn snapshot<'a>(name: impl Fn(PortId) -> &'a str, state: &switch::State) -> Snapshot {
    let books = state.books;
    let drops = device::drops();
    Snapshot {
        workers: state.workers as u64,
        fdb_entries: state.fdb_entries as u64,
        news_lost: state.news_lost,
        cpu_user_s: state.cpu.user.as_secs_f64(),
        cpu_system_s: state.cpu.system.as_secs_f64(),
        books: Books {
            received: books.received,
            made_by_segmentation: books.made_by_segmentation,
            flood_copies: books.flood_copies,
            sent: books.sent,
            absorbed_by_merging: books.absorbed_by_merging,
            dropped: books.dropped,
            resting: books.resting,
            balanced: books.balanced(),
        },
        ports: state
            .ports
            .iter()
            .map(|port| status(port, name(port.id), &drops))
            .collect(),
        removed: removed(&state.removed),
    }
}

fn removed(removed: &switch::Removed) -> Option<Removed> {
    let switch::Removed { ports, counters } = removed;
    (*ports > 0).then(|| Removed {
        ports: *ports,
        rx: traffic(&counters.rx.traffic),
        tx: traffic(&counters.tx),
        dropped: counters.dropped(),
        reasons: reasons(counters),
    })
}

/// Whether the port works and, if not, why.
fn state(port: &switch::PortState) -> (PortState, Option<String>) {
    match &port.info.presence {
        _ if !port.up => (PortState::Gone, None),
        Presence::Up => (PortState::Up, None),
        Presence::Waiting(why) => (PortState::Waiting, Some(why.clone())),
        Presence::Live(health) => match health.get() {
            None => (PortState::Up, None),
            Some(why) => (PortState::Stopped, Some(why.clone())),
        },
    }
}

fn status(port: &switch::PortState, name: &str, drops: &device::Drops) -> PortStatus {
    let (state, why) = state(port);
    PortStatus {
        name: name.to_owned(),
        kind: port.info.kind.to_owned(),
        device: port.info.device.clone(),
        mtu: port.info.mtu as u64,
        state,
        why,
        capabilities: port
            .info
            .capabilities
            .iter()
            .map(|cap| capability(cap, port))
            .collect(),
        rx: traffic(&port.counters.rx.traffic),
        tx: traffic(&port.counters.tx),
        dropped: port.counters.dropped(),
        device_dropped: drops.of(&port.info),
        flooded: port.counters.flooded,
        software_segmented: port.counters.software_segmented,
        software_checksums: port.counters.software_checksums,
        coalesce: port.coalesce.kind.name().to_owned(),
        hold_us: port.coalesce.hold_ns / 1000,
        cwr: cwr(port.coalesce),
        coalesce_max: match port.coalesce.kind {
            topology::Coalesce::Off => 0,
            _ => port.coalesce.l3_total_max.into(),
        },
        resting: rest(port.resting),
        promoted: rest(port.counters.promoted),
        lossy_segmented: port.counters.lossy_segmented,
        rsc: (!port.coalesce.kind.is_lossless()).then(|| rsc(&port.counters.rsc)),
        waits: port.counters.waits,
        announced: port.counters.announced,
        reasons: reasons(&port.counters),
    }
}

fn cwr(coalesce: Coalescing) -> Option<String> {
    let gro = coalesce.kind == topology::Coalesce::Gro;
    gro.then(|| Cwr(coalesce.cwr).to_string())
}

fn rest(gauge: Gauge) -> Rest {
    Rest {
        packets: gauge.packets,
        bytes: gauge.bytes,
    }
}

fn rsc(stats: &RscStats) -> RscStatus {
    RscStatus {
        coalesced_packets: stats.coalesced_packets,
        coalesced_octets: stats.coalesced_octets,
        coalesce_events: stats.coalesce_events,
        aborts: stats.aborts,
    }
}

/// What was negotiated, corrected by what the kernel has refused since.
fn capability(cap: &queue::Capability, port: &switch::PortState) -> Capability {
    let lost = match cap.name {
        "tx_tso4" => port.info.takes.tso4() && !port.takes.tso4(),
        "tx_tso6" => port.info.takes.tso6() && !port.takes.tso6(),
        "tx_uso" => port.info.takes.uso() && !port.takes.uso(),
        _ => false,
    };
    Capability {
        name: cap.name.to_owned(),
        offered: cap.offered,
        in_use: cap.in_use && !lost,
        why: if lost {
            Some("the kernel kept refusing it at run time".to_owned())
        } else {
            cap.why.clone()
        },
    }
}

fn traffic(traffic: &queue::Traffic) -> Traffic {
    Traffic {
        packets: traffic.packets,
        bytes: traffic.bytes,
        super_packets: traffic.super_packets,
        segments_per_packet: match traffic.packets {
            0 => 0.0,
            packets => traffic.segments as f64 / packets as f64,
        },
    }
}

/// Every reason of every stage, by stage.
fn reasons(counters: &PortCounters) -> BTreeMap<String, BTreeMap<String, ReasonCount>> {
    let mut stages = BTreeMap::new();
    note(&mut stages, &counters.rx.faults);
    note(&mut stages, &counters.rx.losses);
    note(&mut stages, &counters.rx.opaque);
    note(&mut stages, &counters.forward);
    note(&mut stages, &counters.alone);
    note(&mut stages, &counters.ends);
    note(&mut stages, &counters.complete);
    note(&mut stages, &counters.tx_faults);
    stages
}

fn note<R: Reason>(
    stages: &mut BTreeMap<String, BTreeMap<String, ReasonCount>>,
    counts: &Counts<R>,
) {
    let stage = stages.entry(R::STAGE.to_owned()).or_default();
    for (reason, count) in counts.iter() {
        let doc = reason.doc().trim().to_owned();
        stage.insert(reason.name().to_owned(), ReasonCount { count, doc });
    }
}
