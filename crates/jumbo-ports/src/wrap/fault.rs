//! Faults on purpose, for tests: of the packets that leave by a port some are lost,
//! damaged, swapped with the next, or all held up. Which ones follows from a seed, so
//! a run can be repeated.
//!
//! What is held up is a copy in memory of its own, bounded in packets and bytes.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::str::FromStr;
use std::time::Duration;

use jumbo_engine::arena::Pieces;
use jumbo_engine::checksum::Kernels;
use jumbo_engine::packet::{HEADERS_MAX, Link, Packet};
use jumbo_engine::pending::Caps;
use jumbo_engine::vnet::{Trust, VnetHeader};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};

use crate::pool::Pool;
use crate::queue::{
    Bounds, Burst, Control, PACKET_ROOM, Port, PortInfo, Queue, RxEnd, RxStats, TxFault, Workers,
};

/// Most packets held up by one queue, and most bytes of theirs.
const HELD_MAX: usize = 4096;
const HELD_BYTES_MAX: usize = 32 << 20;

/// A packet to be swapped waits for the next one, but not for ever.
const SWAP_WAIT_NS: u64 = 10_000_000;

/// Longest delay: beyond, every connection has given up.
const DELAY_NS_MAX: u64 = 10_000_000_000;

/// One in this many is the unit of chances.
const WHOLE: u32 = 1_000_000;

/// What goes wrong. Chances are parts of a million.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// A packet is lost.
    pub drop_ppm: u32,
    /// One of its bits is wrong.
    pub corrupt_ppm: u32,
    /// It leaves behind the next one.
    pub reorder_ppm: u32,
    /// Every packet leaves so much later.
    pub delay_ns: u64,
    /// Chooses which ones.
    pub seed: u64,
}

impl FromStr for Faults {
    type Err = String;

    /// `drop:0.1%,reorder:1%,delay:2ms,corrupt:0.01%,seed:7`, any of them.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut faults = Self::default();
        for part in text.split(',') {
            let (key, value) = part.split_once(':').ok_or_else(|| {
                format!("fault `{part}` is not KIND:VALUE: give drop:1%, corrupt:1%, reorder:1%, delay:2ms or seed:7")
            })?;
            match key {
                "drop" => faults.drop_ppm = chance(value)?,
                "corrupt" => faults.corrupt_ppm = chance(value)?,
                "reorder" => faults.reorder_ppm = chance(value)?,
                "delay" => faults.delay_ns = delay(value)?,
                "seed" => {
                    let seed = value.parse();
                    faults.seed = seed.map_err(|_| format!("seed `{value}` is no number"))?;
                }
                _ => {
                    return Err(format!(
                        "unknown fault `{key}`: give drop, corrupt, reorder, delay or seed"
                    ));
                }
            }
        }
        Ok(faults)
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |ppm: u32| f64::from(ppm) / 10_000.0;
        write!(
            f,
            "drop:{}%,corrupt:{}%,reorder:{}%,delay:{}us,seed:{}",
            percent(self.drop_ppm),
            percent(self.corrupt_ppm),
            percent(self.reorder_ppm),
            self.delay_ns / 1000,
            self.seed
        )
    }
}

fn chance(text: &str) -> Result<u32, String> {
    let number = text.strip_suffix('%').and_then(|text| text.parse().ok());
    match number {
        Some(percent @ 0.0..=100.0) => Ok((percent * 10_000.0_f64).round() as u32),
        _ => Err(format!("`{text}` is no chance: give 0% to 100%")),
    }
}

fn delay(text: &str) -> Result<u64, String> {
    let units = [
        ("ns", 1),
        ("us", 1_000),
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
    ];
    let parse = |(unit, ns): &(&str, u64)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(*ns)
    };
    let delay_ns = units.iter().find_map(parse);
    delay_ns
        .filter(|delay_ns| *delay_ns <= DELAY_NS_MAX)
        .ok_or_else(|| format!("`{text}` is no delay: give 0us to 10s, as in 2ms"))
}

