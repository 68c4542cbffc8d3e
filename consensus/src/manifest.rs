//! What a model is: architecture, objective, data, and the figures by which work on it is judged.
//!
//! The [`ModelId`] is the BLAKE3 hash of the manifest's canonical bytes: change any figure and
//! it is another model; under one id only the weights change. Every number is an integer, so
//! that the bytes are the same everywhere; the unit stands last in each name.

pub use crate::architecture::Architecture;
use crate::codec;
use crate::ids::{BlobRef, ModelId};
use crate::record;
use crate::{score, sealed};
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

/// What is minimised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Objective {
    /// Cross-entropy in nats, per sample.
    CrossEntropy,
    /// Cross-entropy plus a complexity term, the same for every sample: `l2_nano` billionths of a nat
    /// times the squared Euclidean norm of all weights. An improvement must be worth its complexity.
    CrossEntropyL2 {
        /// Price of one unit of squared norm, in billionths of a nat.
        l2_nano: u64,
    },
}

/// Work mode (S4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkMode {
    /// Many trainers on one model, each on the shard the beacon assigns to it.
    Assigned,
    /// One improvement at a time: claims are taken in order of the gain they state, and each must add
    /// what it states to those before it. For metric bounties and models trained elsewhere.
    Free,
}

/// One split of a model's data: a safetensors blob in the one format every node reads, see
/// `oda-ml`'s `data` module. Whatever the data came in, whoever adds the model converts it once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// The samples.
    pub blob: BlobRef,
    /// Number of samples.
    pub samples: u32,
}

/// A named part of the data on which no new head may be worse than its parent (S6, attack 4).
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guard {
    /// Name for people.
    pub name: String,
    /// All of its samples are measured.
    pub split: Split,
    /// For a sealed guard: the plain text, of which the split's blob is the cipher text (see [`crate::sealed`]).
    #[serde(default)]
    pub sealed: Option<BlobRef>,
}

