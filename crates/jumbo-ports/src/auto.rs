//! Which way to an interface is the best one, and why.
//!
//! AF_XDP pays where the driver writes into our memory (zero-copy). Where it does not,
//! AF_PACKET is better: super-packets and partial checksums pass whole, which a
//! software interface (veth, TAP, bridge) hands over and takes, and the host's GRO
//! makes of what a NIC receives.

use std::os::fd::AsFd;

use crate::packet::{self, PacketConfig, PacketError};
use crate::queue::Port;
use crate::sys::netdev::{self, control_socket};
use crate::xdp::{self, Mode, XdpConfig, XdpError};

/// Drivers of interfaces that have no hardware below.
const SOFTWARE: [&str; 8] = [
    "veth", "tun", "bridge", "macvlan", "ipvlan", "vxlan", "bonding", "dummy",
];

/// Opens an interface in the best way there is here; says which and why. What the
/// caller knows against AF_XDP comes first.
///
/// # Errors
/// [`PacketError`]: AF_PACKET is what is always left.
pub fn open(
    packet: &PacketConfig,
    against_xdp: Option<String>,
) -> Result<(Port, String), PacketError> {
    let (port, why) = match against_xdp.map_or_else(|| xdp_if_better(packet), Err) {
        Ok(port) => (port, "its driver has zero-copy for AF_XDP".to_owned()),
        Err(why) => (packet::open(packet)?, why),
    };
    let text = format!("opened as {}: {why}", port.info.kind);
    Ok((port, text))
}

/// An AF_XDP port with zero-copy, or why not.
fn xdp_if_better(config: &PacketConfig) -> Result<Port, String> {
    let device = &config.device;
    let driver = control_socket()
        .and_then(|socket| netdev::driver(socket.as_fd(), device))
        .unwrap_or_default();
    if driver.is_empty() || SOFTWARE.contains(&driver.as_str()) {
        return Err("it is a software interface, whose super-packets pass whole".to_owned());
    }
    let port = xdp::open(&XdpConfig {
        device: device.clone(),
        queues: config.queues,
        mode: Mode::Native,
        pass: xdp::Pass::Nothing,
        tx_checksum: match config.takes.csum() {
            true => xdp::TxChecksum::Auto,
            false => xdp::TxChecksum::Off,
        },
    })
    .map_err(|error| match error {
        XdpError::NoNative { .. } => format!("driver {driver} has no XDP"),
        error => error.to_string(),
    })?;
    let has_zero_copy = |port: &Port| {
        let mut rows = port.info.capabilities.iter();
        rows.any(|row| row.name == "zero_copy" && row.in_use)
    };
    if !has_zero_copy(&port) {
        // It comes off again as the port is dropped.
        return Err(format!(
            "driver {driver} copies for AF_XDP, and AF_PACKET keeps super-packets whole"
        ));
    }
    Ok(port)
}
