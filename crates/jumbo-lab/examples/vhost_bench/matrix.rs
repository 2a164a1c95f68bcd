//! Every kind of ring: testpmd's virtio-user ports send each other the same packets round and round through the switch.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::Result;
use crate::engine::{Engine, Kind, Places, Prompt, number_after};
use crate::report::Report;

/// Bursts of 32 packets on their way from each port.
const BURSTS: u32 = 6;

#[derive(Copy, Clone, Debug)]
struct Form {
    packed: bool,
    mergeable: bool,
    in_order: bool,
}

impl Form {
    fn all() -> impl Iterator<Item = Self> {
        (0..8).map(|bits| Self {
            packed: bits & 4 != 0,
            mergeable: bits & 2 != 0,
            in_order: bits & 1 != 0,
        })
    }

    fn name(self, len: u32) -> String {
        let ring = if self.packed { "packed" } else { "split" };
        let mergeable = if self.mergeable {
            "mergeable"
        } else {
            "single"
        };
        let order = if self.in_order {
            "in order"
        } else {
            "any order"
        };
        format!("ring {ring}, {mergeable}, {order}, {len} B")
    }
}

/// Measures each form on each switch.
pub(crate) fn measure(
    places: &Places,
    folder: &Path,
    kinds: &[Kind],
    report: &mut Report,
) -> Result<()> {
    for len in [64, 1500] {
        for form in Form::all() {
            for &kind in kinds {
                // A switch without that kind of ring is no reason to stop.
                if let Err(error) = one(places, folder, kind, form, len, report) {
                    eprintln!("{}, {}: {error}", form.name(len), kind.name());
                }
            }
        }
    }
    Ok(())
}

fn one(
    places: &Places,
    folder: &Path,
    kind: Kind,
    form: Form,
    len: u32,
    report: &mut Report,
) -> Result<()> {
    let mut engine = Engine::start_without_listeners(kind, places, folder)?;
    let mut front = Front::start(&engine, form, len)?;
    // OVS looks for its front end once a second.
    thread::sleep(Duration::from_millis(if engine.is_client() {
        2500
    } else {
        300
    }));
    front.prompt.say(&format!("start tx_first {BURSTS}"))?;
    thread::sleep(Duration::from_millis(100));
    for _ in 0..3 {
        engine.begin()?;
        let before = front.received()?;
        thread::sleep(Duration::from_millis(300));
        let after = front.received()?;
        let spent = engine.end()?;
        let name = form.name(len);
        report.add(
            &name,
            engine.kind.name(),
            "ns busy/packet",
            spent.busy_ns / (after - before),
        );
    }
    Ok(())
}

/// testpmd with two virtio-user ports on processor 0.
struct Front {
    child: Child,
    prompt: Prompt,
}

impl Front {
    fn start(engine: &Engine, form: Form, len: u32) -> Result<Self> {
        let mut command = Command::new("stdbuf");
        command.args(["-oL", "-eL", "dpdk-testpmd"]);
        command.args(["--lcores", "0@0,1@0", "--no-huge", "-m", "256", "--no-pci"]);
        command.args([
            "--no-telemetry",
            "--file-prefix",
            &format!("front{}", std::process::id()),
        ]);
        for port in 0..2 {
            command.arg("--vdev").arg(format!(
                "net_virtio_user{port},path={},queues=1,queue_size=256,mac=02:00:00:00:00:0{port},\
                 packed_vq={},mrg_rxbuf={},in_order={},server={}",
                engine.socket(port).display(),
                u8::from(form.packed),
                u8::from(form.mergeable),
                u8::from(form.in_order),
                u8::from(engine.is_client()),
            ));
        }
        command.args(["--", "-i", "--no-mlockall", "--no-numa", "--nb-cores=1"]);
        command.args(["--total-num-mbufs=16384", "--forward-mode=mac"]);
        command.args([
            "--eth-peer=0,02:00:00:00:00:01",
            "--eth-peer=1,02:00:00:00:00:00",
        ]);
        command.arg(format!("--txpkts={len}"));
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn()?;
        let mut prompt = Prompt::new(&mut child)?;
        prompt.until_prompt(0)?;
        Ok(Self { child, prompt })
    }

    /// Packets received so far.
    fn received(&mut self) -> Result<f64> {
        let mut all = 0.0;
        for port in 0..2 {
            let text = self.prompt.say(&format!("show port stats {port}"))?;
            all += number_after(&text, "RX-packets:").unwrap_or(0.0);
        }
        Ok(all)
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        let _ = self.prompt.say("stop");
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
