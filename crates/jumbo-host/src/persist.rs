//! Plans as files for the tools that set up the network at boot. Nothing is installed here.
//!
//! Each tool has words for some settings; the rest goes into a udev rule or a sysctl.d file, which every host has, and
//! what no file can say (interrupts, threads, whose numbers change with each boot) stands in a comment.
//!
//! Sources: systemd.link(5), sysctl.d(5), udev(7), nm-settings-keyfile(5), the nmstate schema of `EthtoolConfig`,
//! tuned's network plugin (tuned/plugins/plugin_net.py).

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::change::{Moderation, Setting, Side, Step, Value};

/// A tool that sets up the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// systemd-udevd's .link files.
    SystemdLink,
    /// NetworkManager's keyfiles.
    NetworkManager,
    /// nmstate's desired state.
    Nmstate,
    /// udev rules.
    Udev,
    /// A profile of tuned.
    Tuned,
}

/// A file to install.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Where it belongs.
    pub path: String,
    /// What stands in it.
    pub text: String,
}

/// The files for these steps; together they say every step, or say in a comment that they cannot.
pub fn files(steps: &[Step], backend: Backend) -> Vec<File> {
    let (own, rest): (Vec<&Step>, Vec<&Step>) =
        steps.iter().partition(|step| word(backend, step).is_some());
    let mut files = match backend {
        Backend::SystemdLink => per_device(&own, link),
        Backend::NetworkManager => per_device(&own, keyfile),
        Backend::Nmstate if own.is_empty() => Vec::new(),
        Backend::Nmstate => vec![nmstate(&own)],
        Backend::Tuned => vec![tuned(&own)],
        Backend::Udev => Vec::new(),
    };
    files.extend(udev(&rest));
    files.extend(sysctls(&rest));
    files.extend(remarks(&rest));
    files
}

/// The tool's own words for a step; None where it has none.
fn word(backend: Backend, step: &Step) -> Option<String> {
    match backend {
        Backend::SystemdLink => link_word(step),
        Backend::NetworkManager => keyfile_word(step),
        Backend::Nmstate => nmstate_word(step).map(|(_, word)| word),
        Backend::Tuned => tuned_word(step).map(|(_, word)| word),
        Backend::Udev => None,
    }
}

fn by_device<'a>(steps: &[&'a Step]) -> BTreeMap<&'a str, Vec<&'a Step>> {
    let mut devices: BTreeMap<&str, Vec<&Step>> = BTreeMap::new();
    for step in steps {
        let name = step.setting.device().unwrap_or_default();
        devices.entry(name).or_default().push(step);
    }
    devices
}

fn per_device(steps: &[&Step], file: fn(&str, &[&Step]) -> File) -> Vec<File> {
    let devices = by_device(steps);
    devices
        .iter()
        .map(|(name, steps)| file(name, steps))
        .collect()
}

fn on(value: &Value) -> Option<bool> {
    match value {
        Value::Feature(feature) => Some(feature.wanted),
        Value::Flag(flag) => Some(*flag),
        _ => None,
    }
}

fn yes_no(value: &Value) -> &'static str {
    if on(value) == Some(true) { "yes" } else { "no" }
}

fn link_word(step: &Step) -> Option<String> {
    let (key, value) = match &step.setting {
        Setting::Feature { name, .. } => (link_feature(name)?, yes_no(&step.new).to_owned()),
        Setting::Coalesce { knob, .. } => match knob {
            Moderation::RxUsecs => ("RxCoalesceSec", format!("{}us", step.new)),
            Moderation::RxFrames => ("RxMaxCoalescedFrames", step.new.to_string()),
            Moderation::AdaptiveRx => ("UseAdaptiveRxCoalesce", yes_no(&step.new).to_owned()),
        },
        Setting::Ring { side, .. } => (
            pair(*side, "RxBufferSize", "TxBufferSize", ""),
            step.new.to_string(),
        ),
        Setting::Channels { side, .. } => {
            let key = pair(*side, "RxChannels", "TxChannels", "CombinedChannels");
            (key, step.new.to_string())
        }
        Setting::Mtu { .. } => ("MTUBytes", step.new.to_string()),
        Setting::TxQueueLen { .. } => ("TransmitQueueLength", step.new.to_string()),
        _ => return None,
    };
    Some(format!("{key}={value}"))
}

