//! libtorch: float64 evaluation on the CPU (S2), and float32 training on whatever is there.
//!
//! Set `OMP_WAIT_POLICY=PASSIVE` in the process environment: on a busy machine libtorch's spinning
//! threads train ten times slower without it.

mod measure;
mod train;

use crate::train::{Inner, Step, Work};
use crate::{Backend, Batch, Dataset, Measured, MlError};
use oda_consensus::architecture::SampleShape;
use oda_consensus::manifest::Manifest;
use std::str::FromStr;
use std::sync::atomic::AtomicBool;
use tch::{Kind, Tensor};

/// Where to train. Evaluation is always on the CPU, where float64 agrees between machines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// The GPU if libtorch can use one, otherwise the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The first GPU; training fails if there is none.
    Cuda,
}

impl Device {
    fn resolve(self) -> Result<tch::Device, MlError> {
        match self {
            Self::Cpu => Ok(tch::Device::Cpu),
            Self::Auto => Ok(tch::Device::cuda_if_available()),
            Self::Cuda if tch::Cuda::is_available() => Ok(tch::Device::Cuda(0)),
            Self::Cuda => Err(MlError::Backend("libtorch finds no GPU here; use the device `auto` or `cpu`".into())),
        }
    }
}

impl FromStr for Device {
    type Err = MlError;

    fn from_str(name: &str) -> Result<Self, MlError> {
        match name {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda),
            _ => Err(MlError::Backend(format!("no device `{name}`: auto, cpu or cuda"))),
        }
    }
}

/// Evaluates and trains with libtorch.
#[derive(Clone, Copy, Debug, Default)]
pub struct Torch {
    /// Where to train.
    pub device: Device,
}

impl Backend for Torch {
    fn measure(
        &self,
        manifest: &Manifest,
        weights: &[f32],
        data: &Dataset,
        indices: &[u32],
    ) -> Result<Measured, MlError> {
        measure::measure(manifest, weights, data, indices)
    }

    fn train(
        &self,
        work: &Work<'_>,
        inner: &mut Inner,
        stop: &AtomicBool,
        watch: &mut dyn FnMut(Step),
    ) -> Result<Vec<f32>, MlError> {
        train::train(self.device.resolve()?, work, inner, stop, watch)
    }
}

impl From<tch::TchError> for MlError {
    fn from(e: tch::TchError) -> Self {
        Self::Backend(e.to_string().lines().next().unwrap_or("failed").to_string())
    }
}

/// Uses this many threads for everything libtorch does in this process.
pub fn set_threads(threads: u32) {
    tch::set_num_threads(i32::try_from(threads.max(1)).unwrap_or(1));
}

/// The flat vector cut into the model's tensors; they share its memory.
fn tensors(manifest: &Manifest, flat: &Tensor) -> Result<Vec<Tensor>, MlError> {
    let mut at = 0;
    let mut out = Vec::new();
    for spec in manifest.architecture.tensors() {
        let shape: Vec<i64> = spec.shape.iter().map(|d| i64::from(*d)).collect();
        let len: i64 = shape.iter().product();
        out.push(flat.f_narrow(0, at, len)?.f_view(shape.as_slice())?);
        at += len;
    }
    Ok(out)
}

/// Inputs and targets: `[n, features]` and `[n]`, or bytes `[n, context]` and `[n, context]`.
fn inputs(batch: &Batch, shape: SampleShape, kind: Kind, device: tch::Device) -> Result<(Tensor, Tensor), MlError> {
    match (batch, shape) {
        (Batch::Bytes { inputs, classes }, SampleShape::Row { inputs: width, .. }) => {
            let x = Tensor::f_from_slice(inputs)?.f_to_device(device)?.f_to_kind(kind)?.f_div_scalar(255.0)?;
            Ok((x.f_view([-1, i64::from(width)])?, integers(classes, device)?))
        }
        (Batch::Reals { inputs, classes }, SampleShape::Row { inputs: width, .. }) => {
            let x = Tensor::f_from_slice(inputs)?.f_to_device(device)?.f_to_kind(kind)?;
            Ok((x.f_view([-1, i64::from(width)])?, integers(classes, device)?))
        }
        (Batch::Windows { bytes }, SampleShape::Window { context }) => {
            let context = i64::from(context);
            let all = integers(bytes, device)?.f_view([-1, context + 1])?;
            Ok((all.f_narrow(1, 0, context)?, all.f_narrow(1, 1, context)?))
        }
        _ => Err(MlError::Data("samples of another kind than the model's".into())),
    }
}

fn integers(bytes: &[u8], device: tch::Device) -> Result<Tensor, MlError> {
    Ok(Tensor::f_from_slice(bytes)?.f_to_device(device)?.f_to_kind(Kind::Int64)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{arch, weights};
    use oda_consensus::manifest::Architecture;

    #[test] // what comes later must not be known before; across the seams of query blocks, too
    fn transformer_is_causal() {
        let mut manifest = oda_consensus::fuzzing::sample_manifest("causal");
        manifest.architecture = Architecture::Transformer { context: 140, width: 8, layers: 2, heads: 2 };
        let head = weights::initial(&manifest, [1; 32]);
        let flat = Tensor::from_slice(&head).to_kind(Kind::Double);
        let (network, tensors) = (arch::network(&manifest.architecture), tensors(&manifest, &flat).unwrap());
        let text: Vec<u8> = (0..140).map(|i| i % 59).collect();
        let logits = |text: &[u8]| {
            let x = integers(text, tch::Device::Cpu).unwrap().view([1, 140]);
            Vec::<f64>::try_from(network.logits(&x, &tensors).unwrap().view(-1)).unwrap()
        };
        let plain = logits(&text);
        for at in [0, 60, 127, 128, 139] {
            let mut changed = text.clone();
            changed[at] ^= 64;
            let other = logits(&changed);
            let differs = |i: usize| (i * 256..(i + 1) * 256).any(|j| (plain[j] - other[j]).abs() > 1e-12);
            let first = (0..140).find(|i| differs(*i));
            assert_eq!(first, Some(at), "a byte at {at}");
            assert!(differs(139), "the last byte forgot byte {at}");
        }
    }
}
