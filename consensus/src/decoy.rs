//! Decoys: claims whose verdict their sponsor knows beforehand (C6, attack 6).
//!
//! Commit and reveal stop a member from copying scores, but not a whole committee from making them
//! up. So a sponsor now and then slips in, under a name of its own, a claim of pure noise. Nothing
//! tells it from a trainer's until the round is judged; then the seed is shown, and anyone can
//! compute the noise again and see whether the committee accepted it. Whoever did is on record.

use crate::delta::{self, Chunk, Kept};
use crate::ids::{BlobRef, Digest};
use crate::manifest::Manifest;

/// The salt of a decoy's commitment: it says, before the samples are known, that this is one.
pub fn salt(seed: Digest) -> Digest {
    Digest(blake3::derive_key("oda 2026 decoy salt", &seed.0))
}

/// A decoy's draw of its tranches (P2).
pub fn choice(seed: Digest) -> Digest {
    Digest(blake3::derive_key("oda 2026 decoy draw", &seed.0))
}

/// A delta of noise in the wire format: changes drawn from the seed, at random places. Empty for a manifest
/// that [`Manifest::check`] refuses.
pub fn delta(seed: Digest, manifest: &Manifest) -> Vec<u8> {
    let t = &manifest.training;
    let Ok(parameters) = usize::try_from(manifest.parameters()) else { return Vec::new() };
    let chunk = (t.chunk as usize).max(1);
    let mut noise = blake3::Hasher::new_derive_key("oda 2026 decoy noise").update(&seed.0).finalize_xof();
    let chunks: Vec<Chunk> = (0..parameters)
        .step_by(chunk)
        .map(|at| {
            let len = chunk.min(parameters.saturating_sub(at));
            noisy(&mut noise, len, (t.keep_per_chunk as usize).min(len))
        })
        .collect();
    delta::encode(parameters, t, &chunks).unwrap_or_default()
}

/// One chunk of noise: positions anywhere, as many gaps of each size as a trainer's delta has, and so its length.
fn noisy(noise: &mut blake3::OutputReader, len: usize, count: usize) -> Chunk {
    let mut draw = || {
        let mut bytes = [0; 4];
        noise.fill(&mut bytes);
        u32::from_le_bytes(bytes)
    };
    // Floyd's sampling: each set of `count` positions is as likely as any other, up to the modulo's bias
    let mut taken = vec![false; len];
    for last in len.saturating_sub(count)..len {
        let at = draw() as usize % (last + 1);
        let free = taken.get(at) == Some(&false);
        if let Some(place) = taken.get_mut(if free { at } else { last }) {
            *place = true;
        }
    }
    let levels = draw();
    #[allow(clippy::cast_possible_truncation)]
    let around = |level: u8, drawn: u32| level + (drawn % 7) as u8;
    let positions = taken.iter().zip(0u16..=u16::MAX).filter(|(taken, _)| **taken);
    let kept = positions.map(|(_, at)| {
        let marks = draw();
        Kept { at, negative: marks & 1 == 1, large: marks & 2 == 2 }
    });
    let kept = kept.collect();
    Chunk { low: around(LOW, levels), high: around(HIGH, levels >> 16), kept }.tidied()
}

/// Name of the decoy's delta.
pub fn delta_ref(seed: Digest, manifest: &Manifest) -> BlobRef {
    BlobRef::of(&delta(seed, manifest))
}

/// Lowest level of small changes, of seven: 0.0036 to 0.0060, about what early training changes.
const LOW: u8 = 127;

/// Lowest level of large changes, of seven: 0.011 to 0.019.
const HIGH: u8 = 140;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delta::{decode, expected_len, max_len};
    use crate::manifest::Architecture;

    fn manifest() -> Manifest {
        let mut manifest = crate::fuzzing::sample_manifest("decoy");
        manifest.architecture = Architecture::Mlp { inputs: 784, hidden: vec![128], classes: 10 };
        manifest.training.chunk = 1024;
        manifest.training.keep_per_chunk = 128;
        manifest.judging.max_delta_bytes = 65_536;
        manifest
    }

    #[test] // C6: passes every check that precedes evaluation, and has size and length of honest work
    fn a_decoy_is_a_delta_like_any_other() {
        let m = manifest();
        let parameters = usize::try_from(m.parameters()).unwrap();
        let bytes = delta(Digest([1; 32]), &m);
        let (expected, max) = (expected_len(parameters, &m.training), max_len(parameters, &m.training));
        assert!(bytes.len() <= max && bytes.len().abs_diff(expected) < expected / 100, "{} of {expected}", bytes.len());
        let noise = decode(&bytes, parameters, &m.training, &m.judging).unwrap();
        assert_eq!(noise.changes.len(), 99 * 128 + 128);
        #[allow(clippy::cast_precision_loss)]
        let mean_square = noise.norm() * noise.norm() / noise.changes.len() as f64;
        assert!((0.008..0.014).contains(&mean_square.sqrt()), "{}", mean_square.sqrt());
        let negative = noise.changes.iter().filter(|(_, v)| *v < 0.0).count();
        assert!(negative.abs_diff(noise.changes.len() / 2) < noise.changes.len() / 20, "{negative}");
    }

    #[test] // C6: anyone can compute it again; changing this hash breaks decoys under way
    fn golden() {
        let m = manifest();
        assert_eq!(delta_ref(Digest([1; 32]), &m), delta_ref(Digest([1; 32]), &m));
        assert_ne!(delta_ref(Digest([1; 32]), &m), delta_ref(Digest([2; 32]), &m));
        assert_eq!(
            delta_ref(Digest([1; 32]), &m).hash.to_string(),
            "bf92f93aa7906bc222abbab5b9a056a6403c54548805c888df20836582614298"
        );
    }

    #[test] // one or two kept positions a chunk, so that often only one magnitude occurs
    fn every_shape_can_be_encoded() {
        for (chunk, keep) in [(1, 1), (7, 1), (7, 2), (64, 64), (65_536, 3)] {
            let mut m = manifest();
            (m.training.chunk, m.training.keep_per_chunk) = (chunk, keep);
            m.judging.max_delta_bytes = 1 << 20;
            m.judging.norm_cap_milli = 1_000_000;
            let parameters = usize::try_from(m.parameters()).unwrap();
            for seed in 0..3 {
                let bytes = delta(Digest([seed; 32]), &m);
                assert!(decode(&bytes, parameters, &m.training, &m.judging).is_ok(), "{keep} of {chunk}");
            }
        }
        let mut bad = manifest();
        bad.training.chunk = 0;
        assert!(delta(Digest([1; 32]), &bad).is_empty());
    }
}
