//! Models, data, training and measurement (S1, S2, S6, S7, D1).
//!
//! Validators must get the same integers on every machine, so the path from bytes to verdict is split:
//! weights are added up in plain Rust in a fixed order (S6), the forward pass runs in float64 and each
//! sample's loss is rounded to a micro-nat (S2), and all that follows is integer arithmetic in
//! `oda-consensus`. Only training, which nobody replays (S1), may be as fast and as inexact as it likes.
//!
//! ```
//! use oda_ml::model_file::{gain_provable_unat, samples_needed};
//!
//! // S5: how many samples prove a gain of 0.02 nat three standard errors from chance, if the differences of
//! // single samples spread by 0.5 nat? `oda model add` says so of each of a model's samples
//! let samples = samples_needed(3_000, 500_000, 20_000);
//! assert_eq!(samples, 5_625);
//! assert_eq!(gain_provable_unat(3_000, 500_000, 5_625), 20_000);
//! ```

pub mod aggregate;
#[cfg(feature = "torch")]
pub mod arch;
pub mod bundle;
pub mod cheat;
pub mod compress;
pub mod data;
pub mod judge;
pub mod model_file;
pub mod reference;
#[cfg(feature = "torch")]
pub mod torch;
pub mod train;
pub mod trial;
pub mod weights;

pub use data::{Batch, Dataset};
pub use train::{Inner, Step, Work};

use oda_consensus::architecture::SampleShape;
use oda_consensus::manifest::{Manifest, Objective};
use oda_consensus::score::MAX_LOSS_UNAT;
use std::sync::atomic::AtomicBool;

/// Something could not be read, trained or measured.
#[derive(Debug, thiserror::Error)]
pub enum MlError {
    /// A data file is not what it should be.
    #[error("data: {0}")]
    Data(String),
    /// A weights file is not what it should be.
    #[error("weights: {0}")]
    Weights(String),
    /// A model description is not what it should be.
    #[error("model file: {0}")]
    ModelFile(String),
    /// The numeric library failed.
    #[error("numeric library: {0}")]
    Backend(String),
    /// Training left the numbers a float can hold.
    #[error("training diverged at step {0}: lower lr_micro in the model file, or begin the optimiser state afresh")]
    Diverged(u32),
    /// Training was told to stop.
    #[error("stopped")]
    Stopped,
}

/// The splits of a model, parsed.
#[derive(Debug)]
pub struct ModelData {
    /// Pool of the shards.
    pub train: Dataset,
    /// Pool of gate and confirm samples.
    pub eval: Dataset,
    /// Held-out split.
    pub test: Dataset,
    /// Guard slices, in the manifest's order; `None` for a sealed one that is not opened.
    pub guards: Vec<Option<Dataset>>,
}

/// Measures weights on samples (S2), and trains.
pub trait Backend: Send + Sync {
    /// Per-sample loss in micro-nats, float64 inside, bounded by [`MAX_LOSS_UNAT`], with the objective's
    /// complexity term; and how many samples are right. A window's loss is the mean over its predictions.
    ///
    /// # Errors
    /// If the weights, data or indices do not fit.
    fn measure(
        &self,
        manifest: &Manifest,
        weights: &[f32],
        data: &Dataset,
        indices: &[u32],
    ) -> Result<Measured, MlError>;

    /// AdamW for some steps from the head; returns the dense change of every weight. `inner` is the
    /// optimiser's memory; it changes only if all steps were done. Shows each step to `watch`.
    ///
    /// # Errors
    /// If the work does not fit the model, the loss leaves the finite numbers, or `stop` was set.
    fn train(
        &self,
        work: &Work<'_>,
        inner: &mut Inner,
        stop: &AtomicBool,
        watch: &mut dyn FnMut(Step),
    ) -> Result<Vec<f32>, MlError>;
}

/// Result of a measurement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measured {
    /// Loss of each sample, micro-nats.
    pub losses_unat: Vec<i64>,
    /// Samples that are right. For text: right predictions, in windows' worth of them and rounded down, so
    /// that `correct / samples` is the share of bytes predicted right.
    pub correct: u32,
}

/// Collects a measurement, sample by sample.
struct Tally {
    complexity_unat: i64,
    predictions_per_sample: usize,
    right: u64,
    losses_unat: Vec<i64>,
}

impl Tally {
    fn new(manifest: &Manifest, weights: &[f32], samples: usize) -> Self {
        Self {
            complexity_unat: complexity_unat(&manifest.objective, weights),
            predictions_per_sample: match manifest.architecture.sample() {
                SampleShape::Row { .. } => 1,
                SampleShape::Window { context } => context.max(1) as usize,
            },
            right: 0,
            losses_unat: Vec::with_capacity(samples),
        }
    }

    /// Losses in nats of every prediction of some samples, in order; and how many predictions were right.
    fn add(&mut self, losses: &[f64], right: u64) {
        self.right += right;
        for sample in losses.chunks(self.predictions_per_sample) {
            #[allow(clippy::cast_precision_loss)]
            let mean = sample.iter().sum::<f64>() / sample.len() as f64;
            self.losses_unat.push(to_unat(mean).saturating_add(self.complexity_unat).min(MAX_LOSS_UNAT));
        }
    }

    fn finish(self) -> Measured {
        let correct = self.right / self.predictions_per_sample as u64;
        Measured { losses_unat: self.losses_unat, correct: u32::try_from(correct).unwrap_or(u32::MAX) }
    }
}

/// Whether weights and data belong to the model.
fn check(manifest: &Manifest, weights: &[f32], data: &Dataset) -> Result<(), MlError> {
    if weights.len() as u64 != manifest.parameters() {
        let (found, needed) = (weights.len(), manifest.parameters());
        return Err(MlError::Weights(format!("{found} parameters, the model has {needed}")));
    }
    if data.shape() != manifest.architecture.sample() {
        let (found, needed) = (data.shape(), manifest.architecture.sample());
        return Err(MlError::Data(format!("samples are {found:?}, the model takes {needed:?}")));
    }
    Ok(())
}

/// The objective's price of these weights, in nats: the same for every sample, added up in order.
fn complexity(objective: &Objective, weights: impl Iterator<Item = f64>) -> f64 {
    match objective {
        Objective::CrossEntropy => 0.0,
        Objective::CrossEntropyL2 { l2_nano } => {
            #[allow(clippy::cast_precision_loss)]
            let price = *l2_nano as f64;
            price * weights.map(|w| w * w).sum::<f64>() / 1e9
        }
    }
}

/// What the objective adds to each sample's loss for the complexity of the weights, in micro-nats.
pub fn complexity_unat(objective: &Objective, weights: &[f32]) -> i64 {
    to_unat(complexity(objective, weights.iter().map(|w| f64::from(*w))))
}

/// Rounds a loss in nats to micro-nats, bounded; NaN counts as the largest loss.
pub fn to_unat(nats: f64) -> i64 {
    let scaled = (nats * 1e6).round();
    if scaled.is_nan() {
        return MAX_LOSS_UNAT;
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
    let bounded = scaled.clamp(0.0, MAX_LOSS_UNAT as f64) as i64;
    bounded
}
