//! The same data as the JSON, as tables for people.

use std::fmt::Write as _;

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};

use crate::control::{Ports, Status};
use crate::switch_api::{
    Capability, Fdb, PathEnd, PathReport, PortState, PortStatus, Snapshot, Traffic,
};

/// Columns of the terminal; None for a file or a pipe, where lines may have any length.
pub(crate) type Width = Option<u16>;

/// `jumbo status`.
pub(crate) fn status(status: &Status, width: Width) -> String {
    let Status {
        version,
        pid,
        uptime_s,
        socket,
        switch,
    } = status;
    let mut text = format!(
        "jumbo {version}, pid {pid}, up {}, {} {}, {} addresses learned\ncontrol socket {socket}\n\n",
        duration(*uptime_s),
        switch.workers,
        if switch.workers == 1 {
            "worker"
        } else {
            "workers"
        },
        switch.fdb_entries,
    );
    let _ = write!(text, "{}\n\n", overview(&switch.ports, width));
    for one in &switch.ports {
        let _ = writeln!(text, "{}", port(one, width));
    }
    if let Some(removed) = &switch.removed {
        let _ = writeln!(
            text,
            "removed ports: {}, rx {} packets, tx {}, dropped {}\n",
            count(removed.ports),
            count(removed.rx.packets),
            count(removed.tx.packets),
            count(removed.dropped),
        );
    }
    let _ = write!(text, "{}", books(switch, width));
    tidy(&text)
}

fn overview(ports: &[PortStatus], width: Width) -> Table {
    let mut table = table(
        &[
            "port",
            "kind",
            "device",
            "state",
            "mtu",
            "rx packets",
            "rx",
            "tx packets",
            "tx",
            "tx super",
            "tx seg/packet",
            "dropped",
        ],
        width,
    );
    align_right(&mut table, 4..12);
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
            count(port.tx.super_packets),
            format!("{:.1}", port.tx.segments_per_packet),
            count(port.dropped),
        ]);
    }
    table
}

/// Both sides of the equation beside each other, and whether it holds.
fn books(switch: &Snapshot, width: Width) -> String {
    let books = &switch.books;
    let came = [
        ("received", Some(books.received)),
        ("made by segmentation", Some(books.made_by_segmentation)),
        ("flood copies", Some(books.flood_copies)),
        ("", None),
    ];
    let went = [
        ("sent", books.sent),
        ("absorbed by merging", books.absorbed_by_merging),
        ("dropped", books.dropped),
        ("resting", books.resting),
    ];
    let mut table = table(&["in", "packets", "out", "packets"], width);
    align_right(&mut table, 1..2);
    align_right(&mut table, 3..4);
    for ((source, number), (end, ended)) in came.into_iter().zip(went) {
        let number = number.map(count).unwrap_or_default();
        table.add_row([source, &number, end, &count(ended)]);
    }
    let holds = if books.balanced {
        "balance"
    } else {
        "do not balance at this moment"
    };
    format!("{table}\n\nThe books {holds}.")
}

/// `jumbo path`.
pub(crate) fn path(report: &PathReport, width: Width) -> String {
    let PathReport { from, to, rows } = report;
    let mut text = format!("packets from {} to {}\n", path_end(from), path_end(to));
    for end in [from, to] {
        if end.state != PortState::Up {
            let why = end.why.as_ref().map(|why| format!(" ({why})"));
            let _ = writeln!(
                text,
                "{} is {}{}: nothing passes until it is up, and then other offloads may be in use",
                end.port,
                state(end.state),
                why.unwrap_or_default()
            );
        }
    }
    let mut table = table(
        &[
            "packets",
            "decision",
            "segments",
            "checksums",
            "coalesces",
            "why",
        ],
        width,
    );
    for row in rows {
        let who = |who: &str| match who {
            "sender" => from.port.clone(),
            "receiver" => to.port.clone(),
            "switch" => "jumbo".to_owned(),
            _ => "-".to_owned(),
        };
        table.add_row([
            row.packets.clone(),
            row.decision.clone(),
            who(&row.segments),
            who(&row.checksums),
            who(&row.coalesces),
            row.reason.clone(),
        ]);
    }
    let _ = write!(text, "\n{table}");
    tidy(&text)
}

