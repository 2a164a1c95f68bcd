//! Makes a snapshot: asks the kernel once for everything the rules read.
//!
//! Nothing here needs privileges; what an ordinary user may not see (file descriptors of other users, for the owner of
//! a TAP) is unknown. Nothing here fails as a whole either, except when links cannot be listed: a datum that cannot be
//! read is unknown, with the reason.

mod ethtool;
mod files;
mod links;
mod machine;
mod netdev;
mod owners;
mod sysfs;

use std::io;
use std::path::PathBuf;

use crate::datum::Datum;
use crate::snapshot::{Device, Snapshot, VERSION};
use files::Files;

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
