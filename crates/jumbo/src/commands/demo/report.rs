//! Rows, reasons and the conclusion, out of the slices.

use jumbo_engine::coalesce::End;
use jumbo_engine::reason::{Counts, Reason};
use jumbo_lab::Family;
use jumbo_lab::meter::{CpuTime, Summary};
use jumbo_lab::traffic::Directions;
use serde::Serialize;

use super::NEXT;
use super::measure::{Cell, Delivered, Measured, Slice};
use super::technique::Technique;

/// What is printed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Demo {
    pub(super) mtu: u16,
    /// The whole, with setting up.
    pub(super) elapsed_s: f64,
    /// Timed windows of a row; the figures are their median.
    pub(super) slices: usize,
    /// Median length of a window.
    pub(super) slice_s: f64,
    pub(super) cpus: Option<usize>,
    /// Of the machine, before we began.
    pub(super) load_1min: Option<f64>,
    /// Whether `cpu_s_per_gb` contains the kernel's softirq threads.
    pub(super) ksoftirqd_counted: bool,
    pub(super) rows: Vec<Row>,
    /// Why the aggregates of `gro` ended, most frequent first.
    pub(super) ends: Vec<EndShare>,
    /// Whether every switch accounts for every packet.
    pub(super) books_balanced: bool,
    pub(super) conclusion: String,
    /// What to try next.
    pub(super) next: &'static str,
}

/// One technique, one family, one direction or both.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Row {
    pub(super) technique: Technique,
    /// `ipv4`, `ipv6`.
    pub(super) family: &'static str,
    /// `one`, `both`.
    pub(super) direction: &'static str,
    /// TCP payload, both directions together; median.
    pub(super) gbit_per_s: f64,
    /// Distance of the quartiles, relative to the median; null with fewer than three slices.
    pub(super) spread: Option<f64>,
    /// Of the whole path: sender, switch, receiver, ksoftirqd. Null when nothing arrived.
    pub(super) cpu_s_per_gb: Option<f64>,
    /// Of it, in the switch's own code; null without a switch.
    pub(super) switch_user_s_per_gb: Option<f64>,
    /// Of it, in the kernel on the switch's thread, the receiving host's stack included.
    pub(super) switch_sys_s_per_gb: Option<f64>,
    /// Packets on a wire per packet with payload that the receiving host's IP gets.
    pub(super) segments_per_packet: Option<f64>,
    /// TCP segments sent again.
    pub(super) retransmits: u64,
    /// Packets the switch dropped; null without a switch.
    pub(super) drops: Option<u64>,
    /// Packets the links' queues dropped because nobody took them in time.
    pub(super) queue_drops: u64,
    /// Whether all bytes that were looked at were right.
    pub(super) intact: bool,
}

/// One reason's share.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct EndShare {
    pub(super) reason: &'static str,
    pub(super) percent: f64,
    pub(super) count: u64,
    pub(super) doc: &'static str,
}

/// Makes the page of what was measured.
pub(super) fn of(measured: Measured) -> Demo {
    let rows: Vec<Row> = measured.cells.iter().map(row).collect();
    let windows = measured.cells.iter().flat_map(|cell| &cell.slices);
    let windows: Vec<f64> = windows.map(|slice| slice.report.elapsed_s).collect();
    Demo {
        mtu: measured.mtu,
        elapsed_s: measured.elapsed_s,
        slices: measured
            .cells
            .iter()
            .map(|c| c.slices.len())
            .min()
            .unwrap_or(0),
        slice_s: Summary::of(&windows).map_or(0.0, |s| s.median),
        cpus: measured.load.map(|load| load.cpus),
        load_1min: measured.load.map(|load| load.load_1min),
        ksoftirqd_counted: measured.ksoftirqd,
        ends: ends(&measured),
        books_balanced: measured.switches.iter().all(|(_, s)| s.books.balanced()),
        conclusion: conclusion(&rows),
        rows,
        next: NEXT,
    }
}

impl Row {
    /// As messages call it.
    pub(super) fn label(&self) -> String {
        label(self.technique, self.family, self.direction)
    }
}

fn label(technique: Technique, family: &str, direction: &str) -> String {
    let ways = if direction == "one" {
        "one direction"
    } else {
        "both directions"
    };
    format!("{}, {family}, {ways}", technique.name())
}

impl Cell {
    /// As messages call it.
    pub(super) fn label(&self) -> String {
        label(
            self.technique,
            family_name(self.family),
            direction_name(self.directions),
        )
    }
}

fn direction_name(directions: Directions) -> &'static str {
    match directions {
        Directions::One => "one",
        Directions::Both => "both",
    }
}

fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    }
}

