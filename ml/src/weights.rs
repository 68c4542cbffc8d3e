//! Weights: one flat f32 vector in the order of the manifest's tensors, stored as safetensors.
//!
//! PyTorch reads and writes the same files; [`from_bytes`] therefore takes tensors in any order, but nothing
//! else: every tensor of the model, no other, finite, and no byte more than that explains.

use crate::MlError;
use oda_consensus::architecture::Init;
use oda_consensus::manifest::Manifest;
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

/// Header bytes allowed for each tensor, and for the metadata that PyTorch adds.
const HEADER_PER_TENSOR: u64 = 256;

/// Canonical safetensors bytes of a flat vector.
///
/// # Errors
/// If its length is not the model's.
pub fn to_bytes(manifest: &Manifest, flat: &[f32]) -> Result<Vec<u8>, MlError> {
    if flat.len() as u64 != manifest.parameters() {
        return Err(MlError::Weights(format!("{} parameters, the model has {}", flat.len(), manifest.parameters())));
    }
    let fail = |e: safetensors::SafeTensorError| MlError::Weights(e.to_string());
    let raw: Vec<u8> = flat.iter().flat_map(|v| v.to_le_bytes()).collect();
    let (mut views, mut rest) = (Vec::new(), raw.as_slice());
    for spec in manifest.architecture.tensors() {
        let shape: Vec<usize> = spec.shape.iter().map(|d| *d as usize).collect();
        let len = usize::try_from(spec.len()).ok().and_then(|n| n.checked_mul(4));
        let split = len.and_then(|len| rest.split_at_checked(len));
        let (bytes, after) = split.ok_or_else(|| MlError::Weights("fewer values than the model has".into()))?;
        views.push((spec.name, TensorView::new(Dtype::F32, shape, bytes).map_err(fail)?));
        rest = after;
    }
    safetensors::serialize(views, None).map_err(fail)
}

/// Flat vector of safetensors bytes. Memory stays within a small multiple of the model's size, whatever the bytes.
///
/// # Errors
/// If a tensor is missing or too many, has another shape or type, or holds NaN or infinity (S7).
pub fn from_bytes(manifest: &Manifest, bytes: &[u8]) -> Result<Vec<f32>, MlError> {
    let fail = |e: String| MlError::Weights(e);
    let specs = manifest.architecture.tensors();
    let most = HEADER_PER_TENSOR * (specs.len() as u64 + 16);
    // before anything is parsed: the header is the only part whose size the file itself decides (K3)
    let header = bytes.first_chunk().map_or(u64::MAX, |len| u64::from_le_bytes(*len));
    if header > most {
        return Err(fail("not a safetensors file, or its header is too long".into()));
    }
    let expected = manifest.parameters().saturating_mul(4).saturating_add(header).saturating_add(8);
    if bytes.len() as u64 != expected {
        return Err(fail(format!("{} bytes, the model's parameters take {expected}", bytes.len())));
    }
    let file = SafeTensors::deserialize(bytes).map_err(|e| fail(e.to_string()))?;
    if file.len() != specs.len() {
        return Err(fail(format!("{} tensors, the model has {}", file.len(), specs.len())));
    }
    let mut flat = Vec::with_capacity(bytes.len() / 4);
    for spec in specs {
        let name = &spec.name;
        let tensor = file.tensor(name).map_err(|e| fail(format!("{name}: {e}")))?;
        if tensor.dtype() != Dtype::F32 || !tensor.shape().iter().copied().eq(spec.shape.iter().map(|d| *d as usize)) {
            let (dtype, shape) = (tensor.dtype(), tensor.shape());
            return Err(fail(format!("{name} is {dtype:?} {shape:?}, the model has F32 {:?}", spec.shape)));
        }
        for v in tensor.data().as_chunks().0 {
            let v = f32::from_le_bytes(*v);
            if !v.is_finite() {
                return Err(fail(format!("{name} holds {v}")));
            }
            flat.push(v);
        }
    }
    Ok(flat)
}

/// Initial weights from a seed, each tensor as its spec says: the same on every machine. Empty for a model
/// above [`Manifest::MAX_PARAMETERS`].
pub fn initial(manifest: &Manifest, seed: [u8; 32]) -> Vec<f32> {
    let mut rng = ChaCha20Rng::from_seed(seed);
    let mut flat = Vec::new();
    if manifest.parameters() > Manifest::MAX_PARAMETERS {
        return flat;
    }
    for spec in manifest.architecture.tensors() {
        let after = flat.len() + usize::try_from(spec.len()).unwrap_or(0);
        match spec.init {
            Init::Zero => flat.resize(after, 0.0),
            Init::One => flat.resize(after, 1.0),
            Init::Uniform { bound_micro } => flat.resize_with(after, || {
                // 24 random bits fit a float exactly; the product is exact in f64 and rounded once
                let unit = f64::from(rng.next_u32() >> 8) / f64::from(1u32 << 23) - 1.0;
                #[allow(clippy::cast_possible_truncation)]
                let value = (unit * f64::from(bound_micro) / 1e6) as f32;
                value
            }),
        }
    }
    flat
}

#[cfg(test)]
mod tests {
    use super::*;
    use oda_consensus::fuzzing::sample_manifest;
    use oda_consensus::manifest::Architecture;
    use proptest::prelude::*;