fn link_feature(name: &str) -> Option<&'static str> {
    Some(match name {
        "rx-checksum" => "ReceiveChecksumOffload",
        "tx-generic-segmentation" => "GenericSegmentationOffload",
        "tx-tcp-segmentation" => "TCPSegmentationOffload",
        "tx-tcp6-segmentation" => "TCP6SegmentationOffload",
        "rx-gro" => "GenericReceiveOffload",
        "rx-gro-hw" => "GenericReceiveOffloadHardware",
        "rx-lro" => "LargeReceiveOffload",
        _ => return None,
    })
}

fn pair<T>(side: Side, rx: T, tx: T, combined: T) -> T {
    match side {
        Side::Rx => rx,
        Side::Tx => tx,
        Side::Combined => combined,
    }
}

/// The first .link file that matches is the only one that is used, so the naming of 99-default.link is repeated.
fn link(name: &str, steps: &[&Step]) -> File {
    let lines: Vec<String> = steps.iter().filter_map(|step| link_word(step)).collect();
    File {
        path: format!("/etc/systemd/network/10-jumbo-{name}.link"),
        text: format!(
            "[Match]\nOriginalName={name}\n\n[Link]\nNamePolicy=keep kernel database onboard slot path\nAlternativeNamesPolicy=database onboard slot path mac\nMACAddressPolicy=persistent\n{}\n",
            lines.join("\n")
        ),
    }
}

fn keyfile_word(step: &Step) -> Option<String> {
    let number = |key: &str| Some(format!("{key}={}", step.new));
    match &step.setting {
        Setting::Feature { name, .. } => {
            let name = match name.as_str() {
                "rx-gro" => "gro",
                "rx-lro" => "lro",
                "rx-checksum" => "rx",
                "rx-hashing" => "rxhash",
                "tx-generic-segmentation" => "gso",
                // A group under the one name it has.
                "tx-scatter-gather" => "sg",
                other => other,
            };
            Some(format!("feature-{name}={}", on(&step.new)?))
        }
        Setting::Coalesce { knob, .. } => match knob {
            Moderation::RxUsecs => number("coalesce-rx-usecs"),
            Moderation::RxFrames => number("coalesce-rx-frames"),
            Moderation::AdaptiveRx => {
                Some(format!("coalesce-adaptive-rx={}", u8::from(on(&step.new)?)))
            }
        },
        Setting::Ring { side, .. } => number(&format!("ring-{}", side.word())),
        Setting::Channels { side, .. } => number(&format!("channels-{}", side.word())),
        Setting::Mtu { .. } => number("mtu"),
        _ => None,
    }
}

fn keyfile(name: &str, steps: &[&Step]) -> File {
    let (link, ethtool): (Vec<&Step>, Vec<&Step>) = steps
        .iter()
        .partition(|step| matches!(step.setting, Setting::Mtu { .. }));
    let mut text = format!("# add these sections to the connection of {name}\n");
    for (section, steps) in [("ethernet", link), ("ethtool", ethtool)] {
        if !steps.is_empty() {
            let lines: Vec<String> = steps.iter().filter_map(|step| keyfile_word(step)).collect();
            let _ = writeln!(text, "[{section}]\n{}", lines.join("\n"));
        }
    }
    File {
        path: format!("/etc/NetworkManager/system-connections/{name}.nmconnection"),
        text,
    }
}

/// The section and the line in it.
fn nmstate_word(step: &Step) -> Option<(&'static str, String)> {
    Some(match &step.setting {
        Setting::Feature { name, .. } => ("feature", format!("{name}: {}", on(&step.new)?)),
        Setting::Coalesce { knob, .. } => match knob {
            Moderation::RxUsecs => ("coalesce", format!("rx-usecs: {}", step.new)),
            Moderation::RxFrames => ("coalesce", format!("rx-frames: {}", step.new)),
            Moderation::AdaptiveRx => ("coalesce", format!("adaptive-rx: {}", on(&step.new)?)),
        },
        Setting::Ring { side, .. } => ("ring", format!("{}: {}", side.word(), step.new)),
        Setting::Mtu { .. } => ("", format!("mtu: {}", step.new)),
        _ => return None,
    })
}

fn nmstate(steps: &[&Step]) -> File {
    let mut text = String::from("interfaces:\n");
    for (name, steps) in by_device(steps) {
        let _ = writeln!(text, "- name: {name}");
        let mut sections: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (section, line) in steps.into_iter().filter_map(nmstate_word) {
            sections.entry(section).or_default().push(line);
        }
        for line in sections.remove("").unwrap_or_default() {
            let _ = writeln!(text, "  {line}");
        }
        if !sections.is_empty() {
            text.push_str("  ethtool:\n");
        }
        for (section, lines) in sections {
            let _ = writeln!(text, "    {section}:\n      {}", lines.join("\n      "));
        }
    }
    File {
        path: "jumbo.yml (nmstatectl apply jumbo.yml)".into(),
        text,
    }
}

