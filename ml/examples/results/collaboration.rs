//! Is a model trained by several as good as one trained by one, with the same compute?
//!
//! The full Fashion-MNIST set and the perceptron of `models/fashion-mnist.toml`. Comparing after the same number of
//! rounds would flatter the crowd, which did k times the work. So every run takes the same number of optimiser
//! steps and samples in all: one trainer takes them one after the other, k trainers a k-th each, and what they send is
//! compressed and averaged as in the protocol. The official 10,000 test images judge all of them; the 60,000
//! training images are 54,000 to train on and 6,000 as the pool from which validators draw their samples.

use crate::grid::{self, figures, number, plus_minus, those};
use crate::model::{self, Model, Trainer};
use crate::report::{Report, Series, mean_ci};
use crate::{Args, report};
use oda_consensus::ids::{BlobRef, ClaimId, ModelId};
use oda_consensus::manifest::Manifest;
use oda_consensus::outcome::Outcome;
use oda_consensus::score::Verdict;
use oda_ml::data::import::idx;
use oda_ml::judge::{Claim, Round, Submitted};
use oda_ml::{Dataset, Inner, MlError, aggregate, judge, weights};
use serde_json::{Value, json};
use std::error::Error;
use std::path::Path;

/// Where Debian's package puts the set.
pub const DEBIAN: &str = "/usr/share/datasets/fashion-mnist";

/// Of the 60,000 training images, so many are the validators' pool.
const POOL: u32 = 6_000;

/// Optimiser steps of all trainers together: 11.4 passes over the training images.
const STEPS: u32 = 9_600;

/// Steps of all trainers between two points of a curve.
const POINT: u32 = 960;

/// Compression: of each chunk so many are kept; error feedback and outer step in thousandths, chosen on seed 100 and
/// by `settings`.
const KEPT: (u32, u32) = (1024, 128);
const FEEDBACK_MILLI: u32 = 950;
const OUTER_MILLI: u32 = 700;

const ONE: &str = "one AdamW trainer";
const TOGETHER: &str = "protocol";
const JUDGED: &str = "protocol, judged";

/// Samples of a shard when each is used once a round, H * batch.
const ONCE: u32 = 7_680;

fn cell(method: &str, trainers: u32, shard: u32, seed: u64, m: &Manifest) -> Value {
    let t = &m.training;
    json!({
        "method": method, "trainers": trainers, "shard": shard, "seed": seed, "steps": STEPS, "h": t.inner_steps,
        "batch": t.batch, "lr_micro": t.lr_micro, "chunk": KEPT.0, "keep": KEPT.1,
        "feedback_milli": FEEDBACK_MILLI, "outer_milli": OUTER_MILLI,
    })
}

fn cells(seeds: u64, m: &Manifest) -> Vec<Value> {
    let own = m.judging.shard_samples;
    let mut out = Vec::new();
    for seed in 0..seeds {
        out.push(cell(ONE, 1, own, seed, m));
        out.extend([1, 2, 4, 8].map(|k| cell(TOGETHER, k, own, seed, m)));
        out.push(cell(JUDGED, 4, own, seed, m));
        out.extend([1, 2, 4, 8].map(|k| cell(TOGETHER, k, ONCE, seed, m)));
    }
    out
}

/// Runs the experiment.
///
/// # Errors
/// If the data are not installed, a cell fails or a file cannot be written.
pub fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let mut model = Model::load(&args.root.join("models/fashion-mnist.toml"))?;
    let mut wanted = cells(args.seeds.unwrap_or(5), &model.manifest);
    if args.quick {
        let m = &model.manifest;
        wanted = [(ONE, 1), (TOGETHER, 2), (JUDGED, 2)].map(|(way, k)| cell(way, k, 512, 0, m)).to_vec();
        for cell in &mut wanted {
            (cell["steps"], cell["h"]) = (json!(80), json!(20));
        }
    } else {
        full(&mut model, args.data.as_deref().unwrap_or(Path::new(DEBIAN)))?;
    }
    let path = args.out.join("collaboration.jsonl");
    grid::run(&wanted, &path, args, |cell| train(&model, cell))?;
    write(&model.manifest, &report::load(&path)).write(&args.out)?;
    Ok(())
}

