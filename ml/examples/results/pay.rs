//! Who gets paid for what: every strategy beside four honest trainers, by the real rules, and by others.
//!
//! A strategy is worth trying if it earns more for each gradient step than honest work does, so this is what is
//! measured: credit over work, relative to the honest claims of the same rounds. What is measured of each claim is
//! kept whatever its verdict, so that other rules can be tried on the same claims.

use crate::Args;
use crate::grid;
use crate::pay_report::{FOUND, introduce, tell};
use crate::report::Report;
use crate::rules;
use crate::strategies::{Fallible, Place, Remember, Ring, Trainer, World};
use oda_consensus::delta::SparseDelta;
use oda_consensus::ids::NodeId;
use oda_consensus::score::{Paired, Verdict};
use oda_ml::{Backend, Dataset, MlError};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::error::Error;

/// Honest trainers of a round.
pub const HONEST: u64 = 4;

/// Names a party can have.
const NAMES: u64 = 16;

/// Mean and its standard error, micro-nats.
pub type Mean = (f64, f64);

/// A claim, measured whatever its verdict. On disk a list of whole numbers, or the cells would fill megabytes.
#[derive(Clone, Serialize, Deserialize)]
#[serde(into = "Vec<i64>", from = "Vec<i64>")]
pub struct Seen {
    /// Gain of the full step on the own shard and on the gate sample, and of the probe step on the gate sample.
    pub full: [Mean; 3],
    /// The same of the delta clipped to the median norm of the honest ones.
    pub clipped: [Mean; 3],
    /// Norm in honest medians.
    pub norm: f64,
    /// Largest cosine with an earlier claim of the same party, thousandths.
    pub cosine: i32,
    /// As the real rules have it.
    pub accepted: bool,
}

impl From<Seen> for Vec<i64> {
    fn from(seen: Seen) -> Self {
        #[allow(clippy::cast_possible_truncation)]
        let flat = |three: [Mean; 3]| three.into_iter().flat_map(|(mean, error)| [mean as i64, error as i64]);
        #[allow(clippy::cast_possible_truncation)]
        let mut out = vec![(seen.norm * 1000.0) as i64, seen.cosine.into(), seen.accepted.into()];
        out.extend(flat(seen.full));
        if seen.clipped != seen.full {
            out.extend(flat(seen.clipped));
        }
        out
    }
}

impl From<Vec<i64>> for Seen {
    #[allow(clippy::cast_precision_loss)]
    fn from(list: Vec<i64>) -> Self {
        let at = |i: usize| list.get(i).copied().unwrap_or(0);
        let three = |from: usize| [0, 2, 4].map(|i| (at(from + i) as f64, at(from + i + 1) as f64));
        Self {
            full: three(3),
            clipped: three(if list.len() > 9 { 9 } else { 3 }),
            norm: at(0) as f64 / 1000.0,
            cosine: i32::try_from(at(1)).unwrap_or(-1000),
            accepted: at(2) != 0,
        }
    }
}

impl Seen {
    /// A claim whose delta was refused unseen.
    fn refused() -> Self {
        Self { full: [(0.0, 0.0); 3], clipped: [(0.0, 0.0); 3], norm: 0.0, cosine: -1000, accepted: false }
    }
}

/// A party's claims in one round.
#[derive(Clone, Serialize, Deserialize)]
pub struct Party {
    /// Strategy.
    pub name: String,
    /// Whole local runs computed for it.
    pub work: f64,
    /// Its claims; empty for the honest ones alone.
    pub claims: Vec<Seen>,
    /// Credit by the real rules, micro-nats: its own, that of the honest four, and all that was proven.
    pub credit: [u64; 3],
    /// Honest claims accepted beside it.
    pub honest_accepted: usize,
    /// Gain of the candidate on fresh data, and its standard error.
    pub fresh: Option<Mean>,
}

/// What was seen of a round.
#[derive(Clone, Serialize, Deserialize)]
pub struct RoundSeen {
    /// Round.
    pub round: u64,
    /// The honest four, by their places.
    pub honest: Vec<Seen>,
    /// Cosines of all their pairs.
    pub cosines: Vec<i32>,
    /// Everybody who joined them, nobody first.
    pub parties: Vec<Party>,
    /// Mean excess of honest claims in all rounds of all seeds; not of this round, so not kept with it.
    #[serde(skip)]
    pub usual: f64,
}

/// What is run of a model.
pub struct Plan {
    pub model: &'static str,
    pub seeds: u64,
    pub rounds: &'static [u64],
    pub wide: bool,
    pub fresh: u32,
}

const PLANS: [Plan; 2] = [
    Plan { model: "fashion-mnist", seeds: 5, rounds: &[1, 2, 3, 6, 9, 12], wide: true, fresh: 10_000 },
    Plan { model: "bytes", seeds: 3, rounds: &[1, 4, 10], wide: false, fresh: 1000 },
];

