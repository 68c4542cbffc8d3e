//! One seeded generator per purpose, so that asking one thing more does not change the answers to all the others.

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

/// A generator for one purpose of one run.
#[derive(Clone, Debug)]
pub struct Dice(pub ChaCha8Rng);

impl Dice {
    /// The generator of a purpose.
    pub fn new(seed: u64, purpose: &str) -> Self {
        let mut h = blake3::Hasher::new_derive_key("oda simnet dice");
        h.update(&seed.to_le_bytes()).update(purpose.as_bytes());
        Self(ChaCha8Rng::from_seed(*h.finalize().as_bytes()))
    }

    /// 0 to below the bound; 0 if the bound is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        // 2^64 is so far above any bound here that the bias is below one in a million million
        self.0.next_u64().checked_rem(bound).unwrap_or(0)
    }

    /// From least to most, both included.
    pub fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most.saturating_sub(least) + 1)
    }

    /// So many times in a thousand.
    pub fn milli(&mut self, times: u32) -> bool {
        self.below(1_000) < u64::from(times)
    }

    /// Above 0 and at most 1.
    pub fn unit(&mut self) -> f64 {
        ((self.0.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    /// A waiting time whose mean is given.
    pub fn wait(&mut self, mean_ms: u64) -> u64 {
        (-(self.unit().ln()) * mean_ms as f64) as u64
    }

    /// One of a list; `None` if it is empty.
    pub fn pick<'a, T>(&mut self, list: &'a [T]) -> Option<&'a T> {
        let place = self.below(list.len() as u64);
        list.get(usize::try_from(place).ok()?)
    }
}
