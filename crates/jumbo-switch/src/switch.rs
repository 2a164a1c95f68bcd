//! The workers together: start them, hand them ports, take them back, ask, stop.

use std::collections::{HashMap, VecDeque};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use jumbo_engine::packet::Link;
use jumbo_engine::pending::Caps;
use jumbo_ports::queue::{Bounds, Port, PortInfo, Queue, Workers};
use jumbo_ports::wrap::capture::{Recorder, capture};
use rustix::io::Errno;

use crate::counters::{Books, Gauge, PortCounters};
use crate::fdb::{Seen, Station};
use crate::path::Plane;
use crate::patience::Waits;
use crate::spin::Spin;
use crate::sys::CpuTime;
use crate::topology::{Coalescing, PORTS_MAX, Policy, PortId, Slot, TunnelMode};
use crate::worker::{Exchange, Mailbox, Message, Report, Worker};

/// How long a worker may take to answer: it does so between two bursts.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Ids that rest before they name another port: the news that a port is gone must
/// not reach a reader who takes it for the next port of that id.
const RESTING_IDS: usize = 16;

/// What the switch as a whole is told.
#[derive(Clone, Debug)]
pub struct SwitchConfig {
    /// Threads; each owns one queue of every port.
    pub workers: usize,
    /// Seconds after which a station that was not seen is forgotten (IEEE 802.1Q default 300).
    pub fdb_age_s: u32,
    /// Bounds of a burst.
    pub bounds: Bounds,
    /// What is done to packets in tunnels. With [`TunnelMode::Off`] no port may negotiate
    /// super-packets in them.
    pub tunnels: TunnelMode,
    /// How long packets wait for a port that is full.
    pub waits: Waits,
    /// How long at most a worker looks for packets by itself before it sleeps; zero: not at all.
    pub spin: Duration,
}

impl Default for SwitchConfig {
    fn default() -> Self {
        Self {
            workers: 1,
            fdb_age_s: 300,
            bounds: Bounds::default(),
            tunnels: TunnelMode::default(),
            waits: Waits::default(),
            spin: Duration::ZERO,
        }
    }
}

/// Why the switch, or a port, could not start.
#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    /// The kernel refuses what a worker needs.
    #[error("{operation}: {source}")]
    Kernel {
        /// What was tried.
        operation: &'static str,
        /// What the kernel said.
        source: Errno,
    },
    /// No thread could be started.
    #[error("starting a worker thread: {0}")]
    Thread(std::io::Error),
    /// No random seed.
    #[error("reading random bytes: {0}")]
    Random(String),
    /// Too many ports.
    #[error("a switch has at most {PORTS_MAX} ports")]
    TooManyPorts,
    /// A port with a wrong number of queues.
    #[error("the port has {has} queues, the switch {wants} workers: a port needs a queue for each")]
    Queues {
        /// What the port has.
        has: usize,
        /// What the switch wants.
        wants: usize,
    },
    /// Ports with and without Ethernet headers.
    #[error(
        "ports of raw IP and of Ethernet cannot be joined: nothing here makes one's packets the other's"
    )]
    MixedLinks,
    /// A third port of raw IP.
    #[error(
        "a switch has two ports of raw IP and no more: what comes in by one leaves by the other"
    )]
    TooManyRaw,
    /// There is no such port.
    #[error("there is no port of this id")]
    NoSuchPort,
    /// A port's control side cannot start.
    #[error("{0}")]
    Control(String),
    /// A worker has ended, which it never should.
    #[error("a worker has ended")]
    WorkerGone,
}

/// A running switch. Dropping it stops it.
#[derive(Debug)]
pub struct Switch {
    workers: Vec<(Mailbox, Option<JoinHandle<()>>)>,
    ports: Vec<Entry>,
    /// What ports that were taken out have counted, and how many there were.
    removed: Removed,
    /// The first id that was never used.
    next: u16,
    /// Ids that may be used again, the longest unused first.
    freed: VecDeque<PortId>,
    waits: Waits,
    events: Option<Receiver<Event>>,
}

