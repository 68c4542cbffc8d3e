//! Everything the ledger remembers, as keyed entries.
//!
//! A transaction never changes state in place: it yields the entries it replaces, so that one
//! list serves the in-memory state, the state root and the store's atomic batch (D3).

use super::challenge::{ChallengeState, StorageRecord};
use super::federation_entry::{
    CheckpointState, Dealing, DkgState, EpochState, FederationState, ScoreState, ValidatorState,
};
use crate::codec;
use crate::escrow::EscrowState;
use crate::frost::GroupSignature;
use crate::ids::{Beacon, BlobRef, BlockHash, ClaimId, Digest, EscrowId, ModelId, NodeId};
use crate::manifest::{Manifest, Timing};
use crate::outcome::{ClaimOutcome, Outcome};
use crate::record;
use crate::records::RecordLog;
use crate::score::TestReport;
use crate::tx::{Fund, Reveal};
use serde::Serialize;

/// Position of the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize)]
pub struct Tip {
    /// Height of the last block; 0 is genesis.
    pub height: u64,
    /// Its hash; the chain id at genesis.
    pub hash: BlockHash,
    /// Its time, ms since the Unix epoch.
    pub time_ms: u64,
    /// State root after it.
    pub state_root: Digest,
}

/// The weights a model has now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize)]
pub struct Head {
    /// Weights.
    pub weights: BlobRef,
    /// Round that made them; 0 for the initial head.
    pub round: u64,
    /// Test report, once a round has measured it.
    pub test: Option<TestReport>,
}

/// The round a model is in.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize)]
pub struct Round {
    /// Number, from 1.
    pub number: u64,
    /// Ledger height at which it opened.
    pub opened_height: u64,
    /// Beacon from which shards are drawn (S3).
    pub start: Beacon,
    /// Height of its first commit.
    pub first_commit_height: Option<u64>,
    /// Its claims, in order of commitment.
    pub claims: Vec<ClaimId>,
    /// Epoch whose committee seals and judges it, once nothing more can be claimed. An epoch that
    /// ends meanwhile does not end its duty.
    pub judges: Option<u64>,
    /// Beacon from which gate and confirm samples are drawn, once sealed (S3).
    pub sealed: Option<Beacon>,
    /// Whether its judges measure the model's sealed guards: fixed when it is sealed, and again when other
    /// judges take over. False if the model has none.
    pub opened: bool,
    /// Committee members that have committed to scores, and those that have opened them (R4).
    pub scores: ScorePhase,
}

/// How far the judging of a round has come (R4).
#[derive(Clone, Debug, Default, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize)]
pub struct ScorePhase {
    /// Counts repetitions: when no threshold of members measured the same (a delta that was served to
    /// some of them only, say), all measure again.
    pub attempt: u32,
    /// Who has committed, in order.
    pub committed: Vec<NodeId>,
    /// Height at which a threshold had.
    pub quorum_height: Option<u64>,
    /// Who has opened its commitment, in order.
    pub revealed: Vec<NodeId>,
    /// Height at which a threshold had.
    pub revealed_height: Option<u64>,
    /// Whether a threshold of the opened scores agree.
    pub supported: bool,
}

impl Round {
    /// Last height at which commits are taken; `None` until the first one sets it.
    pub fn commits_close(&self, timing: &Timing) -> Option<u64> {
        self.first_commit_height.map(|first| {
            let by_open = self.opened_height.saturating_add(timing.commit_blocks.into());
            by_open.max(first.saturating_add(timing.linger_blocks.into()))
        })
    }

    /// Last height at which locks and reveals are taken.
    pub fn reveals_close(&self, timing: &Timing) -> Option<u64> {
        self.commits_close(timing).map(|h| h.saturating_add(timing.reveal_blocks.into()))
    }
}

/// A model on the ledger.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize)]
pub struct ModelState {
    /// Its manifest.
    pub manifest: Manifest,
    /// Who announced it.
    pub added_by: NodeId,
    /// Height of the announcement.
    pub added_height: u64,
    /// Current weights.
    pub head: Head,
    /// Current round; opens with the first funding.
    pub round: Option<Round>,
    /// Gain proven by all adopted heads, micro-nats of mean loss.
    pub proven_unat: u64,
    /// Sponsors, in order of their first promise.
    pub sponsors: Vec<Sponsorship>,
    /// Keys of its sealed guards for committees, ascending, at most [`MAX_KEYS`].
    pub keys: Vec<CommitteeKeys>,
    /// The key, once it is everyone's.
    pub revealed: Option<Digest>,
    /// Trainers that who added it has invited (P8), ascending, at most [`MAX_GUESTS`].
    pub guests: Vec<NodeId>,
    /// How often that list was written.
    pub invitations: u32,
}

/// Most guests of one model.
pub const MAX_GUESTS: usize = 64;

/// Committees of a model's sealed guards that are remembered: judges are at most one epoch old.
pub const MAX_KEYS: usize = 2;

