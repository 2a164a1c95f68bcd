//! One port: the keys that describe it, the same in TOML and in `--port KIND:DEVICE,KEY=VALUE`.

use serde::Deserialize;

use super::typo::explain;
use super::values::{
    CaptureFile, Coalesce, Cwr, DeviceName, Fanout, FaultSpec, Hold, LroMax, Mtu, OnOff, Peer,
    PortName, Queues, SocketPath, XdpMode, XdpPass,
};
use crate::error::CliError;
use crate::switch_api::{Offload, PortKind, PortSpec};
use jumbo_switch::topology;

/// What a port can be: the key that says so in TOML, and the word before the colon of `--port`.
const KINDS: [&str; 6] = ["tap", "vhost-user", "packet", "xdp", "tun", "auto"];

/// The keys as they were written. This is the one list of them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PortKeys {
    tap: Option<DeviceName>,
    #[serde(rename = "vhost-user")]
    vhost_user: Option<SocketPath>,
    packet: Option<DeviceName>,
    xdp: Option<DeviceName>,
    tun: Option<DeviceName>,
    auto: Option<DeviceName>,
    /// Of `packet`: how packets are spread over the workers.
    fanout: Option<Fanout>,
    /// Of `packet`: past the interface's queueing discipline.
    qdisc_bypass: Option<OnOff>,
    /// Of `xdp`: where in the interface the program runs.
    mode: Option<XdpMode>,
    /// Of `xdp`: what the host's own stack keeps.
    pass: Option<XdpPass>,
    /// Of `packet`, `xdp` and `auto`: in spite of settings of the interface that damage what passes.
    force: Option<OnOff>,
    /// A pcapng file of everything that passes the port.
    capture: Option<CaptureFile>,
    /// What goes wrong on the port, on purpose.
    fault: Option<FaultSpec>,
    /// Of `vhost-user`: we connect instead of listening.
    client: Option<OnOff>,
    /// Of `vhost-user`: most queue pairs.
    queues: Option<Queues>,
    /// Of `vhost-user`: whether packed rings are offered.
    packed: Option<OnOff>,
    /// Of `vhost-user`: whether a guest may have each packet's hash.
    hash_report: Option<OnOff>,
    /// Of `tap`: TCP is merged beyond 65535 bytes.
    big_tcp: Option<OnOff>,
    name: Option<PortName>,
    mtu: Option<Mtu>,
    coalesce: Option<Coalesce>,
    peer: Option<Peer>,
    hold: Option<Hold>,
    cwr: Option<Cwr>,
    lro_max: Option<LroMax>,
    offload: Option<OnOff>,
    csum: Option<OnOff>,
    tso: Option<OnOff>,
    uso: Option<OnOff>,
}

impl PortKeys {
    /// Reads `KIND:DEVICE[,KEY=VALUE...]`; a key alone means on.
    pub(super) fn from_spec(spec: &str) -> Result<Self, CliError> {
        let (kind, rest) = spec.split_once(':').ok_or_else(|| {
            CliError::usage("a port is a kind and a device")
                .way_out("write KIND:DEVICE[,KEY=VALUE...], as in tap:vm1 or packet:eth0")
        })?;
        if !KINDS.contains(&kind) {
            return Err(unknown_kind(kind));
        }
        let mut parts = rest.split(',');
        let mut table = toml::Table::new();
        table.insert(kind.to_owned(), parts.next().unwrap_or_default().into());
        for part in parts {
            if !continues_fault(&mut table, part) {
                insert(&mut table, part)?;
            }
        }
        table
            .try_into()
            .map_err(|error: toml::de::Error| explain(error.message()))
    }

    /// Checks the keys against each other and fills in what was left out.
    pub(super) fn resolve(self) -> Result<PortSpec, CliError> {
        let offload = self.offload()?;
        let coalesce = self.coalesce()?;
        let (kind, default_name) = self.kind()?;
        self.check_coalescing(coalesce.0, offload, &kind)?;
        let name = match self.name {
            Some(name) => name,
            None => default_name.parse().map_err(|error: String| {
                CliError::usage(error).way_out("or keep the device and add a `name`")
            })?,
        };
        Ok(PortSpec {
            name,
            kind,
            mtu: self.mtu,
            coalesce,
            hold: self.hold,
            cwr: self.cwr.unwrap_or_default(),
            lro_max: self.lro_max.unwrap_or_default(),
            offload,
            capture: self.capture,
            fault: self.fault,
            force: self.force.is_some_and(|on| on.0),
        })
    }

