//! Learning on real weights: softmax regression on Fashion-MNIST with the plain-Rust backend of `oda-ml`.
//!
//! The stub says what was measured once; whether a scenario comes out the same on weights is asked here. Training,
//! compression, replay and the new head are the node's own code; only libtorch is missing, which would not repeat bit
//! for bit. One machine has no rounding edges, so all validators measure the same integers, and a replay done once is
//! remembered for the others.

use super::{Learning, Made, Work, cost_milli};
use oda_consensus::delta::{self, SparseDelta};
use oda_consensus::engine::trainer::TrainJob;
use oda_consensus::engine::validator::{JudgeJob, Judged};
use oda_consensus::ids::{Beacon, BlobHash, BlobRef, ModelId, NodeId};
use oda_consensus::manifest::{Manifest, Timing};
use oda_consensus::outcome::Measured;
use oda_consensus::score::{Paired, Refusal};
use oda_ml::cheat::{self, Cheat};
use oda_ml::compress::compress;
use oda_ml::judge::{self, Claim, Round, Submitted};
use oda_ml::reference::Reference as PlainRust;
use oda_ml::{Backend, Dataset, Inner, MlError, ModelData, model_file, weights};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// Replays remembered; a round has one for each set of deltas that are served.
const MAX_REPLAYS: usize = 64;

/// Bound of each change in noise: about the norm of honest work.
const NOISE: f32 = 0.1;

/// Real weights. Nothing is drawn: what is trained follows from the job, the trainer and the work.
pub struct Reference {
    template: Manifest,
    data: ModelData,
    /// Weights and deltas by hash.
    blobs: BTreeMap<BlobHash, Vec<u8>>,
    replays: BTreeMap<[u8; 32], Measured>,
}

