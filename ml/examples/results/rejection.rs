//! How often honest claims are refused and dishonest ones accepted, by what a model brings: size of shard and gate,
//! steps, stage of training; against what the normal approximation predicts. From it follow the defaults.
//!
//! Honest claims move the head as in a real run; at some rounds many more honest claims are made on the same head,
//! each under a name and with a shard of its own, and measured without being judged: the measured sums then go
//! through the rules of `oda_consensus::score` at every threshold.

use crate::Args;
use crate::grid;
use crate::rejection_report::{introduce, tell};
use crate::report::Report;
use crate::strategies::{Fallible, Place, Recipe, Remember, Trainer, World, norm};
use oda_consensus::score::{self, Paired};
use oda_ml::{Backend, Dataset, MlError, cheat};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::error::Error;

/// Trainers that move the head.
const TRAINERS: u64 = 4;

/// Thresholds tried.
pub const THRESHOLDS: [f64; 6] = [2.33, 3.0, 3.5, 4.0, 5.0, 6.0];

/// Divisors of the probe step tried.
pub const PROBES: [u32; 3] = [4, 8, 16];

pub struct Plan {
    pub model: &'static str,
    pub seeds: u64,
    /// Rounds at which claims are measured.
    pub rounds: &'static [u64],
    /// Shard sizes and the number of claims a cell.
    pub shards: &'static [(u32, usize)],
    /// Steps as shares of the model's, each with the model's shard size, thousandths; and the number of claims.
    pub steps: &'static [(u32, usize)],
    /// Gate sizes: prefixes of the largest.
    pub gates: &'static [u32],
    /// Screens tried.
    pub screens: &'static [u32],
}

const PLANS: [Plan; 2] = [
    Plan {
        model: "fashion-mnist",
        seeds: 5,
        rounds: &[1, 3, 10],
        shards: &[(64, 10), (128, 10), (256, 10), (512, 24), (1024, 10), (2048, 6)],
        steps: &[(250, 10), (500, 10), (2000, 6)],
        gates: &[250, 500, 1000, 2000, 3000],
        screens: &[125, 250, 500, 1000],
    },
    Plan {
        model: "bytes",
        seeds: 3,
        rounds: &[1, 4, 10],
        shards: &[(64, 3), (128, 8), (256, 3), (512, 3)],
        steps: &[(500, 3), (2000, 3)],
        gates: &[100, 200, 400],
        screens: &[50, 100, 200],
    },
];

/// Who made a claim.
pub const KINDS: [&str; 6] = ["honest", "foreign", "tenth", "third", "noise", "flipped"];

/// A claim as measured: whole numbers, so that thousands of claims fit a file that people can fetch.
#[derive(Clone, Serialize, Deserialize)]
pub struct Claim {
    /// Place in [`KINDS`].
    pub kind: usize,
    /// z against each gate size, thousandths.
    pub z: Vec<i64>,
    /// Mean and spread of the gain on the shard, then on the model's own gate, micro-nats.
    pub gain: [i64; 4],
    /// For each screen at z 4: 0 measured on, 1 stopped, 2 stopped though it would have passed.
    pub screens: Vec<u8>,
    /// For each divisor, mean gain of the probe step on the model's gate and its z in thousandths; not of every
    /// claim.
    pub probes: Vec<(i64, i64)>,
    /// z of the first 1/8, 1/4, 1/2 of its shard, thousandths.
    pub parts: Vec<i64>,
}

impl Claim {
    #[allow(clippy::cast_precision_loss)]
    /// z against one of the gates.
    pub fn z(&self, gate: usize) -> f64 {
        self.z.get(gate).map_or(f64::NAN, |z| *z as f64 / 1000.0)
    }

    #[allow(clippy::cast_precision_loss)]
    /// As numbers.
    pub fn gain(&self) -> [f64; 4] {
        self.gain.map(|v| v as f64)
    }
}

/// Claims of one setting.
#[derive(Clone, Serialize, Deserialize)]
pub struct Setting {
    pub round: u64,
    pub shard: u32,
    pub steps_milli: u32,
    pub claims: Vec<Claim>,
}

