//! Hosts on TAPs of a switch.
#![allow(dead_code, reason = "each test binary uses its part")]

use jumbo_engine::pending::Caps;
use jumbo_lab::{Host, TestError};
use jumbo_ports::queue::Port;
use jumbo_ports::tap::{self, TapConfig};
use jumbo_switch::switch::{Switch, SwitchConfig};
use jumbo_switch::topology::{Coalesce, Coalescing, PortId, TunnelMode};

pub(crate) type Tested<T> = Result<T, TestError>;

/// How one host is joined to the switch.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Side {
    pub(crate) hands: Caps,
    pub(crate) takes: Caps,
}

impl Side {
    pub(crate) const ALL: Self = Self {
        hands: Caps::ALL,
        takes: Caps::ALL,
    };
}

/// How the switch is set up.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) workers: usize,
    pub(crate) mtu: usize,
    pub(crate) coalesce: Coalesce,
    pub(crate) hold_ns: u32,
}

impl Setup {
    pub(crate) const USUAL: Self = Self {
        workers: 1,
        mtu: 1500,
        coalesce: Coalesce::Gro,
        hold_ns: 0,
    };
}

/// Hosts, the switch between them, and the port of each. The device is `t0` in each.
#[derive(Debug)]
pub(crate) struct Net {
    pub(crate) switch: Switch,
    pub(crate) hosts: Vec<Host>,
    pub(crate) ports: Vec<PortId>,
    setup: Setup,
}

impl Net {
    pub(crate) fn new(setup: Setup, sides: &[Side]) -> Tested<Self> {
        Self::with_tunnels(setup, TunnelMode::default(), sides)
    }

    pub(crate) fn with_tunnels(setup: Setup, tunnels: TunnelMode, sides: &[Side]) -> Tested<Self> {
        let mut net = Self {
            switch: start_with(setup.workers, tunnels)?,
            hosts: Vec::new(),
            ports: Vec::new(),
            setup,
        };
        for side in sides {
            net.join(*side, |port| port)?;
        }
        net.plug()?;
        Ok(net)
    }

    /// Sets all links up and makes the hosts known to each other: the kernel
    /// answers for an IPv6 address only some time after it was given one
    /// (net/ipv6/addrconf.c addrconf_dad_work), and a repeated question costs a second.
    pub(crate) fn plug(&self) -> Tested<()> {
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

    /// Makes a host and its port, which `wrap` may change. It still must be plugged.
    pub(crate) fn join(&mut self, side: Side, wrap: impl Fn(Port) -> Port) -> Tested<&Host> {
        let host = Host::new(self.hosts.len() as u8 + 1)?;
        let port = open(&host, &config(self.setup, side))?;
        let coalesce = Coalescing {
            hold_ns: self.setup.hold_ns,
            ..self.setup.coalesce.into()
        };
        self.ports.push(self.switch.add(wrap(port), coalesce)?);
        self.hosts.push(host);
        Ok(&self.hosts[self.hosts.len() - 1])
    }
}

pub(crate) fn start(workers: usize) -> Tested<Switch> {
    start_with(workers, TunnelMode::default())
}

fn start_with(workers: usize, tunnels: TunnelMode) -> Tested<Switch> {
    Ok(Switch::start(&SwitchConfig {
        workers,
        tunnels,
        ..SwitchConfig::default()
    })?)
}

pub(crate) fn config(setup: Setup, side: Side) -> TapConfig {
    TapConfig {
        device: "t0".into(),
        queues: setup.workers,
        hands: side.hands,
        takes: side.takes,
        mtu: Some(setup.mtu),
    }
}

pub(crate) fn open(host: &Host, config: &TapConfig) -> Tested<Port> {
    Ok(host.ns.run(|| tap::open(config))??)
}