/// Puts the full set in the place of the part that the repository holds.
pub fn full(model: &mut Model, folder: &Path) -> Result<(), MlError> {
    let file = |name: &str| {
        let path = folder.join(name);
        std::fs::read(&path).map_err(|e| {
            let how = "install it (Debian: apt-get install dataset-fashion-mnist), or name its folder: --data DIR";
            MlError::Data(format!("{}: {e}. The full Fashion-MNIST set is needed; {how}", path.display()))
        })
    };
    let train = idx::read(file("train-images-idx3-ubyte.gz")?, file("train-labels-idx1-ubyte.gz")?)?;
    let test = idx::read(file("t10k-images-idx3-ubyte.gz")?, file("t10k-labels-idx1-ubyte.gz")?)?;
    let shape = model.manifest.architecture.sample();
    let data = &mut model.manifest.data;
    let cut = train.len().saturating_sub(POOL as usize);
    let parts = [
        (&mut data.train, &mut model.data.train, train.select(&(0..cut).collect::<Vec<_>>())),
        (&mut data.eval, &mut model.data.eval, train.select(&(cut..train.len()).collect::<Vec<_>>())),
        (&mut data.test, &mut model.data.test, test),
    ];
    for (split, there, rows) in parts {
        let bytes = rows.blob()?;
        split.samples = u32::try_from(rows.len()).unwrap_or(u32::MAX);
        split.blob = BlobRef::of(&bytes);
        *there = Dataset::from_bytes(bytes, shape, split.samples)?;
    }
    model.id = model.manifest.id();
    Ok(())
}

fn train(model: &Model, cell: &Value) -> Result<Value, MlError> {
    let mut m = model.manifest.clone();
    (m.training.inner_steps, m.judging.shard_samples) = (number(cell, "h")?, number(cell, "shard")?);
    (m.training.chunk, m.training.keep_per_chunk) = (number(cell, "chunk")?, number(cell, "keep")?);
    (m.training.feedback_milli, m.training.outer_lr_milli) =
        (number(cell, "feedback_milli")?, number(cell, "outer_milli")?);
    let (count, seed) = (number(cell, "trainers")?, number(cell, "seed")?);
    let (h, rounds) = (m.training.inner_steps, number(cell, "steps")? / (count * m.training.inner_steps).max(1));
    let mut head = model.initial(&m, seed);
    let parameters = head.len();
    let all: Vec<u32> = (0..model.manifest.data.test.samples).collect();
    let test = |head: &[f32]| model::measure(&m, head, &model.data.test, &all);
    let mut trainers = Trainer::several(count, &m, parameters);
    let mut one = Inner::new(parameters);
    let mut beacon = model::beacon(seed);
    let (mut accepted, mut adopted, mut largest, mut bytes) = (0u32, 0u32, 0f64, 0u64);
    let (loss, right) = test(&head)?;
    let mut curve = vec![json!([0, loss, right])];
    for round in 1..=rounds {
        let sealed = beacon.next(b"results, sealed");
        if cell["method"] == ONE {
            // any sample, as often as every other: the order goes on from round to round
            let everything: Vec<u32> = (0..m.data.train.samples).collect();
            let seed = beacon.seed("results, batches", &[]);
            let change = model::train(model, &m, &head, &everything, h, seed, &mut one)?;
            head.iter_mut().zip(change).for_each(|(w, c)| *w += c);
        } else {
            let mut sent = Vec::new();
            for trainer in &mut trainers {
                let change = trainer.train(model, &m, (round, beacon), &head, h)?;
                sent.push(trainer.feedback.compress(&change, &m.training));
            }
            bytes += sent.iter().map(|s| s.len() as u64).sum::<u64>();
            if cell["method"] == JUDGED {
                let parent = weights::to_bytes(&m, &head)?;
                let name = (m.id(), round);
                let r = Round {
                    manifest: &m,
                    model: model.id,
                    round: round.into(),
                    start: beacon,
                    sealed,
                    parent: &parent,
                    data: &model.data,
                };
                let (outcome, candidate) = judged(&r, name, &trainers, sent)?;
                accepted += count_accepted(&outcome);
                if let (true, Some(bytes)) = (outcome.adopted(), candidate) {
                    adopted += 1;
                    head = weights::from_bytes(&m, &bytes)?;
                }
            } else {
                let deltas: Result<Vec<_>, _> = sent.iter().map(|s| model::received(s, &m, parameters)).collect();
                let deltas = deltas?;
                largest = deltas.iter().map(|d| d.norm()).fold(largest, f64::max);
                head = aggregate::new_head(&head, &deltas.iter().collect::<Vec<_>>(), m.training.outer_lr_milli);
            }
        }
        beacon = sealed.next(b"results");
        let done = round * count * h;
        if done.is_multiple_of(POINT) {
            let (loss, right) = test(&head)?;
            curve.push(json!([done, loss, right]));
        }
    }
    let (loss, right) = test(&head)?;
    Ok(json!({
        "loss": loss, "right": right, "rounds": rounds, "accepted": accepted, "claims": rounds * count, "adopted": adopted,
        "norm": largest, "delta_bytes": bytes / u64::from((rounds * count).max(1)), "dense": 4 * parameters, "curve": curve,
    }))
}

