//! The switch on interfaces of a kernel: containers behind veth pairs, a TAP beside
//! them, TUNs; every mixture of offloads at the far side, and interfaces that go
//! down, change, are renamed and vanish in the middle of a transfer.

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use jumbo_engine::pending::Caps;
use jumbo_engine::vnet::{Form, VnetHeader};
use jumbo_lab::ethtool::Offload;
use jumbo_lab::link::Links;
use jumbo_lab::ns::{Needs, NetNs};
use jumbo_lab::packet_socket::PacketSocket;
use jumbo_lab::traffic::connect::{PATIENCE, connections};
use jumbo_lab::traffic::{BulkAmount, BulkSpec, PingSpec, UdpSpec, bulk, pattern, ping, udp};
use jumbo_lab::{Family, Host, LabTest, TestError, skip, test_main};
use jumbo_ports::capture::CaptureReader;
use jumbo_ports::packet::{self, Fanout, PacketConfig};
use jumbo_ports::queue::Port;
use jumbo_ports::tap::{self, TapConfig};
use jumbo_ports::wrap::fault;
use jumbo_ports::xdp::{self, Mode, Pass, TxChecksum, XdpConfig, XdpError};
use jumbo_switch::switch::{State, Switch, SwitchConfig};
use jumbo_switch::topology::{Coalesce, PortId};
use jumbo_testkit::PacketBuilder;
use support::{assert_books, drops, quiet};

type Outcome = Result<(), TestError>;

/// For a machine that has other things to do.
const LIMIT: Duration = Duration::from_secs(180);

fn main() -> ExitCode {
    macro_rules! tests {
        ($($name:ident),* $(,)?) => { vec![$(LabTest::new(stringify!($name), $name).within(LIMIT)),*] };
    }
    test_main(
        Needs::Taps,
        tests![
            tcp_passes_with_every_mixture_of_offloads,
            tcp_passes_in_every_setting,
            tcp_passes_by_xdp,
            xdp_is_joined_with_what_takes_super_packets,
            tap_and_container_are_joined,
            tagged_packets_pass_with_their_tags,
            datagrams_and_pings_pass,
            super_packets_of_the_kernels_gro_pass_whole,
            tun_pair_is_joined_point_to_point,
            interface_goes_down_and_comes_back_in_mid_transfer,
            interface_is_renamed_and_its_mtu_changed_in_mid_transfer,
            interface_that_vanishes_costs_only_its_own_traffic,
            bogus_packets_have_a_reason_each,
            faults_on_purpose_are_survived_by_tcp,
            capture_holds_what_passed,
        ],
    )
}

/// How a host is joined.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Kind {
    Packet,
    PacketBypass,
    XdpNative,
    XdpGeneric,
    Tap,
}

#[derive(Copy, Clone, Debug)]
struct Setup {
    kind: Kind,
    workers: usize,
    mtu: u32,
}

const USUAL: Setup = Setup {
    kind: Kind::Packet,
    workers: 1,
    mtu: 1500,
};

/// Hosts, each with a device `t0`, and the switch between them. The other ends of
/// their veth pairs are `w1`, `w2`... in a namespace of their own.
struct Net {
    switch: Switch,
    middle: NetNs,
    hosts: Vec<Host>,
    ports: Vec<PortId>,
}

impl Net {
    fn empty(workers: usize) -> Result<Self, TestError> {
        Ok(Self {
            switch: Switch::start(&SwitchConfig {
                workers,
                ..SwitchConfig::default()
            })?,
            middle: NetNs::new()?,
            hosts: Vec::new(),
            ports: Vec::new(),
        })
    }

    fn new(setups: &[Setup]) -> Result<Self, TestError> {
        let mut net = Self::empty(setups[0].workers)?;
        for setup in setups {
            net.join(*setup, |port| port)?;
        }
        net.plug()?;
        Ok(net)
    }

    fn pair(setup: Setup) -> Result<Self, TestError> {
        Self::new(&[setup, setup])
    }

