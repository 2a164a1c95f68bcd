//! Guests in QEMU, which listens for the switch.

use std::path::Path;
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::{Duration, Instant};

use jumbo_lab::ns::NetNs;
use jumbo_lab::vm::{Nic, Qemu, QemuTools, VmSpec};
use jumbo_testkit::oracle::checksum;
use jumbo_testkit::virtio::{FrontEnd, VirtioNet};

use crate::own::{connections, ms, options};
use crate::switch::{Plan, Switch};
use crate::{Result, print};

/// Traffic before and behind each restart.
const AROUND: Duration = Duration::from_millis(600);
const PATIENCE: Duration = Duration::from_secs(60);

fn nic(socket: &Path, packed: bool) -> Nic {
    let nic = Nic::vhost_user(socket).server();
    if packed { nic.packed() } else { nic }
}

fn ports(sockets: [&Path; 2]) -> [String; 2] {
    sockets.map(|socket| format!("vhost-user:{},client", socket.display()))
}

/// The kernel of a guest answers questions of a card of ours.
pub(crate) fn echoes(jumbo: &Path, packed: bool, restarts: usize) -> Result<()> {
    let tools = QemuTools::find()?;
    let folder = tempfile::tempdir()?;
    let [a, b] = ["a", "b"].map(|name| folder.path().join(name));
    let came = connections(&b)?;
    let mut vm = Qemu::spawn(&tools, &VmSpec::new().number(11).nic(nic(&a, packed)))?;
    let plan = Plan::new(jumbo, folder.path(), &NetNs::here()?, &ports([&a, &b]));
    let mut switch = plan.start()?;
    let net = VirtioNet::start(came.recv_timeout(PATIENCE)?, options(packed))?;
    let mut card = Asker {
        net,
        came,
        next: Instant::now(),
        last: None,
        gap: Duration::ZERO,
    };
    vm.wait_ready()?;
    vm.ok("ip addr add 10.0.0.11/24 dev eth0 && ip link set eth0 up")?;
    vm.ok("arp -s 10.0.0.1 02:00:00:00:00:01")?;
    let mut gaps = Vec::new();
    for _ in 0..restarts {
        gaps.push(ms(card.gap(&mut switch)?));
    }
    print("echoes of the guest", "ms", &gaps);
    Ok(())
}

/// A card that asks a guest each millisecond.
struct Asker {
    net: VirtioNet,
    came: Receiver<FrontEnd>,
    next: Instant,
    last: Option<Instant>,
    gap: Duration,
}

impl Asker {
    /// The longest time between two answers while the switch is killed and comes back.
    fn gap(&mut self, switch: &mut Switch) -> Result<Duration> {
        self.run_for(AROUND)?;
        if self.last.is_none() {
            return Err("the guest does not answer".into());
        }
        self.gap = Duration::ZERO;
        thread::scope(|scope| -> Result<()> {
            let restarted = scope.spawn(|| switch.restart().map_err(|error| error.to_string()));
            let end = Instant::now() + PATIENCE;
            loop {
                self.step()?;
                if let Ok(front) = self.came.try_recv() {
                    self.net.reconnect(front)?;
                    break;
                }
                if Instant::now() > end {
                    return Err("the switch did not come back".into());
                }
            }
            Ok(restarted.join().expect("no panic")?)
        })?;
        self.run_for(AROUND)?;
        // The guest may be later than the card.
        self.run_for(AROUND)?;
        Ok(self.gap)
    }

    fn run_for(&mut self, time: Duration) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < time {
            self.step()?;
        }
        Ok(())
    }

    fn step(&mut self) -> Result<()> {
        if Instant::now() >= self.next {
            // A full ring: the switch is not there.
            self.net.try_send(0, &[0; 12], &echo_request())?;
            self.next = Instant::now() + Duration::from_millis(1);
        }
        while let Some(received) = self.net.try_recv()? {
            let packet = received.packet;
            if packet.get(23) == Some(&ICMP) && packet.get(34) == Some(&0) {
                let now = Instant::now();
                if let Some(last) = self.last.replace(now) {
                    self.gap = self.gap.max(now - last);
                }
            }
        }
        // Leaves the guest some of this processor.
        thread::sleep(Duration::from_micros(50));
        Ok(())
    }
}

const ICMP: u8 = 1;

/// RFC 792, from 10.0.0.1 to 10.0.0.11.
fn echo_request() -> Vec<u8> {
    let mut ip = vec![0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, ICMP, 0, 0];
    ip.extend([10, 0, 0, 1, 10, 0, 0, 11]);
    let sum = checksum(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut icmp = vec![8, 0, 0, 0, 0, 1, 0, 1];
    let sum = checksum(&icmp);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let (theirs, ours) = ([0x52, 0x54, 0, 0, 11, 0], [2, 0, 0, 0, 0, 1]);
    [&theirs[..], &ours, &[8, 0], &ip, &icmp].concat()
}

/// A line each ten milliseconds from one guest to another, over TCP; the receiver's clock, which counts hundredths of a
/// second, says when each came.
pub(crate) fn tcp(jumbo: &Path, packed: bool, restarts: usize) -> Result<()> {
    let tools = QemuTools::find()?;
    let folder = tempfile::tempdir()?;
    let [a, b] = ["a", "b"].map(|name| folder.path().join(name));
    let mut guests = Vec::new();
    for (number, socket) in [(11, &a), (12, &b)] {
        let spec = VmSpec::new().number(number).nic(nic(socket, packed));
        guests.push(Qemu::spawn(&tools, &spec)?);
    }
    let plan = Plan::new(jumbo, folder.path(), &NetNs::here()?, &ports([&a, &b]));
    let mut switch = plan.start()?;
    for (vm, number) in guests.iter_mut().zip([11, 12]) {
        vm.wait_ready()?;
        vm.ok(&format!(
            "ip addr add 10.0.0.{number}/24 dev eth0 && ip link set eth0 up"
        ))?;
    }
    let [from, to] = &mut guests[..] else {
        return Err("two guests".into());
    };
    from.ok("for i in $(seq 10); do ping -c 1 -W 5 10.0.0.12 && exit; done; exit 1")?;
    let mut gaps = Vec::new();
    for _ in 0..restarts {
        gaps.push(one(&mut switch, from, to)?);
    }
    print("TCP from guest to guest", "ms", &gaps);
    Ok(())
}

fn one(switch: &mut Switch, from: &mut Qemu, to: &mut Qemu) -> Result<f64> {
    to.ok(
        "rm -f /tmp/times; test -e /tmp/never || mkfifo /tmp/never; (nc -l -p 7000 0<> /tmp/never | \
         while read -r line; do read -r up idle < /proc/uptime; echo $up; done > /tmp/times) > /dev/null 2>&1 &",
    )?;
    from.ok(
        "(sleep 0.3; i=0; while test $i -lt 200; do echo x; usleep 10000; i=$((i + 1)); done | nc 10.0.0.12 7000) \
         > /dev/null 2>&1 &",
    )?;
    thread::sleep(AROUND * 2);
    switch.restart()?;
    thread::sleep(AROUND * 2);
    let times = to.ok("killall nc; sleep 0.1; cat /tmp/times")?;
    from.ok("killall nc 2> /dev/null; true")?;
    let times: Vec<f64> = times.lines().filter_map(|line| line.parse().ok()).collect();
    let gap = times.windows(2).map(|two| two[1] - two[0]).reduce(f64::max);
    Ok(gap.ok_or("no lines came")? * 1e3)
}
