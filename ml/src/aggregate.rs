//! The new head (S6): accepted deltas clipped to their median norm, averaged, added, in plain Rust and
//! in claim order, so that every machine gets the same bits.
//!
//! Sums of floats depend on their order, so threads must not share one. Here each has a range of coordinates of
//! its own and adds up every coordinate in claim order: how many threads there are changes nothing.

use oda_consensus::delta::SparseDelta;

/// Coordinates added up at once: their sums stay in the cache.
const BLOCK: usize = 1 << 14;

/// Below so many parameters a thread, starting it costs more than it saves.
const MIN_PER_THREAD: usize = 1 << 18;

/// Most threads.
const MAX_THREADS: usize = 8;

/// `parent + outer_lr * mean(clipped deltas)`. The parent itself if there is no delta.
///
/// The changes of each delta must ascend by position, as those of a decoded one do.
pub fn new_head(parent: &[f32], deltas: &[&SparseDelta], outer_lr_milli: u32) -> Vec<f32> {
    let useful = (parent.len() / MIN_PER_THREAD).clamp(1, MAX_THREADS);
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(useful);
    new_head_on(threads, parent, deltas, outer_lr_milli)
}

/// As [`new_head`], on so many threads, at most 8; the same bits for each number.
pub fn new_head_on(threads: usize, parent: &[f32], deltas: &[&SparseDelta], outer_lr_milli: u32) -> Vec<f32> {
    let mut out = parent.to_vec();
    if deltas.is_empty() || parent.is_empty() {
        return out;
    }
    let norms: Vec<f64> = deltas.iter().map(|d| d.norm()).collect();
    let mut sorted = norms.clone();
    sorted.sort_by(f64::total_cmp);
    // lower median: with two deltas neither can raise the bound for itself
    let median = sorted[(sorted.len() - 1) / 2];
    let clip = |norm: &f64| if *norm > median && *norm > 0.0 { median / norm } else { 1.0 };
    let clipped: Vec<(&[(u32, f32)], f64)> =
        deltas.iter().zip(&norms).map(|(d, norm)| (d.changes.as_slice(), clip(norm))).collect();
    #[allow(clippy::cast_precision_loss)]
    let step = f64::from(outer_lr_milli) / 1000.0 / deltas.len() as f64;
    let per_thread = out.len().div_ceil(threads.clamp(1, MAX_THREADS));
    std::thread::scope(|scope| {
        let mut ranges = (0usize..).step_by(per_thread).zip(out.chunks_mut(per_thread));
        let first = ranges.next();
        for (from, range) in ranges {
            let clipped = &clipped;
            scope.spawn(move || add(range, from, clipped, step));
        }
        if let Some((from, range)) = first {
            add(range, from, &clipped, step);
        }
    });
    out
}

