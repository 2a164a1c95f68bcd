//! Hosts behind interfaces, the switch between them, and transfers whose every byte is compared.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use jumbo_engine::pending::Caps;
use jumbo_engine::vnet::{Form, VnetHeader};
use jumbo_lab::ethtool::Offload;
use jumbo_lab::link::Links;
use jumbo_lab::ns::NetNs;
use jumbo_lab::packet_socket::PacketSocket;
use jumbo_lab::traffic::connect::{PATIENCE, connections};
use jumbo_lab::traffic::pattern;
use jumbo_lab::{Family, Host, TestError, skip};
use jumbo_ports::packet::{self, Fanout, PacketConfig};
use jumbo_ports::queue::Port;
use jumbo_ports::tap::{self, TapConfig};
use jumbo_ports::xdp::{self, Mode, Pass, TxChecksum, XdpConfig, XdpError};
use jumbo_switch::switch::{State, Switch, SwitchConfig};
use jumbo_switch::topology::{Coalesce, PortId};
use jumbo_testkit::PacketBuilder;

use crate::support::{drops, quiet};

pub(crate) type Outcome = Result<(), TestError>;

/// How a host is joined.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Packet,
    PacketBypass,
    XdpNative,
    XdpGeneric,
    Tap,
}

#[derive(Copy, Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) kind: Kind,
    pub(crate) workers: usize,
    pub(crate) mtu: u32,
}

pub(crate) const USUAL: Setup = Setup {
    kind: Kind::Packet,
    workers: 1,
    mtu: 1500,
};

/// Hosts, each with a device `t0`, and the switch between them. The other ends of
/// their veth pairs are `w1`, `w2`... in a namespace of their own.
pub(crate) struct Net {
    pub(crate) switch: Switch,
    pub(crate) middle: NetNs,
    pub(crate) hosts: Vec<Host>,
    pub(crate) ports: Vec<PortId>,
}

