//! The result as data: what `--json` prints, and what the page is made of.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;

use super::books::{Books, Flow, Tallies, Tally, Unlisted, Why};
use super::conclusion::conclusion;
use crate::args::{Burst, ChecksumMode, ReplayArgs};

/// `jumbo replay --json`.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// The file as typed, `-`, or `sample`.
    pub(crate) input: String,
    /// `coalesce` or `segment`.
    pub(crate) mode: &'static str,
    /// The personality; absent when segmenting.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) coalesce: Option<&'static str>,
    /// `auto`, `verify` or `trust`.
    pub(crate) checksum: &'static str,
    /// Packets of a burst at most, or `all`; absent when segmenting.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) burst: Option<BurstShown>,
    /// Absent when segmenting and with bursts of `all`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) gap_us: Option<u64>,
    /// Payload bytes per segment; absent when coalescing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) segment: Option<u16>,
    pub(crate) packets_in: u64,
    pub(crate) packets_out: u64,
    /// Payload of TCP and UDP packets.
    pub(crate) payload_bytes_in: u64,
    pub(crate) payload_bytes_out: u64,
    /// Packets on the wire per packet handled: in / out when coalescing, out / in when segmenting.
    pub(crate) segments_per_packet: f64,
    /// The same for packets with TCP payload, the only ones that can be merged.
    pub(crate) tcp_data: Ratio,
    /// Made by coalescing, or cut by segmentation.
    pub(crate) super_packets: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bursts: Option<u64>,
    /// Bursts that ended because the buffer was full, not by rule.
    pub(crate) buffer_full: u64,
    /// Packets longer than 1500 bytes at the IP layer as captured. For information: they are handled like any other.
    pub(crate) already_large: u64,
    /// Packets of which the capture has only the beginning.
    pub(crate) cut_packets: u64,
    /// Packets whose checksum was a bare pseudo-header sum.
    pub(crate) checksum_pending: u64,
    /// Packets in a tunnel that was looked into; their flows are those inside.
    pub(crate) in_tunnels: u64,
    /// Each packet out (when segmenting: in) once, by the name of what decided over it.
    pub(crate) reasons: BTreeMap<&'static str, u64>,
    /// Why super-packets ended; when segmenting, `segmented`.
    pub(crate) super_packet_reasons: Vec<ReasonCount>,
    /// Why the others left as they came.
    pub(crate) single_reasons: Vec<ReasonCount>,
    /// By payload, the most first.
    pub(crate) flows: Vec<FlowReport>,
    /// Packets of flows beyond the first 100 000.
    pub(crate) flows_not_listed: Unlisted,
    /// Packets that are not IP, or could not be looked at.
    pub(crate) without_flow: Unlisted,
    /// One sentence.
    pub(crate) conclusion: String,
    /// Why the capture was not read to its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) damage: Option<String>,
}

/// A number, or the word `all`.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(untagged)]
pub(crate) enum BurstShown {
    Packets(usize),
    All(&'static str),
}

#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Ratio {
    pub(crate) packets_in: u64,
    pub(crate) packets_out: u64,
    pub(crate) segments_per_packet: f64,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct ReasonCount {
    pub(crate) reason: &'static str,
    /// Packets out.
    pub(crate) packets_out: u64,
    /// Packets in that they are made of.
    pub(crate) packets_in: u64,
    pub(crate) meaning: &'static str,
}

#[derive(Debug, Serialize)]
pub(crate) struct FlowReport {
    /// `tcp`, `udp`, or another protocol by name or number.
    pub(crate) protocol: String,
    pub(crate) src: IpAddr,
    /// Absent where there are no ports, such as in fragments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) src_port: Option<u16>,
    pub(crate) dst: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dst_port: Option<u16>,
    /// VLAN id of the outer tag.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) vlan: Option<u16>,
    pub(crate) packets_in: u64,
    pub(crate) packets_out: u64,
    pub(crate) payload_bytes: u64,
    pub(crate) segments_per_packet: f64,
    /// The most frequent of `reasons`.
    pub(crate) top_reason: &'static str,
    pub(crate) reasons: BTreeMap<&'static str, u64>,
}

impl Report {
    /// The books as a report; `damage` is why the capture was not read to its end.
    pub(crate) fn new(args: &ReplayArgs, books: &Books, damage: Option<String>) -> Self {
        let segmenting = args.segment.is_some();
        let shown = |count: u64| (!segmenting).then_some(count);
        let ratio = |came, left| ratio(segmenting, came, left);
        let tcp = books.tcp_data;
        Self {
            input: args
                .input
                .as_ref()
                .map_or_else(|| "sample".into(), |path| path.display().to_string()),
            mode: if segmenting { "segment" } else { "coalesce" },
            coalesce: (!segmenting).then(|| args.coalesce.rules().name),
            checksum: checksum(args.checksum),
            burst: (!segmenting).then_some(burst(args.burst)),
            gap_us: shown(args.gap_us).filter(|_| args.burst != Burst::All),
            segment: args.segment,
            packets_in: books.packets_in,
            packets_out: books.packets_out,
            payload_bytes_in: books.payload_bytes_in,
            payload_bytes_out: books.payload_bytes_out,
            segments_per_packet: ratio(books.packets_in, books.packets_out),
            tcp_data: Ratio {
                packets_in: tcp.packets_in,
                packets_out: tcp.packets_out,
                segments_per_packet: ratio(tcp.packets_in, tcp.packets_out),
            },
            super_packets: books.super_packets,
            bursts: shown(books.bursts),
            buffer_full: books.buffer_full,
            already_large: books.already_large,
            cut_packets: books.cut_packets,
            checksum_pending: books.checksum_pending,
            in_tunnels: books.in_tunnels,
            reasons: reasons(segmenting, books),
            super_packet_reasons: counts(&books.merged),
            single_reasons: counts(&books.single),
            flows: flows(segmenting, books.flows()),
            flows_not_listed: books.rest,
            without_flow: books.without_flow,
            conclusion: conclusion(args.segment, books),
            damage,
        }
    }
}

fn checksum(mode: ChecksumMode) -> &'static str {
    match mode {
        ChecksumMode::Auto => "auto",
        ChecksumMode::Verify => "verify",
        ChecksumMode::Trust => "trust",
    }
}

