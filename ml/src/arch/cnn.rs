//! Convolutions of 3 x 3 with one pixel of padding, ReLU and 2 x 2 max-pooling after each, then a hidden
//! layer. `nn.Conv2d(from, to, 3, padding=1)`, `F.max_pool2d(F.relu(x), 2)`, `x.flatten(1)`, two `nn.Linear`.

use super::{Network, Weights, count};
use crate::MlError;
use tch::Tensor;

pub(super) struct Cnn {
    /// Channels, rows, columns.
    pub(super) image: [i64; 3],
    pub(super) filters: Vec<i64>,
    pub(super) hidden: i64,
    pub(super) classes: i64,
}

impl Network for Cnn {
    fn logits(&self, x: &Tensor, weights: &[Tensor]) -> Result<Tensor, MlError> {
        let [channels, height, width] = self.image;
        let mut weights = Weights::new(weights);
        let mut x = x.f_view([-1, channels, height, width])?;
        for _ in &self.filters {
            let (filters, bias) = (weights.next()?, weights.next()?);
            x = x.f_conv2d(filters, Some(bias), [1, 1], [1, 1], [1, 1], 1)?.f_relu()?.f_max_pool2d(
                [2, 2],
                [2, 2],
                [0, 0],
                [1, 1],
                false,
            )?;
        }
        let x = weights.linear(&x.f_flatten(1, -1)?)?.f_relu()?;
        weights.linear(&x)
    }

    fn activations_per_sample(&self) -> usize {
        let [mut from, mut height, mut width] = self.image;
        let mut most = 0;
        for to in &self.filters {
            // input, nine copies of it laid out for the matrix product, output, and that after ReLU
            most = most.max(height * width * (10 * from + 2 * to));
            (from, height, width) = (*to, height / 2, width / 2);
        }
        count(most + 2 * from * height * width + 2 * self.hidden + 2 * self.classes)
    }
}
