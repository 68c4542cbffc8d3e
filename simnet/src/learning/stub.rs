//! Learning without weights: what a replay measures is drawn as it was measured of real claims.
//!
//! A table of verdicts ("honest passes, noise fails") would never show a rule at its limits: an honest claim by bad luck
//! below the median, two near-copies of which either may stand, a head that gains too little to prove. So the stub
//! draws the integers themselves, from means and spreads of real claims ([`super::calibration`]), and lets
//! [`oda_consensus::score`] judge them. Every figure follows from the seed, the delta's hash and the sealed beacon,
//! never from the order of calls: all validators draw the same integers, but for S2's rounding edges.

mod judging;
mod making;

use super::calibration::{BYTES, FASHION_MNIST, Figures, Kind, Profile};
use super::direction::Direction;
use super::{Learning, Made, Work, cost_milli};
use judging::{Edge, Entry, alone};
use oda_consensus::engine::trainer::TrainJob;
use oda_consensus::engine::validator::{JudgeJob, Judged};
use oda_consensus::ids::{Beacon, BlobHash, BlobRef, ClaimId, ModelId, NodeId};
use oda_consensus::manifest::{DataSet, Guard, Manifest, Objective, Split, Timing, WorkMode};
use oda_consensus::outcome::Measured;
use oda_consensus::score::{self, Measurement, Refusal, Verdict};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};
use std::collections::BTreeMap;

/// Bytes of a delta.
const DELTA_BYTES: u64 = 100;

/// Samples of the one guard slice.
const GUARD_SAMPLES: u32 = 400;

/// What a back door costs its slice, micro-nats by share of the head that is the back door's; and the most.
const HURT: f64 = 10e6;
const MAX_HURT: f64 = 5e6;

/// Share of its worth that a delta keeps on another head than it was made for.
const ELSEWHERE: f64 = 0.3;

/// Which samples were assigned: round, beacon, trainer.
type Shard = (u64, Beacon, NodeId);

/// A delta that can be measured.
#[derive(Clone)]
struct Good {
    model: ModelId,
    parent: BlobHash,
    /// Loss of the parent.
    loss: f64,
    figures: Figures,
    /// Shards it has learned, and how much more it gains there, micro-nats.
    learned: Vec<(Shard, f64)>,
    direction: Direction,
    backdoor: bool,
}

#[derive(Clone)]
enum Content {
    Bad(Refusal),
    Good(Box<Good>),
}

/// The stub. It remembers some hundred bytes of every delta and head of a run.
pub struct Stub {
    seed: u64,
    mode: WorkMode,
    profiles: BTreeMap<ModelId, &'static Profile>,
    losses: BTreeMap<(ModelId, BlobHash), f64>,
    deltas: BTreeMap<BlobHash, (u64, Content)>,
}

impl Stub {
    /// Models in assigned mode. Names that begin with `bytes` are transformers, all others perceptrons.
    pub fn new(seed: u64) -> Self {
        let (profiles, losses, deltas) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { seed, mode: WorkMode::Assigned, profiles, losses, deltas }
    }

    /// Models in free mode.
    pub fn free(seed: u64) -> Self {
        Self { mode: WorkMode::Free, ..Self::new(seed) }
    }

    fn profile(&self, model: ModelId) -> &'static Profile {
        self.profiles.get(&model).copied().unwrap_or(&FASHION_MNIST)
    }

    fn loss(&self, model: ModelId, head: BlobHash) -> f64 {
        self.losses.get(&(model, head)).copied().unwrap_or_else(|| self.profile(model).first_loss())
    }

    fn digest(&self, what: &str, parts: &[&[u8]]) -> [u8; 32] {
        let mut h = blake3::Hasher::new_derive_key("oda 2026 simulator, learning stub");
        h.update(&self.seed.to_le_bytes());
        for part in [what.as_bytes()].iter().chain(parts) {
            h.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        *h.finalize().as_bytes()
    }

    /// Normal with mean 0 and deviation 1, by adding up twelve: no logarithm, so the same bits on every machine.
    fn normal(&self, what: &str, parts: &[&[u8]]) -> f64 {
        let mut rng = ChaCha20Rng::from_seed(self.digest(what, parts));
        (0..12).map(|_| f64::from(rng.next_u32()) / 4_294_967_296.0).sum::<f64>() - 6.0
    }

    fn known(&self, hash: BlobHash) -> Option<&Good> {
        match self.deltas.get(&hash) {
            Some((_, Content::Good(good))) => Some(good),
            _ => None,
        }
    }

    fn norm_micro(&self, good: &Good) -> u64 {
        to_u64(self.profile(good.model).norm_micro * good.figures.norm_milli / 1e3)
    }
}

