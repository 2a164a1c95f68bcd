//! What an interface's own settings mean for a port on it: the link as it was found in, sentences out.

use jumbo_host::snapshot::{Device, XdpMode};

/// How an interface is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Packet,
    Xdp,
}

/// A setting that damages or loses what passes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Harm {
    pub(super) what: String,
    pub(super) way_out: String,
}

impl Harm {
    fn switch_off(found: &Device, feature: &str, word: &str, what: &str) -> Option<Self> {
        let features = found.features.ok()?;
        let state = features.get(feature);
        let name = &found.name;
        let way_out = match (state.fixed, feature) {
            (true, "rx-gro-hw") => format!("it cannot be switched off here: use packet:{name}"),
            (true, _) => "it cannot be switched off here".to_owned(),
            _ => format!("`ethtool -K {name} {word} off`"),
        };
        state.active.then(|| Self {
            what: format!(
                "{what} at `{name}` is on: {}",
                WHY[usize::from(feature == "rx-gro-hw")]
            ),
            way_out,
        })
    }
}

/// Why LRO, and why hardware GRO below XDP. A driver that knows better refuses them itself (rules LRO001 and XDP001 of
/// `jumbo check` have the sources).
const WHY: [&str; 2] = [
    "what it merges has lost the originals' headers and cannot be forwarded as it was sent",
    "it merges packets before XDP sees them, which then have lost their segment size, or the driver refuses XDP",
];

/// What must not be so when the interface is opened.
pub(super) fn harms(found: &Device, way: Way) -> Vec<Harm> {
    let lro = Harm::switch_off(found, "rx-lro", "lro", "large receive offload (LRO)");
    let gro_hw = (way == Way::Xdp)
        .then(|| Harm::switch_off(found, "rx-gro-hw", "rx-gro-hw", "hardware GRO"))
        .flatten();
    lro.into_iter().chain(gro_hw).collect()
}

/// What the operator should know of a port that was opened on the interface as it was `found`. `native` is whether an
/// XDP program of ours runs in the driver.
pub(super) fn notes(found: &Device, way: Way, native: bool) -> Vec<String> {
    let name = &found.name;
    let mut notes = Vec::new();
    if way == Way::Packet && found.xdp != XdpMode::None {
        notes.push(format!(
            "warning: an XDP program is on `{name}`: what it takes never gets here. Who put it there: `bpftool net`"
        ));
    }
    if way == Way::Xdp && found.kind == "veth" && native {
        notes.push(format!(
            "note: while XDP is on `{name}`, the other end of the veth sends no super-packets; packet:{name} lets them pass"
        ));
    }
    if way == Way::Xdp {
        notes.extend(lost_tags(found));
    }
    if way == Way::Xdp && !native {
        notes.push(format!(
            "warning: generic XDP loses the segment size of super-packets: switch GRO off here and TSO and GSO at the sender (`ethtool -K {name} gro off`), or use packet:{name}"
        ));
    }
    notes
}