fn count_accepted(outcome: &Outcome) -> u32 {
    outcome.claims.iter().map(|c| u32::from(c.verdict == Verdict::Accepted)).sum()
}

/// The round as validators replay it, and what follows.
fn judged(
    r: &Round<'_>,
    (id, round): (ModelId, u32),
    trainers: &[Trainer],
    sent: Vec<Vec<u8>>,
) -> Result<(Outcome, Option<Vec<u8>>), MlError> {
    let claims = trainers.iter().zip(sent).map(|(trainer, bytes)| Claim {
        id: ClaimId(trainer.id.0),
        trainer: trainer.id,
        submitted: Submitted::Delta { bytes, stated_unat: 0 },
    });
    let found = judge::replay(&model::TORCH, r, claims.collect())?;
    let name = (id, round.into(), BlobRef::of(r.parent), r.sealed);
    Ok((Outcome::derive(r.manifest, name, found.measured), found.candidate))
}

fn write(m: &Manifest, lines: &[Value]) -> Report {
    let t = &m.training;
    let mut r = Report::new("collaboration", "Fashion-MNIST: several trainers against one, at equal compute");
    r.text(&format!(
        "The full set ({} images to train on, {} as the validators' pool, the official {} test images), the perceptron of \
         `models/fashion-mnist.toml` ({} parameters). Every run takes {STEPS} steps of {} images in all; with k trainers \
         each takes 1 / k of them, {} between two averages, and sends {} of each {} changes (feedback {}, outer step {}). \
         The one trainer draws from all training images and sends nothing. ± is the half width of the 95 % interval \
         over seeds.",
        m.data.train.samples,
        m.data.eval.samples,
        m.data.test.samples,
        m.parameters(),
        t.batch,
        t.inner_steps,
        KEPT.1,
        KEPT.0,
        f64::from(FEEDBACK_MILLI) / 1000.0,
        f64::from(OUTER_MILLI) / 1000.0,
    ));
    let own = m.judging.shard_samples;
    let mut rows = Vec::new();
    for (method, k, shard) in ways(own) {
        let found = chosen(lines, method, k, shard, m);
        if found.is_empty() {
            continue;
        }
        let percent: Vec<f64> = figures(&found, &[], "right").iter().map(|x| 100.0 * x).collect();
        let sum = |figure: &str| figures(&found, &[], figure).iter().sum::<f64>();
        let verdicts = if method == JUDGED {
            format!(
                "{:.1} % of claims accepted, {:.0} of {:.0} heads adopted",
                100.0 * sum("accepted") / sum("claims"),
                sum("adopted"),
                sum("rounds")
            )
        } else {
            "-".into()
        };
        let name = name(method, k, shard);
        rows.push(vec![
            name,
            plus_minus(&percent, 2),
            plus_minus(&figures(&found, &[], "loss"), 4),
            format!("{:.0}", sum("rounds") / mean_len(&found)),
            format!("{:.0}", sum("delta_bytes") / mean_len(&found)),
            verdicts,
            found.len().to_string(),
        ]);
    }
    let head = ["", "test accuracy, %", "test loss, nats", "rounds", "bytes of a delta", "verdicts", "seeds"];
    r.table(&head, &rows);
    let (title, label) = ("Accuracy against the one trainer, same seed", "percentage points");
    r.bars("difference", title, label, &against_one(lines, m));
    for (suffix, title, label, at) in [
        ("accuracy", "Test accuracy over compute", "test accuracy, %", 2),
        ("loss", "Test loss over compute", "nats", 1),
    ] {
        let curves = [
            (ONE, 1, own),
            (TOGETHER, 2, own),
            (TOGETHER, 4, own),
            (JUDGED, 4, own),
            (TOGETHER, 8, own),
            (TOGETHER, 8, ONCE),
        ];
        let series: Vec<Series> = curves
            .iter()
            .map(|(method, k, shard)| line(&chosen(lines, method, *k, *shard, m), name(method, *k, *shard), at))
            .collect();
        r.plot(suffix, title, "steps of all trainers together", label, &series);
    }
    r.text(&format!(
        "A shard of {own} images is what the model file says: {} steps go over it {} times, which is what makes \
         assigned work provable; a shard of {ONCE} is used once.",
        t.inner_steps,
        t.inner_steps * t.batch / own.max(1),
    ));
    searched(&mut r, lines);
    r.text(
        "## Repeat\n\n`apt-get install dataset-fashion-mnist`, then `nice cargo run --release -p oda-ml --example results -- \
         collaboration`. Cells are kept in `collaboration.jsonl`; delete it to begin anew.",
    );
    r
}

