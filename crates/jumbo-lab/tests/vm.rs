//! Real front ends against DPDK's back end and the kernel: what the harness starts works, and the driver of the test kit
//! agrees with both.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use jumbo_lab::ns::{Needs, NetNs, check_tun};
use jumbo_lab::tap::{Tap, TapOffloads, TapSpec};
use jumbo_lab::vm::{
    Nic, Qemu, QemuTools, Testpmd, TestpmdSpec, TestpmdTool, Vdev, VirtioUser, VmSpec,
};
use jumbo_lab::{Host, LabTest, TestError, skip, test_main};
use jumbo_testkit::pattern;
use jumbo_testkit::virtio::{Indirect, Layout, MemoryLayout, Options, VirtioNet, feature};

type Result = std::result::Result<(), TestError>;
type Test = fn() -> Result;

/// Boots take seconds, or minutes where many tests run at once.
const LONG: Duration = Duration::from_secs(600);

fn main() -> ExitCode {
    let tests: [(&str, Test); 7] = [
        ("a_guest_runs_commands", a_guest_runs_commands),
        ("a_guest_talks_over_a_tap", a_guest_talks_over_a_tap),
        (
            "a_guest_talks_over_vhost_user",
            a_guest_talks_over_vhost_user,
        ),
        (
            "a_guest_survives_its_back_end",
            a_guest_survives_its_back_end,
        ),
        (
            "a_guest_takes_what_the_card_offers",
            a_guest_takes_what_the_card_offers,
        ),
        ("testpmd_talks_to_itself", testpmd_talks_to_itself),
        ("our_driver_talks_to_testpmd", our_driver_talks_to_testpmd),
    ];
    let tests = tests.map(|(name, run)| LabTest::new(name, run).within(LONG));
    test_main(Needs::Links, tests.into())
}

fn folder() -> std::result::Result<tempfile::TempDir, TestError> {
    Ok(tempfile::tempdir()?)
}

fn a_guest_runs_commands() -> Result {
    let tools = QemuTools::find().map_err(skip)?;
    let spec = VmSpec::new()
        .nic(Nic::hub(0))
        .nic(Nic::hub(0))
        .modules(&["llc", "stp", "garp", "mrp", "8021q"]);
    let mut vm = Qemu::boot(&tools, &spec)?;
    assert_eq!(vm.ok("echo a; echo b >&2; echo c")?, "a\nb\nc\n");
    assert_eq!(vm.run("printf x; exit 7")?.status, 7);
    assert_eq!(vm.run("printf 'no\n'; false")?.text, "no\n");
    assert_eq!(vm.ok("printf '%s' \"it's \\$HOME\"")?, "it's $HOME");
    assert_eq!(
        vm.run_within("sleep 60", Duration::from_secs(1))?.status,
        143
    );
    assert_eq!(
        vm.ok("cat /sys/class/net/eth1/address")?.trim(),
        Qemu::mac(1, 1)
    );
    assert!(
        vm.ok("ethtool -k eth0")?
            .contains("tcp-segmentation-offload:")
    );
    assert!(vm.ok("iperf3 --version")?.contains("iperf 3"));
    vm.ok("iperf3 -s -D")?;
    assert!(vm.iperf3("-c 127.0.0.1", 1)? > 0.0);
    assert!(vm.iperf3("-c 127.0.0.1 -p 1", 1).is_err());
    vm.ok("ip link add link eth0 name eth0.5 type vlan id 5")?;
    let error = vm.ok("echo wrong; exit 3").expect_err("it fails");
    assert!(error.to_string().contains("ended with 3: wrong"), "{error}");
    // The mark of a reset: what was in memory is gone.
    vm.ok("touch /tmp/before")?;
    vm.reset()?;
    assert_ne!(vm.run("test -e /tmp/before")?.status, 0);
    assert!(vm.monitor("info status")?.contains("running"));
    Ok(())
}

fn tap(host: &Host, name: &str) -> std::result::Result<Tap, TestError> {
    let tap = Tap::create(&host.ns, &TapSpec::new(name, TapOffloads::TSO))?;
    tap.persist()?;
    host.plug(name)?;
    Ok(tap)
}

