//! `jumbo run` on interfaces, as it is typed: without rights, beside another program on the same hook, killed, and
//! with settings of the interface that work against it. In namespaces of the test's own.

use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitCode, Output, Stdio};

use jumbo_lab::bpf::{self, XdpHook};
use jumbo_lab::ns::{Needs, NetNs, check_tun};
use jumbo_lab::{LabTest, TestError, skip, test_main};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};
use serde_json::Value;

type Tested<T = ()> = Result<T, TestError>;

fn main() -> ExitCode {
    macro_rules! tests {
        ($($name:ident),* $(,)?) => { vec![$(LabTest::new(stringify!($name), $name)),*] };
    }
    test_main(
        Needs::Links,
        tests![
            without_rights_the_start_ends_in_one_sentence,
            rights_for_the_first_port_alone_leave_nothing_behind,
            root_of_a_user_namespace_has_no_rights_outside,
            cap_net_raw_alone_is_enough_for_packet,
            a_second_switch_on_the_hook_is_refused,
            somebody_elses_program_is_named_and_left_alone,
            a_socket_of_somebody_else_on_the_queue_is_named,
            packet_says_what_a_program_before_it_takes,
            a_killed_switch_leaves_nothing_behind,
        ],
    )
}

/// `w0` and `w1` in `ns`, their other ends in `far`.
struct Rig {
    ns: NetNs,
    _far: NetNs,
    dir: tempfile::TempDir,
}

/// A switch that runs; a failed test leaves no process behind.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// Its exit code after a signal.
    fn end(mut self, signal: Signal) -> Tested<Option<i32>> {
        kill_process(Pid::from_child(&self.0), signal)?;
        Ok(self.0.wait()?.code())
    }
}

impl Rig {
    fn new() -> Tested<Self> {
        let (ns, far) = (NetNs::new()?, NetNs::new()?);
        for name in ["w0", "w1"] {
            ns.links()?.add_veth(name, name, &far)?;
            ns.links()?.up(name)?;
            far.links()?.up(name)?;
        }
        let dir = tempfile::tempdir()?;
        Ok(Self { ns, _far: far, dir })
    }

    fn command(&self, socket: &str, ports: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_jumbo"));
        let socket = self.dir.path().join(socket);
        command.arg("run").arg("--socket").arg(socket);
        for port in ports {
            command.args(["--port", port]);
        }
        command.stdin(Stdio::null());
        command
    }

    /// Runs it to its end, which must come by itself, with these rights at most.
    fn run_with(&self, keep: CapabilitySet, mut command: Command) -> Tested<Output> {
        let run = || {
            drop_all_but(keep)?;
            Ok::<_, TestError>(command.output()?)
        };
        self.ns.run(run)?
    }

    /// Starts one and waits until it switches. Returns what it said until then.
    fn start(&self, keep: CapabilitySet, ports: &[&str]) -> Tested<(Running, String)> {
        let mut command = self.command("control", ports);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let spawn = || {
            drop_all_but(keep)?;
            Ok::<_, TestError>(command.spawn()?)
        };
        let mut running = Running(self.ns.run(spawn)??);
        let mut talk = BufReader::new(running.0.stderr.take().expect("piped"));
        let (mut said, mut line) = (String::new(), String::new());
        while !line.contains("switching between") {
            line.clear();
            if talk.read_line(&mut line)? == 0 {
                return match said.contains("may not be opened by XDP") {
                    true => Err(skip(said.trim())),
                    false => Err(TestError::Failed(format!("it ended: {said}"))),
                };
            }
            said += &line;
        }
        std::thread::spawn(move || talk.read_to_end(&mut Vec::new()));
        Ok((running, said))
    }

    fn start_any(&self, ports: &[&str]) -> Tested<(Running, String)> {
        self.start(CapabilitySet::all(), ports)
    }

