//! Replaying a round (S1, S3, S4, S6): from head, deltas and beacons to integers.

use crate::delta::{self, SparseDelta};
use crate::{Backend, MlError, ModelData, aggregate, weights};
use oda_consensus::ids::{Beacon, BlobRef, ModelId, NodeId};
use oda_consensus::manifest::Manifest;
use oda_consensus::outcome::{HeadScores, TestReport};
use oda_consensus::sample;
use oda_consensus::score::{self, ClaimScores, Measurement, Paired, Refusal, Verdict};

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
pub enum Submitted {
    /// Never revealed (R3).
    NotRevealed,
    /// Revealed, but refused before fetching or not served.
    Refused(Refusal),
    /// The delta's bytes.
    Bytes(Vec<u8>),
}

/// What a replay found.
pub struct RoundResult {
    /// One measurement a claim, in the order given.
    pub measured: Vec<Measurement>,
    /// Scores of the candidate head, if any claim was accepted.
    pub head: Option<HeadScores>,
    /// The candidate's safetensors bytes.
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

/// Replays a round. Claims in ascending order of their id, as in the outcome.
///
/// # Errors
/// If head or data do not fit the model; never because of a delta.
pub fn replay(backend: &dyn Backend, r: &Round<'_>, claims: &[(NodeId, Submitted)]) -> Result<RoundResult, MlError> {
    let (m, judging) = (r.manifest, &r.manifest.judging);
    let parent = weights::from_bytes(m, r.parent)?;
    let (gate, confirm) = gate_and_confirm(m, r.model, r.round, r.sealed);
    let paired = |before: &[i64], after: &[i64]| {
        Paired::of(before, after).ok_or_else(|| MlError::Backend("samples differ".into()))
    };
    let gate_before = backend.measure(m, &parent, &r.data.eval, &gate)?.losses_unat;
    #[allow(clippy::cast_precision_loss)]
    let probe_scale = 1.0 / judging.probe_divisor as f32;

    let (mut measured, mut accepted): (Vec<Measurement>, Vec<SparseDelta>) = (Vec::new(), Vec::new());
    for (trainer, submitted) in claims {
        let delta = match submitted {
            Submitted::NotRevealed => {
                measured.push(Measurement::NotRevealed);
                continue;
            }
            Submitted::Refused(why) => Err(*why),
            Submitted::Bytes(bytes) => delta::decode(bytes, parent.len(), &m.training, judging),
        };
        let delta = match delta {
            Ok(delta) => delta,
            Err(why) => {
                measured.push(Measurement::Refused(why));
                continue;
            }
        };
        let shard = shard(m, r.model, r.round, r.start, *trainer);
        let (full, probe) = (delta.applied(&parent, 1.0), delta.applied(&parent, probe_scale));
        let shard_before = backend.measure(m, &parent, &r.data.train, &shard)?.losses_unat;
        let measurement = Measurement::Scored(ClaimScores {
            shard: paired(&shard_before, &backend.measure(m, &full, &r.data.train, &shard)?.losses_unat)?,
            gate: paired(&gate_before, &backend.measure(m, &full, &r.data.eval, &gate)?.losses_unat)?,
            probe: paired(&gate_before, &backend.measure(m, &probe, &r.data.eval, &gate)?.losses_unat)?,
        });
        if score::verdict(judging, &measurement) == Verdict::Accepted {
            accepted.push(delta);
        }
        measured.push(measurement);
    }
    if accepted.is_empty() {
        return Ok(RoundResult { measured, head: None, candidate: None });
    }
    let deltas: Vec<&SparseDelta> = accepted.iter().collect();
    let candidate = aggregate::new_head(&parent, &deltas, m.training.outer_lr_milli);
    let bytes = weights::to_bytes(m, &candidate)?;
    let confirm_before = backend.measure(m, &parent, &r.data.eval, &confirm)?.losses_unat;
    let confirm_after = backend.measure(m, &candidate, &r.data.eval, &confirm)?.losses_unat;
    let test = |w: &[f32]| -> Result<TestReport, MlError> {
        let all: Vec<u32> = (0..m.data.test.samples).collect();
        let t = backend.measure(m, w, &r.data.test, &all)?;
        Ok(TestReport { n: m.data.test.samples, loss_sum_unat: t.losses_unat.iter().sum(), correct: t.correct })
    };
    let head = HeadScores {
        candidate: BlobRef::of(&bytes),
        confirm: paired(&confirm_before, &confirm_after)?,
        parent_test: test(&parent)?,
        candidate_test: test(&candidate)?,
    };
    Ok(RoundResult { measured, head: Some(head), candidate: Some(bytes) })
}
