//! Two containers behind veth pairs, and what joins them: the switch by AF_PACKET and
//! by AF_XDP, the kernel's bridge, its forwarding with GRO, DPDK's testpmd. In turns,
//! slice by slice, so that a busy machine is busy for all.
//!
//! `cargo run --release -p jumbo-switch --example wire -- [--json] [ROUNDS]`

use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jumbo_engine::pending::Caps;
use jumbo_lab::ethtool::Offload;
use jumbo_lab::meter::{ProcessCpu, Summary};
use jumbo_lab::ns::{self, Needs, NetNs};
use jumbo_lab::packet_socket::PacketSocket;
use jumbo_lab::traffic::{BulkAmount, BulkSpec, Check, PingSpec, bulk, ping};
use jumbo_lab::{Family, Host};
use jumbo_ports::packet::{self, Fanout, PacketConfig};
use jumbo_ports::queue::Port;
use jumbo_ports::xdp::{self, Mode, Pass, XdpConfig};
use jumbo_switch::switch::{Switch, SwitchConfig};
use jumbo_switch::topology::Coalesce;

const SLICE: Duration = Duration::from_millis(400);
const ROUNDS: usize = 5;

type Failed = Box<dyn std::error::Error>;

/// What joins the two.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Way {
    Packet,
    PacketSingle,
    Xdp,
    Bridge,
    BridgeSingle,
    Forwarding,
    TestpmdPacket,
    TestpmdXdp,
}

const WAYS: [Way; 8] = [
    Way::Packet,
    Way::PacketSingle,
    Way::Xdp,
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
            Way::Xdp => "xdp",
            Way::Bridge => "kernel bridge",
            Way::BridgeSingle => "kernel bridge, senders without TSO",
            Way::Forwarding => "kernel forwarding, senders without TSO, GRO",
            Way::TestpmdPacket => "testpmd net_af_packet",
            Way::TestpmdXdp => "testpmd net_af_xdp",
        }
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
    let mut json = false;
    let mut rounds = ROUNDS;
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--json" => json = true,
            number => rounds = number.parse()?,
        }
    }
    let mut rows = Vec::new();
    for way in WAYS {
        match join(way) {
            Ok(net) => rows.push((way, net, Figures::default())),
            Err(error) => eprintln!("{}: skipped: {error}", way.name()),
        }
    }
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        for (way, net, figures) in &mut rows {
            if let Err(error) = figures.measure(*way, net) {
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
    if matches!(way, Way::PacketSingle | Way::BridgeSingle | Way::Forwarding) {
        hosts[0].links()?.set_offload("t0", Offload::Tso, false)?;
        hosts[1].links()?.set_offload("t0", Offload::Tso, false)?;
    }
    let joint = match way {
        Way::Packet | Way::PacketSingle | Way::Xdp => {
            let mut switch = Switch::start(&SwitchConfig::default())?;
            for near in ["w1", "w2"] {
                switch.add(open(way, &middle, near)?, Coalesce::Gro)?;
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
        Way::TestpmdPacket | Way::TestpmdXdp => testpmd(way, &middle)?,
    };
    Ok(Net {
        hosts,
        middle,
        joint,
    })
}

fn open(way: Way, middle: &NetNs, near: &str) -> Result<Port, Failed> {
    if way == Way::Xdp {
        let config = XdpConfig {
            device: near.into(),
            queues: 1,
            mode: Mode::Native,
            pass: Pass::Nothing,
            tx_checksum: xdp::TxChecksum::Auto,
        };
        return Ok(middle.run(|| xdp::open(&config))??);
    }
    let config = PacketConfig {
        device: near.into(),
        queues: 1,
        takes: Caps::ALL,
        fanout: Fanout::Hash,
        qdisc_bypass: false,
        mtu: None,
    };
    Ok(middle.run(|| packet::open(&config))??)
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
}

impl Figures {
    fn measure(&mut self, way: Way, net: &mut Net) -> Result<(), Failed> {
        if let Joint::Testpmd(child) = &net.joint {
            stop(child, false);
        }
        if !way.is_testpmd() {
            self.bulk(net)?;
            self.ping(net)?;
        }
        let result = self.small(net);
        if let Joint::Testpmd(child) = &net.joint {
            stop(child, true);
        }
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
        let socket = PacketSocket::open(&net.hosts[0].ns, "t0", false)?;
        let links = net.hosts[1].links()?;
        let packet = small_packet(net)?;
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
        let over = AtomicBool::new(false);
        let (before, cpu_before, began) = (received()?, switch_cpu_s()?, Instant::now());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    // One that the link drops is sent again soon enough.
                    let _ = socket.send(&packet);
                }
            });
            std::thread::sleep(SLICE);
            over.store(true, Ordering::Relaxed);
        });
        let elapsed_s = began.elapsed().as_secs_f64();
        std::thread::sleep(Duration::from_millis(20));
        let packets = (received()? - before) as f64;
        let cpu_s = switch_cpu_s()? - cpu_before;
        self.small_mpps.push(packets / elapsed_s / 1e6);
        if cpu_s > 0.0 {
            self.small_mpps_per_core.push(packets / cpu_s / 1e6);
        }
        Ok(())
    }

    fn rows(&self) -> [(&'static str, &'static str, &[f64]); 6] {
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
