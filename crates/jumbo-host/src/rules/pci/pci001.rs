//! # PCI001 slot-slower-than-card
//!
//! ## What it checks
//! A network card runs on fewer PCI Express lanes, or at a lower speed per lane, than it could.
//!
//! ## Why it matters
//! Half the lanes are half the bytes per second, whatever the cable says.
//!
//! ## How to see it by hand
//! `cat /sys/class/net/DEV/device/{current,max}_link_{speed,width}`; `lspci -vv`, LnkSta against
//! LnkCap
//!
//! ## Remedy
//! Another slot, reseat the card, or the firmware's slot settings.
//!
//! ## When to ignore it
//! The slot still has room for the card's line rate; links also slow down to save power while idle.
//!
//! ## Since kernel
//! 4.13 (the files in sysfs).
//!
//! ## Sources
//! drivers/pci/pci-sysfs.c (current_link_speed_show), Linux 6.18.

use super::super::prelude::*;
#[cfg(test)]
fn link(lanes: u32) -> crate::snapshot::PciLink {
    crate::snapshot::PciLink {
        speed_gts: 8.0,
        lanes,
        speed_max_gts: 8.0,
        lanes_max: 8,
    }
}

pub(super) const RULE: Rule = Rule {
    id: "PCI001",
    name: "slot-slower-than-card",
    severity: Severity::Error,
    layer: Layer::Host,
    class: Class::Advice,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

fn check(device: &Device, _: &View<'_>) -> Outcome {
    let Some(link) = device.pci_link.get()? else {
        return NOT_APPLICABLE;
    };
    fault_if(
        link.lanes < link.lanes_max || link.speed_gts < link.speed_max_gts,
        || {
            Fault::new(format!(
                "the slot of {} is slower than the card",
                device.name
            ))
            .saw(
                device.pci_link.source(),
                format!(
                    "{} GT/s x{} of {} GT/s x{}",
                    link.speed_gts, link.lanes, link.speed_max_gts, link.lanes_max
                ),
            )
            .fix("another slot, reseat the card, or the firmware's slot settings")
        },
    )
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        scene.device("eth0").pci_link = crate::datum::Datum::known(Some(link(4)), "scene")
    },
    with: &[],
    silent: |scene| {
        scene.device("eth0").pci_link = crate::datum::Datum::known(Some(link(8)), "scene")
    },
};
