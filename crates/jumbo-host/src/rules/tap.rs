//! TAPs: what the machine behind one gets, and whose doing it is.

mod tap001;
mod tap002;
mod tap003;
mod tap004;
mod tap005;
mod tap006;
mod tap007;
mod tap008;
mod tap009;
mod tap010;
mod tap011;
mod tap012;
mod tap013;

family!("tap": tap001 tap002 tap003 tap004 tap005 tap006 tap007 tap008 tap009 tap010 tap011 tap012 tap013);

use super::framework::{Fault, Layer};
use crate::snapshot::Device;
use crate::tap::{CHECKSUM, FailureReason, TSO4, TSO6};

/// Adds to a missing offload who is to blame and what that side types.
fn blame(fault: Fault, device: &Device, reason: FailureReason, qemu: &str, guest: &str) -> Fault {
    let fault = fault.reason(format!("{reason:?}"));
    let owner = device.owners.ok().and_then(|owners| owners.first());
    let fault = match owner {
        Some(owner) => fault.saw(
            "/proc/*/fdinfo",
            format!("open in {}[{}]", owner.program, owner.pid),
        ),
        None => fault,
    };
    match reason {
        FailureReason::HostAdminDisabled => {
            fault
                .layer(Layer::Host)
                .turn_all(device, &[CHECKSUM, TSO4, TSO6], true)
        }
        FailureReason::GuestDeclined => fault
            .layer(Layer::Guest)
            .fix(format!("in the guest: {guest}"))
            .fix(format!(
                "QEMU: -device virtio-net-pci,{qemu}; libvirt: <driver><guest .../></driver>"
            )),
        FailureReason::NoVnetHeader => fault.layer(Layer::Hypervisor).fix(
            "QEMU: -netdev tap,vnet_hdr=on; a program of your own: TUNSETIFF with IFF_VNET_HDR",
        ),
        _ => fault.layer(Layer::Hypervisor).fix(format!(
            "QEMU: -device virtio-net-pci,{qemu}; a program of your own: TUNSETOFFLOAD"
        )),
    }
}