/// Rates are a median of slices; costs are sums over all of them, because the kernel's split of CPU time is too coarse
/// for one slice.
fn row(cell: &Cell) -> Row {
    let slices = &cell.slices;
    let rates: Vec<f64> = slices.iter().map(|s| s.report.gbit_per_s()).collect();
    let rate = Summary::of(&rates);
    let bytes: u64 = slices.iter().map(|s| s.report.bytes()).sum();
    let switch = slices.iter().map(|s| s.switch_cpu).sum::<Option<CpuTime>>();
    Row {
        technique: cell.technique,
        family: family_name(cell.family),
        direction: direction_name(cell.directions),
        gbit_per_s: rate.map_or(0.0, |rate| rate.median),
        spread: rate
            .filter(|rate| rate.count >= 3)
            .map(|r| r.spread())
            .filter(|s| s.is_finite()),
        cpu_s_per_gb: per_gb(slices.iter().map(|s| s.path_cpu_s).sum(), bytes),
        switch_user_s_per_gb: switch.and_then(|cpu| per_gb(cpu.user_s, bytes)),
        switch_sys_s_per_gb: switch.and_then(|cpu| per_gb(cpu.sys_s, bytes)),
        segments_per_packet: segments_per_packet(slices),
        retransmits: slices.iter().map(|s| s.report.retransmits).sum(),
        drops: slices.iter().map(|s| s.drops).sum(),
        queue_drops: slices.iter().map(|s| s.queue_drops).sum(),
        // Nobody having looked counts as wrong: it must not happen unseen.
        intact: slices.iter().all(|s| s.report.intact == Some(true)),
    }
}

fn per_gb(cpu_s: f64, bytes: u64) -> Option<f64> {
    (bytes > 0).then(|| cpu_s * 1e9 / bytes as f64)
}

fn segments_per_packet(slices: &[Slice]) -> Option<f64> {
    let sum = |of: fn(&Delivered) -> u64| slices.iter().map(|s| of(&s.data)).sum::<u64>();
    let (packets, segments) = (sum(|d| d.packets), sum(|d| d.segments));
    (packets > 0).then(|| segments as f64 / packets as f64)
}

fn ends(measured: &Measured) -> Vec<EndShare> {
    let mut counts = Counts::<End>::new();
    for (technique, state) in &measured.switches {
        if *technique == Technique::Gro {
            state
                .ports
                .iter()
                .for_each(|p| counts.add(&p.counters.ends));
        }
    }
    shares(&counts)
}

/// What occurred, most frequent first.
fn shares(counts: &Counts<End>) -> Vec<EndShare> {
    let total = counts.total() as f64;
    let share = |(reason, count): (End, u64)| EndShare {
        reason: reason.name(),
        percent: count as f64 * 100.0 / total,
        count,
        doc: reason.doc(),
    };
    let mut shares: Vec<_> = counts.iter().filter(|(_, n)| *n > 0).map(share).collect();
    shares.sort_by_key(|share| std::cmp::Reverse(share.count));
    shares
}

/// One sentence, every number of it from the rows; nothing is claimed that was not measured.
fn conclusion(rows: &[Row]) -> String {
    sentence(rows).unwrap_or_else(|| "Too little arrived to compare the techniques.".into())
}

fn sentence(rows: &[Row]) -> Option<String> {
    let find = |technique| {
        let wanted =
            |row: &&Row| (row.technique, row.family, row.direction) == (technique, "ipv4", "one");
        rows.iter().find(wanted)
    };
    let (none, gro, tso) = (
        find(Technique::None)?,
        find(Technique::Gro)?,
        find(Technique::Tso)?,
    );
    let (kernel_gro, kernel_tso) = (find(Technique::KernelGro)?, find(Technique::KernelTso)?);
    let rate = |row: &Row, than: &Row| times(row.gbit_per_s, than.gbit_per_s);
    let cost = |row: &Row, than: &Row| times(row.cpu_s_per_gb?, than.cpu_s_per_gb?);
    Some(format!(
        "Over IPv4 in one direction, gro carried {} and tso {} times as much as none, with {} and {} times the CPU \
         per byte; the kernel's own path carried {} times as much as gro and {} times as much as tso.",
        rate(gro, none)?,
        rate(tso, none)?,
        cost(gro, none)?,
        cost(tso, none)?,
        rate(kernel_gro, gro)?,
        rate(kernel_tso, tso)?,
    ))
}

/// A ratio with the digits that count.
fn times(value: f64, of: f64) -> Option<String> {
    let ratio = value / of;
    let digits = if ratio < 1.0 { 2 } else { 1 };
    (ratio.is_finite() && ratio > 0.0).then(|| format!("{ratio:.digits$}"))
}

/// How much the figures of one row moved while the machine was measured; for the page's warning.
pub(super) fn noisiest(rows: &[Row]) -> Option<f64> {
    rows.iter()
        .filter_map(|row| row.spread)
        .max_by(f64::total_cmp)
}

