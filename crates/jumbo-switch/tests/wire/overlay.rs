//! Tunnels of containers, above sockets whose virtio header has no words for super-packets in them.

use std::net::{Ipv4Addr, Ipv6Addr};

use jumbo_lab::{Family, Host};

use crate::ip::ip;
use crate::rig::{Net, Outcome, Setup, USUAL, rest, transfer};

/// The container's VXLAN device above its `t0`.
fn overlay(host: &Host, other: &Host, options: &str) -> Result<Host, jumbo_lab::TestError> {
    let number = host.v4.octets()[3];
    let (local, remote) = (host.v4, other.v4);
    ip(
        &host.ns,
        &format!(
            "link add over type vxlan id 7 local {local} remote {remote} dstport 4789 {options}"
        ),
    )?;
    let above = Host {
        ns: host.ns.clone(),
        v4: Ipv4Addr::new(10, 1, 0, number),
        v6: Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, number.into()),
    };
    above.plug("over")?;
    Ok(above)
}

/// A container's kernel sends super-packets in VXLAN, whole over its veth; they are segmented here.
pub(crate) fn super_packets_in_tunnels_are_segmented() -> Outcome {
    for (workers, options) in [(1, "noudpcsum"), (2, "udpcsum")] {
        let net = Net::pair(Setup { workers, ..USUAL })?;
        let [one, two] = [&net.hosts[0], &net.hosts[1]];
        let above = [overlay(one, two, options)?, overlay(two, one, options)?];
        let mac = |host: &Host| {
            Ok::<_, jumbo_lab::TestError>(host.links()?.get("over")?.mac.unwrap_or_default())
        };
        let macs = [mac(&above[0])?, mac(&above[1])?];
        above[0].knows("over", &above[1], macs[1])?;
        above[1].knows("over", &above[0], macs[0])?;
        for family in [Family::V4, Family::V6] {
            transfer(&above[0], &above[1], family, 2, 2_000_000)?;
        }
        for port in rest(&net.switch, &[]).ports {
            let counters = port.counters;
            assert!(
                counters.rx.traffic.super_packets > 10,
                "{options}: {counters:?}"
            );
            assert!(counters.software_segmented > 10, "{options}: {counters:?}");
        }
    }
    Ok(())
}
