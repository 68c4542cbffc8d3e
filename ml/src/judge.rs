//! Replaying a round (S1, S3, S4, S6): from head, deltas and beacons to integers.
//!
//! What is measured, and how far, follows from what was measured so far by the rules in
//! [`oda_consensus::score`], so all validators measure the same: a claim that is hopeless after the first part of
//! the gate sample is dropped there, and only assigned work is tried at the probe step. Losses of the head itself on gate
//! and confirm sample are measured once a round.

use crate::{Backend, Dataset, MlError, ModelData, aggregate, weights};
use oda_consensus::delta::{self, SparseDelta};
use oda_consensus::ids::{Beacon, BlobRef, ClaimId, ModelId, NodeId};
use oda_consensus::manifest::{Manifest, WorkMode};
use oda_consensus::outcome::Measured;
use oda_consensus::sample;
use oda_consensus::score::{
    self, Added, ClaimScores, HeadScores, Measurement, Paired, Refusal, TestReport, Twin, Verdict,
};

/// Training samples assigned to a trainer for a round (S3).
pub fn shard(manifest: &Manifest, model: ModelId, round: u64, start: Beacon, trainer: NodeId) -> Vec<u32> {
    let seed = start.seed("shard", &[&model.0, &round.to_le_bytes(), &trainer.0]);
    sample::draw(seed, manifest.data.train.samples, manifest.judging.shard_samples)
}

/// Gate sample and disjoint confirm sample of a round (S3).
pub fn gate_and_confirm(manifest: &Manifest, model: ModelId, round: u64, sealed: Beacon) -> (Vec<u32>, Vec<u32>) {
    let j = &manifest.judging;
    let seed = sealed.seed("judge", &[&model.0, &round.to_le_bytes()]);
    let mut gate = sample::draw(seed, manifest.data.eval.samples, j.gate_samples.saturating_add(j.confirm_samples));
    let confirm = gate.split_off((j.gate_samples as usize).min(gate.len()));
    (gate, confirm)
}

/// A claim as the judge gets it: what was fetched, or why there is nothing.
#[derive(Clone, Debug)]
pub enum Submitted {
    /// Never revealed (R3).
    NotRevealed,
    /// Revealed, but refused before fetching or not served.
    Refused(Refusal),
    /// Fetched.
    Delta {
        /// The delta's bytes.
        bytes: Vec<u8>,
        /// What the trainer stated, micro-nats of mean loss.
        stated_unat: i64,
    },
}

/// One claim of a round.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Name.
    pub id: ClaimId,
    /// Whose it is.
    pub trainer: NodeId,
    /// What was handed in.
    pub submitted: Submitted,
}

/// What a replay found.
#[derive(Clone, Debug)]
pub struct RoundResult {
    /// What goes into the outcome.
    pub measured: Measured,
    /// The candidate's safetensors bytes, if any claim was accepted.
    pub candidate: Option<Vec<u8>>,
}

/// Everything a replay is about.
pub struct Round<'a> {
    /// Manifest.
    pub manifest: &'a Manifest,
    /// Its id.
    pub model: ModelId,
    /// Round.
    pub round: u64,
    /// Beacon of the shards.
    pub start: Beacon,
    /// Beacon of gate and confirm samples.
    pub sealed: Beacon,
    /// Safetensors bytes of the parent head.
    pub parent: &'a [u8],
    /// Data.
    pub data: &'a ModelData,
}

/// Replays a round.
///
/// # Errors
/// If head or data do not fit the model; never because of a delta.
pub fn replay(backend: &dyn Backend, r: &Round<'_>, mut claims: Vec<Claim>) -> Result<RoundResult, MlError> {
    claims.sort_by_key(|c| c.id);
    let (gate, confirm) = gate_and_confirm(r.manifest, r.model, r.round, r.sealed);
    let parent = weights::from_bytes(r.manifest, r.parent)?;
    let judge = Judge { backend, r, gate_before: Vec::new(), gate, parent };
    judge.run(&claims, &confirm)
}

struct Judge<'a> {
    backend: &'a dyn Backend,
    r: &'a Round<'a>,
    gate: Vec<u32>,
    gate_before: Vec<i64>,
    parent: Vec<f32>,
}

fn paired(before: &[i64], after: &[i64]) -> Result<Paired, MlError> {
    Paired::of(before, after).ok_or_else(|| MlError::Backend("samples differ".into()))
}

