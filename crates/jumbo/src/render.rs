//! The same data as the JSON, as tables for people.

use std::fmt::Write as _;
use std::io::IsTerminal;

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};

use crate::control::{Ports, Status};
use crate::switch_api::{Capability, PortState, PortStatus, Snapshot, Traffic};

/// `jumbo status`.
pub(crate) fn status(status: &Status) -> String {
    let Status {
        version,
        pid,
        uptime_s,
        socket,
        switch,
    } = status;
    let mut text = format!(
        "jumbo {version}, pid {pid}, up {}, {} workers, {} addresses learned\ncontrol socket {socket}\n\n",
        duration(*uptime_s),
        switch.workers,
        switch.fdb_entries,
    );
    let _ = writeln!(text, "{}\n\n{}", overview(&switch.ports), books(switch));
    text
}

fn overview(ports: &[PortStatus]) -> Table {
    let mut table = table(&[
        "port",
        "kind",
        "device",
        "state",
        "mtu",
        "rx packets",
        "rx",
        "tx packets",
        "tx",
        "seg/tx",
    ]);
    align_right(&mut table, 4..10);
    for port in ports {
        table.add_row([
            port.name.clone(),
            port.kind.clone(),
            port.device.clone(),
            state(port.state).to_owned(),
            port.mtu.to_string(),
            count(port.rx.packets),
            bytes(port.rx.bytes),
            count(port.tx.packets),
            bytes(port.tx.bytes),
            format!("{:.1}", port.tx.segments_per_packet),
        ]);
    }
    table
}

/// Both sides of the equation, one line each.
fn books(switch: &Snapshot) -> String {
    let books = &switch.books;
    let line = |name: &str, parts: &[(&str, u64)]| {
        let parts: Vec<_> = parts
            .iter()
            .map(|(what, number)| format!("{what} {}", count(*number)))
            .collect();
        format!("{name}: {}\n", parts.join(" + "))
    };
    let came = [
        ("received", books.received),
        ("made by segmentation", books.made_by_segmentation),
        ("flood copies", books.flood_copies),
    ];
    let went = [
        ("sent", books.sent),
        ("absorbed by merging", books.absorbed_by_merging),
        ("dropped", books.dropped),
        ("resting", books.resting),
    ];
    let verdict = if books.balanced {
        "the books balance"
    } else {
        "the books do not balance at this moment"
    };
    format!("{}{}{verdict}", line("in ", &came), line("out", &went))
}

/// `jumbo ports`.
pub(crate) fn ports(ports: &Ports) -> String {
    let sections: Vec<_> = ports.ports.iter().map(port).collect();
    sections.join("\n")
}

fn port(port: &PortStatus) -> String {
    let mut text = format!(
        "{}: {} {}, {}, mtu {}\n{}\n",
        port.name,
        port.kind,
        port.device,
        state(port.state),
        port.mtu,
        traffic(port),
    );
    if !port.capabilities.is_empty() {
        let _ = writeln!(text, "{}", capabilities(&port.capabilities));
    }
    if !port.reasons.is_empty() {
        let _ = writeln!(text, "{}", reasons(port));
    }
    text
}

fn traffic(port: &PortStatus) -> Table {
    let mut table = table(&["", "packets", "bytes", "super-packets", "segments/packet"]);
    align_right(&mut table, 1..5);
    for (
        name,
        Traffic {
            packets,
            bytes,
            super_packets,
            segments_per_packet,
        },
    ) in [("rx", &port.rx), ("tx", &port.tx)]
    {
        table.add_row([
            name.to_owned(),
            count(*packets),
            count(*bytes),
            count(*super_packets),
            format!("{segments_per_packet:.1}"),
        ]);
    }
    table
}

fn capabilities(capabilities: &[Capability]) -> Table {
    let mut table = table(&["capability", "offered", "in use", "why not"]);
    for Capability {
        name,
        offered,
        in_use,
        why,
    } in capabilities
    {
        table.add_row([
            name,
            yes(*offered),
            yes(*in_use),
            why.as_deref().unwrap_or(""),
        ]);
    }
    table
}

fn reasons(port: &PortStatus) -> Table {
    let mut table = table(&["stage", "reason", "count", "meaning"]);
    align_right(&mut table, 2..3);
    for (stage, reasons) in &port.reasons {
        for (reason, seen) in reasons {
            table.add_row([stage.as_str(), reason, &count(seen.count), &seen.doc]);
        }
    }
    table
}

/// A table without lines but under its header, as wide as the terminal; unbounded where there is none.
fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(header.iter().map(Cell::new));
    let terminal = std::io::stdout()
        .is_terminal()
        .then(terminal_size::terminal_size)
        .flatten();
    if let Some((width, _)) = terminal {
        table
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(width.0);
    }
    table
}

fn align_right(table: &mut Table, columns: std::ops::Range<usize>) {
    for index in columns {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

fn state(state: PortState) -> &'static str {
    match state {
        PortState::Up => "up",
        PortState::Gone => "gone",
    }
}

fn yes(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

/// Digits in groups of three, by a thin apostrophe that copies well: 1'234'567.
fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push('\'');
        }
        text.push(digit);
    }
    text
}

/// Decimal units, as networks count: 1.5 MB is 1 500 000 bytes.
fn bytes(number: u64) -> String {
    let mut value = number as f64;
    for unit in ["B", "kB", "MB", "GB", "TB"] {
        if value < 1000.0 {
            let digits = if unit == "B" { 0 } else { 1 };
            return format!("{value:.digits$} {unit}");
        }
        value /= 1000.0;
    }
    format!("{value:.1} PB")
}

fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            [0, 999, 1000, 1_234_567].map(count),
            ["0", "999", "1'000", "1'234'567"]
        );
        assert_eq!(
            [0, 999, 1500, 2_500_000].map(bytes),
            ["0 B", "999 B", "1.5 kB", "2.5 MB"]
        );
        assert_eq!(
            [59, 61, 3660, 90_000].map(duration),
            ["59 s", "1 min 1 s", "1 h 1 min", "1 d 1 h"]
        );
    }
}
