//! The demo's page for people.

use std::fmt::Write as _;

use super::report::{Demo, EndShare, Row, noisiest};
use super::technique::Technique;
use crate::render::{Width, align_right, count, table, tidy};

/// With these no row is wider than 80 columns.
const HEADER: [&str; 10] = [
    "technique",
    "IP",
    "Gbit/s",
    "±",
    "CPU\ns/GB",
    "switch\nuser",
    "switch\nsys",
    "seg/\npacket",
    "resent",
    "overrun",
];

const LEGEND: &str = "\
± is the distance of the quartiles. CPU s/GB is the whole path: sender, switch and receiver, in CPU seconds per 10^9 \
bytes; of it, switch user is our own code, switch sys the kernel on our thread, where writing to a TAP runs the \
receiving host's stack. Seg/packet: packets on a wire per data packet that the receiver gets. Resent: TCP segments \
sent again. Overrun: packets that did not fit into a link's queue.";

/// A spread from which on a reader should not trust the second digit.
const NOISY: f64 = 0.25;

/// Columns of running text where there is no terminal.
const TEXT_COLUMNS: usize = 100;

/// Everything.
pub(super) fn demo(demo: &Demo, width: Width) -> String {
    let mut text = wrap(&intro(demo), width);
    for (direction, title) in [
        ("one", "One direction"),
        ("both", "Both directions at once"),
    ] {
        let rows = demo.rows.iter().filter(|row| row.direction == direction);
        let _ = write!(text, "\n{title}\n{}\n", rows_table(rows, width));
    }
    text.push_str(&techniques());
    let _ = write!(text, "\n{}", wrap(LEGEND, width));
    text.push_str(&ends(&demo.ends));
    for paragraph in [verdict(demo), demo.conclusion.clone(), trust(demo)] {
        let _ = write!(text, "\n{}", wrap(&paragraph, width));
    }
    let _ = write!(text, "\nNext: {}", demo.next);
    tidy(&text)
}

fn intro(demo: &Demo) -> String {
    let slices = match demo.slices {
        1 => "one slice".to_owned(),
        many => format!("the median of {many} slices"),
    };
    let mut text = format!(
        "Kernel TCP between two hosts, MTU {}; each row is {slices} of {:.2} s, all rows in turn",
        demo.mtu, demo.slice_s
    );
    if let (Some(cpus), Some(load)) = (demo.cpus, demo.load_1min) {
        let _ = write!(text, "; {cpus} CPUs, load {load:.1} before");
    }
    text + "."
}

fn rows_table<'a>(rows: impl Iterator<Item = &'a Row>, width: Width) -> comfy_table::Table {
    let mut table = table(&HEADER, width);
    align_right(&mut table, 2..10);
    for row in rows {
        table.add_row([
            row.technique.name().to_owned(),
            row.family.replace("ipv", "v"),
            format!("{:.2}", row.gbit_per_s),
            or_dash(row.spread, |spread| format!("{:.0} %", spread * 100.0)),
            or_dash(row.cpu_s_per_gb, |s| format!("{s:.2}")),
            or_dash(row.switch_user_s_per_gb, |s| format!("{s:.3}")),
            or_dash(row.switch_sys_s_per_gb, |s| format!("{s:.2}")),
            or_dash(row.segments_per_packet, |n| format!("{n:.1}")),
            count(row.retransmits),
            count(row.queue_drops),
        ]);
    }
    table
}

fn or_dash<T>(value: Option<T>, text: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| "-".into(), text)
}

fn techniques() -> String {
    let line = |technique: Technique| format!("{:<11} {}\n", technique.name(), technique.meaning());
    let lines: String = Technique::ALL.into_iter().map(line).collect();
    format!("\n{lines}")
}

fn ends(ends: &[EndShare]) -> String {
    let mut text = String::from("\nWhy gro's aggregates ended\n");
    if ends.is_empty() {
        text.push_str("  there were none\n");
    }
    for end in ends {
        let doc = end.doc.trim();
        let _ = writeln!(text, "{:>6.1} %  {}: {doc}", end.percent, end.reason);
    }
    text
}

/// Whether bytes and books are right.
fn verdict(demo: &Demo) -> String {
    let wrong: Vec<String> = demo
        .rows
        .iter()
        .filter(|row| !row.intact)
        .map(Row::label)
        .collect();
    let bytes = match wrong.is_empty() {
        true => "Every byte that was compared arrived right".into(),
        false => format!("Bytes arrived WRONG ({})", wrong.join("; ")),
    };
    let dropped: u64 = demo.rows.iter().filter_map(|row| row.drops).sum();
    let books = match demo.books_balanced {
        true => "its books balance",
        false => "its books DO NOT balance",
    };
    format!(
        "{bytes}. The switch dropped {} packets; {books}.",
        count(dropped)
    )
}

/// Says so when the machine was too busy to trust the figures, or hid some.
fn trust(demo: &Demo) -> String {
    let mut text = String::new();
    if let Some(spread) = noisiest(&demo.rows).filter(|spread| *spread > NOISY) {
        let _ = write!(
            text,
            "The machine was not quiet: one row spread by {:.0} %. Compare rows of one run only, or give --seconds more. ",
            spread * 100.0
        );
    }
    if !demo.ksoftirqd_counted {
        text.push_str(
            "The kernel's softirq threads cannot be seen from here; their CPU time is missing.",
        );
    }
    text
}

/// Lines of whole words, each ended; nothing for nothing.
fn wrap(text: &str, width: Width) -> String {
    let columns = width.map_or(TEXT_COLUMNS, usize::from);
    let mut wrapped = String::new();
    let mut used = 0;
    for word in text.split_whitespace() {
        let len = word.chars().count();
        if used > 0 {
            let fits = used + 1 + len <= columns;
            wrapped.push(if fits { ' ' } else { '\n' });
            used = if fits { used + 1 } else { 0 };
        }
        wrapped.push_str(word);
        used += len;
    }
    if used > 0 {
        wrapped.push('\n');
    }
    wrapped
}

#[cfg(test)]
mod tests {
    use super::super::report::{of, samples};
    use super::*;

    #[test]
    fn page() {
        let mut data = of(samples::measured());
        data.ends = vec![EndShare {
            reason: "burst_end",
            percent: 100.0,
            count: 7,
            doc: " Nothing more was ready.",
        }];
        data.rows[4].intact = false;
        data.rows[5].spread = Some(0.4);
        let golden = include_str!("page.golden.txt");
        let printed = demo(&data, None);
        assert_eq!(printed, golden.trim_end(), "as printed:\n{printed}");
    }

    #[test]
    fn a_terminal_of_80_columns_is_wide_enough() {
        let page = demo(&of(samples::measured()), Some(80));
        let rows = page
            .lines()
            .filter(|line| line.contains(" v4 ") || line.contains(" v6 "));
        assert_eq!(rows.clone().count(), 32, "{page}");
        for row in rows {
            assert!(row.chars().count() <= 80 && row.contains(" % "), "{row}");
        }
    }

    #[test]
    fn wrong_bytes_and_books_are_said() {
        let mut data = of(samples::measured());
        assert!(verdict(&data).starts_with("Every byte that was compared arrived right. "));
        data.rows[1].intact = false;
        data.books_balanced = false;
        assert_eq!(
            verdict(&data),
            "Bytes arrived WRONG (gro, ipv4, one direction). The switch dropped 144 packets; its books DO NOT balance."
        );
    }
}
