//! Two containers behind veth pairs, and what joins them: the switch by AF_PACKET and
//! by AF_XDP, the kernel's bridge, its forwarding with GRO, DPDK's testpmd. In turns,
//! slice by slice, so that a busy machine is busy for all.
//!
//! `cargo run --release -p jumbo-switch --example wire -- [--json] [--only WORD] [--load LOAD] [ROUNDS]`
//!
//! `--only` takes the rows whose name is the word, or else contains it, `--load` one of `bulk`, `ping`, `small`.

use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jumbo_engine::checksum::Kernels;
use jumbo_engine::packet::Link;
use jumbo_engine::pending::Caps;
use jumbo_lab::ethtool::Offload;
use jumbo_lab::meter::{ProcessCpu, Summary};
use jumbo_lab::ns::{self, Needs, NetNs};
use jumbo_lab::traffic::{BulkAmount, BulkSpec, Check, PingSpec, bulk, ping};
use jumbo_lab::{Family, Host};
use jumbo_ports::packet::{self, Fanout, PacketConfig};
use jumbo_ports::queue::{Bounds, Burst, Port, Queue, RxStats};
use jumbo_ports::xdp::{self, Mode, Pass, XdpConfig};
use jumbo_switch::switch::{Switch, SwitchConfig};
use jumbo_switch::topology::Coalesce;
use rustix::thread::{CpuSet, Pid, sched_setaffinity};

const SLICE: Duration = Duration::from_millis(400);
const ROUNDS: usize = 5;
/// A slice during which others took this much of the machine is taken again.
const DISTURBED_PERCENT: f64 = 5.0;
const ATTEMPTS: usize = 4;

type Failed = Box<dyn std::error::Error>;

/// What joins the two.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Way {
    Packet,
    PacketSingle,
    PacketOff,
    Xdp,
    XdpOff,
    Bridge,
    BridgeSingle,
    Forwarding,
    TestpmdPacket,
    TestpmdXdp,
}

const WAYS: [Way; 10] = [
    Way::Packet,
    Way::PacketSingle,
    Way::PacketOff,
    Way::Xdp,
    Way::XdpOff,
    Way::Bridge,
    Way::BridgeSingle,
    Way::Forwarding,
    Way::TestpmdPacket,
    Way::TestpmdXdp,
];

impl Way {
    fn name(self) -> &'static str {
        match self {
            Way::Packet => "packet",
            Way::PacketSingle => "packet, senders without TSO",
            Way::PacketOff => "packet, senders without TSO, coalescing off",
            Way::Xdp => "xdp",
            Way::XdpOff => "xdp, coalescing off",
            Way::Bridge => "kernel bridge",
            Way::BridgeSingle => "kernel bridge, senders without TSO",
            Way::Forwarding => "kernel forwarding, senders without TSO, GRO",
            Way::TestpmdPacket => "testpmd net_af_packet",
            Way::TestpmdXdp => "testpmd net_af_xdp",
        }
    }

    fn is_switch(self) -> bool {
        self.is_xdp() || matches!(self, Way::Packet | Way::PacketSingle | Way::PacketOff)
    }

    fn is_xdp(self) -> bool {
        matches!(self, Way::Xdp | Way::XdpOff)
    }

    fn coalesce(self) -> Coalesce {
        match self {
            Way::PacketOff | Way::XdpOff => Coalesce::Off,
            _ => Coalesce::Gro,
        }
    }

    /// Its senders hand over segments one by one, as a wire does.
    fn is_single(self) -> bool {
        let singles = [
            Way::PacketSingle,
            Way::PacketOff,
            Way::BridgeSingle,
            Way::Forwarding,
        ];
        singles.contains(&self)
    }

    /// Polls without end, and finishes no checksums: its row has packets only.
    fn is_testpmd(self) -> bool {
        matches!(self, Way::TestpmdPacket | Way::TestpmdXdp)
    }
}

/// What is kept while one way is there.
enum Joint {
    Switch(Box<Switch>),
    Kernel,
    Testpmd(Child),
}

