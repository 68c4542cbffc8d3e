//! Compression of dense weight changes into the wire format of [`oda_consensus::delta`]: top-k of each chunk,
//! a sign and one of two magnitudes each, and error feedback.
//!
//! Sending only the largest changes, and those coarsely, loses most of the work: a weight that moves a little in
//! every round would never be sent. So what is not sent is kept and added to the next round's change, where it
//! grows until it is large enough: error feedback, as in SparseLoCo (Sarfi et al. 2025, arXiv 2508.15706), where the
//! decaying remainder also replaces the outer momentum. Nobody replays compression (S1): it may be inexact, and a
//! trainer may do it otherwise.

use crate::MlError;
use oda_consensus::delta::{self, Chunk, Kept, magnitude, nearest_level};
use oda_consensus::manifest::Training;

/// Share of the remainder that is carried into the next round (SparseLoCo, arXiv 2508.15706).
pub const DECAY: f32 = 0.95;

/// Compresses a dense delta by itself. Empty if `training` is no compression, which `Manifest::check` excludes.
///
/// NaN counts as 0, and what is beyond the largest magnitude of the format as that.
pub fn compress(dense: &[f32], training: &Training) -> Vec<u8> {
    let mut scratch = Scratch::default();
    let chunks: Vec<Chunk> =
        dense.chunks(size(training)).map(|values| scratch.chunk(values, training.keep_per_chunk)).collect();
    delta::encode(dense.len(), training, &chunks).unwrap_or_default()
}

/// What has not been sent yet, of one model.
#[derive(Clone, Debug, PartialEq)]
pub struct ErrorFeedback {
    residual: Vec<f32>,
    decay: f32,
}

impl ErrorFeedback {
    /// Nothing held back yet, for a model of so many parameters.
    pub fn new(parameters: usize) -> Self {
        Self::with_decay(parameters, DECAY)
    }

    /// As [`new`](Self::new), with another share of the remainder carried on; 0 is plain top-k, 1 forgets nothing.
    pub fn with_decay(parameters: usize, decay: f32) -> Self {
        Self { residual: vec![0.0; parameters], decay }
    }

    /// What is held back, by parameter.
    pub fn residual(&self) -> &[f32] {
        &self.residual
    }

    /// Compresses a change and the decayed remainder, and keeps what of both is not sent.
    ///
    /// A change of another length belongs to another model: the remainder is forgotten first.
    pub fn compress(&mut self, dense: &[f32], training: &Training) -> Vec<u8> {
        if self.residual.len() != dense.len() {
            self.residual = vec![0.0; dense.len()];
        }
        let mut scratch = Scratch::default();
        let mut chunks = Vec::with_capacity(dense.len().div_ceil(size(training)));
        for (held, values) in self.residual.chunks_mut(size(training)).zip(dense.chunks(size(training))) {
            for (held, value) in held.iter_mut().zip(values) {
                *held = sound(*held * self.decay + sound(*value));
            }
            let chunk = scratch.chunk(held, training.keep_per_chunk);
            for kept in &chunk.kept {
                if let Some(held) = held.get_mut(usize::from(kept.at)) {
                    *held -= chunk.value(*kept);
                }
            }
            chunks.push(chunk);
        }
        delta::encode(dense.len(), training, &chunks).unwrap_or_default()
    }

    /// The remainder for the disk: f32, little-endian.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.residual.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    /// Reads what [`to_bytes`](Self::to_bytes) gave.
    ///
    /// # Errors
    /// If the bytes are not the remainder of a model with so many parameters.
    pub fn from_bytes(parameters: usize, decay: f32, bytes: &[u8]) -> Result<Self, MlError> {
        let (values, []) = bytes.as_chunks::<4>() else {
            return Err(MlError::Weights(format!("a remainder has 4 bytes a parameter, not {} in all", bytes.len())));
        };
        if values.len() != parameters {
            let found = values.len();
            return Err(MlError::Weights(format!("remainder of {found} parameters, the model has {parameters}")));
        }
        let residual: Vec<f32> = values.iter().map(|v| f32::from_le_bytes(*v)).collect();
        if !residual.iter().all(|v| v.is_finite()) {
            return Err(MlError::Weights("a remainder with NaN or infinity; delete it to start from zero".into()));
        }
        Ok(Self { residual, decay })
    }
}

fn size(training: &Training) -> usize {
    (training.chunk as usize).max(1)
}