    /// A start that must be refused; what it says.
    fn refused(&self, keep: CapabilitySet, ports: &[&str]) -> Tested<String> {
        let before = self.traces()?;
        let output = self.run_with(keep, self.command("refused", ports))?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let code = output.status.code();
        if said.contains("may not be opened by XDP") && keep == CapabilitySet::all() {
            return Err(skip(said.trim()));
        }
        assert_eq!(code, Some(3), "{ports:?}: {said}");
        // A port that was opened before may have had something to say.
        let errors = said.lines().filter(|line| !line.starts_with("jumbo: "));
        assert_eq!(errors.count(), 1, "one sentence: {said}");
        assert_eq!(self.traces()?, before, "{ports:?} left something behind");
        assert!(!self.dir.path().join("refused").exists());
        Ok(said)
    }

    /// All that a switch changes in its namespace: links, who listens to all, programs, sockets.
    fn traces(&self) -> Tested<(Vec<String>, usize)> {
        let mut links: Vec<_> = (self.ns.links()?.list()?.iter())
            .map(|link| {
                let (name, mtu, up) = (&link.name, link.mtu, link.up);
                let (promiscuity, xdp) = (link.promiscuity, link.xdp);
                format!("{name} {mtu} {up} {promiscuity} {xdp}")
            })
            .collect();
        links.sort();
        let read = || std::fs::read_to_string("/proc/thread-self/net/packet");
        Ok((links, self.ns.run(read)??.lines().count()))
    }

    fn has_xdp(&self, name: &str) -> Tested<bool> {
        Ok(self.ns.links()?.get(name)?.xdp)
    }

    fn status(&self) -> Tested<Value> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_jumbo"));
        let socket = self.dir.path().join("control");
        let output = (command.args(["status", "--json", "--socket"]).arg(socket)).output()?;
        let talk = String::from_utf8_lossy(&output.stderr).into_owned();
        serde_json::from_slice(&output.stdout).map_err(|_| TestError::Failed(talk))
    }
}

/// The calling thread's children get none but these: a program that is executed has at most the bounding set
/// (capabilities(7)).
fn drop_all_but(keep: CapabilitySet) -> Tested {
    for capability in CapabilitySet::all().difference(keep).iter() {
        match remove_capability_from_bounding_set(capability) {
            // A kernel that does not know it yet.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(errno) => {
                return Err(skip(format!(
                    "rights cannot be given up: {errno} (run as root)"
                )));
            }
        }
    }
    Ok(())
}

fn without_rights_the_start_ends_in_one_sentence() -> Tested {
    check_tun().map_err(skip)?;
    let rig = Rig::new()?;
    let none = CapabilitySet::empty();
    for (port, words) in [
        ("packet:w0", "CAP_NET_RAW"),
        ("xdp:w0", "CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF"),
        ("xdp:w0,mode=generic", "packet:w0"),
        ("auto:w0", "CAP_NET_RAW"),
        ("tun:u0", "ip tuntap add u0 mode tun"),
        ("tap:u0", "ip tuntap add u0 mode tap"),
    ] {
        let said = rig.refused(none, &[port])?;
        assert!(said.contains(words), "{port}: {said}");
    }
    Ok(())
}

/// What the first port did is undone when the second is refused.
fn rights_for_the_first_port_alone_leave_nothing_behind() -> Tested {
    check_tun().map_err(skip)?;
    let rig = Rig::new()?;
    let (raw, admin) = (CapabilitySet::NET_RAW, CapabilitySet::NET_ADMIN);
    for (keep, first, second) in [
        (raw, "packet:w0", "xdp:w1"),
        (raw, "packet:w0", "tap:t0"),
        (admin, "tap:t0", "packet:w1"),
        (admin, "tap:t0", "xdp:w1"),
        (raw, "packet:w0", "packet:w1,mtu=1400"),
    ] {
        let said = rig.refused(keep, &[first, second])?;
        let device = second.split([':', ',']).nth(1).expect("a device");
        assert!(said.contains(&format!("`{device}`")), "{said}");
    }
    // XDP, attached and taken off again.
    let all = CapabilitySet::all();
    for second in ["packet:w1", "xdp:w1,mode=generic"] {
        rig.ns.links()?.down("w1")?;
        let said = rig.refused(all, &["xdp:w0", second])?;
        assert!(said.contains("ip link set w1 up"), "{said}");
    }
    Ok(())
}

