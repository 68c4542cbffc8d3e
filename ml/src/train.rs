//! What both backends share of training: the work, the optimiser's state, its figures, the batches.
//!
//! Nobody replays training (S1), so it may be as fast and as inexact as it likes; but a trainer's own run
//! repeats from its seed, and the two backends take the same steps, so that one can be tested by the other.

use crate::{Dataset, MlError};
use oda_consensus::manifest::{Architecture, Manifest, Objective};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};
use std::sync::atomic::{AtomicBool, Ordering};

/// Largest batch, whatever the manifest says (K3).
const MAX_BATCH: usize = 1 << 16;

/// One stretch of local training.
#[derive(Clone, Copy, Debug)]
pub struct Work<'a> {
    /// The model.
    pub manifest: &'a Manifest,
    /// Weights to start from.
    pub head: &'a [f32],
    /// Where the samples lie.
    pub data: &'a Dataset,
    /// The samples to train on.
    pub indices: &'a [u32],
    /// Optimiser steps.
    pub steps: u32,
    /// Batches follow from it.
    pub seed: [u8; 32],
}

impl Work<'_> {
    /// Whether head, data and optimiser state belong to the model.
    pub(crate) fn check(&self, inner: &Inner) -> Result<(), MlError> {
        crate::check(self.manifest, self.head, self.data)?;
        if inner.first.len() != self.head.len() {
            return Err(MlError::Weights("the optimiser state is another model's".into()));
        }
        if self.indices.is_empty() {
            return Err(MlError::Data("no samples to train on".into()));
        }
        Ok(())
    }
}

/// A step of training, for whoever watches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Steps done.
    pub step: u32,
    /// Steps in all.
    pub steps: u32,
    /// Objective on the batch before the step, nats.
    pub loss: f64,
}

impl Step {
    /// Checks that training may go on, and shows the step to whoever watches.
    pub(crate) fn report(self, watch: &mut dyn FnMut(Step)) -> Result<(), MlError> {
        if !self.loss.is_finite() {
            return Err(MlError::Diverged(self.step));
        }
        watch(self);
        Ok(())
    }
}

/// Whether the trainer was told to stop.
pub(crate) fn unless_stopped(stop: &AtomicBool) -> Result<(), MlError> {
    if stop.load(Ordering::Relaxed) { Err(MlError::Stopped) } else { Ok(()) }
}

/// AdamW's memory, kept by a trainer from round to round as DiLoCo does (Douillard et al. 2023); only the
/// weights go back to the common head. Unchanged where training fails or is stopped.
#[derive(Clone, Debug, PartialEq)]
pub struct Inner {
    /// Steps taken so far.
    pub(crate) steps: u64,
    /// Running mean of the gradient.
    pub(crate) first: Vec<f32>,
    /// Running mean of its square.
    pub(crate) second: Vec<f32>,
}

impl Inner {
    /// Fresh state of a model with so many parameters.
    pub fn new(parameters: usize) -> Self {
        Self { steps: 0, first: vec![0.0; parameters], second: vec![0.0; parameters] }
    }

    /// Steps taken so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// For the trainer's disk: steps u64, then both means as f32, little-endian.
    pub fn to_bytes(&self) -> Vec<u8> {
        let values = self.first.iter().chain(&self.second).flat_map(|v| v.to_le_bytes());
        self.steps.to_le_bytes().into_iter().chain(values).collect()
    }

    /// Reads [`Inner::to_bytes`] of a model with so many parameters.
    ///
    /// # Errors
    /// If the length is another model's, or a value impossible. Begin afresh with [`Inner::new`] then.
    pub fn from_bytes(bytes: &[u8], parameters: usize) -> Result<Self, MlError> {
        let fail = |what: &str| MlError::Weights(format!("optimiser state: {what}; delete it to begin afresh"));
        let (steps, values) = bytes.split_first_chunk().ok_or_else(|| fail("cut short"))?;
        if parameters.checked_mul(8) != Some(values.len()) {
            return Err(fail("not this model's length"));
        }
        let (first, second) = values.split_at(values.len() / 2);
        let floats = |raw: &[u8]| raw.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect::<Vec<f32>>();
        let out = Self { steps: u64::from_le_bytes(*steps), first: floats(first), second: floats(second) };
        // no run takes 2^53 steps, and more would not fit the arithmetic below
        if out.steps >> 53 != 0 || !out.first.iter().chain(&out.second).all(|v| v.is_finite()) {
            return Err(fail("holds NaN, infinity or an impossible count"));
        }
        if out.second.iter().any(|v| *v < 0.0) {
            return Err(fail("holds a negative square"));
        }
        Ok(out)
    }
}

/// The change since the head, once all steps are done. Nothing that is not finite leaves training: neither
/// the change nor the state that `inner` becomes.
pub(crate) fn finish(work: &Work<'_>, after: &[f32], state: Inner, inner: &mut Inner) -> Result<Vec<f32>, MlError> {
    let change: Vec<f32> = after.iter().zip(work.head).map(|(after, before)| after - before).collect();
    if !change.iter().chain(&state.first).chain(&state.second).all(|v| v.is_finite()) {
        return Err(MlError::Diverged(work.steps));
    }
    *inner = state;
    Ok(change)
}