/// The key of a model's sealed guards, for one committee (S3).
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize)]
pub struct CommitteeKeys {
    /// Epoch of the committee.
    pub epoch: u64,
    /// One sealed box a member, in member order.
    #[serde(skip)]
    pub boxes: Vec<Vec<u8>>,
}

impl ModelState {
    /// Whether the committee of an epoch has been given the key of the sealed guards (S3).
    pub fn opens(&self, epoch: u64) -> bool {
        let given = || self.revealed.is_some() || self.keys.iter().any(|k| k.epoch == epoch);
        self.manifest.has_sealed_guards() && given()
    }
}
record!(ModelState, b"modl", 64 << 10, |value| codec::within(&value.manifest));

/// A sponsor's promise with what has become of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize)]
pub struct Sponsorship {
    /// Who pays.
    pub sponsor: NodeId,
    /// The promise.
    pub fund: Fund,
    /// Dealt and not yet settled or refunded, msat.
    pub held_msat: u64,
    /// Settled, msat.
    pub paid_msat: u64,
    /// Refunded, msat.
    pub refunded_msat: u64,
    /// Offers whose other seeds it did not show after the payee's draw (P2).
    pub unopened: u32,
    /// Payments proven to be false; one is enough to end its promises (P2).
    pub frauds: u32,
}

impl Sponsorship {
    /// Books what a change did to the money.
    pub(super) fn book(&mut self, moved: crate::escrow::Moved) {
        let over = moved.paid_msat.saturating_add(moved.refunded_msat);
        self.held_msat = self.held_msat.saturating_sub(over);
        self.paid_msat = self.paid_msat.saturating_add(moved.paid_msat);
        self.refunded_msat = self.refunded_msat.saturating_add(moved.refunded_msat);
    }

    /// How many more claims its budget covers; none after a fraud.
    pub fn covers(&self) -> usize {
        let left = self.fund.budget_msat.saturating_sub(self.held_msat).saturating_sub(self.paid_msat);
        let covered = left / self.fund.terms.most_msat().max(1);
        if self.frauds == 0 { usize::try_from(covered).unwrap_or(usize::MAX) } else { 0 }
    }

    /// Whether its budget covers another claim.
    pub fn covers_another(&self) -> bool {
        self.covers() > 0
    }
}

/// A claim from commit to verdict.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize)]
pub struct ClaimState {
    /// Its name.
    pub id: ClaimId,
    /// Model.
    pub model: ModelId,
    /// Round.
    pub round: u64,
    /// Trainer.
    pub trainer: NodeId,
    /// Head it was made against.
    pub parent: BlobRef,
    /// What was committed to (R1).
    pub commitment: Digest,
    /// Height of the commit.
    pub committed_height: u64,
    /// Its escrow, once a sponsor has dealt it (R2).
    pub escrow: Option<EscrowId>,
    /// What was revealed (R3).
    pub reveal: Option<Reveal>,
    /// The judgement, and the height of the outcome.
    pub judged: Option<(ClaimOutcome, u64)>,
    /// Shown to have been a decoy (C6).
    pub decoy: bool,
}
record!(ClaimState, b"clam", 16 << 10);

/// An outcome with its attestation.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize)]
pub struct OutcomeState {
    /// What was attested.
    pub outcome: Outcome,
    /// Epoch whose committee attested it.
    pub epoch: u64,
    /// By the group key.
    pub signature: GroupSignature,
    /// Height of the block that holds it.
    pub height: u64,
    /// Time of that block, ms since the Unix epoch.
    pub time_ms: u64,
}
record!(OutcomeState, b"outc", 64 << 10);

/// What one trainer has proven on one model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize)]
pub struct Credit {
    /// Model.
    pub model: ModelId,
    /// Trainer.
    pub trainer: NodeId,
    /// Share of the proven gains, micro-nats.
    pub credit_unat: u64,
    /// Claims judged.
    pub claims: u64,
    /// Claims that added to a new head; one that earned less than the smallest payment counts too.
    pub paid_claims: u64,
    /// Claims since the last paid one for which payment was offered, and which came to nothing (P8).
    pub failed_in_a_row: u32,
    /// Receipts shown, msat.
    pub paid_msat: u64,
}
record!(Credit, b"cred", 512);

record!(Tip, b"tipp", 256);

/// One entry of the state.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Entry {
    Tip(Tip),
    Log(RecordLog),
    Model(Box<ModelState>),
    Claim(Box<ClaimState>),
    Escrow(Box<EscrowState>),
    Outcome(Box<OutcomeState>),
    Credit(Credit),
    Federation(FederationState),
    Epoch(Box<EpochState>),
    Dkg(Box<DkgState>),
    Dealing(Box<Dealing>),
    Validator(Box<ValidatorState>),
    Score(Box<ScoreState>),
    Checkpoint(Box<CheckpointState>),
    Challenge(Box<ChallengeState>),
    Storage(StorageRecord),
}

/// Largest value of an entry, bytes: that of the largest kind.
pub const MAX_ENTRY_BYTES: usize = 64 << 10;

/// An entry could not be read back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("ledger entry {key}: {problem}")]
pub struct EntryError {
    /// Its key, hex.
    pub key: String,
    /// What is wrong.
    pub problem: String,
}

