//! # TAP001 tx-checksum-not-active
//!
//! ## What it checks
//! A TAP with a reader whose feature `tx-checksum-ip-generic` is not active: the kernel finishes
//! every checksum before the machine behind the TAP gets the packet. The rule names who is to
//! blame: the reader that never asked (GuestNotRequested), the reader that asked for nothing
//! (GuestDeclined), the reader without virtio-net headers (NoVnetHeader), or somebody on this host
//! (HostAdminDisabled).
//!
//! ## Why it matters
//! Without it segmentation offload falls too, because a super-packet has no finished checksum. The
//! guest gets a 64 KB burst as dozens of MTU-sized packets, and receive coalescing in the guest
//! (Windows RSC, Linux GRO_HW) has no hardware to come from: `Get-NetAdapterRsc` reports
//! `Capability`.
//!
//! ## How to see it by hand
//! `ethtool -k TAP | grep tx-checksum-ip-generic`. The line `tx-checksumming` is a summary that
//! ethtool computes; do not go by it.
//!
//! ## Remedy
//! The reader decides, with the ioctl TUNSETOFFLOAD. In QEMU `csum=on guest_csum=on` (the default);
//! in Windows "Offload Rx checksum" and RSC on. `ethtool -K` on the host works only until the guest
//! initialises its driver again.
//!
//! ## When to ignore it
//! A guest that runs XDP on its virtio-net device turns these offloads off on purpose.
//!
//! ## Since kernel
//! 2.6.26 (TUNSETOFFLOAD).
//!
//! ## Sources
//! drivers/net/tun.c (set_offload, tun_net_fix_features), Linux 6.18; virtio 1.3, section 5.1.3,
//! VIRTIO_NET_F_GUEST_CSUM; Microsoft, MSFT_NetAdapterRscSettingData.

use super::super::prelude::*;
use crate::tap::{CHECKSUM, FailureReason, verdict};

pub(super) const RULE: Rule = Rule {
    id: "TAP001",
    name: "tx-checksum-not-active",
    severity: Severity::Error,
    layer: Layer::Hypervisor,
    class: Class::Peer,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

fn check(device: &Device, _: &View<'_>) -> Outcome {
    if !device.is_tap() {
        return NOT_APPLICABLE;
    }
    let features = device.features.get()?;
    match verdict(device)? {
        // Nobody is there to get packets: TAP006.
        FailureReason::NoReader => NOT_APPLICABLE,
        _ if features.active(CHECKSUM) => PASS,
        reason => {
            let fault = Fault::new(format!(
                "the machine behind {} gets every packet with a finished checksum, hence no super-packets: {}",
                device.name,
                reason.words()
            ))
            .saw_feature(device, CHECKSUM)
            .saw_feature(device, crate::tap::TSO4);
            let (qemu, guest) = (
                "csum=on,guest_csum=on,guest_tso4=on,guest_tso6=on",
                "ethtool -K DEV rx on",
            );
            super::blame(fault, device, reason, qemu, guest).found()
        }
    }
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        scene.feature("vnet0", CHECKSUM, crate::snapshot::Feature::DENIED);
    },
    with: &[],
    silent: |scene| {
        scene.feature("vnet0", CHECKSUM, crate::snapshot::Feature::DENIED);
        scene.device("vnet0").carrier = false;
    },
};
