//! `jumbo tune` as it is typed, in namespaces of its own: exit codes, undo files, what is refused.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::time::{Duration, Instant};

use jumbo_lab::ethtool::Offload;
use jumbo_lab::ns::{Needs, NetNs, check_tun};
use jumbo_lab::tap::{Tap, TapOffloads, TapSpec};
use jumbo_lab::{LabTest, TestError, skip, test_main};

type Result<T = ()> = std::result::Result<T, TestError>;

/// Nothing here takes longer, unless it hangs.
const LONGEST: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    test_main(
        Needs::Links,
        vec![
            LabTest::new(
                "a_plan_is_made_applied_watched_and_undone",
                a_plan_is_made_applied_watched_and_undone,
            ),
            LabTest::new(
                "what_no_longer_fits_is_refused",
                what_no_longer_fits_is_refused,
            ),
            LabTest::new("a_full_disk_changes_nothing", a_full_disk_changes_nothing),
            LabTest::new(
                "resets_need_the_operators_word",
                resets_need_the_operators_word,
            ),
            LabTest::new(
                "an_unconfirmed_change_goes_back",
                an_unconfirmed_change_goes_back,
            ),
            LabTest::new("a_confirmed_change_stays", a_confirmed_change_stays),
            LabTest::new(
                "a_change_that_does_not_hold_ends_with_5",
                a_change_that_does_not_hold_ends_with_5,
            ),
            LabTest::new(
                "an_undo_leaves_others_changes_alone",
                an_undo_leaves_others_changes_alone,
            ),
            LabTest::new(
                "without_procfs_there_is_a_report",
                without_procfs_there_is_a_report,
            ),
        ],
    )
}

