//! From what was typed and written to a validated [`RunConfig`].
//!
//! The file is TOML: `workers`, `socket`, `fdb_age_s`, `spin` and `tunnels` at the top, one `[[port]]` table per port. What is typed wins
//! over the file; ports of both are taken, the file's first. Unknown keys are refused, with their line.

mod port;
mod typo;
pub(crate) mod values;

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use self::port::PortKeys;
use self::values::{FdbAge, Spin, Tunnels, Workers};
use crate::args::RunArgs;
use crate::error::CliError;
use crate::switch_api::{PortSpec, RunConfig};

/// Most ports of a switch: a flood is copied to each of them.
const PORTS_MAX: usize = jumbo_switch::topology::PORTS_MAX;
/// Largest configuration file, in bytes: thousands of ports, and no device file read for ever.
const FILE_LEN_MAX: u64 = 1 << 20;

/// The file as it was written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileKeys {
    workers: Option<Workers>,
    socket: Option<PathBuf>,
    fdb_age_s: Option<FdbAge>,
    spin: Option<Spin>,
    tunnels: Option<Tunnels>,
    #[serde(default)]
    port: Vec<Spanned<PortKeys>>,
}

/// A port and where it was written.
struct Placed {
    place: String,
    spec: PortSpec,
}

/// Reads the arguments and the file they name.
///
/// # Errors
/// Exit code 2, with `FILE:LINE` or `--port SPEC`, for anything that cannot be meant.
pub(crate) fn load(args: &RunArgs) -> Result<RunConfig, CliError> {
    let (file, mut ports) = match &args.config {
        Some(path) => parse_file(path, &read(path)?)?,
        None => Default::default(),
    };
    for spec in &args.ports {
        ports.push(parse_spec(spec)?);
    }
    Ok(RunConfig {
        ports: check_together(ports)?,
        workers: args.workers.or(file.workers),
        socket: args.socket.clone().or(file.socket),
        fdb_age: args.fdb_age_s.or(file.fdb_age_s).unwrap_or_default(),
        spin: args.spin.or(file.spin),
        tunnels: args.tunnels.or(file.tunnels).unwrap_or_default(),
    })
}

fn read(path: &Path) -> Result<String, CliError> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(FILE_LEN_MAX + 1).read_to_string(&mut text))
        .map_err(|error| {
            let text = format!("cannot read the configuration: {error}");
            match error.kind() {
                std::io::ErrorKind::PermissionDenied => CliError::machine(text),
                _ => CliError::usage(text),
            }
            .at(path.display())
        })?;
    if text.len() as u64 > FILE_LEN_MAX {
        return Err(
            CliError::usage(format!("the file is longer than {FILE_LEN_MAX} bytes"))
                .at(path.display()),
        );
    }
    Ok(text)
}

fn parse_file(path: &Path, text: &str) -> Result<(FileKeys, Vec<Placed>), CliError> {
    let place = |span: Range<usize>| format!("{}:{}", path.display(), line_of(text, span.start));
    let mut keys: FileKeys = toml::from_str(text).map_err(|error| {
        let whole_file = path.display().to_string();
        typo::explain(error.message()).at(error.span().map_or(whole_file, place))
    })?;
    let ports = std::mem::take(&mut keys.port)
        .into_iter()
        .map(|port| place_port(place(port.span()), port.into_inner()))
        .collect::<Result<_, _>>()?;
    Ok((keys, ports))
}

/// The line of a byte, counted from 1.
fn line_of(text: &str, byte: usize) -> usize {
    1 + text.bytes().take(byte).filter(|&b| b == b'\n').count()
}

/// Reads one port as `--port` has it.
///
/// # Errors
/// Exit code 2 for anything that cannot be meant.
pub(crate) fn parse_port(spec: &str) -> Result<PortSpec, CliError> {
    PortKeys::from_spec(spec)?.resolve()
}

