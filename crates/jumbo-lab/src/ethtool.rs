//! A link's offloads, as `ethtool -k` and `-K` show and set them, and the
//! coalescing knobs of its NAPI in sysfs.

use std::fs;
use std::io;
use std::os::fd::AsFd;

use crate::error::{Doing, Error, Result};
use crate::link::Links;
use crate::ns::NetNs;
use crate::sys::ethtool as sys;

/// A group of features that ethtool switches together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Offload {
    /// Verify checksums on receive (`rx`).
    RxChecksum,
    /// Leave checksums undone on send (`tx`).
    TxChecksum,
    /// Send from scattered memory (`sg`).
    ScatterGather,
    /// Leave TCP super-packets unsegmented (`tso`), IPv4, IPv6 and ECN.
    Tso,
    /// Segment in software, late (`gso`).
    Gso,
    /// Coalesce on receive (`gro`).
    Gro,
    /// Leave UDP super-packets unsegmented (`tx-udp-segmentation`).
    UdpSegmentation,
}

/// Commands that read and set one value. Source: include/uapi/linux/ethtool.h.
fn commands(offload: Offload) -> Option<(u32, u32)> {
    match offload {
        Offload::RxChecksum => Some((0x14, 0x15)),
        Offload::TxChecksum => Some((0x16, 0x17)),
        Offload::ScatterGather => Some((0x18, 0x19)),
        Offload::Tso => Some((0x1e, 0x1f)),
        Offload::Gso => Some((0x23, 0x24)),
        Offload::Gro => Some((0x2b, 0x2c)),
        // Younger than the commands; it has only its feature bit.
        Offload::UdpSegmentation => None,
    }
}

const UDP_SEGMENTATION: &str = "tx-udp-segmentation";

impl Links {
    /// Whether the offload is on.
    pub fn offload(&self, name: &str, offload: Offload) -> Result<bool> {
        match commands(offload) {
            Some((get, _)) => sys::get_value(self.as_fd(), name, get)
                .map(|value| value != 0)
                .doing(|| format!("read {offload:?} of {name}")),
            None => self.feature(name, UDP_SEGMENTATION),
        }
    }

    /// Turns the offload on or off, and reads back that it is so: the kernel
    /// silently keeps what depends on something else (TSO without checksum).
    pub fn set_offload(&self, name: &str, offload: Offload, on: bool) -> Result<()> {
        match commands(offload) {
            Some((_, set)) => sys::set_value(self.as_fd(), name, set, on.into())
                .doing(|| format!("set {offload:?} of {name} to {on}"))?,
            None => return self.set_feature(name, UDP_SEGMENTATION, on),
        }
        kept(self.offload(name, offload)?, on, || {
            format!("set {offload:?} of {name} to {on}")
        })
    }

    /// Whether the feature `ethtool -k` lists under `feature` is active.
    pub fn feature(&self, name: &str, feature: &str) -> Result<bool> {
        let bit = self.feature_bit(name, feature)?;
        sys::feature_active(self.as_fd(), name, bit).doing(|| format!("read {feature} of {name}"))
    }

    /// Turns one feature on or off, and reads back that it is so.
    pub fn set_feature(&self, name: &str, feature: &str, on: bool) -> Result<()> {
        let what = || format!("set {feature} of {name} to {on}");
        let bit = self.feature_bit(name, feature)?;
        sys::set_feature(self.as_fd(), name, bit, on).doing(what)?;
        kept(self.feature(name, feature)?, on, what)
    }

    fn feature_bit(&self, name: &str, feature: &str) -> Result<usize> {
        let names = sys::feature_names(self.as_fd(), name).doing(|| "list features")?;
        let bit = names
            .iter()
            .position(|n| n == feature)
            .ok_or(io::ErrorKind::NotFound);
        bit.doing(|| format!("find feature {feature}"))
    }
}

fn kept(is: bool, wanted: bool, what: impl FnOnce() -> String) -> Result<()> {
    if is == wanted {
        return Ok(());
    }
    let source = io::Error::new(io::ErrorKind::Unsupported, "the kernel kept the old value");
    Err(Error::System {
        what: what(),
        source,
    })
}

/// How long the kernel's GRO may hold packets on a link without traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NapiHold {
    /// `gro_flush_timeout`: time until held packets are flushed.
    pub gro_flush_timeout_ns: u64,
    /// `napi_defer_hard_irqs`: empty polls before interrupts come back.
    pub napi_defer_hard_irqs: u32,
}

impl NapiHold {
    /// Reads the values of link `name` in `ns`.
    pub fn read(ns: &NetNs, name: &str) -> Result<Self> {
        let read = |key: &str| -> io::Result<u64> {
            let text = fs::read_to_string(knob(name, key))?;
            text.trim()
                .parse()
                .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
        };
        ns.run_with_sysfs(|| {
            Ok(Self {
                gro_flush_timeout_ns: read("gro_flush_timeout")?,
                napi_defer_hard_irqs: read("napi_defer_hard_irqs")? as u32,
            })
        })?
        .map_err(|e: io::Error| e)
        .doing(|| format!("read the NAPI knobs of {name}"))
    }

    /// Writes the values to link `name` in `ns`.
    pub fn write(self, ns: &NetNs, name: &str) -> Result<()> {
        let write = |key: &str, value: u64| fs::write(knob(name, key), value.to_string());
        ns.run_with_sysfs(|| {
            write("gro_flush_timeout", self.gro_flush_timeout_ns)?;
            write("napi_defer_hard_irqs", self.napi_defer_hard_irqs.into())
        })?
        .doing(|| format!("write the NAPI knobs of {name}"))
    }
}

fn knob(name: &str, key: &str) -> String {
    format!("/sys/class/net/{name}/{key}")
}
