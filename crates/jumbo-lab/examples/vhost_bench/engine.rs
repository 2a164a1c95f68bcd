//! The switches under test: each a process with two vhost-user ports, its data path on processor 1.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use jumbo_testkit::virtio::{FrontEnd, FrontEndListener};
use rustix::process::{Pid, Signal, kill_process};

use crate::Result;

const START_LIMIT: Duration = Duration::from_secs(30);
const PROMPT: &str = "testpmd> ";

/// Which switch.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Jumbo,
    /// Another build of it.
    Base,
    /// testpmd, `io`: passes packets from port to port without a look at them.
    Testpmd,
    Ovs,
    /// OVS that sleeps when there is little to do (`pmd-sleep-max`, since 3.1).
    OvsSleep,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Jumbo => "jumbo",
            Self::Base => "jumbo base",
            Self::Testpmd => "testpmd io",
            Self::Ovs => "ovs-dpdk",
            Self::OvsSleep => "ovs-dpdk pmd-sleep",
        }
    }

    fn is_ours(self) -> bool {
        matches!(self, Self::Jumbo | Self::Base)
    }
}

/// Where programs are taken from.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    pub(crate) jumbo: PathBuf,
    /// Another build of it to compare with.
    pub(crate) base: PathBuf,
    /// A root directory to run the others in; empty for the machine's own.
    pub(crate) root: PathBuf,
}

impl Places {
    fn command(&self, program: &str) -> Command {
        if self.root.as_os_str().is_empty() {
            return Command::new(program);
        }
        let mut command = Command::new("chroot");
        command.arg(&self.root).arg(program);
        command
    }
}

/// A switch, running.
pub(crate) struct Engine {
    pub(crate) kind: Kind,
    children: Vec<Child>,
    /// The process whose CPU time counts.
    pid: Pid,
    folder: PathBuf,
    inner: PathBuf,
    places: Places,
    prompt: Option<Prompt>,
    listeners: Vec<FrontEndListener>,
    mark: Mark,
}

#[derive(Copy, Clone, Debug)]
struct Mark {
    cpu_ns: u64,
    time: Instant,
}

/// CPU time between two looks.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Spent {
    /// All of the process.
    pub(crate) cpu_ns: f64,
    /// Without polls that found nothing, as far as the switch counts those; Jumbo sleeps then.
    pub(crate) busy_ns: f64,
}

impl Engine {
    /// Starts it. `bulk`: with TCP super-packets where that is a choice.
    pub(crate) fn start(kind: Kind, places: &Places, folder: &Path, bulk: bool) -> Result<Self> {
        let inner = folder.join(kind.name().replace(' ', "-"));
        let outer = if places.root.as_os_str().is_empty() || kind.is_ours() {
            inner.clone()
        } else {
            places.root.join(inner.strip_prefix("/")?)
        };
        let _ = fs::remove_dir_all(&outer);
        fs::create_dir_all(&outer)?;
        let mut engine = Self {
            kind,
            children: Vec::new(),
            pid: rustix::process::getpid(),
            folder: outer,
            inner,
            places: places.clone(),
            prompt: None,
            listeners: Vec::new(),
            mark: Mark {
                cpu_ns: 0,
                time: Instant::now(),
            },
        };
        match kind {
            Kind::Jumbo => engine.start_jumbo(&places.jumbo)?,
            Kind::Base => engine.start_jumbo(&places.base)?,
            Kind::Testpmd => engine.start_testpmd(bulk)?,
            Kind::Ovs => engine.start_ovs(bulk, 0)?,
            Kind::OvsSleep => engine.start_ovs(bulk, 100)?,
        }
        Ok(engine)
    }

    /// The same for a front end in another process, which listens itself where the switch connects.
    pub(crate) fn start_without_listeners(
        kind: Kind,
        places: &Places,
        folder: &Path,
    ) -> Result<Self> {
        let mut engine = Self::start(kind, places, folder, false)?;
        engine.listeners.clear();
        for port in 0..2 {
            if engine.is_client() {
                fs::remove_file(engine.socket(port))?;
            }
        }
        Ok(engine)
    }