#[allow(clippy::cast_precision_loss)]
fn to_f64(v: u64) -> f64 {
    v as f64
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn to_u64(v: f64) -> u64 {
    v.max(0.0) as u64
}

impl Learning for Stub {
    fn manifest(&mut self, name: &str, timing: Timing) -> Manifest {
        let profile: &'static Profile = if name.starts_with("bytes") { &BYTES } else { &FASHION_MNIST };
        let hash = |what: &str| BlobHash(self.digest("blob", &[name.as_bytes(), what.as_bytes()]));
        let split = |what: &str, samples: u32| {
            let len = u64::from(samples).saturating_mul(785).min(Manifest::MAX_DATA_BYTES);
            Split { blob: BlobRef { hash: hash(what), len }, samples }
        };
        let [train, eval, test] = profile.samples;
        let architecture = profile.architecture();
        let head = BlobRef { hash: hash("head"), len: architecture.parameters() * 4 };
        let guard = Guard { name: "guard".into(), split: split("guard", GUARD_SAMPLES), sealed: None };
        let data = DataSet {
            train: split("train", train),
            eval: split("eval", eval),
            test: split("test", test),
            guards: vec![guard],
        };
        let manifest = Manifest {
            name: name.chars().take(Manifest::MAX_NAME).collect(),
            architecture,
            objective: Objective::CrossEntropy,
            data,
            initial_head: head,
            work_mode: self.mode,
            training: profile.training,
            judging: profile.judging,
            timing,
        };
        self.profiles.insert(manifest.id(), profile);
        self.losses.insert((manifest.id(), head.hash), profile.first_loss());
        manifest
    }

    fn train(&mut self, job: &TrainJob, trainer: NodeId, work: &Work) -> Made {
        let (p, loss) = (self.profile(job.model), self.loss(job.model, job.head.hash));
        let honest = p.of_claim(Kind::Honest, loss);
        // a trainer measures itself on its own shard; in free mode it promises, so it states half
        let (a, b) = self.slope(job.model, loss);
        let free = self.mode == WorkMode::Free;
        let stated = if free { 0.5e6 * alone(a, b) } else { honest.gate + honest.excess };
        #[allow(clippy::cast_possible_truncation)]
        let (stated_gain_unat, cost_milli) = (stated as i64, cost_milli(work));
        if let Work::Copy { of } = work {
            let len = self.deltas.get(of).map_or(DELTA_BYTES, |d| d.0);
            return Made { delta: BlobRef { hash: *of, len }, stated_gain_unat, cost_milli };
        }
        let (round, work_name) = (job.round.to_le_bytes(), format!("{work:?}"));
        let parts: [&[u8]; 6] =
            [&job.model.0, &round, &job.head.hash.0, &job.start.0, &trainer.0, work_name.as_bytes()];
        let hash = BlobHash(self.digest("delta", &parts));
        let (mut len, bad) = (DELTA_BYTES, |why| Content::Bad(why));
        let content = match work {
            Work::Malformed => bad(Refusal::Malformed),
            Work::WrongShape => bad(Refusal::WrongShape),
            Work::Huge => bad(Refusal::NormAboveCap),
            Work::Oversize => {
                len = job.manifest.judging.max_delta_bytes.saturating_add(1);
                bad(Refusal::Oversize)
            }
            // of a delta that nobody made there is nothing but noise to hand in
            _ => match self.made(job, trainer, work, hash).or_else(|| self.made(job, trainer, &Work::Noise, hash)) {
                Some(good) if self.norm_micro(&good) > job.manifest.judging.norm_cap_milli.saturating_mul(1000) => {
                    bad(Refusal::NormAboveCap)
                }
                Some(mut good) => {
                    // honest norms differ by some hundredths (pay.jsonl)
                    good.figures.norm_milli *= 1.0 + 0.04 * self.normal("norm", &[&hash.0]);
                    Content::Good(Box::new(good))
                }
                None => bad(Refusal::Malformed),
            },
        };
        self.deltas.insert(hash, (len, content));
        Made { delta: BlobRef { hash, len }, stated_gain_unat, cost_milli }
    }

    fn replay(&mut self, job: &JudgeJob, served: &dyn Fn(BlobHash) -> bool, validator: u64) -> Judged {
        let (m, j) = (&job.manifest, &job.manifest.judging);
        let edge = Edge { stub: self, sealed: job.sealed, validator };
        let mut read: Vec<Entry<'_>> = job
            .claims
            .iter()
            .map(|(claim, trainer, reveal)| {
                let content = self.read(job, reveal.as_ref(), served);
                Entry { claim: *claim, trainer: *trainer, reveal: *reveal, content }
            })
            .collect();
        read.sort_by_key(|r| r.claim);
        let (measurements, free_gain) = match m.work_mode {
            WorkMode::Free => self.added(job, &read, &edge),
            WorkMode::Assigned => {
                let one = |r: &Entry<'_>| match &r.content {
                    Err(without) => *without,
                    Ok(good) => Measurement::Scored(self.scores(job, r.trainer, r.hash(), good, &edge)),
                };
                (read.iter().map(one).collect(), 0.0)
            }
        };
        let twins = self.twins(job, &read, &measurements);
        let verdicts = score::verdicts(m.work_mode, j, &measurements, &twins);
        let standing = read.iter().zip(&verdicts).filter(|(_, v)| **v == Verdict::Accepted);
        let accepted: Vec<(ClaimId, BlobHash, &Good)> =
            standing.filter_map(|(r, _)| Some((r.claim, r.hash(), *r.content.as_ref().ok()?))).collect();
        let (mut head, mut known) = (None, None);
        if !accepted.is_empty() {
            let names: Vec<u8> = accepted.iter().flat_map(|(c, h, _)| [c.0, h.0].concat()).collect();
            let hash = BlobHash(self.digest("candidate", &[&job.model.0, &job.parent.hash.0, &names]));
            let candidate = BlobRef { hash, len: m.initial_head.len };
            let gain = match m.work_mode {
                WorkMode::Assigned => self.average_gain(job, &accepted),
                WorkMode::Free => free_gain,
            };
            let bad = u32::try_from(accepted.iter().filter(|(.., g)| g.backdoor).count()).unwrap_or(u32::MAX);
            let all = u32::try_from(accepted.len()).unwrap_or(u32::MAX);
            let hurt = (HURT * f64::from(bad) / f64::from(all)).min(MAX_HURT);
            head = Some(self.head_scores(job, candidate, gain, hurt, &edge));
            known = Some((hash, self.loss(job.model, job.parent.hash) - gain));
        }
        let claims = read.iter().zip(measurements).map(|(r, found)| (r.claim, r.trainer, found)).collect();
        let measured = Measured { claims, twins, head };
        if let Some((hash, loss)) = known {
            self.losses.insert((job.model, hash), loss);
        }
        let (model, round, sealed, attempt) = (job.model, job.round, job.sealed, job.attempt);
        Judged { model, round, sealed, attempt, measured }
    }

    fn true_loss(&self, model: ModelId, head: BlobHash) -> f64 {
        self.losses.get(&(model, head)).copied().unwrap_or(f64::INFINITY)
    }
}

#[cfg(test)]
mod tests;
