//! Ports on interfaces of this host, and what can be put around any port.

mod settings;

use std::fs::File;
use std::io::BufWriter;
use std::thread::JoinHandle;

use jumbo_host::collect::Roots;
use jumbo_host::snapshot::Device;
use jumbo_ports::auto;
use jumbo_ports::packet::{self, PacketConfig, PacketError};
use jumbo_ports::queue::Port;
use jumbo_ports::tap::{self, TapConfig};
use jumbo_ports::wrap::capture::Recorder;
use jumbo_ports::wrap::fault;
use jumbo_ports::xdp::{self, XdpConfig, XdpError};

use crate::config::values::{DeviceName, Fanout, XdpMode, XdpPass};
use crate::error::CliError;
use crate::output;
use crate::running::{caps, port_error};
use crate::switch_api::PortSpec;
use settings::{Harm, Way, harms, notes};

/// Opens a TUN.
pub(crate) fn open_tun(
    spec: &PortSpec,
    device: &DeviceName,
    workers: usize,
) -> Result<Port, CliError> {
    let caps = caps(spec.offload);
    tap::open_tun(&TapConfig {
        device: device.as_str().to_owned(),
        queues: workers,
        hands: caps,
        takes: caps,
        mtu: None,
    })
    .map_err(|error| port_error(spec, &error))
}

/// Opens an interface by AF_PACKET.
pub(crate) fn open_packet(
    spec: &PortSpec,
    device: &DeviceName,
    fanout: Fanout,
    qdisc_bypass: bool,
    workers: usize,
) -> Result<Port, CliError> {
    let config = packet_config(spec, device, fanout, qdisc_bypass, workers);
    let found = found(device);
    check_settings(spec, found.as_ref(), Way::Packet)?;
    let port = packet::open(&config).map_err(|error| packet_error(spec, &error))?;
    advise(spec, found.as_ref(), &port);
    Ok(port)
}

/// Opens an interface in the better way.
pub(crate) fn open_auto(
    spec: &PortSpec,
    device: &DeviceName,
    workers: usize,
) -> Result<Port, CliError> {
    let config = packet_config(spec, device, Fanout::Hash, false, workers);
    let found = found(device);
    check_settings(spec, found.as_ref(), Way::Packet)?;
    let harm = found
        .as_ref()
        .and_then(|found| harms(found, Way::Xdp).pop());
    let against_xdp = harm.map(|harm| format!("{}; {}", harm.what, harm.way_out));
    let (port, why) =
        auto::open(&config, against_xdp).map_err(|error| packet_error(spec, &error))?;
    output::talk(format_args!("port `{}`: {why}", spec.name.as_str()));
    advise(spec, found.as_ref(), &port);
    Ok(port)
}

/// Opens an interface by AF_XDP.
pub(crate) fn open_xdp(
    spec: &PortSpec,
    device: &DeviceName,
    mode: XdpMode,
    pass: &XdpPass,
    workers: usize,
) -> Result<Port, CliError> {
    let config = XdpConfig {
        device: device.as_str().to_owned(),
        queues: workers,
        mode: match mode {
            XdpMode::Auto => xdp::Mode::Auto,
            XdpMode::Native => xdp::Mode::Native,
            XdpMode::Generic => xdp::Mode::Generic,
        },
        pass: match pass {
            XdpPass::Nothing => xdp::Pass::Nothing,
            XdpPass::Host => xdp::Pass::Host,
        },
        tx_checksum: match spec.offload.csum {
            true => xdp::TxChecksum::Auto,
            false => xdp::TxChecksum::Off,
        },
    };
    let found = found(device);
    check_settings(spec, found.as_ref(), Way::Xdp)?;
    let port = xdp::open(&config).map_err(|error| {
        let text = format!("port `{}`: {error}", spec.name.as_str());
        match error {
            XdpError::NoDevice { .. } | XdpError::NotEthernet { .. } => CliError::usage(text),
            _ => CliError::machine(text),
        }
    })?;
    advise(spec, found.as_ref(), &port);
    Ok(port)
}