/// A port as the control side knows it.
#[derive(Debug)]
struct Entry {
    id: PortId,
    link: Link,
    /// Changed by the port's own control side while the switch runs.
    info: Arc<Mutex<PortInfo>>,
    coalesce: Coalescing,
    /// Stops the port's control side when dropped.
    control: Option<Running>,
}

/// A port's control side, while it runs.
struct Running(#[expect(dead_code, reason = "held to be dropped")] Box<dyn Send>);

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Running")
    }
}

/// The workers, as one port's control side reaches them.
#[derive(Debug)]
struct Reach {
    port: PortId,
    mailboxes: Vec<Mailbox>,
    info: Arc<Mutex<PortInfo>>,
}

fn set_info(shown: &Mutex<PortInfo>, info: PortInfo) {
    *shown.lock().unwrap_or_else(PoisonError::into_inner) = info;
}

impl Workers for Reach {
    fn exchange(&mut self, queues: Vec<Box<dyn Queue>>, info: PortInfo) -> Vec<Box<dyn Queue>> {
        let (reply, answers) = channel();
        for (worker, (mailbox, queue)) in self.mailboxes.iter().zip(queues).enumerate() {
            let exchange = Exchange {
                port: self.port,
                queue,
                takes: info.takes,
                mtu: info.mtu,
                reply: reply.clone(),
                worker,
            };
            mailbox.send(Message::Exchange(Box::new(exchange)));
        }
        drop(reply);
        set_info(&self.info, info);
        // Ends when every worker has answered or dropped the question.
        let mut old: Vec<_> = answers.iter().collect();
        old.sort_by_key(|(worker, _)| *worker);
        old.into_iter().map(|(_, queue)| queue).collect()
    }

    fn tell(&mut self, info: PortInfo) {
        for mailbox in &self.mailboxes {
            mailbox.send(Message::SetMtu(self.port, info.mtu));
        }
        set_info(&self.info, info);
    }

    fn gone(&mut self) {
        // It tells the others.
        if let Some(first) = self.mailboxes.first() {
            first.send(Message::Lose(self.port));
        }
    }

    fn announce(&mut self, station: [u8; 6]) {
        // Nobody's own address.
        if station[0] & 1 != 0 || station == [0; 6] {
            return;
        }
        for mailbox in &self.mailboxes {
            mailbox.send(Message::Learn(Station::untagged(station), self.port));
        }
        // Each has a queue of every port: one of them tells the others' ports.
        if let Some(first) = self.mailboxes.first() {
            first.send(Message::Announce(station, self.port));
        }
    }
}

/// What the operator should hear of, as it happens.
#[derive(Debug)]
pub enum Event {
    /// A port's device went away; said once, by the worker that noticed first or by each.
    PortGone(PortId),
    /// A port's other end broke the rules, and which; the port is served no more
    /// until it starts anew.
    PortStopped(PortId, String),
    /// A worker ended because it was told to.
    Stopped,
    /// A worker ended because the kernel refused what it needs.
    Failed(Errno),
    /// A worker ended by a defect of ours.
    Panicked,
}

/// Tells how the thread it lives in ended, whatever happens to that thread.
struct Farewell {
    to: Sender<Event>,
    how: Option<Event>,
}

/// A worker's thread.
fn work(worker: Worker, mut farewell: Farewell) {
    farewell.how = Some(match worker.run() {
        Ok(()) => Event::Stopped,
        Err(errno) => Event::Failed(errno),
    });
}

impl Drop for Farewell {
    fn drop(&mut self) {
        // Whoever listened may have gone.
        let _ = self.to.send(self.how.take().unwrap_or(Event::Panicked));
    }
}

/// A port and what all workers have counted on it.
#[derive(Clone, Debug)]
pub struct PortState {
    /// The port.
    pub id: PortId,
    /// What it is.
    pub info: PortInfo,
    /// What is done to packets that leave by it.
    pub coalesce: Coalescing,
    /// Whether all workers' queues of it still work.
    pub up: bool,
    /// What all workers still offer it, after what its kernel refused.
    pub takes: Caps,
    /// The sum over all workers.
    pub counters: PortCounters,
    /// What rests on the way to it, with all workers.
    pub resting: Gauge,
}

