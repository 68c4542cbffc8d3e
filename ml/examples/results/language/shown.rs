//! What the cells of `language` say: tables and plots.

use super::{ADAMW, BATCH, CURVE, DENSE, FRESH_INNER, H, HELD_OUT, NO_FEEDBACK, OURS, STEPS, TRAINERS, WARM, cell};
use crate::grid::{figures, plus_minus, those};
use crate::report::{Report, Series, mean_ci};
use oda_consensus::manifest::Manifest;
use serde_json::{Value, json};

/// Reported cells: the chosen settings, and AdamW under every H.
fn chosen(lines: &[Value], method: &str, trainers: u32, h: u32) -> Vec<Value> {
    let h = if method == ADAMW { 30 } else { h };
    let wanted = cell(method, trainers, h, 0);
    let same = |line: &&Value| {
        let cell = &line["cell"];
        let rest = wanted.as_object().into_iter().flatten().filter(|(key, _)| *key != "seed");
        cell["seed"].as_u64().is_some_and(|s| s < 100) && rest.into_iter().all(|(key, value)| cell[key] == *value)
    };
    lines.iter().filter(same).cloned().collect()
}

fn losses(lines: &[Value], method: &str, trainers: u32, h: u32) -> Vec<f64> {
    figures(&chosen(lines, method, trainers, h), &[], "loss")
}

/// Differences of two methods by seed.
fn differences(lines: &[Value], (a, b): (&str, &str), trainers: u32, h: u32) -> Vec<f64> {
    let others = chosen(lines, b, trainers, h);
    let pair = |line: &Value| {
        let other = those(&others, &[("seed", line["cell"]["seed"].clone())]);
        Some(line["result"]["loss"].as_f64()? - other.first()?["result"]["loss"].as_f64()?)
    };
    chosen(lines, a, trainers, h).iter().filter_map(pair).collect()
}

fn mean(values: &[f64]) -> f64 {
    mean_ci(values).0
}

/// Bytes a trainer sends in a round.
fn a_round(lines: &[Value]) -> f64 {
    let of = |line: &Value| Some(line["result"]["sent"].as_f64()? / line["result"]["rounds"].as_f64()?);
    mean(&lines.iter().filter_map(of).collect::<Vec<_>>())
}

/// The report of all cells there are.
pub fn write(m: &Manifest, lines: &[Value]) -> Report {
    let mut r = Report::new("language", "Language model: sparse deltas against dense ones, at equal tokens");
    let tokens = u64::from(STEPS) * u64::from(BATCH) * 64;
    r.text(&format!(
        "`models/bytes-1m.toml`: a byte-level transformer of {} parameters on the King James text. Every cell reads \
         the same number of bytes, {tokens} ({STEPS} steps of {BATCH} windows of 64 bytes, of all trainers together), \
         {} and the same samples and initial weights of its seed. The \
         loss is the mean in nats per byte over {HELD_OUT} held-out windows, measured in float64; ± is the half width of \
         the 95 % interval over seeds (Student's t).",
        m.parameters(),
        if WARM > 0 { format!("after {WARM} common steps of AdamW,") } else { "from random weights,".into() },
    ));
    r.text(
        "* **AdamW**: one gradient over the batches of all trainers each step; a dense gradient is sent every step.\n\
         * **dense DiLoCo**: H local AdamW steps, mean of the dense deltas, outer Nesterov momentum 0.9.\n\
         * **ours**: H local AdamW steps, the delta and 0.95 of what earlier ones left out compressed to 64 of each 4,096 \
         weights at 2 bits, decoded, clipped to the median norm, averaged, plain outer step.",
    );
    results(&mut r, lines);
    bytes(&mut r, lines);
    ablations(&mut r, lines);
    searched(&mut r, lines);
    r.text(
        "## Repeat\n\n`nice cargo run --release -p oda-ml --example results -- language` (add `--minutes M` to stop in \
         between and go on later; `--tune` for the search). Cells are kept in `language.jsonl`; delete it to begin anew. \
         Each cell runs on one thread.",
    );
    r
}