/// Puts faults on a port.
///
/// A port that damages packets takes none unfinished: the damage would be under a
/// checksum that is computed behind it, and nobody would see it.
///
/// # Errors
/// What the kernel says to a timer.
pub fn wrap(mut port: Port, faults: Faults) -> Result<Port, Errno> {
    port.info = with_faults(port.info, faults);
    let queues = port.queues.into_iter().enumerate();
    let wrapped: Result<_, Errno> = queues
        .map(|(index, queue)| faulty(queue, faults, index))
        .collect();
    port.queues = wrapped?;
    port.control = port
        .control
        .map(|inner| -> Box<dyn Control> { Box::new(FaultyControl { inner, faults }) });
    Ok(port)
}

fn with_faults(mut info: PortInfo, faults: Faults) -> PortInfo {
    // What is held up is held in a buffer of the usual size.
    info.takes = info.takes.with_big_tcp(false, false);
    if faults.corrupt_ppm == 0 {
        return info;
    }
    info.takes = Caps::NONE;
    for capability in &mut info.capabilities {
        if capability.name.starts_with("tx_") && capability.in_use {
            capability.in_use = false;
            capability.why = Some("the port damages packets on purpose".to_owned());
        }
    }
    info
}

fn faulty(inner: Box<dyn Queue>, faults: Faults, index: usize) -> Result<Box<dyn Queue>, Errno> {
    Ok(Box::new(Faulty::new(inner, faults, index)?))
}

/// Wraps the queues that a port's control side makes later.
#[derive(Debug)]
struct FaultyControl {
    inner: Box<dyn Control>,
    faults: Faults,
}

impl Control for FaultyControl {
    fn start(self: Box<Self>, workers: Box<dyn Workers>) -> Result<Box<dyn Send>, String> {
        let faults = self.faults;
        self.inner
            .start(Box::new(FaultyWorkers { workers, faults }))
    }
}

#[derive(Debug)]
struct FaultyWorkers {
    workers: Box<dyn Workers>,
    faults: Faults,
}

impl Workers for FaultyWorkers {
    fn exchange(&mut self, queues: Vec<Box<dyn Queue>>, info: PortInfo) -> Vec<Box<dyn Queue>> {
        let mut wrapped: Vec<Box<dyn Queue>> = Vec::with_capacity(queues.len());
        for (index, queue) in queues.into_iter().enumerate() {
            match Faulty::try_new(queue, self.faults, index) {
                Ok(faulty) => wrapped.push(Box::new(faulty)),
                // Without a timer it works all the same, only better.
                Err(queue) => wrapped.push(queue),
            }
        }
        let old = self
            .workers
            .exchange(wrapped, with_faults(info, self.faults));
        old.into_iter().map(unwrapped).collect()
    }

    fn tell(&mut self, info: PortInfo) {
        self.workers.tell(with_faults(info, self.faults));
    }

    fn gone(&mut self) {
        self.workers.gone();
    }

    fn announce(&mut self, station: [u8; 6]) {
        self.workers.announce(station);
    }
}

/// The queue without its faults.
fn unwrapped(queue: Box<dyn Queue>) -> Box<dyn Queue> {
    if !(&*queue as &dyn Any).is::<Faulty>() {
        return queue;
    }
    let any: Box<dyn Any> = queue;
    match any.downcast::<Faulty>() {
        Ok(faulty) => faulty.inner,
        Err(_) => unreachable!("it was looked at"),
    }
}

/// A packet that waits.
#[derive(Debug)]
struct Held {
    due_ns: u64,
    vnet: VnetHeader,
    bytes: Vec<u8>,
}

/// A queue with faults.
#[derive(Debug)]
struct Faulty {
    inner: Box<dyn Queue>,
    faults: Faults,
    dice: Dice,
    held: VecDeque<Held>,
    held_bytes: usize,
    /// To leave behind the next one.
    swapped: Option<Held>,
    /// Where a held packet becomes a packet again.
    burst: Burst,
    timer: OwnedFd,
    /// Ready when the inner queue or the timer is.
    ready: OwnedFd,
    /// The inner queue has said that its device went away.
    gone: bool,
}

impl Faulty {
    fn new(inner: Box<dyn Queue>, faults: Faults, index: usize) -> Result<Self, Errno> {
        Self::try_new(inner, faults, index).map_err(|_| Errno::MFILE)
    }

