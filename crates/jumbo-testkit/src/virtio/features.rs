//! Feature bits (virtio 1.3 sections 5.1.3 and 6) and vhost-user protocol features, and the header they lead to.

/// Virtio feature bits, as masks.
pub mod feature {
    macro_rules! bits {
        ($($(#[$doc:meta])* $name:ident = $bit:literal;)*) => {
            $($(#[$doc])* pub const $name: u64 = 1 << $bit;)*
        };
    }
    bits! {
        /// The device takes partial checksums.
        CSUM = 0;
        /// The driver takes partial checksums.
        GUEST_CSUM = 1;
        /// Offloads can be changed while running.
        CTRL_GUEST_OFFLOADS = 2;
        /// The device has an MTU.
        MTU = 3;
        /// The device has a MAC address.
        MAC = 5;
        /// The driver takes TCP super-packets over IPv4.
        GUEST_TSO4 = 7;
        /// The driver takes TCP super-packets over IPv6.
        GUEST_TSO6 = 8;
        /// The driver takes super-packets with ECN.
        GUEST_ECN = 9;
        /// The driver takes UDP packets to be fragmented.
        GUEST_UFO = 10;
        /// The device takes TCP super-packets over IPv4.
        HOST_TSO4 = 11;
        /// The device takes TCP super-packets over IPv6.
        HOST_TSO6 = 12;
        /// The device takes super-packets with ECN.
        HOST_ECN = 13;
        /// The device takes UDP packets to be fragmented.
        HOST_UFO = 14;
        /// A packet may fill several receive buffers.
        MRG_RXBUF = 15;
        /// The device has a status word.
        STATUS = 16;
        /// There is a control queue.
        CTRL_VQ = 17;
        /// The driver announces itself.
        GUEST_ANNOUNCE = 21;
        /// There are several queue pairs.
        MQ = 22;
        /// vhost: log every write (migration).
        LOG_ALL = 26;
        /// Descriptors may be laid out as one likes (legacy devices).
        ANY_LAYOUT = 27;
        /// A descriptor may refer to a table of descriptors.
        INDIRECT_DESC = 28;
        /// Notifications are asked for by index.
        EVENT_IDX = 29;
        /// vhost-user: there are protocol features.
        PROTOCOL_FEATURES = 30;
        /// A device after the standard.
        VERSION_1 = 32;
        /// Addresses go through an IOMMU.
        ACCESS_PLATFORM = 33;
        /// Rings are packed.
        RING_PACKED = 34;
        /// Buffers are used in the order they were made available.
        IN_ORDER = 35;
        /// A queue may be reset alone.
        RING_RESET = 40;
        /// The driver takes UDP super-packets over IPv4.
        GUEST_USO4 = 54;
        /// The driver takes UDP super-packets over IPv6.
        GUEST_USO6 = 55;
        /// The device takes UDP super-packets.
        HOST_USO = 56;
        /// Headers carry a hash.
        HASH_REPORT = 57;
        /// `hdr_len` from the driver is exact.
        GUEST_HDRLEN = 59;
        /// Receive side scaling by the device.
        RSS = 60;
        /// Coalesced packets say how many they stand for.
        RSC_EXT = 61;
    }
}

/// vhost-user protocol features, as masks (vhost-user specification, "Protocol features").
pub mod protocol {
    macro_rules! bits {
        ($($(#[$doc:meta])* $name:ident = $bit:literal;)*) => {
            $($(#[$doc])* pub const $name: u64 = 1 << $bit;)*
        };
    }
    bits! {
        /// Several queues.
        MQ = 0;
        /// The dirty log is a file.
        LOG_SHMFD = 1;
        /// The back end can announce a guest.
        RARP = 2;
        /// Any request can ask for a reply.
        REPLY_ACK = 3;
        /// The front end sets the MTU.
        MTU = 4;
        /// The back end can send requests.
        BACKEND_REQ = 5;
        /// The back end has the configuration space.
        CONFIG = 9;
        /// Requests of the back end carry files.
        BACKEND_SEND_FD = 10;
        /// The state of the rings lives in a shared file.
        INFLIGHT_SHMFD = 12;
        /// The device can be reset.
        RESET_DEVICE = 13;
        /// Regions come and go one by one.
        CONFIGURE_MEM_SLOTS = 15;
        /// The back end follows the device status.
        STATUS = 16;
    }
}

/// Length in bytes of the header before each packet under a set of features: 10 (legacy, no mergeable buffers), 12,
/// or 20 with the hash (virtio 1.3 section 5.1.6).
#[must_use]
pub fn header_len(features: u64) -> usize {
    if features & feature::HASH_REPORT != 0 {
        20
    } else if features & (feature::VERSION_1 | feature::MRG_RXBUF) != 0 {
        12
    } else {
        10
    }
}

/// Every way in which super-packets can reach the driver, with the checksum they imply.
pub const GUEST_OFFLOADS: u64 = feature::GUEST_CSUM
    | feature::GUEST_TSO4
    | feature::GUEST_TSO6
    | feature::GUEST_ECN
    | feature::GUEST_USO4
    | feature::GUEST_USO6;

/// Every way in which super-packets can reach the device, with the checksum they imply.
pub const HOST_OFFLOADS: u64 =
    feature::CSUM | feature::HOST_TSO4 | feature::HOST_TSO6 | feature::HOST_ECN | feature::HOST_USO;