impl Net {
    pub(crate) fn empty(workers: usize) -> Result<Self, TestError> {
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

    pub(crate) fn new(setups: &[Setup]) -> Result<Self, TestError> {
        let mut net = Self::empty(setups[0].workers)?;
        for setup in setups {
            net.join(*setup, |port| port)?;
        }
        net.plug()?;
        Ok(net)
    }

    pub(crate) fn pair(setup: Setup) -> Result<Self, TestError> {
        Self::new(&[setup, setup])
    }

    pub(crate) fn join(
        &mut self,
        setup: Setup,
        wrap: impl Fn(Port) -> Port,
    ) -> Result<(), TestError> {
        let number = self.hosts.len() as u8 + 1;
        let host = Host::new(number)?;
        let near = format!("w{number}");
        if setup.kind != Kind::Tap {
            cable(&self.middle, &near, &host, setup.mtu)?;
        }
        let port = wrap(open(setup, &self.middle, &near, &host)?);
        self.ports.push(self.switch.add(port, Coalesce::Gro)?);
        self.hosts.push(host);
        Ok(())
    }

    pub(crate) fn plug(&self) -> Outcome {
        plug(&self.hosts)
    }

    /// Opens a host's port again, which was removed meanwhile.
    pub(crate) fn reopen(&mut self, index: usize, setup: Setup) -> Outcome {
        let near = format!("w{}", index + 1);
        let port = open(setup, &self.middle, &near, &self.hosts[index])?;
        self.ports[index] = self.switch.add(port, Coalesce::Gro)?;
        Ok(())
    }

    pub(crate) fn links(&self) -> Result<Links, TestError> {
        Ok(self.middle.links()?)
    }

    pub(crate) fn transfer(&self, bytes: u64) -> Outcome {
        both_families(&self.hosts, bytes)
    }
}

/// Addresses, and everybody knows everybody.
pub(crate) fn plug(hosts: &[Host]) -> Outcome {
    let mut macs = Vec::new();
    for host in hosts {
        host.plug("t0")?;
        macs.push(host.links()?.get("t0")?.mac.unwrap_or_default());
    }
    for (from, host) in hosts.iter().enumerate() {
        for (to, mac) in macs.iter().enumerate().filter(|(to, _)| *to != from) {
            host.knows("t0", &hosts[to], *mac)?;
        }
    }
    Ok(())
}

/// A veth pair between the host's `t0` and `near`, both up.
pub(crate) fn cable(middle: &NetNs, near: &str, host: &Host, mtu: u32) -> Outcome {
    let links = middle.links()?;
    links.add_veth(near, "t0", &host.ns)?;
    links.set_mtu(near, mtu)?;
    host.links()?.set_mtu("t0", mtu)?;
    links.up(near)?;
    host.links()?.up("t0")?;
    Ok(())
}

/// Between the first two hosts.
pub(crate) fn both_families(hosts: &[Host], bytes: u64) -> Outcome {
    for family in [Family::V4, Family::V6] {
        transfer(&hosts[0], &hosts[1], family, 2, bytes)?;
    }
    Ok(())
}

pub(crate) fn open(
    setup: Setup,
    middle: &NetNs,
    near: &str,
    host: &Host,
) -> Result<Port, TestError> {
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

pub(crate) fn xdp_open(
    setup: Setup,
    mode: Mode,
    middle: &NetNs,
    near: &str,
) -> Result<Port, TestError> {
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

pub(crate) fn tap_config(device: &str, setup: Setup) -> TapConfig {
    TapConfig {
        device: device.into(),
        queues: setup.workers,
        hands: Caps::ALL,
        takes: Caps::ALL,
        mtu: Some(setup.mtu as usize),
    }
}

/// So many bytes on each of `flows` connections, both ways at once, each byte compared.
pub(crate) fn transfer(
    one: &Host,
    two: &Host,
    family: Family,
    flows: usize,
    bytes: u64,
) -> Outcome {
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

pub(crate) fn send(mut to: &TcpStream, bytes: u64) -> std::io::Result<()> {
    let mut sent = 0;
    while sent < bytes {
        let some = pattern::at(sent, 100_000.min(bytes - sent) as usize);
        sent += uninterrupted(|| to.write(some))? as u64;
    }
    to.shutdown(Shutdown::Write)
}

/// A call with a time limit is interrupted where the process was stopped and goes on (signal(7)).
fn uninterrupted(mut call: impl FnMut() -> std::io::Result<usize>) -> std::io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            answer => return answer,
        }
    }
}

pub(crate) fn receive(mut from: &TcpStream, bytes: u64) -> std::io::Result<()> {
    let (mut received, mut buffer) = (0, vec![0; 100_000]);
    loop {
        let len = uninterrupted(|| from.read(&mut buffer))?;
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
pub(crate) fn rest(switch: &Switch, allowed: &[&str]) -> State {
    let state = quiet(switch);
    for (reason, count) in drops(&state) {
        let known = allowed.iter().any(|allowed| reason.ends_with(allowed));
        assert!(known, "{count} dropped: {reason}");
    }
    state
}

/// XDP in the stack gets super-packets without their segment size, so their senders
/// are told to make none.
pub(crate) fn no_super_packets(net: &Net) -> Outcome {
    for host in &net.hosts {
        let links = host.links()?;
        for offload in [Offload::Tso, Offload::Gso] {
            // Where it is off already it may be for good.
            if links.offload("t0", offload)? {
                links.set_offload("t0", offload, false)?;
            }
        }
    }
    Ok(())
}

pub(crate) fn base() -> PacketBuilder {
    PacketBuilder::ethernet().macs([0xff; 6], [2, 0, 0, 0, 0, 0x77])
}

pub(crate) fn with_header(vnet: &VnetHeader, bytes: &[u8]) -> Vec<u8> {
    let mut whole = vec![0; Form::Legacy10.len_bytes()];
    vnet.encode(Form::Legacy10, &mut whole);
    whole.extend(bytes);
    whole
}

/// The next packet from the test's own address.
pub(crate) fn heard(socket: &PacketSocket) -> Result<Option<Vec<u8>>, TestError> {
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
