//! Ports on interfaces of this host, and what can be put around any port.

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
    let port = packet::open(&config).map_err(|error| packet_error(spec, &error))?;
    advise(spec, device, &port);
    Ok(port)
}

/// Opens an interface in the better way.
pub(crate) fn open_auto(
    spec: &PortSpec,
    device: &DeviceName,
    workers: usize,
) -> Result<Port, CliError> {
    let config = packet_config(spec, device, Fanout::Hash, false, workers);
    let (port, why) = auto::open(&config).map_err(|error| packet_error(spec, &error))?;
    output::talk(format_args!("port `{}`: {why}", spec.name.as_str()));
    advise(spec, device, &port);
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
    };
    let port = xdp::open(&config).map_err(|error| {
        let text = format!("port `{}`: {error}", spec.name.as_str());
        match error {
            XdpError::NoDevice { .. } | XdpError::NotEthernet { .. } => CliError::usage(text),
            _ => CliError::machine(text),
        }
    })?;
    advise(spec, device, &port);
    Ok(port)
}

/// Says where the interface's own settings work against it, and what to do.
fn advise(spec: &PortSpec, device: &DeviceName, port: &Port) {
    let Ok(snapshot) = jumbo_host::collect::collect(&Roots::default()) else {
        return;
    };
    let Some(found) = snapshot.by_name(device.as_str()) else {
        return;
    };
    for advice in settings_against(found, port) {
        output::talk(format_args!("port `{}`: {advice}", spec.name.as_str()));
    }
}

fn settings_against(found: &Device, port: &Port) -> Vec<String> {
    let name = &found.name;
    let on = |feature: &str| {
        let features = found.features.get();
        features.is_ok_and(|features| features.active(feature))
    };
    let is_xdp = port.info.kind == "xdp";
    let in_driver =
        (port.info.capabilities.iter()).any(|row| row.name == "xdp_native" && row.in_use);
    let mut advice = Vec::new();
    if on("rx-lro") {
        advice.push(format!(
            "warning: LRO is on, what it merges cannot be forwarded as it was: `ethtool -K {name} lro off`"
        ));
    }
    if is_xdp && on("rx-gro-hw") {
        advice.push(format!(
            "warning: the hardware merges packets before XDP sees them: `ethtool -K {name} rx-gro-hw off`"
        ));
    }
    if is_xdp && found.kind == "veth" && in_driver {
        advice.push(format!(
            "note: while XDP is on `{name}`, the other end of the veth sends no super-packets; packet:{name} lets them pass"
        ));
    }
    if is_xdp && !in_driver {
        advice.push(format!(
            "warning: generic XDP loses the segment size of super-packets: switch GRO off here and TSO and GSO at the sender (`ethtool -K {name} gro off`), or use packet:{name}"
        ));
    }
    advice
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
