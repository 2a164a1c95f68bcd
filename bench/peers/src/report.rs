//! The table and the JSON.

use serde_json::{Value, json};

use crate::bench::{Contender, Work};

/// One table per work: nanoseconds, how many times the engine's they are, what was done for them.
pub(crate) fn table(works: &[Work]) -> String {
    let mut out = String::new();
    let wide = |len: fn(&Contender) -> usize| {
        let all = works.iter().flat_map(|work| &work.contenders);
        all.map(len).max().unwrap_or(0)
    };
    let engine_wide = wide(|contender| contender.engine.len());
    let does_wide = wide(|contender| contender.does.len());
    for work in works {
        out += &format!(
            "\n{}\n  {:engine_wide$}  {:>10}  {:>21}  {:>7}  {:does_wide$}\n",
            work.name, "engine", work.unit, "min to max", "ratio", "does"
        );
        let base = work
            .contenders
            .first()
            .map_or(f64::NAN, |first| first.median());
        for contender in &work.contenders {
            let (median, min, max) = (contender.median(), contender.min(), contender.max());
            let line = format!(
                "  {:engine_wide$}  {median:10.1}  {:>21}  {:6.2}x  {:does_wide$}  {}",
                contender.engine,
                format!("{min:.1} to {max:.1}"),
                median / base,
                contender.does,
                contender.note,
            );
            out += line.trim_end();
            out.push('\n');
        }
    }
    out
}

/// `{"rows":[{"work","engine","unit","median","min","max"}]}`; lower is better everywhere. Rows of another
/// run come first; only rows of equal `run` compare.
pub(crate) fn json(before: Option<&str>, works: &[Work], dpdk: &str) -> Result<Value, String> {
    let before = before.filter(|text| !text.trim().is_empty());
    let before: Option<Value> = before
        .map(serde_json::from_str)
        .transpose()
        .map_err(|e| e.to_string())?;
    let mut rows = before
        .and_then(|mut value| Some(value.get_mut("rows")?.as_array_mut()?.split_off(0)))
        .unwrap_or_default();
    for work in works {
        rows.extend(work.contenders.iter().map(|one| row(work, one, dpdk)));
    }
    Ok(json!({ "rows": rows }))
}

fn row(work: &Work, contender: &Contender, dpdk: &str) -> Value {
    json!({
        "work": work.name,
        "engine": contender.engine,
        "unit": work.unit,
        "median": contender.median(),
        "min": contender.min(),
        "max": contender.max(),
        "does": contender.does,
        "note": contender.note,
        "run": format!("dpdk-{dpdk}"),
    })
}