#[cfg(test)]
pub(super) mod samples {
    //! Made-up figures.
    use jumbo_lab::traffic::BulkReport;

    use super::*;

    pub(in super::super) fn slice(gbit_per_s: f64, technique: Technique) -> Slice {
        let kernel = matches!(technique, Technique::KernelGro | Technique::KernelTso);
        Slice {
            report: BulkReport {
                forward_bytes: (gbit_per_s * 1e9 / 8.0 * 0.2) as u64,
                backward_bytes: 0,
                elapsed_s: 0.2,
                retransmits: 1,
                sender: CpuTime::default(),
                receiver: CpuTime::default(),
                intact: Some(true),
            },
            path_cpu_s: 0.3,
            switch_cpu: (!kernel).then_some(CpuTime {
                user_s: 0.02,
                sys_s: 0.1,
            }),
            data: Delivered {
                packets: 1000,
                segments: 1000 + 500 * technique as u64,
            },
            drops: (!kernel).then_some(2),
            queue_drops: 3,
        }
    }

    pub(in super::super) fn measured() -> Measured {
        let mut cells = Vec::new();
        for directions in [Directions::One, Directions::Both] {
            for family in [Family::V4, Family::V6] {
                for (step, technique) in Technique::ALL.into_iter().enumerate() {
                    let base = 1.5 * (step + 1) as f64;
                    let rates = [base, base * 1.1, base * 0.9];
                    cells.push(Cell {
                        technique,
                        family,
                        directions,
                        slices: rates.map(|rate| slice(rate, technique)).into(),
                    });
                }
            }
        }
        Measured {
            mtu: 1500,
            elapsed_s: 30.02,
            load: None,
            ksoftirqd: true,
            cells,
            switches: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_the_median_of_rates_and_the_sum_of_costs() {
        let demo = of(samples::measured());
        let row = &demo.rows[0];
        assert!((row.gbit_per_s - 1.5).abs() < 1e-6, "{row:?}");
        assert!((row.spread.expect("three slices") - 0.1).abs() < 1e-6);
        // 0.9 s of CPU over 3 * 0.2 s at 1.5 Gbit/s = 0.1125 GB.
        assert!((row.cpu_s_per_gb.expect("bytes") - 8.0).abs() < 1e-6);
        assert_eq!(
            (row.retransmits, row.drops, row.queue_drops),
            (3, Some(6), 9)
        );
        assert_eq!(row.segments_per_packet, Some(1.0));
        assert!(row.intact && demo.books_balanced);
    }

    #[test]
    fn one_wrong_byte_or_no_look_at_all_is_not_intact() {
        for intact in [Some(false), None] {
            let mut measured = samples::measured();
            measured.cells[3].slices[1].report.intact = intact;
            let rows = of(measured).rows;
            assert_eq!(rows.iter().filter(|row| !row.intact).count(), 1);
            assert!(!rows[3].intact);
        }
    }

    #[test]
    fn the_conclusion_follows_the_numbers() {
        let mut rows = of(samples::measured()).rows;
        assert_eq!(
            conclusion(&rows),
            "Over IPv4 in one direction, gro carried 2.0 and tso 3.0 times as much as none, with 0.50 and 0.33 times \
             the CPU per byte; the kernel's own path carried 2.5 times as much as gro and 2.0 times as much as tso."
        );
        rows[1].gbit_per_s = 0.75;
        let text = conclusion(&rows);
        assert!(text.contains("gro carried 0.50 and"), "{text}");
        assert!(text.contains("carried 10.0 times as much as gro"), "{text}");
        rows[0].gbit_per_s = 0.0;
        assert!(conclusion(&rows).starts_with("Too little arrived"));
    }

    #[test]
    fn shares_are_of_all_ends_most_frequent_first() {
        let mut counts = Counts::<End>::new();
        counts.count(End::Push);
        (0..3).for_each(|_| counts.count(End::BurstEnd));
        let shares = shares(&counts);
        let short: Vec<_> = shares.iter().map(|s| (s.reason, s.percent)).collect();
        assert_eq!(short, [("burst_end", 75.0), ("push", 25.0)]);
    }

    #[test]
    fn the_json_has_the_promised_keys() {
        let json = serde_json::to_value(of(samples::measured())).expect("JSON");
        let row = &json["rows"][1];
        for key in [
            "technique",
            "family",
            "direction",
            "gbit_per_s",
            "spread",
            "cpu_s_per_gb",
            "switch_user_s_per_gb",
            "switch_sys_s_per_gb",
            "segments_per_packet",
            "retransmits",
            "drops",
            "intact",
        ] {
            assert!(!row[key].is_null(), "{key}");
        }
        assert_eq!(
            (&row["technique"], &row["family"]),
            (&"gro".into(), &"ipv4".into())
        );
        assert!(json["rows"][4]["switch_user_s_per_gb"].is_null());
    }
}