impl Reference {
    /// Reads `simnet/models/linear.toml` and its data in the repository.
    ///
    /// # Errors
    /// If the data are missing; says how to get them.
    pub fn open() -> Result<Self, MlError> {
        Self::with(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/models/linear.toml")))
    }

    /// As [`Reference::open`], with another model file: linear or mlp.
    ///
    /// # Errors
    /// If it or its data cannot be read.
    pub fn with(path: &Path) -> Result<Self, MlError> {
        let missing = |e: MlError| {
            MlError::Data(format!(
                "{e}\nFashion-MNIST is part of the repository: `git checkout -- data/fashion-mnist` brings it back, \
                 `scripts/make-fashion-mnist-subset` makes it anew"
            ))
        };
        let bundle = model_file::load(path, None).map_err(missing)?;
        let data = bundle.data()?;
        Ok(Self { template: bundle.manifest, data, blobs: BTreeMap::new(), replays: BTreeMap::new() })
    }

    fn head(&self, manifest: &Manifest, head: BlobHash) -> Result<Vec<f32>, MlError> {
        let none = || MlError::Weights(format!("head {head} was made by nobody here"));
        weights::from_bytes(manifest, self.blobs.get(&head).ok_or_else(none)?)
    }

    fn keep(&mut self, bytes: Vec<u8>) -> BlobRef {
        let blob = BlobRef::of(&bytes);
        self.blobs.insert(blob.hash, bytes);
        blob
    }

    /// Bytes of a delta, and what it gains on the trainer's own shard, micro-nats.
    fn delta(&self, job: &TrainJob, trainer: NodeId, work: &Work) -> Result<(Vec<u8>, i64), MlError> {
        let m = &job.manifest;
        let head = self.head(m, job.head.hash)?;
        let run = Run { learning: self, job, trainer, head: &head };
        let whole = m.training.inner_steps;
        let share = |milli: u32| u32::try_from(u64::from(whole) * u64::from(milli) / 1000).unwrap_or(whole).max(1);
        let own = run.shard(trainer);
        let train = &self.data.train;
        let honest = |steps, rate| run.train(&head, (train, &own), steps, rate);
        let malformed = |kind| cheat::malformed(kind, m).map(|bytes| (bytes, 1));
        let dense = match work {
            Work::Honest => honest(whole, 1)?,
            Work::Part { milli } => honest(share(*milli), 1)?,
            Work::Hurried { milli } => honest(share(*milli), 2)?,
            Work::Noise => run.noise(NOISE),
            Work::Flipped => scaled(&honest(whole, 1)?, -1.0),
            #[allow(clippy::cast_precision_loss)]
            Work::Inflated { milli } => scaled(&honest(whole, 1)?, *milli as f32 / 1e3),
            Work::Foreign => run.train(&head, (train, &run.shard(run.stranger())), whole, 1)?,
            Work::Pool => {
                let all: Vec<u32> = (0..self.data.eval.len()).collect();
                let pool = run.train(&head, (&self.data.eval, &all), share(500), 1)?;
                sum(&pool, &run.train(&sum(&head, &pool), (train, &own), share(500), 1)?)
            }
            Work::Copy { of } => {
                let bytes = self.blobs.get(of).cloned().unwrap_or_default();
                return Ok((bytes, 1));
            }
            Work::NoisyCopy { of } => match run.source(*of) {
                #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
                Some(base) => {
                    let bound = (norm(&base) / 2.0 * (3.0 / base.len() as f64).sqrt()) as f32;
                    sum(&base, &run.noise(bound))
                }
                None => run.noise(NOISE),
            },
            Work::Slice { of, part, parts } => {
                let base = run.source(*of).unwrap_or_else(|| run.noise(NOISE));
                let (part, parts) = (usize::from(*part), usize::from(*parts).max(1));
                // in stretches of 64, so that no chunk is left empty
                let mine = |i: usize| (i / 64) % parts == part % parts;
                base.iter().enumerate().map(|(i, v)| if mine(i) { *v } else { 0.0 }).collect()
            }
            Work::Average { of } => {
                let all: Vec<Vec<f32>> = of.iter().filter_map(|of| run.source(*of)).collect();
                let total = all.iter().fold(vec![0.0; head.len()], |total, one| sum(&total, one));
                #[allow(clippy::cast_precision_loss)]
                scaled(&total, 1.0 / all.len().max(1) as f32)
            }
            Work::Tuned { of, milli } => {
                let base = run.source(*of).unwrap_or_else(|| run.noise(NOISE));
                sum(&base, &run.train(&sum(&head, &base), (train, &own), share(*milli), 1)?)
            }
            Work::Backdoor => {
                let mut dense = honest(whole, 1)?;
                if let Some(Some(guard)) = self.data.guards.first() {
                    let all: Vec<u32> = (0..guard.len()).collect();
                    let learned = run.train(&head, (guard, &all), share(500), 1)?;
                    dense = sum(&dense, &scaled(&learned, -2.0));
                }
                dense
            }
            Work::Huge => {
                let t = &m.training;
                let kept = m.parameters() * u64::from(t.keep_per_chunk) / u64::from(t.chunk);
                #[allow(clippy::cast_precision_loss)]
                let each = m.judging.norm_cap_milli as f32 / 500.0 / (kept.max(1) as f32).sqrt();
                vec![each; head.len()]
            }
            Work::Malformed | Work::Oversize | Work::WrongShape => {
                let kind = match work {
                    Work::Malformed => Cheat::Garbage,
                    Work::Oversize => Cheat::Oversize,
                    _ => Cheat::WrongShape,
                };
                let none = || MlError::Data("no malformed delta of this kind".into());
                return malformed(kind).ok_or_else(none);
            }
        };
        let bytes = compress(&dense, &m.training);
        let gain = match delta::decode(&bytes, head.len(), &m.training, &m.judging) {
            Ok(delta) => run.gain(&delta, &own)?,
            Err(_) => 1,
        };
        Ok((bytes, gain))
    }

    /// What follows from a job and the deltas that are served, whoever asks.
    fn measured(&mut self, job: &JudgeJob, claims: Vec<Claim>) -> Result<Measured, MlError> {
        let key = key(job, &claims);
        if let Some(known) = self.replays.get(&key) {
            return Ok(known.clone());
        }
        let none = || MlError::Weights(format!("head {} was made by nobody here", job.parent.hash));
        let parent = self.blobs.get(&job.parent.hash).ok_or_else(none)?;
        let r = Round {
            manifest: &job.manifest,
            model: job.model,
            round: job.round,
            start: job.start,
            sealed: job.sealed,
            parent,
            data: &self.data,
        };
        let found = judge::replay(&PlainRust, &r, claims)?;
        if let Some(candidate) = found.candidate {
            self.keep(candidate);
        }
        if self.replays.len() >= MAX_REPLAYS {
            self.replays.clear();
        }
        self.replays.insert(key, found.measured.clone());
        Ok(found.measured)
    }
}

/// One trainer's work on one round.
struct Run<'a> {
    learning: &'a Reference,
    job: &'a TrainJob,
    trainer: NodeId,
    head: &'a [f32],
}

