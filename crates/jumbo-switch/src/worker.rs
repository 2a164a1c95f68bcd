//! A worker: wakes up, runs the path until its queues are empty, looks for more a
//! little longer if it is told to, sleeps.
//!
//! Each worker has a thread, an epoll set of its queues' files, and a mailbox
//! with an eventfd. Queues that became ready are served in turn, a batch each,
//! so that no port starves another. An idle worker is not woken by anything.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError};
use std::time::Duration;

use jumbo_engine::coalesce::End;
use jumbo_engine::pending::Caps;
use jumbo_ports::queue::{Queue, RxEnd};
use jumbo_ports::wrap::capture::Probe;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::alarm::Alarm;
use crate::counters::{Books, Gauge, PortCounters};
use crate::fdb::{Seen, Station};
use crate::path::{Plane, seconds};
use crate::spin::Spin;
use crate::switch::Event;
use crate::sys::CpuTime;
use crate::topology::{PortId, Slot};

/// Messages that may wait in a mailbox. News that finds it full is lost, and
/// told again with the station's next packet.
pub(crate) const MAILBOX: usize = 4096;

/// How long the control side waits before it tries a full mailbox again.
const FULL_PAUSE: Duration = Duration::from_micros(200);

/// Batches one queue is served before the mailbox and epoll are looked at again.
const ROUNDS_MAX: usize = 16;

/// Full batches in a row after which a queue counts as busy. A busy queue is
/// taken out of the epoll set: the kernel would call epoll for every packet
/// that arrives, on the sender's time, though nobody sleeps.
const BUSY_BATCHES: u8 = 4;

/// While a worker looks for packets by itself, every so many looks are at epoll too: the
/// mailbox, and queues of the kernel's. A system call costs as much as they all.
const LOOKS_A_CALL: u8 = 8;

/// The epoll names of the mailbox and the alarm; ports use their id.
const MAILBOX_EVENT: u64 = u64::MAX;
const ALARM_EVENT: u64 = u64::MAX - 1;

/// What a worker may be told.
#[derive(Debug)]
pub(crate) enum Message {
    /// Another worker saw a station.
    Learn(Station, PortId),
    /// A port's other end says that a station is here now.
    Announce([u8; 6], PortId),
    /// Here is your queue of a new port.
    Add(Box<Slot>),
    /// A port's device went away: another worker noticed.
    Remove(PortId),
    /// A port's device is gone: the others are to hear of it.
    Lose(PortId),
    /// A port is taken out: forget it and tell what it had counted.
    Take(PortId, Sender<PortCounters>),
    /// Tell which stations you know.
    Stations(Sender<Vec<Seen>>),
    /// A port's other end has changed: use this queue from now on.
    Exchange(Box<Exchange>),
    /// A port's device takes longer packets from now on, or only shorter ones.
    SetMtu(PortId, usize),
    /// Write down what passes a port.
    Capture(PortId, Box<Probe>),
    /// Tell what you have counted.
    Report(Sender<Report>),
    /// Send what rests, and say when that is done.
    RestNoMore(Sender<()>),
    /// Finish.
    Stop,
}

/// Another queue for a port.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) port: PortId,
    pub(crate) queue: Box<dyn Queue>,
    pub(crate) takes: Caps,
    pub(crate) mtu: usize,
    /// Whom the old one goes to, with the index of this worker.
    pub(crate) reply: Sender<(usize, Box<dyn Queue>)>,
    pub(crate) worker: usize,
}

/// What one worker has counted, at a quiet point.
#[derive(Clone, Debug)]
pub struct Report {
    /// Every port, those whose device went away included.
    pub ports: Vec<PortReport>,
    /// The worker's books; balanced.
    pub books: Books,
    /// Stations it knows.
    pub fdb_entries: usize,
    /// News for other workers that found their mailbox full.
    pub news_lost: u64,
    /// Times it looked for what is ready: asleep before, or in the middle of work.
    pub wakes: u64,
    /// CPU time its thread has used.
    pub cpu: CpuTime,
}