/// Runs what is missing and writes the report.
///
/// # Errors
/// If data are missing, training fails or a file cannot be written.
pub fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let path = args.out.join("pay.jsonl");
    let (mut report, mut runs) = (Report::new("pay", "Who gets paid for what"), Vec::new());
    for plan in &PLANS {
        let first = if args.tune { 100 } else { 0 };
        let seeds = if args.quick { 1 } else { args.seeds.unwrap_or(plan.seeds) };
        let cells: Vec<Value> = (first..first + seeds)
            .map(|seed| json!({ "model": plan.model, "seed": seed, "quick": args.quick }))
            .collect();
        // 16 names beside four honest trainers are more claims than the model takes; the judge does not count them
        let world = World::load(&args.root, plan.model, |_| {})?;
        let one = |cell: &Value| {
            let seed = cell["seed"].as_u64().ok_or_else(|| MlError::Data("a cell without a seed".into()))?;
            let rounds = if args.quick { &[1][..] } else { plan.rounds };
            let seen = play(&world, plan, rounds, seed)?;
            serde_json::to_value(seen)
                .map(|rounds| json!({ "rounds": rounds }))
                .map_err(|e| MlError::Data(e.to_string()))
        };
        let lines = grid::run(&cells, &path, args, one)?;
        let mut of_model = Vec::new();
        for line in &lines {
            of_model.push(serde_json::from_value::<Vec<RoundSeen>>(line["result"]["rounds"].clone())?);
        }
        let usual = rules::usual(&of_model);
        of_model.iter_mut().flatten().for_each(|round| round.usual = usual);
        runs.push((plan, world, of_model));
    }
    introduce(&mut report);
    report.text(FOUND);
    for (plan, world, seeds) in runs.iter().filter(|(.., seeds)| !seeds.is_empty()) {
        tell(&mut report, plan, world, seeds);
    }
    report.write(&args.out)?;
    Ok(())
}

/// One run of a model: honest claims move the head, strategies join in some rounds.
fn play(world: &World, plan: &Plan, rounds: &[u64], seed: u64) -> Fallible<Vec<RoundSeen>> {
    let backend = Remember::default();
    let mut honest: Vec<Trainer> = (0..HONEST).map(|i| Trainer::new(world, seed, i)).collect();
    let mut ring: Vec<Trainer> = (0..NAMES).map(|i| Trainer::new(world, seed, 100 + i)).collect();
    let (mut place, mut kept, mut out) = (Place::first(world, &backend, seed), Vec::new(), Vec::new());
    for round in 1..=rounds.last().copied().unwrap_or(0) {
        let mut dense = Vec::new();
        for trainer in &mut honest {
            dense.push((trainer.id, place.honest(trainer)?));
        }
        let claims = dense.iter().map(|(id, d)| place.claim(*id, d)).collect();
        let (outcome, candidate) = place.judge(claims)?;
        let hoarded = kept.len().checked_sub(2).and_then(|i| kept.get(i).cloned());
        let mut at_work = Ring::new(&place, &ring, hoarded);
        if rounds.contains(&round) {
            out.push(observe(&place, plan, &dense, &mut at_work)?);
        }
        let (steps, mut after) = (world.steps(), Vec::new());
        for who in 0..2 {
            after.push(at_work.run(who, steps, 1000)?);
        }
        kept.push(after[0].0.clone());
        // accomplices keep the memory of their optimiser as the honest do; the other names have the first one's
        for (i, trainer) in ring.iter_mut().enumerate() {
            trainer.inner = after[usize::from(i == 1)].1.clone();
        }
        backend.forget();
        let head = if outcome.adopted() { candidate } else { None }.unwrap_or_else(|| place.head.clone());
        place = place.next(head);
    }
    Ok(out)
}