/// What was tried before the settings were fixed.
fn searched(r: &mut Report, lines: &[Value]) {
    let row = |line: &&Value| {
        let (cell, result) = (&line["cell"], &line["result"]);
        let keys = ["trainers", "shard", "feedback_milli", "outer_milli"];
        let figure = |key: &str, scale: f64| result[key].as_f64().map_or("-".into(), |v| format!("{:.4}", scale * v));
        keys.iter().map(|key| cell[*key].to_string()).chain([figure("right", 100.0), figure("loss", 1.0)]).collect()
    };
    let rows: Vec<Vec<String>> = those(lines, &[("seed", json!(100))]).iter().map(row).collect();
    r.text("## What was tried before (seed 100, not reported above)");
    r.table(&["k", "shard", "feedback, thousandths", "outer step, thousandths", "accuracy, %", "loss"], &rows);
}

/// Every way to train, in the order of the tables.
fn ways(own: u32) -> [(&'static str, u32, u32); 10] {
    let together = |k| (TOGETHER, k, own);
    let once = |k| (TOGETHER, k, ONCE);
    let judged = (JUDGED, 4, own);
    [(ONE, 1, own), together(1), together(2), together(4), judged, together(8), once(1), once(2), once(4), once(8)]
}

#[allow(clippy::cast_precision_loss)]
fn mean_len(found: &[Value]) -> f64 {
    found.len().max(1) as f64
}

fn name(method: &str, k: u32, shard: u32) -> String {
    if method == ONE { ONE.into() } else { format!("{method}, k = {k}, shard {shard}") }
}

fn chosen(lines: &[Value], method: &str, k: u32, shard: u32, m: &Manifest) -> Vec<Value> {
    let mut wanted = cell(method, k, shard, 0, m);
    let seedless = wanted.as_object_mut().map(|o| o.remove("seed"));
    let with: Vec<(&str, Value)> = match (seedless, wanted.as_object()) {
        (Some(_), Some(o)) => o.iter().map(|(k, v)| (k.as_str(), v.clone())).collect(),
        _ => Vec::new(),
    };
    let reported = |line: &&Value| line["cell"]["seed"].as_u64().is_some_and(|seed| seed < 100);
    those(lines, &with).into_iter().filter(reported).cloned().collect()
}

/// Mean curve over seeds; `at` is the place of the figure in a point.
fn line(found: &[Value], name: String, at: usize) -> Series {
    let scale = if at == 2 { 100.0 } else { 1.0 };
    let curves: Vec<&Vec<Value>> = found.iter().filter_map(|l| l["result"]["curve"].as_array()).collect();
    let mut out = Series { name, points: Vec::new(), error: Some(Vec::new()) };
    // the start, where nothing is known yet, would flatten all the rest
    for i in 1..curves.first().map_or(0, |c| c.len()) {
        let here: Vec<f64> = curves.iter().filter_map(|c| c.get(i)?[at].as_f64()).map(|v| scale * v).collect();
        let x = curves.first().and_then(|c| c.get(i)?[0].as_f64()).unwrap_or(0.0);
        let (y, half) = mean_ci(&here);
        out.points.push((x, y));
        out.error.get_or_insert_default().push(half);
    }
    out
}

/// Differences in accuracy by seed.
fn against_one(lines: &[Value], m: &Manifest) -> Vec<(String, f64, f64)> {
    let own = m.judging.shard_samples;
    let one = chosen(lines, ONE, 1, own, m);
    let mut out = Vec::new();
    for (method, k, shard) in ways(own).into_iter().skip(1) {
        let pair = |line: &Value| {
            let other = those(&one, &[("seed", line["cell"]["seed"].clone())]);
            Some(100.0 * (line["result"]["right"].as_f64()? - other.first()?["result"]["right"].as_f64()?))
        };
        let differences: Vec<f64> = chosen(lines, method, k, shard, m).iter().filter_map(pair).collect();
        if !differences.is_empty() {
            let (mean, half) = mean_ci(&differences);
            out.push((name(method, k, shard), mean, half));
        }
    }
    out
}
