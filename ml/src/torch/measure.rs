//! Evaluation in float64 (S2), some samples at a time.

use super::{inputs, tensors};
use crate::arch::network;
use crate::{Dataset, Measured, MlError, Tally};
use oda_consensus::manifest::Manifest;
use tch::{Device, Kind, Tensor};

/// Bytes of activations held at once; bounds memory whatever the sample size. Small enough for the caches:
/// with 128 MiB a transformer of a million parameters was measured a fifth slower than with 4, a CNN by half.
const MEMORY: usize = 8 << 20;

/// Most samples at once: more are no faster, and their inputs take memory too.
const MAX_BATCH: usize = 1024;

/// Samples measured at once.
fn batch_size(activations_per_sample: usize) -> usize {
    (MEMORY / size_of::<f64>() / activations_per_sample.max(1)).clamp(1, MAX_BATCH)
}

pub(super) fn measure(
    manifest: &Manifest,
    weights: &[f32],
    data: &Dataset,
    indices: &[u32],
) -> Result<Measured, MlError> {
    crate::check(manifest, weights, data)?;
    let _no_grad = tch::no_grad_guard();
    let network = network(&manifest.architecture);
    let flat = Tensor::f_from_slice(weights)?.f_to_kind(Kind::Double)?;
    let tensors = tensors(manifest, &flat)?;
    let mut tally = Tally::new(manifest, weights, indices.len());
    for part in indices.chunks(batch_size(network.activations_per_sample())) {
        let (x, y) = inputs(&data.batch(part)?, data.shape(), Kind::Double, Device::Cpu)?;
        let logits = network.logits(&x, &tensors)?;
        let losses = logits.f_log_softmax(-1, None)?.f_gather(-1, &y.f_unsqueeze(-1)?, false)?.f_neg()?;
        let right = logits.f_argmax(-1, false)?.f_eq_tensor(&y)?.f_sum(Kind::Int64)?.f_int64_value(&[])?;
        let losses = Vec::<f64>::try_from(losses.f_reshape([-1])?)?;
        tally.add(&losses, u64::try_from(right).unwrap_or(0));
    }
    Ok(tally.finish())
}
