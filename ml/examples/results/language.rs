//! Do sparse deltas train a language model as well as dense ones, at the same number of bytes read?
//!
//! A byte-level transformer of a million parameters on the King James text, by 1 to 8 trainers, in three ways:
//!
//! * **AdamW**: every step one gradient over the batches of all trainers, as in one data centre; each sends a dense
//!   gradient every step.
//! * **dense DiLoCo** (Douillard et al. 2023, arXiv 2311.08105): H local AdamW steps, dense deltas averaged, outer
//!   Nesterov momentum.
//! * **ours**: the same local steps; what is sent are the bytes of `oda-ml`'s compression with error feedback, read by
//!   the decoder of the validators and added up by the function that makes every new head.
//!
//! Trainers, samples, batches and initial weights are the same for all three; each method got its outer step by a
//! search on other seeds. The number of steps of all trainers together is the same in every cell, so with k trainers
//! each takes 1 / k of them.

mod shown;

use crate::grid::{self, number};
use crate::model::{self, Model, Trainer};
use crate::{Args, report};
use oda_consensus::ids::Beacon;
use oda_consensus::manifest::{Architecture, Manifest};
use oda_consensus::sample;
use oda_ml::{Dataset, Inner, MlError, aggregate};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex};

/// Rounds between averages, in local steps.
const H: [u32; 3] = [15, 30, 100];

/// Trainers, in the order in which cells are run.
const TRAINERS: [u32; 4] = [1, 8, 4, 2];

/// What the search on seed 100 chose; see the report.
const LR_MICRO: u32 = 1000;
const DENSE_OUTER_MILLI: u32 = 700;
const OURS_OUTER_MILLI: u32 = 4000;

/// Steps of all trainers together, windows a step, and steps of the common start.
const STEPS: u32 = 1600;
const BATCH: u32 = 4;
const WARM: u32 = 800;

/// Windows of the held-out sample, and of the smaller one for curves.
const HELD_OUT: u32 = 512;
const CURVE: u32 = 64;

/// Points of a curve; it is drawn for four trainers only.
const POINTS: u32 = 6;

const ADAMW: &str = "AdamW";
const DENSE: &str = "dense DiLoCo";
const OURS: &str = "ours";
const NO_FEEDBACK: &str = "ours without error feedback";
const FRESH_INNER: &str = "ours, AdamW begun afresh each round";

fn cell(method: &str, trainers: u32, h: u32, seed: u64) -> Value {
    let outer = match method {
        ADAMW => 1000,
        DENSE => DENSE_OUTER_MILLI,
        _ => OURS_OUTER_MILLI,
    };
    json!({
        "method": method, "trainers": trainers, "h": h, "seed": seed, "steps": STEPS, "batch": BATCH, "warm": WARM,
        "lr_micro": LR_MICRO, "outer_milli": outer, "chunk": 4096, "keep": 64,
    })
}

/// Seed 0 of everything first, so that an interrupted grid says something about everything.
fn cells(seeds: u64) -> Vec<Value> {
    let mut out = Vec::new();
    for seed in 0..seeds {
        for trainers in TRAINERS {
            for h in [30, 100, 15] {
                // the same whatever H: nothing is averaged
                if h == 30 {
                    out.push(cell(ADAMW, trainers, h, seed));
                }
                out.extend([OURS, DENSE].map(|method| cell(method, trainers, h, seed)));
            }
        }
        out.extend([NO_FEEDBACK, FRESH_INNER].map(|method| cell(method, 4, 30, seed)));
    }
    out
}

/// The search: one factor at a time, on a seed that is not reported.
fn tuning() -> Vec<Value> {
    let with = |method: &str, changes: &[(&str, u32)]| {
        let mut out = cell(method, 4, 30, 100);
        for (key, value) in changes {
            out[*key] = json!(value);
        }
        out
    };
    let outer = |method: &str, milli: u32| with(method, &[("outer_milli", milli)]);
    vec![
        outer(OURS, 1000),
        outer(DENSE, 700),
        with(ADAMW, &[]),
        outer(OURS, 2000),
        outer(DENSE, 400),
        with(ADAMW, &[("lr_micro", 2000)]),
        with(ADAMW, &[("lr_micro", 500)]),
        outer(DENSE, 200),
        outer(OURS, 4000),
        outer(OURS, 700),
        // from random weights
        with(OURS, &[("warm", 0)]),
        with(DENSE, &[("warm", 0)]),
    ]
}