fn burst(burst: Burst) -> BurstShown {
    match burst {
        Burst::All => BurstShown::All("all"),
        Burst::Packets(packets) => BurstShown::Packets(packets.get()),
    }
}

fn ratio(segmenting: bool, came: u64, left: u64) -> f64 {
    let (wire, handled) = if segmenting {
        (left, came)
    } else {
        (came, left)
    };
    if handled == 0 {
        return 0.0;
    }
    wire as f64 / handled as f64
}

/// A packet in is a decision when segmenting, a packet out when coalescing.
fn decisions(segmenting: bool, tally: &Tally) -> u64 {
    if segmenting { tally.came } else { tally.left }
}

fn reasons(segmenting: bool, books: &Books) -> BTreeMap<&'static str, u64> {
    let mut reasons = BTreeMap::new();
    for (why, tally) in books.merged.seen().into_iter().chain(books.single.seen()) {
        *reasons.entry(why.name()).or_default() += decisions(segmenting, &tally);
    }
    reasons
}

fn counts(tallies: &Tallies) -> Vec<ReasonCount> {
    let count = |(why, tally): (Why, Tally)| ReasonCount {
        reason: why.name(),
        packets_out: tally.left,
        packets_in: tally.came,
        meaning: why.doc(),
    };
    tallies.seen().into_iter().map(count).collect()
}

fn flows(segmenting: bool, flows: &[Flow]) -> Vec<FlowReport> {
    let mut sorted: Vec<_> = flows.iter().collect();
    // Stable: equals stay in order of appearance.
    sorted.sort_by_key(|flow| std::cmp::Reverse(flow.payload_bytes));
    let report = |flow| flow_report(segmenting, flow);
    sorted.into_iter().map(report).collect()
}

fn flow_report(segmenting: bool, flow: &Flow) -> FlowReport {
    let key = flow.key;
    // The first of equals, in order of appearance.
    let top = flow
        .reasons
        .iter()
        .rev()
        .max_by_key(|(_, count)| *count)
        .map_or("", |(why, _)| why.name());
    FlowReport {
        protocol: protocol(key.protocol()),
        src: key.src(),
        src_port: key.ports().map(|(src, _)| src),
        dst: key.dst(),
        dst_port: key.ports().map(|(_, dst)| dst),
        vlan: key.vlan(),
        packets_in: flow.packets_in,
        packets_out: flow.packets_out,
        payload_bytes: flow.payload_bytes,
        segments_per_packet: ratio(segmenting, flow.packets_in, flow.packets_out),
        top_reason: top,
        reasons: flow
            .reasons
            .iter()
            .map(|(why, count)| (why.name(), *count))
            .collect(),
    }
}

/// IANA protocol numbers, those an operator meets.
fn protocol(number: u8) -> String {
    match number {
        1 => "icmp".into(),
        2 => "igmp".into(),
        6 => "tcp".into(),
        17 => "udp".into(),
        47 => "gre".into(),
        50 => "esp".into(),
        58 => "icmpv6".into(),
        132 => "sctp".into(),
        other => other.to_string(),
    }
}