impl Drop for Joint {
    fn drop(&mut self) {
        if let Joint::Testpmd(child) = self {
            // Ours, by its id.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

struct Net {
    hosts: [Host; 2],
    middle: NetNs,
    joint: Joint,
}

fn main() -> Result<(), Failed> {
    ns::enter(Needs::Links)?;
    let asked = Asked::read()?;
    let (rounds, json) = (asked.rounds, asked.json);
    let mut rows = Vec::new();
    for way in WAYS {
        if !asked.wants(way) {
            continue;
        }
        match join(way) {
            Ok(net) => rows.push((way, net, Figures::default())),
            Err(error) => eprintln!("{}: skipped: {error}", way.name()),
        }
    }
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        for (way, net, figures) in &mut rows {
            if let Err(error) = figures.measure_quietly(*way, net, &asked.load) {
                eprintln!("{}: {error}", way.name());
            }
        }
    }
    for (way, _, figures) in &rows {
        match json {
            true => println!("{}", figures.json(way.name())),
            false => println!("{}", figures.text(way.name())),
        }
    }
    Ok(())
}

/// What the command line says.
#[derive(Debug)]
struct Asked {
    json: bool,
    rounds: usize,
    only: String,
    load: String,
}

impl Asked {
    /// The row of that name, else those that contain it.
    fn wants(&self, way: Way) -> bool {
        match WAYS.into_iter().find(|way| way.name() == self.only) {
            Some(only) => way == only,
            None => way.name().contains(&self.only),
        }
    }

    fn read() -> Result<Self, Failed> {
        let mut asked = Self {
            json: false,
            rounds: ROUNDS,
            only: String::new(),
            load: String::new(),
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or("a value is missing");
            match argument.as_str() {
                "--json" => asked.json = true,
                "--only" => asked.only = value()?,
                "--load" => asked.load = value()?,
                number => asked.rounds = number.parse()?,
            }
        }
        Ok(asked)
    }
}

fn join(way: Way) -> Result<Net, Failed> {
    let hosts = [Host::new(1)?, Host::new(2)?];
    let middle = NetNs::new()?;
    let links = middle.links()?;
    for (host, near) in hosts.iter().zip(["w1", "w2"]) {
        links.add_veth(near, "t0", &host.ns)?;
        links.up(near)?;
        host.plug("t0")?;
    }
    let mac =
        |host: &Host| -> Result<_, Failed> { Ok(host.links()?.get("t0")?.mac.unwrap_or_default()) };
    hosts[0].knows("t0", &hosts[1], mac(&hosts[1])?)?;
    hosts[1].knows("t0", &hosts[0], mac(&hosts[0])?)?;
    if way.is_single() {
        hosts[0].links()?.set_offload("t0", Offload::Tso, false)?;
        hosts[1].links()?.set_offload("t0", Offload::Tso, false)?;
    }
    let joint = match way {
        _ if way.is_switch() => {
            let mut switch = Switch::start(&SwitchConfig::default())?;
            for near in ["w1", "w2"] {
                switch.add(open(way, &middle, near)?, way.coalesce())?;
            }
            Joint::Switch(Box::new(switch))
        }
        Way::Bridge | Way::BridgeSingle => {
            links.add_bridge("br")?;
            links.enslave("w1", "br")?;
            links.enslave("w2", "br")?;
            links.up("br")?;
            Joint::Kernel
        }
        Way::Forwarding => forwarding(&middle, &hosts)?,
        _ => testpmd(way, &middle)?,
    };
    Ok(Net {
        hosts,
        middle,
        joint,
    })
}

fn open(way: Way, middle: &NetNs, near: &str) -> Result<Port, Failed> {
    if way.is_xdp() {
        let config = XdpConfig {
            device: near.into(),
            queues: 1,
            mode: Mode::Native,
            pass: Pass::Nothing,
            tx_checksum: xdp::TxChecksum::Auto,
        };
        return Ok(middle.run(|| xdp::open(&config))??);
    }
    packet_port(middle, near)
}

fn packet_port(ns: &NetNs, device: &str) -> Result<Port, Failed> {
    let config = PacketConfig {
        device: device.into(),
        queues: 1,
        takes: Caps::ALL,
        fanout: Fanout::Hash,
        qdisc_bypass: false,
        mtu: None,
    };
    Ok(ns.run(|| packet::open(&config))??)
}

/// The middle routes: each host's packets for the other go to the middle's own
/// address, and its interfaces coalesce.
fn forwarding(middle: &NetNs, hosts: &[Host; 2]) -> Result<Joint, Failed> {
    let links = middle.links()?;
    middle.run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1"))??;
    for (index, near) in ["w1", "w2"].into_iter().enumerate() {
        let (host, other) = (&hosts[index], &hosts[1 - index]);
        links.set_offload(near, Offload::Gro, true)?;
        let IpAddr::V4(address) = host.addr(Family::V4) else {
            return Err("an IPv4 address".into());
        };
        links.add_route(near, address.into(), 32, None)?;
        let host_mac = host.links()?.get("t0")?.mac.unwrap_or_default();
        links.add_neighbour(near, address.into(), host_mac)?;
        let near_mac = links.get(near)?.mac.unwrap_or_default();
        host.knows("t0", other, near_mac)?;
    }
    Ok(Joint::Kernel)
}

/// DPDK's own forwarder, in its cheapest mode, which only passes packets on.
fn testpmd(way: Way, middle: &NetNs) -> Result<Joint, Failed> {
    let (driver, prefix) = match way {
        Way::TestpmdXdp => ("net_af_xdp", "jumbo-wire-x"),
        _ => ("net_af_packet", "jumbo-wire-p"),
    };
    let device = |index: usize| format!("--vdev={driver}{index},iface=w{}", index + 1);
    let mut command = Command::new("dpdk-testpmd");
    command
        .args(["--no-huge", "-m", "256", "--no-pci", "--lcores", "0@0,1@1"])
        .arg(format!("--file-prefix={prefix}"))
        .args([device(0), device(1)])
        .args([
            "--",
            "--total-num-mbufs=16384",
            "--no-mlockall",
            "--no-numa",
        ])
        .args(["--auto-start", "--forward-mode=io", "--stats-period=3600"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let child = middle.run(|| command.spawn())?;
    let mut joint =
        Joint::Testpmd(child.map_err(|e| format!("dpdk-testpmd: {e} (apt install dpdk)"))?);
    // It needs a moment; then it runs for ever, or has given up.
    std::thread::sleep(Duration::from_secs(3));
    if let Joint::Testpmd(child) = &mut joint {
        if let Some(status) = child.try_wait()? {
            return Err(format!("dpdk-testpmd ended: {status}").into());
        }
        stop(child, true);
    }
    Ok(joint)
}

/// Stops testpmd while others are measured, or lets it go on.
fn stop(child: &Child, stopped: bool) {
    use rustix::process::{Pid, Signal, kill_process};
    let signal = if stopped { Signal::STOP } else { Signal::CONT };
    if let Some(pid) = Pid::from_raw(child.id() as i32) {
        let _ = kill_process(pid, signal);
    }
}

#[derive(Default)]
struct Figures {
    gbit_s: Vec<f64>,
    cpu_s_per_gb: Vec<f64>,
    p50_us: Vec<f64>,
    p99_us: Vec<f64>,
    small_mpps: Vec<f64>,
    small_mpps_per_core: Vec<f64>,
    others_percent: Vec<f64>,
}

impl Figures {
    /// Measures once more while others disturb, and keeps the quietest.
    fn measure_quietly(&mut self, way: Way, net: &mut Net, load: &str) -> Result<(), Failed> {
        let mut best = Self::default();
        for attempt in 0..ATTEMPTS {
            let mut slice = Self::default();
            slice.measure(way, net, load)?;
            if attempt == 0 || slice.others_percent < best.others_percent {
                best = slice;
            }
            if best
                .others_percent
                .iter()
                .all(|others| *others < DISTURBED_PERCENT)
            {
                break;
            }
        }
        self.add(best);
        Ok(())
    }

    fn add(&mut self, slice: Self) {
        self.gbit_s.extend(slice.gbit_s);
        self.cpu_s_per_gb.extend(slice.cpu_s_per_gb);
        self.p50_us.extend(slice.p50_us);
        self.p99_us.extend(slice.p99_us);
        self.small_mpps.extend(slice.small_mpps);
        self.small_mpps_per_core.extend(slice.small_mpps_per_core);
        self.others_percent.extend(slice.others_percent);
    }

    fn measure(&mut self, way: Way, net: &mut Net, load: &str) -> Result<(), Failed> {
        let wants = |name| load.is_empty() || load == name;
        let (busy, ours) = (machine_busy_s()?, our_cpu_s(&net.joint)?);
        let began = Instant::now();
        if let Joint::Testpmd(child) = &net.joint {
            stop(child, false);
        }
        if wants("bulk") && !way.is_testpmd() {
            self.bulk(net)?;
        }
        if wants("ping") && !way.is_testpmd() {
            self.ping(net)?;
        }
        let result = match wants("small") {
            true => self.small(net),
            false => Ok(()),
        };
        if let Joint::Testpmd(child) = &net.joint {
            stop(child, true);
        }
        let others = (machine_busy_s()? - busy) - (our_cpu_s(&net.joint)? - ours);
        let whole = began.elapsed().as_secs_f64() * cpus()? as f64;
        self.others_percent.push((others / whole * 100.0).max(0.0));
        result
    }

    fn bulk(&mut self, net: &Net) -> Result<(), Failed> {
        let spec = BulkSpec {
            amount: BulkAmount::Time(SLICE),
            check: Check::None,
            ..BulkSpec::default()
        };
        let before = ProcessCpu::now().total_s();
        let began = Instant::now();
        let report = bulk(&net.hosts[0], &net.hosts[1], &spec)?;
        // Warm-up and draining too, for the bytes of which nobody asks: by share of time.
        let share = report.elapsed_s / began.elapsed().as_secs_f64();
        let cpu_s = (ProcessCpu::now().total_s() - before) * share;
        self.gbit_s.push(report.gbit_per_s());
        self.cpu_s_per_gb.push(cpu_s * 1e9 / report.bytes() as f64);
        Ok(())
    }

    fn ping(&mut self, net: &Net) -> Result<(), Failed> {
        let spec = PingSpec {
            duration: SLICE,
            ..PingSpec::default()
        };
        let report = ping(&net.hosts[0], &net.hosts[1], &spec)?;
        self.p50_us.push(report.p50_ns as f64 / 1e3);
        self.p99_us.push(report.p99_ns as f64 / 1e3);
        Ok(())
    }

    /// 64-byte packets as fast as one thread sends them.
    fn small(&mut self, net: &Net) -> Result<(), Failed> {
        let mut flood = Flood::new(net)?;
        let links = net.hosts[1].links()?;
        let received = || -> Result<u64, Failed> { Ok(links.stats("t0")?.rx_packets) };
        let switch_cpu_s = || -> Result<f64, Failed> {
            Ok(match &net.joint {
                Joint::Switch(switch) => {
                    let cpu = switch.state()?.cpu;
                    (cpu.user + cpu.system).as_secs_f64()
                }
                Joint::Testpmd(child) => process_cpu_s(child.id())?,
                Joint::Kernel => 0.0,
            })
        };
        // Only here: with bulk, sender and receiver want a CPU each.
        let pinned = Pinned::new(&net.joint)?;
        let over = AtomicBool::new(false);
        let (before, cpu_before, began) = (received()?, switch_cpu_s()?, Instant::now());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // Should it fail, the row shows a slow sender.
                let _ = pin(None, SENDER_CPU);
                while !over.load(Ordering::Relaxed) {
                    flood.send();
                }
            });
            std::thread::sleep(SLICE);
            over.store(true, Ordering::Relaxed);
        });
        let elapsed_s = began.elapsed().as_secs_f64();
        std::thread::sleep(Duration::from_millis(20));
        let packets = (received()? - before) as f64;
        let cpu_s = switch_cpu_s()? - cpu_before;
        drop(pinned);
        self.small_mpps.push(packets / elapsed_s / 1e6);
        if cpu_s > 0.0 {
            self.small_mpps_per_core.push(packets / cpu_s / 1e6);
        }
        Ok(())
    }