fn tuned_word(step: &Step) -> Option<(&'static str, String)> {
    Some(match &step.setting {
        Setting::Feature { name, .. } => {
            let state = if on(&step.new)? { "on" } else { "off" };
            ("features", format!("{name} {state}"))
        }
        Setting::Coalesce { knob, .. } => match knob {
            Moderation::RxUsecs => ("coalesce", format!("rx-usecs {}", step.new)),
            Moderation::RxFrames => ("coalesce", format!("rx-frames {}", step.new)),
            Moderation::AdaptiveRx => ("coalesce", format!("adaptive-rx {}", step.new)),
        },
        Setting::Ring { side, .. } => ("ring", format!("{} {}", side.word(), step.new)),
        Setting::Channels { side, .. } => ("channels", format!("{} {}", side.word(), step.new)),
        Setting::Mtu { .. } => ("mtu", step.new.to_string()),
        Setting::TxQueueLen { .. } => ("txqueuelen", step.new.to_string()),
        Setting::Sysctl { name } => ("sysctl", format!("{name}={}", step.new)),
        _ => return None,
    })
}

fn tuned(steps: &[&Step]) -> File {
    let mut text = String::from("[main]\nsummary=Network offloads as jumbo planned them\n");
    for (name, steps) in by_device(steps) {
        let mut keys: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (key, word) in steps.into_iter().filter_map(tuned_word) {
            keys.entry(key).or_default().push(word);
        }
        for line in keys.remove("sysctl").into_iter() {
            let _ = writeln!(text, "\n[sysctl]\n{}", line.join("\n"));
        }
        if !keys.is_empty() {
            let _ = writeln!(text, "\n[net_{name}]\ntype=net\ndevices={name}");
        }
        for (key, words) in keys {
            let _ = writeln!(text, "{key}={}", words.join(" "));
        }
    }
    File {
        path: "/etc/tuned/profiles/jumbo/tuned.conf".into(),
        text,
    }
}

/// Settings of devices as commands that run when the device appears.
fn udev(steps: &[&Step]) -> Option<File> {
    let lasting = steps
        .iter()
        .filter(|step| step.setting.device().is_some() && !is_volatile(&step.setting));
    let mut text = String::new();
    for step in lasting {
        let name = step.setting.device().unwrap_or_default();
        let _ = writeln!(
            text,
            "ACTION==\"add\", SUBSYSTEM==\"net\", NAME==\"{name}\", {}",
            udev_run(step)
        );
    }
    (!text.is_empty()).then(|| File {
        path: "/etc/udev/rules.d/81-jumbo.rules".into(),
        text,
    })
}

/// udev writes files below the device itself; everything else is a program, with its whole path.
fn udev_run(step: &Step) -> String {
    let device = step.setting.device().unwrap_or_default();
    let base = format!("/sys/class/net/{device}/");
    let file = step.setting.file();
    match file.as_deref().and_then(|file| file.strip_prefix(&base)) {
        Some(attribute) => {
            let text = crate::change::file_text(&step.new);
            format!("ATTR{{{attribute}}}=\"{text}\"")
        }
        None => {
            let commands = step.command.split("; ").map(|command| {
                let (program, rest) = command.split_once(' ').unwrap_or((command, ""));
                format!("RUN+=\"/usr/sbin/{program} {rest}\"")
            });
            commands.collect::<Vec<_>>().join(", ")
        }
    }
}

fn sysctls(steps: &[&Step]) -> Option<File> {
    let lines = steps.iter().filter_map(|step| match &step.setting {
        Setting::Sysctl { name } => Some(format!("{name} = {}\n", step.new)),
        _ => None,
    });
    let text: String = lines.collect();
    (!text.is_empty()).then(|| File {
        path: "/etc/sysctl.d/81-jumbo.conf".into(),
        text,
    })
}

/// Numbers that are others after the next boot.
fn is_volatile(setting: &Setting) -> bool {
    matches!(
        setting,
        Setting::Napi { .. } | Setting::NapiThread { .. } | Setting::IrqAffinity { .. }
    )
}

fn remarks(steps: &[&Step]) -> Option<File> {
    let volatile = steps.iter().filter(|step| is_volatile(&step.setting));
    let text: String = volatile
        .map(|step| format!("# {}\n", step.command))
        .collect();
    (!text.is_empty()).then(|| File {
        path: "cannot be kept in a file: its number changes with each boot".into(),
        text,
    })
}

#[cfg(test)]
mod tests;
