//! The demo's page for people.

use std::fmt::Write as _;

use super::report::{Demo, EndShare, Row, noisiest};
use super::technique::Technique;
use crate::render::{Width, align_right, count, table, tidy};

const HEADER: [&str; 12] = [
    "technique",
    "IP",
    "Gbit/s",
    "spread",
    "CPU s/GB",
    "switch user",
    "switch sys",
    "seg/packet",
    "resent",
    "dropped",
    "overrun",
    "bytes",
];

/// A spread from which on a reader should not trust the second digit.
const NOISY: f64 = 0.25;

/// Everything.
pub(super) fn demo(demo: &Demo, width: Width) -> String {
    let mut text = intro(demo);
    for (direction, title) in [
        ("one", "One direction"),
        ("both", "Both directions at once"),
    ] {
        let rows = demo.rows.iter().filter(|row| row.direction == direction);
        let _ = write!(text, "\n{title}\n{}\n", rows_table(rows, width));
    }
    text.push_str(&legend(demo));
    text.push_str(&ends(&demo.ends));
    let _ = write!(text, "\n{}\n{}", demo.conclusion, trust(demo));
    let _ = write!(text, "\nNext: {}", demo.next);
    tidy(&text)
}

fn intro(demo: &Demo) -> String {
    let mut text = format!(
        "Kernel TCP between two hosts, MTU {}; each row the median of {} slices of {:.2} s, all rows in turn",
        demo.mtu, demo.slices, demo.slice_s
    );
    if let (Some(cpus), Some(load)) = (demo.cpus, demo.load_1min) {
        let _ = write!(text, "; {cpus} CPUs, load {load:.1} before");
    }
    text + "\n"
}

fn rows_table<'a>(rows: impl Iterator<Item = &'a Row>, width: Width) -> comfy_table::Table {
    let mut table = table(&HEADER, width);
    align_right(&mut table, 2..11);
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
            or_dash(row.drops, count),
            count(row.queue_drops),
            if row.intact { "right" } else { "WRONG" }.to_owned(),
        ]);
    }
    table
}

fn or_dash<T>(value: Option<T>, text: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| "-".into(), text)
}

fn legend(demo: &Demo) -> String {
    let mut text = String::from("\n");
    for technique in Technique::ALL {
        let _ = writeln!(text, "{:<11} {}", technique.name(), technique.meaning());
    }
    text.push_str(
        "\nCPU s/GB: the whole path, sender, switch and receiver. Switch sys contains the receiving host's stack, which\n\
         runs when the switch writes to its TAP. Seg/packet: packets on a wire per data packet the receiver gets.\n\
         Resent: TCP segments sent again. Dropped: by the switch. Overrun: by a link's queue that was not emptied in time.\n",
    );
    if !demo.ksoftirqd_counted {
        text.push_str(
            "The kernel's softirq threads cannot be seen from here; their CPU time is not in it.\n",
        );
    }
    text
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

/// Says so when the machine was too busy to trust the figures.
fn trust(demo: &Demo) -> String {
    match noisiest(&demo.rows) {
        Some(spread) if spread > NOISY => format!(
            "The machine was not quiet: one row spread by {:.0} %. Compare rows of one run only, or give --seconds more.\n",
            spread * 100.0
        ),
        _ => String::new(),
    }
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
        assert_eq!(
            demo(&data, None),
            golden.trim_end(),
            "as printed:\n{}",
            demo(&data, None)
        );
    }
}