impl Judge<'_> {
    fn losses(&self, weights: &[f32], data: &Dataset, indices: &[u32]) -> Result<Vec<i64>, MlError> {
        Ok(self.backend.measure(self.r.manifest, weights, data, indices)?.losses_unat)
    }

    fn run(mut self, claims: &[Claim], confirm: &[u32]) -> Result<RoundResult, MlError> {
        let (m, eval) = (self.r.manifest, &self.r.data.eval);
        let deltas: Vec<Result<SparseDelta, Measurement>> = claims.iter().map(|c| self.read(c)).collect();
        if deltas.iter().any(Result::is_ok) {
            self.gate_before = self.losses(&self.parent, eval, &self.gate)?;
        }
        let (measurements, twins, candidate) = match m.work_mode {
            WorkMode::Assigned => self.assigned(claims, deltas)?,
            WorkMode::Free => self.free(claims, deltas)?,
        };
        let (mut head, mut bytes) = (None, None);
        if let Some(candidate) = candidate {
            let new = weights::to_bytes(m, &candidate)?;
            let gain = |data: &Dataset, indices: &[u32]| {
                paired(&self.losses(&self.parent, data, indices)?, &self.losses(&candidate, data, indices)?)
            };
            let all = |n: u32| (0..n).collect::<Vec<u32>>();
            let test = |w: &[f32]| -> Result<TestReport, MlError> {
                let n = m.data.test.samples;
                let t = self.backend.measure(m, w, &self.r.data.test, &all(n))?;
                Ok(TestReport { n, loss_sum_unat: t.losses_unat.iter().sum(), correct: t.correct })
            };
            let guards = m.data.guards.iter().zip(&self.r.data.guards).map(|(slice, opened)| match opened {
                Some(guard) => gain(guard, &all(guard.len())),
                None if slice.sealed.is_some() => Ok(Paired::SKIPPED),
                None => Err(MlError::Data(format!("guard `{}` is missing", slice.name))),
            });
            let guards = guards.collect::<Result<_, _>>()?;
            head = Some(HeadScores {
                candidate: BlobRef::of(&new),
                confirm: gain(eval, confirm)?,
                guards,
                parent_test: test(&self.parent)?,
                candidate_test: test(&candidate)?,
            });
            bytes = Some(new);
        }
        let claims = claims.iter().zip(measurements).map(|(c, m)| (c.id, c.trainer, m)).collect();
        Ok(RoundResult { measured: Measured { claims, twins, head }, candidate: bytes })
    }

    /// The delta, or the measurement of a claim without one (S7).
    fn read(&self, claim: &Claim) -> Result<SparseDelta, Measurement> {
        let m = self.r.manifest;
        match &claim.submitted {
            Submitted::NotRevealed => Err(Measurement::NotRevealed),
            Submitted::Refused(why) => Err(Measurement::Refused(*why)),
            Submitted::Delta { bytes, .. } => {
                delta::decode(bytes, self.parent.len(), &m.training, &m.judging).map_err(Measurement::Refused)
            }
        }
    }

    /// Gain of other weights on a stretch of the gate sample.
    fn gate_losses(&self, weights: &[f32], from: usize, to: usize) -> Result<Vec<i64>, MlError> {
        self.losses(weights, &self.r.data.eval, self.gate.get(from..to).unwrap_or(&[]))
    }

    fn gate_gain(&self, after: &[i64]) -> Result<Paired, MlError> {
        paired(self.gate_before.get(..after.len()).unwrap_or(&[]), after)
    }

    // S4, assigned mode
    fn assigned(&self, claims: &[Claim], deltas: Vec<Result<SparseDelta, Measurement>>) -> Result<Found, MlError> {
        let (r, m, judging) = (self.r, self.r.manifest, &self.r.manifest.judging);
        #[allow(clippy::cast_precision_loss)]
        let probe_scale = 1.0 / judging.probe_divisor as f32;
        let mut measurements = Vec::new();
        for (claim, delta) in claims.iter().zip(&deltas) {
            let delta = match delta {
                Ok(delta) => delta,
                Err(found) => {
                    measurements.push(*found);
                    continue;
                }
            };
            let shard = shard(m, r.model, r.round, r.start, claim.trainer);
            let full = delta.applied(&self.parent, 1.0);
            let before = self.losses(&self.parent, &r.data.train, &shard)?;
            let shard = paired(&before, &self.losses(&full, &r.data.train, &shard)?)?;
            let screen = judging.screen_samples as usize;
            let mut after = self.gate_losses(&full, 0, screen)?;
            let mut gate = self.gate_gain(&after)?;
            let mut probe = None;
            if screen == 0 || !score::hopeless(judging, &shard, &gate) {
                after.extend(self.gate_losses(&full, screen, self.gate.len())?);
                gate = self.gate_gain(&after)?;
                if score::is_assigned_work(judging, &shard, &gate) {
                    let weights = delta.applied(&self.parent, probe_scale);
                    probe = Some(self.gate_gain(&self.gate_losses(&weights, 0, self.gate.len())?)?);
                }
            }
            measurements.push(Measurement::Scored(ClaimScores { shard, gate, probe, norm_micro: delta.norm_micro() }));
        }
        let acceptable: Vec<bool> =
            measurements.iter().map(|x| score::own_verdict(m.work_mode, judging, x) == Verdict::Accepted).collect();
        let twins = twins(judging.copy_cosine_milli, &deltas, &acceptable);
        let verdicts = score::verdicts(m.work_mode, judging, &measurements, &twins);
        let accepted: Vec<&SparseDelta> = deltas
            .iter()
            .zip(verdicts)
            .filter(|(_, verdict)| *verdict == Verdict::Accepted)
            .filter_map(|(delta, _)| delta.as_ref().ok())
            .collect();
        let candidate =
            (!accepted.is_empty()).then(|| aggregate::new_head(&self.parent, &accepted, m.training.outer_lr_milli));
        Ok((measurements, twins, candidate))
    }

    // S4, free mode: whoever states more goes first, and each must add what it states
    fn free(&self, claims: &[Claim], deltas: Vec<Result<SparseDelta, Measurement>>) -> Result<Found, MlError> {
        let (mode, judging) = (self.r.manifest.work_mode, &self.r.manifest.judging);
        let stated = |c: &Claim| match c.submitted {
            Submitted::Delta { stated_unat, .. } => stated_unat,
            _ => 0,
        };
        let mut order: Vec<(usize, &Claim)> = claims.iter().enumerate().collect();
        order.sort_by_key(|(i, c)| (std::cmp::Reverse(stated(c)), *i));
        let mut measurements = vec![Measurement::NotRevealed; claims.len()];
        let (mut head, mut losses, mut any) = (self.parent.clone(), self.gate_before.clone(), false);
        for (i, claim) in order {
            let (Some(delta), Some(found)) = (deltas.get(i), measurements.get_mut(i)) else { continue };
            match delta {
                Err(without) => *found = *without,
                Ok(delta) => {
                    let next = delta.applied(&head, 1.0);
                    let after = self.gate_losses(&next, 0, self.gate.len())?;
                    let gate = paired(&losses, &after)?;
                    *found = Measurement::Added(Added { stated_unat: stated(claim), gate });
                    if score::own_verdict(mode, judging, found) == Verdict::Accepted {
                        (head, losses, any) = (next, after, true);
                    }
                }
            }
        }
        Ok((measurements, Vec::new(), any.then_some(head)))
    }
}

type Found = (Vec<Measurement>, Vec<Twin>, Option<Vec<f32>>);

/// Pairs of acceptable claims whose deltas point the same way (attack 5).
fn twins(bound_milli: u32, deltas: &[Result<SparseDelta, Measurement>], acceptable: &[bool]) -> Vec<Twin> {
    let candidates: Vec<(u8, &SparseDelta)> = deltas
        .iter()
        .zip(acceptable)
        .enumerate()
        .filter(|(_, (_, acceptable))| **acceptable)
        .filter_map(|(i, (delta, _))| Some((u8::try_from(i).ok()?, delta.as_ref().ok()?)))
        .collect();
    let mut out = Vec::new();
    for (n, (a, one)) in candidates.iter().enumerate() {
        for (b, other) in candidates.iter().skip(n + 1) {
            let cosine = u32::try_from(one.cosine_milli(other)).unwrap_or(0).min(1000);
            if cosine >= bound_milli {
                out.push(Twin { a: *a, b: *b, cosine_milli: u16::try_from(cosine).unwrap_or(u16::MAX) });
            }
        }
    }
    out
}