fn path_end(end: &PathEnd) -> String {
    format!("{} ({}, mtu {})", end.port, end.kind, end.mtu)
}

/// `jumbo fdb`: a line per address.
pub(crate) fn fdb(fdb: &Fdb, width: Width) -> String {
    if fdb.stations.is_empty() {
        return "no addresses learned".to_owned();
    }
    let mut table = table(&["address", "vlan", "port", "age"], width);
    align_right(&mut table, 1..2);
    align_right(&mut table, 3..4);
    for station in &fdb.stations {
        table.add_row([
            station.mac.clone(),
            station.vlan.map_or("-".to_owned(), |vlan| vlan.to_string()),
            station.port.clone(),
            format!("{} s", station.age_s),
        ]);
    }
    tidy(&table.to_string())
}

/// `jumbo add-port`.
pub(crate) fn added_port(port: &PortStatus, _: Width) -> String {
    let why = port.why.as_ref().map(|why| format!(" ({why})"));
    format!(
        "added {}: {} {}, {}{}, mtu {}",
        port.name,
        port.kind,
        port.device,
        state(port.state),
        why.unwrap_or_default(),
        port.mtu,
    )
}

/// `jumbo remove-port`.
pub(crate) fn removed_port(port: &PortStatus, _: Width) -> String {
    format!(
        "removed {}: {} {}, rx {} packets, tx {}, dropped {}",
        port.name,
        port.kind,
        port.device,
        count(port.rx.packets),
        count(port.tx.packets),
        count(port.dropped),
    )
}

/// `jumbo ports`: a line per port.
pub(crate) fn ports(ports: &Ports, width: Width) -> String {
    tidy(&overview(&ports.ports, width).to_string())
}

fn port(port: &PortStatus, width: Width) -> String {
    let why = port.why.as_ref().map(|why| format!(" ({why})"));
    let mut text = format!(
        "{}: {} {}, {}{}, mtu {}\n\n{}\n",
        port.name,
        port.kind,
        port.device,
        state(port.state),
        why.unwrap_or_default(),
        port.mtu,
        traffic(port, width),
    );
    if port.software_segmented + port.software_checksums > 0 {
        let _ = writeln!(
            text,
            "\ndone here because it does not take them: {} super-packets segmented, {} checksums finished",
            count(port.software_segmented),
            count(port.software_checksums),
        );
    }
    if port.hold_us > 0 {
        let _ = writeln!(
            text,
            "\nheld on their way to it for up to {} us: {} packets now ({} bytes); copied for that so far: {} packets, {} bytes",
            count(port.hold_us.into()),
            count(port.resting.packets),
            count(port.resting.bytes),
            count(port.promoted.packets),
            count(port.promoted.bytes),
        );
    }
    if let Some(dropped) = port.device_dropped.as_ref().filter(|d| d.rx + d.tx > 0) {
        let _ = writeln!(
            text,
            "\ndropped by the kernel at its device: rx {}, tx {} ({})",
            count(dropped.rx),
            count(dropped.tx),
            dropped.source,
        );
    }
    if !port.capabilities.is_empty() {
        let _ = writeln!(text, "\n{}", capabilities(&port.capabilities, width));
    }
    if port
        .reasons
        .values()
        .flat_map(|stage| stage.values())
        .any(|seen| seen.count > 0)
    {
        let _ = writeln!(text, "\n{}", reasons(port, width));
    }
    text
}

