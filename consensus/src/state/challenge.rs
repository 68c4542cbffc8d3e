//! Storage challenges (D2): each epoch's draw asks some validators for a chunk of a blob they should keep, and the
//! ledger remembers who showed it.
//!
//! Nothing is written when the draw is made: what is asked follows from the ledger, and the first answer puts it there.
//! Then it stands, whatever becomes of the models meanwhile, and so it ends too: when the next epoch's first answer
//! comes, whoever has not answered has missed its turn. Nobody is paid or put out for it: a node may be restarted when
//! it is asked, and a blob that its owner never published can be kept by nobody. So only blobs are asked for that
//! judges must have had.

use super::State;
use super::entry::Entry;
use super::federation_entry::ValidatorStatus;
use super::rules::TxError;
use crate::custody::{self, Asked};
use crate::ids::{BlobRef, NodeId};
use crate::record;
use crate::tx::StorageProof;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// What an epoch's draw asks for.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize)]
pub struct ChallengeState {
    /// The epoch that was drawn.
    pub epoch: u64,
    /// Who is asked for what.
    pub asked: Vec<Asked>,
}
record!(ChallengeState, b"chal", 4 << 10);

/// How a node has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize)]
pub struct StorageRecord {
    /// Who.
    pub node: NodeId,
    /// Challenges it answered.
    pub kept: u64,
    /// Challenges it did not.
    pub missed: u64,
    /// Epoch of the last one it answered.
    pub last_kept: Option<u64>,
}
record!(StorageRecord, b"stor", 128);

impl StorageRecord {
    fn new(node: NodeId) -> Self {
        Self { node, kept: 0, missed: 0, last_kept: None }
    }
}

impl State {
    /// The challenge that is open: that of the coming epoch, from its draw until it begins.
    pub fn challenge(&self) -> Option<ChallengeState> {
        let dkg = self.dkg()?;
        if let Some(known) = self.challenge.as_deref().filter(|c| c.epoch == dkg.epoch) {
            return Some(known.clone());
        }
        let asked = custody::draw(dkg.beacon, &self.judged_blobs(), &self.federation.candidates);
        Some(ChallengeState { epoch: dkg.epoch, asked }).filter(|c| !c.asked.is_empty())
    }

    /// How a node has answered.
    pub fn storage_record(&self, node: NodeId) -> Option<&StorageRecord> {
        self.storage.get(&node)
    }

    /// How all have answered, ascending by node.
    pub fn storage_records(&self) -> impl Iterator<Item = &StorageRecord> {
        self.storage.values()
    }

    /// Weights and data of the models that somebody pays for, and that were judged: so the bytes were there.
    fn judged_blobs(&self) -> BTreeSet<BlobRef> {
        let mut blobs = BTreeSet::new();
        for (id, model) in self.models() {
            let is_paid_for = model.sponsors.iter().any(|s| s.covers_another() || s.held_msat > 0);
            if !is_paid_for || self.outcomes(id).next().is_none() {
                continue;
            }
            let data = &model.manifest.data;
            blobs.extend([model.head.weights, data.train.blob, data.eval.blob, data.test.blob]);
        }
        blobs
    }

    pub(super) fn storage_proof(&self, who: NodeId, proof: &StorageProof) -> Result<Vec<Entry>, TxError> {
        if !self.federation.candidates.contains(&who) {
            return Err(TxError::NotAsked); // before anything is drawn: anybody may say this
        }
        let open = self.challenge().filter(|c| c.epoch == proof.epoch);
        let mut challenge = open.ok_or(TxError::NoChallenge(proof.epoch))?;
        let asked = challenge.asked.iter_mut().find(|a| a.node == who).ok_or(TxError::NotAsked)?;
        if asked.answered {
            return Err(TxError::SaidAlready);
        }
        if !custody::is_chunk(&asked.blob, asked.chunk, &proof.slice) {
            return Err(TxError::BadSlice);
        }
        asked.answered = true;
        let new = |node| self.storage_record(node).copied().unwrap_or(StorageRecord::new(node));
        let mut records = BTreeMap::from([(who, new(who))]);
        // the first answer of an epoch ends the challenge before; who has left is not asked
        let before = self.challenge.as_deref().filter(|c| c.epoch < proof.epoch);
        let is_active = |node| self.validator(node).is_some_and(|v| v.status == ValidatorStatus::Active);
        for late in before.iter().flat_map(|c| &c.asked).filter(|a| !a.answered && is_active(a.node)) {
            let record = records.entry(late.node).or_insert_with(|| new(late.node));
            record.missed = record.missed.saturating_add(1);
        }
        if let Some(record) = records.get_mut(&who) {
            (record.kept, record.last_kept) = (record.kept.saturating_add(1), Some(proof.epoch));
        }
        let mut out: Vec<Entry> = records.into_values().map(Entry::Storage).collect();
        out.push(Entry::Challenge(Box::new(challenge)));
        Ok(out)
    }
}