/// The optimiser's figures.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recipe {
    pub(crate) rate: f64,
    pub(crate) decay: f64,
    pub(crate) beta1: f64,
    pub(crate) beta2: f64,
    pub(crate) epsilon: f64,
    /// Largest norm of a gradient.
    pub(crate) clip: Option<f64>,
    /// Price of one unit of the weights' squared norm, nats.
    pub(crate) l2: f64,
}

impl Recipe {
    /// A model's figures. Transformers forget squares faster and have their gradients clipped, as is usual
    /// (GPT-3: beta2 0.95, clip 1.0; Brown et al. 2020, appendix B).
    pub(crate) fn of(manifest: &Manifest) -> Self {
        let transformer = matches!(manifest.architecture, Architecture::Transformer { .. });
        let t = &manifest.training;
        Self {
            rate: f64::from(t.lr_micro) / 1e6,
            decay: f64::from(t.weight_decay_micro) / 1e6,
            beta1: 0.9,
            beta2: if transformer { 0.95 } else { 0.999 },
            epsilon: 1e-8,
            clip: transformer.then_some(1.0),
            l2: match manifest.objective {
                Objective::CrossEntropy => 0.0,
                #[allow(clippy::cast_precision_loss)]
                Objective::CrossEntropyL2 { l2_nano } => l2_nano as f64 * 1e-9,
            },
        }
    }

    /// By what the two running means fall short after so many steps: `1 - beta^steps`.
    pub(crate) fn corrections(&self, steps: u64) -> (f64, f64) {
        let steps = i32::try_from(steps).unwrap_or(i32::MAX);
        (1.0 - self.beta1.powi(steps), 1.0 - self.beta2.powi(steps))
    }
}

/// Batches without end: every sample once an epoch, in an order that follows from the seed.
pub(crate) struct Batches<'a> {
    indices: &'a [u32],
    size: usize,
    order: Vec<u32>,
    rng: ChaCha20Rng,
}

impl<'a> Batches<'a> {
    pub(crate) fn new(work: &Work<'a>) -> Self {
        let size = (work.manifest.training.batch as usize).min(MAX_BATCH);
        Self { indices: work.indices, size, order: Vec::new(), rng: ChaCha20Rng::from_seed(work.seed) }
    }

    pub(crate) fn next(&mut self) -> Vec<u32> {
        let mut out = Vec::with_capacity(self.size);
        while out.len() < self.size && !self.indices.is_empty() {
            if self.order.is_empty() {
                let mut epoch = [0; 32];
                self.rng.fill_bytes(&mut epoch);
                let n = u32::try_from(self.indices.len()).unwrap_or(u32::MAX);
                let drawn = oda_consensus::sample::draw(epoch, n, n);
                self.order = drawn.into_iter().filter_map(|i| self.indices.get(i as usize).copied()).collect();
            }
            out.extend(self.order.pop());
        }
        out
    }
}

/// Lowers the priority of the calling thread and of all it starts from now on (libtorch's workers among
/// them), so that a person's computer stays usable while it trains. Refused requests are ignored.
pub fn be_nice() {
    let _ = rustix::process::nice(10);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_sample_comes_once_an_epoch() {
        let manifest = oda_consensus::fuzzing::sample_manifest("batches");
        let shape = manifest.architecture.sample();
        let data = Dataset::from_bytes(crate::data::byte_rows(4, &[0; 4], &[0]).unwrap(), shape, 1).unwrap();
        let indices: Vec<u32> = (100..124).collect();
        let work = Work { manifest: &manifest, head: &[], data: &data, indices: &indices, steps: 3, seed: [1; 32] };
        let drawn = |work: &Work<'_>| {
            let mut batches = Batches::new(work);
            [batches.next(), batches.next(), batches.next()]
        };
        let batches = drawn(&work);
        assert!(batches.iter().all(|b| b.len() == 16));
        let mut all = batches.concat();
        let mut epoch = all.split_off(24);
        all.sort_unstable();
        epoch.sort_unstable();
        assert_eq!((&all, &epoch), (&indices, &indices));
        assert_eq!(drawn(&work), batches);
        assert_ne!(drawn(&Work { seed: [2; 32], ..work }), batches);
    }

    proptest! {
        #[test] // K3
        fn optimiser_state_survives_its_file_and_nothing_else_does(
            steps in 0u64..1 << 53, values in proptest::collection::vec(0f32..1e30, 2..40), at: prop::sample::Index, to: u8,
        ) {
            let parameters = values.len() / 2;
            let (first, second) = (values[..parameters].to_vec(), values[parameters..2 * parameters].to_vec());
            let inner = Inner { steps, first, second };
            let mut bytes = inner.to_bytes();
            prop_assert_eq!(&Inner::from_bytes(&bytes, parameters).unwrap(), &inner);
            prop_assert!(Inner::from_bytes(&bytes, parameters + 1).is_err());
            prop_assert!(Inner::from_bytes(&bytes[1..], parameters).is_err());
            let at = at.index(bytes.len());
            bytes[at] = to;
            if let Ok(read) = Inner::from_bytes(&bytes, parameters) {
                prop_assert!(read.first.iter().chain(&read.second).all(|v| v.is_finite()));
                prop_assert!(read.second.iter().all(|v| *v >= 0.0));
            }
        }
    }
}