fn a_guest_talks_over_a_tap() -> Result {
    let tools = QemuTools::find().map_err(skip)?;
    check_tun().map_err(skip)?;
    let host = Host::inside(NetNs::new()?, 1);
    // QEMU takes the queue over; the link stays.
    drop(tap(&host, "t0")?);
    let spec = VmSpec::new().nic(Nic::tap("t0")).inside(&host.ns);
    let mut vm = Qemu::boot(&tools, &spec)?;
    vm.ok("ip addr add 10.0.0.2/24 dev eth0 && ip addr add fd00::2/64 dev eth0 && ip link set eth0 up")?;
    for address in ["10.0.0.1", "fd00::1"] {
        let said = vm.ok(&format!("ping -c 3 -W 10 {address}"))?;
        assert!(said.contains("3 packets received"), "{said}");
    }
    Ok(())
}

/// A guest pings 10.0.0.9 through testpmd, which answers for everyone.
fn pings(vm: &mut Qemu, card: &str) -> Result {
    vm.ok(&format!(
        "ip link set {card} up; ip addr replace 10.0.0.2/24 dev {card}"
    ))?;
    // The ring may be a moment away from being served.
    vm.ok("for i in 1 2 3 4 5 6 7 8; do ping -c 1 -W 5 10.0.0.9 && exit; done; exit 1")?;
    let said = vm.ok("ping -c 5 -W 10 10.0.0.9")?;
    assert!(said.contains(" 0% packet loss"), "{said}");
    Ok(())
}

fn icmp_echo(socket: &Path, queues: u16) -> TestpmdSpec {
    let mut spec = TestpmdSpec::new("icmpecho").vdev(Vdev::Vhost {
        path: socket.into(),
        client: false,
        queues,
        more: Vec::new(),
    });
    spec.queues = queues;
    spec
}

fn a_guest_talks_over_vhost_user() -> Result {
    let tools = QemuTools::find().map_err(skip)?;
    let tool = TestpmdTool::find().map_err(skip)?;
    let folder = folder()?;
    for (name, pairs, packed) in [("plain", 1, false), ("packed", 2, true)] {
        let socket = folder.path().join(name);
        let mut testpmd = Testpmd::start(&tool, &icmp_echo(&socket, pairs))?;
        testpmd.begin(0)?;
        let mut nic = Nic::vhost_user(&socket).queues(pairs.into());
        if packed {
            nic = nic.packed();
        }
        let mut vm = Qemu::boot(&tools, &VmSpec::new().processors(pairs.into()).nic(nic))?;
        pings(&mut vm, "eth0")?;
        assert_eq!(vm.features(0)? & feature::RING_PACKED != 0, packed);
        assert!(testpmd.stats(0)?.rx_packets >= 5);
        assert!(testpmd.is_up(0)?);
    }
    Ok(())
}

/// QEMU listens; the back end goes and another comes.
fn a_guest_survives_its_back_end() -> Result {
    let tools = QemuTools::find().map_err(skip)?;
    let tool = TestpmdTool::find().map_err(skip)?;
    let folder = folder()?;
    let socket = folder.path().join("sock");
    let nic = Nic::vhost_user(&socket).server();
    let mut vm = Qemu::spawn(&tools, &VmSpec::new().nic(nic))?;
    let mut spec = TestpmdSpec::new("icmpecho").vdev(Vdev::Vhost {
        path: socket,
        client: true,
        queues: 1,
        more: Vec::new(),
    });
    spec.queues = 1;
    let mut first = Testpmd::start(&tool, &spec)?;
    first.begin(0)?;
    vm.wait_ready()?;
    pings(&mut vm, "eth0")?;
    first.quit()?;
    let lost = vm.run("ping -c 1 -W 2 10.0.0.9")?;
    assert_ne!(lost.status, 0, "{}", lost.text);

    let mut second = Testpmd::start(&tool, &spec)?;
    second.begin(0)?;
    let end = Instant::now() + Duration::from_secs(60);
    while !second.is_up(0)? {
        assert!(Instant::now() < end, "the card did not come back");
    }
    pings(&mut vm, "eth0")
}