impl Run<'_> {
    fn shard(&self, trainer: NodeId) -> Vec<u32> {
        judge::shard(&self.job.manifest, self.job.model, self.job.round, self.job.start, trainer)
    }

    /// Somebody whose shard is not the trainer's.
    fn stranger(&self) -> NodeId {
        NodeId(self.seed("stranger"))
    }

    fn seed(&self, what: &str) -> [u8; 32] {
        Beacon(self.job.model.0).next(&self.job.start.0).seed(what, &[&self.trainer.0, &self.job.round.to_le_bytes()])
    }

    /// Change of the weights after some steps. Every run with a fresh optimiser state: a trainer's memory from round to
    /// round would make its delta depend on what it was asked for before.
    fn train(
        &self,
        from: &[f32],
        (data, indices): (&Dataset, &[u32]),
        steps: u32,
        rate: u32,
    ) -> Result<Vec<f32>, MlError> {
        let mut manifest = self.job.manifest.clone();
        manifest.training.lr_micro = manifest.training.lr_micro.saturating_mul(rate);
        let seed = self.seed("batches");
        let work = oda_ml::Work { manifest: &manifest, head: from, data, indices, steps, seed };
        PlainRust.train(&work, &mut Inner::new(from.len()), &AtomicBool::new(false), &mut |_| {})
    }

    fn noise(&self, bound: f32) -> Vec<f32> {
        cheat::random(self.head.len(), bound, self.seed("noise"))
    }

    /// The changes of a delta that somebody handed in; none if it is no delta of this model.
    fn source(&self, of: BlobHash) -> Option<Vec<f32>> {
        let (m, n) = (&self.job.manifest, self.head.len());
        let delta = delta::decode(self.learning.blobs.get(&of)?, n, &m.training, &m.judging).ok()?;
        Some(delta.applied(&vec![0.0; n], 1.0))
    }

    /// Mean gain on the own shard, micro-nats.
    fn gain(&self, delta: &SparseDelta, shard: &[u32]) -> Result<i64, MlError> {
        let (m, train) = (&self.job.manifest, &self.learning.data.train);
        let losses = |w: &[f32]| Ok::<_, MlError>(PlainRust.measure(m, w, train, shard)?.losses_unat);
        let paired = Paired::of(&losses(self.head)?, &losses(&delta.applied(self.head, 1.0))?);
        Ok(paired.map_or(0, |p| p.mean_unat()))
    }
}

fn sum(a: &[f32], b: &[f32]) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

fn scaled(a: &[f32], by: f32) -> Vec<f32> {
    a.iter().map(|v| v * by).collect()
}

fn norm(a: &[f32]) -> f64 {
    a.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt()
}