    fn small(index: usize) -> Manifest {
        let mut manifest = sample_manifest("weights");
        manifest.architecture = match index % 4 {
            0 => Architecture::Linear { inputs: 3, classes: 2 },
            1 => Architecture::Mlp { inputs: 3, hidden: vec![4], classes: 2 },
            2 => Architecture::Cnn { channels: 1, height: 4, width: 4, filters: vec![2], hidden: 3, classes: 2 },
            _ => Architecture::Transformer { context: 4, width: 4, layers: 1, heads: 2 },
        };
        manifest
    }

    #[test] // S6: one encoding, and the same initial weights on every machine
    fn pinned() {
        let found: Vec<String> = (0..4)
            .map(|i| {
                let manifest = small(i);
                let flat = initial(&manifest, [7; 32]);
                let bytes = to_bytes(&manifest, &flat).unwrap();
                assert_eq!(from_bytes(&manifest, &bytes).unwrap(), flat);
                blake3::hash(&bytes).to_hex()[..16].to_string()
            })
            .collect();
        assert_eq!(found, ["a40de29efc4dbef7", "3a6a94f7daa70bce", "2dfae249f649a32f", "4def203a59b43275"]);
    }

    #[test]
    fn initial_weights_keep_their_bounds() {
        let manifest = small(3);
        let flat = initial(&manifest, [1; 32]);
        let mut at = 0;
        for spec in manifest.architecture.tensors() {
            let part = &flat[at..at + spec.len() as usize];
            at += part.len();
            match spec.init {
                Init::Zero => assert!(part.iter().all(|v| *v == 0.0), "{}", spec.name),
                Init::One => assert!(part.iter().all(|v| *v == 1.0), "{}", spec.name),
                Init::Uniform { bound_micro } => {
                    let (bound, n) = (bound_micro as f32 / 1e6, part.len() as f32);
                    assert!(part.iter().all(|v| v.abs() <= bound * 1.000_001), "{}", spec.name);
                    let spread = (part.iter().map(|v| v * v).sum::<f32>() / n).sqrt();
                    assert!((0.3..0.9).contains(&(spread / bound)), "{} spreads {spread}", spec.name);
                }
            }
        }
        assert_eq!(at, flat.len());
        let mut huge = manifest;
        huge.architecture = Architecture::Linear { inputs: u32::MAX, classes: u32::MAX };
        assert!(initial(&huge, [1; 32]).is_empty());
    }

    #[test] // S7
    fn bad_weights_are_refused_by_name() {
        let manifest = small(1);
        let flat = initial(&manifest, [1; 32]);
        let good = to_bytes(&manifest, &flat).unwrap();
        let error = |bytes: &[u8]| from_bytes(&manifest, bytes).unwrap_err().to_string();
        let mut nan = flat.clone();
        nan[2] = f32::NAN;
        assert!(error(&to_bytes(&manifest, &nan).unwrap()).contains("layers.0.weight holds NaN"));
        assert!(error(&good[..good.len() - 1]).contains("the model's parameters take"));
        assert!(error(&[good.clone(), vec![0]].concat()).contains("the model's parameters take"));
        assert!(error(&[0xff; 64]).contains("header is too long"));
        assert!(error(&[]).contains("header"));
        // as many values in other shapes
        let mut other = manifest.clone();
        other.architecture = Architecture::Mlp { inputs: 4, hidden: vec![3], classes: 2 };
        let others = to_bytes(&other, &initial(&other, [1; 32])).unwrap();
        assert!(from_bytes(&manifest, &others).is_err());
        let renamed = String::from_utf8_lossy(&good[8..60]).replace("layers.0", "loyers.0").into_bytes();
        let renamed = [&good[..8], &renamed, &good[60..]].concat();
        assert!(error(&renamed).contains("layers.0"), "{}", error(&renamed));
        assert!(to_bytes(&manifest, &[0.0; 3]).unwrap_err().to_string().contains("3 parameters"));
    }

    proptest! {
        #[test] // K3, S7: refused, or the right number of finite values
        fn a_changed_file_never_panics(
            model in 0usize..4, seed: [u8; 32],
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..4), 1..4),
        ) {
            let manifest = small(model);
            let mut bytes = to_bytes(&manifest, &initial(&manifest, seed)).unwrap();
            for (at, to, how) in changes {
                // mostly into the header, where the structure is
                let range = if to % 4 == 0 { bytes.len() } else { bytes.len().min(400) };
                if range == 0 { break; }
                let at = at.index(range);
                match how {
                    0 => { bytes.insert(at, to); }
                    1 => { bytes.remove(at); }
                    2 => bytes.truncate(at),
                    _ => bytes[at] = to,
                }
            }
            if let Ok(flat) = from_bytes(&manifest, &bytes) {
                prop_assert_eq!(flat.len() as u64, manifest.parameters());
                prop_assert!(flat.iter().all(|v| v.is_finite()));
            }
        }

        #[test] // K3
        fn garbage_never_panics(header in "[ -~]{0,120}", body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let framed = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &body].concat();
            for model in 0..4 {
                prop_assert!(from_bytes(&small(model), &framed).is_err());
                prop_assert!(from_bytes(&small(model), &body).is_err());
            }
        }
    }
}
