//! Ours against the `ethtool` program's own output, field by field, on every device: of namespaces made here, and of
//! the namespace the tests run in.

use std::collections::BTreeMap;
use std::process::Command;

use jumbo_host::collect::{Roots, collect};
use jumbo_host::datum::Datum;
use jumbo_host::snapshot::{Device, Snapshot};
use jumbo_lab::ns::{NetNs, check_tun};
use jumbo_lab::skip;
use jumbo_lab::tap::{Tap, TapOffloads, TapSpec};

use super::{Result, ip, snapshot, veth};

/// What the program prints; None when it refuses.
fn ethtool(ns: &NetNs, flag: &str, device: &str) -> Result<Option<String>> {
    let output = ns.run(|| Command::new("ethtool").args([flag, device]).output())?;
    let output = output.map_err(|_| skip("no ethtool (apt install ethtool)"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(output.status.success().then_some(text))
}

/// `name: number`, with the section it stands in; `n/a` has no number.
fn fields(text: &str) -> BTreeMap<(bool, String), Option<u32>> {
    let mut current = false;
    let mut fields = BTreeMap::new();
    for line in text.lines() {
        current |= line.starts_with("Current");
        if let Some((name, value)) = line.split_once(':') {
            fields.insert(
                (current, name.trim().to_lowercase()),
                value.trim().parse().ok(),
            );
        }
    }
    fields
}

/// How many values were compared.
#[derive(Debug, Default)]
struct Count {
    values: u32,
    refusals: u32,
}

impl Count {
    /// A question the program asks too: both get numbers, or both get nothing.
    fn compare<T: Copy>(
        &mut self,
        (device, flag): (&str, &str),
        ours: &Datum<Option<T>>,
        theirs: Option<String>,
        rows: &[(bool, &str, fn(&T) -> Option<u32>)],
    ) -> Result {
        let ours = *ours.get()?;
        let Some(text) = &theirs else {
            assert!(
                ours.is_none(),
                "{device}: ethtool {flag} refuses, ours does not"
            );
            self.refusals += 1;
            return Ok(());
        };
        let ours = ours
            .unwrap_or_else(|| panic!("{device}: ours has nothing, ethtool {flag} says\n{text}"));
        let fields = fields(text);
        for (current, name, value) in rows {
            let theirs = fields
                .get(&(*current, (*name).to_owned()))
                .copied()
                .flatten();
            assert_eq!(
                value(&ours).unwrap_or(0),
                theirs.unwrap_or(0),
                "{device}: ethtool {flag}: {name}\n{text}"
            );
            self.values += 1;
        }
        Ok(())
    }
}

fn compare(ns: &NetNs, host: &Snapshot, count: &mut Count) -> Result {
    for device in &host.devices {
        let name = device.name.as_str();
        count.compare(
            (name, "-l"),
            &device.channels,
            ethtool(ns, "-l", name)?,
            &[
                (false, "rx", |channels| Some(channels.rx_max)),
                (false, "tx", |channels| Some(channels.tx_max)),
                (false, "combined", |channels| Some(channels.combined_max)),
                (true, "rx", |channels| Some(channels.rx)),
                (true, "tx", |channels| Some(channels.tx)),
                (true, "combined", |channels| Some(channels.combined)),
            ],
        )?;
        count.compare(
            (name, "-g"),
            &device.rings,
            ethtool(ns, "-g", name)?,
            &[
                (false, "rx", |rings| Some(rings.rx_max)),
                (false, "tx", |rings| Some(rings.tx_max)),
                (true, "rx", |rings| Some(rings.rx)),
                (true, "tx", |rings| Some(rings.tx)),
            ],
        )?;
        count.compare(
            (name, "-c"),
            &device.coalesce,
            ethtool(ns, "-c", name)?,
            &[
                (false, "rx-usecs", |coalesce| coalesce.rx_usecs),
                (false, "rx-frames", |coalesce| coalesce.rx_max_frames),
                (false, "tx-usecs", |coalesce| coalesce.tx_usecs),
            ],
        )?;
        adaptive(device, ethtool(ns, "-c", name)?);
        indirection(device, ethtool(ns, "-x", name)?, count)?;
    }
    Ok(())
}

/// `Adaptive RX: off  TX: off`, or `n/a`.
fn adaptive(device: &Device, text: Option<String>) {
    let ours = device
        .coalesce
        .ok()
        .copied()
        .flatten()
        .and_then(|coalesce| coalesce.adaptive_rx);
    let line = text.as_deref().and_then(|text| {
        text.lines()
            .find_map(|line| line.strip_prefix("Adaptive RX: "))
    });
    let theirs = line.and_then(|line| match line.split_whitespace().next() {
        Some("on") => Some(true),
        Some("off") => Some(false),
        _ => None,
    });
    assert_eq!(ours, theirs, "{}", device.name);
}

/// Rows of `  8:      0     1     2 ...`.
fn indirection(device: &Device, text: Option<String>, count: &mut Count) -> Result {
    let ours = device
        .rss
        .get()?
        .as_ref()
        .map(|rss| rss.indirection.clone())
        .unwrap_or_default();
    let rows = text
        .iter()
        .flat_map(|text| text.lines())
        .filter_map(|line| {
            let (bucket, queues) = line.split_once(':')?;
            bucket.trim().parse::<u32>().ok()?;
            Some(
                queues
                    .split_whitespace()
                    .filter_map(|queue| queue.parse().ok())
                    .collect::<Vec<u32>>(),
            )
        });
    let theirs: Vec<u32> = rows.flatten().collect();
    assert_eq!(ours, theirs, "{}: ethtool -x", device.name);
    count.values += 1;
    Ok(())
}

pub(super) fn queues_rings_and_moderation_agree_with_the_ethtool_program() -> Result {
    check_tun().map_err(skip)?;
    let ns = veth()?;
    let _tap = Tap::create(&ns, &TapSpec::new("t0", TapOffloads::TSO))?;
    ns.links()?.add_bridge("br0")?;
    ip(&ns, "link add vx0 type vxlan id 7 dstport 4789 dev v0")?;
    let mut count = Count::default();
    compare(&ns, &snapshot(&ns)?, &mut count)?;
    compare(&NetNs::here()?, &collect(&Roots::default())?, &mut count)?;
    assert!(count.values >= 20 && count.refusals >= 5, "{count:?}");
    Ok(())
}