    /// What `lro` and `rsc` merge cannot be taken apart again into what came: it must end at the peer.
    fn coalesce(&self) -> Result<Coalesce, CliError> {
        let coalesce = self.coalesce.unwrap_or_default();
        let (kind, peer) = (coalesce.0, self.peer.unwrap_or_default());
        if kind.is_lossless() || peer == Peer::Terminates {
            return Ok(coalesce);
        }
        let name = kind.name();
        Err(CliError::usage(format!(
            "coalesce = {name} merges packets that cannot be taken apart again, so a peer that forwards would send on what nobody sent"
        ))
        .way_out("add `peer = terminates` if the peer ends its TCP connections itself, or set `coalesce = gro`"))
    }

    /// A setting that could change nothing is a mistake.
    fn check_coalescing(
        &self,
        coalesce: topology::Coalesce,
        offload: Offload,
        kind: &PortKind,
    ) -> Result<(), CliError> {
        use topology::Coalesce::{Gro, Lro, Off, Rsc};
        let name = coalesce.name();
        if self.cwr.is_some() && coalesce != Gro {
            return Err(CliError::usage(format!(
                "cwr is a choice of coalesce = gro; {name} has a rule of its own"
            ))
            .way_out("drop `cwr`"));
        }
        if self.lro_max.is_some() && coalesce != Lro {
            return Err(
                CliError::usage(format!("lro_max is of coalesce = lro, not of {name}"))
                    .way_out("drop `lro_max`"),
            );
        }
        if self.hold.is_some() && matches!(coalesce, Off | Rsc) {
            let why = match coalesce {
                Off => "coalesce = off merges nothing that could be held",
                _ => "coalesce = rsc hands over what it has when a burst ends, as NDIS asks",
            };
            return Err(CliError::usage(why).way_out("drop `hold` or set `coalesce = gro`"));
        }
        let given = [
            ("hold", self.hold.is_some(), offload.tso || offload.uso),
            ("cwr", self.cwr.is_some(), offload.tso),
            ("lro_max", self.lro_max.is_some(), offload.tso),
        ];
        let takes = !matches!(kind, PortKind::Xdp { .. });
        match given
            .into_iter()
            .find(|(_, given, merges)| *given && !(*merges && takes))
        {
            None => Ok(()),
            Some((key, ..)) => {
                let why = match takes {
                    true => "its super-packets are switched off",
                    false => "an xdp port takes none",
                };
                Err(CliError::usage(format!(
                    "{key} is about super-packets made for the port, and {why}"
                ))
                .way_out(format!("drop `{key}`")))
            }
        }
    }

    /// What the port stands on, and what it is called if nobody says otherwise.
    fn kind(&self) -> Result<(PortKind, String), CliError> {
        let devices = [
            ("tap", &self.tap),
            ("packet", &self.packet),
            ("xdp", &self.xdp),
            ("tun", &self.tun),
            ("auto", &self.auto),
        ];
        let mut given = devices
            .into_iter()
            .filter_map(|(kind, device)| Some((kind, device.clone()?)));
        match (given.next(), given.next(), &self.vhost_user) {
            (Some((kind, device)), None, None) => {
                self.only_keys_of(kind)?;
                let name = device.as_str().to_owned();
                Ok((self.on_device(kind, device), name))
            }
            (None, None, Some(path)) => {
                self.only_keys_of("vhost-user")?;
                Ok((self.vhost_user(path.clone()), path.stem()))
            }
            (None, None, None) => Err(CliError::usage("the port has no device")
                .way_out("add `tap = \"DEVICE\"` or `vhost-user = \"/run/NAME.sock\"`")),
            _ => Err(
                CliError::usage(format!("a port is one of {}", KINDS.join(", ")))
                    .way_out("make it two ports"),
            ),
        }
    }

