//! Fully connected layers with ReLU between them; without a hidden layer it is softmax regression.

use super::{Network, Weights};
use crate::MlError;
use tch::Tensor;

pub(super) struct Mlp {
    /// Features, hidden widths, classes.
    widths: Vec<u32>,
}

impl Mlp {
    pub(super) fn new(inputs: u32, hidden: &[u32], classes: u32) -> Self {
        Self { widths: [&[inputs], hidden, &[classes]].concat() }
    }
}

impl Network for Mlp {
    fn logits(&self, x: &Tensor, weights: &[Tensor]) -> Result<Tensor, MlError> {
        let mut weights = Weights::new(weights);
        let mut x = weights.linear(x)?;
        for _ in self.widths.iter().skip(2) {
            x = weights.linear(&x.f_relu()?)?;
        }
        Ok(x)
    }

    fn activations_per_sample(&self) -> usize {
        // a layer's input, its output and that after ReLU; log-softmax at the end
        self.widths.iter().map(|w| 2 * *w as usize).sum()
    }
}
