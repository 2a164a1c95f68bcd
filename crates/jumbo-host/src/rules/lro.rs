//! Large receive offload: lossy, and therefore wrong wherever packets travel on.

mod lro001;
mod lro002;
mod lro003;
mod lro004;
mod lro005;
mod lro006;

family!("lro": lro001 lro002 lro003 lro004 lro005 lro006);

use crate::snapshot::{Device, Snapshot};

/// Bonds and VLANs on the way up; more are not stacked in practice.
const LEVELS_MAX: usize = 4;

/// The bridge or virtual switch a device's packets reach, directly or through a bond, team or VLAN.
pub(super) fn bridge_above<'a>(host: &'a Snapshot, device: &'a Device) -> Option<&'a Device> {
    let mut level: Vec<&Device> = vec![device];
    for _ in 0..LEVELS_MAX {
        let uppers: Vec<&Device> = level
            .iter()
            .flat_map(|device| host.uppers(device))
            .collect();
        if let Some(bridge) = uppers.iter().find(|upper| is_bridge(upper)) {
            return Some(bridge);
        }
        level = uppers;
    }
    None
}

fn is_bridge(device: &Device) -> bool {
    matches!(device.kind.as_str(), "bridge" | "openvswitch")
}