/// Ports that were taken out.
#[derive(Clone, Debug, Default)]
pub struct Removed {
    /// How many.
    pub ports: u64,
    /// The sum of what they had counted.
    pub counters: PortCounters,
}

/// The whole switch at one moment.
#[derive(Clone, Debug)]
pub struct State {
    /// Every port that was not taken out.
    pub ports: Vec<PortState>,
    /// Those that were.
    pub removed: Removed,
    /// The sum of the workers' books, each of which balances.
    pub books: Books,
    /// Stations known to the worker that knows most.
    pub fdb_entries: usize,
    /// News between workers that was lost to a full mailbox.
    pub news_lost: u64,
    /// Times a worker looked for what is ready. Where nothing comes it does not grow, but for each time it is asked.
    pub wakes: u64,
    /// CPU time of all workers.
    pub cpu: CpuTime,
    /// Workers.
    pub workers: usize,
}

impl Switch {
    /// Starts the workers, without ports.
    ///
    /// # Errors
    /// What the machine refuses; nothing is left running.
    pub fn start(config: &SwitchConfig) -> Result<Self, SwitchError> {
        let kernel = |operation| move |source| SwitchError::Kernel { operation, source };
        let mut ends = Vec::new();
        for _ in 0..config.workers.max(1) {
            ends.push(Mailbox::new().map_err(kernel("making a mailbox"))?);
        }
        let mailboxes: Vec<Mailbox> = ends.iter().map(|(mailbox, _)| mailbox.clone()).collect();
        let mut switch = Self {
            workers: Vec::new(),
            ports: Vec::new(),
            removed: Removed::default(),
            next: 0,
            freed: VecDeque::new(),
            waits: config.waits,
            events: None,
        };
        let (says, events) = channel();
        switch.events = Some(events);
        for (index, (mailbox, receiver)) in ends.into_iter().enumerate() {
            let seed = getrandom::u64().map_err(|e| SwitchError::Random(e.to_string()))?;
            let mut plane = Plane::new(config.bounds, config.fdb_age_s, seed);
            plane.set_tunnels(config.tunnels);
            let mut others = mailboxes.clone();
            others.remove(index);
            let worker = Worker::new(plane, &mailbox, receiver, others, says.clone())
                .map_err(kernel("making an epoll set"))?
                .spinning(Spin::new(config.spin));
            let farewell = Farewell {
                to: says.clone(),
                how: None,
            };
            let thread = std::thread::Builder::new()
                .name(format!("jumbo-w{index}"))
                .spawn(move || work(worker, farewell))
                .map_err(SwitchError::Thread)?;
            switch.workers.push((mailbox, Some(thread)));
        }
        Ok(switch)
    }

    /// How many queues a port must have.
    pub fn queues(&self) -> usize {
        self.workers.len()
    }

    /// Hands a port to the workers.
    ///
    /// # Errors
    /// Too many ports, or a worker that is gone.
    pub fn add(
        &mut self,
        port: Port,
        coalesce: impl Into<Coalescing>,
    ) -> Result<PortId, SwitchError> {
        let coalesce = coalesce.into();
        if port.queues.len() != self.workers.len() {
            return Err(SwitchError::Queues {
                has: port.queues.len(),
                wants: self.workers.len(),
            });
        }
        let link = (port.queues.first()).map_or(Link::Ethernet, |queue| queue.link());
        self.check_link(link)?;
        let id = self.free_id().ok_or(SwitchError::TooManyPorts)?;
        match self.hand_out(id, port, coalesce) {
            Ok(entry) => {
                self.ports.push(entry);
                Ok(id)
            }
            Err(error) => {
                // Some workers may have it.
                if self.take_back(id).is_ok() {
                    self.freed.push_back(id);
                }
                Err(error)
            }
        }
    }