    fn join(&mut self, setup: Setup, wrap: impl Fn(Port) -> Port) -> Result<(), TestError> {
        let number = self.hosts.len() as u8 + 1;
        let host = Host::new(number)?;
        let near = format!("w{number}");
        if setup.kind != Kind::Tap {
            let links = self.middle.links()?;
            links.add_veth(&near, "t0", &host.ns)?;
            links.set_mtu(&near, setup.mtu)?;
            host.links()?.set_mtu("t0", setup.mtu)?;
            links.up(&near)?;
            host.links()?.up("t0")?;
        }
        let port = wrap(open(setup, &self.middle, &near, &host)?);
        self.ports.push(self.switch.add(port, Coalesce::Gro)?);
        self.hosts.push(host);
        Ok(())
    }

    /// Addresses, and everybody knows everybody.
    fn plug(&self) -> Outcome {
        let mut macs = Vec::new();
        for host in &self.hosts {
            host.plug("t0")?;
            macs.push(host.links()?.get("t0")?.mac.unwrap_or_default());
        }
        for (from, host) in self.hosts.iter().enumerate() {
            for (to, mac) in macs.iter().enumerate().filter(|(to, _)| *to != from) {
                host.knows("t0", &self.hosts[to], *mac)?;
            }
        }
        Ok(())
    }

    fn links(&self) -> Result<Links, TestError> {
        Ok(self.middle.links()?)
    }

    fn transfer(&self, bytes: u64) -> Outcome {
        both_families(&self.hosts, bytes)
    }
}

/// Between the first two hosts.
fn both_families(hosts: &[Host], bytes: u64) -> Outcome {
    for family in [Family::V4, Family::V6] {
        transfer(&hosts[0], &hosts[1], family, 2, bytes)?;
    }
    Ok(())
}

fn open(setup: Setup, middle: &NetNs, near: &str, host: &Host) -> Result<Port, TestError> {
    let config = PacketConfig {
        device: near.into(),
        queues: setup.workers,
        takes: Caps::ALL,
        fanout: Fanout::Hash,
        qdisc_bypass: setup.kind == Kind::PacketBypass,
        mtu: None,
    };
    Ok(match setup.kind {
        Kind::Packet | Kind::PacketBypass => middle.run(|| packet::open(&config))??,
        Kind::XdpNative => xdp_open(setup, Mode::Native, middle, near)?,
        Kind::XdpGeneric => xdp_open(setup, Mode::Generic, middle, near)?,
        Kind::Tap => host.ns.run(|| tap::open(&tap_config("t0", setup)))??,
    })
}

fn xdp_open(setup: Setup, mode: Mode, middle: &NetNs, near: &str) -> Result<Port, TestError> {
    let config = XdpConfig {
        device: near.into(),
        queues: setup.workers,
        mode,
        pass: Pass::Nothing,
        tx_checksum: TxChecksum::Auto,
    };
    match middle.run(|| xdp::open(&config))? {
        Err(error @ XdpError::NotPermitted { .. }) => Err(skip(error)),
        port => Ok(port?),
    }
}

fn tap_config(device: &str, setup: Setup) -> TapConfig {
    TapConfig {
        device: device.into(),
        queues: setup.workers,
        hands: Caps::ALL,
        takes: Caps::ALL,
        mtu: Some(setup.mtu as usize),
    }
}

/// So many bytes on each of `flows` connections, both ways at once, each byte compared.
fn transfer(one: &Host, two: &Host, family: Family, flows: usize, bytes: u64) -> Outcome {
    let pairs = connections(one, two, family, flows)?;
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for end in pairs.iter().flat_map(|(client, server)| [client, server]) {
            end.set_read_timeout(Some(4 * PATIENCE))?;
            end.set_write_timeout(Some(4 * PATIENCE))?;
            threads.push(scope.spawn(move || send(end, bytes)));
            threads.push(scope.spawn(move || receive(end, bytes)));
        }
        for thread in threads {
            thread.join().expect("no panic")?;
        }
        Ok(())
    })
}

fn send(mut to: &TcpStream, bytes: u64) -> std::io::Result<()> {
    let mut sent = 0;
    while sent < bytes {
        sent += to.write(pattern::at(sent, 100_000.min(bytes - sent) as usize))? as u64;
    }
    to.shutdown(Shutdown::Write)
}

fn receive(mut from: &TcpStream, bytes: u64) -> std::io::Result<()> {
    let (mut received, mut buffer) = (0, vec![0; 100_000]);
    loop {
        let len = from.read(&mut buffer)?;
        if !pattern::matches(received, &buffer[..len]) {
            return Err(std::io::Error::other(format!("damage behind {received}")));
        }
        received += len as u64;
        if len == 0 && received == bytes {
            return Ok(());
        }
        if len == 0 || received > bytes {
            let text = format!("{received} bytes of {bytes}");
            return Err(std::io::Error::other(text));
        }
    }
}

