//! What the ledger needs of all the blobs it ever named, and what it needs no longer (D2).
//!
//! Needed: the head of every model and, while somebody works on it, the last few before it and its data; and the
//! deltas of rounds that are not over, and of a few after. Only what the ledger has named can be past: a blob it does
//! not know may be somebody's work of a minute ago.

use oda_consensus::ids::{BlobHash, BlobRef, NodeId};
use oda_consensus::state::{ModelState, State};
use std::collections::{BTreeMap, BTreeSet};

/// Most blobs looked at (K3).
const BLOBS_MAX: usize = 1 << 20;

/// How long things are needed.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Heads before the current one.
    pub heads: usize,
    /// Rounds after its own that a delta is needed.
    pub delta_rounds: u64,
    /// Blocks after its announcement that a model is needed without money.
    pub young_blocks: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { heads: 3, delta_rounds: 3, young_blocks: 50_000 }
    }
}

/// What a blob is to the ledger; what is asked for first comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Weights.
    Head,
    /// A split of a data set, or the first weights.
    Data,
    /// A trainer's work.
    Delta,
}

/// A blob the ledger needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Live {
    /// The blob.
    pub blob: BlobRef,
    /// What it is.
    pub kind: Kind,
}

impl Live {
    /// What it takes on disk.
    pub fn cost_bytes(&self) -> u64 {
        oda_storage::blobs::cost_bytes(self.blob.len)
    }
}

/// All blobs of a ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// What it needs.
    pub live: BTreeMap<BlobHash, Live>,
    /// What it needs no longer, oldest first.
    pub past: Vec<BlobHash>,
    /// Who may be asked to show what it keeps.
    pub validators: BTreeSet<NodeId>,
}

impl Census {
    /// Reads a ledger.
    pub fn of(state: &State, bounds: &Bounds) -> Self {
        let mut census = Draft::default();
        let height = state.tip().height;
        let mut rounds = BTreeMap::new();
        for (id, model) in state.models().take(BLOBS_MAX) {
            rounds.insert(id, model.round.as_ref().map_or(0, |round| round.number));
            let is_wanted = is_wanted(model, height, bounds);
            census.needs(model.head.weights, Kind::Head);
            for blob in model.manifest.blobs() {
                census.take(is_wanted, model.added_height, blob, Kind::Data);
            }
            for (age, o) in state.outcomes(id).rev().take(BLOBS_MAX).enumerate() {
                census.take(is_wanted && age < bounds.heads, o.height, o.outcome.parent, Kind::Head);
                if let Some(head) = &o.outcome.head {
                    census.past(o.height, head.candidate); // the one that was adopted is needed anyway
                }
            }
        }
        for claim in state.claims().take(BLOBS_MAX) {
            let Some(reveal) = &claim.reveal else { continue };
            let round = rounds.get(&claim.model).copied().unwrap_or(0);
            let is_open = claim.round.saturating_add(bounds.delta_rounds) >= round;
            census.take(is_open, claim.committed_height, reveal.delta, Kind::Delta);
        }
        Self { validators: state.federation().candidates.iter().copied().collect(), ..census.finish() }
    }
}

/// Whether anybody may still work on a model.
fn is_wanted(model: &ModelState, height: u64, bounds: &Bounds) -> bool {
    let has_money = model.sponsors.iter().any(|s| s.covers_another() || s.held_msat > 0);
    let is_judged = model.round.as_ref().is_some_and(|round| !round.claims.is_empty());
    has_money || is_judged || height.saturating_sub(model.added_height) < bounds.young_blocks
}

#[derive(Default)]
struct Draft {
    live: BTreeMap<BlobHash, Live>,
    /// By age.
    past: BTreeSet<(u64, BlobHash)>,
}

impl Draft {
    fn take(&mut self, is_needed: bool, height: u64, blob: BlobRef, kind: Kind) {
        if is_needed { self.needs(blob, kind) } else { self.past(height, blob) }
    }

    /// One that is needed twice is what it is needed for most.
    fn needs(&mut self, blob: BlobRef, kind: Kind) {
        let live = self.live.entry(blob.hash).or_insert(Live { blob, kind });
        live.kind = live.kind.min(kind);
    }

    fn past(&mut self, height: u64, blob: BlobRef) {
        self.past.insert((height, blob.hash));
    }

    fn finish(self) -> Census {
        let mut seen = BTreeSet::new();
        let live = self.live;
        let past = self.past.into_iter().map(|(_, hash)| hash);
        let past = past.filter(|hash| !live.contains_key(hash) && seen.insert(*hash)).collect();
        Census { live, past, validators: BTreeSet::new() }
    }
}