impl Entry {
    /// Longest key, bytes: that of a member's scores.
    pub const MAX_KEY_BYTES: usize = 1 + 32 + 8 + 32;

    /// Key: a kind byte, then the id.
    pub fn key(&self) -> Vec<u8> {
        match self {
            Entry::Tip(_) => vec![b't'],
            Entry::Log(_) => vec![b'l'],
            Entry::Model(m) => [b"m".as_slice(), &m.manifest.id().0].concat(),
            Entry::Claim(c) => [b"c".as_slice(), &c.id.0].concat(),
            Entry::Escrow(e) => [b"e".as_slice(), &e.id.0].concat(),
            Entry::Outcome(o) => [b"o".as_slice(), &o.outcome.model.0, &o.outcome.round.to_be_bytes()].concat(),
            Entry::Credit(c) => [b"r".as_slice(), &c.model.0, &c.trainer.0].concat(),
            Entry::Federation(_) => vec![b'f'],
            Entry::Epoch(e) => [b"p".as_slice(), &e.number.to_be_bytes()].concat(),
            Entry::Dkg(d) => [b"d".as_slice(), &d.epoch.to_be_bytes()].concat(),
            Entry::Dealing(d) => {
                [b"g".as_slice(), &d.epoch.to_be_bytes(), &d.attempt.to_be_bytes(), &d.node.0].concat()
            }
            Entry::Validator(v) => [b"v".as_slice(), &v.node.0].concat(),
            Entry::Score(s) => [b"s".as_slice(), &s.model.0, &s.round.to_be_bytes(), &s.member.0].concat(),
            Entry::Checkpoint(c) => [b"k".as_slice(), &c.checkpoint.height.to_be_bytes()].concat(),
            Entry::Challenge(_) => vec![b'h'],
            Entry::Storage(s) => [b"y".as_slice(), &s.node.0].concat(),
        }
    }

    /// Canonical bytes.
    pub fn value(&self) -> Vec<u8> {
        match self {
            Entry::Tip(v) => codec::encode(v),
            Entry::Log(v) => codec::encode(v),
            Entry::Model(v) => codec::encode(v.as_ref()),
            Entry::Claim(v) => codec::encode(v.as_ref()),
            Entry::Escrow(v) => codec::encode(v.as_ref()),
            Entry::Outcome(v) => codec::encode(v.as_ref()),
            Entry::Credit(v) => codec::encode(v),
            Entry::Federation(v) => codec::encode(v),
            Entry::Epoch(v) => codec::encode(v.as_ref()),
            Entry::Dkg(v) => codec::encode(v.as_ref()),
            Entry::Dealing(v) => codec::encode(v.as_ref()),
            Entry::Validator(v) => codec::encode(v.as_ref()),
            Entry::Score(v) => codec::encode(v.as_ref()),
            Entry::Checkpoint(v) => codec::encode(v.as_ref()),
            Entry::Challenge(v) => codec::encode(v.as_ref()),
            Entry::Storage(v) => codec::encode(v),
        }
    }

    /// Reads an entry back.
    ///
    /// # Errors
    /// If the value is not canonical bytes of the key's kind, or belongs under another key.
    pub fn decode(key: &[u8], value: &[u8]) -> Result<Self, EntryError> {
        let fail = |problem: String| EntryError { key: hex::encode(key), problem };
        let entry = match key.first() {
            Some(b't') => codec::decode(value).map(Entry::Tip),
            Some(b'l') => codec::decode(value).map(Entry::Log),
            Some(b'm') => codec::decode(value).map(|v| Entry::Model(Box::new(v))),
            Some(b'c') => codec::decode(value).map(|v| Entry::Claim(Box::new(v))),
            Some(b'e') => codec::decode(value).map(|v| Entry::Escrow(Box::new(v))),
            Some(b'o') => codec::decode(value).map(|v| Entry::Outcome(Box::new(v))),
            Some(b'r') => codec::decode(value).map(Entry::Credit),
            Some(b'f') => codec::decode(value).map(Entry::Federation),
            Some(b'p') => codec::decode(value).map(|v| Entry::Epoch(Box::new(v))),
            Some(b'd') => codec::decode(value).map(|v| Entry::Dkg(Box::new(v))),
            Some(b'g') => codec::decode(value).map(|v| Entry::Dealing(Box::new(v))),
            Some(b'v') => codec::decode(value).map(|v| Entry::Validator(Box::new(v))),
            Some(b's') => codec::decode(value).map(|v| Entry::Score(Box::new(v))),
            Some(b'k') => codec::decode(value).map(|v| Entry::Checkpoint(Box::new(v))),
            Some(b'h') => codec::decode(value).map(|v| Entry::Challenge(Box::new(v))),
            Some(b'y') => codec::decode(value).map(Entry::Storage),
            _ => return Err(fail("unknown kind".into())),
        }
        .map_err(|e| fail(e.to_string()))?;
        if entry.key() != key { Err(fail("belongs under another key".into())) } else { Ok(entry) }
    }
}
