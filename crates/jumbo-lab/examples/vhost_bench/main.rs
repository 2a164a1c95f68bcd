//! A vhost-user switch under load: Jumbo beside testpmd and OVS-DPDK. `bench/vhost/run` builds and starts it.
//!
//! This process holds both guests' cards and runs on processor 0, the switch on processor 1. All switches of a load run
//! at the same time, stopped (SIGSTOP) but for the one that is measured; rounds take turns.

mod card;
mod engine;
mod matrix;
mod report;

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use card::{Card, Load, Pair};
use engine::{Engine, Kind, Places};
use jumbo_testkit::virtio::EventFd;
use report::Report;
use rustix::thread::CpuSet;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// What is asked for.
struct Args {
    json: bool,
    rounds: usize,
    works: Vec<String>,
    engines: Vec<String>,
    places: Places,
    folder: PathBuf,
}

const WORKS: &str = "small,mtu1500,bulk,bulk-l3,segments,highest-small,highest-mtu1500,\
    highest-bulk,highest-segments,ping,low,idle,ring";

const USAGE: &str = "vhost_bench --jumbo PATH [--json] [--rounds N] [--root FOLDER] [--base PATH] \
    [--works small,mtu1500,bulk,bulk-l3,segments,highest-LOAD,ping,low,idle,ring] [--engines jumbo,testpmd,ovs]";

fn args() -> Result<Args> {
    let mut args = Args {
        json: false,
        rounds: 7,
        works: WORKS.split(',').map(String::from).collect(),
        engines: ["jumbo", "testpmd", "ovs"].map(String::from).to_vec(),
        places: Places {
            jumbo: PathBuf::new(),
            base: PathBuf::new(),
            root: PathBuf::new(),
        },
        folder: std::env::temp_dir().join(format!("jumbo-vhost-{}", std::process::id())),
    };
    let mut words = std::env::args().skip(1);
    let list = |text: String| text.split(',').map(String::from).collect();
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(USAGE);
        match word.as_str() {
            "--json" => args.json = true,
            "--rounds" => args.rounds = value()?.parse()?,
            "--works" => args.works = list(value()?),
            "--engines" => args.engines = list(value()?),
            "--root" => args.places.root = value()?.into(),
            "--base" => {
                args.places.base = value()?.into();
                args.engines.push("base".into());
            }
            "--jumbo" => args.places.jumbo = value()?.into(),
            _ => return Err(USAGE.into()),
        }
    }
    if args.places.jumbo.as_os_str().is_empty() {
        return Err(USAGE.into());
    }
    Ok(args)
}

/// The loads. Working sets (send buffers and receive buffers of the guests): small 0.4 MB, mtu1500 2.4 MB, bulk
/// 0.8 MB, bulk-l3 8 MB, segments 0.9 MB.
const LOADS: [Load; 5] = [
    Load {
        name: "small",
        tcp: false,
        payload_len: 22,
        slots: 512,
        window: 448,
        queue_size: 1024,
        rx_buffer_len: 128,
        rate: 250e3,
    },
    Load {
        name: "mtu1500",
        tcp: false,
        payload_len: 1458,
        slots: 448,
        window: 448,
        queue_size: 512,
        rx_buffer_len: 2048,
        rate: 250e3,
    },
    Load {
        name: "bulk",
        tcp: true,
        payload_len: 45 * 1448,
        slots: 8,
        window: 12,
        queue_size: 512,
        rx_buffer_len: 2048,
        rate: 10e3,
    },
    Load {
        name: "bulk-l3",
        tcp: true,
        payload_len: 45 * 1448,
        slots: 64,
        window: 24,
        queue_size: 1024,
        rx_buffer_len: 4096,
        rate: 10e3,
    },
    Load {
        name: "segments",
        tcp: true,
        payload_len: 1448,
        slots: 450,
        window: 448,
        queue_size: 512,
        rx_buffer_len: 2048,
        rate: 250e3,
    },
];

fn main() -> Result<()> {
    let args = args()?;
    std::fs::create_dir_all(&args.folder)?;
    pin(0)?;
    let mut report = Report::default();
    for work in &args.works {
        eprintln!("{work}");
        // What was measured before is not lost.
        if let Err(error) = one(work, &args, &mut report) {
            eprintln!("{work}: {error}");
        }
    }
    let _ = std::fs::remove_dir_all(&args.folder);
    if args.json {
        println!("{}", report.json());
    } else {
        print!("{}", report.table());
    }
    Ok(())
}

