//! Softmax regression and the perceptron in plain Rust, without libtorch: for simulation, where every run must
//! repeat bit for bit, and as the yardstick for the fast backend.
//!
//! Everything is float64 and added up in a fixed order; only weights and optimiser state are float32, as in
//! the files.

use crate::train::{Batches, Inner, Recipe, Step, Work, finish, unless_stopped};
use crate::{Backend, Batch, Dataset, Measured, MlError, Tally, complexity};
use oda_consensus::manifest::{Architecture, Manifest};
use std::sync::atomic::AtomicBool;

/// Evaluates and trains one sample after the other.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reference;

/// Input values held at once, and most samples; bounds memory whatever the samples' width.
const VALUES: usize = 1 << 22;
const MAX_BATCH: usize = 256;

impl Backend for Reference {
    fn measure(
        &self,
        manifest: &Manifest,
        weights: &[f32],
        data: &Dataset,
        indices: &[u32],
    ) -> Result<Measured, MlError> {
        crate::check(manifest, weights, data)?;
        let net = Perceptron::of(&manifest.architecture)?;
        let mut tally = Tally::new(manifest, weights, indices.len());
        let weights: Vec<f64> = weights.iter().map(|w| f64::from(*w)).collect();
        let at_once = (VALUES / net.inputs().max(1)).clamp(1, MAX_BATCH);
        for part in indices.chunks(at_once) {
            for (x, class) in samples(&data.batch(part)?)? {
                let layers = net.forward(&weights, x);
                let logits = layers.last().map_or(&[][..], Vec::as_slice);
                let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)));
                let right = best.is_some_and(|(i, _)| i == class);
                tally.add(&[cross_entropy(logits, class)], u64::from(right));
            }
        }
        Ok(tally.finish())
    }

    fn train(
        &self,
        work: &Work<'_>,
        inner: &mut Inner,
        stop: &AtomicBool,
        watch: &mut dyn FnMut(Step),
    ) -> Result<Vec<f32>, MlError> {
        work.check(inner)?;
        let net = Perceptron::of(&work.manifest.architecture)?;
        let recipe = Recipe::of(work.manifest);
        let (mut weights, mut state) = (work.head.to_vec(), inner.clone());
        let mut batches = Batches::new(work);
        for step in 1..=work.steps {
            unless_stopped(stop)?;
            let exact: Vec<f64> = weights.iter().map(|w| f64::from(*w)).collect();
            let mut gradient: Vec<f64> = exact.iter().map(|w| 2.0 * recipe.l2 * w).collect();
            let wanted = batches.next();
            #[allow(clippy::cast_precision_loss)]
            let share = 1.0 / wanted.len().max(1) as f64;
            let mut loss = complexity(&work.manifest.objective, exact.iter().copied());
            for (x, class) in samples(&work.data.batch(&wanted)?)? {
                loss += share * net.backward(&exact, x, class, share, &mut gradient);
            }
            adamw(&recipe, &mut state, &mut weights, &gradient);
            Step { step, steps: work.steps, loss }.report(watch)?;
        }
        finish(work, &weights, state, inner)
    }
}

/// Rows of a batch, each with its class.
fn samples(batch: &Batch) -> Result<Vec<(Vec<f64>, usize)>, MlError> {
    let rows = |inputs: Vec<f64>, classes: &[u8]| {
        let width = inputs.len() / classes.len().max(1);
        inputs.chunks(width.max(1)).zip(classes).map(|(x, c)| (x.to_vec(), usize::from(*c))).collect()
    };
    match batch {
        Batch::Bytes { inputs, classes } => Ok(rows(inputs.iter().map(|p| f64::from(*p) / 255.0).collect(), classes)),
        Batch::Reals { inputs, classes } => Ok(rows(inputs.iter().map(|v| f64::from(*v)).collect(), classes)),
        Batch::Windows { .. } => Err(MlError::Data("the plain-Rust backend takes rows, not text".into())),
    }
}

/// Sum of products in eight lanes: as fast as the processor's vectors, in an order that is part of the code.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let ((a8, a_rest), (b8, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut lanes = [0.0; 8];
    for (a, b) in a8.iter().zip(b8) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f64>() + rest
}

/// `sum += by * row`.
fn add_scaled(sum: &mut [f64], by: f64, row: &[f64]) {
    for (s, v) in sum.iter_mut().zip(row) {
        *s += by * v;
    }
}

fn softmax(logits: &[f64]) -> (Vec<f64>, f64) {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let shares: Vec<f64> = logits.iter().map(|x| (x - max).exp()).collect();
    let sum: f64 = shares.iter().sum();
    (shares.iter().map(|s| s / sum).collect(), sum.ln() + max)
}

fn cross_entropy(logits: &[f64], class: usize) -> f64 {
    softmax(logits).1 - logits.get(class).copied().unwrap_or(f64::NEG_INFINITY)
}