    fn free_id(&mut self) -> Option<PortId> {
        let fresh = usize::from(self.next) < PORTS_MAX;
        if fresh && self.freed.len() <= RESTING_IDS {
            self.next += 1;
            return Some(PortId(self.next - 1));
        }
        self.freed.pop_front()
    }

    /// Gives each worker its queue and starts the port's control side.
    fn hand_out(&self, id: PortId, port: Port, coalesce: Coalescing) -> Result<Entry, SwitchError> {
        let link = (port.queues.first()).map_or(Link::Ethernet, |queue| queue.link());
        let policy = Policy {
            coalesce,
            takes: port.info.takes,
            mtu: port.info.mtu,
        };
        let info = Arc::new(Mutex::new(port.info));
        for ((mailbox, _), queue) in self.workers.iter().zip(port.queues) {
            let slot = Box::new(Slot::new(id, queue, policy).waiting(self.waits));
            if !mailbox.send(Message::Add(slot)) {
                return Err(SwitchError::WorkerGone);
            }
        }
        let mut entry = Entry {
            id,
            link,
            info: info.clone(),
            coalesce,
            control: None,
        };
        if let Some(control) = port.control {
            let mailboxes = self.workers.iter().map(|(mailbox, _)| mailbox.clone());
            let reach = Reach {
                port: id,
                mailboxes: mailboxes.collect(),
                info,
            };
            let running = control.start(Box::new(reach));
            entry.control = Some(Running(running.map_err(SwitchError::Control)?));
        }
        Ok(entry)
    }

    /// Raw IP has no addresses to forward by: it joins two ports of its kind.
    fn check_link(&self, link: Link) -> Result<(), SwitchError> {
        if self.ports.iter().any(|entry| entry.link != link) {
            return Err(SwitchError::MixedLinks);
        }
        if link == Link::RawIp && self.ports.len() >= 2 {
            return Err(SwitchError::TooManyRaw);
        }
        Ok(())
    }

    /// Writes down what passes a port, until nobody reads it or the port goes.
    ///
    /// # Errors
    /// [`SwitchError::NoSuchPort`].
    pub fn capture(&self, port: PortId) -> Result<Recorder, SwitchError> {
        let entry = self.ports.iter().find(|entry| entry.id == port);
        let entry = entry.ok_or(SwitchError::NoSuchPort)?;
        let info = entry.info.lock().unwrap_or_else(PoisonError::into_inner);
        let (probe, recorder) = capture(&info.device, entry.link);
        for (mailbox, _) in &self.workers {
            mailbox.send(Message::Capture(port, Box::new(probe.clone())));
        }
        Ok(recorder)
    }

    /// Takes a port out. On return its queues are closed, no worker knows of it,
    /// and its id may be used again; what it had counted is in [`State::removed`].
    ///
    /// # Errors
    /// No such port, or a worker that is gone.
    pub fn remove(&mut self, port: PortId) -> Result<(), SwitchError> {
        let index = self.ports.iter().position(|entry| entry.id == port);
        let index = index.ok_or(SwitchError::NoSuchPort)?;
        // Its control side ends first: it waits for answers of the workers.
        drop(self.ports.remove(index));
        let counters = self.take_back(port)?;
        self.removed.ports += 1;
        self.removed.counters.add(&counters);
        self.freed.push_back(port);
        Ok(())
    }

    /// Has every worker forget a port. Twice: what one worker told another about it
    /// before it answered lies in that one's mailbox by then, before the second question.
    fn take_back(&self, port: PortId) -> Result<PortCounters, SwitchError> {
        let mut sum = PortCounters::default();
        for _ in 0..2 {
            for counters in self.ask(|reply| Message::Take(port, reply))? {
                sum.add(&counters);
            }
        }
        Ok(sum)
    }

