//! What a model is: architecture, objective, data, and the figures by which work on it is judged.
//!
//! The [`ModelId`] is the BLAKE3 hash of the manifest's canonical bytes: change any figure and
//! it is another model; under one id only the weights change. Every number is an integer, so
//! that the bytes are the same everywhere; the unit stands last in each name.

use crate::codec;
use crate::ids::{BlobRef, ModelId};
use crate::record;
use serde::{Deserialize, Serialize};

/// Description of one model. Canonical bytes: [`codec::encode`].
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Name for people, at most [`Manifest::MAX_NAME`] bytes of printable ASCII.
    pub name: String,
    /// Shape of the network.
    pub architecture: Architecture,
    /// What is minimised.
    pub objective: Objective,
    /// Data by hash.
    pub data: DataSet,
    /// Weights before the first round, as a safetensors blob.
    pub initial_head: BlobRef,
    /// How claims are judged (S4).
    pub work_mode: WorkMode,
    /// How a trainer trains and compresses.
    pub training: Training,
    /// Sample sizes, confidence bounds and limits.
    pub judging: Judging,
    /// Round timing in blocks.
    pub timing: Timing,
}
record!(Manifest, b"mnft", 16 << 10);

/// Shape of the network.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Architecture {
    /// Fully connected layers with ReLU between them: `inputs -> hidden[0] -> ... -> classes`.
    /// No hidden layer gives softmax regression.
    Mlp {
        /// Features of one sample.
        inputs: u32,
        /// Width of each hidden layer.
        hidden: Vec<u32>,
        /// Output classes.
        classes: u32,
    },
}

/// What is minimised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// Cross-entropy in nats, per sample.
    CrossEntropy,
}

/// Work mode (S4). `free` mode follows with metric bounties.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkMode {
    /// Many trainers on one model, each on the shard the beacon assigns to it.
    Assigned,
}

/// Samples and labels of one split, as standard IDX files (plain or gzip).
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// IDX3 images, one byte a pixel.
    pub images: BlobRef,
    /// IDX1 labels.
    pub labels: BlobRef,
    /// Number of samples.
    pub samples: u32,
}

/// The data of a model by hash (D1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSet {
    /// Pool from which shards are drawn.
    pub train: Split,
    /// Pool from which gate and confirm samples are drawn.
    pub eval: Split,
    /// Held-out split, reported beside each head and never used to judge.
    pub test: Split,
}

/// How a trainer trains and compresses. Advice to honest trainers: nothing depends on its being
/// followed, except the limits on the delta.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Training {
    /// Local optimiser steps H (DiLoCo).
    pub inner_steps: u32,
    /// Samples a step.
    pub batch: u32,
    /// AdamW learning rate in millionths.
    pub lr_micro: u32,
    /// AdamW weight decay in millionths.
    pub weight_decay_micro: u32,
    /// Parameters per top-k chunk.
    pub chunk: u32,
    /// Parameters kept of each chunk.
    pub keep_per_chunk: u32,
    /// Share of the accepted average that the head moves by, in thousandths (outer step).
    pub outer_lr_milli: u32,
}

/// Sample sizes, confidence bounds and limits (S5, S7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Judging {
    /// Samples assigned to one trainer for one round.
    pub shard_samples: u32,
    /// Samples on which claims are judged.
    pub gate_samples: u32,
    /// Samples, disjoint from the gate, on which a new head must prove itself.
    pub confirm_samples: u32,
    /// Assigned-work test: shard gain must exceed gate gain by this many standard errors, in thousandths.
    pub assigned_z_milli: u32,
    /// A claim is harmful if its probe-step gain is below zero by this many standard errors, in thousandths.
    pub harm_z_milli: u32,
    /// Standard errors of the lower bound of the new head's gain, in thousandths.
    pub adopt_z_milli: u32,
    /// The probe step is 1 / this of the full step.
    pub probe_divisor: u32,
    /// Largest L2 norm of a delta, in thousandths.
    pub norm_cap_milli: u64,
    /// Smallest proven mean gain for which a head is adopted, in micro-nats.
    pub min_gain_unat: u64,
    /// Largest delta blob, in bytes.
    pub max_delta_bytes: u64,
    /// Most claims in one round.
    pub max_claims: u32,
}

/// Round timing in blocks of the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timing {
    /// Commits are taken for at least this many blocks after a round opens.
    pub commit_blocks: u32,
    /// ... and for at least this many after the first commit, so that an idle round waits for work.
    pub linger_blocks: u32,
    /// Locks and reveals are taken for this many blocks after commits close.
    pub reveal_blocks: u32,
}

/// A manifest was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("manifest of `{name}`: {problem}")]
pub struct ManifestError {
    name: String,
    problem: String,
}

impl Manifest {
    /// Longest name in bytes.
    pub const MAX_NAME: usize = 64;
    /// Most parameters of a model.
    pub const MAX_PARAMETERS: u64 = 64 << 20;
    /// Largest data blob in bytes.
    pub const MAX_DATA_BYTES: u64 = 256 << 20;

    /// The model's name everywhere: hash of the canonical bytes.
    pub fn id(&self) -> ModelId {
        ModelId(codec::hash(self))
    }

    /// Number of trainable parameters.
    pub fn parameters(&self) -> u64 {
        self.tensor_shapes().iter().map(|(_, shape)| shape.iter().map(|d| u64::from(*d)).product::<u64>()).sum()
    }