/// Layers as `(from, to)`, ReLU between them.
struct Perceptron(Vec<(usize, usize)>);

impl Perceptron {
    fn of(architecture: &Architecture) -> Result<Self, MlError> {
        let widths = match architecture {
            Architecture::Linear { inputs, classes } => vec![*inputs, *classes],
            Architecture::Mlp { inputs, hidden, classes } => [&[*inputs], hidden.as_slice(), &[*classes]].concat(),
            Architecture::Cnn { .. } | Architecture::Transformer { .. } => {
                let what = "the plain-Rust backend knows linear and mlp only; build with libtorch (feature `torch`)";
                return Err(MlError::Backend(what.into()));
            }
        };
        let widths: Vec<usize> = widths.iter().map(|w| *w as usize).collect();
        Ok(Self(widths.iter().copied().zip(widths.iter().copied().skip(1)).collect()))
    }

    /// Features of a sample.
    fn inputs(&self) -> usize {
        self.0.first().map_or(0, |(from, _)| *from)
    }

    /// Each layer's matrix and bias, out of a vector that `crate::check` found to be of the model's length.
    fn parts<'a>(&self, mut weights: &'a [f64]) -> Vec<(&'a [f64], &'a [f64])> {
        let mut out = Vec::with_capacity(self.0.len());
        for (from, to) in &self.0 {
            let (matrix, rest) = weights.split_at_checked(from * to).unwrap_or_default();
            let (bias, rest) = rest.split_at_checked(*to).unwrap_or_default();
            out.push((matrix, bias));
            weights = rest;
        }
        out
    }

    /// What enters each layer, and the logits last.
    fn forward(&self, weights: &[f64], x: Vec<f64>) -> Vec<Vec<f64>> {
        let mut out = vec![x];
        for ((from, _), (matrix, bias)) in self.0.iter().zip(self.parts(weights)) {
            let hidden = out.len() < self.0.len();
            let x = out.last().map_or(&[][..], Vec::as_slice);
            let y = matrix.chunks_exact((*from).max(1)).zip(bias).map(|(row, b)| {
                let sum = dot(row, x) + b;
                // not `max`, which would turn NaN into zero
                if hidden && sum < 0.0 { 0.0 } else { sum }
            });
            let y = y.collect();
            out.push(y);
        }
        out
    }

    /// Adds `share` of the loss's gradient on one sample; returns the loss.
    fn backward(&self, weights: &[f64], x: Vec<f64>, class: usize, share: f64, gradient: &mut [f64]) -> f64 {
        let mut layers = self.forward(weights, x);
        let logits = layers.pop().unwrap_or_default();
        let mut error: Vec<f64> = softmax(&logits).0.iter().map(|s| s * share).collect();
        if let Some(e) = error.get_mut(class) {
            *e -= share;
        }
        let mut rest = gradient;
        for (((from, to), (matrix, _)), x) in self.0.iter().zip(self.parts(weights)).zip(&layers).rev() {
            let from = (*from).max(1);
            let Some((before, mine)) = rest.split_at_mut_checked(rest.len().saturating_sub((from + 1) * to)) else {
                break;
            };
            let (rows, bias) = mine.split_at_mut(from * to);
            add_scaled(bias, 1.0, &error);
            let mut below = vec![0.0; from];
            for ((row, weights), e) in rows.chunks_exact_mut(from).zip(matrix.chunks_exact(from)).zip(&error) {
                if *e != 0.0 {
                    add_scaled(row, *e, x);
                    add_scaled(&mut below, *e, weights);
                }
            }
            // ReLU passes on the error where it passed the value
            error = below.iter().zip(x).map(|(e, v)| if *v > 0.0 { *e } else { 0.0 }).collect();
            rest = before;
        }
        cross_entropy(&logits, class)
    }
}

/// One step of AdamW (Loshchilov and Hutter 2019) along a gradient.
fn adamw(recipe: &Recipe, state: &mut Inner, weights: &mut [f32], gradient: &[f64]) {
    let r = recipe;
    state.steps += 1;
    let (short1, short2) = r.corrections(state.steps);
    let norm = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
    let scale = r.clip.filter(|most| norm > *most).map_or(1.0, |most| most / norm);
    let moments = state.first.iter_mut().zip(&mut state.second);
    for ((w, g), (first, second)) in weights.iter_mut().zip(gradient).zip(moments) {
        let g = g * scale;
        let m = f64::from(*first) + (1.0 - r.beta1) * (g - f64::from(*first));
        let v = f64::from(*second) + (1.0 - r.beta2) * (g * g - f64::from(*second));
        let update = r.rate / short1 * m / ((v / short2).sqrt() + r.epsilon);
        #[allow(clippy::cast_possible_truncation)]
        {
            (*first, *second) = (m as f32, v as f32);
            *w = (f64::from(*w) * (1.0 - r.rate * r.decay) - update) as f32;
        }
    }
}
