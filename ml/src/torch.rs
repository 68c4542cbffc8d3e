//! libtorch: float64 evaluation (S2) and float32 training.
//!
//! Set `OMP_WAIT_POLICY=PASSIVE` in the process environment: on a busy machine libtorch's spinning
//! threads train ten times slower without it.

use crate::{Backend, Dataset, Measured, MlError, to_unat};
use oda_consensus::manifest::{Architecture, Manifest};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};
use std::sync::atomic::{AtomicBool, Ordering};
use tch::{Device, Kind, Tensor, nn, nn::OptimizerConfig as _};

/// Samples evaluated at once; bounds memory whatever the sample size.
const BATCH: usize = 1000;

/// Evaluates with libtorch on the CPU, where float64 sums agree between machines.
pub struct Torch;

fn backend(e: tch::TchError) -> MlError {
    MlError::Backend(e.to_string().lines().next().unwrap_or("failed").to_string())
}

/// Uses this many threads for everything libtorch does in this process.
pub fn set_threads(threads: u32) {
    tch::set_num_threads(i32::try_from(threads.max(1)).unwrap_or(1));
}

/// Images as a matrix in [0, 1] and labels as classes.
fn batch(data: &Dataset, indices: &[u32], kind: Kind) -> Result<(Tensor, Tensor), MlError> {
    let (mut pixels, mut labels) =
        (Vec::with_capacity(indices.len() * data.features), Vec::with_capacity(indices.len()));
    for index in indices {
        let (p, l) = data.sample(*index).ok_or_else(|| MlError::Data(format!("no sample {index}")))?;
        pixels.extend_from_slice(p);
        labels.push(i64::from(l));
    }
    let shape = [i64::try_from(indices.len()).unwrap_or(0), i64::try_from(data.features).unwrap_or(0)];
    let x = Tensor::from_slice(&pixels).f_view(shape).map_err(backend)?.to_kind(kind) / 255.0;
    Ok((x, Tensor::from_slice(&labels)))
}

fn layers(manifest: &Manifest, weights: &[f32], kind: Kind) -> Result<Vec<Tensor>, MlError> {
    if weights.len() as u64 != manifest.parameters() {
        return Err(MlError::Weights("not this model's weights".into()));
    }
    let mut at = 0;
    let mut out = Vec::new();
    for (_, shape) in manifest.tensor_shapes() {
        let shape: Vec<i64> = shape.iter().map(|d| i64::from(*d)).collect();
        let len = usize::try_from(shape.iter().product::<i64>()).unwrap_or(0);
        let part = Tensor::from_slice(&weights[at..at + len]);
        out.push(part.f_view(shape.as_slice()).map_err(backend)?.to_kind(kind));
        at += len;
    }
    Ok(out)
}

fn forward(x: &Tensor, layers: &[Tensor]) -> Tensor {
    let mut x = x.shallow_clone();
    let last = layers.len() / 2;
    for (i, pair) in layers.chunks_exact(2).enumerate() {
        x = x.linear(&pair[0], Some(&pair[1]));
        if i + 1 < last {
            x = x.relu();
        }
    }
    x
}

fn check(manifest: &Manifest, data: &Dataset) -> Result<(), MlError> {
    let Architecture::Mlp { inputs, classes, .. } = &manifest.architecture;
    data.check(*inputs, *classes)
}

impl Backend for Torch {
    fn measure(
        &self,
        manifest: &Manifest,
        weights: &[f32],
        data: &Dataset,
        indices: &[u32],
    ) -> Result<Measured, MlError> {
        check(manifest, data)?;
        let _no_grad = tch::no_grad_guard();
        let layers = layers(manifest, weights, Kind::Double)?;
        let (mut losses_unat, mut correct) = (Vec::with_capacity(indices.len()), 0u32);
        for part in indices.chunks(BATCH) {
            let (x, y) = batch(data, part, Kind::Double)?;
            let logits = forward(&x, &layers);
            let losses = logits
                .f_log_softmax(-1, Kind::Double)
                .map_err(backend)?
                .f_gather(1, &y.unsqueeze(1), false)
                .map_err(backend)?;
            let losses = Vec::<f64>::try_from(losses.neg().view(-1)).map_err(backend)?;
            losses_unat.extend(losses.into_iter().map(to_unat));
            let right = logits.argmax(-1, false).eq_tensor(&y).sum(Kind::Int64);
            correct += u32::try_from(right.int64_value(&[])).unwrap_or(0);
        }
        Ok(Measured { losses_unat, correct })
    }
}

/// A step of training, for whoever watches.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Steps done.
    pub step: u32,
    /// Steps in all.
    pub steps: u32,
    /// Loss on the batch, nats.
    pub loss: f64,
}

/// AdamW for `steps` steps on the given samples from the head; returns the dense change. Batches are
/// drawn from `seed`. Uses the GPU if libtorch has one.
///
/// # Errors
/// If data or weights do not fit, or `stop` was set.
pub fn train(
    manifest: &Manifest,
    head: &[f32],
    data: &Dataset,
    indices: &[u32],
    steps: u32,
    seed: [u8; 32],
    stop: &AtomicBool,
    watch: &mut dyn FnMut(Step),
) -> Result<Vec<f32>, MlError> {
    check(manifest, data)?;
    if indices.is_empty() {
        return Err(MlError::Data("no samples to train on".into()));
    }
    let t = &manifest.training;
    let device = Device::cuda_if_available();
    let vs = nn::VarStore::new(device);
    let start = layers(manifest, head, Kind::Float)?;
    let variables: Vec<Tensor> = start
        .iter()
        .zip(manifest.tensor_shapes())
        .map(|(value, (name, shape))| {
            let dims: Vec<i64> = shape.iter().map(|d| i64::from(*d)).collect();
            let mut variable = vs.root().zeros(&name.replace('.', "_"), &dims);
            tch::no_grad(|| variable.copy_(value));
            variable
        })
        .collect();
    let adam = nn::AdamW { wd: f64::from(t.weight_decay_micro) / 1e6, ..nn::AdamW::default() };
    let mut optimiser = adam.build(&vs, f64::from(t.lr_micro) / 1e6).map_err(backend)?;
    let mut rng = ChaCha20Rng::from_seed(seed);
    let mut order: Vec<u32> = Vec::new();
    for step in 0..steps {
        if stop.load(Ordering::Relaxed) {
            return Err(MlError::Stopped);
        }
        let mut wanted = Vec::with_capacity(t.batch as usize);
        while wanted.len() < t.batch as usize {
            if order.is_empty() {
                let mut epoch = [0; 32];
                rng.fill_bytes(&mut epoch);
                let n = u32::try_from(indices.len()).unwrap_or(u32::MAX);
                order = oda_consensus::sample::draw(epoch, n, n)
                    .into_iter()
                    .filter_map(|i| indices.get(i as usize).copied())
                    .collect();
            }
            wanted.extend(order.pop());
        }
        let (x, y) = batch(data, &wanted, Kind::Float)?;
        let logits = forward(&x.to_device(device), &variables);
        let loss = logits.cross_entropy_for_logits(&y.to_device(device));
        optimiser.backward_step(&loss);
        watch(Step { step: step + 1, steps, loss: loss.double_value(&[]) });
    }
    let mut flat = Vec::with_capacity(head.len());
    for variable in &variables {
        let values = Vec::<f32>::try_from(variable.detach().to_device(Device::Cpu).view(-1)).map_err(backend)?;
        flat.extend(values);
    }
    Ok(flat.iter().zip(head).map(|(after, before)| after - before).collect())
}
