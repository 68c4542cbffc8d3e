//! The model in plain Rust, without libtorch: slow, exact, and the yardstick for the fast backend.

use crate::{Backend, Dataset, Measured, MlError, to_unat};
use oda_consensus::manifest::{Architecture, Manifest};

/// Evaluates in float64, one sample after the other.
pub struct Reference;

impl Backend for Reference {
    fn measure(
        &self,
        manifest: &Manifest,
        weights: &[f32],
        data: &Dataset,
        indices: &[u32],
    ) -> Result<Measured, MlError> {
        let Architecture::Mlp { inputs, hidden, classes } = &manifest.architecture;
        data.check(*inputs, *classes)?;
        if weights.len() as u64 != manifest.parameters() {
            return Err(MlError::Weights("not this model's weights".into()));
        }
        let mut widths = vec![*inputs as usize];
        widths.extend(hidden.iter().chain([classes]).map(|w| *w as usize));
        let (mut losses_unat, mut correct) = (Vec::with_capacity(indices.len()), 0);
        for index in indices {
            let (pixels, label) = data.sample(*index).ok_or_else(|| MlError::Data(format!("no sample {index}")))?;
            let logits = forward(weights, &widths, pixels);
            let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let log_sum = logits.iter().map(|x| (x - max).exp()).sum::<f64>().ln() + max;
            losses_unat.push(to_unat(log_sum - logits.get(usize::from(label)).copied().unwrap_or(f64::NEG_INFINITY)));
            let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)));
            correct += u32::from(best.is_some_and(|(i, _)| i == usize::from(label)));
        }
        Ok(Measured { losses_unat, correct })
    }
}

fn forward(weights: &[f32], widths: &[usize], pixels: &[u8]) -> Vec<f64> {
    let mut x: Vec<f64> = pixels.iter().map(|p| f64::from(*p) / 255.0).collect();
    let mut at = 0;
    for (layer, pair) in widths.windows(2).enumerate() {
        let (from, to) = (pair[0], pair[1]);
        let (matrix, bias) = (&weights[at..at + from * to], &weights[at + from * to..at + from * to + to]);
        at += from * to + to;
        let last = layer + 2 == widths.len();
        x = matrix
            .chunks_exact(from)
            .zip(bias)
            .map(|(row, b)| {
                let sum = row.iter().zip(&x).map(|(w, v)| f64::from(*w) * v).sum::<f64>() + f64::from(*b);
                if last { sum } else { sum.max(0.0) }
            })
            .collect();
    }
    x
}
