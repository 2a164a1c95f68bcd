//! Builds the shim against the DPDK that pkg-config finds, and notes the peers' versions.
//!
//! `PEERS_PREFIX` is the root of another system to take DPDK from, such as a chroot.

use std::process::Command;

const LIBRARIES: [&str; 9] = [
    "rte_gro",
    "rte_gso",
    "rte_net",
    "rte_hash",
    "rte_mbuf",
    "rte_mempool",
    // A plugin: nothing refers to it, but the pools need it.
    "rte_mempool_ring",
    "rte_ring",
    "rte_eal",
];

fn main() {
    println!("cargo:rerun-if-changed=shim.c");
    println!("cargo:rerun-if-changed=Cargo.lock");
    println!("cargo:rerun-if-env-changed=PEERS_PREFIX");
    let prefix = std::env::var("PEERS_PREFIX").unwrap_or_default();
    shim(&prefix);
    link(&prefix);
    versions();
}

fn shim(prefix: &str) {
    let mut cc = cc::Build::new();
    cc.file("shim.c").opt_level(3).flag("-march=native");
    cc.flag("-include").flag("rte_config.h");
    for include in ["dpdk", "x86_64-linux-gnu/dpdk"] {
        // As system headers: their warnings are not ours.
        cc.flag("-isystem")
            .flag(format!("{prefix}/usr/include/{include}"));
    }
    cc.define("ALLOW_EXPERIMENTAL_API", None);
    cc.warnings(true).extra_warnings(true).compile("shim");
}

fn link(prefix: &str) {
    let folder = format!("{prefix}/usr/lib/x86_64-linux-gnu");
    println!("cargo:rustc-link-arg=-Wl,--no-as-needed");
    for library in LIBRARIES {
        // By full path: the folder of another system must not serve for anything else.
        println!("cargo:rustc-link-arg={folder}/lib{library}.so");
    }
    println!("cargo:rustc-link-arg=-Wl,--as-needed,--allow-shlib-undefined");
}

/// `PEERS_TUN_RS=2.8.16` and so on, from the lock file; `PEERS_CC` from the compiler.
fn versions() {
    let lock = std::fs::read_to_string("Cargo.lock").unwrap_or_default();
    let mut lines = lock.lines();
    while let Some(line) = lines.next() {
        let Some(name) = line.strip_prefix("name = ") else {
            continue;
        };
        let version = lines
            .next()
            .and_then(|line| line.strip_prefix("version = "));
        let key = name.trim_matches('"').to_uppercase().replace('-', "_");
        if let Some(version) = version {
            println!("cargo:rustc-env=PEERS_{key}={}", version.trim_matches('"'));
        }
    }
    let output = Command::new("cc").arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let text = text.unwrap_or_default();
    println!(
        "cargo:rustc-env=PEERS_CC={}",
        text.lines().next().unwrap_or("cc")
    );
}