/// At rest every packet is accounted for, and no reason but these was needed.
#[track_caller]
fn rest(switch: &Switch, allowed: &[&str]) -> State {
    let state = quiet(switch);
    for (reason, count) in drops(&state) {
        let known = allowed.iter().any(|allowed| reason.ends_with(allowed));
        assert!(known, "{count} dropped: {reason}");
    }
    state
}

const FAR_SIDES: [[bool; 3]; 5] = [
    // tx checksum, TSO, GRO
    [true, true, true],
    [true, true, false],
    [true, false, true],
    [true, false, false],
    [false, false, false],
];

fn set_far_side(host: &Host, [csum, tso, gro]: [bool; 3]) -> Outcome {
    let links = host.links()?;
    links.set_offload("t0", Offload::TxChecksum, csum)?;
    links.set_offload("t0", Offload::Tso, tso && csum)?;
    links.set_offload("t0", Offload::Gro, gro)?;
    Ok(())
}

fn tcp_passes_with_every_mixture_of_offloads() -> Outcome {
    for (i, one) in FAR_SIDES.iter().enumerate() {
        for (j, two) in FAR_SIDES.iter().enumerate() {
            let setup = Setup {
                workers: 1 + (i + j) % 2,
                ..USUAL
            };
            let net = Net::pair(setup)?;
            set_far_side(&net.hosts[0], *one)?;
            set_far_side(&net.hosts[1], *two)?;
            net.transfer(300_000)
                .map_err(|e| TestError::Failed(format!("{one:?} {two:?} {setup:?}: {e:?}")))?;
            rest(&net.switch, &[]);
        }
    }
    Ok(())
}

fn tcp_passes_in_every_setting() -> Outcome {
    for kind in [Kind::Packet, Kind::PacketBypass] {
        for mtu in [1500, 9000] {
            for workers in [1, 2] {
                let setup = Setup { kind, workers, mtu };
                let net = Net::pair(setup)?;
                net.transfer(3_000_000)
                    .map_err(|e| TestError::Failed(format!("{setup:?}: {e:?}")))?;
                rest(&net.switch, &[]);
            }
        }
    }
    Ok(())
}

/// XDP in the stack gets super-packets without their segment size, so their senders
/// are told to make none.
fn no_super_packets(net: &Net) -> Outcome {
    for host in &net.hosts {
        let links = host.links()?;
        links.set_offload("t0", Offload::Tso, false)?;
        links.set_offload("t0", Offload::Gso, false)?;
    }
    Ok(())
}

fn tcp_passes_by_xdp() -> Outcome {
    for kind in [Kind::XdpNative, Kind::XdpGeneric] {
        for mtu in [1500, 3400, 9000] {
            for workers in [1, 2] {
                let setup = Setup { kind, workers, mtu };
                let net = Net::pair(setup)?;
                if kind == Kind::XdpGeneric {
                    no_super_packets(&net)?;
                }
                net.transfer(1_000_000)
                    .map_err(|e| TestError::Failed(format!("{setup:?}: {e:?}")))?;
                rest(&net.switch, &["ring_full", "queue_full"]);
            }
        }
    }
    Ok(())
}

fn xdp_is_joined_with_what_takes_super_packets() -> Outcome {
    for workers in [1, 2] {
        for other in [Kind::Packet, Kind::Tap] {
            let side = |kind| Setup {
                kind,
                workers,
                mtu: 1500,
            };
            let net = Net::new(&[side(Kind::XdpNative), side(other)])?;
            net.transfer(3_000_000)?;
            let state = rest(&net.switch, &["ring_full", "queue_full"]);
            // Towards XDP super-packets are segmented, from it packets are merged.
            assert!(state.ports[0].counters.software_segmented > 0);
            let tx = state.ports[1].counters.tx;
            assert!(tx.data_segments > tx.data_packets, "{tx:?}");
        }
    }
    Ok(())
}