/// One port in a worker's report.
#[derive(Clone, Debug)]
pub struct PortReport {
    /// The port.
    pub id: PortId,
    /// Whether this worker's queue of it still works.
    pub up: bool,
    /// Its counters.
    pub counters: PortCounters,
    /// What rests on the way to it.
    pub resting: Gauge,
    /// What it still takes, after what its kernel refused.
    pub takes: Option<Caps>,
}

/// A way to tell a worker something.
#[derive(Clone, Debug)]
pub(crate) struct Mailbox {
    sender: SyncSender<Message>,
    wake: Arc<OwnedFd>,
}

impl Mailbox {
    /// A mailbox and the end that reads it.
    pub(crate) fn new() -> Result<(Self, Receiver<Message>), Errno> {
        let (sender, receiver) = std::sync::mpsc::sync_channel(MAILBOX);
        let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        let mailbox = Self {
            sender,
            wake: Arc::new(wake),
        };
        Ok((mailbox, receiver))
    }

    /// Leaves a message without waking; `false` if the mailbox is full, and
    /// then wakes its reader: an idle worker would never empty it.
    fn leave(&self, message: Message) -> bool {
        let full = matches!(self.sender.try_send(message), Err(TrySendError::Full(_)));
        if full {
            self.wake();
        }
        !full
    }

    /// Sends a message and wakes the worker; `false` if it is gone. Waits while
    /// the mailbox is full: for the control side, never for a worker.
    pub(crate) fn send(&self, message: Message) -> bool {
        let mut message = message;
        loop {
            let sent = self.sender.try_send(message);
            self.wake();
            message = match sent {
                Ok(()) => return true,
                Err(TrySendError::Disconnected(_)) => return false,
                // Whoever filled it did not wake the reader, who may be asleep.
                Err(TrySendError::Full(message)) => message,
            };
            std::thread::sleep(FULL_PAUSE);
        }
    }

    fn wake(&self) {
        // A full eventfd wakes just as well.
        let _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
    }
}

/// One worker.
#[derive(Debug)]
pub(crate) struct Worker {
    plane: Plane,
    mailbox: Receiver<Message>,
    wake: Arc<OwnedFd>,
    others: Vec<Mailbox>,
    says: Sender<Event>,
    epoll: OwnedFd,
    alarm: Alarm,
    ready: Vec<Ready>,
    /// Queues that were found empty and do not wake us yet.
    awake: Vec<Ready>,
    spin: Spin,
    looks: u8,
    news_lost: u64,
    wakes: u64,
}

/// A queue with packets waiting.
#[derive(Copy, Clone, Debug)]
struct Ready {
    port: PortId,
    /// Full batches in a row, as far as they are counted.
    full: u8,
}

impl Ready {
    fn is_busy(self) -> bool {
        self.full >= BUSY_BATCHES
    }
}