/// One work on all switches.
fn one(work: &str, args: &Args, report: &mut Report) -> Result<()> {
    let load = |name: &str| LOADS.iter().find(|load| load.name == name);
    if let Some(load) = load(work) {
        return measure(load, args, report);
    }
    if let Some(load) = work.strip_prefix("highest-").and_then(load) {
        return highests(load, args, report);
    }
    match work {
        "ping" => pings(args, report),
        "low" => low_rates(args, report),
        "idle" => idle(args, report),
        "ring" => matrix::measure(&args.places, &args.folder, &kinds(args), report),
        _ => Err(USAGE.into()),
    }
}

/// Puts this thread on a processor.
pub(crate) fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

fn kinds(args: &Args) -> Vec<Kind> {
    let all = [
        ("jumbo", Kind::Jumbo),
        ("base", Kind::Base),
        ("testpmd", Kind::Testpmd),
        ("ovs", Kind::Ovs),
    ];
    all.into_iter()
        .filter(|(name, _)| args.engines.iter().any(|word| word == name))
        .map(|(_, kind)| kind)
        .collect()
}

/// The switches of a load, connected and stopped.
fn start(load: &Load, args: &Args, kinds: &[Kind]) -> Result<Vec<(Engine, Pair)>> {
    let mut all = Vec::new();
    for &kind in kinds {
        let engine = Engine::start(kind, &args.places, &args.folder, load.tcp)?;
        let card = |port: usize| Card::new(engine.connect(port)?, load, port as u8);
        let cards = [card(0)?, card(1)?];
        let mut pair = Pair { cards, load: *load };
        pair.greet()?;
        engine.pause();
        all.push((engine, pair));
    }
    Ok(all)
}

/// One load on all switches: as fast as it goes, at a fixed rate, and the highest rate without loss.
fn measure(load: &Load, args: &Args, report: &mut Report) -> Result<()> {
    let mut all = start(load, args, &kinds(args))?;
    for _ in 0..args.rounds {
        for (engine, pair) in &mut all {
            engine.resume();
            pair.saturate(0.05)?;
            saturated(engine, pair, report)?;
            fixed(engine, pair, report)?;
            engine.pause();
        }
    }
    Ok(())
}

/// The highest rates without loss of one load.
fn highests(load: &Load, args: &Args, report: &mut Report) -> Result<()> {
    let mut all = start(load, args, &kinds(args))?;
    for _ in 0..args.rounds.min(3) {
        for (engine, pair) in &mut all {
            engine.resume();
            highest(engine, pair, report)?;
            engine.pause();
        }
    }
    Ok(())
}

fn saturated(engine: &mut Engine, pair: &mut Pair, report: &mut Report) -> Result<()> {
    let (work, name) = (pair.load.name, engine.kind.name());
    engine.begin()?;
    let run = pair.saturate(0.4)?;
    let spent = engine.end()?;
    report.add(work, name, "Mpps, window", run.packets / run.seconds / 1e6);
    report.add(
        work,
        name,
        "ns busy/packet, window",
        spent.busy_ns / run.packets,
    );
    report.add(work, name, "lost, window", run.lost as f64);
    if pair.load.tcp {
        report.add(
            work,
            name,
            "ms busy/GB, window",
            spent.busy_ns / run.payload as f64 * 1e3,
        );
        report.add(
            work,
            name,
            "GB/busy s, window",
            run.payload as f64 / spent.busy_ns,
        );
        let merged = run.packets / run.received_packets as f64;
        report.add(work, name, "packets sent/received", merged);
    }
    Ok(())
}

fn fixed(engine: &mut Engine, pair: &mut Pair, report: &mut Report) -> Result<()> {
    let (work, name) = (pair.load.name, engine.kind.name());
    let rate = pair.load.rate;
    let burst = if pair.load.payload_len > 9000 { 1 } else { 32 };
    engine.begin()?;
    let run = pair.paced(rate, burst, 0.3)?;
    let spent = engine.end()?;
    report.add(
        work,
        name,
        "ns CPU/packet, fixed",
        spent.cpu_ns / run.packets,
    );
    report.add(
        work,
        name,
        "ns busy/packet, fixed",
        spent.busy_ns / run.packets,
    );
    report.add(work, name, "lost, fixed", run.lost as f64);
    Ok(())
}

/// Bisects for the highest rate at which one of three short trials loses nothing.
fn highest(engine: &mut Engine, pair: &mut Pair, report: &mut Report) -> Result<()> {
    let burst = if pair.load.payload_len > 9000 { 1 } else { 32 };
    let peak = pair.saturate(0.1)?;
    let ways = if pair.load.tcp { 1.0 } else { 2.0 };
    let top = peak.packets / peak.seconds / ways;
    let (mut low, mut high) = (0.0, 1.2 * top);
    for _ in 0..6 {
        let rate = (low + high) / 2.0;
        let mut clean = false;
        for _ in 0..3 {
            clean = pair.paced(rate, burst, 0.06)?.lost == 0;
            if clean {
                break;
            }
        }
        if clean {
            low = rate;
        } else {
            high = rate;
        }
    }
    report.add(
        pair.load.name,
        engine.kind.name(),
        "Mpps without loss",
        low * ways / 1e6,
    );
    Ok(())
}