    fn rows(&self) -> [(&'static str, &'static str, &[f64]); 7] {
        [
            ("bulk", "gbit_s", &self.gbit_s),
            ("cpu", "cpu_s_per_gb", &self.cpu_s_per_gb),
            ("p50", "p50_us", &self.p50_us),
            ("p99", "p99_us", &self.p99_us),
            ("64 B", "small_mpps", &self.small_mpps),
            (
                "64 B/core",
                "small_mpps_per_core",
                &self.small_mpps_per_core,
            ),
            ("others", "others_percent", &self.others_percent),
        ]
    }

    fn text(&self, name: &str) -> String {
        let mut line = format!("{name}\n");
        for (label, unit, values) in self.rows() {
            if let Some(summary) = Summary::of(values) {
                line += &format!(
                    "  {label:10} {:8.3} {unit} ({:.3} to {:.3})\n",
                    summary.median, summary.min, summary.max
                );
            }
        }
        line
    }

    fn json(&self, name: &str) -> String {
        let mut fields = vec![format!("\"way\":\"{name}\"")];
        for (_, unit, values) in self.rows() {
            if let Some(s) = Summary::of(values) {
                let (min, median, max) = (s.min, s.median, s.max);
                fields.push(format!(
                    "\"{unit}\":{{\"min\":{min},\"median\":{median},\"max\":{max}}}"
                ));
            }
        }
        format!("{{{}}}", fields.join(","))
    }
}

