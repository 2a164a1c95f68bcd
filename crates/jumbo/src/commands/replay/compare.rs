//! The same capture under several personalities, side by side.

use std::fmt::Write as _;

use jumbo_switch::topology::Coalesce;
use serde::Serialize;

use super::report::Report;
use crate::render::{Width, align_right, count, table, tidy};

/// `jumbo replay --coalesce gro,lro --json`.
#[derive(Debug, Serialize)]
pub(crate) struct Comparison {
    /// The file as typed, or `sample`.
    pub(crate) input: String,
    /// One report per personality, in the order asked for.
    pub(crate) personalities: Vec<Report>,
}

/// The table.
pub(crate) fn page(comparison: &Comparison, width: Width) -> String {
    let header = [
        "coalesce",
        "lossless",
        "out",
        "seg/packet",
        "TCP data",
        "super-packets",
        "most ended by",
    ];
    let mut table = table(&header, width);
    align_right(&mut table, 2..6);
    for report in &comparison.personalities {
        let top = report.super_packet_reasons.first();
        table.add_row([
            report.coalesce.unwrap_or_default().to_owned(),
            if is_lossless(report) { "yes" } else { "no" }.to_owned(),
            count(report.packets_out),
            format!("{:.2}", report.segments_per_packet),
            format!("{:.2}", report.tcp_data.segments_per_packet),
            count(report.super_packets),
            top.map_or("-", |top| top.reason).to_owned(),
        ]);
    }
    let packets = comparison.personalities.first().map_or(0, |r| r.packets_in);
    let mut text = format!(
        "{}: {} packets in\n\n{table}\n",
        comparison.input,
        count(packets)
    );
    let damage = comparison
        .personalities
        .iter()
        .find_map(|r| r.damage.as_ref());
    if let Some(damage) = damage {
        let _ = writeln!(text, "\nNot the whole capture: {damage}.");
    }
    if !comparison.personalities.iter().all(is_lossless) {
        text.push_str(
            "\nWhat is not lossless is for a peer that ends its TCP connections itself.\n",
        );
    }
    tidy(&text)
}

fn is_lossless(report: &Report) -> bool {
    let kinds = Coalesce::ALL.into_iter();
    let mut own = kinds.filter(|kind| Some(kind.name()) == report.coalesce);
    own.next().is_none_or(Coalesce::is_lossless)
}
