//! Figures by work, switch and unit.

use std::fmt::Write as _;

/// All figures, in the order they first came.
#[derive(Debug, Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    work: String,
    engine: String,
    unit: String,
    values: Vec<f64>,
}

impl Row {
    /// Median, least and greatest.
    fn summary(&self) -> [f64; 3] {
        let mut values = self.values.clone();
        values.sort_by(f64::total_cmp);
        [
            values[values.len() / 2],
            values[0],
            values[values.len() - 1],
        ]
    }
}

impl Report {
    /// Notes a figure. One that is none (a switch did not say what it spent) is left out.
    pub(crate) fn add(&mut self, work: &str, engine: &str, unit: &str, value: f64) {
        if !value.is_finite() {
            return;
        }
        let same = |row: &&mut Row| row.work == work && row.engine == engine && row.unit == unit;
        if let Some(row) = self.rows.iter_mut().find(same) {
            return row.values.push(value);
        }
        self.rows.push(Row {
            work: work.into(),
            engine: engine.into(),
            unit: unit.into(),
            values: vec![value],
        });
    }

    /// `{"rows":[{"work","engine","unit","median","min","max"}]}`.
    pub(crate) fn json(&self) -> String {
        let rows = self.rows.iter().map(|row| {
            let [median, min, max] = row.summary();
            format!(
                r#"{{"work":"{}","engine":"{}","unit":"{}","median":{median:.4},"min":{min:.4},"max":{max:.4}}}"#,
                row.work, row.engine, row.unit
            )
        });
        format!(
            "{{\"rows\":[\n{}\n]}}",
            rows.collect::<Vec<_>>().join(",\n")
        )
    }

    /// A line for each work and unit, a column for each switch: median (least to greatest).
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        let mut last = "";
        for row in self.sorted() {
            if row.work != last {
                let _ = writeln!(text, "\n{}", row.work);
                last = &row.work;
            }
            let [median, min, max] = row.summary().map(short);
            let _ = writeln!(
                text,
                "  {:24} {:20} {median:>9} ({min} to {max})",
                row.unit, row.engine
            );
        }
        text
    }

    /// By work, then unit, in the order they first came.
    fn sorted(&self) -> Vec<&Row> {
        let place = |row: &Row| {
            let work = self.rows.iter().position(|other| other.work == row.work);
            let unit = self
                .rows
                .iter()
                .position(|other| other.unit == row.unit && other.work == row.work);
            (work, unit)
        };
        let mut rows: Vec<_> = self.rows.iter().collect();
        rows.sort_by_key(|row| place(row));
        rows
    }
}

/// Three digits.
fn short(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0..100.0 => format!("{value:.1}"),
        1.0..10.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}