    /// Every station that any worker knows, once, as the worker knows it that has
    /// seen it last. In no order.
    ///
    /// # Errors
    /// [`SwitchError::WorkerGone`] if one does not answer.
    pub fn stations(&self) -> Result<Vec<Seen>, SwitchError> {
        let mut latest: HashMap<Station, Seen> = HashMap::new();
        for seen in self.ask(Message::Stations)?.into_iter().flatten() {
            let known = latest.entry(seen.station).or_insert(seen);
            if seen.age_s < known.age_s {
                *known = seen;
            }
        }
        Ok(latest.into_values().collect())
    }

    /// What is true now; every worker answers between two bursts.
    ///
    /// # Errors
    /// [`SwitchError::WorkerGone`] if one does not answer.
    pub fn state(&self) -> Result<State, SwitchError> {
        let reports = self.reports()?;
        let mut state = State {
            ports: Vec::new(),
            removed: self.removed.clone(),
            books: Books::default(),
            fdb_entries: reports.iter().map(|r| r.fdb_entries).max().unwrap_or(0),
            news_lost: reports.iter().map(|r| r.news_lost).sum(),
            wakes: reports.iter().map(|r| r.wakes).sum(),
            cpu: CpuTime::default(),
            workers: self.workers.len(),
        };
        for report in &reports {
            state.books.add(&report.books);
            state.cpu.user += report.cpu.user;
            state.cpu.system += report.cpu.system;
        }
        for entry in &self.ports {
            let info = entry.info.lock().unwrap_or_else(PoisonError::into_inner);
            let info = info.clone();
            let mut port = PortState {
                id: entry.id,
                coalesce: entry.coalesce,
                up: true,
                takes: info.takes,
                info,
                counters: PortCounters::default(),
                resting: Gauge::default(),
            };
            for report in reports.iter().flat_map(|report| &report.ports) {
                if report.id == entry.id {
                    port.counters.add(&report.counters);
                    port.resting.add(report.resting);
                    port.up &= report.up;
                    port.takes = report
                        .takes
                        .map_or(port.takes, |takes| port.takes.and(takes));
                }
            }
            state.ports.push(port);
        }
        Ok(state)
    }

    fn reports(&self) -> Result<Vec<Report>, SwitchError> {
        self.ask(Message::Report)
    }

    /// Asks every worker; each answers between two bursts.
    fn ask<T>(&self, question: impl Fn(Sender<T>) -> Message) -> Result<Vec<T>, SwitchError> {
        let (reply, answers) = channel();
        for (mailbox, _) in &self.workers {
            if !mailbox.send(question(reply.clone())) {
                return Err(SwitchError::WorkerGone);
            }
        }
        drop(reply);
        let mut all = Vec::new();
        for _ in &self.workers {
            let answer = answers.recv_timeout(ANSWER_TIMEOUT);
            all.push(answer.map_err(|_| SwitchError::WorkerGone)?);
        }
        Ok(all)
    }

    /// Whether every worker still runs.
    pub fn is_running(&self) -> bool {
        let runs =
            |thread: &Option<JoinHandle<()>>| thread.as_ref().is_some_and(|t| !t.is_finished());
        self.workers.iter().all(|(_, thread)| runs(thread))
    }

    /// Hears what happens. Given once; later calls hear nothing.
    pub fn events(&mut self) -> Receiver<Event> {
        self.events.take().unwrap_or_else(|| channel().1)
    }

    /// Stops the workers and tells how it ended.
    ///
    /// # Errors
    /// [`SwitchError::WorkerGone`] if one had ended before.
    pub fn stop(mut self) -> Result<State, SwitchError> {
        // What still rests leaves first; a worker that is gone has nothing.
        let _ = self.ask(Message::RestNoMore);
        let state = self.state();
        self.halt();
        state
    }

    fn halt(&mut self) {
        // First the control sides, which wait for answers of the workers.
        for entry in &mut self.ports {
            entry.control = None;
        }
        for (mailbox, thread) in &mut self.workers {
            mailbox.send(Message::Stop);
            if let Some(thread) = thread.take() {
                // A worker that panicked has said so on stderr.
                let _ = thread.join();
            }
        }
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.halt();
    }
}