fn results(r: &mut Report, lines: &[Value]) {
    r.text("## Loss");
    let (mut rows, mut worse, mut compared) = (Vec::new(), Vec::new(), 0);
    let mut sorted = TRAINERS;
    sorted.sort_unstable();
    for h in H {
        let mut series: Vec<Series> = Vec::new();
        for method in [ADAMW, DENSE, OURS] {
            let mut s = Series { name: method.into(), points: Vec::new(), error: Some(Vec::new()) };
            for k in sorted {
                let values = losses(lines, method, k, h);
                if !values.is_empty() {
                    let (y, half) = mean_ci(&values);
                    s.points.push((f64::from(k), y));
                    s.error.get_or_insert_default().push(half);
                }
            }
            series.push(s);
        }
        for k in sorted {
            let difference = differences(lines, (OURS, DENSE), k, h);
            let ours = losses(lines, OURS, k, h);
            if ours.is_empty() {
                continue;
            }
            if !difference.is_empty() {
                compared += 1;
                let (d, half) = mean_ci(&difference);
                if d > half {
                    worse.push(format!("k = {k}, H = {h} ({d:+.3})"));
                }
            }
            let of = |method: &str| plus_minus(&losses(lines, method, k, h), 3);
            rows.push(vec![
                h.to_string(),
                k.to_string(),
                (STEPS / k).div_ceil(h).to_string(),
                of(ADAMW),
                of(DENSE),
                of(OURS),
                plus_minus(&difference, 3),
                ours.len().to_string(),
            ]);
        }
        r.plot(
            &format!("h{h}"),
            &format!("Loss by number of trainers, H = {h}"),
            "trainers k",
            "nats per byte",
            &series,
        );
    }
    let head = ["H", "k", "rounds", ADAMW, DENSE, OURS, "ours - dense, by seed", "seeds"];
    r.table(&head, &rows);
    let starts = figures(lines, &[("seed", json!(0)), ("warm", json!(WARM))], "start");
    if let Some(start) = starts.first() {
        r.text(&format!("The common start of seed 0 has a loss of {start:.3}."));
    }
    let verdict = if worse.is_empty() {
        format!(
            "In none of {compared} settings is ours worse than dense DiLoCo beyond the 95 % interval of the difference."
        )
    } else {
        let n = worse.len();
        format!(
            "Beyond the 95 % interval of the difference, ours is worse than dense DiLoCo in {n} of {compared} settings: {}.",
            worse.join("; ")
        )
    };
    r.text(&verdict);
    let mut gaps = Vec::new();
    for h in H {
        let mut s = Series { name: format!("H = {h}"), points: Vec::new(), error: None };
        for k in sorted {
            let d = differences(lines, (OURS, DENSE), k, h);
            if !d.is_empty() {
                s.points.push((f64::from((STEPS / k).div_ceil(h)), mean(&d)));
            }
        }
        s.points.sort_by(|a, b| a.0.total_cmp(&b.0));
        gaps.push(s);
    }
    gaps.retain(|s| !s.points.is_empty());
    r.plot(
        "gap",
        "What sparse deltas cost, by number of rounds",
        "rounds",
        "ours - dense DiLoCo, nats per byte",
        &gaps,
    );
}

fn bytes(r: &mut Report, lines: &[Value]) {
    r.text("## Bytes");
    let mut rows = Vec::new();
    for h in H {
        let (ours, dense, adamw) = (chosen(lines, OURS, 4, h), chosen(lines, DENSE, 4, h), chosen(lines, ADAMW, 4, h));
        if ours.is_empty() || dense.is_empty() || adamw.is_empty() {
            continue;
        }
        let total = |lines: &[Value]| mean(&figures(lines, &[], "sent"));
        rows.push(vec![
            h.to_string(),
            format!("{:.0}", a_round(&dense)),
            format!("{:.0}", a_round(&ours)),
            format!("**{:.0}**", a_round(&dense) / a_round(&ours)),
            format!("{:.0}", total(&adamw) / total(&ours)),
            format!("{:.2}", figures(&ours, &[], "norm").iter().copied().fold(0.0, f64::max)),
        ]);
    }
    let head = [
        "H (k = 4)",
        "dense f32, bytes a round",
        "ours, bytes a round",
        "ratio",
        "AdamW sends more, times",
        "largest norm of a delta",
    ];
    r.table(&head, &rows);
    let mut series = Vec::new();
    for (method, h) in [(ADAMW, 30), (DENSE, 30), (OURS, 30), (DENSE, 100), (OURS, 100)] {
        let all = chosen(lines, method, 4, h);
        let curves: Vec<Vec<(f64, f64)>> = all.iter().map(curve).collect();
        let points: Vec<(f64, f64)> = (0..curves.first().map_or(0, Vec::len))
            .map(|i| {
                let at = |c: &Vec<(f64, f64)>| c.get(i).copied();
                let here: Vec<(f64, f64)> = curves.iter().filter_map(at).collect();
                let (x, y): (Vec<f64>, Vec<f64>) = here.into_iter().unzip();
                (mean(&x), mean(&y))
            })
            .collect();
        let name = if method == ADAMW { method.into() } else { format!("{method}, H = {h}") };
        series.push(Series { name, points, error: None });
    }
    series.retain(|s| !s.points.is_empty());
    r.plot("bytes", "Loss over bytes sent, k = 4", "bytes sent by one trainer", "nats per byte", &series);
    r.text(&format!(
        "Curves are means over seeds on the first {CURVE} held-out windows, hence not quite the losses above."
    ));
}

/// Bytes sent and loss.
fn curve(line: &Value) -> Vec<(f64, f64)> {
    let points = line["result"]["curve"].as_array().into_iter().flatten();
    points.filter_map(|p| Some((p[1].as_f64()?, p[2].as_f64()?))).collect()
}

fn ablations(r: &mut Report, lines: &[Value]) {
    let row = |method: &str| {
        let values = losses(lines, method, 4, 30);
        let against = differences(lines, (method, OURS), 4, 30);
        vec![method.into(), plus_minus(&values, 3), plus_minus(&against, 3), values.len().to_string()]
    };
    r.text("## What the parts are worth (k = 4, H = 30)");
    r.table(&["", "loss", "more than ours, by seed", "seeds"], &[OURS, NO_FEEDBACK, FRESH_INNER].map(row));
}

fn searched(r: &mut Report, lines: &[Value]) {
    let found = those(lines, &[("seed", json!(100))]);
    let row = |line: &&Value| {
        let (cell, result) = (&line["cell"], &line["result"]);
        let word = |v: &Value| v.as_str().map_or_else(|| v.to_string(), String::from);
        let mut out: Vec<String> =
            ["method", "trainers", "h", "steps", "batch", "lr_micro", "outer_milli"].map(|k| word(&cell[k])).to_vec();
        out.push(result["loss"].as_f64().map_or("-".into(), |l| format!("{l:.3}")));
        out
    };
    r.text("## What was tried before (seed 100, not reported above)");
    let head = ["method", "k", "H", "steps", "batch", "lr, millionths", "outer step, thousandths", "loss"];
    r.table(&head, &found.iter().map(row).collect::<Vec<_>>());
}