/// The data of a model by hash (D1).
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSet {
    /// Pool from which shards are drawn.
    pub train: Split,
    /// Pool from which gate and confirm samples are drawn.
    pub eval: Split,
    /// Held-out split, reported beside each head and never used to judge.
    pub test: Split,
    /// Guard slices.
    pub guards: Vec<Guard>,
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
    /// Error feedback: share of what earlier deltas left out that goes into the next one, in thousandths.
    pub feedback_milli: u32,
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
    /// A claim that is hopeless after so many of the gate samples is measured no further; 0: never.
    pub screen_samples: u32,
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
    /// Share of the round's median excess of shard gain over gate gain that a claim must show, in thousandths.
    pub least_work_milli: u32,
    /// Deltas whose cosine reaches this, in thousandths, count as one (attack 5).
    pub copy_cosine_milli: u32,
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

fn is_name(name: &str, longest: usize) -> bool {
    (1..=longest).contains(&name.len()) && name.bytes().all(|b| (0x20..0x7f).contains(&b))
}

impl Manifest {
    /// Longest name in bytes.
    pub const MAX_NAME: usize = 64;
    /// Most parameters of a model.
    pub const MAX_PARAMETERS: u64 = 64 << 20;
    /// Most guard slices.
    pub const MAX_GUARDS: usize = 8;
    /// Most samples of a guard slice.
    pub const MAX_GUARD_SAMPLES: u32 = 1 << 14;
    /// Largest data blob in bytes.
    pub const MAX_DATA_BYTES: u64 = 256 << 20;

    /// The model's name everywhere: hash of the canonical bytes.
    pub fn id(&self) -> ModelId {
        ModelId(codec::hash(self))
    }

    /// Number of trainable parameters.
    pub fn parameters(&self) -> u64 {
        self.architecture.parameters()
    }

    /// Whether any guard slice is sealed (S3).
    pub fn has_sealed_guards(&self) -> bool {
        self.data.guards.iter().any(|g| g.sealed.is_some())
    }

    /// Every blob a node needs to work on the model, initial head first.
    pub fn blobs(&self) -> Vec<BlobRef> {
        let d = &self.data;
        let splits = [d.train, d.eval, d.test].into_iter().chain(d.guards.iter().map(|g| g.split));
        std::iter::once(self.initial_head).chain(splits.map(|s| s.blob)).collect()
    }

    /// Checks every limit (K3, S5).
    ///
    /// # Errors
    /// The first figure that is out of range, and what range it must be in.
    pub fn check(&self) -> Result<(), ManifestError> {
        let fail = |problem: String| Err(ManifestError { name: self.name.chars().take(64).collect(), problem });
        if !is_name(&self.name, Self::MAX_NAME) {
            return fail(format!("the name must be 1 to {} printable ASCII characters", Self::MAX_NAME));
        }
        if let Err(problem) = self.architecture.check() {
            return fail(problem);
        }
        let parameters = self.parameters();
        if parameters > Self::MAX_PARAMETERS {
            return fail(format!("{parameters} parameters, at most {} are supported", Self::MAX_PARAMETERS));
        }
        // four bytes a value, and a line of header for each tensor
        let header = (self.architecture.tensors().len() as u64 + 32).saturating_mul(256);
        if self.initial_head.len > parameters.saturating_mul(4).saturating_add(header) {
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
        let guards = &self.data.guards;
        let slices_ok = guards.len() <= Self::MAX_GUARDS
            && guards
                .iter()
                .all(|g| (2..=Self::MAX_GUARD_SAMPLES).contains(&g.split.samples) && is_name(&g.name, Self::MAX_NAME));
        if !slices_ok {
            return fail(format!(
                "at most {} guard slices of 2 to {} samples, each with a name of printable ASCII",
                Self::MAX_GUARDS,
                Self::MAX_GUARD_SAMPLES
            ));
        }
        let public = self.blobs();
        for (guard, plain) in guards.iter().filter_map(|g| Some((g, g.sealed?))) {
            let sealed = guard.split.blob;
            if plain.len == 0 || plain.len.checked_add(sealed::TAG_BYTES) != Some(sealed.len) {
                let (plain, sealed, tag) = (plain.len, sealed.len, sealed::TAG_BYTES);
                return fail(format!(
                    "guard `{}`: {plain} bytes seal into {tag} more, the blob has {sealed}",
                    guard.name
                ));
            }
            if public.contains(&plain) {
                return fail(format!("guard `{}` is sealed, but lies open as another blob of the model", guard.name));
            }
        }
        let splits = [self.data.train.samples, self.data.eval.samples, self.data.test.samples];
        if splits.iter().any(|n| *n == 0 || *n > score::MAX_SAMPLES) {
            return fail(format!("each split must have 1 to {} samples", score::MAX_SAMPLES));
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
        if j.screen_samples != 0 && (j.screen_samples < 32 || j.screen_samples >= j.gate_samples) {
            return fail("screen_samples must be 0 or from 32 to below gate_samples".into());
        }
        if j.least_work_milli > 1000 {
            return fail("least_work_milli must be at most 1000".into());
        }
        if j.copy_cosine_milli == 0 || j.copy_cosine_milli > 1000 {
            return fail("copy_cosine_milli must be 1 to 1000".into());
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
        if t.feedback_milli > 1000 {
            return fail("feedback_milli must be at most 1000".into());
        }
        if t.outer_lr_milli == 0 || t.outer_lr_milli > 10_000 {
            return fail("outer_lr_milli must be 1 to 10000".into());
        }
        let longest = crate::delta::max_len(usize::try_from(parameters).unwrap_or(usize::MAX), t) as u64;
        if j.max_delta_bytes < longest {
            return fail(format!("max_delta_bytes must be at least {longest} for this compression"));
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

    #[test] // S3: of a sealed guard both lengths are signed, and its plain text is no other blob
    fn a_sealed_guard_that_cannot_be_one_is_refused() {
        let mut m = sample();
        let split = Split { blob: BlobRef { len: 516, ..BlobRef::of(b"cipher") }, samples: 16 };
        let plain = BlobRef { len: 500, ..BlobRef::of(b"plain") };
        m.data.guards = vec![Guard { name: "sealed".into(), split, sealed: Some(plain) }];
        m.check().unwrap();
        assert!(m.has_sealed_guards() && m.blobs().contains(&split.blob) && !m.blobs().contains(&plain));
        let with = |plain| {
            let mut m = m.clone();
            m.data.guards[0].sealed = Some(plain);
            m.check().unwrap_err().to_string()
        };
        assert!(with(BlobRef { len: 501, ..plain }).contains("seal into 16 more"));
        assert!(with(BlobRef { len: u64::MAX, ..plain }).contains("seal into 16 more"));
        let (mut open, shown) = (m.clone(), BlobRef { len: 500, ..plain });
        open.data.test.blob = shown;
        assert!(open.check().unwrap_err().to_string().contains("lies open"));
    }

    #[test] // K3, S5: each figure out of range is named
    fn figures_out_of_range_are_named() {
        let error = |change: &dyn Fn(&mut Manifest)| {
            let mut m = sample();
            change(&mut m);
            m.check().err().map_or_else(|| "accepted".into(), |e| e.to_string())
        };
        let guard = |m: &mut Manifest, samples| {
            let split = Split { samples, ..m.data.test };
            m.data.guards.push(Guard { name: "slice".into(), split, sealed: None });
        };
        for (named, change) in [
            ("screen_samples", &(|m: &mut Manifest| m.judging.screen_samples = 31) as &dyn Fn(&mut Manifest)),
            ("screen_samples", &|m| m.judging.screen_samples = m.judging.gate_samples),
            ("copy_cosine_milli", &|m| m.judging.copy_cosine_milli = 0),
            ("copy_cosine_milli", &|m| m.judging.copy_cosine_milli = 1001),
            ("least_work_milli", &|m| m.judging.least_work_milli = 1001),
            ("feedback_milli", &|m| m.training.feedback_milli = 1001),
            ("max_delta_bytes must be at least", &|m| m.judging.max_delta_bytes = 14),
            ("guard slices of 2 to", &|m| guard(m, 1)),
            ("guard slices of 2 to", &|m| (0..9).for_each(|_| guard(m, 64))),
            ("1 to 1048576 samples", &|m| m.data.test.samples = 0),
            ("classes", &|m| m.architecture = Architecture::Linear { inputs: 4, classes: 1 }),
        ] {
            assert!(error(change).contains(named), "{named}: {}", error(change));
        }
        assert_eq!(error(&|m| (0..8).for_each(|_| guard(m, 64))), "accepted");
    }

    #[test] // S5: says how many samples are needed
    fn too_small_a_data_set_is_named() {
        let mut m = sample();
        m.judging.gate_samples = 500;
        assert!(m.check().unwrap_err().to_string().contains("need 628 evaluation samples"));
    }
}