/// Sends one packet over and over, by the transmit ring of a port of ours: as fast as a
/// thread can that also runs the kernel's half of the link.
struct Flood {
    queue: Box<dyn Queue>,
    burst: Burst,
}

impl Flood {
    const BATCH: usize = 64;

    fn new(net: &Net) -> Result<Self, Failed> {
        let mut port = packet_port(&net.hosts[0].ns, "t0")?;
        let mut burst = Burst::new(Bounds::default(), Kernels::detect());
        let packet = small_packet(net)?;
        let space = burst.pool.space().get_mut(..packet.len());
        space.ok_or("no room")?.copy_from_slice(&packet);
        burst.admit(
            Link::Ethernet,
            0,
            packet.len(),
            None,
            &mut RxStats::default(),
        );
        let queue = port.queues.pop().ok_or("no queue")?;
        Ok(Self { queue, burst })
    }

    fn send(&mut self) {
        let Burst {
            arena, pool, batch, ..
        } = &self.burst;
        let Some(id) = batch.first() else { return };
        for _ in 0..Self::BATCH {
            // One that the link drops is sent again soon enough.
            let _ = self.queue.tx(arena.packet(*id), arena.payload(*id), pool);
        }
        self.queue.publish();
    }
}

/// Where the one that floods runs, and where the one that forwards.
const SENDER_CPU: usize = 0;
const FORWARDER_CPU: usize = 1;