/// Runs the experiment.
///
/// # Errors
/// If the model cannot be loaded, a cell fails or a file cannot be written.
pub fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let mut language = Language::new(Model::load(&args.root.join("models/bytes-1m.toml"))?);
    let path = args.out.join("language.jsonl");
    let mut wanted = cells(args.seeds.unwrap_or(3));
    if args.quick {
        language.shrink()?;
        wanted = [ADAMW, DENSE, OURS, NO_FEEDBACK, FRESH_INNER].map(|method| cell(method, 2, 2, 0)).to_vec();
        for cell in &mut wanted {
            (cell["steps"], cell["batch"]) = (json!(16), json!(2));
        }
    } else if args.tune {
        wanted = tuning();
    }
    grid::run(&wanted, &path, args, |cell| language.train(cell))?;
    shown::write(&language.model.manifest, &report::load(&path)).write(&args.out)?;
    Ok(())
}

/// Weights from which all methods begin, and their loss.
struct Start {
    head: Vec<f32>,
    loss: f64,
}

/// The model and what cells share.
struct Language {
    model: Model,
    held_out: Vec<u32>,
    curve: Vec<u32>,
    starts: Mutex<BTreeMap<String, Arc<Start>>>,
}

impl Language {
    fn new(model: Model) -> Self {
        let held_out = sample::draw([0x4e; 32], model.manifest.data.eval.samples, HELD_OUT);
        let curve = held_out.iter().copied().take(CURVE as usize).collect();
        Self { model, held_out, curve, starts: Mutex::default() }
    }

    /// A model of a few thousand parameters on the same text.
    fn shrink(&mut self) -> Result<(), MlError> {
        self.model.manifest.architecture = Architecture::Transformer { context: 64, width: 8, layers: 1, heads: 2 };
        self.held_out.truncate(16);
        self.curve.truncate(4);
        Ok(())
    }

    fn manifest(&self, cell: &Value) -> Result<Manifest, MlError> {
        let mut m = self.model.manifest.clone();
        (m.training.inner_steps, m.training.batch) = (number(cell, "h")?, number(cell, "batch")?);
        (m.training.lr_micro, m.training.outer_lr_milli) = (number(cell, "lr_micro")?, number(cell, "outer_milli")?);
        (m.training.chunk, m.training.keep_per_chunk) = (number(cell, "chunk")?, number(cell, "keep")?);
        m.training.feedback_milli = if cell["method"] == NO_FEEDBACK { 0 } else { 950 };
        // every window of a shard once
        m.judging.shard_samples = m.training.inner_steps * m.training.batch;
        // limits are not what is measured here; the largest norm is reported
        m.judging.norm_cap_milli = 1_000_000;
        Ok(m)
    }

    /// Initial weights of a seed, after the common first steps if there are any.
    fn start(&self, cell: &Value, manifest: &Manifest) -> Result<Arc<Start>, MlError> {
        let (seed, warm) = (number(cell, "seed")?, number(cell, "warm")?);
        let key = format!("{seed} {warm} {} {}", manifest.training.batch, manifest.training.lr_micro);
        let mut starts = self.starts.lock().map_err(|_| MlError::Data("another cell failed".into()))?;
        if let Some(start) = starts.get(&key) {
            return Ok(start.clone());
        }
        let mut head = self.model.initial(manifest, seed);
        if warm > 0 {
            let mut m = manifest.clone();
            m.judging.shard_samples = warm * m.training.batch;
            let mut trainer = Trainer::several(1, &m, head.len());
            let change = trainer[0].train(&self.model, &m, (0, model::beacon(seed)), &head, warm)?;
            head.iter_mut().zip(change).for_each(|(w, c)| *w += c);
        }
        let loss = self.loss(manifest, &head, &self.held_out)?;
        let start = Arc::new(Start { head, loss });
        starts.insert(key, start.clone());
        Ok(start)
    }

    fn loss(&self, m: &Manifest, head: &[f32], indices: &[u32]) -> Result<f64, MlError> {
        let eval: &Dataset = &self.model.data.eval;
        Ok(model::measure(m, head, eval, indices)?.0)
    }

