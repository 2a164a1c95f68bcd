//! Programs of a few instructions on a link's hooks: somebody else's XDP program,
//! and a VLAN tag on everything a host sends.
//!
//! Source: RFC 9669 (instructions), bpf-helpers(7), Linux 6.18 `net/core/dev.c`
//! `dev_xdp_attach`, `kernel/bpf/tcx.c`.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use crate::error::{Doing, Result};
use crate::ns::NetNs;
use crate::sys::bpf::{self, Kind};

/// Values of `enum bpf_attach_type`.
const BPF_XDP: u32 = 37;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;

const CALL_VLAN_PUSH: i32 = 18;
const CALL_VLAN_POP: i32 = 19;

/// Where an XDP program runs. The value is the flag of `IFLA_XDP_FLAGS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XdpHook {
    /// In the stack.
    Generic = 1 << 1,
    /// In the driver.
    Native = 1 << 2,
}

/// A program on a hook; it comes off when dropped.
#[derive(Debug)]
pub struct Attached {
    _files: Vec<OwnedFd>,
}

/// `dst = value`, `call function` and `exit`.
fn set(dst: u8, value: i32) -> u64 {
    instruction(0xb7, dst, value)
}

fn call(function: i32) -> u64 {
    instruction(0x85, 0, function)
}

fn exit() -> u64 {
    instruction(0x95, 0, 0)
}

fn instruction(code: u8, dst: u8, value: i32) -> u64 {
    let registers = if cfg!(target_endian = "little") {
        dst
    } else {
        dst << 4
    };
    let [a, b, c, d] = value.to_ne_bytes();
    u64::from_ne_bytes([code, registers, 0, 0, a, b, c, d])
}

/// An XDP program that passes everything on.
fn xdp_pass() -> Result<OwnedFd> {
    const XDP_PASS: i32 = 2;
    bpf::load(Kind::Xdp, &[set(0, XDP_PASS), exit()]).doing(|| "load an XDP program")
}

/// Puts an XDP program that passes everything on link `name`, by a link that holds
/// it there until dropped.
pub fn hold_xdp(ns: &NetNs, name: &str, hook: XdpHook) -> Result<Attached> {
    let index = ns.links()?.index(name)?;
    let program = xdp_pass()?;
    let link = ns.run(|| bpf::attach(program.as_fd(), index, BPF_XDP, hook as u32))?;
    let link = link.doing(|| format!("attach an XDP program to {name}"))?;
    Ok(Attached { _files: vec![link] })
}

/// The same by rtnetlink, as `ip link set NAME xdp` does: it stays when its maker ends.
pub fn leave_xdp(ns: &NetNs, name: &str, hook: XdpHook) -> Result<()> {
    let program = xdp_pass()?;
    ns.links()?.set_xdp(name, program.as_raw_fd(), hook as u32)
}

/// Whatever leaves by link `name` gets a VLAN tag, and what comes in loses one, as
/// with a VLAN device on top of it. Super-packets stay whole. Needs Linux 6.6.
pub fn tag_all(ns: &NetNs, name: &str, tpid: u16, tci: u16) -> Result<Attached> {
    let index = ns.links()?.index(name)?;
    // The helper wants the TPID in network byte order.
    let tpid = i32::from(tpid.to_be());
    let push = [
        set(2, tpid),
        set(3, tci.into()),
        call(CALL_VLAN_PUSH),
        set(0, 0),
        exit(),
    ];
    let pop = [call(CALL_VLAN_POP), set(0, 0), exit()];
    let mut files = Vec::new();
    for (hook, program) in [(BPF_TCX_EGRESS, &push[..]), (BPF_TCX_INGRESS, &pop[..])] {
        let program = bpf::load(Kind::SchedCls, program).doing(|| "load a tagging program")?;
        let link = ns.run(|| bpf::attach(program.as_fd(), index, hook, 0))?;
        files.push(link.doing(|| format!("attach a tagging program to {name}"))?);
    }
    Ok(Attached { _files: files })
}