fn traffic(port: &PortStatus, width: Width) -> Table {
    let mut table = table(
        &["", "packets", "bytes", "super-packets", "segments/packet"],
        width,
    );
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

fn capabilities(capabilities: &[Capability], width: Width) -> Table {
    let mut table = table(&["capability", "offered", "in use", "why not"], width);
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

fn reasons(port: &PortStatus, width: Width) -> Table {
    let mut table = table(&["stage", "reason", "count", "meaning"], width);
    align_right(&mut table, 2..3);
    for (stage, reasons) in &port.reasons {
        for (reason, seen) in reasons.iter().filter(|(_, seen)| seen.count > 0) {
            table.add_row([stage.as_str(), reason, &count(seen.count), &seen.doc]);
        }
    }
    table
}

/// A table without lines, as wide as it is or as the terminal at most.
pub(crate) fn table(header: &[&str], width: Width) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(header.iter().map(Cell::new));
    // Nothing before the first column, two blanks between columns.
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    if let Some(width) = width {
        table
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(width);
    }
    table
}

/// Without the blanks that fill up a table's last column.
pub(crate) fn tidy(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(str::trim_end).collect();
    lines.join("\n")
}

pub(crate) fn align_right(table: &mut Table, columns: std::ops::Range<usize>) {
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
        PortState::Waiting => "waiting",
        PortState::Stopped => "stopped",
    }
}

