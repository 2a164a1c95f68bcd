//! A VPN's packet loop: a TUN on one side, UDP on the other, the engine between.
//!
//! `cargo run --release -p jumbo-engine --example vpn_tun -- --demo [SECONDS]` makes two hosts in namespaces
//! of their own, puts the tunnel between them and sends the kernel's TCP through it, with and without the
//! engine's help. Needs namespaces and `/dev/net/tun`, no more.
//!
//! `vpn_tun TUN LOCAL:PORT PEER:PORT` runs one end for real, but for the encryption: that is an exclusive or,
//! a place-holder for the cipher of a real VPN.

#![deny(unsafe_code)]

mod demo;
mod sys;
mod tunnel;

use std::net::UdpSocket;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use jumbo_lab::ns::{self, Needs};

use crate::demo::{Failed, Row};
use crate::tunnel::{Mode, Tunnel};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        ["--demo"] => demo(1.0),
        ["--demo", seconds] => match seconds.parse() {
            Ok(seconds) => demo(seconds),
            Err(_) => Err("--demo SECONDS wants a number".into()),
        },
        [tun, local, peer] => one_end(tun, local, peer),
        _ => Err("usage: vpn_tun --demo [SECONDS] | vpn_tun TUN LOCAL:PORT PEER:PORT".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("vpn_tun: {why}");
            ExitCode::FAILURE
        }
    }
}

fn one_end(tun: &str, local: &str, peer: &str) -> Result<(), Failed> {
    let mode = Mode {
        segment: true,
        coalesce: true,
        refuse: false,
    };
    let socket = UdpSocket::bind(local)?;
    socket.connect(peer)?;
    Tunnel::new(sys::open_tun(tun, mode.segment)?, socket, mode).run(&AtomicBool::new(false))?;
    Ok(())
}

fn demo(seconds: f64) -> Result<(), Failed> {
    ns::enter(Needs::Taps).map_err(|refused| refused.to_string())?;
    let rows = demo::run(Duration::try_from_secs_f64(seconds)?)?;
    println!(
        "{:30} {:>7} {:>9} {:>9} {:>8}",
        "", "Gbit/s", "seg/read", "seg/write", "content"
    );
    for row in &rows {
        println!("{}", line(row));
    }
    match rows.iter().all(|row| row.intact) {
        true => Ok(()),
        false => Err("something arrived that was not sent".into()),
    }
}

fn line(row: &Row) -> String {
    let [sender, receiver] = row.stats;
    let per = |count: u64, of: u64| count as f64 / of.max(1) as f64;
    format!(
        "{:30} {:7.2} {:9.1} {:9.1} {:>8}",
        row.name,
        row.gbit_per_s,
        per(sender.datagrams_sent, sender.reads),
        per(receiver.datagrams_received, receiver.writes),
        if row.intact { "right" } else { "WRONG" },
    )
}