/// A namespace with a veth pair whose `v0` has no TSO, and a place for files.
struct Bench {
    ns: NetNs,
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Result<Self> {
        let ns = NetNs::new()?;
        let links = ns.links()?;
        links.add_veth("v0", "v1", &ns)?;
        links.up("v0")?;
        links.up("v1")?;
        links.set_offload("v0", Offload::Tso, false)?;
        Ok(Self {
            ns,
            dir: tempfile::tempdir()?,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, words: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_jumbo"));
        command
            .args(words.split(' '))
            .current_dir(self.dir.path())
            .env_remove("SSH_CONNECTION")
            .env("XDG_STATE_HOME", self.dir.path())
            .stdin(Stdio::null());
        command
    }

    /// `jumbo tune`, with its undo files in our place.
    fn tune(&self, words: &str) -> Result<Output> {
        self.run(self.command(&format!("tune --state-dir state {words}")))
    }

    fn run(&self, mut command: Command) -> Result<Output> {
        Ok(self.ns.run_with_sysfs(|| command.output())??)
    }

    fn tso(&self) -> Result<bool> {
        Ok(self.ns.links()?.offload("v0", Offload::Tso)?)
    }

    /// A plan that turns TSO on.
    fn plan(&self) -> Result {
        let output = self.tune("plan --rule SEG001 --sample 0 -o plan.json")?;
        expect(&output, 1, "next: jumbo tune apply plan.json");
        Ok(())
    }

    fn edit(&self, from: &str, to: &str) -> Result {
        let text = std::fs::read_to_string(self.path("plan.json"))?;
        assert!(text.contains(from), "{text}");
        Ok(std::fs::write(
            self.path("edited.json"),
            text.replace(from, to),
        )?)
    }
}

fn words(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The exit code, and words on stdout or stderr.
fn expect(output: &Output, code: i32, part: &str) {
    let (stdout, stderr) = (words(&output.stdout), words(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{stdout}{stderr}");
    assert!(
        stdout.contains(part) || stderr.contains(part),
        "no `{part}` in:\n{stdout}{stderr}"
    );
    let sentences = stderr
        .lines()
        .filter(|line| line.starts_with("error:"))
        .count();
    assert!(sentences <= 1, "{stderr}");
}

fn a_plan_is_made_applied_watched_and_undone() -> Result {
    let bench = Bench::new()?;
    expect(&bench.tune("status")?, 0, "nothing is applied here");
    bench.plan()?;
    let shown = words(&bench.tune("plan --rule SEG001 --sample 0")?.stdout);
    for line in [
        "- tx-tcp-segmentation          off",
        "+ tx-tcp-segmentation          on",
        "ethtool -K v0 tx-tcp-segmentation on",
    ] {
        assert!(shown.contains(line), "{shown}");
    }
    expect(
        &bench.tune("apply --dry-run plan.json")?,
        0,
        "nothing was changed",
    );
    assert!(!bench.tso()?);
    expect(
        &bench.tune("apply plan.json")?,
        0,
        "to take it back: jumbo tune undo",
    );
    assert!(bench.tso()?);
    expect(
        &bench.tune("plan --rule SEG001 --sample 0")?,
        0,
        "nothing to change",
    );
    expect(&bench.tune("status")?, 0, "holds");
    expect(
        &bench.tune("apply plan.json")?,
        0,
        "every setting is as planned already",
    );
    expect(&bench.tune("persist")?, 0, "TCPSegmentationOffload=yes");
    expect(
        &bench.tune("persist --backend nmstate plan.json")?,
        0,
        "tx-tcp-segmentation: true",
    );
    bench.ns.links()?.set_offload("v0", Offload::Tso, false)?;
    expect(&bench.tune("status")?, 1, "is off now");
    bench.ns.links()?.set_offload("v0", Offload::Tso, true)?;
    expect(&bench.tune("undo")?, 0, "v0 tx-tcp-segmentation: off again");
    assert!(!bench.tso()?);
    expect(&bench.tune("undo")?, 1, "nothing was applied here");
    expect(&bench.tune("undo 7")?, 2, "there is no undo file 7");
    Ok(())
}

fn what_no_longer_fits_is_refused() -> Result {
    let bench = Bench::new()?;
    bench.plan()?;
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname")?;
    let host = format!("\"host\": \"{}\"", host.trim());
    for (from, to, code, part) in [
        (
            host.as_str(),
            "\"host\": \"elsewhere\"",
            2,
            "this plan is for the host elsewhere",
        ),
        ("\"net:[", "\"net:[9", 2, "another network namespace"),
        ("jumbo-plan/1", "jumbo-plan/2", 2, "cannot use this plan"),
        ("\"v0\"", "\"../v0\"", 2, "this is no name of a device"),
        ("\"steps\"", "\"stepss\"", 2, "this is no plan"),
        ("\"v0\"", "\"v9\"", 1, "there is no device v9"),
    ] {
        bench.edit(from, to)?;
        expect(&bench.tune("apply edited.json")?, code, part);
        assert!(!bench.tso()?, "{to}");
    }
    expect(&bench.tune("apply nosuch.json")?, 2, "cannot read the plan");
    Ok(())
}

/// The undo file comes first, so a host that cannot write it is not touched.
fn a_full_disk_changes_nothing() -> Result {
    let bench = Bench::new()?;
    bench.plan()?;
    std::fs::create_dir(bench.path("full"))?;
    let script = format!(
        "mount -t tmpfs -o size=8k none full && {{ head -c 16384 /dev/zero > full/filler; exec {} tune --state-dir full apply plan.json; }} || exit 77",
        env!("CARGO_BIN_EXE_jumbo")
    );
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &script])
        .current_dir(bench.dir.path())
        .stdin(Stdio::null());
    let output = bench.run(shell)?;
    if output.status.code() == Some(77) {
        return Err(skip(
            "no tmpfs may be mounted (a kernel or container that allows it)",
        ));
    }
    expect(&output, 3, "cannot write the undo file");
    assert!(
        words(&output.stderr).contains("nothing was changed"),
        "{}",
        words(&output.stderr)
    );
    assert!(!bench.tso()?);
    let nowhere = bench.run(bench.command("tune --state-dir /proc/nonexistent apply plan.json"))?;
    expect(&nowhere, 3, "cannot write the undo file");
    assert!(!bench.tso()?);
    Ok(())
}

fn resets_need_the_operators_word() -> Result {
    let bench = Bench::new()?;
    let links = bench.ns.links()?;
    links.add_bridge("br0")?;
    links.add_veth("w0", "w1", &bench.ns)?;
    links.enslave("v0", "br0")?;
    links.enslave("w0", "br0")?;
    links.up("br0")?;
    links.set_mtu("w0", 9000)?;
    let mtu = || Ok::<_, TestError>(links.get("w0")?.mtu);
    // Which MTU is right is a decision: only when it is asked for.
    let unasked = words(&bench.tune("plan --sample 0")?.stdout);
    assert!(
        unasked.contains("--rule MTU001") && !unasked.contains("mtu 1500"),
        "{unasked}"
    );
    expect(
        &bench.tune("plan --rule MTU001 --sample 0 -o plan.json")?,
        1,
        "may take the link down for a moment",
    );
    expect(&bench.tune("apply plan.json")?, 2, "give --allow-reset");
    assert_eq!(mtu()?, 9000);
    links.add_address("br0", "192.0.2.1".parse()?, 24)?;
    let mut ssh = bench.command("tune --state-dir state apply --allow-reset plan.json");
    ssh.env("SSH_CONNECTION", "192.0.2.9 5000 192.0.2.1 22");
    expect(&bench.run(ssh)?, 2, "could cut your own connection");
    assert_eq!(mtu()?, 9000);
    // Of no concern to the operator's connection.
    expect(&bench.tune("apply --allow-reset plan.json")?, 0, "done");
    assert_eq!(mtu()?, 1500);
    expect(&bench.tune("undo")?, 0, "9000 again");
    assert_eq!(mtu()?, 9000);
    Ok(())
}

/// Starts an apply that waits for its confirmation.
fn waiting(bench: &Bench, within: &str) -> Result<Child> {
    bench.plan()?;
    let mut command = bench.command(&format!(
        "tune --state-dir state apply --confirm-within {within} plan.json"
    ));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = bench.ns.run_with_sysfs(|| command.spawn())??;
    let began = Instant::now();
    while !bench.tso()? || !waits(bench)? {
        assert!(began.elapsed() < LONGEST, "it is not applied");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(child)
}

fn waits(bench: &Bench) -> Result<bool> {
    let Ok(files) = std::fs::read_dir(bench.path("state/undo")) else {
        return Ok(false);
    };
    let texts = files
        .flatten()
        .filter_map(|file| std::fs::read_to_string(file.path()).ok());
    Ok(texts
        .into_iter()
        .any(|text| text.contains("\"unconfirmed\"")))
}

fn ended(mut child: Child) -> Result<Output> {
    let began = Instant::now();
    while child.try_wait()?.is_none() {
        if began.elapsed() > LONGEST {
            child.kill()?;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(child.wait_with_output()?)
}

fn an_unconfirmed_change_goes_back() -> Result {
    let bench = Bench::new()?;
    let output = ended(waiting(&bench, "1s")?)?;
    expect(
        &output,
        6,
        "nobody confirmed in time: everything is as it was",
    );
    assert!(!bench.tso()?);
    expect(&bench.tune("confirm")?, 1, "nothing waits to be confirmed");
    // Ctrl-C, or a service that is stopped.
    let child = waiting(&bench, "60s")?;
    expect(&bench.tune("undo")?, 1, "another jumbo tune is at work");
    signal(&child, "TERM")?;
    expect(&ended(child)?, 6, "stopped before it was confirmed");
    assert!(!bench.tso()?);
    expect(&bench.tune("status")?, 0, "nothing is applied here");
    expect(
        &bench.tune("apply --confirm-within 2h plan.json")?,
        2,
        "1s to 60m",
    );
    Ok(())
}

fn signal(child: &Child, name: &str) -> Result {
    let pid = child.id().to_string();
    let status = Command::new("kill")
        .args([&format!("-{name}"), &pid])
        .status();
    assert!(
        status
            .map_err(|_| skip("no kill (apt install procps)"))?
            .success()
    );
    Ok(())
}

fn a_confirmed_change_stays() -> Result {
    let bench = Bench::new()?;
    let child = waiting(&bench, "60s")?;
    // A terminal that goes away is what this is for.
    signal(&child, "HUP")?;
    expect(&bench.tune("confirm")?, 0, "kept");
    expect(&ended(child)?, 0, "done");
    assert!(bench.tso()?);
    expect(&bench.tune("status")?, 0, "(applied)");
    expect(&bench.tune("undo")?, 0, "off again");
    Ok(())
}

fn a_change_that_does_not_hold_ends_with_5() -> Result {
    check_tun().map_err(skip)?;
    let bench = Bench::new()?;
    let _tap = Tap::create(&bench.ns, &TapSpec::new("t0", TapOffloads::NONE))?;
    bench.plan()?;
    // Only the reader of a TAP can have this; the kernel accepts the wish and does not fulfil it.
    let text = std::fs::read_to_string(bench.path("plan.json"))?;
    let mut plan: serde_json::Value = serde_json::from_str(&text)?;
    let steps = plan["steps"].as_array_mut().expect("steps");
    let mut step = steps[0].clone();
    step["setting"] =
        serde_json::json!({"kind": "feature", "device": "t0", "name": "tx-checksum-ip-generic"});
    steps.push(step);
    std::fs::write(bench.path("edited.json"), plan.to_string())?;
    expect(
        &bench.tune("apply edited.json")?,
        5,
        "everything is as it was",
    );
    assert!(!bench.tso()?);
    assert!(!bench.ns.links()?.feature("t0", "tx-checksum-ip-generic")?);
    expect(&bench.tune("status")?, 0, "nothing is applied here");
    Ok(())
}

fn an_undo_leaves_others_changes_alone() -> Result {
    let bench = Bench::new()?;
    let links = bench.ns.links()?;
    links.add_bridge("br0")?;
    links.add_veth("w0", "w1", &bench.ns)?;
    links.enslave("v0", "br0")?;
    links.enslave("w0", "br0")?;
    links.set_mtu("w0", 9000)?;
    expect(
        &bench.tune("plan --rule MTU001 --sample 0 -o plan.json")?,
        1,
        "1 change",
    );
    links.set_mtu("w0", 4000)?;
    expect(
        &bench.tune("apply --allow-reset plan.json")?,
        1,
        "is 4000 and was 9000 when the plan was made",
    );
    links.set_mtu("w0", 9000)?;
    expect(&bench.tune("apply --allow-reset plan.json")?, 0, "done");
    links.set_mtu("w0", 2000)?;
    expect(
        &bench.tune("undo")?,
        1,
        "somebody made it 2000 since; left alone",
    );
    assert_eq!(links.get("w0")?.mtu, 2000);
    damage(&bench.path("state/undo"))?;
    expect(&bench.tune("undo")?, 1, "is no undo file");
    Ok(())
}

/// Cuts every undo file short.
fn damage(folder: &Path) -> Result {
    for file in std::fs::read_dir(folder)?.flatten() {
        if file
            .path()
            .extension()
            .is_some_and(|ending| ending == "json")
        {
            let text = std::fs::read_to_string(file.path())?;
            std::fs::write(file.path(), &text[..text.len() / 2])?;
        }
    }
    Ok(())
}

fn without_procfs_there_is_a_report() -> Result {
    let bench = Bench::new()?;
    let script = format!(
        "mount -t tmpfs none /proc || exit 77; {} check --sample 0",
        env!("CARGO_BIN_EXE_jumbo")
    );
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).stdin(Stdio::null());
    let output = bench.run(shell)?;
    if output.status.code() == Some(77) {
        return Err(skip(
            "no tmpfs may be mounted (a kernel or container that allows it)",
        ));
    }
    expect(&output, 1, "SEG001");
    assert!(
        words(&output.stdout).contains("unknown"),
        "{}",
        words(&output.stdout)
    );
    Ok(())
}