    fn on_device(&self, kind: &str, device: DeviceName) -> PortKind {
        match kind {
            "packet" => PortKind::Packet {
                device,
                fanout: self.fanout.unwrap_or_default(),
                qdisc_bypass: self.qdisc_bypass.is_some_and(|on| on.0),
            },
            "xdp" => PortKind::Xdp {
                device,
                mode: self.mode.unwrap_or_default(),
                pass: self.pass.clone().unwrap_or_default(),
            },
            "tun" => PortKind::Tun { device },
            "auto" => PortKind::Auto { device },
            _ => PortKind::Tap {
                device,
                big_tcp: self.big_tcp.is_some_and(|on| on.0),
            },
        }
    }

    fn vhost_user(&self, path: SocketPath) -> PortKind {
        PortKind::VhostUser {
            path,
            client: self.client.is_some_and(|on| on.0),
            queues: self.queues.unwrap_or_default(),
            packed: self.packed.is_none_or(|on| on.0),
            hash_report: self.hash_report.is_some_and(|on| on.0),
        }
    }

    fn only_keys_of(&self, kind: &str) -> Result<(), CliError> {
        let keys = [
            ("client", self.client.is_some(), "vhost-user"),
            ("queues", self.queues.is_some(), "vhost-user"),
            ("packed", self.packed.is_some(), "vhost-user"),
            ("hash_report", self.hash_report.is_some(), "vhost-user"),
            ("fanout", self.fanout.is_some(), "packet"),
            ("qdisc_bypass", self.qdisc_bypass.is_some(), "packet"),
            ("big_tcp", self.big_tcp.is_some(), "tap"),
            ("mode", self.mode.is_some(), "xdp"),
            ("pass", self.pass.is_some(), "xdp"),
            ("force", self.force.is_some(), "packet, xdp and auto"),
        ];
        let stranger = |(_, given, owner): &(&str, bool, &str)| {
            *given && !owner.split([',', ' ']).any(|owner| owner == kind)
        };
        match keys.into_iter().find(stranger) {
            None => Ok(()),
            Some((key, _, owner)) => Err(CliError::usage(format!("`{key}` is of {owner} ports"))
                .way_out(format!("drop `{key}`"))),
        }
    }

    /// `offload` sets all three, each key overrides it; super-packets need partial checksums, because every segment
    /// gets a new one (virtio 1.3, section 5.1.3.1: the TSO and USO features require CSUM).
    fn offload(&self) -> Result<Offload, CliError> {
        let all = self.offload.is_none_or(|on| on.0);
        let [csum, tso, uso] = [self.csum, self.tso, self.uso].map(|key| key.map(|on| on.0));
        if csum == Some(false) {
            for (key, value) in [("tso", tso), ("uso", uso)] {
                if value == Some(true) {
                    return Err(CliError::usage(format!("{key} needs csum"))
                        .way_out(format!("drop `csum = off` or set `{key} = off`")));
                }
            }
        }
        let csum_off = csum == Some(false);
        let tso = tso.unwrap_or(all) && !csum_off;
        let uso = uso.unwrap_or(all) && !csum_off;
        Ok(Offload {
            csum: csum.unwrap_or(all) || tso || uso,
            tso,
            uso,
        })
    }
}

/// `fault=drop:1%,delay:2ms` has commas of its own: what has a colon and no `=` goes on with it.
fn continues_fault(table: &mut toml::Table, part: &str) -> bool {
    let goes_on = part.contains(':') && !part.contains('=');
    match table.get_mut("fault") {
        Some(toml::Value::String(fault)) if goes_on => {
            fault.push(',');
            fault.push_str(part);
            true
        }
        _ => false,
    }
}

fn insert(table: &mut toml::Table, part: &str) -> Result<(), CliError> {
    let (key, value) = part.split_once('=').unwrap_or((part, "on"));
    if key.is_empty() {
        return Err(CliError::usage(format!("`{part}` is not KEY=VALUE"))
            .way_out("write KIND:DEVICE[,KEY=VALUE...]"));
    }
    match table.insert(key.to_owned(), value.into()) {
        None => Ok(()),
        Some(_) => {
            Err(CliError::usage(format!("key `{key}` is given twice")).way_out("keep one of them"))
        }
    }
}

/// The error for a kind of port that this version does not have.
pub(super) fn unknown_kind(kind: &str) -> CliError {
    CliError::usage(format!(
        "unknown port kind `{kind}`: this version has {}",
        KINDS.join(", ")
    ))
}