/// Latency of packets that come alone, beside an echo over two eventfds.
fn pings(args: &Args, report: &mut Report) -> Result<()> {
    let mut all = start(&LOADS[0], args, &kinds(args))?;
    let mut echo = Echo::start()?;
    for _ in 0..args.rounds {
        add_times("epoll echo", echo.ping(2000)?, report);
        for (engine, pair) in &mut all {
            engine.resume();
            let times = pair.ping(2000)?;
            engine.pause();
            add_times(engine.kind.name(), times, report);
        }
    }
    Ok(())
}

fn add_times(engine: &str, mut times: Vec<u64>, report: &mut Report) {
    times.sort_unstable();
    let at = |share: f64| times[(times.len() as f64 * share) as usize] as f64 / 1e3;
    report.add("ping", engine, "us p50", at(0.5));
    report.add("ping", engine, "us p99", at(0.99));
}

/// A thread on processor 1 that waits for an eventfd with epoll, reads it and writes another.
struct Echo {
    kick: EventFd,
    call: EventFd,
}

impl Echo {
    fn start() -> Result<Self> {
        let (kick, call) = (EventFd::new()?, EventFd::new()?);
        let copy = |event: &EventFd| -> Result<EventFd> {
            use std::os::fd::AsFd as _;
            Ok(EventFd::from_fd(event.as_fd().try_clone_to_owned()?))
        };
        let (wait, answer) = (copy(&kick)?, copy(&call)?);
        thread::spawn(move || {
            // It ends with the process.
            let _ = pin(1).and_then(|()| echo(&wait, &answer));
        });
        Ok(Self { kick, call })
    }

    fn ping(&mut self, count: usize) -> Result<Vec<u64>> {
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let start = Instant::now();
            self.kick.signal()?;
            self.call.wait(Duration::from_secs(1))?;
            times.push(start.elapsed().as_nanos() as u64);
            self.call.drain();
            let until = Instant::now() + Duration::from_micros(50);
            while Instant::now() < until {
                std::hint::spin_loop();
            }
        }
        Ok(times)
    }
}

fn echo(wait: &EventFd, answer: &EventFd) -> Result<()> {
    use rustix::event::epoll;
    let set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(
        &set,
        wait,
        epoll::EventData::new_u64(0),
        epoll::EventFlags::IN,
    )?;
    let mut events = Vec::with_capacity(4);
    loop {
        events.clear();
        epoll::wait(&set, rustix::buffer::spare_capacity(&mut events), None)?;
        wait.drain();
        answer.signal()?;
    }
}

/// CPU at low rates, packets one by one.
fn low_rates(args: &Args, report: &mut Report) -> Result<()> {
    let mut kinds = kinds(args);
    if kinds.contains(&Kind::Ovs) {
        kinds.push(Kind::OvsSleep);
    }
    for kind in kinds {
        for (engine, pair) in &mut start(&LOADS[0], args, &[kind])? {
            engine.resume();
            for _ in 0..args.rounds.min(3) {
                low_rate(engine, pair, report)?;
            }
        }
    }
    Ok(())
}

fn low_rate(engine: &Engine, pair: &mut Pair, report: &mut Report) -> Result<()> {
    for (rate, unit) in [
        (1e3, "% CPU at 1 kpps"),
        (10e3, "% CPU at 10 kpps"),
        (100e3, "% CPU at 100 kpps"),
    ] {
        let before = engine.cpu_ns();
        // Half of them each way.
        let run = pair.paced(rate / 2.0, 1, 0.5)?;
        let spent = (engine.cpu_ns() - before) as f64;
        report.add("low", engine.kind.name(), unit, spent / run.seconds / 1e7);
    }
    Ok(())
}

/// CPU in thirty seconds without a packet.
fn idle(args: &Args, report: &mut Report) -> Result<()> {
    let mut kinds = kinds(args);
    if kinds.contains(&Kind::Ovs) {
        kinds.push(Kind::OvsSleep);
    }
    // One after the other: a stopped switch is idle too.
    for kind in kinds {
        let all = start(&LOADS[0], args, &[kind])?;
        for (engine, _) in &all {
            engine.resume();
            thread::sleep(Duration::from_millis(200));
            let (before, start) = (engine.cpu_ns(), Instant::now());
            thread::sleep(Duration::from_secs(30));
            let spent = (engine.cpu_ns() - before) as f64;
            let percent = spent / start.elapsed().as_secs_f64() / 1e7;
            report.add("idle", engine.kind.name(), "% CPU, 30 s", percent);
        }
    }
    Ok(())
}
