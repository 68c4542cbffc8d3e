//! What 500 queries of a public score are worth: to the submitter, and to whoever pays.
//!
//! The public evaluation set has 1,000 samples, and each query tells how a head scores on it. With the score known
//! and
//! fixed, pay follows the public score; by the project's rules (S3, S5) the same head is judged on samples drawn
//! after
//! it was handed in and paid for the lower bound only. True gain is measured on data nobody used.

use crate::Args;
use crate::grid;
use crate::pay::{Mean, gain};
use crate::report::{Report, Series, mean_ci};
use crate::strategies::{Fallible, Place, Recipe, Remember, Trainer, World, norm};
use oda_consensus::ids::Beacon;
use oda_consensus::manifest::{Architecture, Manifest, WorkMode};
use oda_consensus::sample;
use oda_consensus::score::{Measurement, Verdict};
use oda_ml::{Batch, Dataset, MlError, cheat};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::error::Error;

/// Queries a submitter has.
const QUERIES: u32 = 500;

/// Samples of the public set, and of the gate and confirm samples of the rules.
const PUBLIC: u32 = 1000;

/// Draws of gate and confirm sample for each delta: what it would be paid on average.
const DRAWS: u64 = 6;

/// Steps before the attack begins, by a trainer with all of the training data.
const WARM_UP: u32 = 1500;

/// What the submitter does.
const ATTACKS: [&str; 6] = [
    "hill-climbing, random directions",
    "hill-climbing, directions made of images",
    "ensemble of random directions",
    "ensemble of directions made of images",
    "training on the public set",
    "training on the whole evaluation pool",
];

/// For comparison.
const HONEST: &str = "honest training";

/// What became of a delta.
#[derive(Clone, Serialize, Deserialize)]
struct Seen {
    /// Queries, public gain, gain on fresh data, micro-nats.
    path: Vec<(u32, f64, f64)>,
    /// Gain on the public set and on fresh data of what was handed in.
    public: Mean,
    fresh: Mean,
    /// Credit in free mode, mean over draws: if the public gain was stated, its lower bound, or the most that the
    /// gate sample would take (which nobody can know).
    free: [f64; 3],
    /// Draws in which the claim was accepted at all.
    accepted: [u64; 3],
    /// Draws in which more was paid than the gain on fresh data, stating the unknowable.
    overpaid: u64,
    /// Credit and number of acceptances in assigned mode.
    assigned: (f64, u64),
}

/// Runs what is missing and writes the report.
///
/// # Errors
/// If data are missing, training fails or a file cannot be written.
pub fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let path = args.out.join("overfit.jsonl");
    let mut report = Report::new("overfit", "500 queries against a public score");
    introduce(&mut report);
    let first = if args.tune { 100 } else { 0 };
    for (kind, usual) in [("linear", 6), ("mlp", 5)] {
        let seeds = if args.quick { 1 } else { args.seeds.unwrap_or(usual) };
        let world = World::load(&args.root, "fashion-mnist", |m| change(m, kind))?;
        let attacks: Vec<&str> = ATTACKS.into_iter().chain([HONEST]).collect();
        let cell =
            |seed: u64, attack: &str| json!({ "model": kind, "attack": attack, "seed": seed, "quick": args.quick });
        let cells: Vec<Value> =
            (first..first + seeds).flat_map(|seed| attacks.iter().map(move |a| cell(seed, a))).collect();
        let one = |cell: &Value| {
            let seed = cell["seed"].as_u64().ok_or_else(|| MlError::Data("a cell without a seed".into()))?;
            let queries = if args.quick { 20 } else { QUERIES };
            let seen = attack(&world, cell["attack"].as_str().unwrap_or(HONEST), seed, queries)?;
            serde_json::to_value(seen).map_err(|e| MlError::Data(e.to_string()))
        };
        let lines = grid::run(&cells, &path, args, one)?;
        if !lines.is_empty() {
            tell(&mut report, kind, &attacks, &lines)?;
        }
    }
    report.write(&args.out)?;
    Ok(())
}