fn root_of_a_user_namespace_has_no_rights_outside() -> Tested {
    let rig = Rig::new()?;
    for port in ["packet:w0", "xdp:w0", "auto:w0"] {
        let inner = rig.command("control", &[port]);
        let mut outer = Command::new("unshare");
        outer.args(["--user", "--map-root-user"]);
        outer.arg(inner.get_program()).args(inner.get_args());
        let before = rig.traces()?;
        let output = match rig.ns.run(|| outer.output())? {
            Err(error) => {
                return Err(skip(format!(
                    "unshare: {error} (apt-get install util-linux)"
                )));
            }
            Ok(output) => output,
        };
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if said.starts_with("unshare:") {
            return Err(skip(format!("{} (allow user namespaces)", said.trim())));
        }
        assert_eq!(output.status.code(), Some(3), "{port}: {said}");
        assert_eq!(said.trim_end().lines().count(), 1, "{said}");
        assert!(said.contains("may not be opened"), "{said}");
        assert_eq!(rig.traces()?, before);
    }
    Ok(())
}

fn cap_net_raw_alone_is_enough_for_packet() -> Tested {
    let rig = Rig::new()?;
    let before = rig.traces()?;
    let (running, _) = rig.start(CapabilitySet::NET_RAW, &["packet:w0", "packet:w1"])?;
    assert_eq!(rig.ns.links()?.get("w0")?.promiscuity, 1);
    let status = rig.status()?;
    let rows = status["ports"][0]["capabilities"]
        .as_array()
        .expect("rows")
        .clone();
    let row = rows
        .iter()
        .find(|row| row["name"] == "full_buffers")
        .expect("a row");
    let limit = std::fs::read_to_string("/proc/sys/net/core/rmem_max")?;
    if limit
        .trim()
        .parse::<usize>()
        .is_ok_and(|limit| limit < 8 << 20)
    {
        assert_eq!(row["in_use"], false);
        assert!(
            row["why"].to_string().contains("net.core.rmem_max"),
            "{row}"
        );
    }
    assert_eq!(running.end(Signal::TERM)?, Some(0));
    assert_eq!(rig.traces()?, before);
    Ok(())
}

fn a_second_switch_on_the_hook_is_refused() -> Tested {
    let rig = Rig::new()?;
    for (first, second) in [
        ("xdp:w0", "xdp:w0"),
        ("xdp:w0,mode=native", "xdp:w0,mode=generic"),
        ("xdp:w0,mode=generic", "xdp:w0,mode=native"),
        ("xdp:w0,mode=generic", "xdp:w0"),
    ] {
        let (running, _) = rig.start_any(&[first])?;
        let said = rig.refused(CapabilitySet::all(), &[second])?;
        assert!(said.contains("XDP program of somebody else"), "{said}");
        assert!(rig.has_xdp("w0")?, "the first one's program stays");
        assert_eq!(rig.status()?["ports"][0]["state"], "up");
        assert_eq!(running.end(Signal::TERM)?, Some(0));
        assert!(!rig.has_xdp("w0")?);
    }
    Ok(())
}

fn somebody_elses_program_is_named_and_left_alone() -> Tested {
    let all = CapabilitySet::all();
    for hook in [XdpHook::Native, XdpHook::Generic] {
        let rig = Rig::new()?;
        // One that its maker holds.
        let held = bpf::hold_xdp(&rig.ns, "w0", hook).map_err(skip)?;
        for mode in ["auto", "native", "generic"] {
            let said = rig.refused(all, &[&format!("xdp:w0,mode={mode}")])?;
            assert!(said.contains("XDP program of somebody else"), "{said}");
        }
        assert!(rig.has_xdp("w0")?);
        drop(held);
        // One that was left behind; the advice of the sentence takes it off.
        bpf::leave_xdp(&rig.ns, "w0", hook)?;
        let said = rig.refused(all, &["xdp:w0"])?;
        let advice = match hook {
            XdpHook::Native => "xdpdrv off",
            XdpHook::Generic => "xdpgeneric off",
        };
        assert!(said.contains(advice), "{said}");
        rig.ns.links()?.set_xdp("w0", -1, hook as u32)?;
        let (running, _) = rig.start_any(&["xdp:w0"])?;
        assert_eq!(running.end(Signal::TERM)?, Some(0));
    }
    Ok(())
}