    /// Name and shape of every weight tensor, in the fixed order of a flat parameter vector (S6).
    pub fn tensor_shapes(&self) -> Vec<(String, Vec<u32>)> {
        match &self.architecture {
            Architecture::Mlp { inputs, hidden, classes } => {
                let mut out = Vec::new();
                let mut width = *inputs;
                for (layer, next) in hidden.iter().chain(std::iter::once(classes)).enumerate() {
                    out.push((format!("layers.{layer}.weight"), vec![*next, width]));
                    out.push((format!("layers.{layer}.bias"), vec![*next]));
                    width = *next;
                }
                out
            }
        }
    }

    /// Every blob a node needs to work on the model, initial head first.
    pub fn blobs(&self) -> [BlobRef; 7] {
        let d = &self.data;
        [self.initial_head, d.train.images, d.train.labels, d.eval.images, d.eval.labels, d.test.images, d.test.labels]
    }

    /// Checks every limit (K3, S5).
    ///
    /// # Errors
    /// The first figure that is out of range, and what range it must be in.
    pub fn check(&self) -> Result<(), ManifestError> {
        let fail = |problem: String| Err(ManifestError { name: self.name.chars().take(64).collect(), problem });
        if self.name.is_empty()
            || self.name.len() > Self::MAX_NAME
            || !self.name.bytes().all(|b| (0x20..0x7f).contains(&b))
        {
            return fail(format!("the name must be 1 to {} printable ASCII characters", Self::MAX_NAME));
        }
        let Architecture::Mlp { inputs, hidden, classes } = &self.architecture;
        let widths_ok = hidden.len() <= 16 && hidden.iter().chain([inputs, classes]).all(|w| (1..=1 << 20).contains(w));
        if !widths_ok || *classes < 2 || *classes > 256 {
            return fail("layer widths must be 1 to 1048576, at most 16 hidden layers, 2 to 256 classes".into());
        }
        let parameters = self.parameters();
        if parameters > Self::MAX_PARAMETERS {
            return fail(format!("{parameters} parameters, at most {} are supported", Self::MAX_PARAMETERS));
        }
        if self.initial_head.len > parameters.saturating_mul(4).saturating_add(64 << 10) {
            return fail("the initial head is larger than its parameters explain".into());
        }
        for blob in self.blobs() {
            if blob.len == 0 || blob.len > Self::MAX_DATA_BYTES {
                return fail(format!(
                    "blob {} has {} bytes; 1 to {} are allowed",
                    blob.hash,
                    blob.len,
                    Self::MAX_DATA_BYTES
                ));
            }
        }
        let j = &self.judging;
        if j.shard_samples < 32 || j.shard_samples > self.data.train.samples {
            return fail(format!("shard_samples must be 32 to the {} training samples", self.data.train.samples));
        }
        if j.gate_samples < 32 || j.confirm_samples < 32 {
            return fail("gate_samples and confirm_samples must be at least 32".into());
        }
        let needed = u64::from(j.gate_samples) + u64::from(j.confirm_samples);
        if needed > u64::from(self.data.eval.samples) {
            return fail(format!(
                "gate and confirm need {needed} evaluation samples, the data set brings {}",
                self.data.eval.samples
            ));
        }
        if [j.assigned_z_milli, j.harm_z_milli, j.adopt_z_milli].iter().any(|z| *z > 20_000) {
            return fail("confidence bounds must be at most 20 standard errors".into());
        }
        if j.probe_divisor == 0 || j.probe_divisor > 1024 {
            return fail("probe_divisor must be 1 to 1024".into());
        }
        if j.norm_cap_milli == 0 || j.max_delta_bytes == 0 || j.max_delta_bytes > 64 << 20 {
            return fail("norm_cap_milli must be above 0, max_delta_bytes 1 to 67108864".into());
        }
        if j.max_claims == 0 || j.max_claims > 64 {
            return fail("max_claims must be 1 to 64".into());
        }
        let t = &self.training;
        if t.inner_steps == 0
            || t.batch == 0
            || t.chunk == 0
            || t.chunk > 1 << 16
            || t.keep_per_chunk == 0
            || t.keep_per_chunk > t.chunk
        {
            return fail("inner_steps and batch must be above 0, chunk 1 to 65536, keep_per_chunk 1 to chunk".into());
        }
        if t.outer_lr_milli == 0 || t.outer_lr_milli > 10_000 {
            return fail("outer_lr_milli must be 1 to 10000".into());
        }
        let w = &self.timing;
        if [w.commit_blocks, w.linger_blocks, w.reveal_blocks].iter().any(|b| *b == 0 || *b > 100_000) {
            return fail("timing must be 1 to 100000 blocks each".into());
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A small valid manifest for tests.
    pub(crate) fn sample() -> Manifest {
        crate::fuzzing::sample_manifest("sample")
    }

    #[test]
    fn shapes_and_identity() {
        let m = sample();
        m.check().unwrap();
        assert_eq!(m.parameters(), 4 * 3 + 3 + 3 * 2 + 2);
        let mut other = m.clone();
        other.judging.gate_samples += 1;
        assert_ne!(m.id(), other.id());
        assert_eq!(codec::decode::<Manifest>(&codec::encode(&m)).unwrap(), m);
    }

    #[test] // S5: says how many samples are needed
    fn too_small_a_data_set_is_named() {
        let mut m = sample();
        m.judging.gate_samples = 500;
        assert!(m.check().unwrap_err().to_string().contains("need 628 evaluation samples"));
    }
}
