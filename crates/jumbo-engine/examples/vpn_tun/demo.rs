//! Two hosts in namespaces of their own, the tunnel between them, and the kernel's TCP through it.

use std::hash::{DefaultHasher, Hasher};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use jumbo_lab::traffic::connect::{PATIENCE, connections};
use jumbo_lab::traffic::{BulkAmount, BulkSpec, Check, bulk};
use jumbo_lab::{Family, Host, veth_pair};

use crate::sys::open_tun;
use crate::tunnel::{MTU, Mode, Stats, Tunnel};

pub(crate) type Failed = Box<dyn std::error::Error + Send + Sync>;

/// What is compared.
pub(crate) const MODES: [(&str, Mode); 4] = [
    ("packet by packet", mode(false, false, false)),
    ("segmentation", mode(true, false, false)),
    ("segmentation and coalescing", mode(true, true, false)),
    ("the same, GSO writes refused", mode(true, true, true)),
];

const fn mode(segment: bool, coalesce: bool, refuse: bool) -> Mode {
    Mode {
        segment,
        coalesce,
        refuse,
    }
}

/// How one mode did.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) gbit_per_s: f64,
    /// Of the side that sends, and of the one that receives.
    pub(crate) stats: [Stats; 2],
    /// Whether all that arrived was what was sent.
    pub(crate) intact: bool,
}

/// Every mode in turn: bulk TCP for so long, then a transfer whose hash is compared, over both IP versions.
/// The process must be in a namespace of its own (`jumbo_lab::ns::enter`).
pub(crate) fn run(duration: Duration) -> Result<Vec<Row>, Failed> {
    MODES
        .iter()
        .map(|(name, mode)| row(name, *mode, duration))
        .collect()
}

fn row(name: &'static str, mode: Mode, duration: Duration) -> Result<Row, Failed> {
    let (a, b) = veth_pair("eth0")?;
    let stop = Arc::new(AtomicBool::new(false));
    let ends = [
        (start(&a, &b, mode, &stop)?, inside(&a, 1)?),
        (start(&b, &a, mode, &stop)?, inside(&b, 2)?),
    ];
    let [(one, inner_a), (two, inner_b)] = ends;
    let outcome = traffic(&inner_a, &inner_b, duration);
    stop.store(true, Relaxed);
    let stats = [finished(one)?, finished(two)?];
    let (gbit_per_s, intact) = outcome?;
    Ok(Row {
        name,
        gbit_per_s,
        stats,
        intact,
    })
}

type End = JoinHandle<std::io::Result<Stats>>;

fn finished(end: End) -> Result<Stats, Failed> {
    Ok(end.join().map_err(|_| "an end panicked")??)
}

const PORT: u16 = 51820;

/// The end of the tunnel at `host`; the other is at `peer`.
fn start(host: &Host, peer: &Host, mode: Mode, stop: &Arc<AtomicBool>) -> Result<End, Failed> {
    let (tun, socket) = host.ns.run(|| -> std::io::Result<_> {
        Ok((
            open_tun("tun0", mode.segment)?,
            UdpSocket::bind((host.v4, PORT))?,
        ))
    })??;
    socket.connect((peer.v4, PORT))?;
    let stop = stop.clone();
    let tunnel = Tunnel::new(tun, socket, mode);
    Ok(host.ns.spawn("tunnel", move || tunnel.run(&stop))?)
}

/// The same host with the addresses that it has in the tunnel.
fn inside(host: &Host, number: u8) -> Result<Host, Failed> {
    let inner = Host {
        ns: host.ns.clone(),
        v4: Ipv4Addr::new(10, 9, 0, number),
        v6: Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, number.into()),
    };
    inner.links()?.set_mtu("tun0", MTU as u32)?;
    inner.plug("tun0")?;
    Ok(inner)
}

fn traffic(a: &Host, b: &Host, duration: Duration) -> Result<(f64, bool), Failed> {
    let spec = BulkSpec {
        amount: BulkAmount::Time(duration),
        check: Check::OutsideWindows,
        ..BulkSpec::default()
    };
    let report = bulk(a, b, &spec)?;
    let mut intact = report.intact == Some(true);
    for family in [Family::V4, Family::V6] {
        intact &= hashes_agree(a, b, family)?;
    }
    Ok((report.gbit_per_s(), intact))
}

/// Bytes of the transfer that is hashed.
const HASHED: usize = 8 << 20;

/// Sends bytes that do not repeat and compares their hash with that of what arrived.
fn hashes_agree(a: &Host, b: &Host, family: Family) -> Result<bool, Failed> {
    let pairs = connections(a, b, family, 1)?;
    let (mut from, mut to) = pairs.into_iter().next().ok_or("no connection")?;
    to.set_read_timeout(Some(PATIENCE))?;
    from.set_write_timeout(Some(PATIENCE))?;
    let sender = std::thread::spawn(move || -> std::io::Result<u64> {
        let mut hasher = DefaultHasher::new();
        let words = (0..HASHED as u64 / 8).map(|i| i.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        from.write_all(&bytes)?;
        from.shutdown(Shutdown::Write)?;
        hasher.write(&bytes);
        Ok(hasher.finish())
    });
    let mut bytes = Vec::with_capacity(HASHED);
    to.read_to_end(&mut bytes)?;
    let mut hasher = DefaultHasher::new();
    hasher.write(&bytes);
    let sent = sender.join().map_err(|_| "the sender panicked")??;
    Ok(bytes.len() == HASHED && sent == hasher.finish())
}