/// The interface as it is before it is opened; None if it is not there or cannot be asked.
fn found(device: &DeviceName) -> Option<Device> {
    let snapshot = jumbo_host::collect::collect(&Roots::default()).ok()?;
    snapshot.by_name(device.as_str()).cloned()
}

/// Refuses an interface whose settings damage what passes, or says so where it is opened by force.
fn check_settings(spec: &PortSpec, found: Option<&Device>, way: Way) -> Result<(), CliError> {
    let port = spec.name.as_str();
    for Harm { what, way_out } in found.map_or_else(Vec::new, |found| harms(found, way)) {
        if !spec.force {
            return Err(CliError::machine(format!("port `{port}`: {what}"))
                .way_out(format!("{way_out}, or add `force` to open it all the same")));
        }
        output::talk(format_args!("port `{port}`: warning: {what}; {way_out}"));
    }
    Ok(())
}

/// Says where the interface's settings work against the port.
fn advise(spec: &PortSpec, found: Option<&Device>, port: &Port) {
    let way = match port.info.kind {
        "xdp" => Way::Xdp,
        _ => Way::Packet,
    };
    let mut rows = port.info.capabilities.iter();
    let native = rows.any(|row| row.name == "xdp_native" && row.in_use);
    for note in found.map_or_else(Vec::new, |found| notes(found, way, native)) {
        output::talk(format_args!("port `{}`: {note}", spec.name.as_str()));
    }
}

fn packet_config(
    spec: &PortSpec,
    device: &DeviceName,
    fanout: Fanout,
    qdisc_bypass: bool,
    workers: usize,
) -> PacketConfig {
    PacketConfig {
        device: device.as_str().to_owned(),
        queues: workers,
        takes: caps(spec.offload),
        fanout: match fanout {
            Fanout::Hash => packet::Fanout::Hash,
            Fanout::Queue => packet::Fanout::Queue,
        },
        qdisc_bypass,
        mtu: spec.mtu.map(|mtu| mtu.get().into()),
    }
}

fn packet_error(spec: &PortSpec, error: &PacketError) -> CliError {
    let text = format!("port `{}`: {error}", spec.name.as_str());
    match error {
        PacketError::NoDevice { .. } | PacketError::NotEthernet { .. } => CliError::usage(text),
        _ => CliError::machine(text),
    }
}

/// Puts the faults that were asked for on a port.
pub(crate) fn wrapped(spec: &PortSpec, port: Port) -> Result<Port, CliError> {
    let Some(faults) = &spec.fault else {
        return Ok(port);
    };
    let name = spec.name.as_str();
    output::talk(format_args!(
        "port `{name}`: faults on purpose: {}",
        faults.0
    ));
    fault::wrap(port, faults.0)
        .map_err(|errno| CliError::machine(format!("port `{name}`: making a timer: {errno}")))
}

/// Makes the file that a port's packets are written to.
pub(crate) fn capture_file(spec: &PortSpec) -> Result<Option<File>, CliError> {
    let Some(path) = &spec.capture else {
        return Ok(None);
    };
    let path = path.as_path();
    let refused =
        |error| CliError::machine(format!("cannot write the capture: {error}")).at(path.display());
    File::create(path).map(Some).map_err(refused)
}

/// Writes a capture to its file, on a thread of its own.
pub(crate) fn write_capture(
    name: &str,
    recorder: Recorder,
    file: File,
) -> Result<JoinHandle<()>, CliError> {
    let name = name.to_owned();
    let write = move || match recorder.run(BufWriter::new(file)) {
        Ok(recorded) if recorded.dropped > 0 => output::talk(format_args!(
            "port `{name}`: {} packets captured, {} left out: the disk is too slow",
            recorded.packets, recorded.dropped
        )),
        Ok(_) => {}
        Err(error) => output::talk(format_args!(
            "port `{name}`: the capture has ended: {error}"
        )),
    };
    std::thread::Builder::new()
        .name("capture".into())
        .spawn(write)
        .map_err(|error| CliError::machine(format!("cannot start a thread: {error}")))
}