/// An AF_XDP socket without a program, as a program has that only sends.
fn a_socket_of_somebody_else_on_the_queue_is_named() -> Tested {
    let rig = Rig::new()?;
    let index = rig.ns.links()?.index("w0")?;
    let pages = vec![0u8; 3 * PAGE];
    let _held = rig.ns.run(|| xdp_socket(&pages, index))?.map_err(skip)?;
    for mode in ["native", "generic"] {
        let said = rig.refused(CapabilitySet::all(), &[&format!("xdp:w0,mode={mode}")])?;
        let words = "receive queue 0 of interface `w0` has an AF_XDP socket of somebody else";
        assert!(said.contains(words), "{said}");
    }
    Ok(())
}

const PAGE: usize = 4096;

/// A socket on the first receive queue, with two chunks of `pages`.
fn xdp_socket(pages: &[u8], index: u32) -> rustix::io::Result<OwnedFd> {
    use rustix::net::xdp::{SocketAddrXdp, SocketAddrXdpFlags, XdpUmemReg, XdpUmemRegFlags};
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};
    let socket = socket_with(
        AddressFamily::XDP,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let area = XdpUmemReg {
        addr: (pages.as_ptr() as u64).next_multiple_of(PAGE as u64),
        len: 2 * PAGE as u64,
        chunk_size: PAGE as u32,
        headroom: 0,
        flags: XdpUmemRegFlags::empty(),
        tx_metadata_len: 0,
    };
    sockopt::set_xdp_umem_reg(&socket, area)?;
    sockopt::set_xdp_umem_fill_ring_size(&socket, 2)?;
    sockopt::set_xdp_umem_completion_ring_size(&socket, 2)?;
    sockopt::set_xdp_tx_ring_size(&socket, 2)?;
    bind(
        &socket,
        &SocketAddrXdp::new(SocketAddrXdpFlags::XDP_COPY, index, 0),
    )?;
    Ok(socket)
}

fn packet_says_what_a_program_before_it_takes() -> Tested {
    let rig = Rig::new()?;
    let (running, said) = rig.start_any(&["packet:w0"])?;
    assert!(!said.contains("XDP"), "{said}");
    running.end(Signal::TERM)?;
    let _held = bpf::hold_xdp(&rig.ns, "w0", XdpHook::Native).map_err(skip)?;
    for port in ["packet:w0", "auto:w0"] {
        let (running, said) = rig.start_any(&[port])?;
        assert!(said.contains("what it takes never gets here"), "{said}");
        assert_eq!(running.end(Signal::TERM)?, Some(0));
    }
    Ok(())
}

/// The program belongs to a link, the link and promiscuous mode to files of the process, and the kernel closes these.
fn a_killed_switch_leaves_nothing_behind() -> Tested {
    check_tun().map_err(skip)?;
    let rig = Rig::new()?;
    let before = rig.traces()?;
    for mode in ["native", "generic"] {
        let ports = [&format!("xdp:w0,mode={mode}"), "packet:w1", "tap:t0"];
        for _ in 0..3 {
            // Each start finds the place free, at once.
            let (running, _) = rig.start_any(&ports)?;
            assert!(rig.has_xdp("w0")?);
            assert_eq!(rig.ns.links()?.get("w1")?.promiscuity, 1);
            assert_eq!(running.end(Signal::KILL)?, None);
            assert_eq!(rig.traces()?, before, "after kill -9");
        }
    }
    Ok(())
}
