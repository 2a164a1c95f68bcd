//! The XDP program, assembled here: a few instructions need no compiler.
//!
//! It hands each packet to the AF_XDP socket of its receive queue, or to the host's
//! stack if there is none. With [`Pass::Host`] the stack keeps what is the host's:
//! packets to the interface's own address, ARP, and IPv6 neighbour solicitations.
//! Instruction set: RFC 9669.

use std::os::fd::{AsRawFd, BorrowedFd};

/// What the host's stack keeps.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default)]
pub enum Pass {
    /// Nothing.
    #[default]
    Nothing,
    /// What is for the host itself.
    Host,
}

/// One instruction, as the kernel reads it.
pub(super) type Instruction = u64;

const fn instruction(code: u8, dst: u8, src: u8, offset: i16, value: i32) -> Instruction {
    let registers = if cfg!(target_endian = "little") {
        dst | src << 4
    } else {
        dst << 4 | src
    };
    let [o0, o1] = offset.to_ne_bytes();
    let [v0, v1, v2, v3] = value.to_ne_bytes();
    u64::from_ne_bytes([code, registers, o0, o1, v0, v1, v2, v3])
}

const MOV_REGISTER: u8 = 0xbf;
const MOV_VALUE: u8 = 0xb7;
const ADD_VALUE: u8 = 0x07;
const LOAD_WORD: u8 = 0x61;
const LOAD_HALF: u8 = 0x69;
const LOAD_MAP: u8 = 0x18;
const JUMP_IF_GREATER: u8 = 0x2d;
const JUMP_IF_OTHER_VALUE: u8 = 0x55;
const JUMP_IF_VALUE: u8 = 0x15;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const AND_VALUE: u8 = 0x57;

const PSEUDO_MAP_FD: u8 = 1;
const REDIRECT_MAP: i32 = 51;
const XDP_PASS: i32 = 2;

/// `struct xdp_md`.
const DATA: i16 = 0;
const DATA_END: i16 = 4;
const RX_QUEUE: i16 = 16;

/// The program for a map of sockets.
pub(super) fn assemble(map: BorrowedFd<'_>, pass: Pass, mac: [u8; 6]) -> Vec<Instruction> {
    let mut program = match pass {
        Pass::Nothing => Vec::new(),
        Pass::Host => keep(mac),
    };
    program.extend([
        instruction(LOAD_WORD, 2, 1, RX_QUEUE, 0),
        instruction(LOAD_MAP, 1, PSEUDO_MAP_FD, 0, map.as_raw_fd()),
        instruction(0, 0, 0, 0, 0),
        instruction(MOV_VALUE, 3, 0, 0, XDP_PASS),
        instruction(CALL, 0, 0, 0, REDIRECT_MAP),
        instruction(EXIT, 0, 0, 0, 0),
    ]);
    program
}

/// Compares the first 14 bytes, in the machine's byte order as they are loaded.
fn keep(mac: [u8; 6]) -> Vec<Instruction> {
    let halves = [
        i32::from(u16::from_ne_bytes([mac[0], mac[1]])),
        i32::from(u16::from_ne_bytes([mac[2], mac[3]])),
        i32::from(u16::from_ne_bytes([mac[4], mac[5]])),
    ];
    let half = |bytes: [u8; 2]| i32::from(u16::from_ne_bytes(bytes));
    // 22 instructions; a jump counts those it leaves out.
    vec![
        instruction(LOAD_WORD, 2, 1, DATA, 0),
        instruction(LOAD_WORD, 3, 1, DATA_END, 0),
        instruction(MOV_REGISTER, 4, 2, 0, 0),
        instruction(ADD_VALUE, 4, 0, 0, 14),
        instruction(JUMP_IF_GREATER, 4, 3, 17, 0), // too short: to the socket
        instruction(LOAD_HALF, 5, 2, 12, 0),
        instruction(JUMP_IF_VALUE, 5, 0, 13, half([0x08, 0x06])), // ARP: keep
        instruction(LOAD_HALF, 5, 2, 0, 0),
        instruction(JUMP_IF_OTHER_VALUE, 5, 0, 5, half([0x33, 0x33])),
        instruction(LOAD_HALF, 5, 2, 2, 0),
        instruction(AND_VALUE, 5, 0, 0, half([0xff, 0x00])),
        instruction(JUMP_IF_VALUE, 5, 0, 8, half([0xff, 0x00])), // solicited node: keep
        instruction(MOV_VALUE, 5, 0, 0, 0),
        instruction(JUMP_IF_VALUE, 5, 0, 8, 0), // other multicast: to the socket
        instruction(JUMP_IF_OTHER_VALUE, 5, 0, 7, halves[0]),
        instruction(LOAD_HALF, 5, 2, 2, 0),
        instruction(JUMP_IF_OTHER_VALUE, 5, 0, 5, halves[1]),
        instruction(LOAD_HALF, 5, 2, 4, 0),
        instruction(JUMP_IF_OTHER_VALUE, 5, 0, 3, halves[2]),
        instruction(MOV_VALUE, 0, 0, 0, 0),
        instruction(MOV_VALUE, 0, 0, 0, XDP_PASS), // keep
        instruction(EXIT, 0, 0, 0, 0),
    ]
}