    fn inner_path(&self, name: &str) -> String {
        self.inner.join(name).display().to_string()
    }

    fn log(&self) -> Result<File> {
        let path = self.folder.join("log");
        Ok(File::options().create(true).append(true).open(path)?)
    }

    fn spawn(&mut self, mut command: Command) -> Result<()> {
        command.stderr(self.log()?);
        let child = command.spawn()?;
        self.pid = Pid::from_child(&child);
        self.children.push(child);
        Ok(())
    }

    fn start_jumbo(&mut self, program: &Path) -> Result<()> {
        let mut command = Command::new("taskset");
        command.args(["-c", "1"]).arg(program);
        command.args(["run", "--socket", &self.inner_path("control")]);
        for port in ["a", "b"] {
            let port = format!("vhost-user:{},name={port}", self.inner_path(port));
            command.args(["--port", &port]);
        }
        command.stdout(self.log()?);
        self.spawn(command)
    }

    fn start_testpmd(&mut self, bulk: bool) -> Result<()> {
        let mut command = self.places.command("stdbuf");
        command.args(["-oL", "-eL", "dpdk-testpmd"]);
        command.args(["--lcores", "0@0,1@1", "--in-memory", "-m", "256"]);
        command.args(["--no-pci", "--no-telemetry"]);
        for (index, port) in ["a", "b"].into_iter().enumerate() {
            let tso = u8::from(bulk);
            let path = self.inner_path(port);
            command.args([
                "--vdev",
                &format!("net_vhost{index},iface={path},queues=1,tso={tso}"),
            ]);
        }
        command.args(["--", "-i", "--no-mlockall", "--no-numa", "--nb-cores=1"]);
        command.args(["--forward-mode=io", "--record-core-cycles"]);
        // Few buffers, so that they stay in the cache; of the largest size where packets are large.
        command.args(match bulk {
            true => ["--total-num-mbufs=1536", "--mbuf-size=65535"],
            false => ["--total-num-mbufs=4096", "--mbuf-size=2176"],
        });
        command.args(["--mbcache=128", "--rxd=1024", "--txd=1024"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        self.spawn(command)?;
        let child = self.children.last_mut().ok_or("no child")?;
        let mut prompt = Prompt::new(child)?;
        prompt.until_prompt(0)?;
        prompt.say("start")?;
        self.prompt = Some(prompt);
        Ok(())
    }

    fn start_ovs(&mut self, bulk: bool, sleep_us: u32) -> Result<()> {
        for port in ["a", "b"] {
            let listener = FrontEndListener::bind(self.folder.join(port))?;
            self.listeners.push(listener);
        }
        let database = self.inner_path("conf.db");
        let mut create = self.places.command("ovsdb-tool");
        create.args([
            "create",
            &database,
            "/usr/share/openvswitch/vswitch.ovsschema",
        ]);
        run(create)?;
        let mut server = self.ovs_daemon("ovsdb-server", "server");
        server.arg(&database);
        server.arg(format!("--remote=punix:{}", self.inner_path("db")));
        self.spawn(server)?;
        self.wait_for("db")?;
        self.vsctl(&["--no-wait", "init"])?;
        let tso = format!("other_config:userspace-tso-enable={bulk}");
        let sleep = format!("other_config:pmd-maxsleep={sleep_us}");
        let sleep_new = format!("other_config:pmd-sleep-max={sleep_us}");
        self.vsctl(&[
            "--no-wait",
            "set",
            "Open_vSwitch",
            ".",
            "other_config:dpdk-init=true",
            "other_config:dpdk-extra=\"--no-pci -m 512\"",
            "other_config:pmd-cpu-mask=0x2",
            "other_config:dpdk-lcore-mask=0x1",
            &tso,
            &sleep,
            &sleep_new,
        ])?;
        let mut switch = self.ovs_daemon(
            "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk",
            "switch",
        );
        switch.arg(format!("unix:{}", self.inner_path("db")));
        self.spawn(switch)?;
        self.wait_for("switch.ctl")?;
        self.vsctl(&[
            "add-br",
            "br",
            "--",
            "set",
            "bridge",
            "br",
            "datapath_type=netdev",
        ])?;
        for port in ["a", "b"] {
            let path = format!("options:vhost-server-path={}", self.inner_path(port));
            self.vsctl(&[
                "add-port",
                "br",
                port,
                "--",
                "set",
                "Interface",
                port,
                "type=dpdkvhostuserclient",
                &path,
            ])?;
        }
        Ok(())
    }

    fn ovs_daemon(&self, program: &str, name: &str) -> Command {
        let mut command = self.places.command("env");
        let folder = self.inner.display();
        for variable in ["OVS_RUNDIR", "OVS_DBDIR", "OVS_LOGDIR"] {
            command.arg(format!("{variable}={folder}"));
        }
        command.arg(program);
        command.arg(format!(
            "--unixctl={}",
            self.inner_path(&format!("{name}.ctl"))
        ));
        command.arg(format!(
            "--log-file={}",
            self.inner_path(&format!("{name}.log"))
        ));
        command.args(["-vconsole:off"]).stdout(Stdio::null());
        command
    }

    fn vsctl(&self, arguments: &[&str]) -> Result<()> {
        let mut command = self.places.command("ovs-vsctl");
        command.arg(format!("--db=unix:{}", self.inner_path("db")));
        command.args(["-t", "20"]).args(arguments);
        run(command).map(drop)
    }

    fn appctl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.places.command("ovs-appctl");
        command.args(["-t", &self.inner_path("switch.ctl")]);
        command.args(arguments);
        run(command)
    }

    fn wait_for(&self, name: &str) -> Result<()> {
        let end = Instant::now() + START_LIMIT;
        while !self.folder.join(name).exists() {
            if Instant::now() > end {
                return Err(format!("{}: no {name}", self.kind.name()).into());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Connects the front end of port 0 or 1.
    pub(crate) fn connect(&self, port: usize) -> Result<FrontEnd> {
        if let Some(listener) = self.listeners.get(port) {
            return Ok(listener.accept(START_LIMIT)?);
        }
        Ok(FrontEnd::connect(self.socket(port), START_LIMIT)?)
    }

    /// Where port 0 or 1 listens, or, of OVS, expects a front end that listens.
    pub(crate) fn socket(&self, port: usize) -> PathBuf {
        self.folder.join(["a", "b"][port])
    }

    /// Whether it connects to a front end that listens.
    pub(crate) fn is_client(&self) -> bool {
        matches!(self.kind, Kind::Ovs | Kind::OvsSleep)
    }

    /// Lets it stand still, so that another has the processor.
    pub(crate) fn pause(&self) {
        let _ = kill_process(self.pid, Signal::STOP);
    }

    pub(crate) fn resume(&self) {
        let _ = kill_process(self.pid, Signal::CONT);
    }

    /// CPU time of all threads, ns.
    pub(crate) fn cpu_ns(&self) -> u64 {
        let tasks = format!("/proc/{}/task", self.pid.as_raw_nonzero());
        let tasks = fs::read_dir(tasks).into_iter().flatten().flatten();
        let times = tasks.map(|task| {
            let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            let first = text
                .split(' ')
                .next()
                .and_then(|word| word.parse::<u64>().ok());
            first.unwrap_or(0)
        });
        times.sum()
    }

    /// Begins to count.
    pub(crate) fn begin(&mut self) -> Result<()> {
        match self.kind {
            Kind::Jumbo | Kind::Base => {}
            Kind::Testpmd => {
                self.prompt()?.say("clear fwd stats all")?;
            }
            Kind::Ovs | Kind::OvsSleep => {
                self.appctl(&["dpif-netdev/pmd-stats-clear"])?;
            }
        }
        self.mark = Mark {
            cpu_ns: self.cpu_ns(),
            time: Instant::now(),
        };
        Ok(())
    }

    /// What was spent since `begin`.
    pub(crate) fn end(&mut self) -> Result<Spent> {
        let cpu_ns = (self.cpu_ns() - self.mark.cpu_ns) as f64;
        // Its cycle counter goes on while others have the processor.
        let share = cpu_ns / self.mark.time.elapsed().as_nanos() as f64;
        let busy_ns = match self.kind {
            Kind::Jumbo | Kind::Base => cpu_ns,
            Kind::Testpmd => share.min(1.0) * self.testpmd_busy_ns()?,
            Kind::Ovs | Kind::OvsSleep => cpu_ns * self.ovs_busy_share()?,
        };
        Ok(Spent { cpu_ns, busy_ns })
    }

    fn prompt(&mut self) -> Result<&mut Prompt> {
        self.prompt.as_mut().ok_or_else(|| "no prompt".into())
    }

    /// "CPU cycles/packet=… (total cycles=N / total io packets=M) at F MHz Clock".
    fn testpmd_busy_ns(&mut self) -> Result<f64> {
        let text = self.prompt()?.say("show fwd stats all")?;
        let cycles = number_after(&text, "total cycles=");
        let cycles = cycles.filter(|cycles| *cycles > 0.0).unwrap_or(f64::NAN);
        let mhz = number_after(&text, " at ").unwrap_or(f64::NAN);
        Ok(cycles / mhz * 1e3)
    }

    /// The part of its cycles that the polling thread spent on packets.
    fn ovs_busy_share(&mut self) -> Result<f64> {
        let text = self.appctl(&["dpif-netdev/pmd-stats-show"])?;
        let all = |name: &str| -> f64 {
            let parts = text.match_indices(name);
            parts
                .filter_map(|(at, _)| number_after(&text[at..], name))
                .sum()
        };
        let (idle, busy) = (all("idle cycles:"), all("processing cycles:"));
        Ok(busy / (idle + busy))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.resume();
        for child in self.children.iter_mut().rev() {
            let _ = kill_process(Pid::from_child(child), Signal::TERM);
        }
        for child in &mut self.children {
            let end = Instant::now() + Duration::from_secs(3);
            while matches!(child.try_wait(), Ok(None)) && Instant::now() < end {
                thread::sleep(Duration::from_millis(20));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Runs a program to its end.
fn run(mut command: Command) -> Result<String> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(format!("{command:?}: {said}").into())
}

/// The number that follows `name` in `text`.
pub(crate) fn number_after(text: &str, name: &str) -> Option<f64> {
    let rest = text[text.find(name)? + name.len()..].trim_start();
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.');
    rest[..end.unwrap_or(rest.len())]
        .trim_end_matches('.')
        .parse()
        .ok()
}

/// testpmd's command line.
pub(crate) struct Prompt {
    input: std::process::ChildStdin,
    said: Arc<Mutex<String>>,
}

impl Prompt {
    pub(crate) fn new(child: &mut Child) -> Result<Self> {
        let input = child.stdin.take().ok_or("no stdin")?;
        let mut output = child.stdout.take().ok_or("no stdout")?;
        let said = Arc::new(Mutex::new(String::new()));
        let copy = said.clone();
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..count]);
                copy.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push_str(&text);
            }
        });
        Ok(Self { input, said })
    }

    /// Waits for a prompt behind byte `from`. Returns what was said there.
    pub(crate) fn until_prompt(&mut self, from: usize) -> Result<String> {
        let end = Instant::now() + START_LIMIT;
        loop {
            let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            // A command's echo comes with the old prompt, on a line of its own.
            let text = &said[from..];
            let answer = text.split_once('\n').map_or("", |(_, answer)| answer);
            if answer.ends_with(PROMPT) {
                return Ok(answer.to_owned());
            }
            if Instant::now() > end {
                return Err(format!("testpmd gives no prompt: {text}").into());
            }
            drop(said);
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Types a command. Returns the answer.
    pub(crate) fn say(&mut self, line: &str) -> Result<String> {
        let from = self
            .said
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len();
        writeln!(self.input, "{line}")?;
        // The old prompt is before `from`; what is new ends with the next.
        self.until_prompt(from)
    }
}