/// A value that the format can say, roughly: no NaN, nothing too large.
fn sound(value: f32) -> f32 {
    let most = magnitude(u8::MAX);
    if value.is_nan() { 0.0 } else { value.clamp(-most, most) }
}

/// Memory used again for each chunk.
#[derive(Default)]
struct Scratch {
    /// Bits of the absolute value above, bits of the position turned round below: descending order is by size,
    /// then ascending position, and one comparison decides.
    order: Vec<u64>,
    sizes: Vec<f32>,
}

impl Scratch {
    /// The changes of one chunk that are sent.
    fn chunk(&mut self, values: &[f32], keep: u32) -> Chunk {
        let count = (keep as usize).min(values.len());
        // below half the smallest magnitude the nearest is zero
        let least = magnitude(1) / 2.0;
        let key = |(value, at): (&f32, u16)| {
            let size = sound(*value).abs();
            let bits = if size < least { 0 } else { size.to_bits() };
            u64::from(bits) << 16 | u64::from(u16::MAX - at)
        };
        self.order.clear();
        self.order.extend(values.iter().zip(0..=u16::MAX).map(key));
        if count > 0 && count < self.order.len() {
            self.order.select_nth_unstable_by(count - 1, |a, b| b.cmp(a));
        }
        self.order.truncate(count);
        self.order.retain(|key| key >> 16 != 0);
        self.order.sort_unstable_by(|a, b| b.cmp(a));
        #[allow(clippy::cast_possible_truncation)]
        let size_of = |key: &u64| f32::from_bits((key >> 16) as u32);
        self.sizes.clear();
        self.sizes.extend(self.order.iter().map(size_of));

        let full = self.order.len() == count;
        let (low, high) = if full { two_levels(&self.sizes) } else { (0, mean_level(&self.sizes)) };
        let middle = (magnitude(low) + magnitude(high)) / 2.0;
        #[allow(clippy::cast_possible_truncation)]
        let mut kept: Vec<Kept> = self
            .order
            .iter()
            .map(|key| {
                let at = u16::MAX - (key & 0xffff) as u16;
                let negative = values.get(usize::from(at)).is_some_and(|v| *v < 0.0);
                Kept { at, negative, large: !full || size_of(key) > middle }
            })
            .collect();
        kept.sort_unstable_by_key(|k| k.at);
        if !full {
            fill_up(&mut kept, count);
        }
        Chunk { low, high, kept }.tidied()
    }
}

/// Adds zeros at the lowest free positions until there are `count` entries, as the format wants it.
fn fill_up(kept: &mut Vec<Kept>, count: usize) {
    let missing = count.saturating_sub(kept.len());
    let mut taken = kept.iter().map(|k| k.at).peekable();
    let free = (0..=u16::MAX).filter(|at| {
        let is_taken = taken.peek() == Some(at);
        if is_taken {
            taken.next();
        }
        !is_taken
    });
    let zeros: Vec<Kept> = free.take(missing).map(|at| Kept { at, negative: false, large: false }).collect();
    kept.extend(zeros);
    kept.sort_unstable_by_key(|k| k.at);
}

fn mean_level(sizes: &[f32]) -> u8 {
    if sizes.is_empty() {
        return 0;
    }
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
    let mean = (sizes.iter().map(|v| f64::from(*v)).sum::<f64>() / sizes.len() as f64) as f32;
    nearest_level(mean).max(1)
}