/// The demo's model in free mode; deltas are sent whole, so that compression is not what stops an attack.
fn change(m: &mut Manifest, kind: &str) {
    if kind == "linear" {
        m.architecture = Architecture::Linear { inputs: 784, classes: 10 };
    }
    m.work_mode = WorkMode::Free;
    m.training.keep_per_chunk = m.training.chunk;
    m.judging.max_delta_bytes = 1 << 20;
    (m.judging.gate_samples, m.judging.confirm_samples, m.judging.screen_samples) = (PUBLIC, PUBLIC, 0);
    m.judging.norm_cap_milli = 1_000_000;
}

/// Directions to try.
struct Directions<'a> {
    world: &'a World,
    rng: ChaCha20Rng,
    images: bool,
}

impl Directions<'_> {
    /// A direction of norm 1.
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
    fn next(&mut self) -> Fallible<Vec<f32>> {
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        let mut out = cheat::random(self.world.head.len(), 1.0, seed);
        if self.images {
            // rows of the first layer become random mixtures of images: no energy is lost where all images are black
            let some = sample::draw(seed, self.world.data.train.len(), 32);
            let Batch::Bytes { inputs, .. } = self.world.data.train.batch(&some)? else { return Ok(out) };
            let layer = out.len() / 784 * 784;
            let rows = layer / 784;
            let (first, rest) = out.split_at_mut(layer.min(rows * 784));
            for row in first.chunks_mut(784) {
                let mixture: Vec<f32> = row.iter().take(32).copied().collect();
                row.fill(0.0);
                for (weight, image) in mixture.iter().zip(inputs.chunks(784)) {
                    row.iter_mut().zip(image).for_each(|(v, p)| *v += weight * f32::from(*p) / 255.0);
                }
            }
            rest.fill(0.0);
        }
        let size = norm(&out).max(1e-12);
        out.iter_mut().for_each(|v| *v = (f64::from(*v) / size) as f32);
        Ok(out)
    }
}

fn moved(a: &[f32], along: &[f32], by: f32) -> Vec<f32> {
    a.iter().zip(along).map(|(a, d)| a + by * d).collect()
}

/// Somebody who asks for scores.
struct Submitter<'a> {
    place: &'a Place<'a>,
    public: Vec<u32>,
    fresh: Vec<u32>,
    asked: u32,
    path: Vec<(u32, f64, f64)>,
}

