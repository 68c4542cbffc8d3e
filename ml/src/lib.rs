//! Models, data, training and measurement (S1, S2, S6, S7, D1).
//!
//! Validators must get the same integers on every machine, so the path from bytes to verdict is split:
//! weights are added up in plain Rust in a fixed order (S6), the forward pass runs in float64 and each
//! sample's loss is rounded to a micro-nat (S2), and all that follows is integer arithmetic in
//! `oda-consensus`. Only training, which nobody replays (S1), may be as fast and as inexact as it likes.

pub mod aggregate;
pub mod cheat;
pub mod delta;
pub mod idx;
pub mod judge;
pub mod model_file;
pub mod reference;
#[cfg(feature = "torch")]
pub mod torch;
pub mod weights;

pub use idx::Dataset;

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
    /// Training was told to stop.
    #[error("stopped")]
    Stopped,
}

/// The three splits of a model, parsed.
#[derive(Debug)]
pub struct ModelData {
    /// Pool of the shards.
    pub train: Dataset,
    /// Pool of gate and confirm samples.
    pub eval: Dataset,
    /// Held-out split.
    pub test: Dataset,
}

/// Measures weights on samples (S2).
pub trait Backend: Send + Sync {
    /// Per-sample loss in micro-nats, float64 inside, clamped to
    /// [`MAX_LOSS_UNAT`](oda_consensus::score::MAX_LOSS_UNAT); and how many samples are classified right.
    ///
    /// # Errors
    /// If the weights or indices do not fit.
    fn measure(
        &self,
        manifest: &oda_consensus::manifest::Manifest,
        weights: &[f32],
        data: &Dataset,
        indices: &[u32],
    ) -> Result<Measured, MlError>;
}

/// Result of a measurement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measured {
    /// Loss of each sample, micro-nats.
    pub losses_unat: Vec<i64>,
    /// Samples classified correctly.
    pub correct: u32,
}

/// Rounds a loss in nats to micro-nats, bounded; NaN counts as the largest loss.
pub fn to_unat(nats: f64) -> i64 {
    let max = oda_consensus::score::MAX_LOSS_UNAT;
    let scaled = (nats * 1e6).round();
    if scaled.is_nan() {
        return max;
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
    let bounded = scaled.clamp(0.0, max as f64) as i64;
    bounded
}