fn tap_and_container_are_joined() -> Outcome {
    for workers in [1, 2] {
        let side = |kind| Setup {
            kind,
            workers,
            mtu: 1500,
        };
        let net = Net::new(&[side(Kind::Tap), side(Kind::Packet)])?;
        net.transfer(3_000_000)?;
        let state = rest(&net.switch, &[]);
        for port in &state.ports {
            assert_eq!(port.counters.software_segmented, 0, "{:?}", port.counters);
            let tx = port.counters.tx;
            assert!(tx.data_segments > 3 * tx.data_packets, "whole: {tx:?}");
        }
    }
    Ok(())
}

fn base() -> PacketBuilder {
    PacketBuilder::ethernet().macs([0xff; 6], [2, 0, 0, 0, 0, 0x77])
}

fn with_header(vnet: &VnetHeader, bytes: &[u8]) -> Vec<u8> {
    let mut whole = vec![0; Form::Legacy10.len_bytes()];
    vnet.encode(Form::Legacy10, &mut whole);
    whole.extend(bytes);
    whole
}

/// The next packet from the test's own address.
fn heard(socket: &PacketSocket) -> Result<Option<Vec<u8>>, TestError> {
    for _ in 0..1000 {
        let Some(whole) = socket.recv(Duration::from_secs(2))? else {
            return Ok(None);
        };
        let bytes = &whole[Form::Legacy10.len_bytes()..];
        if bytes[6..12] == [2, 0, 0, 0, 0, 0x77] {
            return Ok(Some(bytes.to_vec()));
        }
    }
    Ok(None)
}

/// The receiver's kernel takes the outer tag off, so each packet has one more than
/// is looked for: what is left in the bytes came through.
fn tagged_packets_pass_with_their_tags() -> Outcome {
    for workers in [1, 2] {
        let net = Net::pair(Setup { workers, ..USUAL })?;
        let from = PacketSocket::open(&net.hosts[0].ns, "t0", true)?;
        let to = PacketSocket::open(&net.hosts[1].ns, "t0", true)?;
        for tags in [&[][..], &[(0x8100, 5)], &[(0x88a8, 6), (0x8100, 0xe007)]] {
            let tag = |packet: PacketBuilder, (tpid, tci): &(u16, u16)| packet.vlan(*tpid, *tci);
            let packet = tags.iter().fold(base(), tag).payload_len(1200).build();
            let inner = tags.iter().skip(1).fold(base(), tag).payload_len(1200);
            from.send(&with_header(&VnetHeader::default(), &packet))?;
            assert_eq!(heard(&to)?, Some(inner.build()), "{tags:?}");
        }
        rest(&net.switch, &[]);
    }
    Ok(())
}

fn datagrams_and_pings_pass() -> Outcome {
    for workers in [1, 2] {
        let net = Net::pair(Setup { workers, ..USUAL })?;
        for family in [Family::V4, Family::V6] {
            for gro in [false, true] {
                let spec = UdpSpec {
                    family,
                    count: 2000,
                    segments_per_send: 40,
                    rate_pps: Some(20_000),
                    gro,
                    ..UdpSpec::default()
                };
                let report = udp(&net.hosts[0], &net.hosts[1], &spec)?;
                assert_eq!((report.intact, report.reordered), (Some(true), 0));
                assert!(report.received > 0, "{report:?}");
            }
        }
        let spec = PingSpec {
            duration: Duration::from_millis(300),
            ..PingSpec::default()
        };
        assert!(ping(&net.hosts[0], &net.hosts[1], &spec)?.transactions > 0);
        rest(&net.switch, &[]);
    }
    Ok(())
}

/// First stage: the interface's own GRO merges what a sender without TSO sends; what
/// it made comes through the switch whole, and may be merged further.
fn super_packets_of_the_kernels_gro_pass_whole() -> Outcome {
    let net = Net::pair(USUAL)?;
    net.links()?.set_offload("w1", Offload::Gro, true)?;
    set_far_side(&net.hosts[0], [true, false, false])?;
    let spec = BulkSpec {
        amount: BulkAmount::BytesPerFlow(20_000_000),
        ..BulkSpec::default()
    };
    assert_eq!(
        bulk(&net.hosts[0], &net.hosts[1], &spec)?.intact,
        Some(true)
    );
    let state = rest(&net.switch, &[]);
    let (rx, tx) = (
        state.ports[0].counters.rx.traffic,
        state.ports[1].counters.tx,
    );
    assert!(
        rx.data_segments > rx.data_packets,
        "the kernel merged: {rx:?}"
    );
    assert!(tx.data_packets <= rx.data_packets, "{rx:?} {tx:?}");
    Ok(())
}

