//! Weights: one flat f32 vector in the order of the manifest's tensors, stored as safetensors.

use crate::MlError;
use oda_consensus::manifest::Manifest;
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

/// Canonical safetensors bytes of a flat vector.
///
/// # Errors
/// If its length is not the model's.
pub fn to_bytes(manifest: &Manifest, flat: &[f32]) -> Result<Vec<u8>, MlError> {
    if flat.len() as u64 != manifest.parameters() {
        return Err(MlError::Weights(format!("{} parameters, the model has {}", flat.len(), manifest.parameters())));
    }
    let raw: Vec<u8> = flat.iter().flat_map(|v| v.to_le_bytes()).collect();
    let (mut views, mut at) = (Vec::new(), 0);
    for (name, shape) in manifest.tensor_shapes() {
        let shape: Vec<usize> = shape.iter().map(|d| *d as usize).collect();
        let bytes = shape.iter().product::<usize>() * 4;
        let view =
            TensorView::new(Dtype::F32, shape, &raw[at..at + bytes]).map_err(|e| MlError::Weights(e.to_string()))?;
        views.push((name, view));
        at += bytes;
    }
    safetensors::serialize(views, None).map_err(|e| MlError::Weights(e.to_string()))
}

/// Flat vector of safetensors bytes.
///
/// # Errors
/// If a tensor is missing, has another shape or type, or holds NaN or infinity (S7).
pub fn from_bytes(manifest: &Manifest, bytes: &[u8]) -> Result<Vec<f32>, MlError> {
    let fail = |e: String| MlError::Weights(e);
    let file = SafeTensors::deserialize(bytes).map_err(|e| fail(e.to_string()))?;
    let shapes = manifest.tensor_shapes();
    if file.len() != shapes.len() {
        return Err(fail(format!("{} tensors, the model has {}", file.len(), shapes.len())));
    }
    let mut flat = Vec::new();
    for (name, shape) in shapes {
        let tensor = file.tensor(&name).map_err(|e| fail(format!("{name}: {e}")))?;
        if tensor.dtype() != Dtype::F32 || !tensor.shape().iter().copied().eq(shape.iter().map(|d| *d as usize)) {
            return Err(fail(format!(
                "{name} is {:?} {:?}, the model has F32 {shape:?}",
                tensor.dtype(),
                tensor.shape()
            )));
        }
        for v in tensor.data().chunks_exact(4) {
            let v = f32::from_le_bytes([v[0], v[1], v[2], v[3]]);
            if !v.is_finite() {
                return Err(fail(format!("{name} holds {v}")));
            }
            flat.push(v);
        }
    }
    Ok(flat)
}

/// He-uniform weights and zero biases from a seed: the same on every machine.
pub fn initial(manifest: &Manifest, seed: [u8; 32]) -> Vec<f32> {
    let mut rng = ChaCha20Rng::from_seed(seed);
    let mut flat = Vec::new();
    for (_, shape) in manifest.tensor_shapes() {
        let count: usize = shape.iter().map(|d| *d as usize).product();
        match shape.as_slice() {
            [_, fan_in] => {
                #[allow(clippy::cast_precision_loss)]
                let bound = (6.0 / *fan_in as f32).sqrt();
                flat.extend((0..count).map(|_| {
                    #[allow(clippy::cast_precision_loss)]
                    let unit = (rng.next_u32() >> 8) as f32 / (1u32 << 23) as f32 - 1.0;
                    unit * bound
                }));
            }
            _ => flat.extend(std::iter::repeat_n(0.0, count)),
        }
    }
    flat
}
