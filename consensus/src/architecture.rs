//! Shapes of networks: which tensors a model's weights consist of, and what one sample looks like.
//!
//! Only shapes are decided here, because sizes, limits and the order of the flat parameter vector are
//! part of the protocol (S6, S7). The arithmetic of each architecture is one file in `oda-ml`. To add an
//! architecture: a variant with its tensors and limits here, a file with its forward pass there.

use serde::{Deserialize, Serialize};

/// Shape of a network.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Architecture {
    /// Softmax regression: `inputs -> classes`.
    Linear {
        /// Features of one sample.
        inputs: u32,
        /// Output classes.
        classes: u32,
    },
    /// Fully connected layers with ReLU between them: `inputs -> hidden[0] -> ... -> classes`.
    Mlp {
        /// Features of one sample.
        inputs: u32,
        /// Width of each hidden layer.
        hidden: Vec<u32>,
        /// Output classes.
        classes: u32,
    },
    /// Convolutions of 3 x 3 (same size, ReLU, 2 x 2 max-pooling after each), then one hidden layer.
    Cnn {
        /// Channels of one image; a sample is `channels x height x width`.
        channels: u32,
        /// Rows.
        height: u32,
        /// Columns.
        width: u32,
        /// Filters of each convolution.
        filters: Vec<u32>,
        /// Width of the hidden layer.
        hidden: u32,
        /// Output classes.
        classes: u32,
    },
    /// Decoder-only transformer over bytes: learned positions, layer norm before attention and
    /// feed-forward (GELU, four times the width), a linear head. A sample is a window of
    /// `context + 1` bytes, its loss the mean over `context` predictions.
    Transformer {
        /// Bytes seen at once.
        context: u32,
        /// Width of the residual stream.
        width: u32,
        /// Blocks.
        layers: u32,
        /// Attention heads; they divide the width.
        heads: u32,
    },
}

/// What one sample is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SampleShape {
    /// A row of features and a class.
    Row {
        /// Features.
        inputs: u32,
        /// Classes.
        classes: u32,
    },
    /// `context + 1` bytes of running text; sample i starts at byte `i * context`.
    Window {
        /// Predictions a sample.
        context: u32,
    },
}

/// How a tensor starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Init {
    /// All zero.
    Zero,
    /// All one.
    One,
    /// Uniform within `bound_micro` millionths around zero.
    Uniform {
        /// Largest absolute value, millionths.
        bound_micro: u32,
    },
}

/// One weight tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name in the safetensors file.
    pub name: String,
    /// Dimensions.
    pub shape: Vec<u32>,
    /// How it starts.
    pub init: Init,
}