fn yes(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

/// Digits in groups of three, by a thin apostrophe that copies well: 1'234'567.
pub(crate) fn count(number: u64) -> String {
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
pub(crate) fn bytes(number: u64) -> String {
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
    use crate::switch_api::{Books, DeviceDropped, FdbEntry, PathRow, ReasonCount, Removed};

    fn sample() -> Status {
        let tx = Traffic {
            packets: 1200,
            bytes: 53_000_000,
            super_packets: 900,
            segments_per_packet: 30.5,
        };
        let rx = Traffic {
            packets: 35_000,
            bytes: 52_990_000,
            segments_per_packet: 1.0,
            ..Traffic::default()
        };
        let why = Some("the guest did not ask for it".to_owned());
        let capabilities = vec![
            Capability {
                name: "csum".into(),
                offered: true,
                in_use: true,
                why: None,
            },
            Capability {
                name: "uso".into(),
                offered: true,
                in_use: false,
                why,
            },
        ];
        let seen = ReasonCount {
            count: 1024,
            doc: "the packet carries PSH".into(),
        };
        let reasons = [("coalesce".to_owned(), [("psh".to_owned(), seen)].into())].into();
        let port = |name: &str, state| PortStatus {
            name: name.into(),
            kind: "tap".into(),
            device: format!("{name}0"),
            mtu: 1500,
            state,
            ..PortStatus::default()
        };
        let web = PortStatus {
            capabilities,
            rx,
            tx,
            reasons,
            ..port("web", PortState::Up)
        };
        let books = Books {
            received: 35_000,
            sent: 1200,
            absorbed_by_merging: 33_800,
            balanced: true,
            ..Books::default()
        };
        let ports = vec![web, port("db", PortState::Gone)];
        let switch = Snapshot {
            workers: 2,
            fdb_entries: 3,
            books,
            ports,
            ..Snapshot::default()
        };
        Status {
            version: "0.1.0".into(),
            pid: 4711,
            uptime_s: 61,
            socket: "/run/jumbo/0.sock".into(),
            switch,
        }
    }

    #[test]
    fn status_is_a_page_for_people() {
        assert_eq!(
            status(&sample(), None),
            "\
jumbo 0.1.0, pid 4711, up 1 min 1 s, 2 workers, 3 addresses learned
control socket /run/jumbo/0.sock

port  kind  device  state   mtu  rx packets       rx  tx packets       tx  tx super  tx seg/packet  dropped
web   tap   web0    up     1500      35'000  53.0 MB       1'200  53.0 MB       900           30.5        0
db    tap   db0     gone   1500           0      0 B           0      0 B         0            0.0        0

web: tap web0, up, mtu 1500

    packets       bytes  super-packets  segments/packet
rx   35'000  52'990'000              0              1.0
tx    1'200  53'000'000            900             30.5

capability  offered  in use  why not
csum        yes      yes
uso         yes      no      the guest did not ask for it

stage     reason  count  meaning
coalesce  psh     1'024  the packet carries PSH

db: tap db0, gone, mtu 1500

    packets  bytes  super-packets  segments/packet
rx        0      0              0              0.0
tx        0      0              0              0.0

in                    packets  out                  packets
received               35'000  sent                   1'200
made by segmentation        0  absorbed by merging   33'800
flood copies                0  dropped                    0
                               resting                    0

The books balance."
        );
    }

    #[test]
    fn ports_are_a_line_each() {
        let ports_of_sample = Ports {
            ports: sample().switch.ports,
        };
        assert_eq!(
            ports(&ports_of_sample, None),
            "\
port  kind  device  state   mtu  rx packets       rx  tx packets       tx  tx super  tx seg/packet  dropped
web   tap   web0    up     1500      35'000  53.0 MB       1'200  53.0 MB       900           30.5        0
db    tap   db0     gone   1500           0      0 B           0      0 B         0            0.0        0"
        );
    }

    #[test]
    fn what_is_not_always_there_has_its_line() {
        let mut status_of_sample = sample();
        let switch = &mut status_of_sample.switch;
        switch.ports[0].device_dropped = Some(DeviceDropped {
            rx: 1234,
            tx: 0,
            source: "there".into(),
        });
        switch.removed = Some(Removed {
            ports: 2,
            dropped: 3,
            ..Removed::default()
        });
        let page = status(&status_of_sample, None);
        for line in [
            "\ndropped by the kernel at its device: rx 1'234, tx 0 (there)\n",
            "\nremoved ports: 2, rx 0 packets, tx 0, dropped 3\n",
        ] {
            assert!(page.contains(line), "{page}");
        }
    }

    #[test]
    fn path_names_who_does_what() {
        let end = |port: &str, state| PathEnd {
            port: port.into(),
            kind: "tap".into(),
            state,
            why: None,
            mtu: 1500,
        };
        let row = |segments: &str, checksums: &str| PathRow {
            packets: "tcp4_super".into(),
            decision: "segmented".into(),
            segments: segments.into(),
            checksums: checksums.into(),
            coalesces: "nobody".into(),
            reason: "because".into(),
        };
        let report = PathReport {
            from: end("web", PortState::Up),
            to: end("db", PortState::Gone),
            rows: vec![row("switch", "receiver"), row("sender", "switch")],
        };
        assert_eq!(
            path(&report, None),
            "\
packets from web (tap, mtu 1500) to db (tap, mtu 1500)
db is gone: nothing passes until it is up, and then other offloads may be in use

packets     decision   segments  checksums  coalesces  why
tcp4_super  segmented  jumbo     db         -          because
tcp4_super  segmented  web       jumbo      -          because"
        );
    }

    #[test]
    fn fdb_is_a_line_each() {
        let entry = |vlan, age_s| FdbEntry {
            mac: "02:00:00:00:00:01".into(),
            vlan,
            port: "web".into(),
            age_s,
        };
        let table = Fdb {
            stations: vec![entry(None, 3), entry(Some(7), 200)],
        };
        assert_eq!(
            fdb(&table, None),
            "\
address            vlan  port    age
02:00:00:00:00:01     -  web     3 s
02:00:00:00:00:01     7  web   200 s"
        );
    }

    #[test]
    fn a_narrow_terminal_wraps_and_is_not_overrun() {
        let page = tidy(&port(&sample().switch.ports[0], Some(50)));
        assert!(
            page.lines().all(|line| line.chars().count() <= 50),
            "{page}"
        );
        assert!(page.contains("PSH"), "{page}");
    }

    #[test]
    fn the_json_is_flat_and_survives_the_wire() {
        let json = serde_json::to_value(sample()).expect("JSON");
        for key in [
            "version",
            "pid",
            "uptime_s",
            "socket",
            "workers",
            "fdb_entries",
            "books",
            "ports",
        ] {
            assert!(json.get(key).is_some(), "{key}");
        }
        assert_eq!(json["ports"][1]["state"], "gone");
        assert_eq!(
            json["ports"][0]["reasons"]["coalesce"]["psh"]["count"],
            1024
        );
        assert_eq!(
            serde_json::from_value::<Status>(json).expect("a status"),
            sample()
        );
    }

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