fn observe(place: &Place<'_>, plan: &Plan, dense: &[(NodeId, Vec<f32>)], ring: &mut Ring<'_>) -> Fallible<RoundSeen> {
    let world = place.world;
    let sent = |claims: &[(NodeId, Vec<f32>)]| -> Fallible<Vec<(NodeId, SparseDelta)>> {
        claims.iter().map(|(id, d)| Ok((*id, world.sent(d)?))).collect()
    };
    let honest = sent(dense)?;
    let mut norms: Vec<f64> = honest.iter().map(|(_, d)| d.norm()).collect();
    norms.sort_by(f64::total_cmp);
    let median = norms[(norms.len() - 1) / 2];
    let mut parties = Vec::new();
    let nobody = crate::strategies::Attack { name: "nobody".into(), work: 0.0, claims: Vec::new() };
    let mut seen_honest = Vec::new();
    for attack in std::iter::once(nobody).chain(ring.attacks(plan.wide)?) {
        let all = dense.iter().chain(&attack.claims).map(|(id, d)| place.claim(*id, d)).collect();
        let (outcome, candidate) = place.judge(all)?;
        let of = |id: NodeId| outcome.claims.iter().find(|c| c.trainer == id);
        let accepted = |id: NodeId| of(id).is_some_and(|c| c.verdict == Verdict::Accepted);
        let credit =
            |ids: &[(NodeId, SparseDelta)]| ids.iter().filter_map(|(id, _)| of(*id)).map(|c| c.credit_unat).sum();
        // what is refused before it is measured (S7) has nothing to be seen
        let good: Vec<(NodeId, Vec<f32>)> =
            attack.claims.iter().filter(|c| world.sent(&c.1).is_ok()).cloned().collect();
        let claims = sent(&good)?;
        let refused = attack.claims.len() - good.len();
        let mut seen = vec![Seen::refused(); refused];
        for (i, (id, delta)) in claims.iter().enumerate() {
            let cosine = claims[..i].iter().map(|(_, other)| delta.cosine_milli(other)).max().unwrap_or(-1000);
            seen.push(see(place, *id, delta, median, cosine, accepted(*id))?);
        }
        if seen_honest.is_empty() {
            for (i, (id, delta)) in honest.iter().enumerate() {
                let cosine = honest[..i].iter().map(|(_, other)| delta.cosine_milli(other)).max().unwrap_or(-1000);
                seen_honest.push(see(place, *id, delta, median, cosine, accepted(*id))?);
            }
        }
        // costs more than all the rest: not for every candidate
        let fresh = match candidate {
            Some(new) if attack.claims.is_empty() || (plan.wide && parties.len() % 6 == 0) => {
                let all: Vec<u32> = (0..world.fresh().len().min(plan.fresh)).collect();
                Some(gain(place, &new, world.fresh(), &all, 0)?)
            }
            _ => None,
        };
        parties.push(Party {
            name: attack.name,
            work: attack.work,
            claims: seen,
            credit: [credit(&claims), credit(&honest), outcome.proven_unat],
            honest_accepted: honest.iter().filter(|(id, _)| accepted(*id)).count(),
            fresh,
        });
    }
    let pairs = (0..honest.len()).flat_map(|b| (0..b).map(move |a| (a, b)));
    let cosines = pairs.map(|(a, b)| honest[a].1.cosine_milli(&honest[b].1)).collect();
    Ok(RoundSeen { round: place.round, honest: seen_honest, cosines, parties, usual: 0.0 })
}

/// Mean gain of other weights, measured in the two pieces in which the judge measures.
#[allow(clippy::cast_precision_loss)]
pub fn gain(place: &Place<'_>, weights: &[f32], data: &Dataset, on: &[u32], cut: usize) -> Fallible<Mean> {
    let m = &place.world.manifest;
    let (mut before, mut after) = (Vec::new(), Vec::new());
    before.extend(place.backend.measure(m, &place.head, data, on)?.losses_unat);
    for piece in [&on[..cut], &on[cut..]].into_iter().filter(|p| !p.is_empty()) {
        after.extend(place.backend.measure(m, weights, data, piece)?.losses_unat);
    }
    let paired = Paired::of(&before, &after).ok_or_else(|| MlError::Data("samples differ".into()))?;
    Ok(mean(&paired))
}

/// Mean and standard error, rounded to micro-nats.
#[allow(clippy::cast_precision_loss)]
pub fn mean(p: &Paired) -> Mean {
    let n = f64::from(p.n);
    let mean = p.sum_unat as f64 / n;
    let variance = (p.sum_sq_unat2 as f64 / n - mean * mean).max(0.0);
    (mean.round(), (variance / (n - 1.0)).sqrt().round())
}

fn see(place: &Place<'_>, id: NodeId, delta: &SparseDelta, median: f64, cosine: i32, accepted: bool) -> Fallible<Seen> {
    let (m, data) = (&place.world.manifest, &place.world.data);
    let (shard, gate, screen) = (place.shard(id), place.gate(), m.judging.screen_samples as usize);
    let three = |scale: f64| -> Fallible<[Mean; 3]> {
        #[allow(clippy::cast_possible_truncation)]
        let full = delta.applied(&place.head, scale as f32);
        #[allow(clippy::cast_possible_truncation)]
        let probe = delta.applied(&place.head, (scale / f64::from(m.judging.probe_divisor)) as f32);
        Ok([
            gain(place, &full, &data.train, &shard, 0)?,
            gain(place, &full, &data.eval, &gate, screen)?,
            gain(place, &probe, &data.eval, &gate, 0)?,
        ])
    };
    let norm = delta.norm() / median;
    let full = three(1.0)?;
    let clipped = if norm > 1.05 { three(1.0 / norm)? } else { full };
    Ok(Seen { full, clipped, norm: (norm * 1000.0).round() / 1000.0, cosine, accepted })
}
