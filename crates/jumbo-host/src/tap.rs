//! What the feature flags of a TAP say about who is to blame, and receive coalescing in the terms Windows uses.
//!
//! A TAP's transmit features are what its reader, a hypervisor on behalf of its guest, asked for with TUNSETOFFLOAD.
//! The kernel keeps, for each feature, what is active and what is wanted, and who acted last can be read from the two
//! (drivers/net/tun.c, set_offload: active is what the ioctl named, and wanted is overwritten with it; before the first
//! ioctl all is wanted and nothing active; `ethtool -K` changes wanted alone, and what depends on a feature falls with
//! it while still wanted).
//!
//! | checksum active/wanted | TSO active/wanted | reader | verdict |
//! |---|---|---|---|
//! | on/on | on/on | yes | NoFailure |
//! | any | any | no | NoReader |
//! | any | any | yes, without virtio-net header | NoVnetHeader |
//! | off/on | off/on | yes | GuestNotRequested |
//! | off/off | off/off | yes | GuestDeclined |
//! | off/off | off/on | yes | HostAdminDisabled |
//! | on/on | off/off, or of one family only | yes | PartialNegotiation |

use serde::Serialize;

use crate::datum::Unknown;
use crate::snapshot::{Device, Feature};

/// The feature a guest's partial checksums need.
pub const CHECKSUM: &str = "tx-checksum-ip-generic";
/// The feature for TCP super-packets over IPv4.
pub const TSO4: &str = "tx-tcp-segmentation";
/// The feature for TCP super-packets over IPv6.
pub const TSO6: &str = "tx-tcp6-segmentation";

/// Why receive coalescing does not work for the machine behind a port. The words are those of Windows
/// (MSFT_NetAdapterRscSettingData, `IPv4FailureReason`) where it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum FailureReason {
    /// It works.
    NoFailure,
    /// Nothing has the TAP open.
    NoReader,
    /// The reader opened the TAP without IFF_VNET_HDR: it cannot be told of unfinished work.
    NoVnetHeader,
    /// The reader has never asked for offloads: a guest that still boots, or a hypervisor with offloads off.
    GuestNotRequested,
    /// Hypervisor or guest asked for no offloads.
    GuestDeclined,
    /// Somebody on this host turned them off with `ethtool -K`.
    HostAdminDisabled,
    /// Only a part was asked for, or somebody turned a part off; the flags do not tell the two apart.
    PartialNegotiation,
    /// The device's own setting is off.
    NicPropertyDisabled,
    /// The driver cannot do it.
    Capability,
}

impl FailureReason {
    /// One clause for people.
    pub fn words(self) -> &'static str {
        match self {
            Self::NoFailure => "works",
            Self::NoReader => "nothing has the TAP open",
            Self::NoVnetHeader => "its reader opened it without virtio-net headers (IFF_VNET_HDR)",
            Self::GuestNotRequested => "its reader has never asked for offloads",
            Self::GuestDeclined => "its reader asked for no offloads",
            Self::HostAdminDisabled => "somebody on this host turned it off with ethtool -K",
            Self::PartialNegotiation => {
                "its reader asked for a part only, or somebody turned a part off"
            }
            Self::NicPropertyDisabled => "the device's own setting is off",
            Self::Capability => "the driver cannot do it",
        }
    }
}

/// Who is to blame for the state of a TAP.
///
/// Unknown when the features could not be read.
pub fn verdict(device: &Device) -> Result<FailureReason, Unknown> {
    let features = device.features.get()?;
    let [checksum, tso4, tso6] = [CHECKSUM, TSO4, TSO6].map(|name| features.get(name));
    let header = device.tun.as_ref().is_some_and(|tun| tun.vnet_header);
    Ok(match () {
        // Attaching a queue sets the carrier and detaching the last clears it, also of a link that is down.
        () if !device.carrier => FailureReason::NoReader,
        () if !header => FailureReason::NoVnetHeader,
        () if checksum.active && tso4.active && tso6.active => FailureReason::NoFailure,
        () if checksum.active => FailureReason::PartialNegotiation,
        () if checksum == Feature::DENIED => FailureReason::GuestNotRequested,
        () if tso4.wanted || tso6.wanted => FailureReason::HostAdminDisabled,
        () => FailureReason::GuestDeclined,
    })
}

/// Receive coalescing of one family at one device, in the terms of `Get-NetAdapterRsc`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReceiveCoalescing {
    /// `ipv4` or `ipv6`.
    pub family: &'static str,
    /// The device can do it.
    pub supported: bool,
    /// It is asked for.
    pub enabled: bool,
    /// It happens.
    pub operational: bool,
    /// Why it does not.
    pub failure_reason: FailureReason,
}