impl TensorSpec {
    /// Number of values.
    pub fn len(&self) -> u64 {
        self.shape.iter().fold(1, |n: u64, d| n.saturating_mul(u64::from(*d)))
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Values of a byte.
pub const BYTES: u32 = 256;

/// Most blocks of a transformer.
const MAX_LAYERS: u32 = 64;

/// Uniform weights with variance `numerator / fan_in`, as a bound in millionths.
fn uniform(numerator: u64, fan_in: u64) -> Init {
    // bound = sqrt(3 * variance), by integer root so that every machine agrees
    let squared = 3u64.saturating_mul(numerator).saturating_mul(1_000_000_000_000) / fan_in.max(1);
    Init::Uniform { bound_micro: u32::try_from(squared.isqrt()).unwrap_or(u32::MAX) }
}

impl Architecture {
    /// Every tensor, in the fixed order of the flat parameter vector (S6).
    pub fn tensors(&self) -> Vec<TensorSpec> {
        let mut out: Vec<TensorSpec> = Vec::new();
        let mut push = |name: String, shape: &[u32], init| out.push(TensorSpec { name, shape: shape.to_vec(), init });
        let mut layer = |name: &str, to: u32, from: &[u32]| {
            let fan_in = from.iter().map(|d| u64::from(*d)).product();
            push(format!("{name}.weight"), &[&[to], from].concat(), uniform(2, fan_in));
            push(format!("{name}.bias"), &[to], Init::Zero);
        };
        match self {
            Self::Linear { inputs, classes } => layer("layers.0", *classes, &[*inputs]),
            Self::Mlp { inputs, hidden, classes } => {
                let mut width = *inputs;
                for (i, next) in hidden.iter().chain([classes]).enumerate() {
                    layer(&format!("layers.{i}"), *next, &[width]);
                    width = *next;
                }
            }
            Self::Cnn { channels, filters, hidden, classes, .. } => {
                let mut from = *channels;
                for (i, to) in filters.iter().enumerate() {
                    layer(&format!("convs.{i}"), *to, &[from, 3, 3]);
                    from = *to;
                }
                let flat = self.cnn_flat().and_then(|n| u32::try_from(n).ok()).unwrap_or(u32::MAX);
                layer("layers.0", *hidden, &[flat]);
                layer("layers.1", *classes, &[*hidden]);
            }
            Self::Transformer { context, width, layers, .. } => {
                let (w, fan) = (*width, u64::from(*width));
                push("embed.weight".into(), &[BYTES, w], Init::Uniform { bound_micro: 34_641 });
                push("position.weight".into(), &[*context, w], Init::Uniform { bound_micro: 34_641 });
                for i in 0..(*layers).min(MAX_LAYERS) {
                    let mut part = |name: &str, shape: &[u32], init| push(format!("blocks.{i}.{name}"), shape, init);
                    let (inner, residual) = (uniform(1, fan), 2 * u64::from(*layers));
                    part("norm1.weight", &[w], Init::One);
                    part("norm1.bias", &[w], Init::Zero);
                    part("qkv.weight", &[w.saturating_mul(3), w], inner);
                    part("qkv.bias", &[w.saturating_mul(3)], Init::Zero);
                    part("out.weight", &[w, w], uniform(1, fan.saturating_mul(residual)));
                    part("out.bias", &[w], Init::Zero);
                    part("norm2.weight", &[w], Init::One);
                    part("norm2.bias", &[w], Init::Zero);
                    part("up.weight", &[w.saturating_mul(4), w], inner);
                    part("up.bias", &[w.saturating_mul(4)], Init::Zero);
                    part("down.weight", &[w, w.saturating_mul(4)], uniform(1, (4 * fan).saturating_mul(residual)));
                    part("down.bias", &[w], Init::Zero);
                }
                push("norm.weight".into(), &[w], Init::One);
                push("norm.bias".into(), &[w], Init::Zero);
                push("head.weight".into(), &[BYTES, w], uniform(1, fan.saturating_mul(4)));
            }
        }
        out
    }

    /// Values that the convolutions leave of one image.
    fn cnn_flat(&self) -> Option<u64> {
        let Self::Cnn { channels, height, width, filters, .. } = self else { return None };
        let shrink = |side: &u32| u64::from(side.checked_shr(u32::try_from(filters.len()).ok()?).unwrap_or(0)).into();
        let (h, w): (Option<u64>, Option<u64>) = (shrink(height), shrink(width));
        h?.checked_mul(w?)?.checked_mul(u64::from(*filters.last().unwrap_or(channels)))
    }

    /// Number of trainable parameters; at most 2^64 - 1, whatever the widths.
    pub fn parameters(&self) -> u64 {
        self.tensors().iter().fold(0, |n: u64, t| n.saturating_add(t.len()))
    }

    /// What one sample is.
    pub fn sample(&self) -> SampleShape {
        match self {
            Self::Linear { inputs, classes } | Self::Mlp { inputs, classes, .. } => {
                SampleShape::Row { inputs: *inputs, classes: *classes }
            }
            Self::Cnn { channels, height, width, classes, .. } => {
                SampleShape::Row { inputs: channels.saturating_mul(*height).saturating_mul(*width), classes: *classes }
            }
            Self::Transformer { context, .. } => SampleShape::Window { context: *context },
        }
    }

    /// Checks every limit (K3): a replay of one sample must fit into memory whatever the manifest says.
    ///
    /// # Errors
    /// What is out of range, and what range it must be in.
    pub fn check(&self) -> Result<(), String> {
        let within = |what: &str, value: u32, least: u32, most: u32| {
            if (least..=most).contains(&value) {
                Ok(())
            } else {
                Err(format!("{what} is {value}; it must be {least} to {most}"))
            }
        };
        let most_of = |what: &str, list: &[u32], most: usize, widest: u32| {
            if list.is_empty() || list.len() > most {
                return Err(format!("{what} must name 1 to {most} layers"));
            }
            list.iter().try_for_each(|w| within(what, *w, 1, widest))
        };
        if let SampleShape::Row { inputs, classes } = self.sample() {
            within("inputs", inputs, 1, 1 << 20)?;
            within("classes", classes, 2, 256)?;
        }
        match self {
            Self::Linear { .. } => Ok(()),
            Self::Mlp { hidden, .. } => most_of("hidden", hidden, 16, 1 << 16),
            Self::Cnn { channels, height, width, filters, hidden, .. } => {
                within("channels", *channels, 1, 16)?;
                within("height", *height, 1, 256)?;
                within("width", *width, 1, 256)?;
                most_of("filters", filters, 8, 512)?;
                within("hidden", *hidden, 1, 1 << 16)?;
                if self.cnn_flat().unwrap_or(0) == 0 {
                    return Err(format!("{} halvings leave nothing of {height} x {width} pixels", filters.len()));
                }
                Ok(())
            }
            Self::Transformer { context, width, layers, heads } => {
                within("context", *context, 1, 1024)?;
                within("width", *width, 1, 4096)?;
                within("layers", *layers, 1, MAX_LAYERS)?;
                within("heads", *heads, 1, 32)?;
                if width % heads != 0 {
                    return Err(format!("{heads} heads do not divide a width of {width}"));
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn transformer(context: u32, width: u32, layers: u32, heads: u32) -> Architecture {
        Architecture::Transformer { context, width, layers, heads }
    }

    #[test] // parameter counts worked out by hand
    fn parameters_are_counted() {
        assert_eq!(Architecture::Linear { inputs: 784, classes: 10 }.parameters(), 7850);
        assert_eq!(Architecture::Mlp { inputs: 784, hidden: vec![128], classes: 10 }.parameters(), 101_770);
        let cnn =
            Architecture::Cnn { channels: 1, height: 28, width: 28, filters: vec![8, 16], hidden: 32, classes: 10 };
        assert_eq!(cnn.parameters(), (9 * 8 + 8) + (8 * 9 * 16 + 16) + (16 * 49 * 32 + 32) + (32 * 10 + 10));
        let block = 4 * 32 + (32 * 96 + 96) + (32 * 32 + 32) + (32 * 128 + 128) + (128 * 32 + 32);
        assert_eq!(transformer(16, 32, 2, 4).parameters(), 256 * 32 + 16 * 32 + 2 * block + 64 + 256 * 32);
    }

    #[test]
    fn impossible_shapes_are_named() {
        let error = |a: Architecture| a.check().unwrap_err();
        assert!(error(transformer(64, 30, 1, 4)).contains("do not divide"));
        assert!(error(transformer(0, 32, 1, 4)).contains("context is 0"));
        assert!(error(Architecture::Linear { inputs: 4, classes: 257 }).contains("2 to 256"));
        assert!(error(Architecture::Mlp { inputs: 4, hidden: vec![], classes: 2 }).contains("1 to 16 layers"));
        let cnn = Architecture::Cnn { channels: 1, height: 4, width: 4, filters: vec![8; 3], hidden: 8, classes: 2 };
        assert!(error(cnn).contains("halvings leave nothing"));
        transformer(64, 128, 4, 4).check().unwrap();
    }

    proptest! {
        #[test] // L2: no shape overflows or panics
        fn total(a: u32, b: u32, c in 0u32..100, list in proptest::collection::vec(any::<u32>(), 0..20)) {
            for shape in [
                Architecture::Linear { inputs: a, classes: b },
                Architecture::Mlp { inputs: a, hidden: list.clone(), classes: b },
                Architecture::Cnn { channels: a, height: b, width: a, filters: list, hidden: b, classes: c },
                transformer(a, b, c, a),
            ] {
                let _ = (shape.parameters(), shape.check(), shape.sample());
            }
        }
    }
}
