//! Dishonest submissions, for test networks: what the demo's cheating trainer hands in.

use crate::compress::compress;
use oda_consensus::manifest::Manifest;
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};
use serde::{Deserialize, Serialize};

/// A way to cheat. As text it has the name of the simulator's attacker that does the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cheat {
    /// Random changes of a plausible size.
    #[serde(rename = "noise")]
    Random,
    /// Real work on the assigned shard with its sign turned round.
    Poison,
    /// One step of training instead of all.
    #[serde(rename = "free_ride")]
    Lazy,
    /// Full training, but on data of its own choice.
    #[serde(rename = "other_data")]
    ForeignData,
    /// A delta of another shape.
    WrongShape,
    /// A true header with garbage behind it, as many bytes as a delta has.
    Garbage,
    /// Far more bytes than allowed.
    Oversize,
}

/// Whether a trainer cheats, and how: `false`, `true` for every way in turn, or the name of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Cheating {
    /// Not at all, or every way in turn.
    InTurn(bool),
    /// Always in this way.
    Always(Cheat),
}

impl Default for Cheating {
    fn default() -> Self {
        Self::InTurn(false)
    }
}

impl Cheating {
    /// How it cheats in a round.
    pub fn in_round(self, round: u64) -> Option<Cheat> {
        match self {
            Self::InTurn(cheats) => cheats.then(|| Cheat::of_round(round)),
            Self::Always(cheat) => Some(cheat),
        }
    }
}

impl Cheat {
    /// The cheat of a round: every kind in turn, every third malformed.
    pub fn of_round(round: u64) -> Self {
        const TURN: [Cheat; 9] = [
            Cheat::Random,
            Cheat::Poison,
            Cheat::Garbage,
            Cheat::Lazy,
            Cheat::ForeignData,
            Cheat::WrongShape,
            Cheat::Random,
            Cheat::Lazy,
            Cheat::Oversize,
        ];
        let turn = usize::try_from(round.wrapping_sub(1) % TURN.len() as u64).unwrap_or(0);
        TURN.get(turn).copied().unwrap_or(Cheat::Random)
    }
}

/// Random dense changes, uniform within `size`.
pub fn random(parameters: usize, size: f32, seed: [u8; 32]) -> Vec<f32> {
    let mut rng = ChaCha20Rng::from_seed(seed);
    (0..parameters)
        .map(|_| {
            #[allow(clippy::cast_precision_loss)]
            let unit = (rng.next_u32() >> 8) as f32 / (1u32 << 23) as f32 - 1.0;
            unit * size
        })
        .collect()
}

/// The malformed kinds as bytes; `None` for kinds that are well formed.
pub fn malformed(cheat: Cheat, manifest: &Manifest) -> Option<Vec<u8>> {
    let parameters = usize::try_from(manifest.parameters()).ok()?;
    match cheat {
        Cheat::WrongShape => Some(compress(&vec![0.01; parameters / 2 + 1], &manifest.training)),
        Cheat::Garbage => {
            let mut bytes = compress(&vec![0.01; parameters], &manifest.training);
            let (_header, body) = bytes.split_at_mut_checked(13)?;
            body.fill(0xff);
            Some(bytes)
        }
        Cheat::Oversize => Some(vec![7; usize::try_from(manifest.judging.max_delta_bytes).ok()? + 1]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oda_consensus::delta::decode;
    use oda_consensus::score::Refusal;

    #[test] // S7: each malformed kind is refused before any evaluation, for its own reason
    fn malformed_kinds_are_refused() {
        let m = oda_consensus::fuzzing::sample_manifest("cheat");
        let parameters = usize::try_from(m.parameters()).unwrap();
        for (kind, why) in [
            (Cheat::WrongShape, Refusal::WrongShape),
            (Cheat::Garbage, Refusal::Malformed),
            (Cheat::Oversize, Refusal::Oversize),
        ] {
            let bytes = malformed(kind, &m).unwrap();
            assert_eq!(decode(&bytes, parameters, &m.training, &m.judging), Err(why), "{kind:?}");
        }
        assert!(malformed(Cheat::Random, &m).is_none());
    }
}
