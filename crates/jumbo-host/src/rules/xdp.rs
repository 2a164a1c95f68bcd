//! XDP, and what it excludes.

mod xdp001;
mod xdp002;
mod xdp003;

family!("xdp": xdp001 xdp002 xdp003);

/// NETDEV_XDP_ACT_BASIC: the driver runs programs natively (include/uapi/linux/netdev.h).
pub(super) const BASIC: u64 = 1;
/// Above it a packet does not fit in a page beside its headroom (veth: 3506, others near it).
pub(super) const PAGE_MTU_MAX: u32 = 3506;