/// The switch's workers on a CPU of their own, as testpmd's are, until this is dropped.
struct Pinned(Vec<Pid>);

impl Pinned {
    fn new(joint: &Joint) -> Result<Self, Failed> {
        let mut pinned = Self(Vec::new());
        if !matches!(joint, Joint::Switch(_)) {
            return Ok(pinned);
        }
        for entry in std::fs::read_dir("/proc/self/task")? {
            let path = entry?.path();
            // A thread may have ended meanwhile.
            let name = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
            let tid = path.file_name().and_then(|tid| tid.to_str()?.parse().ok());
            if let (true, Some(tid)) = (name.starts_with("jumbo-w"), tid.and_then(Pid::from_raw)) {
                pin(Some(tid), FORWARDER_CPU)?;
                pinned.0.push(tid);
            }
        }
        Ok(pinned)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let mut all = CpuSet::new();
        (0..cpus().unwrap_or(1)).for_each(|cpu| all.set(cpu));
        for tid in &self.0 {
            // One that has ended needs nothing.
            let _ = sched_setaffinity(Some(*tid), &all);
        }
    }
}

fn pin(thread: Option<Pid>, cpu: usize) -> Result<(), Failed> {
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(thread, &set)?)
}

fn cpus() -> Result<usize, Failed> {
    Ok(std::thread::available_parallelism()?.get())
}