/// The same port, with the path of its socket as another process can find it.
///
/// # Errors
/// Exit code 3 when this directory is gone.
pub(crate) fn absolute(spec: &str) -> Result<String, CliError> {
    let Some(rest) = spec.strip_prefix("vhost-user:") else {
        return Ok(spec.to_owned());
    };
    let (path, keys) = rest.split_at(rest.find(',').unwrap_or(rest.len()));
    if path.is_empty() {
        return Ok(spec.to_owned());
    }
    let path = std::path::absolute(path).map_err(|error| {
        CliError::machine(format!("cannot tell where this directory is: {error}")).at(spec)
    })?;
    Ok(format!("vhost-user:{}{keys}", path.display()))
}

/// Whether a port can join those that are there: no name or device is used twice.
///
/// # Errors
/// Exit code 2.
pub(crate) fn check_joins<'a>(
    new: &PortSpec,
    there: impl Iterator<Item = &'a PortSpec>,
) -> Result<(), CliError> {
    for port in there {
        if new.kind.is_raw_ip() != port.kind.is_raw_ip() {
            return Err(CliError::usage(RAW_AND_ETHERNET).way_out("run a second switch for it"));
        }
        let name = port.name.as_str();
        if new.name == port.name {
            return Err(
                CliError::usage(format!("port name `{name}` is in use already")).way_out(format!(
                    "choose another name=, or `jumbo remove-port {name}`"
                )),
            );
        }
        if new.kind.device() == port.kind.device() {
            let device = new.kind.device();
            return Err(CliError::usage(format!(
                "port device `{device}` is in use already, by port `{name}`"
            ))
            .way_out(format!(
                "a device can be one port only: `jumbo remove-port {name}` first"
            )));
        }
    }
    Ok(())
}

fn parse_spec(spec: &str) -> Result<Placed, CliError> {
    let place = format!("--port {spec}");
    let keys = PortKeys::from_spec(spec).map_err(|error| error.at(&place))?;
    place_port(place, keys)
}

fn place_port(place: String, keys: PortKeys) -> Result<Placed, CliError> {
    match keys.resolve() {
        Ok(spec) => Ok(Placed { place, spec }),
        Err(error) => Err(error.at(place)),
    }
}

/// What no port can know alone: there are some, not too many, and no name or device is used twice.
fn check_together(ports: Vec<Placed>) -> Result<Vec<PortSpec>, CliError> {
    if ports.is_empty() {
        return Err(
            CliError::usage("the switch has no ports").way_out("give --port tap:DEVICE or -c FILE")
        );
    }
    if ports.len() > PORTS_MAX {
        return Err(CliError::usage(format!(
            "{} ports are more than {PORTS_MAX}",
            ports.len()
        )));
    }
    unique(
        &ports,
        |spec| spec.name.as_str(),
        "name",
        "choose another name=",
    )?;
    unique(
        &ports,
        |spec| spec.kind.device(),
        "device",
        "a device can be one port only",
    )?;
    raw_ip_apart(&ports)?;
    Ok(ports.into_iter().map(|port| port.spec).collect())
}

const RAW_AND_ETHERNET: &str =
    "a tun port carries raw IP and cannot be joined with ports of Ethernet";

/// Raw IP has no addresses to forward by: two such ports are a pair, and nothing else is with them.
fn raw_ip_apart(ports: &[Placed]) -> Result<(), CliError> {
    let raw = |port: &&Placed| port.spec.kind.is_raw_ip();
    let count = ports.iter().filter(raw).count();
    let Some(first) = ports.iter().find(raw) else {
        return Ok(());
    };
    if count == ports.len() && count <= 2 {
        return Ok(());
    }
    let text = match count == ports.len() {
        true => "a switch has two tun ports and no more: what comes in by one leaves by the other",
        false => RAW_AND_ETHERNET,
    };
    Err(CliError::usage(text)
        .at(&first.place)
        .way_out("run a second switch for it"))
}

fn unique(
    ports: &[Placed],
    key: fn(&PortSpec) -> &str,
    what: &str,
    way_out: &str,
) -> Result<(), CliError> {
    let mut seen = HashMap::new();
    for port in ports {
        let value = key(&port.spec);
        if let Some(first) = seen.insert(value, &port.place) {
            return Err(CliError::usage(format!(
                "port {what} `{value}` is in use already, by {first}"
            ))
            .at(&port.place)
            .way_out(way_out));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