/// Everything that a replay's result follows from.
fn key(job: &JudgeJob, claims: &[Claim]) -> [u8; 32] {
    let mut h = blake3::Hasher::new_derive_key("oda 2026 simulator, replay");
    h.update(&job.model.0).update(&job.round.to_le_bytes());
    h.update(&job.start.0).update(&job.sealed.0).update(&job.parent.hash.0);
    for claim in claims {
        h.update(&claim.id.0).update(&claim.trainer.0);
        match &claim.submitted {
            Submitted::NotRevealed => h.update(&[0]),
            Submitted::Refused(why) => h.update(format!("{why:?}").as_bytes()),
            Submitted::Delta { bytes, stated_unat } => {
                h.update(blake3::hash(bytes).as_bytes()).update(&stated_unat.to_le_bytes())
            }
        };
    }
    *h.finalize().as_bytes()
}

impl Learning for Reference {
    fn manifest(&mut self, name: &str, timing: Timing) -> Manifest {
        let name = name.chars().take(Manifest::MAX_NAME).collect();
        let mut manifest = Manifest { name, timing, ..self.template.clone() };
        let seed = Beacon([0; 32]).seed("initial head", &[manifest.name.as_bytes()]);
        // as long as the template's, so this cannot fail
        let head = weights::to_bytes(&manifest, &weights::initial(&manifest, seed)).unwrap_or_default();
        manifest.initial_head = self.keep(head);
        manifest
    }

    /// Whatever cannot be trained, as on a head that nobody made, becomes an empty delta: malformed.
    fn train(&mut self, job: &TrainJob, trainer: NodeId, work: &Work) -> Made {
        let cost_milli = cost_milli(work);
        if let Work::Copy { of } = work {
            let len = self.blobs.get(of).map_or(0, |bytes| bytes.len() as u64);
            return Made { delta: BlobRef { hash: *of, len }, stated_gain_unat: 1, cost_milli };
        }
        let (bytes, stated_gain_unat) = self.delta(job, trainer, work).unwrap_or_default();
        Made { delta: self.keep(bytes), stated_gain_unat, cost_milli }
    }

    /// # Panics
    /// If the parent head was made by nobody: a mistake of the simulator, after which nothing means anything.
    fn replay(&mut self, job: &JudgeJob, served: &dyn Fn(BlobHash) -> bool, _validator: u64) -> Judged {
        let most = job.manifest.judging.max_delta_bytes;
        let mut claims: Vec<Claim> = job
            .claims
            .iter()
            .map(|(id, trainer, reveal)| {
                let submitted = match reveal {
                    None => Submitted::NotRevealed,
                    Some(r) if r.delta.len > most => Submitted::Refused(Refusal::Oversize),
                    Some(r) => match self.blobs.get(&r.delta.hash).filter(|_| served(r.delta.hash)) {
                        Some(bytes) if bytes.len() as u64 == r.delta.len => {
                            Submitted::Delta { bytes: bytes.clone(), stated_unat: r.stated_gain_unat }
                        }
                        // D1: nobody can serve bytes of another length under this hash
                        _ => Submitted::Refused(Refusal::NotServed),
                    },
                };
                Claim { id: *id, trainer: *trainer, submitted }
            })
            .collect();
        claims.sort_by_key(|c| c.id);
        let measured = self.measured(job, claims);
        let measured = measured.unwrap_or_else(|e| panic!("round {} of {}: {e}", job.round, job.manifest.name));
        let (model, round, sealed, attempt) = (job.model, job.round, job.sealed, job.attempt);
        Judged { model, round, sealed, attempt, measured }
    }

    fn true_loss(&self, _model: ModelId, head: BlobHash) -> f64 {
        let m = &self.template;
        let all: Vec<u32> = (0..self.data.test.len()).collect();
        let measured = self.head(m, head).and_then(|w| PlainRust.measure(m, &w, &self.data.test, &all));
        #[allow(clippy::cast_precision_loss)]
        measured.map_or(f64::INFINITY, |t| t.losses_unat.iter().sum::<i64>() as f64 / 1e6 / all.len().max(1) as f64)
    }
}

#[cfg(test)]
mod tests;