/// CPU time of all but sleeping, of the whole machine (proc_stat(5), the first line).
fn machine_busy_s() -> Result<f64, Failed> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().ok_or("an empty /proc/stat")?;
    let fields = line.split_ascii_whitespace().skip(1);
    // user, nice, system, idle, iowait, irq, softirq, steal; guests are in the first two.
    let busy = fields
        .take(8)
        .enumerate()
        .filter(|(index, _)| !matches!(index, 3 | 4));
    let ticks: u64 = busy.map(|(_, ticks)| ticks.parse().unwrap_or(0)).sum();
    Ok(ticks as f64 / 100.0)
}

/// CPU time of this process, and of testpmd where it forwards.
fn our_cpu_s(joint: &Joint) -> Result<f64, Failed> {
    let theirs = match joint {
        Joint::Testpmd(child) => process_cpu_s(child.id())?,
        _ => 0.0,
    };
    Ok(ProcessCpu::now().total_s() + theirs)
}

/// User and system time of a process, from `/proc/PID/stat` in hundredths of a second
/// (proc_pid_stat(5); USER_HZ is 100 wherever Linux runs).
fn process_cpu_s(pid: u32) -> Result<f64, Failed> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = text.rsplit_once(')').ok_or("no process name")?;
    let ticks = |index: usize| -> Result<f64, Failed> {
        let field = fields.split_ascii_whitespace().nth(index);
        Ok(field.ok_or("too few fields")?.parse()?)
    };
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}

/// A packet of 64 bytes that nobody waits for, from the first host to the second.
fn small_packet(net: &Net) -> Result<Vec<u8>, Failed> {
    let mac = |host: &Host| -> Result<[u8; 6], Failed> {
        Ok(host.links()?.get("t0")?.mac.unwrap_or_default())
    };
    let [from, to] = [&net.hosts[0], &net.hosts[1]];
    let (IpAddr::V4(from_ip), IpAddr::V4(to_ip)) = (from.addr(Family::V4), to.addr(Family::V4))
    else {
        return Err("IPv4 addresses".into());
    };
    let mut dst = mac(to)?;
    let routes = || std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward");
    let routed = net.middle.run(routes)??.trim() == "1";
    if routed {
        dst = net.middle.links()?.get("w1")?.mac.unwrap_or_default();
    }
    let mut packet = vec![0; 60];
    packet[..6].copy_from_slice(&dst);
    packet[6..12].copy_from_slice(&mac(from)?);
    packet[12..16].copy_from_slice(&[0x08, 0x00, 0x45, 0]);
    if !routed {
        // The receiver's stack throws it away at once (an experimental EtherType, IEEE
        // 802): what is measured is the way there.
        packet[12..14].copy_from_slice(&[0x88, 0xb5]);
    }
    packet[16..18].copy_from_slice(&46u16.to_be_bytes());
    packet[22..24].copy_from_slice(&[64, 17]);
    packet[26..30].copy_from_slice(&from_ip.octets());
    packet[30..34].copy_from_slice(&to_ip.octets());
    let check = jumbo_engine::checksum::Sum::ZERO
        .add_bytes(&packet[14..34])
        .checksum();
    packet[24..26].copy_from_slice(&check.to_be_bytes());
    packet[38..40].copy_from_slice(&26u16.to_be_bytes());
    packet[36..38].copy_from_slice(&9u16.to_be_bytes());
    Ok(packet)
}