fn tun_pair_is_joined_point_to_point() -> Outcome {
    for workers in [1, 2] {
        let setup = Setup { workers, ..USUAL };
        let mut switch = Switch::start(&SwitchConfig {
            workers,
            ..SwitchConfig::default()
        })?;
        let mut hosts = Vec::new();
        for number in [1, 2] {
            let host = Host::new(number)?;
            let port = host.ns.run(|| tap::open_tun(&tap_config("t0", setup)))??;
            switch.add(port, Coalesce::Gro)?;
            host.plug("t0")?;
            hosts.push(host);
        }
        for family in [Family::V4, Family::V6] {
            transfer(&hosts[0], &hosts[1], family, 4, 3_000_000)?;
        }
        let state = rest(&switch, &[]);
        let tx = state.ports[0].counters.tx;
        assert!(tx.data_segments > tx.data_packets, "super-packets: {tx:?}");
        let third = Host::new(3)?;
        let port = third.ns.run(|| tap::open_tun(&tap_config("t0", setup)))??;
        assert!(switch.add(port, Coalesce::Gro).is_err(), "a third");
        let port = third.ns.run(|| tap::open(&tap_config("t1", setup)))??;
        assert!(switch.add(port, Coalesce::Gro).is_err(), "Ethernet");
    }
    Ok(())
}

fn interface_goes_down_and_comes_back_in_mid_transfer() -> Outcome {
    for workers in [1, 2] {
        let net = Net::pair(Setup { workers, ..USUAL })?;
        std::thread::scope(|scope| {
            let hosts = &net.hosts;
            let running = scope.spawn(|| both_families(hosts, 100_000_000));
            std::thread::sleep(Duration::from_millis(100));
            let links = net.links()?;
            links.down("w2")?;
            std::thread::sleep(Duration::from_millis(50));
            links.up("w2")?;
            running.join().expect("no panic")
        })?;
        rest(&net.switch, &["link_down", "queue_full", "ring_full"]);
    }
    Ok(())
}

fn interface_is_renamed_and_its_mtu_changed_in_mid_transfer() -> Outcome {
    let net = Net::pair(USUAL)?;
    std::thread::scope(|scope| {
        let hosts = &net.hosts;
        let running = scope.spawn(|| both_families(hosts, 30_000_000));
        std::thread::sleep(Duration::from_millis(50));
        let links = net.links()?;
        links.set_mtu("w2", 9000)?;
        // Up while it is (Linux 6.2 and later allow it).
        let renamed = links.rename("w2", "other");
        running.join().expect("no panic")?;
        renamed.map_err(TestError::from)
    })?;
    let host = |index: usize| net.hosts[index].links();
    net.links()?.set_mtu("w1", 9000)?;
    host(0)?.set_mtu("t0", 9000)?;
    host(1)?.set_mtu("t0", 9000)?;
    told(&net, 1, "other", 9000)?;
    told(&net, 0, "w1", 9000)?;
    net.transfer(3_000_000)?;
    rest(&net.switch, &["queue_full", "ring_full"]);
    Ok(())
}