/// Both families of a TAP (what its guest gets) or a NIC (what this host gets); nothing for other devices, or where the
/// features could not be read.
pub fn receive_coalescing(device: &Device) -> Vec<ReceiveCoalescing> {
    if device.is_tap() {
        let family = |family, feature| of_tap(device, family, feature);
        [family("ipv4", TSO4), family("ipv6", TSO6)]
            .into_iter()
            .flatten()
            .collect()
    } else if device.is_nic() {
        ["ipv4", "ipv6"]
            .into_iter()
            .filter_map(|family| of_nic(device, family))
            .collect()
    } else {
        Vec::new()
    }
}

fn of_tap(device: &Device, family: &'static str, feature: &str) -> Option<ReceiveCoalescing> {
    let features = device.features.ok()?;
    let (checksum, tso) = (features.get(CHECKSUM), features.get(feature));
    let verdict = verdict(device).ok()?;
    let blind = matches!(
        verdict,
        FailureReason::NoReader | FailureReason::NoVnetHeader
    );
    let operational = checksum.active && tso.active && !blind;
    Some(ReceiveCoalescing {
        family,
        supported: !tso.fixed,
        enabled: checksum.wanted && tso.wanted,
        operational,
        failure_reason: if operational {
            FailureReason::NoFailure
        } else {
            verdict
        },
    })
}

fn of_nic(device: &Device, family: &'static str) -> Option<ReceiveCoalescing> {
    let features = device.features.ok()?;
    let techniques = ["rx-gro", "rx-gro-hw", "rx-lro"].map(|name| features.get(name));
    let any = |of: fn(&Feature) -> bool| techniques.iter().any(of);
    let (supported, operational) = (any(|one| !one.fixed || one.active), any(|one| one.active));
    Some(ReceiveCoalescing {
        family,
        supported,
        enabled: any(|one| one.wanted),
        operational,
        failure_reason: match (supported, operational) {
            (_, true) => FailureReason::NoFailure,
            (true, false) => FailureReason::NicPropertyDisabled,
            (false, false) => FailureReason::Capability,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datum::Datum;
    use crate::snapshot::{Features, Tun};

    fn tap(checksum: Feature, tso4: Feature, tso6: Feature) -> Device {
        let features = [(CHECKSUM, checksum), (TSO4, tso4), (TSO6, tso6)];
        let features = features.map(|(name, state)| (name.to_owned(), state));
        Device {
            kind: "tun".into(),
            up: true,
            carrier: true,
            tun: Some(Tun {
                tap: true,
                vnet_header: true,
                ..Tun::default()
            }),
            features: Datum::known(Features(features.into()), "test"),
            ..Device::default()
        }
    }

    #[test]
    fn each_row_of_the_table_has_its_verdict() {
        use Feature as F;
        let rows = [
            ((F::ON, F::ON, F::ON), FailureReason::NoFailure),
            (
                (F::DENIED, F::DENIED, F::DENIED),
                FailureReason::GuestNotRequested,
            ),
            ((F::OFF, F::OFF, F::OFF), FailureReason::GuestDeclined),
            (
                (F::OFF, F::DENIED, F::DENIED),
                FailureReason::HostAdminDisabled,
            ),
            ((F::ON, F::OFF, F::OFF), FailureReason::PartialNegotiation),
            ((F::ON, F::ON, F::OFF), FailureReason::PartialNegotiation),
        ];
        for ((checksum, tso4, tso6), expected) in rows {
            assert_eq!(verdict(&tap(checksum, tso4, tso6)), Ok(expected));
        }
    }

    #[test]
    fn without_reader_or_header_the_flags_say_nothing() {
        let mut one = tap(Feature::ON, Feature::ON, Feature::ON);
        one.tun = Some(Tun {
            tap: true,
            ..Tun::default()
        });
        assert_eq!(verdict(&one), Ok(FailureReason::NoVnetHeader));
        one.carrier = false;
        assert_eq!(verdict(&one), Ok(FailureReason::NoReader));
        one.features = Datum::unknown("gone");
        assert!(verdict(&one).is_err());
    }

    #[test]
    fn families_are_told_apart() {
        let states = receive_coalescing(&tap(Feature::ON, Feature::ON, Feature::OFF));
        let operational: Vec<_> = states
            .iter()
            .map(|one| (one.family, one.operational))
            .collect();
        assert_eq!(operational, [("ipv4", true), ("ipv6", false)]);
        assert_eq!(states[1].failure_reason, FailureReason::PartialNegotiation);
    }
}
