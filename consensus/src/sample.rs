//! Samples drawn from the beacon (S3): which indices of a pool make up a shard, gate or confirm sample.
//!
//! A seeded generator and a partial Fisher-Yates shuffle, written out here because the drawing is
//! part of the protocol: a library's sampling may change between releases, and then validators of
//! different builds would judge on different samples.

use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};
use std::collections::BTreeMap;

/// `count` distinct indices below `population`, in drawing order. Fewer if the population is smaller.
pub fn draw(seed: [u8; 32], population: u32, count: u32) -> Vec<u32> {
    let mut rng = ChaCha20Rng::from_seed(seed);
    // sparse shuffle: memory in proportion to the sample, not to the pool
    let mut moved = BTreeMap::new();
    let mut out = Vec::new();
    for i in 0..count.min(population) {
        let j = i + below(&mut rng, population - i);
        let picked = moved.get(&j).copied().unwrap_or(j);
        let displaced = moved.get(&i).copied().unwrap_or(i);
        moved.insert(j, displaced);
        out.push(picked);
    }
    out
}

/// Uniform number below `bound` by rejection, so that no index is favoured.
fn below(rng: &mut ChaCha20Rng, bound: u32) -> u32 {
    let zone = u32::MAX - (u32::MAX % bound + 1) % bound;
    loop {
        let x = rng.next_u32();
        if x <= zone {
            return x % bound;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test] // S3: the drawing is pinned; validators of different builds must agree
    fn pinned() {
        assert_eq!(draw([0; 32], 10, 10), draw([0; 32], 10, 99));
        let digest =
            blake3::hash(&draw([7; 32], 60_000, 4_000).iter().flat_map(|i| i.to_le_bytes()).collect::<Vec<_>>());
        assert_eq!(digest.to_hex().as_str(), "167d7f855a4ec1e033ba342ec63b5ad424de25373a4e282d4608baeefee52a31");
    }

    proptest! {
        #[test]
        fn distinct_in_range_and_prefix_stable(seed: [u8; 32], population in 1u32..500, count in 0u32..600) {
            let all = draw(seed, population, count);
            prop_assert_eq!(all.len() as u32, count.min(population));
            let mut sorted = all.clone();
            sorted.sort_unstable();
            sorted.dedup();
            prop_assert_eq!(sorted.len(), all.len());
            prop_assert!(all.iter().all(|i| *i < population));
            prop_assert_eq!(&draw(seed, population, count / 2)[..], &all[..(count / 2).min(population) as usize]);
        }
    }

    #[test]
    fn roughly_uniform() {
        let mut hits = [0u32; 16];
        for n in 0..2000u32 {
            let mut seed = [0; 32];
            seed[..4].copy_from_slice(&n.to_le_bytes());
            for i in draw(seed, 16, 4) {
                hits[i as usize] += 1;
            }
        }
        // 500 expected each, standard deviation about 20
        assert!(hits.iter().all(|h| (400..600).contains(h)), "{hits:?}");
    }
}
