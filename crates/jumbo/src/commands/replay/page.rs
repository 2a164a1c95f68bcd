//! The result as a page for people.

use std::fmt::Write as _;

use super::report::{BurstShown, FlowReport, ReasonCount, Report};
use crate::render::{Width, align_right, bytes, count, table, tidy};

/// Flows shown; `--json` has them all.
const FLOWS_SHOWN: usize = 10;

/// `jumbo replay`.
pub(crate) fn page(report: &Report, width: Width) -> String {
    let mut text = head(report);
    let segmenting = report.segment.is_some();
    let (of_super, of_single) = if segmenting {
        ("What was segmented", "Why packets were not segmented")
    } else {
        ("Why super-packets ended", "Why packets were not merged")
    };
    for (title, reasons) in [
        (of_super, &report.super_packet_reasons),
        (of_single, &report.single_reasons),
    ] {
        if !reasons.is_empty() {
            let _ = writeln!(text, "\n{title}\n{}", reason_table(reasons, width));
        }
    }
    if !report.flows.is_empty() {
        let _ = writeln!(
            text,
            "\nFlows by payload\n{}",
            flow_table(&report.flows, width)
        );
    }
    if let Some(rest) = rest(report) {
        let _ = writeln!(text, "{rest}");
    }
    for note in notes(report) {
        let _ = writeln!(text, "\n{note}");
    }
    let _ = write!(text, "\n{}", report.conclusion);
    tidy(&text)
}

fn head(report: &Report) -> String {
    let how = match (report.segment, report.burst, report.gap_us) {
        (Some(size), _, _) => format!("segmented to {size} bytes of payload"),
        (None, Some(BurstShown::Packets(packets)), Some(gap)) => format!(
            "coalesced in bursts of up to {} packets without a gap above {} us",
            count(packets as u64),
            count(gap)
        ),
        _ => "coalesced by rule only".into(),
    };
    let mut text = format!("{}: {how}, checksum {}\n\n", report.input, report.checksum);
    let mut lines = vec![
        ("packets in", count(report.packets_in)),
        ("packets out", count(report.packets_out)),
        (
            "segments per packet",
            format!("{:.2}", report.segments_per_packet),
        ),
        (
            "  with TCP payload",
            format!("{:.2}", report.tcp_data.segments_per_packet),
        ),
        ("super-packets", count(report.super_packets)),
    ];
    lines.push(("payload in", bytes(report.payload_bytes_in)));
    lines.push(("payload out", bytes(report.payload_bytes_out)));
    for (name, value) in lines {
        let _ = writeln!(text, "{name:<20} {value:>10}");
    }
    text
}

fn reason_table(reasons: &[ReasonCount], width: Width) -> comfy_table::Table {
    let mut table = table(&["reason", "out", "in", "meaning"], width);
    align_right(&mut table, 1..3);
    for reason in reasons {
        table.add_row([
            reason.reason,
            &count(reason.packets_out),
            &count(reason.packets_in),
            reason.meaning,
        ]);
    }
    table
}

fn flow_table(flows: &[FlowReport], width: Width) -> comfy_table::Table {
    let header = ["flow", "in", "out", "seg/packet", "payload", "top reason"];
    let mut table = table(&header, width);
    align_right(&mut table, 1..5);
    for flow in flows.iter().take(FLOWS_SHOWN) {
        table.add_row([
            flow_name(flow),
            count(flow.packets_in),
            count(flow.packets_out),
            format!("{:.1}", flow.segments_per_packet),
            bytes(flow.payload_bytes),
            flow.top_reason.to_owned(),
        ]);
    }
    table
}

/// `tcp 192.0.2.1:40000 > [2001:db8::1]:80 vlan 7`.
fn flow_name(flow: &FlowReport) -> String {
    let end = |address: std::net::IpAddr, port: Option<u16>| match port {
        Some(port) => std::net::SocketAddr::new(address, port).to_string(),
        None => address.to_string(),
    };
    let vlan = flow.vlan.map_or(String::new(), |id| format!(" vlan {id}"));
    format!(
        "{} {} > {}{vlan}",
        flow.protocol,
        end(flow.src, flow.src_port),
        end(flow.dst, flow.dst_port),
    )
}

fn rest(report: &Report) -> Option<String> {
    let more = report.flows.len().saturating_sub(FLOWS_SHOWN);
    let unlisted = report.flows_not_listed.packets_in;
    let text = match (more, unlisted) {
        (0, 0) => return None,
        (more, 0) => format!("and {} more, which `--json` lists", count(more as u64)),
        (more, packets) => format!(
            "and {} more, which `--json` lists, and {} packets of further flows",
            count(more as u64),
            count(packets)
        ),
    };
    Some(text)
}

fn notes(report: &Report) -> Vec<String> {
    let packets = |number: u64| match number {
        1 => "1 packet".to_owned(),
        more => format!("{} packets", count(more)),
    };
    let mut notes = Vec::new();
    if let Some(damage) = &report.damage {
        notes.push(format!("Not the whole capture: {damage}."));
    }
    if report.checksum_pending > 0 {
        notes.push(format!(
            "{}: the checksum is a bare pseudo-header sum, as on the host that sends; taken as left to the card.",
            packets(report.checksum_pending)
        ));
    }
    if report.already_large > 0 {
        notes.push(format!(
            "{}: longer than 1500 bytes as captured, so coalesced or not yet segmented before; \
             taken as ordinary packets.",
            packets(report.already_large)
        ));
    }
    if report.cut_packets > 0 {
        notes.push(format!(
            "{}: only the beginning was captured; lengths are taken from the headers.",
            packets(report.cut_packets)
        ));
    }
    if report.buffer_full > 0 {
        notes.push(format!(
            "The buffer was full {} times, and what was held left early.",
            count(report.buffer_full)
        ));
    }
    notes
}
