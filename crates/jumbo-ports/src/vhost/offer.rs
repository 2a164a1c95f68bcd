//! What a port offers its front end, and the configuration space that says so.

use super::feature::{self, protocol};

/// Queue pairs of a port: the index in SET_VRING_KICK has eight bits.
pub const QUEUE_PAIRS_MAX: u16 = 128;
/// Bytes of `struct virtio_net_config` (virtio 1.3 section 5.1.4).
pub const CONFIG_LEN: usize = 24;
/// Where the MTU stands in it.
const CONFIG_MTU_AT: usize = 10;
/// VIRTIO_NET_S_LINK_UP.
const LINK_UP: u16 = 1;
/// Speed and duplex unknown (virtio 1.3 section 5.1.4.1).
const SPEED_UNKNOWN: u32 = 0xFFFF_FFFF;
const DUPLEX_UNKNOWN: u8 = 0xFF;

/// What a port offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Virtio feature bits and [`feature::LOG_ALL`], as masks. [`feature::PROTOCOL_FEATURES`] is added.
    pub features: u64,
    /// Of [`protocol::ALL`].
    pub protocol_features: u64,
    /// 1 to [`QUEUE_PAIRS_MAX`].
    pub queue_pairs: u16,
    /// The port's MTU: told in the configuration space, and the most a front end may set.
    pub mtu: u16,
    /// The address in the configuration space; zeros where the front end decides.
    pub mac: [u8; 6],
}

impl Offer {
    /// The same with what is possible: no IOMMU, no unknown protocol feature, at least one queue pair.
    pub(super) fn checked(mut self) -> Self {
        self.features &= !feature::ACCESS_PLATFORM;
        self.features |= feature::PROTOCOL_FEATURES;
        self.protocol_features &= protocol::ALL;
        self.queue_pairs = self.queue_pairs.clamp(1, QUEUE_PAIRS_MAX);
        self
    }

    /// Rings of all pairs.
    pub fn rings(&self) -> usize {
        2 * usize::from(self.queue_pairs)
    }

    /// `struct virtio_net_config`, little endian.
    pub(super) fn config(&self) -> [u8; CONFIG_LEN] {
        let mut bytes = Vec::with_capacity(CONFIG_LEN);
        bytes.extend(self.mac);
        bytes.extend(LINK_UP.to_le_bytes());
        bytes.extend(self.queue_pairs.to_le_bytes());
        bytes.extend(self.mtu.to_le_bytes());
        bytes.extend(SPEED_UNKNOWN.to_le_bytes());
        bytes.push(DUPLEX_UNKNOWN);
        // No RSS: key size, table length, hash types.
        bytes.resize(CONFIG_LEN, 0);
        let mut config = [0; CONFIG_LEN];
        config.copy_from_slice(&bytes);
        config
    }
}

/// Puts an MTU into a configuration space.
pub(super) fn set_config_mtu(config: &mut [u8; CONFIG_LEN], mtu: u16) {
    config[CONFIG_MTU_AT..CONFIG_MTU_AT + 2].copy_from_slice(&mtu.to_le_bytes());
}