impl Submitter<'_> {
    /// Gain of a delta, as it would be sent, on the public set: one query.
    fn ask(&mut self, dense: &[f32]) -> Fallible<f64> {
        self.asked += 1;
        let head = self.place.world.sent(dense)?.applied(&self.place.head, 1.0);
        Ok(gain(self.place, &head, &self.place.world.data.eval, &self.public, 0)?.0)
    }

    /// Notes how things stand, now and then.
    fn note(&mut self, dense: &[f32], every: u32) -> Fallible<()> {
        if self.asked.is_multiple_of(every) || self.asked <= 1 {
            let (public, fresh) = self.both(dense)?;
            self.path.push((self.asked, public.0, fresh.0));
        }
        Ok(())
    }

    fn both(&self, dense: &[f32]) -> Fallible<(Mean, Mean)> {
        let world = self.place.world;
        let head = world.sent(dense)?.applied(&self.place.head, 1.0);
        let on = |data: &Dataset, indices: &[u32]| gain(self.place, &head, data, indices, 0);
        Ok((on(&world.data.eval, &self.public)?, on(world.fresh(), &self.fresh)?))
    }

    /// Keeps each step that raises the public score; steps grow with success and shrink without (one-fifth rule,
    /// Rechenberg 1973).
    fn climb(&mut self, mut directions: Directions<'_>, queries: u32) -> Fallible<Vec<f32>> {
        let (mut at, mut best, mut size) = (vec![0.0; self.place.head.len()], 0.0, 0.3f32);
        while self.asked < queries {
            let next = moved(&at, &directions.next()?, size);
            let found = self.ask(&next)?;
            if found > best {
                (at, best, size) = (next, found, size * 1.3);
            } else {
                size *= 0.94;
            }
            self.note(&at, 50)?;
        }
        Ok(at)
    }

    /// Asks for many independent directions, turns each the way that scored better and adds them up, as the boosting
    /// attack
    /// of Blum and Hardt does with random votes (The Ladder, ICML 2015, arXiv 1502.04585); the length is found with
    /// the last
    /// queries.
    fn ensemble(&mut self, mut directions: Directions<'_>, queries: u32) -> Fallible<Vec<f32>> {
        let size = 0.3f32;
        let mut total = vec![0.0; self.place.head.len()];
        let mut kept: Vec<f32> = total.clone();
        let lengths: Vec<f32> = (0..10).map(|i| 0.1 * 1.6f32.powi(i)).collect();
        let last = u32::try_from(lengths.len()).unwrap_or(0).min(queries / 2);
        while self.asked < queries - last {
            let direction = directions.next()?;
            let found = self.ask(&direction.iter().map(|v| v * size).collect::<Vec<f32>>())?;
            // linear part of the gain along the direction, up to the same constant for all of them
            kept = moved(&total, &direction, (found / 1e6) as f32);
            total.clone_from(&kept);
        }
        let scale = norm(&kept).max(1e-12);
        let mut best = (0.0, vec![0.0; kept.len()]);
        for length in lengths.iter().take(last as usize) {
            #[allow(clippy::cast_possible_truncation)]
            let tried: Vec<f32> = kept.iter().map(|v| (f64::from(*v) / scale) as f32 * length).collect();
            let found = self.ask(&tried)?;
            if found > best.0 {
                best = (found, tried);
            }
        }
        let (public, fresh) = self.both(&best.1)?;
        self.path.extend([(0, 0.0, 0.0), (self.asked, public.0, fresh.0)]);
        Ok(best.1)
    }

    /// Gradient steps on some samples; each step asks once, and the best of all is handed in.
    fn train(&mut self, data: &Dataset, indices: &[u32], trainer: &mut Trainer, queries: u32) -> Fallible<Vec<f32>> {
        let (mut dense, mut best) = (vec![0.0; self.place.head.len()], (0.0, vec![0.0; self.place.head.len()]));
        let mut part = 0u64;
        while self.asked < queries {
            let from = moved(&self.place.head, &dense, 1.0);
            let how = Recipe { from: &from, data, indices, steps: 1, rate_milli: 1000 };
            // a step at a time: another seed for each, or all would take the same batch
            let id = Trainer::new(self.place.world, part, 1).id;
            let step = self.place.train(&how, id, &mut trainer.inner)?;
            dense = moved(&dense, &step, 1.0);
            part += 1;
            let found = self.ask(&dense)?;
            if found > best.0 {
                best = (found, dense.clone());
            }
            self.note(&dense, 50)?;
        }
        Ok(best.1)
    }
}

