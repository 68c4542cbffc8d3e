//! Compressed weight deltas: of every chunk of parameters the few largest changes, eight bits each.
//!
//! Layout, little-endian: parameter count u32, chunk u32, kept u32; then for each chunk a scale f32
//! and, ascending by position, a position u16 and a value i8 for each kept parameter. The size follows
//! from the manifest alone, so a decoder knows it before it reads.

use oda_consensus::manifest::{Judging, Training};
use oda_consensus::score::Refusal;

const HEADER: usize = 12;

/// A delta in its sparse form.
#[derive(Clone, Debug, PartialEq)]
pub struct SparseDelta {
    /// Parameters of the model.
    pub parameters: usize,
    /// Position in the flat vector and change, ascending by position.
    pub changes: Vec<(u32, f32)>,
}

impl SparseDelta {
    /// Euclidean norm, summed in order in f64.
    pub fn norm(&self) -> f64 {
        self.changes.iter().map(|(_, v)| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt()
    }

    /// `weights + scale * delta`, in f32.
    pub fn applied(&self, weights: &[f32], scale: f32) -> Vec<f32> {
        let mut out = weights.to_vec();
        for (at, v) in &self.changes {
            if let Some(w) = out.get_mut(*at as usize) {
                *w += v * scale;
            }
        }
        out
    }
}

fn kept(training: &Training, chunk_len: usize) -> usize {
    (training.keep_per_chunk as usize).min(chunk_len)
}

/// Bytes of every delta of a model with this many parameters.
pub fn encoded_len(parameters: usize, training: &Training) -> usize {
    let chunk = training.chunk as usize;
    let chunks = (0..parameters).step_by(chunk);
    HEADER + chunks.map(|at| 4 + 3 * kept(training, chunk.min(parameters - at))).sum::<usize>()
}

/// Compresses a dense delta: top-k of each chunk, eight bits a value.
pub fn encode(dense: &[f32], training: &Training) -> Vec<u8> {
    let mut out = Vec::with_capacity(encoded_len(dense.len(), training));
    for n in [u32::try_from(dense.len()).unwrap_or(u32::MAX), training.chunk, training.keep_per_chunk] {
        out.extend_from_slice(&n.to_le_bytes());
    }
    for chunk in dense.chunks(training.chunk as usize) {
        let mut order: Vec<usize> = (0..chunk.len()).collect();
        order.sort_by(|a, b| chunk[*b].abs().total_cmp(&chunk[*a].abs()).then(a.cmp(b)));
        order.truncate(kept(training, chunk.len()));
        order.sort_unstable();
        let largest = order.iter().map(|i| chunk[*i].abs()).fold(0.0f32, f32::max);
        let scale = largest / 127.0;
        out.extend_from_slice(&scale.to_le_bytes());
        for i in order {
            #[allow(clippy::cast_possible_truncation)]
            let value = if scale > 0.0 { (chunk[i] / scale).round().clamp(-127.0, 127.0) as i8 } else { 0 };
            out.extend_from_slice(&u16::try_from(i).unwrap_or(u16::MAX).to_le_bytes());
            out.push(value.to_le_bytes()[0]);
        }
    }
    out
}

/// Reads a delta of a known model and refuses everything else before any evaluation (S7).
///
/// # Errors
/// The reason, as it goes into the outcome.
pub fn decode(bytes: &[u8], parameters: usize, training: &Training, judging: &Judging) -> Result<SparseDelta, Refusal> {
    if bytes.len() as u64 > judging.max_delta_bytes {
        return Err(Refusal::Oversize);
    }
    let (header, mut body) = bytes.split_at_checked(HEADER).ok_or(Refusal::Malformed)?;
    let word = |i: usize| header.get(4 * i..4 * i + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
    if word(0) as usize != parameters || word(1) != training.chunk || word(2) != training.keep_per_chunk {
        return Err(Refusal::WrongShape);
    }
    if bytes.len() != encoded_len(parameters, training) {
        return Err(Refusal::Malformed);
    }
    let chunk = training.chunk as usize;
    let mut changes = Vec::new();
    for at in (0..parameters).step_by(chunk) {
        let len = chunk.min(parameters - at);
        let (part, rest) = body.split_at_checked(4 + 3 * kept(training, len)).ok_or(Refusal::Malformed)?;
        body = rest;
        let (scale, values) = part.split_at(4);
        let scale = f32::from_le_bytes(scale.try_into().map_err(|_| Refusal::Malformed)?);
        if !scale.is_finite() {
            return Err(Refusal::NotFinite);
        }
        let mut next = 0usize;
        for v in values.chunks_exact(3) {
            let i = usize::from(u16::from_le_bytes([v[0], v[1]]));
            if i < next || i >= len {
                return Err(Refusal::Malformed);
            }
            next = i + 1;
            let change = f32::from(i8::from_le_bytes([v[2]])) * scale;
            if !change.is_finite() {
                return Err(Refusal::NotFinite);
            }
            let position = u32::try_from(at + i).map_err(|_| Refusal::Malformed)?;
            changes.push((position, change));
        }
    }
    let delta = SparseDelta { parameters, changes };
    #[allow(clippy::cast_precision_loss)]
    let cap = judging.norm_cap_milli as f64 / 1000.0;
    if delta.norm() > cap { Err(Refusal::NormAboveCap) } else { Ok(delta) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn training() -> Training {
        Training {
            inner_steps: 1,
            batch: 1,
            lr_micro: 1,
            weight_decay_micro: 0,
            chunk: 64,
            keep_per_chunk: 8,
            outer_lr_milli: 1000,
        }
    }

    fn judging() -> Judging {
        Judging {
            shard_samples: 32,
            gate_samples: 32,
            confirm_samples: 32,
            assigned_z_milli: 3000,
            harm_z_milli: 2330,
            adopt_z_milli: 2330,
            probe_divisor: 8,
            norm_cap_milli: 50_000,
            min_gain_unat: 1,
            max_delta_bytes: 10_000,
            max_claims: 4,
        }
    }

    #[test]
    fn keeps_the_largest_changes() {
        let mut dense = vec![0.001f32; 100];
        dense[3] = 1.0;
        dense[70] = -0.5;
        let bytes = encode(&dense, &training());
        assert_eq!(bytes.len(), encoded_len(100, &training()));
        let delta = decode(&bytes, 100, &training(), &judging()).unwrap();
        let back = delta.applied(&vec![0.0; 100], 1.0);
        assert!((back[3] - 1.0).abs() < 0.01 && (back[70] + 0.5).abs() < 0.01);
        assert_eq!(delta.changes.len(), 16);
    }

    #[test] // S7: each refusal for its own reason
    fn refusals() {
        let good = encode(&[0.1; 100], &training());
        let why = |bytes: &[u8]| decode(bytes, 100, &training(), &judging()).unwrap_err();
        assert_eq!(why(&encode(&[0.1; 99], &training())), Refusal::WrongShape);
        assert_eq!(why(&good[..50]), Refusal::Malformed);
        assert_eq!(why(&[0; 4]), Refusal::Malformed);
        assert_eq!(why(&vec![0; 10_001]), Refusal::Oversize);
        let mut nan = good.clone();
        nan[12..16].copy_from_slice(&f32::NAN.to_le_bytes());
        assert_eq!(why(&nan), Refusal::NotFinite);
        let mut twice = good.clone();
        twice.copy_within(16..18, 19);
        assert_eq!(why(&twice), Refusal::Malformed);
        assert_eq!(why(&encode(&[100.0; 100], &training())), Refusal::NormAboveCap);
    }

    proptest! {
        #[test] // K3
        fn garbage_never_panics(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = encode(&[0.0; 100], &training());
            let n = body.len().min(bytes.len() - HEADER);
            bytes[HEADER..HEADER + n].copy_from_slice(&body[..n]);
            let _ = decode(&bytes, 100, &training(), &judging());
            let _ = decode(&body, 100, &training(), &judging());
        }

        #[test]
        fn quantisation_error_is_bounded(dense in proptest::collection::vec(-1.0f32..1.0, 1..200)) {
            let t = Training { keep_per_chunk: 64, ..training() };
            let delta = decode(&encode(&dense, &t), dense.len(), &t, &judging()).unwrap();
            let back = delta.applied(&vec![0.0; dense.len()], 1.0);
            for (a, b) in dense.iter().zip(&back) {
                prop_assert!((a - b).abs() <= 1.0 / 127.0);
            }
        }
    }
}