/// Waits until the switch shows the interface as it is now.
fn told(net: &Net, port: usize, device: &str, mtu: usize) -> Outcome {
    for _ in 0..2000 {
        let info = &net.switch.state()?.ports[port].info;
        if (info.device.as_str(), info.mtu) == (device, mtu) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let info = &net.switch.state()?.ports[port].info;
    Err(TestError::Failed(format!("{device} {mtu}: {info:?}")))
}

fn interface_that_vanishes_costs_only_its_own_traffic() -> Outcome {
    for workers in [1, 2] {
        let setup = Setup { workers, ..USUAL };
        let net = Net::new(&[setup; 3])?;
        let [a, b, c] = &net.hosts[..] else {
            return Err(TestError::Failed("three hosts".into()));
        };
        let spec = BulkSpec {
            amount: BulkAmount::Time(Duration::from_secs(20)),
            ..BulkSpec::default()
        };
        std::thread::scope(|scope| {
            let doomed = scope.spawn(|| bulk(a, b, &spec));
            std::thread::sleep(Duration::from_millis(200));
            net.links()?.delete("w2")?;
            assert!(doomed.join().expect("no panic").is_err());
            Ok::<(), TestError>(())
        })?;
        transfer(a, c, Family::V4, 2, 1_000_000)?;
        let state = rest(
            &net.switch,
            &["gone", "link_down", "queue_full", "ring_full"],
        );
        let up: Vec<bool> = state.ports.iter().map(|port| port.up).collect();
        assert_eq!(up, [true, false, true]);
    }
    Ok(())
}

/// What a sender can put on the wire is a packet like any other or has a reason.
fn bogus_packets_have_a_reason_each() -> Outcome {
    let net = Net::pair(USUAL)?;
    let from = PacketSocket::open(&net.hosts[0].ns, "t0", true)?;
    let to = PacketSocket::open(&net.hosts[1].ns, "t0", true)?;
    let plain = VnetHeader::default();
    let mut runt = base().build();
    runt.truncate(14);
    let mut cut = base().payload_len(500).build();
    cut.truncate(40);
    let lies = base().payload_len(100).ip_len(9000).build();
    for bytes in [&runt, &cut, &lies] {
        // The sending kernel may refuse what is not even a header.
        let _ = from.send(&with_header(&plain, bytes));
    }
    let giant = base().payload_len(60_000).partial_checksum().build();
    for (gso_type, gso_size) in [(1, 1), (1, 1448), (4, 1448), (5, 100), (3, 1448), (0x81, 9)] {
        let vnet = VnetHeader {
            flags: 1,
            gso_type,
            gso_size,
            hdr_len: 54,
            csum_start: 34,
            csum_offset: 16,
            ..plain
        };
        let _ = from.send(&with_header(&vnet, &giant));
    }
    let good = base().payload_len(100).build();
    from.send(&with_header(&plain, &good))?;
    let mut seen = false;
    while let Some(bytes) = heard(&to)? {
        seen |= bytes == good;
    }
    assert!(seen, "the rest goes on");
    let state = quiet(&net.switch);
    assert_books(&state.books);
    net.transfer(300_000)
}

fn faults_on_purpose_are_survived_by_tcp() -> Outcome {
    for spec in [
        "drop:1%,seed:1",
        "reorder:5%,seed:2",
        "corrupt:0.5%,seed:3",
        "delay:2ms",
    ] {
        let faults = spec.parse().map_err(TestError::Failed)?;
        let mut net = Net::empty(1)?;
        net.join(USUAL, |port| port)?;
        net.join(USUAL, |port| fault::wrap(port, faults).expect("a timer"))?;
        net.plug()?;
        net.transfer(1_000_000)
            .map_err(|e| TestError::Failed(format!("{spec}: {e:?}")))?;
        let state = rest(&net.switch, &["injected"]);
        let injected = drops(&state)
            .iter()
            .any(|(name, _)| name.ends_with("injected"));
        assert_eq!(
            injected,
            spec.starts_with("drop"),
            "{spec} {:?}",
            drops(&state)
        );
    }
    Ok(())
}

fn capture_holds_what_passed() -> Outcome {
    let net = Net::pair(USUAL)?;
    let recorder = net.switch.capture(net.ports[0])?;
    let mut bytes = Vec::new();
    let recorded = std::thread::scope(|scope| {
        let writer = scope.spawn(|| recorder.run(&mut bytes));
        net.transfer(2_000_000)?;
        let state = rest(&net.switch, &[]);
        drop(net);
        let recorded = writer.join().expect("no panic")?;
        let counters = &state.ports[0].counters;
        let passed = counters.rx.traffic.packets + counters.tx.packets;
        assert!(recorded.packets + recorded.dropped <= passed);
        assert_eq!(recorded.dropped, 0);
        Ok::<_, TestError>(recorded)
    })?;
    let whole = std::io::Cursor::new(bytes);
    let mut reader = CaptureReader::from_read("memory", whole, None)
        .map_err(|e| TestError::Failed(e.to_string()))?;
    let mut packets = 0;
    while let Some(record) = reader.next_record() {
        let record = record.map_err(|e| TestError::Failed(e.to_string()))?;
        assert!(!record.is_cut() && record.data.len() >= 42);
        packets += 1;
    }
    assert_eq!(packets, recorded.packets);
    Ok(())
}
