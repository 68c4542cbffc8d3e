//! Forward passes, one small file an architecture.
//!
//! A network is a function of its weights and nothing else: no state, no dropout, no random numbers. The
//! same code runs in float64 to measure and in float32 to train; what the weights are, decides. Only plain
//! operations are used (matrix products, softmax, convolution), because libtorch picks fused kernels by
//! machine, and those agree in fewer digits (S2).
//!
//! To add an architecture: a variant with its tensors in `oda_consensus::architecture`, a file here, a line
//! in [`network`]. Names, shapes and arithmetic follow PyTorch's `nn.Linear`, `nn.Conv2d`, `nn.Embedding`
//! and `nn.LayerNorm`, so that a weights file loads there as it is.

mod cnn;
mod mlp;
mod transformer;

use crate::MlError;
use oda_consensus::architecture::Architecture;
use tch::Tensor;

/// Arithmetic of one architecture.
pub trait Network: Send + Sync {
    /// Scores of each class, `[n, classes]`, or of each next byte, `[n, context, 256]`.
    ///
    /// `x` is `[n, features]` in the weights' kind, or bytes `[n, context]` as 64-bit integers; `weights` are in
    /// the order of [`Architecture::tensors`].
    ///
    /// # Errors
    /// If shapes do not fit.
    fn logits(&self, x: &Tensor, weights: &[Tensor]) -> Result<Tensor, MlError>;

    /// Most values that are alive at once for each sample; decides how many are measured together.
    fn activations_per_sample(&self) -> usize;
}

/// The arithmetic of an architecture.
pub fn network(architecture: &Architecture) -> Box<dyn Network> {
    match architecture {
        Architecture::Linear { inputs, classes } => Box::new(mlp::Mlp::new(*inputs, &[], *classes)),
        Architecture::Mlp { inputs, hidden, classes } => Box::new(mlp::Mlp::new(*inputs, hidden, *classes)),
        Architecture::Cnn { channels, height, width, filters, hidden, classes } => Box::new(cnn::Cnn {
            image: [*channels, *height, *width].map(i64::from),
            filters: filters.iter().map(|f| i64::from(*f)).collect(),
            hidden: i64::from(*hidden),
            classes: i64::from(*classes),
        }),
        Architecture::Transformer { context, width, layers, heads } => Box::new(transformer::Transformer {
            context: i64::from(*context),
            width: i64::from(*width),
            layers: *layers,
            heads: i64::from(*heads),
        }),
    }
}

/// The weights, handed out in their order.
struct Weights<'a>(std::slice::Iter<'a, Tensor>);

impl<'a> Weights<'a> {
    fn new(weights: &'a [Tensor]) -> Self {
        Self(weights.iter())
    }

    fn next(&mut self) -> Result<&'a Tensor, MlError> {
        self.0.next().ok_or_else(|| MlError::Weights("fewer tensors than the architecture has".into()))
    }

    /// `nn.Linear`: the next two tensors are its matrix and bias.
    fn linear(&mut self, x: &Tensor) -> Result<Tensor, MlError> {
        let (matrix, bias) = (self.next()?, self.next()?);
        Ok(x.f_linear(matrix, Some(bias))?)
    }

    /// `nn.LayerNorm` over the last dimension.
    fn norm(&mut self, x: &Tensor) -> Result<Tensor, MlError> {
        let (scale, bias) = (self.next()?, self.next()?);
        Ok(x.f_layer_norm(scale.size(), Some(scale), Some(bias), 1e-5, false)?)
    }
}

fn count(values: i64) -> usize {
    usize::try_from(values).unwrap_or(usize::MAX)
}