fn attack(world: &World, name: &str, seed: u64, queries: u32) -> Fallible<Seen> {
    let backend = Remember::default();
    let mut place = Place::first(world, &backend, seed);
    let mut trainer = Trainer::new(world, seed, 0);
    let everything: Vec<u32> = (0..world.data.train.len()).collect();
    let warm = Recipe {
        from: &world.head,
        data: &world.data.train,
        indices: &everything,
        steps: if queries < QUERIES { 40 } else { WARM_UP },
        rate_milli: 1000,
    };
    place.head = moved(&world.head, &place.train(&warm, trainer.id, &mut trainer.inner)?, 1.0);
    let public = sample::draw(place.start.seed("public", &[]), world.data.eval.len(), PUBLIC);
    let fresh: Vec<u32> = (0..world.fresh().len()).collect();
    let rng = ChaCha20Rng::from_seed(place.start.seed("directions", &[]));
    let mut submitter = Submitter { place: &place, public: public.clone(), fresh, asked: 0, path: Vec::new() };
    let directions = |images| Directions { world, rng: rng.clone(), images };
    let all: Vec<u32> = (0..world.data.eval.len()).collect();
    let dense = match ATTACKS.iter().position(|a| *a == name) {
        Some(0) => submitter.climb(directions(false), queries)?,
        Some(1) => submitter.climb(directions(true), queries)?,
        Some(2) => submitter.ensemble(directions(false), queries)?,
        Some(3) => submitter.ensemble(directions(true), queries)?,
        Some(4) => submitter.train(&world.data.eval, &public, &mut trainer, queries)?,
        Some(5) => submitter.train(&world.data.eval, &all, &mut trainer, queries)?,
        _ => submitter.train(&world.data.train, &everything, &mut trainer, queries)?,
    };
    let ((public, fresh), path) = (submitter.both(&dense)?, std::mem::take(&mut submitter.path));
    let mut seen = Seen { path, public, fresh, free: [0.0; 3], accepted: [0; 3], overpaid: 0, assigned: (0.0, 0) };
    judge(world, &place, &dense, seed, &mut seen)?;
    Ok(seen)
}

/// What the rules pay for it, over many draws of the samples.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
fn judge(world: &World, place: &Place<'_>, dense: &[f32], seed: u64, seen: &mut Seen) -> Fallible<()> {
    let me = Trainer::new(world, seed, 1).id;
    let mut other = world.manifest.clone();
    other.work_mode = WorkMode::Assigned;
    let assigned = World::with(world, other);
    let stated = [seen.public.0, seen.public.0 - 2.33 * seen.public.1];
    for draw in 0..DRAWS {
        let start = Beacon(Beacon([3; 32]).seed("draw", &[&seed.to_le_bytes(), &draw.to_le_bytes()]));
        let here = |world| Place { world, backend: place.backend, round: 1, start, head: place.head.clone() };
        let free = here(world);
        let paid = |stated_unat: i64| -> Fallible<(f64, bool, i64)> {
            let (outcome, _) = free.judge(vec![free.stating(me, dense, stated_unat)])?;
            let claim = outcome.claims.first().ok_or_else(|| MlError::Data("no claim".into()))?;
            let Measurement::Added(added) = claim.measurement else {
                return Err(MlError::Data("not replayed".into()));
            };
            let most = added.gate.lower_bound_unat(world.manifest.judging.adopt_z_milli);
            Ok((claim.credit_unat as f64, claim.verdict == Verdict::Accepted, most))
        };
        let most = paid(1)?.2;
        for (i, stated) in [stated[0] as i64, stated[1] as i64, most].into_iter().enumerate() {
            let (credit, accepted, _) = paid(stated)?;
            seen.free[i] += credit / DRAWS as f64;
            seen.accepted[i] += u64::from(accepted);
            seen.overpaid += u64::from(i == 2 && credit > seen.fresh.0.max(0.0));
        }
        let there = here(&assigned);
        let (outcome, _) = there.judge(vec![there.claim(me, dense)])?;
        let accepted = outcome.claims.iter().filter(|c| c.verdict == Verdict::Accepted).count() as u64;
        seen.assigned.0 += outcome.claims.iter().map(|c| c.credit_unat).sum::<u64>() as f64 / DRAWS as f64;
        seen.assigned.1 += accepted;
    }
    Ok(())
}

