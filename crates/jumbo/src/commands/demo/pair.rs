//! Two hosts and what joins them: the switch between two TAPs, or a veth pair.

use jumbo_engine::pending::Caps;
use jumbo_lab::ethtool::Offload;
use jumbo_lab::{Host, link::LinkStats};
use jumbo_ports::tap::{self, TapConfig};
use jumbo_switch::switch::{State, Switch, SwitchConfig};
use jumbo_switch::topology::{Coalesce, PortId};

use super::machine;
use super::technique::{Path, Technique};
use crate::error::CliError;

/// The link's name, the same in every host.
const LINK: &str = "eth0";

/// Two hosts that no other pair can reach.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) hosts: [Host; 2],
    /// None on the kernel's own path.
    switch: Option<Joined>,
}

/// A switch of one worker with a port for each host: its books, its CPU time and its forwarding table are this pair's
/// alone.
#[derive(Debug)]
struct Joined {
    switch: Switch,
    ports: [PortId; 2],
}

impl Pair {
    /// Sets everything up; the hosts can talk at once.
    pub(super) fn new(technique: Technique, mtu: u16) -> Result<Self, CliError> {
        let hosts = [
            Host::new(1).map_err(machine)?,
            Host::new(2).map_err(machine)?,
        ];
        let switch = match technique.path() {
            Path::Switch {
                hands,
                takes,
                coalesce,
            } => Some(join(&hosts, [hands, takes], coalesce, mtu)?),
            Path::Veth { tso } => {
                veth(&hosts, tso, mtu).map_err(machine)?;
                None
            }
        };
        introduce(&hosts).map_err(machine)?;
        Ok(Self { hosts, switch })
    }

    /// What the switch has counted; None on the kernel's own path.
    pub(super) fn state(&self) -> Result<Option<State>, CliError> {
        let state = self.switch.as_ref().map(|joined| joined.switch.state());
        state.transpose().map_err(gone)
    }

    /// The switch's port towards host 0 or 1.
    pub(super) fn port(&self, host: usize) -> Option<PortId> {
        self.switch.as_ref().map(|joined| joined.ports[host])
    }

    /// Packets the links lost because nobody took them in time.
    pub(super) fn queue_drops(&self) -> Result<u64, CliError> {
        let stats = |host: &Host| host.links()?.stats(LINK);
        let mut drops = 0;
        for host in &self.hosts {
            let LinkStats {
                rx_dropped,
                tx_dropped,
                ..
            } = stats(host).map_err(machine)?;
            drops += rx_dropped + tx_dropped;
        }
        Ok(drops)
    }

    /// Ends the switch; its last words.
    pub(super) fn stop(self) -> Result<Option<State>, CliError> {
        let state = self.switch.map(|joined| joined.switch.stop());
        state.transpose().map_err(gone)
    }
}

fn gone(error: impl std::fmt::Display) -> CliError {
    CliError::internal(error.to_string())
}

fn join(
    hosts: &[Host; 2],
    [hands, takes]: [Caps; 2],
    coalesce: Coalesce,
    mtu: u16,
) -> Result<Joined, CliError> {
    let config = TapConfig {
        device: LINK.into(),
        queues: 1,
        hands,
        takes,
        mtu: Some(mtu.into()),
    };
    let mut switch = Switch::start(&SwitchConfig::default()).map_err(machine)?;
    let mut ports = [PortId::default(); 2];
    for (host, id) in hosts.iter().zip(&mut ports) {
        // A device is looked for in the namespace of the thread that opens it.
        let port = host.ns.run(|| tap::open(&config)).map_err(machine)?;
        *id = switch
            .add(port.map_err(machine)?, coalesce)
            .map_err(machine)?;
        host.plug(LINK).map_err(machine)?;
    }
    Ok(Joined { switch, ports })
}

fn veth(hosts: &[Host; 2], tso: bool, mtu: u16) -> jumbo_lab::Result<()> {
    let [a, b] = hosts;
    a.links()?.add_veth(LINK, LINK, &b.ns)?;
    for host in hosts {
        let links = host.links()?;
        links.set_mtu(LINK, mtu.into())?;
        for (offload, on) in [
            (Offload::TxChecksum, true),
            (Offload::ScatterGather, true),
            (Offload::Gso, true),
            (Offload::Tso, tso),
            (Offload::Gro, true),
        ] {
            links.set_offload(LINK, offload, on)?;
        }
        host.plug(LINK)?;
    }
    Ok(())
}

/// Static neighbours: no ARP and no neighbour discovery among the data.
fn introduce(hosts: &[Host; 2]) -> jumbo_lab::Result<()> {
    let [a, b] = hosts;
    for (host, other) in [(a, b), (b, a)] {
        if let Some(mac) = other.links()?.get(LINK)?.mac {
            host.knows(LINK, other, mac)?;
        }
    }
    Ok(())
}