/// The two magnitudes with the least squared error, of sizes in descending order: the best of all splits.
fn two_levels(sizes: &[f32]) -> (u8, u8) {
    let total: f64 = sizes.iter().map(|v| f64::from(*v)).sum();
    let (mut sum, mut best, mut split) = (0.0f64, f64::MIN, sizes.len());
    for (taken, size) in (1u32..).zip(sizes) {
        sum += f64::from(*size);
        let rest = sizes.len() - taken as usize;
        // the squared error is a constant less this
        #[allow(clippy::cast_precision_loss)]
        let explained =
            sum * sum / f64::from(taken) + if rest > 0 { (total - sum) * (total - sum) / rest as f64 } else { 0.0 };
        if explained > best {
            (best, split) = (explained, taken as usize);
        }
    }
    let (large, small) = sizes.split_at(split);
    let high = mean_level(large);
    (if small.is_empty() { high } else { mean_level(small) }, high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use oda_consensus::delta::{chunks, max_len};
    use oda_consensus::fuzzing::sample_manifest;
    use proptest::prelude::*;

    fn training(chunk: u32, keep_per_chunk: u32) -> Training {
        Training { chunk, keep_per_chunk, ..sample_manifest("compress").training }
    }

    /// What a reader gets.
    fn flat(bytes: &[u8], parameters: usize, t: &Training) -> Vec<f32> {
        let judging = oda_consensus::manifest::Judging {
            norm_cap_milli: u64::MAX,
            max_delta_bytes: u64::MAX,
            ..sample_manifest("compress").judging
        };
        delta::decode(bytes, parameters, t, &judging).unwrap().applied(&vec![0.0; parameters], 1.0)
    }

    fn random(parameters: usize, seed: u8) -> Vec<f32> {
        crate::cheat::random(parameters, 0.01, [seed; 32])
    }

    fn distance(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(x, y)| f64::from(x - y).powi(2)).sum()
    }

    #[test]
    fn keeps_the_largest_changes_and_of_equal_ones_the_first() {
        let t = training(64, 2);
        let mut dense = vec![0.001f32; 100];
        (dense[3], dense[50], dense[70], dense[71]) = (1.0, -0.5, -0.5, f32::NAN);
        let back = flat(&compress(&dense, &t), 100, &t);
        let sent: Vec<usize> = (0..100).filter(|i| back[*i] != 0.0).collect();
        assert_eq!(sent, [3, 50, 64, 70]);
        assert!((back[3] - 1.0).abs() < 0.045 && (back[50] + 0.5).abs() < 0.025 && (back[64] - 0.001).abs() < 5e-5);
    }

    #[test] // nothing to say, and nothing that can be said: still the one form the format allows
    fn extreme_values() {
        let t = training(16, 8);
        let all = [0.0, -0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN_POSITIVE, 1e-45, 1e-7];
        for value in all {
            let mut dense = vec![value; 40];
            dense[20] = 0.1;
            let back = flat(&compress(&dense, &t), 40, &t);
            let mut feedback = ErrorFeedback::new(40);
            for _ in 0..3 {
                flat(&feedback.compress(&dense, &t), 40, &t);
            }
            assert!(feedback.residual().iter().all(|v| v.is_finite()), "{value}");
            let expected = if value.abs() > 1e-8 { value.abs().min(magnitude(255)) } else { 0.0 };
            assert!((back[0].abs() - expected).abs() <= 0.045 * expected, "{value}: {}", back[0]);
        }
        let back = flat(&compress(&[0.0, 3.0, 0.0, -3.0, 2.0], &t), 5, &t);
        // fewer changes than are kept: one magnitude for them
        assert!(back[0] == 0.0 && back[1] > 0.0 && back[1] == -back[3] && back[1] == back[4]);
        assert!(compress(&[1.0], &training(0, 0)).is_empty());
        assert_eq!(compress(&[], &t).len(), max_len(0, &t));
    }

    #[test] // two magnitudes say more than one: at most 1/16 of the square is lost on uniform sizes
    fn magnitudes_are_fitted() {
        let t = training(256, 256);
        let dense = random(4096, 1);
        let lost = distance(&flat(&compress(&dense, &t), 4096, &t), &dense) / distance(&dense, &vec![0.0; 4096]);
        assert!((0.05..0.075).contains(&lost), "{lost}");
    }

    #[test] // in f32, for chunks of 10 M parameters: the goal of 1/205
    fn real_ratio() {
        let (parameters, t) = (1_000_000, training(4096, 64));
        let bytes = compress(&random(parameters, 2), &t);
        let ratio = 4e6 / bytes.len() as f64;
        println!("{} bytes of 4000000: 1/{ratio:.1}", bytes.len());
        assert!(ratio > 205.0, "{ratio}");
    }

    /// Total sent of each coordinate over rounds of the same change.
    fn delivered(decay: f32, rounds: u16, dense: &[f32], t: &Training) -> Vec<f32> {
        let mut feedback = ErrorFeedback::with_decay(dense.len(), decay);
        let mut sum = vec![0.0; dense.len()];
        for _ in 0..rounds {
            let sent = flat(&feedback.compress(dense, t), dense.len(), t);
            sum.iter_mut().zip(sent).for_each(|(s, v)| *s += v);
        }
        sum
    }

    #[test] // the point of error feedback: with it switched off this fails
    fn every_coordinate_is_delivered() {
        let t = training(64, 4);
        let dense: Vec<f32> = (0..128u8).map(|i| 0.001 + 0.0001 * f32::from(i % 64)).collect();
        let all = |sum: &[f32]| sum.iter().zip(&dense).all(|(s, v)| (s / (200.0 * v) - 1.0).abs() < 0.25);
        assert!(all(&delivered(1.0, 200, &dense, &t)));
        let plain = delivered(0.0, 200, &dense, &t);
        assert!(!all(&plain));
        assert_eq!(plain.iter().filter(|v| **v == 0.0).count(), 120, "plain top-k sends the same 4 of 64 forever");
        // what decays is bounded by 20 rounds' worth: most are heard, the very smallest not
        let heard = delivered(DECAY, 200, &dense, &t).iter().filter(|v| **v > 0.0).count();
        assert!((64..128).contains(&heard), "{heard}");
    }

    #[test] // and over many rounds of real noise it is nearer to what was meant
    fn error_over_many_rounds_is_smaller_with_feedback() {
        let (t, parameters) = (training(64, 8), 640);
        let mean = random(parameters, 3);
        let run = |decay: f32| {
            let mut feedback = ErrorFeedback::with_decay(parameters, decay);
            let (mut meant, mut sent) = (vec![0.0f32; parameters], vec![0.0f32; parameters]);
            for round in 0..40 {
                let noise = random(parameters, 10 + round);
                let dense: Vec<f32> = mean.iter().zip(&noise).map(|(m, n)| m + n).collect();
                meant.iter_mut().zip(&dense).for_each(|(a, b)| *a += b);
                let bytes = feedback.compress(&dense, &t);
                sent.iter_mut().zip(flat(&bytes, parameters, &t)).for_each(|(a, b)| *a += b);
            }
            distance(&meant, &sent)
        };
        let (with, without) = (run(DECAY), run(0.0));
        println!("squared error {with:.3} with feedback, {without:.3} without");
        assert!(with < without / 2.0, "{with} {without}");
        assert!(run(1.0) < with);
    }

    #[test]
    fn the_remainder_survives_a_restart_and_is_checked() {
        let t = training(16, 4);
        let dense = random(100, 5);
        let mut feedback = ErrorFeedback::new(100);
        feedback.compress(&dense, &t);
        let bytes = feedback.to_bytes();
        let mut again = ErrorFeedback::from_bytes(100, DECAY, &bytes).unwrap();
        assert_eq!(again, feedback);
        assert_eq!(again.compress(&dense, &t), feedback.compress(&dense, &t));
        let error =
            |parameters, bytes: &[u8]| ErrorFeedback::from_bytes(parameters, DECAY, bytes).unwrap_err().to_string();
        assert!(error(99, &bytes).contains("100 parameters, the model has 99"));
        assert!(error(100, &bytes[..399]).contains("399"));
        assert!(error(1, &f32::NAN.to_le_bytes()).contains("NaN"));
        // another model
        assert_eq!(feedback.compress(&dense[..50], &t), compress(&dense[..50], &t));
    }

    proptest! {
        #[test] // nothing is lost: sent and kept back make up what came in
        fn sent_and_remainder_are_the_whole(
            dense in proptest::collection::vec(-1.0f32..1.0, 1..300), chunk in 1u32..70, keep in 1u32..70,
        ) {
            let t = training(chunk, keep.min(chunk));
            let mut feedback = ErrorFeedback::with_decay(dense.len(), 1.0);
            let mut put_in = vec![0.0f32; dense.len()];
            let mut sent = vec![0.0f32; dense.len()];
            for _ in 0..3 {
                put_in.iter_mut().zip(&dense).for_each(|(a, b)| *a += b);
                let out = flat(&feedback.compress(&dense, &t), dense.len(), &t);
                sent.iter_mut().zip(out).for_each(|(a, b)| *a += b);
                for ((whole, sent), rest) in put_in.iter().zip(&sent).zip(feedback.residual()) {
                    prop_assert!((whole - sent - rest).abs() < 2e-6, "{whole} {sent} {rest}");
                }
            }
        }

        #[test] // whatever the numbers, the result is a delta
        fn any_bits_compress(
            bits in proptest::collection::vec(any::<u32>(), 0..300), zeros in 0usize..300, chunk in 1u32..70, keep in 1u32..70,
        ) {
            let t = training(chunk, keep.min(chunk));
            let dense: Vec<f32> = bits.iter().map(|b| f32::from_bits(*b)).chain(vec![0.0; zeros]).collect();
            prop_assert!(chunks(&compress(&dense, &t), dense.len(), &t).is_ok());
        }
    }
}
