//! A model of the repository with its data in memory, and the steps of the protocol the experiments share.

use oda_consensus::delta::{self, SparseDelta};
use oda_consensus::ids::{Beacon, ModelId, NodeId};
use oda_consensus::manifest::Manifest;
use oda_ml::compress::ErrorFeedback;
use oda_ml::model_file;
use oda_ml::torch::{Device, Torch};
use oda_ml::{Backend, Dataset, Inner, MlError, ModelData, Work, judge, weights};
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// All experiments train and measure on the CPU.
pub const TORCH: Torch = Torch { device: Device::Cpu };

/// A model with its data.
pub struct Model {
    /// As the model file says; cells change figures of their own copies.
    pub manifest: Manifest,
    /// Name of the unchanged model: shards follow from it, so that methods train on the same samples.
    pub id: ModelId,
    /// The splits.
    pub data: ModelData,
}

impl Model {
    /// Reads a model file and its data.
    ///
    /// # Errors
    /// If either is missing or malformed.
    pub fn load(path: &Path) -> Result<Self, MlError> {
        let bundle = model_file::load(path, None)?;
        let data = bundle.data()?;
        Ok(Self { id: bundle.manifest.id(), manifest: bundle.manifest, data })
    }

    /// Initial weights of a seed.
    pub fn initial(&self, manifest: &Manifest, seed: u32) -> Vec<f32> {
        weights::initial(manifest, beacon(seed).seed("results, initial head", &[]))
    }
}

/// The first beacon of a seed.
pub fn beacon(seed: u32) -> Beacon {
    Beacon([0x5e; 32]).next(&seed.to_le_bytes())
}

/// Name of a trainer.
pub fn node(number: u32) -> NodeId {
    let mut name = [7; 32];
    name[..4].copy_from_slice(&number.to_le_bytes());
    NodeId(name)
}

/// What a trainer keeps from round to round.
pub struct Trainer {
    /// Name.
    pub id: NodeId,
    /// Memory of its AdamW.
    pub inner: Inner,
    /// What earlier deltas left out.
    pub feedback: ErrorFeedback,
}

impl Trainer {
    /// So many trainers of a model, each with nothing behind it.
    pub fn several(count: u32, manifest: &Manifest, parameters: usize) -> Vec<Self> {
        let decay = f64::from(manifest.training.feedback_milli) / 1000.0;
        #[allow(clippy::cast_possible_truncation)]
        let one = |number| Self {
            id: node(number),
            inner: Inner::new(parameters),
            feedback: ErrorFeedback::with_decay(parameters, decay as f32),
        };
        (0..count).map(one).collect()
    }

    /// Dense change of some steps on the shard of a round.
    ///
    /// # Errors
    /// If training fails.
    pub fn train(
        &mut self,
        model: &Model,
        manifest: &Manifest,
        (round, start): (u32, Beacon),
        head: &[f32],
        steps: u32,
    ) -> Result<Vec<f32>, MlError> {
        let indices = judge::shard(manifest, model.id, round.into(), start, self.id);
        let seed = start.seed("results, batches", &[&self.id.0]);
        train(model, manifest, head, &indices, steps, seed, &mut self.inner)
    }
}

/// Trains for some steps on these samples.
///
/// # Errors
/// If training fails.
pub fn train(
    model: &Model,
    manifest: &Manifest,
    head: &[f32],
    indices: &[u32],
    steps: u32,
    seed: [u8; 32],
    inner: &mut Inner,
) -> Result<Vec<f32>, MlError> {
    let work = Work { manifest, head, data: &model.data.train, indices, steps, seed };
    TORCH.train(&work, inner, &AtomicBool::new(false), &mut |_| {})
}

/// Reads a delta as a validator does.
///
/// # Errors
/// If it would be refused.
pub fn received(bytes: &[u8], manifest: &Manifest, parameters: usize) -> Result<SparseDelta, MlError> {
    let read = delta::decode(bytes, parameters, &manifest.training, &manifest.judging);
    read.map_err(|why| MlError::Data(format!("the delta would be refused: {why:?}")))
}

/// Mean loss in nats, and share of right answers.
///
/// # Errors
/// If the measurement fails.
pub fn measure(manifest: &Manifest, head: &[f32], data: &Dataset, indices: &[u32]) -> Result<(f64, f64), MlError> {
    let m = TORCH.measure(manifest, head, data, indices)?;
    #[allow(clippy::cast_precision_loss)]
    let (sum, n) = (m.losses_unat.iter().sum::<i64>() as f64, indices.len().max(1) as f64);
    Ok((sum / 1e6 / n, f64::from(m.correct) / n))
}
