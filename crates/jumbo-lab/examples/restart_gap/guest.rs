//! A guest in QEMU and the host behind a TAP.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use jumbo_lab::Host;
use jumbo_lab::ns::NetNs;
use jumbo_lab::packet_socket::PacketSocket;
use jumbo_lab::tap::{Tap, TapOffloads, TapSpec};
use jumbo_lab::vm::{Nic, Qemu, QemuTools, VmSpec};
use jumbo_testkit::oracle::checksum;

use crate::own::ms;
use crate::switch::{Plan, Switch};
use crate::{Result, print};

/// Traffic before and behind each restart.
const AROUND: Duration = Duration::from_millis(800);
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn measure(jumbo: &Path, packed: bool, restarts: usize) -> Result<()> {
    let tools = QemuTools::find()?;
    let folder = tempfile::tempdir()?;
    let host = Host::inside(NetNs::new()?, 1);
    let tap = Tap::create(&host.ns, &TapSpec::new("t0", TapOffloads::TSO))?;
    tap.persist()?;
    drop(tap);
    host.plug("t0")?;
    let socket = folder.path().join("a");
    let ports = [
        format!("vhost-user:{},client", socket.display()),
        "tap:t0".into(),
    ];
    let nic = Nic::vhost_user(&socket).server();
    let nic = if packed { nic.packed() } else { nic };
    let mut vm = Qemu::spawn(&tools, &VmSpec::new().number(11).nic(nic))?;
    let mut switch = Plan::new(jumbo, folder.path(), &host.ns, &ports).start()?;
    vm.wait_ready()?;
    vm.ok("ip addr add 10.0.0.11/24 dev eth0 && ip link set eth0 up")?;
    vm.ok("for i in $(seq 10); do ping -c 1 -W 5 10.0.0.1 && exit; done; exit 1")?;
    let streams: [(&str, Begin); 3] = [
        ("ICMP echoes of the guest", echoes),
        ("TCP from the guest", tcp_out),
        ("TCP round trips from the host", tcp_echo),
    ];
    for (name, begin) in streams {
        let mut gaps = Vec::new();
        for _ in 0..restarts {
            gaps.push(ms(gap(&mut switch, begin(&host, &mut vm)?)?));
        }
        print(name, "ms", &gaps);
    }
    Ok(())
}

/// Begins a stream; returns what waits for its next arrival.
type Begin = fn(&Host, &mut Qemu) -> Result<Arrival>;
type Arrival = Box<dyn FnMut() -> std::io::Result<()> + Send>;

/// The longest time without an arrival while the switch is killed and comes back.
fn gap(switch: &mut Switch, mut arrival: Arrival) -> Result<Duration> {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let reader = thread::spawn(move || -> std::io::Result<Duration> {
        let (mut gap, mut last) = (Duration::ZERO, None);
        while !stopped.load(Ordering::Relaxed) {
            arrival()?;
            let now = Instant::now();
            gap = gap.max(last.map_or(Duration::ZERO, |last| now - last));
            last = Some(now);
        }
        Ok(gap)
    });
    thread::sleep(AROUND);
    switch.restart()?;
    thread::sleep(AROUND);
    stop.store(true, Ordering::Relaxed);
    Ok(reader.join().expect("no panic")?)
}

/// A question each millisecond, whatever becomes of the one before; an arrival is an answer of the guest's kernel.
fn echoes(host: &Host, _: &mut Qemu) -> Result<Arrival> {
    let ours = host.links()?.get("t0")?.mac.unwrap_or_default();
    let question = echo_request(ours);
    let socket = PacketSocket::open(&host.ns, "t0", false)?;
    Ok(Box::new(move || {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            // Nobody takes it while the switch is not there.
            let _ = socket.send(&question);
            while let Ok(Some(packet)) = socket.recv(Duration::from_millis(1)) {
                let is_answer = packet.get(6..12) == Some(&GUEST_MAC) && packet.get(34) == Some(&0);
                if is_answer && packet.get(23) == Some(&ICMP) {
                    return Ok(());
                }
            }
        }
        Err(ErrorKind::TimedOut.into())
    }))
}

const GUEST_MAC: [u8; 6] = [0x52, 0x54, 0, 0, 11, 0];
const ICMP: u8 = 1;

/// RFC 792, from 10.0.0.1 to 10.0.0.11.
fn echo_request(ours: [u8; 6]) -> Vec<u8> {
    let mut ip = vec![0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, ICMP, 0, 0];
    ip.extend([10, 0, 0, 1, 10, 0, 0, 11]);
    let sum = checksum(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut icmp = vec![8, 0, 0, 0, 0, 1, 0, 1];
    let sum = checksum(&icmp);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    [&GUEST_MAC[..], &ours, &[8, 0], &ip, &icmp].concat()
}

/// As fast as the guest sends.
fn tcp_out(host: &Host, vm: &mut Qemu) -> Result<Arrival> {
    let listener = host.ns.run(|| TcpListener::bind("10.0.0.1:0"))??;
    let port = listener.local_addr()?.port();
    vm.ok("killall nc 2> /dev/null; true")?;
    vm.ok(&format!(
        "nc 10.0.0.1 {port} < /dev/zero > /dev/null 2>&1 &"
    ))?;
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(Box::new(move || {
        patiently(|| stream.read(&mut [0; 1 << 16])).map(drop)
    }))
}

/// Again where a process that was stopped goes on.
fn patiently<T>(mut act: impl FnMut() -> std::io::Result<T>) -> std::io::Result<T> {
    loop {
        match act() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// A byte there and back.
fn tcp_echo(host: &Host, vm: &mut Qemu) -> Result<Arrival> {
    vm.ok("killall nc 2> /dev/null; true")?;
    vm.ok("nc -l -p 7007 -e cat > /dev/null 2>&1 &")?;
    let end = Instant::now() + PATIENCE;
    let mut stream = loop {
        match host.ns.run(|| TcpStream::connect("10.0.0.11:7007"))? {
            Err(_) if Instant::now() < end => thread::sleep(Duration::from_millis(100)),
            other => break other?,
        }
    };
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(Box::new(move || {
        stream.write_all(b"x")?;
        patiently(|| stream.read_exact(&mut [0; 1]))
    }))
}
