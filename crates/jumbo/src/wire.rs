//! Ports on interfaces of this host, and what can be put around any port.

use std::fs::File;
use std::io::BufWriter;
use std::thread::JoinHandle;

use jumbo_ports::packet::{self, PacketConfig, PacketError};
use jumbo_ports::queue::Port;
use jumbo_ports::tap::{self, TapConfig};
use jumbo_ports::wrap::capture::Recorder;
use jumbo_ports::wrap::fault;

use crate::config::values::{DeviceName, Fanout};
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
    packet::open(&PacketConfig {
        device: device.as_str().to_owned(),
        queues: workers,
        takes: caps(spec.offload),
        fanout: match fanout {
            Fanout::Hash => packet::Fanout::Hash,
            Fanout::Queue => packet::Fanout::Queue,
        },
        qdisc_bypass,
        mtu: spec.mtu.map(|mtu| mtu.get().into()),
    })
    .map_err(|error| packet_error(spec, &error))
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
    output::talk(format_args!("port `{name}`: faults on purpose: {}", faults.0));
    fault::wrap(port, faults.0)
        .map_err(|errno| CliError::machine(format!("port `{name}`: making a timer: {errno}")))
}

/// Makes the file that a port's packets are written to.
pub(crate) fn capture_file(spec: &PortSpec) -> Result<Option<File>, CliError> {
    let Some(path) = &spec.capture else {
        return Ok(None);
    };
    let path = path.as_path();
    let refused = |error| {
        CliError::machine(format!("cannot write the capture: {error}")).at(path.display())
    };
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
        Err(error) => output::talk(format_args!("port `{name}`: the capture has ended: {error}")),
    };
    std::thread::Builder::new()
        .name("capture".into())
        .spawn(write)
        .map_err(|error| CliError::machine(format!("cannot start a thread: {error}")))
}