fn introduce(report: &mut Report) {
    report.text(&format!(
        "Fashion-MNIST. A head is trained for {WARM_UP} steps on the training data; then a submitter has {QUERIES} \
         queries of the score on a public evaluation set of {PUBLIC} samples, and hands in the best delta it has \
         found. **Fixed score**: it is paid for its gain on that set. **Free mode**, the project's rules: gate and \
         confirm samples of {PUBLIC} each are drawn from the 6,000 evaluation samples after it has committed, it must \
         add what it states, by the lower bound at 2.33 standard errors, and is paid no more than the lower bound on \
         the confirm sample; {DRAWS} draws for each delta, all through `judge::replay` and `Outcome::derive`. It \
         states its public gain, the lower bound of that, or, a bound that nobody can reach by skill, exactly the most \
         that the gate sample will take. **Assigned mode**: the same delta as a claim for an assigned shard. True \
         gain: on test images that nobody used. Mean over seeds with 95 % intervals, thousandths of a nat.\n\n\
         The first four know scores only. The last two know the samples: the public set, or all evaluation data, from \
         which gate and confirm samples are drawn, as anybody does whose model has no sealed test set.\n\n\
         Repeat with `cargo run --release -p oda-ml --example results -- overfit`."
    ));
}

fn tell(report: &mut Report, kind: &str, attacks: &[&str], lines: &[Value]) -> Result<(), Box<dyn Error>> {
    report.text(&format!(
        "## {}",
        if kind == "linear" { "Linear (7,850 weights)" } else { "MLP 784-128-10 (101,770 weights)" }
    ));
    let (mut rows, mut series) = (Vec::new(), Vec::new());
    for name in attacks {
        let seen: Vec<Seen> = grid::those(lines, &[("attack", json!(name))])
            .into_iter()
            .map(|line| serde_json::from_value(line["result"].clone()))
            .collect::<Result<_, _>>()?;
        if seen.is_empty() {
            continue;
        }
        let figure =
            |f: &dyn Fn(&Seen) -> f64| grid::plus_minus(&seen.iter().map(|s| f(s) / 1e3).collect::<Vec<f64>>(), 1);
        let draws = DRAWS * seen.len() as u64;
        let accepted = |i: usize| seen.iter().map(|s| s.accepted[i]).sum::<u64>();
        let overpaid = seen.iter().map(|s| s.overpaid).sum::<u64>();
        let assigned = seen.iter().map(|s| s.assigned.1).sum::<u64>();
        rows.push(vec![
            (*name).into(),
            seen.len().to_string(),
            figure(&|s| s.fresh.0),
            figure(&|s| s.public.0),
            format!("{} ({} of {draws})", figure(&|s| s.free[0]), accepted(0)),
            format!("{} ({})", figure(&|s| s.free[1]), accepted(1)),
            format!("{} ({})", figure(&|s| s.free[2]), accepted(2)),
            overpaid.to_string(),
            format!("{} ({assigned})", figure(&|s| s.assigned.0)),
        ]);
        if seen[0].path.len() > 2 {
            for (what, place) in [("public", 0), ("true", 1)] {
                let of = |s: &Seen, i: usize| s.path.get(i).map(|p| if place == 0 { p.1 } else { p.2 } / 1e3);
                let mut line =
                    Series { name: format!("{what}: {}", short(name)), points: Vec::new(), error: Some(Vec::new()) };
                for i in 0..seen[0].path.len() {
                    let (mean, half) = mean_ci(&seen.iter().filter_map(|s| of(s, i)).collect::<Vec<f64>>());
                    line.points.push((f64::from(seen[0].path[i].0), mean));
                    if let Some(error) = &mut line.error {
                        error.push(half);
                    }
                }
                series.push(line);
            }
        }
    }
    report.table(
        &[
            "submitter",
            "seeds",
            "true gain",
            "paid: fixed score",
            "free, states public gain (accepted)",
            "free, states its lower bound",
            "free, states the unknowable",
            "draws paid above true gain",
            "assigned mode",
        ],
        &rows,
    );
    let title = format!("{kind}: public and true gain over queries");
    report.plot(kind, &title, "queries", "gain, thousandths of a nat", &series);
    Ok(())
}

fn short(name: &str) -> &str {
    match name {
        "hill-climbing, random directions" => "climb, random",
        "hill-climbing, directions made of images" => "climb, images",
        "training on the public set" => "public set",
        "training on the whole evaluation pool" => "whole pool",
        _ => "honest",
    }
}