fn a_guest_takes_what_the_card_offers() -> Result {
    let tools = QemuTools::find().map_err(skip)?;
    let tool = TestpmdTool::find().map_err(skip)?;
    let folder = folder()?;
    let (all, few) = (folder.path().join("all"), folder.path().join("few"));
    let _back_ends = [
        Testpmd::start(&tool, &icmp_echo(&all, 1))?,
        Testpmd::start(&tool, &icmp_echo(&few, 1))?,
    ];
    let few = Nic::vhost_user(&few)
        .off(&["csum", "guest_csum", "mrg_rxbuf"])
        .mtu(1400);
    let spec = VmSpec::new().nic(Nic::vhost_user(&all)).nic(few);
    let mut vm = Qemu::boot(&tools, &spec)?;
    let (all, few) = (vm.features(0)?, vm.features(1)?);
    for bit in [
        feature::VERSION_1,
        feature::MRG_RXBUF,
        feature::INDIRECT_DESC,
    ] {
        assert_ne!(all & bit, 0, "bit {}", bit.trailing_zeros());
    }
    assert_eq!(
        few & (feature::CSUM | feature::GUEST_CSUM | feature::MRG_RXBUF),
        0
    );
    assert_eq!(vm.ok("cat /sys/class/net/eth1/mtu")?.trim(), "1400");
    Ok(())
}

fn testpmd_talks_to_itself() -> Result {
    let tool = TestpmdTool::find().map_err(skip)?;
    let folder = folder()?;
    for (packed, in_order, mergeable) in [
        (false, false, true),
        (false, true, false),
        (true, true, true),
        (true, false, false),
    ] {
        let name = format!("{packed}{in_order}{mergeable}");
        let socket = folder.path().join(name);
        let sink = TestpmdSpec::new("rxonly").vdev(Vdev::vhost(&socket));
        let mut sink = Testpmd::start(&tool, &sink)?;
        let mut front = VirtioUser::new(&socket);
        (front.packed, front.in_order, front.mergeable) = (packed, in_order, mergeable);
        let source = TestpmdSpec::new("txonly").vdev(Vdev::VirtioUser(front));
        let mut source = Testpmd::start(&tool, &source.argument("--txpkts=64"))?;
        sink.begin(0)?;
        source.begin(0)?;
        let end = Instant::now() + Duration::from_secs(60);
        while sink.stats(0)?.rx_packets < 10_000 {
            assert!(Instant::now() < end, "packed {packed} in_order {in_order}");
        }
        source.end()?;
        let sent = source.stats(0)?;
        source.quit()?;
        let got = sink.stats(0)?;
        assert!(got.rx_packets <= sent.tx_packets, "{got:?} {sent:?}");
        sink.quit()?;
    }
    Ok(())
}

/// A back end nobody here wrote returns what the test kit's driver sends, over the ring formats it has.
fn our_driver_talks_to_testpmd() -> Result {
    let tool = TestpmdTool::find().map_err(skip)?;
    let folder = folder()?;
    let socket = folder.path().join("sock");
    // One port in io mode sends back what it receives.
    let mut spec = TestpmdSpec::new("io")
        .vdev(Vdev::vhost(&socket))
        .argument("--mbuf-size=16384");
    spec.buffers = 4096;
    let mut testpmd = Testpmd::start(&tool, &spec)?;
    testpmd.begin(0)?;
    for options in formats() {
        let what = format!("{options:?}");
        let mut net = VirtioNet::connect(&socket, options)?;
        for number in 0..500 {
            let packet = pattern(number, 60 + number * 17 % 8000);
            net.send(0, &[0; 12], &packet)
                .map_err(|error| TestError::Failed(format!("{what}: {error}")))?;
            let got = net.recv(Duration::from_secs(10))?;
            let got = got.unwrap_or_else(|| panic!("{what}: packet {number} did not return"));
            assert_eq!(got.packet, packet, "{what}");
        }
        net.wait_sent(0)?;
        assert_eq!(net.counts().missed_interrupts, 0, "{what}");
        net.stop()?;
    }
    Ok(())
}

fn formats() -> Vec<Options> {
    let mut all = Vec::new();
    for bits in 0..16 {
        for indirect in [Indirect::Never, Indirect::Chains] {
            all.push(Options {
                packed: bits & 1 != 0,
                event_idx: bits & 2 != 0,
                in_order: bits & 4 != 0,
                queue_size: 128,
                tx_len: 9000,
                tx_layout: Layout {
                    header_alone: bits & 8 != 0,
                    piece_len: 1000,
                },
                memory: MemoryLayout::OneFile(2),
                indirect,
                ..Options::default()
            });
        }
    }
    all
}