impl Worker {
    /// A worker that reads `mailbox` and teaches `others`.
    pub(crate) fn new(
        plane: Plane,
        own: &Mailbox,
        mailbox: Receiver<Message>,
        others: Vec<Mailbox>,
        says: Sender<Event>,
    ) -> Result<Self, Errno> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let data = EventData::new_u64(MAILBOX_EVENT);
        epoll::add(&epoll, own.wake.as_fd(), data, EventFlags::IN)?;
        let alarm = Alarm::new()?;
        let data = EventData::new_u64(ALARM_EVENT);
        epoll::add(&epoll, alarm.timer.as_fd(), data, EventFlags::IN)?;
        Ok(Self {
            plane,
            mailbox,
            wake: own.wake.clone(),
            others,
            says,
            epoll,
            alarm,
            ready: Vec::with_capacity(crate::topology::PORTS_MAX),
            awake: Vec::with_capacity(crate::topology::PORTS_MAX),
            spin: Spin::new(Duration::ZERO),
            looks: 0,
            news_lost: 0,
            wakes: 0,
        })
    }

    /// The same, looking for packets that long before it sleeps.
    #[must_use]
    pub(crate) fn spinning(self, spin: Spin) -> Self {
        Self { spin, ..self }
    }

    /// Runs until told to stop.
    ///
    /// # Errors
    /// What epoll says, which it should never.
    pub(crate) fn run(mut self) -> Result<(), Errno> {
        while self.find()? {
            self.serve();
        }
        Ok(())
    }

    /// Finds out which queues are ready, and waits if none is; `false` to stop.
    fn find(&mut self) -> Result<bool, Errno> {
        self.rouse();
        if self.ready.is_empty() && !self.awake.is_empty() {
            return self.look_then_wait();
        }
        self.wait(self.ready.is_empty())
    }

    /// Looks at the queues that are awake for as long as it pays, then lets them wake us.
    fn look_then_wait(&mut self) -> Result<bool, Errno> {
        let begin_ns = steady_ns();
        // What rests may have to go sooner.
        let deadline_ns = self.plane.next_deadline_ns().unwrap_or(u64::MAX);
        let end_ns = deadline_ns.min(begin_ns + self.spin.time_ns());
        while self.ready.is_empty() && !self.awake.is_empty() {
            if steady_ns() >= end_ns {
                self.arm_all();
                break;
            }
            self.looks = self.looks.wrapping_add(1);
            if self.looks.is_multiple_of(LOOKS_A_CALL) && !self.wait(false)? {
                return Ok(false);
            }
            std::hint::spin_loop();
            self.rouse();
        }
        let go_on = !self.ready.is_empty() || self.wait(true)?;
        self.spin.came(steady_ns() - begin_ns);
        Ok(go_on)
    }

    /// Queues that are awake and have packets are ready.
    fn rouse(&mut self) {
        let Self {
            plane,
            ready,
            awake,
            ..
        } = self;
        awake.retain(|empty| {
            let slot = plane.topology.get(empty.port);
            let has = slot.is_some_and(|slot| slot.queue.has_packets() != Some(false));
            if has {
                ready.push(*empty);
            }
            slot.is_some() && !has
        });
    }

    /// Lets every queue that is awake wake us.
    fn arm_all(&mut self) {
        while let Some(empty) = self.awake.pop() {
            if self.arm(empty) {
                self.ready.push(empty);
            }
        }
    }

    /// Lets a queue wake us. Whether it has packets already.
    fn arm(&mut self, empty: Ready) -> bool {
        let slot = self.plane.topology.get_mut(empty.port);
        let more = slot.is_some_and(|slot| slot.queue.arm());
        if !more && empty.is_busy() {
            self.watch(empty.port);
        }
        more
    }

    /// Asks the kernel what is ready, and sleeps until something is, if told to; `false` to stop.
    fn wait(&mut self, sleep: bool) -> Result<bool, Errno> {
        let look = Timespec::default();
        let mut room = [const { MaybeUninit::uninit() }; 64];
        self.wakes += 1;
        if let (true, Some(deadline_ns)) = (sleep, self.plane.next_deadline_ns()) {
            self.alarm.set(deadline_ns)?;
        }
        match epoll::wait(&self.epoll, &mut room, (!sleep).then_some(&look)) {
            Ok((events, _)) => Ok(self.note(events)),
            Err(Errno::INTR) => Ok(self.note(&[])),
            Err(errno) => Err(errno),
        }
    }

    /// Sorts out what woke us; `false` to stop.
    fn note(&mut self, events: &[epoll::Event]) -> bool {
        for event in events {
            match event.data.u64() {
                MAILBOX_EVENT => {
                    let _ = rustix::io::read(&*self.wake, &mut [0; 8]);
                }
                ALARM_EVENT => self.alarm.rang(),
                port => self.note_ready(PortId(port as u16)),
            }
        }
        self.read_mail()
    }

    fn note_ready(&mut self, port: PortId) {
        self.awake.retain(|empty| empty.port != port);
        if self.ready.iter().all(|ready| ready.port != port) {
            self.ready.push(Ready { port, full: 0 });
        }
    }

    /// Serves the queues that are ready, a batch in turn, until each is empty or
    /// it is time to look for others.
    fn serve(&mut self) {
        for _ in 0..ROUNDS_MAX {
            let mut index = 0;
            while let Some(&ready) = self.ready.get(index) {
                let end = self.plane.batch(ready.port, self.now_ns());
                self.teach();
                match end {
                    RxEnd::More => {
                        self.note_full(index);
                        index += 1;
                    }
                    RxEnd::Drained if self.is_not_empty(ready) => index += 1,
                    RxEnd::Drained => {
                        self.ready.swap_remove(index);
                    }
                    RxEnd::Gone => {
                        self.ready.swap_remove(index);
                        self.lose(ready.port);
                    }
                    RxEnd::Stopped => self.stopped(ready.port),
                }
            }
            if self.ready.is_empty() {
                break;
            }
        }
        // A queue that said there may be more may have none: nothing but what may rest
        // is held over a look around, which may become a sleep.
        self.plane.end_burst(self.now_ns());
    }

    /// A queue was found empty: it is to wake us, at once or after we have looked for
    /// packets by ourselves. Whether it has some already.
    fn is_not_empty(&mut self, empty: Ready) -> bool {
        let slot = self.plane.topology.get(empty.port);
        let tells = slot.is_some_and(|slot| slot.queue.has_packets().is_some());
        if !self.spin.is_on() || !tells {
            return self.arm(empty);
        }
        // A busy one is not watched: that must not be forgotten.
        let full = if empty.is_busy() { empty.full } else { 0 };
        self.awake.push(Ready { full, ..empty });
        false
    }

    /// Counts a full batch; a queue that becomes busy is no longer watched.
    fn note_full(&mut self, index: usize) {
        let Some(ready) = self.ready.get_mut(index) else {
            return;
        };
        ready.full = ready.full.saturating_add(1);
        if ready.full != BUSY_BATCHES {
            return;
        }
        let port = ready.port;
        let slot = self.plane.topology.get(port);
        if let Some(fd) = slot.and_then(|slot| slot.queue.fd()) {
            // Should it fail, the queue is reported too often, nothing worse.
            let _ = epoll::delete(&self.epoll, fd);
        }
    }

    /// Waits for a queue's packets again. Ones that have arrived meanwhile are reported at once.
    fn watch(&mut self, port: PortId) {
        let slot = self.plane.topology.get(port);
        let Some(fd) = slot.and_then(|slot| slot.queue.fd()) else {
            return;
        };
        let data = EventData::new_u64(port.0.into());
        match epoll::add(&self.epoll, fd, data, EventFlags::IN) {
            Ok(()) | Err(Errno::EXIST) => {}
            // A file that cannot be waited for is as good as gone.
            Err(_) => self.lose(port),
        }
    }

    /// Takes out a port whose device went away, and tells the others, some of
    /// whom may only write to it and would not find out.
    fn lose(&mut self, port: PortId) {
        self.remove(port);
        // Whoever listened may have gone.
        let _ = self.says.send(Event::PortGone(port));
        for other in &self.others {
            self.news_lost += u64::from(!other.leave(Message::Remove(port)));
        }
    }

    /// Nanoseconds since boot: coarse where only ageing asks.
    fn now_ns(&self) -> u64 {
        let clock = match self.plane.topology.holds() {
            true => ClockId::Monotonic,
            false => ClockId::MonotonicCoarse,
        };
        nanoseconds(clock)
    }

    fn teach(&mut self) {
        let Self { plane, others, .. } = self;
        let mut lost = 0;
        plane.share_news(|station, port| {
            let heard = others
                .iter()
                .map(|other| other.leave(Message::Learn(station, port)));
            let missed = heard.filter(|heard| !heard).count();
            lost += missed as u64;
            missed == 0
        });
        self.news_lost += lost;
    }

    /// Reads the mailbox; `false` to stop.
    fn read_mail(&mut self) -> bool {
        let now_ns = self.now_ns();
        while let Ok(message) = self.mailbox.try_recv() {
            match message {
                Message::Learn(station, port) => self.plane.hear(station, port, now_ns),
                Message::Announce(mac, port) => {
                    self.plane.announce(mac, port, now_ns);
                    self.teach();
                }
                Message::Add(slot) => self.add(*slot),
                Message::Remove(port) => self.remove(port),
                Message::Lose(port) if self.plane.topology.get(port).is_none() => {}
                Message::Lose(port) => self.lose(port),
                // Whoever asked may have gone, here and below.
                Message::Take(port, reply) => {
                    self.unwatch(port);
                    let _ = reply.send(self.plane.take(port));
                }
                Message::Stations(reply) => {
                    let _ = reply.send(self.plane.fdb.stations(seconds(now_ns)).collect());
                }
                Message::Exchange(exchange) => self.exchange(*exchange),
                Message::SetMtu(port, mtu) => {
                    if let Some(slot) = self.plane.topology.get_mut(port) {
                        slot.policy.mtu = mtu;
                    }
                }
                Message::Capture(port, probe) => {
                    if let Some(slot) = self.plane.topology.get_mut(port) {
                        slot.watch(*probe);
                    }
                }
                Message::Report(reply) => {
                    let _ = reply.send(self.report());
                }
                Message::RestNoMore(reply) => {
                    self.plane.rest_no_more(End::BurstEnd);
                    let _ = reply.send(());
                }
                Message::Stop => {
                    self.plane.rest_no_more(End::BurstEnd);
                    return false;
                }
            }
        }
        true
    }

    fn add(&mut self, slot: Slot) {
        let port = slot.id;
        self.plane.topology.insert(slot);
        self.watch(port);
    }

    /// Uses another queue from now on. Asked for only between two bursts.
    fn exchange(&mut self, exchange: Exchange) {
        let Exchange { port, .. } = exchange;
        self.unwatch(port);
        let Exchange {
            queue, takes, mtu, ..
        } = exchange;
        if let Some(old) = self.plane.exchange(port, queue, takes, mtu) {
            // Whoever asked may have gone.
            let _ = exchange.reply.send((exchange.worker, old));
            self.watch(port);
        }
    }

    /// A port whose other end broke the rules is heard no more, until its queue is exchanged.
    fn stopped(&mut self, port: PortId) {
        self.unwatch(port);
        let slot = self.plane.topology.get(port);
        if let Some(why) = slot.and_then(|slot| slot.queue.stopped_by()) {
            // Whoever listened may have gone.
            let _ = self.says.send(Event::PortStopped(port, why));
        }
    }

    /// Waits for a port's packets no more.
    fn unwatch(&mut self, port: PortId) {
        let slot = self.plane.topology.get(port);
        if let Some(fd) = slot.and_then(|slot| slot.queue.fd()) {
            // Not watched while it is busy.
            let _ = epoll::delete(&self.epoll, fd);
        }
        self.ready.retain(|ready| ready.port != port);
        self.awake.retain(|empty| empty.port != port);
    }

    fn remove(&mut self, port: PortId) {
        self.unwatch(port);
        self.plane.remove(port);
    }

    fn report(&self) -> Report {
        let resting = self.plane.resting();
        let here = self.plane.topology.iter().map(|slot| PortReport {
            id: slot.id,
            up: true,
            counters: slot.counters.clone(),
            resting: resting.get(&slot.id).copied().unwrap_or_default(),
            takes: Some(slot.policy.takes),
        });
        let gone = self
            .plane
            .topology
            .gone()
            .iter()
            .map(|(id, counters)| PortReport {
                id: *id,
                up: false,
                counters: counters.clone(),
                resting: Gauge::default(),
                takes: None,
            });
        Report {
            ports: here.chain(gone).collect(),
            books: self.plane.books(),
            fdb_entries: self.plane.fdb.len(),
            news_lost: self.news_lost,
            wakes: self.wakes,
            cpu: CpuTime::of_this_thread(),
        }
    }
}

/// Nanoseconds of a steady clock.
fn steady_ns() -> u64 {
    nanoseconds(ClockId::Monotonic)
}

fn nanoseconds(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