/// Mean and standard deviation of the differences, micro-nats.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
fn moments(p: &Paired) -> [i64; 2] {
    let n = f64::from(p.n);
    let mean = p.sum_unat as f64 / n;
    [mean.round() as i64, (p.sum_sq_unat2 as f64 / n - mean * mean).max(0.0).sqrt().round() as i64]
}

/// Runs what is missing and writes the report.
///
/// # Errors
/// If data are missing, training fails or a file cannot be written.
pub fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let path = args.out.join("rejection.jsonl");
    let mut report = Report::new("rejection", "Honest claims refused, dishonest ones accepted");
    introduce(&mut report);
    for plan in &PLANS {
        let first = if args.tune { 100 } else { 0 };
        let seeds = if args.quick { 1 } else { args.seeds.unwrap_or(plan.seeds) };
        let cells: Vec<Value> = (first..first + seeds)
            .map(|seed| json!({ "model": plan.model, "seed": seed, "quick": args.quick }))
            .collect();
        let world = World::load(&args.root, plan.model, |_| {})?;
        let one = |cell: &Value| {
            let seed = cell["seed"].as_u64().ok_or_else(|| MlError::Data("a cell without a seed".into()))?;
            let found = play(&world, plan, seed, args.quick)?;
            serde_json::to_value(found).map(|s| json!({ "settings": s })).map_err(|e| MlError::Data(e.to_string()))
        };
        let lines = grid::run(&cells, &path, args, one)?;
        let mut all: Vec<Setting> = Vec::new();
        for line in &lines {
            all.extend(serde_json::from_value::<Vec<Setting>>(line["result"]["settings"].clone())?);
        }
        if !all.is_empty() {
            tell(&mut report, plan, &world, &all, lines.len());
        }
    }
    report.write(&args.out)?;
    Ok(())
}

fn play(world: &World, plan: &Plan, seed: u64, quick: bool) -> Fallible<Vec<Setting>> {
    let (rounds, most) = if quick { (&plan.rounds[..1], 1) } else { (plan.rounds, usize::MAX) };
    let backend = Remember::default();
    let mut honest: Vec<Trainer> = (0..TRAINERS).map(|i| Trainer::new(world, seed, i)).collect();
    let (mut place, mut out) = (Place::first(world, &backend, seed), Vec::new());
    for round in 1..=rounds.last().copied().unwrap_or(0) {
        if rounds.contains(&round) {
            let own = world.manifest.judging.shard_samples;
            let sizes = plan.shards.iter().map(|(shard, claims)| (*shard, 1000, *claims));
            let steps = plan.steps.iter().map(|(steps, claims)| (own, *steps, *claims));
            for (shard, steps_milli, claims) in sizes.chain(steps) {
                let claims = observe(&place, plan, &honest, (shard, steps_milli, claims.min(most)), seed)?;
                out.push(Setting { round, shard, steps_milli, claims });
            }
        }
        let mut claims = Vec::new();
        for trainer in &mut honest {
            let dense = place.honest(trainer)?;
            claims.push(place.claim(trainer.id, &dense));
        }
        let (outcome, candidate) = place.judge(claims)?;
        backend.forget();
        let head = if outcome.adopted() { candidate } else { None }.unwrap_or_else(|| place.head.clone());
        place = place.next(head);
    }
    Ok(out)
}

