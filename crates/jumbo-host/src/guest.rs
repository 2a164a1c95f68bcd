//! What a guest shows of its own offloads, and on which side the cause is: the output of `Get-NetAdapterRsc |
//! ConvertTo-Json` from Windows, or of `ethtool -k` from Linux, pasted into a file.
//!
//! Source of the Windows terms: MSFT_NetAdapterRscSettingData and Get-NetAdapterRsc, learn.microsoft.com.

mod linux;
mod windows;

use serde::Serialize;

/// Who must act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// Nobody: it works.
    None,
    /// In the guest.
    Guest,
    /// On the host: its TAP, or the hypervisor's options.
    Host,
    /// The guest does not say enough.
    Unknown,
}

impl Side {
    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Self::None => "nobody must act",
            Self::Guest => "the guest must act",
            Self::Host => "the host must act",
            Self::Unknown => "not known who must act",
        }
    }
}

/// One thing the guest shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// The guest's name of the adapter, where it is shown.
    pub adapter: Option<String>,
    /// `receive_coalescing ipv4`, or the name of a feature.
    pub what: String,
    /// It works.
    pub operational: bool,
    /// The cause in the guest's own term.
    pub reason: String,
    /// Who must act.
    pub side: Side,
    /// What to do.
    pub remedy: String,
}

/// What a guest showed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Guest {
    /// `windows` or `linux`.
    pub system: &'static str,
    /// What it showed, in its order.
    pub lines: Vec<Line>,
}

impl Guest {
    /// Whether anything does not work that could.
    pub fn ill(&self) -> bool {
        self.lines.iter().any(|line| !line.operational)
    }
}

/// Neither of the two forms.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is neither Get-NetAdapterRsc | ConvertTo-Json nor ethtool -k: {0}")]
pub struct NoGuest(pub String);

/// Reads either form. PowerShell writes UTF-16 with a byte order mark.
pub fn read(bytes: &[u8]) -> Result<Guest, NoGuest> {
    let text = decoded(bytes);
    let text = text.trim_start_matches('\u{feff}').trim();
    match text.starts_with(['{', '[']) {
        true => windows::read(text),
        false => linux::read(text),
    }
}

fn decoded(bytes: &[u8]) -> String {
    let halves = |read: fn([u8; 2]) -> u16| {
        let words = bytes.get(2..).unwrap_or_default().chunks_exact(2);
        let words: Vec<u16> = words
            .filter_map(|two| two.first_chunk().copied())
            .map(read)
            .collect();
        String::from_utf16_lossy(&words)
    };
    match bytes {
        [0xff, 0xfe, ..] => halves(u16::from_le_bytes),
        [0xfe, 0xff, ..] => halves(u16::from_be_bytes),
        _ => String::from_utf8_lossy(bytes).into_owned(),
    }
}

#[cfg(test)]
mod tests;
