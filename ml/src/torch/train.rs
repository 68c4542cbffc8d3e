//! AdamW in float32 (Loshchilov and Hutter 2019), over one flat vector of all parameters.
//!
//! The tensors of the network are leaves that share the flat vector's memory; a step takes the gradient of
//! each, joins them, and moves the whole vector by a handful of passes, however many tensors there are.

use super::{inputs, tensors};
use crate::MlError;
use crate::arch::network;
use crate::train::{Batches, Inner, Recipe, Step, Work, finish, unless_stopped};
use std::sync::atomic::AtomicBool;
use tch::{Device, Kind, Reduction, Tensor};

/// The optimiser on the device.
struct AdamW {
    recipe: Recipe,
    steps: u64,
    first: Tensor,
    second: Tensor,
}

impl AdamW {
    /// One step along `gradient`, which is used up.
    fn step(&mut self, weights: &mut Tensor, mut gradient: Tensor) -> Result<(), MlError> {
        let r = self.recipe;
        if r.l2 > 0.0 {
            let _ = gradient.f_add_(&weights.f_mul_scalar(2.0 * r.l2)?)?;
        }
        if let Some(most) = r.clip {
            let norm = gradient.f_norm()?.f_double_value(&[])?;
            if norm > most {
                let _ = gradient.f_mul_scalar_(most / norm)?;
            }
        }
        self.steps += 1;
        let (short1, short2) = r.corrections(self.steps);
        let _ = self.first.f_lerp_(&gradient, 1.0 - r.beta1)?;
        let _ = self.second.f_lerp_(&gradient.f_square()?, 1.0 - r.beta2)?;
        let mut spread = self.second.f_sqrt()?;
        let _ = spread.f_mul_scalar_(1.0 / short2.sqrt())?;
        let _ = spread.f_add_scalar_(r.epsilon)?;
        let mut update = self.first.f_div(&spread)?;
        let _ = update.f_mul_scalar_(r.rate / short1)?;
        if r.decay > 0.0 {
            let _ = weights.f_mul_scalar_(1.0 - r.rate * r.decay)?;
        }
        let _ = weights.f_sub_(&update)?;
        Ok(())
    }
}

pub(super) fn train(
    device: Device,
    work: &Work<'_>,
    inner: &mut Inner,
    stop: &AtomicBool,
    watch: &mut dyn FnMut(Step),
) -> Result<Vec<f32>, MlError> {
    work.check(inner)?;
    let network = network(&work.manifest.architecture);
    let shape = work.data.shape();
    let to_device = |values: &[f32]| Ok::<_, MlError>(Tensor::f_from_slice(values)?.f_to_device(device)?);
    let mut flat = to_device(work.head)?;
    let mut leaves = Vec::new();
    for tensor in tensors(work.manifest, &flat)? {
        leaves.push(tensor.f_detach()?.f_set_requires_grad(true)?);
    }
    let mut adam = AdamW {
        recipe: Recipe::of(work.manifest),
        steps: inner.steps,
        first: to_device(&inner.first)?,
        second: to_device(&inner.second)?,
    };
    let mut batches = Batches::new(work);
    for step in 1..=work.steps {
        unless_stopped(stop)?;
        let (x, y) = inputs(&work.data.batch(&batches.next())?, shape, Kind::Float, device)?;
        let logits = network.logits(&x, &leaves)?.f_flatten(0, -2)?;
        let loss = logits.f_cross_entropy_loss::<&Tensor>(&y.f_reshape([-1])?, None, Reduction::Mean, -100, 0.0)?;
        let gradients = Tensor::f_run_backward(&[&loss], &leaves, false, false)?;
        let _no_grad = tch::no_grad_guard();
        let mut value = loss.f_double_value(&[])?;
        if adam.recipe.l2 > 0.0 {
            value += adam.recipe.l2 * flat.f_square()?.f_sum(Kind::Double)?.f_double_value(&[])?;
        }
        let mut parts = Vec::with_capacity(gradients.len());
        for gradient in &gradients {
            parts.push(gradient.f_reshape([-1])?);
        }
        adam.step(&mut flat, Tensor::f_cat(&parts, 0)?)?;
        Step { step, steps: work.steps, loss: value }.report(watch)?;
    }
    let from_device = |tensor: &Tensor| Ok::<_, MlError>(Vec::<f32>::try_from(tensor.f_to_device(Device::Cpu)?)?);
    let after = from_device(&flat)?;
    let state = Inner { steps: adam.steps, first: from_device(&adam.first)?, second: from_device(&adam.second)? };
    finish(work, &after, state, inner)
}