/// Makes and measures claims of one setting.
fn observe(
    place: &Place<'_>,
    plan: &Plan,
    honest: &[Trainer],
    (shard, steps_milli, claims): (u32, u32, usize),
    seed: u64,
) -> Fallible<Vec<Claim>> {
    let world = place.world;
    let mut manifest = world.manifest.clone();
    manifest.judging.shard_samples = shard;
    let whole = world.steps() * steps_milli / 1000;
    let own = shard == world.manifest.judging.shard_samples && steps_milli == 1000;
    let gate = {
        // the largest gate tried; smaller ones are its beginnings
        let mut m = world.manifest.clone();
        m.judging.gate_samples = plan.gates.iter().copied().max().unwrap_or(0);
        oda_ml::judge::gate_and_confirm(&m, world.model, place.round, place.sealed()).0
    };
    let shard_of = |id| oda_ml::judge::shard(&manifest, world.model, place.round, place.start, id);
    let mut out = Vec::new();
    for i in 0..claims {
        let number = 1000 + u64::from(steps_milli) * 10_000 + u64::from(shard) * 100 + i as u64;
        let (me, other) = (Trainer::new(world, seed, number).id, Trainer::new(world, seed, number + 50).id);
        let (mine, theirs) = (shard_of(me), shard_of(other));
        let memory = &honest[i % honest.len()].inner;
        let run = |steps: u32| {
            let how = Recipe { from: &place.head, data: &world.data.train, indices: &mine, steps, rate_milli: 1000 };
            place.train(&how, me, &mut memory.clone())
        };
        let dense = run(whole)?;
        out.push(see(place, plan, 0, &dense, &mine, &gate, own && i % 2 == 0)?);
        // the same work, handed in for another shard
        out.push(see(place, plan, 1, &dense, &theirs, &gate, false)?);
        if steps_milli == 1000 && i % 2 == 0 {
            out.push(see(place, plan, 2, &run((whole / 10).max(1))?, &mine, &gate, false)?);
            out.push(see(place, plan, 3, &run(whole / 3)?, &mine, &gate, false)?);
        }
        if own && i % 3 == 0 {
            #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
            let bound = (norm(&dense) * (3.0 / dense.len() as f64).sqrt()) as f32;
            let noise = cheat::random(dense.len(), bound, place.start.seed("noise", &[&me.0]));
            out.push(see(place, plan, 4, &noise, &mine, &gate, true)?);
            let flipped: Vec<f32> = dense.iter().map(|v| -v).collect();
            out.push(see(place, plan, 5, &flipped, &mine, &gate, true)?);
        }
    }
    Ok(out)
}

fn see(
    place: &Place<'_>,
    plan: &Plan,
    kind: usize,
    dense: &[f32],
    shard: &[u32],
    gate: &[u32],
    probe: bool,
) -> Fallible<Claim> {
    let (world, m) = (place.world, &place.world.manifest);
    let sent = world.sent(dense)?;
    let losses = |weights: &[f32], data: &Dataset, on: &[u32]| {
        Ok::<_, MlError>(place.backend.measure(m, weights, data, on)?.losses_unat)
    };
    let full = sent.applied(&place.head, 1.0);
    let pair = |before: &[i64], after: &[i64], n: usize| {
        Paired::of(&before[..n], &after[..n]).ok_or_else(|| MlError::Data("samples differ".into()))
    };
    let (shard_before, shard_after) =
        (losses(&place.head, &world.data.train, shard)?, losses(&full, &world.data.train, shard)?);
    let (before, after) = (losses(&place.head, &world.data.eval, gate)?, losses(&full, &world.data.eval, gate)?);
    let whole = pair(&shard_before, &shard_after, shard.len())?;
    let own_gate = pair(&before, &after, m.judging.gate_samples as usize)?;
    let (mut z, mut screens, mut probes, mut parts) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for n in plan.gates {
        z.push(score::excess_z_milli(&whole, &pair(&before, &after, *n as usize)?));
    }
    for screen in plan.screens {
        let mut judging = m.judging;
        (judging.screen_samples, judging.assigned_z_milli) = (*screen, 4000);
        let stopped = score::hopeless(&judging, &whole, &pair(&before, &after, *screen as usize)?);
        screens.push(u8::from(stopped) * (1 + u8::from(score::is_assigned_work(&judging, &whole, &own_gate))));
    }
    for divisor in PROBES.into_iter().filter(|_| probe) {
        #[allow(clippy::cast_precision_loss)]
        let step = sent.applied(&place.head, 1.0 / divisor as f32);
        let after = losses(&step, &world.data.eval, gate)?;
        let found = pair(&before, &after, gate.len())?;
        let nothing = Paired { n: found.n, sum_unat: 0, sum_sq_unat2: 0 };
        probes.push((found.mean_unat(), score::excess_z_milli(&found, &nothing)));
    }
    for part in [8, 4, 2] {
        parts.push(score::excess_z_milli(&pair(&shard_before, &shard_after, shard.len() / part)?, &own_gate));
    }
    let ([a, b], [c, d]) = (moments(&whole), moments(&own_gate));
    Ok(Claim { kind, z, gain: [a, b, c, d], screens, probes, parts })
}
