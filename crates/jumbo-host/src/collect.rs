//! Makes a snapshot: asks the kernel once for everything the rules read.
//!
//! Nothing here needs privileges; what an ordinary user may not see (file descriptors of other users, for the owner of
//! a TAP) is unknown. Nothing here fails as a whole either, except when links cannot be listed: a datum that cannot be
//! read is unknown, with the reason.

mod addresses;
mod ethtool;
mod files;
mod links;
mod machine;
mod netdev;
mod owners;
pub(crate) mod sampling;
mod sysfs;

use std::io;
use std::path::PathBuf;

use crate::change::Setting;
use crate::datum::Datum;
use crate::snapshot::{Device, Features, Snapshot, VERSION};
pub(crate) use addresses::holders as address_holders;
use files::Files;
pub use netdev::QueueCounters;

/// Where procfs and sysfs are. Netlink has no root: it always is the calling thread's namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    /// procfs.
    pub proc: PathBuf,
    /// sysfs.
    pub sys: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self {
            proc: "/proc".into(),
            sys: "/sys".into(),
        }
    }
}

/// The state of the calling thread's network namespace.
///
/// Errors when links cannot be listed: then there is nothing to say.
pub fn collect(roots: &Roots) -> io::Result<Snapshot> {
    let files = Files::new(roots);
    let mut devices = links::list()?;
    ethtool::fill(&mut devices);
    netdev::fill(&mut devices);
    let mut snapshot = machine::read(&files);
    for device in &mut devices {
        sysfs::fill(device, &files, &snapshot);
    }
    owners::fill(&mut devices, &files, &mut snapshot);
    snapshot.version = VERSION;
    snapshot.devices = devices;
    Ok(snapshot)
}

/// Reads again what one setting is made of, and little more: the snapshot has at most one device.
pub(crate) fn look(roots: &Roots, setting: &Setting) -> io::Result<Snapshot> {
    let files = Files::new(roots);
    let mut host = Snapshot::default();
    match setting {
        Setting::Sysctl { name } => {
            host.sysctls
                .insert(name.clone(), machine::sysctl(&files, name));
        }
        Setting::IrqAffinity { .. } => host.irqs = machine::irqs(&files),
        _ => host.devices = vec![look_at_device(&files, setting)?],
    }
    Ok(host)
}

fn look_at_device(files: &Files, setting: &Setting) -> io::Result<Device> {
    let mut device = device_of(setting.device().unwrap_or_default())?;
    match setting {
        Setting::Mtu { .. } | Setting::TxQueueLen { .. } | Setting::GroMaxSize { .. } => {}
        Setting::Napi { .. } | Setting::NapiThread { .. } => {
            let one = std::slice::from_mut(&mut device);
            netdev::fill(one);
            owners::napi_threads(&mut device, files);
        }
        _ if setting.file().is_some() => sysfs::fill(&mut device, files, &Snapshot::default()),
        _ => ethtool::fill_one(&mut device),
    }
    Ok(device)
}

fn device_of(name: &str) -> io::Result<Device> {
    let mut devices = links::list()?.into_iter();
    let gone = || {
        io::Error::new(
            io::ErrorKind::NotFound,
            format!("there is no device {name}"),
        )
    };
    devices.find(|device| device.name == name).ok_or_else(gone)
}

/// The interface index of a device.
pub(crate) fn index_of(name: &str) -> io::Result<u32> {
    device_of(name).map(|device| device.index)
}

/// Counters only: what changes by itself, and nothing that has to be asked per device.
pub(crate) fn counters(roots: &Roots) -> io::Result<sampling::Counters> {
    sampling::read(&Files::new(roots))
}

/// As much of a snapshot as it takes to say which interrupt is whose.
pub(crate) fn placement(roots: &Roots, links: &[Device]) -> Snapshot {
    let files = Files::new(roots);
    let mut cards: Vec<Device> = links.iter().filter(|link| link.is_nic()).cloned().collect();
    netdev::fill(&mut cards);
    let mut host = Snapshot {
        irqs: machine::irqs(&files),
        ..Snapshot::default()
    };
    for card in &mut cards {
        sysfs::fill(card, &files, &host);
    }
    host.devices = cards;
    host
}

/// The features of one device, as they are now.
pub(crate) fn features_of(index: u32) -> Option<Features> {
    ethtool::features_of(index)
}

/// Host name, boot and network namespace; empty where they cannot be read.
pub(crate) fn whereabouts(roots: &Roots) -> (String, String, String) {
    let files = Files::new(roots);
    let text = |path| files.proc(path).ok().cloned().unwrap_or_default();
    let namespace = files.proc_link("thread-self/ns/net");
    let namespace = namespace.ok().map(|path| path.display().to_string());
    (
        text("sys/kernel/hostname"),
        text("sys/kernel/random/boot_id"),
        namespace.unwrap_or_default(),
    )
}

/// A file of `/proc/net`, empty when it cannot be read.
pub(crate) fn net_file(roots: &Roots, name: &str) -> String {
    let text = Files::new(roots).proc(&format!("net/{name}"));
    text.ok().cloned().unwrap_or_default()
}

/// Sets a field of every device: from the answers where there is one, otherwise as `missing` says.
fn spread<T: Clone>(
    devices: &mut [Device],
    answers: io::Result<Vec<(u32, T)>>,
    source: &str,
    missing: impl Fn(&str) -> Datum<T>,
    field: impl Fn(&mut Device) -> &mut Datum<T>,
) {
    let answers = answers.map(|list| {
        list.into_iter()
            .collect::<std::collections::BTreeMap<_, _>>()
    });
    for device in devices {
        let place = format!("{source} {}", device.name);
        let datum = match &answers {
            Ok(known) => match known.get(&device.index) {
                Some(value) => Datum::known(value.clone(), place),
                None => missing(&place),
            },
            Err(error) => Datum::unknown(format_args!("{source}: {error}")),
        };
        *field(device) = datum;
    }
}
