//! One source cut into training, evaluation and test part, so that no sample is in two of them.
//!
//! Taking the first rows for training would be wrong for any file that is sorted, and the first chapters of
//! a book are another text than the last. So rows are shuffled by the model's seed, and text is cut into
//! many stretches, each of which gives its share to every part.

use super::{Rows, problem};
use crate::MlError;
use oda_consensus::ids::Beacon;
use oda_consensus::sample;

/// Stretches that a text is cut into, at most.
const STRETCHES: u64 = 64;

/// Training, evaluation and test part.
#[derive(Clone, Debug, PartialEq)]
pub struct Parts<T> {
    /// Pool of the shards.
    pub train: T,
    /// Pool of gate and confirm samples.
    pub eval: T,
    /// Held-out part.
    pub test: T,
}

fn rest(there: u64, eval: u32, test: u32) -> Result<u64, MlError> {
    let taken = u64::from(eval) + u64::from(test);
    if eval == 0 || test == 0 || there <= taken {
        return Err(MlError::Data(format!(
            "{there} samples; eval_samples = {eval} and test_samples = {test} must be above 0 and leave some for \
             training: {} are needed",
            taken + 1
        )));
    }
    Ok(there - taken)
}

/// Shuffles rows by the seed; the first go to evaluation, the next to the test part, the rest to training.
///
/// # Errors
/// If there are too few.
pub fn rows(all: &Rows, eval: u32, test: u32, seed: &str) -> Result<Parts<Rows>, MlError> {
    rest(all.len() as u64, eval, test)?;
    let count = u32::try_from(all.len()).unwrap_or(u32::MAX);
    let drawn = sample::draw(Beacon([0; 32]).seed("split", &[seed.as_bytes()]), count, count);
    let order: Vec<usize> = drawn.into_iter().map(|i| i as usize).collect();
    let (for_eval, others) = order.split_at_checked(eval as usize).unwrap_or((&order, &[]));
    let (for_test, for_train) = others.split_at_checked(test as usize).unwrap_or((others, &[]));
    Ok(Parts { train: all.select(for_train), eval: all.select(for_eval), test: all.select(for_test) })
}

/// Cuts a text for windows of `context` predictions. Every byte goes to one part at most, and each part has
/// exactly the bytes its samples need: `samples * context + 1`.
///
/// # Errors
/// If the text is too short.
pub fn text(all: &[u8], context: u32, eval: u32, test: u32) -> Result<Parts<Vec<u8>>, MlError> {
    let context = u64::from(context.max(1));
    // each part ends with one byte that is only predicted
    let there = (all.len() as u64).saturating_sub(3) / context;
    let short = |e: MlError| MlError::Data(format!("{} bytes of text are {}", all.len(), problem(&e)));
    let windows = [rest(there, eval, test).map_err(short)?, u64::from(eval), u64::from(test)];
    let stretches = windows.iter().copied().fold(STRETCHES, u64::min).max(1);
    let mut parts = [Vec::new(), Vec::new(), Vec::new()];
    let mut left = all;
    for s in 0..stretches {
        for (part, n) in parts.iter_mut().zip(windows) {
            let share = n * (s + 1) / stretches - n * s / stretches;
            let bytes = share * context + u64::from(s + 1 == stretches);
            let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
            let too_short = || MlError::Data("the text ended early".into());
            let (piece, after) = left.split_at_checked(bytes).ok_or_else(too_short)?;
            part.extend_from_slice(piece);
            left = after;
        }
    }
    let [train, eval, test] = parts;
    Ok(Parts { train, eval, test })
}

#[cfg(test)]
mod tests {
    use super::super::Inputs;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rows_are_parted(n in 1usize..200, eval in 0u32..80, test in 0u32..80, seed: String) {
            let inputs = Inputs::Numbers((0..n).map(|i| i as f64).collect());
            let all = Rows { features: 1, inputs, classes: vec![0; n] };
            match rows(&all, eval, test, &seed) {
                Err(e) => prop_assert!(e.to_string().contains("are needed") && (eval == 0 || test == 0 || n as u32 <= eval + test)),
                Ok(parts) => {
                    prop_assert_eq!((parts.eval.len(), parts.test.len()), (eval as usize, test as usize));
                    let mut back = Vec::new();
                    for part in [parts.train, parts.eval, parts.test] {
                        let Inputs::Numbers(values) = part.inputs else { unreachable!() };
                        back.extend(values);
                    }
                    back.sort_by(f64::total_cmp);
                    prop_assert_eq!(back, (0..n).map(|i| i as f64).collect::<Vec<_>>());
                }
            }
        }

        #[test]
        fn text_is_parted(n in 0usize..3000, context in 0u32..20, eval in 0u32..60, test in 0u32..60) {
            // every byte pair is unique enough to say where it came from
            let all: Vec<u8> = (0..n).map(|i| (i % 251) as u8).collect();
            let Ok(parts) = text(&all, context, eval, test) else { return Ok(()) };
            let c = u64::from(context.max(1));
            for (part, samples) in [(&parts.eval, eval), (&parts.test, test)] {
                prop_assert_eq!(part.len() as u64, u64::from(samples) * c + 1);
            }
            let total = parts.train.len() + parts.eval.len() + parts.test.len();
            prop_assert!(total <= n && n - total < c as usize);
            let mut counts = [0i64; 251];
            all.iter().take(total).for_each(|b| counts[usize::from(*b)] += 1);
            [&parts.train, &parts.eval, &parts.test].into_iter().flatten().for_each(|b| counts[usize::from(*b)] -= 1);
            prop_assert!(counts.iter().all(|n| *n == 0));
        }
    }

    #[test] // each part has its share of the beginning, the middle and the end
    fn every_part_sees_the_whole_text() {
        let all: Vec<u8> = (0..100_000usize).map(|i| (i / 1000) as u8).collect();
        let parts = text(&all, 10, 2000, 1000).unwrap();
        for part in [parts.train, parts.eval, parts.test] {
            let kinds: std::collections::BTreeSet<u8> = part.into_iter().collect();
            assert!(kinds.len() > 60, "{} of 100 kinds", kinds.len());
        }
    }
}