/// A VLAN tag beside the bytes is nowhere XDP could see it (Linux 6.18 `drivers/net/veth.c` `veth_xdp_rcv_skb`; a NIC's
/// driver has it in the receive descriptor).
fn lost_tags(found: &Device) -> Option<String> {
    let name = &found.name;
    if found.kind == "veth" {
        return Some(format!(
            "note: VLAN tags that the other end of `{name}` leaves to its interface are lost before XDP: if it sends any, `ethtool -K DEVICE txvlan off` there"
        ));
    }
    let features = found.features.ok()?;
    features.active("rx-vlan-hw-parse").then(|| {
        format!(
            "warning: `{name}` takes VLAN tags off before XDP, and they are lost: `ethtool -K {name} rxvlan off` if there are any"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use jumbo_host::datum::Datum;
    use jumbo_host::snapshot::Features;

    /// Receive features as `ethtool -k` prints them of an X520 (ixgbe), a ConnectX-5 (mlx5_core) and a virtio NIC
    /// whose host cannot switch its offloads off.
    const IXGBE: &str =
        r#"{"rx-checksum": "on", "rx-gro": "on", "rx-lro": "on", "rx-gro-hw": "off [fixed]"}"#;
    const MLX5: &str =
        r#"{"rx-checksum": "on", "rx-gro": "on", "rx-lro": "off", "rx-gro-hw": "on"}"#;
    const VIRTIO: &str = r#"{"rx-checksum": "on [fixed]", "rx-gro": "on", "rx-lro": "off [fixed]", "rx-gro-hw": "on [fixed]"}"#;
    /// A macvlan that was asked for LRO, which the link below it does not have.
    const MACVLAN: &str = r#"{"rx-gro": "on", "rx-lro": "off [requested on]"}"#;

    fn device(features: &str) -> Device {
        let features: Features = serde_json::from_str(features).expect("features");
        Device {
            name: "eth0".into(),
            kind: "nic".into(),
            features: Datum::known(features, "ethtool -k eth0"),
            ..Device::default()
        }
    }

    fn ways_out(features: &str, way: Way) -> Vec<String> {
        let harms = harms(&device(features), way);
        harms.into_iter().map(|harm| harm.way_out).collect()
    }

    #[test]
    fn lro_is_harmful_to_every_kind() {
        for way in [Way::Packet, Way::Xdp] {
            assert_eq!(ways_out(IXGBE, way), ["`ethtool -K eth0 lro off`"]);
        }
        let harm = &harms(&device(IXGBE), Way::Packet)[0];
        assert!(harm.what.contains("cannot be forwarded"), "{}", harm.what);
    }

    #[test]
    fn hardware_gro_is_harmful_below_xdp_only() {
        assert!(ways_out(MLX5, Way::Packet).is_empty());
        assert_eq!(
            ways_out(MLX5, Way::Xdp),
            ["`ethtool -K eth0 rx-gro-hw off`"]
        );
        let fixed = ["it cannot be switched off here: use packet:eth0"];
        assert_eq!(ways_out(VIRTIO, Way::Xdp), fixed);
    }

    #[test]
    fn what_is_not_active_does_no_harm() {
        for way in [Way::Packet, Way::Xdp] {
            assert!(ways_out(MACVLAN, way).is_empty());
            assert!(ways_out("{}", way).is_empty());
        }
        let unknown = Device {
            features: Datum::unknown("no answer"),
            ..device("{}")
        };
        assert!(harms(&unknown, Way::Xdp).is_empty());
    }

    #[test]
    fn tags_that_xdp_cannot_see_are_said() {
        let nic = device(r#"{"rx-vlan-hw-parse": "on"}"#);
        let fix = "`ethtool -K eth0 rxvlan off`";
        for native in [true, false] {
            assert!(notes(&nic, Way::Xdp, native)[0].contains(fix));
        }
        assert!(notes(&nic, Way::Packet, false).is_empty());
        let off = device(r#"{"rx-vlan-hw-parse": "off"}"#);
        assert!(notes(&off, Way::Xdp, true).is_empty());
    }

    #[test]
    fn notes_are_of_what_is_so() {
        let veth = Device {
            kind: "veth".into(),
            ..device("{}")
        };
        let words = |found: &Device, way, native| notes(found, way, native).join("\n");
        assert_eq!(words(&veth, Way::Packet, false), "");
        assert!(words(&veth, Way::Xdp, true).contains("sends no super-packets"));
        assert!(words(&veth, Way::Xdp, false).contains("`ethtool -K eth0 gro off`"));
        assert_eq!(words(&device("{}"), Way::Xdp, true), "");
        let taken = Device {
            xdp: XdpMode::Native,
            ..veth
        };
        assert!(words(&taken, Way::Packet, false).contains("never gets here"));
    }
}
