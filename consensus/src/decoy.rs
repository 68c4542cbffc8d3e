//! Decoys: claims whose verdict their sponsor knows beforehand (C6, attack 6).
//!
//! Commit and reveal stop a member from copying scores, but not a whole committee from making them
//! up. So a sponsor now and then slips in, under a name of its own, a claim of pure noise. Nothing
//! tells it from a trainer's until the round is judged; then the seed is shown, and anyone can
//! compute the noise again and see whether the committee accepted it. Whoever did is on record.

use crate::ids::{BlobRef, Digest};
use crate::manifest::Manifest;

/// The salt of a decoy's commitment: it says, before the samples are known, that this is one.
pub fn salt(seed: Digest) -> Digest {
    Digest(blake3::derive_key("oda 2026 decoy salt", &seed.0))
}

/// A delta of noise in the wire format of `oda-ml`: changes drawn from the seed, at random places.
pub fn delta(seed: Digest, manifest: &Manifest) -> Vec<u8> {
    let t = &manifest.training;
    let parameters = usize::try_from(manifest.parameters()).unwrap_or(0);
    let chunk = (t.chunk as usize).max(1);
    let mut noise = blake3::Hasher::new_derive_key("oda 2026 decoy noise").update(&seed.0).finalize_xof();
    let mut out = Vec::new();
    for n in [u32::try_from(parameters).unwrap_or(u32::MAX), t.chunk, t.keep_per_chunk] {
        out.extend_from_slice(&n.to_le_bytes());
    }
    for at in (0..parameters).step_by(chunk) {
        let len = chunk.min(parameters.saturating_sub(at));
        let kept = (t.keep_per_chunk as usize).min(len);
        out.extend_from_slice(&SCALE.to_le_bytes());
        // one position in each of `kept` equal stretches: ascending, and all within the chunk
        for k in 0..kept {
            let mut bytes = [0; 3];
            noise.fill(&mut bytes);
            let (from, to) = (k * len / kept, (k + 1) * len / kept);
            let offset = usize::from(u16::from_le_bytes([bytes[0], bytes[1]])) % to.saturating_sub(from).max(1);
            out.extend_from_slice(&u16::try_from(from.saturating_add(offset)).unwrap_or(u16::MAX).to_le_bytes());
            out.push(bytes[2]);
        }
    }
    out
}

/// Name of the decoy's delta.
pub fn delta_ref(seed: Digest, manifest: &Manifest) -> BlobRef {
    BlobRef::of(&delta(seed, manifest))
}

/// Size of one step of a change; with values of eight bits, about what early training changes.
const SCALE: f32 = 0.000_15;