    /// Gives the queue back if there are no more files.
    fn try_new(
        inner: Box<dyn Queue>,
        faults: Faults,
        index: usize,
    ) -> Result<Self, Box<dyn Queue>> {
        let Ok((timer, ready)) = timer_and(inner.fd()) else {
            return Err(inner);
        };
        let bounds = Bounds {
            burst_packets: 1,
            batch_packets: 1,
            pool_bytes: 2 * PACKET_ROOM,
            ..Bounds::default()
        };
        let mut burst = Burst::new(bounds, Kernels::detect());
        // A super-packet in a tunnel comes back only if its header is understood.
        burst.arena.follow_tunnels(true);
        Ok(Self {
            inner,
            faults,
            dice: Dice(faults.seed.wrapping_add(index as u64)),
            held: VecDeque::new(),
            held_bytes: 0,
            swapped: None,
            burst,
            timer,
            ready,
            gone: false,
        })
    }

    /// Keeps a copy of a packet, perhaps with a wrong bit.
    fn hold(&mut self, packet: &Packet, payload: Pieces<'_>, pool: &Pool) -> Result<Held, TxFault> {
        let mut bytes = vec![0; HEADERS_MAX];
        let header_len = packet.write_header(&mut bytes).unwrap_or(0);
        bytes.truncate(header_len);
        pool.append_to(payload, &mut bytes)
            .ok_or(TxFault::PayloadMissing)?;
        if self.dice.says(self.faults.corrupt_ppm) {
            // Behind the addresses and the type: what is damaged should arrive.
            let from = 14.min(bytes.len().saturating_sub(1));
            let at = from + self.dice.below(bytes.len() - from);
            let bit = self.dice.below(8);
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << bit;
            }
        }
        Ok(Held {
            due_ns: now_ns() + self.faults.delay_ns,
            vnet: VnetHeader::of(packet),
            bytes,
        })
    }

    /// Lets a packet leave when it is due.
    fn queue(&mut self, held: Held) -> Result<(), TxFault> {
        if self.faults.delay_ns == 0 {
            return self.send(&held);
        }
        let len = held.bytes.len();
        if self.held.len() >= HELD_MAX || self.held_bytes + len > HELD_BYTES_MAX {
            return Err(TxFault::QueueFull);
        }
        self.held_bytes += len;
        self.held.push_back(held);
        self.set_timer();
        Ok(())
    }

    fn send(&mut self, held: &Held) -> Result<(), TxFault> {
        let Burst { pool, .. } = &mut self.burst;
        let room = pool.space().get_mut(..held.bytes.len());
        room.ok_or(TxFault::Refused)?.copy_from_slice(&held.bytes);
        let vnet = Some((&held.vnet, Trust::Kernel));
        let mut stats = RxStats::default();
        let link = self.inner.link();
        self.burst
            .admit(link, 0, held.bytes.len(), vnet, &mut stats);
        // A damaged one may no longer be a packet: a wire would carry it all the same.
        let id = self.burst.batch.pop().ok_or(TxFault::Injected)?;
        let Burst { arena, pool, .. } = &self.burst;
        let answer = self.inner.tx(arena.packet(id), arena.payload(id), pool);
        self.burst.arena.release(id);
        self.burst.reset_if_empty();
        answer
    }

    /// Sends what is due. What the device then refuses is lost, as on a wire.
    fn send_due(&mut self) {
        let now_ns = now_ns();
        let mut sent = false;
        if self
            .swapped
            .as_ref()
            .is_some_and(|held| held.due_ns + SWAP_WAIT_NS <= now_ns)
            && let Some(held) = self.swapped.take()
        {
            sent |= self.queue(held).is_ok();
        }
        while self.held.front().is_some_and(|held| held.due_ns <= now_ns)
            && let Some(held) = self.held.pop_front()
        {
            self.held_bytes -= held.bytes.len();
            sent |= self.send(&held).is_ok();
        }
        if sent {
            self.inner.publish();
        }
        self.set_timer();
    }

    /// Sets the timer to the packet that is due first, or off.
    fn set_timer(&self) {
        let swapped = self.swapped.as_ref().map(|held| held.due_ns + SWAP_WAIT_NS);
        let first = self.held.front().map(|held| held.due_ns);
        let due_ns = swapped.into_iter().chain(first).min().unwrap_or(0);
        let time = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec {
                tv_sec: (due_ns / 1_000_000_000) as i64,
                tv_nsec: (due_ns % 1_000_000_000) as _,
            },
        };
        // The file is a timer and the time is one: nothing to refuse.
        let _ = timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &time);
    }
}

