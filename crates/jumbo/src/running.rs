//! The switch behind the seam: ports opened as configured, workers' figures made into a status.

use std::collections::BTreeMap;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jumbo_engine::pending::Caps;
use jumbo_engine::reason::{Counts, Reason};
use jumbo_ports::queue;
use jumbo_ports::queue::Presence;
use jumbo_ports::tap::{self, TapConfig, TapError};
use jumbo_ports::vhost::{self, Notice, VhostConfig};
use jumbo_switch::switch::{self, Event, Switch as Workers, SwitchConfig, SwitchError};
use jumbo_switch::topology;

use crate::config::values::{Coalesce, Mtu};
use crate::error::CliError;
use crate::output;
use crate::switch_api::{
    Books, Capability, Offload, PortKind, PortSpec, PortState, PortStatus, ReasonCount, RunConfig,
    Snapshot, StopCause, Switch, Traffic,
};

/// Worker threads where nothing is said: one is right until it is busy.
pub(crate) const WORKERS_DEFAULT: usize = 1;

/// Opens every port, then starts forwarding between them. Whatever was made is gone again on an error.
pub(crate) fn start(
    config: &RunConfig,
    broken: Sender<StopCause>,
) -> Result<Arc<dyn Switch>, CliError> {
    let workers = config
        .workers
        .map_or(WORKERS_DEFAULT, |workers| usize::from(workers.get()));
    let mut ports = config
        .ports
        .iter()
        .map(|spec| open(spec, workers).map(|port| (spec, port)))
        .collect::<Result<Vec<_>, _>>()?;
    // Only now that all are there: a device that was there before keeps its MTU if another cannot be opened.
    for (spec, port) in &mut ports {
        if let (Some(mtu), PortKind::Tap { .. }) = (spec.mtu, &spec.kind) {
            tap::set_mtu(&mut port.info, mtu.get().into()).map_err(|e| port_error(spec, &e))?;
        }
    }
    let mut switch = Workers::start(&SwitchConfig {
        workers,
        fdb_age_s: config.fdb_age.seconds(),
        ..SwitchConfig::default()
    })
    .map_err(refused)?;
    let names: Vec<_> = (config.ports.iter())
        .map(|port| port.name.as_str().to_owned())
        .collect();
    watch(&mut switch, names.clone(), broken);
    for (spec, port) in ports {
        let coalesce = match spec.coalesce {
            Coalesce::Off => topology::Coalesce::Off,
            Coalesce::Gro => topology::Coalesce::Gro,
        };
        switch.add(port, coalesce).map_err(refused)?;
    }
    Ok(Arc::new(Running {
        names,
        state: Mutex::new(State::Running(switch)),
    }))
}

/// A worker never ends by itself; should one, the run ends with it.
fn watch(switch: &mut Workers, names: Vec<String>, broken: Sender<StopCause>) {
    let events = switch.events();
    std::thread::spawn(move || {
        // Each worker says it; the operator hears it once.
        let mut gone = Vec::new();
        while let Ok(event) = events.recv() {
            let how = match event {
                Event::Stopped => return,
                Event::PortGone(port) if gone.contains(&port) => continue,
                Event::PortStopped(port, why) => {
                    let name = names.get(usize::from(port.0)).map_or("?", String::as_str);
                    output::talk(format_args!(
                        "port `{name}` has stopped: {why}. The other ports go on; it starts again when its guest resets the device"
                    ));
                    continue;
                }
                Event::PortGone(port) => {
                    gone.push(port);
                    let name = names.get(usize::from(port.0)).map_or("?", String::as_str);
                    output::talk(format_args!(
                        "port `{name}`: its device went away; the other ports go on. To have it back, start again"
                    ));
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

fn open(spec: &PortSpec, workers: usize) -> Result<queue::Port, CliError> {
    let caps = caps(spec.offload);
    match &spec.kind {
        PortKind::Tap { device } => tap::open(&TapConfig {
            device: device.as_str().to_owned(),
            queues: workers,
            hands: caps,
            takes: caps,
            mtu: None,
        })
        .map_err(|error| port_error(spec, &error)),
        PortKind::VhostUser {
            path,
            client,
            queues,
            packed,
        } => {
            let config = VhostConfig {
                path: path.as_path().to_owned(),
                client: *client,
                queue_pairs: queues.get(),
                workers,
                hands: caps,
                takes: caps,
                mtu: spec.mtu.map(Mtu::get),
                packed: *packed,
                hash_report: false,
                state: None,
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

fn port_error(spec: &PortSpec, error: &TapError) -> CliError {
    let text = format!("port `{}`: {error}", spec.name.as_str());
    match error {
        TapError::BadName { .. } | TapError::OtherKind { .. } | TapError::Mtu { .. } => {
            CliError::usage(text)
        }
        _ => CliError::machine(text),
    }
}

fn caps(offload: Offload) -> Caps {
    let Offload { csum, tso, uso } = offload;
    Caps::new(csum, tso, tso, tso, uso)
}

fn refused(error: SwitchError) -> CliError {
    match error {
        SwitchError::TooManyPorts => CliError::usage(error.to_string()),
        SwitchError::WorkerGone => CliError::internal(error.to_string()),
        _ => CliError::machine(error.to_string()),
    }
}

struct Running {
    names: Vec<String>,
    state: Mutex<State>,
}

enum State {
    Running(Workers),
    /// With its last words, if the workers had any.
    Stopped(Option<Snapshot>),
}

impl Running {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Switch for Running {
    fn snapshot(&self) -> Result<Snapshot, CliError> {
        match &*self.state() {
            State::Running(workers) => match workers.state() {
                Ok(state) => Ok(snapshot(&self.names, &state)),
                Err(error) => Err(refused(error)),
            },
            State::Stopped(Some(last)) => Ok(last.clone()),
            State::Stopped(None) => Err(refused(SwitchError::WorkerGone)),
        }
    }

    fn stop(&self) -> Result<Snapshot, CliError> {
        let mut state = self.state();
        let running = std::mem::replace(&mut *state, State::Stopped(None));
        *state = match running {
            State::Running(workers) => {
                let last = workers.stop().ok();
                State::Stopped(last.map(|state| snapshot(&self.names, &state)))
            }
            stopped => stopped,
        };
        drop(state);
        self.snapshot()
    }
}

fn snapshot(names: &[String], state: &switch::State) -> Snapshot {
    let books = state.books;
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
            .zip(names)
            .map(|(port, name)| status(port, name))
            .collect(),
    }
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

fn status(port: &switch::PortState, name: &str) -> PortStatus {
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
        flooded: port.counters.flooded,
        software_segmented: port.counters.software_segmented,
        software_checksums: port.counters.software_checksums,
        waits: port.counters.waits,
        reasons: reasons(port),
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
fn reasons(port: &switch::PortState) -> BTreeMap<String, BTreeMap<String, ReasonCount>> {
    let counters = &port.counters;
    let mut stages = BTreeMap::new();
    note(&mut stages, &counters.rx.faults);
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