/// Adds `step` times the sum of the clipped changes to the coordinates that begin at `from`.
fn add(range: &mut [f32], from: usize, clipped: &[(&[(u32, f32)], f64)], step: f64) {
    let begins = |changes: &[(u32, f32)]| changes.partition_point(|(at, _)| (*at as usize) < from);
    let mut rests: Vec<&[(u32, f32)]> =
        clipped.iter().map(|(changes, _)| changes.split_at(begins(changes)).1).collect();
    let mut sums = vec![0.0f64; BLOCK.min(range.len())];
    for (block, begin) in range.chunks_mut(BLOCK).zip((from..).step_by(BLOCK)) {
        sums.fill(0.0);
        for (rest, (_, clip)) in rests.iter_mut().zip(clipped) {
            let (mut index, end) = (0, begin + block.len());
            while let Some((at, v)) = rest.get(index).filter(|(at, _)| (*at as usize) < end) {
                if let Some(s) = (*at as usize).checked_sub(begin).and_then(|i| sums.get_mut(i)) {
                    *s += f64::from(*v) * clip;
                }
                index += 1;
            }
            *rest = rest.split_at(index).1;
        }
        for (w, s) in block.iter_mut().zip(&sums) {
            #[allow(clippy::cast_possible_truncation)]
            let new = (f64::from(*w) + s * step) as f32;
            *w = new;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_core::{RngCore, SeedableRng};

    fn delta(values: &[(u32, f32)]) -> SparseDelta {
        SparseDelta { parameters: 8, changes: values.to_vec() }
    }

    fn hash(head: &[f32]) -> String {
        let bytes: Vec<u8> = head.iter().flat_map(|v| v.to_le_bytes()).collect();
        blake3::hash(&bytes).to_hex().to_string()
    }

    /// A head and five deltas of different norms drawn from the size.
    fn drawn(parameters: usize) -> (Vec<f32>, Vec<SparseDelta>) {
        let parent = crate::cheat::random(parameters, 0.1, [1; 32]);
        let one = |number: u8| {
            let mut rng = ChaCha20Rng::from_seed([10 + number; 32]);
            let values = crate::cheat::random(parameters, 0.01 * f32::from(number + 1), [20 + number; 32]);
            let changes = (0u32..).zip(values).filter(|_| rng.next_u32().is_multiple_of(16)).collect();
            SparseDelta { parameters, changes }
        };
        (parent, (0..5).map(one).collect())
    }

    #[test] // S6: bits are pinned; another build or machine must give the same
    fn golden_bits() {
        let parent: Vec<f32> = (0..8).map(|i| i as f32 * 0.1).collect();
        let (a, b, c) = (delta(&[(0, 0.3), (5, -0.7)]), delta(&[(0, 0.1), (7, 0.2)]), delta(&[(1, 9.0)]));
        let head = new_head(&parent, &[&a, &b, &c], 700);
        assert_eq!(hash(&head), "a148bc64be18bd5a6e659214f3ba36f47bbf7959b08a14b3481c20de7456ff76");
    }

    #[test] // S6: likewise across blocks and threads, the same constants in debug and release
    fn golden_bits_of_many_sizes() {
        let golden = [
            (1, "492ab4defe5dc2735d3f62172c5a1f163841f35b54f279e66306086ede1415a4"),
            (1000, "1b7c28941532ecc3ca587e89d73e2525da5183b29ed4ecd1e521ae89de7a4821"),
            (BLOCK, "dda8e228dbf7835a03fcd9e5106fbab8d1272e197fb043e7ded30bb7149dadd0"),
            (BLOCK + 1, "8c60c9dcc572fc5102ecc0aa41af901a904fdfca1bc0af174b09f498782edcd5"),
            (1_000_000, "d21a880c4b5a751c7421ab12c06d52204e4bc790dae8fb4ee4e5b7ec12a8c73b"),
        ];
        let found = golden.map(|(parameters, _)| {
            let (parent, deltas) = drawn(parameters);
            let deltas: Vec<&SparseDelta> = deltas.iter().collect();
            (parameters, hash(&new_head(&parent, &deltas, 700)))
        });
        assert_eq!(found, golden.map(|(parameters, hash)| (parameters, hash.to_string())));
    }

    #[test] // S6: threads share no sum
    fn the_number_of_threads_changes_nothing() {
        for parameters in [1, 5, BLOCK + 1, 300_000] {
            let (parent, deltas) = drawn(parameters);
            let deltas: Vec<&SparseDelta> = deltas.iter().collect();
            let one = hash(&new_head_on(1, &parent, &deltas, 900));
            assert!(parameters < 100 || one != hash(&parent));
            for threads in [0, 2, 3, 7, 16] {
                assert_eq!(hash(&new_head_on(threads, &parent, &deltas, 900)), one, "{threads} threads");
            }
        }
    }

    #[test] // and the order of claims is part of the result: a sum in another order would be noticed above
    fn blocks_agree_with_the_plain_sum() {
        let (parent, deltas) = drawn(100_000);
        let deltas: Vec<&SparseDelta> = deltas.iter().collect();
        let mut norms: Vec<f64> = deltas.iter().map(|d| d.norm()).collect();
        norms.sort_by(f64::total_cmp);
        let mut sum = vec![0.0f64; parent.len()];
        for delta in &deltas {
            let clip = if delta.norm() > norms[2] { norms[2] / delta.norm() } else { 1.0 };
            delta.changes.iter().for_each(|(at, v)| sum[*at as usize] += f64::from(*v) * clip);
        }
        let plain: Vec<f32> =
            parent.iter().zip(&sum).map(|(w, s)| (f64::from(*w) + s * (700.0 / 1000.0 / 5.0)) as f32).collect();
        assert_eq!(hash(&new_head(&parent, &deltas, 700)), hash(&plain));
    }

    #[test] // attack 10: an inflated delta weighs no more than the median one
    fn inflation_is_clipped() {
        let parent = vec![0.0; 8];
        let (a, b, big) = (delta(&[(0, 1.0)]), delta(&[(1, 1.0)]), delta(&[(2, 1000.0)]));
        let head = new_head(&parent, &[&a, &b, &big], 1000);
        assert!((head[2] - 1.0 / 3.0).abs() < 1e-6);
        assert_eq!(new_head(&parent, &[], 1000), parent);
    }

    #[test] // a change outside the model, which no decoded delta has, goes nowhere
    fn changes_outside_are_ignored() {
        assert_eq!(new_head(&[1.0; 4], &[&delta(&[(3, 1.0), (7, 1.0)])], 1000), [1.0, 1.0, 1.0, 2.0]);
        assert_eq!(new_head(&[], &[&delta(&[(3, 1.0)])], 1000), [0.0f32; 0]);
    }
}
