//! Feature bits the protocol itself cares about, as masks.

/// VHOST_F_LOG_ALL: writes to guest memory are logged (Linux `include/uapi/linux/vhost.h`).
pub const LOG_ALL: u64 = 1 << 26;
/// VHOST_USER_F_PROTOCOL_FEATURES (vhost-user, "Communication").
pub const PROTOCOL_FEATURES: u64 = 1 << 30;
/// VIRTIO_F_ACCESS_PLATFORM: addresses go through an IOMMU (virtio 1.3 section 6).
pub const ACCESS_PLATFORM: u64 = 1 << 33;
/// VIRTIO_F_RING_PACKED (virtio 1.3 section 6).
pub const RING_PACKED: u64 = 1 << 34;

// Feature bits of a network device (virtio 1.3 section 5.1.3), named from the guest's side: `HOST_*` is what we take
// from it, `GUEST_*` what it takes from us.
macro_rules! features {
    ($($(#[$doc:meta])* $name:ident = $bit:literal;)*) => {
        $($(#[$doc])* pub const $name: u64 = 1 << $bit;)*
    };
}

features! {
    /// Partial checksums from the guest.
    CSUM = 0;
    /// Partial or verified checksums to the guest.
    GUEST_CSUM = 1;
    /// The device tells its MTU.
    MTU = 3;
    /// TCP over IPv4 super-packets to the guest.
    GUEST_TSO4 = 7;
    /// TCP over IPv6 super-packets to the guest.
    GUEST_TSO6 = 8;
    /// Of those, ones with CWR.
    GUEST_ECN = 9;
    /// TCP over IPv4 super-packets from the guest.
    HOST_TSO4 = 11;
    /// TCP over IPv6 super-packets from the guest.
    HOST_TSO6 = 12;
    /// Of those, ones with CWR.
    HOST_ECN = 13;
    /// UDP datagrams from the guest that are still to be fragmented (drivers of old).
    HOST_UFO = 14;
    /// Packets to the guest may be spread over several buffers.
    MRG_RXBUF = 15;
    /// A control queue; the monitor serves it.
    CTRL_VQ = 17;
    /// The guest announces itself after a migration.
    GUEST_ANNOUNCE = 21;
    /// Several queue pairs.
    MQ = 22;
    /// Any layout of descriptors (legacy devices; later ones always).
    ANY_LAYOUT = 27;
    /// Tables of descriptors.
    INDIRECT_DESC = 28;
    /// Event indices.
    EVENT_IDX = 29;
    /// Virtio 1.0 or later.
    VERSION_1 = 32;
    /// Buffers are used in the order in which they were made available.
    IN_ORDER = 35;
    /// Single rings may be reset.
    RING_RESET = 40;
    /// UDP over IPv4 super-packets to the guest.
    GUEST_USO4 = 54;
    /// UDP over IPv6 super-packets to the guest.
    GUEST_USO6 = 55;
    /// UDP super-packets from the guest.
    HOST_USO = 56;
    /// The hash of each packet.
    HASH_REPORT = 57;
    /// How many segments a super-packet to the guest has.
    RSC_EXT = 61;
}

/// Protocol feature bits, as masks (vhost-user, "Protocol features").
pub mod protocol {
    /// GET_QUEUE_NUM.
    pub const MQ: u64 = 1 << 0;
    /// The dirty log comes as a file.
    pub const LOG_SHMFD: u64 = 1 << 1;
    /// SEND_RARP.
    pub const RARP: u64 = 1 << 2;
    /// Any request may ask for an acknowledgement.
    pub const REPLY_ACK: u64 = 1 << 3;
    /// NET_SET_MTU.
    pub const MTU: u64 = 1 << 4;
    /// SET_BACKEND_REQ_FD.
    pub const BACKEND_REQ: u64 = 1 << 5;
    /// GET_CONFIG and SET_CONFIG.
    pub const CONFIG: u64 = 1 << 9;
    /// GET_INFLIGHT_FD and SET_INFLIGHT_FD.
    pub const INFLIGHT_SHMFD: u64 = 1 << 12;
    /// RESET_DEVICE.
    pub const RESET_DEVICE: u64 = 1 << 13;
    /// Memory comes and goes region by region.
    pub const CONFIGURE_MEM_SLOTS: u64 = 1 << 15;
    /// GET_STATUS and SET_STATUS.
    pub const STATUS: u64 = 1 << 16;

    /// All that this back end knows.
    pub const ALL: u64 = MQ
        | LOG_SHMFD
        | RARP
        | REPLY_ACK
        | MTU
        | BACKEND_REQ
        | CONFIG
        | INFLIGHT_SHMFD
        | RESET_DEVICE
        | CONFIGURE_MEM_SLOTS
        | STATUS;

    /// What a network port best offers: QEMU keeps the configuration space to itself and warns about [`CONFIG`].
    pub const NET: u64 = ALL & !CONFIG;
}
