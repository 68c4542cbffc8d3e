//! Decoder-only transformer over bytes: learned positions, layer norm before attention and feed-forward
//! (`nn.LayerNorm`, eps 1e-5), exact GELU, scores divided by the root of a head's width, a head without bias.
//!
//! Attention is the plain product and softmax, in blocks of queries: a block looks no further than its own
//! end, which halves the work on long contexts and bounds the memory. The result of each row is the same as
//! without blocks.

use super::{Network, Weights, count};
use crate::MlError;
use tch::{Kind, Tensor};

/// Queries attended at once.
const BLOCK: i64 = 128;

pub(super) struct Transformer {
    pub(super) context: i64,
    pub(super) width: i64,
    pub(super) layers: u32,
    pub(super) heads: i64,
}

/// Some queries: the first, how many, and which of the positions up to the last of them each must not see.
struct Rows {
    from: i64,
    len: i64,
    unseen: Tensor,
}

impl Transformer {
    fn rows(context: i64, like: &Tensor) -> Result<Vec<Rows>, MlError> {
        let mut out = Vec::new();
        for from in (0..context).step_by(usize::try_from(BLOCK).unwrap_or(1)) {
            let len = BLOCK.min(context - from);
            let unseen = Tensor::f_ones([len, from + len], (Kind::Bool, like.device()))?.f_triu(from + 1)?;
            out.push(Rows { from, len, unseen });
        }
        Ok(out)
    }

    /// Causal softmax attention of queries, keys and values `[n, context, 3 * width]`.
    fn attention(&self, qkv: &Tensor, rows: &[Rows]) -> Result<Tensor, MlError> {
        let context = qkv.size().get(1).copied().unwrap_or(0);
        let each = self.width / self.heads.max(1);
        let parts = qkv.f_view([-1, context, 3, self.heads, each])?.f_permute([2, 0, 3, 1, 4])?.f_unbind(0)?;
        let [q, k, v] = parts.as_slice() else { return Err(MlError::Backend("no queries, keys, values".into())) };
        #[allow(clippy::cast_precision_loss)]
        let (q, k) = (q.f_mul_scalar(1.0 / (each as f64).sqrt())?, k.f_transpose(-2, -1)?);
        let mut out = Vec::with_capacity(rows.len());
        for Rows { from, len, unseen } in rows {
            let seen = from + len;
            let scores = q.f_narrow(2, *from, *len)?.f_matmul(&k.f_narrow(3, 0, seen)?)?;
            let shares = scores.f_masked_fill(unseen, f64::NEG_INFINITY)?.f_softmax(-1, None)?;
            out.push(shares.f_matmul(&v.f_narrow(2, 0, seen)?)?);
        }
        Ok(Tensor::f_cat(&out, 2)?.f_transpose(1, 2)?.f_reshape([-1, context, self.width])?)
    }
}

impl Network for Transformer {
    fn logits(&self, x: &Tensor, weights: &[Tensor]) -> Result<Tensor, MlError> {
        let mut weights = Weights::new(weights);
        let context = x.size().get(1).copied().unwrap_or(0);
        let rows = Self::rows(context, x)?;
        let bytes = Tensor::f_embedding(weights.next()?, x, -1, false, false)?;
        let mut x = bytes.f_add(&weights.next()?.f_narrow(0, 0, context)?)?;
        for _ in 0..self.layers {
            let qkv = weights.norm(&x).and_then(|x| weights.linear(&x))?;
            x = x.f_add(&weights.linear(&self.attention(&qkv, &rows)?)?)?;
            let inner = weights.norm(&x).and_then(|x| weights.linear(&x))?;
            x = x.f_add(&weights.linear(&inner.f_gelu("none")?)?)?;
        }
        Ok(weights.norm(&x)?.f_linear::<&Tensor>(weights.next()?, None)?)
    }

    fn activations_per_sample(&self) -> usize {
        let scores = 3 * self.heads * BLOCK.min(self.context) * self.context;
        // queries, keys and values twice beside the residual stream; or the head's scores thrice
        count(scores + self.context * (10 * self.width).max(2 * self.width + 3 * 256))
    }
}