    fn train(&self, cell: &Value) -> Result<Value, MlError> {
        let m = self.manifest(cell)?;
        let method = cell["method"].as_str().unwrap_or_default();
        let (count, h) = (number(cell, "trainers")?, number(cell, "h")?);
        let each = number(cell, "steps")? / count.max(1);
        let rounds = each.div_ceil(h.max(1));
        let start = self.start(cell, &m)?;
        let mut head = start.head.clone();
        let parameters = head.len();
        let mut way = Way::new(method, &m, count, parameters);
        let mut beacon = model::beacon(number(cell, "seed")?);
        let (mut sent, mut largest, mut norm, mut curve) = (0u64, 0u64, 0f64, Vec::new());
        for round in 1..=rounds {
            let steps = h.min(each - h * (round - 1));
            let seen = way.round(&self.model, &m, (round, beacon), &mut head, steps)?;
            sent += seen.bytes;
            (largest, norm) = (largest.max(seen.bytes), norm.max(seen.norm));
            if count == 4 && round * POINTS / rounds > (round - 1) * POINTS / rounds {
                let done = (h * round).min(each) * count;
                curve.push(json!([done, sent, self.loss(&m, &head, &self.curve)?]));
            }
            beacon = beacon.next(b"results");
        }
        Ok(json!({
            "loss": self.loss(&m, &head, &self.held_out)?, "rounds": rounds, "sent": sent, "largest_sent": largest,
            "dense": 4 * parameters, "norm": norm, "curve": curve, "start": start.loss,
        }))
    }
}

/// What a round cost one trainer, on average over the trainers, and the largest norm of a delta.
struct Seen {
    bytes: u64,
    norm: f64,
}

/// The state of a method.
enum Way {
    AdamW { count: u32, inner: Inner },
    Dense { trainers: Vec<Trainer>, momentum: Vec<f32> },
    Ours { trainers: Vec<Trainer>, fresh: bool },
}

impl Way {
    fn new(method: &str, m: &Manifest, count: u32, parameters: usize) -> Self {
        let trainers = Trainer::several(count, m, parameters);
        match method {
            ADAMW => Self::AdamW { count, inner: Inner::new(parameters) },
            DENSE => Self::Dense { trainers, momentum: vec![0.0; parameters] },
            _ => Self::Ours { trainers, fresh: method == FRESH_INNER },
        }
    }

    fn round(
        &mut self,
        model: &Model,
        m: &Manifest,
        (round, start): (u32, Beacon),
        head: &mut Vec<f32>,
        steps: u32,
    ) -> Result<Seen, MlError> {
        let dense = 4 * head.len() as u64;
        match self {
            Self::AdamW { count, inner } => {
                // the shards of all trainers, one batch from each a step
                let mut joint = m.clone();
                joint.training.batch *= *count;
                let shard = |i| oda_ml::judge::shard(m, model.id, round.into(), start, model::node(i));
                let indices: Vec<u32> = (0..*count).flat_map(shard).collect();
                let seed = start.seed("results, batches", &[]);
                let change = model::train(model, &joint, head, &indices, steps, seed, inner)?;
                add(head, &change, 1.0);
                Ok(Seen { bytes: dense * u64::from(steps), norm: norm(&change) })
            }
            Self::Dense { trainers, momentum } => {
                let (mut sum, mut largest) = (vec![0.0f32; head.len()], 0f64);
                for trainer in trainers.iter_mut() {
                    let change = trainer.train(model, m, (round, start), head, steps)?;
                    largest = largest.max(norm(&change));
                    add(&mut sum, &change, 1.0);
                }
                // Nesterov momentum 0.9 as PyTorch's SGD has it, the mean delta in the gradient's place
                #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
                let (share, rate) =
                    (1.0 / trainers.len() as f32, (f64::from(m.training.outer_lr_milli) / 1000.0) as f32);
                for ((w, v), s) in head.iter_mut().zip(momentum).zip(&sum) {
                    let mean = s * share;
                    *v = 0.9 * *v + mean;
                    *w += rate * (mean + 0.9 * *v);
                }
                Ok(Seen { bytes: dense, norm: largest })
            }
            Self::Ours { trainers, fresh } => {
                let (mut deltas, mut bytes, mut largest) = (Vec::new(), 0, 0f64);
                for trainer in trainers.iter_mut() {
                    if *fresh {
                        trainer.inner = Inner::new(head.len());
                    }
                    let change = trainer.train(model, m, (round, start), head, steps)?;
                    let sent = trainer.feedback.compress(&change, &m.training);
                    bytes += sent.len() as u64;
                    let delta = model::received(&sent, m, head.len())?;
                    largest = largest.max(delta.norm());
                    deltas.push(delta);
                }
                let accepted: Vec<_> = deltas.iter().collect();
                *head = aggregate::new_head(head, &accepted, m.training.outer_lr_milli);
                Ok(Seen { bytes: bytes / deltas.len().max(1) as u64, norm: largest })
            }
        }
    }
}

fn add(to: &mut [f32], change: &[f32], scale: f32) {
    to.iter_mut().zip(change).for_each(|(w, c)| *w += scale * c);
}

fn norm(change: &[f32]) -> f64 {
    change.iter().map(|c| f64::from(*c).powi(2)).sum::<f64>().sqrt()
}
