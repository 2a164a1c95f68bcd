//! Devices that carry the operator's own connection: a change that takes one of them down for a moment can lock the
//! operator out.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::collect::{self, Roots};
use crate::snapshot::{Device, Snapshot};

/// Links on top of one another: bonds, VLANs, bridges; more are not stacked in practice.
const LEVELS_MAX: usize = 6;

/// Devices with a default route, the one that holds the server's address of `ssh_connection` (the variable of that
/// name: client address and port, server address and port), and everything those stand on.
pub fn operators_devices(
    roots: &Roots,
    host: &Snapshot,
    ssh_connection: Option<&str>,
) -> BTreeSet<String> {
    let mut found = default_routes(roots);
    if let Some(server) = ssh_connection.and_then(server_address) {
        let holders = collect::address_holders(server).unwrap_or_default();
        found.extend(
            holders
                .iter()
                .filter_map(|index| Some(host.by_index(*index)?.name.clone())),
        );
    }
    for _ in 0..LEVELS_MAX {
        let below: Vec<String> = host
            .devices
            .iter()
            .filter(|device| found.iter().any(|name| carries(host, device, name)))
            .map(|device| device.name.clone())
            .collect();
        found.extend(below);
    }
    found
}

/// Whether `upper`'s packets go through a device: as its port, or as the link below it.
fn carries(host: &Snapshot, device: &Device, upper: &str) -> bool {
    let Some(upper) = host.by_name(upper) else {
        return false;
    };
    device.controller == Some(upper.index)
        || (upper.lower == Some(device.index) && !upper.lower_elsewhere)
}

fn server_address(ssh_connection: &str) -> Option<IpAddr> {
    let text = ssh_connection.split_whitespace().nth(2)?;
    // A scope (`fe80::1%eth0`) says nothing we need.
    text.split('%').next()?.parse().ok().map(unmapped)
}

fn unmapped(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
        v4 => v4,
    }
}

fn default_routes(roots: &Roots) -> BTreeSet<String> {
    let v4 = collect::net_file(roots, "route");
    let v6 = collect::net_file(roots, "ipv6_route");
    let mut names: BTreeSet<String> = v4.lines().filter_map(default_v4).collect();
    names.extend(v6.lines().filter_map(default_v6));
    names.remove("lo");
    names
}

/// `Iface Destination Gateway Flags RefCnt Use Metric Mask ...` (net/ipv4/fib_trie.c, fib_route_seq_show).
fn default_v4(line: &str) -> Option<String> {
    let columns: Vec<&str> = line.split_whitespace().collect();
    let zero = |at: usize| {
        columns
            .get(at)
            .and_then(|text| u32::from_str_radix(text, 16).ok())
            == Some(0)
    };
    (zero(1) && zero(7)).then(|| columns.first().copied().map(str::to_owned))?
}

/// `destination prefix source prefix next metric refs use flags device` (net/ipv6/ip6_fib.c, ipv6_route_seq_show).
fn default_v6(line: &str) -> Option<String> {
    let columns: Vec<&str> = line.split_whitespace().collect();
    let destination = u128::from_str_radix(columns.first()?, 16).ok()?;
    (destination == 0 && *columns.get(1)? == "00")
        .then(|| columns.last().copied().map(str::to_owned))?
}

/// The bytes of an address as netlink has them.
pub(crate) fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => bytes
            .first_chunk::<4>()
            .map(|bytes| Ipv4Addr::from(*bytes).into()),
        16 => bytes
            .first_chunk::<16>()
            .map(|bytes| Ipv6Addr::from(*bytes).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::scene::{Scene, link};

    fn roots(v4: &str, v6: &str) -> (tempfile::TempDir, Roots) {
        let dir = tempfile::tempdir().expect("a directory");
        let net = dir.path().join("net");
        std::fs::create_dir_all(&net).expect("made");
        std::fs::write(net.join("route"), v4).expect("written");
        std::fs::write(net.join("ipv6_route"), v6).expect("written");
        let roots = Roots {
            proc: dir.path().into(),
            sys: "/nonexistent".into(),
        };
        (dir, roots)
    }

    const ROUTES: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\n\
        br0\t00000000\t0100A8C0\t0003\t0\t0\t0\t00000000\t0\n\
        veth0\t0000A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\n";

    #[test]
    fn the_default_routes_device_and_its_ports_are_the_operators() {
        let (_dir, roots) = roots(ROUTES, "");
        let host = Scene::healthy().now;
        let found = operators_devices(&roots, &host, None);
        assert_eq!(found, ["br0", "eth0", "vnet0"].map(str::to_owned).into());
    }

    #[test]
    fn links_below_links_count_and_ipv6_too() {
        let v6 = format!(
            "{} 00 {} 00 {} 00000400 1 0 00000003 vlan7\n",
            "0".repeat(32),
            "0".repeat(32),
            "0".repeat(32)
        );
        let (_dir, roots) = roots("", &v6);
        let mut scene = Scene::healthy();
        scene.add(Device {
            lower: Some(2),
            ..link(9, "vlan7", "vlan")
        });
        let found = operators_devices(&roots, &scene.now, None);
        assert_eq!(found, ["eth0", "vlan7"].map(str::to_owned).into());
    }

    #[test]
    fn the_servers_address_is_the_third_word() {
        assert_eq!(
            server_address("192.0.2.9 5 192.0.2.1 22"),
            "192.0.2.1".parse().ok()
        );
        assert_eq!(
            server_address("fe80::2%eth0 5 fe80::1%eth0 22"),
            "fe80::1".parse().ok()
        );
        assert_eq!(
            server_address("::ffff:192.0.2.9 5 ::ffff:192.0.2.1 22"),
            "192.0.2.1".parse().ok()
        );
        assert_eq!(server_address("nonsense"), None);
    }
}