fn timer_and(inner: Option<BorrowedFd<'_>>) -> Result<(OwnedFd, OwnedFd), Errno> {
    let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
    let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
    let ready = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for fd in inner.into_iter().chain([timer.as_fd()]) {
        epoll::add(&ready, fd, EventData::new_u64(0), EventFlags::IN)?;
    }
    Ok((timer, ready))
}

fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

impl Queue for Faulty {
    fn rx(&mut self, burst: &mut Burst, stats: &mut RxStats) -> RxEnd {
        self.send_due();
        let end = self.inner.rx(burst, stats);
        self.gone |= end == RxEnd::Gone;
        end
    }

    fn tx(&mut self, packet: &Packet, payload: Pieces<'_>, pool: &Pool) -> Result<(), TxFault> {
        if self.gone {
            return Err(TxFault::Gone);
        }
        if self.dice.says(self.faults.drop_ppm) {
            return Err(TxFault::Injected);
        }
        let swap = self.dice.says(self.faults.reorder_ppm) && self.swapped.is_none();
        if !swap && self.faults.delay_ns == 0 && self.faults.corrupt_ppm == 0 {
            self.inner.tx(packet, payload, pool)?;
        } else {
            let held = self.hold(packet, payload, pool)?;
            if swap {
                self.swapped = Some(held);
                self.set_timer();
                return Ok(());
            }
            self.queue(held)?;
        }
        if let Some(held) = self.swapped.take() {
            // Nobody is told: that packet was taken before.
            let _ = self.queue(held);
        }
        Ok(())
    }

    fn publish(&mut self) {
        self.inner.publish();
    }

    fn lost(&mut self) -> Option<(TxFault, u32)> {
        self.inner.lost()
    }

    fn release(&mut self) {
        self.inner.release();
    }

    fn can_wait(&self) -> bool {
        self.inner.can_wait()
    }

    fn is_exchanged(&self) -> bool {
        self.inner.is_exchanged()
    }

    fn successor(&mut self) -> Option<Box<dyn Queue>> {
        let inner = self.inner.successor()?;
        if let Some(fd) = inner.fd() {
            // Should it fail, the queue is looked at when a packet was delayed, and not before.
            let _ = epoll::add(&self.ready, fd, EventData::new_u64(0), EventFlags::IN);
        }
        self.inner = inner;
        None
    }

    fn wait_for_room(&mut self, timeout: Duration) {
        self.inner.wait_for_room(timeout);
    }

    fn stopped_by(&self) -> Option<String> {
        self.inner.stopped_by()
    }

    fn arm(&mut self) -> bool {
        self.inner.arm()
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.ready.as_fd())
    }

    fn link(&self) -> Link {
        self.inner.link()
    }
}

/// SplitMix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", 2014).
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn says(&mut self, ppm: u32) -> bool {
        ppm != 0 && self.next() % u64::from(WHOLE) < u64::from(ppm)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_as_written() {
        let faults: Faults = "drop:0.1%,reorder:2%,delay:3ms,corrupt:100%,seed:9"
            .parse()
            .expect("right");
        let expected = Faults {
            drop_ppm: 1000,
            corrupt_ppm: 1_000_000,
            reorder_ppm: 20_000,
            delay_ns: 3_000_000,
            seed: 9,
        };
        assert_eq!(faults, expected);
        assert_eq!(faults.to_string().parse(), Ok(expected));
        for wrong in [
            "",
            "drop",
            "drop:1",
            "drop:101%",
            "drop:-1%",
            "delay:1",
            "delay:11s",
            "luck:1%",
            "seed:x",
        ] {
            assert!(wrong.parse::<Faults>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn dice_fall_the_same_way_again() {
        let row = |seed| {
            let mut dice = Dice(seed);
            (0..1000).filter(|_| dice.says(100_000)).count()
        };
        assert_eq!(row(1), row(1));
        assert!((60..140).contains(&row(1)), "{}", row(1));
        assert!(!Dice(3).says(0) && Dice(3).says(WHOLE));
    }
}
